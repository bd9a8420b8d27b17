//! What the options of a task allot to it, as it finds it: mounts, memory, limits, groups, an init program.

use crate::bench::{Bench, container_of, group, patience};
use serde_json::json;
use std::os::unix::fs::symlink;
use std::path::Path;
use testhost::procfs;
use testhost::task::TaskSpec;
use testhost::within::within;

group!(allotted, Bench::new(), {
    volumes_and_file_systems_in_memory_are_mounted_as_asked_for,
    a_volume_that_leads_out_of_the_task_directory_is_refused,
    limits_groups_and_score_are_those_of_the_options,
    an_init_program_is_process_one,
    a_terminal_is_there_if_asked_for,
    memory_and_process_limits_are_in_the_cgroup,
});

async fn volumes_and_file_systems_in_memory_are_mounted_as_asked_for(b: &mut Bench) {
    let script =
        "grep -E ' /(x|y|t|m) ' /proc/mounts | while read _ at kind options _; do echo $at $kind $options; done
        cat /x/f; touch /x/g 2>/dev/null; echo $?; touch /y/g /t/g /m/g; echo $?; stat -c %a /t /m";
    let spec = b
        .sh(script)
        .option("volumes", json!(["local/d:/x:ro,noexec"]))
        .option("tmpfs", json!(["/t:size=1m,mode=0700,exec"]))
        .option(
            "mounts",
            json!([
                { "type": "bind", "source": "local/e", "target": "/y", "options": ["rbind", "rw"] },
                { "type": "tmpfs", "target": "/m", "tmpfs_options": [{ "size": "64k", "mode": 511 }] },
            ]),
        );
    let alloc = b.rig.alloc();
    let local = alloc.add_task(&spec.name).expect("task directory").join("local");
    for dir in ["d", "e"] {
        std::fs::create_dir(local.join(dir)).expect("a directory");
    }
    std::fs::write(local.join("d/f"), "here\n").expect("a file");
    let task = b.rig.start_in(alloc, &spec).await.expect("StartTask");
    assert_eq!(task.exit(patience()).await.exit_code, 0);
    task.logs_end(patience()).await;
    let lines = task.lines();
    let mount = |target: &str| {
        let found = lines.iter().find(|line| line.starts_with(&format!("{target} ")));
        found
            .unwrap_or_else(|| panic!("no mount at {target} in {lines:?}"))
            .clone()
    };
    for (target, words) in [
        ("/x", &["ro", "noexec"][..]),
        ("/y", &["rw"]),
        ("/t", &["tmpfs", "rw", "nosuid", "nodev", "size=1024k", "mode=700"]),
        (
            "/m",
            &["tmpfs", "rw", "nosuid", "nodev", "noexec", "size=64k", "mode=777"],
        ),
    ] {
        let line = mount(target);
        let parts: Vec<&str> = line.split([' ', ',']).collect();
        assert!(words.iter().all(|word| parts.contains(word)), "{words:?} of {line}");
    }
    assert!(!mount("/t").contains("noexec"));
    assert_eq!(lines[4..], ["here", "1", "0", "700", "777"]);
    assert!(local.join("e/g").exists());
    task.destroy(false).await.expect("DestroyTask");
}

async fn a_volume_that_leads_out_of_the_task_directory_is_refused(b: &mut Bench) {
    for (source, words) in [
        ("local/link", &["option volumes", "local/link", "symbolic link"][..]),
        ("local/link/passwd", &["option volumes", "symbolic link"]),
        ("local/none", &["option volumes", "local/none", "must exist"]),
        ("../other", &["volumes", "'..'"]),
        ("/etc", &["volumes", "\"/etc\"", "volumes { enabled = true }"]),
    ] {
        let spec = b.sh("true").option("volumes", json!([format!("{source}:/x")]));
        let alloc = b.rig.alloc();
        let dir = alloc.add_task(&spec.name).expect("task directory");
        symlink("/etc", dir.join("local/link")).expect("a link");
        let error = within(patience(), "a refused StartTask", b.rig.start_in(alloc, &spec))
            .await
            .err()
            .expect("this cannot start");
        for word in words {
            assert!(error.message().contains(word), "no {word:?} in {error:?}");
        }
    }
}

async fn limits_groups_and_score_are_those_of_the_options(b: &mut Bench) {
    let script = "id -G; ulimit -Hu; ulimit -Su; ulimit -c; cat /proc/self/oom_score_adj; stat -f -c %T /dev/shm";
    let spec = b
        .sh(script)
        .user("app")
        .option("group_add", json!(["44", "extra"]))
        .option("ulimit", json!([{ "nproc": "1000:2000", "core": "0" }]))
        .option("oom_score_adj", json!(300));
    assert_eq!(
        b.run(spec).await,
        (0, "1000 44 2000\n2000\n1000\n0\n300\ntmpfs\n".to_owned())
    );
}

async fn an_init_program_is_process_one(b: &mut Bench) {
    let known = ["/usr/bin/tini-static", "/usr/bin/docker-init", "/usr/bin/catatonit"];
    if !known.iter().any(|path| Path::new(path).exists()) {
        eprintln!("skipped: this machine has no init program");
        return;
    }
    let spec = b
        .sh("tr '\\0' ' ' </proc/1/cmdline | cut -c 1-12; exit 7")
        .option("init", json!(true));
    assert_eq!(b.run(spec).await, (7, "/dev/init --\n".to_owned()));
}

async fn a_terminal_is_there_if_asked_for(b: &mut Bench) {
    let script = "test -t 1 && echo terminal; echo err >&2";
    assert_eq!(b.run(b.sh(script)).await.1.trim(), "");
    let (code, text) = b.run(b.sh(script).option("tty", json!(true))).await;
    assert_eq!((code, text.lines().collect::<Vec<_>>()), (0, vec!["terminal", "err"]));
}

async fn memory_and_process_limits_are_in_the_cgroup(b: &mut Bench) {
    let spec: TaskSpec = b
        .sleeper()
        .memory_mb(64)
        .option("memory_hard_limit", json!(128))
        .option("pids_limit", json!(50));
    let task = b.start(spec).await;
    let (_, pid) = container_of(&task).await;
    for (names, expected) in [
        (["memory.limit_in_bytes", "memory.max"], "134217728"),
        (["memory.soft_limit_in_bytes", "memory.low"], "67108864"),
        (["pids.max", "pids.max"], "50"),
    ] {
        let found = procfs::cgroups(pid)
            .iter()
            .flat_map(|dir| names.map(|name| dir.join(name)))
            .find_map(|file| std::fs::read_to_string(file).ok());
        assert_eq!(found.as_deref().map(str::trim), Some(expected), "{names:?}");
    }
    task.destroy(true).await.expect("DestroyTask");
}

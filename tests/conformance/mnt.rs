//! Mounts, devices, volumes.

use crate::bench::{Bench, container_of, patience};
use crate::field::{consent, group, operated};
use crate::look::{pairs, says, with};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use serde_json::{Value as Json, json};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use testhost::rig::RunningTask;
use testhost::task::TaskSpec;
use testhost::wire::driver::{Device, Mount};
use testhost::within::within;

group!(mnt, MNT, operated(consent()),
    together {
        mnt_01_what_a_task_writes_is_on_the_host,
        mnt_02_a_host_directory_writable_and_read_only,
        mnt_04_missing_targets_are_made,
        mnt_05_a_target_twice_is_refused,
        mnt_07_sources_with_volumes_on,
        mnt_09_all_mounts_and_devices_are_there,
        mnt_10_devices_under_another_name_and_by_default,
        mnt_11_odd_devices_are_refused_by_the_field,
    }
    alone {
        mnt_03_volumes_have_their_propagation,
    }
);

group!(mnt_without_volumes, MNT_STRICT, operated(json!({})),
    together {
        mnt_06_sources_with_volumes_off,
        mnt_08_a_link_out_of_the_task_directory_is_refused,
    }
    alone {}
);

/// Starts it in an allocation that was prepared; `prepare` is given the task's directory.
async fn started(b: &Bench, spec: &TaskSpec, prepare: impl FnOnce(&Path)) -> Result<RunningTask, tonic::Status> {
    let alloc = b.rig.alloc();
    let dir = alloc.add_task(&spec.name).expect("task directory");
    prepare(&dir);
    within(patience(), "StartTask", b.rig.start_in(alloc, spec)).await
}

/// A directory of this case on the host, with a file in it.
fn host_dir(b: &Bench, name: &str) -> PathBuf {
    let dir = b.rig.dir().join(name);
    std::fs::create_dir_all(&dir).expect("a directory");
    std::fs::write(dir.join("f"), "of the host\n").expect("a file");
    dir
}

async fn mnt_01_what_a_task_writes_is_on_the_host(b: &Bench) {
    let usual = ["/alloc", "/local", "/secrets"];
    let unusual = ["/srv/shared space", "/srv/deep/er/own", "/run/hidden"];
    for places in [usual, unusual] {
        let script = "for d in \"$NOMAD_ALLOC_DIR\" \"$NOMAD_TASK_DIR\" \"$NOMAD_SECRETS_DIR\"; do echo \"in $d\" >\"$d/x\" || exit 1; done";
        let spec = b
            .sh(script)
            .env("NOMAD_ALLOC_DIR", places[0])
            .env("NOMAD_TASK_DIR", places[1])
            .env("NOMAD_SECRETS_DIR", places[2]);
        let task = started(b, &spec, |_| {}).await.expect("StartTask");
        assert_eq!(task.exit(patience()).await.exit_code, 0, "{places:?}");
        let own = task.alloc.task_dir("web");
        let hosts = [task.alloc.shared_dir(), own.join("local"), own.join("secrets")];
        for (host, inside) in hosts.iter().zip(places) {
            let text = std::fs::read_to_string(host.join("x")).expect("what the task wrote");
            assert_eq!(text, format!("in {inside}\n"));
        }
        task.destroy(false).await.expect("DestroyTask");
    }
}

async fn mnt_02_a_host_directory_writable_and_read_only(b: &Bench) {
    let host = host_dir(b, "mnt-02");
    let source = host.display().to_string();
    let options = json!({ "mounts": [
        { "type": "bind", "source": source, "target": "/rw", "options": ["rbind", "rw"] },
        { "type": "bind", "source": source, "target": "/ro", "options": ["rbind", "ro"] },
    ] });
    let script = "cat /rw/f /ro/f; echo of the task >/rw/t; cat /ro/t; touch /ro/x 2>/dev/null; echo ro=$?";
    let (code, text) = b.run(b.with_options(options, script)).await;
    assert_eq!(
        (code, text.as_str()),
        (0, "of the host\nof the host\nof the task\nro=1\n")
    );
    assert_eq!(
        std::fs::read_to_string(host.join("t")).expect("a file"),
        "of the task\n"
    );
}

/// A file system of its own that hands on what is mounted beneath it. It is gone when the case is.
struct Shared(PathBuf);

impl Shared {
    fn new(path: PathBuf) -> Shared {
        std::fs::create_dir_all(&path).expect("a directory");
        mount("tmpfs", &path, "tmpfs", MountFlags::empty(), None).expect("mount a tmpfs");
        let shared = Shared(path);
        mount_change(&shared.0, MountPropagationFlags::SHARED).expect("a shared mount");
        shared
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).ok();
    }
}

async fn mnt_03_volumes_have_their_propagation(b: &mut Bench) {
    let shared = Shared::new(b.rig.dir().join("mnt-03"));
    let modes = [
        ("", "e"),
        ("private", "p"),
        ("host-to-task", "h"),
        ("bidirectional", "b"),
    ];
    let mut spec = b.sh("for v in e p h b; do echo $v=$(sed -n \"s, - .*,,; \\, /vol/$v ,p\" /proc/self/mountinfo); done; echo ready; sleep 3600");
    for (mode, name) in modes {
        spec = spec.mount(Mount {
            task_path: format!("/vol/{name}"),
            host_path: shared.0.display().to_string(),
            propagation_mode: mode.to_owned(),
            ..Mount::default()
        });
    }
    let task = b.start(spec).await;
    task.wait_line(patience(), "ready").await;
    let seen = pairs(&task.logs().stdout.text());
    for (mode, name) in modes {
        let fields = seen.get(name);
        let (master, peer) = (fields.contains("master:"), fields.contains("shared:"));
        let right = match mode {
            "host-to-task" => master && !peer,
            // Where containerd has a mount namespace of its own, there is also a master.
            "bidirectional" => peer,
            _ => !master && !peer,
        };
        assert!(right, "propagation_mode {mode:?}: {fields:?}");
    }
    // What the host mounts later arrives where it should.
    let later = shared.0.join("later");
    std::fs::create_dir(&later).expect("a directory");
    mount("tmpfs", &later, "tmpfs", MountFlags::empty(), None).expect("mount a tmpfs");
    std::fs::write(later.join("f"), "later").expect("a file");
    let looked = [
        "sh",
        "-c",
        "for v in e p h b; do test -e /vol/$v/later/f; echo $v=$?; done",
    ];
    let answer = task.exec(&looked, patience()).await.expect("ExecTask");
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    unmount(&later, UnmountFlags::DETACH).expect("unmount");
    task.destroy(true).await.expect("DestroyTask");
    pairs(&text).are([("e", "1"), ("p", "1"), ("h", "0"), ("b", "0")]);
}

async fn mnt_04_missing_targets_are_made(b: &Bench) {
    let host = host_dir(b, "mnt-04");
    let file = host.join("f").display().to_string();
    let options = json!({ "mounts": [
        { "type": "bind", "source": host.display().to_string(), "target": "/no/such/dir", "options": ["rbind", "ro"] },
        { "type": "bind", "source": file, "target": "/no/such/file.conf", "options": ["rbind", "ro"] },
    ] });
    let script = "test -d /no/such/dir && cat /no/such/dir/f; test -f /no/such/file.conf && cat /no/such/file.conf";
    let (code, text) = b.run(b.with_options(options, script)).await;
    assert_eq!((code, text.as_str()), (0, "of the host\nof the host\n"));
}

async fn mnt_05_a_target_twice_is_refused(b: &Bench) {
    let host = host_dir(b, "mnt-05").display().to_string();
    let twice = json!({ "mounts": [
        { "type": "bind", "source": host, "target": "/x", "options": ["rbind", "ro"] },
        { "type": "bind", "source": host, "target": "/x/", "options": ["rbind", "ro"] },
    ] });
    says(&b.refused(twice).await, &["/x", "one mount per target"]);
    let mixed = json!({ "volumes": [format!("{host}:/y")], "tmpfs": ["/y"] });
    says(&b.refused(mixed).await, &["/y", "one mount per target"]);
}

/// `volumes` entries with what becomes of them: `None` for a start that reads the file there.
async fn sources(b: &Bench, table: &[(&str, Option<&[&str]>)]) {
    for (source, refusal) in table {
        let spec = b.sh("cat /x/f");
        let alloc = b.rig.alloc();
        let dir = alloc.add_task(&spec.name).expect("task directory");
        for place in [
            dir.join("local/d"),
            alloc.shared_dir().join("data/d"),
            alloc.dir().join("neighbour/d"),
        ] {
            std::fs::create_dir_all(&place).expect("a directory");
            std::fs::write(place.join("f"), "here\n").expect("a file");
        }
        symlink(b.rig.dir(), dir.join("local/out")).expect("a link");
        let source = source
            .replace("{alloc}", &alloc.dir().display().to_string())
            .replace("{host}", &b.rig.dir().join("sources").display().to_string());
        let spec = spec.option("volumes", json!([format!("{source}:/x")]));
        let outcome = within(patience(), "StartTask", b.rig.start_in(alloc, &spec)).await;
        match (outcome, refusal) {
            (Err(error), Some(words)) => says(&error, words),
            (Ok(task), None) => {
                assert_eq!(task.exit(patience()).await.exit_code, 0, "{source}");
                task.logs_end(patience()).await;
                assert_eq!(
                    task.logs().stdout.text().trim_end().lines().last(),
                    Some("here"),
                    "{source}"
                );
                task.destroy(false).await.expect("DestroyTask");
            }
            (Err(error), None) => panic!("{source}: {error:?}"),
            (Ok(task), Some(_)) => {
                task.destroy(true).await.expect("DestroyTask");
                panic!("{source} was mounted");
            }
        }
    }
}

fn host_source(b: &Bench) {
    let dir = b.rig.dir().join("sources");
    std::fs::create_dir_all(&dir).expect("a directory");
    std::fs::write(dir.join("f"), "here\n").expect("a file");
}

async fn mnt_06_sources_with_volumes_off(b: &Bench) {
    host_source(b);
    sources(
        b,
        &[
            ("local/d", None),
            ("{alloc}/alloc/data/d", None),
            ("{alloc}/web/local/d", None),
            ("../neighbour/d", Some(&["volumes", "'..'"])),
            ("../../sources", Some(&["volumes", "'..'"])),
            ("{alloc}/neighbour/d", Some(&["volumes", "volumes { enabled = true }"])),
            ("{host}", Some(&["volumes", "volumes { enabled = true }"])),
        ],
    )
    .await;
}

async fn mnt_07_sources_with_volumes_on(b: &Bench) {
    host_source(b);
    sources(
        b,
        &[
            ("local/d", None),
            ("{alloc}/alloc/data/d", None),
            ("{alloc}/neighbour/d", None),
            ("{host}", None),
            // A relative path that leads out is refused in every mode: who means it writes the absolute one.
            ("../neighbour/d", Some(&["volumes", "'..'"])),
            ("../../sources", Some(&["volumes", "'..'"])),
        ],
    )
    .await;
}

async fn mnt_08_a_link_out_of_the_task_directory_is_refused(b: &Bench) {
    sources(
        b,
        &[
            ("local/out", Some(&["volumes", "local/out", "symbolic link"])),
            ("local/out/sources", Some(&["volumes", "symbolic link"])),
        ],
    )
    .await;
    let mount = json!([{ "type": "bind", "source": "local/planted", "target": "/x", "options": ["rbind", "ro"] }]);
    let spec = with(b.sh("cat /x/shadow"), json!({ "mounts": mount }));
    let planted = |dir: &Path| symlink("/etc", dir.join("local/planted")).expect("a link");
    let error = started(b, &spec, planted).await.err().expect("a link");
    says(&error, &["mounts", "planted"]);
}

fn device(task: &str, host: &str, permissions: &str) -> Device {
    Device {
        task_path: task.to_owned(),
        host_path: host.to_owned(),
        cgroup_permissions: permissions.to_owned(),
    }
}

async fn mnt_09_all_mounts_and_devices_are_there(b: &Bench) {
    let host = host_dir(b, "mnt-09").display().to_string();
    let options = json!({
        "mounts": [{ "type": "bind", "source": host, "target": "/of-the-task", "options": ["rbind", "ro"] }],
        "devices": [{ "host_path": "/dev/random", "container_path": "/dev/of-the-task" }],
    });
    let script = "cat /of-the-task/f /of-the-host/f; for d in task host; do test -c /dev/of-the-$d && echo $d; done";
    let mut spec = b.with_options(options, script).mount(Mount {
        task_path: "/of-the-host".to_owned(),
        host_path: host,
        readonly: true,
        ..Mount::default()
    });
    spec.devices.push(device("/dev/of-the-host", "/dev/random", "r"));
    let (code, text) = b.run(spec).await;
    assert_eq!((code, text.as_str()), (0, "of the host\nof the host\ntask\nhost\n"));
}

async fn mnt_10_devices_under_another_name_and_by_default(b: &Bench) {
    let given =
        json!([{ "host_path": "/dev/random", "container_path": "/dev/inserted-random", "cgroup_permissions": "rw" }]);
    let task = b.start(with(b.sleeper(), json!({ "devices": given }))).await;
    let script = "stat -c %t:%T /dev/inserted-random; head -c 1 /dev/inserted-random | wc -c";
    let answer = task.exec(&["sh", "-c", script], patience()).await.expect("ExecTask");
    assert_eq!(String::from_utf8_lossy(&answer.stdout), "1:8\n1\n");
    assert_eq!(rules(b, &task, 1, 8).await, ["rw"]);
    task.destroy(true).await.expect("DestroyTask");
    let task = b
        .start(with(b.sleeper(), json!({ "devices": [{ "host_path": "/dev/kmsg" }] })))
        .await;
    let answer = task
        .exec(&["stat", "-c", "%t:%T", "/dev/kmsg"], patience())
        .await
        .expect("ExecTask");
    assert_eq!(String::from_utf8_lossy(&answer.stdout), "1:b\n");
    assert_eq!(rules(b, &task, 1, 11).await, ["rwm"]);
    task.destroy(true).await.expect("DestroyTask");
}

/// The permissions that the container's specification has for a device of these very numbers, without the defaults.
async fn rules(b: &Bench, task: &RunningTask, major: i64, minor: i64) -> Vec<String> {
    let (container, _) = container_of(task).await;
    let info = ["containers", "info", &container];
    let record = b.rig.containerd.ctr(b.rig.namespace(), &info).await.expect("ctr");
    let record: Json = serde_json::from_str(&record).expect("JSON");
    let all = record["Spec"]["linux"]["resources"]["devices"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let of_it = |rule: &&Json| rule["allow"] == true && rule["major"] == major && rule["minor"] == minor;
    let mut found: Vec<String> = all
        .iter()
        .filter(of_it)
        .filter_map(|rule| rule["access"].as_str().map(str::to_owned))
        .collect();
    // /dev/random is among the devices that every container has.
    if major == 1 && minor == 8 {
        found.retain(|access| access != "rwm");
    }
    found
}

async fn mnt_11_odd_devices_are_refused_by_the_field(b: &Bench) {
    for (given, words) in [
        (
            json!({ "host_path": "" }),
            ["devices[0].host_path: \"\"", "absolute path on the host"],
        ),
        (
            json!({ "host_path": "/dev/kmsg", "cgroup_permissions": "rxb" }),
            ["devices[0].cgroup_permissions", "rxb"],
        ),
    ] {
        says(&b.refused(json!({ "devices": [given] })).await, &words);
    }
}

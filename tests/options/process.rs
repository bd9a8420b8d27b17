//! Arguments, users, names, terminals, limits of the process.

use crate::bench::{Bench, group, patience};
use crate::look::{bench, consent, crun, end, says, wants};
use serde_json::json;
use testhost::image::ImageConfig;

group!(process_runc, bench(consent()), if wants("runc"), {
    groups_and_limits_and_directory_are_as_asked,
    names_of_other_drivers_mean_the_same,
    an_entrypoint_of_an_empty_word_is_none,
    an_init_reaps_orphans_as_process_one,
    a_terminal_is_one,
    standard_input_is_at_its_end_unless_kept_open,
    labels_and_annotations_are_on_the_container,
    a_task_names_its_runtime_and_its_snapshotter,
    odd_task_names_start,
    what_cannot_be_of_the_process_is_refused,
});
group!(process_crun, crun(), if wants("crun"), {
    groups_and_limits_and_directory_are_as_asked,
    an_init_reaps_orphans_as_process_one,
    a_terminal_is_one,
});

async fn groups_and_limits_and_directory_are_as_asked(b: &mut Bench) {
    let options = json!({
        "group_add": ["extra", "4242"],
        "ulimit": [{ "nofile": "2048:4096", "core": "0", "nproc": "1000" }],
        "cwd": "/made/here",
        "hostname": "some_name.with-all",
        "oom_score_adj": 321,
    });
    let script = "echo cwd=$(pwd); echo groups=$(id -G); echo soft=$(ulimit -Sn); echo hard=$(ulimit -Hn); echo core=$(ulimit -c)
        echo nproc=$(sed -n 's/^Max processes *//p' /proc/self/limits | cut -d ' ' -f 1); echo host=$(hostname); echo etc=$(cat /etc/hostname); echo oom=$(cat /proc/self/oom_score_adj)
        echo env=$(env | sed -n 's/^HOSTNAME=//p'); grep -q some_name.with-all /etc/hosts && echo hosts=yes";
    let seen = b.seen(b.with_options(options, script).user("1000:1000")).await;
    seen.are([
        ("cwd", "/made/here"),
        ("soft", "2048"),
        ("hard", "4096"),
        ("core", "0"),
        ("nproc", "1000"),
        ("host", "some_name.with-all"),
        ("etc", "some_name.with-all"),
        ("env", "some_name.with-all"),
        ("oom", "321"),
        ("hosts", "yes"),
    ]);
    let mut groups = seen.words("groups");
    groups.sort_unstable();
    assert_eq!(groups, ["1000", "2000", "4242"]);
    let seen = b.look(json!({}), "echo soft=$(ulimit -Sn)").await;
    let soft: u64 = seen.get("soft").parse().unwrap_or(u64::MAX);
    assert!(soft > 1024, "the default limit of open files is {soft}");
}

async fn names_of_other_drivers_mean_the_same(b: &mut Bench) {
    for name in ["cwd", "work_dir", "working_dir"] {
        let seen = b.look(json!({ name: "/a/b" }), "echo cwd=$(pwd)").await;
        seen.are([("cwd", "/a/b")]);
    }
    says(
        &b.refused(json!({ "cwd": "/a", "work_dir": "/b" })).await,
        &["work_dir", "cwd"],
    );
    // The same twice is no contradiction.
    b.look(json!({ "cwd": "/a", "work_dir": "/a" }), "echo cwd=$(pwd)")
        .await
        .are([("cwd", "/a")]);
}

async fn an_entrypoint_of_an_empty_word_is_none(b: &mut Bench) {
    let named = ImageConfig::default().entrypoint(["echo", "of=image"]).cmd(["cmd"]);
    let image = b.rig.image("options/entrypoint", &named).await.expect("an image");
    let spec = |options| crate::look::with(testhost::task::TaskSpec::new(&image), options);
    let cleared = json!({ "entrypoint": [""], "command": "echo", "args": ["of=job"] });
    b.seen(spec(cleared)).await.are([("of", "job")]);
    says(
        &b.refused_spec(spec(json!({ "entrypoint": [""] }))).await,
        &["option entrypoint: ", "nothing to run"],
    );
    let empty = ImageConfig::default().entrypoint([""]).cmd(["echo", "of=cmd"]);
    let image = b.rig.image("options/no-entrypoint", &empty).await.expect("an image");
    let spec = testhost::task::TaskSpec::new(&image);
    b.seen(spec).await.are([("of", "cmd")]);
}

async fn an_init_reaps_orphans_as_process_one(b: &mut Bench) {
    let script = "echo self=$$; echo one=$(tr '\\0' ' ' </proc/1/cmdline); (sh -c 'sleep 0.1 & exec true'); sleep 0.5
        echo zombies=$(grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l)";
    let seen = b.look(json!({ "init": true }), script).await;
    assert_ne!(seen.get("self"), "1");
    assert!(seen.get("one").contains(" -- sh -c"), "{seen:?}");
    seen.are([("zombies", "0")]);
    let task = b
        .start(b.with_options(
            json!({ "init": true }),
            "trap 'echo got; exit 7' TERM; echo up; while :; do sleep 0.1; done",
        ))
        .await;
    task.wait_line(patience(), "up").await;
    task.stop(patience(), "SIGTERM").await.expect("StopTask");
    assert_eq!(task.exit(patience()).await.exit_code, 7);
    end(task).await;
}

async fn a_terminal_is_one(b: &mut Bench) {
    let script = "echo in=$(tty); test -t 1 && echo out=tty; echo to-stderr >&2; exit 5";
    let task = b.start(b.with_options(json!({ "tty": true }), script)).await;
    assert_eq!(task.exit(patience()).await.exit_code, 5);
    task.logs_end(patience()).await;
    let text = task.logs().stdout.text();
    assert!(
        text.contains("in=/dev/pts/0\r\n") && text.contains("out=tty\r\n"),
        "{text:?}"
    );
    // A terminal has one output.
    assert!(text.contains("to-stderr"), "{text:?}");
    end(task).await;
}

async fn standard_input_is_at_its_end_unless_kept_open(b: &mut Bench) {
    let script = "timeout 1 cat; echo cat=$?";
    b.look(json!({}), script).await.are([("cat", "0")]);
    let open = b.look(json!({ "interactive": true }), script).await;
    assert_ne!(open.get("cat"), "0", "standard input was at its end");
}

async fn labels_and_annotations_are_on_the_container(b: &mut Bench) {
    let options =
        json!({ "labels": [{ "com.example.team": "web", "empty": "" }], "annotations": [{ "com.example.note": "x" }] });
    let task = b.start(crate::look::with(b.sleeper(), options)).await;
    let (container, _) = crate::bench::container_of(&task).await;
    let info = b
        .rig
        .containerd
        .ctr(b.rig.namespace(), &["containers", "info", &container])
        .await
        .expect("ctr");
    let info: serde_json::Value = serde_json::from_str(&info).expect("json");
    assert_eq!(info["Labels"]["com.example.team"], "web", "{}", info["Labels"]);
    assert_eq!(info["Spec"]["annotations"]["com.example.note"], "x");
    end(task).await;
    says(
        &b.refused(json!({ "labels": [{ "containerd-driver/task-id": "other" }] }))
            .await,
        &["labels", "containerd-driver/task-id"],
    );
}

async fn a_task_names_its_runtime_and_its_snapshotter(b: &mut Bench) {
    let script = "echo root=$(sed -n 's/.* \\/ \\/ .* - \\([a-z0-9]*\\) .*/\\1/p' /proc/self/mountinfo)";
    assert_eq!(b.look(json!({}), script).await.get("root"), "overlay");
    let options = json!({ "runtime": "runc", "snapshotter": "native" });
    assert_ne!(b.look(options.clone(), script).await.get("root"), "overlay");
    let task = b.start(crate::look::with(b.sleeper(), options)).await;
    let (container, _) = crate::bench::container_of(&task).await;
    let info = b
        .rig
        .containerd
        .ctr(b.rig.namespace(), &["containers", "info", &container])
        .await
        .expect("ctr");
    let info: serde_json::Value = serde_json::from_str(&info).expect("json");
    assert_eq!(
        (&info["Snapshotter"], &info["Runtime"]["Name"]),
        (&json!("native"), &json!("io.containerd.runc.v2"))
    );
    end(task).await;
}

async fn odd_task_names_start(b: &mut Bench) {
    let image = b
        .rig
        .image("options/argv", &ImageConfig::default().cmd(["hostname"]))
        .await
        .expect("image");
    for name in [
        "under_score",
        "double--dash__and..dots",
        "-leading",
        "a-task-name-that-is-much-longer-than-any-host-name-may-be-and-than-an-identifier-of-containerd-can-be",
        "ünïcödé",
        "with space",
    ] {
        let (code, text) = b.run(testhost::task::TaskSpec::new(&image).name(name)).await;
        assert_eq!(code, 0, "{name}");
        assert!(text.trim().len() <= 64 && !text.trim().is_empty(), "{name}: {text:?}");
    }
}

async fn what_cannot_be_of_the_process_is_refused(b: &mut Bench) {
    for (options, words) in [
        (json!({ "ulimit": [{ "nofile": "10:5" }] }), ["ulimit", "10:5"]),
        (json!({ "ulimit": [{ "nosuch": "1" }] }), ["ulimit", "nosuch"]),
        (json!({ "hostname": "x".repeat(65) }), ["hostname", "64"]),
        (json!({ "hostname": "a b" }), ["hostname", "a b"]),
        (json!({ "cwd": "relative" }), ["cwd", "relative"]),
        (json!({ "group_add": ["nobody-here"] }), ["group_add", "nobody-here"]),
        (json!({ "oom_score_adj": 1001 }), ["oom_score_adj", "1001"]),
        (json!({ "runtime": "/bin/sh" }), ["runtime", "/bin/sh"]),
        (json!({ "snapshotter": "no-such" }), ["snapshotter", "no-such"]),
    ] {
        says(&b.refused(options).await, &words);
    }
}

//! What a task finds inside: arguments, variables, users, directories.

use crate::bench::{Bench, group, patience, slowness};
use futures_util::future::join_all;
use serde_json::json;
use std::collections::BTreeMap;
use testhost::image::ImageConfig;
use testhost::task::TaskSpec;

group!(inside, Bench::new(), {
    entrypoint_command_and_args_combine_as_documented,
    the_images_settings_hold_where_the_task_says_nothing,
    the_tasks_settings_win,
    a_user_by_name_has_its_supplementary_groups,
    the_directories_of_a_task_are_shared_with_the_host,
});

async fn entrypoint_command_and_args_combine_as_documented(b: &mut Bench) {
    let image = b
        .rig
        .image(
            "inside/argv",
            &ImageConfig::default().entrypoint(["echo", "E"]).cmd(["C"]),
        )
        .await
        .expect("image");
    let plain = b
        .rig
        .image("inside/cmd", &ImageConfig::default().cmd(["echo", "C"]))
        .await
        .expect("image");
    let table = [
        (&image, json!({}), "E C"),
        (&image, json!({ "args": ["a", "b"] }), "E a b"),
        (&image, json!({ "command": "x" }), "E x"),
        (&image, json!({ "command": "x", "args": ["a b", ""] }), "E x a b "),
        (&image, json!({ "entrypoint": ["echo", "N"] }), "N"),
        (&image, json!({ "entrypoint": ["echo", "N"], "args": ["a"] }), "N a"),
        (&image, json!({ "entrypoint": [] }), "E C"),
        (&plain, json!({}), "C"),
        (&plain, json!({ "args": ["echo", "z"] }), "z"),
        (&plain, json!({ "command": "echo", "args": ["z"] }), "z"),
    ];
    let b = &*b;
    // The combinations do not depend on the kernel: in a slow guest every third has to do.
    let step = if slowness() > 1 { 3 } else { 1 };
    join_all(
        table
            .into_iter()
            .step_by(step)
            .map(|(image, options, expected)| async move {
                let mut spec = TaskSpec::new(image);
                for (key, value) in options.as_object().expect("an object") {
                    spec = spec.option(key, value.clone());
                }
                assert_eq!(b.run(spec).await, (0, format!("{expected}\n")), "{options}");
            }),
    )
    .await;
}

/// Variables as `env -0`-less busybox cannot print them: each from `/proc/self/environ`.
fn variables(text: &str) -> BTreeMap<&str, &str> {
    text.split('\0').filter_map(|entry| entry.split_once('=')).collect()
}

async fn the_images_settings_hold_where_the_task_says_nothing(b: &mut Bench) {
    let config = ImageConfig::default()
        .cmd(["sh", "-c", "pwd; id; cat /proc/self/environ"])
        .env("FROM=image")
        .env("BOTH=image")
        .user("app")
        .workdir("/home/app");
    let image = b.rig.image("inside/settings", &config).await.expect("image");
    let (code, text) = b.run(TaskSpec::new(image).env("BOTH", "task").env("EMPTY", "")).await;
    assert_eq!(code, 0);
    let mut parts = text.splitn(3, '\n');
    assert_eq!(parts.next(), Some("/home/app"));
    assert_eq!(
        parts.next(),
        Some("uid=1000(app) gid=1000(app) groups=1000(app),2000(extra)")
    );
    let found = variables(parts.next().expect("variables"));
    for (name, value) in [
        ("FROM", "image"),
        ("BOTH", "task"),
        ("EMPTY", ""),
        ("ODD", "a b=c\n\"d\" $e"),
        ("PATH", "/bin"),
        ("NOMAD_TASK_NAME", "web"),
        ("NOMAD_ALLOC_DIR", "/alloc"),
    ] {
        assert_eq!(found.get(name), Some(&value), "{name} in {found:?}");
    }
    for ours in [
        "CD_DRIVER_BIN",
        "NOMAD_PLUGIN_MAGIC_COOKIE",
        "PLUGIN_MIN_PORT",
        "TMPDIR",
    ] {
        assert!(!found.contains_key(ours), "{ours} of the plugin is in the task");
    }
}

async fn the_tasks_settings_win(b: &mut Bench) {
    let config = ImageConfig::default()
        .user("app")
        .workdir("/home/app")
        .entrypoint(["false"]);
    let image = b.rig.image("inside/over", &config).await.expect("image");
    let spec = TaskSpec::new(image)
        .option(
            "entrypoint",
            json!([
                "/bin/sh",
                "-c",
                "/bin/pwd; /bin/id -u; /bin/id -G; echo $PATH; hostname"
            ]),
        )
        .option("cwd", json!("/made/for/this"))
        .option("hostname", json!("name-of-mine"))
        .env("PATH", "/opt/bin:/bin")
        .user("65534:2000");
    assert_eq!(
        b.run(spec).await,
        (
            0,
            "/made/for/this\n65534\n2000\n/opt/bin:/bin\nname-of-mine\n".to_owned()
        )
    );
}

async fn a_user_by_name_has_its_supplementary_groups(b: &mut Bench) {
    let (named, numbered) = tokio::join!(
        b.run(b.sh("id -u; id -G").user("app")),
        b.run(b.sh("id -u; id -g").user("1000"))
    );
    assert_eq!(named, (0, "1000\n1000 2000\n".to_owned()));
    assert_eq!(numbered.0, 0);
    assert_eq!(numbered.1.lines().next(), Some("1000"));
}

async fn the_directories_of_a_task_are_shared_with_the_host(b: &mut Bench) {
    let script = "for d in $NOMAD_ALLOC_DIR $NOMAD_TASK_DIR $NOMAD_SECRETS_DIR; do cat $d/from-host; echo of $d >$d/from-task; done
        touch /alloc/logs/x 2>&1; echo $?; ls -d /alloc/logs/.web.stdout.fifo; touch /alloc/data/y; echo $?";
    let spec = b.sh(script);
    let alloc = b.rig.alloc();
    let dir = alloc.add_task(&spec.name).expect("task directory");
    let hosts = [
        (alloc.shared_dir(), "/alloc"),
        (dir.join("local"), "/local"),
        (dir.join("secrets"), "/secrets"),
    ];
    for (host, inside) in &hosts {
        std::fs::write(host.join("from-host"), format!("host of {inside}\n")).expect("a file");
    }
    let task = b.rig.start_in(alloc, &spec).await.expect("StartTask");
    assert_eq!(task.exit(patience()).await.exit_code, 0);
    task.logs_end(patience()).await;
    let lines = task.lines();
    assert_eq!(lines[..3], ["host of /alloc", "host of /local", "host of /secrets"]);
    assert!(
        lines[3].contains("Read-only file system") && lines[4] == "1",
        "{lines:?}"
    );
    assert_eq!(lines[5..], ["/alloc/logs/.web.stdout.fifo", "0"]);
    for (host, inside) in &hosts {
        assert_eq!(
            std::fs::read_to_string(host.join("from-task")).expect("a file"),
            format!("of {inside}\n")
        );
    }
    task.destroy(false).await.expect("DestroyTask");
}

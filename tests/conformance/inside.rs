//! What a task finds inside: its arguments, variables and directory. The cases are of the group `life`.

use crate::bench::{Bench, patience};
use futures_util::future::join_all;
use serde_json::json;
use testhost::image::ImageConfig;
use testhost::task::TaskSpec;
use testhost::within::within;

pub async fn life_15_the_working_directory_is_used_and_made(b: &Bench) {
    for option in ["cwd", "work_dir"] {
        for dir in ["/home", "/made/for/this"] {
            let spec = b.sh("pwd").option(option, json!(dir));
            assert_eq!(b.run(spec).await, (0, format!("{dir}\n")), "{option}");
        }
    }
}

pub async fn life_16_entrypoint_command_and_args_combine(b: &Bench) {
    let config = ImageConfig::default().entrypoint(["echo", "E"]).cmd(["C"]);
    let both = b.rig.image("life/argv", &config).await.expect("image");
    let plain = b
        .rig
        .image("life/cmd", &ImageConfig::default().cmd(["echo", "C"]))
        .await
        .expect("image");
    let table = [
        (&both, json!({}), "E C"),
        (&both, json!({ "args": ["a", "b"] }), "E a b"),
        (&both, json!({ "command": "x" }), "E x"),
        (&both, json!({ "command": "x", "args": ["a b", ""] }), "E x a b "),
        (&both, json!({ "entrypoint": ["echo", "N"] }), "N"),
        (&both, json!({ "entrypoint": ["echo", "N"], "args": ["a"] }), "N a"),
        (&plain, json!({}), "C"),
        (&plain, json!({ "args": ["echo", "z"] }), "z"),
        (&plain, json!({ "command": "echo", "args": ["z"] }), "z"),
        (&plain, json!({ "entrypoint": ["echo"] }), ""),
        // The Go driver refused both; Docker's and Podman's drivers put one after the other.
        (&both, json!({ "entrypoint": ["echo", "N"], "command": "x" }), "N x"),
        (
            &both,
            json!({ "entrypoint": "echo", "command": "x", "args": ["a"] }),
            "x a",
        ),
        (&both, json!({ "entrypoint": "echo" }), ""),
    ];
    join_all(table.map(|(image, options, expected)| async move {
        let mut spec = TaskSpec::new(image);
        for (key, value) in options.as_object().expect("an object") {
            spec = spec.option(key, value.clone());
        }
        assert_eq!(b.run(spec).await, (0, format!("{expected}\n")), "{options}");
    }))
    .await;
}

pub async fn life_17_variables_are_those_of_the_job(b: &Bench) {
    let spec = b
        .sh("tr '\\n\\0' '~\\n' </proc/self/environ; /bin/echo looked-up=$(which mine)")
        .env("SPACES", " a  b ")
        .env("EQUALS", "x=y=z")
        .env("LINES", "one\ntwo")
        .env("EMPTY", "")
        .env("PATH", "/alloc/programs:/bin");
    let alloc = b.rig.alloc();
    let programs = alloc.shared_dir().join("programs");
    std::fs::create_dir(&programs).expect("a directory");
    std::fs::write(programs.join("mine"), "#!/bin/sh\n").expect("a program");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(programs.join("mine"), open).expect("permissions");
    let task = within(patience(), "StartTask", b.rig.start_in(alloc, &spec))
        .await
        .expect("StartTask");
    assert_eq!(task.exit(patience()).await.exit_code, 0);
    task.logs_end(patience()).await;
    let lines = task.lines();
    for wanted in [
        "SPACES= a  b ",
        "EQUALS=x=y=z",
        "LINES=one~two",
        "EMPTY=",
        "PATH=/alloc/programs:/bin",
        "NOMAD_TASK_NAME=web",
        "looked-up=/alloc/programs/mine",
    ] {
        assert!(lines.iter().any(|line| line == wanted), "no {wanted:?} in {lines:?}");
    }
    for ours in [
        "CD_DRIVER_BIN=",
        "NOMAD_PLUGIN_MAGIC_COOKIE=",
        "PLUGIN_MIN_PORT=",
        "TMPDIR=",
    ] {
        assert!(
            !lines.iter().any(|line| line.starts_with(ours)),
            "{ours} of the plugin is in the task"
        );
    }
    task.destroy(false).await.expect("DestroyTask");
}

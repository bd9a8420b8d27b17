//! `containerd-driver doctor`: each disease that can be given to a node is found, and a node that runs tasks has none.

use crate::bench::{Bench, group, patience};
use crate::disk::Small;
use serde_json::Value as Json;
use std::io::Write as _;
use std::process::Output;
use testhost::wire::driver::fingerprint_response::HealthState;
use testhost::within::within;
use tokio::process::Command;

group!(doctor, Bench::new(), {
    a_node_that_runs_tasks_has_no_errors_and_every_check_speaks,
    a_socket_that_is_not_there_or_none_is_found,
    a_containerd_that_hangs_or_is_gone_is_found,
    a_snapshotter_that_is_not_there_is_found,
    a_runtime_that_is_not_there_is_found,
    a_low_limit_of_open_files_is_found,
    a_full_disk_is_found,
    a_mistake_in_the_command_line_is_a_code_of_its_own,
});

/// What is always looked at, in this order.
const ALWAYS: [&str; 18] = [
    "root",
    "socket",
    "containerd",
    "version",
    "plugins",
    "snapshotter",
    "transfer",
    "runtime",
    "cgroups",
    "kernel",
    "confinement",
    "cni",
    "open-files",
    "processes",
    "shim-limits",
    "inotify",
    "space",
    "clock",
];

async fn run(mut command: Command) -> Output {
    command.kill_on_drop(true).stdin(std::process::Stdio::null());
    within(patience(), "doctor", command.output())
        .await
        .expect("doctor runs")
}

fn command(b: &Bench, more: &[&str]) -> Command {
    let bin = std::env::var_os("CD_DRIVER_BIN").expect("CD_DRIVER_BIN");
    let mut command = Command::new(bin);
    command.arg("doctor");
    if !more.contains(&"--address") {
        command.arg("--address").arg(b.rig.containerd.socket());
    }
    command.args(["--namespace", b.rig.namespace()]).args(more);
    command
}

/// The findings as JSON, after a look at their shape and at the exit code, which has to fit them.
async fn examine(command: Command) -> Vec<Json> {
    let out = run(command).await;
    let found: Json = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"));
    let findings = found["findings"].as_array().expect("findings").clone();
    let count = |severity: &str| findings.iter().filter(|f| f["severity"] == severity).count();
    assert_eq!(found["errors"], count("error"), "{found}");
    assert_eq!(found["warnings"], count("warning"), "{found}");
    let code = match (count("error"), count("warning")) {
        (0, 0) => 0,
        (0, _) => 3,
        _ => 1,
    };
    assert_eq!(out.status.code(), Some(code), "{found}");
    for finding in &findings {
        let ok = finding["severity"] == "ok";
        assert!(
            finding["text"].as_str().is_some_and(|text| !text.is_empty()),
            "{finding}"
        );
        assert_eq!(finding["remedy"].is_null(), ok, "{finding}");
    }
    findings
}

fn ids(findings: &[Json]) -> Vec<&str> {
    findings.iter().filter_map(|f| f["id"].as_str()).collect()
}

/// The text of the one error, which is of this check.
#[track_caller]
fn only_error(findings: &[Json], id: &str) -> String {
    let errors: Vec<&Json> = findings.iter().filter(|f| f["severity"] == "error").collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(errors[0]["id"], id, "{errors:?}");
    errors[0]["text"].as_str().expect("text").to_owned()
}

async fn a_node_that_runs_tasks_has_no_errors_and_every_check_speaks(b: &mut Bench) {
    let findings = examine(command(b, &["--json"])).await;
    let errors: Vec<&Json> = findings.iter().filter(|f| f["severity"] == "error").collect();
    assert!(errors.is_empty(), "{errors:#?}");
    let mut seen = ids(&findings);
    seen.dedup();
    assert_eq!(seen, ALWAYS);
    let text = |id: &str| {
        let found = findings.iter().find(|f| f["id"] == id).expect("a finding");
        found["text"].as_str().expect("text")
    };
    assert!(
        text("version").contains(&b.rig.containerd.binaries().version),
        "{}",
        text("version")
    );
    assert!(
        text("runtime").contains("containerd-shim-runc-v2"),
        "{}",
        text("runtime")
    );
    // Where containerd keeps things is learnt from containerd.
    let root = b.rig.containerd.root().display().to_string();
    for what in ["images", "snapshots"] {
        let told = findings.iter().filter(|f| f["id"] == "space");
        let mut texts = told.filter_map(|f| f["text"].as_str());
        assert!(
            texts.any(|t| t.contains(what) && t.contains(&root)),
            "{what}: {findings:#?}"
        );
    }
    // For people the same is said in words.
    let out = run(command(b, &[])).await;
    let words = String::from_utf8_lossy(&out.stdout);
    for id in ALWAYS {
        assert!(
            words.lines().any(|line| line.split_whitespace().nth(1) == Some(id)),
            "{id}: {words}"
        );
    }
    assert!(words.contains("0 errors"), "{words}");
}

async fn a_socket_that_is_not_there_or_none_is_found(b: &mut Bench) {
    let file = b.rig.dir().join("no-socket");
    std::fs::write(&file, "").expect("a file");
    let (none, dir) = (b.rig.dir().join("none.sock"), b.rig.dir().to_owned());
    for (path, word) in [(none, "nothing"), (file, "file"), (dir, "directory")] {
        let path = path.display().to_string();
        let findings = examine(command(b, &["--json", "--address", &path])).await;
        let text = only_error(&findings, "socket");
        assert!(text.contains(&path) && text.contains(word), "{text}");
        // Nobody was asked, so nothing is said of an answer.
        assert!(!ids(&findings).contains(&"containerd"), "{findings:?}");
    }
}

async fn a_containerd_that_hangs_or_is_gone_is_found(b: &mut Bench) {
    b.rig.containerd.sigstop();
    let hung = examine(command(b, &["--json"])).await;
    b.rig.containerd.sigcont();
    let text = only_error(&hung, "containerd");
    assert!(text.contains("does not answer"), "{text}");
    // Killed, it leaves its socket.
    b.rig.containerd.kill().await;
    let gone = examine(command(b, &["--json"])).await;
    b.rig.containerd.start_again().await.expect("containerd");
    let errors: Vec<&Json> = gone.iter().filter(|f| f["severity"] == "error").collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(errors[0]["id"], "containerd", "{errors:?}");
    assert!(
        errors[0]["text"].as_str().is_some_and(|t| t.contains("nobody answers")),
        "{errors:?}"
    );
    // The next case counts the plugin's connections: they are all there when it has run a task.
    b.rig
        .wait_health(HealthState::Healthy, patience())
        .await
        .expect("healthy");
    let task = b.start(b.sleeper()).await;
    task.destroy(true).await.expect("DestroyTask");
}

async fn a_snapshotter_that_is_not_there_is_found(b: &mut Bench) {
    let findings = examine(command(b, &["--json", "--snapshotter", "nope"])).await;
    assert!(only_error(&findings, "snapshotter").contains("nope"));
    let remedy = findings.iter().find(|f| f["id"] == "snapshotter").expect("finding")["remedy"].clone();
    assert!(remedy.as_str().is_some_and(|r| r.contains("overlayfs")), "{remedy}");
}

async fn a_runtime_that_is_not_there_is_found(b: &mut Bench) {
    for (runtime, word) in [("nope", "nope"), ("io.containerd.nope.v9", "containerd-shim-nope-v9")] {
        let findings = examine(command(b, &["--json", "--runtime", runtime])).await;
        let text = only_error(&findings, "runtime");
        assert!(text.contains(word), "{text}");
    }
}

async fn a_low_limit_of_open_files_is_found(b: &mut Bench) {
    for (limit, severity) in [("512", "error"), ("2048", "warning")] {
        let plain = command(b, &["--json"]);
        let mut limited = Command::new("sh");
        limited.args(["-c", &format!("ulimit -n {limit} && exec \"$0\" \"$@\"")]);
        limited
            .arg(plain.as_std().get_program())
            .args(plain.as_std().get_args());
        let findings = examine(limited).await;
        let found = findings.iter().find(|f| f["id"] == "open-files").expect("finding");
        assert_eq!(found["severity"], severity, "{found}");
        assert!(
            found["text"].as_str().is_some_and(|text| text.contains(limit)),
            "{found}"
        );
    }
}

async fn a_full_disk_is_found(b: &mut Bench) {
    b.rig.containerd.stop().await;
    let small = Small::at(b.rig.containerd.root().join("root"), 8);
    b.rig.containerd.start_again().await.expect("containerd");
    let half = examine(command(b, &["--json"])).await;
    assert!(half.iter().all(|f| f["severity"] != "error"), "room is left: {half:#?}");
    fill(&b.rig.containerd.root().join("root/ballast"));
    let full = examine(command(b, &["--json"])).await;
    b.rig.containerd.stop().await;
    drop(small);
    b.rig.containerd.start_again().await.expect("containerd");
    let errors: Vec<&Json> = full.iter().filter(|f| f["severity"] == "error").collect();
    assert_eq!(errors.len(), 2, "images and snapshots: {errors:#?}");
    assert!(errors.iter().all(|f| f["id"] == "space"), "{errors:#?}");
    // What was there before is there again.
    assert_eq!(b.run(b.sh("echo room")).await, (0, "room\n".to_owned()));
}

/// Writes until there is no room.
fn fill(path: &std::path::Path) {
    let mut file = std::fs::File::create(path).expect("a file");
    let piece = vec![0; 64 << 10];
    let refused = std::iter::repeat_with(|| file.write_all(&piece))
        .find_map(Result::err)
        .expect("an end");
    assert_eq!(refused.kind(), std::io::ErrorKind::StorageFull, "{refused}");
}

async fn a_mistake_in_the_command_line_is_a_code_of_its_own(b: &mut Bench) {
    let out = run(command(b, &["--colour"])).await;
    assert_eq!(out.status.code(), Some(2), "{out:?}");
    assert!(String::from_utf8_lossy(&out.stderr).contains("--colour"), "{out:?}");
    assert!(out.stdout.is_empty(), "{out:?}");
}

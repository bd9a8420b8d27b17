//! Commands in a task, where the suite `lifecycle` does not show the very item.

use crate::bench::{Bench, container_of, patience, secs, unified};
use crate::field::{consent, group, operated};
use serde_json::json;
use std::path::Path;
use testhost::image::ImageConfig;
use testhost::procfs;
use testhost::rig::{ExecSession, RunningTask};
use testhost::task::TaskSpec;
use testhost::within::within;

group!(exec, EXEC, operated(consent()),
    together {
        exec_10_the_cgroup_of_a_command_is_the_tasks,
        exec_19_a_terminal_is_resized_and_the_tasks_is_not,
        exec_20_one_field_in_each_message_and_the_exit_last,
    }
    alone {}
);

async fn open(task: &RunningTask, script: &str, tty: bool) -> ExecSession {
    within(
        patience(),
        "ExecTaskStreaming",
        task.exec_session(&["sh", "-c", script], tty),
    )
    .await
    .expect("a session")
}

/// As the kernel tells it of the command's process, and as the command itself sees it where it sees the host's.
async fn exec_10_the_cgroup_of_a_command_is_the_tasks(b: &Bench) {
    let task = b.start(b.sleeper().option("cgroupns", json!("host"))).await;
    let (container, pid) = container_of(&task).await;
    let session = open(&task, "cat /proc/self/cgroup; echo exec-10; read x", false).await;
    let command = testhost::within::until(patience(), "the command", || {
        procfs::with_argument("echo exec-10; read x")
            .into_iter()
            .find(|found| *found != pid)
    })
    .await;
    assert_eq!(procfs::cgroups(command), procfs::cgroups(pid));
    session.stdin("\n").await;
    let outcome = within(patience(), "the session", session.finish())
        .await
        .expect("no error");
    let text = outcome.stdout_text();
    let wanted = |line: &str| match unified() {
        true => line.starts_with("0::/") && line.len() > "0::/".len(),
        false => line.contains(":freezer:/nomad/"),
    };
    let has_freezer = unified() || Path::new("/sys/fs/cgroup/freezer").exists();
    assert!(!has_freezer || text.lines().any(wanted), "{container}: {text}");
    task.destroy(true).await.expect("DestroyTask");
}

async fn exec_19_a_terminal_is_resized_and_the_tasks_is_not(b: &Bench) {
    let config = ImageConfig::default().cmd([
        "sh",
        "-c",
        "trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done",
    ]);
    let image = b.rig.image("exec/terminal", &config).await.expect("image");
    let task = b.start(TaskSpec::new(image).option("tty", json!(true))).await;
    task.wait_line(patience(), "ready").await;
    let size = async || {
        let answer = task
            .exec(&["sh", "-c", "stty size </proc/1/fd/0"], patience())
            .await
            .expect("ExecTask");
        assert_eq!(answer.result.map(|result| result.exit_code), Some(0), "{answer:?}");
        String::from_utf8_lossy(&answer.stdout).into_owned()
    };
    let before = size().await;
    let mut session = open(
        &task,
        "trap 'stty size' WINCH; stty size; echo go; while :; do sleep 0.05; done",
        true,
    )
    .await;
    let mut text = String::new();
    for wanted in ["go", "33 77", "44 88"] {
        if let Some((height, width)) = wanted.split_once(' ') {
            let (height, width) = (height.parse().expect("rows"), width.parse().expect("columns"));
            session.resize(height, width).await;
        }
        let seen = async {
            while !text.contains(wanted) {
                let message = session.next().await.expect("no error").expect("output");
                text += &String::from_utf8_lossy(&message.stdout.map(|out| out.data).unwrap_or_default());
            }
        };
        within(secs(10), wanted, seen).await;
    }
    assert_eq!(size().await, before);
    drop(session);
    task.destroy(true).await.expect("DestroyTask");
}

async fn exec_20_one_field_in_each_message_and_the_exit_last(b: &Bench) {
    let task = b.start(b.sleeper()).await;
    for tty in [false, true] {
        let script = "for n in 1 2 3; do echo out $n; echo err $n >&2; done; seq 1 20000; exit 7";
        let mut session = open(&task, script, tty).await;
        let (mut stdout, mut stderr, mut closed, mut exits) = (0, 0, Vec::new(), 0);
        let reading = async {
            while let Some(message) = session.next().await.expect("no error") {
                let fields = [message.stdout.is_some(), message.stderr.is_some(), message.exited];
                assert_eq!(fields.iter().filter(|is| **is).count(), 1, "{message:?}");
                assert_eq!(message.exited, message.result.is_some(), "{message:?}");
                assert_eq!(exits, 0, "a message after the exit: {message:?}");
                for (name, part) in [("stdout", &message.stdout), ("stderr", &message.stderr)] {
                    let Some(part) = part else { continue };
                    assert!(!closed.contains(&name), "{name} after its close: {message:?}");
                    assert!(part.data.is_empty() || !part.close, "output in a close message");
                    match name {
                        "stdout" => stdout += part.data.len(),
                        _ => stderr += part.data.len(),
                    }
                    if part.close {
                        closed.push(name);
                    }
                }
                if let Some(result) = message.result {
                    assert_eq!(result.exit_code, 7);
                    assert!(closed.contains(&"stdout"), "the exit came before the close");
                    exits += 1;
                }
            }
        };
        within(patience(), "the session", reading).await;
        assert_eq!(
            (exits, stdout > 100_000, stderr > 0),
            (1, true, !tty),
            "{stdout} and {stderr} bytes, {closed:?}"
        );
    }
    task.destroy(true).await.expect("DestroyTask");
}

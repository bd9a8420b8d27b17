//! Commands in tasks while the plugin or containerd goes and comes back.

use crate::bench::{Bench, assert_running, group, secs, settle};
use crate::exec::{destroy, exec_dirs, finish, no_exec_left, no_exec_left_in, run, run_dir, sh, sleeper, until};
use std::path::PathBuf;
use std::time::Instant;
use testhost::procfs;
use testhost::rig::RunningTask;
use tonic::Code;

group!(exec_recovery, Bench::new(), {
    a_recovered_task_runs_commands,
    what_a_killed_plugin_has_left_is_swept,
    a_task_removed_after_a_killed_plugin_takes_all_along,
    a_plugin_that_is_told_to_end_takes_its_commands_along,
    a_session_outlives_a_containerd_that_stops_and_starts,
    a_timeout_is_kept_while_containerd_hangs,
});

async fn a_recovered_task_runs_commands(b: &mut Bench) {
    let task = sleeper(b, "exec-recovered").await;
    b.rig.relaunch().await.expect("relaunch");
    assert_eq!(run(&task, "echo here").await.stdout_text(), "here\n");
    let unary = task.exec(&["echo", "here too"], secs(10)).await.expect("ExecTask");
    assert_eq!(unary.stdout, b"here too\n");
    let tty = sh(&task, "stty size", true).await;
    tty.resize(11, 22).await;
    assert_eq!(finish(tty).await.code(), 0);
    destroy(task).await;
}

async fn abandoned(task: &RunningTask) {
    let mut plain = sh(task, "echo ready; sleep 4571000", false).await;
    let mut tty = sh(task, "echo ready; sleep 4571000", true).await;
    let mut flood = sh(task, "echo ready; yes 4571000", false).await;
    for session in [&mut plain, &mut tty, &mut flood] {
        until(session, "ready").await;
    }
    std::mem::forget((plain, tty, flood));
}

async fn what_a_killed_plugin_has_left_is_swept(b: &mut Bench) {
    let task = sleeper(b, "exec-swept").await;
    abandoned(&task).await;
    b.rig.plugin().sigkill().await;
    assert!(!procfs::with_argument("4571000").is_empty());
    b.rig.relaunch().await.expect("relaunch");
    no_exec_left(&task, "4571000", secs(15)).await;
    assert_running(&task).await;
    assert_eq!(run(&task, "echo here").await.stdout_text(), "here\n");
    destroy(task).await;
}

async fn a_task_removed_after_a_killed_plugin_takes_all_along(b: &mut Bench) {
    let task = sleeper(b, "exec-orphaned").await;
    let dir = run_dir(&task).await;
    abandoned(&task).await;
    b.rig.plugin().sigkill().await;
    assert_eq!(exec_dirs(&dir).len(), 3);
    b.rig.relaunch_only().await.expect("relaunch");
    // Never recovered.
    task.destroy(true).await.expect("DestroyTask");
    let left = settle(secs(10), || {
        let mut left: Vec<String> = procfs::with_argument("4571000")
            .iter()
            .map(|pid| pid.to_string())
            .collect();
        left.extend(dir.exists().then(|| dir.display().to_string()));
        left
    })
    .await;
    assert!(left.is_empty(), "left: {left:?}");
}

async fn a_plugin_that_is_told_to_end_takes_its_commands_along(b: &mut Bench) {
    let task = sleeper(b, "exec-goodbye").await;
    abandoned(&task).await;
    let report = b.rig.plugin().kill_sequence().await;
    assert!(!report.forced && report.took < secs(2), "{:?}", report.took);
    no_exec_left_in(
        &PathBuf::from("/run/containerd-driver").join("none"),
        "4571000",
        secs(1),
    )
    .await;
    b.rig.relaunch().await.expect("relaunch");
    assert_running(&task).await;
    no_exec_left(&task, "4571000", secs(10)).await;
    destroy(task).await;
}

async fn a_session_outlives_a_containerd_that_stops_and_starts(b: &mut Bench) {
    let task = sleeper(b, "exec-outage").await;
    let mut plain = sh(&task, "echo ready; read x; echo got $x; exit 5", false).await;
    let mut tty = sh(&task, "echo ready; read x; echo got $x; exit 6", true).await;
    // Ends while nobody is there.
    let mut early = sh(&task, "echo ready; sleep 1; echo words; exit 7", false).await;
    for session in [&mut plain, &mut tty, &mut early] {
        until(session, "ready").await;
    }
    b.rig.containerd.stop().await;
    let error = task.exec(&["true"], secs(5)).await.expect_err("no containerd");
    assert!(error.message().contains("containerd"), "{error:?}");
    plain.stdin("meanwhile\n").await;
    until(&mut plain, "got meanwhile").await;
    tokio::time::sleep(secs(2)).await;
    b.rig.containerd.start_again().await.expect("containerd");
    assert_eq!(finish(plain).await.code(), 5);
    let early = finish(early).await;
    assert_eq!((early.stdout_text().as_str(), early.code()), ("words\n", 7));
    tty.stdin("later\n").await;
    let outcome = finish(tty).await;
    assert!(outcome.stdout_text().contains("got later"), "{outcome:?}");
    assert_eq!(outcome.code(), 6);
    destroy(task).await;
}

async fn a_timeout_is_kept_while_containerd_hangs(b: &mut Bench) {
    let task = sleeper(b, "exec-hang").await;
    b.rig.containerd.sigstop();
    let begun = Instant::now();
    let status = task.exec(&["sleep", "4572000"], secs(2)).await.expect_err("late");
    let took = begun.elapsed();
    b.rig.containerd.sigcont();
    assert!(took < secs(5), "it took {took:?}");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    no_exec_left(&task, "4572000", secs(20)).await;
    assert_eq!(run(&task, "echo here").await.stdout_text(), "here\n");
    destroy(task).await;
}

//! Commands in tasks at their bounds: clients that go, floods, crowds, timeouts; and with another runtime.

use crate::bench::{Bench, assert_running, group, patience, secs};
use crate::exec::{
    a_program_that_is_not_there_is_told, codes_from_0_to_255_and_of_signals, it_runs_as_the_task_does,
    tty_has_the_last_size_that_came_before_the_start, tty_merges_the_streams_with_line_ends_of_a_terminal,
    tty_session_ends_with_its_lead,
};
use crate::exec::{
    destroy, finish, no_exec_left, no_exec_left_in, notty_keeps_the_streams_apart_and_has_the_code, refused, run,
    session, sh, sleeper, until,
};
use futures_util::future::join_all;
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use testhost::procfs;
use testhost::within::within;
use tonic::Code;

group!(exec_bounds, Bench::new(), {
    heartbeats_and_empty_input_are_no_end_of_input,
    a_client_that_goes_takes_its_command_along,
    a_client_that_goes_from_a_flood_leaves_nothing,
    a_stopped_task_ends_its_sessions,
    a_destroyed_task_ends_its_sessions,
    fifty_mib_to_a_slow_reader_are_whole,
    much_input_arrives_whole,
    a_hundred_at_once_are_all_right,
    the_tail_arrives_however_many_end_at_once,
    a_unary_exec_is_merged_and_capped,
    a_unary_exec_is_killed_at_its_timeout,
    a_read_only_root_is_no_obstacle,
    an_exited_task_runs_no_command,
    an_unread_input_does_not_hold_up_the_exit,
});

group!(exec_crun, crun(), {
    notty_keeps_the_streams_apart_and_has_the_code,
    tty_merges_the_streams_with_line_ends_of_a_terminal,
    tty_has_the_last_size_that_came_before_the_start,
    tty_session_ends_with_its_lead,
    it_runs_as_the_task_does,
    codes_from_0_to_255_and_of_signals,
    a_program_that_is_not_there_is_told,
    a_client_that_goes_takes_its_command_along,
    a_unary_exec_is_killed_at_its_timeout,
    among_the_processes_of_the_host_only_its_own_are_killed,
});

/// Tasks run by crun, with consent to the host's process namespace.
async fn crun() -> Bench {
    Bench::crun(json!({ "allow_runtimes": ["*"], "allowed_modes": { "pid": ["host"] } })).await
}

async fn heartbeats_and_empty_input_are_no_end_of_input(b: &mut Bench) {
    let task = sleeper(b, "exec-beats").await;
    let cat = session(&task, &["cat"], false).await;
    for text in ["a", "b", "c"] {
        cat.heartbeat().await;
        cat.stdin("").await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        cat.stdin(text).await;
    }
    cat.close_stdin().await;
    assert_eq!(finish(cat).await.stdout_text(), "abc");
    destroy(task).await;
}

async fn a_client_that_goes_takes_its_command_along(b: &mut Bench) {
    let task = sleeper(b, "exec-gone").await;
    for tty in [false, true] {
        let mut session = sh(&task, "echo ready; sleep 4567000; echo never", tty).await;
        until(&mut session, "ready").await;
        assert!(
            !procfs::programs_with_argument("sleep", "4567000").is_empty()
                || !procfs::with_argument("4567000").is_empty()
        );
        drop(session);
        no_exec_left(&task, "4567000", secs(2)).await;
        assert_running(&task).await;
    }
    // Gone before it began.
    drop(sh(&task, "sleep 4567000", false).await);
    no_exec_left(&task, "4567000", secs(5)).await;
    destroy(task).await;
}

async fn a_client_that_goes_from_a_flood_leaves_nothing(b: &mut Bench) {
    let task = sleeper(b, "exec-flood").await;
    for tty in [false, true] {
        let mut session = session(&task, &["yes", "deluge"], tty).await;
        until(&mut session, "deluge").await;
        tokio::time::sleep(secs(1)).await;
        drop(session);
        no_exec_left(&task, "deluge", secs(5)).await;
    }
    destroy(task).await;
}

async fn a_stopped_task_ends_its_sessions(b: &mut Bench) {
    let task = sleeper(b, "exec-stop").await;
    let mut session = sh(&task, "echo ready; sleep 4568000", false).await;
    let mut tty = sh(&task, "echo ready; sleep 4568000", true).await;
    until(&mut session, "ready").await;
    until(&mut tty, "ready").await;
    task.stop(secs(1), "SIGKILL").await.expect("StopTask");
    for session in [session, tty] {
        assert_eq!(
            within(secs(5), "the end of the session", finish(session)).await.code(),
            137
        );
    }
    destroy(task).await;
}

async fn a_destroyed_task_ends_its_sessions(b: &mut Bench) {
    let task = sleeper(b, "exec-destroy").await;
    let mut sessions = Vec::new();
    for tty in [false, true] {
        let mut session = sh(&task, "echo ready; sleep 4569000", tty).await;
        until(&mut session, "ready").await;
        sessions.push(session);
    }
    destroy(task).await;
    for session in sessions {
        assert_eq!(
            within(secs(5), "the end of the session", finish(session)).await.code(),
            137
        );
    }
}

async fn fifty_mib_to_a_slow_reader_are_whole(b: &mut Bench) {
    const BYTES: usize = 50 << 20;
    let task = sleeper(b, "exec-bulk").await;
    let pid = b.rig.plugin().pid();
    let before = procfs::anonymous_kib(pid).unwrap_or_default();
    let mut session = sh(
        &task,
        &format!("head -c {BYTES} /dev/zero | tr '\\0' x; echo end >&2"),
        false,
    )
    .await;
    let (mut got, mut most) = (0, 0);
    let mut paused = false;
    let reading = async {
        while let Some(message) = session.next().await.expect("no error") {
            got += message.stdout.map_or(0, |out| out.data.len());
            if got > 1 << 20 && !paused {
                paused = true;
                tokio::time::sleep(secs(2)).await;
                most = procfs::anonymous_kib(pid).unwrap_or_default();
            }
            if message.exited {
                assert_eq!(message.result.expect("a result").exit_code, 0);
            }
        }
    };
    within(secs(60), "fifty MiB", reading).await;
    assert_eq!(got, BYTES);
    assert!(most < before + 16 * 1024, "the plugin grew from {before} to {most} KiB");
    destroy(task).await;
}

async fn much_input_arrives_whole(b: &mut Bench) {
    let task = sleeper(b, "exec-input").await;
    let session = sh(&task, "sleep 1; md5sum; echo end", false).await;
    let chunk = vec![b'z'; 32 * 1024];
    let writing = async {
        for _ in 0..256 {
            session.stdin(chunk.clone()).await;
        }
        session.close_stdin().await;
    };
    within(secs(30), "8 MiB of input", writing).await;
    let outcome = finish(session).await;
    let expected = std::process::Command::new("sh")
        .args(["-c", "head -c 8388608 /dev/zero | tr '\\0' z | md5sum"])
        .output()
        .expect("md5sum");
    let expected = String::from_utf8_lossy(&expected.stdout).into_owned();
    assert_eq!(outcome.stdout_text(), format!("{expected}end\n"));
    destroy(task).await;
}

async fn a_hundred_at_once_are_all_right(b: &mut Bench) {
    let task = sleeper(b, "exec-many").await;
    let one = async |n: usize| {
        let tty = n % 4 == 3;
        let session = sh(
            &task,
            &format!("read line; echo \"out {n} $line\"; echo err {n} >&2; exit {n}"),
            tty,
        )
        .await;
        session.stdin(format!("in {n}\n")).await;
        (n, tty, finish(session).await)
    };
    for (n, tty, outcome) in join_all((0..100).map(one)).await {
        assert_eq!(outcome.code(), n as i32, "{outcome:?}");
        if tty {
            assert!(
                outcome
                    .stdout_text()
                    .ends_with(&format!("out {n} in {n}\r\nerr {n}\r\n")),
                "{outcome:?}"
            );
        } else {
            assert_eq!(outcome.stdout_text(), format!("out {n} in {n}\n"));
            assert_eq!(outcome.stderr_text(), format!("err {n}\n"));
        }
    }
    no_exec_left(&task, "read line; echo", secs(15)).await;
    destroy(task).await;
}

async fn the_tail_arrives_however_many_end_at_once(b: &mut Bench) {
    let task = sleeper(b, "exec-tails").await;
    let one = async |n: usize| {
        let (tty, holds) = (n.is_multiple_of(2), n.is_multiple_of(3));
        let child = if holds { "(trap '' HUP; sleep 5) & " } else { "" };
        let outcome = finish(sh(&task, &format!("{child}seq 1 6000; exit {n}"), tty).await).await;
        assert_eq!(outcome.code(), n as i32);
        let text = outcome.stdout_text();
        assert_eq!(
            text.lines().count(),
            6000,
            "tty {tty}, child {holds}: {:?}",
            text.lines().last()
        );
        assert_eq!(text.trim_end().lines().last(), Some("6000"));
    };
    for round in 0..3 {
        join_all((0..40).map(|n| one(round * 40 + n))).await;
    }
    no_exec_left(&task, "seq 1 6000", secs(30)).await;
    destroy(task).await;
}

async fn a_unary_exec_is_merged_and_capped(b: &mut Bench) {
    let task = sleeper(b, "exec-unary").await;
    let failing = task.exec(&["stat", "/no/such/file"], secs(10)).await.expect("ExecTask");
    assert_ne!(failing.result.map(|r| r.exit_code), Some(0));
    assert!(String::from_utf8_lossy(&failing.stdout).contains("/no/such/file"));
    let script = "head -c 1048576 /dev/zero | tr '\\0' x; echo; echo the end";
    let much = task.exec(&["sh", "-c", script], secs(20)).await.expect("ExecTask");
    assert_eq!(much.stdout.len(), 4096);
    assert!(much.stdout.ends_with(b"x\nthe end\n"));
    // No timeout is no limit, and no input is an empty one.
    let quiet = task
        .exec(&["sh", "-c", "sleep 1; cat; echo fine"], Duration::ZERO)
        .await
        .expect("ExecTask");
    assert_eq!(quiet.stdout, b"fine\n");
    destroy(task).await;
}

async fn a_unary_exec_is_killed_at_its_timeout(b: &mut Bench) {
    let task = sleeper(b, "exec-late").await;
    let begun = Instant::now();
    let script = "trap '' TERM; sleep 4570000 & sleep 4570000; echo never";
    let status = task.exec(&["sh", "-c", script], secs(1)).await.expect_err("late");
    assert!(begun.elapsed() < secs(3), "it took {:?}", begun.elapsed());
    assert_eq!(
        (status.code(), status.message()),
        (Code::DeadlineExceeded, "context deadline exceeded")
    );
    no_exec_left(&task, "4570000", secs(2)).await;
    assert_running(&task).await;
    destroy(task).await;
}

async fn a_read_only_root_is_no_obstacle(b: &mut Bench) {
    let task = b
        .start(b.sleeper().name("exec-ro").option("readonly_rootfs", json!(true)))
        .await;
    let outcome = run(&task, "touch /x; echo code $?").await;
    assert_eq!(outcome.stdout_text(), "code 1\n");
    assert!(outcome.stderr_text().contains("Read-only"), "{outcome:?}");
    let tty = finish(sh(&task, "tty", true).await).await;
    assert!(tty.stdout_text().starts_with("/dev/"), "{tty:?}");
    destroy(task).await;
}

async fn an_exited_task_runs_no_command(b: &mut Bench) {
    let task = b.start(b.sh("exit 4").name("exec-exited")).await;
    assert_eq!(task.exit(patience()).await.exit_code, 4);
    for status in [
        refused(&task, &["true"]).await,
        task.exec(&["true"], secs(5)).await.expect_err("exited"),
    ] {
        assert!(status.message().contains("the task is exited"), "{status:?}");
    }
    task.destroy(false).await.expect("DestroyTask");
    let gone = task.exec(&["true"], secs(5)).await.expect_err("gone");
    assert_eq!(gone.code(), Code::NotFound);
    assert_eq!(refused(&task, &["true"]).await.code(), Code::NotFound);
}

async fn an_unread_input_does_not_hold_up_the_exit(b: &mut Bench) {
    let task = sleeper(b, "exec-unread").await;
    let session = sh(&task, "sleep 2; exit 6", false).await;
    let chunk = vec![0; 32 * 1024];
    for _ in 0..48 {
        session.stdin(chunk.clone()).await;
    }
    assert_eq!(within(secs(8), "the end", finish(session)).await.code(), 6);
    destroy(task).await;
}

async fn among_the_processes_of_the_host_only_its_own_are_killed(b: &mut Bench) {
    let spec = b.sleeper().name("exec-host").option("pid_mode", json!("host"));
    let task = b.start(spec).await;
    let mut other = sh(&task, "echo ready; sleep 4573000; echo over", false).await;
    until(&mut other, "ready").await;
    let mut session = sh(&task, "echo ready; sleep 4574000 & sleep 4574000", false).await;
    until(&mut session, "ready").await;
    drop(session);
    no_exec_left_in(&PathBuf::from("/none"), "4574000", secs(3)).await;
    assert!(!procfs::with_argument("4573000").is_empty());
    assert_running(&task).await;
    drop(other);
    no_exec_left(&task, "4573000", secs(3)).await;
    destroy(task).await;
}

//! Commands in a task, as `nomad alloc exec`, script checks and change scripts ask for them.

use crate::bench::{Bench, assert_running, cgroups_named, container_of, group, kind, patience, secs, settle};
use futures_util::future::join_all;
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use testhost::procfs;
use testhost::rig::{ExecOutcome, ExecSession, RigOpts, RunningTask};
use testhost::within::within;
use tonic::{Code, Status};

group!(exec, Bench::new(), {
    notty_keeps_the_streams_apart_and_has_the_code,
    notty_output_comes_as_it_is_written,
    notty_has_no_terminal,
    notty_input_arrives_and_ends,
    tty_merges_the_streams_with_line_ends_of_a_terminal,
    tty_has_the_last_size_that_came_before_the_start,
    tty_is_resized_while_it_runs,
    tty_echoes_what_is_typed,
    tty_session_ends_with_its_lead,
    a_child_that_holds_the_pipes_holds_up_nothing,
    files_of_an_exec_stay_in_the_task,
    the_cgroup_of_an_exec_is_the_tasks,
    it_runs_as_the_task_does,
    codes_from_0_to_255_and_of_signals,
    a_program_that_is_not_there_is_told,
    what_is_no_exec_is_an_error_before_any_output,
});

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

group!(exec_recovery, Bench::new(), {
    a_recovered_task_runs_commands,
    what_a_killed_plugin_has_left_is_swept,
    a_task_removed_after_a_killed_plugin_takes_all_along,
    a_plugin_that_is_told_to_end_takes_its_commands_along,
    a_session_outlives_a_containerd_that_stops_and_starts,
    a_timeout_is_kept_while_containerd_hangs,
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
    let mut opts = RigOpts::new(kind()).expect("CD_DRIVER_BIN");
    opts.config = json!({
        "containerd_runtime": "crun",
        "allow_runtimes": ["*"],
        "allowed_modes": { "pid": ["host"] },
    });
    // crun takes the empty unified hierarchy beside version 1 for a machine with version 2.
    opts.without_unified = true;
    Bench::bare(opts).await
}

/// A session to its end, whose messages have the form that a host needs.
async fn finish(session: ExecSession) -> ExecOutcome {
    let outcome = within(patience(), "the end of the session", session.finish())
        .await
        .expect("a session without an error");
    assert!(outcome.stdout_closed, "stdout was not closed: {outcome:?}");
    outcome
}

async fn session(task: &RunningTask, argv: &[&str], tty: bool) -> ExecSession {
    within(patience(), "ExecTaskStreaming", task.exec_session(argv, tty))
        .await
        .expect("ExecTaskStreaming")
}

async fn sh(task: &RunningTask, script: &str, tty: bool) -> ExecSession {
    session(task, &["sh", "-c", script], tty).await
}

async fn run(task: &RunningTask, script: &str) -> ExecOutcome {
    finish(sh(task, script, false).await).await
}

async fn refused(task: &RunningTask, argv: &[&str]) -> Status {
    match task.exec_session(argv, false).await {
        Ok(session) => session.finish().await.expect_err("a refusal"),
        Err(status) => status,
    }
}

/// Reads output until it holds the text.
async fn until(session: &mut ExecSession, text: &str) -> String {
    let mut seen = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&seen).contains(text) {
            let message = session.next().await.expect("no error");
            let message = message.unwrap_or_else(|| panic!("no {text:?} in {:?}", String::from_utf8_lossy(&seen)));
            seen.extend(message.stdout.map(|out| out.data).unwrap_or_default());
        }
    };
    within(patience(), text, reading).await;
    String::from_utf8_lossy(&seen).into_owned()
}

async fn destroy(task: RunningTask) {
    let dir = run_dir(&task).await;
    task.destroy(true).await.expect("DestroyTask");
    let left = settle(secs(15), || {
        if dir.exists() {
            vec![dir.display().to_string()]
        } else {
            vec![]
        }
    })
    .await;
    assert!(left.is_empty(), "left: {left:?}");
}

async fn run_dir(task: &RunningTask) -> PathBuf {
    PathBuf::from("/run/containerd-driver").join(container_of(task).await.0)
}

/// Directories of execs of the task.
fn exec_dirs(dir: &PathBuf) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("exec-"))
        .collect()
}

/// Waits until nothing of any exec is left: no directory, no process with this in its arguments.
async fn no_exec_left(task: &RunningTask, argument: &str, deadline: Duration) {
    no_exec_left_in(&run_dir(task).await, argument, deadline).await;
}

async fn no_exec_left_in(dir: &PathBuf, argument: &str, deadline: Duration) {
    let left = settle(deadline, || {
        let mut left = exec_dirs(dir);
        left.extend(
            procfs::with_argument(argument)
                .iter()
                .map(|pid| format!("process {pid}")),
        );
        left
    })
    .await;
    assert!(left.is_empty(), "left: {left:?}");
}

async fn sleeper(b: &Bench, name: &str) -> RunningTask {
    b.start(b.sleeper().name(name)).await
}

async fn notty_keeps_the_streams_apart_and_has_the_code(b: &mut Bench) {
    let task = sleeper(b, "exec-basic").await;
    let outcome = run(&task, "echo hello stdout; echo hello stderr >&2; exit 43").await;
    assert_eq!(
        (outcome.stdout_text(), outcome.stderr_text(), outcome.code()),
        ("hello stdout\n".to_owned(), "hello stderr\n".to_owned(), 43)
    );
    assert!(outcome.stderr_closed);
    destroy(task).await;
}

const THREE: &str = "for n in 1 2 3; do echo $n; sleep 1; done";

async fn streamed(task: &RunningTask, tty: bool, line_end: &str) {
    let mut session = sh(task, THREE, tty).await;
    let begun = Instant::now();
    until(&mut session, &format!("1{line_end}")).await;
    assert!(
        begun.elapsed() < secs(2),
        "the first line came after {:?}",
        begun.elapsed()
    );
    let rest = finish(session).await;
    assert_eq!(
        (rest.stdout_text(), rest.code()),
        (format!("2{line_end}3{line_end}"), 0)
    );
    assert!(rest.stderr.is_empty());
}

async fn notty_output_comes_as_it_is_written(b: &mut Bench) {
    let task = sleeper(b, "exec-stream").await;
    streamed(&task, false, "\n").await;
    destroy(task).await;
}

async fn notty_has_no_terminal(b: &mut Bench) {
    let task = sleeper(b, "exec-notty").await;
    let outcome = finish(session(&task, &["stty", "size"], false).await).await;
    assert_eq!(outcome.code(), 1);
    assert!(outcome.stderr_text().contains("standard input"), "{outcome:?}");
    destroy(task).await;
}

async fn notty_input_arrives_and_ends(b: &mut Bench) {
    let task = sleeper(b, "exec-stdin").await;
    let one = sh(&task, "echo hello; read -r line; echo \"got $line\"", false).await;
    one.stdin("from client\n").await;
    one.close_stdin().await;
    let outcome = finish(one).await;
    assert_eq!(
        (outcome.stdout_text(), outcome.code()),
        ("hello\ngot from client\n".to_owned(), 0)
    );
    // The end of the input is what ends this one, also if it comes before the process and is all that comes.
    let cat = session(&task, &["cat"], false).await;
    cat.close_stdin().await;
    assert_eq!(
        finish(cat).await,
        ExecOutcome {
            result: Some(Default::default()),
            stdout_closed: true,
            stderr_closed: true,
            ..Default::default()
        }
    );
    let cat = session(&task, &["cat"], false).await;
    tokio::time::sleep(secs(1)).await;
    cat.stdin("late").await;
    cat.close_stdin().await;
    assert_eq!(finish(cat).await.stdout_text(), "late");
    destroy(task).await;
}

async fn tty_merges_the_streams_with_line_ends_of_a_terminal(b: &mut Bench) {
    let task = sleeper(b, "exec-tty").await;
    let outcome = finish(sh(&task, "echo hello stdout; echo hello stderr >&2; exit 43", true).await).await;
    assert_eq!(
        (outcome.stdout_text().as_str(), outcome.stderr.len(), outcome.code()),
        ("hello stdout\r\nhello stderr\r\n", 0, 43)
    );
    streamed(&task, true, "\r\n").await;
    destroy(task).await;
}

async fn tty_has_the_last_size_that_came_before_the_start(b: &mut Bench) {
    let task = sleeper(b, "exec-size").await;
    let session = sh(&task, "sleep 1; stty size", true).await;
    session.resize(50, 40).await;
    session.resize(100, 100).await;
    let outcome = finish(session).await;
    assert_eq!((outcome.stdout_text().as_str(), outcome.code()), ("100 100\r\n", 0));
    destroy(task).await;
}

async fn tty_is_resized_while_it_runs(b: &mut Bench) {
    let task = sleeper(b, "exec-resize").await;
    let script =
        "trap 'stty size' WINCH; stty size; echo ready; n=0; while [ $n -lt 200 ]; do sleep 0.05; n=$((n+1)); done";
    let mut session = sh(&task, script, true).await;
    until(&mut session, "ready").await;
    for (height, width) in [(31, 101), (0, 0), (-1, 5), (44, 88)] {
        session.resize(height, width).await;
        if height > 0 {
            until(&mut session, &format!("{height} {width}\r\n")).await;
        }
    }
    drop(session);
    no_exec_left(&task, "trap 'stty size' WINCH", secs(10)).await;
    // Without a terminal a size is ignored.
    let plain = sh(&task, "read x; echo $x", false).await;
    plain.resize(10, 10).await;
    plain.stdin("fine\n").await;
    assert_eq!(finish(plain).await.stdout_text(), "fine\n");
    destroy(task).await;
}

async fn tty_echoes_what_is_typed(b: &mut Bench) {
    let task = sleeper(b, "exec-echo").await;
    let mut one = sh(&task, "echo ready; read -r line; echo \"$line\"", true).await;
    until(&mut one, "ready\r\n").await;
    one.stdin("typed\n").await;
    let outcome = finish(one).await;
    assert_eq!(
        (outcome.stdout_text().as_str(), outcome.code()),
        ("typed\r\ntyped\r\n", 0)
    );
    // An end of the input does not hang up; it is the character that ends the input of a program.
    let mut cat = sh(&task, "echo ready; cat; echo done", true).await;
    until(&mut cat, "ready\r\n").await;
    cat.close_stdin().await;
    let outcome = finish(cat).await;
    assert!(outcome.stdout_text().contains("done\r\n"), "{outcome:?}");
    assert_eq!(outcome.code(), 0);
    destroy(task).await;
}

async fn tty_session_ends_with_its_lead(b: &mut Bench) {
    let task = sleeper(b, "exec-lead").await;
    let begun = Instant::now();
    let script = "(trap '' HUP; sleep 5; echo from background) & echo from lead; sleep 1; exit 3";
    let outcome = finish(sh(&task, script, true).await).await;
    assert!(begun.elapsed() < secs(4), "it took {:?}", begun.elapsed());
    assert_eq!((outcome.stdout_text().as_str(), outcome.code()), ("from lead\r\n", 3));
    destroy(task).await;
}

async fn a_child_that_holds_the_pipes_holds_up_nothing(b: &mut Bench) {
    let task = sleeper(b, "exec-child").await;
    for background in ["sleep 3333", "while true; do echo tick; sleep 0.1; done", "yes"] {
        let begun = Instant::now();
        let script = format!("({background}) & seq 1 20000 >&2; echo last words; exit 9");
        let session = sh(&task, &script, false).await;
        let outcome = finish(session).await;
        assert!(begun.elapsed() < secs(5), "{background}: it took {:?}", begun.elapsed());
        assert_eq!(outcome.code(), 9);
        assert!(outcome.stdout_text().contains("last words\n"), "{background}");
        assert!(
            outcome.stderr_text().ends_with("19999\n20000\n"),
            "{background}: the tail is lost"
        );
        assert_eq!(outcome.stderr_text().lines().count(), 20_000);
    }
    // Without a child the end is at once.
    let begun = Instant::now();
    run(&task, "true").await;
    assert!(begun.elapsed() < secs(1), "it took {:?}", begun.elapsed());
    no_exec_left(&task, "seq 1 20000", secs(30)).await;
    destroy(task).await;
}

async fn files_of_an_exec_stay_in_the_task(b: &mut Bench) {
    let task = sleeper(b, "exec-files").await;
    let made = run(&task, "f=$(mktemp /tmp.XXXXXX); echo mine >$f; echo $f").await;
    let path = made.stdout_text().trim().to_owned();
    assert!(!PathBuf::from(&path).exists(), "{path} is on the host");
    assert_eq!(run(&task, &format!("cat {path}")).await.stdout_text(), "mine\n");
    destroy(task).await;
}

async fn the_cgroup_of_an_exec_is_the_tasks(b: &mut Bench) {
    let task = sleeper(b, "exec-cgroup").await;
    let (container, _) = container_of(&task).await;
    let mut session = sh(&task, "echo ready; read x", false).await;
    until(&mut session, "ready").await;
    let found = procfs::with_argument("echo ready; read x");
    assert!(!found.is_empty());
    let dirs = procfs::cgroups(found[0]);
    let named = cgroups_named(&container);
    assert!(
        named.is_empty()
            || dirs
                .iter()
                .any(|dir| named.iter().any(|n| dir.display().to_string() == *n)),
        "{dirs:?}, not {named:?}"
    );
    session.stdin("\n").await;
    finish(session).await;
    destroy(task).await;
}

async fn it_runs_as_the_task_does(b: &mut Bench) {
    let spec = b
        .sleeper()
        .name("exec-as")
        .user("1234:567")
        .env("OF_THE_TASK", "yes it is")
        .option("cwd", json!("/bin"));
    let task = b.start(spec).await;
    let shown = "id -u; id -g; pwd; echo $OF_THE_TASK; grep -E 'Cap(Bnd|Eff)|NoNewPrivs|Seccomp:' /proc/$P/status; ulimit -n; readlink /proc/$P/ns/pid";
    let own = run(&task, &shown.replace("$P", "self")).await;
    let text = own.stdout_text();
    assert!(text.starts_with("1234\n567\n/bin\nyes it is\n"), "{own:?}");
    // The same as the task's own process, except for the links of namespaces, which another user may not read.
    let first = run(&task, "grep -E 'Cap(Bnd|Eff)|NoNewPrivs|Seccomp:' /proc/1/status")
        .await
        .stdout_text();
    assert!(!first.is_empty() && text.contains(&first), "{text:?} without {first:?}");
    destroy(task).await;
}

async fn codes_from_0_to_255_and_of_signals(b: &mut Bench) {
    let task = sleeper(b, "exec-codes").await;
    for code in [0, 1, 125, 126, 127, 128, 255] {
        let script = format!("exit {code}");
        assert_eq!(run(&task, &script).await.code(), code);
        let unary = task.exec(&["sh", "-c", &script], patience()).await.expect("ExecTask");
        assert_eq!(unary.result.map(|r| r.exit_code), Some(code));
    }
    for signal in [1, 9, 15] {
        let script = format!("kill -{signal} $$; sleep 5");
        assert_eq!(run(&task, &script).await.code(), 128 + signal);
        let unary = task.exec(&["sh", "-c", &script], patience()).await.expect("ExecTask");
        assert_eq!(unary.result.map(|r| r.exit_code), Some(128 + signal));
    }
    destroy(task).await;
}

async fn a_program_that_is_not_there_is_told(b: &mut Bench) {
    let task = sleeper(b, "exec-missing").await;
    for (program, code) in [
        ("no-such-program", 127),
        ("/no/such/program", 127),
        ("/etc/passwd", 126),
        ("/bin", 126),
    ] {
        let outcome = finish(session(&task, &[program], false).await).await;
        assert_eq!(outcome.code(), code, "{program}: {outcome:?}");
        assert!(outcome.stderr_text().contains(program), "{program}: {outcome:?}");
        let tty = finish(session(&task, &[program], true).await).await;
        assert_eq!(tty.code(), code, "{program}: {tty:?}");
        assert!(tty.stdout_text().contains(program) && tty.stderr.is_empty(), "{tty:?}");
        let unary = task.exec(&[program], patience()).await.expect("ExecTask");
        assert_eq!(unary.result.map(|r| r.exit_code), Some(code));
        assert!(String::from_utf8_lossy(&unary.stdout).contains(program));
    }
    no_exec_left(&task, "no-such-program", secs(10)).await;
    assert_eq!(run(&task, "echo still fine").await.stdout_text(), "still fine\n");
    destroy(task).await;
}

async fn what_is_no_exec_is_an_error_before_any_output(b: &mut Bench) {
    let mut task = sleeper(b, "exec-refused").await;
    for argv in [&[][..], &[""][..]] {
        assert_eq!(refused(&task, argv).await.code(), Code::InvalidArgument);
        let status = task.exec(argv, secs(5)).await.expect_err("no command");
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    let known = std::mem::replace(&mut task.config.id, "no/such/task".to_owned());
    for status in [
        refused(&task, &["true"]).await,
        task.exec(&["true"], secs(5)).await.expect_err("no task"),
    ] {
        assert_eq!(
            (status.code(), status.message()),
            (Code::NotFound, "task not found for given id")
        );
    }
    task.config.id = known;
    destroy(task).await;
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
        let mut session = sh(&task, "echo ready; sleep 4567; echo never", tty).await;
        until(&mut session, "ready").await;
        assert!(
            !procfs::programs_with_argument("sleep", "4567").is_empty() || !procfs::with_argument("4567").is_empty()
        );
        drop(session);
        no_exec_left(&task, "4567", secs(2)).await;
        assert_running(&task).await;
    }
    // Gone before it began.
    drop(sh(&task, "sleep 4567", false).await);
    no_exec_left(&task, "4567", secs(5)).await;
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
    let mut session = sh(&task, "echo ready; sleep 4568", false).await;
    let mut tty = sh(&task, "echo ready; sleep 4568", true).await;
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
        let mut session = sh(&task, "echo ready; sleep 4569", tty).await;
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
    let before = procfs::pss_kib(pid).unwrap_or_default();
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
                most = procfs::pss_kib(pid).unwrap_or_default();
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
    let script = "trap '' TERM; sleep 4570 & sleep 4570; echo never";
    let status = task.exec(&["sh", "-c", script], secs(1)).await.expect_err("late");
    assert!(begun.elapsed() < secs(3), "it took {:?}", begun.elapsed());
    assert_eq!(
        (status.code(), status.message()),
        (Code::DeadlineExceeded, "context deadline exceeded")
    );
    no_exec_left(&task, "4570", secs(2)).await;
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
    let mut plain = sh(task, "echo ready; sleep 4571", false).await;
    let mut tty = sh(task, "echo ready; sleep 4571", true).await;
    let mut flood = sh(task, "echo ready; yes 4571", false).await;
    for session in [&mut plain, &mut tty, &mut flood] {
        until(session, "ready").await;
    }
    std::mem::forget((plain, tty, flood));
}

async fn what_a_killed_plugin_has_left_is_swept(b: &mut Bench) {
    let task = sleeper(b, "exec-swept").await;
    abandoned(&task).await;
    b.rig.plugin().sigkill().await;
    assert!(!procfs::with_argument("4571").is_empty());
    b.rig.relaunch().await.expect("relaunch");
    no_exec_left(&task, "4571", secs(15)).await;
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
        let mut left: Vec<String> = procfs::with_argument("4571")
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
    no_exec_left_in(&PathBuf::from("/run/containerd-driver").join("none"), "4571", secs(1)).await;
    b.rig.relaunch().await.expect("relaunch");
    assert_running(&task).await;
    no_exec_left(&task, "4571", secs(10)).await;
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
    let status = task.exec(&["sleep", "4572"], secs(2)).await.expect_err("late");
    let took = begun.elapsed();
    b.rig.containerd.sigcont();
    assert!(took < secs(5), "it took {took:?}");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    no_exec_left(&task, "4572", secs(20)).await;
    assert_eq!(run(&task, "echo here").await.stdout_text(), "here\n");
    destroy(task).await;
}

async fn among_the_processes_of_the_host_only_its_own_are_killed(b: &mut Bench) {
    let spec = b.sleeper().name("exec-host").option("pid_mode", json!("host"));
    let task = b.start(spec).await;
    let mut other = sh(&task, "echo ready; sleep 4573; echo over", false).await;
    until(&mut other, "ready").await;
    let mut session = sh(&task, "echo ready; sleep 4574 & sleep 4574", false).await;
    until(&mut session, "ready").await;
    drop(session);
    no_exec_left_in(&PathBuf::from("/none"), "4574", secs(3)).await;
    assert!(!procfs::with_argument("4573").is_empty());
    assert_running(&task).await;
    drop(other);
    no_exec_left(&task, "4573", secs(3)).await;
    destroy(task).await;
}

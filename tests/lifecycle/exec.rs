//! Commands in a task, as `nomad alloc exec`, script checks and change scripts ask for them.

use crate::bench::{Bench, cgroups_named, container_of, group, patience, secs, settle};
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use testhost::procfs;
use testhost::rig::{ExecOutcome, ExecSession, RunningTask};
use testhost::within::within;
use tonic::{Code, Status};

group!(exec, Bench::new(), {
    notty_keeps_the_streams_apart_and_has_the_code,
    notty_output_comes_as_it_is_written,
    notty_has_no_terminal,
    notty_input_arrives_and_ends,
    tty_merges_the_streams_with_line_ends_of_a_terminal,
    tty_has_the_last_size_that_came_before_the_start,
    tty_has_its_size_from_the_start,
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

/// A session to its end, whose messages have the form that a host needs.
pub(crate) async fn finish(session: ExecSession) -> ExecOutcome {
    let outcome = within(patience(), "the end of the session", session.finish())
        .await
        .expect("a session without an error");
    assert!(outcome.stdout_closed, "stdout was not closed: {outcome:?}");
    outcome
}

pub(crate) async fn session(task: &RunningTask, argv: &[&str], tty: bool) -> ExecSession {
    within(patience(), "ExecTaskStreaming", task.exec_session(argv, tty))
        .await
        .expect("ExecTaskStreaming")
}

pub(crate) async fn sh(task: &RunningTask, script: &str, tty: bool) -> ExecSession {
    session(task, &["sh", "-c", script], tty).await
}

pub(crate) async fn run(task: &RunningTask, script: &str) -> ExecOutcome {
    finish(sh(task, script, false).await).await
}

pub(crate) async fn refused(task: &RunningTask, argv: &[&str]) -> Status {
    match task.exec_session(argv, false).await {
        Ok(session) => session.finish().await.expect_err("a refusal"),
        Err(status) => status,
    }
}

/// Reads output until it holds the text.
pub(crate) async fn until(session: &mut ExecSession, text: &str) -> String {
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

pub(crate) async fn destroy(task: RunningTask) {
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

pub(crate) async fn run_dir(task: &RunningTask) -> PathBuf {
    PathBuf::from("/run/containerd-driver").join(container_of(task).await.0)
}

/// Directories of execs of the task.
pub(crate) fn exec_dirs(dir: &PathBuf) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("exec-"))
        .collect()
}

/// Waits until nothing of any exec is left: no directory, no process with this in its arguments.
pub(crate) async fn no_exec_left(task: &RunningTask, argument: &str, deadline: Duration) {
    no_exec_left_in(&run_dir(task).await, argument, deadline).await;
}

pub(crate) async fn no_exec_left_in(dir: &PathBuf, argument: &str, deadline: Duration) {
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

pub(crate) async fn sleeper(b: &Bench, name: &str) -> RunningTask {
    b.start(b.sleeper().name(name)).await
}

pub(crate) async fn notty_keeps_the_streams_apart_and_has_the_code(b: &mut Bench) {
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

pub(crate) async fn streamed(task: &RunningTask, tty: bool, line_end: &str) {
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

pub(crate) async fn notty_output_comes_as_it_is_written(b: &mut Bench) {
    let task = sleeper(b, "exec-stream").await;
    streamed(&task, false, "\n").await;
    destroy(task).await;
}

pub(crate) async fn notty_has_no_terminal(b: &mut Bench) {
    let task = sleeper(b, "exec-notty").await;
    let outcome = finish(session(&task, &["stty", "size"], false).await).await;
    assert_eq!(outcome.code(), 1);
    assert!(outcome.stderr_text().contains("standard input"), "{outcome:?}");
    destroy(task).await;
}

pub(crate) async fn notty_input_arrives_and_ends(b: &mut Bench) {
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

pub(crate) async fn tty_merges_the_streams_with_line_ends_of_a_terminal(b: &mut Bench) {
    let task = sleeper(b, "exec-tty").await;
    let outcome = finish(sh(&task, "echo hello stdout; echo hello stderr >&2; exit 43", true).await).await;
    assert_eq!(
        (outcome.stdout_text().as_str(), outcome.stderr.len(), outcome.code()),
        ("hello stdout\r\nhello stderr\r\n", 0, 43)
    );
    streamed(&task, true, "\r\n").await;
    destroy(task).await;
}

pub(crate) async fn tty_has_the_last_size_that_came_before_the_start(b: &mut Bench) {
    let task = sleeper(b, "exec-size").await;
    let later = sh(&task, "sleep 1; stty size", true).await;
    later.resize(50, 40).await;
    later.resize(100, 100).await;
    let outcome = finish(later).await;
    assert_eq!((outcome.stdout_text().as_str(), outcome.code()), ("100 100\r\n", 0));
    destroy(task).await;
}

/// Also of a program that asks for it first of all: runc gives the terminal its size; crun (1.8) leaves that to the shim, which is
/// told after the start.
pub(crate) async fn tty_has_its_size_from_the_start(b: &mut Bench) {
    let task = sleeper(b, "exec-first-size").await;
    for _ in 0..5 {
        let first = task.exec_session_sized(&["stty", "size"], (31, 77)).await;
        let first = first.expect("ExecTaskStreaming");
        assert_eq!(finish(first).await.stdout_text(), "31 77\r\n");
    }
    destroy(task).await;
}

pub(crate) async fn tty_is_resized_while_it_runs(b: &mut Bench) {
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

pub(crate) async fn tty_echoes_what_is_typed(b: &mut Bench) {
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

pub(crate) async fn tty_session_ends_with_its_lead(b: &mut Bench) {
    let task = sleeper(b, "exec-lead").await;
    let begun = Instant::now();
    let script = "(trap '' HUP; sleep 5; echo from background) & echo from lead; sleep 1; exit 3";
    let outcome = finish(sh(&task, script, true).await).await;
    assert!(begun.elapsed() < secs(4), "it took {:?}", begun.elapsed());
    assert_eq!((outcome.stdout_text().as_str(), outcome.code()), ("from lead\r\n", 3));
    destroy(task).await;
}

pub(crate) async fn a_child_that_holds_the_pipes_holds_up_nothing(b: &mut Bench) {
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

pub(crate) async fn files_of_an_exec_stay_in_the_task(b: &mut Bench) {
    let task = sleeper(b, "exec-files").await;
    let made = run(&task, "f=$(mktemp /tmp.XXXXXX); echo mine >$f; echo $f").await;
    let path = made.stdout_text().trim().to_owned();
    assert!(!PathBuf::from(&path).exists(), "{path} is on the host");
    assert_eq!(run(&task, &format!("cat {path}")).await.stdout_text(), "mine\n");
    destroy(task).await;
}

pub(crate) async fn the_cgroup_of_an_exec_is_the_tasks(b: &mut Bench) {
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

pub(crate) async fn it_runs_as_the_task_does(b: &mut Bench) {
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

pub(crate) async fn codes_from_0_to_255_and_of_signals(b: &mut Bench) {
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

pub(crate) async fn a_program_that_is_not_there_is_told(b: &mut Bench) {
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

pub(crate) async fn what_is_no_exec_is_an_error_before_any_output(b: &mut Bench) {
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

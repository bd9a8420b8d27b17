//! Stop, signal, destroy.

use crate::bench::{Bench, assert_running, container_of, patience, secs, settle};
use crate::evt::{evt_01_the_stream_of_events_stays_open, fp_02_the_stream_of_fingerprints_stays_open};
use crate::field::{consent, group, operated};
use futures_util::future::join_all;
use serde_json::json;
use std::time::{Duration, Instant};
use testhost::image::ImageConfig;
use testhost::procfs;
use testhost::rig::RunningTask;
use testhost::task::TaskSpec;
use testhost::within::{until, within};
use tonic::Code;

group!(stop, STOP, operated(consent()),
    together {
        // Those that take longest begin first.
        fp_02_the_stream_of_fingerprints_stays_open,
        evt_01_the_stream_of_events_stays_open,
        stop_09_forty_seconds_are_forty_seconds,
        stop_01_a_task_that_obeys_is_gone_at_once,
        stop_02_a_task_that_does_not_is_killed_at_the_timeout,
        stop_03_without_a_timeout_it_is_killed_at_once,
        stop_04_sigkill_is_signal_nine,
        stop_05_without_a_signal_the_images_counts,
        stop_06_the_jobs_signal_is_the_first,
        stop_07_an_unknown_signal_is_refused,
        stop_08_what_is_gone_stops_well,
        stop_10_background_children_die_with_the_stop,
        stop_11_what_outlives_process_one_dies_with_destroy,
        stop_12_a_signal_reaches_the_task,
        stop_13_names_of_signals,
        stop_14_destroy_without_force_of_a_running_task_is_refused,
        stop_15_destroy_after_the_exit_removes_the_container,
        stop_16_destroy_by_force_ends_everything,
        stop_17_after_destroy_the_task_is_unknown,
        stop_18_a_child_that_holds_the_output_holds_up_nothing,
        stop_19_a_start_that_pulls_can_be_stopped,
    }
    alone {}
);

/// Longer than any case: whoever waits for it has failed.
const LONG: Duration = Duration::from_secs(3600);

/// Starts it and waits until it says that its traps are set.
async fn ready(b: &Bench, spec: TaskSpec) -> RunningTask {
    let task = b.start(spec).await;
    task.wait_line(patience(), "ready").await;
    task
}

async fn stopped(task: &RunningTask, timeout: Duration, signal: &str) -> Duration {
    let begin = Instant::now();
    let limit = timeout.min(Duration::from_secs(60)) + patience();
    within(limit, "StopTask", task.stop(timeout, signal))
        .await
        .expect("StopTask");
    begin.elapsed()
}

async fn stop_01_a_task_that_obeys_is_gone_at_once(b: &Bench) {
    let task = ready(b, b.sh("trap 'exit 2' INT; echo ready; while :; do sleep 0.1; done")).await;
    let (_, pid) = container_of(&task).await;
    let took = stopped(&task, secs(5), "SIGINT").await;
    assert!(took < secs(4), "it took {took:?}");
    assert!(!procfs::alive(pid), "StopTask returned before the task was gone");
    let result = task.exit(secs(1)).await;
    assert_eq!(result.exit_code, 2);
    task.destroy(false).await.expect("DestroyTask");
}

async fn stop_02_a_task_that_does_not_is_killed_at_the_timeout(b: &Bench) {
    let task = ready(b, b.sh("trap '' USR1 TERM; echo ready; while :; do sleep 0.1; done")).await;
    let took = stopped(&task, Duration::from_secs(2), "SIGUSR1").await;
    assert!(took >= Duration::from_secs(2) && took < secs(5), "it took {took:?}");
    assert_eq!(task.exit(secs(1)).await.exit_code, 137);
    task.destroy(false).await.expect("DestroyTask");
}

async fn stop_03_without_a_timeout_it_is_killed_at_once(b: &Bench) {
    let task = ready(b, b.sh("trap '' TERM; echo ready; while :; do sleep 0.1; done")).await;
    let took = stopped(&task, Duration::ZERO, "").await;
    assert!(took < secs(3), "it took {took:?}");
    assert_eq!(task.exit(secs(1)).await.exit_code, 137);
    task.destroy(false).await.expect("DestroyTask");
}

async fn stop_04_sigkill_is_signal_nine(b: &Bench) {
    let task = b.start(b.sleeper()).await;
    let took = stopped(&task, LONG, "SIGKILL").await;
    assert!(took < secs(10), "it took {took:?}");
    let result = task.exit(secs(1)).await;
    assert_eq!((result.exit_code, result.signal, result.oom_killed), (137, 9, false));
    task.destroy(false).await.expect("DestroyTask");
}

/// Says which signals come, and obeys none.
const DEAF: &str = "trap 'echo got TERM' TERM; trap 'echo got USR2' USR2; trap 'echo got HUP' HUP; echo ready
    while :; do sleep 0.1; done";

/// Stops a deaf task and tells what it got before SIGKILL.
async fn got(b: &Bench, image: &str, signal: &str) -> Vec<String> {
    let task = ready(b, TaskSpec::new(image).sh(DEAF)).await;
    let grace = secs(2);
    let took = stopped(&task, grace, signal).await;
    assert!(took >= grace, "it took {took:?}");
    let result = task.exit(secs(1)).await;
    assert_eq!((result.exit_code, result.signal), (137, 9));
    task.logs_end(patience()).await;
    let lines = task.lines();
    task.destroy(false).await.expect("DestroyTask");
    lines.into_iter().filter(|line| line.starts_with("got")).collect()
}

async fn stop_05_without_a_signal_the_images_counts(b: &Bench) {
    let config = ImageConfig::default().stop_signal("SIGUSR2");
    let image = b.rig.image("stop/signal", &config).await.expect("image");
    let (own, usual) = tokio::join!(got(b, &image, ""), got(b, &b.image, ""));
    assert_eq!(own, ["got USR2"]);
    assert_eq!(usual, ["got TERM"]);
}

async fn stop_06_the_jobs_signal_is_the_first(b: &Bench) {
    let config = ImageConfig::default().stop_signal("SIGUSR2");
    let image = b.rig.image("stop/signal", &config).await.expect("image");
    let seen = got(b, &image, "SIGHUP").await;
    assert_eq!(seen.first().map(String::as_str), Some("got HUP"), "{seen:?}");
}

async fn stop_07_an_unknown_signal_is_refused(b: &Bench) {
    let task = b.start(b.sleeper()).await;
    let error = within(secs(5), "StopTask", task.stop(LONG, "SIGDOESNOTEXIST"))
        .await
        .expect_err("no such signal");
    assert!(error.message().contains("SIGDOESNOTEXIST"), "{error:?}");
    assert_running(&task).await;
    task.destroy(true).await.expect("DestroyTask");
}

async fn stop_08_what_is_gone_stops_well(b: &Bench) {
    let task = b.start(b.sh("exit 4")).await;
    assert_eq!(task.exit(patience()).await.exit_code, 4);
    assert!(stopped(&task, LONG, "").await < secs(2));
    assert_eq!(task.exit(secs(1)).await.exit_code, 4);
    task.destroy(false).await.expect("DestroyTask");
    let task = b.start(b.sleeper()).await;
    let (container, _) = container_of(&task).await;
    let (cd, ns) = (&b.rig.containerd, b.rig.namespace());
    cd.ctr(ns, &["tasks", "rm", "-f", &container])
        .await
        .expect("ctr tasks rm");
    cd.ctr(ns, &["containers", "rm", &container])
        .await
        .expect("ctr containers rm");
    let answer = within(patience(), "WaitTask", task.wait()).await.expect("WaitTask");
    // A shim that is told to go so soon after a kill may take the news of the exit with it: then the answer says so.
    let code = answer.result.expect("a result").exit_code;
    assert!(code == 137 || (code == -1 && !answer.err.is_empty()), "{answer:?}");
    stopped(&task, LONG, "").await;
    task.destroy(false).await.expect("DestroyTask");
}

async fn stop_09_forty_seconds_are_forty_seconds(b: &Bench) {
    let task = ready(b, b.sh("trap '' TERM; echo ready; while :; do sleep 0.5; done")).await;
    let grace = Duration::from_secs(40);
    let took = stopped(&task, grace, "SIGTERM").await;
    assert!(took >= grace && took < grace + secs(4), "it took {took:?}");
    assert_eq!(task.exit(secs(1)).await.exit_code, 137);
    task.destroy(false).await.expect("DestroyTask");
}

async fn family(pid: u32, least: usize) -> Vec<u32> {
    let grown = || Some(procfs::descendants(pid)).filter(|family| family.len() >= least);
    until(patience(), "the whole family", grown).await
}

fn alive(pids: &[u32]) -> Vec<String> {
    pids.iter()
        .filter(|pid| procfs::alive(**pid))
        .map(u32::to_string)
        .collect()
}

async fn stop_10_background_children_die_with_the_stop(b: &Bench) {
    // In a namespace of its own, and among the processes of the host, where the death of the first kills no other.
    for mode in ["private", "host"] {
        let script = "sleep 3600 & (sleep 3600; true) & trap 'exit 5' TERM; echo ready; while :; do sleep 0.1; done";
        let task = ready(b, b.sh(script).option("pid_mode", json!(mode))).await;
        let (_, pid) = container_of(&task).await;
        let mut all = family(pid, 3).await;
        all.push(pid);
        stopped(&task, LONG, "").await;
        assert_eq!(task.exit(secs(1)).await.exit_code, 5, "pid_mode {mode}");
        let left = settle(secs(3), || alive(&all)).await;
        assert_eq!(left, Vec::<String>::new(), "pid_mode {mode}");
        task.destroy(false).await.expect("DestroyTask");
    }
}

async fn stop_11_what_outlives_process_one_dies_with_destroy(b: &Bench) {
    let script = "sleep 3600 & echo child $!; exit 0";
    let task = b.start(b.sh(script).option("pid_mode", json!("host"))).await;
    let line = task.wait_line(patience(), "child").await;
    let child: u32 = line
        .rsplit(' ')
        .next()
        .and_then(|pid| pid.parse().ok())
        .expect("a process id");
    assert_eq!(task.exit(patience()).await.exit_code, 0);
    within(secs(10), "DestroyTask", task.destroy(true))
        .await
        .expect("DestroyTask");
    assert_eq!(settle(secs(3), || alive(&[child])).await, Vec::<String>::new());
}

async fn stop_12_a_signal_reaches_the_task(b: &Bench) {
    let script = "trap 'echo caught; exit 3' USR1; echo ready; while :; do sleep 0.1; done";
    let task = ready(b, b.sh(script)).await;
    task.signal("SIGUSR1").await.expect("SignalTask");
    assert_eq!(task.exit(secs(6)).await.exit_code, 3);
    task.logs_end(patience()).await;
    let file = task.alloc.logs_dir().join("web.stdout.0");
    let text = std::fs::read_to_string(file).expect("the log");
    assert_eq!(text, "ready\ncaught\n");
    task.destroy(false).await.expect("DestroyTask");
}

async fn stop_13_names_of_signals(b: &Bench) {
    let script = "n=0; trap 'n=$((n+1)); echo caught $n' USR1; echo ready; while :; do sleep 0.1; done";
    let task = ready(b, b.sh(script)).await;
    for (n, name) in ["SIGUSR1", "sigusr1", "USR1", "10"].into_iter().enumerate() {
        task.signal(name).await.expect(name);
        task.wait_line(patience(), &format!("caught {}", n + 1)).await;
    }
    for name in ["FOO", "SIGFOO", "", "-1", "65"] {
        let error = task.signal(name).await.expect_err(name);
        assert!(error.message().contains("Invalid signal"), "{name:?}: {error:?}");
    }
    assert_running(&task).await;
    task.destroy(true).await.expect("DestroyTask");
}

async fn stop_14_destroy_without_force_of_a_running_task_is_refused(b: &Bench) {
    let task = b.start(b.sleeper()).await;
    let error = task.destroy(false).await.expect_err("a running task");
    assert!(error.message().contains("cannot destroy running task"), "{error:?}");
    assert_running(&task).await;
    task.destroy(true).await.expect("DestroyTask");
}

async fn has_container(b: &Bench, container: &str) -> bool {
    let list = b
        .rig
        .containerd
        .ctr(b.rig.namespace(), &["containers", "ls", "-q"])
        .await
        .expect("ctr");
    list.lines().any(|line| line == container)
}

async fn stop_15_destroy_after_the_exit_removes_the_container(b: &Bench) {
    let task = b.start(b.sh("exit 0")).await;
    task.exit(patience()).await;
    let (container, _) = container_of(&task).await;
    assert!(
        has_container(b, &container).await,
        "{container} is gone before its destroy"
    );
    within(secs(3), "DestroyTask", task.destroy(false))
        .await
        .expect("DestroyTask");
    assert!(
        !has_container(b, &container).await,
        "{container} is there after its destroy"
    );
}

async fn stop_16_destroy_by_force_ends_everything(b: &Bench) {
    let task = b.start(b.sleeper()).await;
    let (container, pid) = container_of(&task).await;
    let mut stats = task.stats(Duration::from_secs(1)).await.expect("TaskStats");
    let mut session = task
        .exec_session(&["sh", "-c", "echo ready; sleep 3599"], false)
        .await
        .expect("a session");
    let ready = async {
        // Before its first output a session has messages without any.
        loop {
            let message = session.next().await.expect("no error").expect("a message");
            if message.stdout.is_some_and(|out| !out.data.is_empty()) {
                break;
            }
        }
    };
    within(patience(), "the session", ready).await;
    let waiting = async {
        tokio::join!(task.wait(), task.destroy(true), session.finish(), async {
            while let Some(sample) = stats.message().await.expect("statistics without an error") {
                drop(sample);
            }
        })
    };
    let (exit, destroyed, session, ()) = within(secs(15), "the end of all streams", waiting).await;
    destroyed.expect("DestroyTask");
    let exit = exit.expect("WaitTask").result.expect("a result");
    assert_ne!(exit.exit_code, 0, "{exit:?}");
    assert_eq!(session.expect("a session without an error").code(), 137);
    assert!(!procfs::alive(pid) && !has_container(b, &container).await);
}

async fn stop_17_after_destroy_the_task_is_unknown(b: &Bench) {
    let task = b.start(b.sleeper()).await;
    task.destroy(true).await.expect("DestroyTask");
    let second = Duration::from_secs(1);
    let calls = async {
        let exec = match task.exec_session(&["true"], false).await {
            Ok(session) => session.finish().await.err(),
            Err(status) => Some(status),
        };
        [
            ("InspectTask", task.inspect().await.err()),
            ("SignalTask", task.signal("SIGTERM").await.err()),
            ("StopTask", task.stop(second, "").await.err()),
            ("ExecTask", task.exec(&["true"], second).await.err()),
            ("ExecTaskStreaming", exec),
            ("TaskStats", task.stats(second).await.err()),
            ("WaitTask", task.wait().await.err()),
        ]
    };
    for (call, error) in within(secs(5), "answers about a destroyed task", calls).await {
        let error = error.unwrap_or_else(|| panic!("{call} of a destroyed task succeeds"));
        assert_eq!(error.code(), Code::NotFound, "{call}: {error:?}");
    }
    for force in [true, false] {
        within(secs(5), "a second DestroyTask", task.destroy(force))
            .await
            .expect("DestroyTask");
    }
}

async fn stop_18_a_child_that_holds_the_output_holds_up_nothing(b: &Bench) {
    let script = "sleep 3600 & echo up; exit 0";
    let task = b.start(b.sh(script).option("pid_mode", json!("host"))).await;
    task.wait_line(patience(), "up").await;
    task.exit(patience()).await;
    within(secs(10), "DestroyTask", task.destroy(true))
        .await
        .expect("DestroyTask");
    task.logs_end(secs(5)).await;
}

async fn stop_19_a_start_that_pulls_can_be_stopped(b: &Bench) {
    let fake = crate::registry::FakeRegistry::start(|_| crate::registry::Answer::Never).await;
    let id = format!("{}/web/00000001", testhost::alloc::uuid());
    let spec = TaskSpec::new(fake.reference("never/here")).sh("true").id(&id);
    let starting = b.rig.start_in(b.rig.alloc(), &spec);
    let mut driver = b.rig.driver();
    let stopping = async {
        fake.asked().await;
        let request = testhost::wire::driver::StopTaskRequest {
            task_id: id.clone(),
            timeout: None,
            signal: String::new(),
        };
        driver.stop_task(request).await
    };
    let (started, stopped) = within(patience(), "both answers", async { tokio::join!(starting, stopping) }).await;
    stopped.expect("StopTask");
    let error = started.err().expect("a start that was stopped");
    assert!(!error.message().is_empty(), "{error:?}");
    // The id is free again.
    let task = b.start(b.sh("exit 9").id(&id)).await;
    assert_eq!(task.exit(patience()).await.exit_code, 9);
    join_all([task.destroy(false)])
        .await
        .into_iter()
        .for_each(|outcome| outcome.expect("DestroyTask"));
}

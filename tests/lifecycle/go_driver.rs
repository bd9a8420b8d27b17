//! Tasks that the Go driver has started are taken over, with their output, by a driver of another containerd namespace.

use crate::bench::{Bench, assert_counted, assert_running, container_of, group, kind, patience, secs, slowness};
use serde_json::{Value as Json, json};
use std::time::Duration;
use testhost::census::{Census, Scope};
use testhost::go_task::{self, GoTask, NAMESPACES, STARTED};
use testhost::rig::{RigOpts, RunningTask};
use testhost::wire::driver::{RecoverTaskRequest, TaskHandle, TaskState};
use testhost::within::within;
use tonic::Status;

group!(go_driver, bench(json!({})), {
    a_task_that_was_never_started_is_started,
    a_task_whose_start_was_cut_off_in_the_runtime_is_taken_up,
    an_exit_without_containerd_is_known,
    a_full_pipe_waits_for_the_next_plugin,
    an_adopted_task_is_destroyed_by_force_with_all_it_has,
    what_a_reboot_left_is_removed,
    a_handle_of_a_later_version_is_refused_with_words,
    a_task_that_ended_while_nobody_looked_has_its_code,
    an_adopted_task_keeps_its_output_its_signals_and_its_code,
});

group!(
    /// The driver is configured for the very namespace: events come too.
    go_driver_in_the_same_namespace, bench(json!({ "containerd_namespace": "nomad" })), {
    an_exit_without_containerd_is_known,
    a_task_that_ended_while_nobody_looked_has_its_code,
    an_adopted_task_keeps_its_output_its_signals_and_its_code,
});

async fn bench(config: Json) -> Bench {
    let mut opts = RigOpts::new(kind()).expect("CD_DRIVER_BIN");
    opts.config = config;
    let bench = Bench::with(opts).await;
    go_task::prepare(&bench.rig, &bench.image).await;
    // The pump threads are made for the first and kept.
    let task = GoTask::start(&bench.rig, "nomad", "echo up; sleep 3600").await;
    let task = task.hand_over(&bench.rig).await.expect("RecoverTask");
    task.wait_line(patience(), "up").await;
    task.destroy(true).await.expect("DestroyTask");
    bench
}

/// What must be gone in the end.
struct Leftovers {
    namespace: &'static str,
    before: Census,
}

impl Leftovers {
    /// To be called before anything is made.
    async fn before(b: &Bench, namespace: &'static str) -> Leftovers {
        let before = scope(b, namespace).take().await.expect("census");
        Leftovers { namespace, before }
    }

    async fn assert_none(&self, b: &Bench) {
        let left = scope(b, self.namespace).leaks(&self.before, secs(10)).await;
        let mut left = left.expect("census");
        // Cgroups of the namespace's name belong to whoever else runs tasks on this machine.
        left.retain(|line| !line.starts_with("cgroup ") || line.contains(b.rig.namespace()));
        assert_eq!(left, Vec::<String>::new());
    }
}

async fn hand_over(b: &Bench, task: GoTask) -> Result<RunningTask, Status> {
    within(patience(), "RecoverTask", task.hand_over(&b.rig)).await
}

fn scope<'a>(b: &'a Bench, namespace: &str) -> Scope<'a> {
    Scope::new(&b.rig.containerd, namespace)
        .fifos(b.rig.dir().join("cd"))
        .cgroups(b.rig.namespace())
}

/// Numbered lines until SIGTERM, then their number and a code. A trap may run between any two commands, so it only takes
/// note, and the number is read where it is right.
fn counter(code: u8) -> String {
    let pause = if slowness() > 1 { "0.5" } else { "0.02" };
    format!(
        "n=0; over=; trap over=1 TERM; trap 'echo caught >&2' USR1
         while [ -z \"$over\" ]; do echo line $n; n=$((n+1)); sleep {pause}; done
         echo end $n; echo late >&2; exit {code}"
    )
}

fn assert_complete(task: &RunningTask) {
    let text = std::fs::read_to_string(task.alloc.logs_dir().join("web.stdout.0")).expect("the log");
    assert_counted(&text.lines().collect::<Vec<_>>(), task.id());
}

async fn an_adopted_task_keeps_its_output_its_signals_and_its_code(b: &mut Bench) {
    let leftovers = Leftovers::before(b, "nomad").await;
    let go = GoTask::start(&b.rig, "nomad", &counter(33)).await;
    let (container, later) = (go.container.clone(), Duration::from_millis(300));
    // Nobody reads: the lines wait in the container's pipe.
    tokio::time::sleep(later).await;
    let task = hand_over(b, go).await;
    let mut task = task.expect("RecoverTask");
    task.wait_line(patience(), "line 0").await;
    task.wait_line(patience(), "line 3").await;
    assert_running(&task).await;
    let status = task.status().await.expect("InspectTask");
    assert_eq!(status.started_at, Some(STARTED));
    let (id, pid) = container_of(&task).await;
    assert_eq!(id, container);
    assert!(testhost::procfs::alive(pid), "process {pid}");
    task.signal("SIGUSR1").await.expect("SignalTask");
    let caught = task.logs().stderr.wait_line(patience(), "caught").await;
    assert!(caught.is_some(), "no signal arrived");
    let early = tokio::time::timeout(Duration::from_millis(200), task.wait()).await;
    assert!(early.is_err(), "a running task has an exit");
    let refused = task.destroy(false).await.expect_err("a running task");
    assert!(refused.message().contains("cannot destroy running task"), "{refused:?}");
    // And again, by the next plugin and the same handle.
    b.rig.plugin().sigkill().await;
    task.logs_end(patience()).await;
    tokio::time::sleep(later).await;
    let seen = task.lines().len();
    b.rig.relaunch().await.expect("relaunch");
    // A host's collector ends with the last writer, and is started again when the agent is.
    task.logs = Some(task.alloc.collect_logs("web").expect("log collectors"));
    assert_running(&task).await;
    task.wait_line(patience(), &format!("line {}", seen + 3)).await;
    let begun = std::time::Instant::now();
    task.stop(Duration::from_secs(3600), "").await.expect("StopTask");
    assert!(begun.elapsed() < patience(), "the stop took {:?}", begun.elapsed());
    assert_eq!(task.exit(patience()).await.exit_code, 33);
    task.logs_end(patience()).await;
    assert_complete(&task);
    assert_eq!(task.stderr_lines(), ["late"]);
    task.destroy(false).await.expect("DestroyTask");
    leftovers.assert_none(b).await;
}

async fn a_task_that_ended_while_nobody_looked_has_its_code(b: &mut Bench) {
    for namespace in NAMESPACES {
        let leftovers = Leftovers::before(b, namespace).await;
        let mut go = GoTask::start(&b.rig, namespace, "exit 44").await;
        go.ended().await;
        let task = hand_over(b, go).await;
        let task = task.expect("RecoverTask");
        assert_eq!(task.exit(patience()).await.exit_code, 44);
        let status = task.status().await.expect("InspectTask");
        assert_eq!((status.state(), status.started_at), (TaskState::Exited, Some(STARTED)));
        // What one plugin has seen, the next one tells.
        b.rig.relaunch().await.expect("relaunch");
        assert_eq!(task.exit(patience()).await.exit_code, 44);
        task.destroy(false).await.expect("DestroyTask");
        leftovers.assert_none(b).await;
    }
}

async fn a_task_that_was_never_started_is_started(b: &mut Bench) {
    let leftovers = Leftovers::before(b, "nomad.slice").await;
    let go = GoTask::create(&b.rig, "nomad.slice", "echo hello; exit 5").await;
    let task = hand_over(b, go).await;
    let task = task.expect("RecoverTask");
    assert_eq!(task.exit(patience()).await.exit_code, 5);
    task.logs_end(patience()).await;
    assert_eq!(task.lines(), ["hello"]);
    task.destroy(false).await.expect("DestroyTask");
    leftovers.assert_none(b).await;
}

/// What a `runc start` leaves that is killed when the process has begun: its pipe is there still, and the next one waits at it.
async fn a_task_whose_start_was_cut_off_in_the_runtime_is_taken_up(b: &mut Bench) {
    let leftovers = Leftovers::before(b, "nomad.slice").await;
    let go = GoTask::create(
        &b.rig,
        "nomad.slice",
        "trap 'exit 6' TERM; echo up; while :; do sleep 0.1; done",
    )
    .await;
    let pipe = format!("/run/containerd/runc/{}/{}/exec.fifo", go.namespace, go.container);
    assert_eq!(std::fs::read(&pipe).expect("the runtime's pipe"), b"0");
    let task = within(secs(15), "RecoverTask", go.hand_over(&b.rig)).await;
    let task = task.expect("RecoverTask");
    assert!(!std::path::Path::new(&pipe).exists());
    assert_running(&task).await;
    task.wait_line(patience(), "up").await;
    within(patience(), "StopTask", task.stop(Duration::from_secs(3600), ""))
        .await
        .expect("StopTask");
    assert_eq!(task.exit(patience()).await.exit_code, 6);
    task.logs_end(patience()).await;
    assert_eq!(task.lines(), ["up"]);
    task.destroy(false).await.expect("DestroyTask");
    leftovers.assert_none(b).await;
}

async fn an_exit_without_containerd_is_known(b: &mut Bench) {
    let script = "echo ready; while ! [ -e /end ]; do sleep 0.1; done; echo last; exit 66";
    let leftovers = Leftovers::before(b, "nomad").await;
    let go = GoTask::start(&b.rig, "nomad", script).await;
    let task = hand_over(b, go).await;
    let task = task.expect("RecoverTask");
    task.wait_line(patience(), "ready").await;
    let (_, pid) = container_of(&task).await;
    b.rig.containerd.kill().await;
    std::fs::write(format!("/proc/{pid}/root/end"), "").expect("the sign to end");
    task.wait_line(patience(), "last").await;
    assert_eq!(task.exit(patience()).await.exit_code, 66);
    b.rig.containerd.start_again().await.expect("containerd");
    task.logs_end(patience()).await;
    task.destroy(false).await.expect("DestroyTask");
    leftovers.assert_none(b).await;
}

async fn a_full_pipe_waits_for_the_next_plugin(b: &mut Bench) {
    // More than the pipes on the way hold together.
    let script = "n=0; while [ $n -lt 8000 ]; do echo line $n of many that fill a pipe; n=$((n+1)); done; exit 8";
    let leftovers = Leftovers::before(b, "nomad").await;
    let go = GoTask::start(&b.rig, "nomad", script).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let task = hand_over(b, go).await;
    let task = task.expect("RecoverTask");
    assert_eq!(task.exit(patience()).await.exit_code, 8);
    task.logs_end(patience()).await;
    let expected = (0..8000).map(|n| format!("line {n} of many that fill a pipe"));
    assert!(task.lines().into_iter().eq(expected), "a line is missing");
    task.destroy(false).await.expect("DestroyTask");
    leftovers.assert_none(b).await;
}

async fn an_adopted_task_is_destroyed_by_force_with_all_it_has(b: &mut Bench) {
    let leftovers = Leftovers::before(b, "nomad.slice").await;
    let go = GoTask::start(
        &b.rig,
        "nomad.slice",
        "trap '' TERM; echo ready; while :; do sleep 1; done",
    )
    .await;
    let task = hand_over(b, go).await;
    let task = task.expect("RecoverTask");
    task.wait_line(patience(), "ready").await;
    task.destroy(true).await.expect("DestroyTask");
    task.logs_end(patience()).await;
    leftovers.assert_none(b).await;
}

/// A record and a snapshot without a task: the Go driver would trip over their name for ever.
async fn what_a_reboot_left_is_removed(b: &mut Bench) {
    let leftovers = Leftovers::before(b, "nomad").await;
    let mut go = GoTask::start(&b.rig, "nomad", "sleep 3600").await;
    go.reboot(&b.rig).await;
    let task = hand_over(b, go).await;
    let refused = task.err().expect("there is no task");
    assert!(refused.message().contains("not found"), "{refused:?}");
    leftovers.assert_none(b).await;
}

async fn a_handle_of_a_later_version_is_refused_with_words(b: &mut Bench) {
    let task = b.start(b.sleeper()).await;
    let good = task.persisted_handle();
    for (version, driver_state, words) in [
        (3, good.driver_state.clone(), &["version 3", "1", "2"][..]),
        (1, good.driver_state.clone(), &["version 1"][..]),
        (2, go_task::state("web-x", "", ""), &["driver_state"][..]),
    ] {
        let handle = TaskHandle {
            version,
            driver_state,
            ..good.clone()
        };
        let request = RecoverTaskRequest {
            task_id: String::new(),
            handle: Some(handle),
        };
        let error = b.rig.driver().recover_task(request).await.expect_err("no such handle");
        for word in words {
            assert!(error.message().contains(word), "{error:?}");
        }
    }
    assert_running(&task).await;
    task.destroy(true).await.expect("DestroyTask");
}

//! `StopTask` and `SignalTask`.

use crate::bench::{Bench, assert_running, container_of, group, patience, secs, settle};
use crate::registry::{Answer, FakeRegistry};
use std::time::{Duration, Instant};
use testhost::image::ImageConfig;
use testhost::procfs;
use testhost::rig::RunningTask;
use testhost::task::TaskSpec;
use testhost::within::{until, within};

group!(stopping, Bench::new(), {
    a_task_that_obeys_is_gone_long_before_the_timeout,
    a_task_that_does_not_is_killed_with_its_children_after_the_timeout,
    without_a_timeout_a_task_is_killed_at_once,
    sigkill_needs_no_timeout,
    an_images_stop_signal_is_the_default,
    signals_reach_the_task_and_bad_ones_are_refused,
    a_task_that_is_gone_stops_well,
    a_start_that_still_pulls_can_be_stopped,
    what_outlives_the_first_process_dies_with_destroy,
});

/// Longer than any test: whoever waits for it has failed.
const LONG: Duration = Duration::from_secs(3600);

async fn stop(task: &RunningTask, timeout: Duration, signal: &str) -> Duration {
    let begin = Instant::now();
    within(
        timeout.min(Duration::from_secs(60)) + patience(),
        "StopTask",
        task.stop(timeout, signal),
    )
    .await
    .expect("StopTask");
    begin.elapsed()
}

/// A task that says when its traps are set.
async fn ready(b: &Bench, spec: TaskSpec) -> RunningTask {
    let task = b.start(spec).await;
    task.wait_line(patience(), "ready").await;
    task
}

async fn a_task_that_obeys_is_gone_long_before_the_timeout(b: &mut Bench) {
    for (signal, code) in [("", 15), ("SIGINT", 2)] {
        let task = ready(
            b,
            b.sh("trap 'exit 15' TERM; trap 'exit 2' INT; echo ready; while :; do sleep 0.1; done"),
        )
        .await;
        stop(&task, LONG, signal).await;
        // It is gone when StopTask returns: no time is needed.
        assert_eq!(task.exit(patience()).await.exit_code, code, "signal {signal:?}");
        task.destroy(false).await.expect("DestroyTask");
    }
}

async fn a_task_that_does_not_is_killed_with_its_children_after_the_timeout(b: &mut Bench) {
    let task = ready(
        b,
        b.sh("trap '' TERM USR1; sleep 3600 & (sleep 3600; true) & echo ready; while :; do wait; done"),
    )
    .await;
    let (_, pid) = container_of(&task).await;
    // The shell has said that it is ready before the last of its children had begun.
    let family = until(patience(), "the whole family", || {
        Some(procfs::descendants(pid)).filter(|family| family.len() >= 3)
    })
    .await;
    let took = stop(&task, Duration::from_secs(2), "SIGUSR1").await;
    assert!(
        took >= Duration::from_secs(2) && took < Duration::from_secs(2) + secs(3),
        "{took:?}"
    );
    let exit = task.exit(patience()).await;
    assert_eq!(
        (exit.exit_code, exit.signal, exit.oom_killed),
        (137, 9, false),
        "{exit:?}"
    );
    let alive: Vec<_> = family.into_iter().filter(|pid| procfs::alive(*pid)).collect();
    assert_eq!(alive, Vec::<u32>::new());
    task.destroy(false).await.expect("DestroyTask");
}

async fn without_a_timeout_a_task_is_killed_at_once(b: &mut Bench) {
    let task = ready(b, b.sh("trap '' TERM; echo ready; while :; do sleep 0.1; done")).await;
    let took = stop(&task, Duration::ZERO, "").await;
    assert!(took < secs(3), "{took:?}");
    assert_eq!(task.exit(patience()).await.exit_code, 137);
    task.destroy(false).await.expect("DestroyTask");
}

async fn sigkill_needs_no_timeout(b: &mut Bench) {
    let task = b.start(b.sleeper()).await;
    stop(&task, LONG, "SIGKILL").await;
    assert_eq!(task.exit(patience()).await.exit_code, 137);
    task.destroy(false).await.expect("DestroyTask");
}

async fn an_images_stop_signal_is_the_default(b: &mut Bench) {
    let image = b
        .rig
        .image("stop/signal", &ImageConfig::default().stop_signal("SIGUSR2"))
        .await
        .expect("image");
    let script = "trap 'exit 22' USR2; echo ready; while :; do sleep 0.1; done";
    let task = ready(b, TaskSpec::new(image).sh(script)).await;
    stop(&task, LONG, "").await;
    assert_eq!(task.exit(patience()).await.exit_code, 22);
    task.destroy(false).await.expect("DestroyTask");
}

async fn signals_reach_the_task_and_bad_ones_are_refused(b: &mut Bench) {
    let task = ready(
        b,
        b.sh("n=0; trap 'n=$((n+1)); echo caught $n' USR1; trap 'exit 3' HUP; echo ready; while :; do sleep 0.1; done"),
    )
    .await;
    for (n, name) in ["SIGUSR1", "USR1", "sigusr1", "10"].into_iter().enumerate() {
        task.signal(name).await.expect(name);
        task.wait_line(patience(), &format!("caught {}", n + 1)).await;
    }
    for name in ["FOO", "SIGDOESNOTEXIST", "", "99"] {
        let error = task.signal(name).await.expect_err(name);
        assert!(
            error.message().contains("Invalid signal") && error.message().contains(name),
            "{name:?}: {error:?}"
        );
    }
    let error = task.stop(LONG, "SIGDOESNOTEXIST").await.expect_err("a bad signal");
    assert!(error.message().contains("SIGDOESNOTEXIST"), "{error:?}");
    assert_running(&task).await;
    task.signal("SIGHUP").await.expect("SIGHUP");
    assert_eq!(task.exit(patience()).await.exit_code, 3);
    let error = task.signal("SIGHUP").await.expect_err("a task that is gone");
    assert!(error.message().contains("exited"), "{error:?}");
    task.destroy(false).await.expect("DestroyTask");
}

async fn a_task_that_is_gone_stops_well(b: &mut Bench) {
    let task = b.start(b.sh("exit 4")).await;
    assert_eq!(task.exit(patience()).await.exit_code, 4);
    stop(&task, LONG, "").await;
    assert_eq!(task.exit(patience()).await.exit_code, 4);
    task.destroy(false).await.expect("DestroyTask");
    // Removed behind the driver's back.
    let task = b.start(b.sleeper()).await;
    let (container, _) = container_of(&task).await;
    let (cd, ns) = (&b.rig.containerd, b.rig.namespace());
    cd.ctr(ns, &["tasks", "rm", "-f", &container])
        .await
        .expect("ctr tasks rm");
    cd.ctr(ns, &["containers", "rm", &container])
        .await
        .expect("ctr containers rm");
    // A shim that is told to go so soon after a kill may take the news of the exit with it: then the answer says so.
    let answer = within(patience(), "WaitTask", task.wait()).await.expect("WaitTask");
    let code = answer.result.expect("a result").exit_code;
    assert!(
        code == 137 || code == -1 && answer.err.contains("exit was not seen"),
        "{code} {:?}",
        answer.err
    );
    stop(&task, LONG, "").await;
    task.destroy(false).await.expect("DestroyTask");
}

async fn a_start_that_still_pulls_can_be_stopped(b: &mut Bench) {
    let fake = FakeRegistry::start(|_| Answer::Never).await;
    let spec = TaskSpec::new(fake.reference("never/here"))
        .sh("true")
        .id("0a1b2c3d-0000-4000-8000-000000000000/web/00000001");
    let alloc = b.rig.alloc();
    let starting = b.rig.start_in(alloc, &spec);
    let id = spec.id.clone().expect("an id");
    let mut driver = b.rig.driver();
    let stopping = async {
        fake.asked().await;
        let request = testhost::wire::driver::StopTaskRequest {
            task_id: id,
            timeout: None,
            signal: String::new(),
        };
        driver.stop_task(request).await
    };
    let (started, stopped) = within(patience(), "StopTask of a start", async {
        tokio::join!(starting, stopping)
    })
    .await;
    stopped.expect("StopTask");
    let error = started.err().expect("a stopped start fails");
    assert!(error.message().contains("stopped before it was started"), "{error:?}");
}

async fn what_outlives_the_first_process_dies_with_destroy(b: &mut Bench) {
    // In the host's process namespace the kernel does not kill the rest, and the child keeps the log pipe open.
    let task = b
        .start(b.sh("sleep 3600 & echo child $!").option("pid_mode", "host".into()))
        .await;
    assert_eq!(task.exit(patience()).await.exit_code, 0);
    let line = task.wait_line(patience(), "child").await;
    let child: u32 = line
        .rsplit(' ')
        .next()
        .and_then(|pid| pid.parse().ok())
        .expect("a process id");
    within(secs(10), "DestroyTask", task.destroy(true))
        .await
        .expect("DestroyTask");
    assert_eq!(
        settle(secs(3), || procfs::alive(child)
            .then(|| child.to_string())
            .into_iter()
            .collect())
        .await,
        Vec::<String>::new()
    );
    task.logs_end(secs(5)).await;
}

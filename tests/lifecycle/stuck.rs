//! `StopTask` and `DestroyTask` where what should carry them out does not: shims and containerds that hang, are gone or
//! were killed, and tasks that are paused.

use crate::bench::{Bench, assert_running, container_of, group, patience, secs, settle};
use rustix::process::{Pid, Signal, kill_process};
use std::time::{Duration, Instant};
use testhost::procfs;
use testhost::rig::RunningTask;
use testhost::task::TaskSpec;
use testhost::wire::driver::fingerprint_response::HealthState;
use testhost::within::within;

group!(stuck, Bench::new(), {
    a_task_that_obeys_is_stopped_past_a_shim_that_hangs,
    a_task_that_ignores_everything_is_killed_past_a_shim_that_hangs,
    a_task_that_ends_by_itself_is_told_past_a_shim_that_hangs,
    a_task_whose_shim_hangs_is_destroyed_by_force,
    a_task_whose_shim_was_killed_has_an_exit_that_says_so,
    a_paused_task_is_stopped_by_its_signal,
    a_paused_task_is_killed,
    with_the_hosts_process_ids_all_processes_are_killed,
    a_task_is_stopped_and_signalled_without_containerd,
    a_task_is_stopped_while_containerd_hangs,
});

/// Longer than any test: whoever waits for it has failed.
const LONG: Duration = Duration::from_secs(3600);

const OBEYS: &str = "trap 'exit 15' TERM; trap 'echo caught' USR1; echo ready; while :; do sleep 0.1; done";
const IGNORES: &str = "trap '' TERM INT HUP; sleep 3600 & echo ready; while :; do wait; done";

async fn ready(b: &Bench, spec: TaskSpec) -> RunningTask {
    let task = b.start(spec).await;
    task.wait_line(patience(), "ready").await;
    task
}

fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, signal).expect("a signal");
}

fn shim(b: &Bench, container: &str) -> u32 {
    b.rig.containerd.shim_of(container).expect("the task's shim")
}

async fn stop(task: &RunningTask, timeout: Duration) -> Duration {
    let begin = Instant::now();
    within(patience(), "StopTask", task.stop(timeout, ""))
        .await
        .expect("StopTask");
    begin.elapsed()
}

async fn destroy(task: &RunningTask, force: bool) {
    within(secs(110), "DestroyTask", task.destroy(force))
        .await
        .expect("DestroyTask");
}

/// All of a task's processes, its first one included.
fn family(pid: u32) -> Vec<u32> {
    let mut family = procfs::descendants(pid);
    family.push(pid);
    family
}

async fn assert_dead(family: Vec<u32>) {
    let alive = || {
        let alive = family.iter().filter(|pid| procfs::alive(**pid));
        alive.map(u32::to_string).collect()
    };
    assert_eq!(settle(secs(5), alive).await, Vec::<String>::new());
}

async fn a_task_that_obeys_is_stopped_past_a_shim_that_hangs(b: &mut Bench) {
    let task = ready(b, b.sh(OBEYS)).await;
    let (container, pid) = container_of(&task).await;
    send(shim(b, &container), Signal::STOP);
    stop(&task, LONG).await;
    // Its own code, though the shim that should tell it hangs.
    let answer = within(patience(), "WaitTask", task.wait()).await.expect("WaitTask");
    let exit = answer.result.expect("a result");
    assert_eq!((exit.exit_code, exit.signal, answer.err.as_str()), (15, 0, ""));
    assert!(!procfs::alive(pid));
    destroy(&task, false).await;
}

async fn a_task_that_ignores_everything_is_killed_past_a_shim_that_hangs(b: &mut Bench) {
    let task = ready(b, b.sh(IGNORES)).await;
    let (container, pid) = container_of(&task).await;
    let family = family(pid);
    send(shim(b, &container), Signal::STOP);
    let took = stop(&task, Duration::from_secs(1)).await;
    assert!(took >= Duration::from_secs(1) && took < secs(25), "{took:?}");
    let exit = task.exit(patience()).await;
    assert_eq!((exit.exit_code, exit.signal, exit.oom_killed), (137, 9, false));
    assert_dead(family).await;
    // A shim that goes on has nothing to add.
    send(shim(b, &container), Signal::CONT);
    assert_eq!(task.exit(patience()).await.exit_code, 137);
    destroy(&task, false).await;
}

/// Nobody asks for a stop: who waits for the exit is told all the same. Also by a plugin process that has recovered the task.
async fn a_task_that_ends_by_itself_is_told_past_a_shim_that_hangs(b: &mut Bench) {
    let script = |code| format!("echo ready; while ! [ -e /alloc/end ]; do sleep 0.1; done; exit {code}");
    for (code, recovered) in [(33, false), (34, true)] {
        let task = ready(b, b.sh(&script(code))).await;
        if recovered {
            b.rig.relaunch().await.expect("RecoverTask");
        }
        let (container, pid) = container_of(&task).await;
        send(shim(b, &container), Signal::STOP);
        std::fs::write(task.alloc.shared_dir().join("end"), "").expect("the sign to end");
        let answer = within(secs(20), "WaitTask", task.wait()).await.expect("WaitTask");
        let exit = answer.result.expect("a result");
        assert_eq!((exit.exit_code, exit.signal, answer.err.as_str()), (code, 0, ""));
        assert!(!procfs::alive(pid));
        destroy(&task, false).await;
    }
}

async fn a_task_whose_shim_hangs_is_destroyed_by_force(b: &mut Bench) {
    let task = ready(b, b.sh(IGNORES)).await;
    let (container, pid) = container_of(&task).await;
    let family = family(pid);
    let hung = shim(b, &container);
    send(hung, Signal::STOP);
    destroy(&task, true).await;
    assert_dead(family).await;
    assert!(!procfs::alive(hung), "the shim is there");
}

async fn a_task_whose_shim_was_killed_has_an_exit_that_says_so(b: &mut Bench) {
    let task = ready(b, b.sh(IGNORES)).await;
    let (container, pid) = container_of(&task).await;
    let family = family(pid);
    send(shim(b, &container), Signal::KILL);
    let answer = within(patience(), "WaitTask", task.wait()).await.expect("WaitTask");
    let exit = answer.result.expect("a result");
    assert!(exit.exit_code != 0, "{exit:?}");
    assert!(
        !exit.oom_killed && answer.err.contains("lost"),
        "{exit:?} {:?}",
        answer.err
    );
    stop(&task, LONG).await;
    destroy(&task, false).await;
    assert_dead(family).await;
}

async fn paused(b: &Bench, script: &str) -> (RunningTask, u32) {
    let task = ready(b, b.sh(script)).await;
    let (container, pid) = container_of(&task).await;
    b.rig
        .containerd
        .ctr(b.rig.namespace(), &["tasks", "pause", &container])
        .await
        .expect("ctr tasks pause");
    (task, pid)
}

async fn a_paused_task_is_stopped_by_its_signal(b: &mut Bench) {
    let (task, _) = paused(b, OBEYS).await;
    assert_running(&task).await;
    stop(&task, LONG).await;
    assert_eq!(task.exit(patience()).await.exit_code, 15);
    destroy(&task, false).await;
}

async fn a_paused_task_is_killed(b: &mut Bench) {
    for timeout in [Duration::ZERO, Duration::from_secs(1)] {
        let (task, pid) = paused(b, IGNORES).await;
        let family = family(pid);
        let took = stop(&task, timeout).await;
        assert!(took < timeout + secs(8), "{took:?}");
        assert_eq!(task.exit(patience()).await.exit_code, 137);
        assert_dead(family).await;
        destroy(&task, false).await;
    }
    // By force, without a stop before.
    let (task, pid) = paused(b, IGNORES).await;
    let family = family(pid);
    destroy(&task, true).await;
    assert_dead(family).await;
}

async fn with_the_hosts_process_ids_all_processes_are_killed(b: &mut Bench) {
    let script = "trap '' TERM; sleep 3600 & (trap '' TERM; setsid sleep 3600; true) & sleep 0.3; echo ready; while :; do wait; done";
    let task = ready(b, b.sh(script).option("pid_mode", "host".into())).await;
    let (_, pid) = container_of(&task).await;
    let family = family(pid);
    assert!(family.len() >= 3, "{family:?}");
    stop(&task, Duration::from_millis(300)).await;
    assert_eq!(task.exit(patience()).await.exit_code, 137);
    assert_dead(family).await;
    destroy(&task, false).await;
}

async fn a_task_is_stopped_and_signalled_without_containerd(b: &mut Bench) {
    let (obeys, ignores) = tokio::join!(ready(b, b.sh(OBEYS)), ready(b, b.sh(IGNORES)));
    let (_, pid) = container_of(&ignores).await;
    let family = family(pid);
    b.rig.containerd.stop().await;
    within(patience(), "SignalTask", obeys.signal("SIGUSR1"))
        .await
        .expect("SignalTask");
    obeys.wait_line(patience(), "caught").await;
    stop(&obeys, LONG).await;
    let took = stop(&ignores, Duration::from_secs(1)).await;
    assert!(took >= Duration::from_secs(1) && took < secs(20), "{took:?}");
    assert_eq!(obeys.exit(patience()).await.exit_code, 15);
    assert_eq!(ignores.exit(patience()).await.exit_code, 137);
    assert_dead(family).await;
    b.rig.containerd.start_again().await.expect("containerd");
    b.rig
        .wait_health(HealthState::Healthy, secs(35))
        .await
        .expect("healthy");
    // Known once and for all.
    assert_eq!(obeys.exit(patience()).await.exit_code, 15);
    tokio::join!(destroy(&obeys, false), destroy(&ignores, false));
}

async fn a_task_is_stopped_while_containerd_hangs(b: &mut Bench) {
    let (obeys, ignores) = tokio::join!(ready(b, b.sh(OBEYS)), ready(b, b.sh(IGNORES)));
    b.rig.containerd.sigstop();
    let (_, _) = tokio::join!(stop(&obeys, LONG), stop(&ignores, Duration::from_secs(1)));
    let codes = (
        obeys.exit(patience()).await.exit_code,
        ignores.exit(patience()).await.exit_code,
    );
    b.rig.containerd.sigcont();
    assert_eq!(codes, (15, 137));
    b.rig
        .wait_health(HealthState::Healthy, secs(35))
        .await
        .expect("healthy");
    tokio::join!(destroy(&obeys, false), destroy(&ignores, false));
}

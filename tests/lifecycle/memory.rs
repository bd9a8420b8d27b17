//! Out of memory: the task, a child of it, and a parent of all tasks; seen by this plugin process or not.

use crate::bench::{Bench, container_of, group, patience, secs};
use rustix::process::{Pid, Signal, kill_process};
use std::path::PathBuf;
use std::time::Duration;
use testhost::procfs;
use testhost::rig::RunningTask;
use testhost::task::TaskSpec;
use testhost::wire::driver::DriverTaskEvent;
use testhost::within::within;

group!(memory, Bench::new(), {
    a_task_that_ran_out_of_memory_says_so,
    a_child_that_ran_out_of_memory_is_an_event_and_not_the_tasks_exit,
    a_task_that_was_killed_otherwise_did_not_run_out_of_memory,
    memory_that_a_parent_lacks_is_said_of_whoever_was_killed,
    memory_that_was_lacking_while_nobody_looked_is_said,
    a_child_of_long_ago_is_not_why_a_task_was_killed,
    a_child_of_an_earlier_plugin_is_not_why_a_task_was_killed,
    a_child_of_an_earlier_plugin_is_not_why_a_task_was_killed_that_nobody_saw,
});

/// Touches so much that no limit of these tests allows it.
const HUNGRY: &str = "dd if=/dev/zero of=/dev/null bs=400M count=1";

const LIMIT_MIB: i64 = 48;

fn waits(b: &Bench, then: &str) -> TaskSpec {
    b.sh(&format!(
        "echo ready; while ! [ -e /alloc/go ]; do sleep 0.1; done; {then}"
    ))
    .memory_mb(LIMIT_MIB)
}

fn go(task: &RunningTask) {
    std::fs::write(task.alloc.shared_dir().join("go"), "").expect("the sign to go on");
}

async fn outcome(task: &RunningTask) -> (i32, bool, String) {
    let answer = within(patience(), "WaitTask", task.wait()).await.expect("WaitTask");
    let exit = answer.result.expect("a result");
    (exit.exit_code, exit.oom_killed, answer.err)
}

async fn a_task_that_ran_out_of_memory_says_so(b: &mut Bench) {
    let task = b.start(waits(b, &format!("exec {HUNGRY}"))).await;
    go(&task);
    let (code, oom, err) = outcome(&task).await;
    assert_eq!((code, oom), (137, true), "{err:?}");
    assert!(err.contains("OOM"), "{err:?}");
    // The next plugin process says the same.
    b.rig.relaunch().await.expect("RecoverTask");
    assert_eq!(outcome(&task).await, (code, oom, err));
    task.destroy(false).await.expect("DestroyTask");
}

async fn a_child_that_ran_out_of_memory_is_an_event_and_not_the_tasks_exit(b: &mut Bench) {
    let events = b.rig.events();
    let task = b
        .start(waits(b, &format!("{HUNGRY}; echo child $?; sleep 2; exit 7")))
        .await;
    go(&task);
    let (code, oom, err) = outcome(&task).await;
    assert_eq!((code, oom, err.as_str()), (7, false, ""));
    task.wait_line(patience(), "child 137").await;
    let told = |event: &DriverTaskEvent| event.task_id == task.id() && event.message.contains("out of memory");
    let found = events
        .wait_for(secs(10), |all| all.iter().any(told).then_some(()))
        .await;
    assert!(found.is_some(), "{:?}", events.events());
    task.destroy(false).await.expect("DestroyTask");
}

async fn a_task_that_was_killed_otherwise_did_not_run_out_of_memory(b: &mut Bench) {
    let task = b.start(b.sleeper().memory_mb(LIMIT_MIB)).await;
    task.signal("SIGKILL").await.expect("SignalTask");
    let (code, oom, err) = outcome(&task).await;
    assert_eq!((code, oom, err.as_str()), (137, false, ""));
    task.destroy(false).await.expect("DestroyTask");
}

/// The limit of a cgroup, removed again by the drop.
struct Limit(PathBuf, &'static str);

impl Limit {
    /// Of the parent of a container's cgroup: what it uses and so many bytes more.
    fn of_parent(pid: u32, more: u64) -> Limit {
        let dirs = procfs::cgroups(pid);
        let v1 = dirs.iter().find(|dir| dir.starts_with("/sys/fs/cgroup/memory"));
        let (own, file, usage, none) = match v1 {
            Some(own) => (own, "memory.limit_in_bytes", "memory.usage_in_bytes", "-1"),
            None => {
                let own = dirs.iter().find(|dir| dir.join("memory.max").exists());
                (
                    own.expect("a cgroup with memory"),
                    "memory.max",
                    "memory.current",
                    "max",
                )
            }
        };
        let parent = own.parent().expect("a parent");
        let used: u64 = std::fs::read_to_string(parent.join(usage))
            .expect("the usage")
            .trim()
            .parse()
            .expect("a number");
        std::fs::write(parent.join(file), (used + more).to_string()).expect("a limit");
        Limit(parent.join(file), none)
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        std::fs::write(&self.0, self.1).ok();
    }
}

async fn memory_that_a_parent_lacks_is_said_of_whoever_was_killed(b: &mut Bench) {
    let spec = waits(b, &format!("exec {HUNGRY}")).memory_mb(2048);
    let (hungry, other) = (b.start(spec).await, b.start(b.sleeper().name("other")).await);
    let (_, pid) = container_of(&hungry).await;
    let limit = Limit::of_parent(pid, 64 << 20);
    go(&hungry);
    let (code, oom, err) = outcome(&hungry).await;
    drop(limit);
    assert_eq!((code, oom), (137, true), "{err:?}");
    // Told of the want as well, but nobody of it was killed.
    other.signal("SIGKILL").await.expect("SignalTask");
    let (code, oom, err) = outcome(&other).await;
    assert_eq!((code, oom, err.as_str()), (137, false, ""));
    hungry.destroy(false).await.expect("DestroyTask");
    other.destroy(false).await.expect("DestroyTask");
}

async fn memory_that_was_lacking_while_nobody_looked_is_said(b: &mut Bench) {
    let task = b.start(waits(b, &format!("exec {HUNGRY}"))).await;
    b.rig.plugin().sigkill().await;
    go(&task);
    task.logs_end(patience()).await;
    b.rig.relaunch().await.expect("RecoverTask");
    let (code, oom, err) = outcome(&task).await;
    assert_eq!((code, oom), (137, true), "{err:?}");
    task.destroy(false).await.expect("DestroyTask");
}

/// Beyond the ten seconds before an exit in which the kernel may have chosen the process, and the time in which it is counted.
const LONG_AGO: Duration = Duration::from_secs(16);

/// A child is killed for want of memory and its task lives on, until it is told to want more than there is itself.
fn outlives_a_child(b: &Bench) -> TaskSpec {
    let then = format!("{HUNGRY}; echo child $?; while ! [ -e /alloc/more ]; do sleep 0.1; done; exec {HUNGRY}");
    waits(b, &then)
}

/// Somebody on the host kills a process.
fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, Signal::KILL).expect("SIGKILL");
}

async fn two_that_outlive_a_child(b: &Bench) -> (RunningTask, RunningTask) {
    tokio::join!(
        b.start(outlives_a_child(b).name("killed")),
        b.start(outlives_a_child(b).name("hungry")),
    )
}

/// Long after their children, one is killed by somebody and the other for want of memory, and each says so.
async fn told_apart_long_after(killed: RunningTask, hungry: RunningTask) {
    tokio::time::sleep(LONG_AGO).await;
    let (_, pid) = container_of(&killed).await;
    kill(pid);
    let (code, oom, err) = outcome(&killed).await;
    assert_eq!((code, oom, err.as_str()), (137, false, ""));
    // The reverse: the task itself, after its child.
    std::fs::write(hungry.alloc.shared_dir().join("more"), "").expect("the sign to want more");
    let (code, oom, err) = outcome(&hungry).await;
    assert_eq!((code, oom), (137, true), "{err:?}");
    killed.destroy(false).await.expect("DestroyTask");
    hungry.destroy(false).await.expect("DestroyTask");
}

async fn a_child_of_long_ago_is_not_why_a_task_was_killed(b: &mut Bench) {
    let events = b.rig.events();
    let (killed, hungry) = two_that_outlive_a_child(b).await;
    for task in [&killed, &hungry] {
        go(task);
        task.wait_line(patience(), "child 137").await;
        let told = |event: &DriverTaskEvent| event.task_id == task.id() && event.message.contains("out of memory");
        let found = events
            .wait_for(secs(10), |all| all.iter().any(told).then_some(()))
            .await;
        assert!(found.is_some(), "{:?}", events.events());
    }
    told_apart_long_after(killed, hungry).await;
}

async fn a_child_of_an_earlier_plugin_is_not_why_a_task_was_killed(b: &mut Bench) {
    let (killed, hungry) = two_that_outlive_a_child(b).await;
    for task in [&killed, &hungry] {
        go(task);
        task.wait_line(patience(), "child 137").await;
    }
    b.rig.relaunch().await.expect("RecoverTask");
    told_apart_long_after(killed, hungry).await;
}

/// How many processes of its cgroup the kernel has killed for want of memory.
fn kernels_count(pid: u32) -> u64 {
    let files = ["memory.oom_control", "memory.events"];
    let dirs = procfs::cgroups(pid).into_iter();
    let mut texts = dirs.flat_map(|dir| files.map(|file| std::fs::read_to_string(dir.join(file)).unwrap_or_default()));
    let count = texts.find_map(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "))?;
        line.trim().parse().ok()
    });
    count.expect("a counter of the kernel's")
}

/// The plugin that has seen the child die writes it down, once the task has lived on for long enough.
async fn a_child_of_an_earlier_plugin_is_not_why_a_task_was_killed_that_nobody_saw(b: &mut Bench) {
    let (killed, hungry) = two_that_outlive_a_child(b).await;
    let mut pids = Vec::new();
    for task in [&killed, &hungry] {
        go(task);
        task.wait_line(patience(), "child 137").await;
        pids.push(container_of(task).await.1);
    }
    for task in [&killed, &hungry] {
        let (container, pid) = container_of(task).await;
        let noted = async {
            let info = ["containers", "info", &container];
            loop {
                let info = b.rig.containerd.ctr(b.rig.namespace(), &info).await;
                // A `sleep` that follows at once may lack what the child has not given back yet, which counts too.
                let label = format!("\"containerd-driver/oom-kills\": \"{}\"", kernels_count(pid));
                if info.expect("ctr containers info").contains(&label) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        within(patience(), "the label of killed processes", noted).await;
    }
    b.rig.plugin().sigkill().await;
    kill(pids[0]);
    std::fs::write(hungry.alloc.shared_dir().join("more"), "").expect("the sign to want more");
    for task in [&killed, &hungry] {
        task.logs_end(patience()).await;
    }
    b.rig.relaunch().await.expect("RecoverTask");
    let (code, oom, err) = outcome(&killed).await;
    assert_eq!((code, oom, err.as_str()), (137, false, ""));
    let (code, oom, err) = outcome(&hungry).await;
    assert_eq!((code, oom), (137, true), "{err:?}");
    killed.destroy(false).await.expect("DestroyTask");
    hungry.destroy(false).await.expect("DestroyTask");
}

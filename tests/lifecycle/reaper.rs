//! What nobody asks for any more is removed after the grace period, and nothing else is.
//!
//! That nothing was removed is not waited for by the clock: each case has an orphan beside it, and looks when that is gone.

use crate::bench::{Bench, assert_running, container_of, group, kind, patience, secs};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use testhost::alloc::{Alloc, random_hex};
use testhost::plugin::{LaunchOpts, Plugin};
use testhost::rig::{RigOpts, RunningTask};
use testhost::wire::driver::{RecoverTaskRequest, StartTaskRequest};
use testhost::within::{until, within};

group!(reaper, bench(json!({})), {
    a_container_of_a_dead_allocation_is_removed_with_all_it_has_and_not_before_the_grace,
    a_task_that_is_recovered_in_time_stays_and_one_that_is_not_goes,
    containers_of_others_stay,
    agents_on_one_containerd_do_not_fight,
    what_an_agent_had_before_its_directory_was_wiped_goes_and_what_it_has_stays,
    a_snapshot_without_a_container_goes,
    a_start_that_was_killed_half_way_goes,
    an_orphan_whose_shim_hangs_goes,
    bundles_that_containerd_left_behind_go,
});

group!(reaper_dry_run, bench(json!({ "dry_run": true })), {
    nothing_is_removed_and_it_is_said_what_would_be,
});

group!(reaper_off, bench(json!({ "enabled": false })), {
    without_the_reaper_an_orphan_stays_until_it_is_destroyed,
});

/// Long enough to recover a task in time.
fn grace() -> Duration {
    secs(4)
}

async fn bench(more: serde_json::Value) -> Bench {
    let mut opts = RigOpts::new(kind()).expect("CD_DRIVER_BIN");
    opts.config = json!({ "reaper": settings(more) });
    Bench::with(opts).await
}

fn settings(more: serde_json::Value) -> serde_json::Value {
    let mut reaper = json!({ "period": "1s", "grace": format!("{}s", grace().as_secs()) });
    if let serde_json::Value::Object(more) = more {
        for (key, value) in more {
            reaper[key] = value;
        }
    }
    reaper
}

async fn has_container(b: &Bench, id: &str) -> bool {
    b.rig.scope().take().await.expect("census").containers.contains(id)
}

/// Waits until nothing in containerd, in the kernel and on disk bears the name of a container.
async fn reaped(b: &Bench, container: &str) {
    let gone = async {
        while has_container(b, container).await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    within(grace() * 3 + patience(), "the end of an orphan", gone).await;
}

/// A task that runs, and its container.
async fn start(b: &Bench, name: &str) -> (RunningTask, String) {
    let task = b.start(b.sleeper().name(name)).await;
    let (container, _) = container_of(&task).await;
    (task, container)
}

async fn recover(b: &Bench, task: &RunningTask) {
    let request = RecoverTaskRequest {
        task_id: String::new(),
        handle: Some(task.persisted_handle()),
    };
    within(patience(), "RecoverTask", b.rig.driver().recover_task(request))
        .await
        .expect("RecoverTask");
}

/// The host forgets a task that is gone already.
async fn forget(task: RunningTask) {
    task.destroy(true).await.expect("DestroyTask of what is gone");
}

async fn a_container_of_a_dead_allocation_is_removed_with_all_it_has_and_not_before_the_grace(b: &mut Bench) {
    let begun = Instant::now();
    let (task, container) = start(b, "dead").await;
    b.rig.relaunch_only().await.expect("relaunch");
    let relaunched = Instant::now();
    std::fs::remove_dir_all(task.alloc.dir()).expect("the allocation's directory");
    reaped(b, &container).await;
    assert!(begun.elapsed() >= grace(), "removed after {:?}", begun.elapsed());
    // The plugin may have begun a moment before its launch was known here.
    assert!(
        relaunched.elapsed() + secs(1) >= grace(),
        "removed {:?} after the launch",
        relaunched.elapsed()
    );
    let lines = b.rig.plugin().stderr_lines();
    assert!(
        lines
            .iter()
            .any(|line| line.contains("orphan removed") && line.contains(&container)),
        "the removal is not told: {lines:#?}"
    );
    forget(task).await;
}

async fn an_orphan_whose_shim_hangs_goes(b: &mut Bench) {
    let (task, container) = start(b, "hung").await;
    let (_, pid) = container_of(&task).await;
    let shim = b.rig.containerd.shim_of(&container).expect("the task's shim");
    let shim = Pid::from_raw(i32::try_from(shim).expect("a process id")).expect("a process id");
    kill_process(shim, Signal::STOP).expect("SIGSTOP");
    b.rig.relaunch_only().await.expect("relaunch");
    std::fs::remove_dir_all(task.alloc.dir()).expect("the allocation's directory");
    let gone = async {
        while has_container(b, &container).await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    // containerd waits for the shim for some seconds before it says so.
    within(grace() * 3 + secs(60) + patience(), "the end of an orphan", gone).await;
    assert!(!testhost::procfs::alive(pid));
    forget(task).await;
}

async fn a_task_that_is_recovered_in_time_stays_and_one_that_is_not_goes(b: &mut Bench) {
    let (kept, container) = start(b, "kept").await;
    let (lost, orphan) = start(b, "lost").await;
    b.rig.relaunch_only().await.expect("relaunch");
    // Within the grace, but not at once.
    tokio::time::sleep(grace() / 4).await;
    recover(b, &kept).await;
    reaped(b, &orphan).await;
    assert!(has_container(b, &container).await);
    assert_running(&kept).await;
    kept.destroy(true).await.expect("DestroyTask");
    forget(lost).await;
}

/// An orphan that is gone when this returns: the reaper has looked since.
async fn look_passes(b: &mut Bench) {
    let (anchor, _) = start(b, "anchor").await;
    let (lost, orphan) = start(b, "sentinel").await;
    b.rig.relaunch_only().await.expect("relaunch");
    recover(b, &anchor).await;
    reaped(b, &orphan).await;
    anchor.destroy(true).await.expect("DestroyTask");
    forget(lost).await;
}

async fn containers_of_others_stay(b: &mut Bench) {
    let (ours, other) = (b.rig.namespace().to_owned(), format!("o{}", random_hex(4)));
    let (plain, labelled) = (
        format!("plain-{}", random_hex(4)),
        format!("labelled-{}", random_hex(4)),
    );
    let image = b.image.clone();
    let ctr = &b.rig.containerd;
    ctr.ctr(
        &ours,
        &["run", "-d", "--label", "team=x", &image, &plain, "sleep", "3600"],
    )
    .await
    .expect("ctr run");
    ctr.ctr(&other, &["images", "pull", "--plain-http", &image])
        .await
        .expect("ctr images pull");
    // In our namespace this would be an orphan.
    let marks = ["containerd-driver/schema=1", "containerd-driver/plugin=boot:1:1"];
    let run = [
        "run", "-d", "--label", marks[0], "--label", marks[1], &image, &labelled, "sleep", "3600",
    ];
    ctr.ctr(&other, &run).await.expect("ctr run");
    look_passes(b).await;
    let ctr = &b.rig.containerd;
    for (namespace, id) in [(&ours, &plain), (&other, &labelled)] {
        let tasks = ctr.ctr(namespace, &["tasks", "ls"]).await.expect("ctr tasks ls");
        let line = tasks.lines().find(|line| line.starts_with(id.as_str()));
        assert!(line.is_some_and(|line| line.contains("RUNNING")), "{id}: {tasks}");
        ctr.ctr(namespace, &["tasks", "rm", "-f", id])
            .await
            .expect("ctr tasks rm");
        ctr.ctr(namespace, &["containers", "rm", id])
            .await
            .expect("ctr containers rm");
    }
    ctr.ctr(&other, &["images", "rm", "--sync", &image])
        .await
        .expect("ctr images rm");
}

async fn agents_on_one_containerd_do_not_fight(b: &mut Bench) {
    let dir = b.rig.dir().join("second");
    let bin = std::env::var_os("CD_DRIVER_BIN").expect("CD_DRIVER_BIN");
    let second = launch(b, Path::new(&bin)).await;
    let alloc = Arc::new(Alloc::new(&dir).expect("allocation"));
    let spec = b.sleeper().name("theirs").log_paths("/dev/null", "/dev/null");
    alloc.add_task("theirs").expect("task directory");
    let config = spec.compose(&alloc, b.rig.schema()).expect("configuration");
    let request = StartTaskRequest {
        task: Some(config.clone()),
    };
    let started = within(patience(), "StartTask", second.driver().start_task(request)).await;
    let handle = started.expect("StartTask").into_inner().handle.expect("handle");
    let container = only_other_container(b).await;
    // While both live, and while the second one's plugin is gone: its agent may come back for its task.
    look_passes(b).await;
    assert!(
        has_container(b, &container).await,
        "an agent removed another's container"
    );
    second.sigkill().await;
    look_passes(b).await;
    assert!(
        has_container(b, &container).await,
        "an agent removed an absent agent's container"
    );
    // It does come back.
    let second = launch(b, Path::new(&bin)).await;
    let request = RecoverTaskRequest {
        task_id: String::new(),
        handle: Some(handle),
    };
    second.driver().recover_task(request).await.expect("RecoverTask");
    look_passes(b).await;
    assert!(has_container(b, &container).await);
    let request = testhost::wire::driver::DestroyTaskRequest {
        task_id: config.id,
        force: true,
    };
    second.driver().destroy_task(request).await.expect("DestroyTask");
    second.sigkill().await;
}

/// A plugin of another agent, with the same settings.
async fn launch(b: &Bench, bin: &Path) -> Plugin {
    let opts = LaunchOpts::default().env("TMPDIR", b.rig.dir().join("tmp"));
    let plugin = Plugin::launch(bin, opts).await.expect("launch");
    plugin.configure(b.rig.config()).await.expect("configure");
    plugin.init().await.expect("init");
    plugin
}

/// The container of the second agent.
async fn only_other_container(b: &Bench) -> String {
    let census = b.rig.scope().take().await.expect("census");
    let found: Vec<String> = census
        .containers
        .into_iter()
        .filter(|id| id.starts_with("theirs-"))
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

async fn a_snapshot_without_a_container_goes(b: &mut Bench) {
    let namespace = b.rig.namespace().to_owned();
    let (ours, foreign) = (format!("ours-{}", random_hex(4)), format!("foreign-{}", random_hex(4)));
    let ctr = &b.rig.containerd;
    for key in [&ours, &foreign] {
        ctr.ctr(&namespace, &["snapshots", "--snapshotter", "overlayfs", "prepare", key])
            .await
            .expect("ctr snapshots prepare");
    }
    let mark = "containerd-driver/plugin=boot:1:1";
    ctr.ctr(
        &namespace,
        &["snapshots", "--snapshotter", "overlayfs", "label", &ours, mark],
    )
    .await
    .expect("ctr snapshots label");
    let gone = async {
        loop {
            let found = b.rig.scope().take().await.expect("census").snapshots;
            if !found.contains(&format!("overlayfs/{ours}")) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let left = within(grace() * 3 + patience(), "the end of the snapshot", gone).await;
    assert!(left.contains(&format!("overlayfs/{foreign}")), "{left:?}");
    ctr.ctr(&namespace, &["snapshots", "--snapshotter", "overlayfs", "rm", &foreign])
        .await
        .expect("ctr snapshots rm");
}

async fn a_start_that_was_killed_half_way_goes(b: &mut Bench) {
    let before = b.rig.scope().take().await.expect("census").containers;
    let alloc = b.rig.alloc();
    let spec = b.sleeper().name("half").log_paths("/dev/null", "/dev/null");
    alloc.add_task("half").expect("task directory");
    let config = spec.compose(&alloc, b.rig.schema()).expect("configuration");
    let mut driver = b.rig.driver();
    let request = StartTaskRequest { task: Some(config) };
    let call = tokio::spawn(async move { driver.start_task(request).await.map(drop) });
    let made = async {
        loop {
            let now = b.rig.scope().take().await.expect("census").containers;
            if let Some(id) = now.difference(&before).next() {
                return id.clone();
            }
            tokio::task::yield_now().await;
        }
    };
    let container = within(patience(), "the container record", made).await;
    b.rig.plugin().sigkill().await;
    // The answer may have come before the kill; then it is a task that nobody recovers, which has to go too.
    drop(call.await.expect("the call"));
    b.rig.relaunch_only().await.expect("relaunch");
    // By a task the new process learns which agent it serves.
    let (anchor, _) = start(b, "anchor").await;
    reaped(b, &container).await;
    assert_running(&anchor).await;
    anchor.destroy(true).await.expect("DestroyTask");
}

async fn nothing_is_removed_and_it_is_said_what_would_be(b: &mut Bench) {
    let (task, container) = start(b, "dry").await;
    b.rig.relaunch_only().await.expect("relaunch");
    std::fs::remove_dir_all(task.alloc.dir()).expect("the allocation's directory");
    let said = async {
        loop {
            let lines = b.rig.plugin().stderr_lines();
            let about = |line: &&String| line.contains("would be removed") && line.contains(&container);
            let count = lines.iter().filter(about).count();
            if count > 0 {
                return count;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    within(grace() * 3 + patience(), "the line of the dry run", said).await;
    let census = b.rig.scope().take().await.expect("census");
    assert!(census.containers.contains(&container) && census.tasks.contains(&container));
    task.destroy(true).await.expect("DestroyTask");
}

async fn without_the_reaper_an_orphan_stays_until_it_is_destroyed(b: &mut Bench) {
    let (task, container) = start(b, "stays").await;
    b.rig.relaunch_only().await.expect("relaunch");
    std::fs::remove_dir_all(task.alloc.dir()).expect("the allocation's directory");
    // There is no event for what does not happen: twice the time in which it would have.
    tokio::time::sleep(grace() * 2).await;
    assert!(has_container(b, &container).await);
    task.destroy(true).await.expect("DestroyTask");
}

/// The agent comes back as another one at the same place.
async fn what_an_agent_had_before_its_directory_was_wiped_goes_and_what_it_has_stays(b: &mut Bench) {
    let (old, orphan) = start(b, "before").await;
    let (base, away) = (b.rig.alloc_base(), b.rig.dir().join("wiped"));
    std::fs::rename(&base, &away).expect("the old directory goes");
    std::fs::create_dir(&base).expect("another one comes");
    b.rig.relaunch_only().await.expect("relaunch");
    let (new, container) = start(b, "after").await;
    reaped(b, &orphan).await;
    assert!(has_container(b, &container).await);
    assert_running(&new).await;
    new.destroy(true).await.expect("DestroyTask");
    forget(old).await;
    std::fs::remove_dir_all(&away).expect("the old directory");
}

/// Whole ones and half deleted ones, and only where nobody has the container.
async fn bundles_that_containerd_left_behind_go(b: &mut Bench) {
    let (task, container) = start(b, "neighbour").await;
    let bundles = b.rig.bundles();
    assert!(bundles.join(&container).is_dir());
    let gone = container.replacen("neighbour", "gone", 1);
    let names = [gone.clone(), format!(".{gone}"), format!(".half{gone}")];
    let theirs = ["theirs".to_owned(), format!(".{container}")];
    for name in names.iter().chain(&theirs) {
        std::fs::create_dir(bundles.join(name)).expect("a directory");
        std::fs::write(bundles.join(name).join("log"), "").expect("a file");
    }
    let all_gone = || (!names.iter().any(|name| bundles.join(name).exists())).then_some(());
    until(grace() * 3 + patience(), "the end of the bundles", all_gone).await;
    assert_running(&task).await;
    for name in theirs.iter().chain([&container]) {
        assert!(bundles.join(name).is_dir(), "{name}");
    }
    for name in &theirs {
        std::fs::remove_dir_all(bundles.join(name)).expect("removed");
    }
    task.destroy(true).await.expect("DestroyTask");
}

//! Many tasks on one node: none is forgotten, whatever their number. What that costs is measured by `make density`.

use crate::bench::{Bench, group, kind, patience, secs, settle, slowness};
use std::time::Duration;
use testhost::crowd::{Crowd, STUBBORN};
use testhost::fault_proxy::FaultProxy;
use testhost::procfs;
use testhost::rig::{Backend, RigOpts};
use testhost::task::TaskSpec;
use testhost::within::within;

group!(density, Bench::new(), {
    sixty_start_at_once_survive_the_plugin_and_end,
    a_recovery_of_all_asks_containerd_once,
    the_hosts_table_of_mounts_does_not_grow_with_the_tasks,
});

/// A guest takes 25 times as long to start a process.
fn count() -> usize {
    if slowness() > 1 { 10 } else { 60 }
}

/// Of the plugin at rest, however many tasks it has.
const THREADS: usize = 16;

async fn sixty_start_at_once_survive_the_plugin_and_end(b: &mut Bench) {
    let count = count();
    let mut crowd = Crowd::new().expect("readers");
    let spec = b.sh(STUBBORN);
    within(secs(120), "first lines", crowd.start(&b.rig, &spec, count))
        .await
        .expect("starts");
    assert_eq!(crowd.tasks.len(), count);
    let attendance = crowd.attend(Duration::from_secs(1)).await.expect("open calls");
    rest(b).await;
    drop(attendance);
    for is_at_once in [false, true] {
        b.rig.relaunch_only().await.expect("relaunch");
        let recovery = async {
            match is_at_once {
                false => crowd.recover_in_turn(&b.rig).await,
                true => crowd.recover_at_once(&b.rig).await,
            }
        };
        within(secs(60), "recovery", recovery).await.expect("RecoverTask");
        rest(b).await;
    }
    within(secs(120), "stops", crowd.stop(secs(2))).await.expect("StopTask");
    for task in &crowd.tasks {
        let exit = task.exit(patience()).await;
        assert_eq!((exit.signal, exit.exit_code), (9, 137), "{exit:?}");
    }
    within(secs(120), "removals", crowd.destroy(false))
        .await
        .expect("DestroyTask");
    rest(b).await;
}

/// On a bench of its own, where the calls to containerd are counted.
async fn a_recovery_of_all_asks_containerd_once(_: &mut Bench) {
    let opts = RigOpts::new(kind()).expect("CD_DRIVER_BIN");
    let backend = Backend::start(opts).await.expect("back end");
    let upstream = backend.containerd.step_aside().expect("another socket");
    let proxy = FaultProxy::start(&backend.containerd.socket(), &upstream).expect("proxy");
    let mut rig = backend.launch().await.expect("plugin");
    let image = rig.busybox().await.expect("image");
    let spec = TaskSpec::new(&image).command(["sleep", "3600"]);
    let mut crowd = Crowd::new().expect("readers");
    let count = count() / 3;
    within(secs(120), "starts", crowd.start_mute(&rig, &spec, count, count))
        .await
        .expect("starts");
    rig.relaunch_only().await.expect("relaunch");
    let before = proxy.calls();
    within(secs(60), "recovery", crowd.recover_at_once(&rig))
        .await
        .expect("RecoverTask");
    let calls = |name: &str| {
        let of = |calls: &testhost::fault_proxy::Calls| calls.get(name).copied().unwrap_or_default();
        of(&proxy.calls()) - of(&before)
    };
    // The listing of the one subscription, and a second one if the settings came after the first.
    assert!(calls("Tasks/List") <= 2, "{:?}", proxy.calls());
    assert_eq!(calls("Tasks/Get"), 0, "{:?}", proxy.calls());
    within(secs(120), "removals", crowd.destroy(true))
        .await
        .expect("DestroyTask");
}

/// What is mounted costs each later start some time, and systemd too. A task has its root all the same.
async fn the_hosts_table_of_mounts_does_not_grow_with_the_tasks(b: &mut Bench) {
    let mut crowd = Crowd::new().expect("readers");
    let spec = b.sh("echo kept > /mine; echo up; exec sleep 3600");
    let starts = crowd.start(&b.rig, &spec, 3);
    within(secs(60), "first lines", starts).await.expect("starts");
    let state = b.rig.containerd.state_dir();
    assert_eq!(procfs::mounts_below(&state), Vec::<std::path::PathBuf>::new());
    b.rig.relaunch_only().await.expect("relaunch");
    within(secs(60), "recovery", crowd.recover_in_turn(&b.rig))
        .await
        .expect("RecoverTask");
    for task in &crowd.tasks {
        let exec = task.exec(&["cat", "/mine"], patience()).await.expect("ExecTask");
        assert_eq!(String::from_utf8_lossy(&exec.stdout), "kept\n");
    }
    within(secs(60), "stops", crowd.stop(secs(1))).await.expect("StopTask");
    within(secs(60), "removals", crowd.destroy(false))
        .await
        .expect("DestroyTask");
}

/// The plugin comes to rest: threads that were made for a moment's work are gone after some seconds without any.
async fn rest(b: &Bench) {
    let pid = b.rig.plugin().pid();
    let many = || {
        let threads = procfs::threads(pid);
        (threads > THREADS)
            .then(|| format!("{threads} threads"))
            .into_iter()
            .collect()
    };
    assert_eq!(settle(secs(20), many).await, Vec::<String>::new());
}

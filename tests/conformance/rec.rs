//! Recovery: the plugin or its host has died, and a new one takes over.

use crate::bench::{Bench, assert_counted, assert_running, container_of, patience, secs, slowness};
use crate::field::{consent, group, operated};
use containerd_client::services::v1::CreateTaskRequest;
use containerd_client::services::v1::snapshots::MountsRequest;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use futures_util::future::join_all;
use std::time::{Duration, Instant};
use testhost::procfs;
use testhost::rig::RunningTask;
use testhost::wire::driver::fingerprint_response::HealthState;
use testhost::wire::driver::{RecoverTaskRequest, TaskConfig, TaskHandle, TaskState};
use testhost::within::{until, within};
use tonic::Status;

group!(rec, REC, operated(consent()),
    together {
        rec_01_a_known_task_is_recovered_and_watched_once,
    }
    alone {
        rec_02_a_running_task_keeps_its_start_time,
        rec_03_a_recovered_task_is_as_good_as_new,
        rec_04_without_task_id_and_configuration,
        rec_05_an_exit_that_nobody_saw_has_its_code,
        rec_06_what_was_never_started_is_not_called_running,
        rec_07_what_is_gone_is_an_error_at_once,
        rec_08_broken_handles_are_refused,
        rec_11_without_containerd_recovery_is_bounded_and_the_truth_comes_later,
        rec_12_an_agents_restart_touches_no_task,
    }
);

async fn recover(b: &Bench, task_id: &str, handle: Option<TaskHandle>) -> Result<(), Status> {
    let request = RecoverTaskRequest {
        task_id: task_id.to_owned(),
        handle,
    };
    within(patience(), "RecoverTask", b.rig.driver().recover_task(request))
        .await
        .map(drop)
}

fn end(task: &RunningTask) {
    std::fs::write(task.alloc.shared_dir().join("end"), "").expect("the sign to end");
}

/// Runs until its host says `end`.
const PATIENT: &str = "echo up; while ! [ -e /alloc/end ]; do sleep 0.1; done; exit 17";

async fn rec_01_a_known_task_is_recovered_and_watched_once(b: &Bench) {
    let events = b.rig.events();
    let task = b.start(b.sh(PATIENT)).await;
    task.wait_line(patience(), "up").await;
    // The stream of events is live once something has come through it.
    let marker = b.start(b.sh("true").name("marker")).await;
    let exited = |id: &str, all: &[testhost::wire::driver::DriverTaskEvent]| {
        all.iter()
            .filter(|event| event.task_id == id && event.message.contains("exited"))
            .count()
    };
    let seen = events
        .wait_for(patience(), |all| (exited(marker.id(), all) > 0).then_some(()))
        .await;
    seen.expect("the marker's exit");
    marker.destroy(false).await.expect("DestroyTask");
    for outcome in join_all((0..5).map(|_| recover(b, task.id(), Some(task.persisted_handle())))).await {
        outcome.expect("RecoverTask of a known task");
    }
    end(&task);
    assert_eq!(task.exit(patience()).await.exit_code, 17);
    let once = events
        .wait_for(patience(), |all| (exited(task.id(), all) > 0).then_some(()))
        .await;
    once.expect("the task's exit");
    // A second monitor would tell the same a moment later; a third task's exit comes after it.
    let last = b.start(b.sh("true").name("last")).await;
    let seen = events
        .wait_for(patience(), |all| (exited(last.id(), all) > 0).then_some(()))
        .await;
    seen.expect("the last exit");
    assert_eq!(exited(task.id(), &events.events()), 1);
    for task in [task, last] {
        task.destroy(false).await.expect("DestroyTask");
    }
}

async fn rec_02_a_running_task_keeps_its_start_time(b: &mut Bench) {
    let task = b.start(b.sleeper()).await;
    let (before, place) = (task.status().await.expect("InspectTask"), container_of(&task).await);
    b.rig.relaunch().await.expect("recovery");
    let after = task.status().await.expect("InspectTask");
    assert_eq!(after.state(), TaskState::Running);
    assert_eq!(
        (after.started_at, container_of(&task).await),
        (before.started_at, place)
    );
    task.destroy(true).await.expect("DestroyTask");
}

async fn rec_03_a_recovered_task_is_as_good_as_new(b: &mut Bench) {
    let script = "trap 'echo caught' USR1; trap 'exit 77' TERM; echo ready; while :; do sleep 0.1; done";
    let task = b.start(b.sh(script)).await;
    task.wait_line(patience(), "ready").await;
    let ends = b.start(b.sh(PATIENT).name("ends")).await;
    b.rig.relaunch().await.expect("recovery");
    assert!(
        tokio::time::timeout(secs(1), task.wait()).await.is_err(),
        "a running task has an exit"
    );
    task.signal("SIGUSR1").await.expect("SignalTask");
    task.wait_line(patience(), "caught").await;
    let answer = task
        .exec(&["sh", "-c", "echo out; exit 3"], patience())
        .await
        .expect("ExecTask");
    assert_eq!(
        (answer.stdout.as_slice(), answer.result.map(|r| r.exit_code)),
        (&b"out\n"[..], Some(3))
    );
    let session = task
        .exec_session(&["sh", "-c", "echo out; exit 4"], false)
        .await
        .expect("a session");
    let outcome = within(patience(), "the session", session.finish())
        .await
        .expect("no error");
    assert_eq!((outcome.stdout_text().as_str(), outcome.code()), ("out\n", 4));
    let mut stats = task.stats(Duration::from_secs(1)).await.expect("TaskStats");
    let sample = within(patience(), "a sample", stats.message()).await.expect("no error");
    assert!(sample.is_some_and(|sample| sample.stats.is_some()));
    drop(stats);
    end(&ends);
    assert_eq!(ends.exit(patience()).await.exit_code, 17);
    task.stop(Duration::from_secs(3600), "").await.expect("StopTask");
    assert_eq!(task.exit(patience()).await.exit_code, 77);
    for task in [task, ends] {
        task.destroy(false).await.expect("DestroyTask");
    }
}

async fn rec_04_without_task_id_and_configuration(b: &mut Bench) {
    let task = b.start(b.sleeper()).await;
    b.rig.relaunch_only().await.expect("relaunch");
    let handle = task.persisted_handle();
    assert!(
        handle
            .config
            .as_ref()
            .is_some_and(|config| config.msgpack_driver_config.is_empty())
    );
    recover(b, "", Some(handle)).await.expect("RecoverTask");
    assert_running(&task).await;
    task.destroy(true).await.expect("DestroyTask");
}

async fn rec_05_an_exit_that_nobody_saw_has_its_code(b: &mut Bench) {
    let (ends, dies) = (b.start(b.sh(PATIENT)).await, b.start(b.sleeper().name("dies")).await);
    let (_, pid) = container_of(&dies).await;
    b.rig.plugin().sigkill().await;
    end(&ends);
    kill(pid);
    for task in [&ends, &dies] {
        task.logs_end(patience()).await;
    }
    b.rig.relaunch().await.expect("recovery");
    assert_eq!(ends.exit(patience()).await.exit_code, 17);
    let result = dies.exit(patience()).await;
    assert_eq!((result.exit_code, result.signal, result.oom_killed), (137, 9, false));
    for task in [ends, dies] {
        assert_eq!(task.status().await.expect("InspectTask").state(), TaskState::Exited);
        task.destroy(false).await.expect("DestroyTask");
    }
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a process id")).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("SIGKILL");
}

/// The container's process is replaced by one that is created and not started, as a plugin that died within its start
/// leaves it.
async fn rec_06_what_was_never_started_is_not_called_running(b: &mut Bench) {
    let task = b.start(b.sleeper()).await;
    let (container, _) = container_of(&task).await;
    b.rig.plugin().sigkill().await;
    let (cd, ns) = (&b.rig.containerd, b.rig.namespace());
    cd.ctr(ns, &["tasks", "rm", "-f", &container])
        .await
        .expect("ctr tasks rm");
    let channel = cd.in_namespace(ns).expect("a channel");
    let mounts = MountsRequest {
        snapshotter: "overlayfs".to_owned(),
        key: container.clone(),
    };
    let rootfs = SnapshotsClient::new(channel.clone())
        .mounts(mounts)
        .await
        .expect("the snapshot's mounts");
    let create = CreateTaskRequest {
        container_id: container.clone(),
        rootfs: rootfs.into_inner().mounts,
        ..Default::default()
    };
    TasksClient::new(channel).create(create).await.expect("a created task");
    let outcomes = b.rig.relaunch_and_recover().await.expect("relaunch");
    match outcomes
        .into_iter()
        .find(|(id, _)| id == task.id())
        .expect("an outcome")
        .1
    {
        Err(error) => assert!(error.message().contains("never started"), "{error:?}"),
        // Started by the recovery: then it has a process.
        Ok(()) => assert!(procfs::alive(container_of(&task).await.1)),
    }
    task.destroy(true).await.expect("DestroyTask");
    let again = b.start(b.sleeper().id(task.id())).await;
    assert_running(&again).await;
    again.destroy(true).await.expect("DestroyTask");
}

/// As after a reboot: the host still has the handle.
async fn rec_07_what_is_gone_is_an_error_at_once(b: &mut Bench) {
    let task = b.start(b.sleeper()).await;
    let (container, _) = container_of(&task).await;
    b.rig.plugin().sigkill().await;
    let (cd, ns) = (&b.rig.containerd, b.rig.namespace());
    cd.ctr(ns, &["tasks", "rm", "-f", &container])
        .await
        .expect("ctr tasks rm");
    cd.ctr(ns, &["containers", "rm", &container])
        .await
        .expect("ctr containers rm");
    b.rig.relaunch_only().await.expect("relaunch");
    // Not the time that containerd's first answer takes.
    b.rig
        .wait_health(HealthState::Healthy, patience())
        .await
        .expect("healthy");
    let begin = Instant::now();
    let error = recover(b, "", Some(task.persisted_handle()))
        .await
        .expect_err("there is no container");
    assert!(begin.elapsed() < secs(1), "it took {:?}", begin.elapsed());
    assert!(error.message().contains("not found"), "{error:?}");
    task.destroy(true).await.expect("DestroyTask of what is gone");
    let next = b.start(b.sh("exit 8")).await;
    assert_eq!(next.exit(patience()).await.exit_code, 8);
    next.destroy(false).await.expect("DestroyTask");
}

async fn rec_08_broken_handles_are_refused(b: &mut Bench) {
    let task = b.start(b.sleeper()).await;
    b.rig.relaunch_only().await.expect("relaunch");
    let good = task.persisted_handle();
    let broken: [(&str, Option<TaskHandle>); 7] = [
        ("no handle", None),
        ("an empty handle", Some(TaskHandle::default())),
        (
            "no configuration",
            Some(TaskHandle {
                config: None,
                ..good.clone()
            }),
        ),
        (
            "no id",
            Some(TaskHandle {
                config: Some(TaskConfig::default()),
                ..good.clone()
            }),
        ),
        (
            "no state",
            Some(TaskHandle {
                driver_state: Vec::new(),
                ..good.clone()
            }),
        ),
        (
            "garbage",
            Some(TaskHandle {
                driver_state: vec![0xc1, 0xff, 0x00, 0x93],
                ..good.clone()
            }),
        ),
        (
            "a later version",
            Some(TaskHandle {
                version: good.version + 1000,
                ..good.clone()
            }),
        ),
    ];
    for (what, handle) in broken {
        let error = recover(b, "", handle)
            .await
            .err()
            .unwrap_or_else(|| panic!("{what} was recovered"));
        assert!(!error.message().is_empty(), "{what}: {error:?}");
    }
    let harmed = b.rig.plugin().wait_exit(Duration::ZERO).await;
    assert!(harmed.is_none(), "the plugin ended: {harmed:?}");
    recover(b, "", Some(good)).await.expect("the good one");
    assert_running(&task).await;
    task.destroy(true).await.expect("DestroyTask");
}

async fn rec_11_without_containerd_recovery_is_bounded_and_the_truth_comes_later(b: &mut Bench) {
    let (ends, stays) = (b.start(b.sh(PATIENT)).await, b.start(b.sleeper().name("stays")).await);
    ends.wait_line(patience(), "up").await;
    b.rig.plugin().sigkill().await;
    b.rig.containerd.stop().await;
    end(&ends);
    ends.logs_end(patience()).await;
    b.rig.relaunch_only().await.expect("relaunch");
    for task in [&ends, &stays] {
        let begin = Instant::now();
        recover(b, "", Some(task.persisted_handle()))
            .await
            .expect("taken to run on");
        assert!(begin.elapsed() < secs(12), "it took {:?}", begin.elapsed());
    }
    assert_running(&stays).await;
    b.rig.containerd.start_again().await.expect("containerd");
    b.rig
        .wait_health(HealthState::Healthy, secs(35))
        .await
        .expect("healthy");
    assert_eq!(ends.exit(patience()).await.exit_code, 17);
    assert_running(&stays).await;
    // Its process is known by now, and with it what it uses.
    let mut stats = stays.stats(Duration::from_secs(1)).await.expect("TaskStats");
    let sample = within(patience(), "a sample", stats.message())
        .await
        .expect("TaskStats");
    assert!(sample.is_some_and(|answer| answer.stats.is_some()));
    drop(stats);
    assert_eq!(b.run(b.sh("echo back")).await, (0, "back\n".to_owned()));
    ends.destroy(false).await.expect("DestroyTask");
    stays.destroy(true).await.expect("DestroyTask");
}

/// Without an agent: the plugin ends as a clean agent ends it, and the next one recovers.
async fn rec_12_an_agents_restart_touches_no_task(b: &mut Bench) {
    let pause = if slowness() > 1 { "0.5" } else { "0.05" };
    let script =
        format!("n=0; while ! [ -e /alloc/end ]; do echo line $n; n=$((n+1)); sleep {pause}; done; echo end $n");
    let task = b.start(b.sh(&script)).await;
    task.wait_line(patience(), "line 3").await;
    let place = container_of(&task).await;
    let report = b.rig.plugin().shutdown().await.expect("Driver.Shutdown");
    assert!(!report.forced, "{report:?}");
    let seen = task.lines().len();
    let more = || (task.lines().len() > seen + 3).then_some(());
    until(patience(), "lines while no plugin is there", more).await;
    b.rig.relaunch().await.expect("recovery");
    assert_eq!(container_of(&task).await, place);
    let found = b.rig.scope().take().await.expect("census");
    assert_eq!((found.containers.len(), found.tasks.len()), (1, 1), "{found:?}");
    task.wait_line(patience(), &format!("line {}", task.lines().len() + 3))
        .await;
    end(&task);
    assert_eq!(task.exit(patience()).await.exit_code, 0);
    task.logs_end(patience()).await;
    assert_counted(&task.lines(), task.id());
    task.destroy(false).await.expect("DestroyTask");
}

//! Recovery where something is missing: exits that nobody saw, tasks without a supervisor, many at once.

use crate::bench::{Bench, assert_running, container_of, group, patience, secs, slowness};
use futures_util::future::join_all;
use rustix::process::{Pid, Signal, kill_process};
use std::time::{Duration, Instant};
use testhost::procfs;
use testhost::rig::RunningTask;
use testhost::wire::driver::fingerprint_response::HealthState;
use testhost::wire::driver::{RecoverTaskRequest, TaskHandle, TaskState};
use testhost::within::within;
use tonic::Status;

group!(lost, Bench::new(), {
    an_exit_while_plugin_and_containerd_are_away_is_told_or_said_to_be_lost,
    a_container_without_its_task_is_never_said_to_run,
    a_task_of_an_earlier_boot_is_said_to_be_gone_with_it,
    what_is_left_of_a_container_is_never_said_to_run,
    a_task_that_runs_unknown_to_the_driver_is_not_destroyed_without_force,
    a_shim_that_containerd_has_forgotten_is_ended_though_its_bundle_is_gone,
    what_outlives_its_shim_is_ended_with_the_task,
    a_handle_of_another_version_is_refused_with_words,
    ended_and_running_tasks_are_recovered_all_at_once,
    stops_of_one_task_do_not_disturb_each_other,
    a_start_can_be_stopped_at_any_moment,
});

fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, Signal::KILL).expect("SIGKILL");
}

async fn recover(b: &Bench, handle: TaskHandle) -> Result<(), Status> {
    let request = RecoverTaskRequest {
        task_id: String::new(),
        handle: Some(handle),
    };
    within(patience(), "RecoverTask", b.rig.driver().recover_task(request))
        .await
        .map(drop)
}

async fn healthy(b: &Bench) {
    b.rig
        .wait_health(HealthState::Healthy, secs(35))
        .await
        .expect("healthy");
}

fn until_told(code: i32) -> String {
    format!("echo ready; while ! [ -e /alloc/end ]; do sleep 0.1; done; exit {code}")
}

fn end(task: &RunningTask) {
    std::fs::write(task.alloc.shared_dir().join("end"), "").expect("the sign to end");
}

/// A containerd that starts removes the shims of tasks that have ended, and with a shim goes the code that only it knew.
/// Whichever comes first, the answer is the truth: the code, or that it is lost, never a success that was none.
async fn an_exit_while_plugin_and_containerd_are_away_is_told_or_said_to_be_lost(b: &mut Bench) {
    let (ends, stays) = (
        b.start(b.sh(&until_told(43))).await,
        b.start(b.sh(&until_told(44))).await,
    );
    b.rig.containerd.stop().await;
    b.rig.plugin().sigkill().await;
    end(&ends);
    ends.logs_end(patience()).await;
    b.rig.containerd.start_again().await.expect("containerd");
    b.rig.relaunch().await.expect("RecoverTask");
    let answer = within(patience(), "WaitTask", ends.wait()).await.expect("WaitTask");
    let code = answer.result.expect("a result").exit_code;
    assert!(
        (code == 43 && answer.err.is_empty()) || (code == -1 && answer.err.contains("lost")),
        "{code} {:?}",
        answer.err
    );
    // The same to whoever asks later, also of the next plugin.
    b.rig.relaunch().await.expect("RecoverTask");
    let again = within(patience(), "WaitTask", ends.wait()).await.expect("WaitTask");
    assert_eq!(again.result.expect("a result").exit_code, code);
    assert_running(&stays).await;
    end(&stays);
    assert_eq!(stays.exit(patience()).await.exit_code, 44);
    ends.destroy(false).await.expect("DestroyTask");
    stays.destroy(false).await.expect("DestroyTask");
}

/// As after a reboot: processes and shims are gone, what containerd has written down is there.
async fn a_container_without_its_task_is_never_said_to_run(b: &mut Bench) {
    let task = b.start(b.sleeper()).await;
    let (container, pid) = container_of(&task).await;
    let shim = b.rig.containerd.shim_of(&container).expect("the task's shim");
    b.rig.containerd.stop().await;
    b.rig.plugin().sigkill().await;
    // The shim first: it must not see the end of its child.
    kill(shim);
    kill(pid);
    b.rig.containerd.start_again().await.expect("containerd");
    b.rig.relaunch_only().await.expect("relaunch");
    healthy(b).await;
    match recover(b, task.persisted_handle()).await {
        Ok(()) => {
            let answer = within(patience(), "WaitTask", task.wait()).await.expect("WaitTask");
            let exit = answer.result.expect("a result");
            assert!(
                exit.exit_code != 0 && answer.err.contains("lost"),
                "{exit:?} {:?}",
                answer.err
            );
            assert_eq!(task.status().await.expect("InspectTask").state(), TaskState::Exited);
        }
        Err(error) => assert!(!error.message().is_empty(), "{error:?}"),
    }
    task.destroy(true).await.expect("DestroyTask");
    assert_eq!(b.run(b.sh("echo anew")).await, (0, "anew\n".to_owned()));
}

/// The record is there and nothing else, and the machine was started after the task.
async fn a_task_of_an_earlier_boot_is_said_to_be_gone_with_it(b: &mut Bench) {
    let task = b.start(b.sleeper()).await;
    let (container, _) = container_of(&task).await;
    b.rig.plugin().sigkill().await;
    delete_task(b, &container).await;
    b.rig.relaunch_only().await.expect("relaunch");
    let mut handle = task.persisted_handle();
    let mut state: serde_json::Value = serde_json::from_slice(&handle.driver_state).expect("its state");
    // A second after the epoch: before any boot.
    state["started_at"] = 1_000_000_000_i64.into();
    handle.driver_state = serde_json::to_vec(&state).expect("its state");
    let error = recover(b, handle).await.expect_err("a task of an earlier boot");
    assert!(error.message().contains("earlier boot"), "{error:?}");
    let error = task.wait().await.expect_err("a task that was not recovered");
    assert_eq!(error.code(), tonic::Code::NotFound, "{error:?}");
    destroy_by_force(&task).await;
}

/// Ends a task without its driver. The record and the snapshot stay.
async fn delete_task(b: &Bench, container: &str) {
    let ctr = async |args: &[&str]| b.rig.containerd.ctr(b.rig.namespace(), args).await;
    ctr(&["task", "delete", "--force", container])
        .await
        .expect("ctr task delete");
}

async fn destroy_by_force(task: &RunningTask) {
    within(patience(), "DestroyTask", task.destroy(true))
        .await
        .expect("DestroyTask");
}

/// One after the other is taken away from a container: its task, its snapshot, its record. That nothing is left after the
/// destroy is counted after the case.
async fn what_is_left_of_a_container_is_never_said_to_run(b: &mut Bench) {
    let left: [(&str, bool, bool); 4] = [
        ("record and snapshot", true, true),
        ("record alone", true, false),
        ("snapshot alone", false, true),
        ("nothing", false, false),
    ];
    for (what, record, snapshot) in left {
        let task = b.start(b.sleeper().name(what.replace(' ', "-"))).await;
        let (container, _) = container_of(&task).await;
        b.rig.plugin().sigkill().await;
        delete_task(b, &container).await;
        let ctr = async |args: &[&str]| b.rig.containerd.ctr(b.rig.namespace(), args).await;
        if !record {
            ctr(&["container", "delete", "--keep-snapshot", &container])
                .await
                .expect("ctr container delete");
        }
        if !snapshot {
            match ctr(&["snapshot", "delete", &container]).await {
                // Without its record nothing holds the snapshot: containerd's collector may have been faster.
                Err(error) if !record && error.to_string().contains("does not exist") => {}
                deleted => drop(deleted.expect("ctr snapshot delete")),
            }
        }
        b.rig.relaunch_only().await.expect("relaunch");
        match (recover(b, task.persisted_handle()).await, record) {
            (Ok(()), true) => {
                let answer = within(patience(), what, task.wait()).await.expect("WaitTask");
                let exit = answer.result.expect("a result");
                assert!(
                    exit.exit_code == -1 && answer.err.contains("lost"),
                    "{what}: {exit:?} {:?}",
                    answer.err
                );
                assert_eq!(
                    task.status().await.expect("InspectTask").state(),
                    TaskState::Exited,
                    "{what}"
                );
            }
            (Err(error), false) => assert!(error.message().contains("not found"), "{what}: {error:?}"),
            (other, _) => panic!("{what}: {other:?}"),
        }
        destroy_by_force(&task).await;
    }
}

async fn a_task_that_runs_unknown_to_the_driver_is_not_destroyed_without_force(b: &mut Bench) {
    let (runs, ended) = (b.start(b.sleeper()).await, b.start(b.sh("exit 3")).await);
    assert_eq!(ended.exit(patience()).await.exit_code, 3);
    let (_, pid) = container_of(&runs).await;
    b.rig.relaunch_only().await.expect("relaunch");
    let error = within(patience(), "DestroyTask", runs.destroy(false))
        .await
        .expect_err("a running task");
    assert!(error.message().contains("cannot destroy running task"), "{error:?}");
    assert!(procfs::alive(pid), "it was killed");
    within(patience(), "DestroyTask", ended.destroy(false))
        .await
        .expect("DestroyTask of one that has ended");
    recover(b, runs.persisted_handle()).await.expect("RecoverTask");
    assert_running(&runs).await;
    // Unknown again, and by force.
    b.rig.relaunch_only().await.expect("relaunch");
    within(patience(), "DestroyTask", runs.destroy(true))
        .await
        .expect("DestroyTask by force");
    assert!(!procfs::alive(pid), "it runs on");
}

/// Without a bundle the runtime cannot write its log, and fails at all that the shim bids it.
async fn a_shim_that_containerd_has_forgotten_is_ended_though_its_bundle_is_gone(b: &mut Bench) {
    let task = b.start(b.sleeper()).await;
    let (container, pid) = container_of(&task).await;
    b.rig.plugin().sigkill().await;
    b.rig.containerd.stop().await;
    std::fs::remove_dir_all(b.rig.bundles().join(&container)).expect("the bundle");
    b.rig.containerd.start_again().await.expect("containerd");
    b.rig.relaunch_only().await.expect("relaunch");
    assert!(procfs::alive(pid) && b.rig.containerd.shim_of(&container).is_some());
    within(patience(), "DestroyTask", task.destroy(true))
        .await
        .expect("DestroyTask");
    assert!(!procfs::alive(pid) && b.rig.containerd.shim_of(&container).is_none());
    let lines = b.rig.plugin().stderr_lines();
    let told = lines
        .iter()
        .find(|line| line.contains("what containerd had forgotten was ended"));
    let told: serde_json::Value = serde_json::from_str(told.expect("a line")).expect("JSON");
    assert_eq!(told["left"], true, "it was killed: {told}");
}

/// Nobody is there to see a shim die, and containerd has not the time for all that it had, or does not know of it.
async fn what_outlives_its_shim_is_ended_with_the_task(b: &mut Bench) {
    for recovered in [true, false] {
        let task = b.start(b.sleeper()).await;
        let (container, pid) = container_of(&task).await;
        b.rig.plugin().sigkill().await;
        b.rig.containerd.stop().await;
        kill(b.rig.containerd.shim_of(&container).expect("the shim"));
        std::fs::remove_dir_all(b.rig.bundles().join(&container)).expect("the bundle");
        b.rig.containerd.start_again().await.expect("containerd");
        assert!(procfs::alive(pid), "containerd has ended it");
        b.rig.relaunch_only().await.expect("relaunch");
        if recovered {
            recover(b, task.persisted_handle()).await.expect("RecoverTask");
            let answer = within(patience(), "WaitTask", task.wait()).await.expect("WaitTask");
            assert!(answer.err.contains("no longer knows the task"), "{answer:?}");
            assert!(!procfs::alive(pid), "it is told to be lost and runs");
        }
        within(patience(), "DestroyTask", task.destroy(true))
            .await
            .expect("DestroyTask");
        assert!(!procfs::alive(pid), "it is destroyed and runs");
    }
}

async fn a_handle_of_another_version_is_refused_with_words(b: &mut Bench) {
    let task = b.start(b.sleeper()).await;
    b.rig.relaunch_only().await.expect("relaunch");
    for version in [0, 3, i32::MAX] {
        let handle = TaskHandle {
            version,
            ..task.persisted_handle()
        };
        let error = recover(b, handle).await.expect_err("another version");
        assert!(
            error.message().contains(&format!("version {version}")) && error.message().contains("reads"),
            "{error:?}"
        );
    }
    recover(b, task.persisted_handle()).await.expect("RecoverTask");
    task.destroy(true).await.expect("DestroyTask");
}

/// `CD_RECOVERED` sets how many of each.
async fn ended_and_running_tasks_are_recovered_all_at_once(b: &mut Bench) {
    let given = std::env::var("CD_RECOVERED").ok().and_then(|text| text.parse().ok());
    let of_each: usize = given.unwrap_or(if slowness() > 1 { 3 } else { 25 });
    let (mut ended, mut running) = (Vec::new(), Vec::new());
    // A few at a time, so that no start waits for its turn longer than the bench has patience.
    for begin in (0..of_each).step_by(10) {
        let batch = begin..of_each.min(begin + 10);
        let of = batch
            .clone()
            .map(|n| b.start(b.sh("exit 5").name(format!("ended-{n}"))));
        ended.extend(join_all(of).await);
        let of = batch.map(|n| b.start(b.sleeper().name(format!("running-{n}"))));
        running.extend(join_all(of).await);
    }
    for exit in join_all(ended.iter().map(|task| task.exit(patience()))).await {
        assert_eq!(exit.exit_code, 5);
    }
    b.rig.relaunch_only().await.expect("relaunch");
    healthy(b).await;
    let begin = Instant::now();
    let all = ended.iter().chain(&running);
    for outcome in join_all(all.map(|task| recover(b, task.persisted_handle()))).await {
        outcome.expect("RecoverTask");
    }
    let took = begin.elapsed();
    println!("    {} tasks recovered in {:.2} s", of_each * 2, took.as_secs_f64());
    assert!(took < secs(5), "{took:?}");
    for exit in join_all(ended.iter().map(|task| task.exit(patience()))).await {
        assert_eq!(exit.exit_code, 5);
    }
    join_all(running.iter().map(assert_running)).await;
    for batch in ended.into_iter().chain(running).collect::<Vec<_>>().chunks(10) {
        for destroyed in join_all(batch.iter().map(|task| task.destroy(true))).await {
            destroyed.expect("DestroyTask");
        }
    }
}

async fn stops_of_one_task_do_not_disturb_each_other(b: &mut Bench) {
    let task = b
        .start(b.sh("trap '' TERM; echo ready; while :; do sleep 0.1; done"))
        .await;
    task.wait_line(patience(), "ready").await;
    let begin = Instant::now();
    // The shortest grace counts; all are answered by the one end.
    let stops = [3600, 2, 3600, 30].map(|grace| task.stop(Duration::from_secs(grace), ""));
    for stopped in within(patience(), "four StopTask", join_all(stops)).await {
        stopped.expect("StopTask");
    }
    let took = begin.elapsed();
    assert!(took >= Duration::from_secs(2) && took < secs(12), "{took:?}");
    assert_eq!(task.exit(patience()).await.exit_code, 137);
    // After the end, and after the destroy.
    task.stop(Duration::ZERO, "").await.expect("StopTask after the exit");
    task.destroy(false).await.expect("DestroyTask");
    let error = task.stop(Duration::ZERO, "").await.expect_err("a task that is gone");
    assert_eq!(error.code(), tonic::Code::NotFound, "{error:?}");
}

/// Whichever is first, the task does not run in the end and nothing is left; that is counted after the case.
async fn a_start_can_be_stopped_at_any_moment(b: &mut Bench) {
    for (n, after) in [0_u64, 20, 60, 120, 200, 350].into_iter().enumerate() {
        let alloc = b.rig.alloc();
        let id = format!("{}/moment-{n}/0000000{n}", alloc.id());
        let spec = b.sleeper().name(format!("moment-{n}")).id(&id);
        let mut driver = b.rig.driver();
        let stopping = async {
            tokio::time::sleep(Duration::from_millis(after) * slowness()).await;
            let request = testhost::wire::driver::StopTaskRequest {
                task_id: id.clone(),
                timeout: None,
                signal: String::new(),
            };
            within(patience(), "StopTask", driver.stop_task(request)).await
        };
        let starting = within(patience(), "StartTask", b.rig.start_in(alloc.clone(), &spec));
        let (started, stopped) = tokio::join!(starting, stopping);
        match (started, stopped) {
            (Ok(task), Ok(_)) => {
                let exit = task.exit(patience()).await;
                assert_eq!(exit.exit_code, 137, "stopped {after} ms after the start");
                task.destroy(false).await.expect("DestroyTask");
            }
            // Asked before the driver knew the task.
            (Ok(task), Err(error)) => {
                assert_eq!(error.code(), tonic::Code::NotFound, "{error:?}");
                task.destroy(true).await.expect("DestroyTask");
            }
            (Err(error), Ok(_)) => {
                assert!(error.message().contains("stopped before it was started"), "{error:?}");
            }
            (Err(start), Err(stop)) => panic!("{start:?} {stop:?}"),
        }
    }
}

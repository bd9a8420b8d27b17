//! containerd goes away and comes back while tasks run.

use crate::bench::{Bench, assert_running, group, patience, secs, slowness};
use futures_util::future::join_all;
use std::time::Duration;
use testhost::rig::RunningTask;
use testhost::status::recoverable;
use testhost::wire::driver::fingerprint_response::HealthState;
use testhost::within::within;
use tokio::time::timeout;

group!(outage, Bench::new(), {
    tasks_outlive_a_containerd_that_stops_and_starts,
    tasks_outlive_a_containerd_that_hangs_for_twenty_seconds,
    what_cannot_be_removed_meanwhile_is_removed_afterwards,
    a_start_waits_for_a_containerd_that_restarts,
    a_start_does_not_wait_for_ever,
});

async fn tasks(b: &Bench) -> Vec<RunningTask> {
    let script = |code: usize| {
        format!("trap 'exit {code}' TERM; echo up; while ! [ -e /alloc/end ]; do sleep 0.1; done; exit {code}")
    };
    let tasks: Vec<_> = join_all((0..4).map(|n| b.start(b.sh(&script(60 + n)).name(format!("outage-{n}"))))).await;
    for task in &tasks {
        task.wait_line(patience(), "up").await;
    }
    tasks
}

/// What is promised whatever the outage is. It lasts at least as long as `least`.
async fn endure(b: &Bench, tasks: &[RunningTask], least: Duration) {
    let begin = tokio::time::Instant::now();
    // Two end meanwhile.
    for task in &tasks[..2] {
        std::fs::write(task.alloc.shared_dir().join("end"), "").expect("the sign to end");
        task.logs_end(patience()).await;
    }
    let unhealthy = b
        .rig
        .wait_health(HealthState::Unhealthy, Duration::from_secs(35))
        .await
        .expect("unhealthy");
    assert!(!unhealthy.health_description.is_empty());
    let error = within(secs(60), "StartTask without containerd", b.rig.start(b.sh("true")))
        .await
        .err()
        .expect("no containerd");
    assert_eq!(recoverable(&error), Some(true), "{error:?}");
    assert!(error.message().contains("containerd"), "{error:?}");
    tokio::time::sleep_until(begin + least).await;
    // Whoever is told of an exit meanwhile is told the real one, and nobody is told of an exit that was none.
    for (n, task) in tasks.iter().enumerate() {
        match timeout(Duration::from_millis(300), task.wait()).await {
            Ok(answer) => assert!(
                n < 2
                    && answer
                        .as_ref()
                        .is_ok_and(|a| a.result.is_some_and(|r| r.exit_code == 60 + n as i32)),
                "{answer:?}"
            ),
            Err(_) => assert_running(task).await,
        }
    }
}

async fn afterwards(b: &Bench, tasks: &[RunningTask]) {
    b.rig
        .wait_health(HealthState::Healthy, secs(35))
        .await
        .expect("healthy");
    for (n, task) in tasks[..2].iter().enumerate() {
        let answer = within(patience(), "an exit of the outage", task.wait())
            .await
            .expect("WaitTask");
        assert_eq!(
            (answer.result.map(|r| r.exit_code), answer.err.as_str()),
            (Some(60 + n as i32), ""),
            "task {n}"
        );
    }
    for (n, task) in tasks.iter().enumerate().skip(2) {
        assert_running(task).await;
        within(patience(), "StopTask", task.stop(Duration::from_secs(3600), ""))
            .await
            .expect("StopTask");
        assert_eq!(task.exit(patience()).await.exit_code, 60 + n as i32, "task {n}");
    }
    assert_eq!(b.run(b.sh("echo back")).await, (0, "back\n".to_owned()));
    for task in tasks {
        task.destroy(false).await.expect("DestroyTask");
    }
}

async fn tasks_outlive_a_containerd_that_stops_and_starts(b: &mut Bench) {
    let tasks = tasks(b).await;
    b.rig
        .wait_health(HealthState::Healthy, patience())
        .await
        .expect("healthy");
    b.rig.containerd.stop().await;
    endure(b, &tasks, Duration::ZERO).await;
    b.rig.containerd.start_again().await.expect("containerd");
    afterwards(b, &tasks).await;
}

async fn tasks_outlive_a_containerd_that_hangs_for_twenty_seconds(b: &mut Bench) {
    let tasks = tasks(b).await;
    b.rig
        .wait_health(HealthState::Healthy, patience())
        .await
        .expect("healthy");
    b.rig.containerd.sigstop();
    endure(b, &tasks, Duration::from_secs(20)).await;
    b.rig.containerd.sigcont();
    afterwards(b, &tasks).await;
}

/// Nomad asks once and ignores the answer. That nothing is left is counted after every case.
async fn what_cannot_be_removed_meanwhile_is_removed_afterwards(b: &mut Bench) {
    let script = "while ! [ -e /alloc/end ]; do sleep 0.1; done";
    let (ended, lives) = tokio::join!(b.start(b.sh(script)), b.start(b.sleeper()));
    b.rig.containerd.stop().await;
    std::fs::write(ended.alloc.shared_dir().join("end"), "").expect("the sign to end");
    for task in [&ended, &lives] {
        let error = within(secs(60), "DestroyTask without containerd", task.destroy(true))
            .await
            .expect_err("no containerd");
        assert!(error.message().contains("removing container"), "{error:?}");
    }
    b.rig.containerd.start_again().await.expect("containerd");
    b.rig
        .wait_health(HealthState::Healthy, secs(35))
        .await
        .expect("healthy");
}

/// At moments before a start and all over it, whether containerd is stopped or killed. Whoever is started runs once, and its
/// collector, which reads until the first end of the pipe, has all of its output.
async fn a_start_waits_for_a_containerd_that_restarts(b: &mut Bench) {
    let script = "trap 'exit 61' TERM; echo up; while :; do sleep 0.1; done";
    for (n, after) in [0_u64, 15, 40, 70, 110, 160, 220, 300].into_iter().enumerate() {
        for killed in [true, false] {
            let starts = (0..3).map(|k| {
                let spec = b.sh(script).name(format!("moment-{n}-{k}"));
                within(patience(), "StartTask", b.rig.start(spec))
            });
            let restart = async {
                tokio::time::sleep(Duration::from_millis(after) * slowness()).await;
                match killed {
                    true => b.rig.containerd.kill().await,
                    false => b.rig.containerd.stop().await,
                }
                tokio::time::sleep(Duration::from_millis(1500)).await;
                b.rig.containerd.start_again().await.expect("containerd");
            };
            let (started, ()) = tokio::join!(join_all(starts), restart);
            for outcome in started {
                let task = outcome.unwrap_or_else(|error| panic!("{after} ms, killed {killed}: {error:?}"));
                task.wait_line(patience(), "up").await;
                within(patience(), "StopTask", task.stop(Duration::from_secs(3600), ""))
                    .await
                    .expect("StopTask");
                assert_eq!(task.exit(patience()).await.exit_code, 61, "{after} ms, killed {killed}");
                task.logs_end(patience()).await;
                assert_eq!(task.lines(), ["up"], "{after} ms, killed {killed}");
                task.destroy(false).await.expect("DestroyTask");
            }
        }
    }
    b.rig
        .wait_health(HealthState::Healthy, secs(35))
        .await
        .expect("healthy");
}

async fn a_start_does_not_wait_for_ever(b: &mut Bench) {
    b.rig.containerd.stop().await;
    let begun = tokio::time::Instant::now();
    let start = within(secs(30), "StartTask", b.rig.start(b.sh("true"))).await;
    let took = begun.elapsed();
    b.rig.containerd.start_again().await.expect("containerd");
    let error = start.err().expect("no containerd");
    assert_eq!(recoverable(&error), Some(true), "{error:?}");
    assert!(error.message().contains("containerd cannot be reached"), "{error:?}");
    assert!(took >= Duration::from_secs(9), "{took:?}");
    b.rig
        .wait_health(HealthState::Healthy, secs(35))
        .await
        .expect("healthy");
}

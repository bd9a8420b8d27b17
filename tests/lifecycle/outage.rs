//! containerd goes away and comes back while tasks run.

use crate::bench::{Bench, assert_running, group, patience, secs};
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
    // No signal was sent, so no grace runs out: who asks again finds the task running and stops it by its signal.
    let grace = Duration::from_millis(100);
    let error = within(patience(), "StopTask without containerd", tasks[2].stop(grace, ""))
        .await
        .expect_err("no containerd");
    assert!(error.message().contains("containerd"), "{error:?}");
    tokio::time::sleep(grace * 3).await;
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

//! The plugin dies without goodbye; a new one takes over.

use crate::bench::{Bench, assert_counted, assert_running, container_of, group, patience, secs, slowness};
use containerd_client::events::TaskExit;
use containerd_client::services::v1::PublishRequest;
use containerd_client::services::v1::events_client::EventsClient;
use futures_util::future::join_all;
use prost::Message as _;
use prost_types::Timestamp;
use std::time::Duration;
use testhost::rig::RunningTask;
use testhost::wire::driver::fingerprint_response::HealthState;
use testhost::wire::driver::{RecoverTaskRequest, TaskConfig, TaskHandle, TaskState};
use testhost::within::within;

group!(recovery, Bench::new(), {
    ten_tasks_survive_sigkill_with_every_line_and_every_code,
    a_recovered_task_is_as_good_as_a_new_one,
    an_exit_that_is_told_of_an_earlier_attempt_is_not_the_tasks,
    what_cannot_be_recovered_is_an_error_and_harms_nothing,
    a_task_whose_id_is_not_nomads_keeps_its_name_and_allocation,
    a_task_of_another_namespace_of_containerd_does_not_run_twice,
    an_earlier_life_that_nobody_recovered_ends_before_the_next_one_begins,
});

/// How long a wait is given in which no exit may come: longer than the driver holds one back.
const MOMENT: Duration = Duration::from_secs(1);

/// Prints numbered lines until its host says `end`, then their number, and exits with a code of its own.
fn script(code: usize) -> String {
    let pause = if slowness() > 1 { "0.5" } else { "0.05" };
    format!(
        "n=0; while ! [ -e /alloc/end ]; do echo line $n; n=$((n+1)); sleep {pause}; done; echo end $n; exit {code}"
    )
}

fn end(task: &RunningTask) {
    std::fs::write(task.alloc.shared_dir().join("end"), "").expect("the sign to end");
}

/// Every line once and in order, with none missing at the end.
fn assert_complete(task: &RunningTask) {
    assert_counted(&task.lines(), task.id());
}

/// What containerd publishes of a process with this number.
async fn publish_exit(b: &Bench, container: &str, pid: u32, code: u32) {
    let exit = TaskExit {
        container_id: container.to_owned(),
        id: container.to_owned(),
        pid,
        exit_status: code,
        exited_at: None,
    };
    let request = PublishRequest {
        topic: "/tasks/exit".to_owned(),
        event: Some(prost_types::Any {
            type_url: "containerd.events.TaskExit".to_owned(),
            value: exit.encode_to_vec(),
        }),
    };
    let channel = b.rig.containerd.in_namespace(b.rig.namespace()).expect("a channel");
    EventsClient::new(channel).publish(request).await.expect("published");
}

/// containerd tells of a killed process, 1.6 without its number, whenever it takes down what is left of a shim: also of one that an
/// interrupted start of the same container had.
async fn an_exit_that_is_told_of_an_earlier_attempt_is_not_the_tasks(b: &mut Bench) {
    let task = b
        .start(b.sh("trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done"))
        .await;
    task.wait_line(patience(), "ready").await;
    let (container, _) = container_of(&task).await;
    let others = [(0, 137), (1, 137), (1, 3)];
    for (pid, code) in others {
        publish_exit(b, &container, pid, code).await;
    }
    let told = tokio::time::timeout(MOMENT, task.wait()).await;
    assert!(told.is_err(), "{told:?}");
    assert_running(&task).await;
    b.rig.relaunch_only().await.expect("relaunch");
    b.rig
        .wait_health(HealthState::Healthy, secs(35))
        .await
        .expect("healthy");
    for (pid, code) in others {
        publish_exit(b, &container, pid, code).await;
    }
    let request = RecoverTaskRequest {
        task_id: String::new(),
        handle: Some(task.persisted_handle()),
    };
    b.rig.driver().recover_task(request).await.expect("RecoverTask");
    let told = tokio::time::timeout(MOMENT, task.wait()).await;
    assert!(told.is_err(), "{told:?}");
    assert_running(&task).await;
    task.stop(secs(5), "").await.expect("StopTask");
    assert_eq!(task.exit(patience()).await.exit_code, 7);
    task.destroy(false).await.expect("DestroyTask");
}

async fn started_at(task: &RunningTask) -> Option<Timestamp> {
    task.status().await.expect("InspectTask").started_at
}

async fn ten_tasks_survive_sigkill_with_every_line_and_every_code(b: &mut Bench) {
    let specs = (0..10).map(|n| b.sh(&script(50 + n)).name(format!("survivor-{n}")));
    let tasks: Vec<RunningTask> = join_all(specs.map(|spec| b.start(spec))).await;
    for task in &tasks {
        task.wait_line(patience(), "line 1").await;
    }
    let times = join_all(tasks.iter().map(started_at)).await;
    let killed = std::time::Instant::now();
    b.rig.plugin().sigkill().await;
    let eof = within(secs(3), "EOF on the plugin's pipes", b.rig.plugin().pipes_eof()).await;
    assert!(eof - killed < secs(2), "a descendant holds the plugin's pipes");
    // Three end while nobody looks, three while the new plugin starts, four when it is there.
    tasks[..3].iter().for_each(end);
    join_all(tasks[..3].iter().map(|task| task.logs_end(patience()))).await;
    b.rig.relaunch_only().await.expect("relaunch");
    tasks[3..6].iter().for_each(end);
    for task in &tasks {
        // As after the restart of a host: without the id and the driver's own configuration.
        let request = RecoverTaskRequest {
            task_id: String::new(),
            handle: Some(task.persisted_handle()),
        };
        within(patience(), "RecoverTask", b.rig.driver().recover_task(request))
            .await
            .expect("RecoverTask");
    }
    for task in &tasks[6..] {
        assert_running(task).await;
    }
    tasks[6..].iter().for_each(end);
    for (n, task) in tasks.iter().enumerate() {
        assert_eq!(task.exit(patience()).await.exit_code, 50 + n as i32, "task {n}");
        task.logs_end(patience()).await;
        assert_complete(task);
        let status = task.status().await.expect("InspectTask");
        assert_eq!(
            (status.state(), status.started_at),
            (TaskState::Exited, times[n]),
            "task {n}"
        );
    }
    for destroyed in join_all(tasks.iter().map(|task| task.destroy(false))).await {
        destroyed.expect("DestroyTask");
    }
}

async fn a_recovered_task_is_as_good_as_a_new_one(b: &mut Bench) {
    let task = b
        .start(b.sh("trap 'echo caught' USR1; trap 'exit 77' TERM; echo ready; while :; do sleep 0.1; done"))
        .await;
    task.wait_line(patience(), "ready").await;
    b.rig.relaunch().await.expect("relaunch");
    assert_running(&task).await;
    // Again, and at once by several: one task, one supervisor.
    let again = || async {
        let request = RecoverTaskRequest {
            task_id: String::new(),
            handle: Some(task.persisted_handle()),
        };
        b.rig.driver().recover_task(request).await
    };
    for outcome in join_all((0..5).map(|_| again())).await {
        outcome.expect("RecoverTask of a known task");
    }
    task.signal("SIGUSR1").await.expect("SignalTask");
    task.wait_line(patience(), "caught").await;
    assert!(
        tokio::time::timeout(Duration::from_millis(500), task.wait())
            .await
            .is_err(),
        "a running task has an exit"
    );
    let error = task.destroy(false).await.expect_err("a running task");
    assert!(error.message().contains("cannot destroy running task"), "{error:?}");
    task.stop(Duration::from_secs(3600), "").await.expect("StopTask");
    assert_eq!(task.exit(patience()).await.exit_code, 77);
    // An exit seen by one plugin is told by the next.
    b.rig.relaunch().await.expect("relaunch");
    assert_eq!(task.exit(patience()).await.exit_code, 77);
    task.destroy(false).await.expect("DestroyTask");
}

async fn a_task_whose_id_is_not_nomads_keeps_its_name_and_allocation(b: &mut Bench) {
    let task = b.start(b.sleeper().name("plain").id(testhost::alloc::uuid())).await;
    let about = |status: testhost::wire::driver::TaskStatus| (status.id, status.name);
    let before = about(task.status().await.expect("InspectTask"));
    assert_eq!(before.1, "plain");
    b.rig.relaunch().await.expect("RecoverTask");
    assert_eq!(about(task.status().await.expect("InspectTask")), before);
    let events = b.rig.events();
    task.stop(Duration::ZERO, "").await.expect("StopTask");
    let mine = |event: &testhost::wire::driver::DriverTaskEvent| {
        event.task_id == task.id() && event.message.contains("exited")
    };
    let told = events
        .wait_for(secs(10), |all| all.iter().find(|event| mine(event)).cloned())
        .await;
    let told = told.expect("an event of its exit");
    assert_eq!(
        (told.alloc_id.as_str(), told.task_name.as_str()),
        (task.alloc.id(), "plain")
    );
    task.destroy(false).await.expect("DestroyTask");
}

/// The operator has changed `containerd_namespace`: the host starts the task anew, so that the old one has to go.
async fn a_task_of_another_namespace_of_containerd_does_not_run_twice(b: &mut Bench) {
    let task = b.start(b.sleeper()).await;
    let (container, _) = container_of(&task).await;
    b.rig.relaunch_only().await.expect("relaunch");
    let mut config = b.rig.config().clone();
    config["containerd_namespace"] = "elsewhere".into();
    b.rig.plugin().configure(&config).await.expect("SetConfig");
    let request = RecoverTaskRequest {
        task_id: String::new(),
        handle: Some(task.persisted_handle()),
    };
    let refused = within(patience(), "RecoverTask", b.rig.driver().recover_task(request)).await;
    let words = refused.expect_err("a task of another namespace").message().to_owned();
    assert!(
        words.contains("containerd_namespace") && words.contains("elsewhere"),
        "{words}"
    );
    let left = b.rig.scope().take().await.expect("census");
    assert!(
        !left.containers.contains(&container) && !left.tasks.contains(&container),
        "{container} is left"
    );
    task.destroy(true).await.expect("DestroyTask of what is gone");
    b.rig.plugin().configure(b.rig.config()).await.expect("SetConfig");
}

async fn what_cannot_be_recovered_is_an_error_and_harms_nothing(b: &mut Bench) {
    let task = b.start(b.sleeper()).await;
    b.rig.relaunch_only().await.expect("relaunch");
    let good = task.persisted_handle();
    let gone = {
        let id = format!("{}/web/deadbeef", testhost::alloc::uuid());
        let state = String::from_utf8_lossy(&good.driver_state)
            .replace(task.id(), &id)
            .into_bytes();
        TaskHandle {
            config: Some(TaskConfig {
                id,
                ..good.config.clone().unwrap_or_default()
            }),
            driver_state: state,
            ..good.clone()
        }
    };
    let bad: [(&str, Option<TaskHandle>); 8] = [
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
            "half a state",
            Some(TaskHandle {
                driver_state: good.driver_state[..good.driver_state.len() / 2].to_vec(),
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
        ("a container that is gone", Some(gone)),
    ];
    for (what, handle) in bad {
        let request = RecoverTaskRequest {
            task_id: String::new(),
            handle,
        };
        let error = within(patience(), what, b.rig.driver().recover_task(request))
            .await
            .err()
            .unwrap_or_else(|| panic!("{what} was recovered"));
        assert!(!error.message().is_empty(), "{what}: {error:?}");
    }
    let request = RecoverTaskRequest {
        task_id: String::new(),
        handle: Some(good),
    };
    b.rig.driver().recover_task(request).await.expect("RecoverTask");
    assert_running(&task).await;
    task.destroy(true).await.expect("DestroyTask");
}

/// A plugin that dies again before it has answered: the host takes the task for lost, cannot destroy it either, and starts it
/// anew under another id, with the collectors that it has.
async fn an_earlier_life_that_nobody_recovered_ends_before_the_next_one_begins(b: &mut Bench) {
    let life = |word: &str| b.sh(&format!("echo {word}; exec sleep 1000")).name("again");
    let first = b.start(life("first")).await;
    first.wait_line(patience(), "first").await;
    // Another task of the same allocation, and one of the same name elsewhere, which are nobody's earlier life.
    let beside = life("beside").name("beside");
    let beside = b.rig.start_in(first.alloc.clone(), &beside).await.expect("StartTask");
    let elsewhere = b.start(life("elsewhere")).await;
    let next = life("second").compose(&first.alloc, b.rig.schema()).expect("a task");
    b.rig.relaunch_only().await.expect("relaunch");
    let second = b
        .rig
        .start_raw(next, first.alloc.clone(), None)
        .await
        .expect("StartTask");
    first.wait_line(patience(), "second").await;
    let census = b.rig.scope().take().await.expect("census");
    let of = |task: &RunningTask| {
        let life = task.id().rsplit('/').next().unwrap_or_default().to_owned();
        census.containers.iter().filter(|id| id.ends_with(&life)).count()
    };
    assert_eq!(
        [&first, &second, &beside, &elsewhere].map(of),
        [0, 1, 1, 1],
        "{census:?}"
    );
    for task in [&second, &beside, &elsewhere] {
        task.destroy(true).await.expect("DestroyTask");
    }
}

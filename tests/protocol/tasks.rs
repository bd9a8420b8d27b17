//! The contract while tasks run: they outlive every end of the plugin, and no call waits for another.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use testhost::plugin::Plugin;
use testhost::rig::{EventLog, Rig, RunningTask};
use testhost::task::TaskSpec;
use testhost::wire::driver::{TaskState, TaskStatsRequest, WaitTaskRequest};
use testhost::within::within;
use tonic::Code;

use crate::{SECOND, SOON, bin, rig};

pub const TICKER: &str = "trap 'exit 5' TERM; n=0; while :; do n=$((n+1)); echo tick $n; sleep 0.2; done";

pub async fn ticker(rig: &Rig) -> RunningTask {
    let image = rig.busybox().await.expect("image");
    let task = rig.start(TaskSpec::new(image).sh(TICKER)).await.expect("StartTask");
    task.wait_line(SOON, "tick 1").await;
    task
}

/// The same process of the task prints on.
pub async fn still_ticks(rig: &Rig, task: &RunningTask, shims: &[u32], what: &str) {
    assert_eq!(rig.containerd.shims(), shims, "{what}");
    let seen = task.lines().len();
    let more = task
        .logs()
        .stdout
        .wait_for(SOON, |text| (text.lines().count() > seen + 2).then_some(()))
        .await;
    assert!(more.is_some(), "the task is silent after {what}");
    for (n, line) in task.lines().iter().enumerate() {
        assert_eq!(*line, format!("tick {}", n + 1), "after {what}");
    }
}

pub async fn end(rig: &Rig, task: &RunningTask) {
    task.stop(Duration::from_secs(5), "").await.expect("StopTask");
    assert_eq!(task.exit(SOON).await.exit_code, 5);
    task.destroy(true).await.expect("DestroyTask");
    let leaks = rig.scope().leaks(&Default::default(), SOON).await.expect("census");
    assert!(leaks.is_empty(), "{leaks:?}");
}

#[tokio::test]
async fn tasks_outlive_every_way_the_plugin_can_end() {
    let mut rig = rig().await;
    let task = ticker(&rig).await;
    let shims = rig.containerd.shims();
    assert_eq!(shims.len(), 1);

    let report = rig.plugin().shutdown().await.expect("Driver.Shutdown");
    assert!(
        !report.forced && !report.socket_left && report.status.is_some_and(|s| s.success()),
        "{report:?}"
    );
    rig.plugin().pipes_eof().await;
    still_ticks(&rig, &task, &shims, "Driver.Shutdown").await;
    rig.relaunch().await.expect("recovery");

    let report = rig.plugin().kill_sequence().await;
    assert!(
        !report.forced && !report.socket_left && report.took < SECOND,
        "{report:?}"
    );
    still_ticks(&rig, &task, &shims, "GRPCController.Shutdown").await;
    rig.relaunch().await.expect("recovery");

    rig.plugin().signal(Signal::INT);
    still_ticks(&rig, &task, &shims, "SIGINT").await;
    rig.plugin().info().await.expect("SIGINT is ignored");
    rig.plugin().signal(Signal::TERM);
    rig.plugin().wait_exit(SOON).await.expect("gone after SIGTERM");
    still_ticks(&rig, &task, &shims, "SIGTERM").await;
    rig.relaunch().await.expect("recovery");

    let killed = Instant::now();
    rig.plugin().sigkill().await.expect("dead");
    let eof = within(
        SECOND,
        "EOF on both pipes: a descendant holds them",
        rig.plugin().pipes_eof(),
    )
    .await;
    assert!(eof.duration_since(killed) < SECOND);
    still_ticks(&rig, &task, &shims, "SIGKILL").await;
    rig.relaunch().await.expect("recovery");
    assert_eq!(task.status().await.expect("InspectTask").state(), TaskState::Running);
    end(&rig, &task).await;
}

#[tokio::test]
async fn a_reattached_agent_finds_its_tasks_without_set_config() {
    let mut rig = rig().await;
    let task = ticker(&rig).await;
    let (pid, shims) = (rig.plugin().pid(), rig.containerd.shims());
    for round in 0..2 {
        rig.reattach().await.expect("re-attach");
        assert_eq!(rig.plugin().pid(), pid);
        assert_eq!(task.status().await.expect("InspectTask").state(), TaskState::Running);
        // The new agent does not know that this process has the task already.
        let request = testhost::wire::driver::RecoverTaskRequest {
            task_id: String::new(),
            handle: Some(task.persisted_handle()),
        };
        rig.driver()
            .recover_task(request)
            .await
            .unwrap_or_else(|e| panic!("round {round}: {e:?}"));
    }
    still_ticks(&rig, &task, &shims, "a re-attach").await;
    let image = rig.busybox().await.expect("image");
    let other = rig
        .start(TaskSpec::new(image).name("other").sh("exit 3"))
        .await
        .expect("StartTask after a re-attach");
    assert_eq!(other.exit(SOON).await.exit_code, 3);
    other.destroy(true).await.expect("DestroyTask");

    let events = rig.events();
    // The stream is open when the first event arrives: a signal makes none, so the stop is given a moment.
    tokio::time::sleep(Duration::from_millis(300)).await;
    task.stop(Duration::from_secs(5), "").await.expect("StopTask");
    tokio::time::sleep(SECOND).await;
    let exits = events
        .events()
        .iter()
        .filter(|event| event.message.to_lowercase().contains("exit"))
        .count();
    assert!(exits <= 1, "one exit, several monitors: {:?}", texts(&events));
    end(&rig, &task).await;
}

fn texts(events: &EventLog) -> Vec<String> {
    events.events().into_iter().map(|event| event.message).collect()
}

#[tokio::test]
async fn five_hundred_waits_hold_nobody_up_and_all_end() {
    let rig = rig().await;
    let task = ticker(&rig).await;
    let mut waits = tokio::task::JoinSet::new();
    for _ in 0..500 {
        let (mut driver, task_id) = (rig.driver(), task.id().to_owned());
        waits.spawn(async move { driver.wait_task(WaitTaskRequest { task_id }).await });
    }
    tokio::time::sleep(SECOND).await;
    assert!(waits.try_join_next().is_none(), "a wait has ended while the task runs");
    within(SECOND, "PluginInfo beside 500 waits", rig.plugin().info())
        .await
        .expect("PluginInfo");
    within(SECOND, "InspectTask beside 500 waits", task.status())
        .await
        .expect("InspectTask");
    // A wait that the host cancels disturbs no other.
    drop(tokio::time::timeout(Duration::from_millis(100), task.wait()).await);
    task.stop(Duration::from_secs(5), "").await.expect("StopTask");
    let mut codes = Vec::new();
    while let Some(answer) = within(SOON, "the end of all waits", waits.join_next()).await {
        codes.push(
            answer
                .expect("joined")
                .expect("WaitTask")
                .into_inner()
                .result
                .expect("a result")
                .exit_code,
        );
    }
    assert_eq!(codes, [5; 500]);
    end(&rig, &task).await;
}

#[tokio::test]
async fn commands_run_in_a_task_and_have_their_own_code() {
    let rig = rig().await;
    let task = ticker(&rig).await;
    let answer = within(SOON, "ExecTask", task.exec(&["sh", "-c", "echo out; exit 3"], SOON))
        .await
        .expect("ExecTask");
    assert_eq!(
        (answer.stdout.as_slice(), answer.result.map(|r| r.exit_code)),
        (&b"out\n"[..], Some(3))
    );
    let session = task
        .exec_session(&["sh", "-c", "read x; echo $x; exit 4"], false)
        .await
        .expect("a session");
    session.stdin("in\n").await;
    let outcome = within(SOON, "the session", session.finish()).await.expect("no error");
    assert_eq!((outcome.stdout_text().as_str(), outcome.code()), ("in\n", 4));
    end(&rig, &task).await;
}

#[tokio::test]
async fn statistics_come_without_an_error() {
    let rig = rig().await;
    let task = ticker(&rig).await;
    // Samples come, and no error: it would be logged and asked again each second.
    let (mut driver, task_id) = (rig.driver(), task.id().to_owned());
    let stats = tokio::spawn(async move {
        let mut stream = driver
            .task_stats(TaskStatsRequest {
                task_id,
                collection_interval: None,
            })
            .await?
            .into_inner();
        let mut samples = 0;
        while stream.message().await?.is_some() {
            samples += 1;
        }
        Ok::<_, tonic::Status>(samples)
    });
    tokio::time::sleep(SECOND * 2).await;
    assert!(!stats.is_finished());
    task.stop(Duration::from_secs(5), "").await.expect("StopTask");
    let ended = within(SOON, "the end of the statistics", stats)
        .await
        .expect("joined")
        .expect("no error");
    assert!(ended > 0, "{ended} samples");
    end(&rig, &task).await;
    let request = TaskStatsRequest {
        task_id: task.id().to_owned(),
        collection_interval: None,
    };
    let status = rig.driver().task_stats(request).await.expect_err("a destroyed task");
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
}

#[tokio::test]
async fn a_second_copy_of_the_binary_disturbs_no_task() {
    let rig = rig().await;
    let task = ticker(&rig).await;
    let shims = rig.containerd.shims();
    let second = Plugin::launch(
        &bin(),
        testhost::plugin::LaunchOpts::default().env("TMPDIR", rig.dir().join("tmp")),
    )
    .await
    .expect("launch");
    second.configure(rig.config()).await.expect("SetConfig");
    second.init().await.expect("Init");
    let mut driver = second.driver();
    let health = async {
        driver
            .fingerprint(testhost::wire::driver::FingerprintRequest {})
            .await
            .expect("Fingerprint")
            .into_inner()
            .message()
            .await
    };
    within(SECOND, "a fingerprint", health).await.expect("Fingerprint");
    tokio::time::sleep(SECOND).await;
    second.shutdown().await.expect("Driver.Shutdown");
    still_ticks(&rig, &task, &shims, "a second copy").await;
    end(&rig, &task).await;
}

#[tokio::test]
async fn a_lost_connection_leaves_tasks_known() {
    let rig = rig().await;
    let task = ticker(&rig).await;
    drop(rig.plugin().connect().await.expect("connection"));
    tokio::time::sleep(SECOND * 2).await;
    let later = rig.plugin().connect().await.expect("connection");
    let request = testhost::wire::driver::InspectTaskRequest {
        task_id: task.id().to_owned(),
    };
    let found = later
        .driver()
        .inspect_task(request)
        .await
        .expect("InspectTask")
        .into_inner()
        .task
        .expect("a task");
    assert_eq!((found.id.as_str(), found.state()), (task.id(), TaskState::Running));
    end(&rig, &task).await;
}

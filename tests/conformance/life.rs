//! Start, inspect, wait.

use crate::bench::{Bench, assert_running, container_of, patience, secs};
use crate::field::{consent, group, operated};
use crate::inside::{
    life_15_the_working_directory_is_used_and_made, life_16_entrypoint_command_and_args_combine,
    life_17_variables_are_those_of_the_job,
};
use futures_util::future::join_all;
use serde_json::json;
use std::time::{Duration, Instant, SystemTime};
use testhost::alloc::uuid;
use testhost::image::ImageConfig;
use testhost::task::TaskSpec;
use testhost::wire::driver::TaskState;
use testhost::within::within;
use tokio::time::timeout;

group!(life, LIFE, operated(consent()),
    together {
        life_01_wait_does_not_answer_while_the_task_runs,
        life_02_a_task_that_prints_and_ends_is_a_success,
        life_03_the_handle_is_complete,
        life_04_inspect_tells_running_then_exited_with_its_result,
        life_05_exit_codes_are_the_tasks_own,
        life_06_a_signal_is_128_and_its_number,
        life_07_all_who_wait_are_answered_alike,
        life_08_a_cancelled_wait_disturbs_nobody,
        life_09_an_id_is_started_once,
        life_10_ids_of_every_form,
        life_11_equal_odd_and_long_names,
        life_12_one_tag_with_three_images_in_turn,
        life_15_the_working_directory_is_used_and_made,
        life_16_entrypoint_command_and_args_combine,
        life_17_variables_are_those_of_the_job,
    }
    alone {
        life_13_a_leftover_container_is_not_in_the_way,
        life_14_a_command_that_does_not_exist_leaves_nothing,
        life_18_a_start_cut_off_by_its_caller_is_in_nobodys_way,
    }
);

async fn life_01_wait_does_not_answer_while_the_task_runs(b: &Bench) {
    let task = b.start(b.sleeper()).await;
    let answer = timeout(Duration::from_secs(10), task.wait()).await;
    assert!(answer.is_err(), "WaitTask of a running task: {answer:?}");
    assert_running(&task).await;
    task.destroy(true).await.expect("DestroyTask");
}

async fn life_02_a_task_that_prints_and_ends_is_a_success(b: &Bench) {
    let task = b.start(b.sh("echo hello")).await;
    let answer = within(secs(5), "the exit", task.wait()).await.expect("WaitTask");
    assert_eq!(answer.err, "");
    let result = answer.result.expect("a result");
    assert_eq!((result.exit_code, result.signal, result.oom_killed), (0, 0, false));
    task.logs_end(patience()).await;
    assert_eq!(task.lines(), ["hello"]);
    task.destroy(false).await.expect("DestroyTask");
}

async fn life_03_the_handle_is_complete(b: &Bench) {
    let task = b.start(b.sleeper()).await;
    let handle = &task.handle;
    assert_eq!(handle.config.as_ref().map(|config| config.id.as_str()), Some(task.id()));
    assert!(handle.version >= 1 && !handle.driver_state.is_empty(), "{handle:?}");
    assert_eq!(handle.state(), TaskState::Running);
    task.destroy(true).await.expect("DestroyTask");
}

async fn life_04_inspect_tells_running_then_exited_with_its_result(b: &Bench) {
    let begin = SystemTime::now();
    let task = b
        .start(b.sh("while ! [ -e /alloc/end ]; do sleep 0.1; done; exit 6"))
        .await;
    // `reach` asks every 100 ms, and each answer is checked for null submessages.
    task.reach(TaskState::Running, secs(1)).await;
    std::fs::write(task.alloc.shared_dir().join("end"), "").expect("the sign to end");
    task.reach(TaskState::Exited, patience()).await;
    let status = task.status().await.expect("InspectTask");
    assert_eq!(status.result.expect("a result").exit_code, 6);
    let time = |stamp: Option<prost_types::Timestamp>| SystemTime::try_from(stamp.expect("a time")).expect("a time");
    let (started, completed) = (time(status.started_at), time(status.completed_at));
    assert!(
        begin <= started && started <= completed && completed <= SystemTime::now(),
        "{status:?}"
    );
    task.destroy(false).await.expect("DestroyTask");
}

async fn life_05_exit_codes_are_the_tasks_own(b: &Bench) {
    join_all([0, 1, 2, 42, 127, 255].map(|code| async move {
        let task = b.start(b.sh(&format!("exit {code}"))).await;
        let result = task.exit(patience()).await;
        assert_eq!((result.exit_code, result.signal), (code, 0), "exit {code}");
        task.destroy(false).await.expect("DestroyTask");
    }))
    .await;
}

/// The first process of a namespace is deaf to signals of its own, so the task shares the host's.
async fn life_06_a_signal_is_128_and_its_number(b: &Bench) {
    join_all([("TERM", 15), ("KILL", 9)].map(|(name, number)| async move {
        let spec = b
            .sh(&format!("kill -{name} $$; sleep 60"))
            .option("pid_mode", json!("host"));
        let task = b.start(spec).await;
        let result = task.exit(patience()).await;
        assert_eq!((result.exit_code, result.signal), (128 + number, number), "{name}");
        assert!(!result.oom_killed);
        task.destroy(false).await.expect("DestroyTask");
    }))
    .await;
}

async fn life_07_all_who_wait_are_answered_alike(b: &Bench) {
    let task = b
        .start(b.sh("while ! [ -e /alloc/end ]; do sleep 0.1; done; exit 42"))
        .await;
    let end = async {
        // Both have asked before the task is told to end.
        tokio::time::sleep(Duration::from_millis(500)).await;
        std::fs::write(task.alloc.shared_dir().join("end"), "").expect("the sign to end");
    };
    let waits = async { tokio::join!(task.wait(), task.wait(), end) };
    let (one, two, ()) = within(patience(), "both waits", waits).await;
    let one = one.expect("WaitTask");
    assert_eq!(one.result.expect("a result").exit_code, 42);
    assert_eq!(two.expect("WaitTask"), one);
    for _ in 0..3 {
        let again = within(secs(2), "a wait after the exit", task.wait()).await;
        assert_eq!(again.expect("WaitTask"), one);
    }
    task.destroy(false).await.expect("DestroyTask");
    let gone = within(secs(2), "a wait after destroy", task.wait())
        .await
        .expect_err("destroyed");
    assert_eq!(gone.code(), tonic::Code::NotFound, "{gone:?}");
}

async fn life_08_a_cancelled_wait_disturbs_nobody(b: &Bench) {
    let task = b
        .start(b.sh("while ! [ -e /alloc/end ]; do sleep 0.1; done; exit 7"))
        .await;
    let other = async {
        let cancelled = timeout(Duration::from_millis(300), task.wait()).await;
        assert!(cancelled.is_err(), "WaitTask of a running task: {cancelled:?}");
        assert_running(&task).await;
        std::fs::write(task.alloc.shared_dir().join("end"), "").expect("the sign to end");
    };
    let waits = async { tokio::join!(task.wait(), other) };
    let (answer, ()) = within(patience(), "the other wait", waits).await;
    assert_eq!(answer.expect("WaitTask").result.expect("a result").exit_code, 7);
    task.destroy(false).await.expect("DestroyTask");
}

async fn life_09_an_id_is_started_once(b: &Bench) {
    let task = b.start(b.sleeper()).await;
    let (_, pid) = container_of(&task).await;
    let spec = b.sleeper().id(task.id());
    let again = b.rig.start_in(b.rig.alloc(), &spec);
    let error = within(patience(), "the second start", again)
        .await
        .err()
        .expect("an id in use");
    assert!(error.message().contains("already started"), "{error:?}");
    assert_running(&task).await;
    assert_eq!(container_of(&task).await.1, pid);
    task.destroy(true).await.expect("DestroyTask");
}

fn without_alloc_id(task: &mut testhost::wire::driver::TaskConfig) {
    task.alloc_id.clear();
}

async fn life_10_ids_of_every_form(b: &Bench) {
    let mut harness = b.sh("exit 11").id(uuid());
    harness.tweak = Some(without_alloc_id);
    let mut old = b.sh("exit 13");
    old.old_host = true;
    let specs = [
        (b.sh("exit 10").id(uuid()), 10),
        (harness, 11),
        (b.sh("exit 12").id(format!("{}/web/0a1b2c3d", uuid())), 12),
        (old, 13),
    ];
    join_all(specs.map(|(spec, code)| async move {
        let task = b.start(spec).await;
        assert_eq!(task.exit(patience()).await.exit_code, code, "{}", task.id());
        task.destroy(false).await.expect("DestroyTask");
    }))
    .await;
}

async fn life_11_equal_odd_and_long_names(b: &Bench) {
    let (one, two) = tokio::join!(b.start(b.sleeper().name("same")), b.start(b.sleeper().name("same")));
    assert_running(&one).await;
    assert_running(&two).await;
    assert_ne!(container_of(&one).await, container_of(&two).await);
    for task in [one, two] {
        task.destroy(true).await.expect("DestroyTask");
    }
    let names = [
        "two words".to_owned(),
        "Größe-日本".to_owned(),
        "x".repeat(100),
        "-._-".to_owned(),
    ];
    join_all(names.map(|name| async move {
        let task = b.start(b.sh("hostname").name(&name)).await;
        assert_eq!(task.exit(patience()).await.exit_code, 0, "{name}");
        task.logs_end(patience()).await;
        let host = task.lines().concat();
        let valid = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        assert!(
            !host.is_empty() && host.len() <= 64 && host.chars().all(valid),
            "{name}: host name {host:?}"
        );
        let container = container_of(&task).await.0;
        assert!(container.len() <= 76, "{name}: container {container:?}");
        task.destroy(false).await.expect("DestroyTask");
    }))
    .await;
}

async fn life_12_one_tag_with_three_images_in_turn(b: &Bench) {
    let tasks = join_all((0..3).map(|n| b.start(b.sleeper().name(format!("many-{n}"))))).await;
    for task in tasks {
        assert_running(&task).await;
        within(patience(), "StopTask", task.stop(secs(1), "SIGKILL"))
            .await
            .expect("StopTask");
        task.destroy(false).await.expect("DestroyTask");
    }
    let mut tasks = Vec::new();
    for n in 0..3 {
        let config = ImageConfig::default()
            .salt(format!("variant {n}"))
            .env(format!("VARIANT={n}"));
        let image = b.rig.image("life/variants", &config).await.expect("image");
        // A tag that moved is only seen by who asks the registry.
        let spec = TaskSpec::new(image)
            .sh("echo variant $VARIANT; sleep 3600")
            .option("force_pull", json!(true));
        tasks.push(b.start(spec).await);
    }
    for (n, task) in tasks.iter().enumerate() {
        task.wait_line(patience(), &format!("variant {n}")).await;
        task.stop(Duration::ZERO, "").await.expect("StopTask");
        task.destroy(false).await.expect("DestroyTask");
    }
}

/// The three states in which an earlier agent, another driver or a person may have left a container of the same name.
async fn life_13_a_leftover_container_is_not_in_the_way(b: &mut Bench) {
    let id = format!("{}/web/0badcafe", uuid());
    let known = b.start(b.sleeper().id(&id)).await;
    let (container, _) = container_of(&known).await;
    known.destroy(true).await.expect("DestroyTask");
    let (cd, ns, image) = (&b.rig.containerd, b.rig.namespace(), b.image.as_str());
    let leftovers: [(&str, Vec<&str>); 3] = [
        (
            "created",
            vec!["containers", "create", image, &container, "sleep", "3600"],
        ),
        ("stopped", vec!["run", "-d", "--null-io", image, &container, "true"]),
        (
            "running",
            vec!["run", "-d", "--null-io", image, &container, "sleep", "3600"],
        ),
    ];
    for (state, argv) in leftovers {
        cd.ctr(ns, &argv).await.expect(state);
        let begin = Instant::now();
        let task = b.start(b.sh("echo mine; sleep 3600").id(&id)).await;
        task.wait_line(patience(), "mine").await;
        assert!(begin.elapsed() < secs(15), "{state}: it took {:?}", begin.elapsed());
        let found = b.rig.scope().take().await.expect("census");
        assert_eq!(
            (found.containers.len(), found.tasks.len(), found.snapshots.len()),
            (1, 1, 1),
            "{state}: {found:?}"
        );
        task.destroy(true).await.expect("DestroyTask");
    }
}

/// What is left is counted after the case.
async fn life_14_a_command_that_does_not_exist_leaves_nothing(b: &mut Bench) {
    for command in ["/no/such/program", "no-such-word"] {
        let spec = TaskSpec::new(&b.image).command([command]);
        match within(patience(), "StartTask", b.rig.start(spec)).await {
            Err(error) => assert!(error.message().contains(command), "{error:?}"),
            Ok(task) => {
                let code = task.exit(patience()).await.exit_code;
                assert!([126, 127].contains(&code), "{command}: {code}");
                task.destroy(false).await.expect("DestroyTask");
            }
        }
    }
}

/// The host never cancels a start, but its process may die. The plugin's own death at each step is `chaos`'s to show.
async fn life_18_a_start_cut_off_by_its_caller_is_in_nobodys_way(b: &mut Bench) {
    let id = format!("{}/web/5eedf00d", uuid());
    for round in 0..8 {
        let spec = b.sleeper().id(&id);
        let limit = Duration::from_millis(20) * crate::bench::slowness() * round;
        let cut = timeout(limit, b.rig.start_in(b.rig.alloc(), &spec)).await;
        // Nobody hears of the answer; every other round the plugin is gone as well.
        drop(cut);
        if round % 2 == 1 {
            b.rig.relaunch_only().await.expect("relaunch");
        }
        let started = async {
            loop {
                match b
                    .rig
                    .start_in(b.rig.alloc(), &b.sh("echo once; sleep 3600").id(&id))
                    .await
                {
                    Ok(task) => break task,
                    // The first start is still under way or has been completed: the host would destroy it first.
                    Err(error) => {
                        assert!(error.message().contains("already started"), "round {round}: {error:?}");
                        let destroy = testhost::wire::driver::DestroyTaskRequest {
                            task_id: id.clone(),
                            force: true,
                        };
                        b.rig.driver().destroy_task(destroy).await.expect("DestroyTask");
                    }
                }
            }
        };
        let task = within(patience(), "a start after one that was cut off", started).await;
        task.wait_line(patience(), "once").await;
        let found = b.rig.scope().take().await.expect("census");
        let counts = (
            found.containers.len(),
            found.tasks.len(),
            found.snapshots.len(),
            found.shims.len(),
        );
        assert_eq!(counts, (1, 1, 1, 1), "round {round}: {found:?}");
        task.destroy(true).await.expect("DestroyTask");
    }
}

//! Pulls: shared, bounded, given up, watched.

use crate::bench::{Bench, group, patience, secs, slowness};
use futures_util::future::join_all;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Instant;
use testhost::image::ImageConfig;
use testhost::rig::EventLog;
use testhost::status::recoverable;
use testhost::task::TaskSpec;
use testhost::valve::{Pace, Valve};
use testhost::wire::driver::{DestroyTaskRequest, DriverTaskEvent};
use testhost::within::within;

group!(pulls_by_the_driver, Bench::configured(json!({ "image_pull_method": "client" })), {
    fifty_tasks_of_one_image_make_one_pull,
    a_pull_goes_on_for_others_and_ends_with_the_last_who_waits,
    a_start_that_nobody_waits_for_ends_its_pull,
    each_task_waits_as_long_as_it_says_itself,
});

group!(pulls_by_whom_containerd_offers, Bench::configured(json!({})), {
    fifty_tasks_of_one_image_make_one_pull,
    a_pull_goes_on_for_others_and_ends_with_the_last_who_waits,
    a_start_that_nobody_waits_for_ends_its_pull,
    each_task_waits_as_long_as_it_says_itself,
    the_policy_says_when_a_registry_is_asked,
    the_tag_latest_is_the_newest_unless_the_registry_is_down,
});

group!(one_pull_at_a_time, Bench::configured(json!({ "image_max_pulls": 1 })), {
    jobs_take_turns_and_an_image_on_disk_waits_for_none,
    a_pull_that_nothing_comes_for_makes_room,
});

group!(one_silent_pull_by_the_driver, Bench::configured(json!({ "image_pull_activity_timeout": "3s", "image_pull_method": "client" })), {
    a_registry_that_falls_silent_is_given_up,
});

group!(one_silent_pull, Bench::configured(json!({ "image_pull_activity_timeout": "3s" })), {
    a_registry_that_falls_silent_is_given_up,
});

/// An image of its own, and its registry behind a valve.
async fn image(b: &Bench, name: &str, ballast: usize, pace: Pace) -> (Valve, String) {
    let salt = format!("{name}-{}", b.rig.config()["image_pull_method"]);
    let config = ImageConfig::default().salt(salt).ballast(ballast);
    b.rig.image(name, &config).await.expect("image");
    let valve = Valve::before(b.rig.registry.addr(), pace).await;
    let image = valve.reference(name);
    (valve, image)
}

/// Slow enough to be looked at, and never silent.
const SLOW: Pace = Pace::BytesPerSecond(200_000);

/// The tasks that were told something.
fn told(events: &[DriverTaskEvent], words: &str) -> BTreeSet<String> {
    let of = events.iter().filter(|event| event.message.contains(words));
    of.map(|event| event.task_id.clone()).collect()
}

async fn until_told(events: &EventLog, tasks: usize, words: &str) {
    let found = events
        .wait_for(patience() * 3, |all| (told(all, words).len() >= tasks).then_some(()))
        .await;
    assert!(
        found.is_some(),
        "{tasks} tasks are not told {words:?}: {:?}",
        events.events()
    );
}

/// The subscription is live once the event of a task has come through it.
async fn live_events(b: &Bench) -> EventLog {
    let events = b.rig.events();
    let first = b.start(b.sh("true")).await;
    let seen = |all: &[DriverTaskEvent]| all.iter().any(|event| event.task_id == first.id()).then_some(());
    events.wait_for(patience(), seen).await.expect("an event");
    first.destroy(true).await.expect("DestroyTask");
    events
}

async fn fifty_tasks_of_one_image_make_one_pull(b: &mut Bench) {
    let (one, alone) = image(b, "share/one", 8 << 20, Pace::Free).await;
    assert_eq!(b.run(TaskSpec::new(&alone).sh("true")).await.0, 0);
    let (all, shared) = image(b, "share/all", 8 << 20, SLOW).await;
    let events = live_events(b).await;
    let count = if slowness() > 1 { 8 } else { 50 };
    let rig = &b.rig;
    let specs = (0..count).map(|n| {
        TaskSpec::new(&shared)
            .sh("exit 7")
            .name(format!("share-{n}"))
            .memory_mb(32)
    });
    let starts = join_all(specs.map(|spec| rig.start(spec)));
    let opened = async {
        until_told(&events, count, "Pulling image").await;
        all.set(Pace::Free);
    };
    let (started, ()) = within(secs(400), "all starts", async { tokio::join!(starts, opened) }).await;
    for task in started {
        let task = task.expect("StartTask");
        assert_eq!(task.exit(patience()).await.exit_code, 7);
        task.destroy(false).await.expect("DestroyTask");
    }
    assert!(one.blobs() > 0 && one.manifests() > 0);
    assert_eq!(
        (all.manifests(), all.blobs()),
        (one.manifests(), one.blobs()),
        "requests for {count} tasks, and for one"
    );
}

/// A start that is not waited for here, by a task of this id.
async fn begin(b: &Bench, spec: TaskSpec) -> (String, tokio::task::JoinHandle<Result<(), tonic::Status>>) {
    let (mut driver, alloc) = (b.rig.driver(), b.rig.alloc());
    alloc.add_task(&spec.name).expect("task directory");
    let logs = alloc.collect_logs(&spec.name).expect("log collectors");
    let task = spec.compose(&alloc, b.rig.schema()).expect("a configuration");
    let id = task.id.clone();
    let start = tokio::spawn(async move {
        let request = testhost::wire::driver::StartTaskRequest { task: Some(task) };
        let answer = driver.start_task(request).await.map(drop);
        drop((alloc, logs));
        answer
    });
    (id, start)
}

async fn destroy(b: &Bench, id: &str) {
    let request = DestroyTaskRequest {
        task_id: id.to_owned(),
        force: true,
    };
    within(patience(), "DestroyTask", b.rig.driver().destroy_task(request))
        .await
        .expect("DestroyTask");
}

/// Nothing comes any more: at the pace of these tests a piece does many times a second.
async fn ends(valve: &Valve) {
    let end = Instant::now() + secs(15);
    loop {
        let passed = valve.blob_bytes();
        tokio::time::sleep(secs(2)).await;
        if valve.blob_bytes() == passed {
            return;
        }
        assert!(Instant::now() < end, "bytes still come: {passed} so far");
    }
}

async fn a_pull_goes_on_for_others_and_ends_with_the_last_who_waits(b: &mut Bench) {
    let (valve, image) = image(b, "give/up", 8 << 20, SLOW).await;
    let events = live_events(b).await;
    let spec = |name: &str| TaskSpec::new(&image).sh("exit 4").name(name);
    let (first, first_start) = begin(b, spec("first")).await;
    let (second, second_start) = begin(b, spec("second")).await;
    until_told(&events, 2, "Pulling image").await;
    within(patience(), "a blob", valve.asked(1)).await;
    destroy(b, &first).await;
    let error = within(patience(), "the first start", first_start)
        .await
        .expect("joined");
    assert!(
        error
            .expect_err("it was destroyed")
            .message()
            .contains("stopped before")
    );
    let passed = valve.blob_bytes();
    // It goes on for the second.
    let end = Instant::now() + patience();
    while valve.blob_bytes() == passed {
        assert!(Instant::now() < end, "the pull does not go on");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    destroy(b, &second).await;
    within(patience(), "the second start", second_start)
        .await
        .expect("joined")
        .expect_err("it was destroyed");
    ends(&valve).await;
    // What has come is kept for the next.
    let (before, size) = (valve.blob_bytes(), 8 << 20);
    valve.set(Pace::Free);
    assert_eq!(b.run(spec("third")).await.0, 4);
    assert!(before < size, "too fast to see anything: {before} bytes");
}

async fn a_start_that_nobody_waits_for_ends_its_pull(b: &mut Bench) {
    let (valve, image) = image(b, "hung/up", 8 << 20, SLOW).await;
    let (_, start) = begin(b, TaskSpec::new(&image).sh("true")).await;
    within(patience(), "a blob", valve.asked(1)).await;
    // The call is cancelled, as by the end of an agent.
    start.abort();
    ends(&valve).await;
    valve.set(Pace::Free);
    assert_eq!(b.run(TaskSpec::new(&image).sh("exit 4")).await.0, 4);
}

async fn each_task_waits_as_long_as_it_says_itself(b: &mut Bench) {
    let (valve, image) = image(b, "own/deadline", 4 << 20, SLOW).await;
    let spec = |name: &str, timeout: &str| {
        let spec = TaskSpec::new(&image).sh("exit 6").name(name);
        spec.option("image_pull_timeout", json!(timeout))
    };
    let (rig, patient, hasty) = (&b.rig, spec("patient", "5m"), spec("hasty", "2s"));
    let starts = async {
        let patient = rig.start(patient);
        let hasty = async {
            within(patience(), "a blob", valve.asked(1)).await;
            let hasty = rig.start(hasty).await.err().expect("its time is over");
            valve.set(Pace::Free);
            hasty
        };
        tokio::join!(patient, hasty)
    };
    let (patient, hasty) = within(secs(120), "both starts", starts).await;
    for words in ["image_pull_timeout", "2s", "bytes had come", &image] {
        assert!(hasty.message().contains(words), "no {words:?} in {hasty:?}");
    }
    assert_eq!(recoverable(&hasty), Some(true));
    let patient = patient.expect("StartTask");
    assert_eq!(patient.exit(patience()).await.exit_code, 6);
    patient.destroy(false).await.expect("DestroyTask");
    assert_eq!(valve.manifests(), {
        let (other, image) = self::image(b, "own/alone", 4 << 20, Pace::Free).await;
        assert_eq!(b.run(TaskSpec::new(&image).sh("true")).await.0, 0);
        other.manifests()
    });
}

async fn the_policy_says_when_a_registry_is_asked(b: &mut Bench) {
    let (valve, image) = image(b, "policy/words", 0, Pace::Free).await;
    let with = |policy: &str| {
        let spec = TaskSpec::new(&image).sh("echo $WHICH");
        spec.option("image_pull_policy", json!(policy))
    };
    let error = b.rig.start(with("never")).await.err().expect("it is not here");
    for words in ["image_pull_policy", "never", &image] {
        assert!(error.message().contains(words), "no {words:?} in {error:?}");
    }
    assert_eq!((valve.manifests(), valve.blobs()), (0, 0), "it was asked");
    let refused = b.rig.start(with("never").option("force_pull", json!(true))).await;
    let refused = refused.err().expect("a contradiction");
    for words in ["image_pull_policy", "force_pull"] {
        assert!(refused.message().contains(words), "no {words:?} in {refused:?}");
    }
    assert_eq!(b.run(with("if-not-present")).await, (0, "\n".to_owned()));
    let asked = valve.manifests();
    assert_eq!(b.run(with("if-not-present")).await.0, 0);
    assert_eq!(b.run(with("never")).await.0, 0);
    assert_eq!(valve.manifests(), asked, "it was asked about an image on the node");
    // The tag moves on.
    let moved = ImageConfig::default().env("WHICH=moved").salt("policy-moved");
    b.rig.image("policy/words", &moved).await.expect("image");
    assert_eq!(b.run(with("if-not-present")).await, (0, "\n".to_owned()));
    assert_eq!(b.run(with("always")).await, (0, "moved\n".to_owned()));
    // By its digest it is what it is: nobody needs to be asked.
    let made = testhost::image::busybox(&moved).expect("an image");
    let digest = &made.manifest.digest;
    let by_digest = TaskSpec::new(format!("{}@{digest}", image.trim_end_matches(":1")));
    let by_digest = by_digest.sh("echo $WHICH").option("image_pull_policy", json!("always"));
    assert_eq!(b.run(by_digest.clone()).await, (0, "moved\n".to_owned()));
    let asked = valve.manifests();
    assert_eq!(b.run(by_digest).await, (0, "moved\n".to_owned()));
    assert_eq!(valve.manifests(), asked);
}

async fn the_tag_latest_is_the_newest_unless_the_registry_is_down(b: &mut Bench) {
    let config = |n: &str| ImageConfig::default().env(format!("N={n}")).salt(format!("latest-{n}"));
    let push = async |b: &Bench, n: &str| {
        let pushed = b.rig.registry.push_busybox("policy/latest", "latest", &config(n)).await;
        pushed.expect("image")
    };
    let image = push(b, "1").await;
    let image = image.trim_end_matches(":latest");
    let run = async |b: &Bench| b.run(TaskSpec::new(image).sh("echo $N")).await;
    assert_eq!(run(b).await, (0, "1\n".to_owned()));
    push(b, "2").await;
    assert_eq!(run(b).await, (0, "2\n".to_owned()));
    b.rig.registry.stop().await;
    assert_eq!(run(b).await, (0, "2\n".to_owned()));
    let always = TaskSpec::new(image)
        .sh("true")
        .option("image_pull_policy", json!("always"));
    let error = b.rig.start(always).await.err().expect("there is no registry");
    assert_eq!(recoverable(&error), Some(true), "{error:?}");
    b.rig.registry.start_again().await.expect("registry");
}

async fn jobs_take_turns_and_an_image_on_disk_waits_for_none(b: &mut Bench) {
    let mut images = Vec::new();
    for name in ["first", "second", "third", "other"] {
        images.push(image(b, &format!("turns/{name}"), 8 << 20, SLOW).await);
    }
    let events = live_events(b).await;
    let mut starts = Vec::new();
    for (n, (_, image)) in images.iter().enumerate() {
        let mut spec = TaskSpec::new(image).sh("exit 3").name(format!("turn-{n}"));
        if n == 3 {
            spec.tweak = Some(|task| task.job_id = "another-job".to_owned());
        }
        let (id, start) = begin(b, spec).await;
        // By its name: the task that was to show that events come may have pulled as well.
        let words = if n == 0 {
            "Pulling image"
        } else {
            "Waiting to pull image"
        };
        let is_told = |all: &[DriverTaskEvent]| told(all, words).contains(&id).then_some(());
        let found = events.wait_for(patience() * 3, is_told).await;
        assert!(found.is_some(), "{id} is not told {words:?}: {:?}", events.events());
        starts.push((id, start));
    }
    // One is on its way, three wait: what is on disk does not.
    assert_eq!(b.run(b.sh("exit 5")).await.0, 5);
    let told_queue = events.events().into_iter().any(|event| {
        event.message.contains("Waiting to pull image")
            && event.annotations.get("queue_ahead").map(String::as_str) == Some("1")
    });
    assert!(told_queue, "no place in the queue: {:?}", events.events());
    for (valve, _) in &images {
        valve.set(Pace::Free);
    }
    let ids: Vec<String> = starts.iter().map(|(id, _)| id.clone()).collect();
    for (id, start) in starts {
        let started = within(secs(120), "a start", start).await.expect("joined");
        started.expect("StartTask");
        destroy(b, &id).await;
    }
    let mut order: Vec<usize> = Vec::new();
    for event in events
        .events()
        .iter()
        .filter(|event| event.message.starts_with("Pulling image"))
    {
        if let Some(n) = ids
            .iter()
            .position(|id| *id == event.task_id)
            .filter(|n| !order.contains(n))
        {
            order.push(n);
        }
    }
    assert_eq!(
        order,
        [0, 1, 3, 2],
        "the other job's turn comes before the third of the first job"
    );
}

async fn a_pull_that_nothing_comes_for_makes_room(b: &mut Bench) {
    let (stuck, image_stuck) = image(b, "room/stuck", 1 << 20, Pace::Shut).await;
    let (_, image_next) = image(b, "room/next", 1 << 20, Pace::Free).await;
    // Straight from the registry: a valve ends with its handle.
    let image_next = format!(
        "{}/{}",
        b.rig.registry.addr(),
        image_next.split_once('/').expect("a path").1
    );
    let (id, start) = begin(b, TaskSpec::new(&image_stuck).sh("true").name("stuck")).await;
    within(patience(), "a blob", stuck.asked(1)).await;
    let next = within(
        secs(60),
        "the next pull",
        b.rig.start(TaskSpec::new(&image_next).sh("exit 2")),
    );
    let next = next.await.expect("StartTask");
    assert_eq!(next.exit(patience()).await.exit_code, 2);
    next.destroy(false).await.expect("DestroyTask");
    stuck.set(Pace::Free);
    within(patience(), "the stuck start", start)
        .await
        .expect("joined")
        .expect("StartTask");
    destroy(b, &id).await;
}

async fn a_registry_that_falls_silent_is_given_up(b: &mut Bench) {
    let (valve, image) = image(b, "silent/one", 1 << 20, Pace::Shut).await;
    let begin = Instant::now();
    let refused = within(secs(60), "StartTask", b.rig.start(TaskSpec::new(&image).sh("true"))).await;
    let error = refused.err().expect("nothing comes");
    for words in ["image_pull_activity_timeout", "3s", "come", &image] {
        assert!(error.message().contains(words), "no {words:?} in {error:?}");
    }
    assert_eq!(recoverable(&error), Some(true));
    assert!(begin.elapsed() >= std::time::Duration::from_secs(3));
    valve.set(Pace::Free);
    assert_eq!(b.run(TaskSpec::new(&image).sh("exit 8")).await.0, 8);
}

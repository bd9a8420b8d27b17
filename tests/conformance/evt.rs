//! Events, labels, garbage.

use crate::bench::{Bench, container_of, patience, secs, slowness};
use crate::field::{consent, group, operated};
use crate::look::says;
use futures_util::future::join_all;
use serde_json::{Value as Json, json};
use std::time::{Duration, Instant, SystemTime};
use testhost::image::ImageConfig;
use testhost::plugin::Driver;
use testhost::task::TaskSpec;
use testhost::wire::driver::{DriverTaskEvent, FingerprintRequest, TaskEventsRequest};
use testhost::within::within;
use tonic::transport::Endpoint;

/// An operator who wants more labels.
fn labelled() -> Json {
    let mut config = consent();
    config["extra_labels"] = json!(["job_*", "task_group_name"]);
    config
}

group!(evt, EVT, operated(labelled()),
    together {
        evt_02_pull_start_and_exit_are_told_in_order,
        evt_04_labels_always_by_choice_and_reserved,
    }
    alone {
        evt_03_a_reader_that_does_not_read_delays_no_task,
        gc_06_of_a_hundred_destroyed_tasks_nothing_is_left,
    }
);

/// On a bench of its own, where nothing happens meanwhile. Of the group `stop`, whose cases wait as long.
pub async fn evt_01_the_stream_of_events_stays_open(_: &Bench) {
    let idle = operated(json!({})).await;
    let events = idle.rig.events();
    // A stream that ends is opened again by the host without a pause, so only time can show that it does not.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!events.ended(), "TaskEvents has ended");
    // And it is not dead.
    assert_eq!(idle.run(idle.sh("true")).await.0, 0);
    let told = events.wait_for(patience(), |all| (!all.is_empty()).then_some(())).await;
    told.expect("an event after a minute");
    idle.finish();
}

/// Likewise.
pub async fn fp_02_the_stream_of_fingerprints_stays_open(_: &Bench) {
    let idle = operated(json!({})).await;
    let mut stream = idle
        .rig
        .driver()
        .fingerprint(FingerprintRequest {})
        .await
        .expect("Fingerprint")
        .into_inner();
    let reading = async {
        while let Some(found) = stream.message().await.expect("no error") {
            drop(found);
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(70), reading).await;
    assert!(ended.is_err(), "Fingerprint has ended");
    idle.finish();
}

async fn evt_02_pull_start_and_exit_are_told_in_order(b: &Bench) {
    let begin = SystemTime::now();
    let image = b
        .rig
        .image("evt/fresh", &ImageConfig::default().salt("evt-02"))
        .await
        .expect("image");
    let events = b.rig.events();
    // The stream is live once something has come through it.
    let marker = b.start(b.sh("true").name("marker")).await;
    let seen = |all: &[DriverTaskEvent], id: &str| all.iter().any(|event| event.task_id == id);
    events
        .wait_for(patience(), |all| seen(all, marker.id()).then_some(()))
        .await
        .expect("an event");
    marker.exit(patience()).await;
    marker.destroy(false).await.expect("DestroyTask");
    let task = b.start(TaskSpec::new(&image).sh("exit 9")).await;
    assert_eq!(task.exit(patience()).await.exit_code, 9);
    let own = |all: &[DriverTaskEvent]| {
        all.iter()
            .filter(|event| event.task_id == task.id())
            .cloned()
            .collect::<Vec<_>>()
    };
    let told = events.wait_for(patience(), |all| {
        own(all)
            .iter()
            .any(|event| event.message.contains("exited"))
            .then(|| own(all))
    });
    let told = told.await.expect("the exit");
    let at = |words: &str| {
        told.iter()
            .position(|event| event.message.contains(words))
            .unwrap_or_else(|| panic!("no {words:?} in {told:?}"))
    };
    assert!(
        [
            at("Pulling image"),
            at("Pulled image"),
            at("Started container"),
            at("exited with code 9")
        ]
        .is_sorted(),
        "{told:?}"
    );
    let mut last = begin;
    for event in &told {
        assert_eq!(
            (event.alloc_id.as_str(), event.task_name.as_str()),
            (task.alloc.id(), "web")
        );
        let time = SystemTime::try_from(event.timestamp.expect("a time")).expect("a time");
        assert!(last <= time && time <= SystemTime::now(), "{event:?}");
        assert!(!event.message.is_empty() && event.message.len() < 200, "{event:?}");
        last = time;
    }
    task.destroy(false).await.expect("DestroyTask");
}

/// The stalled reader takes a kilobyte and no more; everybody else is on another connection.
async fn evt_03_a_reader_that_does_not_read_delays_no_task(b: &mut Bench) {
    let life = async || {
        let begin = Instant::now();
        for _ in 0..4 {
            assert_eq!(b.run(b.sh("true")).await.0, 0);
        }
        begin.elapsed()
    };
    let before = life().await;
    let endpoint = Endpoint::from_shared(format!("unix://{}", b.rig.plugin().socket().display())).expect("an address");
    let endpoint = endpoint
        .origin("http://unused".parse().expect("an origin"))
        .initial_stream_window_size(1024);
    let mut driver = Driver::new(endpoint.connect().await.expect("a connection"));
    let opening = tokio::spawn(async move { driver.task_events(TaskEventsRequest {}).await });
    let stalled = life().await;
    let stream = within(patience(), "TaskEvents", opening)
        .await
        .expect("joined")
        .expect("TaskEvents");
    let after = life().await;
    let most = before * 2 + secs(2);
    assert!(
        stalled < most && after < most,
        "{before:?} without the reader, {stalled:?} and {after:?} with it"
    );
    drop(stream);
}

async fn labels(b: &Bench, container: &str) -> Json {
    let info = ["containers", "info", container];
    let record = b.rig.containerd.ctr(b.rig.namespace(), &info).await.expect("ctr");
    serde_json::from_str::<Json>(&record).expect("JSON")["Labels"].clone()
}

async fn evt_04_labels_always_by_choice_and_reserved(b: &Bench) {
    let own = json!([{ "com.example.team": "web" }]);
    let task = b.start(b.sleeper().option("labels", own)).await;
    let (container, _) = container_of(&task).await;
    let found = labels(b, &container).await;
    for (key, wanted) in [
        ("nomad/alloc-id", task.alloc.id()),
        ("com.hashicorp.nomad.alloc_id", task.alloc.id()),
        ("com.hashicorp.nomad.job_name", "job"),
        ("com.hashicorp.nomad.job_id", "job-id"),
        ("com.hashicorp.nomad.task_group_name", "group"),
        ("com.example.team", "web"),
    ] {
        assert_eq!(found[key], wanted, "{key} in {found}");
    }
    assert!(
        found.get("com.hashicorp.nomad.node_name").is_none(),
        "a label that nobody asked for: {found}"
    );
    task.destroy(true).await.expect("DestroyTask");
    for reserved in ["containerd-driver/alloc-id", "nomad/alloc-id", "containerd.io/gc.root"] {
        let error = b.refused(json!({ "labels": [{ reserved: "other" }] })).await;
        says(&error, &["labels", reserved]);
    }
}

/// What is left is counted after the case. A user-mode guest takes seconds for a start, and has a fifth of them.
async fn gc_06_of_a_hundred_destroyed_tasks_nothing_is_left(b: &mut Bench) {
    let rounds = if slowness() > 1 { 2 } else { 10 };
    for round in 0..rounds {
        let names = (0..10).map(|n| format!("many-{round}-{n}"));
        let tasks = join_all(names.map(|name| b.start(b.sh("echo up; sleep 3600").name(name)))).await;
        for (n, task) in tasks.iter().enumerate() {
            match n % 3 {
                0 => task.stop(Duration::ZERO, "").await.expect("StopTask"),
                1 => task.signal("SIGKILL").await.expect("SignalTask"),
                _ => {}
            }
        }
        for destroyed in join_all(tasks.iter().map(|task| task.destroy(true))).await {
            destroyed.expect("DestroyTask");
        }
    }
}

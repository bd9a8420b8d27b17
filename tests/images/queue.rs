//! Who waits for whom, and how long.

use crate::bench::{Bench, group, patience, secs};
use crate::scene::{has_transfer, proxy, pushed, refused, tells};
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use serde_json::json;
use std::time::Instant;
use testhost::alloc::{random_hex, uuid};
use testhost::layers::{Layer, Plan};
use testhost::registry_proxy::{Fate, RegistryProxy, Rule, Seen};
use testhost::rig::EventLog;
use testhost::task::TaskSpec;
use testhost::wire::driver::DestroyTaskRequest;
use testhost::within::within;

macro_rules! cases {
    ($(#[$attribute:meta])* $name:ident, $method:expr, $(if $wanted:expr,)?) => {
        group!($(#[$attribute])* $name, one_at_a_time($method), $(if $wanted,)? {
            a_pull_that_has_to_wait_says_so_and_the_image_on_disk_does_not,
            one_job_that_wants_much_does_not_keep_out_another,
            a_pull_that_nobody_waits_for_is_given_up,
            the_timeout_of_one_who_waits_is_not_that_of_the_others,
            a_registry_that_falls_silent_ends_the_pull_and_a_slow_one_does_not,
        });
    };
}

cases!(queue, "auto",);
cases!(queue_by_ourselves, "client", if has_transfer(),);

/// A bench that pulls one image at a time, and gives up a registry that is silent for six seconds.
async fn one_at_a_time(method: &str) -> Bench {
    Bench::configured(json!({
        "image_pull_method": method, "image_max_pulls": 1, "image_pull_activity_timeout": "6s",
    }))
    .await
}

async fn small(b: &Bench, name: &str) {
    pushed(b, name, &Plan::new(name).env(format!("WHICH={name}"))).await;
}

fn asked_for_a_blob(seen: &[Seen]) -> Option<()> {
    seen.iter().any(|s| s.path.contains("/blobs/")).then_some(())
}

/// Waits until the task was told that it is in a queue.
async fn queued(events: &EventLog, task: &str) {
    let found = events
        .wait_for(patience(), |events| {
            let of_task = events.iter().filter(|event| event.task_id == task);
            let mut texts = of_task.map(|event| format!("{} {:?}", event.message, event.annotations).to_lowercase());
            texts.any(|text| text.contains("queue")).then_some(())
        })
        .await;
    assert!(found.is_some(), "{task} was not told: {:#?}", events.events());
}

fn task_id() -> String {
    format!("{}/web/{}", uuid(), random_hex(4))
}

async fn a_pull_that_has_to_wait_says_so_and_the_image_on_disk_does_not(b: &mut Bench) {
    let events = b.rig.events();
    let (first, second) = (proxy(b).await, proxy(b).await);
    small(b, "queue/first").await;
    small(b, "queue/second").await;
    // Its image is on disk from now on.
    assert_eq!(b.run(b.sh("exit 6")).await.0, 6);
    first.arm(Rule::always("/blobs/", Fate::Hold));
    let id = task_id();
    let one = b
        .rig
        .start(TaskSpec::new(first.reference("queue/first", "1")).sh("exit 1"));
    let two = async {
        first.wait_for(patience(), "the first pull", asked_for_a_blob).await;
        let spec = TaskSpec::new(second.reference("queue/second", "1")).id(&id);
        b.rig.start(spec.sh("exit 2")).await
    };
    let meanwhile = async {
        queued(&events, &id).await;
        assert!(second.blobs().is_empty(), "two pulls at once: {:?}", second.blobs());
        assert_eq!(b.run(b.sh("exit 7")).await.0, 7);
        first.disarm();
    };
    let all = async { tokio::join!(one, two, meanwhile) };
    let (one, two, ()) = within(patience() * 2, "two starts", all).await;
    for (task, code) in [(one, 1), (two, 2)] {
        let task = task.expect("StartTask");
        assert_eq!(task.exit(patience()).await.exit_code, code);
        task.destroy(false).await.expect("DestroyTask");
    }
}

async fn one_job_that_wants_much_does_not_keep_out_another(b: &mut Bench) {
    const FLOOD: usize = 6;
    let events = b.rig.events();
    let proxy = proxy(b).await;
    for n in 0..FLOOD {
        small(b, &format!("fair/flood-{n}")).await;
    }
    small(b, "fair/other").await;
    proxy.arm(Rule::always("/blobs/", Fate::Hold));
    let ids: Vec<String> = (0..=FLOOD).map(|_| task_id()).collect();
    let spec = |name: &str, n: usize| {
        let spec = TaskSpec::new(proxy.reference(name, "1")).command(["true"]);
        spec.id(&ids[n]).memory_mb(32)
    };
    let flood = join_all((0..FLOOD).map(|n| {
        let spec = spec(&format!("fair/flood-{n}"), n);
        b.rig.start(spec)
    }));
    let other = async {
        // All but the one that is being pulled.
        let waiting = async |n: usize| queued(&events, &ids[n]).await;
        proxy.wait_for(patience(), "the first pull", asked_for_a_blob).await;
        let begun = proxy.blobs();
        let first = (0..FLOOD).find(|n| begun[0].path.contains(&format!("/flood-{n}/")));
        for n in (0..FLOOD).filter(|n| Some(*n) != first) {
            waiting(n).await;
        }
        let mut spec = spec("fair/other", FLOOD);
        spec.tweak = Some(|task| {
            task.job_id = "another-job".into();
            task.job_name = "another-job".into();
        });
        let released = async {
            queued(&events, &ids[FLOOD]).await;
            proxy.disarm();
        };
        tokio::join!(b.rig.start(spec), released).0
    };
    let all = async { tokio::join!(flood, other) };
    let (flood, other) = within(patience() * 2, "all starts", all).await;
    for task in flood.into_iter().chain([other]) {
        let task = task.expect("StartTask");
        assert_eq!(task.exit(patience()).await.exit_code, 0);
        task.destroy(false).await.expect("DestroyTask");
    }
    let order: Vec<String> = proxy.blobs().into_iter().map(|seen| seen.path).collect();
    let other = order.iter().position(|path| path.contains("/fair/other/"));
    let after = |at: usize| {
        let later = order[at..].iter().filter_map(|path| path.split("/flood-").nth(1));
        later
            .filter_map(|rest| rest.split('/').next())
            .collect::<std::collections::BTreeSet<_>>()
            .len()
    };
    let behind = after(other.expect("the other was pulled"));
    assert!(
        behind >= FLOOD - 2,
        "{behind} of {FLOOD} came after the other job's: {order:?}"
    );
}

async fn given_up(proxy: &RegistryProxy) {
    // 499: the client went while it was held.
    let gone = |seen: &[Seen]| seen.iter().any(|s| s.status == 499).then_some(());
    proxy.wait_for(patience(), "the end of the pull", gone).await;
}

async fn a_pull_that_nobody_waits_for_is_given_up(b: &mut Bench) {
    // The call is cancelled, or the task destroyed.
    for by_call in [true, false] {
        let proxy = proxy(b).await;
        let name = format!("given-up/{by_call}");
        small(b, &name).await;
        proxy.arm(Rule::always("/blobs/", Fate::Hold));
        let id = task_id();
        let spec = TaskSpec::new(proxy.reference(&name, "1")).sh("exit 6").id(&id);
        let mut starting = Box::pin(b.rig.start(spec.clone()).map(|answer| answer.map(drop)));
        tokio::select! {
            answer = &mut starting => panic!("it was not held: {answer:?}"),
            () = proxy.wait_for(patience(), "the pull", asked_for_a_blob) => {}
        }
        if !by_call {
            let request = DestroyTaskRequest {
                task_id: id.clone(),
                force: true,
            };
            b.rig.driver().destroy_task(request).await.expect("DestroyTask");
            let answer = within(patience(), "the answer of StartTask", &mut starting).await;
            answer.expect_err("a task that was destroyed");
        }
        drop(starting);
        given_up(&proxy).await;
        proxy.disarm();
        if by_call {
            // Nothing of the task is in the way of the next try under the same name.
            let request = DestroyTaskRequest {
                task_id: id,
                force: true,
            };
            b.rig.driver().destroy_task(request).await.ok();
        }
        let again = TaskSpec::new(proxy.reference(&name, "1")).sh("exit 6");
        assert_eq!(b.run(again).await.0, 6);
    }
}

async fn the_timeout_of_one_who_waits_is_not_that_of_the_others(b: &mut Bench) {
    let proxy = proxy(b).await;
    let image = pushed(b, "wait/image", &Plan::new("wait-image")).await;
    let reference = proxy.reference("wait/image", "1");
    proxy.arm(Rule::always("/blobs/", Fate::Hold));
    let patient = b.rig.start(TaskSpec::new(&reference).sh("exit 8"));
    let hasty = async {
        proxy.wait_for(patience(), "the pull", asked_for_a_blob).await;
        let spec = TaskSpec::new(&reference).option("image_pull_timeout", json!("1s"));
        let answer = b.rig.start(spec.sh("true")).await;
        proxy.disarm();
        answer
    };
    let all = async { tokio::join!(patient, hasty) };
    let (patient, hasty) = within(patience(), "two starts", all).await;
    tells(
        &hasty.err().expect("too slow"),
        &[&reference, "image_pull_timeout", "1s"],
        Some(true),
    );
    let task = patient.expect("StartTask");
    assert_eq!(task.exit(patience()).await.exit_code, 8);
    task.destroy(false).await.expect("DestroyTask");
    for blob in image.layers.iter().chain([&image.config]) {
        let asked = proxy.blobs().into_iter().filter(|s| s.path.contains(&blob.digest));
        assert_eq!(asked.count(), 1, "{:?}", proxy.blobs());
    }
}

async fn a_registry_that_falls_silent_ends_the_pull_and_a_slow_one_does_not(b: &mut Bench) {
    let proxy = proxy(b).await;
    let plan = |salt: &str| Plan::new(salt).layer(Layer::of(6 << 20, salt));
    let silent = pushed(b, "activity/silent", &plan("silent")).await;
    let slow = pushed(b, "activity/slow", &plan("slow")).await;
    // It is asked again where it fell silent, and stays so.
    let digest = &silent.layers[1].digest;
    proxy.arm(Rule::once(digest, Fate::Stall { after: 2 << 20 }).method("GET"));
    proxy.arm(Rule::always(digest, Fate::Hold).method("GET"));
    let begun = Instant::now();
    let reference = proxy.reference("activity/silent", "1");
    let error = refused(b, TaskSpec::new(&reference).sh("true")).await;
    assert!(begun.elapsed() < secs(30), "it took {:?}", begun.elapsed());
    tells(&error, &[&reference, "image_pull_activity_timeout", "6s"], Some(true));
    // At half a megabyte a second it takes twice as long as silence may.
    let crawl = Fate::Slow { per_second: 1 << 19 };
    proxy.arm(Rule::always(&slow.layers[1].digest, crawl).method("GET"));
    let begun = Instant::now();
    let task = TaskSpec::new(proxy.reference("activity/slow", "1")).sh("wc -c < /var/slow-0");
    assert_eq!(b.run(task).await, (0, format!("{}\n", 6 << 20)));
    assert!(begun.elapsed() > secs(6), "it was not slow");
    // What came of the silent one is not lost, and not in the way.
    proxy.disarm();
    let task = TaskSpec::new(&reference).sh("wc -c < /var/silent-0");
    assert_eq!(b.run(task).await, (0, format!("{}\n", 6 << 20)));
}

//! Images that are not needed any more, and those that stay.

use crate::bench::{Bench, group, patience, secs};
use crate::scene::{pushed, usual, which};
use crate::store::Store;
use serde_json::json;
use std::time::{Duration, Instant};
use testhost::layers::{Layer, Plan};
use testhost::task::TaskSpec;

group!(
    gc,
    collected("2s"),
    {
        an_image_goes_with_all_its_parts_after_its_last_task_and_the_delay,
        an_image_that_is_used_again_within_the_delay_stays,
        ten_tasks_of_an_image_are_one_removal_after_the_last,
        an_image_that_others_made_or_use_stays,
        a_pinned_image_stays,
        a_layer_that_another_image_has_stays,
        an_image_goes_though_the_plugin_was_killed_meanwhile,
    }
);

group!(
    prefetch,
    usual(),
    {
        an_image_on_the_list_is_here_before_any_task_wants_it,
    }
);

/// A bench that removes images so long after their last task.
async fn collected(delay: &str) -> Bench {
    let gc = json!({ "enabled": true, "delay": delay, "pinned": ["*/pinned/*", "*/library/busybox:*"] });
    Bench::configured(json!({ "image_gc": gc })).await
}

async fn store(b: &Bench) -> Store {
    Store::of(&b.rig.containerd, b.rig.namespace()).await
}

/// An image that has been run once, and what came into the store with it.
async fn ran(b: &Bench, name: &str, plan: Plan) -> (String, Store) {
    let before = store(b).await;
    pushed(b, name, &plan.env(format!("WHICH={name}"))).await;
    let image = b.rig.registry.reference(name, "1");
    let task = b.start(TaskSpec::new(&image).sh("true")).await;
    assert_eq!(task.exit(patience()).await.exit_code, 0);
    let parts = store(b).await.since(&before);
    assert!(parts.images.contains_key(&image), "{:?}", parts.images);
    task.destroy(false).await.expect("DestroyTask");
    (image, parts)
}

/// Waits until the image is gone.
async fn gone(b: &Bench, image: &str) {
    let end = Instant::now() + secs(30);
    while store(b).await.images.contains_key(image) {
        assert!(Instant::now() < end, "{image} is still here");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Lets the delay of everything that ended before this pass: an image that was used later is gone.
async fn delay_passed(b: &Bench, clock: &str) {
    let (image, _) = ran(b, &format!("clock/{clock}"), Plan::new(format!("clock-{clock}"))).await;
    gone(b, &image).await;
}

async fn an_image_goes_with_all_its_parts_after_its_last_task_and_the_delay(b: &mut Bench) {
    let plan = Plan::new("gone").layer(Layer::of(100_000, "gone"));
    let (image, parts) = ran(b, "gc/gone", plan).await;
    let destroyed = Instant::now();
    assert!(store(b).await.images.contains_key(&image), "it went with its task");
    gone(b, &image).await;
    assert!(
        destroyed.elapsed() > Duration::from_secs(1),
        "{:?}",
        destroyed.elapsed()
    );
    let now = store(b).await;
    for digest in parts.blobs.keys() {
        assert!(!now.blobs.contains_key(digest), "{digest} is left");
    }
    for chain in parts.snapshots.keys() {
        assert!(!now.snapshots.contains_key(chain), "{chain} is left");
    }
    // And comes again when it is wanted.
    assert_eq!(which(b, &image).await, "gc/gone");
}

async fn an_image_that_is_used_again_within_the_delay_stays(b: &mut Bench) {
    let (image, _) = ran(b, "gc/again", Plan::new("again")).await;
    let again = b.start(TaskSpec::new(&image).command(["sleep", "3600"])).await;
    delay_passed(b, "again").await;
    assert!(store(b).await.images.contains_key(&image), "it went in use");
    again.destroy(true).await.expect("DestroyTask");
    gone(b, &image).await;
}

async fn ten_tasks_of_an_image_are_one_removal_after_the_last(b: &mut Bench) {
    pushed(b, "gc/ten", &Plan::new("ten")).await;
    let image = b.rig.registry.reference("gc/ten", "1");
    let mut tasks = Vec::new();
    for n in 0..10 {
        let spec = TaskSpec::new(&image).command(["sleep", "3600"]).memory_mb(32);
        tasks.push(b.start(spec.name(format!("ten-{n}"))).await);
    }
    let last = tasks.split_off(8);
    for task in tasks {
        task.destroy(true).await.expect("DestroyTask");
    }
    delay_passed(b, "ten").await;
    assert!(store(b).await.images.contains_key(&image), "it went in use");
    for task in last {
        task.destroy(true).await.expect("DestroyTask");
    }
    gone(b, &image).await;
}

async fn an_image_that_others_made_or_use_stays(b: &mut Bench) {
    let (cd, namespace) = (&b.rig.containerd, b.rig.namespace());
    pushed(b, "gc/theirs", &Plan::new("theirs").env("WHICH=theirs")).await;
    let theirs = b.rig.registry.reference("gc/theirs", "1");
    cd.ctr(namespace, &["images", "pull", "--plain-http", &theirs])
        .await
        .expect("ctr images pull");
    assert_eq!(which(b, &theirs).await, "theirs");
    // And one of ours that a container of somebody else's is made of.
    let (used, _) = ran(b, "gc/used", Plan::new("used")).await;
    let id = format!("foreign-{namespace}");
    cd.ctr(namespace, &["run", "-d", "--null-io", &used, &id, "sleep", "3600"])
        .await
        .expect("ctr run");
    // And one that somebody has named by ours, with our labels.
    let (named, _) = ran(b, "gc/named", Plan::new("named")).await;
    let own = format!("example.com/own:{namespace}");
    // That of 2.4 copies them only if it does it by itself.
    let mut how = vec!["images", "tag", "--local", &named, &own];
    if crate::bench::kind() == testhost::containerd::ContainerdKind::Debian16 {
        how.retain(|word| *word != "--local");
    }
    cd.ctr(namespace, &how).await.expect("ctr images tag");
    gone(b, &named).await;
    delay_passed(b, "others").await;
    let images = store(b).await.images;
    cd.ctr(namespace, &["tasks", "rm", "-f", &id])
        .await
        .expect("ctr tasks rm");
    cd.ctr(namespace, &["containers", "rm", &id])
        .await
        .expect("ctr containers rm");
    assert!(images.contains_key(&theirs), "what ctr pulled is gone: {images:?}");
    assert!(images.contains_key(&used), "what ctr runs is gone: {images:?}");
    assert!(
        images.contains_key(&own),
        "what somebody has tagged is gone: {images:?}"
    );
}

async fn a_pinned_image_stays(b: &mut Bench) {
    let (image, _) = ran(b, "pinned/image", Plan::new("pinned")).await;
    delay_passed(b, "pinned").await;
    assert!(
        store(b).await.images.contains_key(&image),
        "it went though it is pinned"
    );
}

async fn a_layer_that_another_image_has_stays(b: &mut Bench) {
    let plan = |which: &str| {
        let plan = Plan::new("gc-shared").layer(Layer::of(100_000, "gc-shared"));
        plan.layer(Layer::of(1000, which))
    };
    pushed(b, "gc/stays", &plan("stays")).await;
    let stays = b.rig.registry.reference("gc/stays", "1");
    let spec = TaskSpec::new(&stays).command(["sleep", "3600"]);
    let running = b.start(spec).await;
    let (goes, parts) = ran(b, "gc/goes", plan("goes")).await;
    gone(b, &goes).await;
    // Its own layer, its configuration and its manifest; the rest is the other's.
    assert_eq!(parts.blobs.len(), 3, "{:?}", parts.blobs);
    b.rig.registry.stop().await;
    let spec = TaskSpec::new(&stays).sh("wc -c < /var/gc-shared-0");
    let found = b.rig.start(spec).await;
    b.rig.registry.start_again().await.expect("registry");
    let task = found.expect("StartTask");
    assert_eq!(task.exit(patience()).await.exit_code, 0);
    task.wait_line(patience(), "100000").await;
    for task in [task, running] {
        task.destroy(true).await.expect("DestroyTask");
    }
}

async fn an_image_goes_though_the_plugin_was_killed_meanwhile(b: &mut Bench) {
    let (image, _) = ran(b, "gc/restart", Plan::new("restart")).await;
    b.rig.relaunch().await.expect("relaunch");
    gone(b, &image).await;
}

async fn an_image_on_the_list_is_here_before_any_task_wants_it(b: &mut Bench) {
    pushed(b, "prefetch/image", &Plan::new("prefetch").env("WHICH=prefetched")).await;
    let image = b.rig.registry.reference("prefetch/image", "1");
    let mut config = b.rig.config().clone();
    config["image_prefetch"] = json!([image]);
    b.rig.plugin().configure(&config).await.expect("SetConfig");
    let end = Instant::now() + secs(30);
    while !store(b).await.images.contains_key(&image) {
        assert!(Instant::now() < end, "it did not come");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    b.rig.registry.stop().await;
    let answer = b.rig.start(TaskSpec::new(&image).sh("echo $WHICH")).await;
    b.rig.registry.start_again().await.expect("registry");
    let task = answer.expect("StartTask");
    assert_eq!(task.exit(patience()).await.exit_code, 0);
    task.wait_line(patience(), "prefetched").await;
    task.destroy(false).await.expect("DestroyTask");
}

//! What a pull makes of an image, and how often the registry is asked for it.

use crate::bench::{Bench, group, patience, secs, slowness};
use crate::scene::{by_ourselves, has_transfer, proxy, pushed, refused, tells, usual, which};
use crate::store::{Store, collect_garbage};
use futures_util::future::join_all;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Instant;
use testhost::image::{self, Image};
use testhost::layers::{Format, Layer, Packing, Plan, index};
use testhost::registry_proxy::{Fate, RegistryProxy, Rule, Seen};
use testhost::task::TaskSpec;
use testhost::within::within;

macro_rules! cases {
    ($(#[$attribute:meta])* $name:ident, $bench:expr, $(if $wanted:expr,)?) => {
        group!($(#[$attribute])* $name, $bench, $(if $wanted,)? {
            every_format_of_an_image_is_pulled_and_runs,
            the_image_for_this_machine_is_chosen_and_no_other_fetched,
            an_index_without_this_machine_is_refused_by_name,
            a_layer_that_is_here_is_not_fetched_again,
            fifty_tasks_of_an_image_make_one_pull,
            another_image_is_pulled_beside_a_slow_one,
            a_moved_tag_is_noticed_when_it_is_asked_for,
            a_tag_that_moves_to_another_machines_image_leaves_the_one_that_is_here,
            an_image_on_the_node_starts_while_the_registry_is_down,
            a_tag_that_does_not_exist_is_a_short_error,
        });
    };
}

cases!(pulls, usual(),);
cases!(pulls_by_ourselves, by_ourselves(), if has_transfer(),);

/// Of our own client, since how containerd's fetches is its own affair.
macro_rules! cases_of_our_client {
    ($(#[$attribute:meta])* $name:ident, $bench:expr, if $wanted:expr,) => {
        group!($(#[$attribute])* $name, $bench, if $wanted, {
            parts_of_a_large_layer_come_side_by_side,
        });
    };
}

cases_of_our_client!(pulls_of_our_client, usual(), if !has_transfer(),);
cases_of_our_client!(
    pulls_of_our_client_beside_transfer,
    by_ourselves(),
    if has_transfer(),
);

async fn every_format_of_an_image_is_pulled_and_runs(b: &mut Bench) {
    for (format, packing) in [
        (Format::Docker, Packing::Gzip),
        (Format::Docker, Packing::Plain),
        (Format::Oci, Packing::Gzip),
        (Format::Oci, Packing::Stored),
        (Format::Oci, Packing::Zstd),
        (Format::Oci, Packing::Plain),
    ] {
        let salt = format!("{format:?}-{packing:?}").to_lowercase();
        let layer = Layer {
            packing,
            files: 3,
            ..Layer::of(300_000, salt.clone())
        };
        let plan = Plan::new(&salt).format(format).packing(packing).layer(layer);
        let name = format!("format/{salt}");
        pushed(b, &name, &plan.env(format!("WHICH={salt}"))).await;
        let image = b.rig.registry.reference(&name, "1");
        let script = format!("echo $WHICH; cat /var/{salt}-* | wc -c");
        let found = b.run(TaskSpec::new(&image).sh(&script)).await;
        assert_eq!(found, (0, format!("{salt}\n300000\n")), "{image}");
    }
}

/// An image for another machine and one for this, under one tag.
pub(crate) async fn indexed(b: &Bench, name: &str, format: Format, with_ours: bool) -> (Image, Image) {
    let plan = |which: &str, architecture: &str| {
        let plan = Plan::new(format!("{name}-{which}")).format(format);
        plan.env(format!("WHICH={which}")).architecture(architecture)
    };
    let foreign = plan("foreign", "s390x").build().expect("an image");
    let ours = plan("ours", image::architecture()).build().expect("an image");
    let mut entries = vec![("s390x", &foreign)];
    b.rig.registry.push_parts(name, &foreign).await.expect("pushed");
    if with_ours {
        b.rig.registry.push_parts(name, &ours).await.expect("pushed");
        entries.push((image::architecture(), &ours));
    }
    let (media_type, document) = index(format, &entries).expect("an index");
    b.rig
        .registry
        .push_document(name, "1", media_type, &document)
        .await
        .expect("pushed");
    (foreign, ours)
}

async fn the_image_for_this_machine_is_chosen_and_no_other_fetched(b: &mut Bench) {
    for format in [Format::Docker, Format::Oci] {
        let proxy = proxy(b).await;
        let name = format!("index/{format:?}").to_lowercase();
        let (foreign, ours) = indexed(b, &name, format, true).await;
        assert_eq!(which(b, &proxy.reference(&name, "1")).await, "ours");
        let blobs = proxy.blobs();
        let asked_for = |image: &Image| {
            let blob = |digest: &str| blobs.iter().any(|seen| seen.path.contains(digest));
            image.layers.iter().any(|layer| blob(&layer.digest))
        };
        assert!(asked_for(&ours) && !asked_for(&foreign), "{blobs:?}");
    }
}

async fn an_index_without_this_machine_is_refused_by_name(b: &mut Bench) {
    indexed(b, "index/foreign", Format::Oci, false).await;
    let image = b.rig.registry.reference("index/foreign", "1");
    let error = refused(b, TaskSpec::new(&image).sh("true")).await;
    tells(&error, &[&image, image::architecture()], None);
}

/// How often each blob was asked for, by digest.
fn counted(proxy: &RegistryProxy) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for seen in proxy.blobs() {
        let digest = seen.path.rsplit('/').next().unwrap_or_default().to_owned();
        *counts.entry(digest).or_default() += 1;
    }
    counts
}

async fn a_layer_that_is_here_is_not_fetched_again(b: &mut Bench) {
    let proxy = proxy(b).await;
    let plan = |which: &str| {
        let plan = Plan::new("shared-base").env(format!("WHICH={which}"));
        plan.layer(Layer::of(500_000, "shared"))
            .layer(Layer::of(50_000, format!("own-{which}")))
    };
    let first = pushed(b, "shared/first", &plan("first")).await;
    let second = pushed(b, "shared/second", &plan("second")).await;
    assert_eq!(which(b, &proxy.reference("shared/first", "1")).await, "first");
    let expected = |blobs: Vec<&str>| blobs.into_iter().map(|digest| (digest.to_owned(), 1)).collect();
    let all: Vec<&str> = first.layers.iter().map(|l| l.digest.as_str()).collect();
    assert_eq!(counted(&proxy), expected([all, vec![&first.config.digest]].concat()));
    proxy.forget();
    assert_eq!(which(b, &proxy.reference("shared/second", "1")).await, "second");
    assert_eq!(
        counted(&proxy),
        expected(vec![&second.layers[2].digest, &second.config.digest])
    );
}

async fn fifty_tasks_of_an_image_make_one_pull(b: &mut Bench) {
    let proxy = proxy(b).await;
    let plan = Plan::new("fifty").layer(Layer::of(4 << 20, "fifty"));
    let image = pushed(b, "many/fifty", &plan).await;
    let reference = proxy.reference("many/fifty", "1");
    let count = if slowness() > 1 { 6 } else { 50 };
    // All are there before the first can have ended.
    proxy.arm(Rule::always("/blobs/", Fate::Hold));
    let specs = (0..count).map(|n| {
        let spec = TaskSpec::new(&reference).command(["true"]).memory_mb(32);
        b.rig.start(spec.name(format!("task-{n}")))
    });
    let starts = join_all(specs);
    let (started, ()) = tokio::join!(within(patience() * 2, "fifty starts", starts), async {
        proxy
            .wait_for(patience(), "a request for a blob", |seen| {
                seen.iter().any(|s| s.path.contains("/blobs/")).then_some(())
            })
            .await;
        proxy.disarm();
    });
    for task in started {
        let task = task.expect("StartTask");
        assert_eq!(task.exit(patience()).await.exit_code, 0);
        task.destroy(false).await.expect("DestroyTask");
    }
    let parts = image.layers.iter().chain([&image.config]);
    let once: BTreeMap<_, _> = parts.map(|blob| (blob.digest.clone(), 1)).collect();
    assert_eq!(counted(&proxy), once);
}

async fn another_image_is_pulled_beside_a_slow_one(b: &mut Bench) {
    let slow = proxy(b).await;
    pushed(b, "beside/slow", &Plan::new("beside-slow").env("WHICH=slow")).await;
    pushed(b, "beside/quick", &Plan::new("beside-quick").env("WHICH=quick")).await;
    slow.arm(Rule::always("/blobs/", Fate::Hold));
    let image = slow.reference("beside/slow", "1");
    let (first, ()) = tokio::join!(which(b, &image), async {
        let asked = |seen: &[Seen]| seen.iter().any(|s| s.path.contains("/blobs/")).then_some(());
        slow.wait_for(patience(), "the slow pull", asked).await;
        assert_eq!(which(b, &b.rig.registry.reference("beside/quick", "1")).await, "quick");
        slow.disarm();
    });
    assert_eq!(first, "slow");
}

async fn a_moved_tag_is_noticed_when_it_is_asked_for(b: &mut Bench) {
    let image = b.rig.registry.reference("moved/tag", "1");
    let push = async |which: &str| {
        pushed(b, "moved/tag", &Plan::new(which).env(format!("WHICH={which}"))).await;
    };
    push("first").await;
    assert_eq!(which(b, &image).await, "first");
    push("second").await;
    assert_eq!(which(b, &image).await, "first", "nobody asked");
    let asking = TaskSpec::new(&image)
        .sh("echo $WHICH")
        .option("force_pull", json!(true));
    assert_eq!(b.run(asking).await, (0, "second\n".to_owned()));
    assert_eq!(which(b, &image).await, "second");
}

async fn a_tag_that_moves_to_another_machines_image_leaves_the_one_that_is_here(b: &mut Bench) {
    pushed(b, "moved/away", &Plan::new("away").env("WHICH=first")).await;
    let image = b.rig.registry.reference("moved/away", "1");
    assert_eq!(which(b, &image).await, "first");
    let before = Store::of(&b.rig.containerd, b.rig.namespace()).await;
    indexed(b, "moved/away", Format::Oci, false).await;
    let asking = || TaskSpec::new(&image).sh("true").option("force_pull", json!(true));
    for _ in 0..2 {
        let error = refused(b, asking()).await;
        tells(&error, &[&image, image::architecture()], None);
    }
    // Whatever was only held for the time of the pull goes, and nothing is known by heart.
    collect_garbage(&b.rig.containerd, b.rig.namespace()).await;
    let after = Store::of(&b.rig.containerd, b.rig.namespace()).await;
    assert_eq!(after.images.get(&image), before.images.get(&image));
    // Since when no container has it, its keeper may note at any moment.
    let labels = |store: &Store| {
        let mut labels = store.image_labels.get(&image).cloned().unwrap_or_default();
        labels.retain(|key, _| !key.ends_with("/idle-since"));
        labels
    };
    assert_eq!(labels(&after), labels(&before));
    b.rig.relaunch().await.expect("relaunch");
    assert_eq!(which(b, &image).await, "first");
}

async fn an_image_on_the_node_starts_while_the_registry_is_down(b: &mut Bench) {
    let plan = Plan::new("down").env("WHICH=here");
    let built = pushed(b, "down/here", &plan).await;
    b.rig
        .registry
        .push("down/here", "latest", &built)
        .await
        .expect("pushed");
    let by_tag = b.rig.registry.reference("down/here", "1");
    let latest = b.rig.registry.reference("down/here", "latest");
    let by_digest = format!("{}/down/here@{}", b.rig.registry.addr(), built.manifest.digest);
    let all = [by_tag, latest, by_digest];
    for image in &all {
        assert_eq!(which(b, image).await, "here");
    }
    b.rig.registry.stop().await;
    let mut outcomes = Vec::new();
    for image in &all {
        let start = b.rig.start(TaskSpec::new(image).sh("exit 5"));
        outcomes.push(within(patience(), "StartTask", start).await);
    }
    let forced = TaskSpec::new(&all[0]).sh("true").option("force_pull", json!(true));
    let forced = within(patience(), "StartTask", b.rig.start(forced)).await;
    // Before anything can fail: the next case needs it.
    b.rig.registry.start_again().await.expect("registry");
    for (outcome, image) in outcomes.into_iter().zip(&all) {
        let task = outcome.unwrap_or_else(|error| panic!("{image}: {error:?}"));
        assert_eq!(task.exit(patience()).await.exit_code, 5, "{image}");
        task.destroy(false).await.expect("DestroyTask");
    }
    let error = forced.err().expect("a forced pull without a registry");
    tells(&error, &[&all[0]], Some(true));
}

async fn a_tag_that_does_not_exist_is_a_short_error(b: &mut Bench) {
    pushed(b, "missing/tag", &Plan::new("missing")).await;
    for missing in [
        b.rig.registry.reference("missing/tag", "2"),
        b.rig.registry.reference("missing/at-all", "1"),
    ] {
        let begun = Instant::now();
        let error = refused(b, TaskSpec::new(&missing).sh("true")).await;
        assert!(begun.elapsed() < secs(5), "it took {:?}", begun.elapsed());
        tells(&error, &[&missing, "does not exist"], None);
        let length = error.message().len();
        assert!(length < 400, "{length} bytes: {error:?}");
    }
}

async fn parts_of_a_large_layer_come_side_by_side(b: &mut Bench) {
    const LARGE: usize = 80 << 20;
    let proxy = proxy(b).await;
    let plan = Plan::new("parts").layer(Layer::of(LARGE, "parts"));
    let image = pushed(b, "large/parts", &plan).await;
    let large = &image.layers[1];
    // The first shows that this registry does parts; those that follow are seen all at once.
    let free = Fate::Slow { per_second: u64::MAX };
    proxy.arm(Rule::once(&large.digest, free).method("GET"));
    proxy.arm(Rule::always(&large.digest, Fate::Hold).method("GET"));
    let spec = TaskSpec::new(proxy.reference("large/parts", "1")).sh("wc -c < /var/parts-0");
    let (found, ()) = tokio::join!(b.run(spec), async {
        let held = |s: &&Seen| s.path.contains(&large.digest) && s.range.is_some() && s.status == 0;
        let several = |seen: &[Seen]| (seen.iter().filter(held).count() > 1).then_some(());
        proxy.wait_for(patience(), "requests at once", several).await;
        proxy.disarm();
    });
    assert_eq!(found, (0, format!("{LARGE}\n")));
    let bound = image.layers.iter().map(|layer| layer.bytes.len() as u64).sum::<u64>() + (1 << 20);
    let sent = proxy.blob_bytes();
    assert!(sent <= bound, "{sent} bytes of {bound}: {:?}", proxy.blobs());
}

//! `ctr` on the same containerd: what one has pulled the other can use, and both leave the same behind.

use crate::bench::{Bench, group, patience};
use crate::pulls::indexed;
use crate::scene::{by_ourselves, has_transfer, proxy, pushed, usual, which};
use crate::store::{Labels, Store, collect_garbage};
use std::collections::BTreeMap;
use testhost::layers::{Format, Layer, Packing, Plan};
use testhost::task::TaskSpec;

macro_rules! cases {
    ($(#[$attribute:meta])* $name:ident, $bench:expr, $(if $wanted:expr,)?) => {
        group!($(#[$attribute])* $name, $bench, $(if $wanted,)? {
            what_we_pull_looks_like_what_ctr_pulls,
            what_another_namespace_has_is_pulled_all_the_same,
            what_we_pull_runs_under_ctr,
            what_ctr_pulls_runs_under_us_without_a_registry,
            a_collection_right_after_a_pull_removes_nothing,
            after_the_removal_of_an_image_nothing_of_it_is_left,
        });
    };
}

cases!(interop, usual(),);
cases!(interop_by_ourselves, by_ourselves(), if has_transfer(),);

fn plan(salt: &str) -> Plan {
    let layer = Layer {
        packing: Packing::Gzip,
        files: 2,
        ..Layer::of(200_000, salt)
    };
    Plan::new(salt).env(format!("WHICH={salt}")).layer(layer)
}

/// What belongs to containerd's garbage collection and to the layers' content. Others are a matter of taste.
fn lasting(labels: &BTreeMap<String, Labels>) -> BTreeMap<String, Labels> {
    let all = labels.iter();
    all.map(|(key, labels)| {
        let mut labels = labels.clone();
        labels.retain(|name, _| name.starts_with("containerd.io/"));
        (key.clone(), labels)
    })
    .collect()
}

async fn what_we_pull_looks_like_what_ctr_pulls(b: &mut Bench) {
    let cd = &b.rig.containerd;
    for format in [Format::Docker, Format::Oci] {
        let salt = format!("looks-{format:?}").to_lowercase();
        let name = format!("interop/{salt}");
        pushed(b, &name, &plan(&salt).format(format)).await;
        let image = b.rig.registry.reference(&name, "1");
        let before = Store::of(cd, b.rig.namespace()).await;
        assert_eq!(which(b, &image).await, salt);
        let ours = Store::of(cd, b.rig.namespace()).await.since(&before);
        let other = format!("{}-{salt}", b.rig.namespace());
        let theirs = theirs(b, &other, &image, || async {}).await;
        assert_same(&ours, &theirs);
    }
    for format in [Format::Docker, Format::Oci] {
        let name = format!("interop/index-{format:?}").to_lowercase();
        indexed(b, &name, format, true).await;
        let image = b.rig.registry.reference(&name, "1");
        let before = Store::of(cd, b.rig.namespace()).await;
        let task = b.start(TaskSpec::new(&image).sh("true")).await;
        let ours = Store::of(cd, b.rig.namespace()).await.since(&before);
        task.destroy(true).await.expect("DestroyTask");
        let other = format!("{}-index", b.rig.namespace());
        let theirs = theirs(b, &other, &image, || async {}).await;
        // A task that runs has a snapshot of its own, and `ctr` also fetches the documents of images for other machines.
        assert_eq!(ours.images, theirs.images);
        let (ours, theirs) = (lasting(&ours.blobs), lasting(&theirs.blobs));
        for (digest, labels) in &ours {
            assert_eq!(Some(labels), theirs.get(digest), "{digest}");
        }
        assert_eq!(ours.len(), 4, "{ours:?}");
    }
}

fn assert_same(ours: &Store, theirs: &Store) {
    assert_eq!(ours.images, theirs.images);
    assert_eq!(lasting(&ours.blobs), lasting(&theirs.blobs));
    let tree = |store: &Store| {
        let snapshots = store.snapshots.iter();
        snapshots
            .map(|(name, (parent, _))| (name.clone(), parent.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(tree(ours), tree(theirs));
    assert_eq!(ours.ingests, theirs.ingests);
}

/// What `ctr` makes of an image in a namespace that is not the rig's, in which nothing is left after `meanwhile`.
async fn theirs<F: Future<Output = ()>>(
    b: &Bench,
    namespace: &str,
    image: &str,
    meanwhile: impl FnOnce() -> F,
) -> Store {
    let cd = &b.rig.containerd;
    cd.ctr(namespace, &["images", "pull", "--plain-http", image])
        .await
        .expect("ctr images pull");
    let theirs = Store::of(cd, namespace).await;
    meanwhile().await;
    // Before anything can fail.
    cd.ctr(namespace, &["images", "rm", "--sync", image])
        .await
        .expect("ctr images rm");
    theirs
}

/// containerd shares content between namespaces: a write of what another one has is complete as soon as it is opened.
async fn what_another_namespace_has_is_pulled_all_the_same(b: &mut Bench) {
    let cd = &b.rig.containerd;
    for format in [Format::Docker, Format::Oci] {
        let salt = format!("shared-{format:?}").to_lowercase();
        let (name, other) = (format!("interop/{salt}"), format!("{}-{salt}", b.rig.namespace()));
        pushed(b, &name, &plan(&salt).format(format)).await;
        let image = b.rig.registry.reference(&name, "1");
        let before = Store::of(cd, b.rig.namespace()).await;
        let theirs = theirs(b, &other, &image, || async {
            assert_eq!(which(b, &image).await, salt);
        })
        .await;
        assert_same(&Store::of(cd, b.rig.namespace()).await.since(&before), &theirs);
        let name = format!("interop/shared-index-{format:?}").to_lowercase();
        indexed(b, &name, format, true).await;
        let image = b.rig.registry.reference(&name, "1");
        self::theirs(b, &other, &image, || async {
            b.run(TaskSpec::new(&image).sh("true")).await;
        })
        .await;
    }
}

async fn what_we_pull_runs_under_ctr(b: &mut Bench) {
    pushed(b, "interop/ours", &plan("by-us")).await;
    let image = b.rig.registry.reference("interop/ours", "1");
    assert_eq!(which(b, &image).await, "by-us");
    let id = format!("ctr-{}", b.rig.namespace());
    let run = [
        "run",
        "--rm",
        &image,
        &id,
        "sh",
        "-c",
        "echo $WHICH; cat /var/by-us-* | wc -c",
    ];
    let text = b.rig.containerd.ctr(b.rig.namespace(), &run).await.expect("ctr run");
    assert_eq!(text, "by-us\n200000\n");
}

async fn what_ctr_pulls_runs_under_us_without_a_registry(b: &mut Bench) {
    let proxy = proxy(b).await;
    pushed(b, "interop/theirs", &plan("by-ctr")).await;
    let image = proxy.reference("interop/theirs", "1");
    let pull = ["images", "pull", "--plain-http", &image];
    b.rig
        .containerd
        .ctr(b.rig.namespace(), &pull)
        .await
        .expect("ctr images pull");
    assert!(!proxy.blobs().is_empty(), "ctr pulled from elsewhere");
    proxy.forget();
    assert_eq!(which(b, &image).await, "by-ctr");
    assert!(proxy.seen().is_empty(), "{:?}", proxy.seen());
}

async fn a_collection_right_after_a_pull_removes_nothing(b: &mut Bench) {
    pushed(b, "interop/kept", &plan("kept")).await;
    let image = b.rig.registry.reference("interop/kept", "1");
    // While a task of it runs, and after its end.
    let running = b.start(TaskSpec::new(&image).command(["sleep", "3600"])).await;
    let (cd, namespace) = (&b.rig.containerd, b.rig.namespace());
    let before = Store::of(cd, namespace).await;
    assert!(before.images.contains_key(&image), "{:?}", before.images);
    collect_garbage(cd, namespace).await;
    assert_eq!(Store::of(cd, namespace).await, before);
    running.destroy(true).await.expect("DestroyTask");
    collect_garbage(cd, namespace).await;
    let after = Store::of(cd, namespace).await;
    assert_eq!(
        (&after.blobs, &after.snapshots, &after.images),
        (&before.blobs, &before.snapshots, &before.images)
    );
    let found = b.run(TaskSpec::new(&image).sh("cat /var/kept-* | wc -c")).await;
    assert_eq!(found, (0, "200000\n".to_owned()));
}

async fn after_the_removal_of_an_image_nothing_of_it_is_left(b: &mut Bench) {
    let (cd, namespace) = (&b.rig.containerd, b.rig.namespace());
    // What an earlier case has left to be collected.
    collect_garbage(cd, namespace).await;
    let before = Store::of(cd, namespace).await;
    for format in [Format::Docker, Format::Oci] {
        let salt = format!("removed-{format:?}").to_lowercase();
        let name = format!("interop/{salt}");
        pushed(b, &name, &plan(&salt).format(format)).await;
        let image = b.rig.registry.reference(&name, "1");
        let task = b.start(TaskSpec::new(&image).sh("true")).await;
        assert_eq!(task.exit(patience()).await.exit_code, 0);
        task.destroy(false).await.expect("DestroyTask");
        let grown = Store::of(cd, namespace).await.since(&before);
        assert_eq!((grown.blobs.len(), grown.snapshots.len()), (4, 2), "{grown:?}");
        cd.ctr(namespace, &["images", "rm", "--sync", &image])
            .await
            .expect("ctr images rm");
        assert_eq!(Store::of(cd, namespace).await, before);
    }
}

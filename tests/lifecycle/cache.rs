//! Which images stay on the node and which go: after the last use, with a full disk, never those of others.

use crate::bench::{Bench, group, patience, secs};
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;
use std::time::Duration;
use testhost::image::{self, ImageConfig};
use testhost::rig::RunningTask;
use testhost::task::TaskSpec;
use testhost::within::within;

/// How long images stay here.
const DELAY: Duration = Duration::from_secs(2);

group!(image_gc, Bench::configured(short()), {
    an_image_goes_after_the_delay_and_what_others_share_of_it_stays,
    a_restart_of_the_plugin_between_use_and_removal_does_not_keep_it,
    a_use_within_the_delay_keeps_it_and_one_at_its_end_finds_it_whole,
    it_goes_once_after_the_last_of_its_users,
    images_of_others_and_images_that_others_use_stay,
    pinned_images_stay,
});

group!(image_gc_off, Bench::configured(gc(json!({ "enabled": false }))), {
    nothing_is_removed_where_it_is_switched_off,
    a_dry_run_tells_and_removes_nothing,
    with_watermarks_they_go_from_a_full_disk_only,
    listed_images_are_fetched_and_stay,
});

fn gc(block: Json) -> Json {
    json!({ "image_gc": block })
}

fn short() -> Json {
    gc(json!({ "delay": "2s" }))
}

/// An image of its own, with a layer that all of these have.
async fn pushed(b: &Bench, name: &str) -> String {
    let tweaks = ImageConfig::default().salt("cache").ballast(4096).cmd(["echo", name]);
    let tweaks = tweaks.link(format!("own-{name}"), "/bin");
    let built = image::busybox(&tweaks).expect("an image");
    b.rig.registry.push(name, "1", &built).await.expect("push");
    b.rig.registry.reference(name, "1")
}

fn sleeper(image: &str) -> TaskSpec {
    TaskSpec::new(image).command(["sleep", "3600"])
}

async fn end(task: RunningTask) {
    task.destroy(true).await.expect("DestroyTask");
}

async fn use_once(b: &Bench, image: &str) {
    end(b.start(sleeper(image)).await).await;
}

async fn ctr(b: &Bench, args: &[&str]) -> BTreeSet<String> {
    let text = b.rig.containerd.ctr(b.rig.namespace(), args).await.expect("ctr");
    text.lines().map(str::to_owned).collect()
}

async fn is_here(b: &Bench, image: &str) -> bool {
    ctr(b, &["images", "ls", "-q"]).await.contains(image)
}

async fn gone(b: &Bench, image: &str) {
    let gone = async {
        while is_here(b, image).await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    within(secs(30), &format!("the removal of {image}"), gone).await;
}

/// It is still there after several times the delay: what would have removed it had its chance, as another image shows that
/// was used later and is gone.
async fn stays(b: &Bench, images: &[&str], witness: &str) {
    let witness = pushed(b, witness).await;
    use_once(b, &witness).await;
    gone(b, &witness).await;
    for image in images {
        assert!(is_here(b, image).await, "{image}");
    }
}

/// Digests of blobs, and names of unpacked layers.
async fn stored(b: &Bench) -> (BTreeSet<String>, usize) {
    let blobs = ctr(b, &["content", "ls", "-q"]).await;
    let snapshots = ctr(b, &["snapshots", "ls"]).await;
    (
        blobs,
        snapshots.iter().filter(|line| line.starts_with("sha256:")).count(),
    )
}

async fn an_image_goes_after_the_delay_and_what_others_share_of_it_stays(b: &mut Bench) {
    let (one, two) = (pushed(b, "share-one").await, pushed(b, "share-two").await);
    let keeps = b.start(sleeper(&one)).await;
    let before = stored(b).await;
    let task = b.start(sleeper(&two)).await;
    // Longer than the delay: a use is a use however long.
    tokio::time::sleep(2 * DELAY).await;
    assert!(is_here(b, &two).await && stored(b).await.1 > before.1);
    end(task).await;
    assert!(is_here(b, &two).await, "right after the last use");
    gone(b, &two).await;
    // Its own layer, manifest and config are gone with it, and nothing else is.
    assert_eq!(stored(b).await, before);
    assert!(is_here(b, &one).await);
    let read = keeps.exec(&["cat", "/etc/passwd"], patience()).await.expect("ExecTask");
    assert_eq!(read.result.expect("a result").exit_code, 0);
    end(keeps).await;
    gone(b, &one).await;
}

async fn a_restart_of_the_plugin_between_use_and_removal_does_not_keep_it(b: &mut Bench) {
    let image = pushed(b, "restart").await;
    use_once(b, &image).await;
    b.rig.relaunch_only().await.expect("relaunch");
    assert!(is_here(b, &image).await);
    gone(b, &image).await;
    // And one that is in use over a restart is known to be.
    let task = b.start(sleeper(&image)).await;
    b.rig.relaunch().await.expect("relaunch");
    stays(b, &[&image], "restart-witness").await;
    end(task).await;
    gone(b, &image).await;
}

async fn a_use_within_the_delay_keeps_it_and_one_at_its_end_finds_it_whole(b: &mut Bench) {
    let image = pushed(b, "reuse").await;
    use_once(b, &image).await;
    let task = b.start(sleeper(&image)).await;
    stays(b, &[&image], "reuse-witness").await;
    end(task).await;
    // Rests around the delay: some of the starts find it, some pull it, none finds half of it.
    for n in 0..12 {
        tokio::time::sleep(DELAY + Duration::from_millis(100 * n)).await;
        let task = b.start(TaskSpec::new(&image)).await;
        assert_eq!(task.exit(patience()).await.exit_code, 0);
        end(task).await;
    }
}

async fn it_goes_once_after_the_last_of_its_users(b: &mut Bench) {
    let image = pushed(b, "many").await;
    let mut tasks = Vec::new();
    for n in 0..10 {
        tasks.push(b.start(sleeper(&image).name(format!("many-{n}"))).await);
    }
    let rest = tasks.split_off(8);
    for task in tasks {
        end(task).await;
    }
    stays(b, &[&image], "many-witness").await;
    for task in rest {
        end(task).await;
    }
    gone(b, &image).await;
}

async fn images_of_others_and_images_that_others_use_stay(b: &mut Bench) {
    let (theirs, used, elsewhere) = (
        pushed(b, "theirs").await,
        pushed(b, "used").await,
        pushed(b, "elsewhere").await,
    );
    let containerd = &b.rig.containerd;
    let pull = ["images", "pull", "--plain-http", theirs.as_str()];
    containerd.ctr(b.rig.namespace(), &pull).await.expect("ctr images pull");
    // Used by a task of ours, which does not make it ours.
    use_once(b, &theirs).await;
    // Ours, and a container of somebody else was made from it.
    use_once(b, &used).await;
    let id = format!("foreign-{}", testhost::alloc::random_hex(4));
    containerd
        .ctr(b.rig.namespace(), &["containers", "create", &used, &id])
        .await
        .expect("ctr containers create");
    // In another namespace.
    let other = format!("{}-other", b.rig.namespace());
    containerd
        .ctr(&other, &["images", "pull", "--plain-http", &elsewhere])
        .await
        .expect("ctr images pull");
    stays(b, &[&theirs, &used], "others-witness").await;
    let there = containerd.ctr(&other, &["images", "ls", "-q"]).await.expect("ctr");
    assert!(there.contains(&elsewhere));
    containerd
        .ctr(&other, &["images", "rm", "--sync", &elsewhere])
        .await
        .expect("ctr images rm");
    containerd
        .ctr(b.rig.namespace(), &["containers", "rm", &id])
        .await
        .expect("ctr containers rm");
    // Nobody tells of that: the next look finds it.
    use_once(b, &pushed(b, "others-nudge").await).await;
    gone(b, &used).await;
    assert!(is_here(b, &theirs).await);
}

/// Gives the plugin this configuration beside the rig's own.
async fn configure(b: &Bench, more: Json) {
    let mut config = b.rig.config().clone();
    if let Json::Object(more) = more {
        for (key, value) in more {
            config[key] = value;
        }
    }
    b.rig.plugin().configure(&config).await.expect("SetConfig");
}

async fn pinned_images_stay(b: &mut Bench) {
    let (one, two) = (pushed(b, "pinned-exactly").await, pushed(b, "pinned-by-pattern").await);
    let pinned = json!({ "delay": "2s", "pinned": [one, "*/pinned-by-*"] });
    configure(b, gc(pinned)).await;
    use_once(b, &one).await;
    use_once(b, &two).await;
    stays(b, &[&one, &two], "pinned-witness").await;
    configure(b, short()).await;
    gone(b, &one).await;
    gone(b, &two).await;
}

async fn nothing_is_removed_where_it_is_switched_off(b: &mut Bench) {
    let image = pushed(b, "off").await;
    use_once(b, &image).await;
    tokio::time::sleep(3 * DELAY).await;
    assert!(is_here(b, &image).await);
    configure(b, short()).await;
    gone(b, &image).await;
    configure(b, gc(json!({ "enabled": false }))).await;
}

async fn a_dry_run_tells_and_removes_nothing(b: &mut Bench) {
    let image = pushed(b, "dry").await;
    configure(b, gc(json!({ "delay": "1s", "dry_run": true }))).await;
    use_once(b, &image).await;
    let told = async {
        loop {
            let lines = b.rig.plugin().stderr_lines();
            if lines
                .iter()
                .any(|l| l.contains("would be removed") && l.contains(&image))
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    within(secs(30), "the line of the dry run", told).await;
    assert!(is_here(b, &image).await);
    configure(b, short()).await;
    gone(b, &image).await;
    configure(b, gc(json!({ "enabled": false }))).await;
}

async fn with_watermarks_they_go_from_a_full_disk_only(b: &mut Bench) {
    let image = pushed(b, "full").await;
    // No disk of a test is that full.
    configure(b, gc(json!({ "delay": "1s", "high_watermark": 99 }))).await;
    use_once(b, &image).await;
    tokio::time::sleep(3 * DELAY).await;
    assert!(is_here(b, &image).await);
    // And every one is that full.
    configure(b, gc(json!({ "delay": "1s", "high_watermark": 1 }))).await;
    gone(b, &image).await;
    configure(b, gc(json!({ "enabled": false }))).await;
}

async fn listed_images_are_fetched_and_stay(b: &mut Bench) {
    let image = pushed(b, "wanted").await;
    let mut config = gc(json!({ "delay": "1s" }));
    config["image_prefetch"] = json!([image]);
    configure(b, config).await;
    let fetched = async {
        while !is_here(b, &image).await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    within(patience(), "the prefetch", fetched).await;
    stays(b, &[&image], "wanted-witness").await;
    // No longer listed, it is an image like any other.
    configure(b, gc(json!({ "delay": "1s" }))).await;
    let mut config = gc(json!({ "delay": "1s" }));
    config["image_prefetch"] = json!([]);
    configure(b, config).await;
    gone(b, &image).await;
    configure(b, gc(json!({ "enabled": false }))).await;
}

//! Images that come with a task: archives in its directory, in every form that tools write, and what must not be one.

use crate::bench::{Bench, group, patience};
use serde_json::json;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use testhost::alloc::Alloc;
use testhost::archive;
use testhost::image::{self, Image, ImageConfig};
use testhost::rig::RunningTask;
use testhost::task::TaskSpec;
use testhost::within::within;
use tonic::{Code, Status};

group!(load, Bench::configured(json!({})), {
    an_archive_in_every_form_is_loaded_without_a_registry,
    of_several_images_the_named_one_runs_and_all_are_recorded,
    what_is_no_archive_with_the_image_is_told,
    no_link_and_no_name_leads_out_of_the_task_directory,
    what_a_task_loads_counts_for_no_task_that_does_not,
    a_name_that_stands_for_another_image_is_left_alone,
    a_load_that_the_end_of_the_plugin_cuts_off_is_made_anew,
});

/// A registry that is not there.
const NOWHERE: &str = "127.0.0.1:1";

fn built(salt: &str) -> Image {
    let tweaks = ImageConfig::default().salt(salt).cmd(["echo", salt]);
    image::busybox(&tweaks).expect("an image")
}

/// Starts a task whose `local` directory has this file.
async fn start(b: &Bench, image: &str, file: &str, bytes: &[u8]) -> Result<RunningTask, Status> {
    start_with(b, image, file, |local| {
        std::fs::write(local.join(file), bytes).expect("written")
    })
    .await
}

async fn start_with(b: &Bench, image: &str, load: &str, prepare: impl FnOnce(&Path)) -> Result<RunningTask, Status> {
    let alloc: Arc<Alloc> = b.rig.alloc();
    let dir = alloc.add_task("web").expect("task directory");
    prepare(&dir.join("local"));
    let spec = TaskSpec::new(image).option("load", json!(load));
    within(patience(), "StartTask", b.rig.start_in(alloc, &spec)).await
}

/// Runs it to its end; what it wrote.
async fn output(task: RunningTask) -> String {
    assert_eq!(task.exit(patience()).await.exit_code, 0);
    task.logs_end(patience()).await;
    let text = task.logs().stdout.text();
    task.destroy(false).await.expect("DestroyTask");
    text
}

async fn refusal(b: &Bench, image: &str, load: &str, prepare: impl FnOnce(&Path)) -> String {
    match start_with(b, image, load, prepare).await {
        Ok(_) => panic!("{load} was taken"),
        Err(status) => {
            assert_eq!(status.code(), Code::InvalidArgument, "{status}");
            status.message().to_owned()
        }
    }
}

async fn names(b: &Bench) -> Vec<String> {
    let list = b.rig.containerd.ctr(b.rig.namespace(), &["images", "ls", "-q"]).await;
    list.expect("ctr images ls").lines().map(str::to_owned).collect()
}

async fn an_archive_in_every_form_is_loaded_without_a_registry(b: &mut Bench) {
    let zstd = |bytes: &[u8]| ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest);
    for (n, form) in [
        "plain", "packed", "gzip", "oci", "oci-gzip", "oci-zstd", "oci-tag", "oci-bare",
    ]
    .iter()
    .enumerate()
    {
        let built = built(&format!("load-{form}"));
        let name = format!("{NOWHERE}/{form}:1");
        let saved = |packed| archive::docker_save(&[(&built, &[&name])], packed).expect("archive");
        let layout = |name: &str| archive::oci_layout(&[(&built, name)]).expect("archive");
        let bytes = match *form {
            "plain" => saved(false),
            "packed" => saved(true),
            "gzip" => archive::gzip(&saved(false)).expect("gzip"),
            "oci" => layout(&name),
            "oci-gzip" => archive::gzip(&layout(&name)).expect("gzip"),
            "oci-zstd" => zstd(&layout(&name)),
            "oci-tag" => layout("1"),
            _ => layout(""),
        };
        // Both ways to write the path.
        let path = if n % 2 == 0 { "image.tar" } else { "local/image.tar" };
        let put = |local: &Path| std::fs::write(local.join("image.tar"), &bytes).expect("written");
        let task = start_with(b, &name, path, put)
            .await
            .unwrap_or_else(|e| panic!("{form}: {e}"));
        assert_eq!(output(task).await, format!("load-{form}\n"));
        assert!(names(b).await.contains(&name), "{form}");
        // Again: all of it is here.
        let task = start(b, &name, "image.tar", &bytes).await.expect("StartTask");
        assert_eq!(output(task).await, format!("load-{form}\n"));
    }
}

async fn of_several_images_the_named_one_runs_and_all_are_recorded(b: &mut Bench) {
    let (one, two) = (built("several-one"), built("several-two"));
    let (first, second) = (format!("{NOWHERE}/several:1"), format!("{NOWHERE}/several:2"));
    let bytes = archive::docker_save(
        &[(&one, &[first.as_str()]), (&two, &[second.as_str(), "also/this:3"])],
        false,
    )
    .expect("archive");
    let task = start(b, &second, "i.tar", &bytes).await.expect("StartTask");
    assert_eq!(output(task).await, "several-two\n");
    let all = names(b).await;
    for name in [&first, &second, "docker.io/also/this:3"] {
        assert!(all.iter().any(|n| n == name), "{name} in {all:?}");
    }
    // The other one was stored and not unpacked: with it, it runs too.
    let task = start(b, &first, "i.tar", &bytes).await.expect("StartTask");
    assert_eq!(output(task).await, "several-one\n");
}

async fn what_is_no_archive_with_the_image_is_told(b: &mut Bench) {
    let name = format!("{NOWHERE}/told:1");
    let built = built("told");
    let bytes = archive::docker_save(&[(&built, &[&name])], false).expect("archive");
    let text = refusal(b, &name, "none.tar", |_| {}).await;
    assert!(
        text.contains("option load: \"none.tar\": there is nothing at this path"),
        "{text}"
    );
    let other = format!("{NOWHERE}/other:1");
    let text = refusal(b, &other, "i.tar", |l| {
        std::fs::write(l.join("i.tar"), &bytes).expect("written")
    })
    .await;
    assert!(
        text.contains(&format!("it does not have the image {other}; it has {name}")),
        "{text}"
    );
    let half = &bytes[..bytes.len() / 2];
    let text = refusal(b, &name, "i.tar", |l| {
        std::fs::write(l.join("i.tar"), half).expect("written")
    })
    .await;
    assert!(text.contains("ends in the middle of an entry"), "{text}");
    let text = refusal(b, &name, "i.tar", |l| {
        std::fs::write(l.join("i.tar"), [b'x'; 4096]).expect("written")
    })
    .await;
    assert!(text.contains("not a tar archive"), "{text}");
    // A layer that is not what its name says.
    let layout = archive::oci_layout(&[(&built, &name)]).expect("archive");
    let mut wrong = layout.clone();
    let at = wrong.windows(2).position(|w| w == [0x1f, 0x8b]).expect("a layer") + 2000;
    wrong[at] ^= 0xff;
    let text = refusal(b, &name, "i.tar", |l| {
        std::fs::write(l.join("i.tar"), &wrong).expect("written")
    })
    .await;
    assert!(text.contains("is damaged"), "{text}");
    // The whole one is not hindered by what the damaged one left.
    let task = start(b, &name, "i.tar", &layout).await.expect("StartTask");
    assert_eq!(output(task).await, "told\n");
}

async fn no_link_and_no_name_leads_out_of_the_task_directory(b: &mut Bench) {
    let name = format!("{NOWHERE}/links:1");
    let outside = b.rig.dir().join("outside.tar");
    let bytes = archive::docker_save(&[(&built("links"), &[&name])], false).expect("archive");
    std::fs::write(&outside, bytes).expect("written");
    let text = refusal(b, &name, "i.tar", |l| symlink(&outside, l.join("i.tar")).expect("link")).await;
    assert!(text.contains("symbolic link"), "{text}");
    let text = refusal(b, &name, "d/outside.tar", |l| {
        symlink(b.rig.dir(), l.join("d")).expect("link")
    })
    .await;
    assert!(text.contains("symbolic link"), "{text}");
    let text = refusal(b, &name, &outside.display().to_string(), |_| {}).await;
    assert!(text.contains("nothing at this path"), "{text}");
    let text = refusal(b, &name, "p", |l| {
        testhost::fifo::make_fifo(&l.join("p")).expect("pipe")
    })
    .await;
    assert!(text.contains("it is not a file"), "{text}");
    let planted = archive::of_one_entry("../../planted", b"x").expect("archive");
    let text = refusal(b, &name, "i.tar", |l| {
        std::fs::write(l.join("i.tar"), &planted).expect("written")
    })
    .await;
    assert!(text.contains("leads out of it"), "{text}");
}

async fn what_a_task_loads_counts_for_no_task_that_does_not(b: &mut Bench) {
    let name = format!("{NOWHERE}/counts:1");
    let bytes = archive::docker_save(&[(&built("counts"), &[&name])], false).expect("archive");
    let task = start(b, &name, "i.tar", &bytes).await.expect("StartTask");
    assert_eq!(output(task).await, "counts\n");
    let asked = within(patience(), "StartTask", b.rig.start(TaskSpec::new(&name))).await;
    let text = asked.err().expect("the registry is not there").to_string();
    assert!(text.contains("registry"), "{text}");
    // One that the registry has is its own from then on.
    let known = b.rig.registry.reference("counted", "1");
    let bytes = archive::docker_save(&[(&built("counted-loaded"), &[&known])], false).expect("archive");
    let task = start(b, &known, "i.tar", &bytes).await.expect("StartTask");
    assert_eq!(output(task).await, "counted-loaded\n");
    b.rig
        .registry
        .push("counted", "1", &built("counted-pulled"))
        .await
        .expect("push");
    assert_eq!(output(b.start(TaskSpec::new(&known)).await).await, "counted-pulled\n");
}

async fn a_name_that_stands_for_another_image_is_left_alone(b: &mut Bench) {
    let name = b.rig.registry.reference("taken", "1");
    b.rig
        .registry
        .push("taken", "1", &built("taken-pulled"))
        .await
        .expect("push");
    assert_eq!(output(b.start(TaskSpec::new(&name)).await).await, "taken-pulled\n");
    let loaded = built("taken-loaded");
    let bytes = archive::oci_layout(&[(&loaded, &name)]).expect("archive");
    let task = start(b, &name, "i.tar", &bytes).await.expect("StartTask");
    assert_eq!(output(task).await, "taken-loaded\n");
    let by_digest = format!("{}/taken@{}", b.rig.registry.addr(), loaded.manifest.digest);
    assert!(names(b).await.contains(&by_digest));
    assert_eq!(output(b.start(TaskSpec::new(&name)).await).await, "taken-pulled\n");
}

async fn a_load_that_the_end_of_the_plugin_cuts_off_is_made_anew(b: &mut Bench) {
    let name = format!("{NOWHERE}/cut:1");
    let tweaks = ImageConfig::default()
        .salt("cut")
        .ballast(64 << 20)
        .cmd(["echo", "cut"]);
    let built = image::busybox(&tweaks).expect("an image");
    let bytes = archive::oci_layout(&[(&built, &name)]).expect("archive");
    let scratch = b.rig.dir().join("cut.tar");
    std::fs::write(&scratch, &bytes).expect("written");
    {
        let begun = start_with(b, &name, "i.tar", |l| copy(&scratch, l));
        tokio::pin!(begun);
        let stored = async {
            while !ingests(b).await.contains("layer-") {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            answer = &mut begun => drop(answer.expect("StartTask").destroy(true).await),
            () = stored => {}
        }
    }
    b.rig.relaunch_only().await.expect("relaunch");
    let put = |l: &Path| copy(&scratch, l);
    let task = start_with(b, &name, "i.tar", put).await.expect("StartTask");
    assert_eq!(output(task).await, "cut\n");
    assert!(!ingests(b).await.contains("layer-"));
}

async fn ingests(b: &Bench) -> String {
    let active = b.rig.containerd.ctr(b.rig.namespace(), &["content", "active"]).await;
    active.expect("ctr content active")
}

fn copy(from: &Path, local: &Path) {
    std::fs::copy(from, local.join("i.tar")).expect("copy");
}

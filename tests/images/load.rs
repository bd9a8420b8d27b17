//! Images from files in the task's directory: what a registry and the content store see of it. What an archive may be is shown
//! by `load` of `lifecycle`.

use crate::bench::{Bench, group};
use crate::scene::{proxy, tells, usual};
use crate::store::Store;
use serde_json::json;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use testhost::alloc::Alloc;
use testhost::archive;
use testhost::image::Image;
use testhost::layers::{Format, Layer, Packing, Plan, packed};
use testhost::task::TaskSpec;
use tonic::Status;

group!(
    load,
    usual(),
    {
        archives_of_every_kind_are_loaded_without_a_registry,
        a_path_that_leads_out_of_the_tasks_directory_is_refused,
        a_damaged_archive_leaves_nothing_behind,
    }
);

/// Where `load` is looked for, in a task's directory.
const PLACE: &str = "local";

/// An allocation whose task has this file.
fn with_file(b: &Bench, task: &str, file: &str, bytes: &[u8]) -> (Arc<Alloc>, PathBuf) {
    let alloc = b.rig.alloc();
    let dir = alloc.add_task(task).expect("a task directory").join(PLACE);
    std::fs::create_dir_all(&dir).expect("a directory");
    let path = dir.join(file);
    std::fs::write(&path, bytes).expect("a file");
    (alloc, path)
}

fn spec(image: &str, file: &str) -> TaskSpec {
    TaskSpec::new(image).sh("echo $WHICH").option("load", json!(file))
}

fn image(which: &str, format: Format, packing: Packing) -> Image {
    let layer = Layer {
        packing,
        ..Layer::of(200_000, which)
    };
    let plan = Plan::new(which).format(format).packing(packing).layer(layer);
    plan.env(format!("WHICH={which}")).build().expect("an image")
}

async fn loaded(b: &Bench, alloc: Arc<Alloc>, spec: &TaskSpec) -> Result<String, Status> {
    let task = b.rig.start_in(alloc, spec).await?;
    assert_eq!(task.exit(crate::bench::patience()).await.exit_code, 0);
    task.logs_end(crate::bench::patience()).await;
    let text = task.logs().stdout.text();
    task.destroy(false).await.expect("DestroyTask");
    Ok(text.trim().to_owned())
}

async fn archives_of_every_kind_are_loaded_without_a_registry(b: &mut Bench) {
    let proxy = proxy(b).await;
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        for oci in [true, false] {
            let which = format!("load-{}-{packing:?}", if oci { "oci" } else { "docker" }).to_lowercase();
            let name = proxy.reference(&format!("load/{which}"), "1");
            let tar = match oci {
                true => archive::oci_layout(&[(&image(&which, Format::Oci, Packing::Gzip), &name)]),
                false => archive::docker_save(&[(&image(&which, Format::Docker, Packing::Plain), &[&name])], true),
            };
            let bytes = packed(tar.expect("an archive"), packing).expect("packed");
            let (alloc, _) = with_file(b, "web", "image.tar", &bytes);
            let text = loaded(b, alloc, &spec(&name, "image.tar")).await.expect("StartTask");
            assert_eq!(text, which);
        }
    }
    assert!(proxy.seen().is_empty(), "{:?}", proxy.seen());
}

async fn a_path_that_leads_out_of_the_tasks_directory_is_refused(b: &mut Bench) {
    let name = format!("{}/load/outside:1", b.rig.registry.addr());
    let tar = archive::oci_layout(&[(&image("outside", Format::Oci, Packing::Gzip), &name)]).expect("an archive");
    let outside = b.rig.dir().join("outside.tar");
    std::fs::write(&outside, &tar).expect("a file");
    let refused = async |alloc: Arc<Alloc>, path: &str| {
        let answer = loaded(b, alloc, &spec(&name, path)).await;
        let error = answer.err().unwrap_or_else(|| panic!("{path} was loaded"));
        tells(&error, &["load", path], None);
    };
    for path in [
        "../../../outside.tar".to_owned(),
        outside.display().to_string(),
        "/etc/passwd".to_owned(),
    ] {
        let (alloc, _) = with_file(b, "web", "image.tar", &tar);
        refused(alloc, &path).await;
    }
    // As an artifact may have planted: a link instead of the file, or of a directory on the way.
    let link = |target: &Path, at: &str| {
        let (alloc, file) = with_file(b, "web", "image.tar", &tar);
        symlink(target, file.with_file_name(at)).expect("a link");
        alloc
    };
    refused(link(&outside, "link.tar"), "link.tar").await;
    refused(link(b.rig.dir(), "dir"), "dir/outside.tar").await;
    let store = Store::of(&b.rig.containerd, b.rig.namespace()).await;
    assert!(!store.images.contains_key(&name), "{:?}", store.images);
}

async fn a_damaged_archive_leaves_nothing_behind(b: &mut Bench) {
    let (cd, namespace) = (&b.rig.containerd, b.rig.namespace());
    let name = format!("{}/load/damaged:1", b.rig.registry.addr());
    let good = archive::oci_layout(&[(&image("damaged", Format::Oci, Packing::Stored), &name)]).expect("an archive");
    let before = Store::of(cd, namespace).await;
    for damage in ["a byte", "the end"] {
        let mut tar = good.clone();
        match damage {
            // In the content of the largest blob.
            "a byte" => {
                let middle = tar.len() / 2;
                tar[middle] ^= 0xff;
            }
            _ => tar.truncate(good.len() / 2),
        }
        let (alloc, _) = with_file(b, "web", "image.tar", &tar);
        let error = loaded(b, alloc, &spec(&name, "image.tar")).await.expect_err("damaged");
        tells(&error, &["load", "image.tar"], None);
        crate::store::collect_garbage(cd, namespace).await;
        let after = Store::of(cd, namespace).await;
        assert_eq!(after.since(&before).images, Default::default(), "{damage}");
        assert_eq!(after.ingests, before.ingests, "{damage}");
    }
    let (alloc, _) = with_file(b, "web", "image.tar", &good);
    assert_eq!(
        loaded(b, alloc, &spec(&name, "image.tar")).await.expect("StartTask"),
        "damaged"
    );
}

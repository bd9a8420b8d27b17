//! One look at all images: since when each has no container is written on it, and what has to go is removed.

use super::size;
use crate::actors::shared::{Configured, Shared, unix_nanos};
use crate::containerd::{Gateway, ImageRecord, Labels};
use crate::host::disk;
use crate::messages::runtime::{ContainerdFault, FaultKind};
use crate::spec::go::format_duration;
use crate::spec::image_gc::{self, KEY_IDLE, Origin, Sight};
use crate::spec::settings::ImageGcSettings;
use crate::telemetry::Counter;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a look has found.
pub(super) struct Looked {
    /// When the next image is due, nanoseconds since the Unix epoch.
    pub(super) next: Option<i64>,
    /// With `dry_run`: what was told.
    pub(super) told: BTreeSet<String>,
}

/// See the module. `told`: with `dry_run`, what was told before.
pub(super) async fn sweep(
    shared: &Shared,
    configured: &Configured,
    told: BTreeSet<String>,
) -> Result<Looked, ContainerdFault> {
    let (gateway, settings) = (&configured.gateway, &configured.settings);
    let gc = settings.image_gc();
    let (sights, records) = take(shared, gateway).await?;
    let now = unix_nanos();
    for (sight, record) in sights.iter().zip(&records) {
        if let Some(since) = sight.relabel(now) {
            relabel(gateway, record, since).await?;
        }
    }
    let disk = Disk::of(configured, &gc).await?;
    let mut looked = Looked {
        next: image_gc::next_due(&sights, settings, now),
        told: BTreeSet::new(),
    };
    for sight in image_gc::leaving(&sights, settings, now, disk.is_fuller(gc.high_watermark)) {
        if gc.dry_run {
            if !told.contains(&sight.name) {
                tracing::info!(
                    image.ref = sight.name,
                    "image would be removed (image_gc.dry_run)"
                );
            }
            looked.told.insert(sight.name.clone());
            continue;
        }
        let down_to = if gc.low_watermark > 0 {
            gc.low_watermark
        } else {
            gc.high_watermark
        };
        if gc.high_watermark > 0 && !disk.is_fuller(down_to) {
            break;
        }
        match remove(shared, gateway, sight).await {
            Ok(Some(bytes)) => gone(sight, bytes, now),
            Ok(None) => {}
            Err(fault) => {
                Counter::ImageRemovalFaults.bump();
                tracing::warn!(image.ref = sight.name, error = %fault, "image could not be removed");
                if fault.kind == FaultKind::Unreachable {
                    return Err(fault);
                }
            }
        }
    }
    Ok(looked)
}

fn gone(sight: &Sight, bytes: u64, now: i64) {
    Counter::ImagesRemoved.bump();
    Counter::ImageBytesRemoved.add(bytes);
    let since = sight.idle_since.unwrap_or(now);
    let idle = Duration::from_secs(u64::try_from(now.saturating_sub(since)).unwrap_or(0) / 1_000_000_000);
    tracing::info!(
        image.ref = sight.name,
        bytes,
        idle = format_duration(idle),
        "image removed"
    );
}

/// The images of this driver, who uses them, and their records. Containers are listed after the images, so that a use that is older than the look is seen.
async fn take(shared: &Shared, gateway: &Gateway) -> Result<(Vec<Sight>, Vec<ImageRecord>), ContainerdFault> {
    let images = gateway.list_images().await?;
    let mut ours: Vec<(ImageRecord, Origin)> = Vec::new();
    for image in images {
        if let Some(origin) = Origin::of(&image.name, &image.labels) {
            ours.push((image, origin));
        }
    }
    if ours.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let containers = gateway.glean_containers(&[], |c| Some((c.image, c.id))).await?;
    let users: HashMap<String, String> = containers.into_iter().collect();
    let sight = |(image, origin): &(ImageRecord, Origin)| Sight {
        origin: Some(*origin),
        idle_since: image_gc::idle_since(&image.labels),
        user: users.get(&image.name).cloned(),
        held: shared.images.is_held(&image.name),
        last_used: shared.images.last_used(&image.name),
        name: image.name.clone(),
    };
    let sights = ours.iter().map(sight).collect();
    Ok((sights, ours.into_iter().map(|(image, _)| image).collect()))
}

async fn relabel(gateway: &Gateway, image: &ImageRecord, since: Option<i64>) -> Result<(), ContainerdFault> {
    let text = since.map(|at| at.to_string()).unwrap_or_default();
    let labels = Labels::from([(KEY_IDLE.to_owned(), text)]);
    match gateway.update_image_labels(image, &labels).await {
        // Removed by somebody else meanwhile.
        Err(fault) if fault.kind == FaultKind::NotFound => Ok(()),
        answer => answer,
    }
}

/// Removes an image, unless somebody has begun to use it since the look. How many bytes its blobs had.
async fn remove(shared: &Shared, gateway: &Gateway, sight: &Sight) -> Result<Option<u64>, ContainerdFault> {
    // From here on a start of this process waits, and then finds no image and pulls it.
    let Some(leaving) = shared.images.leave(&sight.name) else {
        return Ok(None);
    };
    let Some(record) = gateway.image(&sight.name).await? else {
        return Ok(None);
    };
    if Origin::of(&record.name, &record.labels) != sight.origin {
        return Ok(None);
    }
    let filter = format!("image=={:?}", sight.name);
    if !gateway.list_containers(&[filter]).await?.is_empty() {
        return Ok(None);
    }
    let bytes = size::of(gateway, &record.target).await?;
    if !gateway.delete_image_and_wait(&record).await? {
        return Ok(None);
    }
    leaving.done();
    Ok(Some(bytes))
}

/// The file system that images are unpacked to.
struct Disk(Option<PathBuf>);

impl Disk {
    /// Looked for only where it counts.
    async fn of(configured: &Configured, gc: &ImageGcSettings) -> Result<Self, ContainerdFault> {
        if gc.high_watermark == 0 {
            return Ok(Self(None));
        }
        let dirs = configured.gateway.abilities().await?.dirs;
        let plugin = format!("io.containerd.snapshotter.v1.{}", configured.settings.snapshotter);
        let dir = dirs.get(&plugin).map(PathBuf::from);
        if dir.is_none() {
            tracing::warn!(
                snapshotter = configured.settings.snapshotter,
                "containerd does not tell the directory of its snapshots: image_gc.high_watermark is without effect"
            );
        }
        Ok(Self(dir))
    }

    fn is_fuller(&self, percent: i64) -> bool {
        let Some(dir) = &self.0 else { return false };
        match disk_of(dir) {
            Ok((used, available)) => image_gc::is_fuller(used, available, percent),
            Err(error) => {
                tracing::warn!(%error, "room for images is not known: none is removed");
                false
            }
        }
    }
}

/// The call does not leave the kernel; a hung network file system for snapshots would hang containerd too.
fn disk_of(dir: &Path) -> Result<(u64, u64), crate::host::HostError> {
    tokio::task::block_in_place(|| disk::used_and_available(dir))
}

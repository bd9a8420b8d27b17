//! What a container needs to know of an image that is on this node: read from the content store and from its files.

use super::admission;
use super::ensure::PullConfig;
use super::lease::{self, LEASE_EXPIRES, Lease};
use super::plan::{self, Config, DOCUMENT_MAX_BYTES, Document, Manifest};
use super::pull::{self, whole};
use super::unpack::{UnpackError, Unpacker, unique};
use crate::containerd::{Descriptor, Gateway, ImageRecord, Labels, Mount, expires_after};
use crate::host::{liveness, rootfs};
use crate::messages::image::ImageError;
use crate::messages::runtime::ContainerdFault;
use crate::spec::identity::Digest;
use crate::spec::image::{Directory, ImageFacts};
use crate::spec::image_gc::Origin;
use crate::spec::owner::{KEY_PLUGIN, LOOK_LEASE};
use crate::spec::reference::Reference;
use crate::telemetry::names;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tracing::Instrument as _;

/// Limit for `/etc/passwd` and `/etc/group` of an image.
const FILE_MAX_BYTES: u64 = 4 << 20;
/// An index within an index within an index is enough.
const DEPTH_MAX: usize = 3;
/// How long a look into an image may last; afterwards containerd removes what it needed.
const LOOK_EXPIRES: Duration = Duration::from_secs(10 * 60);
/// Images remembered; beyond that, memory starts anew.
const REMEMBERED_MAX: usize = 512;

/// Facts by digest of the image's target: they never change, so a start of a known image reads nothing.
#[derive(Debug, Clone, Default)]
pub struct FactsMemory(Arc<Mutex<HashMap<String, Known>>>);

/// The manifest for this machine, and the facts.
pub type Known = (Digest, Arc<ImageFacts>);

impl FactsMemory {
    fn get(&self, target: &str) -> Option<Known> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(target)
            .cloned()
    }

    fn put(&self, target: &str, known: Known) {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if memory.len() >= REMEMBERED_MAX {
            memory.clear();
        }
        memory.insert(target.to_owned(), known);
    }
}

/// The record of an image, and what is known of the image.
pub(super) type Here = (ImageRecord, Known);

/// The record of this name.
pub(super) async fn record_of(gateway: &Gateway, name: &str) -> Result<Option<ImageRecord>, ImageError> {
    let record = gateway.image(name).await;
    record.map_err(|source| ImageError::Containerd {
        image: name.to_owned(),
        source,
    })
}

/// The image of this name, unpacked (again, if it has to be). `None`: it is not here, or not all of it, or a task has
/// brought it along. One that is wanted by digest and is here by a tag of its repository gets a record of this name too.
///
/// # Errors
/// Those of [`of_target`].
pub(super) async fn here(
    gateway: &Gateway,
    config: &PullConfig,
    reference: &Reference,
) -> Result<Option<Here>, ImageError> {
    let name = &reference.name();
    let Some(record) = record_of(gateway, name).await? else {
        let Some(record) = by_a_tag(gateway, reference).await? else {
            return Ok(None);
        };
        let known = of_target(gateway, config, name, &record.target, None).await?;
        let Some(known) = known else { return Ok(None) };
        gateway
            .put_image(&record)
            .await
            .map_err(|source| ImageError::Containerd {
                image: name.clone(),
                source,
            })?;
        return Ok(Some((record, known)));
    };
    if Origin::of(name, &record.labels) == Some(Origin::Loaded) {
        // Named by a task's archive: that is no word of the registry's, and counts for nobody else.
        return Ok(None);
    }
    let known = of_target(gateway, config, name, &record.target, None).await?;
    Ok(known.map(|known| (record, known)))
}

/// The record to be of an image that is wanted by digest, if another name of the same repository has it: a registry would give
/// the same. Who may use that one may use this.
async fn by_a_tag(gateway: &Gateway, reference: &Reference) -> Result<Option<ImageRecord>, ImageError> {
    let Some(digest) = reference.digest() else {
        return Ok(None);
    };
    let name = reference.name();
    let records = gateway.images_of_digest(digest.as_str()).await;
    let records = records.map_err(|source| ImageError::Containerd {
        image: name.clone(),
        source,
    })?;
    let of_repository = |record: &ImageRecord| {
        Reference::parse(&record.name)
            .is_ok_and(|r| (r.registry(), r.repository()) == (reference.registry(), reference.repository()))
    };
    // Whoever has brought one along in an archive may have called it anything.
    let is_loaded = |record: &ImageRecord| Origin::of(&record.name, &record.labels) == Some(Origin::Loaded);
    let fitting = records
        .into_iter()
        .filter(|record| of_repository(record) && !is_loaded(record));
    // One that is for everybody first.
    let found = fitting.min_by_key(|record| !admission::mark_of(&record.labels).is_empty());
    Ok(found.map(|found| {
        let mut labels = admission::mark_of(&found.labels);
        labels.extend(Origin::Pulled.labels(&name));
        ImageRecord { name, labels, ..found }
    }))
}

/// Facts of an image by its target in the content store, unpacked (again, if it has to be), under the caller's lease, if there
/// is one. `None`: it is not here, or not all of it.
///
/// # Errors
/// `Unusable` if the image is not for this machine or damaged, `Containerd` for faults.
pub(super) async fn of_target(
    gateway: &Gateway,
    config: &PullConfig,
    name: &str,
    target: &Descriptor,
    lease: Option<&str>,
) -> Result<Option<Known>, ImageError> {
    let at = |source| ImageError::Containerd {
        image: name.to_owned(),
        source,
    };
    let snapshotter = config.snapshotter.as_str();
    if let Some(known) = config.facts.get(&target.digest)
        && is_unpacked(gateway, snapshotter, known.1.chain_id.as_ref())
            .await
            .map_err(at)?
    {
        return Ok(Some(known));
    }
    let Some((digest, manifest, image)) = read(gateway, name, target).await? else {
        return Ok(None);
    };
    if lease.is_none() {
        // Seen for the first time by this puller: an earlier one may have died right after its pull.
        Lease::sweep(gateway, &config.living, name).await.map_err(at)?;
    }
    if !is_unpacked(gateway, snapshotter, image.facts.chain_id.as_ref())
        .await
        .map_err(at)?
        && !unpack_again(gateway, config, name, &manifest, &image).await?
    {
        return Ok(None);
    }
    let mut facts = image.facts;
    if let Some(chain) = &facts.chain_id {
        let (gateway, snapshotter, chain) = (gateway.clone(), snapshotter.to_owned(), chain.clone());
        let (lease, image) = (lease.map(str::to_owned), name.to_owned());
        let volumes = facts.volumes.clone();
        let look = async move {
            match files(&gateway, &snapshotter, &chain, volumes, lease.as_deref()).await {
                Ok(Ok(files)) => Ok(files),
                // A runtime reads them too, and would wait for ever in the place of what was refused here.
                Ok(Err(error)) => Err(ImageError::Unusable {
                    image,
                    reason: format!("its users and groups cannot be read: {error}"),
                }),
                Err(source) => Err(ImageError::Containerd { image, source }),
            }
        };
        (facts.passwd, facts.group, facts.directories) = whole(name, look).await?;
    }
    let known = (digest, Arc::new(facts));
    config.facts.put(&target.digest, known.clone());
    Ok(Some(known))
}

async fn is_unpacked(gateway: &Gateway, snapshotter: &str, chain: Option<&Digest>) -> Result<bool, ContainerdFault> {
    match chain {
        Some(chain) => Ok(gateway.stat_snapshot(snapshotter, chain.as_str()).await?.is_some()),
        None => Ok(true),
    }
}

/// Follows the target to manifest and config; `None` if one of the documents is not here.
async fn read(
    gateway: &Gateway,
    name: &str,
    target: &Descriptor,
) -> Result<Option<(Digest, Manifest, Config)>, ImageError> {
    let at = |source| ImageError::Containerd {
        image: name.to_owned(),
        source,
    };
    let unusable = |reason| ImageError::Unusable {
        image: name.to_owned(),
        reason,
    };
    let architecture = plan::architecture();
    let mut digest = target.digest.clone();
    for _ in 0..DEPTH_MAX {
        let Some(json) = gateway.read_blob(&digest, DOCUMENT_MAX_BYTES).await.map_err(at)? else {
            return Ok(None);
        };
        match plan::document(&json).map_err(unusable)?.0 {
            Document::Index(entries) => digest = plan::choose(&entries, architecture).map_err(unusable)?.digest.clone(),
            Document::Manifest(manifest) => {
                let Some(json) = gateway
                    .read_blob(&manifest.config.digest, DOCUMENT_MAX_BYTES)
                    .await
                    .map_err(at)?
                else {
                    return Ok(None);
                };
                let image = plan::config(&json, architecture, manifest.layers.len()).map_err(unusable)?;
                return Ok(Some((Digest::parse(&digest).map_err(unusable)?, manifest, image)));
            }
        }
    }
    Err(unusable(format!("its indexes are nested more than {DEPTH_MAX} deep")))
}

/// Unpacks from the content store, without a registry. False if a layer is missing there.
async fn unpack_again(
    gateway: &Gateway,
    config: &PullConfig,
    name: &str,
    manifest: &Manifest,
    image: &Config,
) -> Result<bool, ImageError> {
    let at = |source| ImageError::Containerd {
        image: name.to_owned(),
        source,
    };
    let snapshotter = config.snapshotter.as_str();
    for layer in &manifest.layers {
        if gateway.blob_info(&layer.digest).await.map_err(at)?.is_none() {
            return Ok(false);
        }
    }
    let lease = Lease::open(gateway, &config.living, name, LEASE_EXPIRES)
        .await
        .map_err(at)?;
    let leased = gateway.with_lease(&lease.id);
    let unpacker = Unpacker {
        gateway: &leased,
        lease: &lease.id,
        snapshotter,
        turns: &config.unpacks,
    };
    let answer = async {
        let mut parent = None;
        for (i, (layer, diff_id)) in manifest.layers.iter().zip(&image.diff_ids).enumerate() {
            let chain = pull::chain_up_to(&image.diff_ids, i);
            let span = tracing::info_span!(names::IMAGE_UNPACK, { names::BLOB_DIGEST } = %layer.digest, { names::BYTES } = layer.size);
            let unpack = unpacker.layer(layer, diff_id, parent.as_ref(), &chain);
            unpack.instrument(span).await?;
            parent = Some(chain);
        }
        let labels = plan::config_labels(snapshotter, image.facts.chain_id.as_ref());
        Ok(leased.update_blob_labels(&manifest.config.digest, &labels).await?)
    }
    .await;
    lease.close(gateway).await;
    answer.map(|()| true).map_err(|e| match e {
        UnpackError::Containerd(source) => at(source),
        UnpackError::Damaged(reason) => ImageError::Unusable {
            image: name.to_owned(),
            reason,
        },
    })
}

/// `/etc/passwd` and `/etc/group`, empty where there is none, and the VOLUMEs that are directories.
type Files = (String, String, BTreeMap<String, Directory>);

async fn files(
    gateway: &Gateway,
    snapshotter: &str,
    chain: &Digest,
    volumes: Vec<String>,
    lease: Option<&str>,
) -> Result<std::io::Result<Files>, ContainerdFault> {
    let key = format!("{LOOK_LEASE}{}", unique());
    if let Some(lease) = lease {
        return look(&gateway.with_lease(lease), snapshotter, &key, chain, volumes).await;
    }
    // Held by a lease, so that even a look that is cut off by the end of the process leaves nothing for good: the reaper
    // removes it, or it expires.
    gateway
        .create_lease(
            &key,
            &Labels::from([
                expires_after(LOOK_EXPIRES),
                (KEY_PLUGIN.to_owned(), liveness::this_process().text()),
            ]),
        )
        .await?;
    let answer = look(&gateway.with_lease(&key), snapshotter, &key, chain, volumes).await;
    lease::remove(gateway, &key).await;
    answer
}

async fn look(
    leased: &Gateway,
    snapshotter: &str,
    key: &str,
    chain: &Digest,
    volumes: Vec<String>,
) -> Result<std::io::Result<Files>, ContainerdFault> {
    let mounts = leased.view_snapshot(snapshotter, key, chain.as_str()).await?;
    let read = tokio::task::spawn_blocking(move || read_files(&mounts, &volumes)).await;
    leased.remove_snapshot(snapshotter, key).await?;
    Ok(read.map_err(std::io::Error::other).and_then(|files| files))
}

fn read_files(mounts: &[Mount], volumes: &[String]) -> std::io::Result<Files> {
    let [mount] = mounts else {
        return Err(std::io::Error::other(format!(
            "the snapshot consists of {} mounts",
            mounts.len()
        )));
    };
    let all = |layers: &[std::path::PathBuf]| {
        let text = |path| {
            rootfs::read(layers, path, FILE_MAX_BYTES)
                .map(|bytes| String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
                .map_err(|error| std::io::Error::other(format!("/{path}: {error}")))
        };
        // What cannot be read as one is none, and the mount there says so.
        let is_directory = |path: &String| Some((path.clone(), rootfs::directory(layers, path).ok()??));
        let directories = volumes.iter().filter_map(is_directory).collect();
        Ok((text("etc/passwd")?, text("etc/group")?, directories))
    };
    match rootfs::directories(&mount.kind, &mount.source, &mount.options) {
        Some(layers) => all(&layers),
        None => rootfs::with_mounted(&mount.kind, &mount.source, &mount.options, |root| {
            all(&[root.to_owned()])
        }),
    }
}

//! A pull by ourselves: documents, blobs and layers into containerd, all under a lease; the image record comes last.
//!
//! Works on every containerd. Dropping the future cancels it at any point: what was fetched stays under its lease, and
//! the next pull of it goes on from there. The lease goes when it expires or the reaper takes it.

use super::ensure::PullConfig;
use super::facts::{self, Known};
use super::fetch::Fetcher;
use super::keyring::Keyring;
use super::lease::Lease;
use super::mark;
use super::plan::{self, Config, Document, Manifest};
use super::registry::Session;
use super::unpack::{UnpackError, Unpacker};
use super::watch::Watch;
use crate::containerd::{Descriptor, Gateway, ImageRecord, Labels};
use crate::messages::image::ImageError;
use crate::spec::identity::{Digest, chain_id};
use crate::spec::reference::Reference;
use crate::telemetry::names;
use crate::telemetry::steps::step;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use std::future::Future;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;
use tracing::Instrument as _;

/// Layers fetched at once, as containerd and Docker do.
const FETCHES: usize = 3;
/// Nested indexes that are followed.
const DEPTH_MAX: usize = 3;

/// What the registry says that the reference is.
#[derive(Debug, Clone)]
pub(super) struct Resolved {
    pub(super) json: Bytes,
    pub(super) target: Descriptor,
    /// What it is asked with.
    pub(super) keyring: Keyring,
}

/// Asks the registry.
pub(super) async fn resolve(session: &Session, keyring: &Keyring) -> Result<Resolved, ImageError> {
    let (json, digest) = session.top().await?;
    let (_, media_type) = plan::document(&json).map_err(|reason| unusable(session, reason))?;
    let target = Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size: json.len() as u64,
    };
    let keyring = keyring.clone();
    Ok(Resolved { json, target, keyring })
}

/// Fetches and unpacks the image, makes its record, and says what it is.
pub(super) async fn pull(
    gateway: &Gateway,
    config: &PullConfig,
    session: &Session,
    reference: &Reference,
    resolved: &Resolved,
    watch: &Watch,
) -> Result<Option<Known>, ImageError> {
    let name = reference.name();
    let at = |source| ImageError::Containerd {
        image: name.clone(),
        source,
    };
    let lease = Lease::open(gateway, &config.living, &name, watch.lease())
        .await
        .map_err(at)?;
    step!(PullLeased);
    let leased = gateway.with_lease(&lease.id);
    let tally = watch.tally();
    let fetcher = Fetcher {
        gateway: &leased,
        lease: &lease.id,
        session,
        reference,
        lanes: &config.lanes,
        tally,
    };
    let unpacker = Unpacker {
        gateway: &leased,
        lease: &lease.id,
        snapshotter: &config.snapshotter,
        turns: &config.unpacks,
    };
    let filled = watch.over(&name, fill(&fetcher, &unpacker, resolved)).await;
    let fetched_bytes = tally.fetched_bytes.load(Ordering::Relaxed);
    if let Err(e) = filled {
        let answer = Err(e);
        lease.end(gateway, &answer, fetched_bytes).await;
        return answer;
    }
    step!(PullFilled);
    let (gateway, leased, config) = (gateway.clone(), leased.clone(), config.clone());
    let (target, whose) = (resolved.target.clone(), resolved.keyring.used());
    // In one go: once the image is there, nobody pulls it again and ends the lease.
    whole(&name.clone(), async move {
        let answer = async {
            let at = |source| ImageError::Containerd {
                image: name.clone(),
                source,
            };
            let record = ImageRecord {
                labels: mark::pulled(&leased, &name, whose).await.map_err(at)?,
                name: name.clone(),
                target,
            };
            leased.put_image(&record).await.map_err(at)?;
            step!(PullRecorded);
            // While the lease lasts: looking into the image needs one.
            facts::of_target(&leased, &config, &name, &record.target, Some(&lease.id)).await
        }
        .await;
        lease.end(&gateway, &answer, fetched_bytes).await;
        answer
    })
    .await
}

/// Carries out work that is not to be cut off half way: it goes on when the pull that waits for it is cancelled.
pub(super) async fn whole<T: Send + 'static>(
    image: &str,
    work: impl Future<Output = Result<T, ImageError>> + Send + 'static,
) -> Result<T, ImageError> {
    let ended = tokio::spawn(work.in_current_span()).await;
    ended.unwrap_or_else(|e| {
        Err(ImageError::Interrupted {
            image: image.to_owned(),
            reason: e.to_string(),
        })
    })
}

async fn fill(fetcher: &Fetcher<'_>, unpacker: &Unpacker<'_>, resolved: &Resolved) -> Result<(), ImageError> {
    let manifest = documents(fetcher, resolved).await?;
    let session = fetcher.session;
    let total = manifest
        .layers
        .iter()
        .map(|l| l.size)
        .fold(manifest.config.size, u64::saturating_add);
    fetcher.tally.total_bytes.store(total, Ordering::Relaxed);
    fetcher.tally.layers.store(manifest.layers.len(), Ordering::Relaxed);
    if manifest.config.size > plan::DOCUMENT_MAX_BYTES {
        return Err(unusable(
            session,
            format!("its config has {} bytes", manifest.config.size),
        ));
    }
    let json = match fetcher.containerd(
        fetcher
            .gateway
            .read_blob(&manifest.config.digest, plan::DOCUMENT_MAX_BYTES)
            .await,
    )? {
        Some(json) => json,
        None => session.small_blob(&manifest.config).await?.into(),
    };
    let image = plan::config(&json, plan::architecture(), manifest.layers.len()).map_err(|e| unusable(session, e))?;
    // The label is there before the snapshot is: from its commit on, the config holds it.
    let labels = plan::config_labels(unpacker.snapshotter, image.facts.chain_id.as_ref());
    fetcher.store("config", &json, &manifest.config, labels).await?;
    fetcher
        .tally
        .fetched_bytes
        .fetch_add(manifest.config.size, Ordering::Relaxed);
    layers(fetcher, unpacker, &manifest, &image).await
}

/// Stores the documents from the top down to the manifest for this machine.
async fn documents(fetcher: &Fetcher<'_>, resolved: &Resolved) -> Result<Manifest, ImageError> {
    let session = fetcher.session;
    let (mut json, mut target) = (resolved.json.clone(), resolved.target.clone());
    for _ in 0..DEPTH_MAX {
        let (document, _) = plan::document(&json).map_err(|e| unusable(session, e))?;
        match document {
            Document::Manifest(manifest) => {
                fetcher
                    .store("manifest", &json, &target, plan::manifest_labels(&manifest))
                    .await?;
                return Ok(manifest);
            }
            Document::Index(entries) => {
                let next = plan::choose(&entries, plan::architecture()).map_err(|e| unusable(session, e))?;
                fetcher
                    .store("index", &json, &target, plan::index_labels(&entries))
                    .await?;
                json = match fetcher.document_here(&next.digest).await? {
                    Some(json) => json,
                    None => session.document(&next.digest).await?,
                };
                target = Descriptor {
                    size: json.len() as u64,
                    ..next.clone()
                };
            }
        }
    }
    Err(unusable(
        session,
        format!("its indexes are nested more than {DEPTH_MAX} deep"),
    ))
}

/// Fetches layers, a few at once, and unpacks each as soon as it and those below it are there.
async fn layers(
    fetcher: &Fetcher<'_>,
    unpacker: &Unpacker<'_>,
    manifest: &Manifest,
    image: &Config,
) -> Result<(), ImageError> {
    let mut fetches = Vec::with_capacity(manifest.layers.len());
    let mut arrivals = Vec::with_capacity(manifest.layers.len());
    for layer in &manifest.layers {
        let (arrived, arrival) = oneshot::channel();
        arrivals.push(arrival);
        let span = tracing::info_span!(names::IMAGE_FETCH, { names::BLOB_DIGEST } = %layer.digest, { names::BYTES } = layer.size);
        fetches.push(fetch_one(fetcher, layer, arrived).instrument(span));
    }
    let fetch = futures_util::stream::iter(fetches)
        .buffer_unordered(FETCHES)
        .try_for_each(|()| std::future::ready(Ok(())));
    let unpack = async {
        let mut parent = None;
        for (i, ((layer, diff_id), arrival)) in manifest.layers.iter().zip(&image.diff_ids).zip(arrivals).enumerate() {
            if arrival.await.is_err() {
                // The fetch has failed and says so itself.
                return std::future::pending().await;
            }
            let chain = chain_up_to(&image.diff_ids, i);
            let span = tracing::info_span!(names::IMAGE_UNPACK, { names::BLOB_DIGEST } = %layer.digest, { names::BYTES } = layer.size);
            unpack_one(fetcher, unpacker, layer, diff_id, parent.as_ref(), &chain)
                .instrument(span)
                .await?;
            fetcher.tally.layers_done.fetch_add(1, Ordering::Relaxed);
            parent = Some(chain);
        }
        Ok(())
    };
    tokio::try_join!(fetch, unpack).map(drop)
}

async fn fetch_one(fetcher: &Fetcher<'_>, layer: &Descriptor, arrived: oneshot::Sender<()>) -> Result<(), ImageError> {
    fetcher.blob("layer", layer, Labels::new()).await?;
    // The other side goes away only when the whole pull does.
    arrived.send(()).ok();
    Ok(())
}

async fn unpack_one(
    fetcher: &Fetcher<'_>,
    unpacker: &Unpacker<'_>,
    layer: &Descriptor,
    diff_id: &Digest,
    parent: Option<&Digest>,
    chain: &Digest,
) -> Result<(), ImageError> {
    match unpacker.layer(layer, diff_id, parent, chain).await {
        // Only said of what was seen: containerd believes this label instead of unpacking again.
        Ok(true) => {
            let labels = Labels::from([("containerd.io/uncompressed".to_owned(), diff_id.as_str().to_owned())]);
            fetcher.containerd(fetcher.gateway.update_blob_labels(&layer.digest, &labels).await)
        }
        Ok(false) => Ok(()),
        Err(UnpackError::Containerd(fault)) => fetcher.containerd(Err(fault)),
        Err(UnpackError::Damaged(reason)) => Err(unusable(fetcher.session, reason)),
    }
}

/// Chain id of the layers up to and including number `last`.
pub(super) fn chain_up_to(diff_ids: &[Digest], last: usize) -> Digest {
    let stack = diff_ids.get(..=last).unwrap_or(diff_ids);
    // Never empty where it is used: once per layer.
    chain_id(stack).unwrap_or_else(|| Digest::sha256(b""))
}

fn unusable(session: &Session, reason: String) -> ImageError {
    ImageError::Unusable {
        image: session.image().to_owned(),
        reason,
    }
}

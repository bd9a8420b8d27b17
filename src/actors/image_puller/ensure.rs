//! Makes sure that an image is here and unpacked: when the registry is asked, and when it is not.

use super::facts::{self, FactsMemory, Known, image_facts};
use super::fetch::Tally;
use super::lease::Living;
use super::pull::{self, Resolved};
use super::registry::Registries;
use super::transfer;
use crate::containerd::Gateway;
use crate::messages::image::{EnsureImage, ImageError, ImageReady, PullPolicy};
use crate::spec::reference::Reference;
use crate::telemetry::{Counter, names};
use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tracing::Instrument as _;

/// How often a pull says how far it is.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// How long a pull that was given up may take to tidy up.
const TIDY: Duration = Duration::from_secs(10);

/// What all pulls have in common. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct PullConfig {
    /// Where images are unpacked.
    pub snapshotter: String,
    /// Whether containerd pulls (its transfer service) instead of us.
    pub transfer: bool,
    /// What was learned about registries.
    pub registries: Registries,
    /// What is known of images.
    pub facts: FactsMemory,
    /// The pulls that are running.
    pub(super) living: Living,
}

impl PullConfig {
    /// Nothing known yet.
    #[must_use]
    pub fn new(snapshotter: &str) -> Self {
        Self {
            snapshotter: snapshotter.to_owned(),
            ..Self::default()
        }
    }
}

/// Told while an image is made ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullEvent {
    /// The registry is about to be asked.
    Resolving {
        /// Normalised name.
        image: String,
    },
    /// The image is being fetched; first when it begins, then at most once a second, and at the end.
    Progress(Progress),
}

/// How far a pull is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes in the content store.
    pub fetched_bytes: u64,
    /// Bytes of all blobs; 0 until it is known.
    pub total_bytes: u64,
    /// Layers unpacked.
    pub layers_done: usize,
    /// Layers; 0 until it is known.
    pub layers: usize,
}

/// Carries out the request. Dropping the future cancels it; what was fetched is kept for a while for the next try.
///
/// # Errors
/// See [`ImageError`]; `Timeout` when the bound in the request has passed.
pub async fn ensure(
    gateway: &Gateway,
    config: &PullConfig,
    request: &EnsureImage,
    progress: &(dyn Fn(PullEvent) + Send + Sync),
) -> Result<ImageReady, ImageError> {
    let reference = Reference::parse(&request.image).map_err(|reason| ImageError::BadReference {
        reference: request.image.clone(),
        reason,
    })?;
    let work = ensure_reference(gateway, config, request, &reference, progress);
    // Pulls keep the bound themselves, since they have to give back a lease.
    bounded(&reference, request.timeout, request.timeout.saturating_add(TIDY), work).await
}

/// Carries out work for an image within `limit`; the error says `timeout`, which is what the user has set.
pub(super) async fn bounded<T>(
    reference: &Reference,
    timeout: Duration,
    limit: Duration,
    work: impl Future<Output = Result<T, ImageError>>,
) -> Result<T, ImageError> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        Err(ImageError::Timeout {
            image: reference.name(),
            after: timeout,
        })
    })
}

async fn ensure_reference(
    gateway: &Gateway,
    config: &PullConfig,
    request: &EnsureImage,
    reference: &Reference,
    progress: &(dyn Fn(PullEvent) + Send + Sync),
) -> Result<ImageReady, ImageError> {
    let begun = Instant::now();
    let name = reference.name();
    if request.policy == PullPolicy::IfNotPresent
        && let Some((manifest, facts)) = image_facts(gateway, config, &name).await?
    {
        return Ok(ImageReady {
            name,
            manifest,
            facts,
            pulled: false,
        });
    }
    progress(PullEvent::Resolving { image: name.clone() });
    let tally = Tally::default();
    if config.transfer {
        let before = target_of(gateway, &name).await?;
        let credentials = request.credentials.as_ref();
        let work = transfer::pull(gateway, config, reference, credentials, request.timeout, &tally);
        let span = tracing::info_span!(names::IMAGE_PULL, { names::IMAGE_REF } = %name);
        let answer = reported(work, &tally, progress).instrument(span).await;
        if before.is_none() && matches!(answer, Err(ImageError::Unusable { .. })) {
            // containerd makes a record of an image for another machine, too.
            gateway.delete_image(&name).await.ok();
        }
        let known = answer?;
        // containerd resolves by itself: whether anything was new shows afterwards.
        let pulled = before.is_none() || before != target_of(gateway, &name).await?;
        return ready(name, known, pulled);
    }
    let resolve = async {
        let session = config
            .registries
            .session(reference, request.credentials.as_ref())
            .await?;
        let resolved = pull::resolve(&session).await?;
        Ok::<_, ImageError>((session, resolved))
    };
    let resolve = resolve.instrument(tracing::info_span!(names::IMAGE_RESOLVE, { names::IMAGE_REF } = %name));
    let (session, resolved) = bounded(reference, request.timeout, request.timeout, resolve).await?;
    if let Some(ready) = unchanged(gateway, config, &name, &resolved).await? {
        return Ok(ready);
    }
    let left = request.timeout.saturating_sub(begun.elapsed());
    let limits = (request.timeout, left);
    let work = pull::pull(gateway, config, &session, reference, &resolved, limits, &tally);
    let span = tracing::info_span!(names::IMAGE_PULL, { names::IMAGE_REF } = %name);
    ready(name, reported(work, &tally, progress).instrument(span).await?, true)
}

fn ready(name: String, known: Option<Known>, pulled: bool) -> Result<ImageReady, ImageError> {
    if pulled {
        Counter::ImagePulls.bump();
    }
    match known {
        Some((manifest, facts)) => Ok(ImageReady {
            name,
            manifest,
            facts,
            pulled,
        }),
        None => Err(ImageError::Interrupted {
            image: name,
            reason: "it was removed while it was pulled".to_owned(),
        }),
    }
}

/// Digest that the name stands for now.
async fn target_of(gateway: &Gateway, name: &str) -> Result<Option<String>, ImageError> {
    let record = gateway.image(name).await;
    let record = record.map_err(|source| ImageError::Containerd {
        image: name.to_owned(),
        source,
    })?;
    Ok(record.map(|record| record.target.digest))
}

/// The image, if what is here is what the registry has.
async fn unchanged(
    gateway: &Gateway,
    config: &PullConfig,
    name: &str,
    resolved: &Resolved,
) -> Result<Option<ImageReady>, ImageError> {
    if target_of(gateway, name).await?.as_ref() != Some(&resolved.target.digest) {
        return Ok(None);
    }
    let known = facts::of_target(gateway, config, name, &resolved.target, None).await?;
    Ok(known.map(|(manifest, facts)| ImageReady {
        name: name.to_owned(),
        manifest,
        facts,
        pulled: false,
    }))
}

/// Runs a pull and tells how far it is.
async fn reported<T>(
    work: impl Future<Output = Result<T, ImageError>>,
    tally: &Tally,
    progress: &(dyn Fn(PullEvent) + Send + Sync),
) -> Result<T, ImageError> {
    let report = || {
        progress(PullEvent::Progress(Progress {
            fetched_bytes: tally.fetched_bytes.load(Ordering::Relaxed),
            total_bytes: tally.total_bytes.load(Ordering::Relaxed),
            layers_done: tally.layers_done.load(Ordering::Relaxed),
            layers: tally.layers.load(Ordering::Relaxed),
        }));
    };
    let mut work = std::pin::pin!(work);
    let mut ticks = tokio::time::interval(REPORT_EVERY);
    loop {
        tokio::select! {
            answer = &mut work => {
                report();
                return answer;
            }
            _ = ticks.tick() => report(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Does not compile if a pull cannot move between threads; nothing else here says so.
    #[allow(dead_code, reason = "compiled, not run")]
    fn a_pull_can_be_spawned(gateway: &Gateway, config: &PullConfig, request: &EnsureImage) {
        fn spawnable(_: impl Future + Send) {}
        spawnable(ensure(gateway, config, request, &|_| ()));
    }
}

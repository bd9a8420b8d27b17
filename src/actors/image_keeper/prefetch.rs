//! Images that the operator wants on the node before any task does: one after the other, and only while no task is being
//! started.

use crate::actors::shared::{Links, Shared};
use crate::actors::supervision::book::ask_until;
use crate::messages::Cx;
use crate::messages::image::{CredentialScope, EnsureImage, ImageError, PullPolicy};
use crate::spec::reference::without_password;
use crate::spec::settings::Settings;
use crate::telemetry::names;
use std::time::Duration;
use tracing::Instrument as _;

/// Beyond the pull's own bound, so that its error arrives and not ours.
const SLACK: Duration = Duration::from_secs(60);
/// Rest before what failed is tried again, and the longest; it doubles.
const REST: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));
/// How long starts of tasks are waited for: on a busy node there may always be one.
const YIELD: Duration = Duration::from_secs(300);

/// Ends when all are here, or will never be.
pub(super) async fn prefetch(shared: &Shared, links: &Links, settings: &Settings) {
    let mut left = settings.image_prefetch.clone();
    let mut rest = REST.0;
    loop {
        let mut failed = Vec::new();
        for image in left {
            wait_for_starts(shared).await;
            if !pull(links, settings, &image).await {
                failed.push(image);
            }
        }
        if failed.is_empty() {
            return;
        }
        left = failed;
        tokio::time::sleep(rest).await;
        rest = (rest * 2).min(REST.1);
    }
}

/// False if it is worth another try.
async fn pull(links: &Links, settings: &Settings, image: &str) -> bool {
    let request = EnsureImage {
        image: image.to_owned(),
        credentials: None,
        scope: CredentialScope::default(),
        policy: PullPolicy::IfNotPresent,
        timeout: settings.image_pull_timeout,
        job: "prefetch".to_owned(),
        snapshotter: settings.snapshotter.clone(),
        load: None,
        observer: None,
    };
    let told = without_password(image, image);
    let span = tracing::info_span!(parent: None, names::IMAGE_PREFETCH, { names::IMAGE_REF } = told);
    let work = async {
        let within = settings.image_pull_timeout.saturating_add(SLACK);
        match ask_until(&*links.ensure_image, request, Cx::current(), Some(within)).await {
            Ok(Ok(ready)) => {
                tracing::info!(
                    image.ref = ready.name,
                    pulled = ready.pulled,
                    "image of image_prefetch is here"
                );
                true
            }
            // It may be pushed later, as a node is often there before its images.
            Ok(Err(error)) if error.is_transient() || matches!(error, ImageError::NotFound { .. }) => {
                tracing::info!(%error, "image of image_prefetch is tried again later");
                false
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "image of image_prefetch cannot be pulled");
                true
            }
            Err(error) => {
                tracing::info!(%error, "image of image_prefetch is tried again later");
                false
            }
        }
    };
    work.instrument(span).await
}

async fn wait_for_starts(shared: &Shared) {
    let mut changed = shared.images.watch();
    let rest = async {
        while shared.images.is_busy() {
            // The sender lives as long as the process.
            changed.changed().await.ok();
        }
    };
    // Whether none is left or the patience: then it is its turn.
    tokio::time::timeout(YIELD, rest).await.ok();
}

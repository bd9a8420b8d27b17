//! | `ImagePuller` | |
//! |---|---|
//! | owns | who waits for which image; pulls in flight and their budgets |
//! | asked | `EnsureImage` |
//! | told | nothing |
//! | tells | `PullProgress` to the tasks that wait |
//! | mailbox | 64 |
//! | restart | in place; pulls in flight are cancelled, askers ask again, and containerd's ingests make them resume |
//!
//! Each asker is a task of the I/O runtime (`ensure`) with a deadline of its own. Askers share work in flight (`flights`),
//! which ends with the last of them; a private image on disk is for those who could pull it (`admission`), with the
//! credentials there are (`keyring`, `programs`). A pull (`course`) waits for its turn (`turns`, `budget`) and is watched (`watch`);
//! `fetch` brings its blobs, which `copy` writes as they come, large ones in parts (`lanes`).

mod admission;
mod budget;
mod copy;
mod course;
mod ensure;
mod facts;
mod fetch;
mod flights;
mod keyring;
mod lanes;
mod layer_spans;
mod lease;
mod load;
mod mark;
mod plan;
mod programs;
mod progress;
mod pull;
mod refusal;
mod registry;
mod transfer;
mod turns;
mod unpack;
mod watch;

use crate::actors::shared::{Configured, Links, Shared};
use crate::messages::image::{EnsureImage, ImageError, ImageReady};
use crate::messages::runtime::FaultKind;
use crate::messages::{Ask, Owed, Request as _};
use crate::spec::pull::{self as spec_pull, PullMethod};
use crate::spec::reference::without_password;
use crate::telemetry::names;
use crate::telemetry::propagate::handling;
use actix::{Actor, Context, Handler, Supervised};
use ensure::{Desk, Errand, Whereabouts, how_far};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::task::JoinSet;
use tracing::{Instrument as _, field};

/// Places in the mailbox.
pub const MAILBOX: usize = 64;

/// See the module.
pub struct ImagePuller {
    shared: Arc<Shared>,
    links: Arc<Links>,
    desk: Desk,
    /// Those who wait. Their work ends with this actor; then they ask again.
    askers: JoinSet<()>,
}

impl ImagePuller {
    /// A puller without work.
    #[must_use]
    pub fn new(shared: Arc<Shared>, links: Arc<Links>) -> Self {
        Self {
            desk: Desk::new(Arc::clone(&links), shared.io.clone()),
            shared,
            links,
            askers: JoinSet::new(),
        }
    }

    /// Forgets those who have their answer.
    fn sweep(&mut self) {
        while let Some(ended) = self.askers.try_join_next() {
            if let Err(panic) = ended {
                // Its reply is dropped: the asker asks again.
                tracing::error!(error = %panic, "an asker for an image panicked");
            }
        }
    }
}

/// Carries out what is asked, for as long as somebody waits for it.
async fn serve(shared: &Shared, desk: &Desk, req: EnsureImage, mut owed: Owed<Result<ImageReady, ImageError>>) {
    let span = owed.span().clone();
    let whereabouts = Whereabouts::default();
    let patience = tokio::time::sleep(req.timeout);
    let work = ensure(shared, desk, &req, &whereabouts, &span).instrument(span.clone());
    let answer = tokio::select! {
        biased;
        // A task that was stopped, or whose start nobody waits for.
        () = owed.abandoned() => return,
        answer = work => answer,
        () = patience => Some(Err(ImageError::Timeout {
            image: req.image.clone(),
            after: req.timeout,
            how_far: how_far(&whereabouts),
        })),
    };
    match answer {
        Some(answer) => owed.send(answer),
        // The reply drops: the asker asks again.
        None => tracing::error!(image.ref = without_password(&req.image, &req.image), "work for an image panicked"),
    }
}

async fn ensure(
    shared: &Shared,
    desk: &Desk,
    req: &EnsureImage,
    whereabouts: &Whereabouts,
    span: &tracing::Span,
) -> Option<Result<ImageReady, ImageError>> {
    let at = |source| ImageError::Containerd {
        image: req.image.clone(),
        source,
    };
    let configured = match shared.configured() {
        Ok(configured) => configured,
        Err(source) => return Some(Err(at(source))),
    };
    // Checked when they were set.
    let method = spec_pull::method(&configured.settings).unwrap_or(PullMethod::Auto);
    desk.set_budgets(spec_pull::budgets(&configured.settings, shared.cores));
    if let Err(e) = asked_for(&configured, req, method).await {
        return Some(Err(name_the_socket(e, &configured.settings.containerd_address)));
    }
    let errand = Errand {
        desk,
        configured: &configured,
        req,
        method,
        can_transfer: shared.transfer.load(Ordering::Relaxed),
        whereabouts,
        span,
    };
    let answer = errand.run().await?;
    Some(answer.map_err(|e| name_the_socket(e, &configured.settings.containerd_address)))
}

/// Asks containerd whether it has what task and operator name: what comes back from a pull into a snapshotter that is not
/// there does not name the option. The configured one is the health probe's to watch.
async fn asked_for(configured: &Configured, req: &EnsureImage, method: PullMethod) -> Result<(), ImageError> {
    let own_snapshotter = req.snapshotter != configured.settings.snapshotter;
    let by_transfer = req.load.is_none() && method == PullMethod::Transfer;
    if !own_snapshotter && !by_transfer {
        return Ok(());
    }
    let abilities = configured
        .gateway
        .abilities()
        .await
        .map_err(|source| ImageError::Containerd {
            image: req.image.clone(),
            source,
        })?;
    if own_snapshotter && !abilities.snapshotters.contains(&req.snapshotter) {
        return Err(ImageError::NoSnapshotter {
            image: req.image.clone(),
            snapshotter: req.snapshotter.clone(),
            known: abilities.snapshotters.join(", "),
        });
    }
    if by_transfer && !(abilities.transfer && reads_hosts(configured, req).await?) {
        return Err(ImageError::NoTransfer {
            image: req.image.clone(),
        });
    }
    Ok(())
}

async fn reads_hosts(configured: &Configured, req: &EnsureImage) -> Result<bool, ImageError> {
    let version = configured.gateway.version().await;
    let version = version.map_err(|source| ImageError::Containerd {
        image: req.image.clone(),
        source,
    })?;
    Ok(spec_pull::transfers_read_hosts(&version.version))
}

/// Every start comes here first: without containerd, this is the error that a user sees.
fn name_the_socket(mut error: ImageError, socket: &str) -> ImageError {
    if let ImageError::Containerd { source, .. } = &mut error
        && matches!(source.kind, FaultKind::Unreachable | FaultKind::Deadline)
    {
        source.text = format!("{} (option containerd_address: {socket})", source.text);
    }
    error
}

impl Actor for ImagePuller {
    type Context = Context<Self>;
}

impl Supervised for ImagePuller {
    fn restarting(&mut self, _ctx: &mut Self::Context) {
        *self = Self::new(Arc::clone(&self.shared), Arc::clone(&self.links));
    }
}

impl Handler<Ask<EnsureImage>> for ImagePuller {
    type Result = ();

    fn handle(&mut self, ask: Ask<EnsureImage>, _ctx: &mut Self::Context) {
        let Ask { req, cx, reply, .. } = ask;
        let span = handling!(cx, names::IMAGE_ENSURE, "image_puller", EnsureImage::NAME, { names::IMAGE_REF } = %without_password(&req.image, &req.image), { names::JOINED } = field::Empty);
        self.sweep();
        let (shared, desk, owed) = (Arc::clone(&self.shared), self.desk.clone(), Owed::new(reply, span));
        let work = async move { serve(&shared, &desk, req, owed).await };
        self.askers.spawn_on(work, &self.shared.io);
    }
}

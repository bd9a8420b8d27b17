//! | `ImagePuller` | |
//! |---|---|
//! | owns | pulls in flight |
//! | asked | `EnsureImage` |
//! | told | nothing |
//! | tells | `PullProgress` to the tasks that wait |
//! | mailbox | 64 |
//! | restart | in place; pulls in flight are cancelled, askers ask again, and containerd's ingests make them resume |

pub mod ensure;
mod facts;
mod fetch;
mod lease;
mod plan;
mod progress;
mod pull;
mod refusal;
mod registry;
mod transfer;
mod unpack;

use crate::actors::shared::{Configured, Links, Shared};
use crate::messages::image::{Credentials, EnsureImage, ImageError, ImageReady, PullPolicy};
use crate::messages::runtime::FaultKind;
use crate::messages::{Ask, Cx, Owed, Request as _};
use crate::telemetry::propagate::{self, handling};
use crate::telemetry::{Counter, names};
use actix::{Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, Supervised, WrapFuture as _};
use ensure::PullConfig;
use progress::{Progress, Watcher};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::task::AbortHandle;
use tracing::{Instrument as _, field};

/// Places in the mailbox.
pub const MAILBOX: usize = 64;

/// Callers share a pull only if they would have made the same one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PullKey {
    image: String,
    credentials: Option<Credentials>,
    policy: PullPolicy,
    snapshotter: String,
}

struct Pull {
    replies: Vec<Owed<Result<ImageReady, ImageError>>>,
    /// Context of the work's own span.
    cx: Cx,
    watchers: Arc<Mutex<Vec<Watcher>>>,
    work: AbortHandle,
}

impl Drop for Pull {
    fn drop(&mut self) {
        self.work.abort();
    }
}

/// See the module.
pub struct ImagePuller {
    shared: Arc<Shared>,
    links: Arc<Links>,
    /// What was learned about registries and images; harmless to lose.
    known: PullConfig,
    pulls: HashMap<PullKey, Pull>,
}

impl ImagePuller {
    /// A puller without work.
    #[must_use]
    pub fn new(shared: Arc<Shared>, links: Arc<Links>) -> Self {
        Self {
            shared,
            links,
            known: PullConfig::default(),
            pulls: HashMap::new(),
        }
    }

    fn begin(
        &mut self,
        key: PullKey,
        req: EnsureImage,
        owed: Owed<Result<ImageReady, ImageError>>,
        ctx: &mut Context<Self>,
    ) {
        let configured = match self.shared.configured() {
            Ok(configured) => configured,
            Err(source) => {
                owed.send(Err(ImageError::Containerd {
                    image: req.image,
                    source,
                }));
                return;
            }
        };
        let span = owed.span().clone();
        let cx = span.in_scope(Cx::current);
        let watchers = Arc::new(Mutex::new(Vec::from_iter(
            req.observer.clone().map(|task| Watcher { task, cx: cx.clone() }),
        )));
        let progress = Progress::new(req.image.clone(), Arc::clone(&watchers), Arc::clone(&self.links));
        let config = PullConfig {
            snapshotter: req.snapshotter.clone(),
            transfer: self.shared.transfer.load(std::sync::atomic::Ordering::Relaxed),
            ..self.known.clone()
        };
        let work = self.shared.io.spawn(
            async move {
                let done = match named_snapshotter(&configured, &req).await {
                    Ok(()) => ensure::ensure(&configured.gateway, &config, &req, &|event| progress.on(&event)).await,
                    Err(e) => Err(e),
                };
                let done = done.map_err(|e| name_the_socket(e, &configured.settings.containerd_address));
                progress.finish(&done);
                done
            }
            .instrument(span),
        );
        self.pulls.insert(
            key.clone(),
            Pull {
                replies: vec![owed],
                cx,
                watchers,
                work: work.abort_handle(),
            },
        );
        ctx.spawn(work.into_actor(self).map(move |done, actor: &mut Self, _| {
            let Some(mut pull) = actor.pulls.remove(&key) else {
                return;
            };
            match done {
                Ok(done) => {
                    for reply in pull.replies.drain(..) {
                        reply.send(done.clone());
                    }
                }
                // The replies drop: the askers ask again.
                Err(panic) => tracing::error!(image.ref = key.image, error = %panic, "a pull panicked"),
            }
        }));
    }
}

/// Asks containerd whether it has the snapshotter that a task names: what comes back from a pull into one that is not
/// there does not name the option. The configured one is the health probe's to watch.
async fn named_snapshotter(configured: &Configured, req: &EnsureImage) -> Result<(), ImageError> {
    if req.snapshotter == configured.settings.snapshotter {
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
    if abilities.snapshotters.contains(&req.snapshotter) {
        return Ok(());
    }
    Err(ImageError::NoSnapshotter {
        image: req.image.clone(),
        snapshotter: req.snapshotter.clone(),
        known: abilities.snapshotters.join(", "),
    })
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

    fn handle(&mut self, ask: Ask<EnsureImage>, ctx: &mut Self::Context) {
        let Ask { req, cx, reply, .. } = ask;
        let span = handling!(cx, names::IMAGE_ENSURE, "image_puller", EnsureImage::NAME, { names::IMAGE_REF } = %req.image, { names::JOINED } = field::Empty);
        let key = PullKey {
            image: req.image.clone(),
            credentials: req.credentials.clone(),
            policy: req.policy,
            snapshotter: req.snapshotter.clone(),
        };
        match self.pulls.get_mut(&key) {
            Some(pull) => {
                pull.watchers
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .extend(req.observer.map(|task| Watcher {
                        task,
                        cx: span.in_scope(Cx::current),
                    }));
                span.record(names::JOINED, true);
                propagate::link(&span, &pull.cx.0);
                Counter::ImagePullsShared.bump();
                pull.replies.push(Owed::new(reply, span));
            }
            None => self.begin(key, req, Owed::new(reply, span), ctx),
        }
    }
}

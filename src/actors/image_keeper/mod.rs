//! | `ImageKeeper` | |
//! |---|---|
//! | owns | when it is time to look for images that nobody needs, the prefetch under way, what was told already |
//! | asked | nothing |
//! | told | new settings; that an image may have come free |
//! | tells | `EnsureImage` to `ImagePuller` |
//! | mailbox | 8 |
//! | restart | in place; the labels of images and the containers there are tell the rest |
//!
//! Removes images that this driver has brought here and that no container uses any more, after a while or when the disk is
//! full (`spec::image_gc` decides), and pulls those that the operator wants here.

mod prefetch;
mod size;
mod sweep;

use crate::actors::shared::{Configured, Links, Shared, unix_nanos};
use crate::messages::runtime::{ContainerdFault, FaultKind};
use crate::telemetry::names;
use actix::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, SpawnHandle, StreamHandler, Supervised, WrapFuture as _,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use sweep::Looked;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::WatchStream;
use tracing::Instrument as _;

/// Places in the mailbox: nobody asks.
pub const MAILBOX: usize = 8;

/// Longest time between two looks: containers of others come and go without a word to us.
const PERIOD: Duration = Duration::from_secs(300);
/// The same where a full disk is waited for.
const PERIOD_OF_DISK: Duration = Duration::from_secs(60);
/// Shortest and longest rest after news: many tasks may end at once, and a look lists all containers.
const CALM: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// See the module.
pub struct ImageKeeper {
    shared: Arc<Shared>,
    links: Arc<Links>,
    next: Option<(SpawnHandle, Instant)>,
    looking: bool,
    /// There was news during a look.
    again: bool,
    /// With `dry_run`: what was told, so that it is told once.
    told: BTreeSet<String>,
    prefetch: Option<Prefetch>,
}

/// Images that are being pulled before any task wants them. Dropping it ends that.
struct Prefetch {
    configured: Configured,
    work: AbortHandle,
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.work.abort();
    }
}

impl ImageKeeper {
    /// A keeper that waits for the first configuration.
    #[must_use]
    pub fn new(shared: Arc<Shared>, links: Arc<Links>) -> Self {
        Self {
            shared,
            links,
            next: None,
            looking: false,
            again: false,
            told: BTreeSet::new(),
            prefetch: None,
        }
    }

    /// The settings, if images are to be removed at all.
    fn active(&self) -> Option<Configured> {
        let configured = self.shared.configured().ok()?;
        let settings = &configured.settings;
        (settings.enabled && settings.image_gc().enabled).then_some(configured)
    }

    /// Arms the one timer, unless it is armed for an earlier time.
    fn arm(&mut self, rest: Duration, ctx: &mut Context<Self>) {
        if self.active().is_none() {
            return self.disarm(ctx);
        }
        let at = Instant::now() + rest;
        if self.next.is_some_and(|(_, due)| due <= at) {
            return;
        }
        self.disarm(ctx);
        self.next = Some((ctx.run_later(rest, Self::look), at));
    }

    fn disarm(&mut self, ctx: &mut Context<Self>) {
        if let Some((next, _)) = self.next.take() {
            ctx.cancel_future(next);
        }
    }

    /// An image may have come free.
    fn news(&mut self, ctx: &mut Context<Self>) {
        let Some(configured) = self.active() else { return };
        if self.looking {
            self.again = true;
        } else {
            self.arm(calm(configured.settings.image_gc().delay), ctx);
        }
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        self.next = None;
        let Some(configured) = self.active().filter(|_| !self.looking) else {
            return;
        };
        self.looking = true;
        let gc = configured.settings.image_gc();
        let shared = Arc::clone(&self.shared);
        let told = std::mem::take(&mut self.told);
        let span = tracing::info_span!(parent: None, names::IMAGE_SWEEP, { names::ACTOR_NAME } = "image_keeper");
        let work = async move { sweep::sweep(&shared, &configured, told).await };
        let work = self.shared.io.spawn(work.instrument(span));
        ctx.spawn(work.into_actor(self).map(move |done, actor, ctx| {
            actor.looking = false;
            let due = match done {
                Ok(Ok(Looked { next, told })) => {
                    actor.told = told;
                    next
                }
                Ok(Err(fault)) => {
                    looked_in_vain(&fault);
                    None
                }
                Err(panic) => {
                    tracing::error!(error = %panic, "a look for images broke off");
                    None
                }
            };
            let period = if gc.high_watermark > 0 { PERIOD_OF_DISK } else { PERIOD };
            let until = |at: i64| Duration::from_nanos(u64::try_from(at.saturating_sub(unix_nanos())).unwrap_or(0));
            let rest = due.map_or(period, |at| until(at).clamp(CALM.0, period));
            actor.arm(rest, ctx);
            if std::mem::take(&mut actor.again) {
                actor.news(ctx);
            }
        }));
    }

    /// Begins to pull what the operator wants here, unless that is under way for the same settings.
    fn fetch(&mut self) {
        let wanted = self.shared.configured().ok();
        let wanted = wanted.filter(|c| c.settings.enabled && !c.settings.image_prefetch.is_empty());
        let same = |p: &Prefetch| {
            wanted
                .as_ref()
                .is_some_and(|w| Arc::ptr_eq(&w.settings, &p.configured.settings))
        };
        if self.prefetch.as_ref().is_some_and(same) {
            return;
        }
        self.prefetch = wanted.map(|configured| {
            let (shared, links) = (Arc::clone(&self.shared), Arc::clone(&self.links));
            let settings = Arc::clone(&configured.settings);
            let work = async move { prefetch::prefetch(&shared, &links, &settings).await };
            Prefetch {
                configured,
                work: self.shared.io.spawn(work).abort_handle(),
            }
        });
    }
}

/// How long to wait after news.
fn calm(delay: Duration) -> Duration {
    (delay / 4).clamp(CALM.0, CALM.1)
}

/// The next look finds the same.
fn looked_in_vain(fault: &ContainerdFault) {
    if fault.kind == FaultKind::Unreachable {
        // The health probe's to tell.
        tracing::debug!(error = %fault, "containerd is away: no look for images");
    } else {
        tracing::warn!(error = %fault, "could not look for images that nobody needs");
    }
}

impl Actor for ImageKeeper {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let mut configured = self.shared.configured.subscribe();
        configured.mark_changed();
        ctx.add_stream(WatchStream::from_changes(configured));
        ctx.add_stream(WatchStream::from_changes(self.shared.images.watch()));
    }
}

impl Supervised for ImageKeeper {
    fn restarting(&mut self, _ctx: &mut Self::Context) {
        *self = Self::new(Arc::clone(&self.shared), Arc::clone(&self.links));
    }
}

impl StreamHandler<Option<Configured>> for ImageKeeper {
    fn handle(&mut self, _configured: Option<Configured>, ctx: &mut Self::Context) {
        self.disarm(ctx);
        self.told.clear();
        self.news(ctx);
        self.fetch();
    }

    fn finished(&mut self, _ctx: &mut Self::Context) {}
}

impl StreamHandler<u64> for ImageKeeper {
    fn handle(&mut self, _count: u64, ctx: &mut Self::Context) {
        self.news(ctx);
    }

    fn finished(&mut self, _ctx: &mut Self::Context) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_after_news_follows_the_delay_within_bounds() {
        assert_eq!(calm(Duration::from_secs(1)), Duration::from_millis(250));
        assert_eq!(calm(Duration::from_secs(8)), Duration::from_secs(2));
        assert_eq!(calm(Duration::from_secs(180)), Duration::from_secs(30));
    }
}

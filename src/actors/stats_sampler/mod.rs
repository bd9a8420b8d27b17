//! | `StatsSampler` | |
//! |---|---|
//! | owns | who watches which task, the last reading of each stream |
//! | asked | `Watch` |
//! | told | `Unwatch` |
//! | tells | `Usage`, into the stream of each watcher |
//! | mailbox | 256 |
//! | restart | in place; its streams end, watchers watch again, counters are re-based |
//!
//! Reads cgroupfs itself: containerd, a shim and a runtime per task and sample would cost more than many a task. There
//! is one timer while anybody watches and none otherwise.

mod rates;
mod rhythm;
mod sweep;

use crate::actors::shared::Shared;
use crate::host::usage::Place;
use crate::messages::stats::{Samples, Unwatch, Usage, Watch, WatchId, Watched};
use crate::messages::{Ask, Fact as _, Request as _, Tell};
use crate::spec::identity::ContainerId;
use crate::telemetry::propagate::handling;
use crate::telemetry::{Counter, names};
use actix::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, SpawnHandle, Supervised, WrapFuture as _,
};
use rates::Reading;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use sweep::{Found, Look};
use tokio::sync::mpsc::{self, error::TrySendError};

/// Places in the mailbox: a host opens a stream per task at once when it starts.
pub const MAILBOX: usize = 256;

/// How early a stream may be served to share a sweep.
const EARLY: Duration = Duration::from_millis(5);

/// One stream.
struct Watcher {
    watched: Watched,
    /// Where the cgroup is, once it was found.
    place: Option<Arc<Place>>,
    last: Option<Reading>,
    /// On the sampler's clock.
    due: Duration,
    stream: mpsc::Sender<Box<Usage>>,
}

/// See the module.
pub struct StatsSampler {
    shared: Arc<Shared>,
    epoch: Instant,
    watchers: BTreeMap<WatchId, Watcher>,
    /// The one timer, and for when, on the sampler's clock.
    armed_for: Option<(Duration, SpawnHandle)>,
    sweeping: bool,
}

impl StatsSampler {
    /// A sampler that nobody asks anything yet.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            epoch: Instant::now(),
            watchers: BTreeMap::new(),
            armed_for: None,
            sweeping: false,
        }
    }

    /// The plugin's own setting, as it is now.
    fn setting(&self) -> Option<Duration> {
        self.shared.configured.borrow().as_ref()?.settings.stats_interval
    }

    /// Arms the one timer for whoever is due first; none if nobody watches.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        if let Some((_, timer)) = self.armed_for.take() {
            ctx.cancel_future(timer);
        }
        if self.sweeping {
            return;
        }
        let Some(due) = self.watchers.values().map(|w| w.due).min() else {
            return;
        };
        let rest = due.saturating_sub(self.epoch.elapsed());
        let timer = ctx.run_later(rest, |actor, ctx| {
            actor.armed_for = None;
            actor.sweep(ctx);
        });
        self.armed_for = Some((due, timer));
    }

    /// Looks at everybody who is due. A stream that nobody holds any more goes first.
    fn sweep(&mut self, ctx: &mut Context<Self>) {
        self.watchers.retain(|_, w| !w.stream.is_closed());
        let now = self.epoch.elapsed() + EARLY;
        let mut looks = BTreeMap::<ContainerId, Look>::new();
        for w in self.watchers.values().filter(|w| w.due <= now) {
            looks.entry(w.watched.container.clone()).or_insert_with(|| Look {
                task: w.watched.task.clone(),
                pid: w.watched.pid,
                place: w.place.clone(),
            });
        }
        if looks.is_empty() {
            return self.arm(ctx);
        }
        self.sweeping = true;
        let (version, epoch) = (self.shared.node.cgroups, self.epoch);
        let span = tracing::info_span!(parent: None, names::STATS_SWEEP, { names::ACTOR_NAME } = "stats_sampler", { names::COUNT } = looks.len());
        let work = self
            .shared
            .io
            .spawn_blocking(move || span.in_scope(|| sweep::sweep(looks, version, epoch)));
        ctx.spawn(work.into_actor(self).map(|found, actor, ctx| {
            actor.sweeping = false;
            match found {
                Ok(found) => actor.swept(&found),
                Err(e) => {
                    tracing::warn!(error = %e, "a sweep over the cgroups broke off");
                    actor.missed();
                }
            }
            actor.arm(ctx);
        }));
    }

    /// Hands out samples and sets when everybody is due again.
    fn swept(&mut self, found: &BTreeMap<ContainerId, Found>) {
        let now = self.epoch.elapsed();
        let setting = self.setting();
        for w in self.watchers.values_mut() {
            // Whoever came while this sweep was under way has the next one, at once.
            let Some(seen) = found.get(&w.watched.container) else {
                continue;
            };
            w.place.clone_from(&seen.place);
            // The reading was for another stream of the same container.
            if w.due > now + EARLY {
                continue;
            }
            let interval = rhythm::interval(setting, w.watched.interval);
            w.due = match (&seen.reading, &w.last) {
                (Some(_), None) => rhythm::first(now, interval),
                _ => rhythm::next(w.due, now, interval),
            };
            if let Some(reading) = &seen.reading {
                w.take(reading);
            }
        }
    }

    /// After a sweep that broke off: the next beat.
    fn missed(&mut self) {
        let (now, setting) = (self.epoch.elapsed(), self.setting());
        for w in self.watchers.values_mut().filter(|w| w.due <= now) {
            w.due = rhythm::next(w.due, now, rhythm::interval(setting, w.watched.interval));
        }
    }
}

impl Watcher {
    /// Tells the reader what was used since the last reading; the first one has nothing before it.
    fn take(&mut self, reading: &Reading) {
        let usage = self.last.as_ref().map(|last| rates::between(last, reading));
        match usage {
            // No time has passed since: the next reading tells.
            Some(None) => return,
            Some(Some(usage)) => match self.stream.try_send(Box::new(usage)) {
                Ok(()) | Err(TrySendError::Closed(_)) => {}
                Err(TrySendError::Full(_)) => Counter::StatsDropped.bump(),
            },
            None => {}
        }
        self.last = Some(*reading);
    }
}

impl Actor for StatsSampler {
    type Context = Context<Self>;
}

impl Supervised for StatsSampler {
    fn restarting(&mut self, _ctx: &mut Self::Context) {
        *self = Self::new(Arc::clone(&self.shared));
    }
}

impl Handler<Ask<Watch>> for StatsSampler {
    type Result = ();

    fn handle(&mut self, ask: Ask<Watch>, ctx: &mut Self::Context) {
        let Ask { req, cx, reply, .. } = ask;
        let Watch { id, watched } = req;
        let span = handling!(cx, names::STATS_WATCH, "stats_sampler", Watch::NAME, { names::TASK_ID } = %watched.task);
        let _entered = span.entered();
        let (stream, samples): (_, Samples) = mpsc::channel(1);
        let watcher = Watcher {
            watched,
            // Another stream of the same container may know it, but a look among all of them costs more than the one at
            // the process.
            place: None,
            last: None,
            // The first reading comes at once: a rate needs two.
            due: self.epoch.elapsed(),
            stream,
        };
        // Whoever is armed for now is armed for all who come until then.
        let is_armed = self.armed_for.is_some_and(|(at, _)| at <= watcher.due);
        self.watchers.insert(id, watcher);
        reply.send(samples);
        if !is_armed {
            self.arm(ctx);
        }
    }
}

impl Handler<Tell<Unwatch>> for StatsSampler {
    type Result = ();

    fn handle(&mut self, tell: Tell<Unwatch>, ctx: &mut Self::Context) {
        let _in = handling!(tell.cx, names::ACTOR_MESSAGE, "stats_sampler", Unwatch::NAME).entered();
        // The timer may have been for this one: then it finds nobody who is due, and is armed anew.
        if self.watchers.remove(&tell.fact.id).is_some() && self.watchers.is_empty() {
            self.arm(ctx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::usage::Counters;
    use crate::spec::identity::TaskId;

    fn reading(second: u64) -> Reading {
        Reading {
            on: Duration::from_secs(second),
            at: i64::try_from(second).unwrap(),
            counters: Counters::default(),
        }
    }

    #[test]
    fn a_slow_reader_misses_samples_and_holds_nobody_up() {
        let (stream, mut samples) = mpsc::channel(1);
        let mut watcher = Watcher {
            watched: Watched {
                task: TaskId::new("a/b/c"),
                container: ContainerId::reported("c"),
                pid: 1,
                interval: Duration::from_secs(1),
            },
            place: None,
            last: None,
            due: Duration::ZERO,
            stream,
        };
        // The first has nothing before it; the third finds the second unread; a clock that stands still says nothing.
        for second in [1, 2, 3, 3] {
            watcher.take(&reading(second));
        }
        assert_eq!(samples.try_recv().unwrap().at, 2);
        assert!(samples.try_recv().is_err());
        watcher.take(&reading(4));
        assert_eq!(samples.try_recv().unwrap().at, 4);
        drop(samples);
        watcher.take(&reading(5));
        assert!(watcher.stream.is_closed());
    }
}

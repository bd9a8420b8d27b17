//! | `Reaper` | |
//! |---|---|
//! | owns | when it is time to look, what was told already |
//! | asked | `Audit` |
//! | told | new settings |
//! | tells | `ReapContainer` to `ContainerFactory`, `ForgetTask` |
//! | mailbox | 8 |
//! | restart | in place; the next look finds the same |
//!
//! Looks at all that a task may leave behind, judges (`verdict`, pure) and removes what nobody needs any more. Nothing is
//! removed before the process has run for the grace period: Nomad asks for every task it knows when an agent starts.

mod bundle;
mod inventory;
mod sharing;
mod sweep;
mod verdict;

use crate::actors::shared::{Configured, Links, Shared};
use crate::messages::audit::{Audit, AuditError, Outcome, Report, Standing, Thing, ThingKind};
use crate::messages::runtime::FaultKind;
use crate::messages::{Ask, Owed, Request as _};
use crate::telemetry::names;
use crate::telemetry::propagate::handling;
use actix::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, SpawnHandle, StreamHandler, Supervised,
    WrapFuture as _,
};
use inventory::Depth;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tracing::Instrument as _;
use verdict::Scene;

/// Places in the mailbox: only the command line asks.
pub const MAILBOX: usize = 8;

/// When it is written on recovered containers whose they are now: Nomad asks for all of them when an agent starts.
const CLAIM_AFTER: Duration = Duration::from_secs(10);

/// See the module.
pub struct Reaper {
    shared: Arc<Shared>,
    links: Arc<Links>,
    next: Option<SpawnHandle>,
    claim: Option<SpawnHandle>,
    sweeping: bool,
    /// With `dry_run`: what was told, so that it is told once.
    told: BTreeSet<(ThingKind, String)>,
}

impl Reaper {
    /// A reaper that waits for the first configuration.
    #[must_use]
    pub fn new(shared: Arc<Shared>, links: Arc<Links>) -> Self {
        Self {
            shared,
            links,
            next: None,
            claim: None,
            sweeping: false,
            told: BTreeSet::new(),
        }
    }

    /// Arms the one timer. None without a configuration or if the reaper is switched off.
    fn arm(&mut self, rest: impl FnOnce(Duration, Duration) -> Duration, ctx: &mut Context<Self>) {
        if let Some(next) = self.next.take() {
            ctx.cancel_future(next);
        }
        let Ok(configured) = self.shared.configured() else {
            return;
        };
        let settings = configured.settings.reaper();
        if !configured.settings.enabled || !settings.enabled || self.sweeping {
            return;
        }
        let rest = rest(settings.period, settings.grace);
        self.next = Some(ctx.run_later(rest, Self::look));
    }

    /// The first look comes when the process has run for the grace period, also if the actor began anew meanwhile.
    fn arm_first(&mut self, ctx: &mut Context<Self>) {
        let ran = self.shared.served.running();
        self.arm(|_, grace| grace.saturating_sub(ran), ctx);
    }

    /// Writes on the containers of recovered tasks that they are this process's, whether orphans are looked for or not: others
    /// judge by it.
    fn claim(&mut self, ctx: &mut Context<Self>) {
        let Ok(configured) = self.shared.configured() else {
            return;
        };
        let (shared, links) = (Arc::clone(&self.shared), Arc::clone(&self.links));
        let span = tracing::info_span!(parent: None, names::REAPER_SWEEP, { names::ACTOR_NAME } = "reaper");
        let work = async move {
            let grace = configured.settings.reaper().grace;
            match inventory::take(&shared, &links, &configured, grace, Depth::Remains).await {
                Ok(scene) => sweep::claim(&shared, &configured, &scene).await,
                Err(error) => looked_in_vain(&error),
            }
        };
        let work = self.shared.io.spawn(work.instrument(span));
        ctx.spawn(work.into_actor(self).map(|done, _, _| {
            if let Err(panic) = done {
                tracing::error!(error = %panic, "recovered containers were not claimed");
            }
        }));
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        self.next = None;
        let Ok(configured) = self.shared.configured() else {
            return;
        };
        self.sweeping = true;
        let settings = configured.settings.reaper();
        let (shared, links) = (Arc::clone(&self.shared), Arc::clone(&self.links));
        let span = tracing::info_span!(parent: None, names::REAPER_SWEEP, { names::ACTOR_NAME } = "reaper");
        let (fix, grace) = (!settings.dry_run, settings.grace);
        let work = async move {
            let scene = inventory::take(&shared, &links, &configured, grace, Depth::Remains).await?;
            sweep::claim(&shared, &configured, &scene).await;
            let (scene, mut things) = seen_twice(&shared, &links, &configured, (grace, Depth::Remains), scene).await?;
            if fix {
                sweep::sweep(&shared, &links, &configured, &scene, &mut things).await;
            }
            Ok(things)
        };
        let work = self.shared.io.spawn(work.instrument(span));
        ctx.spawn(work.into_actor(self).map(move |done, actor, ctx| {
            actor.sweeping = false;
            match done {
                Ok(Ok(things)) if fix => drop(things),
                Ok(Ok(things)) => actor.tell(&things),
                Ok(Err(error)) => looked_in_vain(&error),
                Err(panic) => tracing::error!(error = %panic, "a look for orphans broke off"),
            }
            actor.arm(|period, _| period, ctx);
        }));
    }

    /// With `dry_run`: says what would be removed.
    fn tell(&mut self, things: &[Thing]) {
        let orphans = things.iter().filter(|t| t.standing == Standing::Orphan);
        let mut still = BTreeSet::new();
        for thing in orphans {
            let key = (thing.kind, thing.name.clone());
            if !self.told.contains(&key) {
                let (kind, name, owner, why) = (thing.kind.name(), &thing.name, &thing.owner, &thing.why);
                tracing::info!(kind, name, owner, why, "orphan would be removed (reaper.dry_run)");
            }
            still.insert(key);
        }
        self.told = still;
    }
}

/// The next look finds the same.
fn looked_in_vain(error: &AuditError) {
    match error {
        // The health probe's to tell.
        AuditError::Containerd(fault) if fault.kind == FaultKind::Unreachable => {
            tracing::debug!(error = %error, "containerd is away: no look for orphans");
        }
        AuditError::Containerd(_) | AuditError::Host(_) => {
            tracing::warn!(error = %error, "could not look for orphans");
        }
    }
}

/// One look on demand.
async fn audit(
    shared: &Arc<Shared>,
    links: &Links,
    configured: &Configured,
    req: &Audit,
) -> Result<Report, AuditError> {
    let grace = req.grace.unwrap_or_else(|| configured.settings.reaper().grace);
    let scene = inventory::take(shared, links, configured, grace, Depth::All).await?;
    let (scene, mut things) = seen_twice(shared, links, configured, (grace, Depth::All), scene).await?;
    if req.fix {
        sweep::sweep(shared, links, configured, &scene, &mut things).await;
    }
    debug_assert!(req.fix || things.iter().all(|t| t.outcome == Outcome::Kept));
    Ok(Report { things })
}

/// The judgement on a scene. What has lost its container counts only if it is there at a second look: the things of a
/// container are seen one after the other, and one that is made or removed at the moment is seen by halves.
async fn seen_twice(
    shared: &Arc<Shared>,
    links: &Links,
    configured: &Configured,
    (grace, depth): (Duration, Depth),
    scene: Scene,
) -> Result<(Scene, Vec<Thing>), AuditError> {
    let things = verdict::judge(&scene);
    let is_alone = |t: &Thing| t.standing.is_finding() && t.container.is_none() && t.kind != ThingKind::Container;
    let first: BTreeSet<_> = things
        .iter()
        .filter(|t| is_alone(t))
        .map(|t| (t.kind, t.name.clone()))
        .collect();
    if first.is_empty() {
        return Ok((scene, things));
    }
    let scene = inventory::take(shared, links, configured, grace, depth).await?;
    let mut things = verdict::judge(&scene);
    things.retain(|t| !is_alone(t) || first.contains(&(t.kind, t.name.clone())));
    Ok((scene, things))
}

impl Actor for Reaper {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let mut configured = self.shared.configured.subscribe();
        configured.mark_changed();
        let changes = tokio_stream::wrappers::WatchStream::from_changes(configured);
        ctx.add_stream(changes);
    }
}

impl Supervised for Reaper {
    fn restarting(&mut self, _ctx: &mut Self::Context) {
        *self = Self::new(Arc::clone(&self.shared), Arc::clone(&self.links));
    }
}

impl StreamHandler<Option<Configured>> for Reaper {
    fn handle(&mut self, _configured: Option<Configured>, ctx: &mut Self::Context) {
        self.arm_first(ctx);
        if let Some(claim) = self.claim.take() {
            ctx.cancel_future(claim);
        }
        self.claim = Some(ctx.run_later(CLAIM_AFTER, Self::claim));
    }

    fn finished(&mut self, _ctx: &mut Self::Context) {}
}

impl Handler<Ask<Audit>> for Reaper {
    type Result = ();

    fn handle(&mut self, ask: Ask<Audit>, ctx: &mut Self::Context) {
        let Ask { req, cx, reply, .. } = ask;
        let span = handling!(cx, names::REAPER_AUDIT, "reaper", Audit::NAME);
        let owed = Owed::new(reply, span.clone());
        let configured = match self.shared.configured() {
            Ok(configured) => configured,
            Err(fault) => return owed.send(Err(fault.into())),
        };
        let (shared, links) = (Arc::clone(&self.shared), Arc::clone(&self.links));
        let work = async move { audit(&shared, &links, &configured, &req).await };
        let work = self.shared.io.spawn(work.instrument(span));
        ctx.spawn(work.into_actor(self).map(|done, _, _| match done {
            Ok(answer) => owed.send(answer),
            Err(panic) => owed.send(Err(AuditError::Host(panic.to_string()))),
        }));
    }
}

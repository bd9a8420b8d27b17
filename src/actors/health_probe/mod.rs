//! | `HealthProbe` | |
//! |---|---|
//! | owns | the verdict on containerd, when the canary is run |
//! | asked | nothing |
//! | told | `ProbeNow`; new settings |
//! | tells | the verdict, by a watch channel that outlives it; the canary's `EnsureImage`, `CreateContainer`, `RemoveContainer` |
//! | mailbox | 8 |
//! | restart | in place; the last verdict stands until the first probe, which comes at once |

mod attributes;
mod canary;
mod look;
pub mod policy;
pub mod verdict;

use crate::actors::shared::{Configured, Links, Shared};
use crate::messages::health::{Health, ProbeNow};
use crate::messages::runtime::FaultKind;
use crate::messages::{Cx, Fact as _, Tell};
use crate::spec::settings::CanarySettings;
use crate::telemetry::names;
use crate::telemetry::propagate::{self, handling};
use actix::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, SpawnHandle, Supervised, WrapFuture as _,
};
use look::Programs;
use policy::{Canary, Trouble};
use std::sync::Arc;
use std::time::Duration;
use tracing::Instrument as _;
use verdict::{Finding, Memory};

/// Places in the mailbox: `ProbeNow` is idempotent, more would say nothing new.
pub const MAILBOX: usize = 8;

/// Rest between two probes. Short enough that a hung containerd is found within 15 s (two probes of 3 s), long
/// enough to cost nothing: two unary calls on an open connection.
const INTERVAL: Duration = Duration::from_secs(5);

/// Rest before another look at a containerd that was there and refuses: one that is started anew is back by then.
const SOON: Duration = Duration::from_secs(2);

/// When to look again.
enum Again {
    AtOnce,
    Soon,
    Later,
}

/// See the module.
pub struct HealthProbe {
    shared: Arc<Shared>,
    links: Arc<Links>,
    memory: Memory,
    next: Option<SpawnHandle>,
    /// The next look decides whether a containerd that refuses is told: nothing calls for it before its time.
    decides: bool,
    probing: bool,
    /// As last found, to judge anew when the canary has something to say.
    found: Option<Finding>,
    programs: Option<Programs>,
    canary: Canary,
    canary_next: Option<SpawnHandle>,
    /// Number of the run whose outcome counts; what came of another is not asked any more.
    canary_run: Option<u64>,
    /// What an earlier process may have left was looked for.
    swept: bool,
}

impl HealthProbe {
    /// A probe that waits for the first configuration.
    #[must_use]
    pub fn new(shared: Arc<Shared>, links: Arc<Links>) -> Self {
        let (memory, canary) = {
            let last = shared.verdict.borrow();
            (Memory::resume(&last), Canary::resume(&last))
        };
        Self {
            shared,
            links,
            memory,
            next: None,
            decides: false,
            probing: false,
            found: None,
            programs: None,
            canary,
            canary_next: None,
            canary_run: None,
            swept: false,
        }
    }

    /// `cause`: what called for it, if anything but the clock did.
    fn probe(&mut self, cause: &Cx, ctx: &mut Context<Self>) {
        if self.probing {
            return;
        }
        let Ok(configured) = self.shared.configured() else {
            return;
        };
        self.probing = true;
        self.decides = false;
        if let Some(next) = self.next.take() {
            ctx.cancel_future(next);
        }
        let (shared, known) = (Arc::clone(&self.shared), self.programs.take());
        let span = tracing::info_span!(parent: None, names::HEALTH_PROBE, { names::ACTOR_NAME } = "health_probe");
        propagate::link(&span, &cause.0);
        let probe = async move { look::look(&configured, &shared, known).await }.instrument(span);
        ctx.spawn(probe.into_actor(self).map(|(finding, programs), actor, ctx| {
            actor.probing = false;
            actor.programs = programs;
            let again = actor.publish(&finding);
            actor.keep_canary(&finding, ctx);
            actor.found = Some(finding);
            actor.decides = matches!(again, Again::Soon);
            let rest = match again {
                Again::AtOnce => return actor.probe(&Cx::default(), ctx),
                Again::Soon => SOON,
                Again::Later => INTERVAL,
            };
            actor.next = Some(ctx.run_later(rest, |actor, ctx| actor.probe(&Cx::default(), ctx)));
        }));
    }

    /// Publishes what was found; when it calls for another look.
    fn publish(&mut self, finding: &Finding) -> Again {
        let Some(verdict) = self.memory.judge(finding, self.complaint()) else {
            return match finding {
                // The answer comes at once, and a restart takes a moment.
                Finding::Fault { fault, .. } if fault.kind == FaultKind::Unreachable => Again::Soon,
                // As does a program that is replaced.
                Finding::Serving(_) => Again::Soon,
                _ => Again::AtOnce,
            };
        };
        self.shared.verdict.send_if_modified(|current| {
            if *current == verdict {
                return false;
            }
            match verdict.health {
                Health::Healthy => {
                    tracing::info!(health = ?verdict.health, description = verdict.description, "health changed")
                }
                Health::Unhealthy | Health::Undetected => {
                    tracing::warn!(health = ?verdict.health, description = verdict.description, "health changed");
                }
            }
            *current = verdict;
            true
        });
        Again::Later
    }

    /// What the canary says against a containerd that serves, as long as the operator wants to hear it.
    fn complaint(&self) -> Option<String> {
        self.canary_settings().and_then(|_| self.canary.complaint())
    }

    /// The canary is run while containerd serves and the operator wants it, and at once when that begins.
    fn keep_canary(&mut self, finding: &Finding, ctx: &mut Context<Self>) {
        if self.canary_run.is_some() {
            return;
        }
        let wanted = self.canary_settings();
        let serves = matches!(finding, Finding::Serving(_));
        if serves && wanted.is_some() {
            if self.canary_next.is_none() {
                self.run_canary(ctx);
            }
            return;
        }
        if let Some(next) = self.canary_next.take() {
            ctx.cancel_future(next);
        }
        if wanted.is_none() {
            self.canary = Canary::default();
        }
        let reaps = self.shared.configured().is_ok_and(|c| c.settings.reaper().enabled);
        if serves && reaps && !self.swept {
            self.swept = true;
            let (shared, links) = (Arc::clone(&self.shared), Arc::clone(&self.links));
            self.shared
                .io
                .spawn(async move { canary::sweep(&shared, &links).await });
        }
    }

    fn canary_settings(&self) -> Option<CanarySettings> {
        let configured = self.shared.configured().ok()?;
        let canary = configured.settings.canary.clone()?;
        canary.enabled.then_some(canary)
    }

    fn run_canary(&mut self, ctx: &mut Context<Self>) {
        let Some(settings) = self.canary_settings() else {
            return;
        };
        let number = canary::number();
        (self.canary_run, self.swept) = (Some(number), true);
        let period = settings.period;
        let (shared, links) = (Arc::clone(&self.shared), Arc::clone(&self.links));
        let span = tracing::info_span!(parent: None, names::HEALTH_CANARY, { names::ACTOR_NAME } = "health_probe");
        // On the I/O runtime: it comes to its end, the removal, also if this actor dies.
        let run = self.shared.io.spawn(
            async move {
                canary::sweep(&shared, &links).await;
                canary::run(&shared, &links, &settings, number).await
            }
            .instrument(span),
        );
        ctx.spawn(run.into_actor(self).map(move |outcome, actor, ctx| {
            if actor.canary_run != Some(number) {
                return;
            }
            let outcome = outcome.unwrap_or_else(|e| {
                Err(Trouble {
                    step: "running it".to_owned(),
                    text: e.to_string(),
                })
            });
            actor.canary_ended(outcome, period, ctx);
        }));
    }

    fn canary_ended(&mut self, outcome: Result<(), Trouble>, period: Duration, ctx: &mut Context<Self>) {
        self.canary_run = None;
        match &outcome {
            Ok(()) => tracing::debug!("the canary ran"),
            Err(trouble) => tracing::warn!(step = trouble.step, error = trouble.text, "the canary failed"),
        }
        if !matches!(self.found, Some(Finding::Serving(_))) {
            // containerd went away meanwhile, which is told as such. The next run comes when it serves again.
            return;
        }
        let rest = self.canary.note(outcome, period);
        self.canary_next = Some(ctx.run_later(rest, |actor, ctx| {
            actor.canary_next = None;
            actor.run_canary(ctx);
        }));
        if let Some(found) = self.found.take() {
            self.publish(&found);
            self.found = Some(found);
        }
    }
}

impl Actor for HealthProbe {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let mut configured = self.shared.configured.subscribe();
        configured.mark_changed();
        let changes = tokio_stream::wrappers::WatchStream::from_changes(configured);
        ctx.add_stream(changes);
        self.probe(&Cx::default(), ctx);
    }
}

impl Supervised for HealthProbe {
    fn restarting(&mut self, _ctx: &mut Self::Context) {
        *self = Self::new(Arc::clone(&self.shared), Arc::clone(&self.links));
    }
}

impl actix::StreamHandler<Option<Configured>> for HealthProbe {
    fn handle(&mut self, _configured: Option<Configured>, ctx: &mut Self::Context) {
        self.probing = false;
        // What runs or was planned does so by other settings; what runs is swept away.
        (self.canary_run, self.swept) = (None, false);
        if let Some(next) = self.canary_next.take() {
            ctx.cancel_future(next);
        }
        self.probe(&Cx::default(), ctx);
    }

    fn finished(&mut self, _ctx: &mut Self::Context) {}
}

impl Handler<Tell<ProbeNow>> for HealthProbe {
    type Result = ();

    fn handle(&mut self, tell: Tell<ProbeNow>, ctx: &mut Self::Context) {
        let span = handling!(tell.cx, names::ACTOR_MESSAGE, "health_probe", ProbeNow::NAME);
        if self.decides {
            return;
        }
        self.probe(&span.in_scope(Cx::current), ctx);
    }
}

//! | `HealthProbe` | |
//! |---|---|
//! | owns | the verdict on containerd |
//! | asked | nothing |
//! | told | `ProbeNow`; new settings |
//! | tells | the verdict, by a watch channel that outlives it |
//! | mailbox | 8 |
//! | restart | in place; the last verdict stands until the first probe, which comes at once |

pub mod verdict;

use crate::actors::shared::{Configured, Shared};
use crate::messages::health::{Health, ProbeNow};
use crate::messages::{Cx, Fact as _, Tell};
use crate::spec::gates::Gates;
use crate::telemetry::names;
use crate::telemetry::propagate::{self, handling};
use actix::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, SpawnHandle, Supervised, WrapFuture as _,
};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tracing::Instrument as _;
use verdict::{Finding, Memory};

/// Places in the mailbox: `ProbeNow` is idempotent, more would say nothing new.
pub const MAILBOX: usize = 8;

/// Rest between two probes. Short enough that a hung containerd is found within 15 s (two probes of 3 s), long
/// enough to cost nothing: one unary call on an open connection.
const INTERVAL: Duration = Duration::from_secs(5);

/// See the module.
pub struct HealthProbe {
    shared: Arc<Shared>,
    memory: Memory,
    next: Option<SpawnHandle>,
    probing: bool,
}

impl HealthProbe {
    /// A probe that waits for the first configuration.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Self {
        let memory = Memory::resume(shared.verdict.borrow().health);
        Self {
            shared,
            memory,
            next: None,
            probing: false,
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
        if let Some(next) = self.next.take() {
            ctx.cancel_future(next);
        }
        let shared = Arc::clone(&self.shared);
        let span = tracing::info_span!(parent: None, names::HEALTH_PROBE, { names::ACTOR_NAME } = "health_probe");
        propagate::link(&span, &cause.0);
        let probe = async move { look(&configured, &shared).await }.instrument(span);
        ctx.spawn(probe.into_actor(self).map(|finding, actor, ctx| {
            actor.probing = false;
            let again_at_once = actor.publish(&finding);
            if again_at_once {
                actor.probe(&Cx::default(), ctx);
            } else {
                actor.next = Some(ctx.run_later(INTERVAL, |actor, ctx| actor.probe(&Cx::default(), ctx)));
            }
        }));
    }

    /// Publishes what was found; true if it calls for another look at once.
    fn publish(&mut self, finding: &Finding) -> bool {
        let Some(verdict) = self.memory.judge(finding) else {
            return true;
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
        false
    }
}

async fn look(configured: &Configured, shared: &Shared) -> Finding {
    let settings = &configured.settings;
    if !settings.enabled {
        return Finding::Disabled;
    }
    if !shared.node.is_root {
        return Finding::NotRoot;
    }
    let gates = match Gates::of(settings) {
        Ok(gates) => gates,
        // Checked when the settings came; said here too rather than swallowed.
        Err(e) => return Finding::BadSettings(e.to_string()),
    };
    let version = match configured.gateway.version().await {
        Ok(version) => version,
        Err(fault) => {
            let present = tokio::fs::try_exists(configured.gateway.socket())
                .await
                .unwrap_or(false);
            return Finding::Fault {
                fault,
                socket: configured.gateway.socket().to_owned(),
                present,
            };
        }
    };
    match configured.gateway.abilities().await {
        Ok(abilities) => {
            shared.transfer.store(abilities.transfer, Ordering::Relaxed);
            Finding::Serving {
                version: version.version,
                revision: version.revision,
                snapshotters: abilities.snapshotters,
                snapshotter: settings.snapshotter.clone(),
                runtime: settings.containerd_runtime.clone(),
                cgroup: shared.node.cgroups,
                gates: Box::new(gates),
            }
        }
        Err(fault) => Finding::Fault {
            fault,
            socket: configured.gateway.socket().to_owned(),
            present: true,
        },
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
        *self = Self::new(Arc::clone(&self.shared));
    }
}

impl actix::StreamHandler<Option<Configured>> for HealthProbe {
    fn handle(&mut self, _configured: Option<Configured>, ctx: &mut Self::Context) {
        self.probing = false;
        self.probe(&Cx::default(), ctx);
    }

    fn finished(&mut self, _ctx: &mut Self::Context) {}
}

impl Handler<Tell<ProbeNow>> for HealthProbe {
    type Result = ();

    fn handle(&mut self, tell: Tell<ProbeNow>, ctx: &mut Self::Context) {
        let span = handling!(tell.cx, names::ACTOR_MESSAGE, "health_probe", ProbeNow::NAME);
        self.probe(&span.in_scope(Cx::current), ctx);
    }
}

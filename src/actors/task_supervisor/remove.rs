//! Destroy: kill if it runs, remove all that is the task's own, forget it.
//!
//! The host asks once and does not look at the answer, so a removal that fails is owed: it is tried again until it is
//! done, by this supervisor, which ends only then.

use super::state::{Event, State};
use super::{ACTOR, TaskSupervisor};
use crate::actors::supervision::book::ask_until;
use crate::messages::container::RemoveContainer;
use crate::messages::runtime::{ForgetTask, TaskView};
use crate::messages::task::{Destroy, TaskError};
use crate::messages::{Ask, Cx, Owed, Request as _};
use crate::telemetry::names;
use crate::telemetry::propagate::handling;
use actix::{ActorFutureExt as _, AsyncContext as _, Context, Handler, SpawnHandle, WrapFuture as _};
use std::sync::Arc;
use std::time::Duration;
use tracing::Instrument as _;

/// Bound of one removal including its wait for admission.
const REMOVE_WITHIN: Duration = Duration::from_secs(300);

/// First and longest rest before a removal that failed is tried again.
const REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// A removal that failed.
#[derive(Default)]
pub(super) struct Debt {
    /// The last rest; `None` if nothing is owed.
    rest: Option<Duration>,
    timer: Option<SpawnHandle>,
    /// What kept it from being done was ended by force, once.
    forced: bool,
}

impl Debt {
    /// What a restarted supervisor takes over.
    pub(super) fn inherit(&self) -> Self {
        Self {
            rest: self.rest,
            timer: None,
            forced: self.forced,
        }
    }

    pub(super) fn is_owed(&self) -> bool {
        self.rest.is_some()
    }
}

impl Handler<Ask<Destroy>> for TaskSupervisor {
    type Result = ();

    fn handle(&mut self, ask: Ask<Destroy>, ctx: &mut Self::Context) {
        let Ask { req, cx, reply, .. } = ask;
        let span = handling!(cx, names::TASK_DESTROY, ACTOR, Destroy::NAME, { names::TASK_ID } = %self.id, { names::FORCE } = req.force);
        let reply = Owed::new(reply, span.clone());
        // Not known whether it runs: without force nothing that may run is removed.
        if let (Some(doubt), false) = (self.doubt(), req.force) {
            reply.send(Err(doubt));
            return;
        }
        let _entered = span.entered();
        if !req.force && self.state == State::Absent {
            return self.destroy_if_ended(reply, ctx);
        }
        self.destroy(reply, req.force, ctx);
    }
}

impl TaskSupervisor {
    fn destroy(&mut self, reply: Owed<Result<(), TaskError>>, force: bool, ctx: &mut Context<Self>) {
        self.waiting.destroy.push(reply);
        if self.apply(&Event::DestroyAsked { force }, ctx).is_err()
            && let Some(reply) = self.waiting.destroy.pop()
        {
            reply.send(Err(TaskError::StillRunning));
        }
    }
}

impl TaskSupervisor {
    /// Nothing is known here of a task that may run all the same: containerd is asked.
    fn destroy_if_ended(&mut self, reply: Owed<Result<(), TaskError>>, ctx: &mut Context<Self>) {
        let (configured, container) = (self.configured(), self.container.clone());
        let look = async move { configured?.gateway.task(container.as_str()).await };
        ctx.spawn(
            look.in_current_span()
                .into_actor(self)
                .map(move |found, actor, ctx| match found {
                    Ok(Some(TaskView::Running { .. })) => reply.send(Err(TaskError::StillRunning)),
                    // Also if a start or a recovery has come first: the state machine decides then.
                    Ok(Some(TaskView::Created { .. } | TaskView::Stopped(_)) | None) => {
                        actor.destroy(reply, false, ctx)
                    }
                    Err(fault) => reply.send(Err(TaskError::Containerd(fault))),
                }),
        );
    }

    /// Those who wait for the removal wait for the second attempt.
    fn remove_by_force(&mut self, ctx: &mut Context<Self>) {
        let force = self.force();
        ctx.spawn(
            force
                .in_current_span()
                .into_actor(self)
                .map(|forced, actor: &mut Self, ctx| {
                    if let Err(fault) = forced {
                        tracing::warn!(task.id = %actor.id, error = %fault, "containerd does not answer: what is left of the task is removed when it does");
                    }
                    actor.remove(ctx);
                }),
        );
    }

    pub(super) fn remove(&mut self, ctx: &mut Context<Self>) {
        self.disarm(ctx);
        self.links.forget_task.must_deliver(
            ForgetTask {
                container: self.container.clone(),
            },
            Cx::current(),
        );
        let (links, cx, req) = (
            Arc::clone(&self.links),
            Cx::current(),
            RemoveContainer {
                container: self.container.clone(),
                go_namespace: self.adopted.as_ref().map(|handle| handle.namespace.clone()),
            },
        );
        let work =
            async move { ask_until(&*links.remove_container, req, cx, Some(REMOVE_WITHIN)).await }.in_current_span();
        ctx.spawn(work.into_actor(self).map(|answer, actor, ctx| {
            let error = match answer {
                Ok(Ok(())) => return actor.note(&Event::Removed, ctx),
                Ok(Err(e)) => TaskError::Removal(e),
                Err(e) => TaskError::Driver(e.to_string()),
            };
            // Slow or hung, the shim, containerd or a process of the task: it may be done once these are ended.
            if error.is_transient() && !std::mem::replace(&mut actor.debt.forced, true) {
                tracing::warn!(task.id = %actor.id, error = %error, "cannot remove the container, ending by force what keeps it");
                return actor.remove_by_force(ctx);
            }
            if actor.debt.is_owed() {
                tracing::debug!(task.id = %actor.id, error = %error, "still cannot remove the container");
            } else {
                tracing::warn!(task.id = %actor.id, error = %error, "cannot remove the container, will try again");
            }
            actor.note(&Event::RemoveFailed, ctx);
            actor.owe_removal(ctx);
            for reply in actor.waiting.destroy.drain(..).chain(actor.waiting.stop.drain(..)) {
                reply.send(Err(error.clone()));
            }
        }));
    }

    /// Tries the removal after a rest.
    pub(super) fn owe_removal(&mut self, ctx: &mut Context<Self>) {
        let rest = self.debt.rest.map_or(REST.0, |rest| (rest * 2).min(REST.1));
        // Force is used once in each try: a shim may have hung only after containerd came back.
        self.forgive(ctx);
        self.debt.rest = Some(rest);
        self.debt.timer = Some(ctx.run_later(rest, |actor, ctx| {
            actor.debt.timer = None;
            actor.note(&Event::DestroyAsked { force: true }, ctx);
        }));
    }

    /// The task begins anew: nothing is owed.
    pub(super) fn forgive(&mut self, ctx: &mut Context<Self>) {
        if let Some(timer) = std::mem::take(&mut self.debt).timer {
            ctx.cancel_future(timer);
        }
    }
}

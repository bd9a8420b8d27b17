//! Destroy: kill if it runs, remove all that is the task's own, forget it.

use super::state::Event;
use super::{ACTOR, TaskSupervisor};
use crate::actors::supervision::book::ask_until;
use crate::messages::container::RemoveContainer;
use crate::messages::runtime::ForgetTask;
use crate::messages::task::{Destroy, TaskError};
use crate::messages::{Ask, Cx, Owed, Request as _};
use crate::telemetry::names;
use crate::telemetry::propagate::handling;
use actix::{ActorFutureExt as _, AsyncContext as _, Context, Handler, WrapFuture as _};
use std::sync::Arc;
use std::time::Duration;
use tracing::Instrument as _;

/// Bound of one removal including its wait for admission.
const REMOVE_WITHIN: Duration = Duration::from_secs(300);

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
        self.waiting.destroy.push(reply);
        if self.apply(&Event::DestroyAsked { force: req.force }, ctx).is_err()
            && let Some(reply) = self.waiting.destroy.pop()
        {
            reply.send(Err(TaskError::StillRunning));
        }
    }
}

impl TaskSupervisor {
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
            },
        );
        let work =
            async move { ask_until(&*links.remove_container, req, cx, Some(REMOVE_WITHIN)).await }.in_current_span();
        ctx.spawn(work.into_actor(self).map(|answer, actor, ctx| {
            let error = match answer {
                Ok(Ok(())) => return actor.note(&Event::Removed, ctx),
                Ok(Err(e)) => TaskError::Container(e),
                Err(e) => TaskError::Driver(e.to_string()),
            };
            tracing::warn!(task.id = %actor.id, error = %error, "cannot remove the container");
            actor.note(&Event::RemoveFailed, ctx);
            for reply in actor.waiting.destroy.drain(..).chain(actor.waiting.stop.drain(..)) {
                reply.send(Err(error.clone()));
            }
        }));
    }
}

//! containerd is away: the task's shim is asked for the exit.
//!
//! A containerd that starts again removes the shims of tasks that have ended, and their exits with them (see
//! `containerd::shim`). So the exit has to be fetched before that, and who waits for it need not wait for containerd.

use super::{ACTOR, TaskSupervisor};
use crate::messages::runtime::ContainerdAway;
use crate::messages::{Fact as _, Tell};
use crate::telemetry::names;
use crate::telemetry::propagate::handling;
use actix::{ActorFutureExt as _, AsyncContext as _, Context, Handler, WrapFuture as _};
use std::sync::Arc;
use tokio::task::{JoinError, JoinHandle};

/// Aborts a task when dropped: the wait ends with its supervisor.
pub(super) struct Abort(tokio::task::AbortHandle);

impl Abort {
    /// Waits for the task, which is aborted if nobody waits any more.
    pub(super) async fn guard<T>(work: JoinHandle<T>) -> Result<T, JoinError> {
        let _abort = Self(work.abort_handle());
        work.await
    }
}

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Handler<Tell<ContainerdAway>> for TaskSupervisor {
    type Result = ();

    fn handle(&mut self, tell: Tell<ContainerdAway>, ctx: &mut Self::Context) {
        let _in = handling!(tell.cx, names::ACTOR_MESSAGE, ACTOR, ContainerdAway::NAME, { names::TASK_ID } = %self.id)
            .entered();
        self.wait_at_shim(ctx);
    }
}

impl TaskSupervisor {
    /// Waits at the shim until the exit is known, from wherever.
    pub(super) fn wait_at_shim(&mut self, ctx: &mut Context<Self>) {
        if !self.state.is_alive() || self.at_shim.is_some() {
            return;
        }
        let Ok(configured) = self.configured() else {
            return;
        };
        let (shared, container) = (Arc::clone(&self.shared), self.container.clone());
        let work = self.shared.io.spawn(async move {
            let shim = tokio::task::block_in_place(|| shared.groups.shim_of(container.as_str()));
            configured.gateway.wait_at_shim(&shim, container.as_str()).await
        });
        self.at_shim = Some(ctx.spawn(Abort::guard(work).into_actor(self).map(|exit, actor, ctx| {
            actor.at_shim = None;
            match exit {
                Ok(Ok(exit)) => actor.exit_seen(exit, ctx),
                // Not an exit: containerd tells when it is back.
                Ok(Err(fault)) => tracing::debug!(task.id = %actor.id, error = %fault, "no answer from the shim"),
                Err(ended) => tracing::error!(task.id = %actor.id, error = %ended, "the wait at the shim broke off"),
            }
        })));
    }

    pub(super) fn leave_shim(&mut self, ctx: &mut Context<Self>) {
        if let Some(wait) = self.at_shim.take() {
            ctx.cancel_future(wait);
        }
    }
}

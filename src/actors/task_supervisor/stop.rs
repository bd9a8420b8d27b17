//! Stop: the signal, then SIGKILL to the whole container at the deadline; answered the moment the task is gone.

use super::state::{Event, State};
use super::{ACTOR, TaskSupervisor, interrupted};
use crate::messages::runtime::{ContainerdFault, FaultKind};
use crate::messages::task::{Stop, TaskError};
use crate::messages::{Ask, Owed, Request as _};
use crate::telemetry::names;
use crate::telemetry::propagate::handling;
use actix::{ActorFutureExt as _, AsyncContext as _, Context, Handler, SpawnHandle, WrapFuture as _};
use std::future::Future;
use std::time::Duration;
use tracing::{Instrument as _, Span};

/// SIGTERM: for an image without STOPSIGNAL.
pub(super) const DEFAULT_SIGNAL: i32 = 15;

const SIGKILL: i32 = 9;

/// How long after SIGKILL the exit may take to be told before containerd is asked.
const EXIT_PATIENCE: Duration = Duration::from_secs(10);

/// How the task was asked to stop.
#[derive(Default)]
pub(super) struct Wish {
    signal: Option<i32>,
    timeout: Duration,
    timer: Option<SpawnHandle>,
    deadline: Option<tokio::time::Instant>,
    /// Asked while the container was being made: the signal is sent when the process runs.
    pub(super) due: bool,
}

impl Handler<Ask<Stop>> for TaskSupervisor {
    type Result = ();

    fn handle(&mut self, ask: Ask<Stop>, ctx: &mut Self::Context) {
        let Ask { req, cx, reply, .. } = ask;
        let span = handling!(cx, names::TASK_STOP, ACTOR, Stop::NAME, { names::TASK_ID } = %self.id);
        let reply = Owed::new(reply, span.clone());
        if let Some(doubt) = self.doubt() {
            reply.send(Err(doubt));
            return;
        }
        let _entered = span.entered();
        let event = if req.timeout.is_zero() || self.state == State::Killing {
            Event::KillAsked
        } else {
            Event::StopAsked
        };
        match &self.state {
            State::Exited(_) | State::Destroyed => reply.send(Ok(())),
            State::Absent => reply.send(Err(TaskError::NotFound)),
            _ => {
                self.waiting.stop.push(reply);
                self.stop_wish.signal = req.signal;
                self.stop_wish.timeout = req.timeout;
                if matches!(self.state, State::Stopping | State::Creating) && event == Event::StopAsked {
                    self.stop_wish.due = self.state == State::Creating;
                    self.arm(ctx);
                }
                self.note(&event, ctx);
            }
        }
    }
}

impl TaskSupervisor {
    /// The span of the first who asked to stop; the deadline passes in nobody's.
    fn stop_span(&self) -> Span {
        self.waiting
            .stop
            .first()
            .map_or_else(Span::current, |owed| owed.span().clone())
    }

    /// A call to containerd that signals the task. A process that has just ended is no fault: its exit is on the way.
    pub(super) fn kill_call(
        &self,
        signal: i32,
        all: bool,
        span: Span,
    ) -> impl Future<Output = Result<(), ContainerdFault>> + use<> {
        let configured = self.configured();
        let container = self.container.clone();
        async move {
            let gateway = configured?.gateway;
            let signal =
                u32::try_from(signal).map_err(|_| interrupted("kill task", format!("{signal} is not a signal")))?;
            match gateway.kill_task(container.as_str(), signal, all).await {
                Err(fault) if fault.kind == FaultKind::NotFound => Ok(()),
                other => other,
            }
        }
        .instrument(span)
    }

    /// Sends the stop signal and arms the deadline.
    pub(super) fn signal_to_stop(&mut self, ctx: &mut Context<Self>) {
        self.arm(ctx);
        let signal = self.stop_wish.signal.unwrap_or(self.about.stop_signal);
        let call = self.kill_call(signal, false, self.stop_span());
        ctx.spawn(call.into_actor(self).map(|sent, actor, ctx| {
            if let Err(fault) = sent {
                // The grace begins with the signal: without one, nobody is killed at its end.
                if actor.state == State::Stopping {
                    actor.disarm(ctx);
                }
                actor.note(&Event::StopFailed, ctx);
                actor.stop_failed(&fault);
            } else {
                actor.check_exit(ctx);
            }
        }));
    }

    /// The earliest deadline that anybody asked for counts.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        let deadline = tokio::time::Instant::now() + self.stop_wish.timeout;
        if self.stop_wish.deadline.is_some_and(|d| d <= deadline) {
            return;
        }
        if let Some(timer) = self.stop_wish.timer.take() {
            ctx.cancel_future(timer);
        }
        self.stop_wish.deadline = Some(deadline);
        self.stop_wish.timer =
            Some(ctx.run_later(self.stop_wish.timeout, |actor, ctx| actor.note(&Event::KillAsked, ctx)));
    }

    /// SIGKILL to all processes of the container.
    pub(super) fn kill(&mut self, ctx: &mut Context<Self>) {
        self.disarm(ctx);
        let call = self.kill_call(SIGKILL, true, self.stop_span());
        ctx.spawn(call.into_actor(self).map(|sent, actor, ctx| match sent {
            Err(fault) => actor.stop_failed(&fault),
            Ok(()) => {
                actor.stop_wish.timer = Some(ctx.run_later(EXIT_PATIENCE, |actor, ctx| actor.check_exit(ctx)));
            }
        }));
    }

    pub(super) fn disarm(&mut self, ctx: &mut Context<Self>) {
        if let Some(timer) = self.stop_wish.timer.take() {
            ctx.cancel_future(timer);
        }
        self.stop_wish.deadline = None;
    }

    /// Whoever asked to stop is told that it was not possible; the next to ask tries again.
    fn stop_failed(&mut self, fault: &ContainerdFault) {
        tracing::warn!(task.id = %self.id, error.kind = ?fault.kind, error = fault.text, "cannot signal the task");
        for reply in self.waiting.stop.drain(..) {
            reply.send(Err(TaskError::Containerd(fault.clone())));
        }
    }
}

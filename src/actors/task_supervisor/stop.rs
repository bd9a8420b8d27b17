//! Stop: the signal, then SIGKILL to the whole container at the deadline; answered the moment the task is gone.

use super::state::{Event, State};
use super::{ACTOR, TaskSupervisor, interrupted};
use crate::host::members;
use crate::messages::runtime::{ContainerdFault, FaultKind};
use crate::messages::task::{Stop, TaskError};
use crate::messages::{Ask, Owed, Request as _};
use crate::telemetry::names;
use crate::telemetry::propagate::handling;
use crate::telemetry::steps::step;
use actix::{ActorFutureExt as _, AsyncContext as _, Context, Handler, SpawnHandle, WrapFuture as _};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tracing::{Instrument as _, Span};

/// SIGTERM: for an image without STOPSIGNAL.
pub(super) const DEFAULT_SIGNAL: i32 = 15;

const SIGKILL: i32 = 9;

/// How long after SIGKILL the exit may take to be told before containerd is asked.
pub(super) const EXIT_PATIENCE: Duration = Duration::from_secs(10);

/// How long containerd may take to send a signal before the kernel does. It takes a fork of the runtime, which on a
/// machine under load is slow; a shim that hangs takes for ever.
const SIGNAL_WITHIN: Duration = Duration::from_secs(5);

/// How a signal has reached the task.
enum Way {
    Straight,
    Containerd,
}

/// How the task was asked to stop.
#[derive(Default)]
pub(super) struct Wish {
    signal: Option<i32>,
    timeout: Duration,
    timer: Option<SpawnHandle>,
    deadline: Option<tokio::time::Instant>,
    /// What is done if the exit is not told in time.
    patience: Option<SpawnHandle>,
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
                let before = self.wished_signal();
                self.stop_wish.signal = req.signal;
                self.stop_wish.timeout = req.timeout;
                match self.state {
                    State::Creating if event == Event::StopAsked => {
                        self.stop_wish.due = true;
                        self.arm(ctx);
                    }
                    // Who asks for another signal is not served by the first one.
                    State::Stopping if event == Event::StopAsked && self.wished_signal() != before => {
                        self.signal_to_stop(ctx);
                    }
                    State::Stopping if event == Event::StopAsked => self.arm(ctx),
                    _ => {}
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
                Err(fault) if fault.kind != FaultKind::NotFound => return Err(fault),
                _ => {}
            }
            step!(StopSignalled);
            Ok(())
        }
        .instrument(span)
    }

    /// True if the signal that stops the task is the one that kills it.
    pub(super) fn stops_by_sigkill(&self) -> bool {
        self.wished_signal() == SIGKILL
    }

    fn wished_signal(&self) -> i32 {
        self.stop_wish.signal.unwrap_or(self.about.stop_signal)
    }

    /// A signal to end the task: straight to its process where that does the same, else by containerd.
    fn send(&self, signal: i32, all: bool) -> impl Future<Output = Result<Way, ContainerdFault>> + use<> {
        let (straight, span) = (self.straight(signal, all), self.stop_span());
        let call = in_time(self.kill_call(signal, all, span));
        async move {
            if straight.await {
                step!(StopSignalled);
                return Ok(Way::Straight);
            }
            call.await.map(|()| Way::Containerd)
        }
    }

    /// Sends the stop signal and arms the deadline.
    pub(super) fn signal_to_stop(&mut self, ctx: &mut Context<Self>) {
        self.arm(ctx);
        let signal = self.wished_signal();
        ctx.spawn(
            self.send(signal, false)
                .into_actor(self)
                .map(move |sent, actor, ctx| match sent {
                    // Killed or gone meanwhile.
                    Err(_) if actor.state != State::Stopping => {}
                    Err(fault) => actor.signal_by_kernel(signal, fault, ctx),
                    // It was there to take it, so its end is still to be told.
                    Ok(Way::Straight) => {}
                    Ok(Way::Containerd) => {
                        actor.let_go_on();
                        actor.check_exit(ctx);
                    }
                }),
        );
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
        ctx.spawn(self.send(SIGKILL, true).into_actor(self).map(|sent, actor, ctx| {
            if !actor.state.is_alive() {
                return;
            }
            match sent {
                Err(fault) => return actor.kill_by_kernel(Some(fault), ctx),
                Ok(Way::Straight) => {}
                Ok(Way::Containerd) => actor.let_go_on(),
            }
            let patience = ctx.run_later(EXIT_PATIENCE, |actor, ctx| {
                if actor.state.is_alive() {
                    actor.kill_by_kernel(None, ctx);
                }
            });
            actor.set_patience(patience, ctx);
        }));
    }

    /// A task that was paused takes no signal until it goes on.
    fn let_go_on(&self) {
        let (names, version) = (self.container.cgroup_names(&self.id), self.shared.node.cgroups);
        let (pid, task) = (self.about.pid, self.id.clone());
        let let_go = move || {
            let Some(first) = pid.and_then(|pid| members::one(&names, pid)) else {
                return;
            };
            if let Err(error) = members::thaw(&[first], &names, version) {
                tracing::warn!(task.id = %task, error = %error, "the task's cgroup cannot be thawed");
            }
        };
        let shared = Arc::clone(&self.shared);
        self.shared.io.spawn(async move { shared.look(let_go).await });
    }

    /// One thing at a time is done when the exit is not told.
    pub(super) fn set_patience(&mut self, patience: SpawnHandle, ctx: &mut Context<Self>) {
        if let Some(earlier) = self.stop_wish.patience.replace(patience) {
            ctx.cancel_future(earlier);
        }
    }

    pub(super) fn disarm(&mut self, ctx: &mut Context<Self>) {
        if let Some(timer) = self.stop_wish.timer.take() {
            ctx.cancel_future(timer);
        }
        self.stop_wish.deadline = None;
        if let Some(patience) = self.stop_wish.patience.take() {
            ctx.cancel_future(patience);
        }
    }

    /// Whoever asked to stop is told that it was not possible; the next to ask tries again.
    pub(super) fn stop_failed(&mut self, error: &TaskError) {
        tracing::warn!(task.id = %self.id, error = %error, "cannot signal the task");
        for reply in self.waiting.stop.drain(..) {
            reply.send(Err(error.clone()));
        }
    }
}

/// The outcome of a signal, or that there is none in time.
async fn in_time(call: impl Future<Output = Result<(), ContainerdFault>>) -> Result<(), ContainerdFault> {
    tokio::time::timeout(SIGNAL_WITHIN, call).await.unwrap_or_else(|_| {
        Err(ContainerdFault {
            kind: FaultKind::Deadline,
            operation: "kill task",
            text: format!("no answer within {SIGNAL_WITHIN:?}"),
        })
    })
}

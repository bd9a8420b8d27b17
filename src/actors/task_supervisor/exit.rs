//! The exit: seen by event or by listing, kept in a label, told to all who wait.

use super::state::{Event, State};
use super::{ACTOR, TaskSupervisor};
use crate::actors::shared::unix_nanos;
use crate::messages::runtime::{TaskExited, TaskOom, TaskView};
use crate::messages::{Fact as _, Tell};
use crate::spec::labels::{self, Marks};
use crate::spec::record::ExitRecord;
use crate::telemetry::names;
use crate::telemetry::propagate::handling;
use actix::{ActorFutureExt as _, AsyncContext as _, Context, Handler, WrapFuture as _};
use std::collections::BTreeMap;
use std::time::Duration;
use tracing::Instrument as _;

/// 128 + SIGKILL: what the kernel's out-of-memory killer leaves behind, among others.
const KILLED: i32 = 137;

/// How long the exit of a killed task is held back for the news that memory was the reason. The shim learns of the
/// exit from a signal and of the memory from a file watch, and publishes them in the order in which it learns.
const OOM_NEWS: Duration = Duration::from_millis(250);

impl Handler<Tell<TaskExited>> for TaskSupervisor {
    type Result = ();

    fn handle(&mut self, tell: Tell<TaskExited>, ctx: &mut Self::Context) {
        let _in =
            handling!(tell.cx, names::ACTOR_MESSAGE, ACTOR, TaskExited::NAME, { names::TASK_ID } = %self.id).entered();
        if self.state == State::Absent || self.state.is_starting() {
            // Before the answer to a start or a recovery it is not known whether this is the task's own exit or the
            // end of something that an interrupted start had left behind.
            self.exit_told_early = true;
            return;
        }
        // Told while containerd was away, so that it could not be kept there.
        if matches!(self.state, State::Exited(_)) && !self.recorded {
            self.record_exit(ctx);
        }
        match tell.fact.exit {
            Some(exit) => self.exit_seen(exit, ctx),
            None => self.check_exit(ctx),
        }
    }
}

impl Handler<Tell<TaskOom>> for TaskSupervisor {
    type Result = ();

    fn handle(&mut self, tell: Tell<TaskOom>, ctx: &mut Self::Context) {
        let _in =
            handling!(tell.cx, names::ACTOR_MESSAGE, ACTOR, TaskOom::NAME, { names::TASK_ID } = %self.id).entered();
        if let Some((exit, timer)) = self.held_exit.take() {
            ctx.cancel_future(timer);
            self.exit_known(exit, ctx);
        } else if self.state.is_alive() {
            self.emit(
                "A process of the task was killed: out of memory".to_owned(),
                BTreeMap::new(),
            );
        }
    }
}

impl TaskSupervisor {
    /// containerd says that the process ended.
    pub(super) fn exit_seen(&mut self, exit: ExitRecord, ctx: &mut Context<Self>) {
        let unexpected = self.state == State::Running;
        if exit.code == KILLED && unexpected && !exit.oom && !self.tasks.ran_out_of_memory(&self.id) {
            if self.held_exit.is_none() {
                let timer = ctx.run_later(OOM_NEWS, |actor, ctx| {
                    if let Some((exit, _)) = actor.held_exit.take() {
                        actor.exit_known(exit, ctx);
                    }
                });
                self.held_exit = Some((exit, timer));
            }
            return;
        }
        self.exit_known(exit, ctx);
    }

    /// The exit is final.
    pub(super) fn exit_known(&mut self, mut exit: ExitRecord, ctx: &mut Context<Self>) {
        // Only a killed process died of it; a child's death is told as an event.
        // Nor one that we have killed ourselves: news of memory may be days old then.
        let ours = matches!(self.state, State::Killing | State::Removing(_));
        exit.oom |= exit.code == KILLED && !ours && self.tasks.ran_out_of_memory(&self.id);
        self.unsure = None;
        self.leave_shim(ctx);
        self.end_watch(ctx);
        self.note(&Event::Exited(exit), ctx);
    }

    /// Keeps the exit where it survives this process and the shim.
    pub(super) fn record_exit(&mut self, ctx: &mut Context<Self>) {
        let State::Exited(exit) = &self.state else { return };
        let (Ok(configured), Ok(label)) = (self.configured(), labels::exit_label(exit)) else {
            return;
        };
        let (container, task) = (self.container.clone(), self.id.clone());
        self.recorded = true;
        let record = async move {
            configured
                .gateway
                .update_container_labels(container.as_str(), &BTreeMap::from([label]))
                .await
        }
        .in_current_span();
        ctx.spawn(record.into_actor(self).map(move |recorded, actor, _| {
            if let Err(fault) = recorded {
                // Tried again after the next listing.
                actor.recorded = false;
                tracing::debug!(task.id = %task, error = %fault, "exit not recorded");
            }
        }));
    }

    /// Answers all who wait for the exit, and all who asked to stop. Without an exit (removed before one was seen)
    /// waiters get a record that says so.
    pub(super) fn answer_exit(&mut self, ctx: &mut Context<Self>) {
        self.disarm(ctx);
        let exit = self.state.exit().cloned().unwrap_or_else(|| ExitRecord {
            code: KILLED,
            oom: false,
            at: unix_nanos(),
            lost: "the task was destroyed before its exit was seen".to_owned(),
        });
        if matches!(self.state, State::Exited(_)) && !self.exit_emitted {
            self.exit_emitted = true;
            let annotations = BTreeMap::from([
                ("exit_code".to_owned(), exit.code.to_string()),
                ("oom_killed".to_owned(), exit.oom.to_string()),
            ]);
            self.emit(format!("Container exited with code {}", exit.code), annotations);
        }
        for reply in self.waiting.exit.drain(..) {
            reply.send(Ok(exit.clone()));
        }
        for reply in self.waiting.stop.drain(..) {
            reply.send(Ok(()));
        }
    }

    /// To be called when the task has just been found running.
    pub(super) fn check_early_exit(&mut self, ctx: &mut Context<Self>) {
        if std::mem::take(&mut self.exit_told_early) {
            self.check_exit(ctx);
        }
    }

    /// Asks containerd itself: after a signal to a process that was gone, or when a listing lacked the task.
    pub(super) fn check_exit(&mut self, ctx: &mut Context<Self>) {
        // An exit that is held back is known: containerd has nothing to add.
        if !self.state.is_alive() || self.held_exit.is_some() {
            return;
        }
        let Ok(configured) = self.configured() else {
            return;
        };
        let container = self.container.clone();
        let look = async move {
            let gateway = configured.gateway;
            match gateway.task(container.as_str()).await {
                Ok(None) => {
                    let record = gateway.container(container.as_str()).await?;
                    Ok((
                        None,
                        record.and_then(|r| Marks::read(&r.labels.into_iter().collect())?.exit),
                    ))
                }
                Ok(view) => Ok((view, None)),
                Err(fault) => Err(fault),
            }
        };
        ctx.spawn(
            look.in_current_span()
                .into_actor(self)
                .map(|found, actor: &mut Self, ctx| match found {
                    Ok((Some(TaskView::Stopped(exit)), _)) => actor.exit_seen(exit, ctx),
                    Ok((Some(TaskView::Running { .. } | TaskView::Created { .. }), _)) => {}
                    Ok((None, Some(exit))) => actor.exit_known(exit, ctx),
                    // The exit came by the event stream while containerd was asked.
                    Ok((None, None)) if actor.held_exit.is_some() => {}
                    Ok((None, None)) => actor.exit_known(
                        ExitRecord {
                            code: -1,
                            oom: false,
                            at: unix_nanos(),
                            lost: "containerd no longer knows the task and its exit was not seen".to_owned(),
                        },
                        ctx,
                    ),
                    // Not known is not gone: the next listing tells.
                    Err(fault) => tracing::debug!(task.id = %actor.id, error = %fault, "cannot look at the task"),
                }),
        );
    }
}

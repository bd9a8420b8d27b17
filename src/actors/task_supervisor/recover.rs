//! Recover: take up a task of an earlier plugin process; look back: take up one of an earlier self.

use super::adopt::configured_for;
use super::state::{Event, State};
use super::{ACTOR, TaskSupervisor};
use crate::actors::shared::{Configured, Shared};
use crate::actors::supervision::book::ask_until;
use crate::messages::runtime::{ContainerdFault, FaultKind, LookUpTask, TaskView};
use crate::messages::task::{Recover, TaskError};
use crate::messages::{Ask, Cx, Owed, Request as _};
use crate::spec::identity::ContainerId;
use crate::spec::labels::Marks;
use crate::spec::record::{ExitRecord, HandleState};
use crate::telemetry::names;
use crate::telemetry::propagate::handling;
use actix::{
    ActorContext as _, ActorFutureExt as _, AsyncContext as _, Context, ContextFutureSpawner as _, Handler,
    WrapFuture as _,
};
use std::sync::Arc;
use std::time::Duration;
use tracing::Instrument as _;

/// How long a recovery waits for a containerd that is away. Nomad recovers one task after another while the agent
/// starts, so this must stay short; after it the task is taken to run on, since a broken connection is no exit.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// How often a restarted supervisor looks before it says of a containerd that is slow to answer that it does not know.
const LOOKS: usize = 3;

/// How long a restarted supervisor rests before it looks again at a containerd that does not answer.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What containerd knows of the container.
pub(super) type Found = (Option<TaskView>, Option<ExitRecord>, Option<Marks>);

impl Handler<Ask<Recover>> for TaskSupervisor {
    type Result = ();

    fn handle(&mut self, ask: Ask<Recover>, ctx: &mut Self::Context) {
        let Ask { req, cx, reply, .. } = ask;
        // Also if the exit was told before this: a listing may be faster than the host.
        if self.about.started_at == 0 && req.handle.container == self.container {
            self.about.started_at = req.handle.started_at;
            self.about.stop_signal = req.handle.stop_signal;
        }
        let span = handling!(cx, names::TASK_RECOVER, ACTOR, Recover::NAME, { names::TASK_ID } = %self.id, { names::CONTAINER_ID } = %self.container);
        let reply = Owed::new(reply, span.clone());
        if self.state != State::Absent || self.starting.is_some() {
            reply.send(Ok(()));
            return;
        }
        self.forgive(ctx);
        self.waiting.recover.push(reply);
        if self.waiting.recover.len() > 1 {
            return;
        }
        if req.handle.go.is_some() {
            return self.adopt(req.handle, span, ctx);
        }
        let namespace = self
            .shared
            .configured()
            .map(|c| c.settings.containerd_namespace.clone());
        if let Ok(namespace) = namespace
            && namespace != req.handle.namespace
        {
            return self.not_recovered(
                TaskError::Driver(format!(
                    "option containerd_namespace: the task was started in {:?} and the driver is configured for {namespace:?}",
                    req.handle.namespace
                )),
                ctx,
            );
        }
        if req.handle.container != self.container {
            return self.not_recovered(
                TaskError::Driver(format!(
                    "the handle names container {}, this task's is {}",
                    req.handle.container, self.container
                )),
                ctx,
            );
        }
        self.about.started_at = req.handle.started_at;
        self.about.stop_signal = req.handle.stop_signal;
        let (links, shared, container) = (
            Arc::clone(&self.links),
            Arc::clone(&self.shared),
            self.container.clone(),
        );
        let look = async move {
            let lookup = LookUpTask {
                container: container.clone(),
                patience: PATIENCE,
            };
            let view = ask_until(&*links.look_up_task, lookup, Cx::current(), Some(PATIENCE * 2))
                .await
                .map_err(|e| super::interrupted("look up task", e.to_string()))??;
            match view {
                Some(view) => Ok((Some(view), None, None)),
                None => found_without_task(&shared.configured()?, &container).await,
            }
        }
        .instrument(span);
        ctx.spawn(
            look.into_actor(self)
                .map(|found, actor, ctx| actor.recovered(found, ctx)),
        );
    }
}

/// containerd has no task: the label tells whether it ended before the shim went.
pub(super) async fn found_without_task(
    configured: &Configured,
    container: &ContainerId,
) -> Result<Found, ContainerdFault> {
    let marks = configured
        .gateway
        .container(container.as_str())
        .await?
        .and_then(|r| Marks::read(&r.labels.into_iter().collect()));
    Ok((None, marks.as_ref().and_then(|m| m.exit.clone()), marks))
}

/// What containerd says now.
async fn found_of(
    shared: &Shared,
    go: Option<&HandleState>,
    container: &ContainerId,
) -> Result<Found, ContainerdFault> {
    let gateway = configured_for(shared, go)?.gateway;
    let (view, record) = tokio::join!(gateway.task(container.as_str()), gateway.container(container.as_str()));
    let marks = record?.and_then(|r| Marks::read(&r.labels.into_iter().collect()));
    Ok((view?, marks.as_ref().and_then(|m| m.exit.clone()), marks))
}

impl TaskSupervisor {
    pub(super) fn recovered(&mut self, found: Result<Found, ContainerdFault>, ctx: &mut Context<Self>) {
        self.sweep_execs();
        match found {
            Ok((Some(TaskView::Running { pid }), _, _)) => {
                self.about.pid = Some(pid);
                self.note(&Event::Started, ctx);
                self.watch_adopted(ctx);
                self.check_early_exit(ctx);
            }
            // Final: whoever waits asks next and must find it.
            Ok((Some(TaskView::Stopped(exit)), _, _)) => self.exit_known(exit, ctx),
            Ok((None, Some(exit), _)) => self.exit_known(exit, ctx),
            Ok((Some(TaskView::Created { .. }), _, _)) => {
                return self.not_recovered(
                    TaskError::WrongState {
                        action: "recover",
                        state: "created but was never started",
                    },
                    ctx,
                );
            }
            Ok((None, None, _)) => return self.not_recovered(TaskError::NotFound, ctx),
            // containerd is away. Nomad knows the task as running, and an error here would have it destroyed and
            // started anew; the listing that follows containerd's return tells what became of it.
            Err(fault) => {
                tracing::warn!(task.id = %self.id, error = %fault, "recovered without containerd: taken to run");
                self.note(&Event::Started, ctx);
                self.watch_adopted(ctx);
                self.check_early_exit(ctx);
                self.wait_at_shim(ctx);
            }
        }
        for reply in self.waiting.recover.drain(..) {
            reply.send(Ok(()));
        }
    }

    pub(super) fn not_recovered(&mut self, error: TaskError, ctx: &mut Context<Self>) {
        self.tasks.close(&self.id);
        for reply in self.waiting.recover.drain(..) {
            reply.send(Err(error.clone()));
        }
        ctx.stop();
    }

    /// A supervisor that was restarted or replaced looks at what containerd says before it takes up a message.
    pub(super) fn look_back(&mut self, ctx: &mut Context<Self>) {
        let (shared, go, container) = (Arc::clone(&self.shared), self.adopted.clone(), self.container.clone());
        let look = async move {
            for _ in 1..LOOKS {
                match found_of(&shared, go.as_deref(), &container).await {
                    Err(fault) if fault.kind == FaultKind::Deadline => {}
                    other => return other,
                }
            }
            found_of(&shared, go.as_deref(), &container).await
        };
        look.into_actor(self)
            .map(|found, actor: &mut Self, ctx| actor.looked_back(found, ctx))
            .wait(ctx);
    }

    fn looked_back(&mut self, found: Result<Found, ContainerdFault>, ctx: &mut Context<Self>) {
        let (view, exit, marks) = match found {
            Ok(found) => found,
            Err(fault) => {
                tracing::warn!(task.id = %self.id, error = %fault, "restarted supervisor cannot look at its task yet");
                self.unsure = Some(fault);
                ctx.run_later(LOOK_AGAIN, Self::look_back);
                return;
            }
        };
        self.unsure = None;
        if let Some(marks) = marks {
            self.about.started_at = marks.started_at.unwrap_or_default();
            self.about.stop_signal = marks.stop_signal.unwrap_or(super::stop::DEFAULT_SIGNAL);
            self.about.name = marks.task_name;
            self.about.alloc_id = marks.alloc_id;
        }
        // The label is written after whoever looks at the task was told.
        self.exit_emitted = exit.is_some();
        match (view, exit) {
            // Final: whoever is queued asks next and must find it.
            (_, Some(exit)) | (Some(TaskView::Stopped(exit)), None) => self.exit_known(exit, ctx),
            (Some(TaskView::Running { pid }), None) => {
                self.about.pid = Some(pid);
                self.note(&Event::Started, ctx);
                self.watch_adopted(ctx);
                self.check_early_exit(ctx);
            }
            // A start that was under way: its asker asks again and the factory goes on from what is there.
            (Some(TaskView::Created { .. }) | None, None) => {
                // Who waited before the restart waits for a task that is gone; whoever is queued asks next.
                for reply in self.waiting.exit.drain(..) {
                    reply.send(Err(TaskError::NotFound));
                }
            }
        }
    }
}

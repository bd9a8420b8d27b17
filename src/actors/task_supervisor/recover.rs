//! Recover: take up a task of an earlier plugin process; look back: take up one of an earlier self.

use super::adopt::{clear_away, configured_for};
use super::exit::end_what_is_left;
use super::start::known;
use super::state::{Event, State};
use super::{ACTOR, TaskSupervisor};
use crate::actors::shared::{Configured, Shared};
use crate::actors::supervision::book::ask_until;
use crate::containerd::ContainerRecord;
use crate::host::oom;
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

/// The rest before another look: of a restarted supervisor at a containerd that does not answer, and of a recovery at a task
/// whose shim does not.
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
        // An id of Nomad's tells both; of any other only the host knows.
        for (about, told) in [
            (&mut self.about.name, req.name),
            (&mut self.about.alloc_id, req.alloc_id),
        ] {
            if !told.is_empty() {
                *about = told;
            }
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
            let error = TaskError::Driver(format!(
                "option containerd_namespace: the task was started in {:?} and the driver is configured for {namespace:?}",
                req.handle.namespace
            ));
            // The host forgets it and starts it anew, in the same directory.
            let links = Arc::clone(&self.links);
            let clear = async move { clear_away(&links, &req.handle).await }.instrument(span);
            ctx.spawn(
                clear
                    .into_actor(self)
                    .map(|(), actor, ctx| actor.not_recovered(error, ctx)),
            );
            return;
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
        self.about.logs = req.handle.logs;
        // Before the look: a shim that waits for the reader of a command's pipe, who died with the plugin, answers nobody.
        self.sweep_execs();
        let (links, shared, container, names) = (
            Arc::clone(&self.links),
            Arc::clone(&self.shared),
            self.container.clone(),
            self.cgroup_names(),
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
                Some(TaskView::Stopped(exit)) if exit.code == super::exit::KILLED => {
                    Ok(reason_of(&shared, &container, exit).await)
                }
                Some(view) => Ok((Some(view), None, None)),
                None => {
                    let found = found_without_task(&shared.configured()?, &container).await?;
                    if matches!(found, (None, None, Some(_))) {
                        end_what_is_left(Arc::clone(&shared), names).await;
                    }
                    Ok(found)
                }
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

/// Of a task that was killed, containerd's listing does not tell why. An earlier plugin process may have seen it and have
/// written it down; else the kernel has counted.
pub(super) async fn reason_of(shared: &Shared, container: &ContainerId, exit: ExitRecord) -> Found {
    let record = match shared.configured() {
        Ok(configured) => configured.gateway.container(container.as_str()).await,
        Err(fault) => Err(fault),
    };
    // What is not written down, or cannot be read now, is no reason to know less of the exit itself.
    let Ok(Some(record)) = record else {
        return (Some(TaskView::Stopped(exit)), None, None);
    };
    let path = cgroups_path(&record);
    let marks = Marks::read(&record.labels.into_iter().collect());
    if let Some(known) = marks.as_ref().and_then(|marks| marks.exit.clone()) {
        return (None, Some(known), marks);
    }
    let (version, before) = (shared.node.cgroups, marks.map_or(0, |marks| marks.oom_kills));
    let kills = shared.look(move || oom::kills(&oom::counter_at(&path?, version)?));
    let oom = kills.await.ok().flatten().is_some_and(|kills| kills > before);
    (Some(TaskView::Stopped(ExitRecord { oom, ..exit })), None, None)
}

/// Where the runtime has put the container's cgroup, by its specification.
pub(super) fn cgroups_path(record: &ContainerRecord) -> Option<String> {
    let spec: serde_json::Value = serde_json::from_slice(&record.spec_json).ok()?;
    Some(spec.pointer("/linux/cgroupsPath")?.as_str()?.to_owned())
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
    let exit = marks.as_ref().and_then(|m| m.exit.clone());
    match view? {
        Some(TaskView::Stopped(found)) if found.code == super::exit::KILLED && exit.is_none() && go.is_none() => {
            let (view, exit, known) = reason_of(shared, container, found).await;
            Ok((view, exit, known.or(marks)))
        }
        view => Ok((view, exit, marks)),
    }
}

impl TaskSupervisor {
    pub(super) fn recovered(&mut self, found: Result<Found, ContainerdFault>, ctx: &mut Context<Self>) {
        match found {
            Ok((Some(TaskView::Running { pid }), _, _)) => {
                self.about.pid = known(pid);
                self.note(&Event::Started, ctx);
                self.watch_adopted(ctx);
                self.check_early_exit(ctx);
                // A shim that goes because somebody else has just deleted the task does not answer either, and then
                // all events of it were before this.
                self.learn_process(ctx);
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
            Ok((None, None, None)) => return self.not_recovered(TaskError::NotFound, ctx),
            // Its container is there, so it was started: the host has a handle only of what has run.
            Ok((None, None, Some(_))) if self.is_of_an_earlier_boot() => {
                return self.not_recovered(
                    TaskError::WrongState {
                        action: "recover",
                        state: "gone with an earlier boot of this machine",
                    },
                    ctx,
                );
            }
            Ok((None, None, Some(_))) => {
                let lost = self.lost(super::exit::NOT_SEEN);
                self.exit_known(lost, ctx);
            }
            // containerd is away. Nomad knows the task as running, and an error here would have it destroyed and
            // started anew; the listing that follows containerd's return tells what became of it.
            Err(fault) => {
                tracing::warn!(task.id = %self.id, error = %fault, "recovered without containerd: taken to run");
                self.note(&Event::Started, ctx);
                self.watch_adopted(ctx);
                self.check_early_exit(ctx);
                self.wait_at_shim(ctx);
                self.learn_process(ctx);
            }
        }
        self.resume_logs(ctx);
        for reply in self.waiting.recover.drain(..) {
            reply.send(Ok(()));
        }
    }

    /// True if the machine was started after the task.
    fn is_of_an_earlier_boot(&self) -> bool {
        self.shared
            .node
            .booted_at
            .is_some_and(|booted| self.about.started_at > 0 && self.about.started_at < booted)
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
        let look = look
            .into_actor(self)
            .map(|found, actor: &mut Self, ctx| actor.looked_back(found, ctx));
        // A task that is known to have run is looked after meanwhile.
        if self.state.is_alive() {
            ctx.spawn(look);
        } else {
            look.wait(ctx);
        }
    }

    /// While containerd is away, what an earlier supervisor has seen is what is known: an exit is final, and a task that
    /// ran is taken to run, with its shim asked for its end.
    fn take_up_seen(&mut self, ctx: &mut Context<Self>) {
        let Some(seen) = self.tasks.seen(&self.id).filter(|_| self.state == State::Absent) else {
            return;
        };
        self.about.pid = seen.pid;
        self.about.started_at = seen.started_at;
        self.about.stop_signal = seen.stop_signal;
        match seen.exit {
            Some(exit) => {
                self.exit_emitted = true;
                self.exit_known(exit, ctx);
            }
            None => {
                self.note(&Event::Started, ctx);
                self.wait_at_shim(ctx);
            }
        }
    }

    fn looked_back(&mut self, found: Result<Found, ContainerdFault>, ctx: &mut Context<Self>) {
        let (view, exit, marks) = match found {
            Ok(found) => found,
            Err(fault) => {
                tracing::warn!(task.id = %self.id, error = %fault, "restarted supervisor cannot look at its task yet");
                self.unsure = Some(fault);
                self.take_up_seen(ctx);
                if self.state.exit().is_none() {
                    ctx.run_later(LOOK_AGAIN, Self::look_back);
                }
                return;
            }
        };
        self.unsure = None;
        let exit = exit.or_else(|| self.tasks.seen(&self.id)?.exit);
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
                self.about.pid = known(pid).or(self.about.pid);
                self.note(&Event::Started, ctx);
                self.watch_adopted(ctx);
                self.check_early_exit(ctx);
            }
            // It has run, and containerd has lost it meanwhile.
            (None, None) if self.tasks.seen(&self.id).is_some() => {
                let left = end_what_is_left(Arc::clone(&self.shared), self.cgroup_names());
                ctx.spawn(left.into_actor(self));
                let lost = self.lost(super::exit::NOT_SEEN);
                self.exit_known(lost, ctx);
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

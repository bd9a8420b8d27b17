//! The exit: seen by event or by listing, kept in a label, told to all who wait.

use super::memory::is_near;
use super::recover::cgroups_path;
use super::start::known;
use super::state::{Event, State};
use super::{ACTOR, TaskSupervisor};
use crate::actors::shared::{Shared, unix_nanos};
use crate::host::{members, oom};
use crate::messages::runtime::{ContainerdFault, TaskExited, TaskOom, TaskView};
use crate::messages::{Fact as _, Tell};
use crate::spec::labels::{self, Marks};
use crate::spec::record::ExitRecord;
use crate::telemetry::names;
use crate::telemetry::propagate::handling;
use crate::telemetry::steps::step;
use actix::{ActorFutureExt as _, AsyncContext as _, Context, Handler, WrapFuture as _};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinError;
use tracing::Instrument as _;

/// 128 + SIGKILL: what the kernel's out-of-memory killer leaves behind, among others.
pub(super) const KILLED: i32 = 137;

/// What containerd says of a task whose shim has died and that it could not take down either
/// (`cleanupAfterDeadShim` in `core/runtime/v2/shim.go`).
const UNKNOWN: i32 = 255;

/// How long the exit of a killed task is held back for the news that memory was the reason. The shim learns of the
/// exit from a signal and of the memory from a file watch, and publishes them in the order in which it learns.
const OOM_NEWS: Duration = Duration::from_millis(250);

/// How long processes may take to be gone that a dead shim has left and containerd has not killed.
const LEFT_WITHIN: Duration = Duration::from_secs(10);

/// How long after the news of a want of memory the kernel has counted its victim. With cgroup v1 the want is told before
/// the victim is chosen (`mem_cgroup_oom` in `mm/memcontrol.c`).
const COUNTED: Duration = Duration::from_secs(2);

/// How long a task has to live on after a want of memory until that is no reason of its exit: longer than what counts as near.
const SETTLED: Duration = Duration::from_secs(15);

/// How long until it is asked again by which process a task runs: at first, and how often that is doubled. There may be runtimes that
/// never tell.
const LEARN_AFTER: (Duration, u32) = (Duration::from_secs(1), 4);

/// Said of a task that is gone from containerd. What has ended while containerd was away is gone with its shim when
/// containerd comes back (see `containerd::shim`).
pub(super) const NOT_SEEN: &str = "containerd no longer knows the task and its exit was not seen";

/// Said of a task that was killed together with its shim.
const SHIM_DIED: &str = "the task's shim has died, or somebody has removed the task, and its processes were killed: how it would have ended is lost";

/// Ends the processes of a task that containerd has lost: its shim has died, containerd has five seconds for all that a shim had, and
/// what is left would run on beside the task's next life.
pub(super) async fn end_what_is_left(shared: Arc<Shared>, names: Vec<String>) {
    let version = shared.node.cgroups;
    let kill = move || members::kill_all(&names, None, version, LEFT_WITHIN);
    match shared.io.spawn_blocking(kill).await {
        Ok(killed) if killed.left.is_empty() => {}
        Ok(killed) => tracing::warn!(processes = ?killed.left, "processes of a lost task are left"),
        Err(panic) => tracing::error!(error = %panic, "processes of a lost task may be left"),
    }
}

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
        // Of a start that was interrupted it may come late.
        let is_of_another = match (tell.fact.pid, self.about.pid) {
            (Some(told), Some(known)) => told != 0 && told != known,
            _ => false,
        };
        // Without a number, or without one to compare it with.
        let in_doubt = match (tell.fact.pid, self.about.pid) {
            (Some(told), known) => told == 0 || known.is_none(),
            (None, _) => false,
        };
        match tell.fact.exit {
            Some(exit) if !is_of_another => self.exit_told(exit, in_doubt, ctx),
            _ => self.check_exit(ctx),
        }
    }
}

impl Handler<Tell<TaskOom>> for TaskSupervisor {
    type Result = ();

    fn handle(&mut self, tell: Tell<TaskOom>, ctx: &mut Self::Context) {
        let _in =
            handling!(tell.cx, names::ACTOR_MESSAGE, ACTOR, TaskOom::NAME, { names::TASK_ID } = %self.id).entered();
        if let Some((_, timer)) = &self.held_exit {
            ctx.cancel_future(*timer);
            self.confirm_exit(ctx);
        } else if self.state.is_alive() {
            self.count_kills(ctx);
            ctx.run_later(COUNTED, Self::count_kills);
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
        self.exit_told(exit, false, ctx);
    }

    /// `in_doubt`: it may be the exit of another process, of an earlier attempt of the start.
    fn exit_told(&mut self, exit: ExitRecord, in_doubt: bool, ctx: &mut Context<Self>) {
        let unexpected = match self.state {
            State::Running => true,
            State::Stopping => !self.stops_by_sigkill(),
            _ => false,
        };
        if !unexpected || !matches!(exit.code, KILLED | UNKNOWN) {
            return self.exit_known(exit, ctx);
        }
        self.exit_in_doubt = in_doubt && (self.held_exit.is_none() || self.exit_in_doubt);
        if self.held_exit.is_none() {
            let told = exit.code == UNKNOWN || self.is_told_to_lack_memory(&exit);
            let rest = if told { Duration::ZERO } else { OOM_NEWS };
            let timer = ctx.run_later(rest, Self::confirm_exit);
            self.held_exit = Some((exit, timer));
        }
    }

    /// Nobody here has killed the task. If its shim has died, containerd has killed what was left and says so with the
    /// same words as of any other kill; but then it has no task any more, while of a task that has ended the shim stays.
    fn confirm_exit(&mut self, ctx: &mut Context<Self>) {
        let Some((exit, _)) = self.held_exit.take() else { return };
        let Ok(configured) = self.configured() else {
            return self.exit_known(exit, ctx);
        };
        let (container, names) = (self.container.clone(), self.cgroup_names());
        let counter = self.about.oom_counter.clone();
        let exit_code = exit.code;
        let (told, tally, exit_at) = (self.is_told_to_lack_memory(&exit), self.about.oom_tally, exit.at);
        let (shared, left) = (Arc::clone(&self.shared), Arc::clone(&self.shared));
        let look = async move {
            let (found, kills) = tokio::join!(
                configured.gateway.task(container.as_str()),
                shared.look(move || counter.and_then(|counter| oom::kills(&counter)))
            );
            // containerd has five seconds for all that a shim had, and says the same if that was not enough.
            if matches!(found, Ok(None)) && exit_code == UNKNOWN {
                end_what_is_left(left, names).await;
            }
            // What cannot be counted is what was told.
            let kills = kills.ok().flatten();
            (found, kills.map_or(told, |kills| tally.is_reason(kills, exit_at)))
        };
        let held = exit.clone();
        let handle = ctx.spawn(look.in_current_span().into_actor(self).map(
            move |(found, out_of_memory), actor: &mut Self, ctx| {
                if actor.held_exit.take().is_none() {
                    return;
                }
                // containerd says the same of a shim that an interrupted start has left and that it has taken down. One that
                // does not answer counts as running, without a number.
                if let Ok(Some(TaskView::Running { pid })) = found
                    && actor.exit_in_doubt
                    && known(pid).is_some()
                {
                    tracing::debug!(task.id = %actor.id, "an exit was told of a task that runs");
                    return;
                }
                let lost = match found {
                    // Its removal takes it from containerd.
                    Ok(None) if matches!(actor.state, State::Removing(_)) => String::new(),
                    Ok(None) => SHIM_DIED.to_owned(),
                    // Not known is not lost.
                    Ok(Some(_)) | Err(_) => String::new(),
                };
                let oom = exit.oom || (out_of_memory && exit.code == KILLED && lost.is_empty());
                actor.exit_known(ExitRecord { lost, oom, ..exit }, ctx);
            },
        ));
        self.held_exit = Some((held, handle));
    }

    /// The exit is final.
    pub(super) fn exit_known(&mut self, exit: ExitRecord, ctx: &mut Context<Self>) {
        if let Some((_, held)) = self.held_exit.take() {
            ctx.cancel_future(held);
        }
        self.unsure = None;
        self.leave_shim(ctx);
        self.leave_kernel(ctx);
        self.leave_process(ctx);
        self.end_watch(ctx);
        self.note(&Event::Exited(exit), ctx);
    }

    /// Asked of the first process while it is there: the cgroup outlives it, but nothing else tells where that is.
    pub(super) fn find_oom_counter(&mut self, ctx: &mut Context<Self>) {
        let Some(pid) = self.about.pid else { return };
        let (names, version) = (self.container.cgroup_names(&self.id), self.shared.node.cgroups);
        let (container, shared, configured) = (self.container.clone(), Arc::clone(&self.shared), self.configured());
        let find = async move {
            let found = shared.look(move || oom::counter(pid, &names, version)).await?;
            if found.is_some() {
                return Ok(found);
            }
            // It has ended already.
            let Ok(configured) = configured else { return Ok(None) };
            let record = configured.gateway.container(container.as_str()).await;
            let path = record.ok().flatten().and_then(|record| cgroups_path(&record));
            shared.look(move || oom::counter_at(&path?, version)).await
        };
        ctx.spawn(
            find.into_actor(self)
                .map(|found: Result<_, JoinError>, actor: &mut Self, ctx| {
                    // Without it, what containerd tells has to do.
                    actor.about.oom_counter = found.ok().flatten();
                    actor.count_kills(ctx);
                }),
        );
    }

    /// Reads the counter of a task that lives: what it shows is no reason of an exit that is yet to come.
    fn count_kills(&mut self, ctx: &mut Context<Self>) {
        let Some(counter) = self.about.oom_counter.clone() else {
            return;
        };
        let shared = Arc::clone(&self.shared);
        let count = async move { shared.look(move || (oom::kills(&counter), unix_nanos())).await };
        ctx.spawn(count.into_actor(self).map(|counted, actor: &mut Self, ctx| {
            let Ok((Some(kills), at)) = counted else { return };
            actor.about.oom_tally.read(kills, at);
            if kills > actor.about.oom_kept {
                ctx.run_later(SETTLED, move |actor, ctx| actor.keep_kills(kills, ctx));
            }
        }));
    }

    /// The task has lived on: writes down what is no reason of its exit, also of one that no process of ours will see.
    fn keep_kills(&mut self, kills: u64, ctx: &mut Context<Self>) {
        let Ok(configured) = self.configured() else { return };
        if !self.state.is_alive() || kills <= self.about.oom_kept {
            return;
        }
        self.about.oom_kept = kills;
        let (container, label) = (self.container.clone(), labels::oom_kills_label(kills));
        let keep = async move {
            let labels = BTreeMap::from([label]);
            configured
                .gateway
                .update_container_labels(container.as_str(), &labels)
                .await
        };
        ctx.spawn(keep.into_actor(self).map(|kept, actor: &mut Self, _| {
            if let Err(fault) = kept {
                // With the next reading.
                actor.about.oom_kept = 0;
                tracing::debug!(task.id = %actor.id, error = %fault, "killed processes of a task not noted");
            }
        }));
    }

    /// containerd has told, near this exit, that a process of the task was killed for want of memory.
    fn is_told_to_lack_memory(&self, exit: &ExitRecord) -> bool {
        let told = self.tasks.told_to_lack_memory(&self.id);
        told.is_some_and(|at| is_near(at, exit.at))
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
            step!(ExitSeen);
            configured
                .gateway
                .update_container_labels(container.as_str(), &BTreeMap::from([label]))
                .await?;
            step!(ExitKept);
            Ok::<(), ContainerdFault>(())
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
        let (container, names, shared) = (self.container.clone(), self.cgroup_names(), Arc::clone(&self.shared));
        let look = async move {
            let gateway = configured.gateway;
            match gateway.task(container.as_str()).await {
                Ok(None) => {
                    let record = gateway.container(container.as_str()).await?;
                    let exit = record.and_then(|r| Marks::read(&r.labels.into_iter().collect())?.exit);
                    if exit.is_none() {
                        end_what_is_left(shared, names).await;
                    }
                    Ok((None, exit))
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
                    Ok((Some(TaskView::Running { pid } | TaskView::Created { pid }), _)) => actor.runs_as(pid, ctx),
                    Ok((None, Some(exit))) => actor.exit_known(exit, ctx),
                    // The exit came by the event stream while containerd was asked.
                    Ok((None, None)) if actor.held_exit.is_some() => {}
                    Ok((None, None)) => {
                        let lost = actor.lost(NOT_SEEN);
                        actor.exit_known(lost, ctx);
                    }
                    // Not known is not gone: the next listing tells.
                    Err(fault) => {
                        tracing::debug!(task.id = %actor.id, error = %fault, "cannot look at the task");
                        actor.learn_process(ctx);
                    }
                }),
        );
    }

    /// It is known now by which process it runs.
    fn runs_as(&mut self, pid: u32, ctx: &mut Context<Self>) {
        if !self.state.is_alive() || self.about.pid.is_some() {
            return;
        }
        self.about.pid = known(pid);
        match self.about.pid {
            Some(_) => self.process_known(ctx),
            None => self.learn_process(ctx),
        }
    }

    /// Asks again, after a while, by which process a task runs that was taken to run on nobody's word: its statistics, its kernel's
    /// count of kills and the watch of its end need that.
    pub(super) fn learn_process(&mut self, ctx: &mut Context<Self>) {
        if self.about.pid.is_some() || !self.state.is_alive() {
            return;
        }
        let asked = match self.learning.take() {
            None => 0,
            Some((asked, earlier)) => {
                ctx.cancel_future(earlier);
                asked.saturating_add(1)
            }
        };
        let (first, doubled) = LEARN_AFTER;
        let next = ctx.run_later(first * 2_u32.pow(asked.min(doubled)), Self::check_exit);
        self.learning = Some((asked, next));
    }
}

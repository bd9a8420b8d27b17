//! By the kernel: what is done to a task's processes when containerd, or the task's shim, does not do it.
//!
//! The exit is still the task's own. While a shim hangs it cannot take the code of a process that has ended, and so the
//! kernel shows it to us; a shim that lives tells it (`away`); and where both are gone, the answer says that it is lost.

use super::TaskSupervisor;
use super::state::{Event, State};
use super::stop::EXIT_PATIENCE;
use crate::actors::shared::force::end_shim;
use crate::actors::shared::unix_nanos;
use crate::host::HostError;
use crate::host::members::{self, Killed, Member};
use crate::host::node::CgroupVersion;
use crate::host::shims;
use crate::messages::runtime::ContainerdFault;
use crate::messages::task::TaskError;
use crate::spec::record::ExitRecord;
use actix::{ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
use std::future::Future;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How long killed processes may take to be gone: the kernel frees their memory first.
const KILL_WITHIN: Duration = Duration::from_secs(10);

/// What the kernel has told of the first process.
enum Told {
    /// It was signalled; its end is waited for.
    Signalled(Member),
    /// It has ended, with this code if the kernel shows it.
    Ended(Option<i32>),
    /// Nothing is known of it: no process bears its container's name, and its number is not known either.
    Nothing,
}

/// A process that was paused takes its signal when it goes on.
fn let_go_on(first: &Member, names: &[String], version: CgroupVersion) {
    if let Err(error) = members::thaw(std::slice::from_ref(first), names, version) {
        tracing::warn!(error = %error, "a container's cgroup cannot be thawed");
    }
}

/// Signals the first process of a container, and lets it go on if it was paused and that is wished. Blocks.
fn signal_first(
    names: &[String],
    pid: Option<u32>,
    signal: i32,
    thaw: Option<CgroupVersion>,
) -> Result<Told, HostError> {
    let known = pid.map(|pid| (pid, members::look_at(pid)));
    // Nobody has taken its code: it is a child of the shim that does not answer. Others of the task may run on; their codes are
    // not the task's.
    if let Some((pid, Some((started, true)))) = known {
        return Ok(Told::Ended(members::exit_code(pid, started)));
    }
    if let Some(first) = members::first(names, pid) {
        members::signal(&first, signal)?;
        if let Some(version) = thaw {
            let_go_on(&first, names, version);
        }
        return Ok(Told::Signalled(first));
    }
    Ok(match known {
        Some((_, None)) => Told::Ended(None),
        // Somebody has that number who is in none of its cgroups: another's process, or one of a runtime that keeps its
        // processes elsewhere.
        Some((_, Some(_))) | None => Told::Nothing,
    })
}

/// Signals the first process of a container and lets it go on, if that is all that the runtime would do: the process is one of
/// this kernel, and for SIGKILL to `all` of the container, its end is the end of all. False if nothing was sent. Blocks.
///
/// A runtime is a program: a thousand stops are two thousand starts of it. And of a shim that hangs nothing is to be waited for.
fn signal_straight(names: &[String], pid: u32, signal: i32, all: bool, version: CgroupVersion) -> bool {
    let Some(first) = members::one(names, pid).filter(|first| shims::starts_processes_here(first.pid)) else {
        return false;
    };
    if all && !members::leads_a_namespace(pid) {
        return false;
    }
    if let Err(error) = members::signal(&first, signal) {
        tracing::debug!(error = %error, "left to containerd");
        return false;
    }
    let_go_on(&first, names, version);
    true
}

/// Waits for the end of a process; its exit code, if the kernel shows it.
async fn end_of(first: Member) -> std::io::Result<Option<i32>> {
    let (pid, started) = (first.pid, first.started);
    ended(first.process).await?;
    Ok(members::exit_code(pid, started))
}

/// Waits for the end of a process.
pub(super) async fn ended(process: OwnedFd) -> std::io::Result<()> {
    #[expect(
        deprecated,
        reason = "the other one is unsafe for the sake of descriptors that are not owned; this one is"
    )]
    let process = AsyncFd::with_interest(process, Interest::READABLE)?;
    drop(process.readable().await?);
    Ok(())
}

impl TaskSupervisor {
    /// The names of the cgroups in which the task's processes are.
    pub(super) fn cgroup_names(&self) -> Vec<String> {
        self.container.cgroup_names(&self.id)
    }

    /// Sends a signal that is to end the task straight to its first process, where that does what the runtime would do; false
    /// if it has to be sent by containerd.
    pub(super) fn straight(&self, signal: i32, all: bool) -> impl Future<Output = bool> + use<> {
        let (names, pid, version) = (self.cgroup_names(), self.about.pid, self.shared.node.cgroups);
        let shared = Arc::clone(&self.shared);
        async move {
            let Some(pid) = pid else { return false };
            let sent = shared
                .look(move || signal_straight(&names, pid, signal, all, version))
                .await;
            sent.unwrap_or_else(|error| {
                tracing::error!(error = %error, "a signal broke off");
                false
            })
        }
    }

    /// Sends a stop signal to the first process, since containerd could not: `fault` tells why.
    pub(super) fn signal_by_kernel(&mut self, signal: i32, fault: ContainerdFault, ctx: &mut Context<Self>) {
        tracing::warn!(task.id = %self.id, error = %fault, "containerd does not stop the task, signalling it by the kernel");
        let (names, pid, version) = (self.cgroup_names(), self.about.pid, self.shared.node.cgroups);
        let work = self
            .shared
            .io
            .spawn_blocking(move || signal_first(&names, pid, signal, Some(version)));
        ctx.spawn(work.into_actor(self).map(|told, actor, ctx| match told {
            Ok(Ok(Told::Signalled(first))) => {
                actor.wait_at_shim(ctx);
                actor.watch_end(first, ctx);
            }
            Ok(Ok(Told::Ended(code))) => actor.ended_by_kernel(code, ctx),
            Ok(Ok(Told::Nothing)) => actor.stop_not_sent(&TaskError::Containerd(fault), ctx),
            // A signal that nobody can send now: the grace goes on, and SIGKILL at its end can be sent.
            Ok(Err(error)) => {
                tracing::warn!(task.id = %actor.id, error = %error, "the stop signal cannot be sent, the task is killed at the end of its grace");
            }
            Err(broken) => actor.stop_not_sent(&TaskError::Driver(broken.to_string()), ctx),
        }));
    }

    /// The end of a process that was signalled by the kernel is an event of the kernel.
    fn watch_end(&mut self, first: Member, ctx: &mut Context<Self>) {
        let watch = self.shared.io.spawn(end_of(first));
        let watch = super::away::Abort::guard(watch);
        self.at_kernel = Some(ctx.spawn(watch.into_actor(self).map(|code, actor, ctx| {
            actor.at_kernel = None;
            match code {
                Ok(Ok(code)) => actor.ended_by_kernel(code, ctx),
                // Not an exit: the deadline of the stop still comes.
                Ok(Err(error)) => tracing::warn!(task.id = %actor.id, error = %error, "cannot watch a process"),
                Err(broken) => {
                    tracing::error!(task.id = %actor.id, error = %broken, "the watch of a process broke off")
                }
            }
        })));
    }

    /// No more news by the kernel are needed: the exit is known.
    pub(super) fn leave_kernel(&mut self, ctx: &mut Context<Self>) {
        if let Some(watch) = self.at_kernel.take() {
            ctx.cancel_future(watch);
        }
    }

    /// SIGKILL to all processes by the kernel, since containerd could not, or the task has not ended of it.
    pub(super) fn kill_by_kernel(&mut self, fault: Option<ContainerdFault>, ctx: &mut Context<Self>) {
        if let Some(fault) = &fault {
            tracing::warn!(task.id = %self.id, error = %fault, "containerd does not kill the task, killing it by the kernel");
        }
        let (names, pid, version) = (self.cgroup_names(), self.about.pid, self.shared.node.cgroups);
        let work = self.shared.io.spawn_blocking(move || {
            let killed = members::kill_all(&names, pid, version, KILL_WITHIN);
            // Nobody was there: it may have ended before, and its code be there to be seen.
            let before = pid.filter(|_| killed.signalled == 0);
            match before.map(|pid| (pid, members::look_at(pid))) {
                Some((pid, Some((started, true)))) => {
                    let code = members::exit_code(pid, started);
                    (Killed { code, ..killed }, true)
                }
                Some((_, None)) => (killed, true),
                Some((_, Some((_, false)))) => (killed, false),
                None => {
                    let gone = killed.signalled > 0;
                    (killed, gone)
                }
            }
        });
        ctx.spawn(work.into_actor(self).map(move |killed, actor, ctx| match killed {
            Ok((killed, gone)) => actor.killed_by_kernel(&killed, gone, fault, ctx),
            Err(broken) => actor.stop_failed(&TaskError::Driver(broken.to_string())),
        }));
    }

    fn killed_by_kernel(
        &mut self,
        killed: &Killed,
        gone: bool,
        fault: Option<ContainerdFault>,
        ctx: &mut Context<Self>,
    ) {
        if !killed.left.is_empty() {
            let text = format!(
                "processes {:?} are still there {KILL_WITHIN:?} after SIGKILL: the kernel cannot end them now",
                killed.left
            );
            return self.stop_failed(&TaskError::Driver(text));
        }
        match fault {
            _ if gone => self.ended_by_kernel(killed.code, ctx),
            // Not one process was found, nor is it known to have ended: nothing is known of it.
            Some(fault) => self.stop_failed(&TaskError::Containerd(fault)),
            None => self.check_exit(ctx),
        }
    }

    /// Sends a signal that the host asked for, since containerd is away.
    pub(super) fn deliver_by_kernel(
        &self,
        signal: i32,
        fault: ContainerdFault,
    ) -> impl Future<Output = Result<(), TaskError>> + use<> {
        let (names, pid) = (self.cgroup_names(), self.about.pid);
        let work = self
            .shared
            .io
            .spawn_blocking(move || signal_first(&names, pid, signal, None));
        async move {
            match work.await.map_err(|e| TaskError::Driver(e.to_string()))? {
                Ok(Told::Signalled(_)) => Ok(()),
                Ok(Told::Ended(_)) => Err(TaskError::WrongState {
                    action: "send a signal",
                    state: "exited",
                }),
                Ok(Told::Nothing) => Err(TaskError::Containerd(fault)),
                Err(error) => Err(TaskError::Driver(error.to_string())),
            }
        }
    }

    /// The first process has ended. Without a code, whoever has taken it is given some time to tell.
    fn ended_by_kernel(&mut self, code: Option<i32>, ctx: &mut Context<Self>) {
        if !self.state.is_alive() {
            return;
        }
        if let Some(code) = code {
            let exit = ExitRecord {
                code,
                oom: false,
                at: unix_nanos(),
                lost: String::new(),
            };
            return self.exit_known(exit, ctx);
        }
        self.wait_at_shim(ctx);
        self.check_exit(ctx);
        let patience = ctx.run_later(EXIT_PATIENCE, |actor, ctx| {
            if actor.state.is_alive() {
                let lost = actor.lost("its processes have ended and neither containerd nor its shim tells how");
                actor.exit_known(lost, ctx);
            }
        });
        self.set_patience(patience, ctx);
    }

    /// An exit of which no more is known than that it was.
    pub(super) fn lost(&self, why: &str) -> ExitRecord {
        ExitRecord {
            code: LOST,
            oom: false,
            at: unix_nanos(),
            lost: format!("the exit of the task is lost: {why}"),
        }
    }

    /// Ends whatever keeps a removal from being done: the container's processes, and then, if containerd itself answers,
    /// the shim, which does not, unless others need it. containerd takes down what a dead shim leaves. Ends when that has been
    /// sent.
    pub(super) fn force(&self) -> impl Future<Output = Result<(), ContainerdFault>> + use<> {
        // A later run of the same task may be in the host's scope by now: that name counts only for a process known here.
        let (container, scope, pid) = (self.container.clone(), self.cgroup_names(), self.about.pid);
        let (configured, io, version) = (self.configured(), self.shared.io.clone(), self.shared.node.cgroups);
        let shared = Arc::clone(&self.shared);
        async move {
            let broken = |e: tokio::task::JoinError| super::interrupted("kill task", e.to_string());
            let own = container.as_str().to_owned();
            let killed = io.spawn_blocking(move || {
                let known = pid.is_some() && members::first(&scope, pid).map(|first| first.pid) == pid;
                let names = if known { scope } else { vec![own] };
                members::kill_all(&names, pid, version, KILL_WITHIN)
            });
            let killed = killed.await.map_err(broken)?;
            let gateway = configured?.gateway;
            gateway.container(container.as_str()).await?;
            let shim = end_shim(&shared, &gateway, &container).await.map_err(broken)?;
            tracing::warn!(container.id = %container, processes = killed.signalled, shim, "killed what kept the container from being removed");
            Ok(())
        }
    }

    /// The stop signal went to nobody: the task runs on as before, and whoever asked is told why.
    fn stop_not_sent(&mut self, error: &TaskError, ctx: &mut Context<Self>) {
        // Ended or being killed meanwhile: that answers.
        if self.state != State::Stopping {
            return;
        }
        // The grace begins with the signal: without one, nobody is killed at its end.
        self.disarm(ctx);
        self.note(&Event::StopFailed, ctx);
        self.stop_failed(error);
    }
}

/// The exit code of a task whose real one nobody knows.
pub(super) const LOST: i32 = -1;

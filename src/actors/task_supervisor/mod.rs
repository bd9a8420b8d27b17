//! | `TaskSupervisor` (one per task) | |
//! |---|---|
//! | owns | the task's state, who waits for it, the escalation from signal to SIGKILL |
//! | asked | `Start`, `Recover`, `Wait`, `Stop`, `Signal`, `Destroy`, `Inspect`, `Exec` |
//! | told | `TaskExited`, `TaskOom`, `ContainerdAway`, `PullProgress` |
//! | tells | `TaskEvent` |
//! | mailbox | 32; waiters hold no place |
//! | restart | in place; rebuilt from the container's labels and containerd's task state, askers ask again |

mod adopt;
mod away;
mod exec;
mod exit;
mod kernel;
mod memory;
mod own_logs;
mod process;
mod recover;
mod remove;
mod start;
pub mod state;
mod stop;
pub mod table;

use crate::actors::shared::holds::Hold;
use crate::actors::shared::{Links, Shared, unix_nanos};
use crate::actors::supervision::tasks::{Seen, TaskTable};
use crate::messages::image::{ImageReady, PullProgress};
use crate::messages::runtime::{ContainerdFault, FaultKind};
use crate::messages::task::{Inspect, Inspection, Signal, Started, TaskError, TaskEvent, Wait};
use crate::messages::{Ask, Cx, Fact as _, Owed, Request as _, Tell};
use crate::spec::identity::{ContainerId, TaskId};
use crate::spec::log_collection::LogFiles;
use crate::spec::record::{ExitRecord, HandleState};
use crate::spec::task::TaskSpec;
use crate::telemetry::names;
use crate::telemetry::propagate::handling;
use actix::{
    Actor, ActorContext as _, ActorFutureExt as _, AsyncContext as _, Context, Handler, SpawnHandle, Supervised,
    WrapFuture as _,
};
use state::{Effect, Event, Refused, State};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tracing::Span;

/// Name of this actor in spans.
const ACTOR: &str = "task_supervisor";

/// What is known about the task besides its state.
#[derive(Debug, Clone, Default)]
struct About {
    alloc_id: String,
    name: String,
    started_at: i64,
    stop_signal: i32,
    pid: Option<u32>,
    /// The files into which this driver writes its output, if it does and if that is known: a supervisor that was restarted
    /// leaves it to those of before.
    logs: Option<LogFiles>,
    /// Where the kernel counts whom it has killed for want of memory.
    oom_counter: Option<PathBuf>,
    /// What it has counted so far.
    oom_tally: memory::Tally,
    /// How many of them were written down.
    oom_kept: u64,
}

/// Who waits for what.
#[derive(Default)]
struct Waiting {
    start: Vec<Owed<Result<Started, TaskError>>>,
    recover: Vec<Owed<Result<(), TaskError>>>,
    exit: Vec<Owed<Result<ExitRecord, TaskError>>>,
    stop: Vec<Owed<Result<(), TaskError>>>,
    destroy: Vec<Owed<Result<(), TaskError>>>,
}

/// The start that is under way.
struct Starting {
    task: Arc<TaskSpec>,
    image: Option<ImageReady>,
    /// Keep the image until its container is recorded.
    holds: Vec<Hold>,
    work: Option<SpawnHandle>,
    span: Span,
}

/// See the module.
pub struct TaskSupervisor {
    id: TaskId,
    container: ContainerId,
    shared: Arc<Shared>,
    links: Arc<Links>,
    tasks: Arc<TaskTable>,
    state: State,
    about: About,
    waiting: Waiting,
    starting: Option<Starting>,
    stop_wish: stop::Wish,
    /// An exit was told before it was known what runs.
    exit_told_early: bool,
    /// Whoever looks at the task has been told of its exit.
    exit_emitted: bool,
    /// An exit that is held back for a moment, for news of the reason.
    held_exit: Option<(ExitRecord, SpawnHandle)>,
    /// Whether that may be the exit of another process.
    exit_in_doubt: bool,
    /// The wait at the task's shim, while containerd is away.
    at_shim: Option<SpawnHandle>,
    /// The watch of a process that was signalled by the kernel.
    at_kernel: Option<SpawnHandle>,
    /// The watch of the first process, as long as it runs and until its exit is told.
    at_process: Option<SpawnHandle>,
    /// How often it was asked by which process the task runs, and the next question, where that is not known.
    learning: Option<(u32, SpawnHandle)>,
    /// The exit is kept where it survives this process.
    recorded: bool,
    /// True until a restarted supervisor has seen what containerd says.
    unsure: Option<ContainerdFault>,
    /// A removal that failed and is tried again.
    debt: remove::Debt,
    /// The handle of the Go driver, if that started the task.
    adopted: Option<Arc<HandleState>>,
    /// The watch over an adopted task.
    watch: Option<SpawnHandle>,
    rebuild: bool,
}

impl TaskSupervisor {
    /// A supervisor for this task. With `rebuild`, an earlier one has looked after it.
    #[must_use]
    pub fn new(
        id: TaskId,
        container: ContainerId,
        shared: Arc<Shared>,
        links: Arc<Links>,
        tasks: Arc<TaskTable>,
        rebuild: bool,
    ) -> Self {
        let mut parts = id.as_str().splitn(2, '/');
        let alloc_id = parts.next().unwrap_or_default().to_owned();
        let name = parts
            .next()
            .and_then(|rest| rest.rsplit_once('/'))
            .map(|(name, _)| name.to_owned())
            .unwrap_or_default();
        // An earlier supervisor of this task may have adopted it.
        let adopted = tasks.adopted(&id);
        Self {
            about: About {
                alloc_id,
                name,
                started_at: adopted.as_ref().map_or(0, |handle| handle.started_at),
                stop_signal: stop::DEFAULT_SIGNAL,
                ..About::default()
            },
            id,
            container: adopted.as_ref().map_or(container, |handle| handle.container.clone()),
            adopted,
            watch: None,
            shared,
            links,
            tasks,
            state: State::Absent,
            waiting: Waiting::default(),
            starting: None,
            stop_wish: stop::Wish::default(),
            exit_told_early: false,
            exit_emitted: false,
            held_exit: None,
            exit_in_doubt: false,
            at_shim: None,
            at_kernel: None,
            at_process: None,
            learning: None,
            recorded: false,
            unsure: None,
            debt: remove::Debt::default(),
            rebuild,
        }
    }

    /// Takes an event through the state machine and carries out the effects.
    fn apply(&mut self, event: &Event, ctx: &mut Context<Self>) -> Result<(), Refused> {
        let (next, effects) = state::step(&self.state, event)?;
        if next != self.state {
            tracing::debug!(task.id = %self.id, from = self.state.name(), to = next.name(), "task state");
        }
        let began = !self.state.is_alive() && next.is_alive();
        self.state = next;
        self.keep_seen();
        if began {
            self.process_known(ctx);
        }
        for effect in effects {
            self.carry_out(effect, ctx);
        }
        Ok(())
    }

    /// What begins with its process, as soon as that is known.
    fn process_known(&mut self, ctx: &mut Context<Self>) {
        self.keep_seen();
        self.find_oom_counter(ctx);
        self.watch_process(ctx);
    }

    /// For facts: a pair that makes no sense is logged, since nobody waits for an answer to a fact.
    fn note(&mut self, event: &Event, ctx: &mut Context<Self>) {
        if let Err(refused) = self.apply(event, ctx) {
            tracing::debug!(task.id = %self.id, error = %refused, "fact ignored");
        }
    }

    fn carry_out(&mut self, effect: Effect, ctx: &mut Context<Self>) {
        match effect {
            Effect::Pull => self.pull(ctx),
            Effect::Create => self.create(ctx),
            Effect::CancelStart => self.cancel_start(ctx),
            Effect::Signal => self.signal_to_stop(ctx),
            Effect::Kill => self.kill(ctx),
            Effect::RecordExit => self.record_exit(ctx),
            Effect::AnswerExit => self.answer_exit(ctx),
            Effect::Remove => self.remove(ctx),
            Effect::Finish => self.finish(ctx),
        }
    }

    /// All that was the task's own is gone: answer, leave the address book, end.
    fn finish(&mut self, ctx: &mut Context<Self>) {
        self.let_go_of_logs();
        self.tasks.close(&self.id);
        for reply in self.waiting.destroy.drain(..) {
            reply.send(Ok(()));
        }
        ctx.stop();
    }

    fn handle_state(&self) -> HandleState {
        let namespace = self
            .shared
            .configured()
            .map(|c| c.settings.containerd_namespace.clone())
            .unwrap_or_default();
        HandleState {
            container: self.container.clone(),
            namespace,
            started_at: self.about.started_at,
            stop_signal: self.about.stop_signal,
            logs: self.about.logs.clone(),
            go: None,
        }
    }

    /// Tells whoever looks at the task. Nobody listening is no error.
    fn emit(&self, message: String, annotations: BTreeMap<String, String>) {
        let event = TaskEvent {
            task: self.id.clone(),
            alloc_id: self.about.alloc_id.clone(),
            task_name: self.about.name.clone(),
            at: unix_nanos(),
            message,
            annotations,
        };
        drop(self.shared.events.send(event));
    }

    /// The fault to answer with while it is not known what containerd says, nor what an earlier supervisor has seen.
    fn doubt(&self) -> Option<TaskError> {
        self.unsure
            .clone()
            .filter(|_| !self.state.is_alive())
            .map(TaskError::Containerd)
    }

    /// Keeps what is known of a task that runs or has run: the next supervisor begins with it.
    fn keep_seen(&self) {
        if self.state.is_alive() || self.state.exit().is_some() {
            let seen = Seen {
                pid: self.about.pid,
                started_at: self.about.started_at,
                stop_signal: self.about.stop_signal,
                exit: self.state.exit().cloned(),
            };
            self.tasks.keep(&self.id, Some(seen));
        }
    }
}

impl Actor for TaskSupervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if self.rebuild {
            self.look_back(ctx);
        }
        if self.debt.is_owed() {
            self.owe_removal(ctx);
        }
    }
}

impl Supervised for TaskSupervisor {
    fn restarting(&mut self, _ctx: &mut Self::Context) {
        let debt = self.debt.inherit();
        *self = Self::new(
            self.id.clone(),
            self.container.clone(),
            Arc::clone(&self.shared),
            Arc::clone(&self.links),
            Arc::clone(&self.tasks),
            true,
        );
        self.debt = debt;
    }
}

impl Handler<Ask<Wait>> for TaskSupervisor {
    type Result = ();

    fn handle(&mut self, ask: Ask<Wait>, _ctx: &mut Self::Context) {
        let Ask { cx, reply, .. } = ask;
        let reply = Owed::new(
            reply,
            handling!(cx, names::TASK_WAIT, ACTOR, Wait::NAME, { names::TASK_ID } = %self.id),
        );
        self.waiting.exit.retain(|waiter| !waiter.is_abandoned());
        match (&self.state, self.unsure.is_some()) {
            (State::Exited(exit) | State::Removing(Some(exit)), _) => reply.send(Ok(exit.clone())),
            (State::Absent | State::Destroyed, false) => reply.send(Err(TaskError::NotFound)),
            _ => self.waiting.exit.push(reply),
        }
    }
}

impl Handler<Ask<Signal>> for TaskSupervisor {
    type Result = ();

    fn handle(&mut self, ask: Ask<Signal>, ctx: &mut Self::Context) {
        let Ask { req, cx, reply, .. } = ask;
        let span = handling!(cx, names::TASK_SIGNAL, ACTOR, Signal::NAME, { names::TASK_ID } = %self.id, { names::SIGNAL } = req.signal);
        let reply = Owed::new(reply, span.clone());
        if let Some(doubt) = self.doubt() {
            reply.send(Err(doubt));
            return;
        }
        if !self.state.is_alive() {
            reply.send(Err(TaskError::WrongState {
                action: "send a signal",
                state: self.state.name(),
            }));
            return;
        }
        let kill = self.kill_call(req.signal, false, span);
        ctx.spawn(kill.into_actor(self).then(move |sent, actor, _| {
            // Nobody has it yet, so it is not sent twice. A containerd that is late may still send it.
            let by_kernel = match &sent {
                Err(fault) if fault.kind == FaultKind::Unreachable => {
                    Some(actor.deliver_by_kernel(req.signal, fault.clone()))
                }
                _ => None,
            };
            async move {
                reply.send(match by_kernel {
                    Some(delivery) => delivery.await,
                    None => sent.map_err(TaskError::Containerd),
                });
            }
            .into_actor(actor)
        }));
    }
}

impl Handler<Ask<Inspect>> for TaskSupervisor {
    type Result = ();

    fn handle(&mut self, ask: Ask<Inspect>, _ctx: &mut Self::Context) {
        let Ask { cx, reply, .. } = ask;
        let reply = Owed::new(
            reply,
            handling!(cx, names::TASK_INSPECT, ACTOR, Inspect::NAME, { names::TASK_ID } = %self.id),
        );
        let known = self.state.is_alive() || self.state.exit().is_some();
        reply.send(if known {
            Ok(Inspection {
                container: self.container.clone(),
                name: self.about.name.clone(),
                pid: if self.state.is_alive() { self.about.pid } else { None },
                started_at: self.about.started_at,
                exit: self.state.exit().cloned(),
            })
        } else {
            Err(self.doubt().unwrap_or(TaskError::NotFound))
        });
    }
}

impl Handler<Tell<PullProgress>> for TaskSupervisor {
    type Result = ();

    fn handle(&mut self, tell: Tell<PullProgress>, _ctx: &mut Self::Context) {
        let _span = handling!(tell.cx, names::ACTOR_MESSAGE, ACTOR, PullProgress::NAME, { names::TASK_ID } = %self.id);
        let PullProgress { text, details, .. } = tell.fact;
        self.emit(text, details.into_iter().map(|(k, v)| (k.to_owned(), v)).collect());
    }
}

/// The fault of a driver that has no configuration, or whose own actors did not answer.
fn interrupted(operation: &'static str, text: String) -> ContainerdFault {
    ContainerdFault {
        kind: FaultKind::Unreachable,
        operation,
        text,
    }
}

/// The context of a span, to send along with a message.
fn cx_of(span: &Span) -> Cx {
    span.in_scope(Cx::current)
}

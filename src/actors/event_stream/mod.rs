//! | `EventStream` | |
//! |---|---|
//! | owns | the one subscription to containerd, the roster of its tasks |
//! | asked | `LookUpTask` |
//! | told | `ForgetTask`; what the reader brings |
//! | tells | `TaskExited`, `TaskOom`, `ContainerdAway` to supervisors, `ProbeNow` |
//! | mailbox | 1,024 |
//! | restart | in place; a new reader subscribes, **then** lists, so that nothing falls between |
//!
//! An exit is known from the event or from the listing, whichever is first; both lead to the same idempotent fact. A
//! broken connection is never an exit: a supervised task that the listing lacks is looked up by its supervisor.

mod reader;

use crate::actors::shared::{Links, Shared};
use crate::messages::health::{Health, ProbeNow, Verdict};
use crate::messages::runtime::{
    ContainerdAway, ContainerdFault, FaultKind, ForgetTask, LookUpTask, TaskExited, TaskOom, TaskView,
};
use crate::messages::{Ask, Cx, Fact as _, Owed, Request as _, Tell};
use crate::spec::identity::ContainerId;
use crate::telemetry::propagate::handling;
use crate::telemetry::{Counter, names};
use actix::{Actor, AsyncContext as _, Context, Handler, SpawnHandle, StreamHandler, Supervised, WrapFuture as _};
use reader::{Item, Reader};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;
use tracing::Instrument as _;

/// The code of a process that was killed; containerd tells it also of a shim that it has taken down.
const KILLED: i32 = 137;

/// Places in the mailbox: as many recoveries may ask at once.
pub const MAILBOX: usize = 1024;

type Answer = Owed<Result<Option<TaskView>, ContainerdFault>>;

/// See the module.
pub struct EventStream {
    shared: Arc<Shared>,
    links: Arc<Links>,
    /// Ends its work when dropped.
    reader: Option<Reader>,
    /// The tasks of the last listing, kept up to date by events; `None` while the stream is not live.
    roster: Option<HashMap<ContainerId, TaskView>>,
    /// Who asked while the stream was not live, and when that is too late.
    waiting: Vec<(Instant, LookUpTask, Answer)>,
    /// For the first of them. One for all, since an actor polls every future that it has at each of its turns.
    late: Option<SpawnHandle>,
    /// The last verdict on containerd was not a good one.
    was_unhealthy: bool,
}

impl EventStream {
    /// An event stream that begins with the first configuration.
    #[must_use]
    pub fn new(shared: Arc<Shared>, links: Arc<Links>) -> Self {
        Self {
            shared,
            links,
            reader: None,
            roster: None,
            waiting: Vec::new(),
            late: None,
            was_unhealthy: false,
        }
    }

    fn subscribe(&mut self, ctx: &mut Context<Self>) {
        self.roster = None;
        let Ok(configured) = self.shared.configured() else {
            return;
        };
        let (reader, items) = Reader::start(&self.shared.io, configured.gateway);
        self.reader = Some(reader);
        ctx.add_stream(items);
    }

    /// False for what an earlier reader, of earlier settings, has left in the queue.
    fn is_current(&self, generation: u64) -> bool {
        self.reader.as_ref().is_some_and(|r| r.generation == generation)
    }

    fn look_up(&self, wanted: LookUpTask, answer: Answer, ctx: &mut Context<Self>) {
        match self.roster.as_ref().and_then(|roster| roster.get(&wanted.container)) {
            Some(view) => answer.send(Ok(Some(view.clone()))),
            // Created after the listing, or unknown: containerd itself is asked.
            None => match self.shared.configured() {
                Err(fault) => answer.send(Err(fault)),
                Ok(configured) => {
                    let span = answer.span().clone();
                    let look = async move { configured.gateway.task(wanted.container.as_str()).await }.instrument(span);
                    ctx.spawn(async move { answer.send(look.await) }.into_actor(self));
                }
            },
        }
    }

    fn on_listing(&mut self, generation: u64, tasks: Vec<(ContainerId, TaskView)>, ctx: &mut Context<Self>) {
        if !self.is_current(generation) {
            return;
        }
        let roster: HashMap<_, _> = tasks.into_iter().collect();
        tracing::debug!(tasks = roster.len(), "event stream is live");
        if self.was_unhealthy {
            self.links.probe_now.offer(ProbeNow, Cx::current());
        }
        let ours = self.links.tasks.containers();
        for container in ours {
            match roster.get(&container) {
                Some(TaskView::Stopped(exit)) => self.deliver(TaskExited {
                    container,
                    exit: Some(exit.clone()),
                    pid: None,
                }),
                Some(TaskView::Running { .. } | TaskView::Created { .. }) => {}
                None => self.deliver(TaskExited {
                    container,
                    exit: None,
                    pid: None,
                }),
            }
        }
        self.roster = Some(roster);
        for (_, wanted, answer) in std::mem::take(&mut self.waiting) {
            self.look_up(wanted, answer, ctx);
        }
    }

    /// Arms the timer for whoever loses patience first. Patience is of one length, so that is whoever asked first.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        let (None, Some((first, ..))) = (&self.late, self.waiting.first()) else {
            return;
        };
        self.late = Some(
            ctx.run_later(first.saturating_duration_since(Instant::now()), |actor, ctx| {
                actor.late = None;
                actor.give_up();
                actor.arm(ctx);
            }),
        );
    }

    /// Answers whoever has waited long enough.
    fn give_up(&mut self) {
        let now = Instant::now();
        let late: Vec<_> = self.waiting.extract_if(.., |(until, ..)| *until <= now).collect();
        for (_, wanted, answer) in late {
            answer.send(Err(ContainerdFault {
                kind: FaultKind::Deadline,
                operation: "list tasks",
                text: format!("containerd did not answer within {:?}", wanted.patience),
            }));
        }
    }

    /// Nobody asked for it: a trace of its own.
    fn deliver(&self, fact: TaskExited) {
        let span = handling!(Cx::default(), names::ACTOR_MESSAGE, "event_stream", TaskExited::NAME, { names::CONTAINER_ID } = %fact.container);
        let known = span.in_scope(|| self.links.tasks.exited(fact, Cx::current()));
        if known {
            Counter::TasksExited.bump();
        }
    }
}

impl Actor for EventStream {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.add_stream(tokio_stream::wrappers::WatchStream::from_changes(
            self.shared.configured.subscribe(),
        ));
        ctx.add_stream(tokio_stream::wrappers::WatchStream::from_changes(
            self.shared.verdict.subscribe(),
        ));
        self.subscribe(ctx);
    }
}

impl Supervised for EventStream {
    fn restarting(&mut self, _ctx: &mut Self::Context) {
        *self = Self::new(Arc::clone(&self.shared), Arc::clone(&self.links));
    }
}

impl StreamHandler<Option<super::shared::Configured>> for EventStream {
    fn handle(&mut self, _: Option<super::shared::Configured>, ctx: &mut Self::Context) {
        self.subscribe(ctx);
    }

    fn finished(&mut self, _ctx: &mut Self::Context) {}
}

/// A containerd that hung and came back has not broken the stream, but a shim gives up on an event that it could not
/// publish for half a minute (`NewPublisher` of containerd's shim: five attempts). So the tasks are listed again.
impl StreamHandler<Verdict> for EventStream {
    fn handle(&mut self, verdict: Verdict, ctx: &mut Self::Context) {
        let healthy = verdict.health == Health::Healthy;
        if healthy && self.was_unhealthy && self.roster.is_some() {
            self.subscribe(ctx);
        }
        self.was_unhealthy = !healthy;
    }

    fn finished(&mut self, _ctx: &mut Self::Context) {}
}

impl StreamHandler<Item> for EventStream {
    fn handle(&mut self, item: Item, ctx: &mut Self::Context) {
        match item {
            Item::Listing { generation, tasks } => self.on_listing(generation, tasks, ctx),
            Item::Exited { container, exit, pid } => {
                if let Some(roster) = self.roster.as_mut() {
                    match roster.get(&container) {
                        Some(TaskView::Running { pid: known }) if *known == pid && exit.code != KILLED => {
                            roster.insert(container.clone(), TaskView::Stopped(exit.clone()));
                        }
                        // It may be of another process: of a start that was interrupted, or what is said of any shim that
                        // was taken down. Whoever wants to know asks containerd.
                        _ => drop(roster.remove(&container)),
                    }
                }
                self.deliver(TaskExited {
                    container,
                    exit: Some(exit),
                    pid: Some(pid),
                });
            }
            Item::Deleted { container } => {
                if let Some(roster) = self.roster.as_mut() {
                    roster.remove(&container);
                }
                // Its supervisor knows whether it is its own doing.
                let span = handling!(Cx::default(), names::ACTOR_MESSAGE, "event_stream", TaskExited::NAME, { names::CONTAINER_ID } = %container);
                let gone = TaskExited {
                    container,
                    exit: None,
                    pid: None,
                };
                span.in_scope(|| self.links.tasks.exited(gone, Cx::current()));
            }
            Item::Oom { container } => {
                let span = handling!(Cx::default(), names::ACTOR_MESSAGE, "event_stream", TaskOom::NAME, { names::CONTAINER_ID } = %container);
                span.in_scope(|| self.links.tasks.oom(TaskOom { container }, Cx::current()));
            }
            Item::Gap { generation, .. } if !self.is_current(generation) => {}
            Item::Gap { fault, .. } => {
                tracing::warn!(error.kind = ?fault.kind, error = fault.text, "event stream broke");
                self.roster = None;
                Counter::EventGaps.bump();
                self.links.probe_now.offer(ProbeNow, Cx::current());
                for container in self.links.tasks.containers() {
                    self.links.tasks.away(ContainerdAway { container }, Cx::current());
                }
                // Whoever asked is told now: waiting for containerd's return is the asker's decision.
                for (.., answer) in std::mem::take(&mut self.waiting) {
                    answer.send(Err(fault.clone()));
                }
            }
        }
    }

    fn finished(&mut self, _ctx: &mut Self::Context) {}
}

impl Handler<Ask<LookUpTask>> for EventStream {
    type Result = ();

    fn handle(&mut self, ask: Ask<LookUpTask>, ctx: &mut Self::Context) {
        let Ask { req, cx, reply, .. } = ask;
        let span = handling!(cx, names::EVENTS_LOOK_UP, "event_stream", LookUpTask::NAME, { names::CONTAINER_ID } = %req.container);
        let reply = Owed::new(reply, span);
        if self.roster.is_some() {
            self.look_up(req, reply, ctx);
            return;
        }
        // Not live: wait for the listing, which all askers share, but not longer than the asker's patience.
        self.waiting.push((Instant::now() + req.patience, req, reply));
        self.arm(ctx);
    }
}

impl Handler<Tell<ForgetTask>> for EventStream {
    type Result = ();

    fn handle(&mut self, tell: Tell<ForgetTask>, _ctx: &mut Self::Context) {
        let _span = handling!(tell.cx, names::ACTOR_MESSAGE, "event_stream", ForgetTask::NAME, { names::CONTAINER_ID } = %tell.fact.container);
        if let Some(roster) = self.roster.as_mut() {
            roster.remove(&tell.fact.container);
        }
    }
}

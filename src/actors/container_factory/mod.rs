//! | `ContainerFactory` | |
//! |---|---|
//! | owns | who waits for which creation or removal |
//! | asked | `CreateContainer`, `RemoveContainer`, `ReapContainer` |
//! | told | nothing |
//! | tells | itself `ReapContainer`, for earlier lives of a task; `ForgetTask` |
//! | mailbox | 256 |
//! | restart | in place; work that has begun goes on (see `workshop`), askers ask again, wait for it and adopt its outcome |

mod claim;
mod create;
mod earlier;
mod fault;
mod grouping;
mod held;
pub mod node;
mod on_host;
mod own_logs;
mod reap;
mod refusal;
mod remap;
mod remove;
mod stray;
mod undo;
mod workshop;

pub use workshop::Workshop;

use crate::actors::shared::{Links, Shared};
use crate::messages::container::{ContainerError, CreateContainer, Created, ReapContainer, Reaped, RemoveContainer};
use crate::messages::{Ask, Cx, Owed, Request as _};
use crate::spec::identity::ContainerId;
use crate::telemetry::names;
use crate::telemetry::propagate::{self, handling};
use actix::{Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, Supervised, WrapFuture as _};
use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{JoinError, JoinHandle};
use tracing::{Instrument as _, field};

/// Places in the mailbox.
pub const MAILBOX: usize = 256;

/// A piece of work for one container.
enum Job {
    Create(Box<CreateContainer>, Owed<Result<Created, ContainerError>>),
    Remove(RemoveContainer, Owed<Result<(), ContainerError>>),
    Reap(ReapContainer, Owed<Result<Reaped, ContainerError>>),
}

/// The work of one container: never two pieces at a time.
#[derive(Default)]
struct Bench {
    /// Waits for the piece in hand.
    queue: VecDeque<Job>,
    creating: Vec<Owed<Result<Created, ContainerError>>>,
    removing: Vec<Owed<Result<(), ContainerError>>>,
    reaping: Vec<Owed<Result<Reaped, ContainerError>>>,
    /// The piece in hand; when the actor dies, aborted if its turn has not come.
    work: Option<Abort>,
    kind: Option<Kind>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Create,
    Remove,
    Reap,
}

fn admission() -> tracing::Span {
    tracing::info_span!(names::CONTAINER_STEP, { names::STEP } = "admission")
}

/// How long work counts against the budget, which is for the cores. What takes longer waits for something: a runtime can be
/// kept waiting by its image or its task, and must not keep all others waiting with it.
const COUNTS: Duration = Duration::from_secs(10);

/// Carries out work whose turn has come: to its end, whoever waits for it. The work is on the heap, so that a thousand that
/// still wait for their turn have no room for it each.
async fn whole<T: Send + 'static>(
    mut turn: workshop::Turn,
    mut work: Pin<Box<impl Future<Output = T> + Send + 'static>>,
) -> Result<T, JoinError> {
    let work = async move {
        let done = match tokio::time::timeout(COUNTS, &mut work).await {
            Ok(done) => done,
            Err(_elapsed) => {
                turn.leave_budget();
                work.await
            }
        };
        drop(turn);
        done
    };
    tokio::spawn(work.in_current_span()).await
}

/// One more who waits for the work in hand, which runs in the span of the first.
fn joined<T>(waiting: &mut Vec<Owed<T>>, owed: Owed<T>) {
    owed.span().record(names::JOINED, true);
    if let Some(first) = waiting.first() {
        propagate::link(owed.span(), &first.span().in_scope(Cx::current).0);
    }
    waiting.push(owed);
}

/// Aborts a task when dropped.
struct Abort(tokio::task::AbortHandle);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// See the module.
pub struct ContainerFactory {
    shared: Arc<Shared>,
    links: Arc<Links>,
    workshop: Arc<Workshop>,
    benches: HashMap<ContainerId, Bench>,
}

impl ContainerFactory {
    /// A factory without work.
    #[must_use]
    pub fn new(shared: Arc<Shared>, links: Arc<Links>, workshop: Arc<Workshop>) -> Self {
        Self {
            shared,
            links,
            workshop,
            benches: HashMap::new(),
        }
    }

    /// Takes up a job, joins the one in hand if it is the same, or queues behind another.
    fn take(&mut self, id: ContainerId, job: Job, ctx: &mut Context<Self>) {
        let bench = self.benches.entry(id.clone()).or_default();
        match (job, bench.kind) {
            (Job::Create(_, owed), Some(Kind::Create)) if bench.queue.is_empty() => joined(&mut bench.creating, owed),
            (Job::Remove(_, owed), Some(Kind::Remove)) if bench.queue.is_empty() => joined(&mut bench.removing, owed),
            (job, _) => bench.queue.push_back(job),
        }
        self.advance(&id, ctx);
    }

    fn advance(&mut self, id: &ContainerId, ctx: &mut Context<Self>) {
        let Some(bench) = self.benches.get_mut(id) else { return };
        if bench.kind.is_some() {
            return;
        }
        match bench.queue.pop_front() {
            None => {
                self.benches.remove(id);
            }
            Some(Job::Create(req, owed)) => {
                bench.kind = Some(Kind::Create);
                let span = owed.span().clone();
                bench.creating = vec![owed];
                let (shared, links, workshop, id_) = (
                    Arc::clone(&self.shared),
                    Arc::clone(&self.links),
                    Arc::clone(&self.workshop),
                    id.clone(),
                );
                let work = async move {
                    let turn = workshop.create(&id_).instrument(admission()).await;
                    whole(
                        turn,
                        Box::pin(async move { create::create(&shared, &links, *req).await }),
                    )
                    .await
                };
                let work = self.shared.io.spawn(work.instrument(span));
                self.finish(id.clone(), work, ctx, |bench, done| {
                    for reply in bench.creating.drain(..) {
                        reply.send(done.clone());
                    }
                });
            }
            Some(Job::Reap(req, owed)) => {
                bench.kind = Some(Kind::Reap);
                let span = owed.span().clone();
                bench.reaping = vec![owed];
                let (shared, links, workshop) = (
                    Arc::clone(&self.shared),
                    Arc::clone(&self.links),
                    Arc::clone(&self.workshop),
                );
                let work = async move {
                    let turn = workshop.remove(&req.container).instrument(admission()).await;
                    whole(turn, Box::pin(async move { reap::reap(&shared, &links, &req).await })).await
                };
                let work = self.shared.io.spawn(work.instrument(span));
                self.finish(id.clone(), work, ctx, |bench, done| {
                    for reply in bench.reaping.drain(..) {
                        reply.send(done.clone());
                    }
                });
            }
            Some(Job::Remove(req, owed)) => {
                bench.kind = Some(Kind::Remove);
                let span = owed.span().clone();
                bench.removing = vec![owed];
                let (shared, workshop) = (Arc::clone(&self.shared), Arc::clone(&self.workshop));
                let work = async move {
                    let turn = workshop.remove(&req.container).instrument(admission()).await;
                    let work = async move { remove::asked(&shared, &req.container, req.go_namespace.as_deref()).await };
                    whole(turn, Box::pin(work)).await
                };
                let work = self.shared.io.spawn(work.instrument(span));
                self.finish(id.clone(), work, ctx, |bench, done| {
                    for reply in bench.removing.drain(..) {
                        reply.send(done.clone());
                    }
                });
            }
        }
    }

    /// Hands the outcome to all who wait for it, then takes up the next piece. A panic in the work drops the replies,
    /// so that the askers ask again.
    fn finish<T: Send + 'static>(
        &mut self,
        id: ContainerId,
        work: JoinHandle<Result<T, JoinError>>,
        ctx: &mut Context<Self>,
        answer: impl FnOnce(&mut Bench, T) + 'static,
    ) {
        if let Some(bench) = self.benches.get_mut(&id) {
            bench.work = Some(Abort(work.abort_handle()));
        }
        ctx.spawn(work.into_actor(self).map(move |done, actor: &mut Self, ctx| {
            if let Some(bench) = actor.benches.get_mut(&id) {
                bench.work = None;
                bench.kind = None;
                match done.and_then(|inner| inner) {
                    Ok(done) => answer(bench, done),
                    Err(panic) => {
                        tracing::error!(container.id = %id, error = %panic, "work on a container panicked");
                        bench.creating.clear();
                        bench.removing.clear();
                        bench.reaping.clear();
                    }
                }
            }
            actor.advance(&id, ctx);
        }));
    }
}

impl Actor for ContainerFactory {
    type Context = Context<Self>;
}

impl Supervised for ContainerFactory {
    fn restarting(&mut self, _ctx: &mut Self::Context) {
        *self = Self::new(
            Arc::clone(&self.shared),
            Arc::clone(&self.links),
            Arc::clone(&self.workshop),
        );
    }
}

impl Handler<Ask<CreateContainer>> for ContainerFactory {
    type Result = ();

    fn handle(&mut self, ask: Ask<CreateContainer>, ctx: &mut Self::Context) {
        let Ask { req, cx, reply, .. } = ask;
        let id = ContainerId::of(&req.task.id);
        let span = handling!(cx, names::CONTAINER_CREATE, "container_factory", CreateContainer::NAME, { names::CONTAINER_ID } = %id, { names::TASK_ID } = %req.task.id, { names::JOINED } = field::Empty);
        self.take(id, Job::Create(Box::new(req), Owed::new(reply, span)), ctx);
    }
}

impl Handler<Ask<RemoveContainer>> for ContainerFactory {
    type Result = ();

    fn handle(&mut self, ask: Ask<RemoveContainer>, ctx: &mut Self::Context) {
        let Ask { req, cx, reply, .. } = ask;
        let span = handling!(cx, names::CONTAINER_REMOVE, "container_factory", RemoveContainer::NAME, { names::CONTAINER_ID } = %req.container, { names::JOINED } = field::Empty);
        self.take(req.container.clone(), Job::Remove(req, Owed::new(reply, span)), ctx);
    }
}

impl Handler<Ask<ReapContainer>> for ContainerFactory {
    type Result = ();

    fn handle(&mut self, ask: Ask<ReapContainer>, ctx: &mut Self::Context) {
        let Ask { req, cx, reply, .. } = ask;
        let span = handling!(cx, names::CONTAINER_REAP, "container_factory", ReapContainer::NAME, { names::CONTAINER_ID } = %req.container);
        self.take(req.container.clone(), Job::Reap(req, Owed::new(reply, span)), ctx);
    }
}

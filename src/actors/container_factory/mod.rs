//! | `ContainerFactory` | |
//! |---|---|
//! | owns | creates and removals in flight, admission to them |
//! | asked | `CreateContainer`, `RemoveContainer` |
//! | told | nothing |
//! | tells | nothing |
//! | mailbox | 256 |
//! | restart | in place; work in flight is cancelled, askers ask again, steps adopt or remove what they find |

mod create;
pub mod node;
mod remove;

use crate::actors::shared::{Links, Shared};
use crate::messages::container::{ContainerError, CreateContainer, Created, RemoveContainer};
use crate::messages::{Ask, Cx, Reply, Request};
use crate::spec::identity::ContainerId;
use actix::{Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, Supervised, WrapFuture as _};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tracing::Instrument as _;

/// Places in the mailbox.
pub const MAILBOX: usize = 256;

/// Creates and starts at once, per core. Each is mostly runc's own work; measured against `ctr run -d`, more at once
/// only makes all of them slower.
const CREATES_PER_CORE: usize = 3;

/// Removals at once, per core; a budget of their own, so that a burst of starts does not hold up stops.
const REMOVALS_PER_CORE: usize = 3;

/// A piece of work for one container.
enum Job {
    Create(Box<CreateContainer>, Cx, Vec<Reply<Result<Created, ContainerError>>>),
    Remove(RemoveContainer, Cx, Vec<Reply<Result<(), ContainerError>>>),
}

/// The work of one container: never two pieces at a time.
#[derive(Default)]
struct Bench {
    /// Waits for the piece in hand.
    queue: VecDeque<Job>,
    creating: Vec<Reply<Result<Created, ContainerError>>>,
    removing: Vec<Reply<Result<(), ContainerError>>>,
    /// The piece in hand; aborted when the actor dies.
    work: Option<Abort>,
    kind: Option<Kind>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Create,
    Remove,
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
    creates: Arc<Semaphore>,
    removals: Arc<Semaphore>,
    benches: HashMap<ContainerId, Bench>,
}

impl ContainerFactory {
    /// A factory without work.
    #[must_use]
    pub fn new(shared: Arc<Shared>, links: Arc<Links>) -> Self {
        let cores = shared.cores.max(1);
        Self {
            shared,
            links,
            creates: Arc::new(Semaphore::new(CREATES_PER_CORE.saturating_mul(cores))),
            removals: Arc::new(Semaphore::new(REMOVALS_PER_CORE.saturating_mul(cores))),
            benches: HashMap::new(),
        }
    }

    /// Takes up a job, joins the one in hand if it is the same, or queues behind another.
    fn take(&mut self, id: ContainerId, job: Job, ctx: &mut Context<Self>) {
        let bench = self.benches.entry(id.clone()).or_default();
        match (job, bench.kind) {
            (Job::Create(_, _, replies), Some(Kind::Create)) if bench.queue.is_empty() => bench.creating.extend(replies),
            (Job::Remove(_, _, replies), Some(Kind::Remove)) if bench.queue.is_empty() => bench.removing.extend(replies),
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
            Some(Job::Create(req, cx, replies)) => {
                bench.kind = Some(Kind::Create);
                bench.creating = replies;
                let span = tracing::info_span!("container.create", actor.name = "container_factory", message = CreateContainer::NAME, container.id = %id, task.id = %req.task.id);
                crate::telemetry::propagate::adopt(&span, &cx.0);
                let (shared, links, budget) = (Arc::clone(&self.shared), Arc::clone(&self.links), Arc::clone(&self.creates));
                let work = self.shared.io.spawn(
                    async move {
                        let _permit = budget.acquire_owned().instrument(tracing::info_span!("admission")).await;
                        create::create(&shared, &links, *req).await
                    }
                    .instrument(span),
                );
                self.finish(id.clone(), work, ctx, |bench, done| {
                    for reply in bench.creating.drain(..) {
                        reply.send(done.clone());
                    }
                });
            }
            Some(Job::Remove(req, cx, replies)) => {
                bench.kind = Some(Kind::Remove);
                bench.removing = replies;
                let span = tracing::info_span!("container.remove", actor.name = "container_factory", message = RemoveContainer::NAME, container.id = %id);
                crate::telemetry::propagate::adopt(&span, &cx.0);
                let (shared, budget) = (Arc::clone(&self.shared), Arc::clone(&self.removals));
                let work = self.shared.io.spawn(
                    async move {
                        let _permit = budget.acquire_owned().instrument(tracing::info_span!("admission")).await;
                        remove::remove(&shared, &req.container).await
                    }
                    .instrument(span),
                );
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
    fn finish<T: Send + 'static>(&mut self, id: ContainerId, work: JoinHandle<T>, ctx: &mut Context<Self>, answer: impl FnOnce(&mut Bench, T) + 'static) {
        if let Some(bench) = self.benches.get_mut(&id) {
            bench.work = Some(Abort(work.abort_handle()));
        }
        ctx.spawn(work.into_actor(self).map(move |done, actor: &mut Self, ctx| {
            if let Some(bench) = actor.benches.get_mut(&id) {
                bench.work = None;
                bench.kind = None;
                match done {
                    Ok(done) => answer(bench, done),
                    Err(panic) => {
                        tracing::error!(container.id = %id, error = %panic, "work on a container panicked");
                        bench.creating.clear();
                        bench.removing.clear();
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
        *self = Self::new(Arc::clone(&self.shared), Arc::clone(&self.links));
    }
}

impl Handler<Ask<CreateContainer>> for ContainerFactory {
    type Result = ();

    fn handle(&mut self, ask: Ask<CreateContainer>, ctx: &mut Self::Context) {
        let Ask { req, cx, reply, .. } = ask;
        self.take(ContainerId::of(&req.task.id), Job::Create(Box::new(req), cx, vec![reply]), ctx);
    }
}

impl Handler<Ask<RemoveContainer>> for ContainerFactory {
    type Result = ();

    fn handle(&mut self, ask: Ask<RemoveContainer>, ctx: &mut Self::Context) {
        let Ask { req, cx, reply, .. } = ask;
        self.take(req.container.clone(), Job::Remove(req, cx, vec![reply]), ctx);
    }
}

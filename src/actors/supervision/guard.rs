//! The future that an actor runs in: contains its panics, rests, restarts it behind the same address.
//!
//! actix polls an actor as one future and its own `Supervisor` does not survive a panic in it. Here the actor's
//! future is polled inside `catch_unwind` and is not dropped after a panic, so the mailbox, every address and every
//! queued message live on; only the message in hand is lost, and its asker is told by the drop of its reply path.

use super::policy::{Decision, FailureHistory, RestartPolicy};
use crate::messages::lifecycle::{ChildEnd, ChildExit, ChildName};
use crate::telemetry::Counter;
use actix::dev::{ContextFut, channel};
use actix::{Actor, Addr, Context, Supervised};
use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Instant;
use tokio::time::Sleep;

/// Who is told that an actor has ended. Must not panic: it is also called while a thread unwinds.
pub type Obituary = Box<dyn FnOnce(ChildExit) + Send>;

/// Who an actor is to its supervisor.
pub struct Identity {
    /// Its name.
    pub name: ChildName,
    /// Which incarnation behind its door.
    pub incarnation: u64,
}

impl Identity {
    fn actor(&self) -> &'static str {
        match &self.name {
            ChildName::Singleton(name) => name,
            ChildName::Task(_) => "task_supervisor",
        }
    }
}

/// An actor under guard.
pub struct Guard<A>
where
    A: Supervised + Actor<Context = Context<A>>,
{
    fut: ContextFut<A, Context<A>>,
    policy: RestartPolicy,
    history: FailureHistory,
    rest: Option<Pin<Box<Sleep>>>,
    identity: Identity,
    obituary: Option<Obituary>,
    #[cfg(feature = "chaos")]
    chaos: std::sync::Arc<super::chaos::Injector>,
}

/// Both ends of a mailbox, made before the actor so that its address exists on any thread.
pub struct Mailbox<A: Actor>(channel::AddressReceiver<A>);

/// Makes a mailbox and its address. `capacity` is the number of places; see [`super::book`] for who honours it.
#[must_use]
pub fn mailbox<A>(capacity: usize) -> (Addr<A>, Mailbox<A>)
where
    A: Actor<Context = Context<A>>,
{
    let (tx, rx) = channel::channel::<A>(capacity);
    (Addr::new(tx), Mailbox(rx))
}

impl<A> Guard<A>
where
    A: Supervised + Actor<Context = Context<A>>,
{
    /// Puts an actor behind its mailbox. The caller spawns the guard on the arbiter it runs on.
    pub fn new(mailbox: Mailbox<A>, actor: A, policy: RestartPolicy, identity: Identity, obituary: Obituary) -> Self {
        let ctx = Context::with_receiver(mailbox.0);
        Self {
            fut: ctx.into_future(actor),
            policy,
            history: FailureHistory::default(),
            rest: None,
            identity,
            obituary: Some(obituary),
            #[cfg(feature = "chaos")]
            chaos: std::sync::Arc::default(),
        }
    }

    /// Lets faults be injected into this actor.
    #[cfg(feature = "chaos")]
    #[must_use]
    pub fn with_chaos(mut self, chaos: std::sync::Arc<super::chaos::Injector>) -> Self {
        self.chaos = chaos;
        self
    }

    fn on_panic(&mut self, payload: &(dyn Any + Send)) -> Option<ChildEnd> {
        let reason = panic_text(payload);
        let decision = self.history.record(&self.policy, Instant::now());
        Counter::ActorRestarts.bump();
        match decision {
            Decision::RestartAfter(rest) => {
                tracing::warn!(
                    actor.name = self.identity.actor(),
                    child = ?self.identity.name,
                    failures = self.history.count(),
                    rest_ms = u64::try_from(rest.as_millis()).unwrap_or(u64::MAX),
                    reason,
                    "actor panicked, restarting it"
                );
                self.rest = Some(Box::pin(tokio::time::sleep(rest)));
                None
            }
            Decision::Escalate => {
                Counter::ActorEscalations.bump();
                tracing::error!(actor.name = self.identity.actor(), child = ?self.identity.name, reason, "actor panicked too often");
                Some(ChildEnd::Escalated(reason))
            }
        }
    }

    fn end(&mut self, end: ChildEnd) {
        if let Some(obituary) = self.obituary.take() {
            obituary(ChildExit {
                child: self.identity.name.clone(),
                incarnation: self.identity.incarnation,
                end,
            });
        }
    }
}

/// The text of a panic.
fn panic_text(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic without text".to_owned())
}

impl<A> Future for Guard<A>
where
    A: Supervised + Actor<Context = Context<A>>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            #[cfg(feature = "chaos")]
            ready!(this.chaos.poll_stall(cx));
            if let Some(rest) = this.rest.as_mut() {
                ready!(rest.as_mut().poll(cx));
                this.rest = None;
                // Runs `Supervised::restarting`, which may itself panic.
                match catch_unwind(AssertUnwindSafe(|| this.fut.restart())) {
                    Ok(true) => {}
                    Ok(false) => {
                        this.end(ChildEnd::Stopped);
                        return Poll::Ready(());
                    }
                    Err(panic) => {
                        if let Some(end) = this.on_panic(&*panic) {
                            this.end(end);
                            return Poll::Ready(());
                        }
                        continue;
                    }
                }
            }
            let polled = catch_unwind(AssertUnwindSafe(|| {
                #[cfg(feature = "chaos")]
                this.chaos.strike();
                Pin::new(&mut this.fut).poll(cx)
            }));
            match polled {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(())) => {
                    this.end(ChildEnd::Stopped);
                    return Poll::Ready(());
                }
                Err(panic) => {
                    if let Some(end) = this.on_panic(&*panic) {
                        this.end(end);
                        return Poll::Ready(());
                    }
                }
            }
        }
    }
}

/// A guard that is dropped before its actor ended was aborted: no panic, no unwinding, but the death must be known.
impl<A> Drop for Guard<A>
where
    A: Supervised + Actor<Context = Context<A>>,
{
    fn drop(&mut self) {
        self.end(ChildEnd::Aborted);
    }
}

//! Doors: where messages for an actor are put, whichever incarnation of it is behind.
//!
//! The bound of a mailbox is honoured here. actix itself honours it only for `try_send` on one kept address, and a
//! refusal would push waiting onto every caller; a [`Door`] hands out as many places as the mailbox has, first come
//! first served, and a message holds its place until its handler takes it up.

use crate::messages::{Ask, AskError, Cx, Fact, Reply, Request, Tell};
use crate::telemetry::Counter;
use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Context, Handler};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};

/// How often a request is asked again after the actor died with it in hand, or its work panicked. A hundred deaths
/// that are tolerated by the restart policies take minutes; work that panics each time ends here.
const ASK_AGAIN: u32 = 100;

/// Rest before a request is asked again, times the number of deaths so far, and the longest.
const ASK_REST: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(200));

/// Far enough for "no deadline": tokio's timer wheel cannot hold `Instant` arithmetic overflow.
const NEVER: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);

/// Who is behind a door.
enum Seat<A: Actor> {
    /// Nobody yet, or a replacement is on its way.
    Empty,
    /// This one.
    Taken(Addr<A>),
    /// Nobody any more.
    Ended,
    /// Nobody any more, since none could be kept alive; the last failure.
    Failed(String),
}

/// The door of an actor.
pub struct Door<A: Actor> {
    name: &'static str,
    seat: watch::Sender<Seat<A>>,
    places: Arc<Semaphore>,
}

impl<A> Door<A>
where
    A: Actor<Context = Context<A>>,
{
    /// A door with nobody behind it yet.
    #[must_use]
    pub fn new(name: &'static str, capacity: usize) -> Self {
        Self {
            name,
            seat: watch::Sender::new(Seat::Empty),
            places: Arc::new(Semaphore::new(capacity)),
        }
    }

    /// Puts an actor behind the door.
    pub fn seat(&self, addr: Addr<A>) {
        self.seat.send_replace(Seat::Taken(addr));
    }

    /// Marks that the actor is being replaced.
    pub fn vacate(&self) {
        self.seat.send_replace(Seat::Empty);
    }

    /// Closes the door for good.
    pub fn end(&self) {
        self.seat.send_replace(Seat::Ended);
        self.places.close();
    }

    /// Closes the door for good, since nobody can be kept alive behind it. Whoever asks is told the reason.
    pub fn fail(&self, reason: String) {
        self.seat.send_replace(Seat::Failed(reason));
        self.places.close();
    }

    /// True if the door was closed since nobody could be kept alive behind it.
    pub fn has_failed(&self) -> bool {
        matches!(&*self.seat.borrow(), Seat::Failed(_))
    }

    /// What is said at a door that is closed for good.
    fn closed(&self) -> AskError {
        match &*self.seat.borrow() {
            Seat::Failed(reason) => AskError::Failed {
                actor: self.name,
                reason: reason.clone(),
            },
            Seat::Empty | Seat::Taken(_) | Seat::Ended => AskError::Ended { actor: self.name },
        }
    }

    /// Waits until a live actor is behind the door.
    async fn occupant(&self) -> Option<Addr<A>> {
        let mut seat = self.seat.subscribe();
        let found = seat
            .wait_for(|s| match s {
                Seat::Empty => false,
                Seat::Taken(addr) => addr.connected(),
                Seat::Ended | Seat::Failed(_) => true,
            })
            .await;
        match found.as_deref() {
            Ok(Seat::Taken(addr)) => Some(addr.clone()),
            Ok(Seat::Empty | Seat::Ended | Seat::Failed(_)) | Err(_) => None,
        }
    }

    /// Asks once.
    async fn ask_once<R>(&self, req: R, cx: Cx, deadline: Instant, within: Duration) -> Result<R::Reply, AskError>
    where
        R: Request,
        A: Handler<Ask<R>>,
        Context<A>: ToEnvelope<A, Ask<R>>,
    {
        let late = |_| AskError::Late {
            actor: self.name,
            message: R::NAME,
            after: within,
        };
        let place = match timeout_at(deadline, Arc::clone(&self.places).acquire_owned())
            .await
            .map_err(late)?
        {
            Ok(place) => place,
            Err(_closed) => return Err(self.closed()),
        };
        let Some(addr) = timeout_at(deadline, self.occupant()).await.map_err(late)? else {
            return Err(self.closed());
        };
        let (reply, answer) = Reply::pair();
        // The place in hand is the bound, so this cannot grow the queue beyond the door's capacity.
        addr.do_send(Ask {
            req,
            cx,
            reply,
            _place: place,
        });
        match timeout_at(deadline, answer).await.map_err(late)? {
            Ok(answer) => Ok(answer),
            Err(_dropped) => Err(AskError::Died {
                actor: self.name,
                message: R::NAME,
            }),
        }
    }
}

/// The verb `ask`: a request with a deadline and one typed answer.
pub trait Asks<R: Request>: Send + Sync {
    /// Asks once. `AskError::Died` means: ask again if the request is idempotent.
    fn ask(
        &self,
        req: R,
        cx: Cx,
        within: Option<Duration>,
    ) -> Pin<Box<dyn Future<Output = Result<R::Reply, AskError>> + Send + '_>>;
}

impl<A, R> Asks<R> for Door<A>
where
    A: Actor<Context = Context<A>> + Handler<Ask<R>>,
    R: Request,
{
    fn ask(
        &self,
        req: R,
        cx: Cx,
        within: Option<Duration>,
    ) -> Pin<Box<dyn Future<Output = Result<R::Reply, AskError>> + Send + '_>> {
        let within = within.unwrap_or(NEVER);
        Box::pin(self.ask_once(req, cx, Instant::now() + within, within))
    }
}

/// Asks an idempotent request, again after each death of the actor.
///
/// # Errors
/// As [`Asks::ask`]; `Died` only after many deaths in a row.
pub async fn ask_until<R>(door: &dyn Asks<R>, req: R, cx: Cx, within: Option<Duration>) -> Result<R::Reply, AskError>
where
    R: Request + Clone,
{
    let begun = Instant::now();
    let mut last = None;
    for n in 1..=ASK_AGAIN {
        let left = within.map(|w| w.saturating_sub(begun.elapsed()));
        match door.ask(req.clone(), cx.clone(), left).await {
            Err(died @ AskError::Died { .. }) => {
                Counter::MessagesAskedAgain.bump();
                last = Some(died);
                tokio::time::sleep((ASK_REST.0 * n).min(ASK_REST.1)).await;
            }
            other => return other,
        }
    }
    Err(last.unwrap_or(AskError::Died {
        actor: "",
        message: R::NAME,
    }))
}

/// The verbs for facts.
pub trait Tells<F: Fact>: Send + Sync {
    /// `must_deliver`: for facts that occur a bounded number of times per task (an exit, the end of a stream), so
    /// that the queue cannot grow without bound. Waits for nothing. False if nobody is behind the door; whoever
    /// comes next reads the state afresh.
    fn must_deliver(&self, fact: F, cx: Cx) -> bool;

    /// `offer`: for facts that may be dropped under load; false (and counted) when the mailbox is full.
    fn offer(&self, fact: F, cx: Cx) -> bool;
}

impl<A, F> Tells<F> for Door<A>
where
    A: Actor<Context = Context<A>> + Handler<Tell<F>>,
    F: Fact,
{
    fn must_deliver(&self, fact: F, cx: Cx) -> bool {
        match &*self.seat.borrow() {
            Seat::Taken(addr) if addr.connected() => {
                addr.do_send(Tell { fact, cx });
                true
            }
            Seat::Taken(_) | Seat::Empty | Seat::Ended | Seat::Failed(_) => false,
        }
    }

    fn offer(&self, fact: F, cx: Cx) -> bool {
        let taken = match &*self.seat.borrow() {
            // A kept address: its bound holds.
            Seat::Taken(addr) => addr.try_send(Tell { fact, cx }).is_ok(),
            Seat::Empty | Seat::Ended | Seat::Failed(_) => false,
        };
        if !taken {
            Counter::MessagesRefused.bump();
        }
        taken
    }
}

//! The envelope of every message: trace context, the reply path, the place in the mailbox.
//!
//! Three verbs send it (see `actors::supervision::book`): `ask` (deadline, typed reply), `offer` (refusal is an
//! answer) and `must_deliver` (facts that occur a bounded number of times per task).

use actix::Message;
use opentelemetry::Context;
use std::fmt;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// The trace context that travels with a message. Empty (and free) when tracing is off.
#[derive(Clone, Default)]
pub struct Cx(pub Context);

impl Cx {
    /// The context of the span that is current where the message is made.
    #[must_use]
    pub fn current() -> Self {
        use tracing_opentelemetry::OpenTelemetrySpanExt as _;
        Self(tracing::Span::current().context())
    }
}

impl fmt::Debug for Cx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cx")
    }
}

/// Something that is asked of an actor and has one typed answer.
pub trait Request: Send + 'static {
    /// The answer.
    type Reply: Send + 'static;
    /// Name in spans and logs, e.g. `EnsureImage`.
    const NAME: &'static str;
}

/// Something that happened and is told, without an answer.
pub trait Fact: Send + 'static {
    /// Name in spans and logs, e.g. `TaskExited`.
    const NAME: &'static str;
}

/// Where the answer goes. Dropping it unanswered tells the asker that the actor died with the message in hand.
#[derive(Debug)]
pub struct Reply<T>(pub(crate) oneshot::Sender<T>);

impl<T> Reply<T> {
    /// A reply path and the end that waits for it.
    #[must_use]
    pub fn pair() -> (Self, oneshot::Receiver<T>) {
        let (tx, rx) = oneshot::channel();
        (Self(tx), rx)
    }

    /// Sends the answer. An asker that has gone away is not an error: it gave up or was cancelled.
    pub fn send(self, answer: T) {
        drop(self.0.send(answer));
    }

    /// True when nobody waits any more.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.0.is_closed()
    }
}

/// A reply that is owed until something happens. The span of its handling ends with the answer.
#[derive(Debug)]
pub struct Owed<T> {
    reply: Reply<T>,
    span: tracing::Span,
}

impl<T> Owed<T> {
    /// Owes this reply; `span` is the one in which the request is handled.
    #[must_use]
    pub fn new(reply: Reply<T>, span: tracing::Span) -> Self {
        Self { reply, span }
    }

    /// Ends the span and sends the answer.
    pub fn send(self, answer: T) {
        drop(self.span);
        self.reply.send(answer);
    }

    /// True when nobody waits any more.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.reply.is_abandoned()
    }

    /// Ends when nobody waits any more.
    pub async fn abandoned(&mut self) {
        self.reply.0.closed().await;
    }

    /// The same as a poll, for who owes many.
    pub fn poll_abandoned(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        self.reply.0.poll_closed(cx)
    }

    /// The span of its handling.
    #[must_use]
    pub fn span(&self) -> &tracing::Span {
        &self.span
    }
}

/// A request in its envelope.
pub struct Ask<R: Request> {
    /// What is asked.
    pub req: R,
    /// Trace context of the asker.
    pub cx: Cx,
    /// Where the answer goes.
    pub reply: Reply<R::Reply>,
    /// The place in the actor's mailbox; given back by its drop, when the handler has taken the message up.
    pub(crate) _place: OwnedSemaphorePermit,
}

impl<R: Request> Message for Ask<R> {
    type Result = ();
}

/// A fact in its envelope.
pub struct Tell<F: Fact> {
    /// What happened.
    pub fact: F,
    /// Trace context of the teller.
    pub cx: Cx,
}

impl<F: Fact> Message for Tell<F> {
    type Result = ();
}

/// Why an ask has no answer. The request may or may not have had an effect unless stated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The actor died (and restarts) with the message in hand: ask again, handlers are idempotent.
    #[error("{actor} restarted while it handled {message}")]
    Died {
        /// Actor name.
        actor: &'static str,
        /// Message name.
        message: &'static str,
    },
    /// No place became free in the mailbox, or no answer came, within the deadline.
    #[error("{actor} did not answer {message} within {after:?}")]
    Late {
        /// Actor name.
        actor: &'static str,
        /// Message name.
        message: &'static str,
        /// The deadline.
        after: Duration,
    },
    /// The actor of one task could not be kept alive and was given up, so that the others live on.
    #[error("{actor} failed again and again and was given up: {reason}")]
    Failed {
        /// Actor name.
        actor: &'static str,
        /// The last of its failures.
        reason: String,
    },
    /// The actor has ended for good (its task was destroyed, or the driver shuts down). The request had no effect.
    #[error("{actor} has ended")]
    Ended {
        /// Actor name.
        actor: &'static str,
    },
}

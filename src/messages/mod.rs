//! What may be said between actors, and between a front door and an actor.
//!
//! One file per conversation (who talks to whom about what); request, progress, reply and error are read on one
//! screen. Messages have no behaviour and hold no lock, channel or address; the reply path lives in the envelope.

pub mod audit;
pub mod container;
pub mod doors;
pub mod envelope;
pub mod exec;
pub mod health;
pub mod image;
pub mod lifecycle;
pub mod logs;
pub mod runtime;
pub mod stats;
pub mod task;

pub use envelope::{Ask, AskError, Cx, Fact, Owed, Reply, Request, Tell};

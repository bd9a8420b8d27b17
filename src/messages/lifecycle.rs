//! The conversation between a child and its supervisor `Root`.

use super::{Fact, Request};
use crate::spec::identity::TaskId;

/// How an actor ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChildEnd {
    /// It asked to end.
    Stopped,
    /// Its task was aborted from outside (no unwinding).
    Aborted,
    /// It panicked too often within the window; the text is the last panic's.
    Escalated(String),
}

/// An actor under supervision has ended and will not come back by itself.
#[derive(Debug, Clone)]
pub struct ChildExit {
    /// Which actor.
    pub child: ChildName,
    /// Which incarnation: an exit of an older one is ignored.
    pub incarnation: u64,
    /// How.
    pub end: ChildEnd,
}

impl Fact for ChildExit {
    const NAME: &'static str = "ChildExit";
}

/// The name of a supervised actor.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChildName {
    /// One of the actors of which there is one.
    Singleton(&'static str),
    /// The supervisor of one task.
    Task(TaskId),
}

/// Make sure that a task has a supervisor. Idempotent.
#[derive(Debug, Clone)]
pub struct OpenTask {
    /// Which task.
    pub task: TaskId,
}

impl Request for OpenTask {
    type Reply = ();
    const NAME: &'static str = "OpenTask";
}

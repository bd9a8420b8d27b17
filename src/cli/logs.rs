//! What `run` needs of the log room: pipes for the task's output, and somebody who moves the bytes.
//!
//! The composition root implements it with the gateway to the kernel (pipes) and the messages of `LogPump`.

use crate::messages::doors::Answer;
use crate::messages::logs::{Drained, LogError, Stream};
use crate::spec::identity::ContainerId;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The two pipes of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pipes {
    /// For standard output.
    pub stdout: PathBuf,
    /// For standard error.
    pub stderr: PathBuf,
}

/// The log streams of one container, for a front door.
pub trait LogDoor: Send + Sync {
    /// Makes the pipes, in a place that only we may enter. Idempotent.
    fn open<'a>(&'a self, container: &'a ContainerId) -> Answer<'a, Result<Pipes, LogError>>;

    /// Moves the bytes of a pipe into `sink` from now on (`messages::logs::Attach`).
    fn attach<'a>(
        &'a self,
        container: &'a ContainerId,
        stream: Stream,
        fifo: &'a Path,
        sink: Arc<OwnedFd>,
    ) -> Answer<'a, Result<(), LogError>>;

    /// Waits until the last byte was moved (`messages::logs::Drain`).
    fn drain<'a>(&'a self, container: &'a ContainerId) -> Answer<'a, Result<Drained, LogError>>;

    /// Removes the pipes. Always called at the end.
    fn close<'a>(&'a self, container: &'a ContainerId) -> Answer<'a, ()>;

    /// Resolves, with a reason, when a stream cannot be moved any more (`| head` has closed its end). Never, if that
    /// cannot be known: then a task that goes on writing runs until it is interrupted.
    fn broken<'a>(&'a self, _container: &'a ContainerId) -> Answer<'a, String> {
        Box::pin(std::future::pending())
    }
}

//! The conversation about a command that runs in a task beside its own process.
//!
//! Bytes never enter a mailbox: the answer to [`Exec`] holds ends of bounded channels, and the work behind them belongs to
//! no actor. Dropping the [`ExecSession`] is how an asker gives up: the command is killed.

use super::Request;
use super::logs::Stream;
use super::task::TaskError;
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Run a command in the task's container: its namespaces, user, environment and limits. Answered at once; the command
/// waits for its turn and every later fault comes as [`Output::Failed`].
#[derive(Debug, Clone)]
pub struct Exec {
    /// The program and its arguments, not empty; no shell is involved.
    pub argv: Vec<String>,
    /// Whether it gets a terminal; then there is no standard error.
    pub terminal: bool,
    /// Whether it has an input; without one it reads `/dev/null`.
    pub stdin: bool,
    /// When it is killed; `None`: it may run as long as the task.
    pub timeout: Option<Duration>,
}

impl Request for Exec {
    type Reply = Result<ExecSession, TaskError>;
    const NAME: &'static str = "Exec";
}

/// The ends that whoever has asked for a command holds.
#[derive(Debug)]
pub struct ExecSession {
    /// What it reads. Closed by [`Input::Close`] or by the drop of this end.
    pub input: mpsc::Sender<Input>,
    /// The size of its terminal. May be set before the command runs; the last one counts.
    pub size: watch::Sender<Option<TerminalSize>>,
    /// What it says, ended by one [`Output::Exited`] or [`Output::Failed`].
    pub output: mpsc::Receiver<Output>,
}

/// Size of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// Something for the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Bytes to read.
    Data(Bytes),
    /// There will be no more.
    Close,
}

/// Something from the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Bytes that it wrote.
    Data(Stream, Bytes),
    /// It will write no more there.
    Closed(Stream),
    /// It ended: exit code, 128+n after signal n, -1 if nobody knows. Nothing follows.
    Exited(i32),
    /// It could not be run, or was killed at its timeout. Nothing follows.
    Failed(TaskError),
}

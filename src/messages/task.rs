//! The conversation with `TaskSupervisor`: everything Nomad asks of one task.

use super::container::ContainerError;
use super::image::ImageError;
use super::logs::LogError;
use super::runtime::ContainerdFault;
use super::{Fact, Request};
use crate::spec::identity::{ContainerId, TaskId};
use crate::spec::record::{ExitRecord, HandleState};
use crate::spec::task::TaskSpec;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Start the task. Asked again for a start that is under way, it joins that start; for a task that runs, it is
/// refused unless `resume` is set (the asker lost the first answer).
#[derive(Debug, Clone)]
pub struct Start {
    /// The task.
    pub task: Arc<TaskSpec>,
    /// True when this asker has asked before and lost the answer to an actor's death.
    pub resume: bool,
}

impl Request for Start {
    type Reply = Result<Started, TaskError>;
    const NAME: &'static str = "Start";
}

/// The process runs (or has run).
#[derive(Debug, Clone)]
pub struct Started {
    /// What Nomad keeps for `RecoverTask`.
    pub handle: HandleState,
}

/// Take up a task that an earlier plugin process started. Idempotent.
#[derive(Debug, Clone)]
pub struct Recover {
    /// The task id.
    pub task: TaskId,
    /// Its name in the job and its allocation, as the host tells them with the handle; empty for unknown.
    pub name: String,
    /// See `name`.
    pub alloc_id: String,
    /// What `Started::handle` was.
    pub handle: HandleState,
}

impl Request for Recover {
    type Reply = Result<(), TaskError>;
    const NAME: &'static str = "Recover";
}

/// Wait for the exit. Any number of waiters; after the exit, answered at once.
#[derive(Debug, Clone, Copy)]
pub struct Wait;

impl Request for Wait {
    type Reply = Result<ExitRecord, TaskError>;
    const NAME: &'static str = "Wait";
}

/// Signal, then SIGKILL to the whole container at the deadline; answered when the task is gone.
#[derive(Debug, Clone)]
pub struct Stop {
    /// Grace between the signal and SIGKILL; zero kills at once.
    pub timeout: Duration,
    /// Signal number; `None` for the image's STOPSIGNAL or SIGTERM.
    pub signal: Option<i32>,
}

impl Request for Stop {
    type Reply = Result<(), TaskError>;
    const NAME: &'static str = "Stop";
}

/// Send a signal to the task's first process.
#[derive(Debug, Clone, Copy)]
pub struct Signal {
    /// Signal number.
    pub signal: i32,
}

impl Request for Signal {
    type Reply = Result<(), TaskError>;
    const NAME: &'static str = "Signal";
}

/// Remove the task and all that is its own. With `force`, kill it first if it runs.
#[derive(Debug, Clone, Copy)]
pub struct Destroy {
    /// Kill first.
    pub force: bool,
}

impl Request for Destroy {
    type Reply = Result<(), TaskError>;
    const NAME: &'static str = "Destroy";
}

/// Describe the task.
#[derive(Debug, Clone, Copy)]
pub struct Inspect;

impl Request for Inspect {
    type Reply = Result<Inspection, TaskError>;
    const NAME: &'static str = "Inspect";
}

/// Answer to [`Inspect`].
#[derive(Debug, Clone)]
pub struct Inspection {
    /// The container.
    pub container: ContainerId,
    /// Task name in the job.
    pub name: String,
    /// Process id on the host, if it runs.
    pub pid: Option<u32>,
    /// Nanoseconds since the Unix epoch.
    pub started_at: i64,
    /// The exit, once there is one.
    pub exit: Option<ExitRecord>,
}

/// Something that a person who looks at the task should see.
#[derive(Debug, Clone)]
pub struct TaskEvent {
    /// Task id.
    pub task: TaskId,
    /// Allocation id: routing key at the host.
    pub alloc_id: String,
    /// Task name: routing key at the host.
    pub task_name: String,
    /// Nanoseconds since the Unix epoch.
    pub at: i64,
    /// Text.
    pub message: String,
    /// Details.
    pub annotations: BTreeMap<String, String>,
}

impl Fact for TaskEvent {
    const NAME: &'static str = "TaskEvent";
}

/// Why a request about a task was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// No such task here.
    #[error("task not found for given id")]
    NotFound,
    /// The id is in use.
    #[error("task with ID {0:?} already started")]
    AlreadyStarted(String),
    /// The task is in a state in which this cannot be done.
    #[error("cannot {action}: the task is {state}")]
    WrongState {
        /// What was asked.
        action: &'static str,
        /// The state.
        state: &'static str,
    },
    /// `DestroyTask` without force on a running task.
    #[error("cannot destroy running task")]
    StillRunning,
    /// The image could not be had.
    #[error("Error in pulling image {image}: {0}", image = .0.image())]
    Image(#[from] ImageError),
    /// The container could not be made or run.
    #[error("Error in creating container: {0}")]
    Container(#[from] ContainerError),
    /// The container could not be removed.
    #[error("Error in removing container: {0}")]
    Removal(ContainerError),
    /// A log stream could not be attached.
    #[error("Error in attaching logs: {0}")]
    Log(#[from] LogError),
    /// containerd failed.
    #[error("{0}")]
    Containerd(#[from] ContainerdFault),
    /// A command could not be run in the task.
    #[error("cannot run {command:?} in the task: {reason}")]
    Command {
        /// The program.
        command: String,
        /// Why not.
        reason: String,
    },
    /// A command was killed at its timeout. Go's words, which users may know.
    #[error("context deadline exceeded")]
    CommandTimeout,
    /// The task was stopped before it ran.
    #[error("the task was stopped before it was started")]
    Cancelled,
    /// The driver's own actors did not answer. Worth a retry.
    #[error("driver: {0}")]
    Driver(String),
}

impl TaskError {
    /// Whether Nomad's restart policy should try again.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NotFound
            | Self::AlreadyStarted(_)
            | Self::WrongState { .. }
            | Self::StillRunning
            | Self::Log(_)
            | Self::Command { .. }
            | Self::CommandTimeout
            | Self::Cancelled => false,
            Self::Image(e) => e.is_transient(),
            Self::Container(e) | Self::Removal(e) => e.is_transient(),
            Self::Containerd(e) => e.is_transient(),
            Self::Driver(_) => true,
        }
    }
}

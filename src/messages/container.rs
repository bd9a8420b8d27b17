//! The conversation with `ContainerFactory`: make a running container, or unmake one. Each request is idempotent and
//! keyed by the container id; two for one id are never carried out at the same time.

use super::Request;
use super::image::ImageReady;
use super::runtime::{ContainerdFault, FaultKind, TaskView};
use crate::spec::SpecError;
use crate::spec::identity::ContainerId;
use crate::spec::log_collection::LogFiles;
use crate::spec::task::TaskSpec;
use std::sync::Arc;

/// The step of a start that needs the layers of the image.
pub const PREPARING: &str = "preparing snapshot";

/// Make the container of this task and start its process. What is there already and fits is adopted; what does not
/// fit is removed.
#[derive(Debug, Clone)]
pub struct CreateContainer {
    /// The task.
    pub task: Arc<TaskSpec>,
    /// Its image.
    pub image: ImageReady,
}

impl Request for CreateContainer {
    type Reply = Result<Created, ContainerError>;
    const NAME: &'static str = "CreateContainer";
}

/// The process was started.
#[derive(Debug, Clone)]
pub struct Created {
    /// The container.
    pub container: ContainerId,
    /// Its state: running, or already stopped for a short task.
    pub view: TaskView,
    /// When it was started, nanoseconds since the Unix epoch.
    pub started_at: i64,
    /// The signal that stops it by default (image STOPSIGNAL or SIGTERM).
    pub stop_signal: i32,
    /// True if a container of an earlier, interrupted start was adopted.
    pub adopted: bool,
    /// The files into which this driver writes its output, if it does.
    pub logs: Option<LogFiles>,
}

/// Remove the container and all that belongs to it: task (killed if it runs), record, snapshot, FIFOs, files.
#[derive(Debug, Clone)]
pub struct RemoveContainer {
    /// Which.
    pub container: ContainerId,
    /// Only of a container that the Go driver made: the namespace it lives in.
    pub go_namespace: Option<String>,
}

impl Request for RemoveContainer {
    type Reply = Result<(), ContainerError>;
    const NAME: &'static str = "RemoveContainer";
}

/// Remove what nobody needs any more, as [`RemoveContainer`] does, unless somebody has asked for it since it was judged.
#[derive(Debug, Clone)]
pub struct ReapContainer {
    /// Which.
    pub container: ContainerId,
    /// When the record that was judged was made, nanoseconds since the Unix epoch; `None` if there was no record. Another
    /// record under this name is somebody's.
    pub created_at: Option<i64>,
}

impl Request for ReapContainer {
    type Reply = Result<Reaped, ContainerError>;
    const NAME: &'static str = "ReapContainer";
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaped {
    /// Nothing of it is left.
    Removed,
    /// It is somebody's now, and was left alone.
    Claimed,
}

/// Why a container could not be made or removed. Whatever was made has been removed again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContainerError {
    /// The task asks for something that cannot or may not be.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// containerd refused or failed.
    #[error("{step}: {source}")]
    Containerd {
        /// The step, e.g. `creating container`.
        step: &'static str,
        /// The fault.
        source: ContainerdFault,
    },
    /// The command cannot be run: not found, not executable.
    #[error("option {option}: {command:?} cannot be started: {reason}")]
    Command {
        /// `command`, `entrypoint` or `args`, whichever named the program.
        option: &'static str,
        /// The program.
        command: String,
        /// The runtime's words.
        reason: String,
    },
    /// A log path, a directory or another host object is not usable.
    #[error("{what}: {path}: {reason}")]
    Host {
        /// What it is for, e.g. `stdout log`.
        what: &'static str,
        /// The path.
        path: String,
        /// Why.
        reason: String,
    },
    /// The factory was interrupted. Worth a retry.
    #[error("creating container was interrupted: {0}")]
    Interrupted(String),
}

impl ContainerError {
    /// Whether the image of the task is not here any more: its layers went after it was ready, with a name that was given to
    /// another image.
    #[must_use]
    pub fn is_without_image(&self) -> bool {
        matches!(self, Self::Containerd { step, source } if *step == PREPARING && source.kind == FaultKind::NotFound)
    }

    /// Whether trying again may help without a change by the user.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Spec(_) | Self::Command { .. } | Self::Host { .. } => false,
            Self::Containerd { source, .. } => source.is_transient() || self.is_without_image(),
            Self::Interrupted(_) => true,
        }
    }
}

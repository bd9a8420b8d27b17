//! Facts from containerd, and the fault that a call to it ends with.

use super::{Fact, Request};
use crate::spec::identity::ContainerId;
use crate::spec::record::ExitRecord;
use std::time::Duration;

/// What went wrong in a call to containerd. Decided in `containerd/error.rs` from the status code, never from text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The socket is absent, refuses, or the connection broke.
    Unreachable,
    /// No answer within the deadline: hung or overloaded.
    Deadline,
    /// The object does not exist.
    NotFound,
    /// The object exists already.
    AlreadyExists,
    /// The object is in the wrong state for this.
    FailedPrecondition,
    /// No space, no memory, too many of something.
    Exhausted,
    /// Anything else: the operation was carried out and failed.
    Failed,
}

impl FaultKind {
    /// How a fault of this kind begins for humans: what a broken connection says of itself does not name who is away.
    const fn words(self) -> &'static str {
        match self {
            Self::Unreachable => "containerd cannot be reached",
            Self::Deadline => "containerd does not answer in time",
            Self::NotFound | Self::AlreadyExists | Self::FailedPrecondition | Self::Exhausted | Self::Failed => {
                "containerd"
            }
        }
    }
}

/// A call to containerd that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {operation}: {text}", self.kind.words())]
pub struct ContainerdFault {
    /// Kind, for decisions.
    pub kind: FaultKind,
    /// What was tried, e.g. `create task`.
    pub operation: &'static str,
    /// containerd's words, or ours for a deadline, for humans.
    pub text: String,
}

impl ContainerdFault {
    /// Whether the same call may succeed later without a change by the user.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self.kind {
            FaultKind::Unreachable | FaultKind::Deadline | FaultKind::Exhausted => true,
            FaultKind::NotFound | FaultKind::AlreadyExists | FaultKind::FailedPrecondition | FaultKind::Failed => false,
        }
    }

    /// The directory that containerd could not make since it is there already; it has no code for that.
    #[must_use]
    pub fn directory_in_the_way(&self) -> Option<&str> {
        let (_, rest) = self.text.rsplit_once("mkdir ")?;
        let (dir, _) = rest.split_once(": file exists")?;
        (self.kind == FaultKind::AlreadyExists).then_some(dir)
    }
}

#[test]
fn a_directory_in_the_way_is_named_by_containerd() {
    let fault = |kind, text: &str| ContainerdFault {
        kind,
        operation: "create task",
        text: text.to_owned(),
    };
    let text = "failed to start shim: mkdir /run/x/web: file exists: unknown";
    assert_eq!(
        fault(FaultKind::AlreadyExists, text).directory_in_the_way(),
        Some("/run/x/web")
    );
    assert_eq!(fault(FaultKind::Failed, text).directory_in_the_way(), None);
    let task = fault(FaultKind::AlreadyExists, "task web: already exists");
    assert_eq!(task.directory_in_the_way(), None);
}

/// containerd's view of one task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskView {
    /// Created by the runtime, user process not started.
    Created {
        /// Process id of the container's init on the host.
        pid: u32,
    },
    /// The process runs (or is paused).
    Running {
        /// Process id on the host.
        pid: u32,
    },
    /// The process has ended; the shim keeps the status.
    Stopped(ExitRecord),
}

/// The container's first process has ended. Told once by the event stream, and again after a gap: receivers are
/// idempotent.
#[derive(Debug, Clone)]
pub struct TaskExited {
    /// Which.
    pub container: ContainerId,
    /// How; `None` if a listing lacks the task, which its supervisor then looks up itself.
    pub exit: Option<ExitRecord>,
    /// Which process, where an event says it: an interrupted start has had another under the same name. `None` if containerd has
    /// told it of the task as it is now.
    pub pid: Option<u32>,
}

impl Fact for TaskExited {
    const NAME: &'static str = "TaskExited";
}

/// containerd has gone away while the task, as far as is known, runs on.
#[derive(Debug, Clone)]
pub struct ContainerdAway {
    /// Which.
    pub container: ContainerId,
}

impl Fact for ContainerdAway {
    const NAME: &'static str = "ContainerdAway";
}

/// The kernel killed a process of the container for want of memory.
#[derive(Debug, Clone)]
pub struct TaskOom {
    /// Which.
    pub container: ContainerId,
}

impl Fact for TaskOom {
    const NAME: &'static str = "TaskOom";
}

/// Asks the event stream what containerd says of one task. Answered from memory while the stream is live, else from
/// one listing that all askers share.
#[derive(Debug, Clone)]
pub struct LookUpTask {
    /// Which.
    pub container: ContainerId,
    /// How long to wait for containerd if it is away.
    pub patience: Duration,
}

impl Request for LookUpTask {
    /// `None`: containerd knows no such task.
    type Reply = Result<Option<TaskView>, ContainerdFault>;
    const NAME: &'static str = "LookUpTask";
}

/// The task was destroyed: forget what is known of it.
#[derive(Debug, Clone)]
pub struct ForgetTask {
    /// Which.
    pub container: ContainerId,
}

impl Fact for ForgetTask {
    const NAME: &'static str = "ForgetTask";
}

//! The conversation with `Reaper`: what there is in containerd and on this host, whose it is, and what nobody needs any
//! more.

use super::Request;
use super::runtime::ContainerdFault;
use serde::Serialize;
use std::time::Duration;

/// What a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ThingKind {
    /// A container record in containerd.
    Container,
    /// A task in containerd: the process of a container.
    Task,
    /// A snapshot that is not committed.
    Snapshot,
    /// A lease in containerd.
    Lease,
    /// The process between containerd and a task.
    Shim,
    /// A directory of generated files and pipes.
    RunDirectory,
    /// A named pipe: in a run directory, or where a task's output goes.
    Fifo,
    /// A mount in a container's bundle, or the root of a running one (`/proc/PID/root`).
    Mount,
    /// A cgroup beneath Nomad's, or that of a running container wherever it is.
    Cgroup,
    /// An image record in containerd.
    Image,
    /// A sandbox record in containerd, by which it puts a container into a shim that others have too.
    Sandbox,
    /// The directory in which a container's shim works, beneath containerd's own.
    Bundle,
}

impl ThingKind {
    /// As people and scripts read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Task => "task",
            Self::Snapshot => "snapshot",
            Self::Lease => "lease",
            Self::Shim => "shim",
            Self::RunDirectory => "run_directory",
            Self::Fifo => "fifo",
            Self::Mount => "mount",
            Self::Cgroup => "cgroup",
            Self::Image => "image",
            Self::Sandbox => "sandbox",
            Self::Bundle => "bundle",
        }
    }
}

/// What is thought of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Needed, or too young to tell.
    InUse,
    /// Its owner is not here now and may come back for it.
    Waiting,
    /// Of somebody else. Never touched.
    Foreign,
    /// Nobody needs it any more: the reaper removes it.
    Orphan,
    /// Nobody seems to need it, but removing it is for a human to decide.
    Leftover,
}

impl Standing {
    /// As people and scripts read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InUse => "in_use",
            Self::Waiting => "waiting",
            Self::Foreign => "foreign",
            Self::Orphan => "orphan",
            Self::Leftover => "leftover",
        }
    }

    /// Whether monitoring has to tell.
    #[must_use]
    pub fn is_finding(self) -> bool {
        match self {
            Self::InUse | Self::Waiting | Self::Foreign => false,
            Self::Orphan | Self::Leftover => true,
        }
    }
}

/// What was done about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing.
    Kept,
    /// It was removed, by itself or with its container.
    Removed,
    /// Somebody has asked for it meanwhile.
    Claimed,
    /// It could not be removed, and why.
    Failed(String),
}

/// One thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Thing {
    /// What it is.
    pub kind: ThingKind,
    /// Its name in containerd, its path, or its process id.
    pub name: String,
    /// The container it belongs to and goes with; `None` for a container, and for what has none.
    pub container: Option<String>,
    /// Whose it is: the allocation's directory, or the process that made it; empty if that is not known.
    pub owner: String,
    /// What is thought of it.
    pub standing: Standing,
    /// Why that is thought: a sentence.
    pub why: String,
    /// What was done about it.
    pub outcome: Outcome,
}

/// Look at everything, and remove the orphans if asked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Whether orphans are removed.
    pub fix: bool,
    /// In place of the setting `reaper.grace`.
    pub grace: Option<Duration>,
}

impl Request for Audit {
    type Reply = Result<Report, AuditError>;
    const NAME: &'static str = "Audit";
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Everything, ordered by kind and name.
    pub things: Vec<Thing>,
}

impl Report {
    /// What monitoring has to tell: orphans and leftovers that are still there.
    pub fn findings(&self) -> impl Iterator<Item = &Thing> {
        self.things
            .iter()
            .filter(|t| t.standing.is_finding() && !matches!(t.outcome, Outcome::Removed | Outcome::Claimed))
    }

    /// How many of them could not be removed.
    #[must_use]
    pub fn failures(&self) -> usize {
        let failed = |t: &&Thing| matches!(t.outcome, Outcome::Failed(_));
        self.things.iter().filter(failed).count()
    }
}

/// Why nothing can be said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// containerd does not answer.
    #[error(transparent)]
    Containerd(#[from] ContainerdFault),
    /// The host cannot be looked at.
    #[error("{0}")]
    Host(String),
}

//! The conversation with `LogPump`: which stream goes where.

use super::{Fact, Request};
use crate::spec::identity::ContainerId;
use crate::spec::log_collection::LogFiles;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// One of the two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// `stdout` or `stderr`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Where the bytes of a stream go when the driver moves them.
#[derive(Debug, Clone)]
pub enum Sink {
    /// An open descriptor, e.g. the terminal of `containerd-driver run`.
    Descriptor(Arc<OwnedFd>),
    /// A log path that Nomad gave: FIFO, regular file or `/dev/null`. Opened as [`CheckLogPaths`] checks it.
    Path {
        /// Allocation directory, beneath which no link is followed; empty if unknown.
        alloc_dir: PathBuf,
        /// The path.
        path: PathBuf,
    },
    /// Log files of the allocation, which this driver keeps.
    Files(LogFiles),
}

/// Move the bytes of a FIFO into a sink until all writers are gone. Attaching again under the same key and source is
/// a no-op while the first attachment lives.
#[derive(Debug, Clone)]
pub struct Attach {
    /// Whose stream.
    pub container: ContainerId,
    /// Which stream.
    pub stream: Stream,
    /// The FIFO to read from.
    pub fifo: PathBuf,
    /// Where to.
    pub sink: Sink,
}

impl Request for Attach {
    type Reply = Result<(), LogError>;
    const NAME: &'static str = "Attach";
}

/// Wait until the streams of a container have been moved to their last byte, then forget them.
#[derive(Debug, Clone)]
pub struct Drain {
    /// Whose streams.
    pub container: ContainerId,
    /// How long they may take, `None` for as long as it takes. What is left then is not moved any more.
    pub patience: Option<Duration>,
}

impl Request for Drain {
    type Reply = Result<Drained, LogError>;
    const NAME: &'static str = "Drain";
}

/// What was moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drained {
    /// Bytes moved over both streams.
    pub bytes: u64,
}

/// Check the log paths that Nomad gave before a shim opens them: FIFO or regular file, not a link.
#[derive(Debug, Clone)]
pub struct CheckLogPaths {
    /// Allocation directory, beneath which the paths must lie if they are given.
    pub alloc_dir: PathBuf,
    /// Path for standard output; empty for none.
    pub stdout: PathBuf,
    /// Path for standard error; empty for none.
    pub stderr: PathBuf,
}

impl Request for CheckLogPaths {
    /// The paths to give to the shim (`None`: no output wanted).
    type Reply = Result<(Option<PathBuf>, Option<PathBuf>), LogError>;
    const NAME: &'static str = "CheckLogPaths";
}

/// A pump thread reports the end of one attachment.
#[derive(Debug, Clone)]
pub struct StreamEnded {
    /// Whose.
    pub container: ContainerId,
    /// Which.
    pub stream: Stream,
    /// Bytes moved.
    pub bytes: u64,
    /// Why it ended if not by end of file.
    pub fault: Option<String>,
}

impl Fact for StreamEnded {
    const NAME: &'static str = "StreamEnded";
}

/// Why a stream cannot be attached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{stream} log: {path}: {reason}")]
pub struct LogError {
    /// Stream name.
    pub stream: &'static str,
    /// The path.
    pub path: String,
    /// What is wrong and what is allowed.
    pub reason: String,
}

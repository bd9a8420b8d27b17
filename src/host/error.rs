//! The one way in which the kernel's gateway fails: what was tried, on which path, and why not.

use std::path::{Path, PathBuf};

/// Something on this host cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {}: {reason}", path.display())]
pub struct HostError {
    /// What was tried, e.g. `make log pipe`.
    pub what: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why it is not possible, and what is.
    pub reason: String,
}

impl HostError {
    /// From a sentence.
    #[must_use]
    pub fn new(what: &'static str, path: &Path, reason: impl Into<String>) -> Self {
        Self {
            what,
            path: path.to_owned(),
            reason: reason.into(),
        }
    }

    /// From the kernel's answer; a link in the way is named as such.
    #[must_use]
    pub fn from_errno(what: &'static str, path: &Path, errno: rustix::io::Errno) -> Self {
        let reason = match errno {
            rustix::io::Errno::LOOP => "a symbolic link is in the way; links are not followed here".to_owned(),
            rustix::io::Errno::XDEV => "it leads out of the directory it must lie in".to_owned(),
            other => std::io::Error::from(other).to_string(),
        };
        Self {
            what,
            path: path.to_owned(),
            reason,
        }
    }

    /// From an I/O error of the standard library.
    #[must_use]
    pub fn from_io(what: &'static str, path: &Path, error: &std::io::Error) -> Self {
        Self {
            what,
            path: path.to_owned(),
            reason: error.to_string(),
        }
    }
}

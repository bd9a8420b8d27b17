//! What survives a crash: the labels on a container and the state that Nomad keeps for `RecoverTask`. Versioned.

pub use super::handle_go::GoLogs;
pub use super::labels::{Marks, exit_label, labels, started_label};

use super::handle_go;
use super::identity::ContainerId;
use super::log_collection::LogFiles;
use serde::{Deserialize, Serialize};

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Exit code as the runtime gives it: 128+n after signal n.
    pub code: i32,
    /// True if the kernel killed it for want of memory.
    #[serde(default)]
    pub oom: bool,
    /// When, nanoseconds since the Unix epoch.
    pub at: i64,
    /// Non-empty if the real exit is not known, and why.
    #[serde(default)]
    pub lost: String,
}

impl ExitRecord {
    /// The signal that ended it by the 128+n convention, 0 if none.
    #[must_use]
    pub fn signal(&self) -> i32 {
        if (129..=192).contains(&self.code) {
            self.code - 128
        } else {
            0
        }
    }
}

/// Version of [`HandleState`] that this build writes (1 was the Go driver's, and is read).
pub const HANDLE_VERSION: i32 = 2;

/// Nomad's `driver_state` for a task of ours: all that `RecoverTask` needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandleState {
    /// The container.
    pub container: ContainerId,
    /// containerd namespace it lives in.
    pub namespace: String,
    /// Nanoseconds since the Unix epoch.
    pub started_at: i64,
    /// Default stop signal.
    pub stop_signal: i32,
    /// Only of a task whose output this driver writes to files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logs: Option<LogFiles>,
    /// Only of a task that the Go driver started: where its output goes.
    #[serde(skip)]
    pub go: Option<GoLogs>,
}

impl HandleState {
    /// Encodes it for `TaskHandle.driver_state`.
    ///
    /// # Errors
    /// If the value cannot be encoded (it always can).
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        serde_json::to_vec(self).map_err(|e| e.to_string())
    }

    /// Reads it back.
    ///
    /// # Errors
    /// Names what is wrong with the bytes.
    pub fn decode(version: i32, bytes: &[u8]) -> Result<Self, String> {
        match version {
            handle_go::VERSION => handle_go::decode(bytes),
            HANDLE_VERSION => serde_json::from_slice(bytes).map_err(|e| format!("driver_state: {e}")),
            other => Err(format!(
                "handle version {other}: this driver reads version {} (the Go driver's) and {HANDLE_VERSION}",
                handle_go::VERSION
            )),
        }
    }
}

//! Plugin settings: the `config` block of the plugin in the agent's configuration.
//!
//! `enabled`, `containerd_runtime`, `stats_interval`, `allow_privileged` and `auth` are those of the Go driver, where
//! `containerd_runtime` was required.

use super::error::SpecError;
use super::options::Auth;
use super::schema::Schema;
use super::table::{self, OptionDoc, options};
use std::time::Duration;

options! {
    /// Decoded plugin configuration.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Settings {
        /// Whether this driver offers itself to the node.
        enabled: bool = true;
        /// Path of containerd's socket.
        containerd_address: String = "/run/containerd/containerd.sock".to_owned();
        /// containerd namespace for images and containers of this driver.
        containerd_namespace: String = "nomad".to_owned();
        /// containerd runtime for tasks.
        containerd_runtime: String = "io.containerd.runc.v2".to_owned();
        /// containerd snapshotter for root file systems.
        snapshotter: String = "overlayfs".to_owned();
        /// Whether tasks may set `privileged`.
        allow_privileged: bool = true;
        /// Credentials for registries, where a task gives none.
        auth: Option<Auth> = None;
        /// Time between two statistics of a task, as a Go duration, in place of the interval the host asks for.
        stats_interval: Option<Duration> = None;
        /// Longest time a pull may take, as a Go duration, where a task says nothing.
        image_pull_timeout: Duration = Duration::from_secs(300);
        /// Where traces are sent by OTLP over gRPC, such as `http://127.0.0.1:4317`. Without it none are made.
        otlp_endpoint: Option<String> = None;
    }
}

/// The schema of the plugin's `config` block.
#[must_use]
pub fn schema() -> Vec<(String, Schema)> {
    table::schema_of::<Settings>()
}

/// The settings for documentation.
#[must_use]
pub fn table() -> Vec<OptionDoc> {
    table::docs_of::<Settings>()
}

/// Decodes what the host sends in `SetConfig`.
///
/// # Errors
/// [`SpecError::Decode`] for bytes that are no configuration, else the option, its value and what is allowed.
pub fn decode(msgpack: &[u8]) -> Result<Settings, SpecError> {
    table::decode(msgpack)
}

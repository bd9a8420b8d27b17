//! Plugin settings (placeholder until the table lands).
use super::error::SpecError;
use super::options::Auth;
use super::schema::Schema;
use std::time::Duration;

/// Decoded plugin configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub enabled: bool,
    pub containerd_address: String,
    pub containerd_namespace: String,
    pub containerd_runtime: String,
    pub snapshotter: String,
    pub allow_privileged: bool,
    pub auth: Option<Auth>,
    pub stats_interval: Option<Duration>,
    pub image_pull_timeout: Duration,
    pub otlp_endpoint: Option<String>,
}

pub fn schema() -> Vec<(String, Schema)> {
    Vec::new()
}

pub fn decode(_msgpack: &[u8]) -> Result<Settings, SpecError> {
    Ok(Settings::default())
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enabled: true,
            containerd_address: "/run/containerd/containerd.sock".into(),
            containerd_namespace: "nomad".into(),
            containerd_runtime: "io.containerd.runc.v2".into(),
            snapshotter: "overlayfs".into(),
            allow_privileged: true,
            auth: None,
            stats_interval: None,
            image_pull_timeout: Duration::from_secs(300),
            otlp_endpoint: None,
        }
    }
}

//! Task options (placeholder until the table lands).
use super::error::SpecError;
use super::schema::Schema;
use super::secret::Secret;
use std::time::Duration;

/// Decoded driver options of a task. Field names are option names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskOptions {
    pub image: String,
    pub image_pull_timeout: Option<Duration>,
    pub auth: Option<Auth>,
    pub command: Option<String>,
    pub args: Vec<String>,
    pub entrypoint: Vec<String>,
    pub cwd: Option<String>,
    pub hostname: Option<String>,
    pub host_network: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Auth {
    pub username: String,
    pub password: Secret,
}

pub fn schema() -> Vec<(String, Schema)> {
    Vec::new()
}

pub fn decode(_msgpack: &[u8]) -> Result<TaskOptions, SpecError> {
    Ok(TaskOptions::default())
}

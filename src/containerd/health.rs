//! Is containerd there, does it serve, and what can it do.

use super::Gateway;
use super::channel::Call;
use super::error::refused;
use crate::messages::runtime::ContainerdFault;
use containerd_client::services::v1::PluginsRequest;
use containerd_client::services::v1::introspection_client::IntrospectionClient;
use containerd_client::services::v1::version_client::VersionClient;
use std::collections::BTreeMap;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// A probe that takes longer than this means "hung".
const PROBE_SECONDS: u64 = 3;

/// Under which of its exports a plugin tells its directory; `path` is that of the plugin `opt`.
const DIRECTORIES: [&str; 2] = ["root", "path"];

/// What containerd says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// E.g. `v2.4.2` or `1.6.20~ds1`.
    pub version: String,
    /// Source revision, may be empty.
    pub revision: String,
}

/// What introspection lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Abilities {
    /// The transfer service is there and started.
    pub transfer: bool,
    /// Snapshotters that started, sorted.
    pub snapshotters: Vec<String>,
    /// Those of them that show a container's files under other ids, for user namespaces.
    pub remap_ids: Vec<String>,
    /// All plugins that started, by type and id, as introspection lists them.
    pub started: Vec<String>,
    /// Directories of plugins that tell theirs, by type and id: where content and snapshots are kept.
    pub dirs: BTreeMap<String, String>,
    /// Plugins that did not start. Many are normal: a snapshotter for a file system that is not here.
    pub plugins_failed: Vec<FailedPlugin>,
}

/// A plugin that did not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedPlugin {
    /// Type and id, e.g. `io.containerd.snapshotter.v1.zfs`.
    pub name: String,
    /// Why.
    pub reason: String,
}

impl Gateway {
    /// Version of the running containerd.
    ///
    /// # Errors
    /// Any fault of the call.
    pub async fn version(&self) -> Result<Version, ContainerdFault> {
        const CALL: Call = Call::within("version", PROBE_SECONDS);
        let mut client = VersionClient::new(self.line());
        let answer = CALL.answer(client.version(CALL.request(()))).await?;
        Ok(Version {
            version: answer.version,
            revision: answer.revision,
        })
    }

    /// Succeeds if containerd's health service says that it serves.
    ///
    /// # Errors
    /// Any fault of the call, and `Failed` if it says that it does not serve.
    pub async fn serving(&self) -> Result<(), ContainerdFault> {
        const CALL: Call = Call::within("health check", PROBE_SECONDS);
        let mut client = HealthClient::new(self.line());
        let request = CALL.request(HealthCheckRequest { service: String::new() });
        let status = CALL.answer(client.check(request)).await?.status();
        match status {
            ServingStatus::Serving => Ok(()),
            ServingStatus::Unknown | ServingStatus::NotServing | ServingStatus::ServiceUnknown => Err(refused(
                CALL.operation,
                format!("containerd says {}", status.as_str_name()),
            )),
        }
    }

    /// What this containerd can do.
    ///
    /// # Errors
    /// Any fault of the call.
    pub async fn abilities(&self) -> Result<Abilities, ContainerdFault> {
        const CALL: Call = Call::within("list plugins", PROBE_SECONDS);
        let mut client =
            IntrospectionClient::new(self.line()).max_decoding_message_size(super::channel::MESSAGE_MAX_BYTES);
        let answer = CALL
            .answer(client.plugins(CALL.request(PluginsRequest { filters: Vec::new() })))
            .await?;
        let mut abilities = Abilities::default();
        for plugin in answer.plugins {
            let name = format!("{}.{}", plugin.r#type, plugin.id);
            if let Some(error) = plugin.init_err {
                abilities.plugins_failed.push(FailedPlugin {
                    name,
                    reason: error.message,
                });
                continue;
            }
            if let Some(dir) = DIRECTORIES.iter().find_map(|key| plugin.exports.get(*key)) {
                abilities.dirs.insert(name.clone(), dir.clone());
            }
            abilities.started.push(name);
            if plugin.r#type == "io.containerd.snapshotter.v1" {
                if plugin.capabilities.iter().any(|c| c == "remap-ids") {
                    abilities.remap_ids.push(plugin.id.clone());
                }
                abilities.snapshotters.push(plugin.id);
            } else if plugin.r#type == "io.containerd.transfer.v1" {
                abilities.transfer = true;
            }
        }
        abilities.snapshotters.sort();
        Ok(abilities)
    }
}

//! Container records, and the snapshots that they name.

use std::time::SystemTime;

use containerd_client::events::ContainerDelete;
use containerd_client::services::v1 as proto;
use containerd_client::services::v1::snapshots::{
    MountsRequest, MountsResponse, PrepareSnapshotRequest, PrepareSnapshotResponse, RemoveSnapshotRequest,
};
use containerd_client::types::Mount;
use prost::Message as _;
use prost::bytes::Bytes;
use tonic::Code;

use super::{Stage, any, missing, one, read};
use crate::fault_proxy::Reply;

impl Stage {
    pub(super) fn containers(&self, method: &str, request: &Bytes) -> Result<Reply, Reply> {
        Ok(match method {
            "Create" => self.create(read(request)?),
            "Get" => {
                let id = read::<proto::GetContainerRequest>(request)?.id;
                match self.cast().containers.get(&id) {
                    None => missing("container", &id),
                    Some(container) => one(&proto::GetContainerResponse {
                        container: Some(container.clone()),
                    }),
                }
            }
            "Update" => self.update(read(request)?),
            "Delete" => {
                let id = read::<proto::DeleteContainerRequest>(request)?.id;
                let known = self.cast().containers.remove(&id).is_some();
                match known {
                    false => missing("container", &id),
                    true => {
                        self.publish("/containers/delete", any("ContainerDelete", &ContainerDelete { id }));
                        one(&())
                    }
                }
            }
            "List" | "ListStream" => self.list(method, &read::<proto::ListContainersRequest>(request)?.filters),
            _ => Reply::PassOn,
        })
    }

    fn create(&self, request: proto::CreateContainerRequest) -> Reply {
        let mut container = request.container.unwrap_or_default();
        container.created_at = Some(SystemTime::now().into());
        container.updated_at = container.created_at;
        let mut cast = self.cast();
        if cast.containers.contains_key(&container.id) {
            return Reply::Refused(
                Code::AlreadyExists,
                format!("container {}: already exists", container.id),
            );
        }
        cast.containers.insert(container.id.clone(), container.clone());
        one(&proto::CreateContainerResponse {
            container: Some(container),
        })
    }

    /// Labels alone: nothing else of a container is ever changed.
    fn update(&self, request: proto::UpdateContainerRequest) -> Reply {
        let wanted = request.container.unwrap_or_default();
        let mut cast = self.cast();
        let Some(container) = cast.containers.get_mut(&wanted.id) else {
            return missing("container", &wanted.id);
        };
        for (name, value) in wanted.labels {
            match value.is_empty() {
                true => drop(container.labels.remove(&name)),
                false => drop(container.labels.insert(name, value)),
            }
        }
        one(&proto::UpdateContainerResponse {
            container: Some(container.clone()),
        })
    }

    /// Filters are those of the canary and of the search for users of an image, to which no container here belongs.
    fn list(&self, method: &str, filters: &[String]) -> Reply {
        let cast = self.cast();
        let found = cast.containers.values().filter(|_| filters.is_empty());
        match method {
            "List" => one(&proto::ListContainersResponse {
                containers: found.cloned().collect(),
            }),
            _ => {
                let message = |container: &proto::Container| proto::ListContainerMessage {
                    container: Some(container.clone()),
                };
                Reply::Messages(found.map(|container| message(container).encode_to_vec()).collect())
            }
        }
    }

    /// Those of containers; of images they are real.
    pub(super) fn snapshots(&self, method: &str, request: &Bytes) -> Result<Reply, Reply> {
        let is_played = |key: &str| self.cast().containers.contains_key(key);
        let mounts = || {
            vec![Mount {
                r#type: "bind".to_owned(),
                source: "/var/empty".to_owned(),
                target: String::new(),
                options: vec!["ro".to_owned()],
            }]
        };
        Ok(match method {
            "Prepare" if is_played(&read::<PrepareSnapshotRequest>(request)?.key) => {
                one(&PrepareSnapshotResponse { mounts: mounts() })
            }
            "Mounts" if is_played(&read::<MountsRequest>(request)?.key) => one(&MountsResponse { mounts: mounts() }),
            "Remove" if is_played(&read::<RemoveSnapshotRequest>(request)?.key) => one(&()),
            _ => Reply::PassOn,
        })
    }
}

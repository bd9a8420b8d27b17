//! Container records: what a container is, without the process that runs in it.

use super::channel::{Call, LIST_MAX_BYTES};
use super::error::{found, hollow};
use super::types::label_mask;
use super::{Gateway, Labels, Line};
use crate::messages::runtime::ContainerdFault;
use containerd_client::services::v1 as proto;
use prost::Message as _;
use proto::containers_client::ContainersClient;

/// The name under which containerd finds the Go type of an OCI spec (`typeurl`); there is no protobuf behind it.
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
/// Full name of the message that [`RuncOptions`] is; containerd wants it without a host prefix.
const RUNC_OPTIONS_TYPE: &str = "containerd.runc.v1.Options";

/// A container to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewContainer {
    /// Its id.
    pub id: String,
    /// Name of its image record: keeps the image from being collected.
    pub image: String,
    /// Its snapshotter; empty for a container without a snapshot.
    pub snapshotter: String,
    /// Its snapshot.
    pub snapshot_key: String,
    /// Runtime, e.g. `io.containerd.runc.v2`.
    pub runtime: String,
    /// Options for runc-like runtimes; `None` for others and for the default.
    pub runtime_options: Option<RuntimeOptions>,
    /// The OCI spec.
    pub spec_json: Vec<u8>,
    /// Labels.
    pub labels: Labels,
    /// The sandbox record it names; empty for none.
    pub sandbox: String,
}

/// The options of the runc shim that we set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeOptions {
    /// Another binary with runc's command line, e.g. `/usr/bin/crun`; empty for `runc`.
    pub binary_name: String,
    /// The runtime's state directory; empty for the shim's own.
    pub root: String,
    /// Whether cgroups are made by systemd.
    pub systemd_cgroup: bool,
    /// User and group on the host who own the pipes of a process: for one in a user namespace, in which a runtime cannot give
    /// them away.
    pub io_owner: (u32, u32),
}

/// `containerd.runc.v1.Options` as far as we use it. containerd-client vendors the definition but does not compile it.
#[derive(Clone, PartialEq, prost::Message)]
struct RuncOptions {
    #[prost(uint32, tag = "4")]
    io_uid: u32,
    #[prost(uint32, tag = "5")]
    io_gid: u32,
    #[prost(string, tag = "6")]
    binary_name: String,
    #[prost(string, tag = "7")]
    root: String,
    #[prost(bool, tag = "9")]
    systemd_cgroup: bool,
}

/// A container that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerRecord {
    /// Its id.
    pub id: String,
    /// Name of its image record.
    pub image: String,
    /// Labels.
    pub labels: Labels,
    /// Its snapshotter.
    pub snapshotter: String,
    /// Its snapshot.
    pub snapshot_key: String,
    /// Runtime.
    pub runtime: String,
    /// The OCI spec.
    pub spec_json: Vec<u8>,
    /// When it was created, nanoseconds since the Unix epoch.
    pub created_at: i64,
    /// The sandbox record it names; empty for none.
    pub sandbox: String,
}

impl ContainerRecord {
    fn from_proto(container: proto::Container) -> Self {
        Self {
            id: container.id,
            image: container.image,
            labels: container.labels.into_iter().collect(),
            snapshotter: container.snapshotter,
            snapshot_key: container.snapshot_key,
            runtime: container.runtime.map(|runtime| runtime.name).unwrap_or_default(),
            spec_json: container.spec.map(|spec| spec.value).unwrap_or_default(),
            created_at: super::types::nanoseconds(container.created_at),
            sandbox: container.sandbox,
        }
    }
}

impl Gateway {
    fn containers(&self) -> ContainersClient<Line> {
        ContainersClient::new(self.line()).max_decoding_message_size(LIST_MAX_BYTES)
    }

    /// Creates the record.
    ///
    /// # Errors
    /// `AlreadyExists` for an id in use, any other fault.
    pub async fn create_container(&self, new: NewContainer) -> Result<(), ContainerdFault> {
        const CALL: Call = Call::short("create container");
        let options = new.runtime_options.map(|options| {
            let message = RuncOptions {
                io_uid: options.io_owner.0,
                io_gid: options.io_owner.1,
                binary_name: options.binary_name,
                root: options.root,
                systemd_cgroup: options.systemd_cgroup,
            };
            prost_types::Any {
                type_url: RUNC_OPTIONS_TYPE.to_owned(),
                value: message.encode_to_vec(),
            }
        });
        let container = proto::Container {
            id: new.id,
            labels: new.labels.into_iter().collect(),
            image: new.image,
            runtime: Some(proto::container::Runtime {
                name: new.runtime,
                options,
            }),
            spec: Some(prost_types::Any {
                type_url: SPEC_TYPE.to_owned(),
                value: new.spec_json,
            }),
            snapshotter: new.snapshotter,
            snapshot_key: new.snapshot_key,
            sandbox: new.sandbox,
            ..Default::default()
        };
        let request = CALL.request(proto::CreateContainerRequest {
            container: Some(container),
        });
        CALL.answer(self.containers().create(request)).await.map(drop)
    }

    /// The container of this id, if there is one.
    ///
    /// # Errors
    /// Any fault of the call but `NotFound`.
    pub async fn container(&self, id: &str) -> Result<Option<ContainerRecord>, ContainerdFault> {
        const CALL: Call = Call::short("get container");
        let request = CALL.request(proto::GetContainerRequest { id: id.to_owned() });
        let Some(answer) = found(CALL.answer(self.containers().get(request)).await)? else {
            return Ok(None);
        };
        answer
            .container
            .map(ContainerRecord::from_proto)
            .map(Some)
            .ok_or_else(|| hollow(CALL.operation, "container"))
    }

    /// Sets these labels and leaves the others alone. An empty value removes a label.
    ///
    /// # Errors
    /// Any fault of the call, `NotFound` too.
    pub async fn update_container_labels(&self, id: &str, labels: &Labels) -> Result<(), ContainerdFault> {
        const CALL: Call = Call::short("label container");
        let container = proto::Container {
            id: id.to_owned(),
            labels: labels.clone().into_iter().collect(),
            ..Default::default()
        };
        let mask = label_mask(labels.keys());
        let request = proto::UpdateContainerRequest {
            container: Some(container),
            update_mask: Some(mask),
        };
        CALL.answer(self.containers().update(CALL.request(request)))
            .await
            .map(drop)
    }

    /// Removes the record (not its task, not its snapshot). False if there was none.
    ///
    /// # Errors
    /// `FailedPrecondition` while it has a task (containerd 2), any other fault but `NotFound`.
    pub async fn delete_container(&self, id: &str) -> Result<bool, ContainerdFault> {
        const CALL: Call = Call::short("delete container");
        let request = CALL.request(proto::DeleteContainerRequest { id: id.to_owned() });
        Ok(found(CALL.answer(self.containers().delete(request)).await)?.is_some())
    }

    /// The containers that match any of the filters (containerd's filter language), all without filters.
    ///
    /// # Errors
    /// Any fault of the call.
    pub async fn list_containers(&self, filters: &[String]) -> Result<Vec<ContainerRecord>, ContainerdFault> {
        self.glean_containers(filters, Some).await
    }

    /// What is of interest of those containers. A record is mostly its specification, and thousands of them at once would be
    /// most of the memory of this process: only what is kept of each stays.
    ///
    /// # Errors
    /// Any fault of the call.
    pub async fn glean_containers<T>(
        &self,
        filters: &[String],
        mut keep: impl FnMut(ContainerRecord) -> Option<T>,
    ) -> Result<Vec<T>, ContainerdFault> {
        const CALL: Call = Call::within("list containers", 30);
        let request = CALL.request(proto::ListContainersRequest {
            filters: filters.to_vec(),
        });
        // One message per record: containerd sends none above 16 MiB (`grpc.max_send_message_size`), and some fifteen hundred
        // specifications are more than that.
        let all = async {
            let mut stream = self.containers().list_stream(request).await?.into_inner();
            let mut found = Vec::new();
            while let Some(message) = stream.message().await? {
                found.extend(message.container.map(ContainerRecord::from_proto).and_then(&mut keep));
            }
            Ok(tonic::Response::new(found))
        };
        CALL.answer(all).await
    }
}

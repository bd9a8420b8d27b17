//! Snapshots, and the layers that are applied to them.

use super::channel::{Call, MESSAGE_MAX_BYTES};
use super::error::{found, hollow};
use super::types::{mounts_from_proto, mounts_to_proto};
use super::{Descriptor, Gateway, Labels, Line, Mount};
use crate::messages::runtime::ContainerdFault;
use containerd_client::services::v1::ApplyRequest;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::snapshots as proto;
use proto::snapshots_client::SnapshotsClient;

/// State of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotKind {
    /// Read-only look at a committed one.
    View,
    /// Writable: a container's root, or a layer being unpacked.
    Active,
    /// A layer, unpacked.
    Committed,
    /// containerd did not say.
    Unknown,
}

/// A snapshot that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// Its key (or name, when committed).
    pub name: String,
    /// Its state.
    pub kind: SnapshotKind,
    /// Name of the snapshot below; empty for none.
    pub parent: String,
    /// Labels.
    pub labels: Labels,
    /// When it was made, nanoseconds since the Unix epoch; 0 if containerd does not say.
    pub created_at: i64,
}

impl SnapshotRecord {
    fn from_proto(info: proto::Info) -> Self {
        let kind = match info.kind() {
            proto::Kind::View => SnapshotKind::View,
            proto::Kind::Active => SnapshotKind::Active,
            proto::Kind::Committed => SnapshotKind::Committed,
            proto::Kind::Unknown => SnapshotKind::Unknown,
        };
        Self {
            name: info.name,
            kind,
            parent: info.parent,
            created_at: super::types::nanoseconds(info.created_at),
            labels: info.labels.into_iter().collect(),
        }
    }
}

impl Gateway {
    fn snapshots(&self) -> SnapshotsClient<Line> {
        SnapshotsClient::new(self.line()).max_decoding_message_size(MESSAGE_MAX_BYTES)
    }

    /// A writable snapshot on top of `parent` (empty for none); what to mount to see it.
    ///
    /// # Errors
    /// `AlreadyExists` for a key in use, `NotFound` for a parent that is not there, any other fault.
    pub async fn prepare_snapshot(
        &self,
        snapshotter: &str,
        key: &str,
        parent: &str,
        labels: &Labels,
    ) -> Result<Vec<Mount>, ContainerdFault> {
        const CALL: Call = Call::within("prepare snapshot", 60);
        let request = proto::PrepareSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: labels.clone().into_iter().collect(),
        };
        let answer = CALL.answer(self.snapshots().prepare(CALL.request(request))).await?;
        Ok(mounts_from_proto(answer.mounts))
    }

    /// A read-only snapshot of `parent`; what to mount to see it.
    ///
    /// # Errors
    /// As [`Gateway::prepare_snapshot`].
    pub async fn view_snapshot(
        &self,
        snapshotter: &str,
        key: &str,
        parent: &str,
    ) -> Result<Vec<Mount>, ContainerdFault> {
        const CALL: Call = Call::within("view snapshot", 60);
        let request = proto::ViewSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: Default::default(),
        };
        let answer = CALL.answer(self.snapshots().view(CALL.request(request))).await?;
        Ok(mounts_from_proto(answer.mounts))
    }

    /// What to mount to see an active snapshot or a view.
    ///
    /// # Errors
    /// Any fault of the call, `NotFound` too.
    pub async fn snapshot_mounts(&self, snapshotter: &str, key: &str) -> Result<Vec<Mount>, ContainerdFault> {
        const CALL: Call = Call::short("snapshot mounts");
        let request = proto::MountsRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
        };
        let answer = CALL.answer(self.snapshots().mounts(CALL.request(request))).await?;
        Ok(mounts_from_proto(answer.mounts))
    }

    /// Turns the active snapshot `key` into the committed `name`.
    ///
    /// # Errors
    /// `AlreadyExists` if there is one of this name: `key` stays. Any other fault.
    pub async fn commit_snapshot(
        &self,
        snapshotter: &str,
        name: &str,
        key: &str,
        labels: &Labels,
    ) -> Result<(), ContainerdFault> {
        const CALL: Call = Call::within("commit snapshot", 60);
        let request = proto::CommitSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            name: name.to_owned(),
            key: key.to_owned(),
            labels: labels.clone().into_iter().collect(),
        };
        CALL.answer(self.snapshots().commit(CALL.request(request))).await
    }

    /// The snapshot of this key or name, if there is one.
    ///
    /// # Errors
    /// Any fault of the call but `NotFound`.
    pub async fn stat_snapshot(&self, snapshotter: &str, key: &str) -> Result<Option<SnapshotRecord>, ContainerdFault> {
        const CALL: Call = Call::short("stat snapshot");
        let request = proto::StatSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
        };
        let Some(answer) = found(CALL.answer(self.snapshots().stat(CALL.request(request))).await)? else {
            return Ok(None);
        };
        answer
            .info
            .map(SnapshotRecord::from_proto)
            .map(Some)
            .ok_or_else(|| hollow(CALL.operation, "info"))
    }

    /// All snapshots of this snapshotter in the namespace.
    ///
    /// # Errors
    /// Any fault of the call.
    pub async fn list_snapshots(&self, snapshotter: &str) -> Result<Vec<SnapshotRecord>, ContainerdFault> {
        const CALL: Call = Call::within("list snapshots", 30);
        let request = proto::ListSnapshotsRequest {
            snapshotter: snapshotter.to_owned(),
            filters: Vec::new(),
        };
        let mut client = self.snapshots();
        let list = async {
            let mut stream = client.list(tonic::Request::new(request)).await?.into_inner();
            let mut all = Vec::new();
            while let Some(part) = stream.message().await? {
                all.extend(part.info.into_iter().map(SnapshotRecord::from_proto));
            }
            Ok(tonic::Response::new(all))
        };
        CALL.answer(list).await
    }

    /// Removes a snapshot. False if there was none.
    ///
    /// # Errors
    /// `FailedPrecondition` if another one is built on it; any other fault but `NotFound`.
    pub async fn remove_snapshot(&self, snapshotter: &str, key: &str) -> Result<bool, ContainerdFault> {
        const CALL: Call = Call::within("remove snapshot", 60);
        let request = proto::RemoveSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
        };
        Ok(found(CALL.answer(self.snapshots().remove(CALL.request(request))).await)?.is_some())
    }

    /// Unpacks a layer blob into mounts; says what it was uncompressed. Dropping the future makes containerd stop.
    ///
    /// # Errors
    /// Any fault of the call.
    pub async fn apply_diff(&self, layer: &Descriptor, mounts: &[Mount]) -> Result<Descriptor, ContainerdFault> {
        // A layer of tens of gigabytes on a slow disk; the pull's own timeout is the bound that users see.
        const CALL: Call = Call::within("apply layer", 30 * 60);
        let request = ApplyRequest {
            diff: Some(layer.to_proto()),
            mounts: mounts_to_proto(mounts),
            payloads: Default::default(),
            sync_fs: false,
        };
        let mut client = DiffClient::new(self.line()).max_decoding_message_size(MESSAGE_MAX_BYTES);
        let answer = CALL.answer(client.apply(CALL.request(request))).await?;
        answer
            .applied
            .map(Descriptor::from_proto)
            .ok_or_else(|| hollow(CALL.operation, "applied descriptor"))
    }
}

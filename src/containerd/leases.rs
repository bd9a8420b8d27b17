//! Leases: what keeps containerd's garbage collector away from things that nothing refers to yet.

use super::channel::{Call, LIST_MAX_BYTES};
use super::error::found;
use super::{Gateway, Labels, Line};
use crate::messages::runtime::{ContainerdFault, FaultKind};
use containerd_client::services::v1 as proto;
use proto::leases_client::LeasesClient;
use std::time::{Duration, SystemTime};

/// containerd's label for the end of a lease (`pkg/gc`: RFC 3339).
const EXPIRE_LABEL: &str = "containerd.io/gc.expire";

/// The label that lets containerd collect a lease by itself, whatever becomes of us.
#[must_use]
pub fn expires_after(from_now: Duration) -> (String, String) {
    // The `Display` of a protobuf timestamp is RFC 3339, which is what containerd parses.
    let at = prost_types::Timestamp::from(SystemTime::now() + from_now);
    (EXPIRE_LABEL.to_owned(), at.to_string())
}

/// A lease that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRecord {
    /// Its id.
    pub id: String,
    /// Labels.
    pub labels: Labels,
    /// When it was made, nanoseconds since the Unix epoch; 0 if containerd does not say.
    pub created_at: i64,
}

impl LeaseRecord {
    /// When containerd may collect it, nanoseconds since the Unix epoch; `None` for one without an end.
    #[must_use]
    pub fn expires_at(&self) -> Option<i64> {
        let at: prost_types::Timestamp = self.labels.get(EXPIRE_LABEL)?.parse().ok()?;
        Some(super::types::nanoseconds(Some(at)))
    }
}

impl Gateway {
    fn leases(&self) -> LeasesClient<Line> {
        LeasesClient::new(self.line()).max_decoding_message_size(LIST_MAX_BYTES)
    }

    /// Creates a lease. One that exists already is success (its labels stay as they are).
    ///
    /// # Errors
    /// Any fault of the call but `AlreadyExists`.
    pub async fn create_lease(&self, id: &str, labels: &Labels) -> Result<(), ContainerdFault> {
        const CALL: Call = Call::short("create lease");
        let request = proto::CreateRequest {
            id: id.to_owned(),
            labels: labels.clone().into_iter().collect(),
        };
        match CALL.answer(self.leases().create(CALL.request(request))).await {
            Err(fault) if fault.kind != FaultKind::AlreadyExists => Err(fault),
            _ => Ok(()),
        }
    }

    /// Removes a lease; what only it held is collected later. False if there was none.
    ///
    /// # Errors
    /// Any fault of the call but `NotFound`.
    pub async fn delete_lease(&self, id: &str) -> Result<bool, ContainerdFault> {
        const CALL: Call = Call::short("delete lease");
        let request = proto::DeleteRequest {
            id: id.to_owned(),
            sync: false,
        };
        Ok(found(CALL.answer(self.leases().delete(CALL.request(request))).await)?.is_some())
    }

    /// All leases of the namespace.
    ///
    /// # Errors
    /// Any fault of the call.
    pub async fn list_leases(&self) -> Result<Vec<LeaseRecord>, ContainerdFault> {
        const CALL: Call = Call::within("list leases", 30);
        let request = CALL.request(proto::ListRequest { filters: Vec::new() });
        let answer = CALL.answer(self.leases().list(request)).await?;
        let leases = answer.leases.into_iter();
        Ok(leases
            .map(|lease| LeaseRecord {
                id: lease.id,
                created_at: super::types::nanoseconds(lease.created_at),
                labels: lease.labels.into_iter().collect(),
            })
            .collect())
    }

    /// Lets a lease hold a blob that exists already (what is created under a lease it holds by itself).
    ///
    /// # Errors
    /// Any fault of the call.
    pub async fn lease_blob(&self, lease: &str, digest: &str) -> Result<(), ContainerdFault> {
        self.lease_resource(lease, "content".to_owned(), digest).await
    }

    /// Lets a lease hold a snapshot that exists already.
    ///
    /// # Errors
    /// Any fault of the call.
    pub async fn lease_snapshot(&self, lease: &str, snapshotter: &str, key: &str) -> Result<(), ContainerdFault> {
        self.lease_resource(lease, format!("snapshots/{snapshotter}"), key)
            .await
    }

    /// Lets `to` hold all that `from` holds: blobs, snapshots and writes that have not ended.
    ///
    /// # Errors
    /// Any fault of the calls.
    pub async fn share_lease(&self, from: &str, to: &str) -> Result<(), ContainerdFault> {
        const CALL: Call = Call::short("list lease resources");
        let request = CALL.request(proto::ListResourcesRequest { id: from.to_owned() });
        for resource in CALL.answer(self.leases().list_resources(request)).await?.resources {
            self.lease_resource(to, resource.r#type, &resource.id).await?;
        }
        Ok(())
    }

    async fn lease_resource(&self, lease: &str, kind: String, id: &str) -> Result<(), ContainerdFault> {
        const CALL: Call = Call::short("add to lease");
        let resource = proto::Resource {
            id: id.to_owned(),
            r#type: kind,
        };
        let request = proto::AddResourceRequest {
            id: lease.to_owned(),
            resource: Some(resource),
        };
        CALL.answer(self.leases().add_resource(CALL.request(request))).await
    }
}

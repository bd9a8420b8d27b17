//! Sandbox records: what a container names so that containerd hands it to a shim that is there (containerd 2).
//!
//! Only the records. A sandbox has no process and no controller of its own here: containerd looks whether the record is there,
//! and takes the shim's address from the request (`ShimManager.Start` in `core/runtime/v2/shim_manager.go`).

use super::channel::Call;
use super::error::{fault, found};
use super::{Gateway, Labels, Line};
use crate::messages::runtime::{ContainerdFault, FaultKind};
use containerd_client::services::v1::sandbox as proto;
use containerd_client::types::{Sandbox, sandbox::Runtime};
use proto::store_client::StoreClient;
use tonic::Code;

/// A sandbox record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxRecord {
    /// Its id.
    pub id: String,
    /// Labels.
    pub labels: Labels,
    /// When it was made, nanoseconds since the Unix epoch; 0 if containerd does not say.
    pub created_at: i64,
}

impl Gateway {
    fn sandboxes(&self) -> StoreClient<Line> {
        StoreClient::new(self.line())
    }

    /// Creates a record. One that exists already is success (its labels stay as they are).
    ///
    /// # Errors
    /// `Failed` from a containerd that has no such records, any other fault of the call but `AlreadyExists`.
    pub async fn create_sandbox(&self, id: &str, runtime: &str, labels: &Labels) -> Result<(), ContainerdFault> {
        const CALL: Call = Call::short("create sandbox record");
        let request = CALL.request(proto::StoreCreateRequest {
            sandbox: Some(Sandbox {
                sandbox_id: id.to_owned(),
                runtime: Some(Runtime {
                    name: runtime.to_owned(),
                    options: None,
                }),
                labels: labels.clone().into_iter().collect(),
                ..Sandbox::default()
            }),
        });
        match CALL.answer(self.sandboxes().create(request)).await {
            Err(fault) if fault.kind != FaultKind::AlreadyExists => Err(fault),
            _ => Ok(()),
        }
    }

    /// All records of the namespace; none from a containerd that has no such records.
    ///
    /// # Errors
    /// Any other fault of the call.
    pub async fn list_sandboxes(&self) -> Result<Vec<SandboxRecord>, ContainerdFault> {
        const CALL: Call = Call::within("list sandbox records", 30);
        let request = CALL.request(proto::StoreListRequest { filters: Vec::new() });
        let listed = match CALL.status(self.sandboxes().list(request)).await? {
            Err(status) if status.code() == Code::Unimplemented => return Ok(Vec::new()),
            answer => answer.map_err(|status| fault(CALL.operation, &status))?.list,
        };
        let records = listed.into_iter().map(|sandbox| SandboxRecord {
            id: sandbox.sandbox_id,
            labels: sandbox.labels.into_iter().collect(),
            created_at: super::types::nanoseconds(sandbox.created_at),
        });
        Ok(records.collect())
    }

    /// Removes a record. False if there was none, or if this containerd has no such records. Containers that name it stay as they
    /// are.
    ///
    /// # Errors
    /// Any other fault of the call but `NotFound`.
    pub async fn delete_sandbox(&self, id: &str) -> Result<bool, ContainerdFault> {
        const CALL: Call = Call::short("delete sandbox record");
        let request = CALL.request(proto::StoreDeleteRequest {
            sandbox_id: id.to_owned(),
        });
        match CALL.status(self.sandboxes().delete(request)).await? {
            Err(status) if status.code() == Code::Unimplemented => Ok(false),
            answer => Ok(found(answer.map_err(|status| fault(CALL.operation, &status)))?.is_some()),
        }
    }
}

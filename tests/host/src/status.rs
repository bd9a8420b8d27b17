//! Details of a status: whether the plugin marked an error as worth a retry.

use prost::Message;
use tonic::Status;

use crate::wire::{rpc, structs::RecoverableError};

const TYPE_URL: &str = "type.googleapis.com/hashicorp.nomad.plugins.shared.structs.RecoverableError";

/// `None` without a detail the host understands. Panics if the detail's code differs from the status code: a host would then show an
/// internal error instead.
pub fn recoverable(status: &Status) -> Option<bool> {
    if status.details().is_empty() {
        return None;
    }
    let inner = rpc::Status::decode(status.details()).expect("grpc-status-details-bin holds no google.rpc.Status");
    assert_eq!(
        inner.code,
        status.code() as i32,
        "the code in the details must equal grpc-status"
    );
    let first = inner.details.first()?;
    if first.type_url != TYPE_URL {
        return None;
    }
    Some(
        RecoverableError::decode(first.value.as_slice())
            .expect("a RecoverableError")
            .recoverable,
    )
}

//! Our errors as gRPC status, once: code, text, and Nomad's word for "the restart policy may try again".
//!
//! `UNAVAILABLE` and `CANCELLED` are never used: the host takes them for the death of the plugin. A status without
//! the detail is final for Nomad. The code inside the detail blob must equal the outer one, else gRPC-Go replaces the
//! error by its own.

use super::pb::rpc;
use super::pb::structs::RecoverableError;
use crate::messages::AskError;
use crate::messages::container::ContainerError;
use crate::messages::image::ImageError;
use crate::messages::task::TaskError;
use crate::spec::SpecError;
use prost::Message as _;
use tonic::{Code, Status};

const RECOVERABLE_TYPE: &str = "type.googleapis.com/hashicorp.nomad.plugins.shared.structs.RecoverableError";

/// An error of a task.
pub(super) fn of_task(error: &TaskError) -> Status {
    let text = error.to_string();
    if error.is_transient() {
        return recoverable(text);
    }
    Status::new(code(error), text)
}

fn code(error: &TaskError) -> Code {
    match error {
        TaskError::NotFound => Code::NotFound,
        TaskError::CommandTimeout => Code::DeadlineExceeded,
        TaskError::Container(ContainerError::Spec(_))
        | TaskError::Image(
            ImageError::BadReference { .. } | ImageError::NoSnapshotter { .. } | ImageError::Archive { .. },
        ) => Code::InvalidArgument,
        TaskError::Container(
            ContainerError::Containerd { .. }
            | ContainerError::Command { .. }
            | ContainerError::Host { .. }
            | ContainerError::Interrupted(_),
        )
        | TaskError::Image(
            ImageError::NotFound { .. }
            | ImageError::Denied { .. }
            | ImageError::Credentials { .. }
            | ImageError::Registry { .. }
            | ImageError::Unusable { .. }
            | ImageError::NotHere { .. }
            | ImageError::NoTransfer { .. }
            | ImageError::Timeout { .. }
            | ImageError::Stalled { .. }
            | ImageError::Containerd { .. }
            | ImageError::Interrupted { .. },
        )
        | TaskError::Removal(_)
        | TaskError::AlreadyStarted(_)
        | TaskError::WrongState { .. }
        | TaskError::StillRunning
        | TaskError::Log(_)
        | TaskError::Command { .. }
        | TaskError::Containerd(_)
        | TaskError::Cancelled
        | TaskError::Driver(_) => Code::Unknown,
    }
}

/// A configuration that cannot be carried out.
pub(super) fn of_spec(error: &SpecError) -> Status {
    Status::invalid_argument(error.to_string())
}

/// No answer from an actor.
pub(super) fn of_ask(error: &AskError) -> Status {
    match error {
        AskError::Died { .. } | AskError::Late { .. } | AskError::Failed { .. } => {
            of_task(&TaskError::Driver(error.to_string()))
        }
        AskError::Ended { .. } => of_task(&TaskError::NotFound),
    }
}

/// An error after which Nomad's restart policy may try again.
fn recoverable(text: String) -> Status {
    let detail = prost_types::Any {
        type_url: RECOVERABLE_TYPE.to_owned(),
        value: RecoverableError { recoverable: true }.encode_to_vec(),
    };
    let code = Code::FailedPrecondition;
    let blob = rpc::Status {
        code: i32::from(code),
        message: text.clone(),
        details: vec![detail],
    };
    Status::with_details(code, text, blob.encode_to_vec().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::runtime::{ContainerdFault, FaultKind};
    use std::time::Duration;

    #[test]
    fn recoverable_error_has_the_bytes_that_nomad_has() {
        let status = recoverable("pull failed".into());
        let golden = "CAkSC3B1bGwgZmFpbGVkGlEKS3R5cGUuZ29vZ2xlYXBpcy5jb20vaGFzaGljb3JwLm5vbWFkLnBsdWdpbnMuc2hhcmVkLnN0cnVjdHMuUmVjb3ZlcmFibGVFcnJvchICCAE=";
        use base64::Engine as _;
        assert_eq!(
            base64::engine::general_purpose::STANDARD.encode(status.details()),
            golden
        );
        assert_eq!(
            (status.code(), status.message()),
            (Code::FailedPrecondition, "pull failed")
        );
    }

    fn fault(kind: FaultKind) -> ContainerdFault {
        ContainerdFault {
            kind,
            operation: "create task",
            text: "no".into(),
        }
    }

    #[test]
    fn transient_errors_are_recoverable_and_no_others() {
        let transient = [
            TaskError::Driver("x".into()),
            TaskError::Containerd(fault(FaultKind::Unreachable)),
            TaskError::Image(ImageError::Registry {
                image: "i".into(),
                registry: "r".into(),
                reason: "x".into(),
            }),
            TaskError::Container(ContainerError::Interrupted("x".into())),
        ];
        for e in transient {
            assert!(!of_task(&e).details().is_empty(), "{e}");
        }
        let last = [
            TaskError::NotFound,
            TaskError::AlreadyStarted("a".into()),
            TaskError::Cancelled,
            TaskError::Containerd(fault(FaultKind::Failed)),
            TaskError::Image(ImageError::Denied {
                image: "i".into(),
                reason: "x".into(),
            }),
        ];
        for e in last {
            assert!(of_task(&e).details().is_empty(), "{e}");
        }
    }

    #[test]
    fn codes_say_whose_fault_it_is() {
        let spec = SpecError::option("cwd", "x", "an absolute path");
        assert_eq!(of_task(&TaskError::NotFound).code(), Code::NotFound);
        assert_eq!(
            of_task(&TaskError::Container(spec.clone().into())).code(),
            Code::InvalidArgument
        );
        assert_eq!(of_spec(&spec).code(), Code::InvalidArgument);
        assert_eq!(of_task(&TaskError::StillRunning).code(), Code::Unknown);
        assert_eq!(of_ask(&AskError::Ended { actor: "a" }).code(), Code::NotFound);
        let late = AskError::Late {
            actor: "a",
            message: "m",
            after: Duration::from_secs(1),
        };
        assert_eq!(of_ask(&late).code(), Code::FailedPrecondition);
    }
}

//! The one place where a gRPC status becomes a [`FaultKind`]: everything after this decides by kind.
//!
//! Two facts about tonic 0.14 (read and observed) shape it. A status that was made on this side of the wire carries its
//! cause as `source()`; one that containerd sent never does. And tonic reports its own timer as `Cancelled`, a broken
//! connection as `Unknown`, so the code alone does not tell.

use crate::messages::runtime::{ContainerdFault, FaultKind};
use std::error::Error as _;
use std::time::Duration;
use tonic::{Code, Status};

/// A status as our fault.
pub(super) fn fault(operation: &'static str, status: &Status) -> ContainerdFault {
    ContainerdFault { kind: kind(status), operation, text: words(status) }
}

/// No answer at all within the deadline (our own timer, behind tonic's).
pub(super) fn late(operation: &'static str, after: Duration) -> ContainerdFault {
    ContainerdFault { kind: FaultKind::Deadline, operation, text: format!("no answer within {after:?}") }
}

/// An answer without the part that makes it an answer.
pub(super) fn hollow(operation: &'static str, missing: &'static str) -> ContainerdFault {
    ContainerdFault { kind: FaultKind::Failed, operation, text: format!("the answer has no {missing}") }
}

/// A stream that ended although an answer was owed: the connection went away cleanly.
pub(super) fn ended(operation: &'static str) -> ContainerdFault {
    ContainerdFault { kind: FaultKind::Unreachable, operation, text: "the stream ended early".to_owned() }
}

/// An input that containerd could not even be asked with.
pub(super) fn refused(operation: &'static str, text: String) -> ContainerdFault {
    ContainerdFault { kind: FaultKind::Failed, operation, text }
}

/// Drops `NotFound`: for "is it there" and "make it go away".
pub(super) fn found<T>(answer: Result<T, ContainerdFault>) -> Result<Option<T>, ContainerdFault> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(fault) if fault.kind == FaultKind::NotFound => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// Whether containerd itself (not the transport) says that the object is taken for now: a content ref that another
/// writer holds is answered with `Unavailable`.
pub(super) fn is_locked(status: &Status) -> bool {
    status.code() == Code::Unavailable && status.source().is_none()
}

fn kind(status: &Status) -> FaultKind {
    match status.code() {
        // Also tonic's own timer, "Timeout expired".
        Code::DeadlineExceeded | Code::Cancelled => FaultKind::Deadline,
        Code::Unavailable => FaultKind::Unreachable,
        Code::NotFound => FaultKind::NotFound,
        Code::AlreadyExists => FaultKind::AlreadyExists,
        Code::FailedPrecondition => FaultKind::FailedPrecondition,
        Code::ResourceExhausted => FaultKind::Exhausted,
        // A cause on this side with no better code: the connection broke while the call was in flight.
        Code::Unknown | Code::Internal if status.source().is_some() => FaultKind::Unreachable,
        Code::Unknown | Code::Internal if is_out_of_room(status.message()) => FaultKind::Exhausted,
        Code::Unknown | Code::Internal if is_taken(status.message()) => FaultKind::AlreadyExists,
        Code::Ok
        | Code::Unknown
        | Code::Internal
        | Code::InvalidArgument
        | Code::PermissionDenied
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => FaultKind::Failed,
    }
}

/// ENOSPC, EDQUOT, ENOMEM, EMFILE: containerd wraps the kernel's words and sends `Unknown`, so the text is all there is.
fn is_out_of_room(text: &str) -> bool {
    ["no space left on device", "disk quota exceeded", "cannot allocate memory", "too many open files"]
        .iter()
        .any(|words| text.contains(words))
}

/// EEXIST: the directory of a task whose interrupted creation containerd is still undoing. It does not translate the
/// error of its own `mkdir` (`NewBundle` in `runtime/v2/bundle.go`).
fn is_taken(text: &str) -> bool {
    text.contains("mkdir ") && text.contains(": file exists")
}

/// The status for a human, with the causes that tonic keeps to itself ("transport error" alone explains nothing).
fn words(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_of_containerd_is_told_from_a_broken_connection() {
        let broken = Status::from_error(Box::new(std::io::Error::other("connection reset")));
        assert_eq!(fault("x", &broken).kind, FaultKind::Unreachable);
        assert_eq!(fault("x", &Status::unknown("runc create failed")).kind, FaultKind::Failed);
        assert!(is_locked(&Status::unavailable("ref layer-x locked")));
    }

    #[test]
    fn a_full_disk_is_exhausted_whatever_the_code() {
        let full = Status::unknown("failed to extract layer: write /x: no space left on device: unknown");
        assert_eq!(fault("x", &full).kind, FaultKind::Exhausted);
    }

    #[test]
    fn a_task_directory_that_is_still_there_is_in_the_way() {
        let taken = Status::unknown("failed to start shim: mkdir /run/x/web: file exists: unknown");
        assert_eq!(fault("x", &taken).kind, FaultKind::AlreadyExists);
    }

    #[test]
    fn the_local_timer_of_tonic_is_a_deadline() {
        assert_eq!(fault("x", &Status::cancelled("Timeout expired")).kind, FaultKind::Deadline);
    }
}

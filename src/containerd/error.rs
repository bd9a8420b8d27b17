//! The one place where a gRPC status becomes a [`FaultKind`]: everything after this decides by kind.
//!
//! Two facts about tonic 0.14 (read and observed) shape it. A status that was made on this side of the wire carries its
//! cause as `source()`; one that containerd sent never does. And tonic reports its own timer as `Cancelled`, a broken
//! connection as `Unknown`, so the code alone does not tell.

use super::RemotePullFault;
use crate::messages::runtime::{ContainerdFault, FaultKind};
use crate::spec::error::with_causes;
use crate::spec::words::without_queries;
use std::error::Error as _;
use std::time::Duration;
use tonic::{Code, Status, TimeoutExpired};

/// A status as our fault.
pub(super) fn fault(operation: &'static str, status: &Status) -> ContainerdFault {
    ContainerdFault {
        kind: kind(status),
        operation,
        text: words(status),
    }
}

/// No answer at all within the deadline (our own timer, behind tonic's).
pub(super) fn late(operation: &'static str, after: Duration) -> ContainerdFault {
    ContainerdFault {
        kind: FaultKind::Deadline,
        operation,
        text: format!("no answer within {after:?}"),
    }
}

/// An answer without the part that makes it an answer.
pub(super) fn hollow(operation: &'static str, missing: &'static str) -> ContainerdFault {
    ContainerdFault {
        kind: FaultKind::Failed,
        operation,
        text: format!("the answer has no {missing}"),
    }
}

/// A stream that ended although an answer was owed: the connection went away cleanly.
pub(super) fn ended(operation: &'static str) -> ContainerdFault {
    ContainerdFault {
        kind: FaultKind::Unreachable,
        operation,
        text: "the stream ended early".to_owned(),
    }
}

/// An input that containerd could not even be asked with.
pub(super) fn refused(operation: &'static str, text: String) -> ContainerdFault {
    ContainerdFault {
        kind: FaultKind::Failed,
        operation,
        text,
    }
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
        // A connection that closed under a call that was still to be sent: hyper calls that a cancelled operation.
        Code::Cancelled if status.source().is_some() && !is_own_timer(status) => FaultKind::Unreachable,
        Code::DeadlineExceeded | Code::Cancelled => FaultKind::Deadline,
        Code::Unavailable => FaultKind::Unreachable,
        Code::NotFound => FaultKind::NotFound,
        Code::AlreadyExists => FaultKind::AlreadyExists,
        Code::FailedPrecondition => FaultKind::FailedPrecondition,
        Code::ResourceExhausted => FaultKind::Exhausted,
        // A cause on this side with no better code: the connection broke while the call was in flight.
        Code::Unknown | Code::Internal if status.source().is_some() => FaultKind::Unreachable,
        Code::Unknown | Code::Internal if is_late(status.message()) => FaultKind::Deadline,
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

/// Whether the cause on this side is tonic's timer.
fn is_own_timer(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(c) = cause {
        if c.is::<TimeoutExpired>() {
            return true;
        }
        cause = c.source();
    }
    false
}

/// containerd knows the caller's deadline (`grpc-timeout`), and its answer that it has passed can be here before our own
/// timer ends; wrapped by a shim's client it is `Unknown`.
fn is_late(text: &str) -> bool {
    text.contains("context deadline exceeded")
}

/// ENOSPC, EDQUOT, ENOMEM, EMFILE: containerd wraps the kernel's words and sends `Unknown`, so the text is all there is.
fn is_out_of_room(text: &str) -> bool {
    [
        "no space left on device",
        "disk quota exceeded",
        "cannot allocate memory",
        "too many open files",
    ]
    .iter()
    .any(|words| text.contains(words))
}

/// What a failed pull of the transfer service means. It sends what a registry answered, or that none could be reached, as
/// `Unknown`, so here too the text is all there is: `unexpected status from HEAD request to <url>: 401 Unauthorized`.
pub(super) fn remote(operation: &'static str, status: &Status) -> RemotePullFault {
    let fault = fault(operation, status);
    let text = without_queries(&fault.text);
    if let Some(ingest) = wrong_bytes(&fault.text) {
        return RemotePullFault::Damaged { ingest, text };
    }
    let http_status = http_status(&fault.text);
    let fault = ContainerdFault {
        text: text.clone(),
        ..fault
    };
    match (status.code(), http_status) {
        _ if status.source().is_some() || fault.kind == FaultKind::Exhausted => RemotePullFault::Containerd(fault),
        (Code::InvalidArgument, _) if text.contains("no unpack platforms") => RemotePullFault::CannotUnpack,
        (Code::NotFound, _) | (_, Some(404)) => RemotePullFault::NotFound(text),
        (Code::PermissionDenied | Code::Unauthenticated, _) | (_, Some(401 | 403)) => RemotePullFault::Denied(text),
        // A token that does not reach that far: containerd then tells of no status.
        _ if text.contains("insufficient_scope") || text.contains("pull access denied") => {
            RemotePullFault::Denied(text)
        }
        (_, Some(408 | 429 | 500..)) => RemotePullFault::Registry(text),
        (Code::InvalidArgument, _) | (_, Some(400..)) => RemotePullFault::Unusable(text),
        _ if text.contains("no match for platform") => RemotePullFault::Unusable(text),
        _ if [
            "failed to resolve image",
            "failed to do request",
            "failed to copy",
            "short read: expected",
            "connection reset by peer",
        ]
        .iter()
        .any(|w| text.contains(w)) =>
        {
            RemotePullFault::Registry(text)
        }
        _ => RemotePullFault::Containerd(fault),
    }
}

/// The name of the write whose bytes are not what their digest or their size says, from `failed commit on ref "<name>": …`.
fn wrong_bytes(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("failed commit on ref \"")?;
    let (ingest, reason) = rest.split_once('"')?;
    ["unexpected commit digest", "failed size validation"]
        .iter()
        .any(|words| reason.contains(words))
        .then(|| ingest.to_owned())
}

/// The HTTP status that a registry or its authorization server gave: three digits after a colon and before a word.
fn http_status(text: &str) -> Option<u16> {
    if !text.contains("unexpected status") && !text.contains("status code") {
        return None;
    }
    text.rsplit(": ").find_map(|part| {
        let (digits, _) = part.split_once(' ')?;
        (digits.len() == 3).then(|| digits.parse().ok()).flatten()
    })
}

/// EEXIST: the directory of a task whose interrupted creation containerd is still undoing. It does not translate the
/// error of its own `mkdir` (`NewBundle` in `runtime/v2/bundle.go`).
fn is_taken(text: &str) -> bool {
    // A runtime's own `mkdir`, in the container, is its task's affair.
    let by_runtime = ["OCI runtime", "runc create", "crun create"]
        .iter()
        .any(|words| text.contains(words));
    text.contains("mkdir ") && text.contains(": file exists") && !by_runtime
}

/// The status for a human, with the causes that tonic keeps to itself ("transport error" alone explains nothing).
fn words(status: &Status) -> String {
    with_causes(status.message().to_owned(), status.source())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_of_containerd_is_told_from_a_broken_connection() {
        let broken = Status::from_error(Box::new(std::io::Error::other("connection reset")));
        assert_eq!(fault("x", &broken).kind, FaultKind::Unreachable);
        assert_eq!(
            fault("x", &Status::unknown("runc create failed")).kind,
            FaultKind::Failed
        );
        assert!(is_locked(&Status::unavailable("ref layer-x locked")));
    }

    #[test]
    fn a_full_disk_is_exhausted_whatever_the_code() {
        let full = Status::unknown("failed to extract layer: write /x: no space left on device: unknown");
        assert_eq!(fault("x", &full).kind, FaultKind::Exhausted);
    }

    #[test]
    fn a_shim_that_was_late_for_containerd_was_late_for_us() {
        let late = Status::unknown("context deadline exceeded: unknown");
        assert_eq!(fault("kill task", &late).kind, FaultKind::Deadline);
    }

    #[test]
    fn what_a_registry_said_is_read_from_the_words_of_the_transfer_service() {
        let said = |text: &str| remote("x", &Status::unknown(text));
        let head = "failed to resolve image: unexpected status from HEAD request to http://r:1/v2/a/manifests/1";
        assert!(matches!(
            said(&format!("{head}: 401 Unauthorized")),
            RemotePullFault::Denied(_)
        ));
        assert!(matches!(
            said(&format!("{head}: 503 Service Unavailable")),
            RemotePullFault::Registry(_)
        ));
        assert!(matches!(
            said(&format!("{head}: 429 Too Many Requests")),
            RemotePullFault::Registry(_)
        ));
        let refused = r#"failed to resolve image: failed to do request: Head "https://r:1/v2/": dial tcp 1.1.1.1:1: connect: connection refused"#;
        assert!(matches!(said(refused), RemotePullFault::Registry(_)));
        let scope = "failed to resolve image: pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed";
        assert!(matches!(said(scope), RemotePullFault::Denied(_)));
        let wrong = r#"failed commit on ref "layer-sha256:aa": unexpected commit digest sha256:bb, expected sha256:aa: failed precondition"#;
        assert!(matches!(said(wrong), RemotePullFault::Damaged { ingest, .. } if ingest == "layer-sha256:aa"));
        let gone = r#"failed commit on ref "layer-sha256:aa": context canceled"#;
        assert!(!matches!(said(gone), RemotePullFault::Damaged { .. }));
        let full = "failed to extract layer: no space left on device";
        assert!(matches!(said(full), RemotePullFault::Containerd(f) if f.kind == FaultKind::Exhausted));
        let signed = r#"failed to do request: Get "https://s3/x?sig=secret": EOF"#;
        assert!(matches!(said(signed), RemotePullFault::Registry(t) if !t.contains("secret") && t.contains("EOF")));
        let else_where = r#"failed to extract "https://s3/x?sig=secret": oh"#;
        assert!(matches!(said(else_where), RemotePullFault::Containerd(f) if !f.text.contains("secret")));
    }

    #[test]
    fn a_task_directory_that_is_still_there_is_in_the_way() {
        let taken = Status::unknown("failed to start shim: mkdir /run/x/web: file exists: unknown");
        assert_eq!(fault("x", &taken).kind, FaultKind::AlreadyExists);
        let inside = "failed to create task: OCI runtime create failed: runc create failed: unable to start container process: mkdir /cwd: file exists: unknown";
        assert_eq!(fault("x", &Status::unknown(inside)).kind, FaultKind::Failed);
    }

    #[test]
    fn the_local_timer_of_tonic_is_a_deadline() {
        assert_eq!(
            fault("x", &Status::cancelled("Timeout expired")).kind,
            FaultKind::Deadline
        );
        let timer = Status::from_error(Box::new(TimeoutExpired(())));
        assert_eq!(
            (timer.code(), fault("x", &timer).kind),
            (Code::Cancelled, FaultKind::Deadline)
        );
    }

    #[test]
    fn a_call_cancelled_by_its_closed_connection_did_not_reach_anyone() {
        let mut closed = Status::cancelled("operation was canceled");
        closed.set_source(std::sync::Arc::new(std::io::Error::other("connection closed")));
        assert_eq!(fault("x", &closed).kind, FaultKind::Unreachable);
    }
}

//! Takes back a start that failed.

use super::remove::remove;
use crate::actors::shared::Shared;
use crate::messages::container::ContainerError;
use crate::messages::runtime::FaultKind;
use crate::spec::identity::ContainerId;
use crate::telemetry::names;
use tracing::Instrument as _;

pub(super) fn is_away(error: &ContainerError) -> bool {
    matches!(error, ContainerError::Containerd { source, .. } if source.kind == FaultKind::Unreachable)
}

/// Removes what a failed start made. The answer is the reason of the failure, as the user is to see it.
pub(super) async fn undo(shared: &Shared, id: &ContainerId, why: ContainerError) -> ContainerError {
    // Without containerd nothing can be undone now: whoever asked for the start owes the removal.
    if is_away(&why) {
        return why;
    }
    let undone = remove(shared, id, None)
        .instrument(tracing::info_span!(names::CONTAINER_STEP, { names::STEP } = "undo"))
        .await;
    match undone {
        Ok(()) => why,
        Err(e) => {
            tracing::warn!(container.id = %id, error = %e, "could not undo a failed start");
            owed(&why, &e)
        }
    }
}

/// A start that failed and left something behind. By itself the reason may be final, and then nobody would come back to
/// what is left; this one is worth a retry, so the removal is owed by whoever asked.
pub(super) fn owed(why: &dyn std::fmt::Display, left: &ContainerError) -> ContainerError {
    ContainerError::Interrupted(format!("{why}; what it has made is not removed yet: {left}"))
}

//! A container that has files or pipes of its own says in their directory whose they are.

use crate::actors::shared::Shared;
use crate::containerd::Gateway;
use crate::host::leftovers;
use crate::messages::container::ContainerError;
use crate::spec::identity::ContainerId;
use crate::spec::owner::{Owner, RunOwner};
use crate::spec::shim_group::ShimGroup;

/// Writes the owner into the container's run directory, which is made if it is missing. The record is there before, so a
/// directory that was not marked in time goes with it.
pub(super) fn claim(
    shared: &Shared,
    gateway: &Gateway,
    id: &ContainerId,
    owner: &Owner,
    shim: Option<ShimGroup>,
) -> Result<(), ContainerError> {
    let dir = shared.run_dir.join(id.as_str());
    let owner = RunOwner {
        address: gateway.socket().to_owned(),
        namespace: gateway.namespace().to_owned(),
        owner: owner.clone(),
        shim,
    };
    leftovers::claim_run_dir(&dir, &owner).map_err(|e| ContainerError::Host {
        what: e.what,
        path: e.path.display().to_string(),
        reason: e.reason,
    })
}

//! What is thought of a bundle, the directory in which containerd has a container's shim work.

use super::verdict::{Opinion, Scene, bare, is_young, opinion, young};
use crate::messages::audit::Standing;
use crate::spec::identity::is_by_convention;

/// A bundle.
#[derive(Debug, Clone)]
pub(super) struct BundleFacts {
    pub(super) container: String,
    pub(super) path: String,
    pub(super) changed_at: i64,
}

/// One without a container. The record of a container goes last, so nobody comes back for it; containerd removes it only when it
/// starts, and may not even then.
pub(super) fn bundle(scene: &Scene, bundle: &BundleFacts) -> (String, Opinion) {
    bare(if !is_by_convention(&bundle.container) {
        opinion(Standing::Foreign, "not named as those of this driver")
    } else if is_young(scene, bundle.changed_at) {
        young(scene)
    } else if scene.tasks.contains(&bundle.container) {
        opinion(Standing::Leftover, "its task has no container")
    } else if scene.shims.iter().any(|shim| shim.container == bundle.container) {
        opinion(Standing::InUse, "its shim runs")
    } else {
        opinion(
            Standing::Orphan,
            "its container is gone, it has no shim, and containerd has left it behind",
        )
    })
}

//! Snapshots for a container with ids of its own.

use super::remove::at;
use crate::containerd::Gateway;
use crate::messages::container::ContainerError;
use crate::spec::SpecError;
use crate::spec::oci::ContainerPlan;
use crate::spec::task::TaskSpec;
use std::collections::BTreeMap;

/// Labels by which containerd's snapshotter shows a container's files under the ids of its user namespace (containerd
/// `core/snapshots`: `LabelSnapshotUIDMapping`). Asked of introspection first: one that cannot would ignore them, and
/// the container would see files of nobody.
pub(super) async fn remap(
    gateway: &Gateway,
    task: &TaskSpec,
    plan: &ContainerPlan,
) -> Result<BTreeMap<String, String>, ContainerError> {
    let Some(ids) = plan.userns else {
        return Ok(BTreeMap::new());
    };
    let abilities = gateway.abilities().await.map_err(at("asking for abilities"))?;
    if !abilities.remap_ids.contains(&plan.snapshotter) {
        return Err(SpecError::option(
            "userns",
            "private",
            format!(
                "this node's containerd cannot map ids in snapshots of {}: containerd 2 and a kernel from 5.19 on are needed",
                plan.snapshotter
            ),
        )
        .as_written(&task.written)
        .into());
    }
    let mapping = format!("0:{}:{}", ids.first, ids.count);
    let labels = ["uidmapping", "gidmapping"].map(|name| (format!("containerd.io/snapshot/{name}"), mapping.clone()));
    Ok(labels.into())
}

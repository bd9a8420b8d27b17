//! Remove what nobody needs any more, unless it is somebody's by now.
//!
//! Whoever asks for a task has a supervisor before any work on its container is asked for, and that work waits for its turn
//! behind this: so what is not claimed here cannot be in the hands of anybody in this process.

use super::remove::{at, remove};
use super::stray;
use crate::actors::shared::force::end_shim;
use crate::actors::shared::{Links, Shared};
use crate::containerd::Gateway;
use crate::host::leftovers;
use crate::messages::container::{ContainerError, ReapContainer, Reaped};
use crate::messages::runtime::FaultKind;
use crate::spec::identity::ContainerId;
use crate::spec::labels::KEY_PIPES;
use std::sync::Arc;
use std::time::Duration;

/// How long killed processes may take to be gone.
const KILL_WITHIN: Duration = Duration::from_secs(10);

/// See the module.
pub(super) async fn reap(shared: &Arc<Shared>, links: &Links, req: &ReapContainer) -> Result<Reaped, ContainerError> {
    let id = &req.container;
    if links.tasks.containers().contains(id) {
        return Ok(Reaped::Claimed);
    }
    let configured = shared.configured().map_err(at("removing orphan"))?;
    let record = configured
        .gateway
        .container(id.as_str())
        .await
        .map_err(at("reading container"))?;
    let is_same = match (&record, req.created_at) {
        (Some(record), Some(judged)) => record.created_at == judged,
        // It went by itself; what it had goes now.
        (None, _) => true,
        (Some(_), None) => false,
    };
    if !is_same {
        return Ok(Reaped::Claimed);
    }
    // What a task of the Go driver has beside its container is found by its pipes.
    let adopted = record.as_ref().is_some_and(|r| r.labels.contains_key(KEY_PIPES));
    let namespace = adopted.then(|| configured.gateway.namespace().to_owned());
    let dir = shared.run_dir.join(id.as_str());
    // A plain removal would go through a mount that somebody has made there.
    let removed = shared.io.spawn_blocking({
        let dir = dir.clone();
        move || leftovers::unmount_beneath(&dir)
    });
    removed
        .await
        .map_err(|e| ContainerError::Interrupted(e.to_string()))?
        .map_err(|e| ContainerError::Host {
            what: e.what,
            path: e.path.display().to_string(),
            reason: e.reason,
        })?;
    tokio::task::block_in_place(|| shared.keeper.let_go(id.as_str()));
    match remove(shared, id, namespace.as_deref()).await {
        Err(ContainerError::Containerd { step, source }) if source.kind == FaultKind::Deadline => {
            tracing::warn!(container.id = %id, step, error = %source, "cannot remove an orphan, ending by force what keeps it");
            force(shared, &configured.gateway, id).await?;
            remove(shared, id, namespace.as_deref()).await?;
        }
        removed => removed?,
    }
    Ok(Reaped::Removed)
}

/// Ends a container's processes, and its shim, which does not answer, unless others need it.
async fn force(shared: &Arc<Shared>, gateway: &Gateway, id: &ContainerId) -> Result<(), ContainerError> {
    // containerd itself answers, or it is not the shim's fault.
    gateway.container(id.as_str()).await.map_err(at("reading container"))?;
    // Whom the kernel cannot end now keeps its shim, and so is not lost sight of.
    let processes = stray::end_processes(shared, id, KILL_WITHIN).await?;
    let shim = end_shim(shared, gateway, id).await;
    let shim = shim.map_err(|e| ContainerError::Interrupted(e.to_string()))?;
    tracing::warn!(container.id = %id, processes, shim, "killed what kept an orphan from being removed");
    Ok(())
}

//! Ending the shim of a container that cannot be removed.

use super::Shared;
use crate::containerd::Gateway;
use crate::host::shims;
use crate::spec::identity::ContainerId;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinError;

/// How often, and with what rest, containerd is asked whether it has taken down what a dead shim has left. It runs the
/// shim's binary for that; its event of it names the container only, and may have been before we ask.
const TAKEN_DOWN: (u32, Duration) = (20, Duration::from_millis(250));

/// Kills the shim of a container, which does not answer, unless others need it: with others the removal waits until it answers or
/// they are removed as well. containerd takes down what a dead shim leaves, which is waited for. Whether there was one to kill.
///
/// # Errors
/// If the work broke off.
pub(in crate::actors) async fn end_shim(
    shared: &Arc<Shared>,
    gateway: &Gateway,
    id: &ContainerId,
) -> Result<bool, JoinError> {
    let (address, namespace) = (gateway.socket().to_owned(), gateway.namespace().to_owned());
    let (of, container) = (Arc::clone(shared), id.clone());
    let end = move || {
        let groups = &of.groups;
        groups.is_alone(container.as_str()) && shims::kill(&address, &namespace, &groups.shim_of(container.as_str()))
    };
    let ended = shared.io.spawn_blocking(end).await?;
    for _ in 0..if ended { TAKEN_DOWN.0 } else { 0 } {
        if let Ok(None) = gateway.task(id.as_str()).await {
            break;
        }
        tokio::time::sleep(TAKEN_DOWN.1).await;
    }
    Ok(ended)
}

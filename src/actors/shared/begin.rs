//! The word to begin, to a process that was made before and may have had it already.

use super::Shared;
use crate::containerd::Gateway;
use crate::host::begin;
use crate::messages::runtime::ContainerdFault;
use crate::spec::identity::ContainerId;
use std::time::Duration;

/// How long a start takes that waits for nothing.
const USUAL: Duration = Duration::from_secs(1);

/// Starts the task of a container whose process is this one. An earlier start may have been cut off, with containerd, at the moment
/// when the process began: see [`begin::let_start_return`].
///
/// # Errors
/// As [`Gateway::start_task`].
pub async fn begin_again(
    shared: &Shared,
    gateway: &Gateway,
    id: &ContainerId,
    pid: u32,
) -> Result<u32, ContainerdFault> {
    let started = gateway.start_task(id.as_str());
    tokio::pin!(started);
    loop {
        tokio::select! {
            started = &mut started => return started,
            () = tokio::time::sleep(USUAL) => {}
        }
        let (namespace, container) = (gateway.namespace().to_owned(), id.clone());
        let work = move || begin::let_start_return(&namespace, container.as_str(), pid);
        match shared.io.spawn_blocking(work).await {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) => {
                tracing::info!(container.id = %id, "a start that waited for what runs already was let go on")
            }
            Ok(Err(error)) => tracing::warn!(container.id = %id, error = %error, "a start waits for what runs already"),
            Err(panic) => tracing::error!(container.id = %id, error = %panic, "a look at a process broke off"),
        }
    }
}

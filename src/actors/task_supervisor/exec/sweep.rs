//! What a plugin process that was killed has left of commands: their clients are gone with it, so they go too.
//!
//! The directories of pipes are the journal. One is made before its command has an entry in containerd and removed after
//! that, so no command is missed. What this sweep does not reach goes with the container.

use super::kill::kill;
use super::pump;
use crate::actors::shared::Shared;
use crate::containerd::Gateway;
use crate::host::exec::{self, Pipes};
use crate::messages::runtime::{ContainerdFault, FaultKind};
use crate::spec::identity::ContainerId;
use crate::telemetry::names;
use std::sync::Arc;
use std::time::Duration;
use tracing::Instrument as _;

/// How often it is tried, and the rest between.
const ATTEMPTS: u32 = 20;
const REST: Duration = Duration::from_millis(250);
/// The rest while containerd is away.
const AWAY: Duration = Duration::from_secs(1);

/// See the module.
pub(super) async fn sweep(shared: Arc<Shared>, gateway: Gateway, container: ContainerId) {
    let (dir, id) = (shared.run_dir.clone(), container.clone());
    let names = shared.look(move || exec::names(&dir, id.as_str())).await;
    let stale: Vec<String> = names
        .unwrap_or_default()
        .into_iter()
        .filter(|name| shared.execs.is_stale(name))
        .collect();
    if stale.is_empty() {
        return;
    }
    let span = tracing::info_span!(parent: None, names::EXEC_SWEEP, { names::CONTAINER_ID } = %container, { names::COUNT } = stale.len());
    async {
        for exec in stale {
            if let Err(fault) = remove(&shared, &gateway, &container, &exec).await {
                tracing::warn!(container.id = %container, exec.id = exec, error = %fault, "command of an earlier plugin process not removed");
            }
        }
    }
    .instrument(span)
    .await;
}

async fn remove(
    shared: &Shared,
    gateway: &Gateway,
    container: &ContainerId,
    exec: &str,
) -> Result<(), ContainerdFault> {
    let pipes = Pipes::of(&shared.run_dir, container.as_str(), exec);
    let _readers = pump::discard_all(&pipes);
    let (mut last, mut attempt) = (Ok(()), 0);
    while attempt < ATTEMPTS {
        // Once it is stopped its number is not its own any more.
        let pid = gateway.exec_pid(container.as_str(), exec).await.ok().flatten();
        kill(gateway, container.as_str(), exec, pid).await;
        last = gateway.delete_exec(container.as_str(), exec).await;
        let rest = match &last {
            Ok(()) => break,
            // While containerd is away nobody can try.
            Err(fault) if fault.kind == FaultKind::Unreachable => AWAY,
            Err(_) => {
                attempt += 1;
                REST * attempt
            }
        };
        tokio::time::sleep(rest).await;
    }
    last?;
    if let Err(e) = tokio::task::block_in_place(|| pipes.remove()) {
        tracing::warn!(container.id = %container, error = %e, "pipes of an earlier command not removed");
    }
    Ok(())
}

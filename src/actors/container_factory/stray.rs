//! Ends the shim of a container whose task containerd has forgotten.
//!
//! A call to create a task that breaks off, since its caller was killed, has containerd take down what it had begun; where
//! the shim is busy making the task and does not answer for five seconds, containerd 1.6 forgets it and leaves it and its
//! bundle behind. The shim makes the task to its end and then waits for ever. One whose bundle went before it had opened its
//! log there hangs without ever having served; one whose bundle went later can neither kill nor delete what it has made.
//!
//! A shim that other containers need is never ended for one: it is asked to let go of that one, and if it does not answer the
//! removal waits.

use super::grouping;
use crate::actors::shared::Shared;
use crate::containerd::Gateway;
use crate::host::shims::{self, Held};
use crate::host::{bundles, members};
use crate::messages::container::ContainerError;
use crate::spec::identity::{self, ContainerId};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long it may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// How long it may take to be gone when it was asked to leave.
const LEAVES_WITHIN: Duration = Duration::from_secs(1);

/// How long it may take to have no process any more, and to be gone when it was killed.
const GONE_WITHIN: Duration = Duration::from_secs(3);

/// The rest between two looks at what pipes it opens: nothing tells of it.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How long nothing has happened in a bundle without a shim before it counts as left behind: containerd makes it and starts
/// the shim at once.
const ORPHANED: Duration = Duration::from_secs(5);

/// See the module. For containers without a task in containerd only.
///
/// # Errors
/// If the shim stays: what it has made may run. Worth another try, or force.
pub(super) async fn end(shared: &Shared, gateway: &Gateway, id: &ContainerId) -> Result<(), ContainerError> {
    let (address, namespace, container) = (gateway.socket().to_owned(), gateway.namespace().to_owned(), id.clone());
    let (shim, alone) = tokio::task::block_in_place(|| {
        let groups = &shared.groups;
        (groups.shim_of(id.as_str()), groups.is_alone(id.as_str()))
    });
    let look = {
        let shim = shim.clone();
        move || {
            let held = shims::hold(&address, &namespace, &shim, container.as_str());
            for error in held.iter().filter_map(|shim| shim.have_bundle().err()) {
                tracing::warn!(container.id = %container, error = %error, "a shim works without a bundle");
            }
            held
        }
    };
    let held = match shared.io.spawn_blocking(look).await {
        Ok(held) if held.is_empty() => {
            // It has left its processes to containerd, which has five seconds for all of them, and may be away itself.
            let processes = end_processes(shared, id, GONE_WITHIN).await?;
            if processes > 0 {
                tracing::warn!(container.id = %id, processes, "killed what had outlived its shim");
            }
            return forget(shared, gateway, id).await;
        }
        Ok(held) => held,
        Err(panic) => return Err(ContainerError::Interrupted(panic.to_string())),
    };
    // It may leave before it has answered: what counts is that it is gone.
    let _turn = shared.groups.turn_to_delete(id.as_str()).await;
    let held = Arc::new(held);
    let asked = tokio::select! {
        asked = timeout(ANSWER_WITHIN, gateway.end_at_shim(&shim, id.as_str(), alone)) => asked,
        never = be_read(shared, &held) => match never {},
    };
    let (names, version) = (cgroup_names(shared, id), shared.node.cgroups);
    // One that others need stays; it has to say that it has let go of this container.
    let answered = matches!(asked, Ok(Ok(())));
    let gone = move || {
        let has_left = alone && held.iter().all(|shim| shim.ends_within(LEAVES_WITHIN));
        // What it may have made while it was looked at has nobody else any more, and keeps the shim that made it.
        let left = members::kill_all(&names, None, version, GONE_WITHIN).left;
        let ends = |shim: &Held| {
            shim.ends_within(Duration::ZERO) || (shim.kill_childless(GONE_WITHIN) && shim.ends_within(GONE_WITHIN))
        };
        let all = if alone {
            has_left || held.iter().all(ends)
        } else {
            // One that the others have left meanwhile has ended by itself, and answers nobody.
            answered || held.iter().all(|shim| shim.ends_within(Duration::ZERO))
        };
        (all && left.is_empty()).then(|| {
            let removed: Result<Vec<()>, _> = held.iter().map(Held::remove_bundle).collect();
            removed.map(|_| has_left)
        })
    };
    match shared.io.spawn_blocking(gone).await {
        Ok(Some(Ok(left))) => {
            tracing::info!(container.id = %id, shim = alone, left, "what containerd had forgotten was ended");
            Ok(())
        }
        Ok(Some(Err(error))) => {
            tracing::warn!(container.id = %id, error = %error, "the bundle of a shim is left");
            Ok(())
        }
        Ok(None) => Err(ContainerError::Interrupted(match asked {
            Ok(Ok(())) => "a shim that containerd has forgotten stays".to_owned(),
            Ok(Err(fault)) => format!("a shim that containerd has forgotten stays: {fault}"),
            Err(_) => format!("a shim that containerd has forgotten does not answer within {ANSWER_WITHIN:?}"),
        })),
        Err(panic) => Err(ContainerError::Interrupted(panic.to_string())),
    }
}

/// Kills a container's processes, found by its cgroup; how many signals that took.
///
/// # Errors
/// If some are still there after this time.
pub(super) async fn end_processes(
    shared: &Shared,
    id: &ContainerId,
    within: Duration,
) -> Result<usize, ContainerError> {
    let (names, version) = (cgroup_names(shared, id), shared.node.cgroups);
    let kill = move || members::kill_all(&names, None, version, within);
    let killed = shared.io.spawn_blocking(kill).await;
    let killed = killed.map_err(|panic| ContainerError::Interrupted(panic.to_string()))?;
    match killed.left.as_slice() {
        [] => Ok(killed.signalled),
        left => Err(ContainerError::Interrupted(format!(
            "processes {left:?} of {id} are still there {within:?} after SIGKILL"
        ))),
    }
}

/// Names by which the cgroup of a container is known. The host's scope is one only if the task has no other container: all of
/// them have that.
fn cgroup_names(shared: &Shared, id: &ContainerId) -> Vec<String> {
    let of_host = shared
        .lives
        .alone(id.as_str())
        .map(|(alloc, task)| identity::scope(&alloc, &task));
    id.own_cgroup_names().into_iter().chain(of_host).collect()
}

/// Sees to it that a shim does not wait for a reader of its pipes, which it opens one after the other. Does not end by itself.
async fn be_read(shared: &Shared, held: &Arc<Vec<Held>>) -> Infallible {
    let mut readers = Vec::new();
    loop {
        let shims = Arc::clone(held);
        let found = shared.look(move || shims.iter().flat_map(Held::readers).collect::<Vec<_>>());
        // Those of the last look go only when there are others.
        readers = found.await.unwrap_or(readers);
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Removes a bundle without a shim that keeps containerd from making this task, as its refusal names it.
pub(super) async fn clear_orphan(shared: &Shared, gateway: &Gateway, id: &ContainerId, refusal: &ContainerError) {
    let ContainerError::Containerd { source, .. } = refusal else {
        return;
    };
    let Some(bundle) = source.directory_in_the_way() else {
        return;
    };
    let group = tokio::task::block_in_place(|| shared.groups.group(id.as_str()));
    if grouping::is_forgotten_in(gateway, group.as_ref(), id).await {
        return;
    }
    let (namespace, container, bundle) = (
        gateway.namespace().to_owned(),
        id.as_str().to_owned(),
        PathBuf::from(bundle),
    );
    let remove = move || bundles::remove_orphan(&bundle, &namespace, &container, ORPHANED);
    match shared.io.spawn_blocking(remove).await {
        Ok(Ok(false)) => {}
        Ok(Ok(true)) => tracing::info!(container.id = %id, "a bundle that containerd had left behind was removed"),
        Ok(Err(error)) => tracing::warn!(container.id = %id, error = %error, "a bundle without a shim is in the way"),
        Err(panic) => tracing::error!(container.id = %id, error = %panic, "the removal of a bundle broke off"),
    }
}

/// Of a shim that has gone already, its runtime's note of the container may be left.
async fn forget(shared: &Shared, gateway: &Gateway, id: &ContainerId) -> Result<(), ContainerError> {
    let (namespace, container) = (gateway.namespace().to_owned(), id.as_str().to_owned());
    let forgotten = shared
        .io
        .spawn_blocking(move || shims::forget_state(&namespace, &container));
    match forgotten.await {
        Ok(forgotten) => {
            if let Err(error) = forgotten {
                tracing::warn!(container.id = %id, error = %error, "the runtime's note of the container is left");
            }
            Ok(())
        }
        Err(panic) => Err(ContainerError::Interrupted(panic.to_string())),
    }
}

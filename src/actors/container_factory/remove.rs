//! Remove a container and all that is its own. Idempotent: what is gone already is no error.
//!
//! The container record goes last, also after the files: while it is there, an interrupted removal can be found and
//! finished.

use super::create::marks;
use super::{grouping, on_host, stray};
use crate::actors::shared::Shared;
use crate::containerd::{Gateway, Stdio};
use crate::host::fifo::remove_client_pipe;
use crate::host::{cgroup, node};
use crate::messages::container::ContainerError;
use crate::messages::runtime::{ContainerdFault, FaultKind, TaskView};
use crate::spec::identity::ContainerId;
use crate::spec::labels::{self, KEY_PIPES};
use crate::telemetry::steps::step;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a killed process may take to be gone: the kernel frees its memory first.
const KILL_PATIENCE: Duration = Duration::from_secs(15);

pub(super) fn at(step: &'static str) -> impl Fn(ContainerdFault) -> ContainerError {
    move |source| ContainerError::Containerd { step, source }
}

/// As [`remove`], for whoever will not start it again: its log pipes are let go too.
pub(super) async fn asked(shared: &Shared, id: &ContainerId, go_namespace: Option<&str>) -> Result<(), ContainerError> {
    tokio::task::block_in_place(|| shared.keeper.let_go(id.as_str()));
    remove(shared, id, go_namespace).await
}

/// See the module.
pub(super) async fn remove(
    shared: &Shared,
    id: &ContainerId,
    go_namespace: Option<&str>,
) -> Result<(), ContainerError> {
    let configured = shared.configured_in(go_namespace).map_err(at("removing container"))?;
    let gateway = &configured.gateway;
    let record = gateway.container(id.as_str()).await.map_err(at("reading container"))?;
    step!(RemoveBegun);
    if let Some(record) = &record {
        grouping::settle_if_unknown(shared, record);
    }
    tokio::task::block_in_place(|| shared.groups.leaves(id.as_str()));
    if go_namespace.is_some() {
        let dir = record.as_ref().and_then(|r| r.labels.get(KEY_PIPES)).map(PathBuf::from);
        remove_pipes(shared, gateway, id, dir).await?;
    }
    let spec: Option<serde_json::Value> = record
        .as_ref()
        .map(|r| serde_json::from_slice(&r.spec_json).unwrap_or_default());
    let survivors = spec.as_ref().is_some_and(|spec| !has_own_pids(spec));
    let ours = record.as_ref().is_some_and(|record| marks(record).is_some());
    remove_task(shared, gateway, id, survivors, ours).await?;
    step!(RemoveTask);
    let snapshotter = record
        .as_ref()
        .map_or_else(|| configured.settings.snapshotter.clone(), |r| r.snapshotter.clone());
    // Ours bears the container's name, one of the Go driver another.
    let snapshot = record
        .as_ref()
        .map(|r| r.snapshot_key.as_str())
        .filter(|key| !key.is_empty())
        .unwrap_or(id.as_str());
    gateway
        .remove_snapshot(&snapshotter, snapshot)
        .await
        .map_err(at("removing snapshot"))?;
    step!(RemoveSnapshot);
    if let Some(spec) = &spec {
        remove_cgroup(shared, id, spec);
    }
    remove_files(shared, id).await?;
    step!(RemoveFiles);
    grouping::forget_sandbox(shared, gateway, id)
        .await
        .map_err(at("removing sandbox record"))?;
    if record.is_some() {
        gateway
            .delete_container(id.as_str())
            .await
            .map_err(at("deleting container"))?;
    }
    shared.lives.forget(id.as_str());
    shared.groups.left(id.as_str());
    shared.images.container_gone();
    step!(RemoveRecord);
    Ok(())
}

/// The runtime removes the cgroup with the task; a shim that was killed does not. Only a directory of its own and without
/// processes goes, so a failure is worth a line but not a failed removal.
fn remove_cgroup(shared: &Shared, id: &ContainerId, spec: &serde_json::Value) {
    let path = spec.pointer("/linux/cgroupsPath").and_then(serde_json::Value::as_str);
    // The form with colons is systemd's, which removes what it made.
    let Some(path) = path.filter(|p| p.starts_with('/') && !p.contains(':')) else {
        return;
    };
    let root = Path::new(node::CGROUP_ROOT);
    let removed = tokio::task::block_in_place(|| cgroup::remove_empty(root, shared.node.cgroups, Path::new(path)));
    if let Err(error) = removed {
        tracing::warn!(container.id = %id, error = %error, "the cgroup is left");
    }
}

/// True if the container has a process namespace of its own.
fn has_own_pids(spec: &serde_json::Value) -> bool {
    let namespaces = spec.pointer("/linux/namespaces").and_then(serde_json::Value::as_array);
    namespaces.is_some_and(|all| all.iter().any(|n| n["type"] == "pid" && n.get("path").is_none()))
}

/// Kills what runs and deletes the task, so that its shim ends. `ours`: it has a record, and that bears our labels.
async fn remove_task(
    shared: &Shared,
    gateway: &Gateway,
    id: &ContainerId,
    survivors: bool,
    ours: bool,
) -> Result<(), ContainerError> {
    match gateway.task(id.as_str()).await.map_err(at("reading task"))? {
        None => {
            return stray::end(shared, gateway, id).await;
        }
        // Without a process namespace of its own, the kernel does not end the rest with the first process, and the shim
        // waits for whoever still holds the log pipes.
        Some(TaskView::Stopped(_)) if survivors => match gateway.kill_task(id.as_str(), 9, true).await {
            Err(fault) if fault.kind != FaultKind::NotFound => {
                return Err(at("killing what the task left behind")(fault));
            }
            _ => {}
        },
        Some(TaskView::Stopped(_)) => {}
        Some(TaskView::Running { .. } | TaskView::Created { .. }) => {
            if ours {
                let labels = [labels::condemned()].into();
                match gateway.update_container_labels(id.as_str(), &labels).await {
                    Err(fault) if fault.kind != FaultKind::NotFound => {
                        return Err(at("marking the container for removal")(fault));
                    }
                    _ => {}
                }
            }
            // Waiting begins before the kill: the exit cannot be missed.
            let exited = gateway.wait_task(id.as_str());
            tokio::pin!(exited);
            let kill = async {
                match gateway.kill_task(id.as_str(), 9, true).await {
                    Err(fault) if fault.kind != FaultKind::NotFound => Err(fault),
                    _ => Ok(()),
                }
            };
            let (killed, exited) = tokio::join!(kill, tokio::time::timeout(KILL_PATIENCE, &mut exited));
            killed.map_err(at("killing task"))?;
            match exited {
                Ok(Ok(_)) => {}
                Ok(Err(fault)) if fault.kind == FaultKind::NotFound => {}
                Ok(Err(fault)) => return Err(at("waiting for the killed task")(fault)),
                Err(_elapsed) => {
                    return Err(at("waiting for the killed task")(ContainerdFault {
                        kind: FaultKind::Deadline,
                        operation: "wait for task",
                        text: format!("the processes of {id} are still there {KILL_PATIENCE:?} after SIGKILL"),
                    }));
                }
            }
        }
    }
    step!(RemoveKilled);
    let turn = shared.groups.turn_to_delete(id.as_str()).await;
    let deleted = gateway.delete_task(id.as_str()).await;
    let is_gone = match &deleted {
        Err(fault) if fault.kind == FaultKind::NotFound => true,
        // A shared shim that ends with the last of its containers may do so before it has answered; containerd has let go of the
        // task then, and says so when it is asked.
        Err(fault) if fault.kind == FaultKind::Failed => matches!(gateway.task(id.as_str()).await, Ok(None)),
        _ => false,
    };
    if is_gone {
        drop(turn);
        return stray::end(shared, gateway, id).await;
    }
    deleted.map(|_| ()).map_err(at("deleting task"))
}

/// Removes the pipes that containerd's Go client made for a container of the Go driver.
async fn remove_pipes(
    shared: &Shared,
    gateway: &Gateway,
    id: &ContainerId,
    dir: Option<PathBuf>,
) -> Result<(), ContainerError> {
    let stdio = match dir {
        Some(dir) => Some(Stdio::of_client(&dir, id)),
        // Not adopted yet: the task knows, as long as there is one.
        None => gateway.task_stdio(id.as_str()).await.map_err(at("reading task"))?,
    };
    let container = id.clone();
    let removed = shared.io.spawn_blocking(move || {
        let stdio = stdio.unwrap_or_default();
        for path in [stdio.stdin, stdio.stdout, stdio.stderr].into_iter().flatten() {
            remove_client_pipe(container.as_str(), &path).map_err(|e| ContainerError::Host {
                what: "output pipe",
                path: path.display().to_string(),
                reason: e.to_string(),
            })?;
        }
        Ok(())
    });
    removed
        .await
        .unwrap_or_else(|e| Err(ContainerError::Interrupted(e.to_string())))
}

/// Lets go of mount sources that an interrupted start held, and removes the directory of generated files, if the container
/// has one.
async fn remove_files(shared: &Shared, id: &ContainerId) -> Result<(), ContainerError> {
    tokio::task::block_in_place(|| on_host::let_go(shared, id))?;
    let dir = shared.run_dir.join(id.as_str());
    match tokio::fs::remove_dir_all(&dir).await {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(ContainerError::Host {
            what: "generated files",
            path: dir.display().to_string(),
            reason: e.to_string(),
        }),
        _ => Ok(()),
    }
}

//! Earlier lives of a task, which nobody looks after any more.
//!
//! Nomad runs a task of an allocation once at a time, each time under a new id. It recovers a task once after the death
//! of the plugin; if the next plugin process dies as well before it has answered, Nomad takes the task for lost, asks that
//! process to destroy it, in vain, and starts it anew. The earlier life would run beside the later one until the reaper
//! comes, on the same directories, ports and log pipes: so it goes first.

use super::create::marks;
use crate::actors::shared::{Links, Shared};
use crate::actors::supervision::book::ask_until;
use crate::containerd::{ContainerRecord, Gateway};
use crate::host::liveness;
use crate::messages::Cx;
use crate::messages::container::{ContainerError, ReapContainer, Reaped};
use crate::messages::runtime::{ContainerdFault, ForgetTask};
use crate::spec::identity::ContainerId;
use crate::spec::labels::KEY_ALLOC_ID;
use crate::spec::owner::{Owner, ProcessId};
use crate::spec::task::TaskSpec;
use std::path::Path;
use std::time::Duration;

/// How long the removal of one may take.
const WITHIN: Duration = Duration::from_secs(60);

/// Containers of the same task of the same allocation that no process looks after. Which of them a supervisor of this process
/// has is looked at when they are removed.
pub(super) async fn find(
    shared: &Shared,
    gateway: &Gateway,
    task: &TaskSpec,
    id: &ContainerId,
) -> Result<Vec<ContainerRecord>, ContainerdFault> {
    if task.alloc_id.is_empty() {
        return Ok(Vec::new());
    }
    let list = async {
        // A name that is too long is cut in the label: such a life is left to the reaper.
        let life = |record: ContainerRecord| {
            let task = marks(&record)?.task_name;
            let alloc_id = record.labels.get(KEY_ALLOC_ID)?.clone();
            Some((record.id, (alloc_id, task)))
        };
        gateway.glean_containers(&[], life).await
    };
    shared.lives.listed(list).await?;
    let mut found = Vec::new();
    for other in shared.lives.others(id.as_str(), &task.alloc_id, &task.name) {
        match gateway.container(&other).await? {
            None => shared.lives.forget(&other),
            Some(record) => {
                let owner = Owner::read(&record.labels);
                if is_left(&owner, &task.alloc_dir, &shared.process, liveness::lives) {
                    found.push(record);
                }
            }
        }
    }
    shared.lives.note(id.as_str(), &task.alloc_id, &task.name);
    Ok(found)
}

/// Whether a container with this owner, of the task that is to be started, is an earlier life without a process that looks
/// after it. Of another agent it is none, and without an owner nothing is known.
fn is_left(owner: &Owner, alloc_dir: &Path, me: &ProcessId, lives: impl Fn(&ProcessId) -> bool) -> bool {
    owner.alloc_dir.as_deref() == Some(alloc_dir)
        && owner
            .plugin
            .as_ref()
            .is_some_and(|process| process == me || !lives(process))
}

/// Removes them, in turn with all other work on them. One that has a supervisor here stays.
pub(super) async fn end(links: &Links, earlier: Vec<ContainerRecord>) -> Result<(), ContainerError> {
    for record in earlier {
        let request = ReapContainer {
            container: ContainerId::reported(&record.id),
            created_at: Some(record.created_at),
        };
        let container = request.container.clone();
        let reaped = ask_until(&*links.reap_container, request, Cx::current(), Some(WITHIN))
            .await
            .map_err(|e| ContainerError::Interrupted(format!("an earlier life of the task is in the way: {e}")))??;
        if reaped == Reaped::Removed {
            tracing::warn!(container.id = %record.id, "an earlier life of the task was left behind and was removed");
            links.forget_task.offer(ForgetTask { container }, Cx::current());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32) -> ProcessId {
        ProcessId {
            boot: "b".into(),
            pid,
            start: 1,
        }
    }

    #[test]
    fn an_earlier_life_is_of_the_same_directory_and_of_no_other_living_process() {
        let (me, dead, other) = (process(1), process(2), process(3));
        let lives = |p: &ProcessId| p.pid != 2;
        let dir = Path::new("/var/nomad/alloc/a");
        let owner = |plugin: Option<&ProcessId>, dir: &str| Owner {
            plugin: plugin.cloned(),
            alloc_dir: Some(dir.into()),
            agent_inode: None,
            seen_from: None,
            launcher: None,
        };
        for (plugin, at, left) in [
            (Some(&dead), "/var/nomad/alloc/a", true),
            (Some(&me), "/var/nomad/alloc/a", true),
            (Some(&other), "/var/nomad/alloc/a", false),
            (Some(&dead), "/opt/nomad/alloc/a", false),
            (None, "/var/nomad/alloc/a", false),
        ] {
            assert_eq!(is_left(&owner(plugin, at), dir, &me, lives), left, "{plugin:?} {at}");
        }
        assert!(!is_left(&Owner::default(), dir, &me, lives));
    }
}

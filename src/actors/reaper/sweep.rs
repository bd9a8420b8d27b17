//! Removes what was judged an orphan. What belongs to a container is removed by `ContainerFactory`, which works on one
//! container at a time and looks once more whether somebody has asked for it meanwhile.

use super::verdict::Scene;
use crate::actors::shared::groups::Record;
use crate::actors::shared::{Configured, Links, Shared};
use crate::actors::supervision::book::ask_until;
use crate::host::{HostError, bundles, cgroup, node};
use crate::messages::Cx;
use crate::messages::audit::{Outcome, Standing, Thing, ThingKind};
use crate::messages::container::{ReapContainer, Reaped};
use crate::messages::runtime::{FaultKind, ForgetTask};
use crate::spec::identity::ContainerId;
use crate::spec::owner::Owner;
use crate::spec::shim_group::ShimGroup;
use crate::telemetry::Counter;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bound of one removal: a killed process may take a while to be gone.
const REAP_WITHIN: Duration = Duration::from_secs(120);

/// Removes the orphans among `things` and notes in them what came of it.
pub(super) async fn sweep(
    shared: &Shared,
    links: &Links,
    configured: &Configured,
    scene: &Scene,
    things: &mut [Thing],
) {
    let mut by_container = BTreeMap::<String, Outcome>::new();
    for thing in things.iter().filter(|t| t.standing == Standing::Orphan) {
        let Some((container, created_at)) = reapable(scene, thing) else {
            continue;
        };
        if let Entry::Vacant(first) = by_container.entry(container) {
            let outcome = reap(links, first.key(), created_at).await;
            first.insert(outcome);
        }
    }
    for thing in things.iter_mut().filter(|t| t.standing == Standing::Orphan) {
        let of_container = reapable(scene, thing)
            .map(|(container, _)| container)
            .or_else(|| thing.container.clone());
        thing.outcome = match of_container.and_then(|id| by_container.get(&id).cloned()) {
            Some(Outcome::Removed) if is_out_of_reach(configured, thing) => {
                remove_snapshot(configured, &thing.name).await
            }
            Some(outcome) => outcome,
            None => remove_alone(shared, configured, scene, thing).await,
        };
        note(thing);
    }
}

/// The container whose removal takes this along, and when it was made; `None` with no time if it has no record.
fn reapable(scene: &Scene, thing: &Thing) -> Option<(String, Option<i64>)> {
    let made = |id: &str| scene.containers.iter().find(|c| c.id == id).map(|c| c.created_at);
    if let Some(id) = &thing.container {
        return Some((id.clone(), made(id)));
    }
    match thing.kind {
        ThingKind::Container => Some((thing.name.clone(), made(&thing.name))),
        ThingKind::Snapshot => thing.name.split_once('/').map(|(_, key)| (key.to_owned(), None)),
        ThingKind::RunDirectory | ThingKind::Fifo => scene
            .run_dirs
            .iter()
            .find(|dir| dir.path == thing.name || dir.fifos.contains(&thing.name))
            .map(|dir| (dir.container.clone(), None)),
        // Its removal ends what it has left, a shim too; one that is shared goes with the last of those that share it.
        ThingKind::Shim => scene.shims.iter().find(|shim| shim.name == thing.name).map(|shim| {
            let of = shim.members.last().unwrap_or(&shim.container);
            (of.clone(), made(of))
        }),
        ThingKind::Task
        | ThingKind::Lease
        | ThingKind::Mount
        | ThingKind::Cgroup
        | ThingKind::Image
        | ThingKind::Sandbox
        | ThingKind::Bundle => None,
    }
}

async fn reap(links: &Links, container: &str, created_at: Option<i64>) -> Outcome {
    let container = ContainerId::reported(container);
    let request = ReapContainer {
        container: container.clone(),
        created_at,
    };
    match ask_until(&*links.reap_container, request, Cx::current(), Some(REAP_WITHIN)).await {
        Ok(Ok(Reaped::Removed)) => {
            // At most once per container; a stream that is gone knows nothing of it either.
            links.forget_task.offer(ForgetTask { container }, Cx::current());
            Outcome::Removed
        }
        Ok(Ok(Reaped::Claimed)) => Outcome::Claimed,
        Ok(Err(e)) => Outcome::Failed(e.to_string()),
        Err(e) => Outcome::Failed(e.to_string()),
    }
}

/// The factory removes the snapshot that the record or the configuration names; one without a record in another snapshotter
/// is still there. No start has made it meanwhile: starts use the configured one.
fn is_out_of_reach(configured: &Configured, thing: &Thing) -> bool {
    let other = |name: &str| {
        name.split_once('/')
            .is_some_and(|(s, _)| s != configured.settings.snapshotter)
    };
    thing.kind == ThingKind::Snapshot && thing.container.is_none() && other(&thing.name)
}

async fn remove_snapshot(configured: &Configured, name: &str) -> Outcome {
    let Some((snapshotter, key)) = name.split_once('/') else {
        return Outcome::Kept;
    };
    match configured.gateway.remove_snapshot(snapshotter, key).await {
        Ok(_) => Outcome::Removed,
        Err(fault) => Outcome::Failed(fault.to_string()),
    }
}

/// What belongs to no container.
async fn remove_alone(shared: &Shared, configured: &Configured, scene: &Scene, thing: &Thing) -> Outcome {
    match thing.kind {
        ThingKind::Lease => match configured.gateway.delete_lease(&thing.name).await {
            Ok(_) => Outcome::Removed,
            Err(fault) => Outcome::Failed(fault.to_string()),
        },
        ThingKind::Sandbox => {
            let gone = configured.gateway.delete_sandbox(&thing.name).await;
            if let Some(kin) = ShimGroup::kin_of_sandbox(&thing.name) {
                // The next container that needs it makes it again.
                shared.groups.note_record(kin, Record::Unknown);
            }
            match gone {
                Ok(_) => Outcome::Removed,
                Err(fault) => Outcome::Failed(fault.to_string()),
            }
        }
        ThingKind::Cgroup => {
            let (version, path) = (shared.node.cgroups, PathBuf::from(&thing.name));
            let remove = move || cgroup::remove_empty(Path::new(node::CGROUP_ROOT), version, &path).map(|()| true);
            on_host(shared, remove).await
        }
        ThingKind::Bundle => remove_bundle(shared, configured, scene, thing).await,
        ThingKind::Container
        | ThingKind::Task
        | ThingKind::Snapshot
        | ThingKind::Shim
        | ThingKind::RunDirectory
        | ThingKind::Fifo
        | ThingKind::Mount
        // The image keeper's.
        | ThingKind::Image => Outcome::Kept,
    }
}

/// It is looked at once more: a start of the same container makes one anew.
async fn remove_bundle(shared: &Shared, configured: &Configured, scene: &Scene, thing: &Thing) -> Outcome {
    let Some(facts) = scene.bundles.iter().find(|bundle| bundle.path == thing.name) else {
        return Outcome::Kept;
    };
    let (path, namespace) = (PathBuf::from(&facts.path), configured.gateway.namespace().to_owned());
    let (container, grace) = (facts.container.clone(), scene.grace);
    on_host(shared, move || {
        bundles::remove_orphan(&path, &namespace, &container, grace)
    })
    .await
}

/// What comes of a removal that may block. False: somebody has it by now.
async fn on_host(shared: &Shared, remove: impl FnOnce() -> Result<bool, HostError> + Send + 'static) -> Outcome {
    match shared.io.spawn_blocking(remove).await {
        Ok(Ok(true)) => Outcome::Removed,
        Ok(Ok(false)) => Outcome::Claimed,
        Ok(Err(e)) => Outcome::Failed(e.to_string()),
        Err(e) => Outcome::Failed(e.to_string()),
    }
}

/// One line and one count for each.
fn note(thing: &Thing) {
    let (kind, name, owner, why) = (thing.kind.name(), &thing.name, &thing.owner, &thing.why);
    match &thing.outcome {
        Outcome::Removed => {
            Counter::OrphansRemoved.bump();
            tracing::info!(kind, name, owner, why, "orphan removed");
        }
        Outcome::Failed(error) => {
            Counter::OrphanFaults.bump();
            tracing::warn!(kind, name, owner, why, error, "orphan not removed");
        }
        Outcome::Claimed => tracing::info!(kind, name, owner, "orphan was claimed meanwhile"),
        Outcome::Kept => {}
    }
}

/// Writes into the labels of what is supervised here that it is ours: the process that made it may be gone, and others who
/// look at it must see one that lives. Once per container and process.
pub(super) async fn claim(shared: &Shared, configured: &Configured, scene: &Scene) {
    for container in scene.containers.iter().filter(|c| scene.claimed.contains(&c.id)) {
        let known = &container.held.owner;
        // A process alone would say that the task ends with it: where the allocation is not known, nothing is said.
        if known.plugin.as_ref() == Some(&scene.me) || *known == Owner::default() {
            continue;
        }
        // What it was seen from is renewed with it.
        let owner = match &known.alloc_dir {
            Some(dir) => tokio::task::block_in_place(|| shared.owner_of(dir)),
            None => Owner {
                plugin: Some(scene.me.clone()),
                ..known.clone()
            },
        };
        match configured
            .gateway
            .update_container_labels(&container.id, &owner.labels())
            .await
        {
            Err(fault) if fault.kind != FaultKind::NotFound => {
                tracing::warn!(container.id = container.id, error = %fault, "the owner of a container was not noted");
            }
            _ => {}
        }
    }
}

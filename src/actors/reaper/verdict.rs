//! From what was seen to what is thought of it. Pure: ages, lives and directories were looked at before.
//!
//! The rule for a container: it is an orphan if it bears our labels, is older than the grace period, no supervisor here and
//! no living process elsewhere looks after it, and either its allocation's directory is gone from an agent's directory that
//! is there, or its agent is the one that this plugin serves and has not asked for it for the whole grace period. Everything
//! else that belongs to a container has the standing of the container.

use super::bundle::{BundleFacts, bundle};
use super::sharing::{SandboxFacts, sandbox, shared_shim};
use crate::messages::audit::{Outcome, Standing, Thing, ThingKind};
use crate::spec::go::format_duration;
use crate::spec::image_gc::Origin;
use crate::spec::owner::{LOOK_LEASE, Owner, PULL_LEASE, ProcessId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

/// What is seen of an allocation's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AllocSight {
    /// No allocation is known.
    None,
    /// It is there.
    There,
    /// It is not, and the agent's directory, in which it would have to be, is.
    Gone,
    /// The agent's directory is not there, or is another one than it was: nothing can be told.
    Unseen,
}

/// An owner, looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) owner: Owner,
    /// Whether the process that made it, or looked after it last, runs.
    pub(super) lives: bool,
    /// Whether the agent's process that launched that one runs.
    pub(super) launcher_lives: bool,
    pub(super) alloc: AllocSight,
}

#[derive(Debug, Clone)]
pub(super) struct ContainerFacts {
    pub(super) id: String,
    /// Whether it bears labels of ours, in a version that we know.
    pub(super) ours: bool,
    pub(super) held: Held,
    pub(super) created_at: i64,
    /// It is a run of the health probe's, which looks after it itself.
    pub(super) canary: bool,
    /// Its pipes are those of a client of containerd: a task of the Go driver that was adopted.
    pub(super) adopted: bool,
}

#[derive(Debug, Clone)]
pub(super) struct SnapshotFacts {
    pub(super) snapshotter: String,
    pub(super) key: String,
    /// The container that names it.
    pub(super) container: Option<String>,
    /// By its labels, `None` without any of ours.
    pub(super) held: Option<Held>,
    pub(super) created_at: i64,
}

#[derive(Debug, Clone)]
pub(super) struct LeaseFacts {
    pub(super) id: String,
    pub(super) expires_at: Option<i64>,
    pub(super) created_at: i64,
    /// What it is of and who made it, in words.
    pub(super) owner: String,
    /// The process that made it is known, and has ended.
    pub(super) abandoned: bool,
}

#[derive(Debug, Clone)]
pub(super) struct RunDirFacts {
    pub(super) container: String,
    pub(super) path: String,
    /// `None` if no file tells.
    pub(super) held: Option<Held>,
    /// Whether the file names this containerd and this namespace.
    pub(super) here: bool,
    pub(super) changed_at: i64,
    pub(super) fifos: Vec<String>,
}

#[derive(Debug, Clone)]
pub(super) struct CgroupFacts {
    pub(super) container: String,
    pub(super) path: String,
    pub(super) changed_at: i64,
    pub(super) processes: usize,
}

#[derive(Debug, Clone)]
pub(super) struct ShimFacts {
    /// The container that it was started for.
    pub(super) container: String,
    /// The containers that share it, by their labels; none for one that is not shared.
    pub(super) members: Vec<String>,
    /// Its process id.
    pub(super) name: String,
    /// Whether the container is named as those of tasks are.
    pub(super) ours: bool,
    pub(super) started_at: i64,
}

/// A mount, or a pipe of a task's output.
#[derive(Debug, Clone)]
pub(super) struct HostFacts {
    pub(super) kind: ThingKind,
    pub(super) container: String,
    pub(super) name: String,
}

/// An image.
#[derive(Debug, Clone)]
pub(super) struct ImageFacts {
    pub(super) name: String,
    /// How this driver brought it here, if it did.
    pub(super) origin: Option<Origin>,
    pub(super) idle_since: Option<i64>,
    /// A container that was made from it.
    pub(super) user: Option<String>,
}

/// All that was seen.
#[derive(Debug, Clone)]
pub(super) struct Scene {
    /// Nanoseconds since the Unix epoch.
    pub(super) now: i64,
    pub(super) grace: Duration,
    pub(super) me: ProcessId,
    /// The process that has launched this one, if no other of us that ran then was launched by it.
    pub(super) launcher: Option<ProcessId>,
    /// The process that has launched this one, in any case.
    pub(super) parent: Option<ProcessId>,
    /// For how long this process has run.
    pub(super) running: Duration,
    /// Agents whose tasks this process has, and for how long it has known that.
    pub(super) agents: BTreeMap<PathBuf, Duration>,
    /// Containers of the supervisors here.
    pub(super) claimed: BTreeSet<String>,
    pub(super) containers: Vec<ContainerFacts>,
    pub(super) tasks: Vec<String>,
    pub(super) snapshots: Vec<SnapshotFacts>,
    pub(super) leases: Vec<LeaseFacts>,
    pub(super) run_dirs: Vec<RunDirFacts>,
    pub(super) shims: Vec<ShimFacts>,
    pub(super) on_host: Vec<HostFacts>,
    pub(super) cgroups: Vec<CgroupFacts>,
    pub(super) images: Vec<ImageFacts>,
    pub(super) sandboxes: Vec<SandboxFacts>,
    pub(super) bundles: Vec<BundleFacts>,
    /// Containers of other containerds and namespaces, as far as the host shows them.
    pub(super) elsewhere: BTreeSet<String>,
}

pub(super) type Opinion = (Standing, String);

pub(super) fn opinion(standing: Standing, why: impl Into<String>) -> Opinion {
    (standing, why.into())
}

/// See the module. Ordered by kind and name.
pub(super) fn judge(scene: &Scene) -> Vec<Thing> {
    let containers: BTreeMap<&str, (&ContainerFacts, Opinion)> = scene
        .containers
        .iter()
        .map(|c| (c.id.as_str(), (c, container(scene, c))))
        .collect();
    let mut things = Vec::new();
    // A thing that goes with a container has its opinion; one without has its own.
    let mut put = |kind: ThingKind, name: &str, of: Option<&str>, own: &dyn Fn() -> (String, Opinion)| {
        let (container, owner, (standing, why)) = match of.and_then(|id| containers.get_key_value(id)) {
            Some((id, (facts, (standing, why)))) => (
                Some((*id).to_owned()),
                owner_text(&facts.held.owner),
                (*standing, format!("of container {id}: {why}")),
            ),
            None => {
                let (owner, opinion) = own();
                (None, owner, opinion)
            }
        };
        things.push(Thing {
            kind,
            name: name.to_owned(),
            container,
            owner,
            standing,
            why,
            outcome: Outcome::Kept,
        });
    };
    for (id, (facts, opinion)) in &containers {
        put(ThingKind::Container, id, None, &|| {
            (owner_text(&facts.held.owner), opinion.clone())
        });
    }
    for id in &scene.tasks {
        put(ThingKind::Task, id, Some(id), &|| {
            bare(opinion(Standing::Leftover, "it has no container"))
        });
    }
    for s in &scene.snapshots {
        let name = format!("{}/{}", s.snapshotter, s.key);
        put(ThingKind::Snapshot, &name, s.container.as_deref(), &|| {
            snapshot(scene, s)
        });
    }
    for lease in &scene.leases {
        put(ThingKind::Lease, &lease.id, None, &|| {
            (lease.owner.clone(), self::lease(scene, lease))
        });
    }
    let gone = || bare(opinion(Standing::Leftover, "its container is gone"));
    for shim in &scene.shims {
        if !shim.members.is_empty() {
            let of: Vec<_> = shim
                .members
                .iter()
                .filter_map(|id| containers.get(id.as_str()))
                .collect();
            put(ThingKind::Shim, &shim.name, None, &|| shared_shim(&of));
            continue;
        }
        put(ThingKind::Shim, &shim.name, Some(&shim.container), &|| {
            bare(self::shim(scene, shim))
        });
    }
    for dir in &scene.run_dirs {
        // One that names another containerd is not of the container that has the same name here.
        let of = Some(dir.container.as_str()).filter(|_| dir.here || dir.held.is_none());
        put(ThingKind::RunDirectory, &dir.path, of, &|| run_dir(scene, dir));
        for fifo in &dir.fifos {
            put(ThingKind::Fifo, fifo, of, &|| run_dir(scene, dir));
        }
    }
    for facts in &scene.on_host {
        put(facts.kind, &facts.name, Some(&facts.container), &gone);
    }
    for cgroup in &scene.cgroups {
        put(ThingKind::Cgroup, &cgroup.path, Some(&cgroup.container), &|| {
            bare(self::cgroup(scene, cgroup))
        });
    }
    for facts in &scene.images {
        put(ThingKind::Image, &facts.name, None, &|| image(scene, facts));
    }
    for facts in &scene.sandboxes {
        put(ThingKind::Sandbox, &facts.id, None, &|| sandbox(scene, facts));
    }
    for facts in &scene.bundles {
        put(ThingKind::Bundle, &facts.path, Some(&facts.container), &|| {
            bundle(scene, facts)
        });
    }
    things.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    things
}

pub(super) fn bare(opinion: Opinion) -> (String, Opinion) {
    (String::new(), opinion)
}

/// Whose it is, in words.
pub(super) fn owner_text(owner: &Owner) -> String {
    match (&owner.alloc_dir, &owner.plugin) {
        (Some(dir), _) => dir.display().to_string(),
        (None, Some(plugin)) => format!("process {}", plugin.pid),
        (None, None) => String::new(),
    }
}

pub(super) fn is_young(scene: &Scene, made_at: i64) -> bool {
    let grace = i64::try_from(scene.grace.as_nanos()).unwrap_or(i64::MAX);
    scene.now.saturating_sub(made_at) < grace
}

pub(super) fn young(scene: &Scene) -> Opinion {
    let why = format!("younger than the grace period of {}", format_duration(scene.grace));
    opinion(Standing::InUse, why)
}

/// What another process that runs says by running.
pub(super) fn of_another(scene: &Scene, held: &Held) -> Option<Opinion> {
    let other = held.owner.plugin.as_ref().filter(|p| held.lives && **p != scene.me)?;
    let why = format!("process {} looks after it", other.pid);
    Some(opinion(Standing::InUse, why))
}

/// For how long the agent that this process serves is known to be the container's: by a task that it has here, or, until
/// there is one, by having launched a process before this one that made the container.
fn served(scene: &Scene, held: &Held) -> Option<Duration> {
    // Made by a plugin of a process that runs and is not ours: an agent that was started anew, while this plugin was left behind
    // by the one before.
    if held.launcher_lives && held.owner.launcher != scene.parent {
        return None;
    }
    let agent = held.owner.agent()?;
    if let Some(since) = scene.agents.get(agent) {
        return Some(*since);
    }
    let is_heir = scene.agents.is_empty()
        && scene.launcher.is_some()
        && held.owner.launcher == scene.launcher
        && held.owner.plugin.as_ref().is_some_and(|p| p.start < scene.me.start);
    is_heir.then_some(scene.running)
}

fn container(scene: &Scene, c: &ContainerFacts) -> Opinion {
    if !c.ours {
        return opinion(Standing::Foreign, "it was not made by this driver");
    }
    if scene.claimed.contains(&c.id) {
        return opinion(Standing::InUse, "its task is supervised");
    }
    if is_young(scene, c.created_at) {
        return young(scene);
    }
    if c.canary && c.held.lives {
        return opinion(Standing::InUse, "a canary of the health probe");
    }
    if let Some(opinion) = of_another(scene, &c.held) {
        return opinion;
    }
    match (c.held.alloc, served(scene, &c.held)) {
        (AllocSight::Gone, _) => opinion(Standing::Orphan, "its allocation is gone"),
        (AllocSight::There, Some(since)) if since >= scene.grace => {
            let why = format!("its agent has not asked for it within {}", format_duration(scene.grace));
            opinion(Standing::Orphan, why)
        }
        (AllocSight::There, Some(_)) => opinion(Standing::Waiting, "its agent may still ask for it"),
        (AllocSight::There, None) => opinion(
            Standing::Waiting,
            "its allocation is there, and its agent has no task here yet",
        ),
        (AllocSight::Unseen, _) => opinion(
            Standing::Waiting,
            "the directory of its agent is not there, or is another one now",
        ),
        // Of the command line, or of a task without an allocation: the process is all that it has.
        // Whether it lives cannot be seen from here.
        (AllocSight::None, _)
            if c.held
                .owner
                .plugin
                .as_ref()
                .is_some_and(|p| p.is_out_of_sight(&scene.me)) =>
        {
            opinion(
                Standing::Waiting,
                "the process that made it is in another process namespace",
            )
        }
        (AllocSight::None, _) if c.held.owner.plugin.is_some() => {
            opinion(Standing::Orphan, "the process that made it has ended or forgotten it")
        }
        (AllocSight::None, _) if c.adopted => {
            opinion(Standing::Waiting, "adopted from the Go driver; its agent is not known")
        }
        (AllocSight::None, _) => opinion(Standing::Waiting, "its agent is not known"),
    }
}

fn snapshot(scene: &Scene, s: &SnapshotFacts) -> (String, Opinion) {
    let Some(held) = &s.held else {
        return bare(opinion(
            Standing::Foreign,
            "no container has it and it has no label of this driver",
        ));
    };
    (owner_text(&held.owner), without_container(scene, held, s.created_at))
}

fn run_dir(scene: &Scene, dir: &RunDirFacts) -> (String, Opinion) {
    match &dir.held {
        None => bare(opinion(Standing::Foreign, "nothing tells whose it is")),
        Some(held) if !dir.here => (
            owner_text(&held.owner),
            opinion(Standing::Foreign, "of another containerd or another namespace"),
        ),
        Some(held) => (owner_text(&held.owner), without_container(scene, held, dir.changed_at)),
    }
}

/// The record of a container is the first to be made and the last to be removed, so what bears our name and has no
/// container has lost it.
fn without_container(scene: &Scene, held: &Held, made_at: i64) -> Opinion {
    if is_young(scene, made_at) {
        return young(scene);
    }
    of_another(scene, held).unwrap_or_else(|| opinion(Standing::Orphan, "its container is gone"))
}

fn lease(scene: &Scene, lease: &LeaseFacts) -> Opinion {
    let of_look = lease.id.starts_with(LOOK_LEASE);
    if !of_look && !lease.id.starts_with(PULL_LEASE) {
        return opinion(Standing::Foreign, "it was not made by this driver");
    }
    match lease.expires_at {
        // What a pull has fetched is there for the next one, if that comes; a look is made anew.
        Some(_) if lease.abandoned && !is_young(scene, lease.created_at) => opinion(
            Standing::Orphan,
            "of a process that has ended, and nobody has gone on with the pull",
        ),
        Some(_) if of_look && lease.abandoned => {
            opinion(Standing::Orphan, "of a look into an image by a process that has ended")
        }
        Some(at) if at <= scene.now => opinion(Standing::Orphan, "it has expired"),
        Some(_) => opinion(
            Standing::InUse,
            "of a pull or a look into an image; containerd may remove it when it expires",
        ),
        // Ours have an end from the beginning.
        None => opinion(Standing::Leftover, "it has the name of ours and no end"),
    }
}

/// One without a container. containerd has none either: it lists no task that has no container.
fn shim(scene: &Scene, shim: &ShimFacts) -> Opinion {
    if !shim.ours {
        return opinion(Standing::Leftover, "its container is gone");
    }
    if is_young(scene, shim.started_at) {
        return young(scene);
    }
    // The task is told by itself; whoever removes it ends the shim.
    if scene.tasks.contains(&shim.container) {
        return opinion(Standing::Leftover, "its task has no container");
    }
    opinion(
        Standing::Orphan,
        "its container is gone, and containerd has forgotten it",
    )
}

fn cgroup(scene: &Scene, cgroup: &CgroupFacts) -> Opinion {
    if scene.elsewhere.contains(&cgroup.container) {
        return opinion(Standing::Foreign, "of another containerd or another namespace");
    }
    if is_young(scene, cgroup.changed_at) {
        return young(scene);
    }
    match cgroup.processes {
        0 => opinion(Standing::Orphan, "empty, and its container is gone"),
        n => opinion(
            Standing::Leftover,
            format!("{n} processes are in it and its container is gone"),
        ),
    }
}

/// Whose it is, and why it stays. What is to go is the image keeper's to say, which knows the settings of its plugin.
fn image(scene: &Scene, image: &ImageFacts) -> (String, Opinion) {
    let used = image
        .user
        .as_ref()
        .map(|user| format!("container {user} was made from it"));
    let Some(origin) = image.origin else {
        let why = match used {
            Some(used) => format!("it was not brought here by this driver; {used}"),
            None => "it was not brought here by this driver".to_owned(),
        };
        return bare(opinion(Standing::Foreign, why));
    };
    let owner = format!("{} by this driver", origin.name());
    if let Some(used) = used {
        return (owner, opinion(Standing::InUse, used));
    }
    let why = match image
        .idle_since
        .and_then(|at| u64::try_from(scene.now.saturating_sub(at)).ok())
    {
        Some(idle) => {
            let idle = Duration::from_secs(idle / 1_000_000_000);
            format!(
                "without a container for {}; image_gc of a plugin says how long it stays",
                format_duration(idle)
            )
        }
        None => "without a container; image_gc of a plugin says how long it stays".to_owned(),
    };
    (owner, opinion(Standing::Waiting, why))
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "verdict_shim_tests.rs"]
mod shim_tests;

#[cfg(test)]
#[path = "verdict_lease_tests.rs"]
mod lease_tests;

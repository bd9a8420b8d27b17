//! What there is: containerd's records of the namespace, and what the host shows. Looked at, not judged.
//!
//! Containers are listed last and the supervisors after them: a record is the first to be made and the last to go, so what
//! was seen before has its record, and a start that began meanwhile has its supervisor.

use super::bundle::BundleFacts;
use super::sharing::SandboxFacts;
use super::verdict::{
    AllocSight, CgroupFacts, ContainerFacts, Held, HostFacts, ImageFacts, LeaseFacts, RunDirFacts, Scene, ShimFacts,
    SnapshotFacts,
};
use crate::actors::shared::{Configured, Links, Shared, unix_nanos};
use crate::containerd::{
    ContainerRecord, Gateway, ImageRecord, Labels, LeaseRecord, SandboxRecord, SnapshotKind, SnapshotRecord, Stdio,
};
use crate::host::bundles::{self, Bundle};
use crate::host::leftovers::{self, BundleMount, CgroupDir, RunDir};
use crate::host::node::CgroupVersion;
use crate::host::shims::{self, Shim};
use crate::host::{HostError, liveness, node};
use crate::messages::audit::{AuditError, ThingKind};
use crate::messages::runtime::{ContainerdFault, TaskView};
use crate::spec::canary::is_canary;
use crate::spec::identity::{ContainerId, TaskId, is_by_convention};
use crate::spec::image_gc::{self, Origin};
use crate::spec::labels::{KEY_ALLOC_ID, KEY_PIPES, KEY_TASK_ID, Marks};
use crate::spec::owner::{KEY_PULLED, Owner, ProcessId};
use crate::spec::shim_group::{KEY_SHIM_GROUP, ShimGroup};
use futures_util::{StreamExt as _, stream};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::block_in_place;

/// What the host shows, read on a thread that may block.
struct Host {
    run_dirs: Vec<RunDir>,
    shims: Vec<Shim>,
    bundles: Vec<Bundle>,
    mounts: Vec<BundleMount>,
    cgroups: Vec<CgroupDir>,
}

/// Tasks that containerd is asked for at once.
const ASKED_AT_ONCE: usize = 16;

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// What may be left over.
    Remains,
    /// Also what is there only as long as its task runs, and what the kernel removes with it.
    All,
}

/// Looks at everything in the namespace of `configured`.
pub(super) async fn take(
    shared: &Arc<Shared>,
    links: &Links,
    configured: &Configured,
    grace: Duration,
    depth: Depth,
) -> Result<Scene, AuditError> {
    let gateway = &configured.gateway;
    // One that hangs is known for it within moments; a listing would be waited for.
    gateway.serving().await?;
    let mut host = {
        let (shared, gateway) = (Arc::clone(shared), gateway.clone());
        let (run_dir, cgroups) = (shared.run_dir.clone(), shared.node.cgroups);
        let read = shared.io.clone().spawn_blocking(move || -> Result<Host, HostError> {
            let shims = shims::all();
            Ok(Host {
                run_dirs: leftovers::run_dirs(&run_dir)?,
                bundles: bundles(&shared, &gateway, &shims),
                shims,
                mounts: leftovers::bundle_mounts(),
                cgroups: leftovers::cgroups(Path::new(node::CGROUP_ROOT), cgroups),
            })
        });
        read.await
            .map_err(|e| AuditError::Host(e.to_string()))?
            .map_err(|e| AuditError::Host(e.to_string()))?
    };
    let tasks = gateway.list_tasks().await?;
    let leases = gateway.list_leases().await?;
    let mut snapshots = Vec::new();
    for snapshotter in snapshotters(configured).await? {
        let found = gateway.list_snapshots(&snapshotter).await?.into_iter();
        // Layers are containerd's to collect.
        let live = found.filter(|s| s.kind != SnapshotKind::Committed);
        snapshots.extend(live.map(|s| (snapshotter.clone(), s)));
    }
    let images = gateway.list_images().await?;
    let sandboxes = gateway.list_sandboxes().await?;
    let pipes = match depth {
        Depth::Remains => Vec::new(),
        Depth::All => pipes(gateway, &tasks, &shared.run_dir).await,
    };
    let records = gateway.glean_containers(&[], |record| Some(with_owner(record))).await?;
    let claimed: BTreeSet<String> = links
        .tasks
        .containers()
        .into_iter()
        .map(|id| id.as_str().to_owned())
        .collect();
    let shared = Arc::clone(shared);
    let (address, namespace) = (gateway.socket().to_owned(), gateway.namespace().to_owned());
    let work = move || {
        if depth == Depth::All {
            host.mounts.extend(roots(&tasks, &host.mounts, &namespace));
            host.cgroups.extend(cgroups(&tasks, &host.cgroups, shared.node.cgroups));
        }
        let seen = Seen {
            host,
            tasks: tasks.into_iter().map(|(id, _)| id.as_str().to_owned()).collect(),
            leases,
            snapshots,
            images,
            sandboxes,
            pipes,
            records,
            claimed,
            address,
            namespace,
        };
        seen.scene(&shared, grace)
    };
    // Directories of allocations are looked at, perhaps on a slow disk.
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| AuditError::Host(e.to_string()))
}

/// The bundles in this namespace, where those of shims are or were. Read before the records: each of those is made first.
fn bundles(shared: &Shared, gateway: &Gateway, shims: &[Shim]) -> Vec<Bundle> {
    let (socket, namespace) = (gateway.socket(), gateway.namespace());
    let here = shims.iter().filter(|shim| shim.is_of(socket, namespace));
    for dir in here.filter_map(Shim::bundles).collect::<BTreeSet<_>>() {
        shared.bundles.note(Path::new(socket), namespace, &dir);
    }
    bundles::all_in(&shared.bundles.of(Path::new(socket), namespace))
}

/// The named pipes that the shims of our tasks write into: those of the host, which reads the other ends. Those in run
/// directories are found there; those of a task whose shim does not answer are not listed.
async fn pipes(gateway: &Gateway, tasks: &[(ContainerId, TaskView)], run_dir: &Path) -> Vec<HostFacts> {
    let ours: Vec<ContainerId> = tasks.iter().map(|(id, _)| id.clone()).collect();
    let ours = ours.into_iter().filter(|id| is_by_convention(id.as_str()));
    let asked = ours.map(|id| {
        let gateway = gateway.clone();
        async move {
            let stdio = gateway.task_stdio(id.as_str()).await.unwrap_or_else(|fault| {
                tracing::warn!(container.id = %id, error = %fault, "the pipes of a task are not known");
                None
            });
            (id, stdio)
        }
    });
    let told: Vec<(ContainerId, Option<Stdio>)> = stream::iter(asked).buffered(ASKED_AT_ONCE).collect().await;
    let mut pipes = Vec::new();
    for (id, stdio) in told {
        let paths = stdio
            .into_iter()
            .flat_map(|stdio| [stdio.stdin, stdio.stdout, stdio.stderr]);
        let others = paths.flatten().filter(|path| !path.starts_with(run_dir));
        let named: BTreeSet<PathBuf> = others
            .filter(|path| block_in_place(|| leftovers::is_fifo(path)))
            .collect();
        pipes.extend(named.iter().map(|path| HostFacts {
            kind: ThingKind::Fifo,
            name: text(path),
            container: id.as_str().to_owned(),
        }));
    }
    pipes
}

/// The processes of tasks that are processes of this kernel.
fn processes(tasks: &[(ContainerId, TaskView)]) -> impl Iterator<Item = (&ContainerId, u32)> {
    tasks.iter().filter_map(|(id, view)| match view {
        TaskView::Created { pid } | TaskView::Running { pid } => {
            shims::starts_processes_here(*pid).then_some((id, *pid))
        }
        TaskView::Stopped(_) => None,
    })
}

/// The cgroups of tasks that are not where those of ours usually are: in Nomad's scope, in a slice of systemd's, or where a task
/// has said.
fn cgroups(tasks: &[(ContainerId, TaskView)], known: &[CgroupDir], version: CgroupVersion) -> Vec<CgroupDir> {
    let known: BTreeSet<&str> = known.iter().map(|cgroup| cgroup.container.as_str()).collect();
    let others = processes(tasks).filter(|(id, _)| !known.contains(id.as_str()));
    others
        .filter_map(|(id, pid)| leftovers::cgroup_of(pid, id.as_str(), version))
        .collect()
}

/// The roots of tasks that are mounted in the tasks' own mount namespaces alone ([`shims::unmount_root`]), as the host reaches
/// them: what keeps their snapshots in use.
fn roots(tasks: &[(ContainerId, TaskView)], on_host: &[BundleMount], namespace: &str) -> Vec<BundleMount> {
    let known: BTreeSet<&str> = on_host
        .iter()
        .filter(|mount| mount.namespace == namespace)
        .map(|mount| mount.container.as_str())
        .collect();
    let unknown = processes(tasks).filter(|(id, _)| !known.contains(id.as_str()));
    let root = |(id, pid): (&ContainerId, u32)| BundleMount {
        target: format!("/proc/{pid}/root").into(),
        namespace: namespace.to_owned(),
        container: id.as_str().to_owned(),
    };
    unknown.map(root).collect()
}

/// The snapshotters that there are; the configured one in any case, so that a fault of it is told.
async fn snapshotters(configured: &Configured) -> Result<BTreeSet<String>, ContainerdFault> {
    let mut all: BTreeSet<String> = configured.gateway.abilities().await?.snapshotters.into_iter().collect();
    all.insert(configured.settings.snapshotter.clone());
    Ok(all)
}

struct Seen {
    host: Host,
    tasks: Vec<String>,
    leases: Vec<LeaseRecord>,
    snapshots: Vec<(String, SnapshotRecord)>,
    images: Vec<ImageRecord>,
    sandboxes: Vec<SandboxRecord>,
    /// Of the output of tasks.
    pipes: Vec<HostFacts>,
    /// Without their specifications.
    records: Vec<(ContainerRecord, Owner)>,
    claimed: BTreeSet<String>,
    address: String,
    namespace: String,
}

impl Seen {
    fn scene(self, shared: &Shared, grace: Duration) -> Scene {
        let mut sight = Sight::default();
        let snapshot_of: HashMap<(String, String), String> = self
            .records
            .iter()
            .map(|(r, _)| ((r.snapshotter.clone(), r.snapshot_key.clone()), r.id.clone()))
            .collect();
        let users: HashMap<String, String> = self
            .records
            .iter()
            .map(|(r, _)| (r.image.clone(), r.id.clone()))
            .collect();
        let (mut members, mut kin) = (HashMap::<String, Vec<String>>::new(), HashMap::<String, usize>::new());
        for (record, _) in &self.records {
            let label = record.labels.get(KEY_SHIM_GROUP);
            if let Some(group) = label.and_then(|text| ShimGroup::parse(text)) {
                *kin.entry(group.kin).or_default() += 1;
                members.entry(group.leader).or_default().push(record.id.clone());
            }
        }
        let images = self.images.into_iter().map(|image| ImageFacts {
            origin: Origin::of(&image.name, &image.labels),
            idle_since: image_gc::idle_since(&image.labels),
            user: users.get(&image.name).cloned(),
            name: image.name,
        });
        let images = images.collect();
        let mut owners = self.records;
        // Whose tasks we have, also if they were recovered and not started here.
        for (record, owner) in &mut owners {
            if self.claimed.contains(&record.id)
                && let Some(agent) = owner.agent().map(Path::to_owned)
            {
                shared.served.note(&agent);
                // What the agent of a living task sees is what we see.
                if owner.agent_inode.is_none() {
                    owner.agent_inode = sight.inode(&agent);
                }
            }
        }
        let agents = shared.served.since();
        let containers = owners
            .into_iter()
            .map(|(record, owner)| ContainerFacts {
                ours: marks(&record.labels).is_some(),
                canary: record
                    .labels
                    .get(KEY_TASK_ID)
                    .is_some_and(|id| is_canary(&TaskId::new(id))),
                adopted: record.labels.contains_key(KEY_PIPES),
                created_at: record.created_at,
                id: record.id,
                held: sight.held(owner, &agents),
            })
            .collect();
        let snapshots = self
            .snapshots
            .into_iter()
            .map(|(snapshotter, s)| {
                let owner = Owner::read(&s.labels);
                SnapshotFacts {
                    container: snapshot_of.get(&(snapshotter.clone(), s.name.clone())).cloned(),
                    held: (owner != Owner::default()).then(|| sight.held(owner, &agents)),
                    created_at: s.created_at,
                    key: s.name,
                    snapshotter,
                }
            })
            .collect();
        let here = |address: &str, namespace: &str| {
            address.trim_end_matches('/') == self.address.trim_end_matches('/') && namespace == self.namespace
        };
        let mut elsewhere = BTreeSet::new();
        let (mut run_dirs, mut shims, mut on_host) = (Vec::new(), Vec::new(), self.pipes);
        for dir in self.host.run_dirs {
            let is_here = dir.owner.as_ref().is_some_and(|o| here(&o.address, &o.namespace));
            if dir.owner.is_some() && !is_here {
                elsewhere.insert(dir.container.clone());
            }
            run_dirs.push(RunDirFacts {
                container: dir.container,
                path: text(&dir.path),
                held: dir.owner.map(|o| sight.held(o.owner, &agents)),
                here: is_here,
                changed_at: dir.changed_at,
                fifos: dir.fifos.iter().map(|fifo| text(fifo)).collect(),
            });
        }
        for shim in self.host.shims {
            if !shim.is_of(&self.address, &self.namespace) {
                elsewhere.insert(shim.container);
                continue;
            }
            // One that has ended meanwhile is none.
            let Some(started_at) = shim.started_at() else { continue };
            shims.push(ShimFacts {
                name: shim.pid.to_string(),
                ours: is_by_convention(&shim.container),
                members: members.remove(&shim.container).unwrap_or_default(),
                container: shim.container,
                started_at,
            });
        }
        for mount in self.host.mounts {
            if mount.namespace != self.namespace || elsewhere.contains(&mount.container) {
                continue;
            }
            on_host.push(HostFacts {
                kind: ThingKind::Mount,
                name: text(&mount.target),
                container: mount.container,
            });
        }
        let sandboxes = self.sandboxes.into_iter().map(|sandbox| {
            let of = ShimGroup::kin_of_sandbox(&sandbox.id);
            SandboxFacts {
                held: of.map(|_| sight.held(Owner::read(&sandbox.labels), &agents)),
                members: of.and_then(|of| kin.get(of).copied()).unwrap_or_default(),
                created_at: sandbox.created_at,
                id: sandbox.id,
            }
        });
        let sandboxes = sandboxes.collect();
        let leases = self.leases.into_iter().map(|lease| LeaseFacts {
            expires_at: lease.expires_at(),
            created_at: lease.created_at,
            owner: lease_owner(&lease.labels),
            abandoned: Owner::read(&lease.labels)
                .plugin
                .is_some_and(|by| !by.is_out_of_sight(&shared.process) && !sight.lives(&by)),
            id: lease.id,
        });
        let bundles = self.host.bundles.into_iter().map(|bundle| BundleFacts {
            path: text(&bundle.path),
            container: bundle.container,
            changed_at: bundle.changed_at,
        });
        let cgroups = self.host.cgroups.into_iter();
        let cgroups = cgroups.map(|c| CgroupFacts {
            path: text(&c.path),
            changed_at: c.changed_at,
            processes: c.pids.len(),
            container: c.container,
        });
        Scene {
            now: unix_nanos(),
            grace,
            me: shared.process.clone(),
            launcher: shared.launcher.clone(),
            parent: shared.parent.clone(),
            running: shared.served.running(),
            agents,
            claimed: self.claimed,
            containers,
            tasks: self.tasks,
            snapshots,
            leases: leases.collect(),
            run_dirs,
            shims,
            on_host,
            cgroups: cgroups.collect(),
            images,
            sandboxes,
            bundles: bundles.collect(),
            elsewhere,
        }
    }
}

fn lease_owner(labels: &Labels) -> String {
    let process = Owner::read(labels).plugin.map(|by| format!("process {}", by.pid));
    let image = labels.get(KEY_PULLED).map(|image| format!("pull of {image}"));
    image.into_iter().chain(process).collect::<Vec<_>>().join(", ")
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn marks(labels: &Labels) -> Option<Marks> {
    Marks::read(&labels.clone().into_iter().collect())
}

fn with_owner(record: ContainerRecord) -> (ContainerRecord, Owner) {
    let owner = Owner::read(&record.labels);
    let alloc = record.labels.get(KEY_ALLOC_ID).map(String::as_str).unwrap_or_default();
    let owner = if owner != Owner::default() || alloc.is_empty() || marks(&record.labels).is_none() {
        owner
    } else {
        // A specification that is none shows no mounts.
        let spec = serde_json::from_slice(&record.spec_json).unwrap_or_default();
        owner.or_by_mounts(&spec, alloc)
    };
    let record = ContainerRecord {
        spec_json: Vec::new(),
        ..record
    };
    (record, owner)
}

/// Looks at each directory and each process once.
#[derive(Default)]
struct Sight {
    inodes: HashMap<PathBuf, Option<u64>>,
    lives: HashMap<String, bool>,
    /// [`liveness::place`], once it was asked for.
    here: Option<Option<String>>,
}

impl Sight {
    fn held(&mut self, owner: Owner, agents: &BTreeMap<PathBuf, Duration>) -> Held {
        let lives = owner.plugin.as_ref().is_some_and(|process| self.lives(process));
        let launcher_lives = owner.launcher.as_ref().is_some_and(|process| self.lives(process));
        Held {
            alloc: self.alloc(&owner, agents),
            lives,
            launcher_lives,
            owner,
        }
    }

    fn lives(&mut self, process: &ProcessId) -> bool {
        let known = self.lives.entry(process.text());
        *known.or_insert_with(|| liveness::lives(process))
    }

    fn inode(&mut self, agent: &Path) -> Option<u64> {
        let known = self.inodes.entry(agent.to_owned());
        *known.or_insert_with(|| leftovers::inode(agent))
    }

    /// Whether the paths of an owner mean the same here.
    fn is_here(&mut self, owner: &Owner) -> bool {
        let here = self.here.get_or_insert_with(liveness::place);
        here.is_some() && *here == owner.seen_from
    }

    fn alloc(&mut self, owner: &Owner, agents: &BTreeMap<PathBuf, Duration>) -> AllocSight {
        let (Some(dir), Some(agent)) = (&owner.alloc_dir, owner.agent()) else {
            return AllocSight::None;
        };
        if !leftovers::is_gone(dir) {
            return AllocSight::There;
        }
        match (self.inode(agent), owner.agent_inode) {
            (Some(now), Some(then)) if now == then => AllocSight::Gone,
            // Nobody has noted which directory it was; the agent's own is what we see ourselves.
            (Some(_), None) if agents.contains_key(agent) => AllocSight::Gone,
            // The directory was wiped and made anew: our agent is another one in the place of the first.
            (Some(_), Some(_)) if agents.contains_key(agent) && self.is_here(owner) => AllocSight::Gone,
            _ => AllocSight::Unseen,
        }
    }
}

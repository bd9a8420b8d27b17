//! Everything a task may leave behind, seen without the plugin: in containerd, in `/proc`, in the file system, in cgroups.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::sandbox::StoreListRequest;
use containerd_client::services::v1::sandbox::store_client::StoreClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{Kind, ListSnapshotsRequest};
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::{ListContainersRequest, ListRequest, ListTasksRequest};
use tonic::Code;

use crate::containerd::Containerd;
use crate::{procfs, sweep};

/// Where to look.
pub struct Scope<'a> {
    containerd: &'a Containerd,
    namespace: String,
    snapshotters: Vec<String>,
    fifo_dirs: Vec<PathBuf>,
    cgroup_parents: Vec<String>,
}

/// What was there, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    pub containers: BTreeSet<String>,
    pub tasks: BTreeSet<String>,
    /// `<snapshotter>/<key>` of snapshots that are not committed.
    pub snapshots: BTreeSet<String>,
    pub leases: BTreeSet<String>,
    /// Sandbox records, of a containerd that has such.
    pub sandboxes: BTreeSet<String>,
    /// `<pid> <container>`.
    pub shims: BTreeSet<String>,
    pub mounts: BTreeSet<String>,
    pub fifos: BTreeSet<String>,
    pub cgroups: BTreeSet<String>,
    /// Containers runc keeps state of.
    pub runc: BTreeSet<String>,
}

impl<'a> Scope<'a> {
    /// One namespace of one containerd, cgroups below a parent of the namespace's name, no pipes.
    pub fn new(containerd: &'a Containerd, namespace: &str) -> Scope<'a> {
        Scope {
            containerd,
            namespace: namespace.to_owned(),
            snapshotters: vec!["overlayfs".into(), "native".into()],
            fifo_dirs: Vec::new(),
            cgroup_parents: vec![namespace.to_owned()],
        }
    }

    /// Also count the named pipes below `dir`.
    pub fn fifos(mut self, dir: impl Into<PathBuf>) -> Self {
        self.fifo_dirs.push(dir.into());
        self
    }

    /// Also count cgroups below a parent, as in `nomad` or `nomad.slice`.
    pub fn cgroups(mut self, parent: impl Into<String>) -> Self {
        self.cgroup_parents.push(parent.into());
        self
    }

    pub async fn take(&self) -> Result<Census> {
        let mut census = Census {
            shims: self.shims(),
            mounts: text(procfs::mounts_below(&self.containerd.state_dir())),
            fifos: text(self.fifo_dirs.iter().flat_map(|dir| fifos_below(dir))),
            cgroups: text(self.cgroup_parents.iter().flat_map(|parent| cgroups_below(parent))),
            runc: names(&Path::new(sweep::RUNC_STATE).join(&self.namespace)),
            ..Census::default()
        };
        let channel = self.containerd.in_namespace(&self.namespace)?;
        let mut containers = ContainersClient::new(channel.clone());
        let listed = containers
            .list(ListContainersRequest::default())
            .await
            .context("list containers")?
            .into_inner();
        census.containers = listed.containers.into_iter().map(|c| c.id).collect();
        let listed = TasksClient::new(channel.clone())
            .list(ListTasksRequest::default())
            .await
            .context("list tasks")?
            .into_inner();
        census.tasks = listed.tasks.into_iter().map(|task| task.id).collect();
        let listed = LeasesClient::new(channel.clone())
            .list(ListRequest::default())
            .await
            .context("list leases")?
            .into_inner();
        census.leases = listed.leases.into_iter().map(|lease| lease.id).collect();
        census.sandboxes = match StoreClient::new(channel.clone())
            .list(StoreListRequest::default())
            .await
        {
            Ok(answer) => answer.into_inner().list.into_iter().map(|one| one.sandbox_id).collect(),
            Err(status) if status.code() == Code::Unimplemented => BTreeSet::new(),
            Err(status) => return Err(status).context("list sandbox records"),
        };
        let mut snapshots = SnapshotsClient::new(channel);
        for snapshotter in &self.snapshotters {
            let request = ListSnapshotsRequest {
                snapshotter: snapshotter.clone(),
                filters: Vec::new(),
            };
            let mut stream = match snapshots.list(request).await {
                Ok(answer) => answer.into_inner(),
                Err(status) if status.code() == Code::NotFound || status.code() == Code::InvalidArgument => continue,
                Err(status) => return Err(status).context("list snapshots"),
            };
            while let Some(page) = stream.message().await.context("list snapshots")? {
                let live = page.info.into_iter().filter(|info| info.kind() != Kind::Committed);
                census
                    .snapshots
                    .extend(live.map(|info| format!("{snapshotter}/{}", info.name)));
            }
        }
        Ok(census)
    }

    /// Takes a census until it shows no more than `before`, or until the deadline. The answer is what is left too much.
    pub async fn leaks(&self, before: &Census, deadline: Duration) -> Result<Vec<String>> {
        let end = Instant::now() + deadline;
        loop {
            let leaks = self.take().await?.diff(before);
            if leaks.is_empty() || Instant::now() > end {
                return Ok(leaks);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn shims(&self) -> BTreeSet<String> {
        let of = |pid: u32| {
            let args = procfs::cmdline(pid);
            let after = |flag: &str| {
                args.iter()
                    .position(|arg| arg == flag)
                    .and_then(|at| args.get(at + 1))
                    .cloned()
                    .unwrap_or_default()
            };
            (after("-namespace") == self.namespace).then(|| format!("{pid} {}", after("-id")))
        };
        self.containerd.shims().into_iter().filter_map(of).collect()
    }
}

impl Census {
    /// One namespace of one containerd with the defaults of [`Scope::new`].
    pub async fn take(containerd: &Containerd, namespace: &str) -> Result<Census> {
        Scope::new(containerd, namespace).take().await
    }

    /// One line for each thing that is here but was not there `before`.
    pub fn diff(&self, before: &Census) -> Vec<String> {
        let pairs = self.kinds().into_iter().zip(before.kinds());
        pairs
            .flat_map(|((kind, now), (_, then))| now.difference(then).map(move |name| format!("{kind} {name}")))
            .collect()
    }

    /// Counts, as in `2 containers, 1 task`; `nothing` if all are zero.
    pub fn summary(&self) -> String {
        let counted = self.kinds().into_iter().filter(|(_, set)| !set.is_empty());
        let text: Vec<String> = counted
            .map(|(kind, set)| format!("{} {kind}{}", set.len(), if set.len() == 1 { "" } else { "s" }))
            .collect();
        if text.is_empty() {
            "nothing".to_owned()
        } else {
            text.join(", ")
        }
    }

    fn kinds(&self) -> [(&'static str, &BTreeSet<String>); 10] {
        [
            ("container", &self.containers),
            ("task", &self.tasks),
            ("snapshot", &self.snapshots),
            ("lease", &self.leases),
            ("sandbox record", &self.sandboxes),
            ("shim", &self.shims),
            ("mount", &self.mounts),
            ("pipe", &self.fifos),
            ("cgroup", &self.cgroups),
            ("runc state", &self.runc),
        ]
    }
}

/// What a process holds.
#[derive(Clone, Debug, Default)]
pub struct Holdings {
    pub descriptors: BTreeMap<u32, String>,
    pub threads: usize,
    pub memory_kib: u64,
}

impl Holdings {
    /// The same but for connections to the registry: those are pooled, and closed when idle for long.
    pub fn unpooled(pid: u32) -> Holdings {
        let tables =
            ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default());
        let inodes: BTreeSet<&str> = tables
            .iter()
            .flat_map(|table| table.lines().skip(1))
            .filter_map(|line| line.split_whitespace().nth(9))
            .collect();
        let mut holdings = Holdings::of(pid);
        let is_pooled = |target: &str| {
            target
                .strip_prefix("socket:[")
                .and_then(|rest| rest.strip_suffix(']'))
                .is_some_and(|inode| inodes.contains(inode))
        };
        holdings.descriptors.retain(|_, target| !is_pooled(target));
        holdings
    }

    pub fn of(pid: u32) -> Holdings {
        Holdings {
            descriptors: procfs::descriptors(pid),
            threads: procfs::threads(pid),
            memory_kib: procfs::anonymous_kib(pid).unwrap_or(0),
        }
    }

    /// Descriptors by what they point at (numbers in brackets blanked), and threads, that are more than `before`.
    pub fn diff(&self, before: &Holdings) -> Vec<String> {
        let then = before.by_target();
        let mut more: Vec<String> = self
            .by_target()
            .into_iter()
            .filter_map(|(target, count)| {
                let extra = count.saturating_sub(then.get(&target).copied().unwrap_or(0));
                (extra > 0).then(|| format!("{extra} descriptor(s) {target}"))
            })
            .collect();
        if self.threads > before.threads {
            more.push(format!("{} thread(s)", self.threads - before.threads));
        }
        more
    }

    fn by_target(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for target in self.descriptors.values() {
            let kind = target.split_once(":[").map_or(target.as_str(), |(kind, _)| kind);
            *counts.entry(kind.to_owned()).or_default() += 1;
        }
        counts
    }
}

fn text(paths: impl IntoIterator<Item = PathBuf>) -> BTreeSet<String> {
    paths.into_iter().map(|path| path.display().to_string()).collect()
}

fn names(dir: &Path) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return BTreeSet::new();
    };
    entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// How containerd's directory of a snapshotter is called.
const SNAPSHOTTER: &str = "io.containerd.snapshotter.";

/// Named pipes anywhere below `dir`, but for file systems of containers.
pub fn fifos_below(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        match entry.file_type() {
            // What images and tasks have in their file systems is no pipe of theirs to the host, and much to look through.
            Ok(kind) if kind.is_dir() && entry.file_name().to_string_lossy().starts_with(SNAPSHOTTER) => {}
            Ok(kind) if kind.is_dir() => found.extend(fifos_below(&entry.path())),
            Ok(kind) if kind.is_fifo() => found.push(entry.path()),
            Ok(_) | Err(_) => {}
        }
    }
    found
}

/// Cgroup directories below `parent`, in the unified hierarchy and in every controller's.
pub fn cgroups_below(parent: &str) -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let mut roots = vec![top.join(parent)];
    if let Ok(entries) = fs::read_dir(top) {
        roots.extend(entries.flatten().map(|entry| entry.path().join(parent)));
    }
    let mut found = BTreeSet::new();
    roots.iter().for_each(|root| directories_below(root, &mut found));
    found.into_iter().collect()
}

fn directories_below(dir: &Path, found: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        // `cpu` may be a link to `cpu,cpuacct`: only the real place counts, or everything shows up twice.
        if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Ok(real) = entry.path().canonicalize()
            && found.insert(real.clone())
        {
            directories_below(&real, found);
        }
    }
}

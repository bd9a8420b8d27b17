//! Who a container belongs to: the agent, the plugin process that made it, and the allocation. Written as labels on the
//! container and its snapshot and as a file in its run directory; read by the reaper and by `audit`.
//!
//! The protocol tells no plugin which agent launched it. What it tells with each task is the allocation's directory, and
//! the directory above it is the agent's own: it is the same after a restart of the agent and after a reboot, and two agents
//! cannot share one. Its inode is part of the identity, since agents in mount namespaces of their own may see different
//! directories under one path, and what one of them does not see would look like dead to the other. So is the mount namespace:
//! within one, another inode under the path means that the directory was wiped and made anew.
//!
//! A plugin that was told nothing yet still knows which process has launched it. What an earlier plugin of that same process
//! has made belongs to the same agent, and is noted for that.

use super::shim_group::ShimGroup;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The agent's directory of allocations.
pub const KEY_AGENT: &str = "containerd-driver/agent";
/// Inode of that directory, decimal.
pub const KEY_AGENT_INODE: &str = "containerd-driver/agent-inode";
/// The plugin process that made it or looks after it: `<boot id>:<process id>:<start time>`.
pub const KEY_PLUGIN: &str = "containerd-driver/plugin";
/// The process that launched the plugin, if it tells the agent: `<boot id>:<process id>:<start time>`.
pub const KEY_LAUNCHER: &str = "containerd-driver/agent-process";
/// Where that directory was seen from: `<boot id>:<mount namespace>`.
pub const KEY_SEEN_FROM: &str = "containerd-driver/seen-from";
/// The allocation's directory.
pub const KEY_ALLOC_DIR: &str = "containerd-driver/alloc-dir";

/// How the lease of a look into an image is named, by which the reaper knows it; its label [`KEY_PLUGIN`] says whose it is.
pub const LOOK_LEASE: &str = "containerd-driver-facts-";

/// How the lease of a pull is named; its label [`KEY_PLUGIN`] says whose it is, and [`KEY_PULLED`] of which image.
pub const PULL_LEASE: &str = "containerd-driver-pull-";

/// The image that a lease is of.
pub const KEY_PULLED: &str = "containerd-driver/pull";

/// Name of the file in a run directory.
pub const OWNER_FILE: &str = "owner";

/// containerd's limit for key and value together (`pkg/labels`: `maxSize`).
const LIMIT: usize = 4096;

/// A process of this machine that is no other, also after a reboot or when its number is given anew.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId {
    /// `/proc/sys/kernel/random/boot_id`, a slash and the process namespace's inode: numbers are that namespace's.
    pub boot: String,
    /// Process id.
    pub pid: u32,
    /// When it was started, in clock ticks since boot (field 22 of `/proc/<pid>/stat`).
    pub start: u64,
}

impl ProcessId {
    /// Whether the other process cannot see if this one lives: it is of the same boot and of another process namespace.
    #[must_use]
    pub fn is_out_of_sight(&self, other: &Self) -> bool {
        let boot = |of: &Self| of.boot.split('/').next().map(ToOwned::to_owned);
        self.boot != other.boot && boot(self) == boot(other)
    }

    /// As the label has it.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}:{}:{}", self.boot, self.pid, self.start)
    }

    /// Reads the label. `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let (boot, pid, start) = (parts.next()?, parts.next()?, parts.next()?);
        let whole = !boot.is_empty() && parts.next().is_none();
        whole.then_some(())?;
        Some(Self {
            boot: boot.to_owned(),
            pid: pid.parse().ok()?,
            start: start.parse().ok()?,
        })
    }
}

/// See the module. What is not known is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The plugin process, or the command line.
    pub plugin: Option<ProcessId>,
    /// The allocation's directory; `None` for a task without an allocation (`containerd-driver run`).
    pub alloc_dir: Option<PathBuf>,
    /// Inode of the directory above it.
    pub agent_inode: Option<u64>,
    /// The agent's process, as far as the plugin could tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launcher: Option<ProcessId>,
    /// The mount namespace in which the paths mean what they mean, with the boot.
    #[serde(default)]
    pub seen_from: Option<String>,
}

impl Owner {
    /// The owner of what this process makes for a task. `inode` is that of [`agent_of`] the allocation's directory.
    ///
    /// A process alone stands for a task without an allocation, which ends with it. So a directory that names no agent gives
    /// no owner at all rather than half of one.
    #[must_use]
    pub fn new(plugin: &ProcessId, alloc_dir: &Path, inode: Option<u64>) -> Self {
        let plugin = Some(plugin.clone());
        if alloc_dir.as_os_str().is_empty() {
            return Self {
                plugin,
                ..Self::default()
            };
        }
        match agent_of(alloc_dir) {
            None => Self::default(),
            Some(_) => Self {
                plugin,
                alloc_dir: Some(alloc_dir.to_owned()),
                agent_inode: inode,
                launcher: None,
                seen_from: None,
            },
        }
    }

    /// The same with the agent's process; nothing for what has no agent.
    #[must_use]
    pub fn launched_by(self, launcher: Option<&ProcessId>) -> Self {
        Self {
            launcher: launcher.filter(|_| self.agent().is_some()).cloned(),
            ..self
        }
    }

    /// The same, with the place that the paths were seen from, if there are any.
    #[must_use]
    pub fn at(self, place: &str) -> Self {
        Self {
            seen_from: self.alloc_dir.is_some().then(|| place.to_owned()),
            ..self
        }
    }

    /// The agent's directory of allocations.
    #[must_use]
    pub fn agent(&self) -> Option<&Path> {
        agent_of(self.alloc_dir.as_deref()?)
    }

    /// As labels; none at all if containerd would refuse the path: a part of it would name another allocation, and a process
    /// without it a task that ends with the process.
    #[must_use]
    pub fn labels(&self) -> BTreeMap<String, String> {
        let path = |path: &Path| path.to_str().map(ToOwned::to_owned);
        let fits = |dir: &Path| path(dir).is_some_and(|text| KEY_ALLOC_DIR.len() + text.len() <= LIMIT);
        if self.alloc_dir.as_deref().is_some_and(|dir| !fits(dir)) {
            return BTreeMap::new();
        }
        [
            (KEY_PLUGIN, self.plugin.as_ref().map(ProcessId::text)),
            (KEY_AGENT, self.agent().and_then(path)),
            (KEY_AGENT_INODE, self.agent_inode.map(|inode| inode.to_string())),
            (KEY_LAUNCHER, self.launcher.as_ref().map(ProcessId::text)),
            (KEY_SEEN_FROM, self.seen_from.clone()),
            (KEY_ALLOC_DIR, self.alloc_dir.as_deref().and_then(path)),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect()
    }

    /// Reads the labels.
    #[must_use]
    pub fn read(labels: &BTreeMap<String, String>) -> Self {
        let get = |key: &str| labels.get(key).map(String::as_str);
        let alloc_dir = get(KEY_ALLOC_DIR)
            .map(PathBuf::from)
            .filter(|dir| agent_of(dir).is_some());
        Self {
            plugin: get(KEY_PLUGIN).and_then(ProcessId::parse),
            agent_inode: get(KEY_AGENT_INODE)
                .and_then(|inode| inode.parse().ok())
                .filter(|_| alloc_dir.is_some()),
            launcher: get(KEY_LAUNCHER)
                .and_then(ProcessId::parse)
                .filter(|_| alloc_dir.is_some()),
            seen_from: get(KEY_SEEN_FROM)
                .map(ToOwned::to_owned)
                .filter(|_| alloc_dir.is_some()),
            alloc_dir,
        }
    }

    /// The same with the allocation's directory as the mounts of the container show it, if the labels do not tell it: so
    /// it is with containers of the Go driver and of the first versions of this one. `alloc` is the allocation's id by a
    /// label of ours; a directory of another name is not believed.
    #[must_use]
    pub fn or_by_mounts(self, spec: &serde_json::Value, alloc: &str) -> Self {
        if self.alloc_dir.is_some() || self.plugin.is_some() || alloc.is_empty() {
            return self;
        }
        let mounts = spec.pointer("/mounts").and_then(serde_json::Value::as_array);
        let sources = mounts.into_iter().flatten().filter_map(|m| m.get("source")?.as_str());
        let alloc_dir = sources
            .map(Path::new)
            .filter(|source| source.file_name().is_some_and(|name| name == "alloc"))
            .filter_map(Path::parent)
            .find(|dir| dir.file_name().is_some_and(|name| name == alloc) && agent_of(dir).is_some())
            .map(Path::to_owned);
        Self { alloc_dir, ..self }
    }
}

/// What a run directory's file says: containers of several containerds share one directory for these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunOwner {
    /// Path of containerd's socket.
    pub address: String,
    /// containerd namespace.
    pub namespace: String,
    /// Whose it is.
    pub owner: Owner,
    /// The group that the container shares a shim with, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shim: Option<ShimGroup>,
}

impl RunOwner {
    /// As the file has it.
    ///
    /// # Errors
    /// If it cannot be encoded: a path that is not UTF-8.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        serde_json::to_vec(self).map_err(|e| e.to_string())
    }

    /// Reads the file. `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

/// The agent's directory of an allocation's: absolute, and not the root itself, in which everybody's directories are.
#[must_use]
pub fn agent_of(alloc_dir: &Path) -> Option<&Path> {
    let above = alloc_dir.parent()?;
    (alloc_dir.is_absolute() && above.parent().is_some()).then_some(above)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn process() -> ProcessId {
        ProcessId {
            boot: "b-1".to_owned(),
            pid: 7,
            start: 99,
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let owner = Owner::new(&process(), Path::new("/var/nomad/alloc/a-1"), Some(5)).at("b-1:77");
        assert_eq!(owner.labels()[KEY_SEEN_FROM], "b-1:77");
        assert_eq!(owner.agent(), Some(Path::new("/var/nomad/alloc")));
        assert_eq!(Owner::read(&owner.labels()), owner);
        assert_eq!(owner.labels()[KEY_AGENT], "/var/nomad/alloc");
        let owner = owner.launched_by(Some(&process()));
        assert_eq!(Owner::read(&owner.labels()), owner);
        assert_eq!(owner.launcher, Some(process()));
        let run = RunOwner {
            address: "/run/c.sock".to_owned(),
            namespace: "nomad".to_owned(),
            owner,
            shim: ShimGroup::parse("kin/leader"),
        };
        assert_eq!(RunOwner::decode(&run.encode().unwrap()), Some(run));
    }

    #[test]
    fn without_an_allocation_there_is_a_process_and_no_agent() {
        let owner = Owner::new(&process(), Path::new(""), Some(5)).at("b-1:77");
        assert_eq!((owner.agent(), owner.agent_inode), (None, None));
        assert_eq!(owner.plugin, Some(process()));
        assert_eq!(Owner::read(&owner.labels()), owner);
        assert_eq!(owner.clone().launched_by(Some(&process())), owner);
    }

    #[test]
    fn an_allocation_without_an_agent_has_no_owner_rather_than_half_of_one() {
        for dir in ["relative/x", "/", "/x"] {
            assert_eq!(
                Owner::new(&process(), Path::new(dir), Some(5)),
                Owner::default(),
                "{dir}"
            );
        }
    }

    #[test]
    fn a_path_that_no_label_holds_gives_no_labels_and_none_is_cut() {
        for (length, labels) in [(4096, 0), (4096 - KEY_ALLOC_DIR.len(), 4)] {
            let path = PathBuf::from(format!("/{}/a", "x".repeat(length - 3)));
            let owner = Owner::new(&process(), &path, Some(1));
            let written = owner.labels();
            assert_eq!(written.len(), labels, "{length}");
            assert!(written.iter().all(|(key, value)| key.len() + value.len() <= LIMIT));
            assert!(labels == 0 || Owner::read(&written) == owner);
        }
    }

    #[test]
    fn older_containers_show_their_allocation_by_a_mount() {
        let spec = serde_json::json!({ "mounts": [
            { "destination": "/proc", "source": "proc" },
            { "destination": "/other", "source": "/srv/b/alloc" },
            { "destination": "/alloc", "source": "/var/nomad/alloc/a-1/alloc" },
        ]});
        let found = Owner::default().or_by_mounts(&spec, "a-1");
        assert_eq!(found.alloc_dir.as_deref(), Some(Path::new("/var/nomad/alloc/a-1")));
        // Not by the name of another allocation, not without one, not over what the labels say.
        assert_eq!(Owner::default().or_by_mounts(&spec, "a-2"), Owner::default());
        assert_eq!(Owner::default().or_by_mounts(&spec, ""), Owner::default());
        let run = Owner::new(&process(), Path::new(""), None);
        assert_eq!(run.clone().or_by_mounts(&spec, "a-1"), run);
    }

    proptest! {
        #[test]
        fn no_text_is_read_as_another_process(text in "[0-9a-f:-]{0,40}") {
            if let Some(process) = ProcessId::parse(&text) {
                let again = ProcessId::parse(&process.text());
                prop_assert_eq!(again, Some(process));
            }
        }
    }
}

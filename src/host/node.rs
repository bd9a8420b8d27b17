//! Facts of this node that a container's description depends on. Read when asked for, in bounded pieces, never cached
//! here: what may change (resolv.conf, devices) is the caller's to re-read.

use super::error::HostError;
use super::{proc, security};
use crate::spec::node::SecurityFacts;
use rustix::process::{Resource, getrlimit};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Most that is read of a file of the kernel or of `/etc`.
const READ_MAX: u64 = 256 * 1024;
/// Where cgroups are mounted on every system that containerd supports.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// `CGROUP2_SUPER_MAGIC` of `linux/magic.h`.
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// Which generation of cgroups rules this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CgroupVersion {
    /// One hierarchy per controller (a hybrid mount counts as this, as in runc).
    V1,
    /// The unified hierarchy.
    V2,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Generation of cgroups.
    pub cgroups: CgroupVersion,
    /// Whether swap is counted, so that a swap limit can be set.
    pub swap_accounting: bool,
    /// Our own effective capabilities: a container cannot have more.
    pub capabilities: Vec<&'static str>,
    /// Our own hard limit of open files; `None` for no limit.
    pub nofile_hard: Option<u64>,
    /// Upper bound of that limit (`/proc/sys/fs/nr_open`).
    pub nr_open: u64,
    /// True if we run as root.
    pub is_root: bool,
    /// When the machine was started, nanoseconds since the Unix epoch, to the second.
    pub booted_at: Option<i64>,
    /// What the kernel offers to confine a container with.
    pub security: SecurityFacts,
}

impl Node {
    /// Reads them. What cannot be read is the cautious value (no swap accounting, no capabilities).
    #[must_use]
    pub fn read() -> Self {
        let cgroups = cgroup_version(Path::new(CGROUP_ROOT));
        Self {
            cgroups,
            swap_accounting: swap_accounting(Path::new(CGROUP_ROOT), cgroups),
            capabilities: effective_capabilities(),
            nofile_hard: getrlimit(Resource::Nofile).maximum,
            nr_open: read("/proc/sys/fs/nr_open")
                .ok()
                .and_then(|t| proc::number(&t))
                .unwrap_or(1024 * 1024),
            is_root: rustix::process::geteuid().is_root(),
            booted_at: read("/proc/stat").ok().and_then(|text| proc::boot_time(&text)),
            security: security::lasting(),
        }
    }
}

/// Generation of cgroups, by the type of the file system at the root; the text of a mount table does not decide.
#[must_use]
pub fn cgroup_version(root: &Path) -> CgroupVersion {
    match rustix::fs::statfs(root) {
        Ok(found) if u64::try_from(found.f_type).is_ok_and(|t| t == CGROUP2_MAGIC) => CgroupVersion::V2,
        _ => CgroupVersion::V1,
    }
}

/// v1: the memory controller has `memsw` files only with `swapaccount=1`. v2: a cgroup below the root has
/// `memory.swap.max` if the kernel counts swap.
fn swap_accounting(root: &Path, version: CgroupVersion) -> bool {
    match version {
        CgroupVersion::V1 => root.join("memory/memory.memsw.limit_in_bytes").exists(),
        CgroupVersion::V2 => {
            // The root itself has no limits: any child shows which files there are. Without a child to look at, a kernel
            // that can swap counts it (`CONFIG_SWAP` gives both), unless it was told not to.
            let children: Vec<_> = std::fs::read_dir(root)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path())
                .filter(|child| child.join("memory.max").exists())
                .collect();
            if children.is_empty() {
                let told = read("/proc/cmdline").unwrap_or_default();
                return Path::new("/proc/swaps").exists() && !told.contains("swapaccount=0");
            }
            children.iter().any(|child| child.join("memory.swap.max").exists())
        }
    }
}

fn effective_capabilities() -> Vec<&'static str> {
    let status = read("/proc/self/status").unwrap_or_default();
    proc::status_field(&status, "CapEff")
        .and_then(proc::capability_names)
        .unwrap_or_default()
}

/// Where systemd-resolved lists its upstream servers, for those who cannot reach its stub.
pub const RESOLVED_UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";

/// That list, and where it is: at this path; `None` without systemd-resolved.
#[must_use]
pub fn resolv_upstream(path: &str) -> Option<(String, String)> {
    read(path).ok().map(|text| (path.to_owned(), text))
}

/// This node's name.
#[must_use]
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Reads a small text file, at most 256 KiB of it; bytes that are no UTF-8 are replaced.
///
/// # Errors
/// Names the file.
pub fn read(path: impl AsRef<Path>) -> Result<String, HostError> {
    read_bounded(path.as_ref(), READ_MAX)
}

/// The same with a bound of the caller's.
///
/// # Errors
/// Names the file.
pub(super) fn read_bounded(path: &Path, max: u64) -> Result<String, HostError> {
    const WHAT: &str = "read";
    let file = File::open(path).map_err(|e| HostError::from_io(WHAT, path, &e))?;
    let mut bytes = Vec::new();
    file.take(max)
        .read_to_end(&mut bytes)
        .map_err(|e| HostError::from_io(WHAT, path, &e))?;
    Ok(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_node_can_be_read() {
        let node = Node::read();
        assert!(node.nr_open >= 1024);
        assert_eq!(node.is_root, rustix::process::geteuid().is_root());
        eprintln!("{node:?}");
    }

    #[test]
    fn cgroup_version_is_told_by_the_file_system() {
        assert_eq!(cgroup_version(Path::new("/proc")), CgroupVersion::V1);
        assert_eq!(cgroup_version(Path::new("/does/not/exist")), CgroupVersion::V1);
        let unified = Path::new("/sys/fs/cgroup/unified/cgroup.controllers");
        if unified.exists() {
            assert_eq!(cgroup_version(Path::new("/sys/fs/cgroup/unified")), CgroupVersion::V2);
        }
    }
}

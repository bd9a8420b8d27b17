//! Kernel, cgroups, limits, room and time.

use crate::host::node::{CGROUP_ROOT, CgroupVersion, Node, read, read_bounded};
use crate::host::paths::is_program;
use crate::host::proc;
use crate::spec::doctor::{CgroupFacts, ClockFacts, CniFacts, Free, KernelFacts, LimitFacts, PidsFacts, Space};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// What Nomad's `cni_path` is where the agent's configuration says nothing.
const CNI_DIR: &str = "/opt/cni/bin";
/// What Nomad puts into the configuration of its bridge (`client/allocrunner/cni`).
const CNI_NEEDED: [&str; 5] = ["bridge", "firewall", "host-local", "loopback", "portmap"];
/// Kinds of namespaces as `/proc/sys/user` has them.
const NAMESPACES: [&str; 5] = ["ipc", "mnt", "net", "pid", "uts"];
/// Most of a list of modules that is read.
const MODULES_MAX: u64 = 8 << 20;
/// Where containerd looks for the parser (its `pkg/apparmor`).
const APPARMOR_PARSER: &str = "/sbin/apparmor_parser";

/// Where systemd's time service notes that it has set the clock (systemd-timesyncd.service(8)).
const TIMESYNC: &str = "/run/systemd/timesync";

/// What does not depend on containerd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// How cgroups are mounted.
    pub cgroups: CgroupFacts,
    /// What the kernel has.
    pub kernel: KernelFacts,
    /// Plugins for the networks of groups.
    pub cni: CniFacts,
    /// What may run out.
    pub limits: LimitFacts,
    /// The time.
    pub clock: ClockFacts,
}

/// Reads it. `containerd` is its process, for its limits. What cannot be read is as in the facts' own documentation.
#[must_use]
pub fn machine(node: &Node, containerd: Option<u32>) -> Machine {
    let limits = containerd.and_then(|pid| read(format!("/proc/{pid}/limits")).ok());
    let limits = limits.unwrap_or_default();
    Machine {
        cgroups: cgroups(node),
        kernel: kernel(node),
        cni: CniFacts {
            dir: CNI_DIR.to_owned(),
            missing: CNI_NEEDED
                .into_iter()
                .filter(|name| !is_program(&Path::new(CNI_DIR).join(name)))
                .collect(),
        },
        limits: LimitFacts {
            own_nofile: node.nofile_hard,
            daemon_nofile: proc::open_files(&limits).map(|(soft, _)| soft),
            daemon_nproc: proc::processes(&limits).map(|(soft, _)| soft),
            daemon_pids: containerd.and_then(|pid| pids(node.cgroups, pid)),
            pid_max: [sysctl("kernel/pid_max"), sysctl("kernel/threads-max")]
                .into_iter()
                .flatten()
                .min(),
            inotify: sysctl("fs/inotify/max_user_instances"),
            no_namespaces: NAMESPACES
                .into_iter()
                .filter(|kind| sysctl(&format!("user/max_{kind}_namespaces")) == Some(0))
                .map(str::to_owned)
                .collect(),
        },
        clock: clock(),
    }
}

/// A number below `/proc/sys`.
fn sysctl(name: &str) -> Option<u64> {
    read(format!("/proc/sys/{name}"))
        .ok()
        .and_then(|text| proc::number(&text))
}

/// The cgroup of a process or above it with the least room for processes.
fn pids(version: CgroupVersion, pid: u32) -> Option<PidsFacts> {
    let (hierarchy, controller) = match version {
        CgroupVersion::V1 => (Path::new(CGROUP_ROOT).join("pids"), "pids"),
        CgroupVersion::V2 => (Path::new(CGROUP_ROOT).to_owned(), ""),
    };
    let text = read(format!("/proc/{pid}/cgroup")).ok()?;
    let own = Path::new(proc::own_cgroup(&text, controller)?);
    let bound = |cgroup: &Path| {
        let dir = hierarchy.join(cgroup.strip_prefix("/").ok()?);
        let number = |file: &str| read(dir.join(file)).ok().and_then(|text| proc::number(&text));
        Some(PidsFacts {
            cgroup: cgroup.display().to_string(),
            max: number("pids.max").filter(|max| *max != u64::MAX)?,
            current: number("pids.current")?,
        })
    };
    let bounds = own.ancestors().filter_map(bound);
    bounds.min_by_key(|found| found.max.saturating_sub(found.current))
}

fn cgroups(node: &Node) -> CgroupFacts {
    let root = Path::new(CGROUP_ROOT);
    let unified = node.cgroups == CgroupVersion::V2;
    let controllers = if unified {
        let text = read(root.join("cgroup.controllers")).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect()
    } else {
        let text = read("/proc/cgroups").unwrap_or_default();
        let known = proc::v1_controllers(&text).into_iter();
        known.filter(|name| root.join(name).is_dir()).collect()
    };
    CgroupFacts {
        unified,
        mounted: std::fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_some()),
        controllers,
        swap: node.swap_accounting,
    }
}

fn kernel(node: &Node) -> KernelFacts {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let entries = std::fs::read_dir("/proc/self/ns").into_iter().flatten().flatten();
    let mut namespaces: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    namespaces.sort_unstable();
    KernelFacts {
        version: node.security.kernel,
        seccomp: node.security.seccomp,
        namespaces,
        overlay: overlay(&release),
        apparmor: read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.trim() == "Y"),
        apparmor_parser: is_program(Path::new(APPARMOR_PARSER)),
        release,
    }
}

/// Whether overlayfs is there, or can be: it is loaded with its first mount.
fn overlay(release: &str) -> bool {
    let here = read("/proc/filesystems").unwrap_or_default();
    if here.split_whitespace().any(|word| word == "overlay") {
        return true;
    }
    let dir = Path::new("/lib/modules").join(release);
    ["modules.dep", "modules.builtin"]
        .iter()
        .any(|list| read_bounded(&dir.join(list), MODULES_MAX).is_ok_and(|text| text.contains("/overlay.ko")))
}

/// Now, and when this program was written. A clock that cannot be read is at its beginning, and so behind.
fn clock() -> ClockFacts {
    let seconds = |time: SystemTime| {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    };
    let written = std::fs::metadata("/proc/self/exe").and_then(|meta| meta.modified());
    ClockFacts {
        now: seconds(SystemTime::now()),
        not_before: written.map(seconds).unwrap_or_default(),
        synchronised: Path::new(TIMESYNC)
            .is_dir()
            .then(|| Path::new(TIMESYNC).join("synchronized").exists()),
    }
}

/// Room in the file system of a directory.
#[must_use]
pub fn space(what: &str, path: &Path) -> Space {
    let free = rustix::fs::statvfs(path).map(|found| Free {
        bytes: found.f_bavail.saturating_mul(found.f_frsize),
        total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
        inodes: found.f_favail,
        total_inodes: found.f_files,
    });
    Space {
        what: what.to_owned(),
        path: path.display().to_string(),
        free: free.map_err(|errno| std::io::Error::from(errno).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_surveyed() {
        let node = Node::read();
        let machine = machine(&node, Some(std::process::id()));
        assert!(machine.kernel.namespaces.iter().any(|n| n == "net"), "{machine:?}");
        assert!(machine.limits.daemon_nofile.is_some_and(|n| n > 0), "{machine:?}");
        assert!(machine.limits.daemon_nproc.is_some_and(|n| n > 0), "{machine:?}");
        assert!(machine.clock.now > machine.clock.not_before, "{machine:?}");
        let free = space("x", Path::new("/proc/self")).free;
        assert!(free.is_ok(), "{free:?}");
        assert!(space("x", Path::new("/does/not/exist")).free.is_err());
    }
}

//! Kernel, cgroups, limits, room and time.

use crate::host::node::{CGROUP_ROOT, CgroupVersion, Node, read, read_bounded};
use crate::host::paths::is_program;
use crate::host::proc;
use crate::spec::doctor::{CgroupFacts, ClockFacts, CniFacts, Free, KernelFacts, LimitFacts, Space};
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
            daemon_nofile: containerd
                .and_then(|pid| read(format!("/proc/{pid}/limits")).ok())
                .and_then(|text| proc::open_files(&text))
                .map(|(soft, _)| soft),
            pid_max: read("/proc/sys/kernel/pid_max")
                .ok()
                .and_then(|text| proc::number(&text)),
            inotify: read("/proc/sys/fs/inotify/max_user_instances")
                .ok()
                .and_then(|text| proc::number(&text)),
            no_namespaces: NAMESPACES
                .into_iter()
                .filter(|kind| {
                    let path = format!("/proc/sys/user/max_{kind}_namespaces");
                    read(path).ok().and_then(|text| proc::number(&text)) == Some(0)
                })
                .map(str::to_owned)
                .collect(),
        },
        clock: clock(),
    }
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
        assert!(machine.clock.now > machine.clock.not_before, "{machine:?}");
        let free = space("x", Path::new("/proc/self")).free;
        assert!(free.is_ok(), "{free:?}");
        assert!(space("x", Path::new("/does/not/exist")).free.is_err());
    }
}

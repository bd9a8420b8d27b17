//! The facts of this node that one task's description needs.

use crate::actors::shared::Shared;
use crate::host::node::{CGROUP_ROOT, CgroupVersion, Node};
use crate::host::{self, devices, limits, paths, security};
use crate::spec::node::{
    CgroupMode, Cpuset, DeviceKind, DeviceNode, NodeFacts, SecurityFacts, wanted_devices, wanted_gateway,
};
use crate::spec::seccomp::wanted_profile;
use crate::spec::settings::Settings;
use crate::spec::task::TaskSpec;
use crate::spec::{cdi, init, sysctl};
use std::path::{Path, PathBuf};
use std::sync::Once;

/// Reads them. Blocking: small files of /proc, /sys and /etc. `containerd` is its process, if it is known.
pub(super) fn facts(shared: &Shared, settings: &Settings, task: &TaskSpec, containerd: Option<u32>) -> NodeFacts {
    let node = &shared.node;
    let cdi_files = if cdi::is_asked(task) {
        host::cdi::spec_files(&settings.cdi_spec_dirs)
    } else {
        Vec::new()
    };
    let cpuset_cgroup = &task.resources.cpuset_cgroup;
    NodeFacts {
        cgroup: mode(node.cgroups),
        swap_accounting: node.swap_accounting,
        cpuset_cgroup_exists: !cpuset_cgroup.is_empty() && Path::new(cpuset_cgroup).is_dir(),
        capabilities: node.capabilities.iter().map(|c| (*c).to_owned()).collect(),
        nofile_limit: nofile_limit(node, containerd),
        total_compute_mhz: shared.total_compute_mhz.load(std::sync::atomic::Ordering::Relaxed),
        oom_score_adj: 0,
        resolv_conf: host::node::read("/etc/resolv.conf").ok(),
        resolv_upstream: host::node::resolv_upstream(host::node::RESOLVED_UPSTREAM),
        hosts: host::node::read("/etc/hosts").ok(),
        hostname: host::node::hostname(),
        sysctls: sysctl::USUAL
            .into_iter()
            .map(|(key, _)| key)
            .filter(|key| Path::new(&sysctl::path(key)).exists())
            .collect(),
        host_gateway: wanted_gateway(task)
            .then(|| host::route::host_gateway(group_network(task)))
            .flatten(),
        network_address: group_network(task).and_then(host::route::address),
        run_dir: shared.run_dir.clone(),
        devices: wanted_devices(task)
            .into_iter()
            .chain(cdi::wanted_devices(task, &cdi_files))
            .map(|path| {
                let found = devices::device_nodes(Path::new(&path));
                (
                    path,
                    found
                        .map(|nodes| nodes.iter().map(device).collect())
                        .map_err(|e| e.to_string()),
                )
            })
            .collect(),
        cores: if task.options.cpu_hard_limit {
            limits::cores()
        } else {
            1
        },
        cpuset: (node.cgroups == CgroupVersion::V1)
            .then(|| limits::cpuset(Path::new(cpuset_cgroup)))
            .flatten()
            .map(|(cpus, mems)| Cpuset { cpus, mems }),
        hugepage_sizes: if task.options.hugepage_limits.is_empty() {
            Vec::new()
        } else {
            limits::hugepage_sizes()
        },
        hugetlb: !task.options.hugepage_limits.is_empty() && limits::hugetlb(Path::new(CGROUP_ROOT), node.cgroups),
        block_weight: task.options.blkio_weight.is_some() && limits::block_weight(Path::new(CGROUP_ROOT), node.cgroups),
        init_program: init_program(settings, task),
        security: security(shared, task),
        host_devices: if task.options.privileged {
            devices::host_devices().iter().map(device).collect()
        } else {
            Vec::new()
        },
        cdi_files,
    }
}

/// Most open files that a task can be given. Its limit is set by the runtime, which has containerd's rights and limits and
/// not the agent's. Where containerd's process cannot be looked at, what the agent could give is the cautious answer.
fn nofile_limit(node: &Node, containerd: Option<u32>) -> u64 {
    containerd
        .and_then(|pid| limits::open_files(pid, node.nr_open))
        .unwrap_or_else(|| node.nofile_hard.unwrap_or(node.nr_open).min(node.nr_open))
}

/// The init program for a task that wants one.
fn init_program(settings: &Settings, task: &TaskSpec) -> Option<PathBuf> {
    if !task.options.init {
        return None;
    }
    let candidates = init::candidates(task, settings);
    candidates.into_iter().find(|path| paths::is_program(path))
}

/// What confines; that nothing filters is said once, since every task that does not ask for a filter runs without.
fn security(shared: &Shared, task: &TaskSpec) -> SecurityFacts {
    static TOLD: Once = Once::new();
    let facts = security::facts(&shared.node.security, wanted_profile(task).as_ref());
    if !facts.seccomp {
        TOLD.call_once(|| tracing::warn!("the kernel has no seccomp filters; tasks run without the default profile"));
    }
    facts
}

/// The network namespace of the group, if the task is in it.
fn group_network(task: &TaskSpec) -> Option<&Path> {
    let own = task.options.network_mode.as_deref() == Some("none");
    let group = task.network.as_ref().filter(|n| !own && !n.path.is_empty());
    group.map(|n| Path::new(&n.path))
}

/// The cgroup mode in the words of `spec/`.
pub fn mode(version: CgroupVersion) -> CgroupMode {
    match version {
        CgroupVersion::V1 => CgroupMode::V1,
        CgroupVersion::V2 => CgroupMode::V2,
    }
}

fn device(node: &devices::DeviceNode) -> DeviceNode {
    DeviceNode {
        path: node.path.display().to_string(),
        kind: match node.kind {
            devices::DeviceType::Char => DeviceKind::Char,
            devices::DeviceType::Block => DeviceKind::Block,
        },
        major: node.major,
        minor: node.minor,
        mode: node.mode,
        uid: node.uid,
        gid: node.gid,
    }
}

//! What a container's description needs to know of the machine. Filled by `host/`: nothing here is looked up.

use super::cdi::SpecFile;
use super::device_option::{self, Asked};
use super::files::HOST_GATEWAY;
use super::task::TaskSpec;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

/// How cgroups are mounted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CgroupMode {
    /// One directory per controller below `/sys/fs/cgroup`.
    V1,
    /// The unified hierarchy at `/sys/fs/cgroup`.
    #[default]
    V2,
}

/// What a cpuset allows, as the kernel writes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cpuset {
    /// Cores, e.g. `0-2,7`.
    pub cpus: String,
    /// Memory nodes.
    pub mems: String,
}

/// A character or block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// Character device.
    Char,
    /// Block device.
    Block,
}

/// A device node on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    /// Absolute path on the host.
    pub path: String,
    /// Kind.
    pub kind: DeviceKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits, e.g. `0o660`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Facts about the machine, some of them looked up for one task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// How cgroups are mounted.
    pub cgroup: CgroupMode,
    /// Whether swap can be limited (v1: `memory.memsw.limit_in_bytes` exists; v2: `memory.swap.max` exists).
    pub swap_accounting: bool,
    /// Whether the directory in `resources.cpuset_cgroup` of this task exists.
    pub cpuset_cgroup_exists: bool,
    /// Effective capabilities of the plugin process, as `CAP_…`.
    pub capabilities: Vec<String>,
    /// Most open files that may be given to a process (`fs.nr_open`, or containerd's hard limit if it may not
    /// raise one); 0 for unknown.
    pub nofile_limit: u64,
    /// Sum of the MHz of all cores; 0 for unknown.
    pub total_compute_mhz: u64,
    /// `oom_score_adj` for tasks; 0 unless the plugin itself may not go as low.
    pub oom_score_adj: i32,
    /// Content of the host's `/etc/resolv.conf`; `None` if there is no such file.
    pub resolv_conf: Option<String>,
    /// Content of the host's `/etc/hosts`; `None` if there is no such file.
    pub hosts: Option<String>,
    /// Directory for files of containers that have no allocation directory.
    pub run_dir: PathBuf,
    /// For each path in [`wanted_devices`]: the device there (under the path asked for, also if that is a link), all
    /// devices below a directory, or why there is none.
    pub devices: BTreeMap<String, Result<Vec<DeviceNode>, String>>,
    /// Number of cores, as Nomad counts them.
    pub cores: u32,
    /// What the directory in `resources.cpuset_cgroup` allows; only read with v1.
    pub cpuset: Option<Cpuset>,
    /// Sizes of huge pages that the kernel has, in bytes.
    pub hugepage_sizes: Vec<u64>,
    /// Whether huge pages can be limited (there is a hugetlb controller).
    pub hugetlb: bool,
    /// Whether block I/O can be weighted (a scheduler or controller with weights is in use).
    pub block_weight: bool,
    /// The first of [`init::candidates`](super::init::candidates) that is a program.
    pub init_program: Option<PathBuf>,
    /// What the kernel offers to confine a container with.
    pub security: SecurityFacts,
    /// All devices in the host's `/dev` (without `pts`, `shm`, `mqueue`, `fd`, `console`); only read for `privileged`.
    pub host_devices: Vec<DeviceNode>,
    /// Files of the directories in `cdi_spec_dirs`; only read for a task that names a CDI device.
    pub cdi_files: Vec<SpecFile>,
    /// Where systemd-resolved keeps its upstream servers, and what is there, if it is there.
    pub resolv_upstream: Option<(String, String)>,
    /// The node as a container of this task can reach it: the default gateway of the group's network, else the node's
    /// own address. Only looked up for `host-gateway`.
    pub host_gateway: Option<IpAddr>,
    /// The address that the task has in the group's network, if it has that network and that an address.
    pub network_address: Option<IpAddr>,
    /// The node's host name, for a task that shares it.
    pub hostname: String,
    /// Of the kernel parameters in [`sysctl::USUAL`](super::sysctl::USUAL), those that the kernel has.
    pub sysctls: BTreeSet<&'static str>,
}

impl Default for NodeFacts {
    fn default() -> Self {
        Self {
            cgroup: CgroupMode::V2,
            swap_accounting: false,
            cpuset_cgroup_exists: false,
            capabilities: Vec::new(),
            nofile_limit: 0,
            total_compute_mhz: 0,
            oom_score_adj: 0,
            resolv_conf: None,
            hosts: None,
            run_dir: PathBuf::from("/run/containerd-driver"),
            devices: BTreeMap::new(),
            cores: 1,
            cpuset: None,
            hugepage_sizes: Vec::new(),
            hugetlb: false,
            block_weight: false,
            init_program: None,
            security: SecurityFacts::default(),
            host_devices: Vec::new(),
            cdi_files: Vec::new(),
            resolv_upstream: None,
            host_gateway: None,
            network_address: None,
            hostname: String::new(),
            sysctls: BTreeSet::new(),
        }
    }
}

/// What the kernel offers to confine a container with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecurityFacts {
    /// `uname -m`.
    pub machine: String,
    /// First two numbers of the kernel's release; zeros for unknown, which counts as very old.
    pub kernel: (u32, u32),
    /// Whether system calls can be filtered (`CONFIG_SECCOMP_FILTER`).
    pub seccomp: bool,
    /// Content of the profile in [`super::seccomp::wanted_profile`], or why there is none; `None` if the task names none.
    pub seccomp_profile: Option<Result<String, String>>,
    /// Loaded AppArmor profiles, and whether each is enforced; `None` without AppArmor.
    pub apparmor: Option<BTreeMap<String, bool>>,
    /// Whether SELinux is enabled.
    pub selinux: bool,
    /// Directories of /sys by which the processor tells how often it was throttled: they show what others do.
    pub throttles: Vec<String>,
}

impl Default for SecurityFacts {
    fn default() -> Self {
        Self {
            machine: "x86_64".to_owned(),
            kernel: (6, 1),
            seccomp: true,
            seccomp_profile: None,
            apparmor: None,
            selinux: false,
            throttles: Vec::new(),
        }
    }
}

impl NodeFacts {
    /// A node that has whatever this task asks for.
    pub(super) fn obliging(task: &TaskSpec) -> Self {
        let device = |path: &String| DeviceNode {
            path: path.clone(),
            kind: DeviceKind::Char,
            major: 1,
            minor: 3,
            mode: 0o666,
            uid: 0,
            gid: 0,
        };
        Self {
            // With it more is allowed without consent.
            cgroup: CgroupMode::V1,
            devices: wanted_devices(task)
                .into_iter()
                .map(|path| (path.clone(), Ok(vec![device(&path)])))
                .collect(),
            init_program: Some(PathBuf::from("/init")),
            swap_accounting: true,
            hugetlb: true,
            block_weight: true,
            ..Self::default()
        }
    }
}

/// Paths of devices that a task asks for, to be looked up into [`NodeFacts::devices`].
#[must_use]
pub fn wanted_devices(task: &TaskSpec) -> BTreeSet<String> {
    let own = task.options.devices.iter().filter_map(|option| {
        // What cannot be read is refused later, by name.
        match device_option::parse("devices", option) {
            Ok(Asked::Host { host, .. }) => Some(host),
            Ok(Asked::Cdi(_)) | Err(_) => None,
        }
    });
    own.chain(task.devices.iter().map(|d| d.host_path.clone())).collect()
}

/// True if the task's `extra_hosts` name the host itself, so that [`NodeFacts::host_gateway`] must be looked up.
#[must_use]
pub fn wanted_gateway(task: &TaskSpec) -> bool {
    let extra = task.options.extra_hosts.iter();
    extra
        .filter_map(|e| e.split_once(':'))
        .any(|(_, address)| address == HOST_GATEWAY)
}

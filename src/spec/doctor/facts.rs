//! What the doctor is told of a node.

use std::collections::BTreeMap;

/// All of it. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Whether we run as root; without it much below cannot be seen.
    pub root: bool,
    /// `containerd_address`.
    pub socket: String,
    /// What is at that path.
    pub socket_state: SocketState,
    /// `snapshotter`.
    pub snapshotter: String,
    /// `containerd_namespace`.
    pub namespace: String,
    /// What containerd says of itself.
    pub daemon: Daemon,
    /// The runtime in force.
    pub runtime: RuntimeFacts,
    /// How cgroups are mounted.
    pub cgroups: CgroupFacts,
    /// What the kernel has.
    pub kernel: KernelFacts,
    /// Plugins for the networks of groups.
    pub cni: CniFacts,
    /// What may run out.
    pub limits: LimitFacts,
    /// File systems that are written to.
    pub space: Vec<Space>,
    /// The time.
    pub clock: ClockFacts,
}

/// What is at the path of the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketState {
    /// Nothing.
    Absent,
    /// Something that is no socket, e.g. `directory`.
    Other(&'static str),
    /// A socket.
    Socket,
    /// It cannot be looked at, and why.
    Unknown(String),
}

/// What containerd answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Daemon {
    /// There is no socket to ask at.
    NotAsked,
    /// Nobody takes the connection, or it broke.
    Unreachable(String),
    /// Somebody took the connection and did not answer in time.
    Silent,
    /// It answered with an error.
    Failed(String),
    /// It answered.
    Serving(Serving),
}

/// What a containerd that answers says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serving {
    /// Its version, e.g. `v2.4.2` or `1.6.20~ds1`.
    pub version: String,
    /// Its revision, may be empty.
    pub revision: String,
    /// Why its health service says that it does not serve, if it does.
    pub not_serving: Option<String>,
    /// Its plugins, or why it does not list them.
    pub plugins: Result<Plugins, String>,
}

/// Plugins as introspection lists them, by type and id, e.g. `io.containerd.snapshotter.v1.overlayfs`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plugins {
    /// Those that started.
    pub started: Vec<String>,
    /// Those that did not, and why.
    pub failed: BTreeMap<String, String>,
}

/// The runtime that the settings name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeFacts {
    /// As the setting names it.
    pub name: String,
    /// Why that is no runtime at all, if so.
    pub refused: Option<String>,
    /// The shim's program.
    pub shim: Found,
    /// The program with runc's command line that the shim calls; `None` for a shim that calls none.
    pub binary: Option<Found>,
    /// First line of its `--version`, or why there is none.
    pub version: Option<Result<String, String>>,
}

/// A program that was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its name, or path.
    pub name: String,
    /// Where it is; `None` if it is nowhere.
    pub path: Option<String>,
    /// Where it was looked for, as a list of directories with colons.
    pub searched: String,
    /// Whether that is containerd's own search path; without it, ours was taken.
    pub of_containerd: bool,
}

/// How cgroups are mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupFacts {
    /// The unified hierarchy alone.
    pub unified: bool,
    /// Whether there is anything at `/sys/fs/cgroup`.
    pub mounted: bool,
    /// Controllers that can be used.
    pub controllers: Vec<String>,
    /// Whether swap can be limited.
    pub swap: bool,
}

/// What the kernel has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelFacts {
    /// `uname -r`.
    pub release: String,
    /// First two numbers of it; zeros for unknown.
    pub version: (u32, u32),
    /// Whether system calls can be filtered.
    pub seccomp: bool,
    /// Names in `/proc/self/ns`.
    pub namespaces: Vec<String>,
    /// Whether overlayfs is known, now or as a module that can be loaded.
    pub overlay: bool,
    /// AppArmor is enabled.
    pub apparmor: bool,
    /// Whether AppArmor's parser is installed, without which containerd loads no profile.
    pub apparmor_parser: bool,
}

/// Plugins for the networks of groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CniFacts {
    /// Where Nomad looks for them by default.
    pub dir: String,
    /// Those that Nomad's bridge needs and that are not there.
    pub missing: Vec<&'static str>,
}

/// What may run out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LimitFacts {
    /// Hard limit of open files of this process, which an agent started in the same way has too; `None` for no limit.
    pub own_nofile: Option<u64>,
    /// containerd's soft limit of open files; `None` for unknown, `u64::MAX` for no limit.
    pub daemon_nofile: Option<u64>,
    /// How many processes and threads the kernel has room for: the lower of `kernel.pid_max` and `kernel.threads-max`.
    pub pid_max: Option<u64>,
    /// containerd's soft limit of processes of one user (`RLIMIT_NPROC`), which its tasks get too; `None` for unknown,
    /// `u64::MAX` for no limit.
    pub daemon_nproc: Option<u64>,
    /// The cgroup on containerd's way up with the least room for processes; `None` for unknown or no bound.
    pub daemon_pids: Option<PidsFacts>,
    /// `fs.inotify.max_user_instances`.
    pub inotify: Option<u64>,
    /// Kinds of namespaces of which the kernel was told to allow none (`user.max_…_namespaces`).
    pub no_namespaces: Vec<String>,
}

/// A cgroup that bounds processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PidsFacts {
    /// Its path in the hierarchy.
    pub cgroup: String,
    /// `pids.max`.
    pub max: u64,
    /// `pids.current`.
    pub current: u64,
}

/// A file system that is written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    /// What is kept there, e.g. `snapshots`.
    pub what: String,
    /// The directory.
    pub path: String,
    /// Its numbers, or why they cannot be had.
    pub free: Result<Free, String>,
}

/// Room in a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Free {
    /// Bytes that may be written.
    pub bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
    /// Files that may be made.
    pub inodes: u64,
    /// Files in all; 0 where the file system does not count them.
    pub total_inodes: u64,
}

/// The time. Seconds since the Unix epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClockFacts {
    /// Now.
    pub now: i64,
    /// When this program was written to the disk: now cannot be before that.
    pub not_before: i64,
    /// Whether systemd's time service has set it since the machine has started; `None` where that does not run.
    pub synchronised: Option<bool>,
}

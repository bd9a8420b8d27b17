//! The intended differences between what containerd's Go library makes of a task and what the driver makes.
//!
//! In all patterns `*` stands for any text, and empty for nothing there.

use crate::Seen;

/// One kind of difference.
pub struct Difference {
    /// Path in the specification, as `flat` writes it.
    pub path: &'static str,
    /// Names of the cases; patterns.
    pub cases: &'static [&'static str],
    /// What Go has there.
    pub theirs: &'static str,
    /// What is there here.
    pub ours: &'static str,
    /// Why.
    pub why: &'static str,
}

impl Difference {
    pub fn explains(&self, seen: &Seen) -> bool {
        fits(self.path, &seen.path)
            && fits(self.theirs, &seen.theirs)
            && fits(self.ours, &seen.ours)
            && self.cases.iter().any(|c| fits(c, &seen.case))
    }
}

/// `*` stands for any text, all else for itself.
pub fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text
            .strip_prefix(start)
            .is_some_and(|text| (0..=text.len()).any(|at| text.get(at..).is_some_and(|tail| fits(rest, tail)))),
    }
}

const ALL: &[&str] = &["*"];

#[rustfmt::skip]
pub const DIFFERENCES: &[Difference] = &[
    // Everywhere.
    Difference { path: "ociVersion", cases: ALL, theirs: "1.3.0", ours: "1.0.2", why: "Nothing newer is used, and runtimes of the time of containerd 1.6 refuse a newer one." },
    Difference { path: "hostname", cases: ALL, theirs: "8e2ac4a7-6a5d-4a0c-9b6f-3f1d2c5b7e90.*.scope", ours: "*-8e2ac4a7", why: "The Go driver's name is the container's, too long for `sethostname` from a task name of 22 letters on, and no valid name in DNS." },
    Difference { path: "hostname", cases: &["plain-v1", "memory-swappiness"], theirs: "web-8e2ac4a7-6a5d-4a0c-9b6f-3f1d2c5b7e90", ours: "web-8e2ac4a7", why: "The same name on every node." },
    Difference { path: "linux.cgroupsPath", cases: ALL, theirs: "/nomad*", ours: "/nomad*-8e2ac4a7-6a5d-4a0c-9b6f-3f1d2c5b7e90-0a1b2c3d", why: "Named after the task's id, which is also another one after a restart." },
    Difference { path: "linux.cgroupsPath", cases: &["long-task-name"], theirs: "/nomad.slice/*", ours: "/nomad.slice/a-task-with-a-name-that-h*", why: "Likewise; containerd takes no name of more than 76 letters." },
    Difference { path: "linux.cgroupsPath", cases: &["cores"], theirs: "/nomad.slice/8e2ac4a7-6a5d-4a0c-9b6f-3f1d2c5b7e90.web.scope", ours: "/nomad.slice/reserve.slice/8e2ac4a7-6a5d-4a0c-9b6f-3f1d2c5b7e90.web.scope", why: "With cgroup v2 the scope that Nomad made, where there is one, so that `cores` counts." },
    Difference { path: "linux.cgroupsPath", cases: &["shared-cores-cgroup"], theirs: "/nomad.slice/8e2ac4a7-6a5d-4a0c-9b6f-3f1d2c5b7e90.web.scope", ours: "/nomad.slice/share.slice/8e2ac4a7-6a5d-4a0c-9b6f-3f1d2c5b7e90.web.scope", why: "Likewise." },
    Difference { path: "linux.cgroupsPath", cases: &["systemd-cgroup"], theirs: "/nomad.slice/8e2ac4a7-6a5d-4a0c-9b6f-3f1d2c5b7e90.web.scope", ours: "nomad.slice:containerd-driver:*-8e2ac4a7-6a5d-4a0c-9b6f-3f1d2c5b7e90-0a1b2c3d", why: "With `systemd_cgroup`, which the Go driver does not have, systemd makes the cgroup: slice, prefix and name, as with nerdctl and Docker's daemon." },
    Difference { path: "mounts./run", cases: ALL, theirs: "tmpfs tmpfs *", ours: "", why: "It hides what the image has there, such as the directory for a database's socket; nerdctl, Docker's daemon and containerd's CRI plugin have none (`oci.WithoutRunMount`)." },
    Difference { path: "mounts./run.options.tmpcopyup", cases: &["readonly-rootfs", "readonly-rootfs-with-volumes", "job-capabilities"], theirs: "", ours: "there", why: "Where the root is read-only something has to be writable, with a copy of what the image has there." },
    Difference { path: "process.env.HOSTNAME", cases: ALL, theirs: "", ours: "*", why: "The own name, as Docker's daemon sets it; what image or job say counts before it." },
    Difference { path: "linux.resources.devices.then allow c *", cases: ALL, theirs: "", ours: "rwm", why: "The devices that each container has are allowed here; runc adds the same rules by itself, other runtimes do not (`oci.WithDefaultUnixDevices`)." },
    Difference { path: "process.oomScoreAdj", cases: ALL, theirs: "", ours: "0", why: "Else a task would inherit the score of the shim, which containerd lowers." },
    Difference { path: "process.rlimits.RLIMIT_NOFILE.*", cases: ALL, theirs: "1024", ours: "1048576", why: "1024 open files are too few for servers; as Docker and systemd give (containerd issue 7495)." },
    Difference { path: "mounts./sys/fs/cgroup", cases: ALL, theirs: "", ours: "cgroup cgroup *", why: "Programs read their own limits there (`oci.WithMounts` in containerd's CRI plugin and in Docker); read-only unless privileged." },
    Difference { path: "mounts./alloc/logs", cases: ALL, theirs: "", ours: "bind * rbind,ro,rprivate", why: "A task that can write there can lead the agent's log collection to other files (CVE-2026-6959)." },
    Difference { path: "mounts./*.options.rprivate", cases: ALL, theirs: "", ours: "there", why: "Said aloud, since the default depends on the root of the container; a mount of the task must not reach the host." },
    Difference { path: "mounts./etc/hosts.source", cases: ALL, theirs: "*/local/etc_hosts", ours: "*/hosts", why: "Not in a directory of the task, which could put a link to another file in its place." },
    Difference { path: "mounts./etc/resolv.conf.source", cases: &["group-dns", "task-dns"], theirs: "*/web/resolv.conf", ours: "/run/containerd-driver/*/resolv.conf", why: "Likewise." },
    Difference { path: "linux.namespaces.cgroup", cases: ALL, theirs: "", ours: "there", why: "With cgroup v2 a container sees its own cgroup as the root and not its place on the host, as with Docker; `cgroupns = \"host\"` brings the old back." },
    Difference { path: "mounts./etc/hostname", cases: ALL, theirs: "", ours: "bind */hostname *", why: "The image's own file, if any, would have another name than `gethostname` gives." },
    Difference { path: "hostname", cases: &["uts-host"], theirs: "*", ours: "", why: "The host's name is not to be changed; runc refuses to." },
    // Process.
    Difference { path: "refused", cases: &["command-with-entrypoint"], theirs: "Both command and entrypoint are set. Only one of them needs to be set.", ours: "", why: "Together they are as in Nomad's Docker and Podman drivers: one after the other." },
    Difference { path: "refused", cases: &["entrypoint-empty"], theirs: "the Go driver dies of an empty entrypoint", ours: "", why: "An empty list counts as not given." },
    Difference { path: "process.cwd", cases: &["image-cwd-relative"], theirs: "srv", ours: "/srv", why: "The OCI specification wants an absolute path; Docker takes it from the root too." },
    Difference { path: "process.env.PATH", cases: &["env-path"], theirs: "=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", ours: "=/opt/bin:/bin", why: "The Go driver drops the job's own PATH." },
    Difference { path: "process.args", cases: &["init", "init-path"], theirs: "[\"/sbin/tini\",\"--\",\"sh\"]", ours: "[\"/dev/init\",\"--\",\"sh\"]", why: "An image need not have /sbin." },
    Difference { path: "mounts./sbin/tini", cases: &["init", "init-path"], theirs: "bind * bind,ro", ours: "", why: "The same program, in /dev." },
    Difference { path: "mounts./dev/init", cases: &["init", "init-path"], theirs: "", ours: "bind *", why: "An image need not have /sbin." },
    Difference { path: "refused", cases: &["user-nomad-dynamic"], theirs: "no users found", ours: "", why: "The name of a dynamic user of Nomad says its number; it is in no image." },
    Difference { path: "process.user.additionalGids.*", cases: &["user-with-groups", "user-number"], theirs: "", ours: "there", why: "The Go driver loses the groups of the job's user (`oci.WithUser` without `oci.WithAdditionalGIDs`)." },
    Difference { path: "process.user.additionalGids.10", cases: &["user-of-image-with-group"], theirs: "there", ours: "", why: "With a group named, that group is all, as in Docker." },
    // Isolation.
    Difference { path: "mounts./dev/mqueue.type", cases: &["ipc-host"], theirs: "bind", ours: "mqueue", why: "A queue file system shows the IPC namespace that it is mounted in: with the host's, the host's queues. So the host need not have it at /dev/mqueue (Docker binds that)." },
    Difference { path: "mounts./dev/mqueue.source", cases: &["ipc-host"], theirs: "/dev/mqueue", ours: "mqueue", why: "Likewise." },
    Difference { path: "mounts./dev/mqueue.options.rbind", cases: &["ipc-host"], theirs: "there", ours: "", why: "Likewise." },
    // Resources.
    Difference { path: "linux.resources.memory.limit", cases: &["memory-max-unlimited"], theirs: "268435456", ours: "", why: "`memory_max = -1` means no hard limit; the Go driver does not know it." },
    Difference { path: "linux.resources.memory.reservation", cases: &["memory-max-unlimited"], theirs: "", ours: "268435456", why: "The memory of the job is what is kept for it." },
    Difference { path: "linux.resources.memory.swap", cases: &["memory-swap-accounted"], theirs: "", ours: "268435456", why: "Memory and swap together as much as memory: no swap, as in Nomad's other drivers. The Go driver leaves swap without limit." },
    Difference { path: "linux.resources.cpu.shares", cases: &["cpu-tiny"], theirs: "1", ours: "2", why: "The kernel takes no less than 2." },
    Difference { path: "linux.resources.cpu.shares", cases: &["cpu-huge"], theirs: "300000", ours: "262144", why: "The kernel takes no more." },
    Difference { path: "linux.resources.pids.limit", cases: &["pids-limit-of-plugin"], theirs: "", ours: "500", why: "The plugin's `pids_limit` counts for tasks that say nothing." },
    // Devices.
    Difference { path: "linux.devices./dev/fuse again*", cases: &["job-hello-privileged"], theirs: "*", ours: "", why: "A privileged container has all devices already." },
    Difference { path: "mounts./usr/lib/libgpu.so.type", cases: &["device-cdi"], theirs: "", ours: "bind", why: "Without a type, a mount of a CDI file is one of a path of the host; runtimes go by the options, but not all take a mount without a type." },
    // Mounts.
    Difference { path: "mounts./data.type", cases: &["mount-volume-type"], theirs: "volume", ours: "bind", why: "`volume` is no file system; runc takes it as a bind for the sake of `rbind`, others do not." },
    Difference { path: "mounts./*.source", cases: &["mount-tmpfs-without-source", "mount-docker-form"], theirs: "", ours: "tmpfs", why: "A name for /proc/mounts." },
    Difference { path: "linux.rootfsPropagation", cases: &["mount-propagation", "nomad-volume-bidirectional"], theirs: "", ours: "shared", why: "A mount can only be shared beneath a root that is; runc would refuse (as in Docker's daemon, but not recursively: crun would make all mounts shared)." },
    Difference { path: "linux.rootfsPropagation", cases: &["mount-docker-form"], theirs: "", ours: "rslave", why: "Likewise." },
    Difference { path: "mounts./csi.options.rshared", cases: &["nomad-volume-bidirectional"], theirs: "", ours: "there", why: "The Go driver ignores `propagation_mode`, so CSI node plugins do not work." },
    Difference { path: "refused", cases: &["mount-twice"], theirs: "", ours: "option mounts*: *", why: "Of two mounts at one place only the second would be seen." },
    Difference { path: "mounts./etc/resolv.conf again", cases: &["mount-over-resolv-conf"], theirs: "bind /etc/resolv.conf rbind,ro", ours: "", why: "The job's own file counts, and was hidden by the host's." },
    Difference { path: "mounts.order./etc/resolv.conf /etc/resolv.conf", cases: &["mount-over-resolv-conf"], theirs: "in this order", ours: "", why: "Likewise." },
    Difference { path: "mounts./data", cases: &["readonly-rootfs-with-volumes"], theirs: "", ours: "tmpfs tmpfs *", why: "What the image means to write is writable, in memory, under a root that is not." },
    // Network.
    Difference { path: "mounts./etc/resolv.conf again", cases: &["network-host", "network-mode-host", "network-host-extra-hosts"], theirs: "bind /etc/resolv.conf rbind,ro", ours: "", why: "The Go driver mounts it twice." },
    Difference { path: "mounts.order./etc/resolv.conf /etc/resolv.conf", cases: &["network-host", "network-mode-host", "network-host-extra-hosts"], theirs: "in this order", ours: "", why: "The Go driver mounts it twice." },
    Difference { path: "mounts./etc/hosts again", cases: &["network-host-extra-hosts"], theirs: "bind */local/etc_hosts rbind,rw", ours: "", why: "Once, with the host's lines and those of the job." },
    Difference { path: "mounts.order./etc/hosts /etc/hosts", cases: &["network-host-extra-hosts"], theirs: "in this order", ours: "", why: "Once." },
    Difference { path: "mounts./etc/hosts.*", cases: &["network-host-extra-hosts"], theirs: "*", ours: "*", why: "The Go driver has two mounts, and the second is compared above." },
    Difference { path: "mounts./etc/hosts.source", cases: &["network-host", "network-mode-host"], theirs: "/etc/hosts", ours: "*/.containerd-driver/hosts", why: "A copy of the host's file with the own name, which the host does not know; as with Docker it can be written." },
    Difference { path: "mounts./etc/hosts.options.ro", cases: &["network-host", "network-mode-host"], theirs: "there", ours: "", why: "Likewise." },
    Difference { path: "mounts./etc/hosts.options.rw", cases: &["network-host", "network-mode-host"], theirs: "", ours: "there", why: "Likewise." },
    // The strict profile.
    Difference { path: "refused", cases: &["strict-privileged", "strict-capability", "strict-host-path", "strict-pid-host", "strict-network-host", "strict-device", "strict-seccomp-off", "strict-pids-over-ceiling"], theirs: "", ours: "option *", why: "A gate is closed." },
    Difference { path: "linux.seccomp.*", cases: &["strict-*"], theirs: "", ours: "*", why: "With `security_profile = \"strict\"` the default filter is on." },
    Difference { path: "process.apparmorProfile", cases: &["strict-apparmor-default"], theirs: "", ours: "docker-default", why: "With `security_profile = \"strict\"` a default profile is on where the kernel has one." },
    Difference { path: "process.capabilities.*.CAP_NET_RAW", cases: &["strict-*"], theirs: "there", ours: "", why: "With `security_profile = \"strict\"` a task has what `allow_caps` allows, which is Docker's set without NET_RAW (CVE-2021-32575)." },
];

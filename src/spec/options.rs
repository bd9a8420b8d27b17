//! Driver options of a task: the `config` block of a job.
//!
//! Names and types are those of the Go containerd driver 0.9.3, whose job files run unchanged; the others are those of
//! Nomad's Docker and Podman drivers where they have one.

use super::auth::Auth;
use super::elsewhere::Elsewhere;
use super::error::SpecError;
use super::schema::Schema;
use super::table::{self, OptionDoc, options};
use std::collections::BTreeMap;
use std::time::Duration;

options! {
    /// Decoded driver options of a task. Field names are option names.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct TaskOptions {
        /// Image reference as for `docker pull`, with tag or digest.
        image: String = String::new() => required;
        /// Longest time a pull may take, as a Go duration. Without it the plugin setting of the same name counts.
        image_pull_timeout: Option<Duration> = None;
        /// When the registry is asked: `if-not-present`, `always` or `never`, which needs the image on the node. Without it
        /// the plugin setting counts; where that says nothing either, `if-not-present`, and for the tag `latest` (or none)
        /// `always`, except that an image on the node is taken while the registry cannot be reached. An image on the node
        /// that is named by its digest is never asked for.
        image_pull_policy: Option<String> = None;
        /// The same as `image_pull_policy = "always"`. Not together with another one.
        force_pull: bool = false;
        /// Take the image from an archive that came with the task, as an artifact, and not from a registry: path of the output
        /// of `docker save` or of an OCI layout in a tar file, plain or compressed with gzip or zstd, in the task's `local`
        /// directory or, if it is not there, in the task directory. No link is followed. `image` names one of its images, or
        /// names its only one if that has no name. What is loaded counts only for tasks with this option.
        load: Option<String> = None;
        /// Credentials for the registry of this image. They come before those of the plugin configuration.
        auth: Option<Auth> = None;
        /// Go on without the credentials that cannot be had, because a program or a file fails. A registry without credentials
        /// in either, such as one of public images, is no failure and does not need it.
        auth_soft_fail: bool = false;
        /// containerd runtime of this task: a name out of `allow_runtimes`. Without it `containerd_runtime` counts.
        runtime: Option<String> = None;
        /// containerd snapshotter for this task's root file system. Without it the plugin setting counts.
        snapshotter: Option<String> = None;

        /// Program to run, after the image's ENTRYPOINT or `entrypoint`; the image's CMD is then ignored.
        command: Option<String> = None;
        /// Arguments after `command` or `entrypoint`, or in place of the image's CMD.
        args: Vec<String> = Vec::new();
        /// Replaces ENTRYPOINT and CMD of the image; `command` and `args` come after it. One text is a list of one. An empty
        /// list counts as not given; `[""]` leaves the image's out with nothing in their place.
        entrypoint: Entrypoint = Entrypoint::default();
        /// Working directory, absolute; made if missing. Without it the image's, else `/`.
        cwd: Option<String> = None, work_dir, working_dir;
        /// Host name, at most 64 characters. Without it one is made of task name and allocation id. `hostname` in the group's
        /// `network` block is refused by Nomad itself for this driver.
        hostname: Option<String> = None;
        /// Groups, by name in the image's `/etc/group` or number, that the process has besides those of its user.
        group_add: Vec<String> = Vec::new();
        /// Run a small init program as process 1, which reaps orphans and passes signals on: that of `init_path`, else
        /// that of the plugin setting of this name. Not together with `pid_mode = "host"`.
        init: bool = false;
        /// Absolute path on the host of the program for `init`, with which alone it is allowed. Needs
        /// `volumes { enabled }`.
        init_path: Option<String> = None;
        /// Give the process a terminal. Standard error then comes with standard output.
        tty: bool = false;
        /// Keep standard input open, without anything to read. Without it, it is at its end from the beginning.
        interactive: bool = false;
        /// Resource limits as `name = "soft:hard"` or one number for both; -1 for no limit. `nofile` is as high as
        /// containerd can give, up to 1048576, where nothing is said. Names are `as`, `core`, `cpu`, `data`, `fsize`,
        /// `locks`, `memlock`, `msgqueue`, `nice`, `nofile`, `nproc`, `rss`, `rtprio`, `rttime`, `sigpending`, `stack`.
        /// `rtprio` above 0 needs `allow_caps` with `SYS_NICE` in it; `nice` and `memlock` need nothing, since they reach no
        /// further than the task's own CPU shares and memory.
        ulimit: BTreeMap<String, String> = BTreeMap::new();
        /// Labels on the container in containerd, key and value of at most 4096 bytes together. Keys beginning with
        /// `containerd-driver/`, `containerd.io/`, `nomad/`, `io.containerd` or `io.cri-containerd` are refused.
        labels: BTreeMap<String, String> = BTreeMap::new();
        /// Annotations in the OCI specification, for runtimes and hooks. Keys beginning with `io.containerd.` or
        /// `containerd-driver/` are refused; those by which a runtime is told to do more than to run a container, as
        /// `run.oci.` and `org.systemd.property.`, need `allow_privileged`.
        annotations: BTreeMap<String, String> = BTreeMap::new();

        /// All capabilities and devices of the host, writable `/sys`, nothing masked. Needs `allow_privileged`.
        privileged: bool = false;
        /// Capabilities to add to the default set, with or without `CAP_`; `ALL` for all. Needs `allow_caps`.
        cap_add: Vec<String> = Vec::new();
        /// Capabilities to take away, after `cap_add`, over which it wins; `ALL` empties the default set first instead.
        cap_drop: Vec<String> = Vec::new();
        /// Use containerd's default seccomp profile (`true`) or none (`false`). Without it the `security_profile`
        /// decides; `false` may need `allow_unconfined`. A privileged task has none unless it says `true`.
        seccomp: Option<bool> = None;
        /// Path of a seccomp profile in Docker's or the OCI's JSON form: on the host, or inside the task directory if
        /// relative. With `go-driver` only together with `seccomp = true`. Needs `allow_unconfined`.
        seccomp_profile: Option<String> = None;
        /// AppArmor profile loaded on the host, or `unconfined`. Without it, in the `strict` profile, the first of
        /// `containerd-driver-default`, `cri-containerd.apparmor.d` and `docker-default` that is loaded. All but these need
        /// `allow_unconfined`, and so do they where they are not enforced: most profiles of a host are for a program of its own.
        apparmor_profile: Option<String> = None, apparmor;
        /// Whether programs cannot gain privileges, such as by set-user-id. Without it true, unless `privileged`.
        no_new_privileges: Option<bool> = None;
        /// Docker's form of the above: `seccomp=PATH`, `seccomp=unconfined`, `apparmor=NAME`, `no-new-privileges`,
        /// `systempaths=unconfined`, `mask=PATH:…`, `unmask=PATH:…` or `unmask=ALL`, and, where there is SELinux,
        /// `label=type:…` and the like.
        security_opt: Vec<String> = Vec::new();
        /// Mount the root file system read-only. VOLUMEs of the image are then writable in memory.
        readonly_rootfs: bool = false;
        /// Process namespace: `host` shares the host's, `private` is the default. Needs `allowed_modes`.
        pid_mode: Option<String> = None;
        /// IPC namespace: `host`, `private` (the default), or `none`, which is private without `/dev/shm`. Needs
        /// `allowed_modes` for `host`.
        ipc_mode: Option<String> = None;
        /// UTS namespace: `host` shares the host's name, `private` is the default. Needs `allowed_modes` for `host`. Not
        /// together with `hostname`.
        uts_mode: Option<String> = None;
        /// Cgroup namespace: `private` (the default with cgroup v2) or `host` (the default with cgroup v1).
        /// `host` needs `allowed_modes` with cgroup v2.
        cgroupns: Option<String> = None;
        /// User namespace: `host` (the default) or `private`, with ids of `userns_ids`; `auto` and `auto:size=N` are Podman's
        /// words for it. The root file system is mapped to them,
        /// what is bound into it, such as the task directories, is not. Not together with `privileged`,
        /// `pid_mode = "host"`, `ipc_mode = "host"` or the host's network; the host's name and cgroup tree can be shared.
        /// User and groups are ids below the number in `userns_ids`, and devices keep their paths of the host. The group's
        /// network stays the host's: `net.*` of `sysctl` is refused there, root cannot use ports below 1024, and runc 1.1 runs no
        /// commands (`alloc exec`, script checks) in such a task; crun does.
        userns: Option<String> = None, userns_mode;
        /// Operating system of the image: `linux`. Podman's name; images for the node are taken in any case.
        os: Option<String> = None;
        /// Architecture of the image: the node's own, such as `amd64`.
        arch: Option<String> = None;
        /// Variant of that architecture, such as `v8` of `arm64`: the one that all nodes of it can run.
        variant: Option<String> = None;

        /// Bound CPU time by the share of the node's compute that the job asked for, instead of sharing what is idle.
        cpu_hard_limit: bool = false;
        /// Period of that bound in microseconds, 1000 to 1000000. Without it 100000.
        cpu_cfs_period: Option<i64> = None;
        /// Hard limit of memory in MiB, at least the `memory` of the job, which is then a reservation. The greater of
        /// this and `memory_max` counts; it changes nothing where `memory_max` is -1.
        memory_hard_limit: Option<i64> = None;
        /// Reservation (soft limit) of memory as a size, such as `64m`, up to the hard limit.
        memory_reservation: Option<String> = None;
        /// Memory and swap together as a size, at least the hard limit; `-1` for swap without limit. Without it, or with
        /// 0, no swap.
        memory_swap: Option<String> = None;
        /// How readily the kernel swaps, 0 to 100. Only with cgroup v1.
        memory_swappiness: Option<i64> = None;
        /// Score for the kernel's choice when memory is short, -1000 to 1000. Below 0, where others of the node are killed
        /// in the task's place, it needs `allow_caps` with `SYS_RESOURCE` in it.
        oom_score_adj: Option<i64> = None;
        /// Most processes and threads in the container; -1 for no limit. Without it, or with 0, the plugin's `pids_limit`, which
        /// it may not exceed.
        pids_limit: Option<i64> = None;
        /// Limits of huge pages as `size = "limit"`, such as `2MB = "64M"`.
        hugepage_limits: BTreeMap<String, String> = BTreeMap::new();
        /// Weight of block I/O among containers, 10 to 1000; 0 counts as not given.
        blkio_weight: Option<i64> = None;
        /// Size of `/dev/shm` in binary units, such as `128M`. Without it, or with 0, 64 MiB. Not together with an `ipc_mode`
        /// that has no `/dev/shm` of the container's own, `host` and `none`. A mount of the job at `/dev/shm` counts before it.
        shm_size: Option<String> = None;
        /// Kernel parameters of the container's namespaces: `net.*`, `fs.mqueue.*`, `kernel.msg*`, `kernel.shm*`,
        /// `kernel.sem` and `kernel.domainname`. Those of a namespace that is shared with the host are refused, and so is
        /// all else, `user.*` too: runc and crun do not set it. A runtime with a kernel of its own may, with
        /// `security_profile = "go-driver"`.
        sysctl: BTreeMap<String, String> = BTreeMap::new();

        /// Host devices, or directories of them: each a path, `host:container:permissions`, a CDI name such as
        /// `vendor.com/gpu=0`, or a block. Needs `allow_devices`. A CDI file that mounts something where the job does is
        /// refused; its variables count before those of the job, of Nomad's device plugins and of the image, as NVIDIA's
        /// `NVIDIA_VISIBLE_DEVICES=void` must.
        devices: Vec<DeviceOption> = Vec::new();
        /// Device cgroup rules such as `c 10:229 rwm`, for devices that appear later: type `c` or `b`, numbers or `*`,
        /// and permissions; `a *:* rwm` for all. Needs `allow_devices` with the text of the rule.
        device_cgroup_rules: Vec<String> = Vec::new();
        /// Mounts of host paths or of other file systems. Other paths than those below the task directory (but for `private`
        /// and `.containerd-driver` in it) and in the shared `alloc` (but for the logs) need `volumes { enabled }`, and so do
        /// all types but `bind`, `volume` and `tmpfs`, and targets in `/proc`, `/sys` and `/dev`, but for `tmpfs` below `/dev`.
        mounts: Vec<MountOption> = Vec::new(), mount;
        /// Host paths to mount, each `source:target` or `source:target:options`; a relative source is inside the task
        /// directory, one that begins with `../alloc/` inside the group's shared directory, and must be there. Options,
        /// separated by commas, are `ro`, `rro`, `rw`, `z`, `Z` (the same as `z`), `nosuid`, `nodev`, `noexec` and the
        /// like, and ways to propagate, of which `rprivate` is the default. What
        /// needs `volumes { enabled }` is as with `mounts`: other paths, and targets in `/proc`, `/sys` and `/dev`.
        volumes: Vec<String> = Vec::new();
        /// File systems in memory, each `target` or `target:options`, such as `/tmp:size=64m,mode=1777`. Without the
        /// words `exec`, `suid` and `dev` they are `noexec`, `nosuid` and `nodev`; without a size, half of the memory of
        /// the node; without a mode, that of the image's directory (with crun 1777), or 1777 where it has none. What is in them counts as
        /// memory of the task.
        tmpfs: Vec<String> = Vec::new();

        /// Use the host's network and its `/etc/resolv.conf`, which is then read-only. `/etc/hosts` has the host's lines as they
        /// are when the task starts, and the own name. Not together with a group network. Needs `allowed_modes`.
        host_network: bool = false;
        /// `host` is `host_network = true`, `none` only has loopback, whatever the group has; without it the group's
        /// network, else loopback. `bridge` is the group's to have: `network { mode = "bridge" }`.
        network_mode: Option<String> = None;
        /// Show the host's `/etc/resolv.conf`, unless group, task or plugin configuration name servers. In another network than
        /// the host's, servers on loopback are left out, since they answer nobody there; where there are no others, the
        /// upstream servers of systemd-resolved count, and without those 8.8.8.8 and 8.8.4.4, as with Docker: `dns_servers` in
        /// the plugin configuration names others. `false` leaves the image's file; it
        /// changes nothing in the host's network, where the names are the host's too. A mount of the job at
        /// `/etc/resolv.conf` counts before this and all that follows.
        host_dns: bool = true;
        /// IP addresses of name servers, unless the group has a `dns` block. Without it the plugin setting counts.
        dns_servers: Vec<String> = Vec::new();
        /// Search domains, unless the group has a `dns` block.
        dns_search_domains: Vec<String> = Vec::new();
        /// Resolver options, unless the group has a `dns` block.
        dns_options: Vec<String> = Vec::new();
        /// Lines for `/etc/hosts`, each `name:address`; `host-gateway` as address is the host as the container
        /// sees it: the default gateway of the group's network, else the node's own address. The task may
        /// write the file, on the disk of its allocation; without one, as with `containerd-driver run`, it is read-only. A
        /// mount of the job at `/etc/hosts` counts before it.
        extra_hosts: Vec<String> = Vec::new();
        /// Labels of ports in the group's `network` block of mode `bridge`, which maps them: the list opens and closes none. A
        /// label that the block does not have is refused. With `host_network = true` nothing needs to be mapped, and a label
        /// is looked for only if Nomad gave the task any port. Without either the task has a loopback interface only, and any
        /// label is refused: no container is given a network of the driver's.
        ports: Vec<String> = Vec::new();

        /// Taken and not used: a name that is still in use is waited for without it.
        container_exists_attempts: Option<i64> = None;
        /// Refused, but for `healthchecks { disable = true }`, which is so anyway: the HEALTHCHECK of an image is never run. A
        /// `check` block in the job's `service` block is.
        healthchecks: Elsewhere = Elsewhere;
        /// Who collects what the task writes: `none` for nobody, else what the plugin setting of this name says.
        log_collection: Option<String> = None;
        /// Most log files of a stream where the driver writes them. Without it the plugin setting counts.
        log_max_files: Option<i64> = None;
        /// Most bytes of such a file, as a number of MiB or in binary units such as `512k`. Without it the plugin setting counts.
        log_max_file_size: Option<String> = None;
        /// `raw` or `json`, where the driver writes the logs. Without it the plugin setting counts.
        log_format: Option<String> = None;
        /// Most bytes per second of a stream, such as `512k`, where the driver writes the logs; 0 for no limit. Without it the plugin
        /// setting counts.
        log_rate_limit: Option<String> = None;
        /// Refused, but for `driver = "nomad"`, which is so anyway: output goes to Nomad, and a `logs` block in the task says
        /// how much is kept; or to the driver, with `log_collection`.
        logging: Elsewhere = Elsewhere;
        /// Refused: the size of a root file system is the snapshotter's. See `ephemeral_disk` and `tmpfs`.
        storage_opt: Elsewhere = Elsewhere;
        /// Refused: `volumes` and `mounts` take paths. Other volumes are Nomad's, by `volume` and `volume_mount` blocks.
        volume_driver: Elsewhere = Elsewhere;
        /// Refused: a `port` block in the group's `network` block maps a port.
        port_map: Elsewhere = Elsewhere;
        /// Refused: no network here gives names to tasks. A `service` block does.
        network_aliases: Elsewhere = Elsewhere;
        /// Refused: addresses are given by the CNI plugin that makes the group's network.
        ipv4_address: Elsewhere = Elsewhere;
        /// Refused, as `ipv4_address`.
        ipv6_address: Elsewhere = Elsewhere;
        /// Refused, as `ipv4_address`.
        mac_address: Elsewhere = Elsewhere;
        /// Refused, as `ipv4_address`.
        static_ips: Elsewhere = Elsewhere;
        /// Refused, as `ipv4_address`.
        static_mac: Elsewhere = Elsewhere;
        /// Refused, but for `false`: the `service` block says which address is advertised.
        advertise_ipv6_address: Elsewhere = Elsewhere;
        /// Refused: `cores` in the `resources` block gives the task cores of its own.
        cpuset_cpus: Elsewhere = Elsewhere;
        /// Refused, but for `default`: it is for Windows. See `runtime`.
        isolation: Elsewhere = Elsewhere;
        /// Refused: see `security_opt`, with `label=` before each.
        selinux_opts: Elsewhere = Elsewhere;
        /// Refused, but for `default`: there is one containerd for all tasks.
        socket: Elsewhere = Elsewhere;
    }
}

/// What replaces an image's ENTRYPOINT: a list, or a text as in Nomad's Podman driver.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entrypoint(pub Vec<String>);

options! {
    /// One `mounts` block, in the Go driver's form or in Docker's.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct MountOption {
        @at;
        /// `volume` or `bind` for a host path, else a file system type such as `tmpfs`.
        r#type: String = "volume".to_owned();
        /// Absolute path in the container.
        target: String = String::new() => required;
        /// Host path; a relative one, such as `local/app.conf`, is inside the task directory, one that begins with
        /// `../alloc/` inside the group's shared directory.
        source: String = String::new();
        /// Mount options as in fstab, such as `rbind` and `ro`. In a `mounts` block a host path needs them, or
        /// `readonly` or `bind_options`; a `mount` block is as in Docker without them, `rbind` and `rw`.
        /// Unknown ones are refused for host paths and `tmpfs`, and so are those that contradict each other. `ro` is about
        /// the mount itself, `rro` (Linux 5.12, runc 1.1) also about what is mounted below its source.
        options: Vec<String> = Vec::new();
        /// Mount read-only, as the option `ro` does.
        readonly: Option<bool> = None;
        /// How mounts propagate.
        bind_options: Option<BindOptions> = None;
        /// Size and mode of a file system in memory.
        tmpfs_options: Option<TmpfsOptions> = None;
        /// What other drivers know of volumes of their own. There are none here.
        volume_options: Option<VolumeOptions> = None;
    }
}

options! {
    /// A `bind_options` block.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct BindOptions {
        /// `private`, `rprivate`, `slave`, `rslave`, `shared`, `rshared`, `unbindable` or `runbindable`. For `shared` and
        /// `rshared` the source must be in a mount that is shared on the host; for `slave` and `rslave` too, or nothing
        /// arrives.
        propagation: Option<String> = None;
    }
}

options! {
    /// A `tmpfs_options` block.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct TmpfsOptions {
        /// Bytes, a size in binary units, or a share of the node's memory such as `10%`; 0 for not given.
        size: Option<String> = None;
        /// Permission bits as a decimal number, such as `511` for 0777. Without it, or with 0, 1777,
        /// whatever the image has there; where the mount is read-only, what the runtime gives it.
        mode: Option<i64> = None;
    }
}

options! {
    /// A `volume_options` block, as in Nomad's Docker driver.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct VolumeOptions {
        /// Whether the image's files are left out of a new volume. Taken and not used: host paths are never changed.
        no_copy: Option<bool> = None;
        /// Labels of a volume: refused.
        labels: BTreeMap<String, String> = BTreeMap::new();
        /// Volume driver: refused. Volumes are Nomad's, by `volume_mount`.
        driver_config: Option<DriverConfig> = None;
    }
}

options! {
    /// A `driver_config` block inside of `volume_options`.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct DriverConfig {
        /// Name of a volume driver: refused.
        name: String = String::new();
        /// Options of a volume driver: refused.
        options: BTreeMap<String, String> = BTreeMap::new();
    }
}

options! {
    /// One `devices` block.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct DeviceOption {
        /// Path on the host, or a CDI name. In a block it is nothing but that: `host:container:permissions` is the short form's.
        host_path: String = String::new() => required;
        /// Path in the container. Without it the one on the host.
        container_path: Option<String> = None;
        /// Subset of `rwm`. Without it all.
        cgroup_permissions: Option<String> = None;
    }
}

/// The schema of the `config` block.
#[must_use]
pub fn schema() -> Vec<(String, Schema)> {
    table::schema_of::<TaskOptions>()
}

/// The options for documentation.
#[must_use]
pub fn table() -> Vec<OptionDoc> {
    table::docs_of::<TaskOptions>()
}

/// Decodes what the host sends in `TaskConfig.msgpack_driver_config`.
///
/// # Errors
/// [`SpecError::Decode`] for bytes that are no configuration, else the option, its value and what is allowed.
pub fn decode(msgpack: &[u8]) -> Result<TaskOptions, SpecError> {
    table::decode(msgpack)
}

/// The options that the job wrote under another name than their first, by the first: errors use the job's.
///
/// # Errors
/// As [`decode`].
pub fn written(msgpack: &[u8]) -> Result<BTreeMap<&'static str, &'static str>, SpecError> {
    table::written::<TaskOptions>(msgpack)
}

//! Plugin settings: the `config` block of the plugin in the agent's configuration.
//!
//! `enabled`, `containerd_runtime`, `stats_interval`, `allow_privileged` and `auth` are those of the Go driver, where
//! `containerd_runtime` was required. What the gates make of them is in `gates`.

use super::auth::PluginAuth;
use super::canary;
use super::elsewhere::Elsewhere;
use super::error::SpecError;
use super::gates::Gates;
use super::hosts;
use super::log_collection;
use super::runtime;
use super::schema::Schema;
use super::table::{self, OptionDoc, options};
use super::{image_gc, netfiles, pull, settings_check, shim_group, userns};
use std::collections::BTreeMap;
use std::time::Duration;

options! {
    /// Decoded plugin configuration.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Settings {
        /// Whether this driver offers itself to the node.
        enabled: bool = true;
        /// Path of containerd's socket.
        containerd_address: String = "/run/containerd/containerd.sock".to_owned();
        /// containerd namespace for images and containers of this driver: at most 76 letters and digits, with single `.`,
        /// `_` and `-` between them.
        containerd_namespace: String = "nomad".to_owned();
        /// containerd runtime for tasks.
        containerd_runtime: String = "io.containerd.runc.v2".to_owned();
        /// containerd snapshotter for root file systems.
        snapshotter: String = "overlayfs".to_owned();
        /// More runtimes that a task can name, as `name = "type"` or `name = "type binary"`, such as
        /// `crun-dev = "io.containerd.runc.v2 /usr/local/bin/crun"`.
        runtimes: BTreeMap<String, String> = BTreeMap::new();
        /// Runtime of tasks that have a GPU of NVIDIA by Nomad's device plugin (which has set `NVIDIA_VISIBLE_DEVICES`: one that
        /// the job sets does not count), if it is a name in `runtimes`, such as
        /// `nvidia = "io.containerd.runc.v2 nvidia-container-runtime"`. Not of tasks that name devices by CDI names; one that
        /// names another `runtime` is refused.
        nvidia_runtime: String = "nvidia".to_owned();
        /// Whether cgroups are made by systemd. Nomad's own cgroups of the tasks are then not used.
        systemd_cgroup: bool = false;
        /// Which tasks share a process of containerd's shim, of runtimes with the shim of runc: `none`, where each task has one of
        /// its own; `alloc`, those of an allocation; `node`, those of the node. A shared shim saves memory, and all of its tasks
        /// are lost with it if it dies. Counts for tasks that are started from then on.
        shim_group: String = "none".to_owned();
        /// Most tasks of one shared shim: as many are lost with it. 0 for the default.
        shim_group_max: i64 = 100;

        /// What the settings below are where nothing is said: `strict`, or `go-driver` for what the Go driver allowed.
        security_profile: String = "strict".to_owned();
        /// Whether tasks may set `privileged`. Without it `false`; with `go-driver` `true`. Such a task has the host's
        /// namespaces too if it asks for them, whatever `allowed_modes` says, and all capabilities and devices.
        allow_privileged: Option<bool> = None;
        /// Capabilities that a task can have; `ALL` for all. Without it Docker's default set without `NET_RAW`; with
        /// `go-driver` all. A list replaces that set and is not added to it: it has to name all that tasks may keep.
        /// `SYS_RESOURCE` also consents to an `oom_score_adj` below 0, `SYS_NICE` to a `ulimit` of `rtprio`.
        allow_caps: Option<Vec<String>> = None;
        /// Runtimes that a task can name; `*` stands for any text. Without it `containerd_runtime`, `runc` and those
        /// of `runtimes`. A list replaces these and is not added to them.
        allow_runtimes: Option<Vec<String>> = None;
        /// Namespaces of the host that a task can share. Each list replaces the default one of that namespace only.
        allowed_modes: Option<AllowedModes> = None;
        /// Host devices and CDI names that a task can have; `*` stands for any text. Without it none; with `go-driver`
        /// all. Devices of Nomad's device plugins are not asked for here. A list replaces what is allowed without one.
        allow_devices: Option<Vec<String>> = None;
        /// Protections that a task can do without or replace by its own: `seccomp`, `apparmor`, `selinux`, `systempaths`. Without
        /// it none; with `go-driver` all but the last, which a list replaces and is not added to.
        allow_unconfined: Option<Vec<String>> = None;
        /// Paths of the host that are not the task's own.
        volumes: Option<VolumeSettings> = None;
        /// Most processes and threads of a task that says nothing, and the most that it can ask for; 0 for no limit.
        pids_limit: i64 = 0;
        /// Ids of the host for tasks with `userns = "private"`: the first one and how many, at least 6, as `100000:65536`.
        userns_ids: Option<String> = None;

        /// Init program for tasks with `init`, the absolute path of a static binary on the node. Without it `tini-static`, `docker-init` or `catatonit`
        /// where the node has one.
        init_path: Option<String> = None;
        /// Name servers for tasks that have a network of their own, where neither group nor task names any.
        dns_servers: Vec<String> = Vec::new();
        /// Directories of CDI files; of two files with one device, the one in the later directory counts.
        cdi_spec_dirs: Vec<String> = vec!["/etc/cdi".to_owned(), "/var/run/cdi".to_owned()];
        /// More facts of the job to put on containers as labels `com.hashicorp.nomad.NAME`, beside `alloc_id`, which is always
        /// there: `job_name`, `job_id`,
        /// `parent_job_id`, `task_group_name`, `task_name`, `namespace`, `node_name`, `node_id`; `*` stands for any text.
        extra_labels: Vec<String> = Vec::new();
        /// What is done with containers of tasks that nobody asks for any more.
        reaper: Option<ReaperSettings> = None;
        /// Credentials for registries, where a task gives none for them.
        auth: Option<PluginAuth> = None;
        /// Whether a task may use a private image that is on the node only if its credentials could pull it, for which the
        /// registry is asked. Private is what this driver has pulled with credentials.
        image_auth_check: bool = true;
        /// For how long the registry's answer to that counts, as a Go duration.
        image_auth_ttl: Duration = Duration::from_secs(3600);
        /// Who collects what tasks write. `nomad`: Nomad, with a process for each task and the `logs` block of the job.
        /// `driver`: this driver, without a process for each task, into the files that `nomad alloc logs` reads; the `logs`
        /// block does not count, but for `disabled`. `none`: nobody.
        log_collection: String = log_collection::DEFAULT.to_owned();
        /// With `log_collection = "driver"`: most files of a stream of a task, from 1 to 1000; 0 for the default. With 1, whoever follows the log
        /// may miss the end of a file.
        log_max_files: i64 = log_collection::DEFAULT_FILES;
        /// With `log_collection = "driver"`: most bytes of a file, as a number of MiB or in binary units such as `512k`, at
        /// least `4k`.
        log_max_file_size: String = log_collection::DEFAULT_FILE_SIZE.to_owned();
        /// With `log_collection = "driver"`: `raw` for what tasks write as they write it, `json` for a record of each line with
        /// `log`, `stream` and `time`, as Docker's `json-file` has them. A line that comes in parts is several records, of which
        /// the last has the line break.
        log_format: String = log_collection::RAW.to_owned();
        /// With `log_collection = "driver"`: most bytes per second of a stream of a task, such as `512k`, at least `1k`; 0 for no
        /// limit. Lines above it are dropped, and a line tells how many.
        log_rate_limit: String = "0".to_owned();
        /// Time between two statistics of a task, as a Go duration, in place of the interval the host asks for.
        stats_interval: Option<Duration> = None;
        /// A tiny container that is run now and then to see whether containers can be run; if not, the node says so and
        /// is given no tasks.
        canary: Option<CanarySettings> = None;
        /// Longest time a pull may take, as a Go duration, where a task says nothing.
        image_pull_timeout: Duration = Duration::from_secs(300);
        /// Directories that say where the images of a registry come from, separated by `:`; the first that has something
        /// about a registry counts. Each has, as containerd's `config_path` and `/etc/docker/certs.d` do, a directory
        /// `HOST_PORT_`, `HOST:PORT` or `_default` with a `hosts.toml` or with certificates. Read at each pull.
        registry_config_dir: String = hosts::DEFAULT_ROOTS.to_owned();
        /// Longest time that a pull may go on without a byte from the registry, as a Go duration of at least `1s`. With
        /// `image_pull_method = "transfer"` as long as the slowest registry takes for a MiB: of less containerd tells nothing.
        image_pull_activity_timeout: Duration = Duration::from_secs(120), pull_activity_timeout;
        /// When the registry is asked, where a task says nothing: `if-not-present`, `always` or `never`. Without it
        /// `if-not-present`, and for the tag `latest` the newest as far as the registry can be reached.
        image_pull_policy: Option<String> = None;
        /// Who pulls: `transfer` is containerd's transfer service (from 2.0 on; that of 1.7 does not read
        /// `registry_config_dir`), `client` is the driver itself, `auto` is `transfer` where containerd has it, and `client`
        /// where it does not get through.
        image_pull_method: String = "auto".to_owned();
        /// Images that are pulled at once. More wait for their turn, which goes round between jobs; an image on the node
        /// waits for none. Without it, or with 0, four times the node's cores, from 4 to 16.
        image_max_pulls: Option<i64> = None;
        /// Layers that the driver has unpacked at once; what a pull by `transfer` unpacks is bounded by containerd alone.
        /// Without it, or with 0, the node's cores, from 2 to 8.
        image_max_unpacks: Option<i64> = None;
        /// What becomes of images that no container uses any more.
        image_gc: Option<ImageGcSettings> = None;
        /// Refused: what Docker's driver has in it is in `image_gc` and `reaper`, and a container goes with its task.
        gc: Elsewhere = Elsewhere;
        /// Refused, but for `false`: see `log_collection`.
        disable_log_collection: Elsewhere = Elsewhere;
        /// Refused, but for `driver = "nomad"`: see `log_collection`.
        logging: Elsewhere = Elsewhere;
        /// Refused: a task has an option of this name.
        oom_score_adj: Elsewhere = Elsewhere;
        /// Images that are pulled in the background when the plugin starts, one after the other and while no task is being
        /// started. They stay as long as they are listed.
        image_prefetch: Vec<String> = Vec::new();
        /// Where traces and metrics are sent by OTLP over gRPC, such as `http://127.0.0.1:4317`. Without it, and without
        /// the standard variables of OpenTelemetry, none are made.
        otlp_endpoint: Option<String> = None;
    }
}

impl Settings {
    /// The defaults with `security_profile = "go-driver"`.
    #[must_use]
    pub fn go_driver() -> Self {
        Self {
            security_profile: "go-driver".to_owned(),
            ..Self::default()
        }
    }

    /// The `reaper` block, or its defaults.
    #[must_use]
    pub fn reaper(&self) -> ReaperSettings {
        self.reaper.clone().unwrap_or_default()
    }

    /// The `image_gc` block, or its defaults.
    #[must_use]
    pub fn image_gc(&self) -> ImageGcSettings {
        self.image_gc.clone().unwrap_or_default()
    }
}

/// Shortest `image_gc.delay`.
pub(super) const IMAGE_GC_LEAST: Duration = Duration::from_secs(1);

/// Shortest `reaper.grace` and `reaper.period`. Below a minute it is for tests: an agent that has many tasks to recover
/// may need longer to claim the last one.
const REAPER_LEAST: Duration = Duration::from_secs(1);

/// Checks the `reaper` block.
fn check_reaper(reaper: &ReaperSettings) -> Result<(), SpecError> {
    for (option, given) in [("reaper.period", reaper.period), ("reaper.grace", reaper.grace)] {
        if given < REAPER_LEAST {
            return Err(SpecError::option(
                option,
                format!("{given:?}"),
                "a duration of at least 1s is expected (on a node with many tasks at least 1m)",
            ));
        }
    }
    Ok(())
}

options! {
    /// The `reaper` block.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct ReaperSettings {
        /// Whether they are looked for at all.
        enabled: bool = true;
        /// Whether they are only told in the log, and not removed.
        dry_run: bool = false;
        /// Time between two looks, as a Go duration of at least `1s`.
        period: Duration = Duration::from_secs(300);
        /// How old something must be, how long the plugin must have run and how long nobody must have asked for it before it
        /// is removed, as a Go duration of at least `1s`. Nomad asks for every task it knows when an agent starts: less
        /// than `1m` is not for nodes with many tasks.
        grace: Duration = Duration::from_secs(300);
    }
}

options! {
    /// The `image_gc` block.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct ImageGcSettings {
        /// Whether images are removed at all, as `gc.image` of Nomad's Docker driver. Only those go that this driver has pulled
        /// or loaded, and that no container of the namespace was made from.
        enabled: bool = true;
        /// Whether they are only told in the log, and not removed.
        dry_run: bool = false;
        /// How long an image must have had no container before it is removed, as a Go duration of at least `1s`; `gc.image_delay`
        /// of the Docker driver. A restart of the plugin does not begin it anew.
        delay: Duration = Duration::from_secs(180);
        /// Percent of the file system of containerd's snapshots. With it images stay until it is that full; then they are removed,
        /// the least recently used first. 0 for none: they go when `delay` has passed.
        high_watermark: i64 = 0;
        /// Percent down to which images are then removed; 0 for the same as `high_watermark`.
        low_watermark: i64 = 0;
        /// Images that stay: references, or texts in which `*` stands for any text, such as `busybox:*` and `ghcr.io/infra/*`.
        pinned: Vec<String> = Vec::new();
    }
}

options! {
    /// The `allowed_modes` block: per namespace the modes that a task can name; `*` stands for any text.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct AllowedModes {
        /// For `pid_mode`. Without it none; with `go-driver` `host`.
        pid: Option<Vec<String>> = None;
        /// For `ipc_mode`.
        ipc: Option<Vec<String>> = None;
        /// For `uts_mode`.
        uts: Option<Vec<String>> = None;
        /// For `cgroupns`.
        cgroup: Option<Vec<String>> = None;
        /// For `host_network` and `network_mode`. Without it none; with `go-driver` `host`.
        network: Option<Vec<String>> = None;
        /// Refused, but for `host`, which is so anyway: what Docker's setting of this name allows is what tasks have here
        /// without `userns = "private"`, and that is allowed by `userns_ids`.
        userns: Elsewhere = Elsewhere;
    }
}

options! {
    /// The `volumes` block.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct VolumeSettings {
        /// Whether tasks can mount paths of the host other than those below their task directories (but for `private` and
        /// `.containerd-driver` in them) and in the shared `alloc` directory (but for the logs), and mount over `/proc`, `/sys`
        /// and `/dev`. Without it `false`; with `go-driver` `true`.
        enabled: Option<bool> = None;
        /// SELinux label for host paths that a task mounts and for its task directories, where the kernel has SELinux:
        /// `z` for the one that containers share, or a whole label.
        selinuxlabel: Option<String> = None;
    }
}

options! {
    /// The `canary` block.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct CanarySettings {
        /// Whether it is run.
        enabled: bool = false;
        /// Image of the container, needed with `enabled`. It is pulled when it is not there, and stays.
        image: String = String::new();
        /// Program and arguments; exit code 0 is expected.
        command: Vec<String> = vec!["true".to_owned()];
        /// Time between two runs, as a Go duration, at least `timeout`. After a failure it is run more often.
        period: Duration = Duration::from_secs(300);
        /// Longest time that one run may take, as a Go duration, with the pull if there is one.
        timeout: Duration = Duration::from_secs(30);
    }
}

/// The schema of the plugin's `config` block.
#[must_use]
pub fn schema() -> Vec<(String, Schema)> {
    table::schema_of::<Settings>()
}

/// The settings for documentation.
#[must_use]
pub fn table() -> Vec<OptionDoc> {
    table::docs_of::<Settings>()
}

/// Decodes what the host sends in `SetConfig`.
///
/// # Errors
/// [`SpecError::Decode`] for bytes that are no configuration, else the option, its value and what is allowed.
pub fn decode(msgpack: &[u8]) -> Result<Settings, SpecError> {
    let settings: Settings = table::decode(msgpack)?;
    // What contradicts itself is told when the agent starts, not when a task does.
    Gates::of(&settings)?;
    runtime::default(&settings)?;
    check_reaper(&settings.reaper())?;
    userns::setting(&settings)?;
    canary::check(&settings)?;
    netfiles::servers("dns_servers", &settings.dns_servers)?;
    settings_check::check(&settings)?;
    shim_group::check(&settings)?;
    pull::check(&settings)?;
    image_gc::check(&settings)?;
    log_collection::check(&settings)?;
    Ok(settings)
}

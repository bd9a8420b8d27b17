//! Plugin settings: the `config` block of the plugin in the agent's configuration.
//!
//! `enabled`, `containerd_runtime`, `stats_interval`, `allow_privileged` and `auth` are those of the Go driver, where
//! `containerd_runtime` was required. What the gates make of them is in `gates`.

use super::error::SpecError;
use super::gates::Gates;
use super::options::Auth;
use super::runtime;
use super::schema::Schema;
use super::table::{self, OptionDoc, options};
use super::{netfiles, userns};
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
        /// containerd namespace for images and containers of this driver.
        containerd_namespace: String = "nomad".to_owned();
        /// containerd runtime for tasks.
        containerd_runtime: String = "io.containerd.runc.v2".to_owned();
        /// containerd snapshotter for root file systems.
        snapshotter: String = "overlayfs".to_owned();
        /// More runtimes that a task can name, as `name = "type"` or `name = "type binary"`, such as
        /// `crun-dev = "io.containerd.runc.v2 /usr/local/bin/crun"`.
        runtimes: BTreeMap<String, String> = BTreeMap::new();
        /// Whether cgroups are made by systemd. Nomad's own cgroups of the tasks are then not used.
        systemd_cgroup: bool = false;

        /// What the settings below are where nothing is said: `strict`, or `go-driver` for what the Go driver allowed.
        security_profile: String = "strict".to_owned();
        /// Whether tasks may set `privileged`. Without it `false`; with `go-driver` `true`.
        allow_privileged: Option<bool> = None;
        /// Capabilities that a task can have; `ALL` for all. Without it Docker's default set without `NET_RAW`; with
        /// `go-driver` all.
        allow_caps: Option<Vec<String>> = None;
        /// Runtimes that a task can name; `*` stands for any text. Without it `containerd_runtime`, `runc` and those
        /// of `runtimes`.
        allow_runtimes: Option<Vec<String>> = None;
        /// Namespaces of the host that a task can share.
        allowed_modes: Option<AllowedModes> = None;
        /// Host devices and CDI names that a task can have; `*` stands for any text. Without it none; with `go-driver`
        /// all. Devices of Nomad's device plugins are not asked for here.
        allow_devices: Option<Vec<String>> = None;
        /// Protections that a task can do without or replace by its own: `seccomp`, `apparmor`, `systempaths`. Without
        /// it none; with `go-driver` `seccomp` and `apparmor`.
        allow_unconfined: Option<Vec<String>> = None;
        /// Paths of the host that are not the task's own.
        volumes: Option<VolumeSettings> = None;
        /// Most processes and threads of a task that says nothing, and the most that it can ask for; 0 for no limit.
        pids_limit: i64 = 0;
        /// Ids of the host for tasks with `userns = "private"`: the first one and how many, as `100000:65536`.
        userns_ids: Option<String> = None;

        /// Init program for tasks with `init`, a static binary. Without it `tini-static`, `docker-init` or `catatonit`
        /// where the node has one.
        init_path: Option<String> = None;
        /// Name servers for tasks that have a network of their own, where neither group nor task names any.
        dns_servers: Vec<String> = Vec::new();
        /// Directories of CDI files; of two files with one device, the one in the later directory counts.
        cdi_spec_dirs: Vec<String> = vec!["/etc/cdi".to_owned(), "/var/run/cdi".to_owned()];
        /// More facts of the job to put on containers as labels `com.hashicorp.nomad.NAME`: `job_name`, `job_id`,
        /// `parent_job_id`, `task_group_name`, `task_name`, `namespace`, `node_name`, `node_id`; `*` stands for any text.
        extra_labels: Vec<String> = Vec::new();
        /// Credentials for registries, where a task gives none.
        auth: Option<Auth> = None;
        /// Time between two statistics of a task, as a Go duration, in place of the interval the host asks for.
        stats_interval: Option<Duration> = None;
        /// Longest time a pull may take, as a Go duration, where a task says nothing.
        image_pull_timeout: Duration = Duration::from_secs(300);
        /// Where traces are sent by OTLP over gRPC, such as `http://127.0.0.1:4317`. Without it none are made.
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
    }
}

options! {
    /// The `volumes` block.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct VolumeSettings {
        /// Whether tasks can mount paths of the host other than those in their `local`, `secrets` and shared `alloc`
        /// directories. Without it `false`; with `go-driver` `true`.
        enabled: Option<bool> = None;
        /// SELinux label for host paths that a task mounts and for its task directories, where the kernel has SELinux:
        /// `z` for the one that containers share, or a whole label.
        selinuxlabel: Option<String> = None;
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
    userns::setting(&settings)?;
    netfiles::servers("dns_servers", &settings.dns_servers)?;
    Ok(settings)
}

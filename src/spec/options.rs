//! Driver options of a task: the `config` block of a job.
//!
//! Names and types are those of the Go containerd driver 0.9.3, whose job files run unchanged; `force_pull` is ours.

use super::error::SpecError;
use super::schema::Schema;
use super::secret::Secret;
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
        /// Ask the registry at every start, even if the image is on the node.
        force_pull: bool = false;
        /// Credentials for the registry of this image. They win over those of the plugin configuration.
        auth: Option<Auth> = None;
        /// Program to run, after the image's ENTRYPOINT; the image's CMD is then ignored. Not together with
        /// `entrypoint`.
        command: Option<String> = None;
        /// Arguments after `command` or `entrypoint`, or in place of the image's CMD.
        args: Vec<String> = Vec::new();
        /// Replaces ENTRYPOINT and CMD of the image. Not together with `command`.
        entrypoint: Vec<String> = Vec::new();
        /// Working directory, absolute; made if missing. Without it the image's, else `/`.
        cwd: Option<String> = None;
        /// Host name, at most 64 characters. Without it one is made of task name and allocation id.
        hostname: Option<String> = None;
        /// All capabilities and devices of the host, writable `/sys`, nothing masked. Needs `allow_privileged`.
        privileged: bool = false;
        /// Capabilities to add to the default set, with or without `CAP_`; `ALL` for all.
        cap_add: Vec<String> = Vec::new();
        /// Capabilities to take away, after `cap_add`; `ALL` empties the default set first.
        cap_drop: Vec<String> = Vec::new();
        /// Paths of host devices, or directories of them, to have at the same path with read, write and mknod.
        devices: Vec<String> = Vec::new();
        /// Most processes and threads in the container; 0 for no limit.
        pids_limit: i64 = 0;
        /// `host` shares the process namespace of the host.
        pid_mode: Option<String> = None;
        /// Use the default seccomp profile. This version does not have one and refuses `true`.
        seccomp: bool = false;
        /// Path of a seccomp profile on the host. This version refuses it.
        seccomp_profile: Option<String> = None;
        /// Mount the root file system read-only.
        readonly_rootfs: bool = false;
        /// Size of `/dev/shm` in binary units, such as `128M`. Without it 64 MiB.
        shm_size: Option<String> = None;
        /// Kernel parameters of the container's namespaces.
        sysctl: BTreeMap<String, String> = BTreeMap::new();
        /// Use the host's network, `/etc/hosts` and `/etc/resolv.conf`. Not together with a group network.
        host_network: bool = false;
        /// Show the host's `/etc/resolv.conf`, unless the group has a `dns` block.
        host_dns: bool = true;
        /// Lines for `/etc/hosts`, each `name:address`.
        extra_hosts: Vec<String> = Vec::new();
        /// Mounts of host paths or of other file systems.
        mounts: Vec<MountOption> = Vec::new();
    }
}

options! {
    /// Credentials at a registry.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Auth {
        /// User name.
        username: String = String::new() => required;
        /// Password or token.
        password: Secret = Secret::default() => required;
    }
}

options! {
    /// One `mounts` block.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct MountOption {
        /// `volume` or `bind` for a host path, else a file system type such as `tmpfs`.
        r#type: String = "volume".to_owned();
        /// Absolute path in the container.
        target: String = String::new() => required;
        /// Host path; a relative one, such as `local/app.conf`, is inside the task directory.
        source: String = String::new();
        /// Mount options as in fstab, such as `rbind` and `ro`. Required for a host path.
        options: Vec<String> = Vec::new();
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

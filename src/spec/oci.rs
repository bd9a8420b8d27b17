//! The whole description of a container: the OCI runtime specification and what must be on the host before the start.
//!
//! A function of its arguments: the same task on the same node has the same bytes and the same hash, by which an
//! interrupted start is recognised and adopted. The base is containerd's default specification (`oci.populateDefaultUnixSpec`).

use super::error::SpecError;
use super::gates::Gates;
use super::identity::{ContainerId, Digest};
use super::image::ImageFacts;
use super::mounts::Mounts;
use super::node::NodeFacts;
use super::settings::Settings;
use super::task::TaskSpec;
use super::userns::{self, UsernsIds};
use super::{capabilities, cdi, devices, env, namespaces, network, process, resources, sysctl, user};
use serde_json::{Value, json};
use std::path::PathBuf;

/// The version of the runtime specification that the fields used here are from.
const OCI_VERSION: &str = "1.0.2";

/// containerd's masked paths.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/proc/scsi",
];

/// containerd's read-only paths.
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A file that must be written before the container starts, and removed with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GeneratedFile {
    /// Where.
    pub path_on_host: PathBuf,
    /// What.
    pub content: String,
    /// Permission bits.
    pub mode: u32,
}

/// All that a container's description is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) task: &'a TaskSpec,
    pub(super) image: &'a ImageFacts,
    pub(super) node: &'a NodeFacts,
    pub(super) settings: &'a Settings,
    pub(super) gates: &'a Gates,
}

/// What to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPlan {
    /// The container.
    pub container: ContainerId,
    /// The OCI specification, JSON with sorted keys.
    pub spec_json: Vec<u8>,
    /// SHA-256 (64 hex digits) over the specification, the files, the image, the runtime and the snapshotter.
    pub hash: String,
    /// Host name of the container.
    pub hostname: String,
    /// Files to write first.
    pub files: Vec<GeneratedFile>,
    /// Bind sources in directories that the task can write: (directory, source). The host must check that the source
    /// resolves beneath the directory, or a link made by the task shows it any file of the host.
    pub beneath: Vec<(PathBuf, PathBuf)>,
    /// Ids on the host for a user namespace; the root file system must be prepared for them.
    pub userns: Option<UsernsIds>,
    /// For error texts: the option that named the program (`image` for the image itself), and the program.
    pub program: (&'static str, String),
}

/// Describes the container of a task.
///
/// # Errors
/// The option, its value and what is allowed; or the gate that is closed.
pub fn build(
    task: &TaskSpec,
    image: &ImageFacts,
    node: &NodeFacts,
    settings: &Settings,
) -> Result<ContainerPlan, SpecError> {
    let gates = &Gates::of(settings)?;
    let inputs = &Inputs {
        task,
        image,
        node,
        settings,
        gates,
    };
    refusals(inputs)?;
    let o = &task.options;
    let container = ContainerId::of(&task.id);
    let argv = process::argv(task, image)?;
    let hostname = network::hostname(inputs)?;
    let mounts = Mounts::build(inputs, &container, &hostname)?;
    let devices = devices::build(inputs)?;
    let mut limits = resources::build(task, node)?;
    limits.insert("devices".to_owned(), Value::Array(devices.rules));

    let mut linux = json!({
        "cgroupsPath": resources::cgroups_path(task, &container, node),
        "devices": devices.nodes,
        "namespaces": namespaces::build(inputs)?,
        "resources": limits,
        "sysctl": sysctl::build(inputs)?,
    });
    if !o.privileged {
        linux["maskedPaths"] = json!(MASKED);
        linux["readonlyPaths"] = json!(READONLY);
    }
    let userns = userns::ids(inputs)?;
    if let Some(ids) = userns {
        linux["uidMappings"] = ids.mappings();
        linux["gidMappings"] = ids.mappings();
    }
    if let Some(propagation) = mounts.propagation {
        linux["rootfsPropagation"] = json!(propagation);
    }
    let files = mounts.files.clone();
    let beneath = mounts.beneath.clone();
    let mut list = mounts.into_json();
    if userns.is_some() {
        userns::adapt(&mut list, network::network(inputs)?);
    }
    let mut spec = json!({
        "ociVersion": OCI_VERSION,
        "root": {"path": "rootfs", "readonly": o.readonly_rootfs},
        "process": {
            "terminal": false,
            "args": argv.argv,
            "cwd": process::cwd(task, image)?,
            "env": env::build(task, image)?,
            "user": user::resolve(task, image)?.json(),
            "capabilities": capabilities::build(task, node)?,
            "rlimits": process::rlimits(node),
            "noNewPrivileges": !o.privileged,
            "oomScoreAdj": node.oom_score_adj,
        },
        "mounts": list,
        "linux": linux,
    });
    if !namespaces::host_uts(inputs)? {
        spec["hostname"] = json!(hostname);
    }
    cdi::apply(&mut spec, task, node)?;
    let spec_json = serde_json::to_vec(&spec).map_err(|e| SpecError::Decode(format!("OCI specification: {e}")))?;
    let hash = hash(&spec_json, &files, image, settings);
    let program = (argv.option, argv.argv.into_iter().next().unwrap_or_default());
    Ok(ContainerPlan {
        container,
        spec_json,
        hash,
        hostname,
        files,
        beneath,
        userns,
        program,
    })
}

/// What the plugin configuration or this version does not allow.
fn refusals(inputs: &Inputs<'_>) -> Result<(), SpecError> {
    let o = &inputs.task.options;
    let refuse = |option: &str, text: &str| {
        Err(SpecError::Refused {
            option: option.to_owned(),
            text: text.to_owned(),
        })
    };
    if o.privileged {
        inputs.gates.privileged()?;
    }
    match (o.seccomp.unwrap_or(false), &o.seccomp_profile) {
        (false, Some(_)) => refuse(
            "seccomp_profile",
            "seccomp must be set to true, if using a custom seccomp_profile.",
        ),
        (true, Some(path)) => refuse(
            "seccomp_profile",
            &format!(
                "option seccomp_profile: {path:?}: this version of the driver has no seccomp support; leave out seccomp and seccomp_profile"
            ),
        ),
        (true, None) if !o.privileged => refuse(
            "seccomp",
            "option seccomp: true: this version of the driver has no default seccomp profile; leave the option out or set it to false",
        ),
        // A privileged container runs without seccomp whatever is said, as under the Go driver.
        (true, None) | (false, None) => Ok(()),
    }
}

/// The hash of all that makes a container what it is. Lengths keep neighbours apart.
fn hash(spec_json: &[u8], files: &[GeneratedFile], image: &ImageFacts, settings: &Settings) -> String {
    let mut all = Vec::new();
    let mut feed = |part: &[u8]| {
        all.extend_from_slice(&(part.len() as u64).to_be_bytes());
        all.extend_from_slice(part);
    };
    feed(spec_json);
    for file in files {
        feed(file.path_on_host.to_string_lossy().as_bytes());
        feed(file.content.as_bytes());
    }
    feed(
        image
            .chain_id
            .as_ref()
            .map(Digest::as_str)
            .unwrap_or_default()
            .as_bytes(),
    );
    feed(settings.containerd_runtime.as_bytes());
    feed(settings.snapshotter.as_bytes());
    Digest::sha256(&all).as_str().trim_start_matches("sha256:").to_owned()
}

#[cfg(test)]
#[path = "oci_test.rs"]
mod tests;

//! The whole description of a container: the OCI runtime specification and what must be on the host before the start.
//!
//! A function of its arguments: the same task on the same node has the same bytes and the same hash, by which an
//! interrupted start is recognised and adopted. The base is containerd's default specification (`oci.populateDefaultUnixSpec`).

pub use super::devices::AskedDevice;
use super::error::SpecError;
use super::gates::Gates;
use super::identity::{ContainerId, Digest};
use super::image::ImageFacts;
use super::log_collection::{self, LogWay};
use super::mounts::{Mounts, is_delicate};
use super::node::NodeFacts;
use super::platform;
use super::runtime::{self, Runtime};
use super::security::Security;
use super::settings::Settings;
use super::task::TaskSpec;
use super::userns::{self, UsernsIds};
use super::{
    auth, capabilities, cdi, cgroups, devices, env, init, labels, namespaces, network, process, resources, sysctl,
    ulimit, user,
};
use serde_json::{Value, json};
use std::path::PathBuf;

/// The version of the runtime specification that the fields used here are from.
const OCI_VERSION: &str = "1.0.2";

/// What containers of the same specification are told apart by if they were made in another way.
const GENERATION: &[u8] = b"contested sources are held";

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

/// A bind mount from a directory that tasks can write. The host must check that the source resolves beneath the directory
/// before it is mounted, or a link made by a task shows any file of the host; and that this is what was mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beneath {
    /// What the source must lie beneath.
    pub dir: PathBuf,
    /// The source on the host.
    pub source: PathBuf,
    /// Where it is in the container.
    pub target: PathBuf,
    /// Whether the other tasks of the group can write on the way to it: what was checked must then be held fast until it is
    /// mounted, since they can put a link in its place at any moment.
    pub contested: bool,
}

/// A mount as a process of the container must find it. Images and tasks can lay links on the way to a target, and a runtime
/// then mounts elsewhere than where the process looks: over `/proc`, or a read-only mount beside what it is to cover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The option that asked for it, or what it is for.
    pub by: &'static str,
    /// Where the process looks.
    pub target: PathBuf,
    /// Whether the mount must be read-only.
    pub read_only: bool,
    /// Whether all that is mounted below it must be so too.
    pub all_read_only: bool,
    /// Whether what is mounted below it must show on the host.
    pub shared: bool,
    /// Permission bits that its root must have: runtimes give a file system in memory those of the image's directory (runc
    /// 1.1, whatever the mount's options say).
    pub mode: Option<u32>,
    /// What must be mounted: the place of the entry of [`ContainerPlan::beneath`].
    pub source: Option<usize>,
    /// Whether it may lie in `/dev`, `/proc` or `/sys`.
    pub anywhere: bool,
}

impl Expected {
    /// Whether the mount may lie at this place in the container.
    #[must_use]
    pub fn allows(&self, place: &str) -> bool {
        self.anywhere || !is_delicate(place)
    }
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
    /// What carries it out.
    pub runtime: Runtime,
    /// containerd snapshotter of its root file system.
    pub snapshotter: String,
    /// Host name of the container.
    pub hostname: String,
    /// Files to write first.
    pub files: Vec<GeneratedFile>,
    /// Bind mounts from directories that tasks can write.
    pub beneath: Vec<Beneath>,
    /// All mounts but the runtime's own.
    pub expected: Vec<Expected>,
    /// Directories of the root that a process must find there.
    pub directories: Vec<PathBuf>,
    /// Whether the process has a terminal.
    pub terminal: bool,
    /// Whether standard input stays open.
    pub stdin: bool,
    /// Cgroup v1: the directory into whose `cgroup.procs` the first process must be written between its creation and its
    /// start, so that it follows the cores that Nomad lets tasks use. Never a shim, and never after the start: children
    /// made before would stay outside.
    pub join_cpuset: Option<PathBuf>,
    /// Bind sources that must exist, with the option that named them: the runtime's error names neither.
    pub sources: Vec<(&'static str, PathBuf)>,
    /// Bind sources and the SELinux labels that they and all beneath must have before the start.
    pub relabel: Vec<(PathBuf, String)>,
    /// Ids on the host for a user namespace; the root file system must be prepared for them.
    pub userns: Option<UsernsIds>,
    /// User and group of the process, on the host if there are such ids.
    pub owner: Option<(u32, u32)>,
    /// Devices that were asked for, which a process must find.
    pub devices: Vec<AskedDevice>,
    /// Where its output goes.
    pub logs: LogWay,
    /// True if a hook runs on the host's side once the container is there: it may look at the root where the shim has it.
    pub late_hooks: bool,
    /// For error texts: the option that named the program (`image` for the image itself), and the program.
    pub program: (&'static str, String),
}

impl ContainerPlan {
    /// The specification with other sources for [`ContainerPlan::beneath`], by their places there: those that are held fast.
    ///
    /// # Errors
    /// If the specification is not what [`build`] makes.
    pub fn spec_with_sources(&self, held: impl Fn(usize) -> Option<PathBuf>) -> Result<Vec<u8>, SpecError> {
        let fault = |e: serde_json::Error| SpecError::Decode(format!("OCI specification: {e}"));
        let sources: Vec<_> = self
            .beneath
            .iter()
            .enumerate()
            .filter_map(|(index, mount)| Some((mount.target.to_str()?, held(index)?)))
            .collect();
        if sources.is_empty() {
            return Ok(self.spec_json.clone());
        }
        let mut spec: Value = serde_json::from_slice(&self.spec_json).map_err(fault)?;
        for mount in spec["mounts"].as_array_mut().into_iter().flatten() {
            let held = sources.iter().find(|(target, _)| mount["destination"] == *target);
            if let Some((_, path)) = held {
                mount["source"] = json!(path);
            }
        }
        serde_json::to_vec(&spec).map_err(fault)
    }
}

/// True if what is mounted may have the host's null device in its place.
fn has_null_of_host(spec: &Value) -> bool {
    let mut mounts = spec["mounts"].as_array().into_iter().flatten();
    mounts.any(|mount| {
        let is_there = matches!(mount["destination"].as_str(), Some("/dev" | "/dev/null"));
        is_there && !matches!(mount["type"].as_str(), Some("tmpfs"))
    })
}

/// Hooks of the runtime specification that run in the runtime's namespaces after the container has been made.
const LATE_HOOKS: [&str; 2] = ["poststart", "poststop"];

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
    describe(task, image, node, settings).map_err(|e| e.as_written(&task.written))
}

fn describe(
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
    let o = &task.options;
    let by_job = |option: &'static str| task.written.get(option).copied().unwrap_or(option);
    platform::check(o)?;
    let caps = capabilities::build(inputs)?;
    let security = Security::build(inputs, &caps)?;
    let container = ContainerId::of(&task.id);
    let runtime = runtime::of(inputs)?;
    let snapshotter = snapshotter(task, settings).to_owned();
    let argv = process::argv(task, image)?;
    let user = user::resolve(task, image)?;
    labels::check(&o.labels)?;
    let logs = log_collection::of(settings, task)?;
    network::check_ports(inputs)?;
    let hostname = network::hostname(inputs)?;
    let mounts = Mounts::build(inputs, &container, &hostname, &user)?;
    let devices = devices::build(inputs)?;
    let mut limits = resources::build(inputs)?;
    limits.insert("devices".to_owned(), Value::Array(devices.rules));
    let mut asked = devices.asked;
    asked
        .iter_mut()
        .for_each(|device| device.by = device.by.replacen("devices", by_job("devices"), 1));

    let mut linux = json!({
        "cgroupsPath": cgroups::path(inputs, &container),
        "devices": devices.nodes,
        "namespaces": namespaces::build(inputs)?,
        "resources": limits,
        "sysctl": sysctl::build(inputs)?,
    });
    let userns = userns::ids(inputs)?;
    if let Some(ids) = userns {
        userns::check_user(inputs, ids, &user)?;
        linux["uidMappings"] = ids.mappings();
        linux["gidMappings"] = ids.mappings();
    }
    if let Some(propagation) = mounts.propagation {
        linux["rootfsPropagation"] = json!(propagation);
    }
    let files = mounts.files.clone();
    let beneath = mounts.beneath.clone();
    let sources = mounts
        .sources
        .iter()
        .map(|(by, path)| (by_job(by), path.clone()))
        .collect();
    let mut expected = mounts.expected(inputs);
    expected.iter_mut().for_each(|mount| mount.by = by_job(mount.by));
    let taken = mounts.taken().clone();
    let relabel = mounts.relabel.clone();
    let directories = mounts.directories.clone();
    let program = (argv.option, argv.argv.first().cloned().unwrap_or_default());
    let args = if o.init { init::wrap(argv.argv) } else { argv.argv };
    let mut list = mounts.into_json();
    if userns.is_some() {
        userns::adapt(&mut list, network::network(inputs)?);
    }
    let mut spec = json!({
        "ociVersion": OCI_VERSION,
        "root": {"path": "rootfs", "readonly": o.readonly_rootfs},
        "process": {
            "terminal": o.tty,
            "args": args,
            "cwd": process::cwd(task, image)?,
            "env": env::build(task, image, &hostname)?,
            "user": user.json(),
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "rlimits": ulimit::build(inputs)?,
            "oomScoreAdj": resources::oom_score_adj(inputs)?,
        },
        "mounts": list,
        "linux": linux,
    });
    let annotations = process::annotations(inputs)?;
    if !annotations.is_empty() {
        spec["annotations"] = json!(annotations);
    }
    security.apply(&mut spec);
    if !namespaces::host_uts(inputs)? {
        spec["hostname"] = json!(hostname);
    }
    cdi::apply(&mut spec, task, node, &taken)?;
    if o.tty && runtime.gives_null_away_for_sure() && (userns.is_some() || has_null_of_host(&spec)) {
        let allowed = "a terminal is not given where the container has the host's /dev/null (userns = \"private\", or a mount of it \
                       or of /dev): crun may give that device to the task's user; runtime = \"runc\", or \
                       tty = false";
        return Err(SpecError::option("tty", true, allowed));
    }
    let late_hooks = LATE_HOOKS.iter().any(|name| !spec["hooks"][*name].is_null());
    let spec_json = serde_json::to_vec(&spec).map_err(|e| SpecError::Decode(format!("OCI specification: {e}")))?;
    let hash = hash(&spec_json, &files, image, &runtime, &snapshotter);
    Ok(ContainerPlan {
        container,
        spec_json,
        hash,
        runtime,
        snapshotter,
        hostname,
        files,
        beneath,
        expected,
        directories,
        terminal: o.tty,
        stdin: o.interactive,
        join_cpuset: cgroups::join(inputs),
        sources,
        relabel,
        userns,
        owner: userns.map(|ids| (ids.on_host(user.uid), ids.on_host(user.gid))),
        devices: asked,
        logs,
        late_hooks,
        program,
    })
}

/// Refuses what [`build`] will refuse whatever the image and the node are like: a task that may not be need not have its
/// image pulled first. What it lets pass may still be refused.
///
/// # Errors
/// The gate that is closed, or options that contradict each other.
pub fn consent(task: &TaskSpec, settings: &Settings) -> Result<(), SpecError> {
    auth::consent(task, settings)?;
    // An image and a node with which nothing goes wrong.
    let mut task = task.clone();
    task.user = "0".to_owned();
    task.options.group_add.clear();
    let image = ImageFacts {
        entrypoint: vec!["/".to_owned()],
        ..ImageFacts::default()
    };
    let node = NodeFacts::obliging(&task);
    match build(&task, &image, &node, settings) {
        Err(refused @ SpecError::Refused { .. }) => Err(refused),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The snapshotter of a task's root file system, which is also where its image is unpacked.
#[must_use]
pub fn snapshotter<'a>(task: &'a TaskSpec, settings: &'a Settings) -> &'a str {
    task.options.snapshotter.as_deref().unwrap_or(&settings.snapshotter)
}

/// The hash of all that makes a container what it is. Lengths keep neighbours apart.
fn hash(spec_json: &[u8], files: &[GeneratedFile], image: &ImageFacts, runtime: &Runtime, snapshotter: &str) -> String {
    let mut all = Vec::new();
    let mut feed = |part: &[u8]| {
        all.extend_from_slice(&(part.len() as u64).to_be_bytes());
        all.extend_from_slice(part);
    };
    feed(spec_json);
    feed(GENERATION);
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
    feed(runtime.kind.as_bytes());
    feed(runtime.binary.as_bytes());
    feed(snapshotter.as_bytes());
    Digest::sha256(&all).as_str().trim_start_matches("sha256:").to_owned()
}

#[cfg(test)]
#[path = "oci_test.rs"]
mod tests;

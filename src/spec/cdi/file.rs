//! One CDI file: read, and checked as a whole, so that what is applied later can be relied on.

use super::yaml;
use serde::{Deserialize, Deserializer};
use std::collections::{BTreeMap, BTreeSet};

/// The names of hooks in the runtime specification.
const HOOKS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// A file. Unknown fields are refused: an edit that is not made is a device that does not work.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(rename = "cdiVersion")]
    version: String,
    pub(super) kind: String,
    #[serde(default, deserialize_with = "or_default")]
    annotations: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) devices: Vec<Device>,
    #[serde(default, rename = "containerEdits", deserialize_with = "or_default")]
    pub(super) edits: Edits,
}

/// A device of a file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Device {
    pub(super) name: String,
    #[serde(default, deserialize_with = "or_default")]
    annotations: BTreeMap<String, String>,
    #[serde(default, rename = "containerEdits", deserialize_with = "or_default")]
    pub(super) edits: Edits,
}

/// What is changed in a container's description.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Edits {
    #[serde(deserialize_with = "or_default")]
    pub(super) env: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) device_nodes: Vec<Node>,
    #[serde(deserialize_with = "or_default")]
    pub(super) net_devices: Vec<NetDevice>,
    #[serde(deserialize_with = "or_default")]
    pub(super) mounts: Vec<Mount>,
    #[serde(deserialize_with = "or_default")]
    pub(super) hooks: Vec<Hook>,
    /// The document of the specification also writes `additionalGIDs`.
    #[serde(alias = "additionalGIDs", deserialize_with = "or_default")]
    pub(super) additional_gids: Vec<u32>,
    pub(super) intel_rdt: Option<IntelRdt>,
}

/// A device node. Numbers that are missing are those of the node on the host.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Node {
    pub(super) path: String,
    #[serde(default, deserialize_with = "or_default")]
    host_path: String,
    #[serde(default, rename = "type", deserialize_with = "or_default")]
    pub(super) kind: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) major: u32,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) minor: u32,
    #[serde(default)]
    pub(super) file_mode: Option<u32>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) permissions: String,
    #[serde(default)]
    pub(super) uid: Option<u32>,
    #[serde(default)]
    pub(super) gid: Option<u32>,
}

impl Node {
    /// Where the node is on the host.
    pub(super) fn on_host(&self) -> &str {
        if self.host_path.is_empty() {
            &self.path
        } else {
            &self.host_path
        }
    }
}

/// A network interface to move into the container.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct NetDevice {
    pub(super) host_interface_name: String,
    name: String,
}

/// A mount.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Mount {
    pub(super) host_path: String,
    pub(super) container_path: String,
    #[serde(default, rename = "type", deserialize_with = "or_default")]
    pub(super) kind: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) options: Vec<String>,
}

/// A program that the runtime runs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Hook {
    pub(super) hook_name: String,
    pub(super) path: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) args: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) env: Vec<String>,
    #[serde(default)]
    pub(super) timeout: Option<i64>,
}

/// Settings of the kernel's resctrl.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct IntelRdt {
    #[serde(rename = "closID", deserialize_with = "or_default")]
    pub(super) clos_id: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) l3_cache_schema: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) mem_bw_schema: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) schemata: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) enable_monitoring: bool,
}

/// `null` is as good as nothing, as for the Go types that vendors write files with.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

/// Reads and checks a file. The name says which form it has.
pub(super) fn parse(path: &str, text: &str) -> Result<File, String> {
    let value = if path.ends_with(".json") {
        serde_json::from_str(text).map_err(|e| e.to_string())?
    } else {
        yaml::parse(text)?
    };
    let file: File = serde_json::from_value(value).map_err(|e| e.to_string())?;
    check(&file)?;
    Ok(file)
}

fn check(file: &File) -> Result<(), String> {
    let version = version(&file.version)
        .ok_or_else(|| format!("cdiVersion {:?}: a version from 0.3.0 to 1.x is expected", file.version))?;
    if !is_kind(&file.kind) {
        return Err(format!("kind {:?}: vendor/class is expected", file.kind));
    }
    if file.devices.is_empty() {
        return Err("at least one device is expected".to_owned());
    }
    let mut names = BTreeSet::new();
    for device in &file.devices {
        if !is_device_name(&device.name) {
            return Err(format!(
                "device name {:?}: letters, digits and _-.: are expected",
                device.name
            ));
        }
        if !names.insert(&device.name) {
            return Err(format!("device {:?} is there twice", device.name));
        }
    }
    for edits in all_edits(file) {
        check_edits(edits)?;
    }
    let needed = needed(file);
    if version < needed {
        return Err(format!(
            "cdiVersion {:?}: fields of {}.{}.0 are used",
            file.version, needed.0, needed.1
        ));
    }
    Ok(())
}

fn all_edits(file: &File) -> impl Iterator<Item = &Edits> {
    std::iter::once(&file.edits).chain(file.devices.iter().map(|d| &d.edits))
}

/// Major and minor. A later 1.x than we know is read too: what it has new are fields, and unknown ones are refused.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.strip_prefix('v').unwrap_or(text).split('.').map(|p| {
        let digits = !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| p.parse::<u32>().ok()).flatten()
    });
    let (major, minor, _patch) = (parts.next()??, parts.next()??, parts.next()??);
    let known = parts.next().is_none() && (major == 1 || major == 0 && minor >= 3);
    known.then_some((major, minor))
}

/// The version that brought the fields that are used ("Added in" of the specification).
fn needed(file: &File) -> (u32, u32) {
    let rdt = |e: &Edits| {
        e.intel_rdt
            .as_ref()
            .is_some_and(|r| r.enable_monitoring || !r.schemata.is_empty())
    };
    let dotted = file.kind.split_once('/').is_some_and(|(_, class)| class.contains('.'));
    if all_edits(file).any(|e| rdt(e) || !e.net_devices.is_empty()) {
        (1, 1)
    } else if all_edits(file).any(|e| e.intel_rdt.is_some() || !e.additional_gids.is_empty()) {
        (0, 7)
    } else if dotted || !file.annotations.is_empty() || file.devices.iter().any(|d| !d.annotations.is_empty()) {
        (0, 6)
    } else if file
        .devices
        .iter()
        .any(|d| d.name.starts_with(|c: char| c.is_ascii_digit()))
        || all_edits(file).any(|e| e.device_nodes.iter().any(|n| !n.host_path.is_empty()))
    {
        (0, 5)
    } else if all_edits(file).any(|e| e.mounts.iter().any(|m| !m.kind.is_empty())) {
        (0, 4)
    } else {
        (0, 3)
    }
}

fn check_edits(edits: &Edits) -> Result<(), String> {
    let pair = |text: &&String| text.find('=').is_none_or(|at| at == 0) || text.contains('\0');
    if let Some(bad) = edits.env.iter().find(pair) {
        return Err(format!("env {bad:?}: NAME=value is expected"));
    }
    for node in &edits.device_nodes {
        absolute("deviceNodes path", &node.path)?;
        absolute("deviceNodes hostPath", node.on_host())?;
        if !matches!(node.kind.as_str(), "" | "b" | "c" | "u" | "p") {
            return Err(format!("deviceNodes type {:?}: b, c, u or p is expected", node.kind));
        }
        if node.permissions != "none" && !node.permissions.chars().all(|c| "rwm".contains(c)) {
            return Err(format!(
                "deviceNodes permissions {:?}: r, w and m, or none, are expected",
                node.permissions
            ));
        }
    }
    for mount in &edits.mounts {
        absolute("mounts containerPath", &mount.container_path)?;
        if mount.host_path.is_empty() || mount.host_path.contains('\0') {
            return Err(format!("mounts hostPath {:?}: a path is expected", mount.host_path));
        }
    }
    for hook in &edits.hooks {
        if !HOOKS.contains(&hook.hook_name.as_str()) {
            return Err(format!(
                "hookName {:?}: one of {} is expected",
                hook.hook_name,
                HOOKS.join(", ")
            ));
        }
        absolute("hooks path", &hook.path)?;
        if let Some(bad) = hook.env.iter().find(pair) {
            return Err(format!("hooks env {bad:?}: NAME=value is expected"));
        }
        if hook.timeout.is_some_and(|t| t <= 0) {
            return Err("hooks timeout: more than 0 seconds are expected".to_owned());
        }
    }
    if let Some(rdt) = &edits.intel_rdt {
        let id = rdt.clos_id.as_str();
        if id != "/" && (id.len() >= 4096 || matches!(id, "." | "..") || id.contains(['/', '\n'])) {
            return Err(format!("intelRdt closID {id:?}: a file name, or /, is expected"));
        }
    }
    let empty = |d: &&NetDevice| d.host_interface_name.is_empty() || d.name.is_empty();
    if edits.net_devices.iter().any(|d| empty(&d)) {
        return Err("netDevices: names are expected".to_owned());
    }
    Ok(())
}

fn absolute(what: &str, path: &str) -> Result<(), String> {
    if path.starts_with('/') && !path.contains('\0') && !path.split('/').any(|p| p == "..") {
        return Ok(());
    }
    Err(format!("{what} {path:?}: an absolute path without '..' is expected"))
}

/// `vendor/class`, both letters, digits and `_-.` between a letter and a letter or digit.
pub(super) fn is_kind(text: &str) -> bool {
    let part = |t: &str| t.starts_with(|c: char| c.is_ascii_alphabetic()) && is_word(t, "_-.");
    text.split_once('/')
        .is_some_and(|(vendor, class)| part(vendor) && part(class) && vendor.len() <= 253 && class.len() <= 63)
}

/// Letters, digits and `_-.:` between letters or digits.
pub(super) fn is_device_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && is_word(text, "_-.:")
}

fn is_word(text: &str, also: &str) -> bool {
    text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || also.contains(c))
}

//! Device nodes and the rules that let a container use them.
//!
//! Deny all, then allow what every container has (containerd `oci.WithDefaultUnixDevices`), then what the task asks
//! for. A privileged container has all. Devices by CDI names are `cdi`'s, which edits the finished description.

use super::device_option::{self, Asked, access};
use super::error::SpecError;
use super::node::{DeviceKind, DeviceNode, NodeFacts};
use super::oci::Inputs;
use super::userns;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// null, zero, full, random, urandom, tty, console, ptmx; and all pseudo terminals.
const DEFAULT_CHAR: [(u32, Option<u32>); 9] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(1)),
    (5, Some(2)),
    (136, None),
];

/// A device that a task has asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedDevice {
    /// The option that names it, such as `devices[0]`.
    pub by: String,
    /// Where it is in the container.
    pub path: String,
    /// What it is.
    pub kind: DeviceKind,
    /// Its number.
    pub number: (u32, u32),
}

/// `linux.devices` and `linux.resources.devices`.
pub(super) struct Devices {
    pub(super) nodes: Vec<Value>,
    pub(super) rules: Vec<Value>,
    /// By `devices` and device plugins.
    pub(super) asked: Vec<AskedDevice>,
}

fn letter(kind: DeviceKind) -> &'static str {
    match kind {
        DeviceKind::Char => "c",
        DeviceKind::Block => "b",
    }
}

fn node_json(path: &str, d: &DeviceNode) -> Value {
    json!({"path": path, "type": letter(d.kind), "major": d.major, "minor": d.minor, "fileMode": d.mode & 0o777, "uid": d.uid, "gid": d.gid})
}

fn found<'a>(node: &'a NodeFacts, option: &str, path: &str) -> Result<&'a [DeviceNode], SpecError> {
    match node.devices.get(path) {
        Some(Ok(devices)) if !devices.is_empty() => Ok(devices),
        Some(Ok(_)) => Err(SpecError::option(
            option,
            path,
            "there is no device below this directory",
        )),
        Some(Err(reason)) => Err(SpecError::option(option, path, reason)),
        None => Err(SpecError::option(option, path, "the device was not looked up")),
    }
}

/// The nodes by their path in the container, with what asked for them.
#[derive(Default)]
struct Given {
    nodes: BTreeMap<String, Value>,
    by: BTreeMap<String, String>,
    rules: Vec<Value>,
    asked: Vec<AskedDevice>,
}

impl Given {
    fn add(&mut self, by: &str, path: String, d: &DeviceNode, access: &str) -> Result<(), SpecError> {
        let node = node_json(&path, d);
        let rule = json!({"allow": true, "type": letter(d.kind), "major": d.major, "minor": d.minor, "access": access});
        if let Some(first) = self.by.get(&path) {
            // The same twice is no contradiction; the Go driver took such lists.
            if self.nodes.get(&path) == Some(&node) && self.rules.contains(&rule) {
                return Ok(());
            }
            return Err(SpecError::option(
                by,
                &path,
                format!("one device per path in the container is allowed, and {first} has this one"),
            ));
        }
        self.by.insert(path.clone(), by.to_owned());
        self.asked.push(AskedDevice {
            by: by.to_owned(),
            path: path.clone(),
            kind: d.kind,
            number: (d.major, d.minor),
        });
        self.nodes.insert(path, node);
        self.rules.push(rule);
        Ok(())
    }
}

/// A directory of devices keeps its shape below the path in the container.
fn below(host: &str, container: &str, d: &DeviceNode) -> String {
    format!("{container}{}", d.path.strip_prefix(host).unwrap_or_default())
}

/// Puts device nodes and rules together.
pub(super) fn build(inputs: &Inputs<'_>) -> Result<Devices, SpecError> {
    let Inputs { task, node, gates, .. } = inputs;
    let privileged = task.options.privileged;
    let private = userns::ids(inputs)?.is_some();
    let mut given = Given::default();
    if privileged {
        given.rules.push(json!({"allow": true, "access": "rwm"}));
        given.nodes.extend(
            node.host_devices
                .iter()
                .map(|d| (d.path.clone(), node_json(&d.path, d))),
        );
    } else {
        given.rules.push(json!({"allow": false, "access": "rwm"}));
        for (major, minor) in DEFAULT_CHAR {
            let mut rule = json!({"allow": true, "type": "c", "major": major, "access": "rwm"});
            if let Some(minor) = minor {
                rule["minor"] = json!(minor);
            }
            given.rules.push(rule);
        }
    }
    for (i, option) in task.options.devices.iter().enumerate() {
        let at = format!("devices[{i}]");
        match device_option::parse(&at, option)? {
            Asked::Host {
                host,
                container,
                access,
            } => {
                if !privileged {
                    gates.device("devices", &host)?;
                }
                for d in found(node, &at, &host)? {
                    let path = below(&host, &container, d);
                    if private {
                        userns::check_device(&at, &d.path, &path)?;
                    }
                    given.add(&at, path, d, &access)?;
                }
            }
            Asked::Cdi(name) if !privileged => gates.device("devices", name.as_str())?,
            Asked::Cdi(_) => {}
        }
    }
    for (i, text) in task.options.device_cgroup_rules.iter().enumerate() {
        let rules = device_option::rule(&format!("device_cgroup_rules[{i}]"), text)?;
        if !privileged {
            gates.device("device_cgroup_rules", text)?;
        }
        given.rules.extend(rules);
    }
    for wanted in &task.devices {
        let access = access("device", &wanted.permissions)?;
        let base = if wanted.task_path.is_empty() {
            &wanted.host_path
        } else {
            &wanted.task_path
        };
        for d in found(node, "device", &wanted.host_path)? {
            let path = below(&wanted.host_path, base, d);
            if private {
                userns::check_device("device", &d.path, &path)?;
            }
            given.add("device", path, d, access)?;
        }
    }
    Ok(Devices {
        nodes: given.nodes.into_values().collect(),
        rules: given.rules,
        asked: given.asked,
    })
}

#[cfg(test)]
#[path = "devices_test.rs"]
mod tests;

//! Device nodes and the rules that let a container use them.
//!
//! Deny all, then allow what every container has (containerd `oci.WithDefaultUnixDevices`), then what the task asks
//! for. A privileged container has all.

use super::error::SpecError;
use super::node::{DeviceKind, DeviceNode, NodeFacts};
use super::task::TaskSpec;
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

/// `linux.devices` and `linux.resources.devices`.
pub(super) struct Devices {
    pub(super) nodes: Vec<Value>,
    pub(super) rules: Vec<Value>,
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

/// Access as the kernel writes it: a subset of `rwm`, all of them where nothing is said.
fn access(permissions: &str) -> Result<&str, SpecError> {
    match permissions {
        "" => Ok("rwm"),
        p if p.chars().all(|c| "rwm".contains(c)) => Ok(p),
        p => Err(SpecError::option(
            "devices",
            p,
            "permissions out of r, w and m are expected",
        )),
    }
}

/// Puts device nodes and rules together.
pub(super) fn build(task: &TaskSpec, node: &NodeFacts) -> Result<Devices, SpecError> {
    let mut nodes = BTreeMap::new();
    let mut rules = Vec::new();
    if task.options.privileged {
        rules.push(json!({"allow": true, "access": "rwm"}));
        nodes.extend(
            node.host_devices
                .iter()
                .map(|d| (d.path.clone(), node_json(&d.path, d))),
        );
    } else {
        rules.push(json!({"allow": false, "access": "rwm"}));
        for (major, minor) in DEFAULT_CHAR {
            let mut rule = json!({"allow": true, "type": "c", "major": major, "access": "rwm"});
            if let Some(minor) = minor {
                rule["minor"] = json!(minor);
            }
            rules.push(rule);
        }
    }
    let mut give = |path: String, d: &DeviceNode, access: &str| {
        nodes.insert(path.clone(), node_json(&path, d));
        rules
            .push(json!({"allow": true, "type": letter(d.kind), "major": d.major, "minor": d.minor, "access": access}));
    };
    for path in &task.options.devices {
        for d in found(node, "devices", &path.host_path)? {
            give(d.path.clone(), d, "rwm");
        }
    }
    for wanted in &task.devices {
        let access = access(&wanted.permissions)?;
        for d in found(node, "devices", &wanted.host_path)? {
            // A directory of devices keeps its shape below the task's path.
            let below = d.path.strip_prefix(wanted.host_path.as_str()).unwrap_or_default();
            let base = if wanted.task_path.is_empty() {
                &wanted.host_path
            } else {
                &wanted.task_path
            };
            give(format!("{base}{below}"), d, access);
        }
    }
    Ok(Devices {
        nodes: nodes.into_values().collect(),
        rules,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::options::DeviceOption;
    use crate::spec::task::HostDevice;

    fn fuse() -> DeviceNode {
        DeviceNode {
            path: "/dev/fuse".to_owned(),
            kind: DeviceKind::Char,
            major: 10,
            minor: 229,
            mode: 0o20666,
            uid: 0,
            gid: 0,
        }
    }

    fn asked(path: &str) -> DeviceOption {
        DeviceOption {
            host_path: path.to_owned(),
            ..DeviceOption::default()
        }
    }

    fn node() -> NodeFacts {
        let devices = BTreeMap::from([
            ("/dev/fuse".to_owned(), Ok(vec![fuse()])),
            ("/dev/none".to_owned(), Err("no such file".to_owned())),
        ]);
        NodeFacts {
            devices,
            host_devices: vec![fuse()],
            ..NodeFacts::default()
        }
    }

    #[test]
    fn everything_is_denied_before_anything_is_allowed() {
        let d = build(&TaskSpec::default(), &node()).unwrap();
        assert_eq!(d.rules[0]["allow"], false);
        assert_eq!(d.rules.len(), 10);
        assert!(d.nodes.is_empty());
    }

    #[test]
    fn asked_devices_are_made_and_allowed() {
        let mut task = TaskSpec::default();
        task.options.devices = vec![asked("/dev/fuse")];
        let d = build(&task, &node()).unwrap();
        assert_eq!(
            d.nodes,
            [
                json!({"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666, "uid": 0, "gid": 0})
            ]
        );
        assert_eq!(
            d.rules[10],
            json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm"})
        );
    }

    #[test]
    fn a_device_plugins_path_and_permissions_count() {
        let device = HostDevice {
            task_path: "/dev/f".to_owned(),
            host_path: "/dev/fuse".to_owned(),
            permissions: "r".to_owned(),
        };
        let mut task = TaskSpec {
            devices: vec![device],
            ..TaskSpec::default()
        };
        let d = build(&task, &node()).unwrap();
        assert_eq!(
            (&d.nodes[0]["path"], &d.rules[10]["access"]),
            (&json!("/dev/f"), &json!("r"))
        );
        task.devices[0].permissions = "x".to_owned();
        assert!(build(&task, &node()).is_err());
    }

    #[test]
    fn a_missing_device_is_named() {
        let mut task = TaskSpec::default();
        task.options.devices = vec![asked("/dev/none")];
        let text = build(&task, &node()).err().unwrap().to_string();
        assert!(text.contains("/dev/none") && text.contains("no such file"), "{text}");
    }

    #[test]
    fn privileged_has_all() {
        let mut task = TaskSpec::default();
        task.options.privileged = true;
        let d = build(&task, &node()).unwrap();
        assert_eq!(d.rules, [json!({"allow": true, "access": "rwm"})]);
        assert_eq!(d.nodes.len(), 1);
    }
}

//! Edits of a description: the environment, devices, mounts, hooks, groups and resctrl.
//!
//! Their meaning is the specification's ("OCI Edits"); where it is silent, that of its Go implementation: a later
//! variable, device or mount takes the place of an earlier one with its name, and mounts are ordered by depth.

use super::file::{Edits, Hook, IntelRdt, Mount, Node};
use crate::spec::mounts::IMAGE_VOLUME;
use crate::spec::node::{DeviceKind, DeviceNode, NodeFacts};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A mount of the edits where one of the job's own or of the driver's is. `taken`: targets and what asked for them.
pub(super) fn conflict(edits: &Edits, taken: &BTreeMap<String, &'static str>) -> Option<String> {
    edits.mounts.iter().find_map(|mount| {
        let by = taken.iter().find(|(target, _)| same(target, &mount.container_path))?.1;
        (*by != IMAGE_VOLUME).then(|| {
            format!(
                "its CDI file mounts something at {}, and {by} has this place: leave the mount or the device out",
                mount.container_path
            )
        })
    })
}

/// Makes the edits.
pub(super) fn apply(spec: &mut Value, edits: &Edits, node: &NodeFacts) -> Result<(), String> {
    if let Some(device) = edits.net_devices.first() {
        return Err(format!(
            "its CDI file moves network interface {:?} into the container (netDevices), which this driver does not: Nomad sets up networks",
            device.host_interface_name
        ));
    }
    for variable in &edits.env {
        let name = variable.split_inclusive('=').next().unwrap_or_default();
        change(&mut spec["process"]["env"], |env| {
            env.retain(|v| !v.as_str().is_some_and(|v| v.starts_with(name)));
            env.push(json!(variable));
        });
    }
    for device in &edits.device_nodes {
        add_device(spec, device, node)?;
    }
    for mount in &edits.mounts {
        add_mount(spec, mount);
    }
    if !edits.mounts.is_empty() {
        let depth = |m: &Value| m["destination"].as_str().map_or(0, |d| parts(d).count());
        change(&mut spec["mounts"], |mounts| mounts.sort_by_key(depth));
    }
    for hook in &edits.hooks {
        add_hook(spec, hook);
    }
    for gid in edits.additional_gids.iter().filter(|g| **g != 0) {
        change(&mut spec["process"]["user"]["additionalGids"], |gids| {
            if !gids.contains(&json!(gid)) {
                gids.push(json!(gid));
            }
        });
    }
    if let Some(rdt) = &edits.intel_rdt {
        spec["linux"]["intelRdt"] = intel_rdt(rdt);
    }
    Ok(())
}

/// Changes a list of the description, which is made if there is none.
fn change(slot: &mut Value, how: impl FnOnce(&mut Vec<Value>)) {
    let mut list = match slot.take() {
        Value::Array(list) => list,
        _ => Vec::new(),
    };
    how(&mut list);
    *slot = Value::Array(list);
}

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|p| !p.is_empty() && *p != ".")
}

fn same(one: &str, other: &str) -> bool {
    parts(one).eq(parts(other))
}

/// The node on the host, if it was looked up and is one device.
fn on_host<'a>(device: &Node, node: &'a NodeFacts) -> Result<&'a DeviceNode, String> {
    let path = device.on_host();
    match node.devices.get(path) {
        Some(Ok(found)) => match found.as_slice() {
            [one] if one.path == path => Ok(one),
            _ => Err(format!("{path} of its CDI file is no device")),
        },
        Some(Err(reason)) => Err(format!("{path} of its CDI file: {reason}")),
        None => Err(format!("{path} of its CDI file was not looked up")),
    }
}

fn add_device(spec: &mut Value, device: &Node, node: &NodeFacts) -> Result<(), String> {
    // A major number of 0 is none: the Go types cannot tell them apart, and no device has it.
    let complete = !device.kind.is_empty() && (device.major != 0 || device.kind == "p");
    let found = on_host(device, node);
    let mode = found.as_ref().ok().map(|d| d.mode & 0o7777);
    let (kind, major, minor) = if complete {
        (device.kind.as_str(), device.major, device.minor)
    } else {
        let found = found?;
        let kind = match found.kind {
            DeviceKind::Char => "c",
            DeviceKind::Block => "b",
        };
        if !matches!((device.kind.as_str(), kind), ("" | "b", "b") | ("" | "c" | "u", "c")) {
            return Err(format!(
                "{} is of type {kind} and not {} as its CDI file says",
                device.on_host(),
                device.kind
            ));
        }
        if device.major == 0 {
            (kind, found.major, found.minor)
        } else {
            (kind, device.major, device.minor)
        }
    };
    if spec["linux"].get("uidMappings").is_some() && device.path != device.on_host() {
        return Err(format!(
            "its CDI file has {} of the host at {}, and with userns = \"private\" a device keeps its path of the host",
            device.on_host(),
            device.path
        ));
    }
    let mut entry = json!({"path": device.path, "type": kind});
    if kind != "p" {
        entry["major"] = json!(major);
        entry["minor"] = json!(minor);
    }
    if let Some(mode) = device.file_mode.or(mode) {
        entry["fileMode"] = json!(mode);
    }
    // Owned by the process where nothing is said, or it could not open it.
    for (key, given) in [("uid", device.uid), ("gid", device.gid)] {
        let of_process = spec["process"]["user"][key].as_u64().filter(|id| *id > 0);
        if let Some(id) = given.map(u64::from).or(of_process) {
            entry[key] = json!(id);
        }
    }
    change(&mut spec["linux"]["devices"], |nodes| {
        nodes.retain(|n| !n["path"].as_str().is_some_and(|p| same(p, &device.path)));
        nodes.push(entry);
    });
    let access = match device.permissions.as_str() {
        "" => "rwm",
        "none" => return Ok(()),
        some => some,
    };
    let kind = if kind == "u" { "c" } else { kind };
    if matches!(kind, "b" | "c") {
        let rule = json!({"allow": true, "type": kind, "major": major, "minor": minor, "access": access});
        change(&mut spec["linux"]["resources"]["devices"], |rules| rules.push(rule));
    }
    Ok(())
}

fn add_mount(spec: &mut Value, mount: &Mount) {
    let mut options = mount.options.clone();
    let binds = options.iter().any(|o| matches!(o.as_str(), "bind" | "rbind"));
    // A mount without a type is one of a host path, and to the runtime it is one only by its options.
    if !binds && matches!(mount.kind.as_str(), "" | "none" | "bind") {
        options.insert(0, "rbind".to_owned());
    }
    let kind = if mount.kind.is_empty() { "bind" } else { &mount.kind };
    let entry =
        json!({"destination": mount.container_path, "type": kind, "source": mount.host_path, "options": options});
    change(&mut spec["mounts"], |mounts| {
        mounts.retain(|m| {
            !m["destination"]
                .as_str()
                .is_some_and(|d| same(d, &mount.container_path))
        });
        mounts.push(entry);
    });
}

fn add_hook(spec: &mut Value, hook: &Hook) {
    let mut entry = json!({"path": hook.path});
    if !hook.args.is_empty() {
        entry["args"] = json!(hook.args);
    }
    if !hook.env.is_empty() {
        entry["env"] = json!(hook.env);
    }
    if let Some(seconds) = hook.timeout {
        entry["timeout"] = json!(seconds);
    }
    change(&mut spec["hooks"][hook.hook_name.as_str()], |hooks| hooks.push(entry));
}

fn intel_rdt(rdt: &IntelRdt) -> Value {
    let mut out = json!({});
    for (key, text) in [
        ("closID", &rdt.clos_id),
        ("l3CacheSchema", &rdt.l3_cache_schema),
        ("memBwSchema", &rdt.mem_bw_schema),
    ] {
        if !text.is_empty() {
            out[key] = json!(text);
        }
    }
    if !rdt.schemata.is_empty() {
        out["schemata"] = json!(rdt.schemata);
    }
    if rdt.enable_monitoring {
        out["enableMonitoring"] = json!(true);
    }
    out
}

//! What a case says of its node; where it says nothing, a usual machine.

use crate::case::{text, texts};
use containerd_driver::spec::node::{CgroupMode, DeviceKind, DeviceNode, NodeFacts, wanted_devices};
use containerd_driver::spec::task::TaskSpec;
use serde_json::Value;
use std::collections::BTreeMap;

fn device(d: &Value) -> DeviceNode {
    let number = |key: &str| u32::try_from(d[key].as_u64().unwrap_or_default()).unwrap();
    DeviceNode {
        path: text(&d["path"]),
        kind: if d["kind"] == "block" {
            DeviceKind::Block
        } else {
            DeviceKind::Char
        },
        major: number("major"),
        minor: number("minor"),
        mode: number("mode"),
        uid: number("uid"),
        gid: number("gid"),
    }
}

fn devices(list: &Value) -> Vec<DeviceNode> {
    list.as_array().into_iter().flatten().map(device).collect()
}

/// The facts as the host would look them up for the task.
pub fn node(node: &Value, task: &TaskSpec) -> NodeFacts {
    let there = devices(&node["devices"]);
    let look = |path: String| {
        let below = format!("{path}/");
        let found: Vec<DeviceNode> = there
            .iter()
            .filter(|d| d.path == path || d.path.starts_with(&below))
            .cloned()
            .collect();
        let found = if found.is_empty() {
            Err("no such file or directory".to_owned())
        } else {
            Ok(found)
        };
        (path, found)
    };
    NodeFacts {
        cgroup: if node["cgroup"] == "v1" {
            CgroupMode::V1
        } else {
            CgroupMode::V2
        },
        swap_accounting: node["swap_accounting"] == true,
        cpuset_cgroup_exists: node["cpuset_cgroup_exists"] == true,
        capabilities: texts(&node["capabilities"]),
        nofile_limit: 1 << 20,
        total_compute_mhz: 8000,
        resolv_conf: Some("nameserver 10.0.0.2\n".to_owned()),
        hosts: Some("127.0.0.1\tlocalhost\n".to_owned()),
        devices: wanted_devices(task).into_iter().map(look).collect::<BTreeMap<_, _>>(),
        host_devices: devices(&node["host_devices"]),
        ..NodeFacts::default()
    }
}

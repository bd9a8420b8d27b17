//! What a case says of its node; where it says nothing, a usual machine.

use crate::case::{list, text, texts};
use containerd_driver::spec::cdi::SpecFile;
use containerd_driver::spec::node::{CgroupMode, DeviceKind, DeviceNode, NodeFacts, SecurityFacts, wanted_devices};
use containerd_driver::spec::seccomp::wanted_profile;
use containerd_driver::spec::task::TaskSpec;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

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

fn devices(nodes: &Value) -> Vec<DeviceNode> {
    list(nodes, device)
}

/// A usual kernel, with what the case says is there to confine with. The library asks the kernel of the machine on which
/// the files were written for its version; any of the last ten years gives the same filter.
fn security(node: &Value, task: &TaskSpec) -> SecurityFacts {
    let profile = &node["seccomp_profile"];
    let there = || match profile {
        Value::Null => Err("no such file".to_owned()),
        profile => Ok(profile.to_string()),
    };
    let loaded = |profiles: &serde_json::Map<String, Value>| {
        let enforced = profiles.iter().map(|(name, on)| (name.clone(), *on == true));
        enforced.collect::<BTreeMap<_, _>>()
    };
    SecurityFacts {
        machine: "x86_64".to_owned(),
        kernel: (6, 1),
        seccomp: true,
        seccomp_profile: wanted_profile(task).map(|_| there()),
        apparmor: node["apparmor"].as_object().map(loaded),
        ..SecurityFacts::default()
    }
}

/// The case's CDI files, all in one directory.
fn cdi_files(node: &Value) -> Vec<SpecFile> {
    let files = node["cdi"].as_object().into_iter().flatten();
    files
        .map(|(path, content)| SpecFile {
            path: path.clone(),
            priority: 0,
            text: Ok(text(content)),
        })
        .collect()
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
        cores: u32::try_from(node["cores"].as_u64().unwrap_or(1)).unwrap(),
        hugepage_sizes: list(&node["hugepage_sizes"], |size| size.as_u64().unwrap()),
        hugetlb: node["hugetlb"] == true,
        block_weight: node["block_weight"] == true,
        init_program: node["init_program"].as_str().map(PathBuf::from),
        cdi_files: cdi_files(node),
        security: security(node, task),
        ..NodeFacts::default()
    }
}

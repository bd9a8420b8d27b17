//! Capabilities of the first process: containerd's default set, `cap_add`, `cap_drop`, or all for `privileged`.

use super::error::SpecError;
use super::node::NodeFacts;
use super::task::TaskSpec;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// containerd `oci.defaultUnixCaps`, which are Docker's.
const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// All that Linux has (capabilities(7), 5.9 and later).
const KNOWN: [&str; 41] = [
    "CAP_AUDIT_CONTROL",
    "CAP_AUDIT_READ",
    "CAP_AUDIT_WRITE",
    "CAP_BLOCK_SUSPEND",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_KILL",
    "CAP_LEASE",
    "CAP_LINUX_IMMUTABLE",
    "CAP_MAC_ADMIN",
    "CAP_MAC_OVERRIDE",
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_RAW",
    "CAP_PERFMON",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYSLOG",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_CHROOT",
    "CAP_SYS_MODULE",
    "CAP_SYS_NICE",
    "CAP_SYS_PACCT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_WAKE_ALARM",
];

/// What a task can have where the operator says nothing: the default set without CAP_NET_RAW, with which a task could
/// forge packets of its neighbours on a bridge (CVE-2021-32575; Nomad's Docker and exec drivers leave it out as well).
const NOMAD_EXCEPT: &str = "CAP_NET_RAW";

/// The capabilities that a task can have: those of `allow_caps`, all with `ALL`; without it all (`open`) or Nomad's list.
/// `None` for all.
pub(super) fn allowed(list: Option<&[String]>, open: bool) -> Result<Option<BTreeSet<String>>, SpecError> {
    match list {
        None if open => Ok(None),
        None => Ok(Some(
            DEFAULT
                .iter()
                .filter(|c| **c != NOMAD_EXCEPT)
                .map(|c| (*c).to_owned())
                .collect(),
        )),
        Some(list) if says_all(list) => Ok(None),
        Some(list) => list
            .iter()
            .map(|name| known("allow_caps", name))
            .collect::<Result<_, _>>()
            .map(Some),
    }
}

/// The full name of a capability.
fn known(option: &str, name: &str) -> Result<String, SpecError> {
    let upper = name.trim().to_ascii_uppercase();
    let full = if upper.starts_with("CAP_") {
        upper
    } else {
        format!("CAP_{upper}")
    };
    if KNOWN.contains(&full.as_str()) {
        Ok(full)
    } else {
        Err(SpecError::option(
            option,
            name,
            "a Linux capability such as CAP_NET_ADMIN, or ALL, is expected",
        ))
    }
}

/// The names an option stands for.
fn named(option: &str, list: &[String], node: &NodeFacts) -> Result<BTreeSet<String>, SpecError> {
    let mut out = BTreeSet::new();
    for name in list {
        if matches!(name.trim().to_ascii_uppercase().as_str(), "ALL" | "CAP_ALL") {
            out.extend(all(node));
        } else {
            out.insert(known(option, name)?);
        }
    }
    Ok(out)
}

/// What "all" can mean on this node.
fn all(node: &NodeFacts) -> BTreeSet<String> {
    let known = |c: &&String| KNOWN.contains(&c.as_str());
    node.capabilities.iter().filter(known).cloned().collect()
}

fn says_all(list: &[String]) -> bool {
    list.iter()
        .any(|n| matches!(n.trim().to_ascii_uppercase().as_str(), "ALL" | "CAP_ALL"))
}

/// The capability sets for OCI `process.capabilities`. Ambient and inheritable stay empty (CVE-2022-24769).
pub(super) fn build(task: &TaskSpec, node: &NodeFacts) -> Result<Value, SpecError> {
    let o = &task.options;
    let (add, drop) = (
        named("cap_add", &o.cap_add, node)?,
        named("cap_drop", &o.cap_drop, node)?,
    );
    let mut caps: BTreeSet<String> = if o.privileged {
        all(node)
    } else {
        DEFAULT.iter().map(|c| (*c).to_owned()).collect()
    };
    if says_all(&o.cap_drop) {
        caps.clear();
        caps.extend(add);
    } else {
        caps.extend(add);
        caps.retain(|c| !drop.contains(c));
    }
    Ok(json!({"bounding": caps, "effective": caps, "permitted": caps}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::options::TaskOptions;

    fn caps(add: &[&str], drop: &[&str], privileged: bool) -> Result<Vec<String>, String> {
        let own = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let options = TaskOptions {
            cap_add: own(add),
            cap_drop: own(drop),
            privileged,
            ..TaskOptions::default()
        };
        let node = NodeFacts {
            capabilities: own(&["CAP_SYS_ADMIN", "CAP_KILL"]),
            ..NodeFacts::default()
        };
        let built = build(
            &TaskSpec {
                options,
                ..TaskSpec::default()
            },
            &node,
        )
        .map_err(|e| e.to_string())?;
        assert_eq!(built["bounding"], built["effective"]);
        Ok(serde_json::from_value(built["permitted"].clone()).unwrap())
    }

    #[test]
    fn sets_follow_add_then_drop() {
        assert_eq!(caps(&[], &[], false).unwrap().len(), 14);
        assert!(
            caps(&["net_admin"], &[], false)
                .unwrap()
                .contains(&"CAP_NET_ADMIN".to_owned())
        );
        assert!(
            !caps(&[], &["CAP_CHOWN"], false)
                .unwrap()
                .contains(&"CAP_CHOWN".to_owned())
        );
        assert!(
            !caps(&["CAP_CHOWN"], &["CAP_CHOWN"], false)
                .unwrap()
                .contains(&"CAP_CHOWN".to_owned())
        );
        assert_eq!(caps(&["KILL"], &["all"], false).unwrap(), ["CAP_KILL"]);
        assert_eq!(caps(&[], &[], true).unwrap(), ["CAP_KILL", "CAP_SYS_ADMIN"]);
        assert_eq!(caps(&["ALL"], &[], false).unwrap().len(), 15);
    }

    #[test]
    fn unknown_names_are_refused() {
        assert!(
            caps(&["CAP_FLY"], &[], false)
                .unwrap_err()
                .contains("option cap_add: \"CAP_FLY\"")
        );
        assert!(caps(&[], &["x"], false).unwrap_err().contains("option cap_drop"));
    }
}

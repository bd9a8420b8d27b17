//! Capabilities of the first process: containerd's default set, `cap_add`, `cap_drop`, or all for `privileged`.

use super::error::SpecError;
use super::node::NodeFacts;
use super::oci::Inputs;
use std::collections::BTreeSet;

const OPTION_ADD: &str = "cap_add";

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

/// The capabilities to add: known, allowed, and ones that the node has.
fn added(inputs: &Inputs<'_>) -> Result<BTreeSet<String>, SpecError> {
    let (node, o) = (inputs.node, &inputs.task.options);
    let allowed = |value: &str, name: &str| match o.privileged {
        true => Ok(()),
        false => inputs.gates.cap(OPTION_ADD, value, name),
    };
    let mut out = BTreeSet::new();
    for value in &o.cap_add {
        if is_all(value) {
            allowed(value, "ALL")?;
            out.extend(all(node));
            continue;
        }
        let name = known(OPTION_ADD, value)?;
        allowed(value, &name)?;
        if !node.capabilities.is_empty() && !node.capabilities.contains(&name) {
            return Err(SpecError::option(
                OPTION_ADD,
                value,
                "this node's kernel, or the driver itself, does not have this capability",
            ));
        }
        out.insert(name);
    }
    Ok(out)
}

/// What "all" can mean on this node.
fn all(node: &NodeFacts) -> BTreeSet<String> {
    let known = |c: &&String| KNOWN.contains(&c.as_str());
    node.capabilities.iter().filter(known).cloned().collect()
}

fn is_all(value: &str) -> bool {
    matches!(value.trim().to_ascii_uppercase().as_str(), "ALL" | "CAP_ALL")
}

fn says_all(list: &[String]) -> bool {
    list.iter().any(|value| is_all(value))
}

/// The set of the process: bounding, effective and permitted. Ambient and inheritable stay empty (CVE-2022-24769).
///
/// The default set, without what `allow_caps` leaves out, and `cap_add`; then `cap_drop` is taken away, so that it wins over
/// `cap_add`, as in the Go driver. Only `cap_drop = ["ALL"]` empties the default set first, as in Docker.
pub(super) fn build(inputs: &Inputs<'_>) -> Result<BTreeSet<String>, SpecError> {
    let o = &inputs.task.options;
    let add = added(inputs)?;
    let named = o.cap_drop.iter().filter(|value| !is_all(value));
    let drop = named
        .map(|value| known("cap_drop", value))
        .collect::<Result<BTreeSet<_>, _>>()?;
    let mut caps: BTreeSet<String> = if says_all(&o.cap_drop) {
        BTreeSet::new()
    } else if o.privileged {
        all(inputs.node)
    } else {
        let allowed = |c: &&str| inputs.gates.caps().is_none_or(|list| list.contains(*c));
        DEFAULT.into_iter().filter(allowed).map(str::to_owned).collect()
    };
    caps.extend(add);
    caps.retain(|c| !drop.contains(c));
    Ok(caps)
}

#[cfg(test)]
#[path = "capabilities_test.rs"]
mod tests;

//! The network and the host name of a container.
//!
//! A group's network is joined by path; `host_network` shares the host's; with neither, a new namespace with loopback
//! only. A bridge is Nomad's to make: a driver that made one would have to map the group's ports too.

use super::error::SpecError;
use super::gates::Mode;
use super::identity::sanitize;
use super::namespaces::{consent, host_uts};
use super::oci::Inputs;
use super::task::TaskSpec;

/// Most bytes that sethostname(2) takes.
const HOSTNAME_MAX: usize = 64;

/// Which network a container is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Network<'a> {
    /// The host's.
    Host,
    /// The group's, by the path of its namespace.
    Group(&'a str),
    /// One of its own, with loopback only.
    Own,
}

/// The group's network namespace, if there is one to join.
fn group_path(task: &TaskSpec) -> Option<&str> {
    task.network.as_ref().map(|n| n.path.as_str()).filter(|p| !p.is_empty())
}

/// The network that `host_network`, `network_mode` and the group say.
pub(super) fn network<'a>(inputs: &Inputs<'a>) -> Result<Network<'a>, SpecError> {
    let o = &inputs.task.options;
    let mode = o.network_mode.as_deref().unwrap_or_default();
    let group = group_path(inputs.task);
    if !matches!(mode, "" | "host" | "none" | "bridge" | "default") {
        return Err(SpecError::option(
            "network_mode",
            mode,
            "host or none is expected; other networks are the group's, by its network block",
        ));
    }
    if o.host_network && !matches!(mode, "" | "host") {
        return Err(SpecError::option(
            "network_mode",
            mode,
            "not allowed with host_network = true, which asks for another network",
        ));
    }
    if o.host_network || mode == "host" {
        let (option, value) = if o.host_network {
            ("host_network", "true")
        } else {
            ("network_mode", mode)
        };
        if group.is_some() {
            let shown = if o.host_network { "true" } else { "\"host\"" };
            return Err(SpecError::Refused {
                option: option.to_owned(),
                text: format!(
                    "option {option}: {shown}: host_network and bridge network mode are mutually exclusive, and only one of them should be set"
                ),
            });
        }
        consent(inputs, Mode::Network, option, value)?;
        return Ok(Network::Host);
    }
    match group {
        // A task may have less than its group has.
        Some(_) if mode == "none" => Ok(Network::Own),
        Some(path) if path.starts_with('/') => Ok(Network::Group(path)),
        Some(path) => Err(SpecError::option(
            "network",
            path,
            "an absolute path of a network namespace is expected",
        )),
        None if matches!(mode, "bridge" | "default") => Err(SpecError::option(
            "network_mode",
            mode,
            "Nomad makes the bridge: network { mode = \"bridge\" } in the task's group is expected",
        )),
        None => Ok(Network::Own),
    }
}

/// Checks `ports`. Nomad maps what a group's network of its own has; a label that is not there is a typing error, after which
/// nothing would listen where the job's author believes. In the host's network nothing needs to be mapped; there a label is
/// looked for only where there are any, as Nomad's Docker driver does (`createContainerConfig`).
pub(super) fn check_ports(inputs: &Inputs<'_>) -> Result<(), SpecError> {
    let task = inputs.task;
    let Some(first) = task.options.ports.first() else {
        return Ok(());
    };
    match network(inputs)? {
        Network::Own => {
            let allowed = "nothing maps it: the task has a loopback interface only; network { mode = \"bridge\" } in the group, \
                           or host_network = true, is expected";
            return Err(SpecError::option("ports", first, allowed));
        }
        Network::Host if task.ports.is_empty() => return Ok(()),
        Network::Host | Network::Group(_) => {}
    }
    let Some(label) = task.options.ports.iter().find(|label| !task.ports.contains(*label)) else {
        return Ok(());
    };
    let known: Vec<&str> = task.ports.iter().map(String::as_str).collect();
    let known = if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    };
    Err(SpecError::option(
        "ports",
        label,
        format!("the label of a port in the group's network block is expected; there is {known}"),
    ))
}

/// The host name: the host's own if it is shared; else the option, else `<task>-<first 8 of the allocation id>`.
pub(super) fn hostname(inputs: &Inputs<'_>) -> Result<String, SpecError> {
    let task = inputs.task;
    if host_uts(inputs)? {
        return Ok(inputs.node.hostname.clone());
    }
    if let Some(name) = task.options.hostname.as_ref().filter(|n| !n.is_empty()) {
        let ok = name.len() <= HOSTNAME_MAX && name.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        return if ok {
            Ok(name.clone())
        } else {
            Err(SpecError::option(
                "hostname",
                name,
                "at most 64 letters, digits, '-', '.' and '_' are expected",
            ))
        };
    }
    let alloc: String = task
        .alloc_id
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take(8)
        .collect();
    // 63 is the limit for one label of a DNS name; 9 are for the allocation.
    let name = sanitize(&task.name, 63 - 9);
    Ok(if alloc.is_empty() {
        name
    } else {
        format!("{name}-{alloc}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::namespaces::tests::with;
    use crate::spec::node::NodeFacts;
    use crate::spec::settings::Settings;
    use proptest::prelude::*;

    fn name(task: &TaskSpec) -> Result<String, String> {
        with(task, &NodeFacts::default(), &Settings::default(), hostname).map_err(|e| e.to_string())
    }

    #[test]
    fn hostnames_are_valid_whatever_the_task_is_called() {
        let mut task = TaskSpec {
            name: "web".to_owned(),
            alloc_id: "11111111-2222".to_owned(),
            ..TaskSpec::default()
        };
        assert_eq!(name(&task).unwrap(), "web-11111111");
        task.name = "ü b--".repeat(40);
        assert!(name(&task).unwrap().len() <= 63);
        for good in ["db.example", "my_db", &"n".repeat(64)] {
            task.options.hostname = Some(good.to_owned());
            assert_eq!(name(&task).unwrap(), good);
        }
        for bad in ["a b", "x\n", "dé", &"n".repeat(65)] {
            task.options.hostname = Some(bad.to_owned());
            assert!(name(&task).unwrap_err().starts_with("option hostname: "), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn default_names_are_names(task in "\\PC{0,200}", alloc in "[0-9a-f-]{0,36}") {
            let task = TaskSpec { name: task, alloc_id: alloc, ..TaskSpec::default() };
            let name = name(&task).unwrap();
            prop_assert!(!name.is_empty() && name.len() <= 63, "{name:?}");
            prop_assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)));
        }
    }
}

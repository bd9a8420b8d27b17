//! Namespaces and host name.
//!
//! A group's network is joined by path; `host_network` shares the host's; with neither, a new namespace with loopback
//! only. There is no cgroup namespace, as in the Go driver.

use super::error::SpecError;
use super::identity::sanitize;
use super::task::TaskSpec;
use serde_json::{Value, json};

/// Most bytes that sethostname(2) takes.
const HOSTNAME_MAX: usize = 64;

/// The group's network namespace, if there is one to join.
pub(super) fn group_path(task: &TaskSpec) -> Option<&str> {
    task.network.as_ref().map(|n| n.path.as_str()).filter(|p| !p.is_empty())
}

/// OCI `linux.namespaces`.
pub(super) fn namespaces(task: &TaskSpec) -> Result<Vec<Value>, SpecError> {
    let mut out: Vec<Value> = ["ipc", "uts", "mount"].iter().map(|n| json!({"type": n})).collect();
    match task.options.pid_mode.as_deref() {
        None => out.push(json!({"type": "pid"})),
        Some(mode) if mode.eq_ignore_ascii_case("host") => {}
        Some(_) => {
            return Err(SpecError::Refused {
                option: "pid_mode".to_owned(),
                text: "Invalid pid_mode. Set pid_mode=host to enable host pid namespace.".to_owned(),
            });
        }
    }
    match (group_path(task), task.options.host_network) {
        (Some(_), true) => {
            return Err(SpecError::Refused {
                option: "host_network".to_owned(),
                text: "host_network and bridge network mode are mutually exclusive, and only one of them should be set"
                    .to_owned(),
            });
        }
        (Some(path), false) if path.starts_with('/') => out.push(json!({"type": "network", "path": path})),
        (Some(path), false) => {
            return Err(SpecError::option(
                "network",
                path,
                "an absolute path of a network namespace is expected",
            ));
        }
        (None, true) => {}
        (None, false) => out.push(json!({"type": "network"})),
    }
    Ok(out)
}

/// The `sysctl` option, checked against the namespaces the container has of its own.
pub(super) fn sysctl(task: &TaskSpec) -> Result<Value, SpecError> {
    let o = &task.options;
    for (key, value) in &o.sysctl {
        if key.is_empty() || key.contains("..") || key.contains('\0') || value.contains('\0') {
            return Err(SpecError::option(
                "sysctl",
                key,
                "a kernel parameter such as net.core.somaxconn is expected",
            ));
        }
        if o.host_network && (key.starts_with("net.") || key.starts_with("net/")) {
            return Err(SpecError::option(
                "sysctl",
                key,
                "not allowed with host_network: it would change the host",
            ));
        }
    }
    Ok(json!(o.sysctl))
}

/// The host name: the option, else `<task>-<first 8 of the allocation id>`.
pub(super) fn hostname(task: &TaskSpec) -> Result<String, SpecError> {
    if let Some(name) = &task.options.hostname {
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
    use crate::spec::task::NetworkNamespace;

    fn types(task: &TaskSpec) -> Vec<String> {
        let list = namespaces(task).unwrap();
        list.iter()
            .map(|n| n["type"].as_str().unwrap().to_owned() + n["path"].as_str().unwrap_or_default())
            .collect()
    }

    #[test]
    fn namespaces_follow_network_and_pid_mode() {
        let mut task = TaskSpec::default();
        assert_eq!(types(&task), ["ipc", "uts", "mount", "pid", "network"]);
        task.options.pid_mode = Some("HOST".to_owned());
        assert_eq!(types(&task), ["ipc", "uts", "mount", "network"]);
        task.options.host_network = true;
        assert_eq!(types(&task), ["ipc", "uts", "mount"]);
        task.options.host_network = false;
        task.network = Some(NetworkNamespace {
            path: "/run/netns/x".to_owned(),
            hosts: None,
        });
        assert_eq!(types(&task), ["ipc", "uts", "mount", "network/run/netns/x"]);
    }

    #[test]
    fn contradictions_are_refused_in_the_go_drivers_words() {
        let mut task = TaskSpec {
            network: Some(NetworkNamespace {
                path: "/n".to_owned(),
                hosts: None,
            }),
            ..TaskSpec::default()
        };
        task.options.host_network = true;
        assert!(
            namespaces(&task)
                .unwrap_err()
                .to_string()
                .starts_with("host_network and bridge network mode are mutually exclusive")
        );
        task.options.pid_mode = Some("task".to_owned());
        assert!(
            namespaces(&task)
                .unwrap_err()
                .to_string()
                .starts_with("Invalid pid_mode.")
        );
    }

    #[test]
    fn hostnames_are_valid_whatever_the_task_is_called() {
        let mut task = TaskSpec {
            name: "web".to_owned(),
            alloc_id: "11111111-2222".to_owned(),
            ..TaskSpec::default()
        };
        assert_eq!(hostname(&task).unwrap(), "web-11111111");
        task.name = "ü b--".repeat(40);
        assert!(hostname(&task).unwrap().len() <= 63);
        task.options.hostname = Some("db.example".to_owned());
        assert_eq!(hostname(&task).unwrap(), "db.example");
        for bad in ["a b", "x\n", &"n".repeat(65)] {
            task.options.hostname = Some(bad.to_owned());
            assert!(hostname(&task).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn net_parameters_are_refused_on_the_hosts_network() {
        let mut task = TaskSpec::default();
        task.options
            .sysctl
            .insert("net.core.somaxconn".to_owned(), "1".to_owned());
        assert!(sysctl(&task).is_ok());
        task.options.host_network = true;
        assert!(sysctl(&task).is_err());
    }
}

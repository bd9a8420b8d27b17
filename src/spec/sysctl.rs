//! The `sysctl` option, checked against the namespaces that the container has of its own.
//!
//! Only some kernel parameters belong to a namespace (runc `libcontainer/configs/validate`); the others are the host's,
//! whoever sets them.

use super::error::SpecError;
use super::gates::Profile;
use super::namespaces::{self, Ipc};
use super::network::{self, Network};
use super::oci::Inputs;
use super::runtime;
use super::userns;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Parameters of an IPC namespace.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// OCI `linux.sysctl`.
pub(super) fn build(inputs: &Inputs<'_>) -> Result<Value, SpecError> {
    for (key, value) in &inputs.task.options.sysctl {
        let empty = key.is_empty() || key.split(['.', '/']).any(str::is_empty);
        if empty || key.contains(|c: char| c.is_control() || c.is_whitespace()) || value.contains('\0') {
            return Err(SpecError::option(
                "sysctl",
                key,
                "a kernel parameter such as net.core.somaxconn is expected",
            ));
        }
        if value.is_empty() {
            return Err(SpecError::option(
                format!("sysctl.{key}"),
                value,
                "a value is expected: writing nothing changes nothing",
            ));
        }
        if let Some(why) = refusal(inputs, &dotted(key))? {
            return Err(SpecError::option("sysctl", key, why));
        }
    }
    let mut all = usual(inputs)?;
    let asked = inputs.task.options.sysctl.iter();
    all.extend(asked.map(|(key, value)| (key.as_str(), value.as_str())));
    Ok(json!(all))
}

/// What Docker sets in every network namespace of its own (moby `daemon/oci_linux.go`): a process that is not root may use ports
/// below 1024 and `ping`.
pub const USUAL: [(&str, &str); 2] = [
    ("net.ipv4.ip_unprivileged_port_start", "0"),
    // All groups.
    (PING, "0 2147483647"),
];

const PING: &str = "net.ipv4.ping_group_range";

/// Of [`USUAL`], what the container can be given and the kernel has.
fn usual<'a>(inputs: &Inputs<'a>) -> Result<BTreeMap<&'a str, &'a str>, SpecError> {
    let (network, mapped) = (network::network(inputs)?, userns::ids(inputs)?.is_some());
    // The group's belongs to the host, which a container in a user namespace of its own cannot change.
    let is_own = network != Network::Host && !(mapped && matches!(network, Network::Group(_)));
    if !is_own || !runtime::of(inputs)?.keeps_to_namespaces() {
        return Ok(BTreeMap::new());
    }
    let is_asked = |key: &str| inputs.task.options.sysctl.keys().any(|asked| dotted(asked) == key);
    let given = |(key, _): &(&str, &str)| {
        // In a user namespace the kernel takes only groups that are mapped.
        inputs.node.sysctls.contains(key) && !is_asked(key) && !(mapped && *key == PING)
    };
    Ok(USUAL.into_iter().filter(given).collect())
}

/// With dots between the parts, whichever of the two forms of sysctl(8) is used: the first separator tells.
fn dotted(key: &str) -> String {
    let swap = |c| match c {
        '/' => '.',
        '.' => '/',
        other => other,
    };
    match key.find(['.', '/']) {
        Some(at) if key.get(at..).is_some_and(|rest| rest.starts_with('/')) => key.chars().map(swap).collect(),
        _ => key.to_owned(),
    }
}

/// Where the kernel has it: a dot inside a part of the name is then a dot of the path.
#[must_use]
pub fn path(key: &str) -> String {
    let swap = |c| match c {
        '/' => '.',
        '.' => '/',
        other => other,
    };
    format!("/proc/sys/{}", dotted(key).chars().map(swap).collect::<String>())
}

/// Why the container may not set it, if so.
fn refusal(inputs: &Inputs<'_>, key: &str) -> Result<Option<&'static str>, SpecError> {
    Ok(if key.starts_with("net.") {
        match network::network(inputs)? {
            Network::Host => Some("not allowed with host_network: it would change the host"),
            Network::Group(_) if userns::ids(inputs)?.is_some() => {
                Some("not allowed with userns = \"private\" in the group's network, which is not the user namespace's")
            }
            Network::Group(_) | Network::Own => None,
        }
    } else if IPC.contains(&key) || key.starts_with("fs.mqueue.") {
        (namespaces::ipc(inputs)? == Ipc::Host)
            .then_some("not allowed with ipc_mode = \"host\": it would change the host")
    } else if matches!(key, "kernel.hostname" | "kernel.domainname") {
        if namespaces::host_uts(inputs)? {
            Some("not allowed with uts_mode = \"host\": it would change the host")
        } else if key == "kernel.hostname" {
            Some("the option hostname sets the name")
        } else {
            let mapped = userns::ids(inputs)?.is_some();
            mapped.then_some("not allowed with userns = \"private\": the kernel leaves it to the host's root")
        }
    } else {
        of_the_host(inputs, key)?
    })
}

/// Why a parameter that is none of a namespace may not be set. runc and crun refuse all of them themselves, also `user.*`,
/// which does belong to a user namespace (runc `libcontainer/configs/validate`, crun `validate_sysctl`); what has a
/// kernel of its own may take them.
fn of_the_host(inputs: &Inputs<'_>, key: &str) -> Result<Option<&'static str>, SpecError> {
    let user = key.starts_with("user.") && userns::ids(inputs)?.is_some();
    Ok(if user {
        Some(
            "user.* cannot be set even with userns = \"private\": runc and crun do not write it, so no setting allows it",
        )
    } else if runtime::of(inputs)?.keeps_to_namespaces() {
        Some(
            "it is the host's, and runc and crun set only what belongs to a container: net.*, fs.mqueue.*, kernel.msg*, kernel.shm*, kernel.sem and kernel.domainname; no setting allows it: set it on the node itself",
        )
    } else {
        (inputs.gates.profile == Profile::Strict).then_some(
            "it is the host's; net.*, fs.mqueue.*, kernel.msg*, kernel.shm*, kernel.sem and kernel.domainname belong to a container; security_profile = \"go-driver\" in the plugin configuration would leave it to the runtime",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::namespaces::tests::with;
    use crate::spec::node::NodeFacts;
    use crate::spec::options::TaskOptions;
    use crate::spec::settings::{AllowedModes, Settings};
    use crate::spec::task::TaskSpec;
    use proptest::prelude::*;

    fn set(key: &str, change: fn(&mut TaskOptions), profile: &str) -> Result<Value, String> {
        let host = || Some(vec!["host".to_owned()]);
        let settings = Settings {
            security_profile: profile.to_owned(),
            userns_ids: Some("1000:10".to_owned()),
            allow_runtimes: Some(vec!["*".to_owned()]),
            allowed_modes: Some(AllowedModes {
                ipc: host(),
                uts: host(),
                network: host(),
                ..AllowedModes::default()
            }),
            ..Settings::default()
        };
        let mut task = TaskSpec::default();
        task.options.sysctl.insert(key.to_owned(), "1".to_owned());
        change(&mut task.options);
        with(&task, &NodeFacts::default(), &settings, build).map_err(|e| e.to_string())
    }

    fn given(asked: &[(&str, &str)], change: fn(&mut TaskSpec), settings: &Settings) -> Vec<String> {
        let node = NodeFacts {
            sysctls: USUAL.into_iter().map(|(key, _)| key).collect(),
            ..NodeFacts::default()
        };
        let mut task = TaskSpec::default();
        let asked = asked
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        task.options.sysctl.extend(asked);
        change(&mut task);
        let all = with(&task, &node, settings, build).unwrap();
        let all = all.as_object().unwrap().iter();
        all.map(|(key, value)| format!("{key}={}", value.as_str().unwrap()))
            .collect()
    }

    fn in_a_group(task: &mut TaskSpec) {
        task.network = Some(crate::spec::task::NetworkNamespace {
            path: "/run/netns/g".to_owned(),
            hosts: None,
        });
    }

    #[test]
    fn who_is_not_root_can_use_low_ports_and_ping_in_a_network_of_its_own() {
        let (ports, ping) = (
            "net.ipv4.ip_unprivileged_port_start=0",
            "net.ipv4.ping_group_range=0 2147483647",
        );
        let plain = Settings::default();
        assert_eq!(given(&[], |_| {}, &plain), [ports, ping]);
        assert_eq!(given(&[], in_a_group, &plain), [ports, ping]);
        // The job's word goes first, in either form.
        let own = [("net/ipv4/ip_unprivileged_port_start", "80")];
        assert_eq!(
            given(&own, |_| {}, &plain),
            [ping, "net/ipv4/ip_unprivileged_port_start=80"]
        );
        let open = Settings {
            userns_ids: Some("100000:65536".to_owned()),
            allowed_modes: Some(AllowedModes {
                network: Some(vec!["host".to_owned()]),
                ..AllowedModes::default()
            }),
            ..Settings::default()
        };
        let none: [&str; 0] = [];
        assert_eq!(given(&[], |t| t.options.host_network = true, &open), none);
        let mapped = |task: &mut TaskSpec| task.options.userns = Some("private".to_owned());
        assert_eq!(given(&[], mapped, &open), [ports]);
        let both = |task: &mut TaskSpec| {
            task.options.userns = Some("private".to_owned());
            in_a_group(task);
        };
        assert_eq!(given(&[], both, &open), none);
    }

    #[test]
    fn in_a_user_namespace_what_is_the_hosts_is_refused() {
        let private = |o: &mut TaskOptions| o.userns = Some("private".to_owned());
        let text = set("kernel.domainname", private, "go-driver").unwrap_err();
        assert!(text.contains("sysctl") && text.contains("userns"), "{text}");
        assert!(set("net.core.somaxconn", private, "go-driver").is_ok());
    }

    #[test]
    fn parameters_of_the_containers_namespaces_can_be_set() {
        for key in [
            "net.core.somaxconn",
            "net/ipv4/conf/eth0.1/forwarding",
            "kernel.shmmax",
            "kernel.sem",
            "fs.mqueue.msg_max",
            "kernel.domainname",
        ] {
            assert_eq!(set(key, |_| {}, "strict").unwrap(), json!({key: "1"}));
        }
    }

    #[test]
    fn those_of_a_user_namespace_are_refused_since_no_runtime_writes_them() {
        for profile in ["strict", "go-driver"] {
            let error = set(
                "user.max_net_namespaces",
                |o| o.userns = Some("private".to_owned()),
                profile,
            );
            let error = error.unwrap_err();
            assert!(
                error.contains("option sysctl: \"user.max_net_namespaces\"") && error.contains("no setting allows it"),
                "{error}"
            );
        }
    }

    #[test]
    fn both_forms_of_a_name_have_one_path() {
        for (key, want) in [
            ("net.core.somaxconn", "/proc/sys/net/core/somaxconn"),
            ("net/core/somaxconn", "/proc/sys/net/core/somaxconn"),
            (
                "net/ipv4/conf/eth0.1/forwarding",
                "/proc/sys/net/ipv4/conf/eth0.1/forwarding",
            ),
        ] {
            assert_eq!(path(key), want);
        }
    }

    #[test]
    fn parameters_of_a_shared_namespace_are_refused() {
        for profile in ["strict", "go-driver"] {
            for key in ["net.core.somaxconn", "net/core/somaxconn"] {
                assert!(
                    set(key, |o| o.host_network = true, profile)
                        .unwrap_err()
                        .contains("host_network")
                );
                assert!(set(key, |o| o.network_mode = Some("host".to_owned()), profile).is_err());
            }
            for key in ["kernel.shmmax", "fs.mqueue.msg_max", "kernel/msgmax"] {
                assert!(
                    set(key, |o| o.ipc_mode = Some("host".to_owned()), profile)
                        .unwrap_err()
                        .contains("ipc_mode")
                );
            }
            let name = set("kernel.domainname", |o| o.uts_mode = Some("host".to_owned()), profile);
            assert!(name.unwrap_err().contains("uts_mode"));
            assert!(
                set("kernel.hostname", |_| {}, profile)
                    .unwrap_err()
                    .contains("option hostname")
            );
        }
    }

    #[test]
    fn parameters_of_the_host_are_refused_unless_a_runtime_has_a_kernel_of_its_own() {
        for key in [
            "vm.max_map_count",
            "kernel.panic",
            "kernel.shmx",
            "kernel.core_pattern",
            "user.max_net_namespaces",
            "fs/file-max",
        ] {
            let error = set(key, |_| {}, "strict").unwrap_err();
            assert!(
                error.starts_with(&format!("option sysctl: {key:?}: it is the host's")),
                "{error}"
            );
            assert!(error.contains("no setting allows it"), "{error}");
            for profile in ["strict", "go-driver"] {
                assert!(set(key, |o| o.runtime = Some("crun".to_owned()), profile).is_err());
            }
            let kata = |o: &mut TaskOptions| o.runtime = Some("kata".to_owned());
            let error = set(key, kata, "strict").unwrap_err();
            assert!(error.contains("security_profile = \"go-driver\""), "{error}");
            assert!(set(key, kata, "go-driver").is_ok());
        }
        for key in [
            "",
            "net..x",
            "net.",
            "/net/x",
            "a b",
            "net.x\n",
            "net/../kernel/x",
            ".net",
        ] {
            assert!(set(key, |_| {}, "strict").is_err(), "{key:?}");
        }
    }

    proptest! {
        #[test]
        fn any_key_is_answered(key in "(net|kernel|\\.|/|\\PC){0,6}") {
            set(&key, |_| {}, "strict").ok();
        }
    }
}

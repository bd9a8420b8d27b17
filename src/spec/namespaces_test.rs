//! What `namespaces.rs`, `network.rs`, `sysctl.rs` and `userns.rs` promise of each other.

use super::*;
use crate::spec::gates::Gates;
use crate::spec::image::ImageFacts;
use crate::spec::node::NodeFacts;
use crate::spec::options::TaskOptions;
use crate::spec::settings::{AllowedModes, Settings};
use crate::spec::task::{NetworkNamespace, TaskSpec};

/// A change of the options, and what is expected of it.
type Case = (fn(&mut TaskOptions), &'static str);

pub(in crate::spec) fn with<T>(
    task: &TaskSpec,
    node: &NodeFacts,
    settings: &Settings,
    what: impl Fn(&Inputs<'_>) -> T,
) -> T {
    let gates = Gates::of(settings).unwrap();
    what(&Inputs {
        task,
        image: &ImageFacts::default(),
        node,
        settings,
        gates: &gates,
    })
}

pub(in crate::spec) fn group() -> Option<NetworkNamespace> {
    Some(NetworkNamespace {
        path: "/run/netns/x".to_owned(),
        hosts: None,
    })
}

fn all_modes() -> Settings {
    let host = || Some(vec!["host".to_owned()]);
    Settings {
        allowed_modes: Some(AllowedModes {
            pid: host(),
            ipc: host(),
            uts: host(),
            cgroup: host(),
            network: host(),
            ..AllowedModes::default()
        }),
        userns_ids: Some("100000:65536".to_owned()),
        ..Settings::default()
    }
}

fn built(task: &TaskSpec, node: &NodeFacts, settings: &Settings) -> Result<Vec<String>, String> {
    let list = with(task, node, settings, build).map_err(|e| e.to_string())?;
    Ok(list
        .iter()
        .map(|n| n["type"].as_str().unwrap().to_owned() + n["path"].as_str().unwrap_or_default())
        .collect())
}

fn types(change: fn(&mut TaskOptions), settings: &Settings) -> Result<Vec<String>, String> {
    let mut task = TaskSpec::default();
    change(&mut task.options);
    built(&task, &NodeFacts::default(), settings)
}

#[test]
fn all_are_private_where_nothing_is_said() {
    let all = ["ipc", "uts", "mount", "pid", "cgroup", "network"];
    assert_eq!(types(|_| {}, &Settings::default()).unwrap(), all);
    let same = |o: &mut TaskOptions| {
        o.pid_mode = Some("private".to_owned());
        o.ipc_mode = Some("shareable".to_owned());
        o.uts_mode = Some(String::new());
        o.cgroupns = Some("private".to_owned());
        o.userns = Some("host".to_owned());
        o.network_mode = Some("none".to_owned());
    };
    assert_eq!(types(same, &Settings::default()).unwrap(), all);
    assert_eq!(
        types(|o| o.ipc_mode = Some("none".to_owned()), &Settings::default()).unwrap(),
        all
    );
}

#[test]
fn each_can_be_the_hosts() {
    let cases: [Case; 6] = [
        (|o| o.pid_mode = Some("HOST".to_owned()), "pid"),
        (|o| o.ipc_mode = Some("host".to_owned()), "ipc"),
        (|o| o.uts_mode = Some("host".to_owned()), "uts"),
        (|o| o.cgroupns = Some("host".to_owned()), "cgroup"),
        (|o| o.host_network = true, "network"),
        (|o| o.network_mode = Some("host".to_owned()), "network"),
    ];
    for (change, kind) in cases {
        let with = types(change, &all_modes()).unwrap();
        assert!(with.len() == 5 && !with.contains(&kind.to_owned()), "{kind}: {with:?}");
        let refused = types(change, &Settings::default()).unwrap_err();
        assert!(
            refused.contains(&format!("allowed_modes {{ {kind} }} with \"host\" in it")),
            "{refused}"
        );
        // A privileged task passed a wider gate.
        let mut task = TaskSpec::default();
        change(&mut task.options);
        task.options.privileged = true;
        assert_eq!(built(&task, &NodeFacts::default(), &Settings::default()).unwrap(), with);
    }
}

#[test]
fn unknown_modes_are_refused_by_name() {
    let cases: [Case; 6] = [
        (
            |o| o.pid_mode = Some("task".to_owned()),
            "option pid_mode: \"task\": Invalid pid_mode.",
        ),
        (
            |o| o.ipc_mode = Some("container:x".to_owned()),
            "option ipc_mode: \"container:x\": host, private",
        ),
        (|o| o.uts_mode = Some("x".to_owned()), "option uts_mode: \"x\": "),
        (|o| o.cgroupns = Some("x".to_owned()), "option cgroupns: \"x\": "),
        (
            |o| o.userns = Some("keep-id".to_owned()),
            "option userns: \"keep-id\": ",
        ),
        (
            |o| o.network_mode = Some("weave".to_owned()),
            "option network_mode: \"weave\": ",
        ),
    ];
    for (change, want) in cases {
        let error = types(change, &all_modes()).unwrap_err();
        assert!(error.starts_with(want), "{error}");
    }
}

#[test]
fn the_cgroup_namespace_follows_the_nodes_cgroups() {
    let v1 = NodeFacts {
        cgroup: CgroupMode::V1,
        ..NodeFacts::default()
    };
    let mut task = TaskSpec::default();
    let has = |task: &TaskSpec| {
        built(task, &v1, &Settings::default())
            .unwrap()
            .contains(&"cgroup".to_owned())
    };
    assert!(!has(&task));
    // What is the default there needs no consent.
    task.options.cgroupns = Some("host".to_owned());
    assert!(!has(&task));
    task.options.cgroupns = Some("private".to_owned());
    assert!(has(&task));
}

#[test]
fn a_groups_network_is_joined() {
    let mut task = TaskSpec {
        network: group(),
        ..TaskSpec::default()
    };
    let last = |task: &TaskSpec| built(task, &NodeFacts::default(), &all_modes()).map(|mut all| all.pop().unwrap());
    for mode in [None, Some(""), Some("bridge"), Some("default")] {
        task.options.network_mode = mode.map(ToOwned::to_owned);
        assert_eq!(last(&task).unwrap(), "network/run/netns/x", "{mode:?}");
    }
    // A task may have less than its group.
    task.options.network_mode = Some("none".to_owned());
    assert_eq!(last(&task).unwrap(), "network");
    task.options.network_mode = Some("host".to_owned());
    assert!(
        last(&task)
            .unwrap_err()
            .starts_with("option network_mode: \"host\": host_network and bridge network mode are mutually exclusive")
    );
    task.options.network_mode = None;
    task.options.host_network = true;
    assert!(
        last(&task)
            .unwrap_err()
            .starts_with("option host_network: true: host_network and bridge network mode are mutually exclusive")
    );
    task.options.host_network = false;
    task.network = Some(NetworkNamespace {
        path: "netns".to_owned(),
        hosts: None,
    });
    assert!(last(&task).unwrap_err().starts_with("option network: \"netns\""));
}

#[test]
fn a_bridge_is_the_groups_to_make() {
    let error = types(|o| o.network_mode = Some("bridge".to_owned()), &all_modes()).unwrap_err();
    assert!(error.contains("network { mode = \"bridge\" }"), "{error}");
    let both = |o: &mut TaskOptions| (o.host_network, o.network_mode) = (true, Some("none".to_owned()));
    assert!(types(both, &all_modes()).unwrap_err().contains("host_network"));
    let agree = |o: &mut TaskOptions| (o.host_network, o.network_mode) = (true, Some("host".to_owned()));
    assert!(types(agree, &all_modes()).is_ok());
}

#[test]
fn a_user_namespace_has_ids_and_excludes_what_it_cannot_have() {
    let private = |o: &mut TaskOptions| o.userns = Some("private".to_owned());
    assert_eq!(
        types(private, &all_modes()).unwrap(),
        ["ipc", "uts", "mount", "pid", "cgroup", "user", "network"]
    );
    assert!(types(private, &Settings::default()).unwrap_err().contains("userns_ids"));
    let cases: [Case; 4] = [
        (|o| o.privileged = true, "privileged"),
        (|o| o.ipc_mode = Some("host".to_owned()), "ipc_mode"),
        (|o| o.pid_mode = Some("host".to_owned()), "pid_mode"),
        (|o| o.host_network = true, "host_network"),
    ];
    for (change, want) in cases {
        let mut task = TaskSpec::default();
        private(&mut task.options);
        change(&mut task.options);
        let error = built(&task, &NodeFacts::default(), &all_modes()).unwrap_err();
        assert!(
            error.starts_with("option userns: \"private\": ") && error.contains(want),
            "{error}"
        );
    }
}

#[test]
fn a_user_namespace_goes_with_the_hosts_name_and_cgroup_tree() {
    let with = |change: fn(&mut TaskOptions)| {
        let mut task = TaskSpec::default();
        task.options.userns = Some("private".to_owned());
        change(&mut task.options);
        built(&task, &NodeFacts::default(), &all_modes()).unwrap()
    };
    let all = with(|o| (o.uts_mode, o.cgroupns) = (Some("host".to_owned()), Some("host".to_owned())));
    assert_eq!(all, ["ipc", "mount", "pid", "user", "network"]);
}

#[test]
fn ids_beyond_those_of_the_namespace_are_refused_by_who_asked_for_them() {
    let check = |user: &str, groups: &[&str], image: &ImageFacts| {
        let mut task = TaskSpec {
            user: user.to_owned(),
            ..TaskSpec::default()
        };
        task.options.group_add = groups.iter().map(|g| (*g).to_owned()).collect();
        let found = crate::spec::user::resolve(&task, image).unwrap();
        let ids = userns::UsernsIds {
            first: 100_000,
            count: 1000,
        };
        let settings = Settings::default();
        let inputs = Inputs {
            task: &task,
            image,
            node: &NodeFacts::default(),
            settings: &settings,
            gates: &Gates::of(&settings).unwrap(),
        };
        userns::check_user(&inputs, ids, &found).map_err(|e| e.to_string())
    };
    let plain = ImageFacts::default();
    assert_eq!(check("999:999", &["7"], &plain), Ok(()));
    let image = ImageFacts {
        user: "app".to_owned(),
        passwd: "app:x:5:5::/:\n".to_owned(),
        group: "far:x:5000:app\nbig:x:6000:\n".to_owned(),
        ..ImageFacts::default()
    };
    for (user, groups, image, want) in [
        (
            "1000",
            &[][..],
            &plain,
            "option user: \"1000\": with userns = \"private\" ids from 0 to 999",
        ),
        ("0:1000", &[], &plain, "option user: \"0:1000\": "),
        ("0", &["7", "70000"], &plain, "option group_add: \"70000\": "),
        ("5:5", &["big"], &image, "option group_add: \"big\": "),
        ("", &[], &image, "option user: \"app\": the image gives it group 5000"),
    ] {
        let text = check(user, groups, image).unwrap_err();
        assert!(text.starts_with(want), "{text}");
    }
}

#[test]
fn ports_are_labels_that_the_group_has() {
    let mut task = TaskSpec::default();
    let check = |task: &TaskSpec| {
        let checked = with(
            task,
            &NodeFacts::default(),
            &Settings::go_driver(),
            network::check_ports,
        );
        checked.map_err(|e| e.to_string())
    };
    let says = |task: &TaskSpec, label: &str, end: &str| {
        let text = check(task).unwrap_err();
        let whole = text.starts_with(&format!("option ports: {label:?}: ")) && text.ends_with(end);
        assert!(whole, "{text}");
    };
    assert_eq!(check(&task), Ok(()));
    task.options.ports = vec!["http".to_owned(), "admin".to_owned()];
    let known = || ["http", "metrics"].map(ToOwned::to_owned).into();
    let loopback =
        "a loopback interface only; network { mode = \"bridge\" } in the group, or host_network = true, is expected";
    says(&task, "http", loopback);
    // The group's ports are those of the host there.
    task.ports = known();
    says(&task, "http", loopback);
    task.network = Some(NetworkNamespace {
        path: "/var/run/netns/x".to_owned(),
        hosts: None,
    });
    says(&task, "admin", "there is http, metrics");
    task.options.network_mode = Some("none".to_owned());
    says(&task, "http", loopback);
    task.options.network_mode = None;
    task.ports.clear();
    says(&task, "http", "there is none");
    task.ports = known();
    task.options.ports.truncate(1);
    assert_eq!(check(&task), Ok(()));
    // With the host's network there is nothing to map.
    (task.network, task.options.host_network) = (None, true);
    assert_eq!(check(&task), Ok(()));
    task.options.ports.push("admin".to_owned());
    says(&task, "admin", "there is http, metrics");
    task.ports.clear();
    assert_eq!(check(&task), Ok(()));
}

#[test]
fn a_shared_name_cannot_be_changed() {
    let mut task = TaskSpec::default();
    task.options.uts_mode = Some("host".to_owned());
    let node = NodeFacts {
        hostname: "node7".to_owned(),
        ..NodeFacts::default()
    };
    assert_eq!(with(&task, &node, &all_modes(), network::hostname).unwrap(), "node7");
    task.options.hostname = Some("web".to_owned());
    let error = built(&task, &node, &all_modes()).unwrap_err();
    assert!(
        error.starts_with("option hostname: \"web\": not allowed with uts_mode"),
        "{error}"
    );
}

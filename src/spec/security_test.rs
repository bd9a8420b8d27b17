//! What `security` promises.

use super::*;
use crate::spec::gates::Gates;
use crate::spec::image::ImageFacts;
use crate::spec::node::NodeFacts;
use crate::spec::options::TaskOptions;
use crate::spec::settings::Settings;
use crate::spec::task::TaskSpec;

fn own(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

fn with(opts: &[&str]) -> TaskOptions {
    TaskOptions {
        security_opt: own(opts),
        ..TaskOptions::default()
    }
}

fn consent(names: &[&str]) -> Settings {
    Settings {
        allow_unconfined: Some(own(names)),
        allow_privileged: Some(true),
        ..Settings::default()
    }
}

/// With AppArmor, and these profiles loaded.
fn loaded(profiles: &[(&str, bool)]) -> NodeFacts {
    let mut node = NodeFacts::default();
    node.security.apparmor = Some(profiles.iter().map(|(n, e)| ((*n).to_owned(), *e)).collect());
    node
}

fn spec_of(options: TaskOptions, node: &NodeFacts, settings: &Settings) -> Result<Value, String> {
    let task = TaskSpec {
        options,
        ..TaskSpec::default()
    };
    let inputs = Inputs {
        task: &task,
        image: &ImageFacts::default(),
        node,
        settings,
        gates: &Gates::of(settings).unwrap(),
    };
    let mut spec = json!({"process": {}, "linux": {}});
    Security::build(&inputs, &BTreeSet::new())
        .map_err(|e| e.to_string())?
        .apply(&mut spec);
    Ok(spec)
}

fn strict(opts: &[&str]) -> Result<Value, String> {
    spec_of(with(opts), &NodeFacts::default(), &Settings::default())
}

#[test]
fn paths_of_the_system_are_masked_unless_there_is_consent() {
    let all = strict(&[]).unwrap();
    assert_eq!(all["linux"]["maskedPaths"], json!(MASKED));
    assert_eq!(all["linux"]["readonlyPaths"], json!(READONLY));
    for item in ["systempaths=unconfined", "unmask=ALL", "unmask=/proc/sys"] {
        let error = strict(&[item]).unwrap_err();
        assert!(
            error.contains(item) && error.contains("allow_unconfined with \"systempaths\" in it"),
            "{error}"
        );
    }
    let open = consent(&["systempaths"]);
    let node = NodeFacts::default();
    for item in ["systempaths=unconfined", "unmask=all"] {
        let spec = spec_of(with(&[item]), &node, &open).unwrap();
        assert!(spec["linux"].get("maskedPaths").is_none() && spec["linux"].get("readonlyPaths").is_none());
    }
    let spec = spec_of(
        with(&["unmask=/proc/sys:/proc/k*", "mask=/proc/cpuinfo:/proc/acpi"]),
        &node,
        &open,
    )
    .unwrap();
    let masked = spec["linux"]["maskedPaths"].as_array().unwrap();
    assert_eq!(masked.len(), 11);
    assert!(!masked.contains(&json!("/proc/kcore")) && masked.contains(&json!("/proc/cpuinfo")));
    assert_eq!(spec["linux"]["readonlyPaths"].as_array().unwrap().len(), 4);
}

#[test]
fn masking_more_needs_no_consent() {
    let spec = strict(&["mask=/etc/shadow"]).unwrap();
    assert_eq!(spec["linux"]["maskedPaths"].as_array().unwrap().len(), 13);
    // Also where a pattern of the same list would unmask it.
    let spec = spec_of(
        with(&["unmask=ALL", "mask=/proc/kcore"]),
        &NodeFacts::default(),
        &consent(&["systempaths"]),
    );
    assert_eq!(spec.unwrap()["linux"]["maskedPaths"], json!(["/proc/kcore"]));
}

#[test]
fn privileged_leaves_everything_off() {
    let node = loaded(&[("docker-default", true)]);
    let options = TaskOptions {
        privileged: true,
        ..with(&["unmask=ALL", "apparmor=unconfined", "seccomp=unconfined"])
    };
    let spec = spec_of(options, &node, &consent(&[])).unwrap();
    assert_eq!(spec, json!({"process": {"noNewPrivileges": false}, "linux": {}}));
    let options = TaskOptions {
        privileged: true,
        ..with(&["apparmor=docker-default", "no-new-privileges", "mask=/x"])
    };
    let spec = spec_of(options.clone(), &node, &consent(&[])).unwrap();
    assert_eq!(
        spec,
        json!({
            "process": {"noNewPrivileges": true, "apparmorProfile": "docker-default"},
            "linux": {"maskedPaths": ["/x"]},
        })
    );
    let error = spec_of(options, &node, &Settings::default()).unwrap_err();
    assert!(error.contains("allow_privileged"), "{error}");
}

#[test]
fn no_new_privileges_is_the_default_and_can_be_said_twice() {
    let nnp = |own: Option<bool>, opts: &[&str]| {
        let options = TaskOptions {
            no_new_privileges: own,
            ..with(opts)
        };
        spec_of(options, &NodeFacts::default(), &Settings::default()).map(|s| s["process"]["noNewPrivileges"].clone())
    };
    assert_eq!(nnp(None, &[]).unwrap(), true);
    assert_eq!(nnp(Some(false), &[]).unwrap(), false);
    assert_eq!(nnp(None, &["no-new-privileges:false"]).unwrap(), false);
    assert_eq!(nnp(Some(true), &["no-new-privileges"]).unwrap(), true);
    let error = nnp(Some(false), &["no-new-privileges"]).unwrap_err();
    assert!(
        error.contains("no-new-privileges=true") && error.contains("no_new_privileges = false"),
        "{error}"
    );
}

#[test]
fn the_default_apparmor_profile_is_the_first_that_is_loaded() {
    let profile = |node: &NodeFacts, settings: &Settings| {
        spec_of(TaskOptions::default(), node, settings).unwrap()["process"]
            .get("apparmorProfile")
            .cloned()
    };
    let both = loaded(&[
        ("docker-default", true),
        ("cri-containerd.apparmor.d", true),
        ("x", true),
    ]);
    let strict = Settings::default();
    assert_eq!(profile(&both, &strict), Some(json!("cri-containerd.apparmor.d")));
    assert_eq!(profile(&both, &Settings::go_driver()), None);
    assert_eq!(profile(&loaded(&[("x", true)]), &strict), None);
    assert_eq!(profile(&NodeFacts::default(), &strict), None);
}

#[test]
fn apparmor_profiles_are_loaded_ones_and_none_by_consent() {
    let node = loaded(&[("mine", true), ("lenient", false)]);
    let off = NodeFacts::default();
    let by = |own: Option<&str>, opts: &[&str], node: &NodeFacts, consents: &[&str]| {
        let options = TaskOptions {
            apparmor_profile: own.map(str::to_owned),
            ..with(opts)
        };
        spec_of(options, node, &consent(consents)).map(|s| s["process"]["apparmorProfile"].clone())
    };
    let usual = loaded(&[("docker-default", true)]);
    assert_eq!(by(Some("docker-default"), &[], &usual, &[]).unwrap(), "docker-default");
    let one = &["apparmor"];
    assert_eq!(by(Some("mine"), &[], &node, one).unwrap(), "mine");
    assert_eq!(by(None, &["apparmor=mine"], &node, one).unwrap(), "mine");
    assert_eq!(by(Some("mine"), &["apparmor=mine"], &node, one).unwrap(), "mine");
    assert_eq!(by(Some("lenient"), &[], &node, &["apparmor"]).unwrap(), "lenient");
    for node in [&node, &off] {
        assert_eq!(by(Some("unconfined"), &[], node, &["apparmor"]).unwrap(), Value::Null);
    }
    for (own, opts, node, says) in [
        (
            Some("unconfined"),
            &[][..],
            &node,
            "option apparmor_profile: \"unconfined\"",
        ),
        (
            Some("unconfined"),
            &[],
            &off,
            "allow_unconfined with \"apparmor\" in it",
        ),
        (
            None,
            &["apparmor=unconfined"],
            &node,
            "option security_opt: \"apparmor=unconfined\"",
        ),
        (Some("lenient"), &[], &node, "allow_unconfined with \"apparmor\" in it"),
        (Some("mine"), &[], &node, "allow_unconfined with \"apparmor\" in it"),
        (
            Some("other"),
            &[],
            &node,
            "option apparmor_profile: \"other\": unconfined, or a profile that is loaded",
        ),
        (Some("mine"), &[], &off, "AppArmor is not enabled"),
        (
            Some("mine"),
            &["apparmor=lenient"],
            &node,
            "contradicts apparmor_profile = \"mine\"",
        ),
    ] {
        let error = by(own, opts, node, &[]).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn selinux_labels_are_written_where_there_is_selinux() {
    let mut node = NodeFacts::default();
    let settings = Settings::default();
    assert!(strict(&["label=disable"]).is_ok());
    let error = strict(&["label=type:svirt_lxc_net_t"]).unwrap_err();
    assert!(error.contains("SELinux is not enabled"), "{error}");
    node.security.selinux = true;
    let spec = spec_of(with(&["label=disable"]), &node, &settings).unwrap();
    assert!(spec["process"].get("selinuxLabel").is_none());
    let spec = spec_of(
        with(&["label=type:svirt_lxc_net_t", "label=level:s0:c1,c2"]),
        &node,
        &settings,
    )
    .unwrap();
    assert_eq!(
        spec["process"]["selinuxLabel"],
        "system_u:system_r:svirt_lxc_net_t:s0:c1,c2"
    );
    assert_eq!(
        spec["linux"]["mountLabel"],
        "system_u:object_r:container_file_t:s0:c1,c2"
    );
}

#[test]
fn an_selinux_type_that_is_not_for_containers_needs_consent() {
    let mut node = NodeFacts::default();
    node.security.selinux = true;
    for kind in ["spc_t", "container_runtime_t", "unconfined_t"] {
        let item = format!("label=type:{kind}");
        let error = spec_of(with(&[&item]), &node, &consent(&["apparmor"])).unwrap_err();
        assert!(
            error.contains(&item) && error.contains("allow_unconfined with \"selinux\" in it"),
            "{error}"
        );
        let spec = spec_of(with(&[&item]), &node, &consent(&["selinux"])).unwrap();
        assert_eq!(spec["process"]["selinuxLabel"], format!("system_u:system_r:{kind}:s0"));
    }
}

#[test]
fn the_filter_stands_in_the_specification() {
    assert_eq!(
        strict(&[]).unwrap()["linux"]["seccomp"]["defaultAction"],
        "SCMP_ACT_ERRNO"
    );
    assert!(strict(&["nonsense"]).unwrap_err().contains("option security_opt"));
}

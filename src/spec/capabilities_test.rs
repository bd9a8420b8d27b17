//! What `capabilities` promises.

use super::*;
use crate::spec::gates::Gates;
use crate::spec::image::ImageFacts;
use crate::spec::options::TaskOptions;
use crate::spec::settings::Settings;
use crate::spec::task::TaskSpec;
use proptest::prelude::*;

fn own(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

fn caps_with(settings: &Settings, add: &[&str], drop: &[&str], privileged: bool) -> Result<Vec<String>, String> {
    let task = TaskSpec {
        options: TaskOptions {
            cap_add: own(add),
            cap_drop: own(drop),
            privileged,
            ..TaskOptions::default()
        },
        ..TaskSpec::default()
    };
    let node = NodeFacts {
        capabilities: own(&["CAP_CHOWN", "CAP_KILL", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_ADMIN"]),
        ..NodeFacts::default()
    };
    let inputs = Inputs {
        task: &task,
        image: &ImageFacts::default(),
        node: &node,
        settings,
        gates: &Gates::of(settings).unwrap(),
    };
    build(&inputs)
        .map(|caps| caps.into_iter().collect())
        .map_err(|e| e.to_string())
}

/// In the profile of the Go driver, which allows all.
fn caps(add: &[&str], drop: &[&str], privileged: bool) -> Result<Vec<String>, String> {
    caps_with(&Settings::go_driver(), add, drop, privileged)
}

fn allowing(list: &[&str]) -> Settings {
    Settings {
        allow_caps: Some(own(list)),
        ..Settings::default()
    }
}

fn has(caps: &[String], name: &str) -> bool {
    caps.iter().any(|c| c == name)
}

#[test]
fn sets_follow_add_then_drop() {
    assert_eq!(caps(&[], &[], false).unwrap().len(), 14);
    assert!(has(&caps(&["net_admin"], &[], false).unwrap(), "CAP_NET_ADMIN"));
    assert!(!has(&caps(&[], &["CAP_CHOWN"], false).unwrap(), "CAP_CHOWN"));
    assert!(!has(&caps(&["CAP_CHOWN"], &["CAP_CHOWN"], false).unwrap(), "CAP_CHOWN"));
    assert_eq!(caps(&["KILL"], &["all"], false).unwrap(), ["CAP_KILL"]);
    assert_eq!(
        caps(&["KILL", "CHOWN"], &["ALL", "chown"], false).unwrap(),
        ["CAP_KILL"]
    );
    assert_eq!(caps(&[], &["ALL"], false).unwrap(), [""; 0]);
    assert_eq!(
        caps(&[], &["net_raw", "CHOWN", "KILL"], true).unwrap(),
        ["CAP_NET_ADMIN", "CAP_SYS_ADMIN"]
    );
    assert_eq!(caps(&["ALL"], &[], false).unwrap().len(), 16);
    assert!(!has(&caps(&["ALL"], &["SYS_ADMIN"], false).unwrap(), "CAP_SYS_ADMIN"));
}

#[test]
fn unknown_names_are_refused() {
    let error = caps(&["CAP_FLY"], &[], false).unwrap_err();
    assert!(error.contains("option cap_add: \"CAP_FLY\""), "{error}");
    assert!(caps(&[], &["x"], false).unwrap_err().contains("option cap_drop"));
    assert!(caps(&[], &["ALL", "x"], false).unwrap_err().contains("option cap_drop"));
}

#[test]
fn what_the_node_lacks_is_refused_by_name() {
    let error = caps(&["CAP_SYS_BOOT"], &[], false).unwrap_err();
    assert!(
        error.contains("option cap_add: \"CAP_SYS_BOOT\"") && error.contains("this node"),
        "{error}"
    );
    assert!(caps(&["SYS_BOOT"], &[], true).is_err());
}

/// CVE-2021-32575: with CAP_NET_RAW a task forges packets of its neighbours on the bridge.
#[test]
fn no_raw_sockets_without_consent() {
    let strict = Settings::default();
    let usual = caps_with(&strict, &[], &[], false).unwrap();
    assert!(usual.len() == 13 && !has(&usual, "CAP_NET_RAW"));
    let error = caps_with(&strict, &["net_raw"], &[], false).unwrap_err();
    assert!(
        error.contains("option cap_add: \"net_raw\"") && error.contains("allow_caps with \"CAP_NET_RAW\" in it"),
        "{error}"
    );
    assert!(has(
        &caps_with(&allowing(&["net_raw"]), &["NET_RAW"], &[], false).unwrap(),
        "CAP_NET_RAW"
    ));
}

#[test]
fn the_list_bounds_the_default_set_and_what_is_added() {
    let few = allowing(&["CHOWN", "NET_ADMIN"]);
    assert_eq!(caps_with(&few, &[], &[], false).unwrap(), ["CAP_CHOWN"]);
    assert_eq!(
        caps_with(&few, &["NET_ADMIN"], &["ALL"], false).unwrap(),
        ["CAP_NET_ADMIN"]
    );
    assert!(
        caps_with(&few, &["KILL"], &[], false)
            .unwrap_err()
            .contains("allow_caps with \"CAP_KILL\" in it")
    );
    // Taking away never needs consent.
    assert_eq!(caps_with(&few, &[], &["SYS_ADMIN", "CHOWN"], false).unwrap(), [""; 0]);
    let error = caps_with(&few, &["all"], &["ALL"], false).unwrap_err();
    assert!(
        error.contains("\"all\"") && error.contains("allow_caps with \"ALL\" in it"),
        "{error}"
    );
    assert_eq!(
        caps_with(&allowing(&["all"]), &["ALL"], &["ALL"], false).unwrap().len(),
        5
    );
    // Privileged has a gate of its own.
    assert_eq!(caps_with(&few, &["KILL"], &[], true).unwrap().len(), 5);
}

proptest! {
    #[test]
    fn no_task_gains_what_is_not_allowed(
        add in prop::collection::vec("(CAP_|cap_)?(KILL|CHOWN|NET_RAW|NET_ADMIN|SYS_ADMIN|ALL)", 0..4),
        drop in prop::collection::vec("(CAP_)?(KILL|CHOWN|NET_RAW|SYS_ADMIN|ALL)", 0..4),
    ) {
        let refs = |l: &[String]| l.iter().map(|s| s.clone().leak() as &str).collect::<Vec<_>>();
        if let Ok(caps) = caps_with(&Settings::default(), &refs(&add), &refs(&drop), false) {
            prop_assert!(caps.iter().all(|c| DEFAULT.contains(&c.as_str()) && c != NOMAD_EXCEPT));
        }
    }

    #[test]
    fn any_name_is_known_or_refused(name in "\\PC{0,12}") {
        known("cap_add", &name).ok();
    }
}

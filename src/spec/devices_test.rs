//! What `devices.rs` promises.

use super::*;
use crate::spec::gates::Gates;
use crate::spec::image::ImageFacts;
use crate::spec::options::DeviceOption;
use crate::spec::settings::Settings;
use crate::spec::task::{HostDevice, TaskSpec};

fn fuse() -> DeviceNode {
    DeviceNode {
        path: "/dev/fuse".to_owned(),
        kind: DeviceKind::Char,
        major: 10,
        minor: 229,
        mode: 0o20666,
        uid: 0,
        gid: 0,
    }
}

fn timer() -> DeviceNode {
    DeviceNode {
        path: "/dev/snd/timer".to_owned(),
        major: 116,
        minor: 33,
        ..fuse()
    }
}

fn asked(path: &str) -> DeviceOption {
    DeviceOption {
        host_path: path.to_owned(),
        ..DeviceOption::default()
    }
}

fn task(devices: &[&str]) -> TaskSpec {
    let mut task = TaskSpec::default();
    task.options.devices = devices.iter().map(|d| asked(d)).collect();
    task
}

fn node() -> NodeFacts {
    let devices = BTreeMap::from([
        ("/dev/fuse".to_owned(), Ok(vec![fuse()])),
        ("/dev/snd".to_owned(), Ok(vec![timer()])),
        ("/dev/none".to_owned(), Err("no such file".to_owned())),
    ]);
    NodeFacts {
        devices,
        host_devices: vec![fuse()],
        ..NodeFacts::default()
    }
}

fn build_with(task: &TaskSpec, settings: &Settings) -> Result<Devices, String> {
    let gates = Gates::of(settings).unwrap();
    build(&Inputs {
        task,
        image: &ImageFacts::default(),
        node: &node(),
        settings,
        gates: &gates,
    })
    .map_err(|e| e.to_string())
}

fn built(task: &TaskSpec) -> Result<Devices, String> {
    build_with(task, &Settings::go_driver())
}

fn error(task: &TaskSpec) -> String {
    built(task).err().unwrap()
}

#[test]
fn everything_is_denied_before_anything_is_allowed() {
    let d = built(&TaskSpec::default()).unwrap();
    assert_eq!(d.rules[0]["allow"], false);
    assert_eq!(d.rules.len(), 10);
    assert!(d.nodes.is_empty());
}

#[test]
fn asked_devices_are_made_and_allowed() {
    let d = built(&task(&["/dev/fuse"])).unwrap();
    assert_eq!(
        d.nodes,
        [json!({"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666, "uid": 0, "gid": 0})]
    );
    assert_eq!(
        d.rules[10],
        json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm"})
    );
}

#[test]
fn path_and_permissions_in_the_container_count() {
    let d = built(&task(&["/dev/fuse:/dev/f:r", "/dev/snd:/dev/sound"])).unwrap();
    assert_eq!(
        (&d.nodes[0]["path"], &d.rules[10]["access"]),
        (&json!("/dev/f"), &json!("r"))
    );
    assert_eq!(d.nodes[1]["path"], "/dev/sound/timer");
}

#[test]
fn a_device_plugins_path_and_permissions_count_and_need_no_consent() {
    let device = HostDevice {
        task_path: "/dev/f".to_owned(),
        host_path: "/dev/fuse".to_owned(),
        permissions: "r".to_owned(),
    };
    let mut task = TaskSpec {
        devices: vec![device],
        ..TaskSpec::default()
    };
    let d = build_with(&task, &Settings::default()).unwrap();
    assert_eq!(
        (&d.nodes[0]["path"], &d.rules[10]["access"]),
        (&json!("/dev/f"), &json!("r"))
    );
    task.devices[0].permissions = "x".to_owned();
    assert!(built(&task).is_err());
}

#[test]
fn a_missing_device_is_named() {
    let text = error(&task(&["/dev/fuse", "/dev/none"]));
    assert_eq!(text, "option devices[1]: \"/dev/none\": no such file");
}

#[test]
fn one_path_has_one_device() {
    let text = error(&task(&["/dev/fuse", "/dev/snd/:/dev/snd", "/dev/fuse:/dev/snd/timer"]));
    assert!(
        text.contains("devices[2]") && text.contains("and devices[1] has this one"),
        "{text}"
    );
    assert_eq!(built(&task(&["/dev/fuse", "/dev/fuse"])).unwrap().nodes.len(), 1);
    assert!(error(&task(&["/dev/fuse", "/dev/fuse:r"])).contains("one device per path"));
}

#[test]
fn privileged_has_all() {
    let mut task = TaskSpec::default();
    task.options.privileged = true;
    let d = built(&task).unwrap();
    assert_eq!(d.rules, [json!({"allow": true, "access": "rwm"})]);
    assert_eq!(d.nodes.len(), 1);
    // Naming one of them again is no contradiction.
    task.options.devices = vec![asked("/dev/fuse")];
    assert_eq!(built(&task).unwrap().nodes.len(), 1);
}

#[test]
fn devices_and_rules_need_consent_for_what_they_name() {
    let allowed = |devices: &[&str], task: &TaskSpec| {
        let settings = Settings {
            allow_devices: Some(devices.iter().map(|d| (*d).to_owned()).collect()),
            ..Settings::default()
        };
        build_with(task, &settings).map(|_| ())
    };
    let fuse = task(&["/dev/fuse:/dev/snd/x"]);
    let text = allowed(&[], &fuse).unwrap_err();
    assert!(
        text.contains("\"/dev/fuse\"") && text.contains("allow_devices with \"/dev/fuse\" in it"),
        "{text}"
    );
    // The path in the container is not what consent is about.
    assert!(allowed(&["/dev/snd/*"], &fuse).is_err());
    assert!(allowed(&["/dev/fuse"], &fuse).is_ok());
    // No way around by the spelling of a path.
    assert!(allowed(&["/dev/snd/*"], &task(&["/dev/snd/../fuse"])).is_err());
    assert!(allowed(&["/dev/fuse"], &task(&["/dev//fuse"])).is_ok());
    assert!(allowed(&["/dev/*"], &task(&["vendor.com/gpu=0"])).is_err());
    let mut rules = TaskSpec::default();
    rules.options.device_cgroup_rules = vec!["c 10:229 rwm".to_owned()];
    assert!(
        allowed(&["/dev/*"], &rules)
            .unwrap_err()
            .contains("allow_devices with \"c 10:229 rwm\" in it")
    );
    assert!(allowed(&["c 10:229 rwm"], &rules).is_ok());
    assert!(allowed(&["*"], &rules).is_ok());
    rules.options.privileged = true;
    rules.options.devices = vec![asked("/dev/fuse")];
    assert!(allowed(&[], &rules).is_ok());
}

#[test]
fn rules_are_added_after_all_is_denied() {
    let mut task = TaskSpec::default();
    task.options.device_cgroup_rules = vec!["b 8:* r".to_owned(), "a *:* rw".to_owned()];
    let d = built(&task).unwrap();
    assert_eq!(d.rules.len(), 13);
    assert_eq!(
        d.rules[10],
        json!({"allow": true, "type": "b", "major": 8, "access": "r"})
    );
    task.options.device_cgroup_rules = vec!["c 1 r".to_owned()];
    assert!(error(&task).contains("device_cgroup_rules[0]"));
}

//! What the CDI modules promise.

use super::*;
use crate::spec::node::{DeviceKind, DeviceNode};
use crate::spec::options::DeviceOption;
use proptest::prelude::*;
use serde_json::json;

const YAML: &str = r#"---
cdiVersion: "0.7.0"
kind: acme.com/gpu
containerEdits:
  env: [ACME_ALL=1]
  mounts:
  - hostPath: /usr/lib/libacme.so
    containerPath: /usr/lib/libacme.so
    options: [ro, nosuid]
  hooks:
  - hookName: createContainer
    path: /usr/bin/acme-hook
    args: [acme-hook, chmod, "--mode=755"]
    timeout: 5
devices:
- name: "0"
  annotations: {slot: "1"}
  containerEdits:
    deviceNodes:
    - path: /dev/acme0
      hostPath: /dev/real0
      permissions: rw
    additionalGids: [0, 44]
- name: all
  containerEdits:
    deviceNodes:
    - path: /dev/acme0
      type: c
      major: 195
      minor: 0
      fileMode: 0666
      uid: 7
      gid: 8
    intelRdt: {closID: gold, l3CacheSchema: "L3:0=f"}
"#;

fn spec_file(path: &str, priority: usize, text: &str) -> SpecFile {
    SpecFile {
        path: path.to_owned(),
        priority,
        text: Ok(text.to_owned()),
    }
}

fn task(names: &[&str]) -> TaskSpec {
    let mut task = TaskSpec::default();
    task.options.devices = names
        .iter()
        .map(|n| DeviceOption {
            host_path: (*n).to_owned(),
            ..DeviceOption::default()
        })
        .collect();
    task
}

fn node(files: Vec<SpecFile>) -> NodeFacts {
    let real = DeviceNode {
        path: "/dev/real0".to_owned(),
        kind: DeviceKind::Char,
        major: 10,
        minor: 5,
        mode: 0o20640,
        uid: 0,
        gid: 0,
    };
    NodeFacts {
        cdi_files: files,
        devices: [("/dev/real0".to_owned(), Ok(vec![real]))].into(),
        ..NodeFacts::default()
    }
}

fn base() -> Value {
    json!({
        "process": {"env": ["A=1", "ACME_ALL=0"], "user": {"uid": 1000, "gid": 0}},
        "mounts": [{"destination": "/usr/lib/libacme.so"}, {"destination": "/usr/lib/a/b"}, {"destination": "/proc"}],
        "linux": {"devices": [{"path": "/dev/acme0"}], "resources": {"devices": []}},
    })
}

fn applied(names: &[&str], node: &NodeFacts) -> Result<Value, String> {
    let mut spec = base();
    apply(&mut spec, &task(names), node, &BTreeMap::new()).map_err(|e| e.to_string())?;
    Ok(spec)
}

#[test]
fn a_file_takes_the_place_of_nothing_that_the_job_has() {
    let node = node(vec![spec_file("/etc/cdi/acme.yaml", 0, YAML)]);
    let task = task(&["acme.com/gpu=0"]);
    let with = |task: &TaskSpec, taken: &[(&str, &'static str)]| {
        let taken = taken.iter().map(|(target, by)| ((*target).to_owned(), *by)).collect();
        apply(&mut base(), task, &node, &taken).map_err(|e| e.to_string())
    };
    let lib = "/usr/lib/libacme.so";
    let refused = with(&task, &[(lib, "volumes")]).unwrap_err();
    for word in ["devices[0]", "acme.com/gpu=0", lib, "volumes has this place"] {
        assert!(refused.contains(word), "{refused}");
    }
    assert_eq!(
        with(
            &task,
            &[("/usr/lib", "volumes"), (lib, crate::spec::mounts::IMAGE_VOLUME)]
        ),
        Ok(())
    );
}

/// NVIDIA's files set `NVIDIA_VISIBLE_DEVICES=void`, and Nomad's device plugin and jobs made for Docker set it too.
#[test]
fn a_variable_of_a_file_counts_before_the_jobs() {
    let node = node(vec![spec_file("/etc/cdi/acme.yaml", 0, YAML)]);
    let mut task = task(&["acme.com/gpu=0"]);
    task.env.insert("ACME_ALL".to_owned(), "of-the-job".to_owned());
    let mut spec = base();
    spec["process"]["env"] = json!(["A=1", "ACME_ALL=of-the-job", "ACME_ALLOWED=x"]);
    apply(&mut spec, &task, &node, &BTreeMap::new()).unwrap();
    assert_eq!(spec["process"]["env"], json!(["A=1", "ACME_ALLOWED=x", "ACME_ALL=1"]));
}

fn one_device(version: &str, edits: Value) -> String {
    json!({"cdiVersion": version, "kind": "a.com/b", "devices": [{"name": "x", "containerEdits": edits}]}).to_string()
}

#[test]
fn edits_of_file_and_device_are_made() {
    let node = node(vec![spec_file("/etc/cdi/acme.yaml", 0, YAML)]);
    let s = applied(&["acme.com/gpu=0"], &node).unwrap();
    assert_eq!(s["process"]["env"], json!(["A=1", "ACME_ALL=1"]));
    assert_eq!(s["process"]["user"]["additionalGids"], json!([44]));
    assert_eq!(
        s["linux"]["devices"],
        json!([{"path": "/dev/acme0", "type": "c", "major": 10, "minor": 5, "fileMode": 0o640, "uid": 1000}])
    );
    assert_eq!(
        s["linux"]["resources"]["devices"],
        json!([{"allow": true, "type": "c", "major": 10, "minor": 5, "access": "rw"}])
    );
    assert_eq!(
        s["hooks"],
        json!({"createContainer": [{"path": "/usr/bin/acme-hook", "args": ["acme-hook", "chmod", "--mode=755"], "timeout": 5}]})
    );
    // The mount takes the place of the one that was there, parents before children.
    let at: Vec<_> = s["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["destination"].as_str().unwrap())
        .collect();
    assert_eq!(at, ["/proc", "/usr/lib/libacme.so", "/usr/lib/a/b"]);
    assert_eq!(
        s["mounts"][1],
        json!({"destination": "/usr/lib/libacme.so", "type": "bind", "source": "/usr/lib/libacme.so", "options": ["rbind", "ro", "nosuid"]})
    );
}

#[test]
fn with_ids_of_its_own_a_container_has_devices_at_their_own_paths() {
    let mut spec = json!({"process": {}, "linux": {"uidMappings": []}});
    let files = vec![spec_file("/etc/cdi/a.yaml", 0, YAML)];
    let error = apply(
        &mut spec,
        &task(&["acme.com/gpu=0"]),
        &node(files.clone()),
        &BTreeMap::new(),
    )
    .unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("option devices[0]: ") && text.contains("/dev/real0 of the host at /dev/acme0"),
        "{text}"
    );
    assert!(apply(&mut spec, &task(&["acme.com/gpu=all"]), &node(files), &BTreeMap::new()).is_ok());
}

#[test]
fn numbers_in_the_file_count_and_edits_of_a_file_are_made_once() {
    let node = node(vec![spec_file("/etc/cdi/acme.yaml", 0, YAML)]);
    let s = applied(&["acme.com/gpu=0", "acme.com/gpu=all", "acme.com/gpu=0"], &node).unwrap();
    assert_eq!(
        s["linux"]["devices"],
        json!([{"path": "/dev/acme0", "type": "c", "major": 195, "minor": 0, "fileMode": 0o666, "uid": 7, "gid": 8}])
    );
    assert_eq!(
        s["linux"]["intelRdt"],
        json!({"closID": "gold", "l3CacheSchema": "L3:0=f"})
    );
    assert_eq!(s["hooks"]["createContainer"].as_array().unwrap().len(), 1);
    assert_eq!(s["linux"]["resources"]["devices"].as_array().unwrap().len(), 2);
}

#[test]
fn a_task_without_a_cdi_name_is_left_alone() {
    let node = node(vec![spec_file("/etc/cdi/acme.yaml", 0, YAML)]);
    assert_eq!(applied(&["/dev/fuse"], &node).unwrap(), base());
    assert!(!is_asked(&task(&["/dev/fuse:rw"])) && is_asked(&task(&["acme.com/gpu=0"])));
}

#[test]
fn devices_of_the_files_are_looked_up() {
    let files = [spec_file("/etc/cdi/acme.yaml", 0, YAML)];
    assert_eq!(
        wanted_devices(&task(&["acme.com/gpu=0"]), &files),
        BTreeSet::from(["/dev/real0".to_owned()])
    );
    assert!(wanted_devices(&task(&["/dev/fuse", "b.com/x=1"]), &files).is_empty());
}

#[test]
fn the_later_directory_counts_and_a_conflict_in_it_is_told() {
    let with = |value: &str| one_device("0.5.0", json!({"env": [format!("WHO={value}")]}));
    let mut files = vec![
        spec_file("/etc/cdi/a.json", 0, &with("etc")),
        spec_file("/run/cdi/a.json", 1, &with("run")),
    ];
    let s = applied(&["a.com/b=x"], &node(files.clone())).unwrap();
    assert_eq!(s["process"]["env"][2], "WHO=run");
    files.push(spec_file("/etc/cdi/b.json", 0, &with("etc")));
    assert!(applied(&["a.com/b=x"], &node(files.clone())).is_ok());
    files.push(spec_file("/run/cdi/b.json", 1, &with("run")));
    let error = applied(&["a.com/b=x"], &node(files)).unwrap_err();
    assert!(error.contains("/run/cdi/a.json and /run/cdi/b.json"), "{error}");
}

#[test]
fn what_is_missing_is_told_with_what_there_is() {
    let mut files = vec![
        spec_file("/etc/cdi/acme.yaml", 0, YAML),
        spec_file("/etc/cdi/bad.json", 0, "{"),
    ];
    let error = |names: &[&str], files: &[SpecFile]| applied(names, &node(files.to_vec())).unwrap_err();
    let text = error(&["acme.com/gpu=7"], &files);
    assert!(
        text.starts_with("option devices[0]: \"acme.com/gpu=7\": no such CDI device; acme.com/gpu has 0, all"),
        "{text}"
    );
    assert!(text.contains("not read: /etc/cdi/bad.json: "), "{text}");
    assert!(
        error(&["b.com/gpu=7"], &files)
            .contains("no CDI file in cdi_spec_dirs is of kind b.com/gpu; there is acme.com/gpu")
    );
    assert!(error(&["b.com/gpu=7"], &[]).contains("there is none"));
    let many: Vec<Value> = (0..50).map(|i| json!({"name": format!("n{i}")})).collect();
    files = vec![spec_file(
        "/c.json",
        0,
        &json!({"cdiVersion": "0.3.0", "kind": "m.com/x", "devices": many}).to_string(),
    )];
    assert!(error(&["m.com/x=z"], &files).contains("and 42 more"));
}

#[test]
fn a_device_that_is_not_on_the_host_is_named() {
    let text = one_device("1.0.0", json!({"deviceNodes": [{"path": "/dev/gone"}]}));
    let error = applied(&["a.com/b=x"], &node(vec![spec_file("/a.json", 0, &text)])).unwrap_err();
    assert!(error.contains("/dev/gone of its CDI file"), "{error}");
    let text = one_device("1.0.0", json!({"deviceNodes": [{"path": "/dev/real0", "type": "b"}]}));
    let error = applied(&["a.com/b=x"], &node(vec![spec_file("/a.json", 0, &text)])).unwrap_err();
    assert!(error.contains("is of type c and not b"), "{error}");
    // Complete numbers need no node on the host.
    let text = one_device(
        "1.0.0",
        json!({"deviceNodes": [{"path": "/dev/gone", "type": "b", "major": 8, "permissions": "none"}]}),
    );
    let s = applied(&["a.com/b=x"], &node(vec![spec_file("/a.json", 0, &text)])).unwrap();
    assert_eq!(s["linux"]["resources"]["devices"], json!([]));
    assert_eq!(s["linux"]["devices"][1]["path"], "/dev/gone");
}

#[test]
fn network_interfaces_are_not_moved() {
    let text = one_device(
        "1.1.0",
        json!({"netDevices": [{"hostInterfaceName": "eth7", "name": "net0"}]}),
    );
    let error = applied(&["a.com/b=x"], &node(vec![spec_file("/a.json", 0, &text)])).unwrap_err();
    assert!(error.contains("eth7") && error.contains("netDevices"), "{error}");
}

#[test]
fn bad_files_are_refused_with_a_reason() {
    let bad = |text: &str, want: &str| {
        let error = file::parse("/x.json", text).unwrap_err();
        assert!(error.contains(want), "{text}: {error}");
    };
    let edits = |edits: Value, want: &str| bad(&one_device("1.1.0", edits), want);
    for version in ["", "0.2.0", "2.0.0", "1.0", "1.0.x", "a"] {
        bad(&one_device(version, json!({})), "cdiVersion");
    }
    for version in ["0.3.0", "v0.8.0", "1.0.0", "1.9.2"] {
        assert!(
            file::parse("/x.json", &one_device(version, json!({}))).is_ok(),
            "{version}"
        );
    }
    bad(&one_device("0.6.0", json!({"additionalGids": [1]})), "fields of 0.7.0");
    bad(
        &one_device(
            "0.3.0",
            json!({"mounts": [{"hostPath": "/a", "containerPath": "/b", "type": "x"}]}),
        ),
        "0.4.0",
    );
    bad(
        r#"{"cdiVersion":"0.3.0","kind":"a.com/b","devices":[]}"#,
        "at least one device",
    );
    bad(
        r#"{"cdiVersion":"0.3.0","kind":"a.com","devices":[{"name":"a"}]}"#,
        "kind",
    );
    bad(
        r#"{"cdiVersion":"0.3.0","kind":"a.com/b","devices":[{"name":"a"},{"name":"a"}]}"#,
        "twice",
    );
    bad(
        r#"{"cdiVersion":"0.3.0","kind":"a.com/b","devices":[{"name":"a b"}]}"#,
        "device name",
    );
    bad(
        r#"{"cdiVersion":"0.3.0","kind":"a.com/b","more":1,"devices":[{"name":"a"}]}"#,
        "unknown field",
    );
    edits(json!({"env": ["=x"]}), "NAME=value");
    edits(json!({"deviceNodes": [{"path": ""}]}), "absolute path");
    edits(json!({"deviceNodes": [{"path": "/d", "type": "x"}]}), "type");
    edits(
        json!({"deviceNodes": [{"path": "/d", "permissions": "x"}]}),
        "permissions",
    );
    edits(json!({"mounts": [{"hostPath": "", "containerPath": "/b"}]}), "hostPath");
    edits(
        json!({"mounts": [{"hostPath": "/a", "containerPath": "/../b"}]}),
        "containerPath",
    );
    edits(json!({"hooks": [{"hookName": "x", "path": "/h"}]}), "hookName");
    edits(
        json!({"hooks": [{"hookName": "poststop", "path": "h"}]}),
        "absolute path",
    );
    edits(
        json!({"hooks": [{"hookName": "poststop", "path": "/h", "timeout": 0}]}),
        "timeout",
    );
    edits(json!({"intelRdt": {"closID": "a/b"}}), "closID");
    assert!(file::parse("/x.json", &one_device("1.1.0", json!({"env": null, "intelRdt": null}))).is_ok());
}

#[test]
fn yaml_is_bounded() {
    assert!(yaml::parse("a: &x [1]\nb: *x").unwrap_err().contains("aliases"));
    assert!(yaml::parse(&"[".repeat(100)).unwrap_err().contains("levels"));
    assert!(yaml::parse("a: 1\na: 2").unwrap_err().contains("twice"));
    assert!(yaml::parse("--- 1\n--- 2").unwrap_err().contains("one document"));
    assert!(yaml::parse("").is_err());
    assert_eq!(
        yaml::parse("a: [0666, 0o17, 0x1f, -3, '1', ~, true, 1.5, 09, !!str 7]\n").unwrap(),
        json!({"a": [0o666, 0o17, 0x1f, -3, "1", null, true, "1.5", "09", "7"]})
    );
}

#[test]
fn names_are_told_from_paths() {
    for good in ["nvidia.com/gpu=0", "a/b=c", "vendor.com/class.x=a:b-c_d.e"] {
        assert!(Name::parse(good).is_some(), "{good}");
    }
    for bad in [
        "", "/dev/x=y", "a/b", "a=b", "1a/b=c", "a/b=", "a/b=c-", "a/b/c=d", "a/b=c d", "a/b=c=d",
    ] {
        assert!(Name::parse(bad).is_none(), "{bad}");
    }
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "\\PC{0,200}") {
        file::parse("/x.json", &text).ok();
        file::parse("/x.yaml", &text).ok();
    }

    #[test]
    fn any_yaml_is_answered(text in "([ \\n\\[\\]{}:,&*!|>?#'\"%@`-]|[a-z0-9~.]|: |- |\\n  |---\\n|\\.\\.\\.\\n|\\t){0,80}") {
        yaml::parse(&text).ok();
    }

    #[test]
    fn any_change_of_a_file_is_answered(at in 0_usize..900, len in 0_usize..20, with in "([ \\n\\[\\]{}:,&*!|>'\"-]|[a-z0-9/]){0,12}") {
        let mut text: Vec<char> = YAML.chars().collect();
        let at = at.min(text.len());
        let end = (at + len).min(text.len());
        text.splice(at..end, with.chars());
        let text: String = text.into_iter().collect();
        let node = node(vec![spec_file("/a.yaml", 0, &text)]);
        applied(&["acme.com/gpu=0", "acme.com/gpu=all"], &node).ok();
        prop_assert!(wanted_devices(&task(&["acme.com/gpu=0"]), &node.cdi_files).len() < 9);
    }
}

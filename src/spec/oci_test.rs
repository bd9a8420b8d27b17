//! What `oci.rs` promises.

use super::*;
use crate::spec::identity::TaskId;
use crate::spec::node::{CgroupMode, DeviceKind, DeviceNode};
use crate::spec::options::{DeviceOption, Entrypoint, MountOption, TaskOptions};
use crate::spec::settings::AllowedModes;
use crate::spec::task::{Dns, HostMount, NetworkNamespace, Resources};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

fn task() -> TaskSpec {
    TaskSpec {
        id: TaskId::new("11111111-2222-3333-4444-555555555555/web/0a1b2c3d"),
        name: "web".to_owned(),
        alloc_id: "11111111-2222-3333-4444-555555555555".to_owned(),
        alloc_dir: "/a".into(),
        resources: Resources {
            cpu_shares: 500,
            memory_mb: 64,
            ..Resources::default()
        },
        ..TaskSpec::default()
    }
}

fn image() -> ImageFacts {
    ImageFacts {
        cmd: vec!["/bin/sh".to_owned()],
        chain_id: Some(Digest::sha256(b"layer")),
        ..ImageFacts::default()
    }
}

fn spec_of(task: &TaskSpec) -> Value {
    let node = NodeFacts {
        capabilities: vec!["CAP_SYS_ADMIN".to_owned()],
        ..NodeFacts::default()
    };
    let plan = build(task, &image(), &node, &Settings::go_driver()).unwrap();
    // What we write must be what the specification's own types can read.
    serde_json::from_slice::<oci_spec::runtime::Spec>(&plan.spec_json).unwrap();
    serde_json::from_slice(&plan.spec_json).unwrap()
}

#[test]
fn an_ordinary_task_is_confined() {
    let s = spec_of(&task());
    assert_eq!(s["hostname"], "web-11111111");
    assert_eq!(s["process"]["noNewPrivileges"], true);
    assert_eq!(s["process"]["args"], json!(["/bin/sh"]));
    assert_eq!(s["process"]["cwd"], "/");
    assert_eq!(s["process"]["capabilities"]["bounding"].as_array().unwrap().len(), 14);
    assert_eq!(s["linux"]["maskedPaths"].as_array().unwrap().len(), 12);
    assert_eq!(
        s["linux"]["cgroupsPath"],
        "/nomad.slice/web-11111111-2222-3333-4444-555555555555-0a1b2c3d"
    );
    assert_eq!(s["linux"]["resources"]["memory"]["limit"], 64 << 20);
    assert_eq!(s["root"]["readonly"], false);
    assert!(s["linux"].get("seccomp").is_none());
    assert!(s["mounts"][5]["options"].as_array().unwrap().contains(&json!("ro")));
}

#[test]
fn a_privileged_task_is_not() {
    let mut task = task();
    task.options.privileged = true;
    let s = spec_of(&task);
    assert_eq!(s["process"]["noNewPrivileges"], false);
    assert_eq!(s["process"]["capabilities"]["effective"], json!(["CAP_SYS_ADMIN"]));
    assert!(s["linux"].get("maskedPaths").is_none() && s["linux"].get("readonlyPaths").is_none());
    assert_eq!(
        s["linux"]["resources"]["devices"],
        json!([{"allow": true, "access": "rwm"}])
    );
    for i in [5, 7] {
        assert!(s["mounts"][i]["options"].as_array().unwrap().contains(&json!("rw")));
    }
}

#[test]
fn gates_refuse_and_say_what_would_allow_it() {
    let refused = |change: fn(&mut TaskOptions), settings: &Settings| {
        let mut task = task();
        change(&mut task.options);
        match build(&task, &image(), &NodeFacts::default(), settings) {
            Err(SpecError::Refused { option, text }) => (option, text),
            other => panic!("{other:?}"),
        }
    };
    let closed = Settings {
        allow_privileged: Some(false),
        ..Settings::default()
    };
    assert_eq!(
        refused(|o| o.privileged = true, &closed).1,
        "option privileged: true: Running privileged jobs are not allowed. Set allow_privileged to true in plugin config to allow running privileged jobs."
    );
    let open = Settings::go_driver();
    assert_eq!(
        refused(|o| o.seccomp_profile = Some("/p".to_owned()), &open).1,
        "option seccomp_profile: \"/p\": seccomp must be set to true, if using a custom seccomp_profile."
    );
    let strict = Settings::default();
    assert_eq!(
        refused(|o| o.seccomp_profile = Some("/p".to_owned()), &strict).0,
        "seccomp_profile"
    );
    assert_eq!(refused(|o| o.seccomp = Some(false), &strict).0, "seccomp");
    assert_eq!(
        refused(|o| o.cap_add = vec!["NET_RAW".to_owned()], &strict).0,
        "cap_add"
    );
    assert_eq!(
        refused(|o| o.apparmor_profile = Some("unconfined".to_owned()), &strict).0,
        "apparmor_profile"
    );
    assert_eq!(
        refused(|o| o.security_opt = vec!["unmask=ALL".to_owned()], &strict).0,
        "security_opt"
    );
}

#[test]
fn a_shared_host_name_is_not_set() {
    let settings = Settings {
        allowed_modes: Some(AllowedModes {
            uts: Some(vec!["host".to_owned()]),
            ..AllowedModes::default()
        }),
        ..Settings::default()
    };
    let mut task = task();
    task.options.uts_mode = Some("host".to_owned());
    let node = NodeFacts {
        hostname: "node7".to_owned(),
        ..NodeFacts::default()
    };
    let plan = build(&task, &image(), &node, &settings).unwrap();
    let spec: Value = serde_json::from_slice(&plan.spec_json).unwrap();
    assert!(spec.get("hostname").is_none());
    assert_eq!(plan.hostname, "node7");
    assert!(plan.files.iter().any(|f| f.content.ends_with("127.0.1.1\tnode7\n")));
}

#[test]
fn a_user_namespace_has_mappings_and_the_plan_says_so() {
    let settings = Settings {
        userns_ids: Some("100000:65536".to_owned()),
        ..Settings::default()
    };
    let mut task = task();
    task.options.userns = Some("private".to_owned());
    task.network = Some(NetworkNamespace {
        path: "/run/netns/x".to_owned(),
        hosts: None,
    });
    let plan = build(&task, &image(), &NodeFacts::default(), &settings).unwrap();
    let spec: Value = serde_json::from_slice(&plan.spec_json).unwrap();
    let mapping = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    assert_eq!(
        (&spec["linux"]["uidMappings"], &spec["linux"]["gidMappings"]),
        (&mapping, &mapping)
    );
    assert_eq!(plan.userns.map(|ids| (ids.first, ids.count)), Some((100_000, 65_536)));
    let mounts = spec["mounts"].as_array().unwrap();
    assert!(mounts.iter().all(|m| m["type"] != "sysfs"));
    assert!(
        mounts
            .iter()
            .any(|m| m["source"] == "/sys" && m["options"].as_array().unwrap().contains(&json!("ro")))
    );
    task.options.userns = None;
    assert_eq!(
        build(&task, &image(), &NodeFacts::default(), &settings).unwrap().userns,
        None
    );
}

/// A task with a CDI device, and the node that describes it by these edits.
fn with_gpu(edits: &serde_json::Value) -> (TaskSpec, NodeFacts) {
    let mut task = task();
    task.options.devices = vec![DeviceOption {
        host_path: "acme.com/gpu=0".to_owned(),
        ..DeviceOption::default()
    }];
    let text =
        json!({"cdiVersion": "0.6.0", "kind": "acme.com/gpu", "devices": [{"name": "0", "containerEdits": edits}]});
    let node = NodeFacts {
        cdi_files: vec![crate::spec::cdi::SpecFile {
            path: "/etc/cdi/acme.json".to_owned(),
            priority: 0,
            text: Ok(text.to_string()),
        }],
        ..NodeFacts::default()
    };
    (task, node)
}

#[test]
fn a_cdi_device_is_part_of_the_description_and_its_hash() {
    let built = |value: &str, settings: &Settings| {
        let (task, node) = with_gpu(&json!({"env": [format!("GPU={value}")]}));
        build(&task, &image(), &node, settings)
    };
    let one = built("1", &Settings::go_driver()).unwrap();
    assert!(String::from_utf8_lossy(&one.spec_json).contains("\"GPU=1\""));
    assert_ne!(one.hash, built("2", &Settings::go_driver()).unwrap().hash);
    let refused = built("1", &Settings::default()).unwrap_err().to_string();
    assert!(
        refused.contains("allow_devices with \"acme.com/gpu=0\" in it"),
        "{refused}"
    );
}

#[test]
fn a_hook_that_comes_late_is_known() {
    for (name, is_late) in [
        ("poststart", true),
        ("poststop", true),
        ("createContainer", false),
        ("startContainer", false),
        ("prestart", false),
    ] {
        let (task, node) = with_gpu(&json!({"hooks": [{"hookName": name, "path": "/usr/bin/hook"}]}));
        let plan = build(&task, &image(), &node, &Settings::go_driver()).unwrap();
        assert_eq!(plan.late_hooks, is_late, "{}", String::from_utf8_lossy(&plan.spec_json));
    }
    let plan = build(&task(), &image(), &NodeFacts::default(), &Settings::default()).unwrap();
    assert!(!plan.late_hooks);
}

#[test]
fn the_same_task_has_the_same_bytes() {
    let mut task = task();
    for i in 0..50 {
        task.env.insert(format!("K{i}"), "v".to_owned());
        task.options.sysctl.insert(format!("net.k{i}"), "1".to_owned());
    }
    let plan = || build(&task.clone(), &image(), &NodeFacts::default(), &Settings::default()).unwrap();
    assert_eq!(plan(), plan());
    assert_eq!(plan().hash.len(), 64);
}

#[test]
fn the_hash_changes_with_anything_that_makes_the_container() {
    let hash = |task: &TaskSpec, image: &ImageFacts, settings: &Settings| {
        build(task, image, &NodeFacts::default(), settings).unwrap().hash
    };
    let base = hash(&task(), &image(), &Settings::default());
    let other_image = ImageFacts {
        chain_id: Some(Digest::sha256(b"other")),
        ..image()
    };
    assert_ne!(base, hash(&task(), &other_image, &Settings::default()));
    assert_ne!(
        base,
        hash(
            &task(),
            &image(),
            &Settings {
                containerd_runtime: "io.containerd.runsc.v1".to_owned(),
                ..Settings::default()
            }
        )
    );
    let mut changed = task();
    changed.options.extra_hosts = vec!["a:1.1.1.1".to_owned()];
    assert_ne!(base, hash(&changed, &image(), &Settings::default()));
}

#[test]
fn the_program_is_named_for_error_texts() {
    let mut task = task();
    let program = |task: &TaskSpec| {
        build(task, &image(), &NodeFacts::default(), &Settings::default())
            .unwrap()
            .program
    };
    assert_eq!(program(&task), ("image", "/bin/sh".to_owned()));
    task.options.command = Some("run".to_owned());
    assert_eq!(program(&task), ("command", "run".to_owned()));
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    vec(".{0,12}", 0..4)
}

prop_compose! {
    fn any_options()(
        command in proptest::option::of(".{0,9}"), args in texts(), entrypoint in texts(), cwd in proptest::option::of(".{0,9}"),
        hostname in proptest::option::of("[a-z]{0,70}"), lists in (texts(), texts(), texts(), texts()), flags in any::<[bool; 6]>(),
        pids_limit in any::<i64>(), modes in vec(proptest::option::of("host|private|none|bridge|x"), 6), shm_size in proptest::option::of("[0-9]{0,30}[MGx]?"),
        sysctl in btree_map(".{0,9}", ".{0,9}", 0..3), mounts in vec(("volume|bind|tmpfs|.{0,4}", ".{0,9}", "/?.{0,9}", texts()), 0..3),
    ) -> TaskOptions {
        let [privileged, seccomp, readonly_rootfs, host_network, host_dns, force_pull] = flags;
        let (cap_add, cap_drop, devices, extra_hosts) = lists;
        let devices = devices.into_iter().map(|host_path| DeviceOption { host_path, ..DeviceOption::default() }).collect();
        let mode = |i: usize| modes.get(i).cloned().flatten();
        let (seccomp, pids_limit) = (Some(seccomp), Some(pids_limit));
        let mounts = mounts.into_iter().map(|(kind, source, target, options)| MountOption { r#type: kind, source, target, options, ..MountOption::default() }).collect();
        TaskOptions {
            command, args, entrypoint: Entrypoint(entrypoint), cwd, hostname, cap_add, cap_drop, devices, extra_hosts, privileged, seccomp, readonly_rootfs,
            host_network, host_dns, force_pull, pids_limit, pid_mode: mode(0), ipc_mode: mode(1), uts_mode: mode(2), cgroupns: mode(3), userns: mode(4), network_mode: mode(5), shm_size, sysctl, mounts, ..TaskOptions::default()
        }
    }
}

prop_compose! {
    fn any_task()(
        options in any_options(), ids in (".{0,60}", ".{0,30}", ".{0,40}", "/?[a-z/.]{0,12}", ".{0,12}"), env in btree_map(".{0,9}", ".{0,9}", 0..4),
        limits in any::<(i64, i64, i64, f64)>(), cgroup in ".{0,30}", net in proptest::option::of(".{0,9}"),
        dns in proptest::option::of((texts(), texts(), texts())), mounts in vec((".{0,9}", "/?.{0,9}", any::<bool>(), "private|.{0,3}"), 0..3),
    ) -> TaskSpec {
        let (id, name, alloc_id, alloc_dir, user) = ids;
        let (cpu_shares, memory_mb, memory_max_mb, percent_ticks) = limits;
        TaskSpec {
            id: TaskId::new(id), name, alloc_id, alloc_dir: alloc_dir.into(), env, user, options,
            resources: Resources { cpu_shares, memory_mb, memory_max_mb, cpuset_cgroup: cgroup, percent_ticks, ..Resources::default() },
            mounts: mounts.into_iter().map(|(task_path, host_path, readonly, propagation)| HostMount { task_path, host_path, readonly, propagation, selinux_label: String::new() }).collect(),
            network: net.map(|path| NetworkNamespace { path, hosts: None }),
            dns: dns.map(|(servers, searches, options)| Dns { servers, searches, options }),
            ..TaskSpec::default()
        }
    }
}

/// A task that can be built with some fields replaced by wild ones: all wild at once, the first check refuses it.
fn blend(mut base: TaskSpec, wild: &TaskSpec, picks: &[u8]) -> TaskSpec {
    let (o, w) = (&mut base.options, wild.options.clone());
    for pick in picks {
        match pick {
            0 => o.command = w.command.clone(),
            1 => o.args = w.args.clone(),
            2 => o.entrypoint = w.entrypoint.clone(),
            3 => o.cwd = w.cwd.clone(),
            4 => o.hostname = w.hostname.clone(),
            5 => o.cap_add = w.cap_add.clone(),
            6 => o.devices = w.devices.clone(),
            7 => o.extra_hosts = w.extra_hosts.clone(),
            8 => o.privileged = w.privileged,
            9 => (o.host_network, o.host_dns) = (w.host_network, w.host_dns),
            10 => o.pids_limit = w.pids_limit,
            11 => {
                (o.pid_mode, o.ipc_mode, o.uts_mode) = (w.pid_mode.clone(), w.ipc_mode.clone(), w.uts_mode.clone());
                (o.cgroupns, o.userns, o.network_mode) = (w.cgroupns.clone(), w.userns.clone(), w.network_mode.clone());
            }
            12 => o.shm_size = w.shm_size.clone(),
            13 => o.sysctl = w.sysctl.clone(),
            14 => o.mounts = w.mounts.clone(),
            15 => base.id = wild.id.clone(),
            16 => base.name = wild.name.clone(),
            17 => base.alloc_id = wild.alloc_id.clone(),
            18 => base.alloc_dir = wild.alloc_dir.clone(),
            19 => base.env = wild.env.clone(),
            20 => base.user = wild.user.clone(),
            21 => base.resources = wild.resources.clone(),
            22 => base.mounts = wild.mounts.clone(),
            23 => base.network = wild.network.clone(),
            _ => base.dns = wild.dns.clone(),
        }
    }
    base
}

#[test]
fn what_is_not_allowed_is_refused_before_the_image_is_here() {
    let refused = |change: fn(&mut TaskOptions)| {
        let mut task = task();
        task.user = "somebody-of-the-image".to_owned();
        change(&mut task.options);
        consent(&task, &Settings::default())
            .err()
            .map(|e| e.to_string())
            .unwrap_or_default()
    };
    assert_eq!(refused(|_| {}), "");
    for (change, word) in [
        ((|o| o.privileged = true) as fn(&mut TaskOptions), "allow_privileged"),
        (|o| o.pid_mode = Some("host".to_owned()), "allowed_modes"),
        (|o| o.volumes = vec!["/etc:/x".to_owned()], "volumes { enabled"),
        (|o| o.cap_add = vec!["SYS_ADMIN".to_owned()], "allow_caps"),
        (|o| o.seccomp = Some(false), "allow_unconfined"),
        (|o| o.runtime = Some("kata".to_owned()), "allow_runtimes"),
        (|o| o.device_cgroup_rules = vec!["c 1:3 r".to_owned()], "allow_devices"),
    ] {
        assert!(refused(change).contains(word), "{word}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn build_answers_whatever_it_is_given(
        wild in any_task(), picks in vec(0_u8..25, 0..6), ep in texts(), env in texts(), user in ".{0,9}",
        passwd in ".{0,40}", group in ".{0,40}", v1 in any::<bool>(), limit in any::<u64>(), mhz in any::<u64>(), resolv in proptest::option::of(".{0,40}"),
    ) {
        let wild_image = ImageFacts { entrypoint: ep, env, user, passwd, group, ..ImageFacts::default() };
        let image = if wild_image.entrypoint.len() == 3 { wild_image } else { image() };
        let node = NodeFacts {
            cgroup: if v1 { CgroupMode::V1 } else { CgroupMode::V2 }, nofile_limit: limit, total_compute_mhz: mhz, resolv_conf: resolv,
            cpuset_cgroup_exists: true,
            host_devices: vec![DeviceNode { path: "/dev/x".to_owned(), kind: DeviceKind::Block, major: 1, minor: 1, mode: 0, uid: 0, gid: 0 }],
            ..NodeFacts::default()
        };
        build(&wild, &image, &node, &Settings::default()).ok();
        let task = blend(task(), &wild, &picks);
        let built = build(&task, &image, &node, &Settings::default());
        // What is refused before the pull would be refused after it.
        if consent(&task, &Settings::default()).is_err() {
            prop_assert!(built.is_err());
        }
        if let Ok(plan) = &built {
            let spec: oci_spec::runtime::Spec = serde_json::from_slice(&plan.spec_json).unwrap();
            let targets: Vec<_> = spec.mounts().iter().flatten().skip(8).map(|m| m.destination().clone()).collect();
            let different: std::collections::BTreeSet<_> = targets.iter().collect();
            prop_assert_eq!(different.len(), targets.len());
            prop_assert!(plan.beneath.iter().all(|b| b.source.starts_with(&b.dir)));
            prop_assert!(plan.hostname.len() <= 64);
            prop_assert_eq!(plan, &build(&task, &image, &node, &Settings::default()).unwrap());
        }
    }
}

//! What `mounts.rs` promises.

use super::*;
use crate::spec::gates::Gates;
use crate::spec::image::{Directory, ImageFacts};
use crate::spec::node::NodeFacts;
use crate::spec::options::MountOption;
use crate::spec::settings::{AllowedModes, Settings, VolumeSettings};
use crate::spec::task::Dns;
use crate::spec::user;
use proptest::prelude::*;

fn task() -> TaskSpec {
    TaskSpec {
        name: "web".to_owned(),
        alloc_dir: "/a".into(),
        ..TaskSpec::default()
    }
}

fn node() -> NodeFacts {
    NodeFacts {
        resolv_conf: Some("nameserver 9.9.9.9\n".to_owned()),
        hosts: Some("1.2.3.4 node\n".to_owned()),
        ..NodeFacts::default()
    }
}

fn build(task: &TaskSpec) -> Result<Mounts, String> {
    build_on(task, &node(), &ImageFacts::default(), &Settings::go_driver())
}

fn build_on(task: &TaskSpec, node: &NodeFacts, image: &ImageFacts, settings: &Settings) -> Result<Mounts, String> {
    let inputs = Inputs {
        task,
        image,
        node,
        settings,
        gates: &Gates::of(settings).unwrap(),
    };
    let user = user::resolve(task, image).unwrap();
    Mounts::build(&inputs, &ContainerId::reported("c"), "h", &user).map_err(|e| e.to_string())
}

/// `target=source:options` of all but the runtime's own, where none of these is replaced.
fn lines(task: &TaskSpec) -> Vec<String> {
    all_lines(build(task).unwrap()).into_iter().skip(7).collect()
}

fn all_lines(mounts: Mounts) -> Vec<String> {
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let all = mounts.into_json();
    let line = |m: &Value| {
        let options: Vec<String> = m["options"].as_array().unwrap().iter().map(text).collect();
        format!(
            "{}={}:{}",
            text(&m["destination"]),
            text(&m["source"]),
            options.join(",")
        )
    };
    all.iter().map(line).collect()
}

fn bind(source: &str, target: &str, options: &[&str]) -> MountOption {
    MountOption {
        source: source.to_owned(),
        target: target.to_owned(),
        options: options.iter().map(|s| (*s).to_owned()).collect(),
        ..MountOption::default()
    }
}

#[test]
fn mounts_come_in_the_documented_order() {
    let mut task = task();
    task.options.mounts = vec![
        bind("local/x.conf", "/etc/x.conf", &["rbind", "ro"]),
        bind("/srv", "/srv/", &["rw"]),
    ];
    task.mounts = vec![
        HostMount {
            task_path: "/vol".to_owned(),
            host_path: "/h".to_owned(),
            readonly: true,
            ..HostMount::default()
        },
        HostMount {
            task_path: "csi".to_owned(),
            host_path: "/csi".to_owned(),
            propagation: "host-to-task".to_owned(),
            ..HostMount::default()
        },
    ];
    assert_eq!(
        lines(&task),
        [
            "/srv=/srv:rbind,rw",
            "/vol=/h:rbind,rprivate,ro",
            "/csi=/csi:rbind,rslave,rw",
            "/secrets=/a/web/secrets:rbind,rprivate,rw",
            "/local=/a/web/local:rbind,rprivate,rw",
            "/alloc=/a/alloc:rbind,rprivate,rw",
            "/etc/x.conf=/a/web/local/x.conf:rbind,ro",
            "/etc/resolv.conf=/etc/resolv.conf:rbind,rprivate,ro",
            "/alloc/logs=/a/alloc/logs:rbind,rprivate,ro",
            "/etc/hosts=/a/web/.containerd-driver/hosts:rbind,rprivate,rw",
            "/etc/hostname=/a/web/.containerd-driver/hostname:rbind,rprivate,rw",
        ]
    );
    let built = build(&task).unwrap();
    assert_eq!(built.propagation, Some("rslave"));
    assert_eq!(
        built.beneath,
        [
            ("/a/web", "/a/web/local/x.conf", "/etc/x.conf"),
            ("/a", "/a/web/secrets", "/secrets"),
            ("/a", "/a/web/local", "/local"),
            ("/a", "/a/alloc", "/alloc"),
            ("/a", "/a/alloc/logs", "/alloc/logs"),
            ("/a", "/a/web/.containerd-driver/hosts", "/etc/hosts"),
            ("/a", "/a/web/.containerd-driver/hostname", "/etc/hostname"),
        ]
        .map(|(dir, source, target)| Beneath {
            dir: dir.into(),
            source: source.into(),
            target: target.into(),
            contested: false,
        })
    );
}

#[test]
fn without_an_allocation_directory_files_are_in_the_run_directory() {
    let task = TaskSpec::default();
    assert_eq!(
        lines(&task),
        [
            "/etc/resolv.conf=/etc/resolv.conf:rbind,rprivate,ro",
            "/etc/hosts=/run/containerd-driver/c/hosts:rbind,rprivate,ro",
            "/etc/hostname=/run/containerd-driver/c/hostname:rbind,rprivate,ro"
        ]
    );
}

#[test]
fn task_directories_go_where_the_environment_says() {
    let mut task = task();
    task.env.insert("NOMAD_ALLOC_DIR".to_owned(), "/x/alloc".to_owned());
    let lines = lines(&task);
    assert!(
        lines.contains(&"/x/alloc/logs=/a/alloc/logs:rbind,rprivate,ro".to_owned()),
        "{lines:?}"
    );
}

#[test]
fn dns_block_host_dns_and_host_network_decide_resolv_conf() {
    let mut task = TaskSpec {
        dns: Some(Dns {
            servers: vec!["1.1.1.1".to_owned()],
            ..Dns::default()
        }),
        ..TaskSpec::default()
    };
    assert_eq!(
        lines(&task)[0],
        "/etc/resolv.conf=/run/containerd-driver/c/resolv.conf:bind,rprivate,ro"
    );
    assert_eq!(build(&task).unwrap().files[0].content, "nameserver 1.1.1.1\n");
    task.dns = None;
    task.options.host_dns = false;
    assert_eq!(lines(&task).len(), 2);
    task.options.host_network = true;
    assert_eq!(
        lines(&task),
        [
            "/etc/resolv.conf=/etc/resolv.conf:rbind,rprivate,ro",
            "/etc/hosts=/run/containerd-driver/c/hosts:rbind,rprivate,ro",
            "/etc/hostname=/run/containerd-driver/c/hostname:rbind,rprivate,ro"
        ]
    );
    assert_eq!(build(&task).unwrap().files[0].content, "1.2.3.4 node\n127.0.1.1\th\n");
    task.options.extra_hosts = vec!["a:1.1.1.1".to_owned()];
    assert_eq!(
        build(&task).unwrap().files[0].content,
        "1.2.3.4 node\n127.0.1.1\th\n1.1.1.1\ta\n"
    );
}

#[test]
fn a_target_is_taken_once() {
    let mut task = task();
    task.options.mounts = vec![bind("/x", "/local", &["rbind"])];
    assert!(build(&task).unwrap_err().contains("and mounts has this one"));
    task.options.mounts = vec![bind("/x", "/d", &["rbind"]), bind("/y", "/d/", &["rbind"])];
    assert!(build(&task).is_err());
    // The runtime's own may be covered, and a file of the job's is left alone.
    task.options.readonly_rootfs = true;
    task.options.mounts = vec![bind("/x", "/run", &["rbind"]), bind("/y", "/etc/hosts", &["rbind"])];
    assert_eq!(build(&task).unwrap().files.len(), 1);
}

#[test]
fn bad_mounts_are_refused() {
    let refuse = |mount: MountOption| {
        let mut task = task();
        task.options.mounts = vec![mount];
        build(&task).unwrap_err()
    };
    assert_eq!(
        refuse(bind("/x", "/y", &[])),
        "option mounts: \"/y\": Options cannot be empty for mount type: volume. You need to atleast pass rbind and ro."
    );
    assert!(refuse(bind("../../etc", "/y", &["rbind"])).contains("no other '..'"));
    assert!(refuse(bind("", "/y", &["rbind"])).contains("a source is required"));
    for target in ["y", "/", "", "/a/../b"] {
        assert!(
            refuse(bind("/x", target, &["rbind"])).contains("absolute target"),
            "{target}"
        );
    }
    let mut task = task();
    task.mounts = vec![HostMount {
        task_path: "/v".to_owned(),
        host_path: "/h".to_owned(),
        propagation: "odd".to_owned(),
        ..HostMount::default()
    }];
    assert!(build(&task).is_err());
}

#[test]
fn other_file_systems_need_no_source_and_no_options() {
    let mut task = TaskSpec::default();
    task.options.mounts = vec![MountOption {
        r#type: "tmpfs".to_owned(),
        target: "/t".to_owned(),
        ..MountOption::default()
    }];
    assert_eq!(lines(&task)[0], "/t=tmpfs:");
}

#[test]
fn shm_has_the_size_asked_for() {
    let mut task = TaskSpec::default();
    for (size, want) in [
        (None, "size=67108864"),
        (Some("0"), "size=67108864"),
        (Some("128M"), "size=134217728"),
    ] {
        task.options.shm_size = size.map(ToOwned::to_owned);
        let all = build(&task).unwrap().into_json();
        assert!(all[3]["options"].as_array().unwrap().contains(&json!(want)));
    }
    task.options.shm_size = Some("lots".to_owned());
    assert!(build(&task).unwrap_err().starts_with("Error in setting shm_size: "));
}

#[test]
fn a_task_name_cannot_leave_the_allocation_directory() {
    for name in ["..", ".", "", "a/b"] {
        assert!(
            build(&TaskSpec {
                name: name.to_owned(),
                ..task()
            })
            .is_err(),
            "{name:?}"
        );
    }
}

#[test]
fn a_volume_inside_a_task_directory_is_not_hidden() {
    let mut task = task();
    task.mounts = vec![HostMount {
        task_path: "/local/data".to_owned(),
        host_path: "/h".to_owned(),
        ..HostMount::default()
    }];
    let lines = lines(&task);
    let at = |target: &str| lines.iter().position(|l| l.starts_with(&format!("{target}="))).unwrap();
    assert!(at("/local") < at("/local/data"));
}

/// CVE-2026-6959: the log pipes of the host are not the task's to replace.
#[test]
fn the_log_directory_is_read_only_over_the_shared_one() {
    let lines = lines(&task());
    let at = |text: &str| lines.iter().position(|l| l == text).unwrap();
    assert!(at("/alloc=/a/alloc:rbind,rprivate,rw") < at("/alloc/logs=/a/alloc/logs:rbind,rprivate,ro"));
    let mut task = task();
    for target in ["/alloc/logs", "/alloc"] {
        task.options.mounts = vec![bind("local", target, &["rbind"])];
        assert!(build(&task).is_err(), "{target}");
    }
}

#[test]
fn a_volume_of_an_image_keeps_its_owner_and_mode_under_a_read_only_root() {
    let mut task = task();
    task.user = "33:34".to_owned();
    task.options.readonly_rootfs = true;
    let own = Directory {
        uid: 999,
        gid: 998,
        mode: 0o1770,
    };
    let image = ImageFacts {
        volumes: vec!["/none".to_owned(), "/own/".to_owned()],
        directories: [("/own/".to_owned(), own)].into(),
        ..ImageFacts::default()
    };
    let lines = all_lines(build_on(&task, &node(), &image, &Settings::default()).unwrap());
    let has = |target: &str, words: &[&str]| {
        let mut of = lines.iter().filter(|line| line.contains(target));
        of.any(|line| words.iter().all(|word| line.contains(word)))
    };
    assert!(has("/own", &["uid=999", "gid=998", "mode=1770"]), "{lines:?}");
    assert!(has("/none", &["uid=33", "gid=34", "mode=755"]), "{lines:?}");
}

#[test]
fn volumes_of_an_image_are_in_memory_under_a_read_only_root() {
    let mut task = task();
    task.user = "33:34".to_owned();
    task.options.tmpfs = vec!["/taken".to_owned()];
    let image = ImageFacts {
        // CVE-2019-16884 for the first ones.
        volumes: [
            "/proc",
            "/proc/self/attr",
            "/sys/fs",
            "/dev/shm",
            "/",
            "../x",
            "/a/../b",
            "",
            "/taken",
            "/taken/below",
            "/alloc/x",
            "/data/",
            "rel/ative",
        ]
        .map(ToOwned::to_owned)
        .to_vec(),
        ..ImageFacts::default()
    };
    let copied = |task: &TaskSpec| {
        let lines = all_lines(build_on(task, &node(), &image, &Settings::default()).unwrap());
        lines
            .into_iter()
            .filter(|l| l.contains("tmpcopyup"))
            .collect::<Vec<_>>()
    };
    let made = |task: &TaskSpec| {
        build_on(task, &node(), &image, &Settings::default())
            .unwrap()
            .directories
    };
    assert!(copied(&task).is_empty());
    assert_eq!(made(&task), [Path::new("/data"), Path::new("/rel/ative")]);
    task.options.readonly_rootfs = true;
    assert!(made(&task).is_empty());
    assert_eq!(
        copied(&task),
        [
            "/run=tmpfs:nosuid,strictatime,mode=755,size=65536k,tmpcopyup",
            "/data=tmpfs:tmpcopyup,nosuid,nodev,mode=755,uid=33,gid=34",
            "/rel/ative=tmpfs:tmpcopyup,nosuid,nodev,mode=755,uid=33,gid=34"
        ]
    );
}

#[test]
fn run_is_the_images_own_unless_nothing_could_be_written_there() {
    let run = |read_only, runtime: &str| {
        let mut task = task();
        task.options.readonly_rootfs = read_only;
        let settings = Settings {
            containerd_runtime: runtime.to_owned(),
            ..Settings::default()
        };
        let lines = all_lines(build_on(&task, &node(), &ImageFacts::default(), &settings).unwrap());
        lines
            .into_iter()
            .find_map(|l| l.strip_prefix("/run=").map(str::to_owned))
    };
    assert_eq!(run(false, "runc"), None);
    for copies in ["runc", "crun", "io.containerd.runc.v2"] {
        let found = run(true, copies).unwrap();
        assert_eq!(found, "tmpfs:nosuid,strictatime,mode=755,size=65536k,tmpcopyup");
    }
    // The option is the runtime's, and to the kernel it is none.
    assert_eq!(
        run(true, "kata").unwrap(),
        "tmpfs:nosuid,strictatime,mode=755,size=65536k"
    );
}

#[test]
fn ipc_mode_decides_on_shared_memory_and_queues() {
    let with_shm = |mode: &str, shm_size: Option<&str>, ipc: &[&str]| {
        let mut task = TaskSpec::default();
        task.options.shm_size = shm_size.map(ToOwned::to_owned);
        task.options.ipc_mode = Some(mode.to_owned());
        let settings = Settings {
            allowed_modes: Some(AllowedModes {
                ipc: Some(ipc.iter().map(|s| (*s).to_owned()).collect()),
                ..AllowedModes::default()
            }),
            ..Settings::default()
        };
        build_on(&task, &node(), &ImageFacts::default(), &settings).map(|m| all_lines(m).join("\n"))
    };
    let lines = |mode: &str, ipc: &[&str]| with_shm(mode, None, ipc);
    assert!(lines("private", &[]).unwrap().contains("/dev/shm=shm:"));
    let none = lines("none", &[]).unwrap();
    assert!(!none.contains("/dev/shm") && none.contains("/dev/mqueue=mqueue:"));
    let host = lines("host", &["host"]).unwrap();
    assert!(host.contains("/dev/shm=/dev/shm:rbind") && host.contains("/dev/mqueue=mqueue:"));
    assert!(lines("host", &[]).unwrap_err().contains("allowed_modes"));
    for mode in ["none", "host"] {
        let refused = with_shm(mode, Some("1m"), &["host"]).unwrap_err();
        assert!(
            refused.starts_with("option shm_size: \"1m\": ") && refused.contains(&format!("ipc_mode = {mode:?}")),
            "{refused}"
        );
    }
    assert!(lines("sideways", &[]).is_err());
}

#[test]
fn task_directories_and_nomads_volumes_are_labelled_where_the_kernel_has_selinux() {
    let mut task = task();
    task.mounts = vec![HostMount {
        task_path: "/v".to_owned(),
        host_path: "/h".to_owned(),
        selinux_label: "Z".to_owned(),
        ..HostMount::default()
    }];
    let relabel = |selinux: bool, label: Option<&str>| {
        let mut node = node();
        node.security.selinux = selinux;
        let settings = Settings {
            volumes: Some(VolumeSettings {
                selinuxlabel: label.map(ToOwned::to_owned),
                ..VolumeSettings::default()
            }),
            ..Settings::default()
        };
        let built = build_on(&task, &node, &ImageFacts::default(), &settings);
        built.map(|m| {
            m.relabel
                .into_iter()
                .map(|(p, l)| format!("{}={l}", p.display()))
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(relabel(false, Some("z")), Ok(Vec::new()));
    assert_eq!(
        relabel(true, None).unwrap(),
        ["/h=system_u:object_r:container_file_t:s0"]
    );
    let all = relabel(true, Some("a:b:c")).unwrap();
    assert_eq!(
        all,
        [
            "/h=system_u:object_r:container_file_t:s0",
            "/a/web/secrets=a:b:c",
            "/a/web/local=a:b:c",
            "/a/alloc=a:b:c",
            "/a/alloc/logs=a:b:c"
        ]
    );
    assert!(relabel(true, Some("odd")).unwrap_err().contains("volumes.selinuxlabel"));
}

proptest! {
    #[test]
    fn any_target_is_clean_or_refused(target in "(/|\\.|\\.\\.|[a-z]|\\PC){0,12}") {
        if let Ok(target) = clean("mounts", &target) {
            let below = target.strip_prefix('/').unwrap();
            prop_assert!(below.split('/').all(|part| !part.is_empty() && part != "." && part != ".."));
            prop_assert!(inside(&target, &target) && !inside("/", &target));
        }
    }
}

#[path = "mounts_dev_test.rs"]
mod dev;

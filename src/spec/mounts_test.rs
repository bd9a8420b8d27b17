//! What `mounts.rs` promises.

use super::*;
use crate::spec::namespaces::tests::with;
use crate::spec::node::NodeFacts;
use crate::spec::settings::Settings;
use crate::spec::task::{Dns, HostMount};

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
    let built = |inputs: &Inputs<'_>| Mounts::build(inputs, &ContainerId::reported("c"), "h");
    with(task, &node(), &Settings::go_driver(), built).map_err(|e| e.to_string())
}

/// `target=source:options` of all but the runtime's own.
fn lines(task: &TaskSpec) -> Vec<String> {
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let all = build(task).unwrap().into_json();
    let line = |m: &Value| {
        let options: Vec<String> = m["options"].as_array().unwrap().iter().map(text).collect();
        format!(
            "{}={}:{}",
            text(&m["destination"]),
            text(&m["source"]),
            options.join(",")
        )
    };
    all.iter().skip(8).map(line).collect()
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
            propagation: String::new(),
        },
        HostMount {
            task_path: "csi".to_owned(),
            host_path: "/csi".to_owned(),
            readonly: false,
            propagation: "host-to-task".to_owned(),
        },
    ];
    assert_eq!(
        lines(&task),
        [
            "/etc/x.conf=/a/web/local/x.conf:rbind,ro",
            "/srv=/srv:rbind,rw",
            "/vol=/h:rbind,rprivate,ro",
            "/csi=/csi:rbind,rslave,rw",
            "/etc/resolv.conf=/etc/resolv.conf:rbind,rprivate,ro",
            "/secrets=/a/web/secrets:rbind,rprivate,rw",
            "/local=/a/web/local:rbind,rprivate,rw",
            "/alloc=/a/alloc:rbind,rprivate,rw",
            "/alloc/logs=/a/alloc/logs:rbind,rprivate,ro",
            "/etc/hosts=/a/web/hosts:rbind,rprivate,rw",
            "/etc/hostname=/a/web/hostname:rbind,rprivate,rw",
        ]
    );
    let built = build(&task).unwrap();
    assert_eq!(built.propagation, Some("rslave"));
    assert_eq!(
        built.beneath,
        [
            ("/a/web", "/a/web/local/x.conf"),
            ("/a", "/a/web/secrets"),
            ("/a", "/a/web/local"),
            ("/a", "/a/alloc"),
            ("/a", "/a/alloc/logs"),
        ]
        .map(|(dir, source)| (PathBuf::from(dir), PathBuf::from(source)))
    );
}

#[test]
fn without_an_allocation_directory_files_are_in_the_run_directory() {
    let task = TaskSpec::default();
    assert_eq!(
        lines(&task),
        [
            "/etc/resolv.conf=/etc/resolv.conf:rbind,rprivate,ro",
            "/etc/hosts=/run/containerd-driver/c/hosts:rbind,rprivate,rw",
            "/etc/hostname=/run/containerd-driver/c/hostname:rbind,rprivate,rw"
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
            "/etc/hosts=/etc/hosts:rbind,rprivate,ro",
            "/etc/hostname=/run/containerd-driver/c/hostname:rbind,rprivate,rw"
        ]
    );
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
    task.options.mounts = vec![bind("/x", "/run", &["rbind"]), bind("/y", "/etc/hosts", &["rbind"])];
    assert_eq!(build(&task).unwrap().files.len(), 1);
    task.options.extra_hosts = vec!["a:1.1.1.1".to_owned()];
    assert!(build(&task).unwrap_err().contains("extra_hosts"));
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
        "Options cannot be empty for mount type: volume. You need to atleast pass rbind and ro."
    );
    assert!(refuse(bind("../../etc", "/y", &["rbind"])).contains("without '..'"));
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
        readonly: false,
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
    for (size, want) in [(None, "size=67108864"), (Some("128M"), "size=134217728")] {
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

//! Each disease is recognised, and health is not called one.

use super::*;
use std::collections::BTreeMap;

fn found(name: &str, path: Option<&str>) -> Found {
    Found {
        name: name.into(),
        path: path.map(Into::into),
        searched: "/bin".into(),
        of_containerd: true,
    }
}

fn healthy() -> Facts {
    let plugins = [
        "io.containerd.content.v1.content",
        "io.containerd.grpc.v1.containers",
        "io.containerd.grpc.v1.content",
        "io.containerd.grpc.v1.events",
        "io.containerd.grpc.v1.images",
        "io.containerd.grpc.v1.leases",
        "io.containerd.grpc.v1.snapshots",
        "io.containerd.grpc.v1.tasks",
        "io.containerd.snapshotter.v1.overlayfs",
    ];
    Facts {
        root: true,
        socket: "/c.sock".into(),
        socket_state: SocketState::Socket,
        snapshotter: "overlayfs".into(),
        namespace: "nomad".into(),
        daemon: Daemon::Serving(Serving {
            version: "1.6.20~ds1".into(),
            revision: "r".into(),
            not_serving: None,
            plugins: Ok(Plugins {
                started: plugins.map(Into::into).to_vec(),
                failed: BTreeMap::from([("io.containerd.snapshotter.v1.zfs".into(), "no zfs".into())]),
            }),
        }),
        runtime: RuntimeFacts {
            name: "io.containerd.runc.v2".into(),
            refused: None,
            shim: found("containerd-shim-runc-v2", Some("/bin/containerd-shim-runc-v2")),
            binary: Some(found("runc", Some("/bin/runc"))),
            version: Some(Ok("runc version 1.1.5".into())),
        },
        cgroups: CgroupFacts {
            unified: true,
            mounted: true,
            controllers: ["cpu", "cpuset", "memory", "pids"].map(Into::into).to_vec(),
            swap: true,
        },
        kernel: KernelFacts {
            release: "6.1.0".into(),
            version: (6, 1),
            seccomp: true,
            namespaces: ["ipc", "mnt", "net", "pid", "uts"].map(Into::into).to_vec(),
            overlay: true,
            apparmor: false,
            apparmor_parser: false,
        },
        cni: CniFacts {
            dir: "/opt/cni/bin".into(),
            missing: Vec::new(),
        },
        limits: LimitFacts {
            own_nofile: Some(1 << 20),
            daemon_nofile: Some(u64::MAX),
            pid_max: Some(4_194_304),
            daemon_nproc: Some(u64::MAX),
            daemon_pids: None,
            inotify: Some(8192),
            no_namespaces: Vec::new(),
        },
        space: vec![room(50 << 30, 100 << 30, 1_000_000, 2_000_000)],
        clock: ClockFacts {
            now: 1_800_000_000,
            not_before: 1_790_000_000,
            synchronised: Some(true),
        },
    }
}

fn room(bytes: u64, total_bytes: u64, inodes: u64, total_inodes: u64) -> Space {
    Space {
        what: "snapshots".into(),
        path: "/r".into(),
        free: Ok(Free {
            bytes,
            total_bytes,
            inodes,
            total_inodes,
        }),
    }
}

fn serving(change: impl FnOnce(&mut Serving)) -> impl FnOnce(&mut Facts) {
    move |facts| match &mut facts.daemon {
        Daemon::Serving(serving) => change(serving),
        other => panic!("{other:?}"),
    }
}

/// The one finding that is not ok after this change.
#[track_caller]
fn only(change: impl FnOnce(&mut Facts)) -> Finding {
    let mut facts = healthy();
    change(&mut facts);
    let mut bad: Vec<Finding> = judge(&facts)
        .into_iter()
        .filter(|f| f.severity != Severity::Ok)
        .collect();
    assert_eq!(bad.len(), 1, "{bad:#?}");
    bad.remove(0)
}

#[track_caller]
fn assert_is(finding: &Finding, id: &str, severity: Severity, words: &[&str]) {
    assert_eq!((finding.id, finding.severity), (id, severity), "{finding:?}");
    for word in words {
        assert!(finding.text.contains(word), "no {word:?} in {finding:?}");
    }
    assert!(finding.remedy.as_ref().is_some_and(|r| !r.is_empty()), "{finding:?}");
}

#[test]
fn a_healthy_node_has_no_finding_and_every_check_has_spoken() {
    let findings = judge(&healthy());
    assert!(
        findings
            .iter()
            .all(|f| f.severity == Severity::Ok && f.remedy.is_none()),
        "{findings:#?}"
    );
    let ids: Vec<&str> = findings.iter().map(|f| f.id).collect();
    assert_eq!(
        ids,
        [
            "root",
            "socket",
            "containerd",
            "version",
            "plugins",
            "snapshotter",
            "transfer",
            "runtime",
            "cgroups",
            "kernel",
            "confinement",
            "cni",
            "open-files",
            "processes",
            "shim-limits",
            "inotify",
            "space",
            "clock"
        ]
    );
    assert_eq!(worst(&findings), Severity::Ok);
}

#[test]
fn what_is_wrong_with_the_socket_is_said() {
    let without = |state: SocketState| {
        move |f: &mut Facts| {
            f.socket_state = state;
            f.daemon = Daemon::NotAsked;
        }
    };
    assert_is(
        &only(without(SocketState::Absent)),
        "socket",
        Severity::Error,
        &["nothing", "/c.sock"],
    );
    let other = only(without(SocketState::Other("directory")));
    assert_is(&other, "socket", Severity::Error, &["no socket", "directory"]);
    let unknown = only(without(SocketState::Unknown("denied".into())));
    assert_is(&unknown, "socket", Severity::Error, &["denied"]);
}

#[test]
fn refused_silent_and_broken_are_three_things() {
    let refused = only(|f| f.daemon = Daemon::Unreachable("refused".into()));
    assert_is(&refused, "containerd", Severity::Error, &["nobody answers", "refused"]);
    let silent = only(|f| f.daemon = Daemon::Silent);
    assert_is(&silent, "containerd", Severity::Error, &["does not answer"]);
    let failed = only(|f| f.daemon = Daemon::Failed("x".into()));
    assert_is(&failed, "containerd", Severity::Error, &["with an error: x"]);
    let idle = only(serving(|s| s.not_serving = Some("NOT_SERVING".into())));
    assert_is(&idle, "containerd", Severity::Error, &["NOT_SERVING"]);
}

#[test]
fn versions_are_compared_by_their_numbers() {
    for (version, severity) in [
        ("1.5.9", Severity::Error),
        ("0.9", Severity::Error),
        ("mine", Severity::Warning),
    ] {
        let finding = only(serving(|s| s.version = version.into()));
        assert_is(&finding, "version", severity, &[version]);
    }
    for version in ["1.6.0", "v2.4.2", "1.10.1-rc.1", "2.0+x"] {
        let mut facts = healthy();
        serving(|s| s.version = version.into())(&mut facts);
        assert_eq!(worst(&judge(&facts)), Severity::Ok, "{version}");
    }
}

#[test]
fn plugins_that_are_needed_are_named_with_their_reason() {
    let finding = only(serving(|s| {
        let plugins = s.plugins.as_mut().unwrap();
        plugins
            .started
            .retain(|p| !p.ends_with(".tasks") && !p.ends_with(".leases"));
        plugins
            .failed
            .insert("io.containerd.grpc.v1.tasks".into(), "no shim".into());
    }));
    assert_is(
        &finding,
        "plugins",
        Severity::Error,
        &["tasks (no shim)", "leases (not loaded)"],
    );
    assert_is(
        &only(serving(|s| s.plugins = Err("y".into()))),
        "plugins",
        Severity::Error,
        &["y"],
    );
}

#[test]
fn a_snapshotter_that_is_unknown_or_broken_is_named() {
    let finding = only(|f| f.snapshotter = "stargz".into());
    assert_is(&finding, "snapshotter", Severity::Error, &["no snapshotter", "stargz"]);
    assert!(finding.remedy.unwrap().contains("overlayfs"));
    assert_is(
        &only(|f| f.snapshotter = "zfs".into()),
        "snapshotter",
        Severity::Error,
        &["no zfs"],
    );
}

#[test]
fn a_runtime_that_cannot_run_is_named() {
    let refused = only(|f| f.runtime.refused = Some("option containerd_runtime: \"x\"".into()));
    assert_is(&refused, "runtime", Severity::Error, &["containerd_runtime"]);
    let shim = only(|f| f.runtime.shim.path = None);
    assert_is(&shim, "runtime", Severity::Error, &["containerd-shim-runc-v2", "/bin"]);
    let binary = only(|f| f.runtime.binary = Some(found("crun", None)));
    assert_is(&binary, "runtime", Severity::Error, &["crun"]);
    let guessed = only(|f| {
        f.runtime.shim.path = None;
        f.runtime.shim.of_containerd = false;
    });
    assert_is(&guessed, "runtime", Severity::Warning, &["not known"]);
    let broken = only(|f| f.runtime.version = Some(Err("exit status 1".into())));
    assert_is(&broken, "runtime", Severity::Error, &["--version", "exit status 1"]);
}

#[test]
fn what_the_machine_lacks_is_said() {
    assert_is(&only(|f| f.root = false), "root", Severity::Error, &["root"]);
    let cgroups = only(|f| f.cgroups.controllers.retain(|c| c != "memory"));
    assert_is(&cgroups, "cgroups", Severity::Error, &["version 2", "memory"]);
    let cores = only(|f| f.cgroups.controllers.retain(|c| c != "cpuset"));
    assert_is(&cores, "cgroups", Severity::Warning, &["cpuset", "cores"]);
    assert_is(
        &only(|f| f.cgroups.mounted = false),
        "cgroups",
        Severity::Error,
        &["/sys/fs/cgroup"],
    );
    assert_is(
        &only(|f| f.kernel.version = (4, 19)),
        "kernel",
        Severity::Error,
        &["openat2"],
    );
    assert_is(
        &only(|f| f.kernel.namespaces.clear()),
        "kernel",
        Severity::Error,
        &["net"],
    );
    assert_is(
        &only(|f| f.kernel.overlay = false),
        "kernel",
        Severity::Warning,
        &["overlayfs"],
    );
    assert_is(
        &only(|f| f.limits.no_namespaces = vec!["net".into()]),
        "kernel",
        Severity::Error,
        &["net"],
    );
    assert_is(
        &only(|f| f.kernel.seccomp = false),
        "confinement",
        Severity::Warning,
        &["filter"],
    );
    assert_is(
        &only(|f| f.kernel.apparmor = true),
        "confinement",
        Severity::Warning,
        &["apparmor_parser"],
    );
    assert_is(
        &only(|f| f.cni.missing = vec!["bridge"]),
        "cni",
        Severity::Warning,
        &["bridge"],
    );
    assert_is(&only(|f| f.clock.now = 1), "clock", Severity::Error, &["behind"]);
    assert_is(
        &only(|f| f.clock.now = 1_780_000_000),
        "clock",
        Severity::Error,
        &["behind"],
    );
    let unset = only(|f| f.clock.synchronised = Some(false));
    assert_is(&unset, "clock", Severity::Warning, &["not been set"]);
}

#[test]
fn the_lowest_limit_is_the_one_that_is_told() {
    let own = only(|f| f.limits.own_nofile = Some(1024));
    assert_is(&own, "open-files", Severity::Warning, &["this process", "1024"]);
    assert_is(
        &only(|f| f.limits.own_nofile = Some(256)),
        "open-files",
        Severity::Error,
        &["256"],
    );
    let daemon = only(|f| f.limits.daemon_nofile = Some(4096));
    assert_is(&daemon, "open-files", Severity::Warning, &["containerd", "4096"]);
    assert_is(
        &only(|f| f.limits.pid_max = Some(1000)),
        "processes",
        Severity::Warning,
        &["1000"],
    );
    let nproc = only(|f| f.limits.daemon_nproc = Some(1000));
    assert_is(&nproc, "shim-limits", Severity::Warning, &["1000", "one user"]);
    let pids = |max, current| {
        only(move |f| {
            f.limits.daemon_pids = Some(PidsFacts {
                cgroup: "/system.slice/containerd.service".into(),
                max,
                current,
            });
        })
    };
    let few = pids(4915, 100);
    assert_is(
        &few,
        "shim-limits",
        Severity::Warning,
        &["containerd.service", "4915", "409 shims"],
    );
    let none = pids(20_000, 19_990);
    assert_is(
        &none,
        "shim-limits",
        Severity::Error,
        &["19990 of at most 20000", "no other shim"],
    );
    let mut roomy = healthy();
    roomy.limits.daemon_pids = Some(PidsFacts {
        cgroup: "/".into(),
        max: 30_000,
        current: 500,
    });
    roomy.limits.daemon_nproc = None;
    assert_eq!(worst(&judge(&roomy)), Severity::Ok);
    // Advice for dense nodes: most nodes have few tasks.
    let many = |unified: bool| {
        let mut facts = healthy();
        facts.limits.inotify = Some(128);
        facts.cgroups.unified = unified;
        let found = judge(&facts)
            .into_iter()
            .find(|finding| finding.id == "inotify")
            .unwrap();
        assert_eq!(found.severity, Severity::Ok);
        found.text
    };
    assert!(many(true).contains("128") && many(true).contains("max_user_instances"));
    assert!(!many(false).contains("max_user_instances"));
}

#[test]
fn room_is_judged_by_bytes_and_by_inodes_and_by_the_size_of_the_file_system() {
    let space = |s: Space| move |f: &mut Facts| f.space = vec![s];
    let gib = 1 << 30;
    let few = only(space(room(gib / 2, 100 * gib, 9_000_000, 10_000_000)));
    assert_is(
        &few,
        "space",
        Severity::Warning,
        &["512 of 102400 MiB", "snapshots", "/r"],
    );
    assert_is(
        &only(space(room(1 << 20, 100 * gib, 9_000_000, 10_000_000))),
        "space",
        Severity::Error,
        &["1 of"],
    );
    assert_is(
        &only(space(room(0, 8 << 20, 0, 0))),
        "space",
        Severity::Error,
        &["0 of 8 MiB"],
    );
    assert_is(
        &only(space(room(50 * gib, 100 * gib, 10, 10_000_000))),
        "space",
        Severity::Error,
        &["10 of", "inodes"],
    );
    let unknown = Space {
        free: Err("gone".into()),
        ..room(0, 0, 0, 0)
    };
    assert_is(&only(space(unknown)), "space", Severity::Warning, &["gone"]);
    let mut small = healthy();
    // A small file system that is half empty is not ill, and one that counts no inodes is not out of them.
    small.space = vec![room(4 << 20, 8 << 20, 0, 0)];
    assert_eq!(worst(&judge(&small)), Severity::Ok);
}

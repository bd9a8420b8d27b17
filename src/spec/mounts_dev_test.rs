//! Mounts in the place of the runtime's own, `/dev` above all.

use super::*;

#[test]
fn a_mount_at_or_above_one_of_the_runtimes_own_takes_its_place() {
    let targets = |change: fn(&mut TaskSpec)| {
        let mut task = TaskSpec::default();
        change(&mut task);
        let lines = all_lines(build(&task).unwrap());
        lines
            .into_iter()
            .map(|l| l.split('=').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let csi = targets(|t| {
        t.mounts = vec![HostMount {
            task_path: "/dev".to_owned(),
            host_path: "/dev".to_owned(),
            ..HostMount::default()
        }];
    });
    assert_eq!(
        csi,
        [
            "/proc",
            "/sys",
            "/sys/fs/cgroup",
            "/dev",
            "/etc/resolv.conf",
            "/etc/hosts",
            "/etc/hostname"
        ]
    );
    let shm = targets(|t| t.options.tmpfs = vec!["/dev/shm:size=1g".to_owned()]);
    assert_eq!(shm.iter().filter(|t| *t == "/dev/shm").count(), 1);
    assert_eq!(shm.last().unwrap(), "/etc/hostname");
    let near = targets(|t| t.options.tmpfs = vec!["/device".to_owned()]);
    assert!(near.contains(&"/dev".to_owned()));
}

/// CVE-2025-31133: with what the image has as `/dev/null` in the place of the runtime's, a process is given a file of `/proc`.
#[test]
fn files_in_memory_are_below_dev_without_consent_but_not_in_its_place() {
    let with = |settings: &Settings, text: &str| {
        let mut task = TaskSpec::default();
        task.options.tmpfs = vec![text.to_owned()];
        build_on(&task, &node(), &ImageFacts::default(), settings).map(|_| ())
    };
    let (closed, open) = (Settings::default(), Settings::go_driver());
    for fine in ["/dev/shm:size=1g", "/dev/hugepages", "/dev/nullable"] {
        with(&closed, fine).unwrap();
    }
    for place in ["/dev", "//dev/.:dev,exec,suid", "/dev/null"] {
        let text = with(&closed, place).unwrap_err();
        assert!(text.starts_with("option tmpfs: \"/dev"), "{text}");
        assert!(text.contains("volumes { enabled = true }"), "{text}");
        with(&open, place).unwrap();
    }
    for settings in [&closed, &open] {
        for copied in ["/dev:tmpcopyup,dev", "/dev/x:tmpcopyup"] {
            let text = with(settings, copied).unwrap_err();
            assert!(text.contains("tmpcopyup is not for /dev"), "{text}");
        }
        let block = MountOption {
            r#type: "tmpfs".to_owned(),
            target: "/dev".to_owned(),
            options: vec!["tmpcopyup".to_owned(), "dev".to_owned()],
            ..MountOption::default()
        };
        let mut task = TaskSpec::default();
        task.options.mounts = vec![block];
        let text = build_on(&task, &node(), &ImageFacts::default(), settings).unwrap_err();
        assert!(text.starts_with("option mounts: \"/dev\": tmpcopyup"), "{text}");
    }
    with(&closed, "/opt:tmpcopyup").unwrap();
}

/// `csi_plugin_supervisor_hook.go` adds it to every CSI plugin; those of controllers are not privileged.
#[test]
fn the_dev_of_csi_plugins_needs_no_consent_and_all_else_over_it_does() {
    let with = |host: &str, target: &str| {
        let mut task = task();
        task.mounts = vec![HostMount {
            task_path: target.to_owned(),
            host_path: host.to_owned(),
            ..HostMount::default()
        }];
        build_on(&task, &node(), &ImageFacts::default(), &Settings::default()).map(all_lines)
    };
    let lines = with("/dev", "/dev").unwrap();
    assert!(lines.contains(&"/dev=/dev:rbind,rprivate,rw".to_owned()), "{lines:?}");
    for (host, target) in [
        ("/srv", "/dev"),
        ("/dev", "/dev/x"),
        ("/dev/shm", "/dev"),
        ("/dev", "/proc"),
        ("/proc", "/proc"),
        ("/sys", "/sys"),
    ] {
        let text = with(host, target).unwrap_err();
        assert!(text.contains("volumes { enabled = true }"), "{host} {target}: {text}");
    }
}

#[test]
fn the_init_program_is_mounted_where_it_is_run() {
    let mut task = TaskSpec::default();
    task.options.init = true;
    let node = NodeFacts {
        init_program: Some("/usr/bin/tini-static".into()),
        ..node()
    };
    let build = |task: &TaskSpec| build_on(task, &node, &ImageFacts::default(), &Settings::go_driver());
    let line = "/dev/init=/usr/bin/tini-static:bind,rprivate,ro,nosuid,nodev".to_owned();
    assert!(all_lines(build(&task).unwrap()).contains(&line));
    task.options.tmpfs = vec!["/dev/init".to_owned()];
    assert!(build(&task).unwrap_err().contains("init: \"/dev/init\""));
    // Not in another /dev, which may be the host's.
    task.options.tmpfs.clear();
    task.mounts = vec![HostMount {
        task_path: "dev".to_owned(),
        host_path: "/dev".to_owned(),
        ..HostMount::default()
    }];
    let text = build(&task).unwrap_err();
    assert!(
        text.starts_with("option init: true: volume_mount mounts over /dev"),
        "{text}"
    );
}

//! Whose a process is, what is thawed, and that nobody else is hit.

use super::*;
use proptest::prelude::*;
use std::process::Command;

fn marks() -> Vec<String> {
    vec!["web-1".to_owned(), "alloc.web.scope".to_owned()]
}

#[test]
fn a_process_belongs_by_the_name_of_its_cgroup_and_by_nothing_like_it() {
    for yes in [
        "3:cpu,cpuacct:/nomad/web-1\n0::/\n",
        "0::/nomad.slice/web-1/init.scope/deep",
        "0::/nomad.slice/share.slice/alloc.web.scope",
        "0::/system.slice/containerd-web-1.scope",
        "7:name=a:b:/nomad/web-1",
    ] {
        assert!(belongs(yes, &marks()), "{yes:?}");
    }
    for no in [
        "",
        "0::/",
        "0::/nomad/web-10",
        "0::/nomad/xweb-1",
        "0::/nomad/web-1x/y",
        "0::/system.slice/xweb-1.scope",
        "0::/nomad/web-1.scope.d",
        "web-1",
    ] {
        assert!(!belongs(no, &marks()), "{no:?}");
    }
    assert!(!belongs("0::/nomad/web-1", &[String::new()]));
}

#[test]
fn what_is_thawed_is_the_containers_own_and_nothing_above() {
    let root = Path::new("/c");
    let v1 = "5:freezer:/nomad/web-1/inner\n3:cpu:/other\n";
    assert_eq!(
        switches(root, v1, &marks(), CgroupVersion::V1),
        [
            Path::new("/c/freezer/nomad/web-1/freezer.state"),
            Path::new("/c/freezer/nomad/web-1/inner/freezer.state")
        ]
    );
    let v2 = "0::/nomad.slice/web-1\n";
    assert_eq!(
        switches(root, v2, &marks(), CgroupVersion::V2),
        [Path::new("/c/nomad.slice/web-1/cgroup.freeze"); 2]
    );
    for nothing in [
        "5:freezer:/nomad/other\n",
        "5:freezer:/../web-1\n",
        "3:cpu:/nomad/web-1\n",
    ] {
        assert_eq!(
            switches(root, nothing, &marks(), CgroupVersion::V1),
            Vec::<PathBuf>::new()
        );
    }
}

#[test]
fn the_status_behind_any_name_is_read_and_stands_for_a_code() {
    let text = format!(
        "7 (a) Z) (b) Z 1 {} 4242 {} 9\n",
        "0 ".repeat(17).trim(),
        "0 ".repeat(29).trim()
    );
    let found = stat(&text).expect("a stat");
    assert_eq!((found.dead, found.started, found.status), (true, 4242, 9));
    assert_eq!([0, 9, 137, 256, 0xff00].map(code_of), [0, 137, 137, 1, 255]);
    assert_eq!(stat("7 (a) S 1"), None);
}

#[test]
fn the_code_of_a_child_that_nobody_has_waited_for_is_seen() {
    if !geteuid().is_root() {
        return;
    }
    let mut child = Command::new("sh").args(["-c", "exit 42"]).spawn().expect("sh");
    let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).expect("a descriptor");
    let (started, _) = look_at(child.id()).expect("a child");
    let mut ends = [PollFd::new(&process, PollFlags::IN)];
    poll(&mut ends, None).expect("its end");
    assert_eq!(exit_code(child.id(), started), Some(42));
    assert_eq!(exit_code(child.id(), started + 1), None);
    child.wait().expect("wait");
    assert_eq!(exit_code(child.id(), started), None);
}

#[test]
fn all_of_a_cgroup_are_killed_and_nobody_else() {
    let root = Path::new(CGROUP_ROOT);
    let version = super::super::node::cgroup_version(root);
    let name = format!("containerd-driver-members-{}", std::process::id());
    let base = match version {
        CgroupVersion::V1 => root.join("freezer"),
        CgroupVersion::V2 => root.to_owned(),
    };
    // Without rights over cgroups there is nothing to be shown.
    let Ok(()) = std::fs::create_dir_all(base.join(&name).join("inner")) else {
        return;
    };
    let mut inside = Command::new("sleep").arg("60").spawn().expect("sleep");
    let mut deep = Command::new("sleep").arg("60").spawn().expect("sleep");
    let mut other = Command::new("sleep").arg("60").spawn().expect("sleep");
    std::fs::write(base.join(&name).join("cgroup.procs"), inside.id().to_string()).expect("join");
    std::fs::write(base.join(&name).join("inner/cgroup.procs"), deep.id().to_string()).expect("join");
    let frozen = match version {
        CgroupVersion::V1 => ("freezer.state", "FROZEN"),
        CgroupVersion::V2 => ("cgroup.freeze", "1"),
    };
    std::fs::write(base.join(&name).join(frozen.0), frozen.1).expect("frozen");
    let marks = vec![name.clone()];
    let found = first(&marks, Some(deep.id())).expect("a member");
    assert_eq!(found.pid, deep.id());
    let killed = kill_all(&marks, Some(inside.id()), version, Duration::from_secs(20));
    assert_eq!(killed.left, Vec::<u32>::new());
    assert!(killed.signalled >= 2, "{killed:?}");
    assert!(!geteuid().is_root() || killed.code == Some(137), "{killed:?}");
    assert_eq!(other.try_wait().expect("other"), None);
    for child in [&mut inside, &mut deep] {
        assert!(!child.wait().expect("wait").success());
    }
    other.kill().expect("kill");
    other.wait().expect("wait");
    assert_eq!(kill_all(&marks, None, version, Duration::ZERO), Killed::default());
    super::super::cgroup::remove_empty(root, version, &Path::new("/").join(&name)).expect("removed");
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(\\PC|[0-9:/ )\\n]){0,80}", mark in "[a-c./-]{0,4}") {
        let marks = [mark];
        stat(&text);
        for (_, path) in lines(&text) {
            if let Some(own) = own(path, &marks) {
                prop_assert!(path.starts_with(own));
            }
        }
        for switch in switches(Path::new("/c"), &text, &marks, CgroupVersion::V2) {
            prop_assert!(switch.starts_with("/c") && !switch.components().any(|c| c == std::path::Component::ParentDir));
        }
    }
}

#[test]
fn the_first_process_of_a_namespace_below_ours_is_told_from_others() {
    let status = |numbers: &str| format!("Name:\tsleep\nNStgid:\t{numbers}\nNSpid:\t{numbers}\nNSpgid:\t9\t1\n");
    assert!(is_first_below(&status("4711\t1")) && is_first_below(&status("4711\t12\t1")));
    assert!(!is_first_below(&status("4711\t12")) && !is_first_below(&status("4711")));
    assert!(!is_first_below(&status("1")), "of our own namespace");
    assert!(!is_first_below("Name:\tsleep\n") && !is_first_below(""));
    assert!(!leads_a_namespace(std::process::id()));
    assert_eq!(parent(std::process::id()), Some(std::os::unix::process::parent_id()));
}

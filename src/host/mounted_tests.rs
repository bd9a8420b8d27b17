//! What `mounted.rs` promises.

use super::*;

#[test]
fn a_table_of_mounts_is_read() {
    let text = "22 27 0:21 / /proc rw,nosuid shared:12 - proc proc rw\n\
                31 22 8:1 /data /alloc/with\\040blank ro,relatime - ext4 /dev/vda rw\nbroken\n";
    let mounts = parse(text);
    assert_eq!(mounts.len(), 2);
    assert_eq!(mounts[&31].point, Path::new("/alloc/with blank"));
    assert!(mounts[&31].read_only && !mounts[&22].read_only);
    assert_eq!((&mounts[&22].groups, &mounts[&31].groups), (&[12].into(), &[].into()));
    let text = "1 0 0:1 / / rw master:3 shared:21 - tmpfs tmpfs rw\n2 1 0:1 / /s rw shared:7 propagate_from:9 - x shared:8 rw\n\
                3 1 0:1 / /o rw master:5 - x shared:8 rw\n";
    let groups = groups_in(text);
    assert_eq!(groups.into_iter().collect::<Vec<_>>(), [3, 5, 7, 21]);
}

#[test]
fn the_root_above_a_file_is_found() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), "").unwrap();
    let all = beneath(dir.path());
    let (root, file) = (all.open(Path::new("/")).unwrap(), all.open(Path::new("/f")).unwrap());
    let id = mount_id(&file).unwrap();
    assert_eq!(mount_id(&root), Some(id));
    // A mount of another number than that of the root above it would be one.
    let below = |id| all.is_below_another(Path::new("/f"), &file, id);
    assert!(!below(id) && below(id + 1));
}

#[test]
fn a_directory_is_made_where_there_is_nothing_and_by_no_link_out() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let outside = dir.path().join("outside");
    std::fs::create_dir_all(root.join("there")).unwrap();
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(root.join("file"), "").unwrap();
    std::os::unix::fs::symlink(&outside, root.join("out")).unwrap();
    std::os::unix::fs::symlink("/there", root.join("in")).unwrap();
    let all = beneath(&root);
    for target in ["/a/b/c", "/there", "/in/x", "/file", "/file/x", "/out", "/out/x"] {
        all.make_dir(Path::new(target)).unwrap();
    }
    for made in ["a/b/c", "there/x"] {
        let found = std::fs::metadata(root.join(made)).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&found.permissions());
        assert!(found.is_dir() && mode & 0o7777 == 0o755, "{made}");
    }
    assert!(root.join("file").is_file());
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn nothing_is_made_in_a_mount() {
    let own = Mounted::of(std::process::id()).unwrap();
    own.make_dir(Path::new("/proc/none/x")).unwrap();
    assert!(own.look(Path::new("/proc/none")).is_err());
}

#[test]
fn only_the_null_device_is_the_null_device() {
    assert!(Mounted::of(std::process::id()).unwrap().null_is_null().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let all = beneath(dir.path());
    assert!(all.null_is_null().unwrap());
    std::fs::create_dir(dir.path().join("dev")).unwrap();
    let null = dir.path().join("dev/null");
    std::fs::write(&null, "").unwrap();
    std::fs::write(dir.path().join("f"), "").unwrap();
    assert!(!all.null_is_null().unwrap());
    std::fs::remove_file(&null).unwrap();
    std::os::unix::fs::symlink("/f", &null).unwrap();
    assert!(!all.null_is_null().unwrap());
}

#[test]
fn what_a_source_brought_along_can_be_written_to_or_not() {
    let root = fs::openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let mount = |(point, read_only): (&str, bool)| Mount {
        point: point.into(),
        read_only,
        groups: BTreeSet::new(),
    };
    let points = [
        ("/", false),
        ("/data", true),
        ("/database", false),
        ("/data/a", true),
        ("/data/a/b", false),
    ];
    let all = Mounted {
        root,
        mounts: (0_u64..).zip(points.map(mount)).collect(),
    };
    let found = |planned: &[u64]| all.writable_below(1, planned).map(|m| m.point.as_path());
    assert_eq!(found(&[0, 1, 2]), Some(Path::new("/data/a/b")));
    assert_eq!(found(&[1, 3]), None);
    assert_eq!(found(&[4]), None);
    assert_eq!(
        all.writable_below(3, &[]).map(|m| m.point.as_path()),
        Some(Path::new("/data/a/b"))
    );
    assert!(all.writable_below(4, &[]).is_none() && all.writable_below(9, &[]).is_none());
}

#[test]
fn permission_bits_are_those_that_were_asked_for() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("d")).unwrap();
    let all = beneath(dir.path());
    let mode = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o7777;
    let found = all.look(Path::new("/d")).unwrap();
    for bits in [0o1777, 0o1777, 0o700] {
        found.set_mode(bits).unwrap();
        assert_eq!(mode("d"), bits);
    }
    // Of what was looked at, and not of what is there now.
    std::fs::rename(dir.path().join("d"), dir.path().join("old")).unwrap();
    std::fs::create_dir(dir.path().join("d")).unwrap();
    let before = mode("d");
    found.set_mode(0o1770).unwrap();
    assert_eq!((mode("old"), mode("d")), (0o1770, before));
    assert!(all.look(Path::new("/none")).is_err());
}

/// With the root there.
fn beneath(dir: &Path) -> Mounted {
    Mounted {
        root: fs::openat(CWD, dir, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap(),
        mounts: BTreeMap::new(),
    }
}

#[test]
fn a_mount_is_told_from_what_is_inside_of_one() {
    let own = Mounted::of(std::process::id()).unwrap();
    let at = |target: &str| {
        let looked = own.look(Path::new(target)).unwrap();
        own.mount_of(&looked).map(|(_, found)| found.point.clone())
    };
    assert_eq!(at("/proc").unwrap(), Path::new("/proc"));
    for inside in ["/proc/self/net", "/proc/version"] {
        let text = at(inside).unwrap_err().to_string();
        assert!(text.contains("no mount is found"), "{text}");
    }
}

#[test]
fn both_ways_of_telling_a_mount_agree() {
    let own = Mounted::of(std::process::id()).unwrap();
    for (target, want) in [("/proc", true), ("/proc/sys", false), ("/proc/version", false)] {
        let looked = own.look(Path::new(target)).unwrap();
        let id = mount_id(&looked.fd).unwrap();
        assert_eq!(
            own.is_below_another(Path::new(target), &looked.fd, id),
            want,
            "{target}"
        );
        // Kernels before 5.8 do not tell.
        assert!(is_mount_root(&looked.fd).is_none_or(|told| told == want), "{target}");
    }
}

#[test]
fn a_source_that_was_replaced_is_looked_at_once_more() {
    let dir = tempfile::tempdir().unwrap();
    let (source, all) = (dir.path().join("conf"), beneath(dir.path()));
    let written = |text: &str| {
        let new = dir.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &source).unwrap();
    };
    let checked = || paths::check_beneath(dir.path(), &source).unwrap();
    let again = Some((dir.path(), source.as_path()));
    let look = |name: &str| all.look(Path::new(name)).unwrap();
    written("one");
    let one = checked();
    assert_eq!(look("/conf").compare(&one, again).unwrap(), Compared::Source);
    // Written anew between the check and the mount: this is what was mounted.
    written("two");
    let two = look("/conf");
    assert_eq!(two.compare(&one, again).unwrap(), Compared::Source);
    assert_eq!(two.compare(&one, None).unwrap(), Compared::Other);
    // And once more since.
    written("three");
    assert!(matches!(two.compare(&one, again).unwrap(), Compared::Replaced(_)));
    // Elsewhere, while the source has stayed.
    std::fs::write(dir.path().join("other"), "").unwrap();
    assert_eq!(look("/other").compare(&checked(), again).unwrap(), Compared::Other);
    // A link that a task has put there is not followed, whatever it leads to.
    let three = checked();
    std::fs::remove_file(&source).unwrap();
    std::os::unix::fs::symlink("other", &source).unwrap();
    assert!(matches!(
        look("/other").compare(&three, again).unwrap(),
        Compared::Replaced(_)
    ));
}

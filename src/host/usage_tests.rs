//! Counters from made-up cgroups of both generations, and from this process's own.

use super::*;
use proptest::prelude::*;

fn file(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn counters(place: &Place) -> Counters {
    place.read(&mut Vec::new()).unwrap()
}

#[test]
fn the_unified_hierarchy_counts_in_microseconds() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str, text: &str| file(dir.path(), &format!("nomad.slice/share.slice/a.web.scope/{name}"), text);
    at(
        "cpu.stat",
        "usage_usec 3000\nuser_usec 2000\nsystem_usec 1000\nnr_periods 9\nnr_throttled 4\nthrottled_usec 70\n",
    );
    at(
        "memory.stat",
        "anon 4096\nanon_thp 1\nfile 8192\nfile_mapped 2\nkernel 3\n",
    );
    at("memory.current", "20000\n");
    at("memory.swap.current", "0\n");
    at("memory.peak", "30000\n");
    let text = "0::/nomad.slice/share.slice/a.web.scope/init.scope\n";
    assert_eq!(Place::beneath(dir.path(), "0::/gone\n", CgroupVersion::V2, &[]), None);
    let place = Place::beneath(dir.path(), text, CgroupVersion::V2, &["a.web.scope".to_owned()]).unwrap();
    assert_eq!(
        counters(&place),
        Counters {
            cpu: Cpu {
                total: Some(3_000_000),
                user: Some(2_000_000),
                system: Some(1_000_000),
                throttled_periods: Some(4),
                throttled_time: Some(70_000),
            },
            memory: MemoryUsage {
                rss: Some(4096),
                cache: Some(8192),
                swap: Some(0),
                usage: Some(20_000),
                max_usage: Some(30_000),
                kernel: None,
                kernel_max: None,
            },
        }
    );
    std::fs::remove_dir_all(dir.path().join("nomad.slice")).unwrap();
    assert_eq!(place.read(&mut Vec::new()), None);
}

#[test]
fn a_kernel_without_the_cpu_controller_still_counts_its_time() {
    let dir = tempfile::tempdir().unwrap();
    file(
        dir.path(),
        "nomad.slice/c/cpu.stat",
        "usage_usec 3\nuser_usec 2\nsystem_usec 1\n",
    );
    let place = Place::beneath(dir.path(), "0::/nomad.slice/c\n", CgroupVersion::V2, &[]).unwrap();
    let found = counters(&place);
    assert_eq!((found.cpu.total, found.cpu.throttled_periods), (Some(3000), None));
    assert_eq!(found.memory, MemoryUsage::default());
}

#[test]
fn one_hierarchy_per_controller_counts_in_nanoseconds_and_ticks() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    file(root, "cpu,cpuacct/nomad/c/cpuacct.usage", "123456789\n");
    file(root, "cpu,cpuacct/nomad/c/cpuacct.stat", "user 7\nsystem 5\n");
    file(
        root,
        "cpu,cpuacct/nomad/c/cpu.stat",
        "nr_periods 3\nnr_throttled 2\nthrottled_time 99\n",
    );
    file(
        root,
        "memory/nomad/c/memory.stat",
        "cache 1\nrss 2\nrss_huge 9\ntotal_cache 10\ntotal_rss 20\ntotal_swap 30\n",
    );
    file(root, "memory/nomad/c/memory.usage_in_bytes", "40\n");
    file(root, "memory/nomad/c/memory.max_usage_in_bytes", "50\n");
    file(root, "memory/nomad/c/memory.kmem.usage_in_bytes", "60\n");
    file(root, "memory/nomad/c/memory.kmem.max_usage_in_bytes", "70\n");
    let text = "5:memory:/nomad/c\n4:cpu,cpuacct:/nomad/c\n1:name=systemd:/x\n0::/\n";
    let found = counters(&Place::beneath(root, text, CgroupVersion::V1, &["c".to_owned()]).unwrap());
    let expected = Cpu {
        total: Some(123_456_789),
        user: Some(70_000_000),
        system: Some(50_000_000),
        throttled_periods: Some(2),
        throttled_time: Some(99),
    };
    assert_eq!(found.cpu, expected);
    let m = found.memory;
    assert_eq!(
        [m.rss, m.cache, m.swap, m.usage, m.max_usage, m.kernel, m.kernel_max],
        [20, 10, 30, 40, 50, 60, 70].map(Some)
    );
    // The same with a hierarchy that is mounted under the single name, and without swap accounting.
    std::fs::rename(root.join("cpu,cpuacct"), root.join("cpuacct")).unwrap();
    file(root, "memory/nomad/c/memory.stat", "cache 1\nrss 2\n");
    let found = counters(&Place::beneath(root, text, CgroupVersion::V1, &[]).unwrap());
    assert_eq!((found.cpu.total, found.cpu.throttled_time), (expected.total, None));
    assert_eq!((found.memory.rss, found.memory.swap), (Some(2), None));
}

#[test]
fn the_containers_own_cgroup_is_found_above_what_it_made_itself() {
    let marks = ["c-1".to_owned(), "a.web.scope".to_owned()];
    for (path, own) in [
        ("/nomad/c-1", Some("/nomad/c-1")),
        ("/nomad/c-1/init.scope/c-1", Some("/nomad/c-1")),
        ("/x.slice/cri-c-1.scope/y", Some("/x.slice/cri-c-1.scope")),
        (
            "/nomad.slice/reserve.slice/a.web.scope/s",
            Some("/nomad.slice/reserve.slice/a.web.scope"),
        ),
        ("/other/place", Some("/other/place")),
        ("/", None),
        ("", None),
        ("/../c-1", None),
        ("c-1", None),
    ] {
        assert_eq!(own_top(path, &marks), own, "{path}");
    }
    assert_eq!(own_top("/a/b", &[String::new()]), Some("/a/b"));
}

#[test]
fn a_process_that_is_gone_has_no_place() {
    assert_eq!(Place::of(u32::MAX, CgroupVersion::V1, &[]), None);
}

proptest! {
    #[test]
    fn no_text_makes_a_parser_panic(text in "[a-z_ 0-9:/,.\\n=-]{0,200}", version in any::<bool>()) {
        v2_cpu(&text);
        field(&text, "anon");
        let version = if version { CgroupVersion::V1 } else { CgroupVersion::V2 };
        Place::beneath(Path::new("/nowhere"), &text, version, &["a".to_owned()]);
    }

    #[test]
    fn an_own_path_is_a_beginning_that_ends_with_a_name(path in "(/[a-c.]{1,3}){0,5}", mark in "[a-c]{1,2}") {
        if let Some(own) = own_top(&path, &[mark]) {
            prop_assert!(path.starts_with(own) && own.len() > 1);
            prop_assert!(path[own.len()..].is_empty() || path[own.len()..].starts_with('/'));
        }
    }

    #[test]
    fn a_counter_is_read_back(name in "[a-z_]{1,10}", value in any::<u64>(), noise in "([a-z_]{1,12} [0-9]{1,5}\\n){0,5}") {
        let text = format!("{name} {value}\n{noise}");
        prop_assert_eq!(field(&text, &name), Some(value));
    }
}

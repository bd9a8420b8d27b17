//! Whether the kernel has killed processes of a container for want of memory, by the counter of its own cgroup.
//!
//! The news of it that containerd passes on is not enough: with cgroup v1 a want of memory in a parent is told to all
//! cgroups beneath it, also to those of which nobody was killed (`mem_cgroup_oom_notify` in `mm/memcontrol.c`).

use super::members::own_path;
use super::node::{CGROUP_ROOT, CgroupVersion, read};
use std::path::{Path, PathBuf};

/// The file with the counter of the container to which this process belongs, if it is in a cgroup with one of these names.
#[must_use]
pub fn counter(pid: u32, names: &[String], version: CgroupVersion) -> Option<PathBuf> {
    let text = read(format!("/proc/{pid}/cgroup")).ok()?;
    counter_of(Path::new(CGROUP_ROOT), &text, names, version)
}

fn counter_of(root: &Path, text: &str, names: &[String], version: CgroupVersion) -> Option<PathBuf> {
    let (controller, below, file) = match version {
        CgroupVersion::V1 => ("memory", "memory", "memory.oom_control"),
        CgroupVersion::V2 => ("", "", "memory.events"),
    };
    let own = own_path(text, controller, names)?;
    Some(root.join(below).join(own.trim_start_matches('/')).join(file))
}

/// The same file of a container whose processes have ended, by the `linux.cgroupsPath` of its specification: a path below the
/// hierarchy's mount, or systemd's form `slice:prefix:name`.
#[must_use]
pub fn counter_at(cgroups_path: &str, version: CgroupVersion) -> Option<PathBuf> {
    let below = place(cgroups_path)?;
    let file = match version {
        CgroupVersion::V1 => format!("memory/{below}/memory.oom_control"),
        CgroupVersion::V2 => format!("{below}/memory.events"),
    };
    Some(Path::new(CGROUP_ROOT).join(file)).filter(|path| path.exists())
}

/// Where a cgroup is below the mount. A slice `a-b.slice` lies in `a.slice` (`systemd.slice(5)`).
fn place(cgroups_path: &str) -> Option<String> {
    let place = match cgroups_path.split(':').collect::<Vec<_>>().as_slice() {
        [path] => path.strip_prefix('/')?.to_owned(),
        [slice, prefix, name] => {
            let parts: Vec<&str> = slice.strip_suffix(".slice")?.split('-').collect();
            let slices = (1..=parts.len())
                .map(|n| format!("{}.slice", parts.iter().take(n).copied().collect::<Vec<_>>().join("-")));
            format!("{}/{prefix}-{name}.scope", slices.collect::<Vec<_>>().join("/"))
        }
        _ => return None,
    };
    // It comes from a record that others can write.
    let is_plain = !place.is_empty() && place.split('/').all(|name| !name.is_empty() && name != "..");
    is_plain.then_some(place)
}

/// How many processes were killed. `None` if the cgroup is gone or the kernel does not count (before 4.13).
#[must_use]
pub fn kills(counter: &Path) -> Option<u64> {
    kills_in(&read(counter).ok()?)
}

fn kills_in(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_of_both_versions_is_read() {
        assert_eq!(kills_in("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"), Some(2));
        assert_eq!(
            kills_in("low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\noom_group_kill 0\n"),
            Some(1)
        );
        assert_eq!(kills_in("oom_kill_disable 0\nunder_oom 0\n"), None);
        assert_eq!(kills(Path::new("/nonexistent")), None);
    }

    #[test]
    fn it_is_that_of_the_containers_own_cgroup() {
        let names = ["web-1".to_owned()];
        let found = |text, version| counter_of(Path::new("/c"), text, &names, version);
        assert_eq!(
            found("5:memory:/nomad/web-1/inner\n3:cpu:/x\n", CgroupVersion::V1),
            Some(PathBuf::from("/c/memory/nomad/web-1/memory.oom_control"))
        );
        assert_eq!(
            found("0::/nomad.slice/web-1\n", CgroupVersion::V2),
            Some(PathBuf::from("/c/nomad.slice/web-1/memory.events"))
        );
        assert_eq!(found("5:memory:/nomad/other\n", CgroupVersion::V1), None);
    }

    #[test]
    fn the_place_is_that_of_the_specification() {
        for (path, expected) in [
            ("/nomad/web-1", Some("nomad/web-1")),
            (
                "/nomad.slice/share.slice/a.web.scope",
                Some("nomad.slice/share.slice/a.web.scope"),
            ),
            (
                "nomad.slice:containerd-driver:web-1",
                Some("nomad.slice/containerd-driver-web-1.scope"),
            ),
            ("a-b.slice:p:n", Some("a.slice/a-b.slice/p-n.scope")),
            ("/nomad/../web", None),
            ("/", None),
            ("relative", None),
            ("", None),
            ("a:b", None),
            ("a.slice:../x:n", None),
        ] {
            assert_eq!(place(path).as_deref(), expected, "{path}");
        }
        assert_eq!(counter_at("/no-such-cgroup", CgroupVersion::V1), None);
    }
}

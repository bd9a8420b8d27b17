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

/// The same file of a container whose processes have ended, by the place that a container of this driver has unless the
/// host or systemd gave it another (`spec::cgroups::path`).
#[must_use]
pub fn usual_counter(container: &str, version: CgroupVersion) -> Option<PathBuf> {
    let root = Path::new(CGROUP_ROOT);
    let path = match version {
        CgroupVersion::V1 => root.join("memory/nomad").join(container).join("memory.oom_control"),
        CgroupVersion::V2 => root.join("nomad.slice").join(container).join("memory.events"),
    };
    // A name is one name: containerd takes no other, but it is not ours to trust.
    (!container.contains('/') && container != ".." && path.exists()).then_some(path)
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
        for name in ["..", "../nomad", "no-such-container"] {
            assert_eq!(usual_counter(name, CgroupVersion::V1), None, "{name}");
        }
    }
}

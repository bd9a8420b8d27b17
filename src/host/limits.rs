//! What this node can limit: cores, huge pages, weights of block I/O, the cpuset that Nomad prepared.

use super::node::{CgroupVersion, read};
use super::proc;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Most open files that a process can be given by this one and its children: what the kernel allows at all to whoever may
/// raise a limit (`CAP_SYS_RESOURCE`, see setrlimit(2)), and their own hard limit to others. `None` if it is gone or may
/// not be looked at.
#[must_use]
pub fn open_files(pid: u32, nr_open: u64) -> Option<u64> {
    let status = read(format!("/proc/{pid}/status")).ok()?;
    let limits = read(format!("/proc/{pid}/limits")).ok()?;
    open_files_of(&status, &limits, nr_open)
}

fn open_files_of(status: &str, limits: &str, nr_open: u64) -> Option<u64> {
    let capabilities = proc::capability_names(proc::status_field(status, "CapEff")?)?;
    if capabilities.contains(&"CAP_SYS_RESOURCE") {
        return Some(nr_open);
    }
    let (_, hard) = proc::open_files(limits)?;
    Some(hard.min(nr_open))
}

/// Lets this process open as many files as it may: each task of which it collects the output takes four. An agent that was
/// started by systemd or a shell often has 1,024 to begin with. What it starts inherits that; tasks are started by shims.
pub fn raise_open_files() {
    let now = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: now.maximum,
        ..now
    };
    // Fewer do for fewer tasks, and the doctor tells.
    setrlimit(Resource::Nofile, all).ok();
}

/// Number of cores that we, and so the agent that counts them, may use (`sched_getaffinity`, as Go's `NumCPU`).
#[must_use]
pub fn cores() -> u32 {
    let status = read("/proc/self/status").unwrap_or_default();
    let listed = proc::status_field(&status, "Cpus_allowed_list").and_then(count);
    listed.filter(|n| *n > 0).unwrap_or(1)
}

/// How many numbers a list of the kernel's names, such as `0-2,7`.
fn count(list: &str) -> Option<u32> {
    let mut sum = 0_u32;
    for part in list.trim().split(',').filter(|p| !p.trim().is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse::<u32>().ok()?, last.trim().parse::<u32>().ok()?);
        sum = sum.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    Some(sum)
}

/// Sizes of huge pages in bytes, ascending: the directories `hugepages-2048kB` of sysfs.
#[must_use]
pub fn hugepage_sizes() -> Vec<u64> {
    let entries = std::fs::read_dir("/sys/kernel/mm/hugepages")
        .into_iter()
        .flatten()
        .flatten();
    let mut sizes: Vec<u64> = entries.filter_map(|e| hugepage_size(e.file_name().to_str()?)).collect();
    sizes.sort_unstable();
    sizes
}

fn hugepage_size(name: &str) -> Option<u64> {
    let kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?;
    kib.parse::<u64>().ok()?.checked_mul(1024)
}

/// Whether huge pages can be limited.
#[must_use]
pub fn hugetlb(root: &Path, version: CgroupVersion) -> bool {
    match version {
        CgroupVersion::V1 => root.join("hugetlb").is_dir(),
        CgroupVersion::V2 => read(root.join("cgroup.controllers"))
            .is_ok_and(|list| list.split_whitespace().any(|name| name == "hugetlb")),
    }
}

/// Whether block I/O can be weighted: the files are there only with a scheduler or controller that knows weights, and most of
/// them in any cgroup but the first. So with version 1 an empty one is made for a look where there is no other.
#[must_use]
pub fn block_weight(root: &Path, version: CgroupVersion) -> bool {
    let any = |dir: &Path, names: [&str; 2]| names.iter().any(|name| dir.join(name).exists());
    let any_below = |root: &Path, names| {
        let groups = std::fs::read_dir(root).into_iter().flatten().flatten();
        let mut dirs = groups.map(|entry| entry.path()).filter(|path| path.is_dir());
        dirs.any(|dir| any(&dir, names))
    };
    match version {
        CgroupVersion::V1 => {
            let (root, names) = (root.join("blkio"), ["blkio.weight", "blkio.bfq.weight"]);
            any(&root, names) || any_below(&root, names) || in_new_group(&root, |dir| any(dir, names))
        }
        CgroupVersion::V2 => any_below(root, ["io.weight", "io.bfq.weight"]),
    }
}

/// Looks at an empty cgroup, which is gone afterwards. False if there can be none.
fn in_new_group(root: &Path, look: impl Fn(&Path) -> bool) -> bool {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let dir = root.join(format!("containerd-driver-look-{}-{number}", std::process::id()));
    match std::fs::create_dir(&dir) {
        // Of a process that has died.
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return false,
        _ => {}
    }
    let found = look(&dir);
    if let Err(error) = std::fs::remove_dir(&dir) {
        tracing::warn!(path = %dir.display(), %error, "an empty cgroup is left");
    }
    found
}

/// Cores and memory nodes that a cpuset directory of cgroup v1 allows; `None` if it is none.
#[must_use]
pub fn cpuset(dir: &Path) -> Option<(String, String)> {
    let cpus = read(dir.join("cpuset.effective_cpus")).ok()?;
    let mems = read(dir.join("cpuset.effective_mems")).ok()?;
    Some((cpus.trim().to_owned(), mems.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_files_as_allowed_may_be_opened() {
        raise_open_files();
        let limits = getrlimit(Resource::Nofile);
        assert_eq!(limits.current, limits.maximum);
    }
    use proptest::prelude::*;

    #[test]
    fn lists_are_counted() {
        for (list, want) in [
            ("0", Some(1)),
            ("0-2,7\n", Some(4)),
            ("", Some(0)),
            ("2-0", None),
            ("x", None),
            ("0-4294967295", None),
        ] {
            assert_eq!(count(list), want, "{list:?}");
        }
        assert!(cores() >= 1);
    }

    #[test]
    fn who_may_raise_a_limit_is_bounded_by_the_kernel_and_others_by_their_own() {
        let limits =
            "Limit          Soft Limit   Hard Limit   Units\nMax open files            1024        4096     files \n";
        let bound = |caps, limits| open_files_of(&format!("Name:\tx\nCapEff:\t{caps}\n"), limits, 1 << 20);
        assert_eq!(bound("000001ffffffffff", limits), Some(1 << 20));
        assert_eq!(bound("000001fffeffffff", limits), Some(4096));
        let unlimited = limits.replace("4096", "unlimited");
        assert_eq!(bound("0", &unlimited), Some(1 << 20));
        assert_eq!(bound("0", ""), None);
        assert_eq!(bound("x", limits), None);
        assert!(open_files(std::process::id(), 1 << 20).is_some_and(|n| n > 0 && n <= 1 << 20));
        assert_eq!(open_files(u32::MAX, 1 << 20), None);
    }

    #[test]
    fn names_of_huge_pages_are_read() {
        assert_eq!(hugepage_size("hugepages-2048kB"), Some(2 << 20));
        for name in ["hugepages-kB", "x", "hugepages-18446744073709551615kB"] {
            assert_eq!(hugepage_size(name), None, "{name}");
        }
        assert!(hugepage_sizes().is_sorted());
    }

    #[test]
    fn what_is_not_there_cannot_limit() {
        let none = Path::new("/does/not/exist");
        for version in [CgroupVersion::V1, CgroupVersion::V2] {
            assert!(!hugetlb(none, version) && !block_weight(none, version));
        }
        assert_eq!(cpuset(none), None);
    }

    proptest! {
        #[test]
        fn any_list_is_counted_or_refused(list in "[-0-9, x]{0,30}") {
            prop_assert!(count(&list).is_none_or(|n| n > 0 || list.chars().all(|c| ", ".contains(c))));
        }
    }
}

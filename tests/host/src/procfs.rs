//! What `/proc` says: processes by command line, descendants, descriptors, mounts, unix sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Every pid there is.
pub fn pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// The arguments of a process; empty for kernel threads, zombies and processes that are gone.
pub fn cmdline(pid: u32) -> Vec<String> {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    raw.split(|b| *b == 0)
        .filter(|part| !part.is_empty())
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect()
}

/// Live processes, this one excepted, with an argument that contains `text`.
pub fn with_argument(text: &str) -> Vec<u32> {
    let me = std::process::id();
    pids()
        .into_iter()
        .filter(|pid| *pid != me && cmdline(*pid).iter().any(|arg| arg.contains(text)))
        .collect()
}

/// Live processes, this one excepted, started with an environment entry that begins with `entry`.
pub fn with_environment(entry: &str) -> Vec<u32> {
    let me = std::process::id();
    let has = |pid: u32| {
        let raw = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        raw.split(|b| *b == 0).any(|part| part.starts_with(entry.as_bytes()))
    };
    pids().into_iter().filter(|pid| *pid != me && has(*pid)).collect()
}

/// Live processes whose program is called `program` and that have an argument containing `text`.
pub fn programs_with_argument(program: &str, text: &str) -> Vec<u32> {
    with_argument(text)
        .into_iter()
        .filter(|pid| {
            cmdline(*pid)
                .first()
                .is_some_and(|arg0| arg0.rsplit('/').next() == Some(program))
        })
        .collect()
}

/// The fields after the command name in `/proc/<pid>/stat`: state, parent, …
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = text.rsplit_once(')')?.1;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// `R`, `S`, `T`, `Z` …; `None` when the process is gone.
pub fn state(pid: u32) -> Option<char> {
    stat(pid)?.first()?.chars().next()
}

/// Whether the process exists and is not a zombie.
pub fn alive(pid: u32) -> bool {
    !matches!(state(pid), None | Some('Z' | 'X'))
}

/// All descendants of a process, children first.
pub fn descendants(pid: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for child in pids() {
        if let Some(parent) = stat(child).and_then(|fields| fields.get(1)?.parse().ok()) {
            children.entry(parent).or_default().push(child);
        }
    }
    let mut found = Vec::new();
    let mut queue = vec![pid];
    while let Some(next) = queue.pop() {
        for child in children.get(&next).into_iter().flatten() {
            found.push(*child);
            queue.push(*child);
        }
    }
    found
}

/// The cgroup directories a process is in, as paths on the host.
pub fn cgroups(pid: u32) -> BTreeSet<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let mut found = BTreeSet::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let path = path.trim_start_matches('/');
        if path.is_empty() {
            continue;
        }
        let controller = controllers.trim_start_matches("name=");
        let roots = match controller.is_empty() {
            true => vec![PathBuf::from("/sys/fs/cgroup"), PathBuf::from("/sys/fs/cgroup/unified")],
            false => controller
                .split(',')
                .chain([controller])
                .map(|c| Path::new("/sys/fs/cgroup").join(c))
                .collect(),
        };
        found.extend(roots.into_iter().map(|root| root.join(path)).filter(|dir| dir.is_dir()));
    }
    found
}

/// Mount points at or below `root`, in the order they were mounted.
pub fn mounts_below(root: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(point.replace("\\040", " ")))
        .filter(|point| point.starts_with(root))
        .collect()
}

/// What the descriptors of a process point at, by number.
pub fn descriptors(pid: u32) -> BTreeMap<u32, String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return BTreeMap::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned()))
        })
        .collect()
}

/// The number of threads of a process.
pub fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

/// Memory of a process that no file stands for, in KiB: what others that run the same program share does not count, since
/// it changes with how many there are.
pub fn anonymous_kib(pid: u32) -> Option<u64> {
    rollup(pid, "Pss_Anon:")
}

/// The proportional share of a process of all memory that it maps, in KiB: what it shares is divided among those who do.
pub fn share_kib(pid: u32) -> Option<u64> {
    rollup(pid, "Pss:")
}

fn rollup(pid: u32, field: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(field))?;
    value.split_whitespace().next()?.parse().ok()
}

/// CPU time of a process so far, in the kernel and outside of it, with that of its threads; in steps of a hundredth second.
pub fn cpu_time(pid: u32) -> Option<Duration> {
    times(pid, 11)
}

/// CPU time of the children that a process has waited for, and of theirs.
pub fn cpu_time_of_children(pid: u32) -> Option<Duration> {
    times(pid, 13)
}

/// The sum of two neighbouring times of `/proc/<pid>/stat`: outside of the kernel and in it.
fn times(pid: u32, first: usize) -> Option<Duration> {
    let fields = stat(pid)?;
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    // USER_HZ is 100 on every machine that Linux has kept.
    Some(Duration::from_millis((ticks(first)? + ticks(first + 1)?) * 10))
}

/// The paths of the unix sockets a process holds.
pub fn unix_sockets(pid: u32) -> Vec<PathBuf> {
    let inodes: BTreeSet<String> = descriptors(pid)
        .into_values()
        .filter_map(|target| Some(target.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let path = fields.get(7)?;
            (path.starts_with('/') && inodes.contains(*fields.get(6)?)).then(|| PathBuf::from(path))
        })
        .collect()
}

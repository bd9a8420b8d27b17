//! What a container uses, read from the files of its cgroup.
//!
//! Sources of units and names: the kernel's `Documentation/admin-guide/cgroup-v2.rst` (microseconds) and
//! `cgroup-v1/{cpuacct,memory}.rst` (nanoseconds, and ticks for the split of user and system time). A file or line that
//! a kernel does not have (a controller that is not built in or not enabled, no accounting of swap) is `None`, never
//! zero: the reader is told what was measured.

use super::node::{CGROUP_ROOT, CgroupVersion};
use super::proc;
use crate::spec::usage::MemoryUsage;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Ticks per second in files that count in them: `USER_HZ`, the same on every architecture that containerd runs on.
const USER_HZ: u64 = 100;
const NANOS_PER_TICK: u64 = 1_000_000_000 / USER_HZ;
const NANOS_PER_MICRO: u64 = 1_000;

/// Room for one file; `memory.stat`, the longest, has about 2 KiB.
const ROOM: usize = 16 * 1024;

/// Counters of one container at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// CPU.
    pub cpu: Cpu,
    /// Memory.
    pub memory: MemoryUsage,
}

/// CPU time since the cgroup was made, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cpu {
    /// All of it.
    pub total: Option<u64>,
    /// In user mode.
    pub user: Option<u64>,
    /// In the kernel.
    pub system: Option<u64>,
    /// Periods in which the quota ended before the work did.
    pub throttled_periods: Option<u64>,
    /// Time spent waiting for the next period.
    pub throttled_time: Option<u64>,
}

/// The directories of one container's cgroup. Found once: the kernel keeps the path for as long as the cgroup lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// One per controller; `None` for a controller that is not there.
    V1 {
        /// Throttling.
        cpu: Option<PathBuf>,
        /// CPU time.
        cpuacct: Option<PathBuf>,
        /// Memory.
        memory: Option<PathBuf>,
    },
    /// One for all.
    V2(PathBuf),
}

impl Place {
    /// The cgroup of a process. `marks` are names by which the container's own cgroup is known: what the container made
    /// beneath it (a service manager inside moves itself) is counted in it. `None` if the process is gone.
    #[must_use]
    pub fn of(pid: u32, version: CgroupVersion, marks: &[String]) -> Option<Self> {
        let mut buffer = Vec::new();
        let text = read(&PathBuf::from(format!("/proc/{pid}/cgroup")), &mut buffer)?;
        Self::beneath(Path::new(CGROUP_ROOT), text, version, marks)
    }

    fn beneath(root: &Path, text: &str, version: CgroupVersion, marks: &[String]) -> Option<Self> {
        match version {
            CgroupVersion::V2 => Some(root.join(below(text, "", marks)?))
                .filter(|dir| dir.is_dir())
                .map(Self::V2),
            CgroupVersion::V1 => {
                // A hierarchy of several controllers is mounted under all their names, joined or by links.
                let dir = |controller: &str| {
                    let below = below(text, controller, marks)?;
                    let joined = hierarchy(text, controller).unwrap_or(controller);
                    [joined, controller]
                        .into_iter()
                        .map(|name| root.join(name).join(below))
                        .find(|dir| dir.is_dir())
                };
                let (cpu, cpuacct, memory) = (dir("cpu"), dir("cpuacct"), dir("memory"));
                (cpuacct.is_some() || memory.is_some()).then_some(Self::V1 { cpu, cpuacct, memory })
            }
        }
    }

    /// Reads the counters. `buffer` is scratch, kept from one call to the next. `None` if the cgroup is gone.
    #[must_use]
    pub fn read(&self, buffer: &mut Vec<u8>) -> Option<Counters> {
        let found = match self {
            Self::V1 { cpu, cpuacct, memory } => Counters {
                cpu: v1_cpu(cpu.as_deref(), cpuacct.as_deref(), buffer),
                memory: memory.as_deref().map(|dir| v1_memory(dir, buffer)).unwrap_or_default(),
            },
            Self::V2(dir) => Counters {
                cpu: read(&dir.join("cpu.stat"), buffer).map(v2_cpu).unwrap_or_default(),
                memory: v2_memory(dir, buffer),
            },
        };
        (found != Counters::default()).then_some(found)
    }
}

/// The container's own cgroup in the hierarchy of a controller, below its mount.
fn below<'a>(text: &'a str, controller: &str, marks: &[String]) -> Option<&'a str> {
    Some(own_top(proc::own_cgroup(text, controller)?, marks)?.trim_start_matches('/'))
}

/// The names that share a hierarchy with a v1 controller, as in `cpu,cpuacct`.
fn hierarchy<'a>(text: &'a str, controller: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split(':').nth(1))
        .find(|names| names.split(',').any(|n| n == controller))
}

/// The part of a process's cgroup path that is the container's own: up to and with the first name that bears one of the
/// marks, or all of it. `None` for the root, which is nobody's, and for what lies outside our own view.
fn own_top<'a>(path: &'a str, marks: &[String]) -> Option<&'a str> {
    if !path.starts_with('/') || path.split('/').all(str::is_empty) || path.split('/').any(|name| name == "..") {
        return None;
    }
    let mut end = 0;
    for name in path.split('/') {
        end += name.len();
        if marks
            .iter()
            .any(|mark| !mark.is_empty() && name.contains(mark.as_str()))
        {
            return path.get(..end);
        }
        end += 1;
    }
    Some(path)
}

/// The text of a file. `None` if it is not there, or vanished while it was read.
///
/// One read, not one more for the end: the kernel writes such a file as one record, which it hands out whole if there is
/// room. A sweep over many containers is made of these calls.
fn read<'b>(path: &Path, buffer: &'b mut Vec<u8>) -> Option<&'b str> {
    buffer.resize(ROOM, 0);
    let length = File::open(path).ok()?.read(buffer).ok()?;
    std::str::from_utf8(buffer.get(..length)?).ok()
}

fn number(dir: &Path, name: &str, buffer: &mut Vec<u8>) -> Option<u64> {
    proc::number(read(&dir.join(name), buffer)?)
}

/// The value of one line of `name value`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .and_then(|value| value.trim().parse().ok())
}

fn v2_cpu(text: &str) -> Cpu {
    let nanos = |name| Some(field(text, name)?.saturating_mul(NANOS_PER_MICRO));
    Cpu {
        total: nanos("usage_usec"),
        user: nanos("user_usec"),
        system: nanos("system_usec"),
        throttled_periods: field(text, "nr_throttled"),
        throttled_time: nanos("throttled_usec"),
    }
}

fn v2_memory(dir: &Path, buffer: &mut Vec<u8>) -> MemoryUsage {
    let stat = read(&dir.join("memory.stat"), buffer);
    let (rss, cache) = stat.map_or((None, None), |text| (field(text, "anon"), field(text, "file")));
    MemoryUsage {
        rss,
        cache,
        swap: number(dir, "memory.swap.current", buffer),
        usage: number(dir, "memory.current", buffer),
        // Since Linux 5.19.
        max_usage: number(dir, "memory.peak", buffer),
        kernel: None,
        kernel_max: None,
    }
}

fn v1_cpu(cpu: Option<&Path>, cpuacct: Option<&Path>, buffer: &mut Vec<u8>) -> Cpu {
    let total = cpuacct.and_then(|dir| number(dir, "cpuacct.usage", buffer));
    // Not `cpuacct.usage_user` and `_sys`: kernels before 5.18 book nearly all of it as user time there.
    let (user, system) = cpuacct
        .and_then(|dir| read(&dir.join("cpuacct.stat"), buffer))
        .map_or((None, None), |text| {
            let nanos = |name| Some(field(text, name)?.saturating_mul(NANOS_PER_TICK));
            (nanos("user"), nanos("system"))
        });
    let (throttled_periods, throttled_time) = cpu
        .and_then(|dir| read(&dir.join("cpu.stat"), buffer))
        .map_or((None, None), |text| {
            (field(text, "nr_throttled"), field(text, "throttled_time"))
        });
    Cpu {
        total,
        user,
        system,
        throttled_periods,
        throttled_time,
    }
}

fn v1_memory(dir: &Path, buffer: &mut Vec<u8>) -> MemoryUsage {
    let (rss, cache, swap) = read(&dir.join("memory.stat"), buffer).map_or((None, None, None), |text| {
        // With cgroups beneath; the plain name is of this cgroup alone.
        let all = |total, own| field(text, total).or_else(|| field(text, own));
        (
            all("total_rss", "rss"),
            all("total_cache", "cache"),
            all("total_swap", "swap"),
        )
    });
    MemoryUsage {
        rss,
        cache,
        swap,
        usage: number(dir, "memory.usage_in_bytes", buffer),
        max_usage: number(dir, "memory.max_usage_in_bytes", buffer),
        kernel: number(dir, "memory.kmem.usage_in_bytes", buffer),
        kernel_max: number(dir, "memory.kmem.max_usage_in_bytes", buffer),
    }
}

#[cfg(test)]
#[path = "usage_tests.rs"]
mod tests;

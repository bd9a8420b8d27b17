//! What processes take of memory and cores.

use std::time::Duration;
use testhost::procfs;
use testhost::rig::Rig;

/// Proportional shares of memory, in MB (10^6).
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    pub plugin: f64,
    pub shims: f64,
    pub containerd: f64,
}

impl Memory {
    pub fn of(rig: &Rig) -> Memory {
        let shims = rig.containerd.shims();
        Memory {
            plugin: share(rig.plugin().pid()),
            shims: shims.into_iter().map(share).sum(),
            containerd: rig.containerd.pid().map_or(0.0, share),
        }
    }
}

/// The proportional share of memory of a process, in MB; 0 if it is gone.
pub fn share(pid: u32) -> f64 {
    procfs::share_kib(pid).unwrap_or(0) as f64 * 1024.0 / 1e6
}

/// Who has spent how much of the cores so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    plugin: Duration,
    containerd: Duration,
    /// The programs that containerd has run: those that start shims.
    starters: Duration,
    shims: Duration,
    /// The programs that shims have run.
    runtimes: Duration,
}

impl Spent {
    pub fn of(rig: &Rig) -> Spent {
        let containerd: Vec<u32> = rig.containerd.pid().into_iter().collect();
        let shims = rig.containerd.shims();
        let children = |pids: &[u32]| pids.iter().filter_map(|pid| procfs::cpu_time_of_children(*pid)).sum();
        Spent {
            plugin: spent(&[rig.plugin().pid()]),
            starters: children(&containerd),
            containerd: spent(&containerd),
            runtimes: children(&shims),
            shims: spent(&shims),
        }
    }

    /// What was spent since then, each with its name.
    pub fn since(&self, then: &Spent) -> [(&'static str, Duration); 5] {
        [
            ("plugin", self.plugin.saturating_sub(then.plugin)),
            ("containerd", self.containerd.saturating_sub(then.containerd)),
            ("starting shims", self.starters.saturating_sub(then.starters)),
            ("shims", self.shims.saturating_sub(then.shims)),
            ("runtimes", self.runtimes.saturating_sub(then.runtimes)),
        ]
    }
}

/// CPU time of some processes so far.
pub fn spent(pids: &[u32]) -> Duration {
    pids.iter().filter_map(|pid| procfs::cpu_time(*pid)).sum()
}

/// Of sorted times, the one below which so many of a hundred are.
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(index).copied().unwrap_or_default()
}

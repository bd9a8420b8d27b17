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

/// CPU time of some processes so far.
pub fn spent(pids: &[u32]) -> Duration {
    pids.iter().filter_map(|pid| procfs::cpu_time(*pid)).sum()
}

/// Of sorted times, the one below which so many of a hundred are.
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(index).copied().unwrap_or_default()
}

//! The conversation with `StatsSampler`: who watches which task, and what it uses.

use super::{Fact, Request};
use crate::spec::identity::{ContainerId, TaskId};
use crate::spec::usage::MemoryUsage;
use std::time::Duration;
use tokio::sync::mpsc;

/// One stream of samples. Given by the door, which outlives the sampler, so that no number is used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WatchId(pub u64);

/// Which task, and how often.
#[derive(Debug, Clone)]
pub struct Watched {
    /// The task.
    pub task: TaskId,
    /// Its container.
    pub container: ContainerId,
    /// The container's first process.
    pub pid: u32,
    /// What the host asks for; the plugin's own setting goes before it.
    pub interval: Duration,
}

/// Watch a task. The stream ends when the sampler restarts: watch again.
#[derive(Debug, Clone)]
pub struct Watch {
    /// Its number.
    pub id: WatchId,
    /// What is watched.
    pub watched: Watched,
}

impl Request for Watch {
    type Reply = Samples;
    const NAME: &'static str = "Watch";
}

/// Samples as they are taken. A reader that has not taken the last one misses the next. Boxed, since a channel of one place
/// has room for 32 all the same, and there is a channel per task.
pub type Samples = mpsc::Receiver<Box<Usage>>;

/// Nobody reads this stream any more.
#[derive(Debug, Clone, Copy)]
pub struct Unwatch {
    /// Its number.
    pub id: WatchId,
}

impl Fact for Unwatch {
    const NAME: &'static str = "Unwatch";
}

/// What a task uses. `None`: this node does not count it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Usage {
    /// When it was read, nanoseconds since the Unix epoch.
    pub at: i64,
    /// CPU.
    pub cpu: CpuUsage,
    /// Memory.
    pub memory: MemoryUsage,
}

/// CPU since the last sample, in percent of one core, and throttling since the start of the task.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CpuUsage {
    /// All of it.
    pub percent: Option<f64>,
    /// In user mode.
    pub user: Option<f64>,
    /// In the kernel.
    pub system: Option<f64>,
    /// Periods in which the quota ended before the work did.
    pub throttled_periods: Option<u64>,
    /// Nanoseconds spent waiting for the next period.
    pub throttled_time: Option<u64>,
}

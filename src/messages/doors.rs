//! What a front door (the plugin's gRPC services, the command line) is given to ask through.
//!
//! A door outlives the actor behind it: when an actor is replaced, the next request through the same door reaches the
//! new one. Front doors never see an address or an actor type.

use super::exec::Exec;
use super::health::Verdict;
use super::stats::{Samples, WatchId, Watched};
use super::task::{Destroy, Inspect, Recover, Signal, Start, Stop, TaskError, TaskEvent, Wait};
use super::{AskError, Cx, Request};
use crate::spec::identity::TaskId;
use crate::spec::settings::Settings;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, watch};

/// A boxed answer.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Ask one kind of request of the supervisor of one task.
pub trait TaskDoor<R: Request>: Send + Sync {
    /// Asks; `within` bounds the whole wait (`None`: as long as it takes). `AskError::Ended`: no such task here.
    fn ask<'a>(
        &'a self,
        task: &'a TaskId,
        req: R,
        cx: Cx,
        within: Option<Duration>,
    ) -> Answer<'a, Result<R::Reply, AskError>>;
}

/// All that can be asked about tasks.
pub trait TaskDoors:
    TaskDoor<Start>
    + TaskDoor<Recover>
    + TaskDoor<Wait>
    + TaskDoor<Stop>
    + TaskDoor<Signal>
    + TaskDoor<Destroy>
    + TaskDoor<Inspect>
    + TaskDoor<Exec>
{
    /// Makes sure that the task has a supervisor (for `Start` and `Recover`). Idempotent.
    fn open<'a>(&'a self, task: &'a TaskId, cx: Cx) -> Answer<'a, Result<(), AskError>>;

    /// Removes by convention what a task without a supervisor may have left behind. Without `force`, one that runs all the
    /// same is not touched but refused (`TaskError::StillRunning`).
    fn sweep<'a>(&'a self, task: &'a TaskId, force: bool, cx: Cx) -> Answer<'a, Result<(), TaskError>>;
}

/// What a front door is given.
#[derive(Clone)]
pub struct Doors {
    /// Requests about tasks.
    pub tasks: Arc<dyn TaskDoors>,
    /// The latest verdict on containerd; wakes on change.
    pub health: watch::Receiver<Verdict>,
    /// Task events; a slow reader misses the oldest rather than block a task.
    pub events: broadcast::Sender<TaskEvent>,
    /// Applies new plugin settings; actors see them with their next request.
    pub settings: Arc<dyn SettingsDoor>,
    /// Statistics of tasks.
    pub stats: Arc<dyn StatsDoor>,
}

/// Watches what tasks use.
pub trait StatsDoor: Send + Sync {
    /// Opens a stream of samples. It ends when the sampler behind the door restarts: watch again.
    fn watch<'a>(&'a self, watched: Watched, cx: Cx) -> Answer<'a, Result<(WatchId, Samples), AskError>>;
    /// Nobody reads that stream any more. Does not wait.
    fn unwatch(&self, id: WatchId);
}

/// Takes new settings.
pub trait SettingsDoor: Send + Sync {
    /// Replaces the settings.
    fn apply(&self, settings: Settings);
    /// Takes over the host's count of the node's compute: MHz of all cores. Holds for every task described from now on.
    fn count_compute(&self, total_mhz: u64);
    /// The settings in force.
    fn current(&self) -> Arc<Settings>;
}

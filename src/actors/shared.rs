//! What every actor is given at birth: settings, the gateway, the doors of its neighbours. No actor holds another's
//! type; each door is a capability to say one kind of thing.

use super::supervision::book::{Asks, Tells};
use crate::containerd::Gateway;
use crate::messages::Cx;
use crate::messages::container::{CreateContainer, RemoveContainer};
use crate::messages::health::{ProbeNow, Verdict};
use crate::messages::image::{EnsureImage, PullProgress};
use crate::messages::logs::{Attach, CheckLogPaths, Drain};
use crate::messages::runtime::{ContainerdAway, ContainerdFault, ForgetTask, LookUpTask, TaskExited, TaskOom};
use crate::messages::task::TaskEvent;
use crate::spec::identity::ContainerId;
use crate::spec::settings::Settings;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, broadcast, watch};

/// Tells the supervisor of a task something, by container or by task.
pub trait TaskTells: Send + Sync {
    /// The container's process ended. False if no supervisor of this process looks after it.
    fn exited(&self, fact: TaskExited, cx: Cx) -> bool;
    /// containerd has gone away.
    fn away(&self, fact: ContainerdAway, cx: Cx);
    /// A process of the container was killed for want of memory.
    fn oom(&self, fact: TaskOom, cx: Cx);
    /// News of the pull it waits for.
    fn progress(&self, fact: PullProgress, cx: Cx);
    /// The containers of all tasks that have a supervisor.
    fn containers(&self) -> Vec<ContainerId>;
}

/// Doors of the neighbours.
pub struct Links {
    /// `ImagePuller`.
    pub ensure_image: Arc<dyn Asks<EnsureImage>>,
    /// `ContainerFactory`.
    pub create_container: Arc<dyn Asks<CreateContainer>>,
    /// `ContainerFactory`.
    pub remove_container: Arc<dyn Asks<RemoveContainer>>,
    /// `EventStream`.
    pub look_up_task: Arc<dyn Asks<LookUpTask>>,
    /// `EventStream`.
    pub forget_task: Arc<dyn Tells<ForgetTask>>,
    /// `LogPump`.
    pub check_log_paths: Arc<dyn Asks<CheckLogPaths>>,
    /// `LogPump`.
    pub attach_log: Arc<dyn Asks<Attach>>,
    /// `LogPump`.
    pub drain_log: Arc<dyn Asks<Drain>>,
    /// `HealthProbe`.
    pub probe_now: Arc<dyn Tells<ProbeNow>>,
    /// The supervisors of tasks.
    pub tasks: Arc<dyn TaskTells>,
}

/// Settings together with the gateway that belongs to them.
#[derive(Clone)]
pub struct Configured {
    /// The settings in force.
    pub settings: Arc<Settings>,
    /// The way to the containerd that they name.
    pub gateway: Gateway,
}

/// State that outlives every actor.
pub struct Shared {
    /// Settings and gateway; `None` until the first configuration, so that a mere probe of the plugin touches nothing.
    pub configured: watch::Sender<Option<Configured>>,
    /// The runtime for I/O: gRPC, registries, streams.
    pub io: tokio::runtime::Handle,
    /// Task events for whoever listens.
    pub events: broadcast::Sender<TaskEvent>,
    /// The latest verdict on containerd: kept while the probe restarts.
    pub verdict: watch::Sender<Verdict>,
    /// Facts about this node that do not change.
    pub node: crate::host::node::Node,
    /// Sum of the MHz of all cores as Nomad counts them; 0 until it has told.
    pub total_compute_mhz: Arc<AtomicU64>,
    /// Whether containerd has the transfer service, as the health probe last saw; it pulls images faster than we can.
    pub transfer: AtomicBool,
    /// Directory for files of tasks without an allocation directory.
    pub run_dir: PathBuf,
    /// Cores of the machine: the unit of the budgets.
    pub cores: usize,
    /// Names and turns of the commands that run in tasks.
    pub execs: Execs,
}

/// Starts of commands at once, per core. Each is mostly runc's own work, about half of a container's start.
const EXEC_STARTS_PER_CORE: usize = 4;

/// How the name of an exec, and of the directory of its pipes, begins.
pub const EXEC_PREFIX: &str = "exec-";

/// Names and turns of the commands that run in tasks.
pub struct Execs {
    /// What the names of this process have in common. Whatever else begins like an exec was left by an earlier one.
    prefix: String,
    next: AtomicU64,
    starts: Arc<Semaphore>,
    live: Arc<watch::Sender<usize>>,
}

/// Says by its drop that a command is over and nothing of it is left.
pub struct LiveExec(Arc<watch::Sender<usize>>);

impl Drop for LiveExec {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n = n.saturating_sub(1));
    }
}

impl Execs {
    /// For so many cores.
    #[must_use]
    pub fn new(cores: usize) -> Self {
        Self {
            prefix: format!("{EXEC_PREFIX}{:x}-", unix_nanos()),
            next: AtomicU64::new(1),
            starts: Arc::new(Semaphore::new(EXEC_STARTS_PER_CORE.saturating_mul(cores.max(1)))),
            live: Arc::new(watch::Sender::new(0)),
        }
    }

    /// One more that is looked after.
    #[must_use]
    pub fn live(&self) -> LiveExec {
        self.live.send_modify(|n| *n = n.saturating_add(1));
        LiveExec(Arc::clone(&self.live))
    }

    /// Ends when none is looked after: their clients are gone and they have been killed.
    pub async fn idle(&self) {
        // Its sender is ours.
        self.live.subscribe().wait_for(|n| *n == 0).await.ok();
    }

    /// A name that no exec has had, in this process or an earlier one.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}{}", self.prefix, self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// True for the name of an exec that an earlier process has left.
    #[must_use]
    pub fn is_stale(&self, name: &str) -> bool {
        name.starts_with(EXEC_PREFIX) && !name.starts_with(&self.prefix)
    }

    /// Waits for the turn to start one, first come first served. Never closed: an error would mean no bound.
    pub async fn turn(&self) -> Result<OwnedSemaphorePermit, AcquireError> {
        Arc::clone(&self.starts).acquire_owned().await
    }
}

impl Shared {
    /// The configuration in force.
    ///
    /// # Errors
    /// If nothing was configured yet.
    pub fn configured(&self) -> Result<Configured, ContainerdFault> {
        self.configured.borrow().clone().ok_or_else(|| ContainerdFault {
            kind: crate::messages::runtime::FaultKind::Unreachable,
            operation: "connect",
            text: "the driver has no configuration yet".to_owned(),
        })
    }

    /// The same, with the way to another namespace of containerd, if one is named.
    ///
    /// # Errors
    /// If nothing was configured yet, or the name cannot be sent.
    pub fn configured_in(&self, namespace: Option<&str>) -> Result<Configured, ContainerdFault> {
        let mut configured = self.configured()?;
        if let Some(namespace) = namespace.filter(|n| *n != configured.gateway.namespace()) {
            configured.gateway = configured.gateway.in_namespace(namespace)?;
        }
        Ok(configured)
    }
}

/// Nanoseconds since the Unix epoch.
#[must_use]
pub fn unix_nanos() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|d| i64::try_from(d.as_nanos()).ok())
        .unwrap_or_default()
}

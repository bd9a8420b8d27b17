//! What every actor is given at birth: settings, the gateway, the doors of its neighbours. No actor holds another's
//! type; each door is a capability to say one kind of thing.

pub mod begin;
pub mod bundles;
pub mod force;
pub mod groups;
pub mod holds;
pub mod looks;
pub(super) mod own_logs;

use super::supervision::book::{Asks, Tells};
use crate::containerd::Gateway;
use crate::host::leftovers::inode;
use crate::host::liveness;
use crate::host::pipe_keeper::PipeKeeper;
use crate::messages::Cx;
use crate::messages::container::{CreateContainer, ReapContainer, RemoveContainer};
use crate::messages::health::{ProbeNow, Verdict};
use crate::messages::image::{EnsureImage, PullProgress};
use crate::messages::logs::{Attach, CheckLogPaths, Drain};
use crate::messages::runtime::{ContainerdAway, ContainerdFault, ForgetTask, LookUpTask, TaskExited, TaskOom};
use crate::messages::task::TaskEvent;
use crate::spec::identity::ContainerId;
use crate::spec::owner::{Owner, ProcessId, agent_of};
use crate::spec::settings::Settings;
use bundles::BundleDirs;
use groups::Groups;
use holds::ImageHolds;
use looks::Looks;
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, broadcast, watch};
use tokio::task::JoinError;

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
    /// `ContainerFactory`.
    pub reap_container: Arc<dyn Asks<ReapContainer>>,
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
    pub total_compute_mhz: AtomicU64,
    /// Whether containerd has the transfer service, as the health probe last saw; it pulls images faster than we can.
    pub transfer: AtomicBool,
    /// Directory for files of tasks without an allocation directory.
    pub run_dir: PathBuf,
    /// Cores of the machine: the unit of the budgets.
    pub cores: usize,
    /// Names and turns of the commands that run in tasks.
    pub execs: Execs,
    /// Turns of looks at the kernel's files.
    pub looks: Looks,
    /// Who this process is, for the labels of what it makes.
    pub process: ProcessId,
    /// The process that has launched this one, if it tells the agent.
    pub launcher: Option<ProcessId>,
    /// Its parent when it began, whatever that tells.
    pub parent: Option<ProcessId>,
    /// Whose tasks it has.
    pub served: Served,
    /// Which containers may be an earlier life of which task.
    pub lives: Lives,
    /// Which containers share a shim.
    pub groups: Groups,
    /// Where bundles lie.
    pub bundles: BundleDirs,
    /// Which images are about to be used.
    pub images: Arc<ImageHolds>,
    /// Holds the pipes of tasks whose output this driver collects, while it is away.
    pub keeper: Arc<PipeKeeper>,
}

/// Containers by the task of an allocation that they are a life of: those that earlier processes had left when this one was
/// asked for its first start, and its own. Kept here since containerd finds none without looking at all of them.
#[derive(Default)]
pub struct Lives {
    listed: tokio::sync::OnceCell<()>,
    known: Mutex<KnownLives>,
}

/// Both ways, since every start asks for the lives of its task, however many containers there are.
#[derive(Default)]
struct KnownLives {
    /// Container to allocation and task.
    tasks: HashMap<String, (String, String)>,
    /// Allocation and task to containers.
    containers: HashMap<(String, String), Vec<String>>,
}

impl KnownLives {
    fn note(&mut self, container: String, life: (String, String)) {
        self.forget(&container);
        self.containers.entry(life.clone()).or_default().push(container.clone());
        self.tasks.insert(container, life);
    }

    fn forget(&mut self, container: &str) {
        let Some(life) = self.tasks.remove(container) else {
            return;
        };
        if let Some(containers) = self.containers.get_mut(&life) {
            containers.retain(|known| known != container);
            if containers.is_empty() {
                self.containers.remove(&life);
            }
        }
    }
}

impl Lives {
    /// Lists those of earlier processes, once per process.
    ///
    /// # Errors
    /// What `list` says; then it is asked again.
    pub async fn listed<E>(
        &self,
        list: impl Future<Output = Result<Vec<(String, (String, String))>, E>>,
    ) -> Result<(), E> {
        let fill = async {
            let found = list.await?;
            let mut known = self.known();
            for (container, life) in found {
                known.note(container, life);
            }
            Ok(())
        };
        self.listed.get_or_try_init(|| fill).await.map(drop)
    }

    /// One more.
    pub fn note(&self, container: &str, alloc_id: &str, task: &str) {
        let life = (alloc_id.to_owned(), task.to_owned());
        self.known().note(container.to_owned(), life);
    }

    /// It is gone.
    pub fn forget(&self, container: &str) {
        self.known().forget(container);
    }

    /// The containers of this task but for this one.
    #[must_use]
    pub fn others(&self, container: &str, alloc_id: &str, task: &str) -> Vec<String> {
        let known = self.known();
        let of_task = known.containers.get(&(alloc_id.to_owned(), task.to_owned()));
        let others = of_task.into_iter().flatten().filter(|id| *id != container);
        others.cloned().collect()
    }

    /// Allocation and task of this container, if the task has no other.
    #[must_use]
    pub fn alone(&self, container: &str) -> Option<(String, String)> {
        let known = self.known();
        let life = known.tasks.get(container)?;
        let others = known.containers.get(life)?.iter().any(|id| id != container);
        (!others).then(|| life.clone())
    }

    fn known(&self) -> MutexGuard<'_, KnownLives> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The agents whose tasks this process has started or taken up, by their directories of allocations. It outlives every
/// actor: what the reaper may remove depends on how long it is known.
pub struct Served {
    begun: Instant,
    agents: Mutex<BTreeMap<PathBuf, Instant>>,
}

impl Default for Served {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            agents: Mutex::default(),
        }
    }
}

impl Served {
    /// A task of this agent is here.
    pub fn note(&self, agent: &Path) {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if !agents.contains_key(agent) {
            agents.insert(agent.to_owned(), Instant::now());
        }
    }

    /// The agents, and for how long each is known.
    #[must_use]
    pub fn since(&self) -> BTreeMap<PathBuf, Duration> {
        let agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        agents.iter().map(|(agent, at)| (agent.clone(), at.elapsed())).collect()
    }

    /// For how long this process has run.
    #[must_use]
    pub fn running(&self) -> Duration {
        self.begun.elapsed()
    }
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
    /// Whose a task's container is, and notes that its agent has a task here. Looks at a directory: not on a thread that
    /// others wait for.
    #[must_use]
    pub fn owner_of(&self, alloc_dir: &Path) -> Owner {
        let agent = agent_of(alloc_dir);
        if let Some(agent) = agent {
            self.served.note(agent);
        }
        let owner = Owner::new(&self.process, alloc_dir, agent.and_then(inode)).launched_by(self.launcher.as_ref());
        match liveness::place() {
            Some(place) => owner.at(&place),
            None => owner,
        }
    }

    /// Looks at small files of the kernel; see [`looks`].
    ///
    /// # Errors
    /// If the look panicked.
    pub async fn look<T: Send + 'static>(&self, look: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
        self.looks.at(&self.io, look).await
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lives_are_found_by_their_task_and_forgotten_by_their_container() {
        let lives = Lives::default();
        let of = |alloc: &str, task: &str| (alloc.to_owned(), task.to_owned());
        let earlier = vec![("one".to_owned(), of("a", "web")), ("two".to_owned(), of("b", "web"))];
        lives.listed(async { Ok::<_, ()>(earlier) }).await.unwrap();
        // Once per process.
        lives.listed(async { Err(()) }).await.unwrap();
        lives.note("three", "a", "web");
        lives.note("three", "a", "web");
        lives.note("four", "a", "db");
        let mut found = lives.others("new", "a", "web");
        found.sort();
        assert_eq!(found, ["one", "three"]);
        assert_eq!(lives.others("three", "a", "web"), ["one"]);
        assert_eq!((lives.alone("three"), lives.alone("five")), (None, None));
        assert_eq!(lives.alone("four"), Some(of("a", "db")));
        lives.forget("one");
        assert_eq!(lives.alone("three"), Some(of("a", "web")));
        lives.forget("unknown");
        assert!(lives.others("three", "a", "web").is_empty());
        for container in ["two", "three", "four"] {
            lives.forget(container);
        }
        assert!(lives.known().tasks.is_empty() && lives.known().containers.is_empty());
    }
}

//! The tree of children: which there are, where they run, how one is put behind its door.
//!
//! The table of children is [`CHILDREN`]; `docs/architecture.md` repeats it and a test compares both.

use super::book::{Door, Tells as _};
use super::guard::{Guard, Identity, Obituary, mailbox};
use super::policy::{Decision, RestartPolicy};
use super::root::{self, Replacements, Root};
use super::tasks::{TASK_MAILBOX, TaskTable};
use crate::actors::container_factory::{self, ContainerFactory};
use crate::actors::event_stream::{self, EventStream};
use crate::actors::health_probe::{self, HealthProbe};
use crate::actors::image_keeper::{self, ImageKeeper};
use crate::actors::image_puller::{self, ImagePuller};
use crate::actors::log_pump::{self, LogPump};
use crate::actors::reaper::{self, Reaper};
use crate::actors::shared::{Links, Shared};
use crate::actors::stats_sampler::{self, StatsSampler};
use crate::actors::task_supervisor::TaskSupervisor;
use crate::messages::Cx;
use crate::messages::lifecycle::{ChildEnd, ChildExit, ChildName};
use crate::spec::identity::{ContainerId, TaskId};
use actix::{Actor, Context, Supervised};
use actix_rt::ArbiterHandle;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::watch;

/// One row of the table of children.
pub struct Child {
    /// Actor name, as in spans, logs and the chaos socket.
    pub name: &'static str,
    /// Places in its mailbox.
    pub mailbox: usize,
    /// What a restarted one is rebuilt from.
    pub rebuilt_from: &'static str,
}

/// The children of which there is one. All restart in place with [`RestartPolicy::ACTOR`] and are replaced by the
/// root with [`RestartPolicy::REPLACEMENT`].
pub const CHILDREN: [Child; 10] = [
    Child {
        name: "root",
        mailbox: root::MAILBOX,
        rebuilt_from: "the address book",
    },
    Child {
        name: "health_probe",
        mailbox: health_probe::MAILBOX,
        rebuilt_from: "a probe at once; the last verdict stands meanwhile",
    },
    Child {
        name: "event_stream",
        mailbox: event_stream::MAILBOX,
        rebuilt_from: "a new subscription, then a listing",
    },
    Child {
        name: "image_puller",
        mailbox: image_puller::MAILBOX,
        rebuilt_from: "containerd's images and ingests; askers ask again",
    },
    Child {
        name: "image_keeper",
        mailbox: image_keeper::MAILBOX,
        rebuilt_from: "labels of images, and the containers there are",
    },
    Child {
        name: "container_factory",
        mailbox: container_factory::MAILBOX,
        rebuilt_from: "containerd's records and the work in progress; askers ask again",
    },
    Child {
        name: "log_pump",
        mailbox: log_pump::MAILBOX,
        rebuilt_from: "the attachments of the pump threads",
    },
    Child {
        name: "stats_sampler",
        mailbox: stats_sampler::MAILBOX,
        rebuilt_from: "watchers, who watch again; counters are re-based",
    },
    Child {
        name: "reaper",
        mailbox: reaper::MAILBOX,
        rebuilt_from: "the next look finds the same",
    },
    Child {
        name: "task_supervisor",
        mailbox: TASK_MAILBOX,
        rebuilt_from: "the container's labels and containerd's task state",
    },
];

/// The doors of the children of which there is one.
pub struct Singletons {
    /// Door of the root.
    pub root: Arc<Door<Root>>,
    /// Door of the health probe.
    pub health_probe: Arc<Door<HealthProbe>>,
    /// Door of the event stream.
    pub event_stream: Arc<Door<EventStream>>,
    /// Door of the image puller.
    pub image_puller: Arc<Door<ImagePuller>>,
    /// Door of the image keeper.
    pub image_keeper: Arc<Door<ImageKeeper>>,
    /// Door of the container factory.
    pub container_factory: Arc<Door<ContainerFactory>>,
    /// Door of the log pump.
    pub log_pump: Arc<Door<LogPump>>,
    /// Door of the stats sampler.
    pub stats_sampler: Arc<Door<StatsSampler>>,
    /// Door of the reaper.
    pub reaper: Arc<Door<Reaper>>,
}

impl Default for Singletons {
    fn default() -> Self {
        Self {
            root: Arc::new(Door::new("root", root::MAILBOX)),
            health_probe: Arc::new(Door::new("health_probe", health_probe::MAILBOX)),
            event_stream: Arc::new(Door::new("event_stream", event_stream::MAILBOX)),
            image_puller: Arc::new(Door::new("image_puller", image_puller::MAILBOX)),
            image_keeper: Arc::new(Door::new("image_keeper", image_keeper::MAILBOX)),
            container_factory: Arc::new(Door::new("container_factory", container_factory::MAILBOX)),
            log_pump: Arc::new(Door::new("log_pump", log_pump::MAILBOX)),
            stats_sampler: Arc::new(Door::new("stats_sampler", stats_sampler::MAILBOX)),
            reaper: Arc::new(Door::new("reaper", reaper::MAILBOX)),
        }
    }
}

struct Life {
    incarnation: u64,
    ended: Option<ChildEnd>,
}

/// Where children run.
pub struct Arbiters {
    /// For the singletons.
    pub control: ArbiterHandle,
    /// For task supervisors, by hash of the task id. At least one.
    pub tasks: Vec<ArbiterHandle>,
}

/// Makes, replaces and buries children.
pub struct Nursery {
    shared: Arc<Shared>,
    links: Arc<Links>,
    pump: Arc<log_pump::Pumps>,
    workshop: Arc<container_factory::Workshop>,
    arbiters: Arbiters,
    doors: Singletons,
    tasks: Arc<TaskTable>,
    lives: Mutex<HashMap<ChildName, Life>>,
    root_failures: Mutex<Replacements>,
    last_resort: watch::Sender<Option<String>>,
    #[cfg(feature = "chaos")]
    chaos: Arc<super::chaos::Registry>,
}

impl Nursery {
    /// A nursery without children; [`Nursery::start`] makes them. `last_resort` is set when the process must end.
    #[must_use]
    pub fn new(
        shared: Arc<Shared>,
        pump: Arc<log_pump::Pumps>,
        arbiters: Arbiters,
        last_resort: watch::Sender<Option<String>>,
    ) -> Arc<Self> {
        let doors = Singletons::default();
        let tasks = Arc::new(TaskTable::default());
        let links = Arc::new(Links {
            ensure_image: Arc::clone(&doors.image_puller) as _,
            create_container: Arc::clone(&doors.container_factory) as _,
            remove_container: Arc::clone(&doors.container_factory) as _,
            reap_container: Arc::clone(&doors.container_factory) as _,
            look_up_task: Arc::clone(&doors.event_stream) as _,
            forget_task: Arc::clone(&doors.event_stream) as _,
            check_log_paths: Arc::clone(&doors.log_pump) as _,
            attach_log: Arc::clone(&doors.log_pump) as _,
            drain_log: Arc::clone(&doors.log_pump) as _,
            probe_now: Arc::clone(&doors.health_probe) as _,
            tasks: Arc::clone(&tasks) as _,
        });
        let workshop = container_factory::Workshop::new(shared.cores);
        Arc::new(Self {
            #[cfg(feature = "chaos")]
            chaos: Arc::new(super::chaos::Registry::over(Arc::clone(&pump))),
            shared,
            links,
            pump,
            workshop,
            arbiters,
            doors,
            tasks,
            lives: Mutex::default(),
            root_failures: Mutex::default(),
            last_resort,
        })
    }

    /// The doors of the singletons.
    #[must_use]
    pub fn doors(&self) -> &Singletons {
        &self.doors
    }

    /// The doors that actors have.
    #[must_use]
    pub fn links(&self) -> &Arc<Links> {
        &self.links
    }

    /// The address book of tasks.
    #[must_use]
    pub fn tasks(&self) -> &Arc<TaskTable> {
        &self.tasks
    }

    /// The actors that faults can be put into.
    #[cfg(feature = "chaos")]
    #[must_use]
    pub fn chaos(&self) -> Arc<super::chaos::Registry> {
        Arc::clone(&self.chaos)
    }

    /// Starts the singletons.
    pub fn start(self: &Arc<Self>) {
        for child in &CHILDREN {
            self.spawn_singleton(child.name);
        }
    }

    /// Makes sure that the task has a supervisor.
    pub fn open_task(self: &Arc<Self>, task: &TaskId) {
        let (_, new) = self.tasks.open(task, ContainerId::of(task));
        if new {
            self.spawn_task(task, false);
        }
    }

    /// Forgets a task supervisor that ended by itself.
    pub fn bury_task(&self, task: &TaskId) {
        self.tasks.close(task);
        self.with_lives(|lives| lives.remove(&ChildName::Task(task.clone())));
        #[cfg(feature = "chaos")]
        self.chaos.forget(&ChildName::Task(task.clone()));
    }

    /// Gives up a task whose supervisor cannot be kept alive: its entry stays, and tells the reason to whoever asks, until
    /// the task is destroyed. Its container is left to that.
    pub fn give_up_task(&self, task: &TaskId, end: &ChildEnd) {
        let reason = match end {
            ChildEnd::Escalated(reason) => reason.clone(),
            ChildEnd::Aborted | ChildEnd::Stopped => "it vanished".to_owned(),
        };
        if let Some(entry) = self.tasks.find(task) {
            entry.door.fail(reason);
        }
        self.with_lives(|lives| lives.remove(&ChildName::Task(task.clone())));
        #[cfg(feature = "chaos")]
        self.chaos.forget(&ChildName::Task(task.clone()));
    }

    /// Puts a fresh actor behind the door of one that ended.
    pub fn replace(self: &Arc<Self>, child: &ChildName) {
        match child {
            ChildName::Singleton(name) => self.spawn_singleton(name),
            ChildName::Task(task) => self.spawn_task(task, true),
        }
    }

    /// Gives up: the process ends, Nomad relaunches it and recovers every task.
    pub fn last_resort(&self, reason: String) {
        self.last_resort.send_replace(Some(reason));
    }

    /// True if this exit is of the incarnation that is behind the door.
    #[must_use]
    pub fn is_current(&self, exit: &ChildExit) -> bool {
        self.with_lives(|lives| {
            lives
                .get(&exit.child)
                .is_some_and(|l| l.incarnation == exit.incarnation && l.ended.is_some())
        })
    }

    /// Children that have ended and were not replaced.
    #[must_use]
    pub fn unattended(&self) -> Vec<ChildExit> {
        self.with_lives(|lives| {
            lives
                .iter()
                .filter_map(|(child, life)| {
                    let end = life.ended.clone()?;
                    Some(ChildExit {
                        child: child.clone(),
                        incarnation: life.incarnation,
                        end,
                    })
                })
                .collect()
        })
    }

    fn with_lives<T>(&self, f: impl FnOnce(&mut HashMap<ChildName, Life>) -> T) -> T {
        f(&mut self.lives.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn spawn_singleton(self: &Arc<Self>, name: &str) {
        let control = &self.arbiters.control;
        let shared = Arc::clone(&self.shared);
        let links = Arc::clone(&self.links);
        let doors = &self.doors;
        match name {
            "root" => {
                let nursery = Arc::clone(self);
                self.spawn(control, "root", &doors.root, root::MAILBOX, move || Root::new(nursery));
            }
            "health_probe" => self.spawn(
                control,
                "health_probe",
                &doors.health_probe,
                health_probe::MAILBOX,
                move || HealthProbe::new(shared, links),
            ),
            "event_stream" => self.spawn(
                control,
                "event_stream",
                &doors.event_stream,
                event_stream::MAILBOX,
                move || EventStream::new(shared, links),
            ),
            "image_puller" => self.spawn(
                control,
                "image_puller",
                &doors.image_puller,
                image_puller::MAILBOX,
                move || ImagePuller::new(shared, links),
            ),
            "image_keeper" => self.spawn(
                control,
                "image_keeper",
                &doors.image_keeper,
                image_keeper::MAILBOX,
                move || ImageKeeper::new(shared, links),
            ),
            "container_factory" => {
                let workshop = Arc::clone(&self.workshop);
                self.spawn(
                    control,
                    "container_factory",
                    &doors.container_factory,
                    container_factory::MAILBOX,
                    move || ContainerFactory::new(shared, links, workshop),
                );
            }
            "log_pump" => {
                let pump = Arc::clone(&self.pump);
                self.spawn(control, "log_pump", &doors.log_pump, log_pump::MAILBOX, move || {
                    LogPump::new(shared, pump)
                });
            }
            "stats_sampler" => self.spawn(
                control,
                "stats_sampler",
                &doors.stats_sampler,
                stats_sampler::MAILBOX,
                move || StatsSampler::new(shared),
            ),
            "reaper" => self.spawn(control, "reaper", &doors.reaper, reaper::MAILBOX, move || {
                Reaper::new(shared, links)
            }),
            _ => {}
        }
    }

    fn spawn<A>(
        self: &Arc<Self>,
        arbiter: &ArbiterHandle,
        name: &'static str,
        door: &Door<A>,
        capacity: usize,
        make: impl FnOnce() -> A + Send + 'static,
    ) where
        A: Supervised + Actor<Context = Context<A>>,
    {
        self.spawn_child(arbiter, ChildName::Singleton(name), door, capacity, make);
    }

    fn spawn_task(self: &Arc<Self>, task: &TaskId, rebuild: bool) {
        let Some(entry) = self.tasks.find(task) else {
            return self.bury_task(task);
        };
        let shared = Arc::clone(&self.shared);
        let links = Arc::clone(&self.links);
        let tasks = Arc::clone(&self.tasks);
        let (id, container) = (task.clone(), entry.container.clone());
        let arbiter = self.task_arbiter(task);
        self.spawn_child(
            &arbiter,
            ChildName::Task(task.clone()),
            &entry.door,
            TASK_MAILBOX,
            move || TaskSupervisor::new(id, container, shared, links, tasks, rebuild),
        );
    }

    /// One task's messages stay on one thread; a stall there is confined to one share of the tasks.
    fn task_arbiter(&self, task: &TaskId) -> ArbiterHandle {
        let mut hasher = DefaultHasher::new();
        task.hash(&mut hasher);
        let n = u64::try_from(self.arbiters.tasks.len()).unwrap_or(1).max(1);
        let index = usize::try_from(hasher.finish() % n).unwrap_or_default();
        self.arbiters.tasks.get(index).unwrap_or(&self.arbiters.control).clone()
    }

    fn spawn_child<A>(
        self: &Arc<Self>,
        arbiter: &ArbiterHandle,
        child: ChildName,
        door: &Door<A>,
        capacity: usize,
        make: impl FnOnce() -> A + Send + 'static,
    ) where
        A: Supervised + Actor<Context = Context<A>>,
    {
        let incarnation = self.with_lives(|lives| {
            let life = lives.entry(child.clone()).or_insert(Life {
                incarnation: 0,
                ended: None,
            });
            life.incarnation += 1;
            life.ended = None;
            life.incarnation
        });
        let (addr, mailbox) = mailbox::<A>(capacity);
        let identity = Identity {
            name: child.clone(),
            incarnation,
        };
        let obituary = self.obituary();
        #[cfg(feature = "chaos")]
        let injector = self.chaos.enrol(&child);
        // Before it runs: what is told while it looks at the state must reach it, or its look must come later.
        door.seat(addr);
        let accepted = arbiter.spawn_fn(move || {
            let guard = Guard::new(mailbox, make(), RestartPolicy::ACTOR, identity, obituary);
            #[cfg(feature = "chaos")]
            let guard = guard.with_chaos(Arc::clone(&injector));
            let handle = actix_rt::spawn(guard);
            #[cfg(feature = "chaos")]
            injector.set_abort(handle.abort_handle());
            drop(handle);
        });
        if !accepted {
            tracing::error!(child = ?child, "the thread of this actor has ended");
            self.last_resort(format!("thread of {child:?} has ended"));
        }
    }

    /// Called when a child ends, possibly while a thread unwinds: no panic, no lock held across a call.
    fn obituary(self: &Arc<Self>) -> Obituary {
        let nursery = Arc::clone(self);
        Box::new(move |exit: ChildExit| {
            let noted = nursery.with_lives(|lives| match lives.get_mut(&exit.child) {
                Some(life) if life.incarnation == exit.incarnation => {
                    life.ended = Some(exit.end.clone());
                    true
                }
                _ => false,
            });
            if !noted {
                return;
            }
            if exit.child == ChildName::Singleton("root") {
                nursery.root_ended(&exit);
            } else {
                nursery.doors.root.must_deliver(exit, Cx::default());
            }
        })
    }

    /// Nobody is above the root: it is replaced from here, and when that happens too often the process ends.
    fn root_ended(self: &Arc<Self>, exit: &ChildExit) {
        let decision = self
            .root_failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .record(&exit.end, Instant::now());
        match decision {
            // At process end the arbiters are gone and nothing can be spawned.
            Decision::RestartAfter(_) if self.arbiters.control.alive() => self.spawn_singleton("root"),
            Decision::RestartAfter(_) => {}
            Decision::Escalate => self.last_resort(format!("root: {:?}", exit.end)),
        }
    }
}

//! The doors that front doors are given, over the address book and the singletons.

use super::book::{Asks as _, Door, Tells as _, ask_until};
use super::tree::Nursery;
use crate::actors::shared::{Configured, Shared};
use crate::actors::task_supervisor::TaskSupervisor;
use crate::containerd::Gateway;
use crate::messages::container::RemoveContainer;
use crate::messages::doors::{Answer, SettingsDoor, StatsDoor, TaskDoor, TaskDoors};
use crate::messages::lifecycle::OpenTask;
use crate::messages::logs::{Attach, Drain, Drained, LogError};
use crate::messages::runtime::TaskView;
use crate::messages::stats::{Samples, Unwatch, Watch, WatchId, Watched};
use crate::messages::task::TaskError;
use crate::messages::{Ask, AskError, Cx, Request};
use crate::spec::identity::{ContainerId, TaskId};
use crate::spec::settings::Settings;
use crate::telemetry::{names, propagate};
use actix::Handler;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tracing::Instrument as _;

/// The root only makes an entry and spawns: more than this means that it is stalled.
const OPEN_WITHIN: Duration = Duration::from_secs(60);

/// Bound of a removal by convention.
const SWEEP_WITHIN: Duration = Duration::from_secs(120);

/// The sampler only makes an entry.
const WATCH_WITHIN: Duration = Duration::from_secs(60);

/// See the module.
pub struct Front {
    nursery: Arc<Nursery>,
    shared: Arc<Shared>,
    on_settings: Box<dyn Fn(&Settings) + Send + Sync>,
    /// Numbers of streams of statistics: given here, so that a restarted sampler uses none twice.
    watches: AtomicU64,
}

impl Front {
    /// Doors over this nursery. `on_settings` is called with each new configuration.
    #[must_use]
    pub fn new(
        nursery: Arc<Nursery>,
        shared: Arc<Shared>,
        on_settings: impl Fn(&Settings) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            nursery,
            shared,
            on_settings: Box::new(on_settings),
            watches: AtomicU64::new(0),
        })
    }

    /// Moves the bytes of a FIFO into a descriptor.
    ///
    /// # Errors
    /// If the FIFO cannot be read or the actor does not answer.
    pub async fn attach(&self, attach: Attach) -> Result<(), LogError> {
        let (stream, path) = (attach.stream.name(), attach.fifo.display().to_string());
        ask_until(
            &*self.nursery.doors().log_pump,
            attach,
            Cx::current(),
            Some(OPEN_WITHIN),
        )
        .await
        .unwrap_or_else(|e| {
            Err(LogError {
                stream,
                path,
                reason: e.to_string(),
            })
        })
    }

    /// A task that nobody here looks after may run all the same.
    async fn refuse_running(&self, task: &TaskId) -> Result<(), TaskError> {
        let gateway = self.shared.configured().map_err(TaskError::Containerd)?.gateway;
        let container = ContainerId::of(task);
        match gateway.task(container.as_str()).await.map_err(TaskError::Containerd)? {
            Some(TaskView::Running { .. }) => Err(TaskError::StillRunning),
            Some(TaskView::Created { .. } | TaskView::Stopped(_)) | None => Ok(()),
        }
    }

    /// Waits until all bytes of a container that is gone have been moved.
    ///
    /// # Errors
    /// If the actor does not answer.
    pub async fn drain(&self, container: ContainerId) -> Result<Drained, LogError> {
        let drain = Drain {
            container,
            patience: None,
        };
        ask_until(&*self.nursery.doors().log_pump, drain, Cx::current(), None)
            .await
            .unwrap_or_else(|e| {
                Err(LogError {
                    stream: "output",
                    path: String::new(),
                    reason: e.to_string(),
                })
            })
    }
}

impl<R> TaskDoor<R> for Front
where
    R: Request,
    TaskSupervisor: Handler<Ask<R>>,
{
    fn ask<'a>(
        &'a self,
        task: &'a TaskId,
        req: R,
        cx: Cx,
        within: Option<Duration>,
    ) -> Answer<'a, Result<R::Reply, AskError>> {
        Box::pin(async move {
            let Some(entry) = self.nursery.tasks().find(task) else {
                return Err(AskError::Ended {
                    actor: "task_supervisor",
                });
            };
            let door: &Door<TaskSupervisor> = &entry.door;
            door.ask(req, cx, within).await
        })
    }
}

impl TaskDoors for Front {
    fn open<'a>(&'a self, task: &'a TaskId, cx: Cx) -> Answer<'a, Result<(), AskError>> {
        Box::pin(async move {
            if self.nursery.tasks().find(task).is_some() {
                return Ok(());
            }
            ask_until(
                &*self.nursery.doors().root,
                OpenTask { task: task.clone() },
                cx,
                Some(OPEN_WITHIN),
            )
            .await
        })
    }

    fn sweep<'a>(&'a self, task: &'a TaskId, force: bool, cx: Cx) -> Answer<'a, Result<(), TaskError>> {
        let span = tracing::info_span!(names::TASK_SWEEP, { names::TASK_ID } = %task);
        propagate::adopt(&span, &cx.0);
        let cx = span.in_scope(Cx::current);
        let work = async move {
            if !force {
                self.refuse_running(task).await?;
            }
            let remove = RemoveContainer {
                container: ContainerId::of(task),
                go_namespace: None,
            };
            ask_until(&*self.nursery.links().remove_container, remove, cx, Some(SWEEP_WITHIN))
                .await
                .map_err(|e| TaskError::Driver(e.to_string()))?
                .map_err(TaskError::Removal)?;
            // Nothing is left of a task that was given up, so its entry has nothing to tell any more.
            let tasks = self.nursery.tasks();
            if tasks.find(task).is_some_and(|entry| entry.door.has_failed()) {
                tasks.close(task);
            }
            Ok(())
        };
        Box::pin(work.instrument(span))
    }
}

impl StatsDoor for Front {
    fn watch<'a>(&'a self, watched: Watched, cx: Cx) -> Answer<'a, Result<(WatchId, Samples), AskError>> {
        let id = WatchId(self.watches.fetch_add(1, Ordering::Relaxed));
        Box::pin(async move {
            let watch = Watch { id, watched };
            let samples = ask_until(&*self.nursery.doors().stats_sampler, watch, cx, Some(WATCH_WITHIN)).await?;
            Ok((id, samples))
        })
    }

    fn unwatch(&self, id: WatchId) {
        // At most once per stream. A sampler that is gone has no streams.
        self.nursery
            .doors()
            .stats_sampler
            .must_deliver(Unwatch { id }, Cx::default());
    }
}

impl SettingsDoor for Front {
    fn apply(&self, settings: Settings) {
        (self.on_settings)(&settings);
        let current = self.shared.configured.borrow().clone();
        if current.as_ref().is_some_and(|c| *c.settings == settings) {
            return;
        }
        // An open connection to the same containerd is kept.
        let kept = current
            .filter(|c| {
                c.gateway.socket() == settings.containerd_address
                    && c.gateway.namespace() == settings.containerd_namespace
            })
            .map(|c| c.gateway);
        let gateway = match kept {
            Some(gateway) => Ok(gateway),
            None => {
                let _inside = self.shared.io.enter();
                Gateway::new(&settings.containerd_address, &settings.containerd_namespace)
            }
        };
        match gateway {
            Ok(gateway) => {
                self.shared.configured.send_replace(Some(Configured {
                    settings: Arc::new(settings),
                    gateway,
                }));
            }
            Err(fault) => tracing::error!(error = %fault, "settings are not usable"),
        }
    }

    fn count_compute(&self, total_mhz: u64) {
        self.shared.total_compute_mhz.store(total_mhz, Ordering::Relaxed);
    }

    fn current(&self) -> Arc<Settings> {
        self.shared
            .configured
            .borrow()
            .as_ref()
            .map(|c| Arc::clone(&c.settings))
            .unwrap_or_default()
    }
}

//! The address book of task supervisors: by task id, and by container id for facts from containerd.
//!
//! It is shared state and not an actor's, so that it survives every actor: a task is found while the root restarts.

use super::book::{Door, Tells as _};
use crate::actors::shared::TaskTells;
use crate::actors::task_supervisor::TaskSupervisor;
use crate::messages::Cx;
use crate::messages::image::PullProgress;
use crate::messages::runtime::{ContainerdAway, TaskExited, TaskOom};
use crate::spec::identity::{ContainerId, TaskId};
use crate::spec::record::HandleState;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The entry of one task.
pub struct TaskEntry {
    /// The task.
    pub task: TaskId,
    /// Its container, a function of the task id, unless it was adopted.
    pub container: ContainerId,
    /// The handle of the Go driver that it was recovered with. Told once, so it is kept where it survives.
    adopted: OnceLock<Arc<HandleState>>,
    /// The door of its supervisor.
    pub door: Door<TaskSupervisor>,
    /// A process of the container was killed for want of memory. Told once, so it is kept where it survives.
    out_of_memory: AtomicBool,
}

#[derive(Default)]
struct Maps {
    by_task: HashMap<TaskId, Arc<TaskEntry>>,
    by_container: HashMap<ContainerId, Arc<TaskEntry>>,
}

/// See the module.
#[derive(Default)]
pub struct TaskTable(Mutex<Maps>);

/// Places in the mailbox of a task supervisor. Few callers per task: waiters hold no place while they wait.
pub const TASK_MAILBOX: usize = 32;

impl TaskTable {
    fn with<T>(&self, f: impl FnOnce(&mut Maps) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The entry of a task, made if there is none; true if it was made.
    pub fn open(&self, task: &TaskId, container: ContainerId) -> (Arc<TaskEntry>, bool) {
        self.with(|maps| {
            if let Some(entry) = maps.by_task.get(task) {
                return (Arc::clone(entry), false);
            }
            let entry = Arc::new(TaskEntry {
                task: task.clone(),
                container: container.clone(),
                adopted: OnceLock::new(),
                door: Door::new("task_supervisor", TASK_MAILBOX),
                out_of_memory: AtomicBool::new(false),
            });
            maps.by_task.insert(task.clone(), Arc::clone(&entry));
            maps.by_container.insert(container, Arc::clone(&entry));
            (entry, true)
        })
    }

    /// The entry of a task.
    #[must_use]
    pub fn find(&self, task: &TaskId) -> Option<Arc<TaskEntry>> {
        self.with(|maps| maps.by_task.get(task).cloned())
    }

    /// Closes the entry of a task for good: whoever asks from now on is told that there is no such task.
    pub fn close(&self, task: &TaskId) {
        let entry = self.with(|maps| {
            let entry = maps.by_task.remove(task)?;
            maps.by_container.remove(&entry.container);
            if let Some(handle) = entry.adopted.get() {
                maps.by_container.remove(&handle.container);
            }
            Some(entry)
        });
        if let Some(entry) = entry {
            entry.door.end();
        }
    }

    /// From now on the task's container is the one that this handle of the Go driver names.
    pub fn adopt(&self, task: &TaskId, handle: &Arc<HandleState>) {
        self.with(|maps| {
            let Some(entry) = maps.by_task.get(task).cloned() else {
                return;
            };
            if entry.adopted.set(Arc::clone(handle)).is_ok() {
                maps.by_container.remove(&entry.container);
                maps.by_container.insert(handle.container.clone(), entry);
            }
        });
    }

    /// The handle of the Go driver that a task was recovered with.
    #[must_use]
    pub fn adopted(&self, task: &TaskId) -> Option<Arc<HandleState>> {
        self.find(task).and_then(|entry| entry.adopted.get().cloned())
    }

    /// True once containerd has told that a process of this task was killed for want of memory.
    #[must_use]
    pub fn ran_out_of_memory(&self, task: &TaskId) -> bool {
        self.find(task)
            .is_some_and(|entry| entry.out_of_memory.load(Ordering::Relaxed))
    }

    /// All entries.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<TaskEntry>> {
        self.with(|maps| maps.by_task.values().cloned().collect())
    }

    fn by_container(&self, container: &ContainerId) -> Option<Arc<TaskEntry>> {
        self.with(|maps| maps.by_container.get(container).cloned())
    }
}

impl TaskTells for TaskTable {
    fn exited(&self, fact: TaskExited, cx: Cx) -> bool {
        self.by_container(&fact.container)
            .is_some_and(|entry| entry.door.must_deliver(fact, cx))
    }

    fn away(&self, fact: ContainerdAway, cx: Cx) {
        if let Some(entry) = self.by_container(&fact.container) {
            entry.door.must_deliver(fact, cx);
        }
    }

    fn oom(&self, fact: TaskOom, cx: Cx) {
        if let Some(entry) = self.by_container(&fact.container) {
            entry.out_of_memory.store(true, Ordering::Relaxed);
            entry.door.must_deliver(fact, cx);
        }
    }

    fn progress(&self, fact: PullProgress, cx: Cx) {
        if let Some(entry) = self.find(&fact.task) {
            entry.door.offer(fact, cx);
        }
    }

    fn containers(&self) -> Vec<ContainerId> {
        self.with(|maps| maps.by_container.keys().cloned().collect())
    }
}

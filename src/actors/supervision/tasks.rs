//! The address book of task supervisors: by task id, and by container id for facts from containerd.
//!
//! It is shared state and not an actor's, so that it survives every actor: a task is found while the root restarts.

use super::book::{Door, Tells as _};
use crate::actors::shared::{TaskTells, unix_nanos};
use crate::actors::task_supervisor::TaskSupervisor;
use crate::messages::Cx;
use crate::messages::image::PullProgress;
use crate::messages::runtime::{ContainerdAway, TaskExited, TaskOom};
use crate::spec::identity::{ContainerId, TaskId};
use crate::spec::record::{ExitRecord, HandleState};
use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
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
    /// When containerd last told that a process of the container was killed for want of memory: nanoseconds since the Unix
    /// epoch, 0 for never. Told once, so it is kept where it survives.
    out_of_memory: AtomicI64,
    /// What a supervisor has seen of the task: the next one knows it also while containerd is away or has lost the task.
    seen: Mutex<Option<Seen>>,
}

/// What a supervisor has seen of a task that has run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The process id of its first process on the host, if it was known.
    pub pid: Option<u32>,
    /// Nanoseconds since the Unix epoch.
    pub started_at: i64,
    /// The signal that stops it by default.
    pub stop_signal: i32,
    /// How it ended, once that was told.
    pub exit: Option<ExitRecord>,
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
                out_of_memory: AtomicI64::new(0),
                seen: Mutex::default(),
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

    /// When containerd last told that a process of this task was killed for want of memory, in nanoseconds since the Unix
    /// epoch.
    #[must_use]
    pub fn told_to_lack_memory(&self, task: &TaskId) -> Option<i64> {
        let at = self.find(task)?.out_of_memory.load(Ordering::Relaxed);
        (at != 0).then_some(at)
    }

    /// Keeps what was seen of a task; `None` when it begins anew.
    pub fn keep(&self, task: &TaskId, seen: Option<Seen>) {
        if let Some(entry) = self.find(task) {
            *entry.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
        }
    }

    /// What an earlier supervisor of this process has seen of a task; `None` if it has not seen it run.
    #[must_use]
    pub fn seen(&self, task: &TaskId) -> Option<Seen> {
        let entry = self.find(task)?;
        entry.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
            entry.out_of_memory.store(unix_nanos(), Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::supervision::book::Asks as _;
    use crate::messages::AskError;
    use crate::messages::task::Inspect;
    use std::time::Duration;

    fn entry(table: &TaskTable) -> (TaskId, Arc<TaskEntry>) {
        let task = TaskId::new("a/web/1");
        let (entry, new) = table.open(&task, ContainerId::of(&task));
        assert!(new);
        (task, entry)
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_at_the_door_of_a_task_that_is_given_up_is_told_why() {
        let table = TaskTable::default();
        let (task, entry) = entry(&table);
        let asked = || entry.door.ask(Inspect, Cx::default(), Some(Duration::from_secs(60)));
        let failed = AskError::Failed {
            actor: "task_supervisor",
            reason: "a bug".to_owned(),
        };
        assert!(!entry.door.has_failed());
        let (waited, ()) = tokio::join!(asked(), async { entry.door.fail("a bug".to_owned()) });
        assert_eq!(waited.err(), Some(failed.clone()));
        assert_eq!(asked().await.err(), Some(failed));
        assert!(entry.door.has_failed());
        // The entry stays until the task is destroyed; then there is no such task.
        assert!(table.find(&task).is_some());
        table.close(&task);
        assert!(table.find(&task).is_none());
        let ended = AskError::Ended {
            actor: "task_supervisor",
        };
        assert_eq!(asked().await.err(), Some(ended));
    }

    #[test]
    fn what_was_seen_of_a_task_is_kept_for_the_next_supervisor_until_it_begins_anew() {
        let table = TaskTable::default();
        let (task, _) = entry(&table);
        assert_eq!(table.seen(&task), None);
        let seen = Seen {
            pid: Some(7),
            started_at: 1,
            stop_signal: 15,
            exit: None,
        };
        table.keep(&task, Some(seen.clone()));
        assert_eq!(table.seen(&task), Some(seen));
        table.keep(&task, None);
        assert_eq!(table.seen(&task), None);
        table.close(&task);
        table.keep(&task, Some(Seen::default()));
        assert_eq!(table.seen(&task), None);
    }
}

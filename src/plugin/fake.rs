//! Doors for tests: a script of answers instead of actors.

use crate::messages::doors::{Answer, Doors, SettingsDoor, StatsDoor, TaskDoor, TaskDoors};
use crate::messages::health::{Health, Verdict};
use crate::messages::stats::{Samples, Usage, WatchId, Watched};
use crate::messages::task::TaskError;
use crate::messages::{AskError, Cx, Request};
use crate::spec::identity::{ContainerId, TaskId};
use crate::spec::record::HandleState;
use crate::spec::settings::Settings;
use std::any::Any;
use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, watch};

/// Counts what is applied, and keeps the node's compute.
#[derive(Default)]
pub(super) struct FakeSettings(AtomicUsize, AtomicU64);

impl FakeSettings {
    pub(super) fn applied(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// MHz, 0 if nobody told.
    pub(super) fn counted(&self) -> u64 {
        self.1.load(Ordering::Relaxed)
    }
}

impl SettingsDoor for FakeSettings {
    fn apply(&self, _: Settings) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn count_compute(&self, total_mhz: u64) {
        self.1.store(total_mhz, Ordering::Relaxed);
    }
    fn current(&self) -> Arc<Settings> {
        Arc::new(Settings::default())
    }
}

/// Answers in the order of the script; a request for which there is no answer waits for ever.
#[derive(Default)]
pub(super) struct FakeTasks {
    script: Mutex<VecDeque<Box<dyn Any + Send>>>,
    log: Mutex<Vec<String>>,
}

impl FakeTasks {
    /// Adds the answer to the next request of kind `R`.
    pub(super) fn then<R: Request>(&self, answer: Result<R::Reply, AskError>) {
        self.script.lock().unwrap().push_back(Box::new(answer));
    }

    /// What was asked, one line each.
    pub(super) fn asked(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    fn note(&self, line: String) {
        self.log.lock().unwrap().push(line);
    }
}

impl<R: Request + Debug> TaskDoor<R> for FakeTasks {
    fn ask<'a>(
        &'a self,
        task: &'a TaskId,
        req: R,
        _: Cx,
        within: Option<Duration>,
    ) -> Answer<'a, Result<R::Reply, AskError>> {
        let limit = within.map_or_else(|| "no limit".to_owned(), |d| format!("{}s", d.as_secs()));
        let shown: String = format!("{req:?}").chars().take(4_000).collect();
        self.note(format!("{} {task} {shown} {limit}", R::NAME));
        let next = self.script.lock().unwrap().pop_front();
        Box::pin(async move {
            match next {
                Some(answer) => *answer
                    .downcast::<Result<R::Reply, AskError>>()
                    .expect("script of this kind"),
                None => std::future::pending().await,
            }
        })
    }
}

impl TaskDoors for FakeTasks {
    fn open<'a>(&'a self, task: &'a TaskId, _: Cx) -> Answer<'a, Result<(), AskError>> {
        self.note(format!("open {task}"));
        Box::pin(std::future::ready(Ok(())))
    }
    fn sweep<'a>(&'a self, task: &'a TaskId, force: bool, _: Cx) -> Answer<'a, Result<(), TaskError>> {
        self.note(format!("sweep {task} force={force}"));
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Streams of samples that the test feeds.
#[derive(Default)]
pub(super) struct FakeStats {
    opened: Mutex<Vec<(Watched, mpsc::Sender<Box<Usage>>)>>,
    unwatched: Mutex<Vec<WatchId>>,
}

impl FakeStats {
    /// The stream that was opened last, and how it was asked for.
    pub(super) fn last(&self) -> (Watched, mpsc::Sender<Box<Usage>>) {
        self.opened.lock().unwrap().last().unwrap().clone()
    }

    /// Ends all streams, as a restart of the sampler does.
    pub(super) fn restart(&self) {
        self.opened.lock().unwrap().clear();
    }

    pub(super) fn open(&self) -> usize {
        self.opened.lock().unwrap().len()
    }

    pub(super) fn unwatched(&self) -> Vec<WatchId> {
        self.unwatched.lock().unwrap().clone()
    }
}

impl StatsDoor for FakeStats {
    fn watch<'a>(&'a self, watched: Watched, _: Cx) -> Answer<'a, Result<(WatchId, Samples), AskError>> {
        let (tx, rx) = mpsc::channel(1);
        let mut opened = self.opened.lock().unwrap();
        opened.push((watched, tx));
        let id = WatchId(opened.len() as u64);
        Box::pin(std::future::ready(Ok((id, rx))))
    }
    fn unwatch(&self, id: WatchId) {
        self.unwatched.lock().unwrap().push(id);
    }
}

/// Doors on a fake, with the senders that tests use.
pub(super) fn doors() -> (Doors, Arc<FakeTasks>, watch::Sender<Verdict>) {
    let tasks = Arc::new(FakeTasks::default());
    let verdict = Verdict {
        health: Health::Healthy,
        description: "Healthy".into(),
        attributes: vec![],
    };
    let (tx, health) = watch::channel(verdict);
    let (events, _) = broadcast::channel(16);
    let settings = Arc::new(FakeSettings::default());
    (
        Doors {
            tasks: tasks.clone(),
            health,
            events,
            settings,
            stats: Arc::new(FakeStats::default()),
        },
        tasks,
        tx,
    )
}

/// The death of an actor.
pub(super) fn died() -> AskError {
    AskError::Died {
        actor: "task",
        message: "m",
    }
}

/// What a start answers.
pub(super) fn handle() -> HandleState {
    HandleState {
        container: ContainerId::reported("c"),
        namespace: "nomad".into(),
        started_at: 1,
        stop_signal: 15,
        logs: None,
        go: None,
    }
}

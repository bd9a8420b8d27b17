//! What Nomad asks of tasks, asked through the doors: deadlines, asking again after an actor's death, and what to do
//! when there is no answer. Handlers of the actors are idempotent, so that asking again is always right.

use super::status;
use crate::messages::doors::{TaskDoor, TaskDoors};
use crate::messages::exec::{Exec, ExecSession};
use crate::messages::task::{Destroy, Inspect, Inspection, Recover, Signal, Start, Started, Stop, TaskError, Wait};
use crate::messages::{AskError, Cx, Request};
use crate::spec::identity::TaskId;
use crate::spec::record::ExitRecord;
use crate::spec::task::TaskSpec;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tonic::Status;

/// How often an actor may die with one of our requests in its hands. That many tolerated deaths take
/// minutes.
const DEATHS: u32 = 100;

/// First and longest pause before asking again; a restart takes milliseconds, so this only tames a crash loop.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));

/// What a start may take besides the pull of its image: more than the bound of a creation, in which a burst of starts waits
/// for its turns.
const START: Duration = Duration::from_secs(660);
/// Nomad destroys a running task whose recovery fails, so patience is cheap here.
const RECOVER: Duration = Duration::from_secs(120);
/// What a stop may take beyond the grace that Nomad gives.
const STOP: Duration = Duration::from_secs(90);
/// More than the bound of a removal, in which a burst of them waits for its turns.
const DESTROY: Duration = Duration::from_secs(330);
const SIGNAL: Duration = Duration::from_secs(30);
const INSPECT: Duration = Duration::from_secs(10);
/// Until the command has been taken up; it runs after that.
const EXEC: Duration = Duration::from_secs(30);

/// Asks about tasks.
#[derive(Clone)]
pub(super) struct Tasks {
    doors: Arc<dyn TaskDoors>,
}

/// One thing to ask, and how hard to try.
struct Errand<'a> {
    task: &'a TaskId,
    /// Make sure first that the task has a supervisor.
    open: bool,
    deaths: u32,
    until: Option<Instant>,
}

impl<'a> Errand<'a> {
    fn within(task: &'a TaskId, limit: Duration) -> Self {
        Self {
            task,
            open: false,
            deaths: DEATHS,
            until: Some(Instant::now() + limit),
        }
    }

    fn opening(self) -> Self {
        Self { open: true, ..self }
    }

    fn left(&self) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(Instant::now()))
    }
}

impl Tasks {
    pub(super) fn new(doors: Arc<dyn TaskDoors>) -> Self {
        Self { doors }
    }

    /// Starts a task. `pull` is how long the image may take. What an unanswered start has made is removed: Nomad sends
    /// no `DestroyTask` after a failed start.
    pub(super) async fn start(&self, task: Arc<TaskSpec>, pull: Duration) -> Result<Started, Status> {
        let errand = Errand::within(&task.id, pull.saturating_add(START)).opening();
        match self
            .ask(&errand, |resume| Start {
                task: Arc::clone(&task),
                resume,
            })
            .await
        {
            Ok(outcome) => outcome.map_err(|e| status::of_task(&e)),
            Err(e) => {
                self.abandon(&task.id).await;
                // Even `Ended` is worth a retry here: the driver shuts down.
                Err(status::of_task(&TaskError::Driver(e.to_string())))
            }
        }
    }

    async fn abandon(&self, task: &TaskId) {
        if let Err(e) = self.destroy(task, true).await {
            tracing::warn!(task.id = %task, error = e.message(), "task of an unanswered start not removed");
        }
    }

    pub(super) async fn recover(&self, recover: &Recover) -> Result<(), Status> {
        let errand = Errand::within(&recover.task, RECOVER).opening();
        match self.ask(&errand, |_| recover.clone()).await {
            Ok(outcome) => outcome.map_err(|e| status::of_task(&e)),
            Err(e) => Err(status::of_task(&TaskError::Driver(e.to_string()))),
        }
    }

    /// Waits as long as the task lives. Nomad reads any error as the end of the task, so only an unknown task is one.
    pub(super) async fn wait(&self, task: &TaskId) -> Result<ExitRecord, Status> {
        let errand = Errand {
            task,
            open: false,
            deaths: u32::MAX,
            until: None,
        };
        answered(self.ask(&errand, |_| Wait).await)
    }

    /// Stops a task; an answer lost to an actor's death does not lengthen the grace.
    pub(super) async fn stop(&self, task: &TaskId, timeout: Duration, signal: Option<i32>) -> Result<(), Status> {
        let errand = Errand::within(task, timeout.saturating_add(STOP));
        let begun = Instant::now();
        let request = |_| Stop {
            timeout: timeout.saturating_sub(begun.elapsed()),
            signal,
        };
        answered(self.ask(&errand, request).await)
    }

    pub(super) async fn signal(&self, task: &TaskId, signal: i32) -> Result<(), Status> {
        answered(self.ask(&Errand::within(task, SIGNAL), |_| Signal { signal }).await)
    }

    /// Removes a task. Nomad also sends this for tasks that could not be recovered: what they left is found by name. So is
    /// what a task has left whose supervisor was given up.
    pub(super) async fn destroy(&self, task: &TaskId, force: bool) -> Result<(), Status> {
        match self.ask(&Errand::within(task, DESTROY), |_| Destroy { force }).await {
            Ok(Err(TaskError::NotFound)) | Err(AskError::Ended { .. } | AskError::Failed { .. }) => self
                .doors
                .sweep(task, force, Cx::current())
                .await
                .map_err(|e| status::of_task(&e)),
            other => answered(other),
        }
    }

    pub(super) async fn inspect(&self, task: &TaskId) -> Result<Inspection, Status> {
        answered(self.ask(&Errand::within(task, INSPECT), |_| Inspect).await)
    }

    /// Takes up a command in a task. A supervisor that dies has not begun with it, or has answered.
    pub(super) async fn exec(&self, task: &TaskId, exec: Exec) -> Result<ExecSession, Status> {
        answered(self.ask(&Errand::within(task, EXEC), |_| exec.clone()).await)
    }

    /// Asks until there is an answer. `request` learns whether an earlier answer was lost.
    async fn ask<R: Request>(&self, errand: &Errand<'_>, request: impl Fn(bool) -> R) -> Result<R::Reply, AskError>
    where
        dyn TaskDoors: TaskDoor<R>,
    {
        let (mut pause, mut lost, mut deaths) = (PAUSE.0, false, 0);
        loop {
            let error = match self.once(errand, request(lost), &mut lost).await {
                Ok(answer) => return Ok(answer),
                Err(e) => e,
            };
            let again = match &error {
                AskError::Died { .. } => true,
                // The supervisor ended between opening and asking, e.g. by a destroy of an older life.
                AskError::Ended { .. } => errand.open,
                // Given up so that it does no more harm.
                AskError::Failed { .. } => false,
                // Without a deadline of ours there is none to be late for.
                AskError::Late { .. } => errand.until.is_none(),
            };
            deaths += 1;
            if !again || deaths > errand.deaths || errand.left().is_some_and(|left| left.is_zero()) {
                return Err(error);
            }
            tracing::debug!(task.id = %errand.task, message = R::NAME, reason = %error, "asking again");
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    async fn once<R: Request>(&self, errand: &Errand<'_>, request: R, lost: &mut bool) -> Result<R::Reply, AskError>
    where
        dyn TaskDoors: TaskDoor<R>,
    {
        if errand.open {
            self.doors.open(errand.task, Cx::current()).await?;
        }
        let doors: &dyn TaskDoors = &*self.doors;
        let outcome = TaskDoor::<R>::ask(doors, errand.task, request, Cx::current(), errand.left()).await;
        *lost |= matches!(outcome, Err(AskError::Died { .. }));
        outcome
    }
}

fn answered<T>(outcome: Result<Result<T, TaskError>, AskError>) -> Result<T, Status> {
    match outcome {
        Ok(answer) => answer.map_err(|e| status::of_task(&e)),
        Err(e) => Err(status::of_ask(&e)),
    }
}

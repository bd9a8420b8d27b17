//! One run of the canary: pull, create, start, wait, remove. And the removal of what a killed process left of its own.
//!
//! A run is a task of the I/O runtime and not of the actor, so that it comes to its end, the removal, also if the actor
//! dies. What a killed process leaves bears its name (`spec::canary`) and is removed by the next one.

use super::policy::Trouble;
use crate::actors::shared::{Links, Shared, unix_nanos};
use crate::actors::supervision::book::ask_until;
use crate::host::liveness;
use crate::messages::container::{CreateContainer, RemoveContainer};
use crate::messages::image::{CredentialScope, EnsureImage, PullPolicy};
use crate::messages::runtime::{ContainerdFault, ForgetTask, TaskView};
use crate::messages::{AskError, Cx};
use crate::spec::canary::{self, Keeper};
use crate::spec::identity::{ContainerId, TaskId};
use crate::spec::labels::KEY_TASK_ID;
use crate::spec::oci;
use crate::spec::owner::Owner;
use crate::spec::record::ExitRecord;
use crate::spec::settings::{CanarySettings, Settings};
use crate::spec::task::TaskSpec;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Number of the next run of this process.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// A number that no other run of this process has, so that no two have a container of one name.
pub(super) fn number() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// How long a canary whose process cannot be seen is left alone, nanoseconds: an hour.
const HIDDEN_FOR: i64 = 3_600_000_000_000;

/// Bound of the removal, beyond that of the run: it is owed whatever the run took.
const REMOVE_WITHIN: Duration = Duration::from_secs(60);

fn at<E: Display>(step: &'static str) -> impl Fn(E) -> Trouble {
    move |error| Trouble {
        step: step.to_owned(),
        text: error.to_string(),
    }
}

/// The answer of an actor, or why there is none, as one thing.
fn flat<T, E: Display>(step: &'static str, answer: Result<Result<T, E>, AskError>) -> Result<T, Trouble> {
    answer.map_err(at(step))?.map_err(at(step))
}

/// See the module. `canary` is the block of the settings in force.
///
/// # Errors
/// The step that failed, and why.
pub(super) async fn run(shared: &Shared, links: &Links, canary: &CanarySettings, number: u64) -> Result<(), Trouble> {
    let id = canary::task_id(own(), number);
    let container = ContainerId::of(&id);
    let task = Arc::new(canary::task(id, canary));
    let end = Instant::now() + canary.timeout;
    let ran = live(shared, links, &task, &container, end).await;
    let removed = remove(links, &container).await;
    // What came first is what has to be repaired first.
    ran.and(removed)
}

/// From the image to the exit.
async fn live(
    shared: &Shared,
    links: &Links,
    task: &Arc<TaskSpec>,
    container: &ContainerId,
    end: Instant,
) -> Result<(), Trouble> {
    const PULL: &str = "pulling the image";
    const CREATE: &str = "starting the container";
    const WAIT: &str = "waiting for its end";
    let configured = shared.configured().map_err(at(PULL))?;
    let image = ensure_image(task, &configured.settings, left(end));
    let image = flat(
        PULL,
        ask_until(&*links.ensure_image, image, Cx::current(), Some(left(end))).await,
    )?;
    let create = CreateContainer {
        task: Arc::clone(task),
        image,
    };
    let created = flat(
        CREATE,
        ask_until(&*links.create_container, create, Cx::current(), Some(left(end))).await,
    )?;
    let exit = match created.view {
        TaskView::Stopped(exit) => exit,
        TaskView::Running { .. } | TaskView::Created { .. } => {
            let waited = timeout_at(end, configured.gateway.wait_task(container.as_str())).await;
            let late = |_| Trouble {
                step: WAIT.to_owned(),
                text: "it runs longer than canary.timeout allows".to_owned(),
            };
            waited.map_err(late)?.map_err(at(WAIT))?
        }
    };
    judge(&exit)
}

fn judge(exit: &ExitRecord) -> Result<(), Trouble> {
    if exit.code == 0 {
        return Ok(());
    }
    Err(Trouble {
        step: "its exit".to_owned(),
        text: format!("code {} where 0 is expected", exit.code),
    })
}

fn left(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now())
}

fn ensure_image(task: &TaskSpec, settings: &Settings, timeout: Duration) -> EnsureImage {
    EnsureImage {
        image: task.options.image.clone(),
        credentials: None,
        scope: CredentialScope::default(),
        policy: PullPolicy::IfNotPresent,
        timeout,
        job: "canary".to_owned(),
        snapshotter: oci::snapshotter(task, settings).to_owned(),
        load: None,
        observer: None,
    }
}

/// Waits for a creation under way, since both need the container's turn in the factory.
async fn remove(links: &Links, container: &ContainerId) -> Result<(), Trouble> {
    const STEP: &str = "removing the container";
    let request = RemoveContainer {
        container: container.clone(),
        go_namespace: None,
    };
    let removed = ask_until(&*links.remove_container, request, Cx::current(), Some(REMOVE_WITHIN)).await;
    let forget = ForgetTask {
        container: container.clone(),
    };
    links.forget_task.must_deliver(forget, Cx::current());
    flat(STEP, removed)
}

/// This process, as its canaries name it.
fn own() -> Keeper {
    let pid = std::process::id();
    Keeper {
        pid,
        started: liveness::started(pid).unwrap_or_default(),
    }
}

/// Removes canaries of processes that are gone, and those of this one: whoever calls it wants none of them any more.
pub(super) async fn sweep(shared: &Shared, links: &Links) {
    let left = match leftovers(shared).await {
        Ok(left) => left,
        // The next sweep finds them.
        Err(fault) => return tracing::debug!(error = %fault, "canaries that were left behind cannot be listed"),
    };
    for container in left {
        tracing::info!(container.id = %container, "removing a canary that was left behind");
        if let Err(trouble) = remove(links, &container).await {
            tracing::warn!(container.id = %container, error = trouble.text, "a canary is left");
        }
    }
}

async fn leftovers(shared: &Shared) -> Result<Vec<ContainerId>, ContainerdFault> {
    let filter = format!("labels.{KEY_TASK_ID:?}~=\"^canary/health/\"");
    let listed = shared.configured()?.gateway.list_containers(&[filter]).await?;
    let own = own();
    let left = listed.into_iter().filter(|record| {
        let task = record.labels.get(KEY_TASK_ID).map(TaskId::new);
        let keeper = task.and_then(|task| canary::keeper(&task));
        let known = Owner::read(&record.labels).plugin;
        // Whether a process of another process namespace lives cannot be seen from here; its canary is over by then.
        let hidden = known.is_some_and(|process| process.is_out_of_sight(&shared.process));
        let spared = hidden && unix_nanos().saturating_sub(record.created_at) < HIDDEN_FOR;
        keeper.is_some_and(|keeper| keeper == own || !(spared || liveness::is_same(keeper.pid, keeper.started)))
    });
    Ok(left.map(|record| ContainerId::reported(record.id)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_is_told() {
        let exit = |code| ExitRecord {
            code,
            oom: false,
            at: 0,
            lost: String::new(),
        };
        assert_eq!(judge(&exit(0)), Ok(()));
        let trouble = judge(&exit(7)).unwrap_err();
        assert!(
            trouble.step.contains("exit") && trouble.text.contains('7'),
            "{trouble:?}"
        );
    }

    #[test]
    fn this_process_is_its_own_keeper() {
        let own = own();
        assert!(own.started > 0 && liveness::is_same(own.pid, own.started));
        assert!(!liveness::is_same(own.pid, own.started + 1));
    }
}

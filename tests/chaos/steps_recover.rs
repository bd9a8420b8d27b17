//! `RecoverTask` of what a start has left that was cut off at a step: created and not started, or half-created.
//!
//! Nomad has no handle of a start that was not answered. It has one of an earlier life under the same id, and after the
//! restart of a machine one of a container without its task; the driver must not take either for a task that runs. What
//! Nomad does after an error is `DestroyTask` with force (`task_runner.go`, `restoreHandle`).

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use testhost::wire::driver::{TaskHandle, TaskState};
use tokio::time::timeout;

use crate::field::Field;
use crate::lives::PATIENCE;
use crate::steps::{Farewell, Moment, all, end_unknown, nothing_left};
use crate::steps_start::{CODE, Case, RUNNING, moments_inside, steps};

/// What the host is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// There is no such task.
    Unknown,
    /// An error: it is there and has never run.
    NeverStarted,
    /// It ran, for all the host knows, and its exit is lost.
    Lost,
    /// The exit itself.
    Exit,
}

/// By what was there when the plugin was killed. Inside a call it depends on how far containerd came.
fn wanted(moment: Moment) -> &'static [Told] {
    match moment.step {
        _ if moment.after_ms.is_some() => &[Told::Unknown, Told::NeverStarted, Told::Lost, Told::Exit],
        "start-image" => &[Told::Unknown],
        "start-task" | "start-placed" => &[Told::NeverStarted],
        step if RUNNING.contains(&step) => &[Told::Exit],
        _ => &[Told::Lost],
    }
}

/// The handle of an earlier life of the task, which has ended and is gone.
async fn handle_of_an_earlier_life(field: &Field, case: Case) -> Result<TaskHandle> {
    let task = case.again(field).await?.context("StartTask of the earlier life")?;
    let handle = task.persisted_handle();
    let exit = timeout(PATIENCE, task.wait()).await.context("WaitTask: no answer")??;
    ensure!(exit.result.unwrap_or_default().exit_code == CODE, "the earlier life");
    timeout(PATIENCE, task.destroy(false))
        .await
        .context("DestroyTask: no answer")??;
    Ok(handle)
}

/// What `RecoverTask` and `WaitTask` tell.
async fn told(field: &Field, case: &Case, handle: TaskHandle) -> Result<Told> {
    let recovery = field.rig.recover(handle, Arc::clone(&case.alloc), None);
    let task = match timeout(PATIENCE, recovery).await.context("RecoverTask: no answer")? {
        Ok(task) => task,
        Err(status) if status.message().contains("task not found") => return Ok(Told::Unknown),
        Err(status) if status.message().contains("was never started") => return Ok(Told::NeverStarted),
        Err(status) => anyhow::bail!("RecoverTask: {status:?}"),
    };
    let answer = timeout(PATIENCE, task.wait()).await.context("WaitTask: no answer")??;
    let exit = answer.result.unwrap_or_default();
    ensure!(task.status().await?.state() == TaskState::Exited, "its state");
    match (exit.exit_code, answer.err.as_str()) {
        (CODE, "") => Ok(Told::Exit),
        (-1, why) if why.contains("lost") => Ok(Told::Lost),
        other => anyhow::bail!("WaitTask: {other:?}"),
    }
}

async fn recovered_and_destroyed(field: &mut Field, n: usize, moment: Moment) -> Result<()> {
    let first = Case::new(field, &field.image, n, false);
    let (alloc, spec) = (Arc::clone(&first.alloc), first.spec.clone().id(first.config.id.clone()));
    let handle = handle_of_an_earlier_life(field, first).await?;
    let case = Case::of(field, alloc, spec);
    case.killed(field, moment).await?;
    field.rig.relaunch_only().await?;
    let told = told(field, &case, handle).await?;
    ensure!(wanted(moment).contains(&told), "{told:?} was told");
    end_unknown(field, &case.config.id, Farewell::Destroyed).await?;
    nothing_left(field, &case.alloc).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_start_has_left_at_any_step_is_recovered_as_what_it_is() {
    let mut field = Field::new().await;
    // The earlier life has left the directory, so this one does not make it.
    let moments = steps().filter(|moment| moment.step != "start-run-dir");
    all(&mut field, moments, recovered_and_destroyed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_start_has_left_inside_a_call_is_recovered_as_what_it_is() {
    let mut field = Field::new().await;
    all(&mut field, moments_inside(), recovered_and_destroyed).await;
}

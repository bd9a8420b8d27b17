//! `StartTask`, with the plugin killed at each of its steps and inside its calls to containerd.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use testhost::alloc::{Alloc, Logs, random_hex};
use testhost::containerd::ContainerdKind;
use testhost::image::ImageConfig;
use testhost::rig::RunningTask;
use testhost::status::recoverable;
use testhost::task::TaskSpec;
use testhost::wire::driver::{DestroyTaskRequest, StartTaskRequest, TaskConfig, TaskState};
use tokio::time::timeout;
use tonic::Status;

use crate::field::{Field, kind};
use crate::lives::PATIENCE;
use crate::steps::{Farewell, Moment, all, end_unknown, killed_during, nothing_left, reaping};
use crate::steps_life::REMOVAL;

/// From the image to the answer.
pub const STEPS: &[&str] = &[
    "start-image",
    "start-record",
    "start-run-dir",
    "start-files",
    "start-snapshot",
    "start-stdin",
    "start-task",
    "start-placed",
    "start-runs",
    "start-logs",
    "start-known",
];

/// Of a pull. The second is one of our own pulls, not of containerd's transfer service.
pub const PULL: &[&str] = &["pull-leased", "pull-filled", "pull-recorded"];

/// The steps at which a terminal makes a difference: the shim leaves one of the log pipes alone.
const TERMINAL: &[&str] = &[
    "start-stdin",
    "start-task",
    "start-placed",
    "start-runs",
    "start-logs",
    "start-known",
];

/// From these steps on the process runs, or has run.
pub const RUNNING: &[&str] = &["start-runs", "start-logs", "start-known"];

/// Moments inside a call: the step before it, and milliseconds after that. The creation of a task, in which containerd
/// starts a shim and that runs runc, takes longest.
const INSIDE: &[(&str, &[u64])] = &[
    ("start-image", &[1, 4]),
    ("start-files", &[1, 4]),
    ("start-stdin", &[2, 10, 25, 50, 90, 150]),
    ("start-placed", &[2, 8, 20]),
];

/// The exit code of every task here.
pub const CODE: i32 = 21;

/// A task that was never answered for, with all that its host keeps for it.
pub struct Case {
    pub alloc: Arc<Alloc>,
    pub spec: TaskSpec,
    pub config: TaskConfig,
    logs: Logs,
}

impl Case {
    /// `tty` and standard input exclude each other.
    pub fn new(field: &Field, image: &str, n: usize, tty: bool) -> Case {
        let spec = TaskSpec::new(image)
            .name(format!("step{n}"))
            .memory_mb(32)
            .option("extra_hosts", json!(["db:10.0.0.7"]))
            .option(if tty { "tty" } else { "interactive" }, json!(true))
            .sh(&format!("for i in 1 2 3 4 5; do echo line $i; done; exit {CODE}"));
        let alloc = field.rig.alloc();
        Case::of(field, alloc, spec)
    }

    pub fn of(field: &Field, alloc: Arc<Alloc>, spec: TaskSpec) -> Case {
        alloc.add_task(&spec.name).expect("task directory");
        let config = spec.compose(&alloc, field.rig.schema()).expect("options");
        let logs = alloc.collect_logs(&spec.name).expect("log collectors");
        Case {
            alloc,
            spec,
            config,
            logs,
        }
    }

    /// The start that is never answered.
    pub async fn killed(&self, field: &Field, moment: Moment) -> Result<()> {
        let mut driver = field.rig.driver();
        let request = StartTaskRequest {
            task: Some(self.config.clone()),
        };
        killed_during(field, moment, driver.start_task(request)).await
    }

    /// The same start, of the plugin that is there now.
    pub async fn again(self, field: &Field) -> Result<Result<RunningTask, Status>> {
        let start = field.rig.start_raw(self.config, self.alloc, Some(self.logs));
        timeout(PATIENCE, start).await.context("StartTask again: no answer")
    }
}

/// One container, its own lines once and in order, its exit code, and nothing left.
async fn lives(field: &Field, task: &RunningTask) -> Result<()> {
    let containers = field.rig.scope().take().await?.containers;
    let own: Vec<&String> = containers.iter().filter(|id| id.contains(task.alloc.id())).collect();
    ensure!(own.len() == 1, "its containers: {own:?}");
    let exit = timeout(PATIENCE, task.wait()).await.context("WaitTask: no answer")??;
    let exit = exit.result.unwrap_or_default();
    ensure!(exit.exit_code == CODE && exit.signal == 0, "{exit:?}");
    ensure!(
        task.status().await?.state() == TaskState::Exited,
        "its state after the exit"
    );
    ensure!(task.logs().stdout.wait_eof(PATIENCE).await, "no end of standard output");
    ensure!(task.logs().stderr.wait_eof(PATIENCE).await, "no end of standard error");
    let wanted: Vec<String> = (1..=5).map(|i| format!("line {i}")).collect();
    ensure!(task.lines() == wanted, "lines: {:?}", task.lines());
    ensure!(task.stderr_lines().is_empty(), "stderr: {:?}", task.stderr_lines());
    timeout(PATIENCE, task.destroy(false))
        .await
        .context("DestroyTask: no answer")??;
    nothing_left(field, &task.alloc).await
}

pub fn steps() -> impl Iterator<Item = Moment> {
    STEPS.iter().map(|step| Moment::at(step))
}

pub fn moments_inside() -> impl Iterator<Item = Moment> {
    INSIDE.iter().flat_map(|(step, after)| {
        after.iter().map(|ms| Moment {
            step,
            after_ms: Some(*ms),
        })
    })
}

/// The endings in which nobody asks for the start again.
fn farewells(moments: impl Iterator<Item = Moment>) -> impl Iterator<Item = (Moment, Farewell)> {
    moments.flat_map(|moment| [Farewell::Destroyed, Farewell::Forgotten].map(|farewell| (moment, farewell)))
}

async fn killed_and_ended(field: &mut Field, n: usize, ended: (Moment, Farewell)) -> Result<()> {
    let case = Case::new(field, &field.image, n, false);
    case_ended(field, case, ended).await
}

async fn case_ended(field: &mut Field, case: Case, (moment, farewell): (Moment, Farewell)) -> Result<()> {
    case.killed(field, moment).await?;
    field.rig.relaunch_only().await?;
    end_unknown(field, &case.config.id, farewell).await?;
    nothing_left(field, &case.alloc).await?;
    // Whoever runs has run: what was written is in the pipe or was read.
    let lines = case.logs.stdout.lines();
    ensure!(
        RUNNING.contains(&moment.step) || moment.after_ms.is_some() || lines.is_empty(),
        "it ran: {lines:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_was_killed_at_any_step_succeeds_when_it_is_asked_again() {
    let mut field = Field::new().await;
    all(&mut field, steps(), async |field, n, moment| {
        let case = Case::new(field, &field.image, n, false);
        case.killed(field, moment).await?;
        field.rig.relaunch_only().await?;
        let task = case.again(field).await?.context("StartTask again")?;
        lives(field, &task).await
    })
    .await;
}

/// The second start removes what the first has left, and is killed too, at each step of that. A process that was killed
/// before it ran is no task that has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_was_killed_while_it_removed_what_an_earlier_one_left_succeeds_when_it_is_asked_again() {
    let mut field = Field::new().await;
    let cases = ["start-task", "start-placed"].into_iter();
    let cases = cases.flat_map(|made| REMOVAL.iter().map(move |removed| (made, *removed)));
    all(&mut field, cases, async |field, n, (made, removed)| {
        let case = Case::new(field, &field.image, n, false);
        for step in [made, removed] {
            case.killed(field, Moment::at(step)).await?;
            field.rig.relaunch_only().await?;
        }
        let task = case.again(field).await?.context("StartTask for the third time")?;
        lives(field, &task).await
    })
    .await;
}

/// The same of a removal that the host has asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_after_a_removal_that_was_killed_is_a_start() {
    let mut field = Field::new().await;
    all(&mut field, REMOVAL.iter().copied(), async |field, n, removed| {
        let case = Case::new(field, &field.image, n, false);
        case.killed(field, Moment::at("start-placed")).await?;
        field.rig.relaunch_only().await?;
        let request = DestroyTaskRequest {
            task_id: case.config.id.clone(),
            force: true,
        };
        let mut driver = field.rig.driver();
        killed_during(field, Moment::at(removed), driver.destroy_task(request)).await?;
        field.rig.relaunch_only().await?;
        // A host that has had a task destroyed has other collectors for the next.
        let (alloc, spec) = (Arc::clone(&case.alloc), case.spec.clone().id(case.config.id.clone()));
        drop(case);
        let task = Case::of(field, alloc, spec).again(field).await?.context("StartTask")?;
        lives(field, &task).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_with_a_terminal_that_was_killed_at_any_step_succeeds_when_it_is_asked_again() {
    let mut field = Field::new().await;
    all(
        &mut field,
        TERMINAL.iter().map(|step| Moment::at(step)),
        async |field, n, moment| {
            let case = Case::new(field, &field.image, n, true);
            case.killed(field, moment).await?;
            field.rig.relaunch_only().await?;
            let task = case.again(field).await?.context("StartTask again")?;
            lives(field, &task).await
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_was_killed_at_any_step_and_is_asked_for_by_nobody_leaves_nothing() {
    let mut field = reaping().await;
    all(&mut field, farewells(steps()), killed_and_ended).await;
}

/// containerd takes down what a cancelled call has begun. If its shim had opened the log pipes, Nomad's collectors have
/// seen their end by then: the start may fail with an error that says so, and the next attempt, with a new id, has new
/// collectors. It may not hang, and nothing of it may be left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_was_killed_inside_a_call_succeeds_or_makes_room_for_the_next() {
    let mut field = Field::new().await;
    all(&mut field, moments_inside(), async |field, n, moment| {
        let case = Case::new(field, &field.image, n, false);
        case.killed(field, moment).await?;
        field.rig.relaunch_only().await?;
        let (alloc, spec) = (Arc::clone(&case.alloc), case.spec.clone());
        let task = match case.again(field).await? {
            Ok(task) => task,
            Err(status) => {
                ensure!(recoverable(&status) == Some(true), "{status:?}");
                ensure!(status.message().contains("log pipe"), "{status:?}");
                nothing_left(field, &alloc).await?;
                let id = format!("{}/{}/{}", alloc.id(), spec.name, random_hex(4));
                let next = Case::of(field, alloc, spec.id(id));
                next.again(field).await?.context("StartTask of the next attempt")?
            }
        };
        lives(field, &task).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_was_killed_inside_a_call_and_is_asked_for_by_nobody_leaves_nothing() {
    let mut field = reaping().await;
    all(&mut field, farewells(moments_inside()), killed_and_ended).await;
}

/// The steps of a pull, of those that there are on this containerd.
fn pulling() -> impl Iterator<Item = Moment> {
    let by_us = matches!(kind(), ContainerdKind::Debian16);
    let steps = PULL.iter().filter(move |step| by_us || **step != "pull-filled");
    steps.map(|step| Moment::at(step))
}

/// With an image of its own.
async fn unpulled(field: &Field, name: &str, n: usize) -> Result<Case> {
    let config = ImageConfig::default().ballast(4 << 20).salt(name);
    let image = field.rig.image(name, &config).await?;
    Ok(Case::new(field, &image, n, false))
}

/// What it has fetched is kept for the next pull only as long as there may be one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_was_killed_at_any_step_and_is_asked_for_by_nobody_leaves_nothing() {
    let mut field = reaping().await;
    all(&mut field, farewells(pulling()), async |field, n, ended| {
        let case = unpulled(field, &format!("left{n}"), n).await?;
        case_ended(field, case, ended).await
    })
    .await;
}

/// The lease of a pull that was cut off goes with the next pull, or with the next look at the image.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_was_killed_at_any_step_goes_on_when_the_start_is_asked_again() {
    let mut field = Field::new().await;
    all(&mut field, pulling(), async |field, n, moment| {
        let case = unpulled(field, &format!("step{n}"), n).await?;
        case.killed(field, moment).await?;
        field.rig.relaunch_only().await?;
        let task = case.again(field).await?.context("StartTask again")?;
        lives(field, &task).await
    })
    .await;
}

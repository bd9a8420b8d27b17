//! Exit, stop, commands and removal, with the plugin killed at each of their steps.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use testhost::procfs;
use testhost::rig::RunningTask;
use testhost::task::TaskSpec;
use testhost::wire::driver::TaskState;
use tokio::time::timeout;

use crate::field::Field;
use crate::lives::PATIENCE;
use crate::steps::{Farewell, Moment, all, end_unknown, killed_during, nothing_left, reaping};

/// Of an exit.
pub const ENDING: &[&str] = &["exit-seen", "exit-kept"];

/// Of a stop.
pub const STOPPING: &[&str] = &["stop-signalled"];

/// Of a command in a task.
pub const COMMAND: &[&str] = &["exec-pipes", "exec-added", "exec-started", "exec-ended", "exec-deleted"];

/// Milliseconds after a command was told to start: its shim runs the runtime first and opens the pipes after that.
const STARTING: [u64; 6] = [5, 20, 40, 60, 90, 130];

/// Of a removal.
pub const REMOVAL: &[&str] = &[
    "remove-begun",
    "remove-killed",
    "remove-task",
    "remove-snapshot",
    "remove-files",
    "remove-record",
];

/// Removals from this step on find the process running or killed, so that a new plugin can recover the task.
const TASK_IS_THERE: &[&str] = &["remove-begun", "remove-killed"];

/// How long what a command has left may take to be gone.
const SETTLE: Duration = Duration::from_secs(30);

/// Prints, then waits for a file in the allocation or for SIGTERM, each with a code of its own.
async fn waiter(field: &Field, n: usize) -> Result<RunningTask> {
    let script = "trap 'echo term; exit 44' TERM; echo ready; \
                  while ! [ -e /alloc/end ]; do sleep 0.05; done; echo end; exit 33";
    let spec = TaskSpec::new(&field.image)
        .name(format!("life{n}"))
        .memory_mb(32)
        .sh(script);
    let task = timeout(PATIENCE, field.rig.start(spec))
        .await
        .context("StartTask: no answer")??;
    let ready = task.logs().stdout.wait_line(PATIENCE, "ready").await;
    ready.context("no first line")?;
    Ok(task)
}

/// Its code, twice, its lines, and nothing left after `DestroyTask`.
async fn ended(field: &Field, task: &RunningTask, code: i32, last: &str) -> Result<()> {
    for _ in 0..2 {
        let exit = timeout(PATIENCE, task.wait()).await.context("WaitTask: no answer")??;
        let exit = exit.result.unwrap_or_default();
        ensure!(exit.exit_code == code && exit.signal == 0, "{exit:?}, not {code}");
    }
    ensure!(
        task.status().await?.state() == TaskState::Exited,
        "its state after the exit"
    );
    ensure!(task.logs().stdout.wait_eof(PATIENCE).await, "no end of standard output");
    ensure!(task.lines() == ["ready", last], "lines: {:?}", task.lines());
    timeout(PATIENCE, task.destroy(false))
        .await
        .context("DestroyTask: no answer")??;
    nothing_left(field, &task.alloc).await
}

fn at(steps: &'static [&'static str]) -> impl Iterator<Item = Moment> {
    steps.iter().map(|step| Moment::at(step))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exit_is_told_by_the_next_plugin_whatever_the_last_had_written() {
    let mut field = Field::new().await;
    all(&mut field, at(ENDING), async |field, n, moment| {
        let task = waiter(field, n).await?;
        // Whoever waits may be answered before the label is written, or never.
        let ends = async {
            std::fs::write(task.alloc.shared_dir().join("end"), "").expect("the sign to end");
            Err::<(), _>(tonic::Status::unavailable("nothing is asked"))
        };
        killed_during(field, moment, ends).await?;
        field.rig.relaunch().await?;
        ended(field, &task, 33, "end").await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_that_was_killed_is_finished_when_it_is_asked_again() {
    let mut field = Field::new().await;
    all(&mut field, at(STOPPING), async |field, n, moment| {
        let task = waiter(field, n).await?;
        killed_during(field, moment, task.stop(Duration::from_secs(600), "")).await?;
        field.rig.relaunch().await?;
        timeout(PATIENCE, task.stop(Duration::from_secs(600), ""))
            .await
            .context("StopTask again: no answer")??;
        ended(field, &task, 44, "term").await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_whose_plugin_was_killed_at_any_step_goes_and_the_task_stays() {
    let mut field = Field::new().await;
    let starting = STARTING.map(|ms| Moment {
        step: "exec-added",
        after_ms: Some(ms),
    });
    all(&mut field, at(COMMAND).chain(starting), async |field, n, moment| {
        let task = waiter(field, n).await?;
        // Recognised among the machine's processes by a number of its own.
        let number = (400_000_000 + u64::from(std::process::id()) * 10 + n as u64).to_string();
        let command = match moment.step {
            "exec-ended" | "exec-deleted" => vec!["true"],
            _ => vec!["sleep", &number],
        };
        killed_during(field, moment, task.exec(&command, PATIENCE)).await?;
        field.rig.relaunch().await?;
        let end = Instant::now() + SETTLE;
        while !procfs::with_argument(&number).is_empty() {
            ensure!(Instant::now() < end, "the command still runs");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let answer = task.exec(&["sh", "-c", "echo again; exit 7"], PATIENCE).await?;
        ensure!(
            (answer.stdout.as_slice(), answer.result.map(|r| r.exit_code)) == (b"again\n", Some(7)),
            "the next command"
        );
        ensure!(task.status().await?.state() == TaskState::Running, "the task's state");
        timeout(PATIENCE, task.stop(Duration::from_secs(600), ""))
            .await
            .context("StopTask: no answer")??;
        ended(field, &task, 44, "term").await
    })
    .await;
}

/// As Nomad goes on: it recovers the task, and destroys what could not be recovered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_was_killed_at_any_step_is_finished_by_the_next_plugin() {
    let mut field = Field::new().await;
    all(&mut field, at(REMOVAL), async |field, n, moment| {
        let task = waiter(field, n).await?;
        killed_during(field, moment, task.destroy(true)).await?;
        for (id, outcome) in field.rig.relaunch_and_recover().await? {
            ensure!(
                outcome.is_ok() || !TASK_IS_THERE.contains(&moment.step),
                "RecoverTask of {id}: {outcome:?}"
            );
        }
        timeout(PATIENCE, task.destroy(true))
            .await
            .context("DestroyTask: no answer")??;
        nothing_left(field, &task.alloc).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_was_killed_at_any_step_leaves_nothing_though_nobody_recovers_the_task() {
    let mut field = reaping().await;
    let cases = at(REMOVAL).flat_map(|moment| [Farewell::Destroyed, Farewell::Forgotten].map(|f| (moment, f)));
    all(&mut field, cases, async |field, n, (moment, farewell)| {
        let task = waiter(field, n).await?;
        killed_during(field, moment, task.destroy(true)).await?;
        field.rig.relaunch_only().await?;
        end_unknown(field, task.id(), farewell).await?;
        nothing_left(field, &task.alloc).await
    })
    .await;
}

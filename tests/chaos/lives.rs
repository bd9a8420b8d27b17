//! Twenty tasks, each with lines and an exit code of its own, driven through their whole lives at once.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::join_all;
use testhost::rig::{Rig, RunningTask};
use testhost::task::TaskSpec;
use testhost::wire::driver::{ExitResult, TaskState};
use tokio::time::timeout;

/// Bound of every answer and every exit; wide, since the suite also runs in a slow guest.
pub const PATIENCE: Duration = Duration::from_secs(150);

/// Tasks at once.
pub const TASKS: usize = 20;

/// Lines that each task prints.
const LINES: usize = 12;

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with its own code.
    Exits,
    /// By `StopTask`, with its own code in answer to the signal.
    Obeys,
    /// By `StopTask` and the SIGKILL at its deadline.
    Ignores,
    /// By `DestroyTask` with force while it runs.
    Destroyed,
}

impl End {
    pub fn of(n: usize) -> End {
        match (n % 5, n % 2) {
            (0..=2, _) => End::Exits,
            (3, _) => End::Obeys,
            (_, 0) => End::Ignores,
            _ => End::Destroyed,
        }
    }
}

/// Exit code of task `n`.
fn code(n: usize) -> i32 {
    i32::try_from(n).unwrap_or_default() + 11
}

fn script(n: usize, end: End) -> String {
    let print = format!("for i in $(seq 1 {LINES}); do echo {n}-$i; sleep 0.1; done");
    let on = "while :; do sleep 0.1; done";
    match end {
        End::Exits => format!("{print}; exit {}", code(n)),
        End::Obeys => format!("trap 'exit {}' TERM; {print}; {on}", code(n)),
        End::Ignores => format!("trap '' TERM; {print}; {on}"),
        End::Destroyed => format!("{print}; {on}"),
    }
}

/// The wish for task `n`.
pub fn spec(image: &str, n: usize, end: End) -> TaskSpec {
    TaskSpec::new(image)
        .name(format!("t{n}"))
        .memory_mb(32)
        .sh(&script(n, end))
}

/// Lets twenty tasks live. Each failure is a line.
pub async fn twenty(rig: &Rig, image: &str) -> Vec<String> {
    let lives = (0..TASKS).map(|n| async move {
        let end = End::of(n);
        live(rig, image, n, end)
            .await
            .err()
            .map(|e| format!("task {n} ({end:?}): {e:#}"))
    });
    join_all(lives).await.into_iter().flatten().collect()
}

async fn bounded<T>(what: &str, answer: impl Future<Output = Result<T, tonic::Status>>) -> Result<T> {
    let answer = timeout(PATIENCE, answer)
        .await
        .with_context(|| format!("{what}: no answer"))?;
    answer.map_err(|status| anyhow::anyhow!("{what}: {:?}: {}", status.code(), status.message()))
}

pub async fn live(rig: &Rig, image: &str, n: usize, end: End) -> Result<()> {
    let task = bounded("StartTask", rig.start(spec(image, n, end))).await?;
    finish(&task, n, end).await
}

/// The rest of the life of a task that was started.
pub async fn finish(task: &RunningTask, n: usize, end: End) -> Result<()> {
    let waits = async { tokio::join!(timeout(PATIENCE, task.wait()), timeout(PATIENCE, task.wait())) };
    let drive = async {
        if end != End::Exits {
            let last = format!("{n}-{LINES}");
            ensure!(
                task.logs().stdout.wait_line(PATIENCE, &last).await.is_some(),
                "no line {last}: {:?}",
                task.lines()
            );
        }
        match end {
            End::Exits => Ok(()),
            End::Obeys => bounded("StopTask", task.stop(Duration::from_secs(100), "")).await,
            End::Ignores => bounded("StopTask", task.stop(Duration::from_secs(1), "")).await,
            End::Destroyed => bounded("DestroyTask", task.destroy(true)).await,
        }
    };
    let ((first, second), driven) = tokio::join!(waits, drive);
    driven?;
    let first = first.context("WaitTask: no answer")?;
    let second = second.context("second WaitTask: no answer")?;
    if end != End::Destroyed {
        for (which, answer) in [("WaitTask", first), ("second WaitTask", second)] {
            let answer = answer.map_err(|s| anyhow::anyhow!("{which}: {:?}: {}", s.code(), s.message()))?;
            right(which, n, end, &answer.result.unwrap_or_default())?;
        }
        let late = bounded("WaitTask after the exit", task.wait()).await?;
        right("WaitTask after the exit", n, end, &late.result.unwrap_or_default())?;
        let status = bounded("InspectTask", task.status()).await?;
        ensure!(
            status.state() == TaskState::Exited,
            "state {:?} after the exit",
            status.state()
        );
        bounded("DestroyTask", task.destroy(false)).await?;
    }
    let logs = task.logs();
    ensure!(logs.stdout.wait_eof(PATIENCE).await, "no end of file on stdout");
    let wanted: Vec<String> = (1..=LINES).map(|i| format!("{n}-{i}")).collect();
    ensure!(task.lines() == wanted, "lines: {:?}", task.lines());
    ensure!(task.stderr_lines().is_empty(), "stderr: {:?}", task.stderr_lines());
    Ok(())
}

fn right(which: &str, n: usize, end: End, exit: &ExitResult) -> Result<()> {
    match end {
        End::Exits | End::Obeys => ensure!(
            exit.exit_code == code(n) && exit.signal == 0 && !exit.oom_killed,
            "{which}: {exit:?}, not {}",
            code(n)
        ),
        End::Ignores => ensure!(
            exit.exit_code == 137 || exit.signal == 9,
            "{which}: {exit:?}, not killed"
        ),
        End::Destroyed => {}
    }
    Ok(())
}

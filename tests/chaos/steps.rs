//! The plugin is killed at each step of a task's life: what the steps have in common.
//!
//! A step is a point between two effects (`telemetry::steps` of the driver). The plugin halts there and is killed with
//! SIGKILL; a new one must find its way from whatever is there.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use testhost::alloc::Alloc;
use testhost::wire::driver::DestroyTaskRequest;
use tokio::time::timeout;
use tonic::Status;

use crate::field::Field;
use crate::lives::PATIENCE;
use crate::{steps_life, steps_start};

/// Where the driver keeps a container's own files.
const RUN_DIR: &str = "/run/containerd-driver";

/// How long a step may take to be reached.
const REACHED_WITHIN: Duration = Duration::from_secs(60);

/// How long the files of a task may take to be gone.
const SETTLE: Duration = Duration::from_secs(30);

/// How long the reaper may take to remove what nobody asks for: the grace period of [`reaping`], a look, a removal, and time
/// for a busy machine.
const REAPED_WITHIN: Duration = Duration::from_secs(30);

/// Steps that come after the answer.
const ANSWERED: &[&str] = &["exec-ended", "exec-deleted"];

/// When the plugin is killed.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub step: &'static str,
    /// The work is not halted at the step, and the kill comes so many milliseconds later: inside the next call.
    pub after_ms: Option<u64>,
}

impl Moment {
    /// At a step itself.
    pub const fn at(step: &'static str) -> Moment {
        Moment { step, after_ms: None }
    }
}

/// Makes a call during which the plugin is killed.
pub async fn killed_during<T>(
    field: &Field,
    moment: Moment,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<()> {
    let halt = field.chaos.halt(moment.step, moment.after_ms).await?;
    let strike = async {
        let reached = timeout(REACHED_WITHIN, halt.reached()).await;
        field.rig.plugin().sigkill().await;
        reached.context("the step was not reached")?
    };
    let (struck, answer) = tokio::join!(strike, timeout(PATIENCE, call));
    struck?;
    let answer = answer.context("no answer, although the plugin is gone")?;
    let may_be_answered = moment.after_ms.is_some() || ANSWERED.contains(&moment.step);
    ensure!(may_be_answered || answer.is_err(), "it was answered before the step");
    Ok(())
}

/// What comes after the kill, besides the same call again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// `DestroyTask` with force.
    Destroyed,
    /// Nobody asks for the task again: it is the reaper's.
    Forgotten,
}

/// A field whose reaper does not wait for long. Only for cases in which no task is to be recovered.
pub async fn reaping() -> Field {
    Field::with(json!({ "reaper": { "period": "1s", "grace": "1s" } })).await
}

/// Ends a task that no plugin process knows any more.
pub async fn end_unknown(field: &Field, task_id: &str, farewell: Farewell) -> Result<()> {
    if farewell == Farewell::Forgotten {
        let leaks = field.rig.scope().leaks(field.before(), REAPED_WITHIN).await?;
        ensure!(leaks.is_empty(), "not reaped within {REAPED_WITHIN:?}: {leaks:#?}");
        return Ok(());
    }
    let request = DestroyTaskRequest {
        task_id: task_id.to_owned(),
        force: true,
    };
    let mut driver = field.rig.driver();
    timeout(PATIENCE, driver.destroy_task(request))
        .await
        .context("DestroyTask: no answer")?
        .context("DestroyTask")?;
    Ok(())
}

/// The driver's own files of an allocation's containers, whose names carry its id.
fn files_of(alloc: &Alloc) -> Vec<String> {
    let Ok(entries) = fs::read_dir(RUN_DIR) else {
        return Vec::new();
    };
    let names = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.contains(alloc.id())).collect()
}

/// Nothing of the allocation's tasks is left, neither in containerd and the kernel nor in the driver's own directory.
pub async fn nothing_left(field: &Field, alloc: &Alloc) -> Result<()> {
    field.nothing_left().await?;
    let end = Instant::now() + SETTLE;
    loop {
        let files = files_of(alloc);
        if files.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < end, "left in {RUN_DIR}: {files:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Goes through all cases, each with its own words, and tells all that failed.
pub async fn all<C: std::fmt::Debug + Copy>(
    field: &mut Field,
    cases: impl IntoIterator<Item = C>,
    one: impl AsyncFn(&mut Field, usize, C) -> Result<()>,
) {
    let mut failures = Vec::new();
    for (n, case) in cases.into_iter().enumerate() {
        if let Err(e) = one(field, n, case).await {
            failures.push(format!("{case:?}: {e:#}\n{}", field.last_words()));
            // What a failed case has left must not be the next one's.
            *field = field.anew().await;
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_a_test_for_every_step() {
    let field = Field::new().await;
    let known: BTreeSet<String> = field.chaos.steps().await.expect("steps").into_iter().collect();
    let tested = steps_start::STEPS.iter().chain(steps_start::PULL);
    let tested = tested.chain(steps_life::ENDING).chain(steps_life::STOPPING);
    let tested: BTreeSet<String> = tested
        .chain(steps_life::COMMAND)
        .chain(steps_life::REMOVAL)
        .map(|step| (*step).to_owned())
        .collect();
    assert_eq!(known, tested);
}

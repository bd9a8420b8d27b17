//! The supervisor of a task is struck in each state of the task, by each method.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::join_all;
use testhost::alloc::random_hex;
use testhost::image::ImageConfig;

use crate::control::Fault;
use crate::field::Field;
use crate::lives::{self, End, PATIENCE};

const FAULTS: [Fault; 3] = [Fault::Kill, Fault::Abort, Fault::Stall(1500)];

/// When after `StartTask` was asked: from the pull or the first call to containerd to the start of the process.
const MOMENTS: [u64; 5] = [5, 40, 80, 130, 220];

fn verdict(failures: Vec<Result<()>>, field: &Field) {
    let failures: Vec<String> = failures
        .into_iter()
        .filter_map(|f| f.err().map(|e| format!("{e:#}")))
        .collect();
    assert!(failures.is_empty(), "{failures:#?}\n{}", field.last_words());
}

async fn sleep(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// Starts a task and strikes its supervisor so long after.
async fn struck_start(field: &Field, image: &str, n: usize, fault: Fault, after: u64) -> Result<()> {
    let alloc = field.rig.alloc();
    let id = format!("{}/t{n}/{}", alloc.id(), random_hex(4));
    let spec = lives::spec(image, n, End::Exits).id(&id);
    let strike = async {
        sleep(after).await;
        field.chaos.inject_task(&id, fault).await
    };
    let (task, struck) = tokio::join!(
        tokio::time::timeout(PATIENCE, field.rig.start_in(alloc.clone(), &spec)),
        strike
    );
    struck?;
    let case = format!("task {n}: {fault} {after} ms after StartTask");
    let task = task
        .context("StartTask: no answer")
        .and_then(|t| Ok(t?))
        .with_context(|| case.clone())?;
    lives::finish(&task, n, End::Exits).await.context(case)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_survives_its_supervisor_while_it_pulls_and_while_it_creates() {
    let field = Field::new().await;
    let slow = ImageConfig::default().ballast(24 << 20).salt("slow");
    let slow = field.rig.image("slow", &slow).await.expect("image");
    let pulling = FAULTS
        .iter()
        .enumerate()
        .map(|(n, fault)| struck_start(&field, &slow, n, *fault, 150));
    let failures = join_all(pulling).await;
    verdict(failures, &field);
    let cases = FAULTS.iter().flat_map(|fault| MOMENTS.map(|after| (*fault, after)));
    let creating = cases
        .enumerate()
        .map(|(n, (fault, after))| struck_start(&field, &slow, n, fault, after));
    let failures = join_all(creating).await;
    verdict(failures, &field);
    field.settled().await.expect("settled");
}

/// A task that runs: struck while it runs, while it stops, after its exit, and while it is destroyed.
async fn struck_life(field: &Field, n: usize, fault: Fault, end: End) -> Result<()> {
    let task = field
        .rig
        .start(lives::spec(&field.image, n, end))
        .await
        .context("StartTask")?;
    let strike = async || -> Result<()> {
        ensure!(field.chaos.inject_task(task.id(), fault).await?, "no supervisor");
        Ok(())
    };
    strike().await.context("running")?;
    let waiting = async {
        tokio::time::timeout(PATIENCE, task.wait())
            .await
            .context("WaitTask: no answer")?
            .context("WaitTask")
    };
    let stopping = async {
        let last = format!("{n}-12");
        if end == End::Exits {
            return Ok(());
        }
        ensure!(
            task.logs().stdout.wait_line(PATIENCE, &last).await.is_some(),
            "no line {last}"
        );
        let stop = async {
            tokio::time::timeout(PATIENCE, task.stop(Duration::from_millis(1500), ""))
                .await
                .context("StopTask: no answer")?
                .context("StopTask")
        };
        let strikes = async {
            sleep(20).await;
            strike().await.context("stopping")?;
            sleep(700).await;
            strike().await.context("stopping")
        };
        let (stopped, struck) = tokio::join!(stop, strikes);
        stopped?;
        struck
    };
    let (exit, stopped) = tokio::join!(waiting, stopping);
    stopped?;
    let exit = exit?.result.unwrap_or_default();
    let wanted = if end == End::Exits { i32::try_from(n)? + 11 } else { 137 };
    ensure!(
        exit.exit_code == wanted || (wanted == 137 && exit.signal == 9),
        "{exit:?}, not {wanted}"
    );
    strike().await.context("exited")?;
    let again = tokio::time::timeout(PATIENCE, task.wait())
        .await
        .context("WaitTask after the exit: no answer")?
        .context("WaitTask after the exit")?;
    ensure!(again.result.unwrap_or_default() == exit, "another exit after the fault");
    let destroy = async {
        tokio::time::timeout(PATIENCE, task.destroy(false))
            .await
            .context("DestroyTask: no answer")?
            .context("DestroyTask")
    };
    let strikes = async {
        for pause in [0, 15, 15, 30] {
            sleep(pause).await;
            // It may be gone by then.
            field.chaos.inject_task(task.id(), fault).await?;
        }
        anyhow::Ok(())
    };
    let (destroyed, struck) = tokio::join!(destroy, strikes);
    destroyed?;
    struck
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_survives_its_supervisor_while_it_runs_stops_has_exited_and_is_destroyed() {
    let field = Field::new().await;
    let cases = FAULTS
        .into_iter()
        .flat_map(|fault| [(fault, End::Exits), (fault, End::Ignores)]);
    let lives = cases.enumerate().map(|(n, (fault, end))| {
        let life = struck_life(&field, n, fault, end);
        async move { life.await.with_context(|| format!("{fault} of task {n} ({end:?})")) }
    });
    let failures = join_all(lives).await;
    verdict(failures, &field);
    field.settled().await.expect("settled");
}

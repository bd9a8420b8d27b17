//! What grows faster than the number of tasks: the plugin process, driven through its protocol, before a containerd that
//! only plays its part ([`testhost::fake_containerd`]).

use crate::gauge::{percentile, share};
use crate::report::{Limit, Report};
use crate::{Plan, phase};
use anyhow::{Context as _, Result};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use testhost::crowd::Crowd;
use testhost::fake_containerd::{FakeContainerd, RUNTIME};
use testhost::procfs;
use testhost::rig::{Backend, Rig};
use testhost::task::TaskSpec;
use tokio::task::JoinSet;

/// The steps of the curve.
const STEPS: [usize; 3] = [1_000, 5_000, 20_000];
/// Starts under way at a time: the number of tasks is to be seen here, not that of callers.
const AT_ONCE: usize = 64;
/// Tasks that end at once.
const ENDS: usize = 500;
const SAMPLES: usize = 30;
const INTERVAL: Duration = Duration::from_secs(10);
/// What the waits may take to be known.
const SETTLE: Duration = Duration::from_secs(2);
/// Some intervals.
const IDLE: Duration = Duration::from_secs(21);

pub async fn measure(plan: &Plan, report: &mut Report) -> Result<()> {
    eprintln!("curve");
    let given = std::env::var("CURVE").ok().filter(|text| !text.is_empty());
    let steps: Vec<usize> = match given {
        Some(text) => text
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()
            .context("CURVE")?,
        None => STEPS.to_vec(),
    };
    let opts = plan.opts(json!({ "containerd_runtime": RUNTIME }));
    let namespace = opts.namespace.clone();
    let backend = Backend::start(opts).await?;
    let fake = FakeContainerd::before(&backend, &namespace)?;
    let mut rig = backend.launch().await?;
    let spec = TaskSpec::new(rig.busybox().await?).command(["true"]);
    let mut crowd = Crowd::new()?;
    for step in steps {
        phase("a step", 240, climb(&mut rig, &fake, &spec, &mut crowd, step, report)).await?;
    }
    let count = crowd.tasks.len();
    let took = phase("removals", 120, crowd.destroy(true)).await?;
    report.row(
        format!("[curve] {count} removed, each"),
        took.as_secs_f64() * 1e3 / count as f64,
        "ms",
        Limit::None,
    );
    anyhow::ensure!(fake.containers() == 0, "{} containers are left", fake.containers());
    Ok(())
}

async fn climb(
    rig: &mut Rig,
    fake: &FakeContainerd,
    spec: &TaskSpec,
    crowd: &mut Crowd,
    step: usize,
    report: &mut Report,
) -> Result<()> {
    let mut row =
        |figure: &str, value: f64, unit| report.row(format!("[curve] {step:>5}: {figure}"), value, unit, Limit::None);
    let more = step - crowd.tasks.len();
    let (begun, pid) = (procfs::cpu_time(rig.plugin().pid()), rig.plugin().pid());
    let took = phase("starts", 200, crowd.start_mute(rig, spec, more, AT_ONCE)).await?;
    let spent = procfs::cpu_time(pid).unwrap_or_default() - begun.unwrap_or_default();
    let each = |all: Duration| all.as_secs_f64() * 1e3 / more as f64;
    row("start, each of those that came", each(took), "ms");
    row("of it, cores of the plugin", each(spent), "ms");

    row("memory of the plugin, started", share(pid), "MB");

    let mut times = Vec::new();
    for _ in 0..SAMPLES {
        let mut guest = Crowd::new()?;
        times.push(guest.start_mute(rig, spec, 1, 1).await?);
        guest.destroy(true).await?;
    }
    times.sort();
    row(
        "start of one more, p50",
        percentile(&times, 50).as_secs_f64() * 1e3,
        "ms",
    );

    let waits = crowd.attend_exits();
    // Any answer tells that the calls before it have reached the plugin.
    rig.plugin().info().await?;
    tokio::time::sleep(SETTLE).await;
    row("memory of the plugin, exits waited for", share(pid), "MB");
    let statistics = phase("statistics", 60, crowd.attend_statistics(INTERVAL)).await?;
    tokio::time::sleep(INTERVAL).await;
    let (begun, before) = (Instant::now(), procfs::cpu_time(pid).unwrap_or_default());
    tokio::time::sleep(IDLE).await;
    let idle = procfs::cpu_time(pid).unwrap_or_default() - before;
    row(
        "plugin in idle seconds, of one core",
        idle.as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0,
        "%",
    );
    row("memory of the plugin, and statistics watched", share(pid), "MB");
    drop((waits, statistics));

    phase("exits", 60, ends(rig, fake, crowd, &mut row)).await?;

    for is_at_once in [true, false] {
        phase("relaunch", 30, rig.relaunch_only()).await?;
        let before = fake.calls();
        let (way, took) = match is_at_once {
            false => (
                "one by one",
                phase("recovery in turn", 90, crowd.recover_in_turn(rig)).await?,
            ),
            true => (
                "all at once",
                phase("recovery at once", 90, crowd.recover_at_once(rig)).await?,
            ),
        };
        row(&format!("recovered {way}"), took.as_secs_f64(), "s");
        let calls: u64 = fake.calls().values().sum::<u64>() - before.values().sum::<u64>();
        row(&format!("recovered {way}: calls to containerd"), calls as f64, "");
        row(&format!("recovered {way}: memory"), share(rig.plugin().pid()), "MB");
    }
    Ok(())
}

/// Some tasks end at once, while everybody is waited for.
async fn ends(
    rig: &Rig,
    fake: &FakeContainerd,
    crowd: &mut Crowd,
    row: &mut impl FnMut(&str, f64, &'static str),
) -> Result<()> {
    let mut waits = JoinSet::new();
    for task in &crowd.tasks {
        let (mut driver, task_id) = (task.driver(), task.id().to_owned());
        waits.spawn(async move {
            let request = testhost::wire::driver::WaitTaskRequest {
                task_id: task_id.clone(),
            };
            driver.wait_task(request).await.map(|_| task_id)
        });
    }
    // Any answer tells that the waits before it have reached the plugin.
    for _ in 0..2 {
        rig.plugin().info().await?;
    }
    let count = ENDS.min(crowd.tasks.len() / 2);
    let begun = Instant::now();
    fake.end(count, 3);
    let mut ended = BTreeSet::new();
    while ended.len() < count {
        let id = waits.join_next().await.context("no wait is left")??;
        ended.insert(id.context("WaitTask")?);
    }
    row(
        &format!("{count} exits told"),
        begun.elapsed().as_secs_f64() * 1e3,
        "ms",
    );
    drop(waits);
    let (gone, stay): (Vec<_>, Vec<_>) = std::mem::take(&mut crowd.tasks)
        .into_iter()
        .partition(|task| ended.contains(task.id()));
    crowd.tasks = stay;
    let mut gone_crowd = Crowd::new()?;
    gone_crowd.tasks = gone;
    gone_crowd.destroy(false).await?;
    Ok(())
}

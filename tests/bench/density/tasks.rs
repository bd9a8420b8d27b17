//! One run with so many tasks: starts, memory, idle cores, recovery, one more start, stops.

use crate::gauge::{Memory, Spent, percentile, spent};
use crate::report::{Limit, Report};
use crate::{Plan, ctr, grouped, phase};
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};
use testhost::crowd::{Crowd, STUBBORN};
use testhost::procfs;
use testhost::rig::Rig;
use testhost::task::TaskSpec;

/// How many are few.
const FEW: usize = 10;
/// Starts of one more task. With so many, the slowest is what 99 of a hundred are below.
const SAMPLES: usize = 50;
const INTERVAL: Duration = Duration::from_secs(10);
const GRACE: Duration = Duration::from_secs(5);
/// Seconds of a hundred tasks or fewer, and of more, in which nothing happens.
const IDLE: (u64, u64) = (20, 60);

/// All figures with the shims grouped so.
pub async fn measure(plan: &Plan, group: &str, report: &mut Report) -> Result<()> {
    let Some(config) = grouped(plan, group) else {
        report.missing(format!("[{group}] all figures"), "not measured: no setting shim_group");
        return Ok(());
    };
    eprintln!("shims: {group}");
    let mut rig = Rig::with(plan.opts(config)).await?;
    let image = rig.busybox().await?;
    let spec = TaskSpec::new(&image).sh(STUBBORN);
    let mut crowd = Crowd::new()?;
    // The first start pulls, and what is made once is there before anything is counted.
    phase("first start", 60, crowd.start(&rig, &spec, 1)).await?;
    phase("its end", 60, crowd.destroy(true)).await?;
    let before = rig.scope().take().await?;
    let measured = async {
        let started = lives(&rig, plan, group, &spec, &mut crowd, report).await?;
        recoveries(&mut rig, plan, group, &crowd, report).await?;
        let removed = ends(&rig, plan, group, &mut crowd, report).await?;
        anyhow::Ok((started, removed))
    }
    .await;
    if measured.is_err() {
        // What can be taken down in order is; the rest is swept.
        phase("taking down", 120, crowd.destroy(true)).await.ok();
    }
    let (started, removed) = measured?;
    let left = rig.scope().leaks(&before, Duration::from_secs(30)).await?;
    ensure!(left.is_empty(), "{} are left: {}", left.len(), left.join(", "));
    let is_shared = group == "node";
    let bound = 60 + plan.count as u64 / 2;
    let theirs = phase("ctr", bound, ctr::measure(&rig, &image, plan.count, is_shared)).await?;
    let mut row = |figure: &str, ours: Duration, theirs: Duration, limit| {
        let (figure, ours, theirs) = (format!("[{group}] {figure}"), ours.as_secs_f64(), theirs.as_secs_f64());
        report.row(
            format!("{figure}: ctr {theirs:.1} s, ours is"),
            ours / theirs,
            "×",
            limit,
        );
    };
    row("started", started, theirs.started, Limit::AtMost(0.75));
    row("removed", removed, theirs.removed, Limit::None);
    Ok(())
}

async fn lives(
    rig: &Rig,
    plan: &Plan,
    group: &str,
    spec: &TaskSpec,
    crowd: &mut Crowd,
    report: &mut Report,
) -> Result<Duration> {
    let count = plan.count;
    let many = count as u64;
    let thousands = count as f64 / 1000.0;
    let mut row = |figure: &str, value, unit, limit| report.row(format!("[{group}] {figure}"), value, unit, limit);

    phase("few", 60, crowd.start(rig, spec, FEW)).await?;
    let few = phase("one more beside few", 120, one_more(rig, spec)).await?;
    phase("end of the few", 60, crowd.destroy(true)).await?;

    let without = Memory::of(rig);
    let invited = crowd.invite(rig, spec, count)?;
    let before = Spent::of(rig);
    let started = phase("starts", 60 + many / 2, crowd.welcome(rig, invited)).await?;
    let spent = Spent::of(rig).since(&before);
    let busy = procfs::threads(rig.plugin().pid());
    row(
        "started, and each has said its first line",
        started.as_secs_f64(),
        "s",
        Limit::AtMost(40.0 * thousands),
    );
    for (who, spent) in spent {
        let each = spent.as_secs_f64() * 1000.0 / count as f64;
        row(&format!("of a core for each start, {who}"), each, "ms", Limit::None);
    }

    let attendance = phase("waits and statistics", 60, crowd.attend(INTERVAL)).await?;
    let (seconds, cores) = idle(rig, if count > 100 { IDLE.1 } else { IDLE.0 }).await;
    let with = Memory::of(rig);
    let all = with.plugin + with.shims + with.containerd - without.containerd;
    let per_task = if group == "node" { 0.35 } else { 4.6 };
    let each = |sum: f64| sum / count as f64;
    row("memory per task", each(all), "MB", Limit::AtMost(per_task));
    row("of it, plugin", each(with.plugin), "MB", Limit::None);
    row("of it, shims", each(with.shims), "MB", Limit::None);
    let growth = with.containerd - without.containerd;
    row("of it, growth of containerd", each(growth), "MB", Limit::None);
    row("memory of the plugin", with.plugin, "MB", Limit::AtMost(40.0));
    row("memory of the plugin without tasks", without.plugin, "MB", Limit::None);
    let threads = procfs::threads(rig.plugin().pid());
    row("threads of the plugin", threads as f64, "", Limit::AtMost(16.0));
    row("threads of the plugin after the starts", busy as f64, "", Limit::None);
    row(
        &format!("plugin and shims over {seconds} idle seconds, of one core"),
        cores.0 + cores.1,
        "%",
        Limit::AtMost(2.0),
    );
    row("of it, plugin", cores.0, "%", Limit::None);
    row("of it, shims", cores.1, "%", Limit::None);

    let more = phase("one more beside all", 180, one_more(rig, spec)).await?;
    for (share, limit) in [(50, Limit::None), (99, Limit::AtMost(1.5))] {
        let (few, more) = (percentile(&few, share), percentile(&more, share));
        row(
            &format!(
                "start of one more, p{share}: {} ms, beside {FEW} tasks {} ms",
                more.as_millis(),
                few.as_millis()
            ),
            more.as_secs_f64() / few.as_secs_f64(),
            "×",
            limit,
        );
    }
    drop(attendance);
    Ok(started)
}

/// The plugin dies twice, and everybody is recovered in turn, then at once.
async fn recoveries(rig: &mut Rig, plan: &Plan, group: &str, crowd: &Crowd, report: &mut Report) -> Result<()> {
    // The figure is of a thousand; fewer are given as much, since a launch is in it.
    let limit = Limit::AtMost(2.0 * (plan.count as f64 / 1000.0).max(1.0));
    for is_at_once in [false, true] {
        phase("relaunch", 30, rig.relaunch_only()).await?;
        let (way, took) = match is_at_once {
            false => (
                "one by one",
                phase("recovery in turn", 120, crowd.recover_in_turn(rig)).await?,
            ),
            true => (
                "all at once",
                phase("recovery at once", 120, crowd.recover_at_once(rig)).await?,
            ),
        };
        let threads = procfs::threads(rig.plugin().pid());
        let memory = Memory::of(rig).plugin;
        let figure = format!("[{group}] recovered {way}");
        report.row(&figure, took.as_secs_f64(), "s", limit);
        report.row(
            format!("{figure}: threads of the plugin"),
            threads as f64,
            "",
            Limit::None,
        );
        report.row(format!("{figure}: memory of the plugin"), memory, "MB", Limit::None);
    }
    Ok(())
}

/// Everybody is stopped, and ignores it, and removed. How long the removal took.
async fn ends(rig: &Rig, plan: &Plan, group: &str, crowd: &mut Crowd, report: &mut Report) -> Result<Duration> {
    let many = plan.count as u64;
    let limit = Limit::AtMost(GRACE.as_secs_f64() + 25.0 * plan.count as f64 / 1000.0);
    let stopped = phase("stops", 60 + many / 2, crowd.stop(GRACE)).await?;
    let grace = GRACE.as_secs();
    report.row(
        format!("[{group}] stopped, SIGTERM ignored, {grace} s of grace"),
        stopped.as_secs_f64(),
        "s",
        limit,
    );
    let before = Spent::of(rig);
    let removed = phase("removals", 60 + many / 2, crowd.destroy(false)).await?;
    for (who, spent) in Spent::of(rig).since(&before) {
        let each = spent.as_secs_f64() * 1000.0 / plan.count as f64;
        report.row(
            format!("[{group}] of a core for each removal, {who}"),
            each,
            "ms",
            Limit::None,
        );
    }
    report.row(format!("[{group}] removed"), removed.as_secs_f64(), "s", Limit::None);
    Ok(removed)
}

/// Starts one task after another beside those that there are; the times, sorted.
async fn one_more(rig: &Rig, spec: &TaskSpec) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for _ in 0..SAMPLES {
        let mut guest = Crowd::new()?;
        let invited = guest.invite(rig, spec, 1)?;
        let begun = Instant::now();
        guest.welcome(rig, invited).await?;
        times.push(begun.elapsed());
        guest.destroy(true).await?;
    }
    times.sort();
    Ok(times)
}

/// Lets time pass; how long, and the parts of one core that plugin and shims have taken meanwhile, in percent.
async fn idle(rig: &Rig, seconds: u64) -> (u64, (f64, f64)) {
    // Streams that were opened one after another come to common beats within some samples.
    tokio::time::sleep(INTERVAL + INTERVAL / 2).await;
    let (plugin, shims) = (vec![rig.plugin().pid()], rig.containerd.shims());
    let (begun, before) = (Instant::now(), (spent(&plugin), spent(&shims)));
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let passed = begun.elapsed().as_secs_f64();
    let share = |now: Duration, then: Duration| now.saturating_sub(then).as_secs_f64() / passed * 100.0;
    (
        seconds,
        (share(spent(&plugin), before.0), share(spent(&shims), before.1)),
    )
}

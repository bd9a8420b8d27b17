//! `make bench`: what a start costs through the plugin protocol, beside `ctr run -d` on the same containerd in the
//! same run. Prints ratios and gates nothing. Needs root, runc, docker-registry and a driver (`CD_DRIVER_BIN`, else the one
//! that cargo has built for this).

use anyhow::{Context as _, Result};
use std::future::Future;
use std::time::{Duration, Instant};
use testhost::containerd::ContainerdKind;
use testhost::rig::{Rig, RigOpts};
use testhost::task::TaskSpec;

/// Starts one after another.
const SEQUENTIAL: usize = 20;
/// Starts at once.
const BURST: usize = 50;
/// `ctr` processes at once in the burst: its best on two cores, measured.
const CTR_PARALLEL: usize = 4;

fn main() -> Result<()> {
    // cargo passes `--bench`; there is nothing to choose.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        for (name, kind) in [
            ("containerd 1.6", ContainerdKind::Debian16),
            ("containerd 2.4", ContainerdKind::V24),
        ] {
            if !ContainerdKind::available().contains(&kind) {
                println!("{name}: not on this machine, left out");
                continue;
            }
            measure(name, kind).await.with_context(|| name.to_owned())?;
        }
        Ok(())
    })
}

fn opts(kind: ContainerdKind) -> RigOpts {
    match std::env::var_os("CD_DRIVER_BIN") {
        Some(bin) => RigOpts::of(kind, bin),
        None => RigOpts::of(kind, env!("CARGO_BIN_EXE_containerd-driver")),
    }
}

async fn measure(name: &str, kind: ContainerdKind) -> Result<()> {
    let rig = Rig::with(opts(kind)).await?;
    let image = rig.busybox().await?;
    let spec = || TaskSpec::new(image.clone()).command(["sleep", "1000"]);
    // The first start pulls.
    start(&rig, spec()).await?.destroy(true).await?;
    let namespace = "bench";
    rig.containerd
        .ctr(namespace, &["images", "pull", "--plain-http", &image])
        .await?;

    let mut ours = Vec::new();
    let mut running = Vec::new();
    for _ in 0..SEQUENTIAL {
        let begun = Instant::now();
        running.push(start(&rig, spec()).await?);
        ours.push(begun.elapsed());
    }
    let (_, removed) = timed(async {
        for task in running {
            task.destroy(true).await?;
        }
        Ok(())
    })
    .await?;
    let mut theirs = Vec::new();
    for n in 0..SEQUENTIAL {
        let begun = Instant::now();
        ctr_run(&rig, namespace, &image, &format!("one-{n}")).await?;
        theirs.push(begun.elapsed());
    }
    let ((), ctr_removed) = timed(async {
        for n in 0..SEQUENTIAL {
            ctr_remove(&rig, namespace, &format!("one-{n}")).await?;
        }
        Ok(())
    })
    .await?;

    let (tasks, burst) = timed(futures_util::future::try_join_all(
        (0..BURST).map(|_| start(&rig, spec())),
    ))
    .await?;
    let (_, burst_removed) = timed(futures_util::future::try_join_all(
        tasks.iter().map(|t| async { anyhow::Ok(t.destroy(true).await?) }),
    ))
    .await?;
    let ((), ctr_burst) = timed(ctr_each(|n| ctr_run_owned(&rig, namespace, &image, n))).await?;
    let ((), ctr_burst_removed) = timed(ctr_each(|n| ctr_remove_owned(&rig, namespace, n))).await?;

    let (version, _revision) = rig.containerd.version().await?;
    println!("\n{name} ({version})");
    println!("  {:<44}{:>10}{:>10}{:>8}", "", "driver", "ctr", "ratio");
    row("start, one at a time, median", median(&mut ours), median(&mut theirs));
    row("start, one at a time, slowest", slowest(&ours), slowest(&theirs));
    row(
        &format!("start, {BURST} at once (ctr: {CTR_PARALLEL} at a time), all"),
        burst,
        ctr_burst,
    );
    row(
        &format!("remove, {SEQUENTIAL} one after another, all"),
        removed,
        ctr_removed,
    );
    row(
        &format!("remove, {BURST} at once (ctr: {CTR_PARALLEL} at a time), all"),
        burst_removed,
        ctr_burst_removed,
    );
    Ok(())
}

async fn start(rig: &Rig, spec: TaskSpec) -> Result<testhost::rig::RunningTask> {
    Ok(rig.start(spec).await?)
}

async fn timed<T>(work: impl Future<Output = Result<T>>) -> Result<(T, Duration)> {
    let begun = Instant::now();
    let done = work.await?;
    Ok((done, begun.elapsed()))
}

async fn ctr_run(rig: &Rig, namespace: &str, image: &str, id: &str) -> Result<()> {
    rig.containerd
        .ctr(namespace, &["run", "-d", "--null-io", image, id, "sleep", "1000"])
        .await
        .map(drop)
}

async fn ctr_run_owned(rig: &Rig, namespace: &str, image: &str, n: usize) -> Result<()> {
    ctr_run(rig, namespace, image, &format!("many-{n}")).await
}

async fn ctr_remove(rig: &Rig, namespace: &str, id: &str) -> Result<()> {
    rig.containerd.ctr(namespace, &["task", "rm", "-f", id]).await?;
    rig.containerd.ctr(namespace, &["containers", "rm", id]).await.map(drop)
}

async fn ctr_remove_owned(rig: &Rig, namespace: &str, n: usize) -> Result<()> {
    ctr_remove(rig, namespace, &format!("many-{n}")).await
}

/// Runs one `ctr` errand per container of the burst, a few at a time.
async fn ctr_each<F, Fut>(errand: F) -> Result<()>
where
    F: Fn(usize) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    use futures_util::{StreamExt as _, TryStreamExt as _};
    futures_util::stream::iter((0..BURST).map(errand))
        .buffer_unordered(CTR_PARALLEL)
        .try_collect::<Vec<()>>()
        .await
        .map(drop)
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn slowest(times: &[Duration]) -> Duration {
    times.iter().max().copied().unwrap_or_default()
}

fn row(what: &str, ours: Duration, theirs: Duration) {
    let ms = |d: Duration| format!("{:.0} ms", d.as_secs_f64() * 1000.0);
    println!(
        "  {what:<44}{:>10}{:>10}{:>8.2}",
        ms(ours),
        ms(theirs),
        ours.as_secs_f64() / theirs.as_secs_f64()
    );
}

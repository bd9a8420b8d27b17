//! The same number through `ctr run -d`, at its best parallelism.

use anyhow::{Result, ensure};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use std::time::{Duration, Instant};
use testhost::rig::Rig;

/// `ctr` processes at once: its best on two cores, measured.
const PARALLEL: usize = 4;
/// Containers that one `ctr` removes.
const CHUNK: usize = 50;
const NAMESPACE: &str = "bench";

/// What a number of containers takes.
pub struct Figures {
    pub started: Duration,
    pub removed: Duration,
}

/// Starts and removes so many, with a shim each or all in one.
pub async fn measure(rig: &Rig, image: &str, count: usize, is_shared: bool) -> Result<Figures> {
    let pull = ["images", "pull", "--plain-http", image];
    rig.containerd.ctr(NAMESPACE, &pull).await?;
    let before = rig.containerd.shims().len();
    let begun = Instant::now();
    // The first makes the shim that the others join.
    run(rig, image, 0, is_shared).await?;
    stream::iter(1..count)
        .map(|n| run(rig, image, n, is_shared))
        .buffer_unordered(PARALLEL)
        .try_collect::<Vec<()>>()
        .await?;
    let started = begun.elapsed();
    let shims = rig.containerd.shims().len() - before;
    ensure!(shims == if is_shared { 1 } else { count }, "ctr has made {shims} shims");
    let names: Vec<String> = (0..count).map(name).collect();
    let begun = Instant::now();
    stream::iter(names.chunks(CHUNK))
        .map(|names| remove(rig, names))
        .buffer_unordered(PARALLEL)
        .try_collect::<Vec<()>>()
        .await?;
    let removed = begun.elapsed();
    Ok(Figures { started, removed })
}

fn name(n: usize) -> String {
    format!("crowd-{n}")
}

async fn run(rig: &Rig, image: &str, n: usize, is_shared: bool) -> Result<()> {
    let name = name(n);
    let mut args = vec!["run", "-d", "--null-io"];
    if is_shared {
        args.extend(["--annotation", "io.containerd.runc.v2.group=crowd"]);
    }
    args.extend([image, &name, "sh", "-c", testhost::crowd::STUBBORN]);
    rig.containerd.ctr(NAMESPACE, &args).await.map(drop)
}

async fn remove(rig: &Rig, names: &[String]) -> Result<()> {
    for first in [&["tasks", "rm", "-f"][..], &["containers", "rm"]] {
        let mut args = first.to_vec();
        args.extend(names.iter().map(String::as_str));
        rig.containerd.ctr(NAMESPACE, &args).await?;
    }
    Ok(())
}

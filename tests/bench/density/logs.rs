//! Logs that the driver writes itself: one loud task beside `ctr` that has its shim write straight to a file, and many tasks
//! while the log pump is killed each second.
//!
//! What was written is counted in the files, so none of them may be dropped by rotation: a driver whose setting keeps fewer
//! files than the output needs shows that as bytes that are lost.

use crate::gauge::spent;
use crate::report::{Limit, Report};
use crate::{Plan, phase};
use anyhow::{Context as _, Result};
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};
use testhost::crowd::Crowd;
use testhost::rig::Rig;
use testhost::task::TaskSpec;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

const LOUD: u64 = 1 << 30;
const WRITERS: usize = 200;
const SECONDS: u64 = 30;
const MIB: u64 = 1 << 20;
/// A mebibyte each second, for so many seconds.
const PACED: &str = "for n in $(seq 30); do head -c 1048576 /dev/zero; sleep 1; done";

const FIGURES: [&str; 2] = [
    "[logs] one task writes 1 GB",
    "[logs] 200 tasks write while the pump is killed",
];

pub async fn measure(plan: &Plan, report: &mut Report) -> Result<()> {
    if !plan.has("log_collection") {
        for figure in FIGURES {
            report.missing(figure, "not measured: no setting log_collection");
        }
        return Ok(());
    }
    eprintln!("logs");
    one_loud(plan, report).await?;
    match std::env::var_os("CD_DRIVER_CHAOS_BIN") {
        None => report.missing(FIGURES[1], "not measured: CD_DRIVER_CHAOS_BIN names no driver"),
        Some(bin) => many_paced(plan, Path::new(&bin), report).await?,
    }
    Ok(())
}

fn config() -> serde_json::Value {
    // Everything that is written is to be there when it is counted.
    json!({ "log_collection": "driver", "log_max_files": 1000, "log_max_file_size": "64m" })
}

/// The bytes of all files of a task's standard output.
fn written(logs: &Path, task: &str) -> Result<u64> {
    let (mut sum, prefix) = (0, format!("{task}.stdout."));
    for entry in std::fs::read_dir(logs).with_context(|| logs.display().to_string())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            sum += entry.metadata()?.len();
        }
    }
    Ok(sum)
}

async fn one_loud(plan: &Plan, report: &mut Report) -> Result<()> {
    let rig = Rig::with(plan.opts(config())).await?;
    let image = rig.busybox().await?;
    let spec = TaskSpec::new(&image).command(["head", "-c", &LOUD.to_string(), "/dev/zero"]);
    let mut crowd = Crowd::new()?;
    phase(
        "first task",
        60,
        crowd.start_unheard(&rig, &spec.clone().command(["true"]), 1),
    )
    .await?;
    crowd.destroy(true).await?;
    let plugin = vec![rig.plugin().pid()];
    let (begun, before) = (Instant::now(), spent(&plugin));
    phase("one loud task", 180, async {
        crowd.start_unheard(&rig, &spec, 1).await?;
        crowd.tasks[0].wait().await?;
        anyhow::Ok(())
    })
    .await?;
    let (ours, cores) = (begun.elapsed(), spent(&plugin) - before);
    let bytes = written(&crowd.tasks[0].alloc.logs_dir(), &spec.name)?;
    crowd.destroy(true).await?;

    let pull = ["images", "pull", "--plain-http", &image];
    rig.containerd.ctr("bench", &pull).await?;
    let uri = format!("file://{}", rig.dir().join("loud.log").display());
    let begun = Instant::now();
    let size = LOUD.to_string();
    let run = [
        "run",
        "--rm",
        "--log-uri",
        &uri,
        &image,
        "loud",
        "head",
        "-c",
        &size,
        "/dev/zero",
    ];
    phase("ctr", 180, rig.containerd.ctr("bench", &run)).await?;
    let theirs = begun.elapsed();
    report.row(
        format!("{}: speed, of the shim's own to a file", FIGURES[0]),
        theirs.as_secs_f64() / ours.as_secs_f64(),
        "×",
        Limit::AtLeast(1.0),
    );
    report.row(
        format!("{}: cores of the plugin", FIGURES[0]),
        cores.as_secs_f64(),
        "s",
        Limit::AtMost(0.15),
    );
    report.row(
        format!("{}: kept by the files", FIGURES[0]),
        bytes as f64 / LOUD as f64 * 100.0,
        "%",
        Limit::None,
    );
    Ok(())
}

async fn many_paced(plan: &Plan, bin: &Path, report: &mut Report) -> Result<()> {
    let mut opts = plan.opts(config());
    opts.bin = bin.to_owned();
    let socket = std::env::temp_dir().join(format!("cd-{}.sock", testhost::alloc::random_hex(4)));
    opts.launch = opts.launch.env("CONTAINERD_DRIVER_CHAOS_SOCKET", &socket);
    let rig = Rig::with(opts).await?;
    let spec = TaskSpec::new(rig.busybox().await?).sh(PACED);
    let mut crowd = Crowd::new()?;
    phase("writers", 120, crowd.start_unheard(&rig, &spec, WRITERS)).await?;
    let plugin = vec![rig.plugin().pid()];
    let (begun, before) = (Instant::now(), spent(&plugin));
    let killer = tokio::spawn(kill_pump(socket.clone()));
    let ends = async {
        for task in &crowd.tasks {
            task.wait().await?;
        }
        anyhow::Ok(())
    };
    let ended = phase("their ends", 4 * SECONDS + 60, ends).await;
    killer.abort();
    std::fs::remove_file(&socket).ok();
    ended?;
    let share = (spent(&plugin) - before).as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0;
    let mut sum = 0;
    for task in &crowd.tasks {
        sum += written(&task.alloc.logs_dir(), &spec.name)?;
    }
    crowd.destroy(true).await?;
    let lost = (WRITERS as u64 * SECONDS * MIB).saturating_sub(sum);
    report.row(
        format!("{}: bytes lost", FIGURES[1]),
        lost as f64,
        "",
        Limit::AtMost(0.0),
    );
    report.row(
        format!("{}: plugin, of one core", FIGURES[1]),
        share,
        "%",
        Limit::AtMost(40.0),
    );
    Ok(())
}

/// The death of the log pump, each second, until aborted.
async fn kill_pump(socket: std::path::PathBuf) -> Result<()> {
    let mut beat = tokio::time::interval(Duration::from_secs(1));
    loop {
        beat.tick().await;
        let mut chaos = UnixStream::connect(&socket).await?;
        chaos.write_all(b"kill log_pump\n").await?;
        // The line of the answer: then it has been done.
        BufReader::new(chaos).read_line(&mut String::new()).await?;
    }
}

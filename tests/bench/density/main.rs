//! `make density`: a thousand tasks on one node through the plugin protocol, figure by figure with its limit, beside `ctr`
//! on the same containerd in the same run. Prints a table, writes `target/density-KIND.json` and gates nothing: only what
//! is broken fails. Needs root, runc, docker-registry and a driver (`CD_DRIVER_BIN`, else the one that cargo has built for
//! this).
//!
//! | variable | meaning |
//! |---|---|
//! | `N` | how many tasks, 1000 without it |
//! | `KIND` | the containerd: `2.4` (default) or `1.6` |
//! | `PARTS` | some of `none node logs curve`: tasks with a shim each, in one shim, the figures of the log mode, the curve |
//! | `CURVE` | the numbers of tasks of the curve, `1000 5000 20000` without it |
//! | `CD_DRIVER_CHAOS_BIN` | a driver with `--features chaos`, for the log pump that is killed |
//!
//! Settings that the driver under test does not know are left out, and their rows say so.

mod ctr;
mod curve;
mod gauge;
mod logs;
mod report;
mod tasks;

use anyhow::{Context as _, Result, bail};
use report::Report;
use serde_json::{Value as Json, json};
use std::future::Future;
use std::time::Duration;
use testhost::containerd::ContainerdKind;
use testhost::crowd::allow_descriptors;
use testhost::plugin::{LaunchOpts, Plugin};
use testhost::rig::RigOpts;
use testhost::schema;

/// What is measured.
pub struct Plan {
    pub count: usize,
    pub kind: ContainerdKind,
    /// The settings that the driver has.
    pub settings: Vec<String>,
}

impl Plan {
    /// True if the driver has this setting.
    pub fn has(&self, setting: &str) -> bool {
        self.settings.iter().any(|known| known == setting)
    }

    pub fn opts(&self, config: Json) -> RigOpts {
        RigOpts {
            config,
            ..RigOpts::of(self.kind.clone(), driver())
        }
    }
}

fn driver() -> std::ffi::OsString {
    std::env::var_os("CD_DRIVER_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_containerd-driver").into())
}

fn main() -> Result<()> {
    // cargo passes `--bench`; there is nothing to choose.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure())
}

async fn measure() -> Result<()> {
    let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let count = var("N").map_or(Ok(1000), |text| text.parse()).context("N")?;
    let (name, kind) = match var("KIND").as_deref() {
        None | Some("2.4") => ("2.4", ContainerdKind::V24),
        Some("1.6") => ("1.6", ContainerdKind::Debian16),
        Some(other) => bail!("KIND is {other:?}: 1.6 or 2.4 is expected"),
    };
    let parts = var("PARTS").unwrap_or_else(|| "none node logs curve".to_owned());
    let parts: Vec<&str> = parts.split_whitespace().collect();
    if let Some(unknown) = parts
        .iter()
        .find(|part| !["none", "node", "logs", "curve"].contains(part))
    {
        bail!("PARTS has {unknown:?}: some of none, node, logs, curve are expected");
    }
    // Two log pipes per task, and what the agent has open besides.
    allow_descriptors(2 * u64::try_from(count)? + 1000)?;
    let plan = Plan {
        count,
        kind,
        settings: settings().await?,
    };
    let mut report = Report::new(name, count);
    let mut broken = Vec::new();
    for part in parts {
        let done = match part {
            "none" | "node" => tasks::measure(&plan, part, &mut report).await,
            "logs" => logs::measure(&plan, &mut report).await,
            _ => curve::measure(&plan, &mut report).await,
        };
        if let Err(error) = done {
            eprintln!("{part}: {error:#}");
            broken.push(part);
        }
    }
    report.print();
    report.write()?;
    if !broken.is_empty() {
        bail!("not measured to the end: {}", broken.join(", "));
    }
    Ok(())
}

/// The settings of the driver under test, asked of one that is launched for that alone.
async fn settings() -> Result<Vec<String>> {
    let probe = Plugin::launch(driver().as_ref(), LaunchOpts::default()).await?;
    let names = probe.config_schema().await?.map(|spec| schema::names(&spec));
    probe.kill_sequence().await;
    Ok(names.unwrap_or_default())
}

/// A phase with its bound: a hang is an error with a name.
pub async fn phase<T>(what: &str, seconds: u64, work: impl Future<Output = Result<T>>) -> Result<T> {
    eprintln!("  {what} …");
    let within = Duration::from_secs(seconds);
    tokio::time::timeout(within, work)
        .await
        .with_context(|| format!("{what}: not within {within:?}"))?
        .with_context(|| what.to_owned())
}

/// The settings of one kind of run.
pub fn grouped(plan: &Plan, group: &str) -> Option<Json> {
    match (plan.has("shim_group"), group) {
        (true, group) => Some(json!({ "shim_group": group })),
        (false, "none") => Some(json!({})),
        (false, _) => None,
    }
}

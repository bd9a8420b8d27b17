//! The process contract and the calls of an agent, with the built binary over real gRPC: launch, configure, fingerprint, end, and what
//! a plugin must survive. What runs a task needs root and a private containerd, which each such test starts for itself.
//!
//! `CD_DRIVER_BIN` is the binary (default: the one that cargo built), `CD_KIND` the containerd: 1.6, 2.4 (default 24 if it is there).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panic")]

mod bare;
mod config;
mod connections;
mod duplicates;
mod ending;
mod fingerprint;
mod fuzz;
mod launch;
mod logging;
mod run;
mod same;
mod stale;
mod tasks;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value as Json, json};
use tempfile::TempDir;
use testhost::containerd::ContainerdKind;
use testhost::plugin::{LaunchOpts, Plugin};
use testhost::rig::{Rig, RigOpts};

/// The host's patience for what has to be quick.
const SECOND: Duration = Duration::from_secs(1);

/// What may take a while on a busy machine.
const SOON: Duration = Duration::from_secs(20);

fn bin() -> PathBuf {
    std::env::var_os("CD_DRIVER_BIN").map_or_else(|| env!("CARGO_BIN_EXE_containerd-driver").into(), PathBuf::from)
}

fn kind() -> ContainerdKind {
    match std::env::var("CD_KIND").as_deref() {
        Ok("16" | "1.6") => ContainerdKind::Debian16,
        Ok("24" | "2.4") => ContainerdKind::V24,
        _ if ContainerdKind::V24.locate().is_ok() => ContainerdKind::V24,
        _ => ContainerdKind::Debian16,
    }
}

/// A directory with a short name, for sockets.
fn home() -> TempDir {
    tempfile::Builder::new()
        .prefix("cdp-")
        .tempdir_in("/tmp")
        .expect("directory")
}

fn opts(home: &TempDir) -> LaunchOpts {
    LaunchOpts::default().env("TMPDIR", home.path())
}

/// A launched plugin with its socket in `home`.
async fn launch(home: &TempDir) -> Plugin {
    Plugin::launch(&bin(), opts(home)).await.expect("launch")
}

/// Plugin options that lead to no containerd.
fn nowhere(home: &TempDir) -> Json {
    json!({ "containerd_address": home.path().join("no.sock").display().to_string() })
}

/// Launched, configured without a containerd, initialised.
async fn configured(home: &TempDir) -> Plugin {
    let plugin = launch(home).await;
    plugin.configure(&nowhere(home)).await.expect("SetConfig");
    plugin.init().await.expect("Init");
    plugin
}

async fn rig() -> Rig {
    Rig::with(RigOpts::of(kind(), bin())).await.expect("rig")
}

/// Sockets of the plugin in a directory.
fn sockets(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir)
        .expect("directory")
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.ends_with(".sock")).collect()
}

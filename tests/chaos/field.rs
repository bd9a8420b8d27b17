//! A rig with a chaos build, and the census before and after.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use testhost::alloc::random_hex;
use testhost::census::{Census, Holdings};
use testhost::containerd::ContainerdKind;
use testhost::image::ImageConfig;
use testhost::rig::{Rig, RigOpts};
use testhost::task::TaskSpec;

use crate::control::{Chaos, SINGLETONS};
use crate::lives::PATIENCE;

/// How long what a task had may take to be gone: containerd removes a snapshot's files behind our back.
const SETTLE: Duration = Duration::from_secs(30);

pub struct Field {
    pub rig: Rig,
    pub chaos: Chaos,
    pub image: String,
    before: Census,
    held: Holdings,
    pid: u32,
}

/// What the plugin holds, but for connections to the registry: those are pooled, and closed when idle for long.
fn held(pid: u32) -> Holdings {
    let tables =
        ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default());
    let inodes: BTreeSet<&str> = tables
        .iter()
        .flat_map(|table| table.lines().skip(1))
        .filter_map(|line| line.split_whitespace().nth(9))
        .collect();
    let mut holdings = Holdings::of(pid);
    let pooled = |target: &str| {
        target
            .strip_prefix("socket:[")
            .and_then(|rest| rest.strip_suffix(']'))
            .is_some_and(|inode| inodes.contains(inode))
    };
    holdings.descriptors.retain(|_, target| !pooled(target));
    holdings
}

pub fn kind() -> ContainerdKind {
    match env::var("CD_KIND").as_deref() {
        Ok("2.4") => ContainerdKind::V24,
        Ok("1.6") | Err(_) => ContainerdKind::Debian16,
        Ok(other) => panic!("CD_KIND is {other:?}: 1.6 or 2.4 is expected"),
    }
}

impl Field {
    pub async fn new() -> Field {
        let bin = env::var_os("CD_DRIVER_CHAOS_BIN")
            .expect("CD_DRIVER_CHAOS_BIN does not name a driver built with the feature chaos");
        let dir = env::temp_dir().join(format!("cdt-{}", random_hex(4)));
        let socket = dir.join("chaos.sock");
        let mut opts = RigOpts::of(kind(), bin);
        opts.dir = Some(dir);
        opts.launch = opts.launch.env("CONTAINERD_DRIVER_CHAOS_SOCKET", &socket);
        let rig = Rig::with(opts).await.expect("rig");
        let image = rig.busybox().await.expect("image");
        let chaos = Chaos::at(socket);
        let before = rig.scope().take().await.expect("census");
        // Connections, the registry's pool and the threads for blocking calls are there after the first task.
        let warm = rig
            .image("warm", &ImageConfig::default().salt("warm"))
            .await
            .expect("image");
        let task = rig.start(TaskSpec::new(warm).sh("exit 3")).await.expect("first task");
        assert_eq!(task.exit(PATIENCE).await.exit_code, 3);
        task.destroy(false).await.expect("DestroyTask");
        let pid = rig.plugin().pid();
        let held = held(pid);
        Field {
            rig,
            chaos,
            image,
            before,
            held,
            pid,
        }
    }

    /// The same process lives, and nothing is left of any task.
    pub async fn settled(&self) -> Result<()> {
        ensure!(
            self.rig.plugin().pid() == self.pid && self.rig.plugin().process().exited().is_none(),
            "the plugin ended"
        );
        self.nothing_left().await?;
        let end = Instant::now() + SETTLE;
        loop {
            let mut more = held(self.pid).diff(&self.held);
            // Threads for blocking calls come and go with load.
            more.retain(|line| !line.contains("thread(s)"));
            if more.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < end, "the plugin holds more than before: {more:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// No thread more than before, once those for blocking calls have been idle for their ten seconds.
    pub async fn no_thread_more(&self) -> Result<()> {
        let end = Instant::now() + SETTLE;
        loop {
            let now = Holdings::of(self.pid);
            if now.threads <= self.held.threads {
                return Ok(());
            }
            ensure!(
                Instant::now() < end,
                "{} threads, {} before",
                now.threads,
                self.held.threads
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Nothing is left in containerd, in the kernel, on disk and among the actors.
    pub async fn nothing_left(&self) -> Result<()> {
        let leaks = self.rig.scope().leaks(&self.before, SETTLE).await.context("census")?;
        ensure!(leaks.is_empty(), "left behind: {leaks:#?}");
        let end = Instant::now() + SETTLE;
        loop {
            let mut actors = self.chaos.list().await?;
            actors.retain(|name| !SINGLETONS.contains(&name.as_str()));
            if actors.is_empty() {
                return Ok(());
            }
            ensure!(
                Instant::now() < end,
                "supervisors of destroyed tasks are still known: {actors:?}"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What the plugin said at the end, for the message of a failed test.
    pub fn last_words(&self) -> String {
        let lines = self.rig.plugin().stderr_lines();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

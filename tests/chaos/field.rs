//! A rig with a chaos build, and the census before and after.

use std::env;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value as Json;
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

/// What the allocator may keep of memory that was used once.
const MEMORY_SLACK_KIB: u64 = 12 * 1024;

pub struct Field {
    pub rig: Rig,
    pub chaos: Chaos,
    pub image: String,
    before: Census,
    held: Holdings,
    pid: u32,
    config: Json,
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
        Field::with(Json::Object(serde_json::Map::new())).await
    }

    /// With settings of the plugin, besides those of every rig.
    pub async fn with(config: Json) -> Field {
        let bin = env::var_os("CD_DRIVER_CHAOS_BIN")
            .expect("CD_DRIVER_CHAOS_BIN does not name a driver built with the feature chaos");
        let dir = env::temp_dir().join(format!("cdt-{}", random_hex(4)));
        let socket = dir.join("chaos.sock");
        let mut opts = RigOpts::of(kind(), bin);
        opts.dir = Some(dir);
        opts.config = config.clone();
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
        let held = Holdings::unpooled(pid);
        Field {
            rig,
            chaos,
            image,
            before,
            held,
            pid,
            config,
        }
    }

    /// Another one like this.
    pub async fn anew(&self) -> Field {
        Field::with(self.config.clone()).await
    }

    /// The first task of this plugin, as the first plugin had one before it was looked at.
    pub async fn one_more(&self) -> Result<()> {
        let task = self.rig.start(TaskSpec::new(&self.image).sh("exit 3")).await?;
        ensure!(task.exit(PATIENCE).await.exit_code == 3, "its exit code");
        Ok(task.destroy(false).await?)
    }

    /// The plugin that is there now holds no more than the first did.
    pub async fn holds_no_more_than_the_first(&self) -> Result<()> {
        let (pid, end) = (self.rig.plugin().pid(), Instant::now() + SETTLE);
        loop {
            let now = Holdings::unpooled(pid);
            let mut more = now.diff(&self.held);
            // Threads for blocking calls come and go with load.
            more.retain(|line| !line.contains("thread(s)"));
            let allowed_kib = self.held.memory_kib + self.held.memory_kib / 2 + MEMORY_SLACK_KIB;
            if now.memory_kib > allowed_kib {
                more.push(format!("{} KiB, {} KiB before", now.memory_kib, self.held.memory_kib));
            }
            if more.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < end, "the plugin holds more than the first: {more:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What was there before the first task.
    pub fn before(&self) -> &Census {
        &self.before
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
            let mut more = Holdings::unpooled(self.pid).diff(&self.held);
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

//! The plugin is killed with SIGKILL again and again, at random moments, while tasks live: no exit, no line and no task is
//! lost or doubled, and nothing is left.
//!
//! `CD_KILL_LOOP_SECONDS` says how long (20 by default), `CHAOS_SEED` repeats the moments. The host behaves as Nomad does: it
//! launches a new plugin, recovers what it has a handle of, and asks again what was not answered.

use std::collections::BTreeSet;
use std::env;
use std::error::Error as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::future::join_all;
use serde_json::json;
use testhost::alloc::random_hex;
use testhost::image::ImageConfig;
use testhost::procfs;
use testhost::rig::RunningTask;
use testhost::status::recoverable;
use testhost::task::TaskSpec;
use tokio::sync::{RwLock, watch};
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::field::Field;
use crate::lives::PATIENCE;
use crate::mix::{Dice, seed};

/// Tasks at once.
const TASKS: usize = 8;

/// Lines that each task prints.
const LINES: usize = 15;

/// How long the plugin lives, in milliseconds: from just after its launch to longer than a start takes.
const LIFE_MS: (u64, u64) = (20, 2_000);

/// One launch in so many is cut off, while the plugin starts or recovers tasks.
const CUT: u64 = 4;

/// Starts of one task that may fail for want of a reader of its logs.
const RESTARTS: usize = 20;

/// Descriptors that containerd may keep: connections that it has not closed yet, files of its database.
const OPEN_SLACK: usize = 8;

/// The reaper's grace period: a task must be recovered within it.
const GRACE: &str = "15s";

/// How long containerd may take to let go of what it has for the dead, and the reaper to find the rest.
const SETTLE: Duration = Duration::from_secs(60);

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// By itself.
    Exits,
    /// In answer to `StopTask`.
    Obeys,
    /// By the SIGKILL after `StopTask`.
    Ignores,
    /// By `DestroyTask` while it runs.
    Destroyed,
    /// As `Obeys`, after commands that ran in it.
    Commanded,
}

impl End {
    fn of(n: usize) -> End {
        [
            End::Exits,
            End::Obeys,
            End::Commanded,
            End::Ignores,
            End::Exits,
            End::Destroyed,
        ][n % 6]
    }

    fn script(self, n: usize) -> String {
        let print = format!("for i in $(seq 1 {LINES}); do echo {n}-$i; sleep 0.05; done");
        let on = "while :; do sleep 0.05; done";
        match self {
            End::Exits => format!("{print}; exit {}", code(n)),
            End::Obeys | End::Commanded => format!("trap 'exit {}' TERM; {print}; {on}", code(n)),
            End::Ignores => format!("trap '' TERM; {print}; {on}"),
            End::Destroyed => format!("{print}; {on}"),
        }
    }

    fn code(self, n: usize) -> i32 {
        if self == End::Ignores { 137 } else { code(n) }
    }
}

/// Exit code of life `n`: no signal's and not 0.
fn code(n: usize) -> i32 {
    i32::try_from(n % 100).unwrap_or_default() + 11
}

/// The field, who may touch it when, and what was counted.
struct World {
    /// Written while there is no plugin, or one that does not know its tasks yet.
    field: RwLock<Field>,
    /// Counts the plugins that have recovered their tasks.
    plugins: watch::Sender<usize>,
    /// Tasks whose end was asked for: there may be nothing to recover.
    ending: Mutex<BTreeSet<String>>,
    lives: AtomicUsize,
    kills: AtomicUsize,
    restarts: AtomicUsize,
    commands: AtomicUsize,
}

/// True if the plugin died instead of answering.
fn died(status: &Status) -> bool {
    status.source().is_some() || status.code() == Code::Unavailable
}

impl World {
    fn new(field: Field) -> World {
        World {
            field: RwLock::new(field),
            plugins: watch::Sender::new(0),
            ending: Mutex::default(),
            lives: AtomicUsize::new(0),
            kills: AtomicUsize::new(0),
            restarts: AtomicUsize::new(0),
            commands: AtomicUsize::new(0),
        }
    }

    /// Asks one plugin after another until one answers.
    async fn ask<T>(&self, what: &str, call: impl AsyncFn() -> Result<T, Status>) -> Result<Result<T, Status>> {
        loop {
            let mut plugins = self.plugins.subscribe();
            // Not before the plugin has recovered the tasks.
            drop(self.field.read().await);
            let answer = timeout(PATIENCE, call()).await;
            match answer.with_context(|| format!("{what}: no answer"))? {
                Err(status) if died(&status) => {
                    let next = timeout(PATIENCE, plugins.changed()).await;
                    next.with_context(|| format!("{what}: {status:?}, and no other plugin came"))??;
                }
                other => return Ok(other),
            }
        }
    }

    /// The same, where only success will do.
    async fn get<T>(&self, what: &str, call: impl AsyncFn() -> Result<T, Status>) -> Result<T> {
        let answer = self.ask(what, call).await?;
        answer.map_err(|status| anyhow::anyhow!("{what}: {:?}: {}", status.code(), status.message()))
    }

    /// Kills until the time is over; a plugin that has recovered all is there at the end.
    async fn kill(&self, dice: &mut Dice, end: Instant) -> Result<()> {
        while Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(LIFE_MS.0 + dice.below(LIFE_MS.1))).await;
            self.field.read().await.rig.plugin().sigkill().await;
            self.kills.fetch_add(1, Ordering::Relaxed);
            // Whoever had asked has been told by now that there will be no answer, and lets go.
            let mut field = self.field.write().await;
            let outcomes = loop {
                let relaunch = field.rig.relaunch_and_recover();
                if dice.below(CUT) > 0 {
                    break timeout(PATIENCE, relaunch).await.context("a new plugin")??;
                }
                // Dropped half way; what was launched is killed by that, or by the next launch.
                match timeout(Duration::from_millis(dice.below(400)), relaunch).await {
                    Ok(done) => break done?,
                    Err(_) => self.kills.fetch_add(1, Ordering::Relaxed),
                };
            };
            for (id, outcome) in outcomes {
                let may_be_gone = self.ending.lock().expect("not poisoned").contains(&id);
                if let Err(status) = outcome
                    && !may_be_gone
                {
                    bail!("RecoverTask of {id}: {:?}: {}", status.code(), status.message());
                }
            }
            drop(field);
            self.plugins.send_modify(|n| *n += 1);
        }
        Ok(())
    }

    /// Starts a task, as often and under as many ids as Nomad would.
    async fn start(&self, n: usize, image: &str) -> Result<RunningTask> {
        let end = End::of(n);
        let spec = TaskSpec::new(image)
            .name(format!("k{n}"))
            .memory_mb(32)
            .sh(&end.script(n));
        let alloc = self.field.read().await.rig.alloc();
        alloc.add_task(&spec.name)?;
        for _ in 0..RESTARTS {
            let logs = alloc.collect_logs(&spec.name)?;
            let spec = spec
                .clone()
                .id(format!("{}/{}/{}", alloc.id(), spec.name, random_hex(4)));
            let config = spec.compose(&alloc, self.field.read().await.rig.schema())?;
            let start = async || {
                let field = self.field.read().await;
                field.rig.start_raw(config.clone(), alloc.clone(), None).await
            };
            match self.ask("StartTask", start).await? {
                Ok(mut task) => {
                    task.logs = Some(logs);
                    return Ok(task);
                }
                // An earlier, cut off start has used up the collectors: with the next attempt there are others.
                Err(status) if recoverable(&status) == Some(true) && status.message().contains("log pipe") => {
                    self.restarts.fetch_add(1, Ordering::Relaxed);
                }
                Err(status) => bail!("StartTask: {:?}: {}", status.code(), status.message()),
            }
        }
        bail!("StartTask: no reader of its logs {RESTARTS} times")
    }

    /// Commands in a task that runs: what is answered is right.
    async fn command(&self, task: &RunningTask, n: usize) -> Result<()> {
        for _ in 0..3 {
            drop(self.field.read().await);
            let script = format!("echo c{n}; exit 9");
            let answer = timeout(PATIENCE, task.exec(&["sh", "-c", &script], PATIENCE)).await;
            match answer.context("ExecTask: no answer")? {
                Ok(answer) => {
                    let got = (answer.stdout, answer.result.map(|r| r.exit_code));
                    ensure!(got == (format!("c{n}\n").into_bytes(), Some(9)), "ExecTask: {got:?}");
                    self.commands.fetch_add(1, Ordering::Relaxed);
                }
                // Nobody runs a command again: it may have run.
                Err(status) if died(&status) => {}
                Err(status) => bail!("ExecTask: {:?}: {}", status.code(), status.message()),
            }
        }
        Ok(())
    }

    async fn destroy(&self, task: &RunningTask, force: bool) -> Result<()> {
        self.ending.lock().expect("not poisoned").insert(task.id().to_owned());
        self.get("DestroyTask", async || task.destroy(force).await).await
    }

    /// From start to end, with everything it must have said and done.
    async fn live(&self, n: usize, image: &str) -> Result<()> {
        let end = End::of(n);
        let task = self.start(n, image).await?;
        let logs = task.logs();
        let wanted: Vec<String> = (1..=LINES).map(|i| format!("{n}-{i}")).collect();
        if end != End::Exits {
            let last = if end == End::Destroyed {
                &wanted[LINES / 3]
            } else {
                &wanted[LINES - 1]
            };
            let seen = logs.stdout.wait_line(PATIENCE, last).await;
            seen.with_context(|| format!("no line {last}: {:?}", task.lines()))?;
        }
        let stop = |timeout| {
            let task = &task;
            async move || task.stop(timeout, "").await
        };
        match end {
            End::Exits | End::Destroyed => {}
            End::Obeys => self.get("StopTask", stop(Duration::from_secs(600))).await?,
            End::Ignores => self.get("StopTask", stop(Duration::from_millis(300))).await?,
            End::Commanded => {
                self.command(&task, n).await?;
                self.get("StopTask", stop(Duration::from_secs(600))).await?;
            }
        }
        if end == End::Destroyed {
            self.destroy(&task, true).await?;
            ensure!(logs.stdout.wait_eof(PATIENCE).await, "no end of standard output");
            ensure!(wanted.starts_with(&task.lines()), "lines: {:?}", task.lines());
        } else {
            let wait = async || task.wait().await;
            let (one, other) = tokio::join!(self.get("WaitTask", wait), self.get("WaitTask", wait));
            let late = self.get("WaitTask after the exit", wait).await?;
            for answer in [one?, other?, late] {
                let exit = answer.result.unwrap_or_default();
                let killed = end == End::Ignores && exit.signal == 9;
                ensure!(exit.exit_code == end.code(n) || killed, "{exit:?}, not {}", end.code(n));
                ensure!(!exit.oom_killed, "{exit:?}");
            }
            ensure!(logs.stdout.wait_eof(PATIENCE).await, "no end of standard output");
            ensure!(task.lines() == wanted, "lines: {:?}", task.lines());
            self.destroy(&task, false).await?;
        }
        ensure!(task.stderr_lines().is_empty(), "stderr: {:?}", task.stderr_lines());
        self.lives.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// One life after another until the time is over. Every fourth has an image that has to be pulled.
    async fn lives(&self, place: usize, end: Instant) -> Result<()> {
        let plain = self.field.read().await.image.clone();
        for round in 0.. {
            if Instant::now() >= end {
                break;
            }
            let n = round * TASKS + place;
            let image = if n % 4 == 3 {
                let config = ImageConfig::default().ballast(1 << 20).salt(format!("kill-{n}"));
                self.field.read().await.rig.image(&format!("kill{n}"), &config).await?
            } else {
                plain.clone()
            };
            let life = self.live(n, &image).await;
            life.with_context(|| format!("life {n} ({:?})", End::of(n)))?;
        }
        Ok(())
    }
}

fn containerds_descriptors(field: &Field) -> usize {
    let pid = field.rig.containerd.pid().expect("containerd runs");
    procfs::descriptors(pid).len()
}

fn seconds() -> Duration {
    let text = env::var("CD_KILL_LOOP_SECONDS").unwrap_or_else(|_| "20".to_owned());
    Duration::from_secs(text.parse().expect("CD_KILL_LOOP_SECONDS is a number of seconds"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_live_through_an_endless_kill_loop_of_the_plugin() {
    let (seed, length) = (seed(), seconds());
    println!("CHAOS_SEED={seed}");
    // What containerd forgets in the middle of a start that was cut off is the reaper's.
    let field = Field::with(json!({ "reaper": { "period": "1s", "grace": GRACE } })).await;
    let open_before = containerds_descriptors(&field);
    let world = World::new(field);
    let end = Instant::now() + length;
    let mut dice = Dice::of(seed);
    let lives = join_all((0..TASKS).map(|place| world.lives(place, end)));
    // The last plugin is there when the killing ends, for what is still alive.
    let (killed, lived) = tokio::join!(world.kill(&mut dice, end), lives);
    let count = |of: &AtomicUsize| of.load(Ordering::Relaxed);
    let (kills, lives) = (count(&world.kills), count(&world.lives));
    let (restarts, commands) = (count(&world.restarts), count(&world.commands));
    println!("{kills} kills, {lives} lives, {restarts} starts without a reader, {commands} commands in {length:?}");
    let failures: Vec<String> = lived
        .into_iter()
        .chain([killed])
        .filter_map(|outcome| outcome.err().map(|e| format!("{e:#}")))
        .collect();
    let field = world.field.into_inner();
    assert!(
        failures.is_empty(),
        "seed {seed}: {failures:#?}\n{}",
        field.last_words()
    );
    // A loop that kills nobody, or in which nobody lives, has shown nothing.
    // In a slow guest a life is as long as the whole loop.
    let least = usize::try_from(length.as_secs() / 6).unwrap_or(usize::MAX);
    assert!(
        kills >= least && lives >= TASKS,
        "{kills} kills and {lives} lives in {length:?}"
    );
    let over = async {
        field.nothing_left().await?;
        field.one_more().await?;
        field.nothing_left().await?;
        field.holds_no_more_than_the_first().await?;
        let end = Instant::now() + SETTLE;
        loop {
            let open = containerds_descriptors(&field);
            if open <= open_before + OPEN_SLACK {
                return anyhow::Ok(());
            }
            ensure!(
                Instant::now() < end,
                "containerd has {open} descriptors, {open_before} before"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    if let Err(e) = over.await {
        panic!("seed {seed}: {e:#}\n{}", field.last_words());
    }
}

//! A crowd: as many tasks as a node takes, started at once as an agent does after a reboot.
//!
//! Thousands of log pipes are too many for a thread each, so [`Lines`] reads them all with one.

mod lines;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::{join_all, try_join_all};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tonic::Status;

pub use lines::Lines;

use crate::alloc::Alloc;
use crate::fifo::make_fifo;
use crate::rig::{Rig, RunningTask};
use crate::task::TaskSpec;
use crate::wire::driver::{RecoverTaskRequest, TaskConfig, TaskHandle, TaskStatsResponse, WaitTaskRequest};

/// Says a word and sleeps. SIGTERM is ignored, also by the program that comes after the shell.
pub const STUBBORN: &str = "trap '' TERM; echo up; exec sleep 36000";

/// Tasks of one allocation, where they are only played.
const PER_ALLOC: usize = 500;

/// Tasks of one kind, with the readers of their log pipes.
pub struct Crowd {
    pub tasks: Vec<RunningTask>,
    lines: Lines,
}

/// A task with everything that its host makes before it asks for the start.
pub struct Invited {
    alloc: Arc<Alloc>,
    config: TaskConfig,
}

impl Crowd {
    /// Nobody yet.
    pub fn new() -> Result<Crowd> {
        Ok(Crowd {
            tasks: Vec::new(),
            lines: Lines::start()?,
        })
    }

    /// The host's part of so many starts: an allocation each, with its directories and its log pipes, which are read.
    pub fn invite(&self, rig: &Rig, spec: &TaskSpec, count: usize) -> Result<Vec<Invited>> {
        let mut invited = Vec::with_capacity(count);
        for _ in 0..count {
            let alloc = rig.alloc();
            alloc.add_task(&spec.name)?;
            for stream in ["stdout", "stderr"] {
                let fifo = alloc.fifo(&spec.name, stream);
                make_fifo(&fifo)?;
                self.lines.listen(&fifo)?;
            }
            let config = spec.compose(&alloc, rig.schema())?;
            invited.push(Invited { alloc, config });
        }
        Ok(invited)
    }

    /// Starts all of them at once, and waits until each has said its first line. The answer is how long that took.
    pub async fn welcome(&mut self, rig: &Rig, invited: Vec<Invited>) -> Result<Duration> {
        let (begun, expected) = (Instant::now(), self.lines.spoken() + invited.len());
        let starts = invited
            .into_iter()
            .map(|one| rig.start_raw(one.config, one.alloc, None));
        let mut refused = Vec::new();
        for started in join_all(starts).await {
            match started {
                Ok(task) => self.tasks.push(task),
                Err(status) => refused.push(status),
            }
        }
        if let Some(status) = refused.first() {
            bail!("{} starts failed, the first with: {status}", refused.len());
        }
        self.lines.until_spoken(expected).await;
        Ok(begun.elapsed())
    }

    /// As [`Crowd::invite`] and [`Crowd::welcome`].
    pub async fn start(&mut self, rig: &Rig, spec: &TaskSpec, count: usize) -> Result<Duration> {
        let invited = self.invite(rig, spec, count)?;
        self.welcome(rig, invited).await
    }

    /// Starts tasks at once whose output is the driver's to write: nobody reads log pipes, as where the host collects no logs.
    pub async fn start_unheard(&mut self, rig: &Rig, spec: &TaskSpec, count: usize) -> Result<Duration> {
        let mut configs = Vec::with_capacity(count);
        for _ in 0..count {
            let alloc = rig.alloc();
            alloc.add_task(&spec.name)?;
            configs.push((spec.compose(&alloc, rig.schema())?, alloc));
        }
        let begun = Instant::now();
        let starts = configs
            .into_iter()
            .map(|(config, alloc)| rig.start_raw(config, alloc, None));
        let started: Vec<RunningTask> = try_join_all(starts).await?;
        let took = begun.elapsed();
        self.tasks.extend(started);
        Ok(took)
    }

    /// Starts tasks of which nothing is heard, many in each allocation, so many calls at a time. How long that took.
    pub async fn start_mute(&mut self, rig: &Rig, spec: &TaskSpec, count: usize, at_once: usize) -> Result<Duration> {
        let mut configs = Vec::with_capacity(count);
        let (mut alloc, spec) = (rig.alloc(), spec.clone().log_paths("/dev/null", "/dev/null"));
        for n in 0..count {
            if n % PER_ALLOC == 0 {
                alloc = rig.alloc();
            }
            let spec = spec.clone().name(format!("mute-{n}"));
            alloc.add_task(&spec.name)?;
            configs.push((spec.compose(&alloc, rig.schema())?, alloc.clone()));
        }
        let begun = Instant::now();
        let starts = configs
            .into_iter()
            .map(|(config, alloc)| rig.start_raw(config, alloc, None));
        let started: Vec<RunningTask> = stream::iter(starts).buffer_unordered(at_once).try_collect().await?;
        let took = begun.elapsed();
        self.tasks.extend(started);
        Ok(took)
    }

    /// `RecoverTask` of everybody, one after another, as an agent does when it starts.
    pub async fn recover_in_turn(&self, rig: &Rig) -> Result<Duration> {
        let begun = Instant::now();
        for handle in self.handles() {
            recover(rig, handle).await.context("RecoverTask")?;
        }
        Ok(begun.elapsed())
    }

    /// `RecoverTask` of everybody at once, as an agent does whose plugin died.
    pub async fn recover_at_once(&self, rig: &Rig) -> Result<Duration> {
        let begun = Instant::now();
        for outcome in join_all(self.handles().map(|handle| recover(rig, handle))).await {
            outcome.context("RecoverTask")?;
        }
        Ok(begun.elapsed())
    }

    fn handles(&self) -> impl Iterator<Item = TaskHandle> {
        self.tasks.iter().map(RunningTask::persisted_handle)
    }

    /// `StopTask` of everybody at once.
    pub async fn stop(&self, grace: Duration) -> Result<Duration> {
        let begun = Instant::now();
        for outcome in join_all(self.tasks.iter().map(|task| task.stop(grace, ""))).await {
            outcome.context("StopTask")?;
        }
        Ok(begun.elapsed())
    }

    /// `DestroyTask` of everybody at once; then the crowd is nobody. With `force`, also of what runs.
    pub async fn destroy(&mut self, force: bool) -> Result<Duration> {
        let begun = Instant::now();
        for outcome in join_all(self.tasks.iter().map(|task| task.destroy(force))).await {
            outcome.context("DestroyTask")?;
        }
        let took = begun.elapsed();
        self.tasks.clear();
        Ok(took)
    }

    /// What a host has open for each task as long as it runs: the wait for its exit, and its statistics.
    pub async fn attend(&self, interval: Duration) -> Result<Attendance> {
        let mut attendance = self.attend_exits();
        attendance.0.append(&mut self.attend_statistics(interval).await?.0);
        Ok(attendance)
    }

    /// The waits alone.
    pub fn attend_exits(&self) -> Attendance {
        let wait = |task: &RunningTask| {
            let (mut driver, task_id) = (task.driver(), task.id().to_owned());
            tokio::spawn(async move {
                // The answer is of no use here, only that it is waited for.
                driver.wait_task(WaitTaskRequest { task_id }).await.ok();
            })
        };
        Attendance(self.tasks.iter().map(wait).collect())
    }

    /// The statistics alone.
    pub async fn attend_statistics(&self, interval: Duration) -> Result<Attendance> {
        let mut attendance = Attendance(Vec::new());
        for stream in join_all(self.tasks.iter().map(|task| task.stats(interval))).await {
            let mut stream = stream.context("TaskStats")?;
            attendance.0.push(tokio::spawn(async move {
                while let Ok(Some(TaskStatsResponse { .. })) = stream.message().await {}
            }));
        }
        Ok(attendance)
    }
}

/// Open calls; they are given up with its drop.
pub struct Attendance(Vec<tokio::task::JoinHandle<()>>);

impl Drop for Attendance {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

async fn recover(rig: &Rig, handle: TaskHandle) -> Result<(), Status> {
    let request = RecoverTaskRequest {
        task_id: String::new(),
        handle: Some(handle),
    };
    rig.driver().recover_task(request).await.map(drop)
}

/// Lets this process, and what it starts, have as many descriptors as it may.
///
/// # Errors
/// If that are fewer than `count`.
pub fn allow_descriptors(count: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    ensure!(
        limit.maximum.is_none_or(|maximum| maximum >= count),
        "{count} descriptors are needed: raise the hard limit (ulimit -Hn)"
    );
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}

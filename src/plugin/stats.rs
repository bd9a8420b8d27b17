//! `TaskStats`: a stream of what a task uses, from the first sample to the task's exit.
//!
//! An error on this stream is logged by the host and the call repeated each interval, for ever; so it ends in order when
//! the task does, outlives a restart of the sampler behind it, and says nothing while there is nothing to say. Shapes
//! and units are those of Nomad's own drivers (`drivers/shared/executor`, `plugins/drivers/client.go`).

use super::base::{Compute, NodeCompute};
use super::convert;
use super::pb::driver as pb;
use super::pb::driver::{cpu_usage, memory_usage};
use super::streams::Answers;
use super::tasks::Tasks;
use crate::messages::Cx;
use crate::messages::doors::StatsDoor;
use crate::messages::stats::{CpuUsage, Samples, Usage, WatchId, Watched};
use crate::messages::task::Inspection;
use crate::spec::identity::TaskId;
use crate::spec::usage::MemoryUsage;
use futures_util::stream::{self, StreamExt as _};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Rest before a stream whose sampler died, or whose process is not known yet, is opened again.
const REST: Duration = Duration::from_millis(100);
/// The longest rest: the sampler, or containerd, has been away for some time.
const REST_MAX: Duration = Duration::from_secs(2);

/// Where samples come from.
pub(super) struct Source {
    pub(super) tasks: Tasks,
    pub(super) door: Arc<dyn StatsDoor>,
    pub(super) compute: NodeCompute,
}

/// A stream at the sampler. Its drop tells the sampler, so that no timer runs for nobody.
struct Watching {
    door: Arc<dyn StatsDoor>,
    id: WatchId,
    samples: Samples,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.door.unwatch(self.id);
    }
}

struct Reader {
    source: Source,
    task: TaskId,
    interval: Duration,
    /// What the task is known as; `None` after the sampler was lost, when it is asked for again.
    found: Option<Inspection>,
    watching: Option<Watching>,
    rest: Duration,
}

/// Samples until the task exits or is destroyed.
pub(super) async fn stream(
    source: Source,
    task: TaskId,
    interval: Duration,
    found: Inspection,
) -> Answers<pb::TaskStatsResponse> {
    let (tasks, waited) = (source.tasks.clone(), task.clone());
    let mut reader = Reader {
        source,
        task,
        interval,
        found: Some(found),
        watching: None,
        rest: REST,
    };
    match reader.watch().await {
        Some(watching) => reader.watching = watching,
        None => return stream::empty().boxed(),
    }
    let over = Box::pin(async move { tasks.wait(&waited).await.map(drop) });
    stream::unfold(reader, |mut reader| async {
        let usage = reader.next().await?;
        let compute = reader.source.compute.load();
        let message = response(&reader.task, &usage, compute.as_deref());
        Some((Ok(message), reader))
    })
    .take_until(over)
    .boxed()
}

impl Reader {
    /// The next sample; `None` if there is no such task any more.
    async fn next(&mut self) -> Option<Box<Usage>> {
        loop {
            if let Some(watching) = self.watching.as_mut() {
                match watching.samples.recv().await {
                    Some(usage) => {
                        self.rest = REST;
                        return Some(usage);
                    }
                    None => self.watching = None,
                }
            } else {
                sleep(self.rest).await;
                self.rest = (self.rest * 2).min(REST_MAX);
            }
            self.watching = self.watch().await?;
        }
    }

    /// Opens a stream at the sampler. `Some(None)`: try again later; `None`: there is no such task any more.
    async fn watch(&mut self) -> Option<Option<Watching>> {
        let found = match self.found.take() {
            Some(found) => found,
            None => match self.source.tasks.inspect(&self.task).await {
                Ok(found) => found,
                Err(status) if status.code() == tonic::Code::NotFound => return None,
                Err(_) => return Some(None),
            },
        };
        if found.exit.is_some() {
            return None;
        }
        // A task that was recovered while containerd was away: its process will be known when it is back.
        let Some(pid) = found.pid.filter(|pid| *pid != 0) else {
            return Some(None);
        };
        let watched = Watched {
            task: self.task.clone(),
            container: found.container,
            pid,
            interval: self.interval,
        };
        let door = &self.source.door;
        let opened = door.watch(watched, Cx::current()).await.ok();
        Some(opened.map(|(id, samples)| Watching {
            door: Arc::clone(door),
            id,
            samples,
        }))
    }
}

/// No part of it may be null: the host would end with a panic.
fn response(task: &TaskId, usage: &Usage, compute: Option<&Compute>) -> pb::TaskStatsResponse {
    let usage_of_all = pb::TaskResourceUsage {
        cpu: Some(cpu(&usage.cpu, compute)),
        memory: Some(memory(&usage.memory)),
    };
    pb::TaskStatsResponse {
        stats: Some(pb::TaskStats {
            id: task.to_string(),
            timestamp: Some(convert::timestamp(usage.at)),
            agg_resource_usage: Some(usage_of_all),
            ..Default::default()
        }),
    }
}

fn cpu(cpu: &CpuUsage, compute: Option<&Compute>) -> pb::CpuUsage {
    use cpu_usage::Fields;
    // `TOTAL_TICKS` is never listed: `nomad alloc status -stats` has a head for each listed field and no column for it.
    let measured = [
        (Fields::SystemMode, cpu.system.is_some()),
        (Fields::UserMode, cpu.user.is_some()),
        (Fields::ThrottledPeriods, cpu.throttled_periods.is_some()),
        (Fields::ThrottledTime, cpu.throttled_time.is_some()),
        (Fields::Percent, cpu.percent.is_some()),
    ];
    let percent = cpu.percent.unwrap_or_default();
    pb::CpuUsage {
        system_mode: cpu.system.unwrap_or_default(),
        user_mode: cpu.user.unwrap_or_default(),
        total_ticks: compute.map_or(0.0, |compute| ticks(percent, compute)),
        throttled_periods: cpu.throttled_periods.unwrap_or_default(),
        throttled_time: cpu.throttled_time.unwrap_or_default(),
        percent,
        measured_fields: listed(measured),
    }
}

/// Megahertz: the share of one core's average speed (Nomad `client/lib/cpustats`).
fn ticks(percent: f64, compute: &Compute) -> f64 {
    // Exact up to 2^32 MHz, which no node reaches.
    let total = f64::from(u32::try_from(compute.total_mhz).unwrap_or(u32::MAX));
    percent / 100.0 * total / f64::from(compute.cores)
}

fn memory(memory: &MemoryUsage) -> pb::MemoryUsage {
    use memory_usage::Fields;
    let measured = [
        (Fields::Rss, memory.rss.is_some()),
        (Fields::Cache, memory.cache.is_some()),
        (Fields::MaxUsage, memory.max_usage.is_some()),
        (Fields::KernelUsage, memory.kernel.is_some()),
        (Fields::KernelMaxUsage, memory.kernel_max.is_some()),
        (Fields::Usage, memory.usage.is_some()),
        (Fields::Swap, memory.swap.is_some()),
    ];
    pb::MemoryUsage {
        rss: memory.rss.unwrap_or_default(),
        cache: memory.cache.unwrap_or_default(),
        max_usage: memory.max_usage.unwrap_or_default(),
        kernel_usage: memory.kernel.unwrap_or_default(),
        kernel_max_usage: memory.kernel_max.unwrap_or_default(),
        usage: memory.usage.unwrap_or_default(),
        swap: memory.swap.unwrap_or_default(),
        measured_fields: listed(measured),
    }
}

fn listed<F: Into<i32>>(fields: impl IntoIterator<Item = (F, bool)>) -> Vec<i32> {
    fields
        .into_iter()
        .filter(|(_, there)| *there)
        .map(|(f, _)| f.into())
        .collect()
}

#[cfg(test)]
#[path = "stats_tests.rs"]
mod tests;

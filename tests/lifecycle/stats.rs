//! What a task uses, as the host is told: against the kernel's own counters, never against the luck of a clock.

use crate::bench::{Bench, container_of, group, kind, patience, secs, slowness};
use futures_util::future::join_all;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use testhost::procfs;
use testhost::rig::{RigOpts, RunningTask};
use testhost::wire::driver::{CpuUsage, MemoryUsage, TaskStatsResponse};
use testhost::within::within;
use tonic::{Code, Streaming};

group!(stats, Bench::new(), {
    a_busy_task_uses_what_its_cgroup_counts,
    memory_that_is_held_is_told,
    the_first_sample_is_early_also_where_the_interval_is_long,
    a_stream_ends_in_order_with_its_task,
    thirty_watchers_share_one_sweep_and_cost_next_to_nothing,
    a_relaunched_plugin_goes_on_without_a_gap,
});

group!(stats_interval, Bench::with(every_two_seconds()), {
    the_plugins_own_interval_goes_before_the_hosts,
});

const MIB: u64 = 1 << 20;
const BUSY: &str = "while :; do :; done";

/// The usual topology of the rig: its MHz per core.
const CORE_MHZ: f64 = 2000.0;

fn every_two_seconds() -> RigOpts {
    let mut opts = RigOpts::new(kind()).expect("CD_DRIVER_BIN");
    opts.config = json!({ "stats_interval": "2s" });
    opts
}

/// One message, with everything in it that a host relies on.
struct Sample {
    /// Seconds since the Unix epoch.
    at: f64,
    cpu: CpuUsage,
    memory: MemoryUsage,
}

fn epoch_now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("clock")
        .as_secs_f64()
}

fn read(task: &RunningTask, message: TaskStatsResponse) -> Sample {
    let stats = message.stats.expect("stats");
    assert_eq!(stats.id, task.id());
    let stamp = stats.timestamp.expect("a time");
    let at = stamp.seconds as f64 + f64::from(stamp.nanos) / 1e9;
    let usage = stats.agg_resource_usage.expect("usage");
    let (cpu, memory) = (usage.cpu.expect("cpu"), usage.memory.expect("memory"));
    for rate in [cpu.percent, cpu.user_mode, cpu.system_mode, cpu.total_ticks] {
        assert!(rate.is_finite() && rate >= 0.0, "{cpu:?}");
    }
    // TOTAL_TICKS has no column where listed fields are shown.
    assert!(!cpu.measured_fields.contains(&2), "{cpu:?}");
    assert!(
        [0, 1, 5].iter().all(|field| cpu.measured_fields.contains(field)),
        "{cpu:?}"
    );
    // RSS, CACHE and USAGE.
    assert!(
        [0, 1, 5].iter().all(|field| memory.measured_fields.contains(field)),
        "{memory:?}"
    );
    let ticks = cpu.percent / 100.0 * CORE_MHZ;
    assert!((cpu.total_ticks - ticks).abs() < 0.01, "{cpu:?}");
    Sample { at, cpu, memory }
}

async fn next(task: &RunningTask, stream: &mut Streaming<TaskStatsResponse>) -> Sample {
    let message = within(patience(), "a sample", stream.message())
        .await
        .expect("no error");
    read(task, message.expect("the stream goes on"))
}

async fn open(task: &RunningTask, interval: Duration) -> Streaming<TaskStatsResponse> {
    within(patience(), "TaskStats", task.stats(interval))
        .await
        .expect("TaskStats")
}

/// The number in a file of the task's cgroup, of either generation.
fn counted(pid: u32, v1: (&str, &str), v2: (&str, &str)) -> Option<u64> {
    let lookup = |(file, field): (&str, &str), dir: &PathBuf| {
        let text = std::fs::read_to_string(dir.join(file)).ok()?;
        match field {
            "" => text.trim().parse::<u64>().ok(),
            _ => text
                .lines()
                .find_map(|l| l.strip_prefix(field)?.strip_prefix(' ')?.trim().parse().ok()),
        }
    };
    let dirs = procfs::cgroups(pid);
    dirs.iter()
        .find_map(|dir| lookup(v1, dir))
        .or_else(|| dirs.iter().find_map(|dir| lookup(v2, dir)))
}

/// CPU seconds of a task's cgroup.
fn cpu_seconds(pid: u32) -> f64 {
    match counted(pid, ("cpuacct.usage", ""), ("none", "")) {
        Some(nanos) => nanos as f64 / 1e9,
        None => counted(pid, ("none", ""), ("cpu.stat", "usage_usec")).expect("CPU time") as f64 / 1e6,
    }
}

/// CPU seconds of a process, all threads.
fn process_seconds(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|f| f.parse::<f64>().ok()).expect("ticks");
    (ticks(11) + ticks(12)) / 100.0
}

async fn a_busy_task_uses_what_its_cgroup_counts(b: &mut Bench) {
    let task = b.start(b.sh(BUSY)).await;
    let (_, pid) = container_of(&task).await;
    let mut stream = open(&task, Duration::from_secs(1)).await;
    let first = next(&task, &mut stream).await;
    assert!((first.at - epoch_now()).abs() < secs(1).as_secs_f64(), "{}", first.at);
    assert!(first.cpu.percent > 0.0 && first.memory.usage > 0, "{:?}", first.cpu);
    let (begin, before) = (Instant::now(), cpu_seconds(pid));
    let (mut told, mut last, mut all) = (0.0, first.at, Vec::new());
    for _ in 0..4 {
        let sample = next(&task, &mut stream).await;
        told += sample.cpu.percent / 100.0 * (sample.at - last);
        last = sample.at;
        let parts = sample.cpu.user_mode + sample.cpu.system_mode;
        // The split is counted in ticks, ten milliseconds each.
        assert!((parts - sample.cpu.percent).abs() < 15.0, "{:?}", sample.cpu);
        all.push(sample);
    }
    let (passed, used) = (begin.elapsed().as_secs_f64(), cpu_seconds(pid) - before);
    // The same time by the same counter; they differ by the moments of reading.
    let slack = 0.15 * f64::from(slowness()) + used * 0.1;
    assert!(
        (told - used).abs() < slack,
        "{told} s told, {used} s counted in {passed} s"
    );
    for sample in &all {
        assert!(
            sample.cpu.percent < 110.0 * f64::from(slowness().min(2)),
            "{:?}",
            sample.cpu
        );
        assert_eq!(sample.cpu.throttled_periods, 0);
    }
    let ticks: BTreeSet<u64> = all.iter().map(|sample| sample.cpu.total_ticks.to_bits()).collect();
    assert_eq!(ticks.len(), all.len(), "the same ticks twice");
    let spacing: Vec<f64> = all.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    assert!(
        spacing.iter().all(|s| (0.8..=1.2 * f64::from(slowness())).contains(s)),
        "{spacing:?}"
    );
    drop(stream);
    task.destroy(true).await.expect("DestroyTask");
}

async fn memory_that_is_held_is_told(b: &mut Bench) {
    let held = 50 * MIB;
    let script = format!("(head -c {held} /dev/zero; sleep 3600) | tail -c {held}");
    let task = b.start(b.sh(&script).memory_mb(256)).await;
    let (_, pid) = container_of(&task).await;
    let mut stream = open(&task, Duration::from_millis(200)).await;
    let end = Instant::now() + patience();
    // It is filled by and by; two equal samples in a row mean that it is full.
    let (mut before, mut sample) = (0, next(&task, &mut stream).await);
    while sample.memory.rss < held || sample.memory.rss != before {
        assert!(
            Instant::now() < end,
            "{} of {held} bytes: {:?}",
            sample.memory.rss,
            sample.memory
        );
        before = sample.memory.rss;
        sample = next(&task, &mut stream).await;
    }
    let memory = &sample.memory;
    assert!(memory.rss < held + 20 * MIB, "{memory:?}");
    assert!(memory.usage >= memory.rss, "{memory:?}");
    let usage = counted(pid, ("memory.usage_in_bytes", ""), ("memory.current", "")).expect("usage");
    assert!(memory.usage.abs_diff(usage) < 4 * MIB, "{usage} counted, {memory:?}");
    let rss = counted(pid, ("memory.stat", "total_rss"), ("memory.stat", "anon")).expect("rss");
    assert!(memory.rss.abs_diff(rss) < MIB, "{rss} counted, {memory:?}");
    let peak = counted(pid, ("memory.max_usage_in_bytes", ""), ("memory.peak", ""));
    assert_eq!(peak.is_some(), memory.measured_fields.contains(&2), "{memory:?}");
    if let Some(peak) = peak {
        assert!(
            memory.max_usage >= held && memory.max_usage <= peak,
            "{peak} counted, {memory:?}"
        );
    }
    let swap = counted(pid, ("memory.stat", "total_swap"), ("memory.swap.current", ""));
    assert_eq!(swap.is_some(), memory.measured_fields.contains(&6), "{memory:?}");
    drop(stream);
    task.destroy(true).await.expect("DestroyTask");
}

async fn the_first_sample_is_early_also_where_the_interval_is_long(b: &mut Bench) {
    let task = b.start(b.sh(BUSY)).await;
    for interval in [10, 3600] {
        let begin = Instant::now();
        let mut stream = open(&task, Duration::from_secs(interval)).await;
        let sample = next(&task, &mut stream).await;
        assert!(begin.elapsed() < secs(1), "{:?}", begin.elapsed());
        assert!(sample.cpu.percent > 0.0, "{:?}", sample.cpu);
    }
    // Without an interval: that of the host by default.
    let mut stream = open(&task, Duration::ZERO).await;
    let (first, second) = (next(&task, &mut stream).await, next(&task, &mut stream).await);
    assert!(second.at - first.at > 0.8, "{} s", second.at - first.at);
    drop(stream);
    task.destroy(true).await.expect("DestroyTask");
}

async fn ended(mut stream: Streaming<TaskStatsResponse>) {
    let drained = async {
        while let Some(message) = stream.message().await.expect("no error") {
            drop(message);
        }
    };
    within(secs(5), "the end of the stream", drained).await;
}

async fn a_stream_ends_in_order_with_its_task(b: &mut Bench) {
    let second = Duration::from_secs(1);
    let task = b.start(b.sh("while ! [ -e /alloc/end ]; do sleep 0.1; done")).await;
    let mut streams = join_all((0..3).map(|_| open(&task, second))).await;
    next(&task, &mut streams[0]).await;
    // One reader goes away; the others do not notice.
    drop(streams.pop());
    std::fs::write(task.alloc.shared_dir().join("end"), "").expect("the sign to end");
    join_all(streams.into_iter().map(ended)).await;
    // Of a task that has ended there is nothing to tell, and no error.
    ended(open(&task, second).await).await;
    task.destroy(false).await.expect("DestroyTask");
    let begin = Instant::now();
    let status = task.stats(second).await.expect_err("a destroyed task");
    assert_eq!(
        (status.code(), status.message()),
        (Code::NotFound, "task not found for given id")
    );
    assert!(begin.elapsed() < secs(1));
    let task = b.start(b.sleeper()).await;
    let mut stream = open(&task, second).await;
    next(&task, &mut stream).await;
    let (destroyed, ()) = tokio::join!(task.destroy(true), ended(stream));
    destroyed.expect("DestroyTask");
}

async fn thirty_watchers_share_one_sweep_and_cost_next_to_nothing(b: &mut Bench) {
    let tasks = join_all((0..3).map(|n| b.start(b.sleeper().name(format!("watched-{n}"))))).await;
    let plugin = b.rig.plugin().pid();
    let interval = secs(1);
    let mut streams = Vec::new();
    for n in 0..30 {
        streams.push((&tasks[n % tasks.len()], open(&tasks[n % tasks.len()], interval).await));
        tokio::time::sleep(Duration::from_millis(35)).await;
    }
    // Beats come together within a few samples.
    for _ in 0..8 {
        join_all(streams.iter_mut().map(|(task, stream)| next(task, stream))).await;
    }
    let (begin, before) = (Instant::now(), process_seconds(plugin));
    let mut beats = Vec::new();
    for _ in 0..4 {
        beats.push(join_all(streams.iter_mut().map(|(task, stream)| next(task, stream))).await);
    }
    let share = (process_seconds(plugin) - before) / begin.elapsed().as_secs_f64();
    assert!(share < 0.05, "{:.1} % of a core for 30 watchers", share * 100.0);
    println!("    30 watchers: {:.2} % of a core", share * 100.0);
    // Streams differ in how many samples they have had, so it is the moment within the interval that is compared.
    let (first, length) = (beats[0][0].at, interval.as_secs_f64());
    for sample in beats.iter().flatten() {
        let after = (sample.at - first).rem_euclid(length);
        let apart = after.min(length - after);
        assert!(
            apart < 0.1 * f64::from(slowness()),
            "{apart} s between two streams of one beat"
        );
    }
    drop(streams);
    // Nobody watches: nothing is read any more.
    tokio::time::sleep(interval).await;
    let (begin, before) = (Instant::now(), process_seconds(plugin));
    tokio::time::sleep(secs(2)).await;
    let share = (process_seconds(plugin) - before) / begin.elapsed().as_secs_f64();
    assert!(share < 0.02, "{:.1} % of a core for nobody", share * 100.0);
    for destroyed in join_all(tasks.iter().map(|task| task.destroy(true))).await {
        destroyed.expect("DestroyTask");
    }
}

async fn a_relaunched_plugin_goes_on_without_a_gap(b: &mut Bench) {
    let task = b.start(b.sh(BUSY)).await;
    let mut stream = open(&task, Duration::from_secs(1)).await;
    let before = next(&task, &mut stream).await;
    b.rig.relaunch().await.expect("relaunch");
    assert!(
        stream.message().await.is_err(),
        "the stream of a dead process ended in order"
    );
    let begin = Instant::now();
    let mut stream = open(&task, Duration::from_secs(1)).await;
    let first = next(&task, &mut stream).await;
    assert!(begin.elapsed() < secs(1), "{:?}", begin.elapsed());
    assert!(first.at > before.at);
    let second = next(&task, &mut stream).await;
    // Not the CPU time of its whole life in one sample, and not none.
    for sample in [&first, &second] {
        assert!(
            sample.cpu.percent > 1.0 && sample.cpu.percent < 250.0,
            "{:?}",
            sample.cpu
        );
    }
    let (destroyed, ()) = tokio::join!(task.destroy(true), ended(stream));
    destroyed.expect("DestroyTask");
}

async fn the_plugins_own_interval_goes_before_the_hosts(b: &mut Bench) {
    let task = b.start(b.sleeper()).await;
    for asked in [Duration::from_millis(200), Duration::from_secs(60)] {
        let mut stream = open(&task, asked).await;
        let mut times = Vec::new();
        for _ in 0..3 {
            times.push(next(&task, &mut stream).await.at);
        }
        let spacing: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let longest = 2.3 * f64::from(slowness());
        assert!(spacing.iter().all(|s| (1.7..longest).contains(s)), "{spacing:?}");
    }
    task.destroy(true).await.expect("DestroyTask");
}

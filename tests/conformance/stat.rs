//! Statistics and out of memory.

use crate::bench::{Bench, container_of, patience, secs, slowness};
use crate::field::{Verdict, consent, group, operated, shown};
use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use testhost::procfs;
use testhost::rig::RunningTask;
use testhost::wire::driver::cpu_usage::Fields as CpuFields;
use testhost::wire::driver::{CpuUsage, MemoryUsage, TaskStatsResponse};
use testhost::within::within;
use tonic::{Code, Streaming};

group!(stat, STAT, operated(consent()),
    together {
        stat_01_the_first_sample_is_early_and_of_now,
        stat_04_a_sample_is_complete_and_lists_what_is_measured,
        stat_06_streams_end_with_their_task,
        stat_07_an_unknown_task_is_not_found_at_once,
        stat_09_out_of_memory_is_told,
        stat_10_sigkill_from_outside_is_not_out_of_memory,
    }
    alone {
        stat_02_samples_of_a_busy_task_change,
        stat_03_a_busy_core_is_a_hundred_percent,
        stat_05_a_reader_that_does_not_read_holds_up_nobody,
    }
);

const BUSY: &str = "while :; do :; done";

/// Of the topology that the host tells: MHz of one core.
const CORE_MHZ: f64 = 2000.0;

struct Sample {
    /// Seconds since the Unix epoch.
    at: f64,
    cpu: CpuUsage,
    memory: MemoryUsage,
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock")
        .as_secs_f64()
}

async fn open(task: &RunningTask, interval: Duration) -> Streaming<TaskStatsResponse> {
    within(patience(), "TaskStats", task.stats(interval))
        .await
        .expect("TaskStats")
}

async fn next(stream: &mut Streaming<TaskStatsResponse>) -> Sample {
    let message = within(patience(), "a sample", stream.message())
        .await
        .expect("no error");
    let stats = message.expect("the stream goes on").stats.expect("stats");
    let stamp = stats.timestamp.expect("a time");
    let usage = stats.agg_resource_usage.expect("usage");
    Sample {
        at: stamp.seconds as f64 + f64::from(stamp.nanos) / 1e9,
        cpu: usage.cpu.expect("cpu"),
        memory: usage.memory.expect("memory"),
    }
}

async fn ended(mut stream: Streaming<TaskStatsResponse>) {
    let drained = async {
        while let Some(sample) = stream.message().await.expect("the end without an error") {
            drop(sample);
        }
    };
    within(secs(5), "the end of the stream", drained).await;
}

async fn stat_01_the_first_sample_is_early_and_of_now(b: &Bench) {
    let task = b.start(b.sleeper()).await;
    let begin = Instant::now();
    let mut stream = open(&task, Duration::from_secs(10)).await;
    let sample = next(&mut stream).await;
    assert!(begin.elapsed() < secs(1), "it took {:?}", begin.elapsed());
    assert!(
        (sample.at - now()).abs() < secs(1).as_secs_f64(),
        "{} at {}",
        sample.at,
        now()
    );
    drop(stream);
    task.destroy(true).await.expect("DestroyTask");
}

async fn stat_02_samples_of_a_busy_task_change(b: &mut Bench) {
    let task = b.start(b.sh(BUSY)).await;
    let mut stream = open(&task, Duration::from_secs(1)).await;
    let mut ticks = BTreeSet::new();
    for _ in 0..3 {
        let sample = next(&mut stream).await;
        assert!(sample.cpu.total_ticks > 0.0, "{:?}", sample.cpu);
        assert!(sample.memory.usage > 0 && sample.memory.rss > 0, "{:?}", sample.memory);
        ticks.insert(sample.cpu.total_ticks.to_bits());
    }
    assert_eq!(ticks.len(), 3, "the same ticks twice");
    drop(stream);
    task.destroy(true).await.expect("DestroyTask");
}

/// On a machine with other work a busy loop does not get the whole core: then the kernel's own count is the measure.
async fn stat_03_a_busy_core_is_a_hundred_percent(b: &mut Bench) {
    let task = b.start(b.sh(BUSY)).await;
    let (_, pid) = container_of(&task).await;
    let seconds = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |n: usize| {
            fields
                .get(n)
                .and_then(|field| field.parse::<f64>().ok())
                .expect("ticks")
        };
        (ticks(11) + ticks(12)) / 100.0
    };
    let mut stream = open(&task, Duration::from_secs(1)).await;
    let first = next(&mut stream).await;
    let (begin, before) = (Instant::now(), seconds());
    let (mut told, mut last) = (0.0, first.at);
    for _ in 0..4 {
        let sample = next(&mut stream).await;
        assert!(
            sample.cpu.percent <= 110.0 * f64::from(slowness().min(2)),
            "{:?}",
            sample.cpu
        );
        // TotalCompute / NumCores is the MHz of one core.
        let ticks = sample.cpu.percent / 100.0 * CORE_MHZ;
        assert!((sample.cpu.total_ticks - ticks).abs() < 0.01, "{:?}", sample.cpu);
        told += sample.cpu.percent / 100.0 * (sample.at - last);
        last = sample.at;
    }
    let (passed, used) = (begin.elapsed().as_secs_f64(), seconds() - before);
    let slack = 0.2 * f64::from(slowness()) + used * 0.1;
    assert!(
        (told - used).abs() < slack,
        "{told} s told, {used} s counted in {passed} s"
    );
    if used / passed > 0.95 {
        assert!(told / passed > 0.80, "{told} s of {passed} s");
    }
    drop(stream);
    task.destroy(true).await.expect("DestroyTask");
}

async fn stat_04_a_sample_is_complete_and_lists_what_is_measured(b: &Bench) {
    let task = b.start(b.sleeper()).await;
    let mut stream = open(&task, Duration::from_secs(1)).await;
    for _ in 0..2 {
        // `next` refuses null parts.
        let sample = next(&mut stream).await;
        assert!(!sample.cpu.measured_fields.is_empty() && !sample.memory.measured_fields.is_empty());
        let ticks = i32::from(CpuFields::TotalTicks);
        assert!(!sample.cpu.measured_fields.contains(&ticks), "{:?}", sample.cpu);
        let rates = [
            sample.cpu.percent,
            sample.cpu.user_mode,
            sample.cpu.system_mode,
            sample.cpu.total_ticks,
        ];
        assert!(
            rates.iter().all(|rate| rate.is_finite() && *rate >= 0.0),
            "{:?}",
            sample.cpu
        );
    }
    drop(stream);
    task.destroy(true).await.expect("DestroyTask");
}

/// Many samples for nobody: calls about the task and others are answered, and the plugin does not grow.
async fn stat_05_a_reader_that_does_not_read_holds_up_nobody(b: &mut Bench) {
    let task = b.start(b.sleeper()).await;
    let pid = b.rig.plugin().pid();
    let before = procfs::anonymous_kib(pid).unwrap_or_default();
    let mut unread = Vec::new();
    for _ in 0..50 {
        unread.push(open(&task, Duration::from_millis(100)).await);
    }
    let mut read = open(&task, Duration::from_millis(200)).await;
    let begin = Instant::now();
    for _ in 0..20 {
        next(&mut read).await;
    }
    assert!(
        begin.elapsed() < secs(8),
        "20 samples of 200 ms took {:?}",
        begin.elapsed()
    );
    within(secs(1), "InspectTask", task.status())
        .await
        .expect("InspectTask");
    assert_eq!(b.run(b.sh("echo other")).await, (0, "other\n".to_owned()));
    let grown = procfs::anonymous_kib(pid).unwrap_or_default().saturating_sub(before);
    assert!(grown < 16 * 1024, "the plugin grew by {grown} KiB");
    drop((unread, read));
    task.destroy(true).await.expect("DestroyTask");
}

async fn stat_06_streams_end_with_their_task(b: &Bench) {
    let second = Duration::from_secs(1);
    let task = b.start(b.sh("while ! [ -e /alloc/end ]; do sleep 0.1; done")).await;
    let (mut stays, goes) = (open(&task, second).await, open(&task, second).await);
    next(&mut stays).await;
    drop(goes);
    next(&mut stays).await;
    std::fs::write(task.alloc.shared_dir().join("end"), "").expect("the sign to end");
    ended(stays).await;
    task.destroy(false).await.expect("DestroyTask");
    let task = b.start(b.sleeper()).await;
    let mut stream = open(&task, second).await;
    next(&mut stream).await;
    let (destroyed, ()) = tokio::join!(task.destroy(true), ended(stream));
    destroyed.expect("DestroyTask");
}

/// The host asks once a second where a stream fails, for a while after a task is gone.
async fn stat_07_an_unknown_task_is_not_found_at_once(b: &Bench) {
    let task = b.start(b.sh("true").name("stat-07")).await;
    task.exit(patience()).await;
    task.destroy(false).await.expect("DestroyTask");
    let about = |lines: Vec<String>| {
        let loud =
            |line: &String| line.contains(task.id()) && ["\"error\"", "\"warn\""].iter().any(|l| line.contains(l));
        lines.iter().filter(|line| loud(line)).count()
    };
    let before = about(b.rig.plugin().stderr_lines());
    for _ in 0..20 {
        let begin = Instant::now();
        let status = task.stats(Duration::from_secs(1)).await.expect_err("a destroyed task");
        assert_eq!(status.code(), Code::NotFound, "{status:?}");
        assert!(begin.elapsed() < secs(1), "it took {:?}", begin.elapsed());
    }
    assert_eq!(about(b.rig.plugin().stderr_lines()), before, "the log is flooded");
}

/// Two ways to want more than 10 MiB. Without swap for tasks, which is the driver's default, nothing else can give.
async fn stat_09_out_of_memory_is_told(b: &Bench) -> Verdict {
    for script in ["x=x; while :; do x=$x$x; done", "tail /dev/zero"] {
        let task = b.start(b.sh(script).memory_mb(10)).await;
        let result = task.exit(secs(5)).await;
        assert_ne!(result.exit_code, 0, "{script}: {result:?}");
        assert!(result.oom_killed, "{script}: {result:?}");
        assert!(
            task.status()
                .await
                .expect("InspectTask")
                .result
                .is_some_and(|seen| seen == result)
        );
        task.destroy(false).await.expect("DestroyTask");
    }
    shown()
}

async fn stat_10_sigkill_from_outside_is_not_out_of_memory(b: &Bench) {
    let task = b.start(b.sleeper().memory_mb(64)).await;
    let (_, pid) = container_of(&task).await;
    let process = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a process id")).expect("a process");
    rustix::process::kill_process(process, rustix::process::Signal::KILL).expect("SIGKILL");
    let result = task.exit(secs(5)).await;
    assert_eq!((result.exit_code, result.signal, result.oom_killed), (137, 9, false));
    task.destroy(false).await.expect("DestroyTask");
}

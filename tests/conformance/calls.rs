//! What must not cost a call to containerd for each task: containerd counts its own calls.

use crate::bench::{Bench, kind, patience, secs, slowness};
use crate::field::{consent, group, runtime};
use futures_util::future::join_all;
use serde_json::json;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use testhost::rig::{RigOpts, RunningTask};
use testhost::wire::driver::RecoverTaskRequest;
use testhost::wire::driver::fingerprint_response::HealthState;
use testhost::within::within;

group!(calls, CALLS, counted(),
    together {}
    alone {
        rec_10_many_recoveries_need_one_listing,
        stat_08_many_watched_tasks_need_no_call,
    }
);

/// Where this process's containerd tells its metrics.
static METRICS: OnceLock<String> = OnceLock::new();

/// A bench whose containerd tells how often it was called.
async fn counted() -> Bench {
    let addr = METRICS.get_or_init(|| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address").to_string()
    });
    let mut opts = RigOpts::new(kind()).expect("CD_DRIVER_BIN");
    opts.config = consent();
    if runtime() == "crun" {
        opts.config["containerd_runtime"] = json!("crun");
        opts.without_unified = true;
    }
    opts.containerd_config = format!("\n[metrics]\n  address = \"{addr}\"\n");
    Bench::with(opts).await
}

/// Calls that containerd has answered about tasks and containers.
async fn answered() -> u64 {
    let addr = METRICS.get().expect("the bench is there");
    let answer = testhost::http::request(addr, "GET", "/v1/metrics", "text/plain", &[])
        .await
        .expect("the metrics");
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let about = |line: &&str| {
        line.starts_with("grpc_server_handled_total{")
            && ["services.tasks.v1.Tasks\"", "services.containers.v1.Containers\""]
                .iter()
                .any(|name| line.contains(name))
    };
    let count = |line: &str| {
        line.rsplit(' ')
            .next()
            .and_then(|number| number.parse::<f64>().ok())
            .expect("a count")
    };
    let lines: Vec<&str> = text.lines().filter(about).collect();
    assert!(
        !lines.is_empty(),
        "containerd counts no calls: {}",
        &text[..text.len().min(400)]
    );
    lines.into_iter().map(|line| count(line) as u64).sum()
}

/// How many at once; a user-mode guest takes seconds for each.
fn many() -> usize {
    if slowness() > 1 { 8 } else { 40 }
}

/// Starts them, and sees that the counter counts: a start takes several calls.
async fn tasks(b: &Bench, count: usize) -> Vec<RunningTask> {
    let before = answered().await;
    let mut all = Vec::new();
    while all.len() < count {
        let names = (0..8).map(|n| format!("many-{}-{n}", all.len()));
        all.extend(join_all(names.map(|name| b.start(b.sleeper().name(name)))).await);
    }
    let calls = answered().await - before;
    assert!(
        calls >= 2 * count as u64,
        "{calls} calls were counted for {count} starts"
    );
    all
}

async fn destroy(tasks: Vec<RunningTask>) {
    for some in tasks.chunks(8) {
        for destroyed in join_all(some.iter().map(|task| task.destroy(true))).await {
            destroyed.expect("DestroyTask");
        }
    }
}

/// One by one as when an agent starts, and all at once as when a plugin was killed.
async fn rec_10_many_recoveries_need_one_listing(b: &mut Bench) {
    let tasks = tasks(b, many()).await;
    for at_once in [false, true] {
        b.rig.relaunch_only().await.expect("relaunch");
        b.rig
            .wait_health(HealthState::Healthy, patience())
            .await
            .expect("healthy");
        let before = answered().await;
        let begin = Instant::now();
        let one = async |task: &RunningTask| {
            let request = RecoverTaskRequest {
                task_id: String::new(),
                handle: Some(task.persisted_handle()),
            };
            b.rig.driver().recover_task(request).await.expect("RecoverTask");
        };
        if at_once {
            within(patience(), "all recoveries", join_all(tasks.iter().map(one))).await;
        } else {
            for task in &tasks {
                within(patience(), "RecoverTask", one(task)).await;
            }
        }
        let (took, calls) = (begin.elapsed(), answered().await - before);
        println!(
            "    {} recoveries, at once {at_once}: {took:?}, {calls} calls",
            tasks.len()
        );
        // Five milliseconds each: a thousand in five seconds.
        let most = Duration::from_millis(5) * u32::try_from(tasks.len()).expect("a few") * slowness() + secs(1) / 2;
        assert!(took < most, "{} recoveries took {took:?}", tasks.len());
        assert!(
            calls < tasks.len() as u64 / 2,
            "{calls} calls to containerd for {} recoveries",
            tasks.len()
        );
    }
    destroy(tasks).await;
}

async fn stat_08_many_watched_tasks_need_no_call(b: &mut Bench) {
    let tasks = tasks(b, many()).await;
    let mut streams = join_all(tasks.iter().map(|task| task.stats(Duration::from_secs(1)))).await;
    let sample =
        async |stream: &mut Result<tonic::Streaming<testhost::wire::driver::TaskStatsResponse>, tonic::Status>| {
            let stream = stream.as_mut().expect("TaskStats");
            let message = within(patience(), "a sample", stream.message())
                .await
                .expect("no error");
            assert!(message.is_some_and(|message| message.stats.is_some()));
        };
    // The first of each stream may have to find its cgroup.
    for stream in &mut streams {
        sample(stream).await;
    }
    let (plugin, begin) = (b.rig.plugin().pid(), Instant::now());
    let (before, cpu) = (answered().await, cpu_seconds(plugin));
    for _ in 0..5 {
        for stream in &mut streams {
            sample(stream).await;
        }
    }
    let (calls, seconds) = (answered().await - before, begin.elapsed().as_secs_f64());
    let share = (cpu_seconds(plugin) - cpu) / seconds;
    println!(
        "    {} tasks: {calls} calls in {seconds:.1} s, {:.2} % of a core",
        tasks.len(),
        share * 100.0
    );
    // The probe of the plugin's health goes on meanwhile.
    assert!(
        calls < tasks.len() as u64,
        "{calls} calls for {} samples",
        tasks.len() * 5
    );
    let most = 0.002 * tasks.len() as f64 * f64::from(slowness());
    assert!(
        share < most,
        "{:.1} % of a core for {} tasks",
        share * 100.0,
        tasks.len()
    );
    drop(streams);
    destroy(tasks).await;
}

/// CPU time of a process, all threads.
fn cpu_seconds(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process");
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |n: usize| {
        fields
            .get(n)
            .and_then(|field| field.parse::<f64>().ok())
            .expect("ticks")
    };
    (ticks(11) + ticks(12)) / 100.0
}

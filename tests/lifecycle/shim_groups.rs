//! Tasks that share a shim: as many as allowed, and none of them any worse for it.
//!
//! With `CD_SHIM_MEMORY` set to a number of tasks, `shim_memory` prints what the shims of so many hold.

use crate::bench::{Bench, assert_running, container_of, group, kind, patience, secs, settle};
use containerd_client::services::v1::sandbox::store_client::StoreClient;
use containerd_client::services::v1::sandbox::{StoreCreateRequest, StoreDeleteRequest};
use containerd_client::types::Sandbox;
use containerd_client::types::sandbox::Runtime;
use futures_util::future::join_all;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;
use testhost::containerd::ContainerdKind;
use testhost::procfs;
use testhost::rig::{RigOpts, RunningTask};
use testhost::task::TaskSpec;
use testhost::wire::driver::fingerprint_response::HealthState;
use testhost::within::within;
use tokio::process::Command;

group!(shim_groups, bench(json!({ "shim_group": "node", "shim_group_max": MOST, "reaper": { "enabled": false } })), {
    a_shim_has_no_more_tasks_than_its_most,
    the_end_of_one_task_does_nothing_to_the_others,
    the_first_task_can_go_first,
    of_a_killed_shim_each_task_is_said_to_be_lost,
    a_shim_that_hangs_is_not_killed_for_one_task,
    the_next_plugin_knows_who_shares_a_shim,
    tasks_outlive_a_containerd_that_stops_and_starts,
    an_exit_is_told_by_the_shared_shim_while_containerd_is_away,
    starts_and_removals_at_once_do_not_meet_in_a_shim_that_ends,
    a_start_that_is_refused_beside_others_is_refused_for_good,
    the_audit_tells_whose_a_shared_shim_is,
    the_audit_removes_a_sandbox_record_that_nobody_needs,
    containerd_hands_a_container_to_its_shim,
});

group!(shim_groups_by_allocation, bench(json!({
    "shim_group": "alloc", "runtimes": [{ "other": "io.containerd.runc.v2 runc" }],
})), {
    tasks_of_one_allocation_share_a_shim_and_others_do_not,
    another_runtime_has_another_shim,
});

group!(
    shim_memory,
    Bench::bare(RigOpts::new(kind()).expect("CD_DRIVER_BIN")),
    if std::env::var_os("CD_SHIM_MEMORY").is_some(),
    { what_shims_hold }
);

/// The most tasks of one shim here.
const MOST: usize = 4;

const LONG: Duration = Duration::from_secs(3600);

async fn bench(config: serde_json::Value) -> Bench {
    let mut opts = RigOpts::new(kind()).expect("CD_DRIVER_BIN");
    opts.config = config;
    Bench::with(opts).await
}

/// Prints as long as it runs, ends by SIGTERM with this code, and by a file with 50 more.
fn ticks(b: &Bench, name: &str, code: usize) -> TaskSpec {
    let script = format!(
        "trap 'exit {code}' TERM; echo ready; n=0; while ! [ -e /alloc/end ]; do n=$((n+1)); echo tick $n; sleep 0.1; done; exit {}",
        code + 50
    );
    b.sh(&script).name(name)
}

fn end(task: &RunningTask) {
    std::fs::write(task.alloc.shared_dir().join("end"), "").expect("the sign to end");
}

/// So many tasks, one after the other, so that it is known which was first.
async fn several(b: &Bench, count: usize) -> Vec<RunningTask> {
    let mut tasks = Vec::new();
    for n in 0..count {
        let task = b.start(ticks(b, &format!("shared-{n}"), 10 + n)).await;
        task.wait_line(patience(), "ready").await;
        tasks.push(task);
    }
    tasks
}

fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, signal).expect("a signal");
}

/// The shims, and how many tasks each has: their processes are its children.
fn shims(b: &Bench) -> BTreeMap<u32, usize> {
    let children = |pid: u32| {
        let file = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        file.split_whitespace().count()
    };
    let of = |pid: u32| {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten();
        let of_thread = threads.map(|thread| {
            let file = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            file.split_whitespace().count()
        });
        of_thread.sum::<usize>().max(children(pid))
    };
    b.rig.containerd.shims().into_iter().map(|pid| (pid, of(pid))).collect()
}

/// That it goes on: prints and runs commands.
async fn assert_well(task: &RunningTask) {
    assert_running(task).await;
    let before = task.lines().len();
    let lines = async {
        while task.lines().len() < before + 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(patience(), "more lines", lines).await;
    let answer = within(patience(), "ExecTask", task.exec(&["echo", "hello"], secs(20)))
        .await
        .expect("ExecTask");
    assert_eq!(String::from_utf8_lossy(&answer.stdout), "hello\n");
}

/// That it obeys: its own code after its stop signal.
async fn stop_and_destroy(task: &RunningTask, code: usize) {
    within(patience(), "StopTask", task.stop(LONG, ""))
        .await
        .expect("StopTask");
    let exit = task.exit(patience()).await;
    assert_eq!((exit.exit_code, exit.signal), (code as i32, 0));
    destroy(task, false).await;
}

async fn destroy(task: &RunningTask, force: bool) {
    within(patience(), "DestroyTask", task.destroy(force))
        .await
        .expect("DestroyTask");
}

async fn no_shims(b: &Bench) {
    let left = || shims(b).keys().map(u32::to_string).collect();
    assert_eq!(settle(secs(10), left).await, Vec::<String>::new(), "shims are left");
}

async fn healthy(b: &Bench) {
    b.rig
        .wait_health(HealthState::Healthy, secs(35))
        .await
        .expect("healthy");
}

async fn a_shim_has_no_more_tasks_than_its_most(b: &mut Bench) {
    let names: Vec<String> = (0..2 * MOST + 1).map(|n| format!("shared-{n}")).collect();
    let tasks = join_all(names.iter().map(|name| b.start(ticks(b, name, 10)))).await;
    let shims = shims(b);
    assert_eq!(shims.values().sum::<usize>(), tasks.len(), "{shims:?}");
    assert!(
        shims.len() == 3 && shims.values().all(|count| *count <= MOST),
        "{shims:?}"
    );
    let mut of_tasks = Vec::new();
    for task in &tasks {
        assert_well(task).await;
        of_tasks.extend(procfs::cgroups(container_of(task).await.1));
    }
    for shim in shims.keys() {
        let its = procfs::cgroups(*shim);
        assert!(
            !of_tasks
                .iter()
                .any(|of| its.iter().any(|dir| dir.starts_with(of) && of.components().count() > 5)),
            "a shim in a task's cgroup: {its:?}"
        );
    }
    // One goes, and its place is taken.
    destroy(&tasks[0], true).await;
    let another = b.start(ticks(b, "another", 30)).await;
    let now = self::shims(b);
    assert!(now.len() == 3 && now.values().all(|count| *count <= MOST), "{now:?}");
    // All at once: each is answered before its shim goes.
    join_all(tasks[1..].iter().chain([&another]).map(|task| destroy(task, true))).await;
    no_shims(b).await;
}

async fn the_end_of_one_task_does_nothing_to_the_others(b: &mut Bench) {
    let stays = b.start(ticks(b, "stays", 21)).await;
    let ends = b.start(ticks(b, "ends", 22)).await;
    let killed = b.start(ticks(b, "killed", 23)).await;
    let script = "while ! [ -e /alloc/end ]; do sleep 0.1; done; exec dd if=/dev/zero of=/dev/null bs=400M count=1";
    let hungry = b.start(b.sh(script).name("hungry").memory_mb(48)).await;
    assert_eq!(shims(b).len(), 1);
    end(&ends);
    assert_eq!(ends.exit(patience()).await.exit_code, 72);
    killed.signal("SIGKILL").await.expect("SignalTask");
    let exit = killed.exit(patience()).await;
    assert_eq!((exit.exit_code, exit.signal, exit.oom_killed), (137, 9, false));
    let answer = within(patience(), "WaitTask", killed.wait()).await.expect("WaitTask");
    assert!(!answer.err.contains("lost"), "its shim lives: {:?}", answer.err);
    end(&hungry);
    let exit = hungry.exit(patience()).await;
    assert_eq!((exit.exit_code, exit.oom_killed), (137, true));
    assert_well(&stays).await;
    for task in [&ends, &killed, &hungry] {
        destroy(task, false).await;
        assert_well(&stays).await;
    }
    let mut stats = stays.stats(Duration::from_secs(1)).await.expect("TaskStats");
    let sample = within(patience(), "a sample", stats.message())
        .await
        .expect("TaskStats");
    assert!(sample.is_some());
    drop(stats);
    stop_and_destroy(&stays, 21).await;
    no_shims(b).await;
}

/// Its bundle is where the shim works.
async fn the_first_task_can_go_first(b: &mut Bench) {
    let tasks = several(b, 3).await;
    let shim = shims(b);
    assert_eq!(shim.len(), 1);
    stop_and_destroy(&tasks[0], 10).await;
    assert_well(&tasks[1]).await;
    let joins = b.start(ticks(b, "joins", 31).option("tty", json!(true))).await;
    assert_eq!(shims(b).keys().collect::<Vec<_>>(), shim.keys().collect::<Vec<_>>());
    assert_well(&joins).await;
    destroy(&tasks[1], true).await;
    assert_well(&tasks[2]).await;
    stop_and_destroy(&joins, 31).await;
    stop_and_destroy(&tasks[2], 12).await;
    no_shims(b).await;
}

async fn of_a_killed_shim_each_task_is_said_to_be_lost(b: &mut Bench) {
    let tasks = several(b, MOST).await;
    let (shared, other) = (shims(b), b.start(ticks(b, "other", 41)).await);
    assert_eq!((shared.len(), shims(b).len()), (1, 2));
    let mut pids = Vec::new();
    for task in &tasks {
        pids.push(container_of(task).await.1);
    }
    for pid in shared.keys() {
        send(*pid, Signal::KILL);
    }
    for task in &tasks {
        let answer = within(patience(), "WaitTask", task.wait()).await.expect("WaitTask");
        let exit = answer.result.expect("a result");
        assert!(
            exit.exit_code != 0 && answer.err.contains("shim has died"),
            "{exit:?} {:?}",
            answer.err
        );
    }
    let alive = || {
        let alive = pids.iter().filter(|pid| procfs::alive(**pid));
        alive.map(u32::to_string).collect()
    };
    assert_eq!(settle(secs(10), alive).await, Vec::<String>::new(), "they run on");
    assert_well(&other).await;
    // Nobody joins the dead.
    let next = b.start(ticks(b, "next", 42)).await;
    assert_eq!(shims(b).len(), 1);
    for task in &tasks {
        destroy(task, false).await;
    }
    assert_well(&next).await;
    stop_and_destroy(&next, 42).await;
    stop_and_destroy(&other, 41).await;
    no_shims(b).await;
}

async fn a_shim_that_hangs_is_not_killed_for_one_task(b: &mut Bench) {
    let tasks = several(b, 2).await;
    let shim = *shims(b).keys().next().expect("a shim");
    let (_, removed_one) = container_of(&tasks[0]).await;
    let (_, neighbour) = container_of(&tasks[1]).await;
    send(shim, Signal::STOP);
    // It is said that it is not done yet, and done when it can be; nobody else pays for it.
    let removed = within(secs(110), "DestroyTask", tasks[0].destroy(true)).await;
    assert!(removed.is_err(), "without its shim");
    assert!(procfs::alive(shim) && procfs::alive(neighbour) && !procfs::alive(removed_one));
    let goes_on = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        send(shim, Signal::CONT);
    };
    tokio::join!(destroy(&tasks[0], true), goes_on);
    assert_well(&tasks[1]).await;
    stop_and_destroy(&tasks[1], 11).await;
    no_shims(b).await;
}

async fn the_next_plugin_knows_who_shares_a_shim(b: &mut Bench) {
    let mut tasks = several(b, MOST - 1).await;
    b.rig.plugin().sigkill().await;
    end(&tasks[0]);
    tasks[0].logs_end(patience()).await;
    b.rig.relaunch().await.expect("RecoverTask");
    assert_eq!(tasks[0].exit(patience()).await.exit_code, 60);
    for task in &tasks[1..] {
        assert_well(task).await;
    }
    let fills = b.start(ticks(b, "fills", 13)).await;
    assert_eq!(shims(b).len(), 1, "{:?}", shims(b));
    let over = b.start(ticks(b, "over", 51)).await;
    assert_eq!(shims(b).len(), 2, "{:?}", shims(b));
    destroy(&tasks.remove(0), false).await;
    assert_well(&fills).await;
    stop_and_destroy(&over, 51).await;
    stop_and_destroy(&tasks[0], 11).await;
    destroy(&tasks[1], true).await;
    stop_and_destroy(&fills, 13).await;
    no_shims(b).await;
}

async fn tasks_outlive_a_containerd_that_stops_and_starts(b: &mut Bench) {
    let tasks = several(b, MOST).await;
    let shim = shims(b);
    // Without the bundle that the shim works in.
    destroy(&tasks[0], true).await;
    healthy(b).await;
    b.rig.containerd.stop().await;
    end(&tasks[1]);
    tasks[1].logs_end(patience()).await;
    b.rig
        .wait_health(HealthState::Unhealthy, secs(35))
        .await
        .expect("unhealthy");
    b.rig.containerd.start_again().await.expect("containerd");
    healthy(b).await;
    assert_eq!(tasks[1].exit(patience()).await.exit_code, 61);
    assert_eq!(shims(b).keys().collect::<Vec<_>>(), shim.keys().collect::<Vec<_>>());
    destroy(&tasks[1], false).await;
    assert_well(&tasks[2]).await;
    let joins = b.start(ticks(b, "joins", 32)).await;
    assert_eq!(shims(b).len(), 1);
    stop_and_destroy(&tasks[2], 12).await;
    assert_well(&tasks[3]).await;
    stop_and_destroy(&joins, 32).await;
    stop_and_destroy(&tasks[3], 13).await;
    no_shims(b).await;
}

/// Which shim it has, the plugin that is new knows without containerd.
async fn an_exit_is_told_by_the_shared_shim_while_containerd_is_away(b: &mut Bench) {
    let tasks = several(b, 2).await;
    b.rig.containerd.stop().await;
    b.rig.plugin().sigkill().await;
    b.rig.relaunch().await.expect("RecoverTask");
    end(&tasks[1]);
    assert_eq!(tasks[1].exit(patience()).await.exit_code, 61);
    b.rig.containerd.start_again().await.expect("containerd");
    healthy(b).await;
    destroy(&tasks[1], false).await;
    assert_well(&tasks[0]).await;
    stop_and_destroy(&tasks[0], 10).await;
    no_shims(b).await;
}

/// The last task of a shim goes while others come, again and again.
async fn starts_and_removals_at_once_do_not_meet_in_a_shim_that_ends(b: &mut Bench) {
    let bench = &*b;
    let worker = |name: String, rounds: usize| async move {
        for _ in 0..rounds {
            let task = bench.start(bench.sleeper().name(&name)).await;
            assert_running(&task).await;
            destroy(&task, true).await;
        }
    };
    join_all((0..3).map(|n| worker(format!("churn-{n}"), 6))).await;
    no_shims(b).await;
}

/// Its shim may have ended before it is taken back, with the last of the others.
async fn a_start_that_is_refused_beside_others_is_refused_for_good(b: &mut Bench) {
    let bench = &*b;
    let good = |n: usize| async move {
        for _ in 0..4 {
            let task = bench.start(bench.sleeper().name(format!("good-{n}"))).await;
            destroy(&task, true).await;
        }
    };
    let bad = |n: usize| async move {
        for _ in 0..8 {
            let spec = bench
                .sleeper()
                .name(format!("bad-{n}"))
                .option("work_dir", json!("/bin/sh"));
            let status = match bench.rig.start(spec).await {
                Err(status) => status,
                Ok(_) => panic!("it runs in a file"),
            };
            let text = format!("{status:#}");
            assert!(
                text.contains("option work_dir") && !text.contains("interrupted"),
                "{text}"
            );
        }
    };
    tokio::join!(join_all((0..2).map(good)), join_all((0..4).map(bad)));
    no_shims(b).await;
}

/// Exit code and answer of `audit --json`.
async fn audit(b: &Bench, more: &[&str]) -> (i32, serde_json::Value) {
    let socket = b.rig.containerd.socket().display().to_string();
    let mut command = Command::new(std::env::var_os("CD_DRIVER_BIN").expect("CD_DRIVER_BIN"));
    command
        .args([
            "audit",
            "--json",
            "--address",
            &socket,
            "--namespace",
            b.rig.namespace(),
        ])
        .args(more)
        .kill_on_drop(true);
    let output = within(patience(), "the audit", command.output()).await.expect("spawn");
    let found = serde_json::from_slice(&output.stdout).expect("JSON");
    (output.status.code().expect("an exit code"), found)
}

/// Sandbox records in an audit, with what is thought of each.
fn sandboxes(found: &serde_json::Value) -> BTreeMap<String, String> {
    let all = found["things"].as_array().expect("things");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    all.iter()
        .filter(|thing| thing["kind"] == "sandbox")
        .map(|thing| (text(&thing["name"]), text(&thing["standing"])))
        .collect()
}

async fn the_audit_tells_whose_a_shared_shim_is(b: &mut Bench) {
    let tasks = several(b, 2).await;
    destroy(&tasks[0], true).await;
    let joins = b.start(ticks(b, "joins", 33)).await;
    let (code, found) = audit(b, &[]).await;
    assert_eq!(code, 0, "{found:#}");
    let all = found["things"].as_array().expect("things");
    let mut shims = all.iter().filter(|thing| thing["kind"] == "shim");
    let shim = shims.next().expect("a shim");
    assert!(shims.next().is_none(), "{found:#}");
    assert_eq!(shim["standing"], "in_use", "{shim:#}");
    for task in [&tasks[1], &joins] {
        let (container, _) = container_of(task).await;
        assert!(
            shim["why"].as_str().is_some_and(|why| why.contains(&container)),
            "{shim:#}"
        );
        let owner = task.alloc.dir().display().to_string();
        assert!(shim["owner"].as_str().is_some_and(|of| of.contains(&owner)), "{shim:#}");
    }
    let known: BTreeMap<_, _> = records(b)
        .await
        .into_iter()
        .map(|id| (id, "in_use".to_owned()))
        .collect();
    assert_eq!(sandboxes(&found), known);
    stop_and_destroy(&tasks[1], 11).await;
    stop_and_destroy(&joins, 33).await;
    no_shims(b).await;
}

/// One whose plugin has ended for good goes, one of somebody else stays.
async fn the_audit_removes_a_sandbox_record_that_nobody_needs(b: &mut Bench) {
    if kind() != ContainerdKind::V24 {
        assert!(records(b).await.is_empty());
        return;
    }
    let channel = b.rig.containerd.in_namespace(b.rig.namespace()).expect("a channel");
    let mut store = StoreClient::new(channel);
    // A process of this boot that has ended, as far as its time of start tells.
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("boot id");
    let namespace = std::fs::metadata("/proc/self/ns/pid")
        .expect("a process namespace")
        .ino();
    let dead = format!("{}/{namespace}:{}:1", boot.trim(), std::process::id());
    let (ours, theirs) = ("containerd-driver-0123456789abcdef", "pod-of-others");
    for id in [ours, theirs] {
        let sandbox = Sandbox {
            sandbox_id: id.to_owned(),
            runtime: Some(Runtime {
                name: "io.containerd.runc.v2".to_owned(),
                options: None,
            }),
            labels: [("containerd-driver/plugin".to_owned(), dead.clone())].into(),
            ..Sandbox::default()
        };
        let request = StoreCreateRequest { sandbox: Some(sandbox) };
        store.create(request).await.expect("create the record");
    }
    let orphans = async {
        loop {
            let (code, found) = audit(b, &["--all", "--grace", "1s"]).await;
            if code == 1 {
                return sandboxes(&found);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let found = within(patience(), "a record older than a second", orphans).await;
    let standing = |id: &str| found.get(id).map(String::as_str);
    assert_eq!((standing(ours), standing(theirs)), (Some("orphan"), Some("foreign")));
    let (code, found) = audit(b, &["--fix", "--grace", "1s"]).await;
    assert_eq!((code, &found["failures"]), (0, &json!(0)), "{found:#}");
    assert_eq!(records(b).await, BTreeSet::from([theirs.to_owned()]));
    let sandbox_id = theirs.to_owned();
    store
        .delete(StoreDeleteRequest { sandbox_id })
        .await
        .expect("delete the record");
}

/// The sandbox records there are.
async fn records(b: &Bench) -> BTreeSet<String> {
    b.rig.scope().take().await.expect("census").sandboxes
}

/// Whether containerd took the shim of a task from its request, of which it leaves a file.
async fn was_handed(b: &Bench, task: &RunningTask) -> bool {
    let bundles = b.rig.containerd.state_dir().join("io.containerd.runtime.v2.task");
    let bundle = bundles.join(b.rig.namespace()).join(container_of(task).await.0);
    assert!(bundle.is_dir(), "{}", bundle.display());
    bundle.join("sandbox").exists()
}

/// From containerd 2.4 on without the shim's program, which is run for the first of a group alone; and as before where the
/// record that says so is gone.
async fn containerd_hands_a_container_to_its_shim(b: &mut Bench) {
    let can = kind() == ContainerdKind::V24;
    assert!(records(b).await.is_empty());
    let tasks = several(b, 3).await;
    let mut ways = Vec::new();
    for task in &tasks {
        ways.push(was_handed(b, task).await);
    }
    assert_eq!(ways, [false, can, can]);
    assert_eq!(records(b).await.len(), usize::from(can));
    for record in records(b).await {
        let channel = b.rig.containerd.in_namespace(b.rig.namespace()).expect("a channel");
        let request = StoreDeleteRequest { sandbox_id: record };
        StoreClient::new(channel)
            .delete(request)
            .await
            .expect("delete the record");
    }
    let joins = b.start(ticks(b, "joins", 33)).await;
    assert!(!was_handed(b, &joins).await);
    assert_eq!(shims(b).into_values().collect::<Vec<_>>(), [4]);
    assert_well(&joins).await;
    stop_and_destroy(&joins, 33).await;
    for (n, task) in tasks.iter().enumerate() {
        assert_well(task).await;
        stop_and_destroy(task, 10 + n).await;
    }
    no_shims(b).await;
    // With the next group the record comes back, and goes with the last one, whichever plugin removes that.
    let tasks = several(b, 2).await;
    assert_eq!(was_handed(b, &tasks[1]).await, can);
    assert_eq!(records(b).await.len(), usize::from(can));
    b.rig.relaunch().await.expect("RecoverTask");
    for (n, task) in tasks.iter().enumerate() {
        stop_and_destroy(task, 10 + n).await;
    }
    assert!(records(b).await.is_empty());
    no_shims(b).await;
}

async fn tasks_of_one_allocation_share_a_shim_and_others_do_not(b: &mut Bench) {
    let (one, other) = (b.rig.alloc(), b.rig.alloc());
    let mut tasks = Vec::new();
    for (n, alloc) in [&one, &other, &one, &other, &one].into_iter().enumerate() {
        let spec = ticks(b, &format!("shared-{n}"), 10 + n);
        let start = b.rig.start_in(alloc.clone(), &spec);
        tasks.push(within(patience(), "StartTask", start).await.expect("StartTask"));
    }
    let mut counts: Vec<usize> = shims(b).into_values().collect();
    counts.sort_unstable();
    assert_eq!(counts, [2, 3]);
    stop_and_destroy(&tasks[0], 10).await;
    for task in &tasks[1..] {
        assert_well(task).await;
    }
    for (n, task) in tasks.iter().enumerate().skip(1) {
        stop_and_destroy(task, 10 + n).await;
    }
    no_shims(b).await;
}

async fn another_runtime_has_another_shim(b: &mut Bench) {
    let alloc = b.rig.alloc();
    let spec = ticks(b, "usual", 10);
    let usual = b.rig.start_in(alloc.clone(), &spec).await.expect("StartTask");
    let spec = ticks(b, "unusual", 11).option("runtime", json!("other"));
    let unusual = b.rig.start_in(alloc, &spec).await.expect("StartTask");
    assert_eq!(shims(b).into_values().collect::<Vec<_>>(), [1, 1]);
    stop_and_destroy(&usual, 10).await;
    assert_well(&unusual).await;
    stop_and_destroy(&unusual, 11).await;
    no_shims(b).await;
}

/// Proportional share of memory of all shims, with three tasks to an allocation.
async fn what_shims_hold(_: &mut Bench) {
    let given = std::env::var("CD_SHIM_MEMORY").ok().and_then(|text| text.parse().ok());
    let count: usize = given.unwrap_or(50);
    for group in ["none", "alloc", "node"] {
        let b = Bench::configured(json!({ "shim_group": group })).await;
        let mut tasks = Vec::new();
        let mut alloc = b.rig.alloc();
        for n in 0..count {
            if n % 3 == 0 {
                alloc = b.rig.alloc();
            }
            let spec = b.sleeper().name(format!("held-{n}"));
            tasks.push(b.rig.start_in(alloc.clone(), &spec).await.expect("StartTask"));
        }
        let pss = |pid: &u32| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            kib.unwrap_or_default()
        };
        let shims = b.rig.containerd.shims();
        let held: u64 = shims.iter().map(pss).sum();
        println!("    {group}: {count} tasks, {} shims, PSS {} KiB", shims.len(), held);
        for batch in tasks.chunks(10) {
            join_all(batch.iter().map(|task| destroy(task, true))).await;
        }
        no_shims(&b).await;
    }
}

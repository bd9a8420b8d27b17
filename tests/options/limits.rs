//! Limits, as the kernel has them for the container's cgroup.

use crate::bench::{Bench, container_of, group, setting, unified};
use crate::look::{bench, consent, crun, end, says, wants, with};
use serde_json::{Value as Json, json};
use testhost::procfs;
use testhost::rig::RunningTask;
use testhost::task::TaskSpec;

group!(limits_runc, bench(consent()), if wants("runc"), {
    memory_cpu_and_processes_are_bounded_as_asked,
    swap_is_as_asked_where_the_kernel_counts_it,
    a_forker_ends_at_its_limit,
    what_the_kernel_cannot_limit_is_refused,
    shared_memory_has_the_size_asked_for,
    block_io_has_the_weight_asked_for,
    huge_pages_are_bounded_as_asked,
    a_tasks_processes_are_where_nomad_wants_them,
});
group!(limits_crun, crun(), if wants("crun"), {
    memory_cpu_and_processes_are_bounded_as_asked,
});
group!(limits_ceiling, bench(json!({ "pids_limit": 50 })), if wants("runc"), {
    the_operators_limit_of_processes_is_default_and_ceiling,
});

async fn running(b: &Bench, spec: TaskSpec, options: Json) -> (RunningTask, u32) {
    let task = b.start(with(spec, options)).await;
    let (_, pid) = container_of(&task).await;
    (task, pid)
}

/// Checks a setting where the kernel has it.
#[track_caller]
fn is(pid: u32, v1: &str, v2: &str, want: &[&str]) {
    if let Some(found) = setting(pid, v1, v2) {
        assert!(
            want.contains(&found.as_str()),
            "{v1} or {v2} is {found:?}, not one of {want:?}"
        );
    }
}

async fn memory_cpu_and_processes_are_bounded_as_asked(b: &mut Bench) {
    let options = json!({
        "memory_hard_limit": 192,
        "memory_reservation": "32m",
        "cpu_hard_limit": true,
        "cpu_cfs_period": 50000,
        "pids_limit": 77,
    });
    let (task, pid) = running(b, b.sleeper().memory_mb(64).cpu_shares(800), options).await;
    is(pid, "memory.limit_in_bytes", "memory.max", &["201326592"]);
    is(pid, "memory.soft_limit_in_bytes", "memory.low", &["33554432"]);
    is(pid, "pids.max", "pids.max", &["77"]);
    // A tenth of the node's compute, for all of its cores.
    let quota = 50000 * std::thread::available_parallelism().map_or(1, usize::from) / 10;
    is(
        pid,
        "cpu.cfs_quota_us",
        "cpu.max",
        &[&quota.to_string(), &format!("{quota} 50000")],
    );
    is(
        pid,
        "cpu.cfs_period_us",
        "cpu.max",
        &["50000", &format!("{quota} 50000")],
    );
    end(task).await;
    // Nothing said: no quota, no limit of processes, no swap.
    let (task, pid) = running(b, b.sleeper().memory_mb(64), json!({})).await;
    is(pid, "cpu.cfs_quota_us", "cpu.max", &["-1", "max 100000"]);
    is(pid, "pids.max", "pids.max", &["max"]);
    is(
        pid,
        "memory.memsw.limit_in_bytes",
        "memory.swap.max",
        &["67108864", "0"],
    );
    end(task).await;
    let (task, pid) = running(b, b.sleeper().memory_mb(64).memory_max_mb(-1), json!({})).await;
    let hard = setting(pid, "memory.limit_in_bytes", "memory.max").expect("a memory limit");
    assert!(
        hard == "max" || hard.parse::<u64>().is_ok_and(|n| n > 1 << 60),
        "memory_max = -1 is {hard}"
    );
    end(task).await;
}

async fn swap_is_as_asked_where_the_kernel_counts_it(b: &mut Bench) {
    let options = json!({ "memory_swap": "128m" });
    let (task, pid) = running(b, b.sleeper().memory_mb(64), options).await;
    // Version 1 counts memory and swap together, version 2 swap alone.
    is(
        pid,
        "memory.memsw.limit_in_bytes",
        "memory.swap.max",
        &["134217728", "67108864"],
    );
    end(task).await;
    let (task, pid) = running(b, b.sleeper().memory_mb(64), json!({ "memory_swap": "-1" })).await;
    let found = setting(pid, "memory.memsw.limit_in_bytes", "memory.swap.max").expect("a swap limit");
    assert!(
        found == "max" || found.parse::<u64>().is_ok_and(|n| n > 1 << 60),
        "swap without limit is {found}"
    );
    end(task).await;
    // Nothing bounds it anyway.
    let unbound = b.sleeper().memory_mb(64).memory_max_mb(-1);
    let (task, _) = running(b, unbound, json!({ "memory_swap": "-1" })).await;
    end(task).await;
    let options = json!({ "memory_swappiness": 10 });
    if unified() {
        says(&b.refused(options).await, &["memory_swappiness", "10"]);
        return;
    }
    let (task, pid) = running(b, b.sleeper(), options).await;
    is(pid, "memory.swappiness", "", &["10"]);
    end(task).await;
}

async fn a_forker_ends_at_its_limit(b: &mut Bench) {
    let script = "n=0; while [ $n -lt 40 ]; do sleep 5 & n=$((n+1)); done; echo never=1";
    let task = b.start(b.with_options(json!({ "pids_limit": 20 }), script)).await;
    let exit = task.exit(crate::bench::patience()).await;
    assert_ne!(exit.exit_code, 0, "forty processes within a limit of twenty");
    task.logs_end(crate::bench::patience()).await;
    let (out, err) = (task.logs().stdout.text(), task.logs().stderr.text());
    // EAGAIN, which a shell has of nothing else here.
    assert!(err.contains("can't fork: Resource temporarily unavailable"), "{err:?}");
    assert!(!out.contains("never"), "{out:?}");
    end(task).await;
}

async fn what_the_kernel_cannot_limit_is_refused(b: &mut Bench) {
    for (options, words) in [
        (json!({ "pids_limit": -2 }), ["pids_limit", "-2"]),
        (json!({ "cpu_cfs_period": 10 }), ["cpu_cfs_period", "10"]),
        (json!({ "memory_hard_limit": 8 }), ["memory_hard_limit", "8"]),
        (json!({ "memory_reservation": "9g" }), ["memory_reservation", "9g"]),
        (json!({ "memory_swap": "1m" }), ["memory_swap", "1m"]),
        (json!({ "memory_swappiness": 101 }), ["memory_swappiness", "101"]),
        (json!({ "blkio_weight": 5 }), ["blkio_weight", "5"]),
        (json!({ "shm_size": "lots" }), ["shm_size", "lots"]),
        (
            json!({ "hugepage_limits": [{ "3MB": "6M" }] }),
            ["hugepage_limits", "3MB"],
        ),
    ] {
        says(&b.refused(options).await, &words);
    }
}

async fn block_io_has_the_weight_asked_for(b: &mut Bench) {
    let options = json!({ "blkio_weight": 321 });
    let weight =
        |pid| setting(pid, "blkio.weight", "io.bfq.weight").or_else(|| setting(pid, "blkio.bfq.weight", "io.weight"));
    let (task, pid) = running(b, b.sleeper(), json!({})).await;
    let knows = weight(pid);
    end(task).await;
    if knows.is_none() {
        says(&b.refused(options).await, &["blkio_weight", "321"]);
        return;
    }
    let (task, pid) = running(b, b.sleeper(), options).await;
    let found = weight(pid).expect("a weight");
    // The last is the weight of version 2, which goes to 10,000.
    let want = ["321", "default 321", "default 3142"];
    assert!(want.contains(&found.as_str()), "{found:?} after {knows:?}");
    end(task).await;
}

async fn huge_pages_are_bounded_as_asked(b: &mut Bench) {
    let options = json!({ "hugepage_limits": [{ "2MB": "64M" }] });
    let limit = |pid| setting(pid, "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max");
    let (task, pid) = running(b, b.sleeper(), json!({})).await;
    let counts = limit(pid);
    end(task).await;
    if counts.is_none() {
        says(&b.refused(options).await, &["hugepage_limits", "2MB", "64M"]);
        return;
    }
    let (task, pid) = running(b, b.sleeper(), options).await;
    is(pid, "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max", &["67108864"]);
    end(task).await;
}

async fn shared_memory_has_the_size_asked_for(b: &mut Bench) {
    let script = "echo kib=$(df -k /dev/shm | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2)";
    for (options, want) in [
        (json!({}), "65536"),
        (json!({ "shm_size": "128M" }), "131072"),
        (json!({ "shm_size": 33554432 }), "32768"),
    ] {
        b.look(options, script).await.are([("kib", want)]);
    }
}

async fn a_tasks_processes_are_where_nomad_wants_them(b: &mut Bench) {
    let Ok(dir) = testhost::alloc::prepare_share_cpuset("nomad") else {
        return;
    };
    let (task, pid) = running(b, b.sleeper().cpuset_cgroup(dir.display().to_string()), json!({})).await;
    let inside = procfs::cgroups(pid);
    assert!(
        inside.iter().any(|found| found == &dir || found.starts_with(&dir)),
        "{inside:?} has nothing of {}",
        dir.display()
    );
    // The shim is not there.
    let procs = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for other in procs.lines().filter_map(|line| line.parse::<u32>().ok()) {
        let name = std::fs::read_to_string(format!("/proc/{other}/comm")).unwrap_or_default();
        assert!(!name.starts_with("containerd"), "{name} is in {}", dir.display());
    }
    end(task).await;
}

async fn the_operators_limit_of_processes_is_default_and_ceiling(b: &mut Bench) {
    let (task, pid) = running(b, b.sleeper(), json!({})).await;
    is(pid, "pids.max", "pids.max", &["50"]);
    end(task).await;
    let (task, pid) = running(b, b.sleeper(), json!({ "pids_limit": 10 })).await;
    is(pid, "pids.max", "pids.max", &["10"]);
    end(task).await;
    let (task, pid) = running(b, b.sleeper(), json!({ "pids_limit": 0 })).await;
    is(pid, "pids.max", "pids.max", &["50"]);
    end(task).await;
    for above in [51, -1] {
        says(
            &b.refused(json!({ "pids_limit": above })).await,
            &["pids_limit", &above.to_string(), "50"],
        );
    }
}

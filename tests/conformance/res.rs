//! Resources, as the kernel has them.

use crate::bench::{Bench, container_of, patience, secs, setting, settle, unified};
use crate::field::{Verdict, consent, group, not_here, operated, runtime, shown};
use crate::look::{says, with};
use serde_json::json;
use std::path::{Path, PathBuf};
use testhost::alloc::{prepare_share_cpuset, random_hex};
use testhost::plugin::topology;
use testhost::procfs;
use testhost::rig::RunningTask;
use testhost::task::TaskSpec;
use testhost::wire::base::{ClientTopologyCore, NomadConfig};
use testhost::within::until;

group!(res, RES, operated(consent()),
    together {
        res_01_hard_and_soft_memory_for_every_pair,
        res_02_cpu_shares_are_bounded,
        res_04_a_quota_only_if_asked_for,
        res_08_kernel_parameters_of_the_container,
        res_09_resource_limits_and_malformed_ones,
    }
    alone {
        res_05_reserved_cores_are_the_cpuset,
        res_03_cpu_shares_are_scaled_on_a_big_node,
        res_06_the_cpuset_follows_the_hosts_partition,
        res_10_the_agents_score_is_not_the_tasks,
        res_11_the_hosts_cgroup_governs_the_task,
    }
);

async fn running(b: &Bench, spec: TaskSpec) -> (RunningTask, u32) {
    let task = b.start(spec).await;
    let (_, pid) = container_of(&task).await;
    (task, pid)
}

async fn end(task: RunningTask) {
    task.destroy(true).await.expect("DestroyTask");
}

/// A limit in bytes; `None` for no limit.
fn bytes(text: Option<String>, unlimited: &[&str]) -> Option<u64> {
    let text = text.expect("a memory limit");
    if unlimited.contains(&text.as_str()) {
        return None;
    }
    // Version 1 writes the greatest multiple of a page for no limit.
    Some(text.parse::<u64>().expect("bytes")).filter(|bytes| *bytes < 1 << 60)
}

async fn res_01_hard_and_soft_memory_for_every_pair(b: &Bench) {
    const MIB: u64 = 1 << 20;
    for (memory, max, hard, soft) in [
        (10, 0, Some(10), None),
        (10, 20, Some(20), Some(10)),
        (10, -1, None, Some(10)),
        (0, 30, Some(30), None),
        (0, -1, None, None),
        (0, 0, None, None),
    ] {
        let (task, pid) = running(b, b.sleeper().memory_mb(memory).memory_max_mb(max)).await;
        let found_hard = bytes(setting(pid, "memory.limit_in_bytes", "memory.max"), &["max"]);
        let found_soft = bytes(setting(pid, "memory.soft_limit_in_bytes", "memory.low"), &["0"]);
        let wanted = (hard.map(|n: u64| n * MIB), soft.map(|n: u64| n * MIB));
        assert_eq!((found_hard, found_soft), wanted, "memory {memory}, memory_max {max}");
        end(task).await;
    }
}

async fn res_02_cpu_shares_are_bounded(b: &Bench) {
    // Version 2 has weights from 1 to 10000. The runtimes' formulas between the ends differ by their versions.
    for (shares, v1, v2) in [
        (1, 2, 1..=1),
        (1000, 1000, 20..=120),
        (300_000, 262_144, 10_000..=10_000),
    ] {
        let (task, pid) = running(b, b.sleeper().cpu_shares(shares)).await;
        let found: u64 = setting(pid, "cpu.shares", "cpu.weight")
            .expect("shares")
            .parse()
            .expect("a number");
        match unified() {
            true => assert!(v2.contains(&found), "{shares}: weight {found}, not {v2:?}"),
            false => assert_eq!(found, v1, "{shares}"),
        }
        end(task).await;
    }
}

/// One core with all the compute of the node.
fn compute(mhz: u64) -> NomadConfig {
    let mut config = topology();
    if let Some(topology) = config.driver.as_mut().and_then(|driver| driver.topology.as_mut()) {
        topology.cores = vec![ClientTopologyCore {
            base_speed: mhz,
            ..Default::default()
        }];
    }
    config
}

async fn res_03_cpu_shares_are_scaled_on_a_big_node(b: &mut Bench) -> Verdict {
    if unified() {
        return not_here("version 2 has weights, in which the steps cannot be told apart");
    }
    let config = b
        .rig
        .plugin()
        .plugin_config(b.rig.config())
        .await
        .expect("the configuration")
        .encode();
    for (mhz, cases) in [
        (262_145, &[(262_144, 262_143), (1, 2)][..]),
        (524_288, &[(262_144, 131_072), (1000, 500), (1, 2)][..]),
    ] {
        let set = b.rig.plugin().set_config_raw(config.clone(), Some(compute(mhz)));
        set.await.expect("SetConfig");
        for (shares, wanted) in cases {
            let (task, pid) = running(b, b.sleeper().cpu_shares(*shares)).await;
            let found = setting(pid, "cpu.shares", "cpu.weight");
            assert_eq!(found, Some(wanted.to_string()), "{shares} of {mhz} MHz");
            end(task).await;
        }
    }
    b.rig
        .plugin()
        .set_config_raw(config, Some(topology()))
        .await
        .expect("SetConfig");
    shown()
}

async fn res_04_a_quota_only_if_asked_for(b: &Bench) {
    // A quarter of the node: 2000 of 8000 MHz.
    let quarter = || b.sleeper().cpu_shares(2000);
    let (task, pid) = running(b, quarter()).await;
    let quota = setting(pid, "cpu.cfs_quota_us", "cpu.max").expect("a quota");
    assert!(["-1", "max 100000"].contains(&quota.as_str()), "{quota}");
    end(task).await;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let wanted = 100_000 * cores / 4;
    let options = json!({ "cpu_hard_limit": true, "cpu_cfs_period": 100_000 });
    let (task, pid) = running(b, with(quarter(), options)).await;
    let quota = setting(pid, "cpu.cfs_quota_us", "cpu.max").expect("a quota");
    assert!(
        [wanted.to_string(), format!("{wanted} 100000")].contains(&quota),
        "{quota}, not {wanted}"
    );
    let period = setting(pid, "cpu.cfs_period_us", "cpu.max").expect("a period");
    assert!(period == "100000" || period.ends_with(" 100000"), "{period}");
    end(task).await;
    let refused = b
        .refused(json!({ "cpu_hard_limit": true, "cpu_cfs_period": 1_000_001 }))
        .await;
    says(&refused, &["cpu_cfs_period", "1000001"]);
}

async fn res_05_reserved_cores_are_the_cpuset(b: &mut Bench) -> Verdict {
    let controllers = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    if unified() && !controllers.split_whitespace().any(|name| name == "cpuset") {
        return not_here("this kernel has no cpuset: its agent reserves no cores");
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let wanted = if cores > 2 { "0,2" } else { "0" };
    let mut spec = b.sleeper();
    spec.cpuset_cpus = wanted.to_owned();
    let (task, pid) = running(b, spec).await;
    assert_eq!(allowed_cpus(pid), wanted);
    end(task).await;
    shown()
}

/// The processors that the kernel lets a process use.
fn allowed_cpus(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process");
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.expect("Cpus_allowed_list").trim().to_owned()
}

/// The cgroups of a host, removed from the innermost to the outermost.
struct Cgroups(Vec<PathBuf>);

impl Drop for Cgroups {
    fn drop(&mut self) {
        for dir in self.0.iter().rev() {
            std::fs::remove_dir(dir).ok();
        }
    }
}

impl Cgroups {
    /// Partition for tasks without reserved cores, and the directory that a host gives for one task.
    fn share() -> (Cgroups, PathBuf, PathBuf) {
        let parent = format!("conformance-{}", random_hex(4));
        if !unified() {
            let share = prepare_share_cpuset(&parent).expect("a cpuset");
            let top = share.parent().expect("a parent").to_owned();
            return (Cgroups(vec![top, share.clone()]), share.clone(), share);
        }
        let top = Path::new("/sys/fs/cgroup").join(format!("{parent}.slice"));
        let share = top.join("share.slice");
        let scope = share.join("task.scope");
        for dir in [&top, &share, &scope] {
            // What is above hands on the controllers that there are.
            let above = dir.parent().expect("a parent");
            let there = std::fs::read_to_string(above.join("cgroup.controllers")).expect("controllers");
            for controller in there
                .split_whitespace()
                .filter(|name| ["cpuset", "cpu", "memory", "pids"].contains(name))
            {
                let control = above.join("cgroup.subtree_control");
                std::fs::write(control, format!("+{controller}")).expect("a controller");
            }
            std::fs::create_dir(dir).expect("a cgroup");
        }
        (Cgroups(vec![top, share.clone(), scope.clone()]), share, scope)
    }
}

async fn res_06_the_cpuset_follows_the_hosts_partition(b: &mut Bench) -> Verdict {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return not_here("one processor: there is nothing to take away");
    }
    let (cgroups, share, given) = Cgroups::share();
    let (task, pid) = running(b, b.sleeper().cpuset_cgroup(given.display().to_string())).await;
    let before = allowed_cpus(pid);
    assert_ne!(before, "1");
    std::fs::write(share.join("cpuset.cpus"), "1").expect("the partition");
    let followed = || (allowed_cpus(pid) == "1").then_some(());
    until(secs(4), "the task to follow its partition", followed).await;
    end(task).await;
    drop(cgroups);
    shown()
}

async fn res_08_kernel_parameters_of_the_container(b: &Bench) {
    let options = json!({ "sysctl": [{ "net.core.somaxconn": "16384" }] });
    let seen = b
        .look(options, "echo somaxconn=$(cat /proc/sys/net/core/somaxconn)")
        .await;
    seen.are([("somaxconn", "16384")]);
}

async fn res_09_resource_limits_and_malformed_ones(b: &Bench) {
    let options = json!({ "ulimit": [{ "nofile": "2048:4096", "nproc": "4242" }] });
    let script = "echo soft=$(ulimit -Sn); echo hard=$(ulimit -Hn)
        echo nproc=$(sed -n 's/^Max processes *//p' /proc/self/limits | tr -s ' ' | cut -d ' ' -f 1,2)";
    let seen = b.look(options, script).await;
    seen.are([("soft", "2048"), ("hard", "4096"), ("nproc", "4242 4242")]);
    for value in ["", "abc:1", "1:abc", "2:1"] {
        says(
            &b.refused(json!({ "ulimit": [{ "nofile": value }] })).await,
            &["ulimit", "nofile"],
        );
    }
}

async fn res_10_the_agents_score_is_not_the_tasks(b: &mut Bench) -> Verdict {
    // An agent's plugins inherit its score.
    let file = format!("/proc/{}/oom_score_adj", b.rig.plugin().pid());
    let before = std::fs::read_to_string(&file).expect("the score");
    // To lower a score is for CAP_SYS_RESOURCE, which root of a container may lack; a higher one shows the same.
    match std::fs::write(&file, "-100") {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => std::fs::write(&file, "100"),
        other => other,
    }
    .expect("another score");
    let (code, seen) = b.run(b.sh("cat /proc/self/oom_score_adj")).await;
    std::fs::write(&file, before).expect("the score of before");
    assert_eq!(code, 0);
    // A shim's score is one above its containerd's, and crun writes a score of 0 as little as none.
    let containerd = b.rig.containerd.pid().expect("containerd runs");
    let score = std::fs::read_to_string(format!("/proc/{containerd}/oom_score_adj")).expect("the score");
    let shims = score.trim().parse::<i32>().expect("a score") + 1;
    if runtime() == "crun" && seen.trim() == shims.to_string() {
        return not_here(
            "crun does not write the score of 0 that it is given: the task has the shim's, one above containerd's",
        );
    }
    assert_eq!(seen, "0\n");
    shown()
}

fn processes(dir: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

async fn res_11_the_hosts_cgroup_governs_the_task(b: &mut Bench) {
    let (cgroups, _, given) = Cgroups::share();
    let spec = b
        .sh("sleep 3600 & sleep 3600")
        .cpuset_cgroup(given.display().to_string());
    let (task, pid) = running(b, spec).await;
    let found = procfs::cgroups(pid);
    assert!(
        found.iter().any(|dir| dir.starts_with(&given)),
        "{found:?} has nothing of {}",
        given.display()
    );
    if unified() {
        // What a host does at the end of a task.
        std::fs::write(given.join("cgroup.kill"), "1").expect("cgroup.kill");
        assert_eq!(task.exit(patience()).await.exit_code, 137);
        task.destroy(false).await.expect("DestroyTask");
    } else {
        end(task).await;
    }
    let left = settle(secs(5), || processes(&given)).await;
    assert_eq!(left, Vec::<String>::new());
    assert!(!procfs::alive(pid));
    drop(cgroups);
}

//! Memory, CPU shares and open files, as the kernel has them.

use crate::bench::{Bench, container_of, group, kind, patience, setting};
use futures_util::future::join_all;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use testhost::rig::{RigOpts, RunningTask};
use testhost::task::TaskSpec;
use testhost::within::within;

group!(limits, Bench::new(), {
    memory_and_shares_are_in_force_in_the_kernel,
});

const MIB: u64 = 1 << 20;

/// A limit in bytes; `None` for none.
fn bytes(text: &str) -> Option<u64> {
    text.parse().ok().filter(|bytes| *bytes < 1 << 60)
}

/// `cpu.weight` of shares: the straight line of runc up to 1.3, and the curve after it.
fn weights(shares: u64) -> [String; 2] {
    let line = 1 + (shares - 2) * 9999 / 262_142;
    let log = (shares as f64).log2();
    let curve = 10_f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil();
    [line.to_string(), format!("{curve:.0}")]
}

async fn memory_and_shares_are_in_force_in_the_kernel(b: &mut Bench) {
    // memory, memory_max, shares → hard limit, reservation, shares
    let table = [
        (64, 0, 300, Some(64), None, 300),
        (64, 128, 1, Some(128), Some(64), 2),
        (64, -1, 300_000, None, Some(64), 262_144),
        (0, 96, 1000, Some(96), None, 1000),
    ];
    let b = &*b;
    let specs = table.iter().enumerate().map(|(n, row)| {
        b.sleeper()
            .name(format!("limit-{n}"))
            .memory_mb(row.0)
            .memory_max_mb(row.1)
            .cpu_shares(row.2)
    });
    let tasks: Vec<RunningTask> = join_all(specs.map(|spec| b.start(spec))).await;
    for (task, row) in tasks.iter().zip(table) {
        let (_, pid) = container_of(task).await;
        let hard = setting(pid, "memory.limit_in_bytes", "memory.max").expect("a memory limit");
        assert_eq!(bytes(&hard), row.3.map(|mib| mib * MIB), "hard limit {hard} of {row:?}");
        let soft = setting(pid, "memory.soft_limit_in_bytes", "memory.low").expect("a reservation");
        assert_eq!(
            bytes(&soft).filter(|bytes| *bytes > 0),
            row.4.map(|mib| mib * MIB),
            "reservation {soft} of {row:?}"
        );
        match setting(pid, "cpu.shares", "cpu.weight") {
            Some(found) => assert!(
                found == row.5.to_string() || weights(row.5).contains(&found),
                "shares {found} of {row:?}"
            ),
            // Some kernels, such as that of user-mode Linux, are built without the controller.
            None => assert!(!cpu_controller(), "no shares of {row:?}"),
        }
    }
    for destroyed in join_all(tasks.iter().map(|task| task.destroy(true))).await {
        destroyed.expect("DestroyTask");
    }
}

fn cpu_controller() -> bool {
    let listed = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    listed.split_whitespace().any(|name| name == "cpu") || PathBuf::from("/sys/fs/cgroup/cpu").is_dir()
}

/// Open files of an agent that has few.
const FEW: u64 = 2048;

/// An agent with a limit of its own, which is none of its tasks': containerd starts them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_files() {
    let mut opts = RigOpts::new(kind()).expect("CD_DRIVER_BIN");
    let dir = tempfile::tempdir().expect("a directory");
    let program = dir.path().join("containerd-driver");
    let script = format!("#!/bin/sh\nulimit -n {FEW} && exec {} \"$@\"\n", opts.bin.display());
    std::fs::write(&program, script).expect("a program");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    opts.bin = program;
    let mut bench = Bench::bare(opts).await;
    let promise = "open_files_are_bounded_by_containerd_and_not_by_the_agent";
    bench
        .case(promise, |b| {
            Box::pin(open_files_are_bounded_by_containerd_and_not_by_the_agent(b))
        })
        .await;
    bench.finish();
}

/// What `/proc` says of a process: its hard limit of open files, and whether it may raise it.
fn limit_of(pid: u32) -> (u64, bool) {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).expect("a file of /proc");
    let (limits, status) = (read("limits"), read("status"));
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    let hard = line
        .and_then(|line| line.split_whitespace().nth(4))
        .expect("a hard limit");
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = u64::from_str_radix(mask.expect("capabilities").trim(), 16).expect("a mask");
    (hard.parse().unwrap_or(u64::MAX), mask >> 24 & 1 == 1)
}

fn asks(b: &Bench, nofile: Option<u64>) -> TaskSpec {
    let spec = b.sh("ulimit -Hn");
    match nofile {
        Some(n) => spec.option("ulimit", json!([{ "nofile": n.to_string() }])),
        None => spec,
    }
}

async fn open_files_are_bounded_by_containerd_and_not_by_the_agent(b: &mut Bench) {
    assert_eq!(limit_of(b.rig.plugin().pid()).0, FEW, "of the agent");
    let daemon = b.rig.containerd.pid().expect("containerd");
    let (hard, may_raise) = limit_of(daemon);
    let nr_open: u64 = std::fs::read_to_string("/proc/sys/fs/nr_open")
        .expect("nr_open")
        .trim()
        .parse()
        .expect("a number");
    let bound = if may_raise { nr_open } else { hard.min(nr_open) };
    assert!(bound > 2 * FEW, "containerd can give {bound}");
    let given = async |nofile| {
        let (code, text) = b.run(asks(b, nofile)).await;
        assert_eq!(code, 0, "{text}");
        text.trim().parse::<u64>().expect("a number")
    };
    let refused = async |nofile, most: u64| {
        let error = within(patience(), "StartTask", b.rig.start(asks(b, Some(nofile)))).await;
        let error = error.err().expect("more than can be given");
        let wanted = format!("at most {most} open files");
        assert!(
            error.message().contains("ulimit.nofile") && error.message().contains(&wanted),
            "{error:?}"
        );
    };
    assert_eq!(given(None).await, bound.min(1 << 20));
    assert_eq!(given(Some(2 * FEW)).await, 2 * FEW);
    assert_eq!(given(Some(bound)).await, bound);
    refused(bound + 1, bound).await;
    // containerd's own limit counts where it may not raise it.
    let pid = i32::try_from(daemon).ok().and_then(Pid::from_raw);
    let limit = Rlimit {
        current: Some(2 * FEW),
        maximum: Some(2 * FEW),
    };
    prlimit(pid, Resource::Nofile, limit).expect("a lower limit for containerd");
    if may_raise {
        assert_eq!(given(Some(bound)).await, bound);
    } else {
        assert_eq!(given(None).await, 2 * FEW);
        refused(2 * FEW + 1, 2 * FEW).await;
    }
}

//! Memory and CPU shares, as the kernel has them.

use crate::bench::{Bench, container_of, group, setting};
use futures_util::future::join_all;
use std::path::PathBuf;
use testhost::rig::RunningTask;

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

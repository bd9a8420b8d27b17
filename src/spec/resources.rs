//! Limits: Nomad's resources as OCI `linux.resources`, and the cgroup they apply to.
//!
//! Source of the rules: Nomad `drivers/docker` and `drivers/shared/executor` (memory, shares), and the cgroup layout of
//! Nomad 1.7 and later.

use super::error::SpecError;
use super::identity::ContainerId;
use super::node::{CgroupMode, NodeFacts};
use super::task::TaskSpec;
use serde_json::{Value, json};

/// Least CPU shares that the kernel takes.
const SHARES_MIN: u64 = 2;
/// Most CPU shares that the kernel takes.
const SHARES_MAX: u64 = 262_144;

/// CPU shares: MHz, scaled where the whole node has more MHz than there are shares.
fn shares(mhz: i64, total_mhz: u64) -> u64 {
    let mhz = u64::try_from(mhz).unwrap_or(0);
    let scaled = if total_mhz >= SHARES_MAX {
        mhz.saturating_mul(SHARES_MAX) / total_mhz
    } else {
        mhz
    };
    scaled.clamp(SHARES_MIN, SHARES_MAX)
}

/// Hard limit and reservation in bytes. `memory_max` 0: hard = memory. -1: no hard limit, reservation = memory.
/// Else hard = `memory_max`, reservation = memory.
fn memory(memory_mb: i64, max_mb: i64) -> (Option<i64>, Option<i64>) {
    let bytes = |mb: i64| (mb > 0).then(|| mb.saturating_mul(1 << 20));
    match max_mb {
        ..0 => (None, bytes(memory_mb)),
        0 => (bytes(memory_mb), None),
        max => (bytes(max.max(memory_mb)), bytes(memory_mb)),
    }
}

/// OCI `linux.resources` without devices.
pub(super) fn build(task: &TaskSpec, node: &NodeFacts) -> Result<serde_json::Map<String, Value>, SpecError> {
    let r = &task.resources;
    let mut out = serde_json::Map::new();
    let mut cpu = json!({"shares": shares(r.cpu_shares, node.total_compute_mhz)});
    if !r.cpuset_cpus.trim().is_empty() {
        cpu["cpus"] = json!(r.cpuset_cpus.trim());
    }
    out.insert("cpu".to_owned(), cpu);

    let (hard, soft) = memory(r.memory_mb, r.memory_max_mb);
    let mut mem = serde_json::Map::new();
    if let Some(limit) = hard {
        mem.insert("limit".to_owned(), json!(limit));
        if node.swap_accounting {
            // Memory and swap together: as much as memory alone, so no swap.
            mem.insert("swap".to_owned(), json!(limit));
        }
    }
    if let Some(reservation) = soft {
        mem.insert("reservation".to_owned(), json!(reservation));
    }
    if !mem.is_empty() {
        out.insert("memory".to_owned(), Value::Object(mem));
    }

    match task.options.pids_limit.unwrap_or(0) {
        ..-1 => {
            return Err(SpecError::option(
                "pids_limit",
                task.options.pids_limit.unwrap_or(0),
                "a number above 0, or 0 for no limit, is expected",
            ));
        }
        -1 | 0 => {}
        limit => {
            out.insert("pids".to_owned(), json!({"limit": limit}));
        }
    }
    Ok(out)
}

/// Where the runtime puts the container's cgroup, as a path below the mount of the hierarchy.
pub(super) fn cgroups_path(task: &TaskSpec, container: &ContainerId, node: &NodeFacts) -> String {
    let given = task.resources.cpuset_cgroup.trim_end_matches('/');
    match (node.cgroup, given.strip_prefix("/sys/fs/cgroup/")) {
        (CgroupMode::V2, Some(below)) if node.cpuset_cgroup_exists && !below.split('/').any(|p| p == "..") => {
            format!("/{below}")
        }
        (CgroupMode::V2, _) => format!("/nomad.slice/{container}"),
        (CgroupMode::V1, _) => format!("/nomad/{container}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::options::TaskOptions;
    use crate::spec::task::Resources;

    const MIB: i64 = 1 << 20;

    #[test]
    fn shares_are_clamped_and_scaled() {
        for (mhz, total, want) in [
            (0, 0, 2),
            (-5, 0, 2),
            (1, 8000, 2),
            (500, 8000, 500),
            (300_000, 0, 262_144),
            (1000, 524_288, 500),
            (524_288, 524_288, 262_144),
            (i64::MAX, u64::MAX, 2),
        ] {
            let got = shares(mhz, total);
            if mhz != i64::MAX {
                assert_eq!(got, want, "{mhz} of {total}");
            }
            assert!((SHARES_MIN..=SHARES_MAX).contains(&got));
        }
    }

    #[test]
    fn memory_follows_nomads_table() {
        for (mem, max, want) in [
            (256, 0, (Some(256 * MIB), None)),
            (256, 512, (Some(512 * MIB), Some(256 * MIB))),
            (256, -1, (None, Some(256 * MIB))),
            (256, 128, (Some(256 * MIB), Some(256 * MIB))),
            (0, 0, (None, None)),
            (0, -1, (None, None)),
        ] {
            assert_eq!(memory(mem, max), want, "memory {mem} memory_max {max}");
        }
    }

    #[test]
    fn swap_is_off_only_with_a_hard_limit_and_accounting() {
        for (max, accounting, want) in [(0, true, true), (0, false, false), (-1, true, false)] {
            let task = TaskSpec {
                resources: Resources {
                    memory_mb: 64,
                    memory_max_mb: max,
                    ..Resources::default()
                },
                ..TaskSpec::default()
            };
            let built = build(
                &task,
                &NodeFacts {
                    swap_accounting: accounting,
                    ..NodeFacts::default()
                },
            )
            .unwrap();
            assert_eq!(built["memory"].get("swap").is_some(), want);
        }
    }

    #[test]
    fn cpuset_and_pids_appear_only_when_asked_for() {
        let mut task = TaskSpec::default();
        let built = build(&task, &NodeFacts::default()).unwrap();
        assert!(built["cpu"].get("cpus").is_none() && built.get("pids").is_none() && built.get("memory").is_none());
        task.resources.cpuset_cpus = "0,3".to_owned();
        task.options = TaskOptions {
            pids_limit: Some(7),
            ..TaskOptions::default()
        };
        let built = build(&task, &NodeFacts::default()).unwrap();
        assert_eq!(
            (&built["cpu"]["cpus"], &built["pids"]["limit"]),
            (&json!("0,3"), &json!(7))
        );
        task.options.pids_limit = Some(-2);
        assert!(build(&task, &NodeFacts::default()).is_err());
    }

    #[test]
    fn cgroup_is_nomads_scope_where_it_exists() {
        let scope = "/sys/fs/cgroup/nomad.slice/share.slice/a.web.scope";
        let id = ContainerId::reported("c");
        for (mode, given, exists, want) in [
            (CgroupMode::V2, scope, true, "/nomad.slice/share.slice/a.web.scope"),
            (CgroupMode::V2, scope, false, "/nomad.slice/c"),
            (CgroupMode::V2, "", true, "/nomad.slice/c"),
            (CgroupMode::V2, "/sys/fs/cgroup/../x", true, "/nomad.slice/c"),
            (CgroupMode::V1, "/sys/fs/cgroup/cpuset/nomad/share", true, "/nomad/c"),
        ] {
            let task = TaskSpec {
                resources: Resources {
                    cpuset_cgroup: given.to_owned(),
                    ..Resources::default()
                },
                ..TaskSpec::default()
            };
            let node = NodeFacts {
                cgroup: mode,
                cpuset_cgroup_exists: exists,
                ..NodeFacts::default()
            };
            assert_eq!(cgroups_path(&task, &id, &node), want);
        }
    }
}

//! Limits: Nomad's resources and the task's options as OCI `linux.resources`.
//!
//! Source of the rules: Nomad `drivers/docker` (`memoryLimits`, quota, process ids) and `drivers/shared/executor`
//! (shares), and the kernel's documentation of the controllers for what is allowed.

use super::cgroups;
use super::error::SpecError;
use super::go;
use super::node::CgroupMode;
use super::oci::Inputs;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Least CPU shares that the kernel takes.
const SHARES_MIN: u64 = 2;
/// Most CPU shares that the kernel takes.
const SHARES_MAX: u64 = 262_144;
/// Period of a CPU quota where nothing is said, in microseconds: Docker's.
const PERIOD: i64 = 100_000;
/// Least CPU quota that the kernel takes, in microseconds (`min_cfs_quota_period`).
const QUOTA_MIN: i64 = 1000;
const MIB: i64 = 1 << 20;

/// OCI `linux.resources` without devices.
pub(super) fn build(inputs: &Inputs<'_>) -> Result<Map<String, Value>, SpecError> {
    let o = &inputs.task.options;
    let mut out = Map::new();
    out.insert("cpu".to_owned(), Value::Object(cpu(inputs)?));
    let memory = memory(inputs)?;
    if !memory.is_empty() {
        out.insert("memory".to_owned(), Value::Object(memory));
    }
    if let Some(limit) = pids(inputs)? {
        out.insert("pids".to_owned(), json!({"limit": limit}));
    }
    let pages = huge_pages(inputs)?;
    if !pages.is_empty() {
        out.insert("hugepageLimits".to_owned(), Value::Array(pages));
    }
    // Docker takes 0 for "not given", here and for memory_swap and shm_size.
    if let Some(weight) = o.blkio_weight.filter(|weight| *weight != 0) {
        if !(10..=1000).contains(&weight) {
            return Err(SpecError::option(
                "blkio_weight",
                weight,
                "10 to 1000, or 0 for not given, is expected",
            ));
        }
        if !inputs.node.block_weight {
            let text = "the kernel of this node has no weights of block I/O; leave the option out";
            return Err(SpecError::option("blkio_weight", weight, text));
        }
        out.insert("blockIO".to_owned(), json!({"weight": weight}));
    }
    Ok(out)
}

/// The score for the kernel's choice of what to kill when memory is short. Below 0 others are killed in the task's place,
/// the agent and containerd among them: the consent is that for the capability with which a process could do so itself.
pub(super) fn oom_score_adj(inputs: &Inputs<'_>) -> Result<i64, SpecError> {
    const OPTION: &str = "oom_score_adj";
    let own = i64::from(inputs.node.oom_score_adj);
    let Some(score) = inputs.task.options.oom_score_adj else {
        return Ok(own);
    };
    if !(-1000..=1000).contains(&score) {
        return Err(SpecError::option(OPTION, score, "-1000 to 1000 is expected"));
    }
    if score < 0 && !inputs.task.options.privileged {
        inputs.gates.cap(OPTION, &score.to_string(), "CAP_SYS_RESOURCE")?;
    }
    // proc(5): a lower score than one's own is for CAP_SYS_RESOURCE.
    if score < own && !inputs.node.capabilities.iter().any(|c| c == "CAP_SYS_RESOURCE") {
        let text = format!("at least {own} is expected: the driver may not go lower here");
        return Err(SpecError::option(OPTION, score, text));
    }
    Ok(score)
}

fn cpu(inputs: &Inputs<'_>) -> Result<Map<String, Value>, SpecError> {
    let o = &inputs.task.options;
    let r = &inputs.task.resources;
    let mut out = Map::new();
    out.insert(
        "shares".to_owned(),
        json!(shares(r.cpu_shares, inputs.node.total_compute_mhz)),
    );
    let (cpus, mems) = cgroups::cpuset(inputs);
    out.extend(cpus.map(|c| ("cpus".to_owned(), json!(c))));
    out.extend(mems.map(|m| ("mems".to_owned(), json!(m))));
    // Docker takes 0 for "not given".
    let period = o.cpu_cfs_period.filter(|p| *p != 0).unwrap_or(PERIOD);
    if !(1000..=1_000_000).contains(&period) {
        return Err(SpecError::option(
            "cpu_cfs_period",
            period,
            "1000 to 1000000 is expected",
        ));
    }
    if o.cpu_hard_limit {
        if r.percent_ticks <= 0.0 {
            return Err(SpecError::option(
                "cpu_hard_limit",
                true,
                "the share of the node's compute is needed for it, and the agent gives none",
            ));
        }
        out.insert("period".to_owned(), json!(period));
        out.insert(
            "quota".to_owned(),
            json!(quota(r.percent_ticks, period, inputs.node.cores)),
        );
    }
    Ok(out)
}

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

/// Microseconds of CPU time per period: the share of one core's period, cut to a whole number as Nomad does, times the
/// number of cores.
fn quota(percent_ticks: f64, period: i64, cores: u32) -> i64 {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "the period is at most 1000000; `as` saturates"
    )]
    let of_a_core = (percent_ticks * period as f64) as i64;
    of_a_core.saturating_mul(i64::from(cores.max(1))).max(QUOTA_MIN)
}

fn memory(inputs: &Inputs<'_>) -> Result<Map<String, Value>, SpecError> {
    let o = &inputs.task.options;
    let r = &inputs.task.resources;
    let mut out = Map::new();
    let own = o.memory_hard_limit.unwrap_or(0);
    if own < 0 || (own > 0 && own < r.memory_mb) {
        let text = format!("MiB, at least the memory of the job ({}), are expected", r.memory_mb);
        return Err(SpecError::option("memory_hard_limit", own, text));
    }
    let (hard, mut soft) = memory_limits(r.memory_mb, r.memory_max_mb, own);
    if let Some(text) = &o.memory_reservation {
        let size = bytes("memory_reservation", text)?;
        if hard.is_some_and(|hard| size > hard) {
            let most = hard.unwrap_or_default();
            let allowed = format!("at most the hard limit of {most} bytes is expected");
            return Err(SpecError::option("memory_reservation", text, allowed));
        }
        soft = Some(size).filter(|s| *s > 0);
    }
    let swap = swap(inputs, hard)?;
    let named = [("limit", hard), ("reservation", soft), ("swap", swap)];
    out.extend(
        named
            .into_iter()
            .filter_map(|(key, n)| Some((key.to_owned(), json!(n?)))),
    );
    if let Some(swappiness) = o.memory_swappiness {
        const OPTION: &str = "memory_swappiness";
        if !(0..=100).contains(&swappiness) {
            return Err(SpecError::option(OPTION, swappiness, "0 to 100 is expected"));
        }
        if inputs.node.cgroup == CgroupMode::V2 {
            let text = "cgroup v2, which this node has, knows no swappiness; leave the option out";
            return Err(SpecError::option(OPTION, swappiness, text));
        }
        out.insert("swappiness".to_owned(), json!(swappiness));
    }
    Ok(out)
}

/// Hard limit and reservation in bytes. `memory_max` -1: no hard limit, reservation = memory, whatever
/// `memory_hard_limit` says. Else the greater of the two is hard, with memory as the reservation; with neither, memory
/// is hard.
fn memory_limits(memory_mb: i64, max_mb: i64, own_mb: i64) -> (Option<i64>, Option<i64>) {
    let bytes = |mb: i64| (mb > 0).then(|| mb.saturating_mul(MIB));
    match max_mb.max(own_mb) {
        _ if max_mb < 0 => (None, bytes(memory_mb)),
        ..=0 => (bytes(memory_mb), None),
        max => (bytes(max.max(memory_mb)), bytes(memory_mb)),
    }
}

/// Memory and swap together. Where nothing is said as much as memory alone, so no swap, if the kernel counts it.
fn swap(inputs: &Inputs<'_>, hard: Option<i64>) -> Result<Option<i64>, SpecError> {
    const OPTION: &str = "memory_swap";
    let of_memory = || Ok(hard.filter(|_| inputs.node.swap_accounting));
    let Some(text) = &inputs.task.options.memory_swap else {
        return of_memory();
    };
    let refuse = |why: &str| Err(SpecError::option(OPTION, text, why));
    let size = match text.trim() {
        "-1" => -1,
        text => bytes(OPTION, text)?,
    };
    if size == 0 {
        return of_memory();
    }
    match hard {
        // What nothing counts, or goes with memory that nothing bounds, is without limit anyway.
        _ if size < 0 => Ok((hard.is_some() && inputs.node.swap_accounting).then_some(size)),
        _ if !inputs.node.swap_accounting => {
            refuse("the kernel of this node does not count swap, so it cannot be limited; leave the option out")
        }
        None => refuse("a hard limit of memory is needed for it"),
        Some(hard) if size < hard => refuse(&format!(
            "memory and swap together, at least the hard limit of {hard} bytes, or -1, are expected"
        )),
        Some(_) => Ok(Some(size)),
    }
}

/// A size option in bytes.
fn bytes(option: &str, text: &str) -> Result<i64, SpecError> {
    go::parse_size(text)
        .and_then(|n| i64::try_from(n).ok())
        .ok_or_else(|| SpecError::option(option, text, "a size in binary units is expected, such as 64m"))
}

/// Most processes that the kernel can have, and that its controller takes (`PID_MAX_LIMIT`, `include/linux/threads.h`).
pub(super) const PIDS_MAX: i64 = 4 << 20;

/// Most processes. The plugin's limit is what a task has that says nothing, and the most that it can ask for.
fn pids(inputs: &Inputs<'_>) -> Result<Option<i64>, SpecError> {
    const OPTION: &str = "pids_limit";
    let most = Some(inputs.settings.pids_limit).filter(|n| *n > 0);
    // Docker takes 0 for "not given".
    let Some(wanted) = inputs.task.options.pids_limit.filter(|n| *n != 0) else {
        return Ok(most);
    };
    if !(-1..=PIDS_MAX).contains(&wanted) {
        let text = format!("a number from 1 to {PIDS_MAX}, 0 for not given, or -1 for no limit, is expected");
        return Err(SpecError::option(OPTION, wanted, text));
    }
    let limit = Some(wanted).filter(|n| *n > 0);
    match most {
        Some(most) if limit.is_none_or(|n| n > most) => Err(SpecError::Refused {
            option: OPTION.to_owned(),
            text: format!(
                "option {OPTION}: {wanted}: at most pids_limit = {most} of the plugin configuration is allowed on this node"
            ),
        }),
        _ => Ok(limit),
    }
}

/// Limits of huge pages, each for a size of page that the node has.
fn huge_pages(inputs: &Inputs<'_>) -> Result<Vec<Value>, SpecError> {
    const OPTION: &str = "hugepage_limits";
    let node = inputs.node;
    let mut limits = BTreeMap::new();
    for (size, limit) in &inputs.task.options.hugepage_limits {
        let refuse = |why: String| Err(SpecError::option(format!("{OPTION}.{size}"), limit, why));
        let known: Vec<String> = node.hugepage_sizes.iter().map(|n| page_size(*n)).collect();
        let Some(page) = go::parse_size(size).filter(|n| node.hugepage_sizes.contains(n)) else {
            return refuse(format!(
                "a size of huge pages that this node has is expected: {}",
                known.join(", ")
            ));
        };
        if !node.hugetlb {
            return refuse("this node has no hugetlb controller, so huge pages cannot be limited".to_owned());
        }
        let Some(bytes) = go::parse_size(limit) else {
            return refuse("a size in binary units is expected, such as 64M".to_owned());
        };
        if limits.insert(page, bytes).is_some() {
            return refuse(format!("there is another limit for pages of {}", page_size(page)));
        }
    }
    let limit = |(page, bytes): (u64, u64)| json!({"pageSize": page_size(page), "limit": bytes});
    Ok(limits.into_iter().map(limit).collect())
}

/// A size of page in the OCI's form, such as `2MB`: binary units, and always a whole number.
fn page_size(bytes: u64) -> String {
    let fits = |(shift, _): &(u32, &str)| bytes >> shift << shift == bytes && bytes >> shift > 0;
    let units = [(30, "GB"), (20, "MB"), (10, "KB")];
    let (shift, unit) = units.into_iter().find(fits).unwrap_or((0, "B"));
    format!("{}{unit}", bytes >> shift)
}

#[cfg(test)]
#[path = "resources_test.rs"]
mod tests;

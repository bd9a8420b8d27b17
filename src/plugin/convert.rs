//! Nomad's protobuf messages in our vocabulary, and back. No decision except what a malformed message is.

use super::pb::driver as pb;
use super::pb::driver::fingerprint_response::HealthState;
use super::pb::driver::network_isolation_spec::NetworkIsolationMode;
use super::pb::structs::{Attribute as PbAttribute, attribute::Value};
use super::status;
use crate::messages::health::{Attribute, Health, Verdict};
use crate::messages::task::{Inspection, TaskEvent};
use crate::spec::SpecError;
use crate::spec::identity::TaskId;
use crate::spec::options;
use crate::spec::record::ExitRecord;
use crate::spec::task::{Dns, HostDevice, HostMount, JobNames, NetworkNamespace, Resources, TaskSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tonic::Status;

const NANOS: i64 = 1_000_000_000;

/// Go's zero time (year 1): what Go drivers send for "not yet".
pub(super) const ZERO_TIME: prost_types::Timestamp = prost_types::Timestamp {
    seconds: -62_135_596_800,
    nanos: 0,
};

/// The task of a `StartTask`.
pub(super) fn task(config: &pb::TaskConfig) -> Result<TaskSpec, Status> {
    if config.id.is_empty() {
        return Err(Status::invalid_argument("task config: id is empty"));
    }
    let options = options::decode(&config.msgpack_driver_config).map_err(|e| status::of_spec(&e))?;
    let written = options::written(&config.msgpack_driver_config).map_err(|e| status::of_spec(&e))?;
    Ok(TaskSpec {
        id: TaskId::new(&config.id),
        name: config.name.clone(),
        alloc_id: config.alloc_id.clone(),
        alloc_dir: config.alloc_dir.clone().into(),
        env: config.env.clone(),
        device_env: config.device_env.clone(),
        user: config.user.clone(),
        options,
        written,
        ports: config.resources.as_ref().map(ports).unwrap_or_default(),
        resources: config.resources.as_ref().map(resources).unwrap_or_default(),
        mounts: config.mounts.iter().map(mount).collect(),
        devices: config.devices.iter().map(device).collect(),
        network: network(config.network_isolation_spec.as_ref()).map_err(|e| status::of_spec(&e))?,
        dns: config.dns.as_ref().map(dns),
        stdout_path: config.stdout_path.clone().into(),
        stderr_path: config.stderr_path.clone().into(),
        job: JobNames {
            job_name: config.job_name.clone(),
            job_id: config.job_id.clone(),
            // Hosts leave the field out, and tell the task.
            parent_job_id: Some(config.parent_job_id.clone())
                .filter(|id| !id.is_empty())
                .or_else(|| config.env.get("NOMAD_JOB_PARENT_ID").cloned())
                .unwrap_or_default(),
            task_group: config.task_group_name.clone(),
            namespace: config.namespace.clone(),
            node_name: config.node_name.clone(),
            node_id: config.node_id.clone(),
        },
    })
}

/// The allocated numbers count; `memory_limit_bytes` is wrong for `memory_max = -1` and is not read.
fn resources(r: &pb::Resources) -> Resources {
    let allocated = r.allocated_resources.as_ref();
    let memory = allocated.and_then(|a| a.memory.as_ref());
    let linux = r.linux_resources.as_ref();
    let shares = linux.map(|l| l.cpu_shares).filter(|n| *n > 0);
    Resources {
        cpu_shares: shares
            .or_else(|| Some(allocated?.cpu.as_ref()?.cpu_shares))
            .unwrap_or_default(),
        memory_mb: memory.map(|m| m.memory_mb).unwrap_or_default(),
        memory_max_mb: memory.map(|m| m.memory_max_mb).unwrap_or_default(),
        cpuset_cpus: linux.map(|l| l.cpuset_cpus.clone()).unwrap_or_default(),
        cpuset_cgroup: linux.map(|l| l.cpuset_cgroup.clone()).unwrap_or_default(),
        percent_ticks: linux
            .map(|l| l.percent_ticks)
            .filter(|p| p.is_finite())
            .unwrap_or_default(),
    }
}

/// Labels of the group's ports, and of those that a task has by a `network` block of its own, which old jobs have.
fn ports(r: &pb::Resources) -> BTreeSet<String> {
    let of_group = r.ports.iter().map(|port| &port.label);
    let networks = r.allocated_resources.iter().flat_map(|a| &a.networks);
    let of_task = networks.flat_map(|n| n.reserved_ports.iter().chain(&n.dynamic_ports));
    of_group.chain(of_task.map(|port| &port.label)).cloned().collect()
}

fn mount(m: &pb::Mount) -> HostMount {
    HostMount {
        task_path: m.task_path.clone(),
        host_path: m.host_path.clone(),
        readonly: m.readonly,
        propagation: m.propagation_mode.clone(),
        selinux_label: m.selinux_label.clone(),
    }
}

fn device(d: &pb::Device) -> HostDevice {
    HostDevice {
        task_path: d.task_path.clone(),
        host_path: d.host_path.clone(),
        permissions: d.cgroup_permissions.clone(),
    }
}

/// A namespace that Nomad made, if any. A mode that promises one but names none is refused: the task would silently
/// run in the host's network.
fn network(spec: Option<&pb::NetworkIsolationSpec>) -> Result<Option<NetworkNamespace>, SpecError> {
    let Some(spec) = spec else { return Ok(None) };
    let hosts = spec
        .hosts_config
        .as_ref()
        .filter(|h| !h.hostname.is_empty() && !h.address.is_empty());
    let namespace = NetworkNamespace {
        path: spec.path.clone(),
        hosts: hosts.map(|h| (h.hostname.clone(), h.address.clone())),
    };
    match (spec.mode(), spec.path.is_empty()) {
        (NetworkIsolationMode::Host, _) | (NetworkIsolationMode::Task, true) => Ok(None),
        (NetworkIsolationMode::Group | NetworkIsolationMode::Task | NetworkIsolationMode::None, false) => {
            Ok(Some(namespace))
        }
        (NetworkIsolationMode::Group | NetworkIsolationMode::None, true) => Err(SpecError::option(
            "network",
            spec.mode().as_str_name(),
            "a path of a network namespace must be given",
        )),
    }
}

fn dns(d: &pb::DnsConfig) -> Dns {
    Dns {
        servers: d.servers.clone(),
        searches: d.searches.clone(),
        options: d.options.clone(),
    }
}

/// How a task ended, as Nomad shows it. Success is code 0, signal 0 and no text.
pub(super) fn exit(exit: &ExitRecord) -> pb::WaitTaskResponse {
    let err = match (exit.lost.as_str(), exit.oom) {
        ("", true) => "OOM Killed".to_owned(),
        (lost, _) => lost.to_owned(),
    };
    pb::WaitTaskResponse {
        result: Some(result(exit)),
        err,
    }
}

fn result(exit: &ExitRecord) -> pb::ExitResult {
    pb::ExitResult {
        exit_code: exit.code,
        signal: exit.signal(),
        oom_killed: exit.oom,
    }
}

/// Answer to `InspectTask`: no part may be null, or the reader's process ends.
pub(super) fn inspection(id: &TaskId, i: &Inspection) -> pb::InspectTaskResponse {
    let state = if i.exit.is_some() {
        pb::TaskState::Exited
    } else {
        pb::TaskState::Running
    };
    let mut attributes = BTreeMap::from([("container_id".to_owned(), i.container.to_string())]);
    if let Some(pid) = i.pid {
        attributes.insert("pid".to_owned(), pid.to_string());
    }
    pb::InspectTaskResponse {
        task: Some(pb::TaskStatus {
            id: id.to_string(),
            name: i.name.clone(),
            state: state.into(),
            started_at: Some(timestamp(i.started_at)),
            completed_at: Some(i.exit.as_ref().map_or(ZERO_TIME, |e| timestamp(e.at))),
            result: Some(i.exit.as_ref().map(result).unwrap_or_default()),
        }),
        driver: Some(pb::TaskDriverStatus { attributes }),
        network_override: Some(pb::NetworkOverride::default()),
    }
}

pub(super) fn event(e: TaskEvent) -> pb::DriverTaskEvent {
    pb::DriverTaskEvent {
        task_id: e.task.to_string(),
        alloc_id: e.alloc_id,
        task_name: e.task_name,
        timestamp: Some(timestamp(e.at)),
        message: e.message,
        annotations: e.annotations,
    }
}

pub(super) fn verdict(v: &Verdict) -> pb::FingerprintResponse {
    let health = match v.health {
        Health::Undetected => HealthState::Undetected,
        Health::Unhealthy => HealthState::Unhealthy,
        Health::Healthy => HealthState::Healthy,
    };
    pb::FingerprintResponse {
        attributes: v.attributes.iter().map(|(k, a)| (k.clone(), attribute(a))).collect(),
        health: health.into(),
        health_description: v.description.clone(),
        err: String::new(),
    }
}

fn attribute(a: &Attribute) -> PbAttribute {
    let value = match a {
        Attribute::Text(text) => Value::StringVal(text.clone()),
        Attribute::Bool(b) => Value::BoolVal(*b),
    };
    PbAttribute {
        value: Some(value),
        unit: String::new(),
    }
}

/// An attribute with the empty text: Nomad's way to delete it from the node.
pub(super) fn withdrawn() -> PbAttribute {
    PbAttribute {
        value: Some(Value::StringVal(String::new())),
        unit: String::new(),
    }
}

pub(super) fn timestamp(nanos: i64) -> prost_types::Timestamp {
    // The remainder is below 10^9.
    let rest = i32::try_from(nanos.rem_euclid(NANOS)).unwrap_or_default();
    prost_types::Timestamp {
        seconds: nanos.div_euclid(NANOS),
        nanos: rest,
    }
}

/// The longest duration that Go has; more would overflow the clock when a deadline is made of it.
const LONGEST: Duration = Duration::from_nanos(i64::MAX.unsigned_abs());

/// A grace: absent and negative mean none.
pub(super) fn duration(d: Option<prost_types::Duration>) -> Duration {
    d.and_then(|d| Duration::try_from(d).ok())
        .unwrap_or_default()
        .min(LONGEST)
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;

//! Which namespaces a container has of its own, and which it shares with the host.
//!
//! Sharing one needs consent (`allowed_modes`), except for a privileged task, which passed a wider gate. The cgroup
//! namespace is private with cgroup v2, as Docker's; the Go driver shared the host's.

use super::error::SpecError;
use super::gates::Mode;
use super::network::{self, Network};
use super::node::CgroupMode;
use super::oci::Inputs;
use super::userns;
use serde_json::{Value, json};

/// Where System V IPC and POSIX queues are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ipc {
    /// A namespace of the container's own.
    Private,
    /// The host's.
    Host,
    /// A namespace of the container's own, without `/dev/shm`.
    None,
}

/// The IPC mode. Docker's `shareable` is a private one: no other container can ask for it here.
pub(super) fn ipc(inputs: &Inputs<'_>) -> Result<Ipc, SpecError> {
    match inputs.task.options.ipc_mode.as_deref().unwrap_or_default() {
        "" | "private" | "shareable" => Ok(Ipc::Private),
        "none" => Ok(Ipc::None),
        mode @ "host" => consent(inputs, Mode::Ipc, "ipc_mode", mode).map(|()| Ipc::Host),
        other => Err(SpecError::option(
            "ipc_mode",
            other,
            "host, private, shareable or none is expected",
        )),
    }
}

/// True if the task shares the host's processes. In the Go driver's words where the mode is unknown.
pub(super) fn host_pid(inputs: &Inputs<'_>) -> Result<bool, SpecError> {
    match inputs.task.options.pid_mode.as_deref().unwrap_or_default() {
        "" | "private" => Ok(false),
        mode if mode.eq_ignore_ascii_case("host") => consent(inputs, Mode::Pid, "pid_mode", mode).map(|()| true),
        other => Err(SpecError::Refused {
            option: "pid_mode".to_owned(),
            text: format!(
                "option pid_mode: {other:?}: Invalid pid_mode. Set pid_mode=host to enable host pid namespace."
            ),
        }),
    }
}

/// True if the task shares the host's name.
pub(super) fn host_uts(inputs: &Inputs<'_>) -> Result<bool, SpecError> {
    let o = &inputs.task.options;
    let host = two(inputs, Mode::Uts, "uts_mode", o.uts_mode.as_deref(), false)?;
    match o.hostname.as_ref().filter(|n| !n.is_empty()) {
        Some(name) if host => Err(SpecError::option(
            "hostname",
            name,
            "not allowed with uts_mode = \"host\": it would change the host's name",
        )),
        _ => Ok(host),
    }
}

/// True if the task sees the host's cgroup tree.
fn host_cgroup(inputs: &Inputs<'_>) -> Result<bool, SpecError> {
    let v1 = inputs.node.cgroup == CgroupMode::V1;
    two(
        inputs,
        Mode::Cgroup,
        "cgroupns",
        inputs.task.options.cgroupns.as_deref(),
        v1,
    )
}

/// `host` or `private`. What is the default needs no consent.
fn two(
    inputs: &Inputs<'_>,
    mode: Mode,
    option: &str,
    value: Option<&str>,
    default_host: bool,
) -> Result<bool, SpecError> {
    match value.unwrap_or_default() {
        "" => Ok(default_host),
        "private" => Ok(false),
        "host" if default_host => Ok(true),
        value @ "host" => consent(inputs, mode, option, value).map(|()| true),
        other => Err(SpecError::option(option, other, "host or private is expected")),
    }
}

/// Asks the gate, unless the task is privileged.
pub(super) fn consent(inputs: &Inputs<'_>, mode: Mode, option: &str, value: &str) -> Result<(), SpecError> {
    if inputs.task.options.privileged {
        return Ok(());
    }
    inputs.gates.mode(mode, option, value)
}

/// OCI `linux.namespaces`.
pub(super) fn build(inputs: &Inputs<'_>) -> Result<Vec<Value>, SpecError> {
    let mut out = Vec::new();
    let mut own = |kind: &str| out.push(json!({"type": kind}));
    if ipc(inputs)? != Ipc::Host {
        own("ipc");
    }
    if !host_uts(inputs)? {
        own("uts");
    }
    own("mount");
    if !host_pid(inputs)? {
        own("pid");
    }
    if !host_cgroup(inputs)? {
        own("cgroup");
    }
    if userns::ids(inputs)?.is_some() {
        own("user");
    }
    match network::network(inputs)? {
        Network::Group(path) => out.push(json!({"type": "network", "path": path})),
        Network::Own => own("network"),
        Network::Host => {}
    }
    Ok(out)
}

#[cfg(test)]
#[path = "namespaces_test.rs"]
pub(super) mod tests;

//! What confines a container besides its namespaces: system call filter, AppArmor profile, SELinux label, no new
//! privileges, masked and read-only paths.
//!
//! As in the Go driver (containerd `oci.WithPrivileged`), `privileged` leaves all of them off; an AppArmor profile and
//! `no_new_privileges` that the task names count nevertheless.

use super::error::SpecError;
use super::gates::{self, Profile, Protection};
use super::oci::Inputs;
use super::seccomp;
use super::security_opt::{Label, SecurityOpt};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// containerd's masked paths (`oci.populateDefaultUnixSpec`, 2.4).
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/proc/scsi",
];

/// containerd's read-only paths.
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// AppArmor profiles for containers: our own name, by which an operator can choose, then those that containerd's CRI
/// plugin and Docker load. The first that is loaded is the default.
const APPARMOR_DEFAULTS: [&str; 3] = [
    "containerd-driver-default",
    "cri-containerd.apparmor.d",
    "docker-default",
];

/// Types that container-selinux's policy has for what runs in a container. `container_runtime_t` is for what runs
/// containers, and `spc_t` is confined by nothing.
const SELINUX_TYPES: [&str; 7] = [
    "container_t",
    "container_init_t",
    "container_kvm_t",
    "container_userns_t",
    "svirt_lxc_net_t",
    "svirt_kvm_net_t",
    "svirt_qemu_net_t",
];

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Security {
    seccomp: Option<Value>,
    apparmor: Option<String>,
    no_new_privileges: bool,
    masked: Vec<String>,
    readonly: Vec<String>,
    /// Label of the process, and of what is mounted for it.
    selinux: Option<(String, String)>,
}

impl Security {
    /// For a container with these capabilities.
    pub(super) fn build(inputs: &Inputs<'_>, caps: &BTreeSet<String>) -> Result<Self, SpecError> {
        let opt = SecurityOpt::of(inputs.task)?;
        if inputs.task.options.privileged {
            inputs.gates.privileged()?;
        }
        let (masked, readonly) = system_paths(inputs, &opt)?;
        Ok(Self {
            seccomp: seccomp::choose(inputs, &opt, caps)?,
            apparmor: apparmor(inputs, &opt)?,
            no_new_privileges: no_new_privileges(inputs, &opt)?,
            masked,
            readonly,
            selinux: selinux(inputs, &opt.label)?,
        })
    }

    /// Writes it into a specification that has `process` and `linux`.
    pub(super) fn apply(self, spec: &mut Value) {
        let process = &mut spec["process"];
        process["noNewPrivileges"] = json!(self.no_new_privileges);
        if let Some(name) = self.apparmor {
            process["apparmorProfile"] = json!(name);
        }
        let mount_label = self.selinux.map(|(own, mounts)| {
            process["selinuxLabel"] = json!(own);
            mounts
        });
        let linux = &mut spec["linux"];
        if let Some(label) = mount_label {
            linux["mountLabel"] = json!(label);
        }
        if let Some(filter) = self.seccomp {
            linux["seccomp"] = filter;
        }
        for (name, paths) in [("maskedPaths", self.masked), ("readonlyPaths", self.readonly)] {
            if !paths.is_empty() {
                linux[name] = json!(paths);
            }
        }
    }
}

fn no_new_privileges(inputs: &Inputs<'_>, opt: &SecurityOpt) -> Result<bool, SpecError> {
    let o = &inputs.task.options;
    match (o.no_new_privileges, opt.no_new_privileges) {
        (Some(own), Some(listed)) if own != listed => Err(SpecError::option(
            "security_opt",
            format!("no-new-privileges={listed}"),
            format!("it contradicts no_new_privileges = {own}; leave one of them out"),
        )),
        (Some(on), _) | (None, Some(on)) => Ok(on),
        (None, None) => Ok(!o.privileged),
    }
}

fn system_paths(inputs: &Inputs<'_>, opt: &SecurityOpt) -> Result<(Vec<String>, Vec<String>), SpecError> {
    let privileged = inputs.task.options.privileged;
    let wanted = opt.all_unmasked.iter().cloned();
    let wanted = wanted.chain(opt.unmask.iter().map(|path| format!("unmask={path}")));
    for item in wanted.filter(|_| !privileged) {
        inputs
            .gates
            .unconfined(Protection::SystemPaths, "security_opt", &item)?;
    }
    let none = privileged || opt.all_unmasked.is_some();
    let keep = |list: &[&str]| -> Vec<String> {
        let kept = list
            .iter()
            .filter(|p| !none && !opt.unmask.iter().any(|u| gates::fits(u, p)));
        kept.map(|p| (*p).to_owned()).collect()
    };
    let throttles: Vec<&str> = inputs.node.security.throttles.iter().map(String::as_str).collect();
    let mut masked = keep(&[&MASKED[..], &throttles].concat());
    for path in &opt.mask {
        if !masked.contains(path) {
            masked.push(path.clone());
        }
    }
    Ok((masked, keep(&READONLY)))
}

fn apparmor(inputs: &Inputs<'_>, opt: &SecurityOpt) -> Result<Option<String>, SpecError> {
    let (o, loaded) = (&inputs.task.options, inputs.node.security.apparmor.as_ref());
    let (option, shown, name) = match (&o.apparmor_profile, &opt.apparmor) {
        (Some(own), Some(listed)) if own != listed => {
            return Err(SpecError::option(
                "security_opt",
                format!("apparmor={listed}"),
                format!("it contradicts apparmor_profile = {own:?}; leave one of them out"),
            ));
        }
        (Some(own), _) => ("apparmor_profile", own.clone(), own),
        (None, Some(listed)) => ("security_opt", format!("apparmor={listed}"), listed),
        (None, None) => {
            let wanted = inputs.gates.profile == Profile::Strict && !o.privileged;
            let mut names = APPARMOR_DEFAULTS.into_iter().filter(|_| wanted);
            let name = names.find(|n| loaded.is_some_and(|l| l.contains_key(*n)));
            return Ok(name.map(str::to_owned));
        }
    };
    let consent = || match o.privileged {
        true => Ok(()),
        false => inputs.gates.unconfined(Protection::AppArmor, option, &shown),
    };
    if name == "unconfined" {
        return consent().map(|()| None);
    }
    let Some(loaded) = loaded else {
        return Err(SpecError::option(
            option,
            &shown,
            "AppArmor is not enabled in the kernel of this node; leave the option out",
        ));
    };
    match loaded.get(name) {
        Some(true) if APPARMOR_DEFAULTS.contains(&name.as_str()) => Ok(Some(name.clone())),
        // One that only complains is as good as none, and one for a program of the host's may be, too.
        Some(_) => consent().map(|()| Some(name.clone())),
        None => Err(SpecError::option(
            option,
            &shown,
            "unconfined, or a profile that is loaded on this node, is expected",
        )),
    }
}

/// Without a word about it the container has the label that the runtime's own gives it, as under the Go driver;
/// `disable` says the same. The parts that are not named are those of container-selinux's policy.
fn selinux(inputs: &Inputs<'_>, label: &Label) -> Result<Option<(String, String)>, SpecError> {
    if !label.says() {
        return Ok(None);
    }
    if !inputs.node.security.selinux {
        return Err(SpecError::option(
            "security_opt",
            "label=",
            "SELinux is not enabled in the kernel of this node; label=disable, or none, is expected",
        ));
    }
    if inputs.task.options.privileged {
        return Ok(None);
    }
    let kept = |kind: &String| SELINUX_TYPES.contains(&kind.as_str());
    if let Some(kind) = label.kind.as_ref().filter(|kind| !kept(kind)) {
        let shown = format!("label=type:{kind}");
        inputs.gates.unconfined(Protection::Selinux, "security_opt", &shown)?;
    }
    fn or<'a>(part: &'a Option<String>, usual: &'a str) -> &'a str {
        part.as_deref().unwrap_or(usual)
    }
    let (user, level) = (or(&label.user, "system_u"), or(&label.level, "s0"));
    let (role, kind) = (or(&label.role, "system_r"), or(&label.kind, "container_t"));
    let files = or(&label.file_kind, "container_file_t");
    Ok(Some((
        format!("{user}:{role}:{kind}:{level}"),
        format!("{user}:object_r:{files}:{level}"),
    )))
}

#[cfg(test)]
#[path = "security_test.rs"]
mod tests;

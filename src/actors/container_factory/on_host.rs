//! The host's side of a creation: mount sources, generated files, the pipe of standard input.
//!
//! All of it lies in the container's directory or is held by a descriptor, so it goes with the container's removal or
//! with this process.

use crate::actors::shared::Shared;
use crate::containerd::{Gateway, RuntimeOptions};
use crate::host::mounted::{self, Compared, Looked, Mounted};
use crate::host::pins::{self, Pinned};
use crate::host::{HostError, cgroup, fifo, paths, selinux, shims};
use crate::messages::container::ContainerError;
use crate::spec::error::SpecError;
use crate::spec::identity::ContainerId;
use crate::spec::node::DeviceKind;
use crate::spec::oci::{AskedDevice, Beneath, ContainerPlan, Expected};
use crate::telemetry::steps::step;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Between creation and start: what was checked is what is mounted, and the process is among the cores that Nomad gives.
pub(super) fn place(
    shared: &Shared,
    gateway: &Gateway,
    id: &ContainerId,
    plan: &ContainerPlan,
    pid: u32,
    checked: &[OwnedFd],
) -> Result<(), ContainerError> {
    mounted(plan, pid, checked)?;
    // Another shim may still be about to mount what it was told: there the container's removal lets go.
    if plan.runtime.shows_its_root() {
        let_go(shared, id)?;
        // What stays mounted costs later starts some time, and goes with the container.
        if !plan.late_hooks {
            match shims::unmount_root(pid, gateway.namespace(), id.as_str()) {
                Ok(bundle) => {
                    if let Some(dir) = bundle.as_deref().and_then(Path::parent) {
                        shared
                            .bundles
                            .note(Path::new(gateway.socket()), gateway.namespace(), dir);
                    }
                }
                Err(error) => {
                    tracing::warn!(container.id = %id, %error, "a container's root stays mounted on the host");
                }
            }
        }
    }
    let Some(cpuset) = &plan.join_cpuset else {
        return Ok(());
    };
    cgroup::join(cpuset, pid).map_err(|e| ContainerError::Host {
        what: "the cores that Nomad gives to tasks",
        path: cpuset.display().to_string(),
        reason: e.reason,
    })
}

/// What must be so on the host before the mounts are made. A task can plant a link in its own directories, and the
/// runtime, which is root, would follow it: sources there must resolve beneath them.
///
/// Returns what was checked, in the order of [`ContainerPlan::beneath`].
pub(super) fn host_side(plan: &ContainerPlan) -> Result<Vec<OwnedFd>, ContainerError> {
    let fault = |source: &Path, e: HostError| ContainerError::Host {
        what: match plan.sources.iter().find(|(_, path)| path == source) {
            Some(("volumes", _)) => "option volumes: source",
            Some(("mount", _)) => "option mount: source",
            Some(_) => "option mounts: source",
            None => "mount source",
        },
        path: source.display().to_string(),
        reason: reason(plan, source, e.reason),
    };
    let check = |mount: &Beneath| {
        let Beneath { dir, source, .. } = mount;
        paths::check_beneath(dir, source).map_err(|e| fault(source, e))
    };
    let is_generated = |mount: &Beneath| plan.files.iter().any(|file| file.path_on_host == mount.source);
    // First what is there already: nothing is made in an allocation that is not.
    let there = |mount: &Beneath| (!is_generated(mount)).then(|| check(mount)).transpose();
    let checked = plan.beneath.iter().map(there).collect::<Result<Vec<_>, _>>()?;
    for (_, source) in &plan.sources {
        paths::check_exists(source).map_err(|e| fault(source, e))?;
    }
    for (source, label) in &plan.relabel {
        let dir = plan
            .beneath
            .iter()
            .find(|mount| mount.source == *source)
            .map(|mount| mount.dir.as_path());
        selinux::relabel(dir, source, label).map_err(|e| ContainerError::Host {
            what: e.what,
            path: e.path.display().to_string(),
            reason: e.reason,
        })?;
    }
    for file in &plan.files {
        let fault = |e: HostError| ContainerError::Host {
            what: "generated file",
            path: file.path_on_host.display().to_string(),
            reason: e.reason,
        };
        if let Some(dir) = file.path_on_host.parent()
            && !dir.exists()
        {
            paths::create_run_dir(dir).map_err(fault)?;
            step!(blocking StartRunDir);
        }
        paths::write_generated_file(&file.path_on_host, file.content.as_bytes(), file.mode).map_err(fault)?;
        if let Some(ids) = plan.userns {
            // As without one, its root user may write it.
            paths::give(&file.path_on_host, ids.on_host(0)).map_err(fault)?;
        }
    }
    let all = plan.beneath.iter().zip(checked);
    all.map(|(mount, checked)| checked.map_or_else(|| check(mount), Ok))
        .collect()
}

/// Tells who expects Docker's volumes, where nothing is found, what a name alone is here.
fn reason(plan: &ContainerPlan, source: &Path, reason: String) -> String {
    let by_job = plan.sources.iter().any(|(_, path)| path == source);
    let mut all = plan.beneath.iter();
    let is_name = all.any(|mount| mount.source == source && source.parent() == Some(mount.dir.as_path()));
    if reason == paths::NOTHING && by_job && is_name {
        format!(
            "{reason}; a name alone is a path in the task directory, and volumes by name are Nomad's: volume and volume_mount"
        )
    } else {
        reason
    }
}

/// Between creation and start: at each target, a process of the container finds the mount that was planned, and what was
/// checked. Other shims than runc's keep their mounts where they cannot be looked at.
fn mounted(plan: &ContainerPlan, pid: u32, checked: &[OwnedFd]) -> Result<(), ContainerError> {
    if !plan.runtime.shows_its_root() {
        return Ok(());
    }
    let all = Mounted::of(pid).map_err(|e| ContainerError::Host {
        what: e.what,
        path: e.path.display().to_string(),
        reason: e.reason,
    })?;
    let groups = if plan.expected.iter().any(|expected| expected.shared) {
        mounted::groups_of_host().map_err(|e| ContainerError::Host {
            what: e.what,
            path: e.path.display().to_string(),
            reason: e.reason,
        })?
    } else {
        BTreeSet::new()
    };
    let mut found = BTreeMap::new();
    for expected in &plan.expected {
        let looked = all.look(&expected.target).map_err(|e| fault(expected, e.reason))?;
        let source = expected
            .source
            .and_then(|index| Some((plan.beneath.get(index)?, checked.get(index)?)));
        if let Some((planned, checked)) = source {
            is_source(expected, &looked, planned, checked)?;
        }
        let (id, mount) = all.mount_of(&looked).map_err(|e| fault(expected, e.reason))?;
        // Two at one place: one of them is somewhere else, with whatever was in the place of its source.
        if let Some(other) = found
            .insert(id, expected)
            .filter(|other| expected.source.is_some() || other.source.is_some())
        {
            let text = format!(
                "it is the same place as {}, by links in the image or made by a task",
                other.target.display()
            );
            return Err(fault(expected, text));
        }
        if expected.read_only && !mount.read_only {
            return Err(fault(
                expected,
                "it can be written to, but is to be read-only".to_owned(),
            ));
        }
        if expected.shared && mount.groups.is_disjoint(&groups) {
            let text = "what is mounted below it would not show on the host, since its source is in a mount that is private \
                        there; on the host, mount --make-rshared for that mount is expected";
            return Err(fault(expected, text.to_owned()));
        }
        if let Some(place) = mount.point.to_str().filter(|place| !expected.allows(place)) {
            let text = format!(
                "links in the image, or made by a task, lead to {place}; volumes {{ enabled = true }} in the \
                                plugin configuration would allow a mount there"
            );
            return Err(fault(expected, text));
        }
        if let Some(bits) = expected.mode {
            looked
                .set_mode(bits)
                .map_err(|e| fault(expected, format!("it cannot have mode {bits:o}: {}", e.reason)))?;
        }
    }
    null(plan, &all)?;
    for device in &plan.devices {
        is_device(device, &all)?;
    }
    for directory in &plan.directories {
        all.make_dir(directory).map_err(|e| ContainerError::Host {
            what: "image VOLUME",
            path: directory.display().to_string(),
            reason: e.reason,
        })?;
    }
    let planned: Vec<u64> = found.keys().copied().collect();
    for (id, expected) in found.iter().filter(|(_, expected)| expected.all_read_only) {
        if let Some(below) = all.writable_below(*id, &planned) {
            let text = format!(
                "{} below it can be written to, but all is to be read-only (rro); Linux 5.12 and runc 1.1 or crun 1.4 are \
                 needed",
                below.point.display()
            );
            return Err(fault(expected, text));
        }
    }
    Ok(())
}

/// The runtime has made the null device itself, unless something is mounted there or above, which has had its consent.
fn null(plan: &ContainerPlan, all: &Mounted) -> Result<(), ContainerError> {
    let place = Path::new(mounted::NULL);
    if plan.expected.iter().any(|expected| place.starts_with(&expected.target)) {
        return Ok(());
    }
    let reason = match all.null_is_null() {
        Ok(true) => return Ok(()),
        Ok(false) => "something else than the null device is there, by the image or a mount".to_owned(),
        Err(e) => e.reason,
    };
    Err(ContainerError::Host {
        what: "device",
        path: place.display().to_string(),
        reason: format!("{reason}; the task was not started"),
    })
}

/// Runtimes leave what is in a device's place as it is.
fn is_device(device: &AskedDevice, all: &Mounted) -> Result<(), ContainerError> {
    let found = all.device_at(Path::new(&device.path));
    let reason = match found {
        Ok(Some(found)) if found == (device.kind == DeviceKind::Block, device.number.0, device.number.1) => {
            return Ok(());
        }
        Ok(_) => {
            "something else is there, by the image, a mount or the runtime; a path is expected where there is nothing"
                .to_owned()
        }
        Err(e) => e.reason,
    };
    Err(SpecError::option(&device.by, &device.path, format!("{reason}; the task was not started")).into())
}

/// A mount that is not as it must be.
fn fault(expected: &Expected, reason: String) -> ContainerError {
    ContainerError::Host {
        what: expected.by,
        path: expected.target.display().to_string(),
        reason: format!("{reason}; the task was not started"),
    }
}

/// What a process finds is the source. One that is not held fast may have been replaced, as Nomad does with a template that it
/// renders anew: what the runtime mounted then is as good, if it still is the source, and else the next start finds it.
fn is_source(expected: &Expected, looked: &Looked, planned: &Beneath, checked: &OwnedFd) -> Result<(), ContainerError> {
    let again = (!planned.contested).then_some((planned.dir.as_path(), planned.source.as_path()));
    match looked
        .compare(checked, again)
        .map_err(|e| fault(expected, e.reason))?
    {
        Compared::Source => Ok(()),
        Compared::Replaced(what) => Err(ContainerError::Interrupted(format!(
            "{} {}: its source {} was replaced while it was mounted: {what}",
            expected.by,
            expected.target.display(),
            planned.source.display()
        ))),
        Compared::Other => Err(fault(
            expected,
            "something else than its source is found there: links in the image, or made by a task, lead elsewhere, or the \
             plugin and containerd are in different mount namespaces"
                .to_owned(),
        )),
    }
}

/// Holds fast the sources that other tasks can put links in the place of, and returns the specification that names them.
///
/// # Errors
/// Names the mount that cannot be made; what was made goes with the container's removal.
pub(super) fn hold(
    shared: &Shared,
    id: &ContainerId,
    plan: &ContainerPlan,
    checked: &[OwnedFd],
) -> Result<(), ContainerError> {
    let contested: Vec<Pinned<'_>> = checked
        .iter()
        .enumerate()
        .filter(|(index, _)| plan.beneath.get(*index).is_some_and(|mount| mount.contested))
        .collect();
    pins::hold(&pins::dir_of(&shared.run_dir, id.as_str()), &contested).map_err(pin_fault)
}

/// Lets go of the sources that were held, once the runtime has mounted them.
///
/// # Errors
/// Names the mount that stays.
pub(super) fn let_go(shared: &Shared, id: &ContainerId) -> Result<(), ContainerError> {
    pins::release(&pins::dir_of(&shared.run_dir, id.as_str())).map_err(pin_fault)
}

fn pin_fault(e: HostError) -> ContainerError {
    ContainerError::Host {
        what: e.what,
        path: e.path.display().to_string(),
        reason: e.reason,
    }
}

/// The specification for containerd: contested sources by the paths where they are held.
///
/// # Errors
/// None for what the plan was made with.
pub(super) fn spec_of(shared: &Shared, id: &ContainerId, plan: &ContainerPlan) -> Result<Vec<u8>, ContainerError> {
    let dir = pins::dir_of(&shared.run_dir, id.as_str());
    let held = |index: usize| {
        let contested = plan.beneath.get(index).is_some_and(|mount| mount.contested);
        contested.then(|| pins::path_of(&dir, index))
    };
    Ok(plan.spec_with_sources(held)?)
}

/// The options of runc's shim for a plan; `None` where it needs none.
pub(super) fn runtime_options(plan: &ContainerPlan) -> Option<RuntimeOptions> {
    let is_runcs = plan.runtime.shares_shims();
    let owner = plan.owner.filter(|_| is_runcs);
    (plan.runtime.takes_options() || owner.is_some()).then(|| RuntimeOptions {
        binary_name: plan.runtime.binary.clone(),
        systemd_cgroup: plan.runtime.systemd_cgroup,
        io_owner: owner.unwrap_or_default(),
        ..RuntimeOptions::default()
    })
}

/// A pipe that nobody writes to, if standard input is to stay open: the shim waits for a writer for as long as the task
/// runs. It lies with the container's other files and goes with them.
pub(super) fn stdin(
    shared: &Shared,
    id: &ContainerId,
    plan: &ContainerPlan,
) -> Result<Option<PathBuf>, ContainerError> {
    // A terminal is its own input.
    if plan.terminal {
        return Ok(None);
    }
    if !plan.stdin {
        // The shim then has the process read from a pipe that is at its end: no device for the runtime to give away.
        return Ok(plan.runtime.gives_null_away().then(|| mounted::NULL.into()));
    }
    let dir = shared.run_dir.join(id.as_str());
    let path = dir.join("stdin");
    paths::create_run_dir(&dir)
        .and_then(|()| fifo::make_fifo(&path))
        .map_err(|e| ContainerError::Host {
            what: "option interactive: standard input",
            path: path.display().to_string(),
            reason: e.reason,
        })?;
    Ok(Some(path))
}

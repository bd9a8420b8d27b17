//! The host's side of a creation: mount sources, generated files, the pipe of standard input, the log pipes.
//!
//! All of it lies in the container's directory or is held by a descriptor, so it goes with the container's removal or
//! with this process.

use crate::actors::shared::Shared;
use crate::host::mounted::{self, Compared, Looked, Mounted};
use crate::host::pins::{self, Pinned};
use crate::host::{HostError, cgroup, exec, fifo, paths, selinux, shims};
use crate::messages::container::ContainerError;
use crate::spec::identity::ContainerId;
use crate::spec::oci::{Beneath, ContainerPlan, Expected};
use crate::telemetry::steps::step;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The log paths of a task that its shim opens: standard output and standard error.
pub(super) type Logs = (Option<PathBuf>, Option<PathBuf>);

/// How long the reader of a log pipe may take to open it again, and the rest between two looks: nothing tells of it.
const READER_PATIENCE: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Writing ends of the log pipes, held from before a shim is told to open them until the start is over, and while what an
/// earlier start has left is taken down.
///
/// Nomad's collector reads each pipe until its end and never again, and asks for a start again without starting its
/// collectors again (`task_runner.go`, `runDriver` after `ErrPluginShutdown`). So the end of a leftover's shim, or of one
/// that a containerd that goes away takes along, must not be the end of the pipe, or the next shim would write to nobody, or
/// wait for a reader for ever.
#[derive(Debug)]
pub(super) struct Held<'a> {
    alloc_dir: &'a Path,
    /// Of a terminal, only the pipe that it writes to.
    pipes: Vec<(&'a Path, Option<OwnedFd>)>,
}

impl<'a> Held<'a> {
    /// Of these log paths, those that are pipes; none is held yet. A file has no end that its reader could take for the last.
    pub(super) fn none_of(alloc_dir: &'a Path, logs: &'a Logs, terminal: bool) -> Self {
        let paths = [logs.0.as_deref(), logs.1.as_deref().filter(|_| !terminal)];
        let is_pipe = |path: &&Path| path.symlink_metadata().is_ok_and(|found| found.file_type().is_fifo());
        Self {
            alloc_dir,
            pipes: paths
                .into_iter()
                .flatten()
                .filter(is_pipe)
                .map(|path| (path, None))
                .collect(),
        }
    }

    /// Takes hold of what is read and not held yet. A pipe whose reader is still to come is left alone: whoever opens it waits
    /// for that.
    pub(super) fn take_read(&mut self) -> Result<(), ContainerError> {
        for (path, end) in self.pipes.iter_mut().filter(|(_, end)| end.is_none()) {
            *end = fifo::hold(self.alloc_dir, path).map_err(log_pipe(path))?;
        }
        Ok(())
    }

    /// Takes hold of all, unless that was done.
    ///
    /// # Errors
    /// If a pipe has no reader: its collector saw the end of the earlier start. Nomad has other collectors with the next try,
    /// by its restart policy, or, since it takes an error after the plugin's death for final, by its reschedule policy.
    pub(super) async fn take(&mut self) -> Result<(), ContainerError> {
        let begun = tokio::time::Instant::now();
        loop {
            tokio::task::block_in_place(|| self.take_read())?;
            let Some((path, _)) = self.pipes.iter().find(|(_, end)| end.is_none()) else {
                return Ok(());
            };
            if begun.elapsed() >= READER_PATIENCE {
                return Err(ContainerError::Interrupted(format!(
                    "nobody reads the log pipe {} any more, since an earlier start of this task has ended",
                    path.display()
                )));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// To be called before a shim is told to open the pipes: a collector may have been about to leave when they were taken.
    ///
    /// # Errors
    /// As [`Held::take`].
    pub(super) fn still_read(&self) -> Result<(), ContainerError> {
        if self
            .pipes
            .iter()
            .filter_map(|(_, end)| end.as_ref())
            .all(exec::has_reader)
        {
            return Ok(());
        }
        Err(ContainerError::Interrupted(
            "nobody reads the log pipes any more, since an earlier start of this task has ended".to_owned(),
        ))
    }
}

fn log_pipe(path: &Path) -> impl FnOnce(HostError) -> ContainerError {
    move |e| ContainerError::Host {
        what: "log pipe",
        path: path.display().to_string(),
        reason: e.reason,
    }
}

/// Lets the readers of log pipes to which nobody writes see their end: the shim leaves these pipes alone, and their readers
/// would wait for ever.
pub(super) fn end_unused_logs(id: &ContainerId, alloc_dir: &Path, unused: &[PathBuf]) {
    let is_pipe = |path: &&PathBuf| path.symlink_metadata().is_ok_and(|found| found.file_type().is_fifo());
    for path in unused.iter().filter(is_pipe) {
        if let Err(e) = fifo::end(alloc_dir, path) {
            tracing::warn!(container.id = %id, error = %e, "could not end a log pipe that stays unused");
        }
    }
}

/// Between creation and start: what was checked is what is mounted, and the process is among the cores that Nomad gives.
pub(super) fn place(
    shared: &Shared,
    namespace: &str,
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
        if !plan.late_hooks
            && let Err(error) = shims::unmount_root(pid, namespace, id.as_str())
        {
            tracing::warn!(container.id = %id, %error, "a container's root stays mounted on the host");
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

/// A pipe that nobody writes to, if standard input is to stay open: the shim waits for a writer for as long as the task
/// runs. It lies with the container's other files and goes with them.
pub(super) fn stdin(
    shared: &Shared,
    id: &ContainerId,
    plan: &ContainerPlan,
) -> Result<Option<PathBuf>, ContainerError> {
    // A terminal is its own input.
    if !plan.stdin || plan.terminal {
        return Ok(None);
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

//! Make a container and start its process: crash-only, so that it can be run again from any point.
//!
//! The order is the journal. The **container record comes first**: it names the snapshot before that exists, so
//! containerd's garbage collector protects the snapshot from its first moment and no lease is needed, and whatever an
//! interrupted start left behind hangs on a record that carries our labels. A second run finds the record, and adopts
//! what fits the spec hash or removes it.

use super::remove::{at, remove};
use crate::actors::shared::{Links, Shared, unix_nanos};
use crate::actors::supervision::book::ask_until;
use crate::containerd::{ContainerRecord, Gateway, NewContainer, NewTask, RuntimeOptions};
use crate::host::{HostError, cgroup, fifo, paths, selinux};
use crate::messages::Cx;
use crate::messages::container::{ContainerError, CreateContainer, Created};
use crate::messages::logs::CheckLogPaths;
use crate::messages::runtime::{ContainerdFault, FaultKind, TaskView};
use crate::spec::SpecError;
use crate::spec::identity::ContainerId;
use crate::spec::labels::{self, Marks};
use crate::spec::oci::{self, Beneath, ContainerPlan};
use crate::spec::settings::Settings;
use crate::spec::signal;
use crate::telemetry::names;
use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::Instrument as _;

/// How long the log paths may take to be checked.
const LOG_CHECK: Duration = Duration::from_secs(10);

/// Attempts to get past leftovers: each removes what it found.
const ATTEMPTS: usize = 3;

const SIGTERM: i32 = 15;

/// How long containerd may take to end, or to take down, what an interrupted call had begun. A call that is cancelled
/// goes on there for a while, and 1.6 says of it no more than that a directory exists.
const AFTERMATH: Duration = Duration::from_secs(20);

/// First and longest rest meanwhile.
const REST: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What one attempt ended with.
enum Attempt {
    Started(Created),
    /// Something of an earlier start is in the way and does not fit.
    InTheWay,
    /// A step that an interrupted start had begun is not over.
    Unsettled(ContainerError),
}

/// See the module. On an error all that was made is removed.
pub(super) async fn create(
    shared: &Shared,
    links: &Arc<Links>,
    req: CreateContainer,
) -> Result<Created, ContainerError> {
    let configured = shared.configured().map_err(at("creating container"))?;
    let gateway = &configured.gateway;
    let id = ContainerId::of(&req.task.id);
    // Small files, but a disk may be slow: not on a thread that others wait for.
    let node = tokio::task::block_in_place(|| super::node::facts(shared, &configured.settings, &req.task));
    let plan = oci::build(&req.task, &req.image.facts, &node, &configured.settings)?;
    let stop_signal = stop_signal(&req)?;
    let logs = check_logs(links, &req).await?;
    let start = Beginning {
        shared,
        gateway,
        settings: &configured.settings,
        id: &id,
        req: &req,
        plan: &plan,
        stop_signal,
        logs: &logs,
    };
    let (begun, mut rest, mut purges) = (Instant::now(), REST.0, 0);
    while purges < ATTEMPTS {
        match start.attempt(purges > 0).await {
            Ok(Attempt::Started(created)) => return Ok(created),
            Ok(Attempt::InTheWay) => {
                tracing::info!(container.id = %id, "removing what an earlier start left behind");
                remove(shared, &id, None)
                    .instrument(tracing::info_span!(names::CONTAINER_STEP, { names::STEP } = "purge"))
                    .await?;
                purges += 1;
            }
            Ok(Attempt::Unsettled(_)) if begun.elapsed() < AFTERMATH => {
                tokio::time::sleep(rest).await;
                rest = (rest * 2).min(REST.1);
            }
            Ok(Attempt::Unsettled(e)) | Err(e) => {
                undo(shared, &id, &e).await;
                return Err(e);
            }
        }
    }
    Err(ContainerError::Interrupted(format!(
        "{id}: leftovers of an earlier start came back {ATTEMPTS} times"
    )))
}

/// Removes what a failed start made. A failure here is logged: the reason that the user needs is the first one.
async fn undo(shared: &Shared, id: &ContainerId, why: &ContainerError) {
    // Without containerd nothing can be undone now, and the next start under this id finds the record.
    let unreachable =
        matches!(why, ContainerError::Containerd { source, .. } if matches!(source.kind, FaultKind::Unreachable));
    if unreachable {
        return;
    }
    if let Err(e) = remove(shared, id, None)
        .instrument(tracing::info_span!(names::CONTAINER_STEP, { names::STEP } = "undo"))
        .await
    {
        tracing::warn!(container.id = %id, error = %e, "could not undo a failed start");
    }
}

async fn check_logs(
    links: &Arc<Links>,
    req: &CreateContainer,
) -> Result<(Option<PathBuf>, Option<PathBuf>), ContainerError> {
    let check = CheckLogPaths {
        alloc_dir: req.task.alloc_dir.clone(),
        stdout: req.task.stdout_path.clone(),
        stderr: req.task.stderr_path.clone(),
    };
    ask_until(&*links.check_log_paths, check, Cx::current(), Some(LOG_CHECK))
        .await
        .map_err(|e| ContainerError::Interrupted(e.to_string()))?
        .map_err(|e| ContainerError::Host {
            what: if e.stream == "stdout" {
                "stdout log"
            } else {
                "stderr log"
            },
            path: e.path,
            reason: e.reason,
        })
}

/// What every attempt of one creation begins with.
struct Beginning<'a> {
    shared: &'a Shared,
    gateway: &'a Gateway,
    settings: &'a Settings,
    id: &'a ContainerId,
    req: &'a CreateContainer,
    plan: &'a ContainerPlan,
    stop_signal: i32,
    logs: &'a (Option<PathBuf>, Option<PathBuf>),
}

impl Beginning<'_> {
    /// `purged`: leftovers of an earlier start were removed by an attempt before this one.
    async fn attempt(&self, purged: bool) -> Result<Attempt, ContainerError> {
        let Self {
            shared,
            gateway,
            settings,
            id,
            req,
            plan,
            stop_signal,
            logs,
        } = *self;
        let (now, snapshotter) = (unix_nanos(), plan.snapshotter.as_str());
        let container = NewContainer {
            id: id.as_str().to_owned(),
            image: req.image.name.clone(),
            snapshotter: snapshotter.to_owned(),
            snapshot_key: id.as_str().to_owned(),
            runtime: plan.runtime.kind.clone(),
            runtime_options: plan.runtime.takes_options().then(|| RuntimeOptions {
                binary_name: plan.runtime.binary.clone(),
                systemd_cgroup: plan.runtime.systemd_cgroup,
                ..RuntimeOptions::default()
            }),
            spec_json: plan.spec_json.clone(),
            labels: labels_of(req, settings, plan, stop_signal, now),
        };
        let adopted = match gateway.create_container(container).await {
            Ok(()) => None,
            Err(fault) if fault.kind == FaultKind::AlreadyExists => {
                let record = gateway.container(id.as_str()).await.map_err(at("reading container"))?;
                match record {
                    Some(record) => match marks(&record) {
                        Some(marks) if marks.fits(plan) => {
                            Some((marks.started_at.unwrap_or(now), marks.exit.is_some()))
                        }
                        _ => return Ok(Attempt::InTheWay),
                    },
                    None => return Ok(Attempt::InTheWay),
                }
            }
            Err(fault) => return Err(at("creating container")(fault)),
        };
        let created = |view, started_at| {
            Attempt::Started(Created {
                container: id.clone(),
                view,
                started_at,
                stop_signal,
                adopted: adopted.is_some(),
            })
        };
        if let Some((started_at, has_ended)) = adopted {
            match gateway.task(id.as_str()).await.map_err(at("reading task"))? {
                Some(view @ (TaskView::Running { .. } | TaskView::Stopped(_))) => return Ok(created(view, started_at)),
                // Not begun: containerd may be about to take it down, with the call of a plugin process that died.
                Some(TaskView::Created { .. }) => return Ok(Attempt::InTheWay),
                // Its process has run and its task is gone: nothing to go on from.
                None if has_ended => return Ok(Attempt::InTheWay),
                None => {}
            }
        }
        let checked = tokio::task::block_in_place(|| host_side(plan))?;
        let parent = req.image.facts.chain_id.as_ref().map_or("", |d| d.as_str());
        let rootfs = match gateway
            .prepare_snapshot(snapshotter, id.as_str(), parent, &remap(gateway, plan).await?)
            .await
        {
            Ok(mounts) => mounts,
            // Of an interrupted start: no process has ever run in it, or the task would be there.
            Err(fault) if fault.kind == FaultKind::AlreadyExists && adopted.is_some() => gateway
                .snapshot_mounts(snapshotter, id.as_str())
                .await
                .map_err(at("reading snapshot"))?,
            Err(fault) if fault.kind == FaultKind::AlreadyExists => return Ok(Attempt::InTheWay),
            Err(fault) => return Err(at("preparing snapshot")(fault)),
        };
        let stdin = tokio::task::block_in_place(|| stdin(shared, id, plan))?;
        let task = NewTask {
            container: id.as_str().to_owned(),
            rootfs,
            stdin,
            stdout: logs.0.clone(),
            // A terminal has one stream.
            stderr: logs.1.clone().filter(|_| !plan.terminal),
            terminal: plan.terminal,
        };
        match gateway.create_task(task).await {
            Ok(pid) => {
                tokio::task::block_in_place(|| mounted(plan, pid, &checked))?;
                if let Some(cpuset) = &plan.join_cpuset {
                    cgroup::join(cpuset, pid).map_err(|e| ContainerError::Host {
                        what: "the cores that Nomad gives to tasks",
                        path: cpuset.display().to_string(),
                        reason: e.reason,
                    })?;
                }
            }
            // A shim of an interrupted start that containerd is still taking down, or its bundle.
            Err(fault) if fault.kind == FaultKind::AlreadyExists && !purged => return Ok(Attempt::InTheWay),
            Err(fault) => {
                let error = task_fault(plan, fault);
                return if adopted.is_some() || purged {
                    unsettled(error)
                } else {
                    Err(error)
                };
            }
        }
        let pid = start(gateway, id, plan).await?;
        if let Some(stderr) = logs.1.as_ref().filter(|_| plan.terminal) {
            // The shim leaves this pipe alone, and its reader would wait for ever.
            if let Err(e) = tokio::task::block_in_place(|| fifo::end(&req.task.alloc_dir, stderr)) {
                tracing::warn!(container.id = %id, error = %e, "could not end the log pipe that a terminal leaves unused");
            }
        }
        Ok(created(TaskView::Running { pid }, unix_nanos()))
    }
}

/// Labels by which containerd's snapshotter shows a container's files under the ids of its user namespace (containerd
/// `core/snapshots`: `LabelSnapshotUIDMapping`). Asked of introspection first: one that cannot would ignore them, and
/// the container would see files of nobody.
async fn remap(gateway: &Gateway, plan: &ContainerPlan) -> Result<BTreeMap<String, String>, ContainerError> {
    let Some(ids) = plan.userns else {
        return Ok(BTreeMap::new());
    };
    let abilities = gateway.abilities().await.map_err(at("asking for abilities"))?;
    if !abilities.remap_ids.contains(&plan.snapshotter) {
        return Err(SpecError::option(
            "userns",
            "private",
            format!(
                "this node's containerd cannot map ids in snapshots of {}: containerd 2 and a kernel from 5.19 on are needed",
                plan.snapshotter
            ),
        )
        .into());
    }
    let mapping = format!("0:{}:{}", ids.first, ids.count);
    let labels = ["uidmapping", "gidmapping"].map(|name| (format!("containerd.io/snapshot/{name}"), mapping.clone()));
    Ok(labels.into())
}

/// What a failure after an interrupted start means: it is not the last word while containerd may still be at work on the
/// same step of before.
fn unsettled(error: ContainerError) -> Result<Attempt, ContainerError> {
    use FaultKind as K;
    match &error {
        ContainerError::Containerd { source, .. } => match source.kind {
            K::NotFound | K::AlreadyExists | K::FailedPrecondition | K::Failed => Ok(Attempt::Unsettled(error)),
            K::Unreachable | K::Deadline | K::Exhausted => Err(error),
        },
        ContainerError::Spec(_)
        | ContainerError::Command { .. }
        | ContainerError::Host { .. }
        | ContainerError::Interrupted(_) => Err(error),
    }
}

/// What must be so on the host before the mounts are made. A task can plant a link in its own directories, and the
/// runtime, which is root, would follow it: sources there must resolve beneath them.
///
/// Returns what was checked, in the order of [`ContainerPlan::beneath`].
fn host_side(plan: &ContainerPlan) -> Result<Vec<OwnedFd>, ContainerError> {
    let fault = |source: &Path, e: HostError| ContainerError::Host {
        what: match plan.sources.iter().find(|(_, path)| path == source) {
            Some((option, _)) if *option == "volumes" => "option volumes: source",
            Some(_) => "option mounts: source",
            None => "mount source",
        },
        path: source.display().to_string(),
        reason: e.reason,
    };
    let mut checked = Vec::new();
    for Beneath { dir, source, .. } in &plan.beneath {
        checked.push(paths::check_beneath(dir, source).map_err(|e| fault(source, e))?);
    }
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
        }
        paths::write_generated_file(&file.path_on_host, file.content.as_bytes(), file.mode).map_err(fault)?;
    }
    Ok(checked)
}

/// Between creation and start: a source that was checked is mounted, not one that a task has put in its place since then.
/// Other shims than runc's keep their mounts where they cannot be looked at.
fn mounted(plan: &ContainerPlan, pid: u32, checked: &[OwnedFd]) -> Result<(), ContainerError> {
    if !plan.runtime.shows_its_root() {
        return Ok(());
    }
    for (mount, opened) in plan.beneath.iter().zip(checked) {
        paths::check_mounted(pid, &mount.target, opened).map_err(|e| ContainerError::Host {
            what: "mount source",
            path: mount.source.display().to_string(),
            reason: format!("at {}: {}", mount.target.display(), e.reason),
        })?;
    }
    Ok(())
}

/// A pipe that nobody writes to, if standard input is to stay open: the shim waits for a writer for as long as the task
/// runs. It lies with the container's other files and goes with them.
fn stdin(shared: &Shared, id: &ContainerId, plan: &ContainerPlan) -> Result<Option<PathBuf>, ContainerError> {
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

async fn start(gateway: &Gateway, id: &ContainerId, plan: &ContainerPlan) -> Result<u32, ContainerError> {
    gateway
        .start_task(id.as_str())
        .await
        .map_err(|fault| command_fault(plan, fault, "starting task"))
}

/// Whether a file system can show files under other ids is known to the kernel only: containerd's introspection speaks
/// of the snapshotter in general, and the failure is told in words.
fn task_fault(plan: &ContainerPlan, fault: ContainerdFault) -> ContainerError {
    if plan.userns.is_some() && fault.kind == FaultKind::Failed && fault.text.contains("idmapped mount") {
        let why = format!(
            "the file system with containerd's snapshots of {} cannot map ids on this kernel: {}",
            plan.snapshotter, fault.text
        );
        return SpecError::option("userns", "private", why).into();
    }
    command_fault(plan, fault, "creating task")
}

/// The runtime reports a program that cannot be run only in words. They decide nothing but which words we use.
fn command_fault(plan: &ContainerPlan, fault: ContainerdFault, step: &'static str) -> ContainerError {
    let about_program = ["executable file not found", "exec: \"", "exec format error"]
        .iter()
        .any(|w| fault.text.contains(w));
    if fault.kind == FaultKind::Failed && about_program {
        ContainerError::Command {
            option: plan.program.0,
            command: plan.program.1.clone(),
            reason: fault.text,
        }
    } else {
        at(step)(fault)
    }
}

/// What the labels of a container of ours say.
pub(crate) fn marks(record: &ContainerRecord) -> Option<Marks> {
    let labels: HashMap<String, String> = record.labels.clone().into_iter().collect();
    Marks::read(&labels)
}

fn labels_of(
    req: &CreateContainer,
    settings: &Settings,
    plan: &ContainerPlan,
    stop_signal: i32,
    now: i64,
) -> BTreeMap<String, String> {
    let mut labels = labels::labels(&req.task, settings, plan, &req.image.manifest, stop_signal);
    labels.extend([labels::started_label(now)]);
    labels
}

/// The image's STOPSIGNAL, or SIGTERM.
fn stop_signal(req: &CreateContainer) -> Result<i32, ContainerError> {
    match &req.image.facts.stop_signal {
        None => Ok(SIGTERM),
        Some(text) => signal::parse(text).map_err(|e| {
            SpecError::option(
                "image",
                format!("{} with STOPSIGNAL {text}", req.image.name),
                e.to_string(),
            )
            .into()
        }),
    }
}

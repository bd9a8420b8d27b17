//! Make a container and start its process: crash-only, so that it can be run again from any point.
//!
//! The order is the journal. The **container record comes first**: it names the snapshot before that exists, so
//! containerd's garbage collector protects the snapshot from its first moment and no lease is needed, and whatever an
//! interrupted start left behind hangs on a record that carries our labels. A second run finds the record, and adopts
//! what fits the spec hash or removes it.

use super::claim::claim;
use super::earlier;
use super::fault::{runtime_fault, task_fault};
use super::grouping;
use super::held::{Held, Logs, end_unused_logs};
use super::on_host::{self, host_side, place, stdin};
use super::own_logs::{OwnLogs, unused_logs};
use super::remap::remap;
use super::remove::{at, remove};
use super::stray;
use super::undo::{is_away, owed, undo};
use crate::actors::absence::Absence;
use crate::actors::shared::begin::begin_again;
use crate::actors::shared::{Links, Shared, unix_nanos};
use crate::actors::supervision::book::ask_until;
use crate::containerd::{ContainerRecord, Gateway, NewContainer, NewTask};
use crate::host::survey;
use crate::messages::Cx;
use crate::messages::container::{ContainerError, CreateContainer, Created, PREPARING};
use crate::messages::logs::CheckLogPaths;
use crate::messages::runtime::{FaultKind, TaskView};
use crate::spec::SpecError;
use crate::spec::identity::ContainerId;
use crate::spec::labels::{self, Marks};
use crate::spec::log_collection::LogWay;
use crate::spec::oci::{self, ContainerPlan};
use crate::spec::owner::Owner;
use crate::spec::settings::Settings;
use crate::spec::shim_group::ShimGroup;
use crate::spec::signal;
use crate::telemetry::names;
use crate::telemetry::steps::step;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tracing::Instrument as _;

/// How long the log paths may take to be checked.
const LOG_CHECK: Duration = Duration::from_secs(10);

/// Attempts to get past leftovers: each removes what it found.
const ATTEMPTS: usize = 3;

const SIGTERM: i32 = 15;

/// Step of the errors of the runtime at the process's beginning.
const STARTING: &str = "starting task";

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
    let containerd = survey::listener(Path::new(gateway.socket())).await;
    // Small files, but a disk may be slow: not on a thread that others wait for.
    let node = tokio::task::block_in_place(|| super::node::facts(shared, &configured.settings, &req.task, containerd));
    let plan = oci::build(&req.task, &req.image.facts, &node, &configured.settings)?;
    let stop_signal = stop_signal(&req)?;
    let own_logs = OwnLogs::of(shared, links, &id, &plan);
    let logs = match &plan.logs {
        LogWay::Paths => check_logs(links, &req).await?,
        LogWay::Files(_) => own_logs.paths(),
        LogWay::Nowhere => (None, None),
    };
    let unused = unused_logs(&plan, &req.task, &logs);
    let owner = tokio::task::block_in_place(|| shared.owner_of(&req.task.alloc_dir));
    let start = Beginning {
        owner: &owner,
        shared,
        gateway,
        settings: &configured.settings,
        id: &id,
        req: &req,
        plan: &plan,
        stop_signal,
        logs: &logs,
        unused: &unused,
        own_logs,
        ready: AtomicU32::new(0),
    };
    let outcome = start.run(links).await;
    match &outcome {
        // For one that was found running, too; and the reader of a pipe may have seen its end just before it was held.
        Ok(_) => {
            if let Err(error) = start.own_logs.attach().await {
                tracing::warn!(container.id = %id, %error, "the output may not be collected");
            }
        }
        Err(_) => start.own_logs.let_go().await,
    }
    outcome
}

async fn check_logs(links: &Arc<Links>, req: &CreateContainer) -> Result<Logs, ContainerError> {
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
    owner: &'a Owner,
    shared: &'a Shared,
    gateway: &'a Gateway,
    settings: &'a Settings,
    id: &'a ContainerId,
    req: &'a CreateContainer,
    plan: &'a ContainerPlan,
    stop_signal: i32,
    logs: &'a Logs,
    /// Pipes whose readers are to see their end.
    unused: &'a [PathBuf],
    own_logs: OwnLogs<'a>,
    /// The process that an attempt of this creation has made ready to begin; 0 for none.
    ready: AtomicU32,
}

impl Beginning<'_> {
    /// As [`Self::run_with`], with the pipes that are to be held meanwhile.
    async fn run(&self, links: &Arc<Links>) -> Result<Created, ContainerError> {
        let Self {
            shared,
            id,
            req,
            plan,
            logs,
            ..
        } = *self;
        let pipes = match &plan.logs {
            LogWay::Paths => logs,
            // Those of our own are read by whoever starts the task.
            LogWay::Files(_) | LogWay::Nowhere => &(None, None),
        };
        let mut held = tokio::task::block_in_place(|| {
            Held::none_of(&shared.keeper, id, &req.task.alloc_dir, pipes, plan.terminal)
        });
        let outcome = self.run_with(links, &mut held).await;
        held.over().await;
        outcome
    }

    /// Attempts until one has started the process, with what is in the way removed in between. `held`: the log pipes.
    async fn run_with(&self, links: &Arc<Links>, held: &mut Held<'_>) -> Result<Created, ContainerError> {
        let Self {
            shared,
            gateway,
            id,
            req,
            ..
        } = *self;
        let (begun, mut rest, mut purges) = (Instant::now(), REST.0, 0);
        let mut absence = Absence::default();
        let earlier = loop {
            match earlier::find(shared, gateway, &req.task, id).await {
                Err(fault) if absence.outlast(&fault).await => {}
                found => break found.map_err(at("looking for earlier lives of the task"))?,
            }
        };
        if !earlier.is_empty() {
            let ended = async {
                held.take().await?;
                earlier::end(links, earlier).await
            };
            if let Err(e) = ended.await {
                return Err(undo(shared, id, e).await);
            }
        }
        while purges < ATTEMPTS {
            match self.attempt(purges > 0, held).await {
                Ok(Attempt::Started(created)) => return Ok(created),
                Ok(Attempt::InTheWay) => {
                    if let Err(e) = held.take().await {
                        return Err(undo(shared, id, e).await);
                    }
                    tracing::info!(container.id = %id, "removing what an earlier start left behind");
                    // To its end: a task that was killed before it ran would look like one that has run.
                    loop {
                        let purge = remove(shared, id, None)
                            .instrument(tracing::info_span!(names::CONTAINER_STEP, { names::STEP } = "purge"));
                        match purge.await {
                            Ok(()) => break self.own_logs.let_go().await,
                            Err(ContainerError::Containerd { source, .. }) if absence.outlast(&source).await => {}
                            Err(e) => return Err(owed(&"an earlier start is in the way", &e)),
                        }
                    }
                    purges += 1;
                }
                Ok(Attempt::Unsettled(e)) if begun.elapsed() < AFTERMATH => {
                    stray::clear_orphan(shared, gateway, id, &e).await;
                    tokio::time::sleep(rest).await;
                    rest = (rest * 2).min(REST.1);
                }
                Ok(Attempt::Unsettled(e)) | Err(e) => {
                    // What this attempt has begun goes down with the containerd that began it, and then the next one needs the pipes.
                    if is_away(&e)
                        && tokio::task::block_in_place(|| gateway.has_shim(&shared.groups.shim_of(id.as_str())))
                        && let Err(e) = held.take().await
                    {
                        return Err(undo(shared, id, e).await);
                    }
                    match e {
                        ContainerError::Containerd { ref source, .. } if absence.outlast(source).await => {}
                        e => return Err(undo(shared, id, e).await),
                    }
                }
            }
        }
        Err(ContainerError::Interrupted(format!(
            "{id}: leftovers of an earlier start came back {ATTEMPTS} times"
        )))
    }

    /// `purged`: leftovers of an earlier start were removed by an attempt before this one. `held`: the log pipes.
    async fn attempt(&self, purged: bool, held: &mut Held<'_>) -> Result<Attempt, ContainerError> {
        let Self {
            owner,
            shared,
            gateway,
            settings,
            id,
            req,
            plan,
            stop_signal,
            logs,
            unused,
            ref own_logs,
            ref ready,
        } = *self;
        let (now, snapshotter) = (unix_nanos(), plan.snapshotter.as_str());
        let mut group = grouping::join(shared, gateway, settings, owner, &req.task.alloc_id, plan).await;
        let mut sandbox = grouping::sandbox(shared, gateway, owner, plan, group.as_ref()).await;
        let mut labels = labels_of(req, settings, plan, stop_signal, now, owner);
        labels.extend(group.iter().map(ShimGroup::label));
        let container = NewContainer {
            id: id.as_str().to_owned(),
            image: req.image.name.clone(),
            snapshotter: snapshotter.to_owned(),
            snapshot_key: id.as_str().to_owned(),
            runtime: plan.runtime.kind.clone(),
            runtime_options: on_host::runtime_options(plan),
            spec_json: grouping::annotated(on_host::spec_of(shared, id, plan)?, group.as_ref())?,
            labels,
            sandbox: sandbox.clone(),
        };
        let adopted = match gateway.create_container(container).await {
            Ok(()) => None,
            Err(fault) if fault.kind == FaultKind::AlreadyExists => {
                let record = gateway.container(id.as_str()).await.map_err(at("reading container"))?;
                match record {
                    Some(record) => match marks(&record) {
                        Some(marks) if marks.fits(plan) => {
                            group = grouping::settle(shared, &record);
                            sandbox = record.sandbox;
                            Some((marks.started_at.unwrap_or(now), marks.exit.is_some()))
                        }
                        _ => return Ok(Attempt::InTheWay),
                    },
                    None => return Ok(Attempt::InTheWay),
                }
            }
            Err(fault) => return Err(at("creating container")(fault)),
        };
        step!(StartRecord);
        let created = |view, started_at| {
            Attempt::Started(Created {
                container: id.clone(),
                view,
                started_at,
                stop_signal,
                adopted: adopted.is_some(),
                logs: match &plan.logs {
                    LogWay::Files(files) => Some(files.clone()),
                    LogWay::Paths | LogWay::Nowhere => None,
                },
            })
        };
        if let Some((started_at, has_ended)) = adopted {
            match gateway.task(id.as_str()).await.map_err(at("reading task"))? {
                Some(view @ (TaskView::Running { .. } | TaskView::Stopped(_))) => {
                    shared.groups.entered(id.as_str());
                    tokio::task::block_in_place(|| end_unused_logs(id, &req.task.alloc_dir, unused));
                    return Ok(created(view, started_at));
                }
                // The answer to the word to begin was lost, and its shim may be about to heed it: a second one comes after it.
                Some(TaskView::Created { pid }) if pid != 0 && ready.load(Ordering::Relaxed) == pid => {
                    let begun = begin_again(shared, gateway, id, pid).await;
                    return match begun.map_err(|fault| runtime_fault(&req.task, plan, fault, STARTING)) {
                        Ok(pid) => {
                            tokio::task::block_in_place(|| end_unused_logs(id, &req.task.alloc_dir, unused));
                            Ok(created(TaskView::Running { pid }, started_at))
                        }
                        // Begun meanwhile: the next look finds it.
                        Err(error) => unsettled(error),
                    };
                }
                // Not begun: containerd may be about to take it down, with the call of a plugin process that died.
                Some(TaskView::Created { .. }) => return Ok(Attempt::InTheWay),
                // Its process has run and its task is gone: nothing to go on from.
                None if has_ended => return Ok(Attempt::InTheWay),
                None => held.take().await?,
            }
        }
        // One that containerd has forgotten holds the log pipes, and looks like their reader.
        if !purged && tokio::task::block_in_place(|| gateway.has_shim(id.as_str())) {
            return Ok(Attempt::InTheWay);
        }
        if adopted.is_some() && grouping::is_forgotten_in(gateway, group.as_ref(), id).await {
            return Ok(Attempt::InTheWay);
        }
        let checked = tokio::task::block_in_place(|| {
            let checked = host_side(plan)?;
            on_host::hold(shared, id, plan, &checked)?;
            Ok::<_, ContainerError>(checked)
        })?;
        step!(StartFiles);
        let parent = req.image.facts.chain_id.as_ref().map_or("", |d| d.as_str());
        let mut snapshot_labels = remap(gateway, &req.task, plan).await?;
        snapshot_labels.extend(owner.labels());
        let rootfs = match gateway
            .prepare_snapshot(snapshotter, id.as_str(), parent, &snapshot_labels)
            .await
        {
            Ok(mounts) => mounts,
            // Of an interrupted start: no process has ever run in it, or the task would be there.
            Err(fault) if fault.kind == FaultKind::AlreadyExists && adopted.is_some() => gateway
                .snapshot_mounts(snapshotter, id.as_str())
                .await
                .map_err(at("reading snapshot"))?,
            Err(fault) if fault.kind == FaultKind::AlreadyExists => return Ok(Attempt::InTheWay),
            Err(fault) => return Err(at(PREPARING)(fault)),
        };
        step!(StartSnapshot);
        let stdin = tokio::task::block_in_place(|| stdin(shared, id, plan))?;
        step!(StartStdin);
        // Until the shim has opened them.
        let _held = own_logs.make().await?;
        tokio::task::block_in_place(|| claim(shared, gateway, id, owner, group.clone()))?;
        let task = NewTask {
            container: id.as_str().to_owned(),
            rootfs,
            stdin,
            stdout: logs.0.clone(),
            // A terminal has one stream.
            stderr: logs.1.clone().filter(|_| !plan.terminal),
            terminal: plan.terminal,
            shim: grouping::host_shim(group.as_ref(), id),
        };
        tokio::task::block_in_place(|| {
            held.take_read()?;
            held.still_read()
        })?;
        match gateway.create_task(task).await {
            Ok(pid) => {
                step!(StartTask);
                shared.groups.entered(id.as_str());
                tokio::task::block_in_place(|| place(shared, gateway, id, plan, pid, &checked))?;
                ready.store(pid, Ordering::Relaxed);
                step!(StartPlaced);
            }
            // A shim of an interrupted start that containerd is still taking down, or its bundle.
            Err(fault) if fault.kind == FaultKind::AlreadyExists && !purged => return Ok(Attempt::InTheWay),
            // The last one in its shim has gone, or somebody has killed it.
            Err(fault) if grouping::has_died(shared, gateway, group.as_ref(), id, &fault).await => {
                tracing::info!(container.id = %id, error = %fault, "the shim that the container was to share is gone");
                return Ok(Attempt::InTheWay);
            }
            Err(fault) if grouping::is_refused(shared, group.as_ref(), &sandbox, &fault) => {
                return Ok(Attempt::InTheWay);
            }
            Err(fault) => {
                let settled = adopted.is_none() && !purged;
                let error = task_fault(&req.task, plan, fault, settled);
                return if settled { Err(error) } else { unsettled(error) };
            }
        }
        let started = gateway.start_task(id.as_str()).await;
        let pid = started.map_err(|fault| runtime_fault(&req.task, plan, fault, STARTING))?;
        step!(StartRuns);
        tokio::task::block_in_place(|| end_unused_logs(id, &req.task.alloc_dir, unused));
        step!(StartLogs);
        Ok(created(TaskView::Running { pid }, unix_nanos()))
    }
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
    owner: &Owner,
) -> BTreeMap<String, String> {
    let mut labels = labels::labels(&req.task, settings, plan, &req.image.manifest, stop_signal);
    labels.extend([labels::started_label(now)]);
    labels.extend(owner.labels());
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

//! Adopt: take up a task that the Go driver started before the node was upgraded.
//!
//! Its container has another name than one of ours, may live in another containerd namespace than the configured one
//! (whose events do not come here) and writes into pipes of its own, which that driver copied to Nomad's. So an adopted
//! task has a watch of its own, which copies on and waits at containerd for the exit, until the task ends. This is the
//! one long call per task; a task that is started anew is one of ours.

use super::TaskSupervisor;
use super::recover::{Found, PATIENCE, found_without_task};
use crate::actors::shared::begin::begin_again;
use crate::actors::shared::{Configured, Links, Shared};
use crate::actors::supervision::book::ask_until;
use crate::containerd::{Gateway, Stdio};
use crate::messages::Cx;
use crate::messages::container::RemoveContainer;
use crate::messages::logs::{Attach, Drain, LogError, Sink, Stream};
use crate::messages::runtime::{ContainerdFault, FaultKind, TaskView};
use crate::messages::task::TaskError;
use crate::spec::labels;
use crate::spec::record::{ExitRecord, HandleState};
use actix::{ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tracing::{Instrument as _, Span};

/// Rest before containerd is asked again, or a log that could not be attached is tried again.
const REST: Duration = Duration::from_secs(1);

/// Rest between two attempts of a recovery at a containerd that is away.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Bound of one message to a neighbour.
const ASK_WITHIN: Duration = Duration::from_secs(60);

/// How long the last bytes may take once the container is gone. After that nobody reads Nomad's pipe any more.
const LAST_BYTES: Duration = Duration::from_secs(10);

/// The configuration as it is for a task: with the way to the Go driver's namespace if that started the task.
pub(super) fn configured_for(shared: &Shared, go: Option<&HandleState>) -> Result<Configured, ContainerdFault> {
    shared.configured_in(go.map(|handle| handle.namespace.as_str()))
}

impl TaskSupervisor {
    /// The configuration as it is for this task.
    pub(super) fn configured(&self) -> Result<Configured, ContainerdFault> {
        configured_for(&self.shared, self.adopted.as_deref())
    }

    /// Takes up the task of a version 1 handle.
    pub(super) fn adopt(&mut self, handle: HandleState, span: Span, ctx: &mut Context<Self>) {
        let handle = Arc::new(handle);
        self.tasks.adopt(&self.id, &handle);
        self.container = handle.container.clone();
        self.about.started_at = handle.started_at;
        self.about.stop_signal = handle.stop_signal;
        self.adopted = Some(Arc::clone(&handle));
        let marks = labels::adoption(
            &self.id,
            &self.about.alloc_id,
            &self.about.name,
            handle.started_at,
            handle.stop_signal,
        );
        let (shared, links) = (Arc::clone(&self.shared), Arc::clone(&self.links));
        let look = async move {
            let found = look(&shared, &links, &handle).await;
            match &found {
                Ok(Ok((Some(_), _, _))) => mark(&shared, &handle, marks).await,
                // Nomad forgets the task and its destroy names a container of ours: what is left goes now or never.
                Ok(Ok((None, None, _))) | Err(_) => clear_away(&links, &handle).await,
                Ok(_) => {}
            }
            found
        }
        .instrument(span);
        ctx.spawn(look.into_actor(self).map(|found, actor, ctx| match found {
            Ok(found) => {
                tracing::info!(task.id = %actor.id, container.id = %actor.container, "a task of the Go driver is adopted");
                actor.sweep_execs();
                actor.recovered(found, ctx);
            }
            Err(error) => actor.not_recovered(error, ctx),
        }));
    }

    /// Looks after an adopted task that runs: its output and its exit. Nothing for any other.
    pub(super) fn watch_adopted(&mut self, ctx: &mut Context<Self>) {
        let Some(handle) = self.adopted.clone() else { return };
        if self.watch.is_some() {
            return;
        }
        let watch = watch(Arc::clone(&self.shared), Arc::clone(&self.links), handle);
        self.watch = Some(ctx.spawn(watch.into_actor(self).map(|exit, actor, ctx| {
            actor.watch = None;
            match exit {
                Some(exit) => actor.exit_seen(exit, ctx),
                None => actor.check_exit(ctx),
            }
        })));
    }

    /// The task has ended: its output ends when the last byte was copied, which tells the reader of Nomad's pipe.
    pub(super) fn end_watch(&mut self, ctx: &mut Context<Self>) {
        if let Some(watch) = self.watch.take() {
            ctx.cancel_future(watch);
        }
        if self.adopted.is_some() {
            self.drain(None);
        }
    }

    /// The container is gone: what nobody takes is not kept.
    pub(super) fn let_go_of_logs(&self) {
        self.drain(Some(LAST_BYTES));
    }

    /// Outlives this actor: the end of the task does not wait for the last byte.
    fn drain(&self, patience: Option<Duration>) {
        let (links, container, shared) = (
            Arc::clone(&self.links),
            self.container.clone(),
            Arc::clone(&self.shared),
        );
        self.shared.io.spawn(async move {
            let dir = shared.run_dir.join(container.as_str());
            let drain = Drain { container, patience };
            let drained = ask_until(&*links.drain_log, drain, Cx::default(), None).await;
            if patience.is_some() {
                tokio::task::block_in_place(|| shared.keeper.release(&dir));
            }
            let fault = match drained {
                Ok(Ok(_)) => return,
                Ok(Err(fault)) => fault.to_string(),
                Err(fault) => fault.to_string(),
            };
            tracing::warn!(error = fault, "the output of a task was not copied to its end");
        });
    }
}

/// What containerd says of the task; one that waits to be started is started, since Nomad was told that it runs (the
/// Go driver starts a task five seconds after it has said so). The outer error refuses the recovery.
async fn look(
    shared: &Shared,
    links: &Links,
    handle: &HandleState,
) -> Result<Result<Found, ContainerdFault>, TaskError> {
    let until = tokio::time::Instant::now() + PATIENCE;
    let container = &handle.container;
    let (configured, view) = loop {
        let found = async {
            let configured = configured_for(shared, Some(handle))?;
            let view = configured.gateway.task(container.as_str()).await?;
            Ok::<_, ContainerdFault>((configured, view))
        };
        match tokio::time::timeout_at(until, found).await {
            Ok(Ok(found)) => break found,
            Ok(Err(fault)) if !fault.is_transient() => return Ok(Err(fault)),
            Ok(Err(fault)) if tokio::time::Instant::now() + LOOK_AGAIN > until => return Ok(Err(fault)),
            Ok(Err(_)) => tokio::time::sleep(LOOK_AGAIN).await,
            Err(_) => {
                return Ok(Err(ContainerdFault {
                    kind: FaultKind::Deadline,
                    operation: "get task",
                    text: format!("containerd did not answer within {PATIENCE:?}"),
                }));
            }
        }
    };
    match view {
        None => Ok(found_without_task(&configured, container).await),
        Some(TaskView::Created { pid }) => {
            // Before the start: with nobody at the pipes, the first bytes could be lost with a short task.
            if let Err(fault) = attach(&configured.gateway, links, handle).await {
                tracing::warn!(error = fault, "the output of an adopted task cannot be copied yet");
            }
            match begin_again(shared, &configured.gateway, container, pid).await {
                Ok(_) => Ok(Ok((Some(TaskView::Running { pid }), None, None))),
                Err(fault) if fault.is_transient() => Ok(Err(fault)),
                Err(fault) => Err(TaskError::Containerd(fault)),
            }
        }
        view => Ok(Ok((view, None, None))),
    }
}

/// Makes the container one of ours in its labels. Without them it is still adopted by its handle.
async fn mark(shared: &Shared, handle: &HandleState, mut marks: BTreeMap<String, String>) {
    let container = &handle.container;
    let marked = async {
        let gateway = configured_for(shared, Some(handle))?.gateway;
        let stdio = gateway.task_stdio(container.as_str()).await?.unwrap_or_default();
        if let Some(dir) = stdio.client_dir(container) {
            marks.insert(labels::KEY_PIPES.to_owned(), dir.display().to_string());
        }
        gateway.update_container_labels(container.as_str(), &marks).await
    };
    if let Err(fault) = marked.await {
        tracing::debug!(container.id = %handle.container, error = %fault, "an adopted container is not labelled");
    }
}

/// Removes a container that cannot be taken up, in the namespace that its handle names.
pub(super) async fn clear_away(links: &Links, handle: &HandleState) {
    let remove = RemoveContainer {
        container: handle.container.clone(),
        go_namespace: Some(handle.namespace.clone()),
    };
    let fault = match ask_until(&*links.remove_container, remove, Cx::current(), Some(ASK_WITHIN)).await {
        Ok(Ok(())) => return,
        Ok(Err(fault)) => fault.to_string(),
        Err(fault) => fault.to_string(),
    };
    tracing::warn!(container.id = %handle.container, error = fault, "a container that cannot be taken up is left behind");
}

/// Copies the output and waits for the exit; `None` if containerd has no such task any more.
async fn watch(shared: Arc<Shared>, links: Arc<Links>, handle: Arc<HandleState>) -> Option<ExitRecord> {
    let mut attached = false;
    let mut told = String::new();
    loop {
        let gateway = match configured_for(&shared, Some(&handle)) {
            Ok(configured) => configured.gateway,
            Err(_) => {
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        if !attached {
            match attach(&gateway, &links, &handle).await {
                Ok(()) => attached = true,
                // The same words again are no news.
                Err(fault) if fault == told => {}
                Err(fault) => {
                    tracing::warn!(container.id = %handle.container, error = fault, "the output of an adopted task cannot be copied yet");
                    told = fault;
                }
            }
        }
        tokio::select! {
            exit = gateway.wait_task(handle.container.as_str()) => match exit {
                Ok(exit) => return Some(exit),
                Err(fault) if fault.kind == FaultKind::NotFound => return None,
                // A broken connection is no exit.
                Err(_) => tokio::time::sleep(REST).await,
            },
            () = tokio::time::sleep(REST), if !attached => {}
        }
    }
}

/// Attaches the pipes of the container to Nomad's. Idempotent. The error is for a person.
async fn attach(gateway: &Gateway, links: &Links, handle: &HandleState) -> Result<(), String> {
    let Some(logs) = &handle.go else { return Ok(()) };
    let stdio = gateway.task_stdio(handle.container.as_str()).await;
    let Some(stdio) = stdio.map_err(|fault| fault.to_string())? else {
        return Ok(());
    };
    let Some(dir) = stdio.client_dir(&handle.container) else {
        return Ok(());
    };
    let pipes = Stdio::of_client(dir, &handle.container);
    let streams = [
        (Stream::Stdout, stdio.stdout.as_ref(), pipes.stdout, &logs.stdout),
        (Stream::Stderr, stdio.stderr.as_ref(), pipes.stderr, &logs.stderr),
    ];
    for (stream, given, pipe, to) in streams {
        let Some(from) = pipe.filter(|pipe| given == Some(pipe)) else {
            continue;
        };
        let sink = Sink::Path {
            alloc_dir: logs.alloc_dir.clone(),
            // Whoever writes must be read, or blocks.
            path: if to.as_os_str().is_empty() {
                PathBuf::from("/dev/null")
            } else {
                to.clone()
            },
        };
        let attach = Attach {
            container: handle.container.clone(),
            stream,
            fifo: from,
            sink,
        };
        let attached: Result<(), LogError> = ask_until(&*links.attach_log, attach, Cx::current(), Some(ASK_WITHIN))
            .await
            .map_err(|e| e.to_string())?;
        attached.map_err(|e| e.to_string())?;
    }
    Ok(())
}

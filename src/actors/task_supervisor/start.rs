//! Start: image, then container, then answer. Joined by whoever asks again after an actor's death.

use super::recover::reason_of;
use super::state::{Event, State};
use super::{ACTOR, Starting, TaskSupervisor, cx_of};
use crate::actors::absence::Absence;
use crate::actors::shared::{Links, unix_nanos};
use crate::actors::supervision::book::ask_until;
use crate::messages::container::{ContainerError, CreateContainer, Created};
use crate::messages::image::{CredentialScope, Credentials, EnsureImage, ImageError, ImageReady, LoadFrom};
use crate::messages::runtime::TaskView;
use crate::messages::task::{Start, Started, TaskError};
use crate::messages::{Ask, AskError, Cx, Owed, Request as _};
use crate::spec::SpecError;
use crate::spec::reference::Reference;
use crate::spec::settings::Settings;
use crate::spec::task::TaskSpec;
use crate::spec::{oci, pull};
use crate::telemetry::propagate::handling;
use crate::telemetry::steps::step;
use crate::telemetry::{Counter, names};
use actix::{
    ActorContext as _, ActorFuture, ActorFutureExt as _, AsyncContext as _, Context, Handler, WrapFuture as _,
};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tracing::{Instrument as _, Span};

/// How often a start makes sure of its image: another that gives its name to other content may have containerd collect it in
/// between.
const IMAGES: usize = 3;

/// Beyond the pull's own bound, so that its error arrives and not ours.
const PULL_SLACK: Duration = Duration::from_secs(60);

/// Bound of one creation including its wait for admission: a burst of a thousand starts takes its time.
const CREATE_WITHIN: Duration = Duration::from_secs(600);

impl Handler<Ask<Start>> for TaskSupervisor {
    type Result = ();

    fn handle(&mut self, ask: Ask<Start>, ctx: &mut Self::Context) {
        let Ask { req, cx, reply, .. } = ask;
        let span = handling!(cx, names::TASK_START, ACTOR, Start::NAME, { names::TASK_ID } = %self.id, { names::ALLOC_ID } = req.task.alloc_id, { names::CONTAINER_ID } = %self.container);
        let reply = Owed::new(reply, span.clone());
        if let Some(doubt) = self.doubt() {
            reply.send(Err(doubt));
            return;
        }
        let starting = self.state.is_starting();
        if self.state == State::Absent {
            self.about.name.clone_from(&req.task.name);
            self.about.alloc_id.clone_from(&req.task.alloc_id);
            self.starting = Some(Starting {
                task: req.task,
                image: None,
                holds: Vec::new(),
                work: None,
                span,
            });
            self.waiting.start.push(reply);
            self.forgive(ctx);
            self.tasks.keep(&self.id, None);
            self.note(&Event::StartAsked, ctx);
        } else if starting && req.resume {
            self.waiting.start.push(reply);
        } else if req.resume && (self.state.is_alive() || matches!(self.state, State::Exited(_))) {
            reply.send(Ok(Started {
                handle: self.handle_state(),
            }));
        } else {
            reply.send(Err(TaskError::AlreadyStarted(self.id.to_string())));
        }
    }
}

/// Takes back a start whose callers have all gone while it pulls: no answer of it reaches anybody, and so nobody would ever
/// ask for its end. A start that is being created goes on: the factory finishes what it has begun, and the reaper finds it.
struct NobodyWaits;

impl ActorFuture<TaskSupervisor> for NobodyWaits {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        actor: &mut TaskSupervisor,
        ctx: &mut Context<TaskSupervisor>,
        task: &mut std::task::Context<'_>,
    ) -> Poll<()> {
        if actor.state != State::Pulling {
            return Poll::Ready(());
        }
        let mut waiting = actor.waiting.start.iter_mut();
        if waiting.any(|owed| owed.poll_abandoned(task).is_pending()) {
            return Poll::Pending;
        }
        tracing::info!(task.id = %actor.id, "nobody waits for the start any more, it is taken back");
        actor.note(&Event::DestroyAsked { force: true }, ctx);
        Poll::Ready(())
    }
}

impl TaskSupervisor {
    fn starting_parts(&self) -> Option<(Arc<TaskSpec>, Option<ImageReady>, Span)> {
        self.starting
            .as_ref()
            .map(|s| (Arc::clone(&s.task), s.image.clone(), s.span.clone()))
    }

    pub(super) fn pull(&mut self, ctx: &mut Context<Self>) {
        let Some((task, _, span)) = self.starting_parts() else {
            return;
        };
        let settings = match self.shared.configured() {
            Ok(configured) => configured.settings,
            Err(fault) => return self.start_failed(TaskError::Containerd(fault), ctx),
        };
        if let Err(refused) = oci::consent(&task, &settings) {
            return self.start_failed(ContainerError::Spec(refused).into(), ctx);
        }
        let req = match ensure_image(&task, &settings) {
            Ok(req) => req,
            Err(refused) => {
                let refused = refused.as_written(&task.written);
                return self.start_failed(ContainerError::Spec(refused).into(), ctx);
            }
        };
        let images = Arc::clone(&self.shared.images);
        let (cx, links) = (cx_of(&span), Arc::clone(&self.links));
        let work = async move {
            // Before the puller looks: what is being removed is gone then, and what is there stays.
            let mut holds = Vec::new();
            if let Ok(reference) = Reference::parse(&req.image) {
                holds.push(images.hold(&reference.name()).await);
            }
            let answer = ensured(&links, &req, &cx).await;
            if let Ok(Ok(ready)) = &answer {
                // It may be recorded by another name.
                holds.push(images.hold(&ready.name).await);
            }
            (answer, holds)
        };
        let work = work.instrument(span);
        let handle = ctx.spawn(work.into_actor(self).map(|(answer, holds), actor, ctx| match answer {
            Ok(Ok(ready)) => {
                if let Some(starting) = actor.starting.as_mut() {
                    starting.image = Some(ready);
                    starting.holds = holds;
                }
                actor.note(&Event::ImageReady, ctx);
            }
            Ok(Err(e)) => actor.start_failed(e.into(), ctx),
            Err(e) => actor.start_failed(TaskError::Driver(e.to_string()), ctx),
        }));
        self.keep_work(handle);
        ctx.spawn(NobodyWaits);
    }

    pub(super) fn create(&mut self, ctx: &mut Context<Self>) {
        let Some((task, Some(image), span)) = self.starting_parts() else {
            return;
        };
        let (cx, links) = (cx_of(&span), Arc::clone(&self.links));
        let again = self
            .shared
            .configured()
            .ok()
            .and_then(|c| ensure_image(&task, &c.settings).ok());
        let mut req = CreateContainer { task, image };
        let images = Arc::clone(&self.shared.images);
        let work = async move {
            let mut holds = Vec::new();
            step!(StartImage);
            for _ in 1..IMAGES {
                let answer = ask_until(&*links.create_container, req.clone(), cx.clone(), Some(CREATE_WITHIN)).await;
                let (Ok(Err(error)), Some(ensure)) = (&answer, &again) else {
                    return answer;
                };
                if !error.is_without_image() {
                    return answer;
                }
                tracing::info!(image.ref = req.image.name, %error, "the image is asked for again");
                match ensured(&links, ensure, &cx).await {
                    Ok(Ok(ready)) => {
                        holds.push(images.hold(&ready.name).await);
                        req.image = ready;
                    }
                    Ok(Err(error)) => {
                        tracing::warn!(image.ref = req.image.name, %error, "the image is gone and does not come back");
                        return answer;
                    }
                    Err(_) => return answer,
                }
            }
            ask_until(&*links.create_container, req, cx, Some(CREATE_WITHIN)).await
        }
        .instrument(span);
        let (shared, container) = (Arc::clone(&self.shared), self.container.clone());
        let work = async move {
            let mut answer = work.await;
            // It has ended before anybody here looked after it.
            if let Ok(Ok(created)) = &mut answer
                && let TaskView::Stopped(exit) = &created.view
                && exit.code == super::exit::KILLED
                && let (Some(view), ..) = reason_of(&shared, &container, exit.clone()).await
            {
                created.view = view;
            }
            answer
        };
        let handle = ctx.spawn(work.into_actor(self).map(|answer, actor, ctx| match answer {
            Ok(Ok(created)) => actor.created(created, ctx),
            Ok(Err(e)) => actor.start_failed(e.into(), ctx),
            Err(e) => actor.start_failed(TaskError::Driver(e.to_string()), ctx),
        }));
        self.keep_work(handle);
    }

    fn keep_work(&mut self, handle: actix::SpawnHandle) {
        if let Some(starting) = self.starting.as_mut() {
            starting.work = Some(handle);
        }
    }

    fn created(&mut self, created: Created, ctx: &mut Context<Self>) {
        self.about.started_at = created.started_at;
        self.about.stop_signal = created.stop_signal;
        self.about.logs = created.logs;
        Counter::TasksStarted.bump();
        let begun = self.starting.take().map(|s| s.task);
        let annotations = BTreeMap::from([
            ("container".to_owned(), self.container.to_string()),
            (
                "image".to_owned(),
                begun.map(|t| t.options.image.clone()).unwrap_or_default(),
            ),
        ]);
        self.emit("Started container".to_owned(), annotations);
        match created.view {
            TaskView::Running { pid } | TaskView::Created { pid } => {
                self.about.pid = known(pid);
                self.note(&Event::Started, ctx);
                // The exit of a short task may have been told before the answer to its start.
                self.check_early_exit(ctx);
            }
            TaskView::Stopped(exit) => {
                self.note(&Event::Started, ctx);
                self.exit_seen(exit, ctx);
            }
        }
        let handle = self.handle_state();
        for reply in self.waiting.start.drain(..) {
            reply.send(Ok(Started { handle: handle.clone() }));
        }
        if std::mem::take(&mut self.stop_wish.due) {
            self.note(&Event::StopAsked, ctx);
        }
    }

    /// Answer, leave the address book, end. With containerd away or late, what was made may still be there: the host
    /// tries again under another id, so it is ours to remove first.
    fn start_failed(&mut self, error: TaskError, ctx: &mut Context<Self>) {
        tracing::info!(task.id = %self.id, error = %error, "start failed");
        let leftovers = self.state == State::Creating && error.is_transient();
        self.starting = None;
        self.note(&Event::StartFailed, ctx);
        if !leftovers {
            self.tasks.close(&self.id);
        }
        for reply in self.waiting.start.drain(..) {
            reply.send(Err(error.clone()));
        }
        // Gone before it ran: that is what was asked for.
        for reply in self.waiting.stop.drain(..) {
            reply.send(Ok(()));
        }
        if leftovers {
            self.owe_removal(ctx);
        } else {
            ctx.stop();
        }
    }

    /// Stopped or destroyed before it ran.
    pub(super) fn cancel_start(&mut self, ctx: &mut Context<Self>) {
        if let Some(work) = self.starting.take().and_then(|s| s.work) {
            ctx.cancel_future(work);
        }
        for reply in self.waiting.start.drain(..) {
            reply.send(Err(TaskError::Cancelled));
        }
        self.about.started_at = unix_nanos();
    }
}

/// containerd says 0 of a task whose shim does not answer.
pub(super) fn known(pid: u32) -> Option<u32> {
    Some(pid).filter(|pid| *pid != 0)
}

/// The puller's answer. A containerd that is away for a moment is waited for. The outer error: there was none.
async fn ensured(links: &Links, req: &EnsureImage, cx: &Cx) -> Result<Result<ImageReady, ImageError>, AskError> {
    let within = Some(req.timeout.saturating_add(PULL_SLACK));
    let mut absence = Absence::default();
    loop {
        match ask_until(&*links.ensure_image, req.clone(), cx.clone(), within).await {
            Ok(Err(ImageError::Containerd { source, .. })) if absence.outlast(&source).await => {}
            answer => return answer,
        }
    }
}

/// What is asked of the puller for this task.
fn ensure_image(task: &TaskSpec, settings: &Settings) -> Result<EnsureImage, SpecError> {
    let load = task.load()?;
    let auth = task.options.auth.as_ref();
    Ok(EnsureImage {
        image: task.options.image.clone(),
        credentials: auth.filter(|a| a.helper.is_none()).map(|a| Credentials {
            username: a.username.clone(),
            password: a.password.clone(),
            identity_token: None,
        }),
        scope: CredentialScope {
            server_address: auth.and_then(|a| a.server_address.clone()),
            helper: auth.and_then(|a| a.helper.clone()),
            soft_fail: task.options.auth_soft_fail,
        },
        policy: pull::policy(&task.options, settings)?,
        timeout: task.options.image_pull_timeout.unwrap_or(settings.image_pull_timeout),
        snapshotter: oci::snapshotter(task, settings).to_owned(),
        // The children of one dispatched or periodic job wait in one line.
        job: match task.job.parent_job_id.as_str() {
            "" => format!("{}/{}", task.job.namespace, task.job.job_id),
            parent => format!("{}/{parent}", task.job.namespace),
        },
        load: load.map(|(task_dir, path)| LoadFrom { task_dir, path }),
        observer: Some(task.id.clone()),
    })
}

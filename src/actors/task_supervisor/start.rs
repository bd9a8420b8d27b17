//! Start: image, then container, then answer. Joined by whoever asks again after an actor's death.

use super::state::{Event, State};
use super::{ACTOR, Starting, TaskSupervisor, cx_of};
use crate::actors::shared::unix_nanos;
use crate::actors::supervision::book::ask_until;
use crate::messages::container::{ContainerError, CreateContainer, Created};
use crate::messages::image::{Credentials, EnsureImage, ImageReady, PullPolicy};
use crate::messages::runtime::TaskView;
use crate::messages::task::{Start, Started, TaskError};
use crate::messages::{Ask, Owed, Request as _};
use crate::spec::oci;
use crate::spec::settings::Settings;
use crate::spec::task::TaskSpec;
use crate::telemetry::propagate::handling;
use crate::telemetry::{Counter, names};
use actix::{ActorContext as _, ActorFutureExt as _, AsyncContext as _, Context, Handler, WrapFuture as _};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tracing::{Instrument as _, Span};

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
                work: None,
                span,
            });
            self.waiting.start.push(reply);
            self.forgive(ctx);
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
        let req = ensure_image(&task, &settings);
        let (within, cx, links) = (
            req.timeout.saturating_add(PULL_SLACK),
            cx_of(&span),
            Arc::clone(&self.links),
        );
        let work = async move { ask_until(&*links.ensure_image, req, cx, Some(within)).await }.instrument(span);
        let handle = ctx.spawn(work.into_actor(self).map(|answer, actor, ctx| match answer {
            Ok(Ok(ready)) => {
                if let Some(starting) = actor.starting.as_mut() {
                    starting.image = Some(ready);
                }
                actor.note(&Event::ImageReady, ctx);
            }
            Ok(Err(e)) => actor.start_failed(e.into(), ctx),
            Err(e) => actor.start_failed(TaskError::Driver(e.to_string()), ctx),
        }));
        self.keep_work(handle);
    }

    pub(super) fn create(&mut self, ctx: &mut Context<Self>) {
        let Some((task, Some(image), span)) = self.starting_parts() else {
            return;
        };
        let (cx, links) = (cx_of(&span), Arc::clone(&self.links));
        let req = CreateContainer { task, image };
        let work =
            async move { ask_until(&*links.create_container, req, cx, Some(CREATE_WITHIN)).await }.instrument(span);
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
                self.about.pid = Some(pid);
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

/// What is asked of the puller for this task. The task's credentials win over the plugin's.
fn ensure_image(task: &TaskSpec, settings: &Settings) -> EnsureImage {
    let auth = task.options.auth.as_ref().or(settings.auth.as_ref());
    EnsureImage {
        image: task.options.image.clone(),
        credentials: auth.map(|a| Credentials {
            username: a.username.clone(),
            password: a.password.clone(),
        }),
        policy: if task.options.force_pull {
            PullPolicy::Always
        } else {
            PullPolicy::IfNotPresent
        },
        timeout: task.options.image_pull_timeout.unwrap_or(settings.image_pull_timeout),
        snapshotter: oci::snapshotter(task, settings).to_owned(),
        observer: Some(task.id.clone()),
    }
}

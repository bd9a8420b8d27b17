//! | `LogPump` | |
//! |---|---|
//! | owns | nothing that matters: the pump threads own the streams |
//! | asked | `CheckLogPaths`, `Attach`, `Drain` |
//! | told | nothing |
//! | tells | nothing |
//! | mailbox | 64 |
//! | restart | in place; attachments are in [`Pumps`], which outlives it |
//!
//! In Nomad's own log mode the shim writes into the FIFO of Nomad's collector directly and this actor only checks the
//! paths; it moves bytes where `log_collection` is `driver`, for `containerd-driver run`, and for tasks of the Go driver,
//! whose containers write into pipes of their own.

mod pumps;

pub use pumps::{Pumps, Target};

use crate::actors::shared::Shared;
use crate::host::fifo::{LogTarget, check_log_path, open_log};
use crate::messages::logs::{Attach, CheckLogPaths, Drain, LogError, Sink, Stream};
use crate::messages::{Ask, Request as _};
use crate::telemetry::names;
use crate::telemetry::propagate::handling;
use actix::{Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, Supervised, WrapFuture as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tracing::Instrument as _;

/// Places in the mailbox.
pub const MAILBOX: usize = 64;

/// See the module.
pub struct LogPump {
    shared: Arc<Shared>,
    pumps: Arc<Pumps>,
}

impl LogPump {
    /// A pump actor over these threads.
    #[must_use]
    pub fn new(shared: Arc<Shared>, pumps: Arc<Pumps>) -> Self {
        Self { shared, pumps }
    }
}

impl Actor for LogPump {
    type Context = Context<Self>;
}

impl Supervised for LogPump {}

impl Handler<Ask<CheckLogPaths>> for LogPump {
    type Result = ();

    fn handle(&mut self, ask: Ask<CheckLogPaths>, ctx: &mut Self::Context) {
        let Ask { req, cx, reply, .. } = ask;
        let span = handling!(cx, names::LOG_CHECK, "log_pump", CheckLogPaths::NAME);
        // A path lookup may block on a slow disk: not on an arbiter.
        let check = self.shared.io.spawn_blocking(move || {
            let _entered = span.entered();
            let stdout = check(&req.alloc_dir, &req.stdout, Stream::Stdout)?;
            let stderr = check(&req.alloc_dir, &req.stderr, Stream::Stderr)?;
            Ok((stdout, stderr))
        });
        ctx.spawn(check.into_actor(self).map(move |checked, _, _| {
            // A panic in the check drops the reply: the asker asks again.
            if let Ok(checked) = checked {
                reply.send(checked);
            }
        }));
    }
}

fn check(alloc_dir: &Path, path: &Path, stream: Stream) -> Result<Option<PathBuf>, LogError> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    match check_log_path(alloc_dir, path) {
        Ok(LogTarget::Fifo | LogTarget::File) => Ok(Some(path.to_owned())),
        Ok(LogTarget::Null) => Ok(None),
        Ok(LogTarget::Absent) => Err(LogError {
            stream: stream.name(),
            path: path.display().to_string(),
            reason: "does not exist: a FIFO, a regular file or /dev/null is expected".to_owned(),
        }),
        Err(e) => Err(LogError {
            stream: stream.name(),
            path: path.display().to_string(),
            reason: e.to_string(),
        }),
    }
}

impl Handler<Ask<Attach>> for LogPump {
    type Result = ();

    fn handle(&mut self, ask: Ask<Attach>, ctx: &mut Self::Context) {
        let Ask { req, cx, reply, .. } = ask;
        let span = handling!(cx, names::LOG_ATTACH, "log_pump", Attach::NAME, { names::CONTAINER_ID } = %req.container, { names::STREAM } = req.stream.name());
        if let Sink::Descriptor(sink) = req.sink {
            let _entered = span.entered();
            let to = Target::Descriptor(sink);
            reply.send(self.pumps.attach(&req.container, req.stream, &req.fifo, to));
            return;
        }
        let pumps = Arc::clone(&self.pumps);
        // As above: a path lookup.
        let open = self.shared.io.spawn_blocking(move || {
            let _entered = span.entered();
            let to = match req.sink {
                Sink::Descriptor(sink) => Target::Descriptor(sink),
                Sink::Files(files) => Target::Files(files),
                Sink::Path { alloc_dir, path } => {
                    let sink = open_log(&alloc_dir, &path).map_err(|e| LogError {
                        stream: req.stream.name(),
                        path: path.display().to_string(),
                        reason: e.to_string(),
                    })?;
                    Target::Descriptor(Arc::new(sink))
                }
            };
            pumps.attach(&req.container, req.stream, &req.fifo, to)
        });
        ctx.spawn(open.into_actor(self).map(move |attached, _, _| {
            if let Ok(attached) = attached {
                reply.send(attached);
            }
        }));
    }
}

impl Handler<Ask<Drain>> for LogPump {
    type Result = ();

    fn handle(&mut self, ask: Ask<Drain>, ctx: &mut Self::Context) {
        let Ask { req, cx, reply, .. } = ask;
        let span = handling!(cx, names::LOG_DRAIN, "log_pump", Drain::NAME, { names::CONTAINER_ID } = %req.container);
        let pumps = Arc::clone(&self.pumps);
        ctx.spawn(
            async move { reply.send(pumps.drained(&req.container, req.patience).await) }
                .instrument(span)
                .into_actor(self),
        );
    }
}

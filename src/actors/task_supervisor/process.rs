//! The end of a task's first process, by the kernel. A shim that hangs tells nobody of it, and until somebody stops the task
//! nobody would ask.
//!
//! One descriptor per task in the set that the I/O runtime waits for anyway: no thread, and no timer while the process runs.

use super::TaskSupervisor;
use super::away::Abort;
use super::kernel::ended;
use crate::actors::shared::{Shared, unix_nanos};
use crate::host::members;
use crate::spec::record::ExitRecord;
use actix::{ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
use std::sync::Arc;
use std::time::Duration;

/// How long after the end of the process its exit may take to be told. The shim takes its code at once, and so does the one
/// of a containerd that is away; until then the kernel keeps it.
const TOLD_WITHIN: Duration = Duration::from_secs(5);

/// What is known when the exit was not told in time.
enum Untold {
    /// Nobody has taken the code: whoever should is hanging.
    Code { code: i32, at: i64 },
    /// Somebody has.
    Taken,
    /// The process could not be watched.
    Unwatched,
}

async fn untold(shared: Arc<Shared>, names: Vec<String>, pid: u32) -> std::io::Result<Untold> {
    let Some(first) = shared.look(move || members::one(&names, pid)).await? else {
        return Ok(Untold::Unwatched);
    };
    let (pid, started) = (first.pid, first.started);
    ended(first.process).await?;
    let at = unix_nanos();
    tokio::time::sleep(TOLD_WITHIN).await;
    let code = shared.look(move || members::exit_code(pid, started)).await?;
    Ok(code.map_or(Untold::Taken, |code| Untold::Code { code, at }))
}

impl TaskSupervisor {
    /// To be called when the task has just been found alive.
    pub(super) fn watch_process(&mut self, ctx: &mut Context<Self>) {
        let Some(pid) = self.about.pid else { return };
        self.leave_process(ctx);
        let watch = self
            .shared
            .io
            .spawn(untold(Arc::clone(&self.shared), self.cgroup_names(), pid));
        self.at_process = Some(ctx.spawn(Abort::guard(watch).into_actor(self).map(|untold, actor, ctx| {
            actor.at_process = None;
            match untold {
                Ok(Ok(Untold::Code { code, at })) if actor.state.is_alive() => {
                    tracing::warn!(task.id = %actor.id, "the task has ended and its shim does not tell: its code is the kernel's");
                    let exit = ExitRecord {
                        code,
                        oom: false,
                        at,
                        lost: String::new(),
                    };
                    actor.exit_seen(exit, ctx);
                }
                // The shim has it, and a containerd that hangs would not pass it on.
                Ok(Ok(Untold::Taken)) => {
                    actor.wait_at_shim(ctx);
                    actor.check_exit(ctx);
                }
                Ok(Ok(Untold::Code { .. } | Untold::Unwatched)) => {}
                // Without it, the exit is told by containerd or its shim.
                Ok(Err(error)) => tracing::debug!(task.id = %actor.id, error = %error, "cannot watch the first process"),
                Err(broken) => tracing::error!(task.id = %actor.id, error = %broken, "the watch of the first process broke off"),
            }
        })));
    }

    pub(super) fn leave_process(&mut self, ctx: &mut Context<Self>) {
        if let Some(watch) = self.at_process.take() {
            ctx.cancel_future(watch);
        }
    }
}

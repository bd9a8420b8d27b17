//! Output that this driver collects, of a task that is taken up again: whoever started it had the pipes read.

use super::TaskSupervisor;
use crate::actors::shared::own_logs;
use actix::{ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
use std::sync::Arc;
use std::time::Duration;

/// First and longest rest before it is tried again.
const REST: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

impl TaskSupervisor {
    /// Has the pipes of the task read again. What cannot be written to now may be later, and the task must not stand still
    /// for want of a reader: it is tried again until the task is removed.
    pub(super) fn resume_logs(&mut self, ctx: &mut Context<Self>) {
        let Some(files) = self.about.logs.clone() else { return };
        let (links, container) = (Arc::clone(&self.links), self.container.clone());
        let shared = Arc::clone(&self.shared);
        let dir = shared.run_dir.join(container.as_str());
        let resume = async move {
            let [stdout, stderr] = own_logs::pipes(&dir);
            let mut rest = REST.0;
            // Without them nobody writes.
            while stdout.exists() {
                match own_logs::attach(&links, &container, &dir, &files, !stderr.exists()).await {
                    Ok(()) => {
                        // A process may have to be started: not on a thread that others wait for.
                        let kept = (Arc::clone(&shared), dir.clone());
                        let keep = shared.io.spawn_blocking(move || own_logs::keep(&kept.0, &kept.1));
                        return keep.await.unwrap_or_default();
                    }
                    Err(fault) => {
                        tracing::warn!(container.id = %container, error = %fault, "the output of a task cannot be collected yet");
                    }
                }
                tokio::time::sleep(rest).await;
                rest = (rest * 2).min(REST.1);
            }
        };
        ctx.spawn(resume.into_actor(self).map(|(), _, _| ()));
    }
}

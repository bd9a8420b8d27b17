//! Output that this driver collects: the shim writes into pipes that lie with the container's other files, and the pump
//! threads read them.

use super::held::Logs;
use crate::actors::shared::own_logs;
use crate::actors::shared::{Links, Shared};
use crate::actors::supervision::book::ask_until;
use crate::host::{HostError, fifo, paths};
use crate::messages::Cx;
use crate::messages::container::ContainerError;
use crate::messages::logs::Drain;
use crate::spec::identity::ContainerId;
use crate::spec::log_collection::{LogFiles, LogWay};
use crate::spec::oci::ContainerPlan;
use crate::spec::task::TaskSpec;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long the last bytes of a container that is gone may take.
const LAST_BYTES: Duration = Duration::from_secs(2);

/// The pipes of one container, if its output is this driver's to collect.
pub(super) struct OwnLogs<'a> {
    shared: &'a Shared,
    links: &'a Arc<Links>,
    container: &'a ContainerId,
    dir: PathBuf,
    files: Option<&'a LogFiles>,
    terminal: bool,
}

impl<'a> OwnLogs<'a> {
    pub(super) fn of(
        shared: &'a Shared,
        links: &'a Arc<Links>,
        container: &'a ContainerId,
        plan: &'a ContainerPlan,
    ) -> Self {
        Self {
            shared,
            links,
            container,
            dir: shared.run_dir.join(container.as_str()),
            files: match &plan.logs {
                LogWay::Files(files) => Some(files),
                LogWay::Paths | LogWay::Nowhere => None,
            },
            terminal: plan.terminal,
        }
    }

    /// What the shim is to write to.
    pub(super) fn paths(&self) -> Logs {
        if self.files.is_none() {
            return (None, None);
        }
        let [stdout, stderr] = own_logs::pipes(&self.dir);
        (Some(stdout), Some(stderr).filter(|_| !self.terminal))
    }

    /// Makes the pipes, and has them read before a shim waits for that. What is returned is both ends of each: while it is
    /// held, the end of an earlier shim is not the end of the pipe for whoever reads it.
    pub(super) async fn make(&self) -> Result<Vec<OwnedFd>, ContainerError> {
        let mut held = Vec::new();
        if self.files.is_none() {
            return Ok(held);
        }
        let (stdout, stderr) = self.paths();
        for path in [stdout, stderr].into_iter().flatten() {
            let end = tokio::task::block_in_place(|| {
                paths::create_run_dir(&self.dir)?;
                fifo::make_fifo(&path)?;
                fifo::open_both(&path)
            });
            held.push(end.map_err(fault(&path))?);
        }
        tokio::task::block_in_place(|| own_logs::keep(self.shared, &self.dir));
        self.attach().await?;
        Ok(held)
    }

    /// Has the pipes read, unless they are.
    pub(super) async fn attach(&self) -> Result<(), ContainerError> {
        let Some(files) = self.files else { return Ok(()) };
        own_logs::attach(self.links, self.container, &self.dir, files, self.terminal)
            .await
            .map_err(|e| ContainerError::Host {
                what: "option log_collection: log file",
                path: e.path,
                reason: e.reason,
            })
    }

    /// The container is gone: lets go of its pipes, which another start makes anew.
    pub(super) async fn let_go(&self) {
        if self.files.is_none() {
            return;
        }
        tokio::task::block_in_place(|| self.shared.keeper.release(&self.dir));
        let drain = Drain {
            container: self.container.clone(),
            patience: Some(LAST_BYTES),
        };
        let fault = match ask_until(&*self.links.drain_log, drain, Cx::current(), None).await {
            Ok(Ok(_)) => return,
            Ok(Err(fault)) => fault.to_string(),
            Err(fault) => fault.to_string(),
        };
        tracing::warn!(container.id = %self.container, error = fault, "the output of an earlier start was not read to its end");
    }
}

fn fault(path: &Path) -> impl FnOnce(HostError) -> ContainerError {
    move |e| ContainerError::Host {
        what: "log pipe",
        path: path.display().to_string(),
        reason: e.reason,
    }
}

/// The pipes that a collector of Nomad's reads, to which nothing will be written: of a terminal's two streams, or where
/// nobody is to collect.
pub(super) fn unused_logs(plan: &ContainerPlan, task: &TaskSpec, logs: &Logs) -> Vec<PathBuf> {
    match &plan.logs {
        LogWay::Paths => logs.1.iter().filter(|_| plan.terminal).cloned().collect(),
        LogWay::Files(_) => Vec::new(),
        LogWay::Nowhere => vec![task.stdout_path.clone(), task.stderr_path.clone()],
    }
}

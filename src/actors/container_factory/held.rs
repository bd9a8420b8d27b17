//! The pipes that a host's collector reads, held open while a task is started.

use crate::host::pipe_keeper::PipeKeeper;
use crate::host::{HostError, exec, fifo};
use crate::messages::container::ContainerError;
use crate::spec::identity::ContainerId;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
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
///
/// Nor may the end of this process be: what it holds is held by the pipe keeper first, until [`Held::over`].
pub(super) struct Held<'a> {
    alloc_dir: &'a Path,
    keeper: &'a Arc<PipeKeeper>,
    id: &'a ContainerId,
    /// Of a terminal, only the pipe that it writes to.
    pipes: Vec<(&'a Path, Option<OwnedFd>)>,
}

impl<'a> Held<'a> {
    /// Of these log paths, those that are pipes; none is held yet. A file has no end that its reader could take for the last.
    pub(super) fn none_of(
        keeper: &'a Arc<PipeKeeper>,
        id: &'a ContainerId,
        alloc_dir: &'a Path,
        logs: &'a Logs,
        terminal: bool,
    ) -> Self {
        let paths = [logs.0.as_deref(), logs.1.as_deref().filter(|_| !terminal)];
        let is_pipe = |path: &&Path| path.symlink_metadata().is_ok_and(|found| found.file_type().is_fifo());
        Self {
            alloc_dir,
            keeper,
            id,
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
        let (keeper, key) = (self.keeper, self.id.as_str());
        for (path, end) in self.pipes.iter_mut().filter(|(_, end)| end.is_none()) {
            let at = fifo::at(self.alloc_dir, path).map_err(log_pipe(path))?;
            // Without it, a start that breaks off with this process may lose its log, which is no reason for it to fail.
            let kept = keeper.hold_writing(key, &at).unwrap_or_else(|error| {
                tracing::warn!(container.id = key, %error, "a log pipe is not held should the plugin end during this start");
                true
            });
            // One whose reader comes just now is for the next look: it is never held by this process alone.
            if kept {
                *end = fifo::hold(self.alloc_dir, path).map_err(log_pipe(path))?;
            }
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

    /// The start is over, one way or the other: the keeper lets go, also of what a process before this one has had held for it.
    /// A start that breaks off with its actor is not over: whoever asks for it again needs the pipes.
    pub(super) async fn over(self) {
        if self.pipes.is_empty() {
            return;
        }
        let (keeper, id) = (Arc::clone(self.keeper), self.id.clone());
        // It may be waited for. Awaited, so that it cannot come after what the next start of this task asks for.
        if let Err(panic) = tokio::task::spawn_blocking(move || keeper.let_go(id.as_str())).await {
            tracing::error!(container.id = %self.id, error = %panic, "log pipes are still held");
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

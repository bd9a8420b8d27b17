//! Output that this driver collects: which pipes, and to have them read. For whoever starts a container and for whoever
//! takes one up again.

use super::{Links, Shared};
use crate::actors::supervision::book::ask_until;
use crate::messages::Cx;
use crate::messages::logs::{Attach, LogError, Sink, Stream};
use crate::spec::identity::ContainerId;
use crate::spec::log_collection::LogFiles;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bound of one message.
const ASK_WITHIN: Duration = Duration::from_secs(60);

/// Standard output and standard error of a container whose files lie in `dir`.
pub(in crate::actors) fn pipes(dir: &Path) -> [PathBuf; 2] {
    [Stream::Stdout, Stream::Stderr].map(|stream| dir.join(stream.name()))
}

/// Has the pipes of a container read into its log files, unless they are. A terminal has one.
pub(in crate::actors) async fn attach(
    links: &Links,
    container: &ContainerId,
    dir: &Path,
    files: &LogFiles,
    terminal: bool,
) -> Result<(), LogError> {
    let [stdout, stderr] = pipes(dir);
    let streams = [
        (Stream::Stdout, Some(stdout)),
        (Stream::Stderr, Some(stderr).filter(|_| !terminal)),
    ];
    for (stream, fifo) in streams {
        let Some(fifo) = fifo else { continue };
        let attach = Attach {
            container: container.clone(),
            stream,
            fifo: fifo.clone(),
            sink: Sink::Files(files.clone()),
        };
        ask_until(&*links.attach_log, attach, Cx::current(), Some(ASK_WITHIN))
            .await
            .unwrap_or_else(|e| {
                Err(LogError {
                    stream: stream.name(),
                    path: fifo.display().to_string(),
                    reason: e.to_string(),
                })
            })?;
    }
    Ok(())
}

/// Has the pipes in `dir` held while this process is away. Without a keeper the last words of a task that ends meanwhile
/// may be lost, which is no reason not to start it.
pub(in crate::actors) fn keep(shared: &Shared, dir: &Path) {
    for pipe in pipes(dir).iter().filter(|pipe| pipe.exists()) {
        if let Err(error) = shared.keeper.hold(pipe) {
            tracing::warn!(%error, "a log pipe is not held while the plugin is away");
        }
    }
}

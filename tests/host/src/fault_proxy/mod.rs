//! A proxy between a plugin and containerd that delays, loses, repeats and cuts calls when told to.
//!
//! It works on HTTP/2 streams: one stream is one call. Of the messages it knows nothing but their bytes, in which a rule
//! may look for a name. Each connection of the plugin has one of its own to containerd, so that a cut reaches both.
//! Without rules it is as good as not there.

mod desk;
mod relay;
mod stage;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use desk::{Applied, Calls, Fate, Loss, Rule, Which};
pub use stage::{Reply, Understudy};

use desk::Desk;

/// A running proxy. Dropping it closes the socket and every connection.
pub struct FaultProxy {
    socket: PathBuf,
    desk: Arc<Desk>,
    acceptor: tokio::task::JoinHandle<()>,
}

impl FaultProxy {
    /// Listens on `socket` and forwards to the one at `upstream`, which need not be there yet.
    pub fn start(socket: &Path, upstream: &Path) -> Result<FaultProxy> {
        FaultProxy::begin(socket, upstream, Desk::default())
    }

    /// The same with somebody who answers some of the calls instead.
    pub fn with_understudy(socket: &Path, upstream: &Path, understudy: Arc<dyn Understudy>) -> Result<FaultProxy> {
        FaultProxy::begin(socket, upstream, Desk::with_understudy(understudy))
    }

    fn begin(socket: &Path, upstream: &Path, desk: Desk) -> Result<FaultProxy> {
        let listener = UnixListener::bind(socket).with_context(|| format!("listen on {}", socket.display()))?;
        let desk = Arc::new(desk);
        let acceptor = tokio::spawn(accept(listener, socket.to_owned(), upstream.to_owned(), desk.clone()));
        Ok(FaultProxy {
            socket: socket.to_owned(),
            desk,
            acceptor,
        })
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The next call that the rule fits has its fate; after that the rule is used up.
    pub fn arm(&self, rule: Rule) {
        self.desk.arm(rule);
    }

    /// Withdraws the rules that look for this name. The answer is how many were still unused.
    pub fn disarm(&self, needle: &str) -> usize {
        self.desk.disarm(needle)
    }

    /// Closes every connection at once, with all calls that are under way.
    pub fn cut(&self) {
        self.desk.cut();
    }

    /// Closes every connection and refuses new ones for so long.
    pub fn refuse(&self, period: Duration) {
        self.desk.refuse(Instant::now() + period);
    }

    /// Breaks off the streams from containerd (its events are one); the connection stays.
    pub fn cut_streams(&self) {
        self.desk.cut_streams();
    }

    /// Lets no unary call pass for so long: containerd hangs, its connections stay.
    pub fn hold(&self, period: Duration) {
        self.desk.hold(Instant::now() + period);
    }

    /// How many calls there were so far, by the end of their paths, as in `Tasks/Create`.
    pub fn calls(&self) -> Calls {
        self.desk.calls()
    }

    /// How often what has happened so far.
    pub fn applied(&self) -> Applied {
        self.desk.applied()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.acceptor.abort();
        std::fs::remove_file(&self.socket).ok();
    }
}

/// Accepts until aborted. While connections are refused there is no listener, but its file: as if containerd had died.
async fn accept(mut listener: UnixListener, socket: PathBuf, upstream: PathBuf, desk: Arc<Desk>) {
    let mut connections = JoinSet::new();
    let mut refusals = desk.refusals();
    loop {
        let until = tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(relay::connection(stream, upstream.clone(), desk.clone()));
                }
                while connections.try_join_next().is_some() {}
                continue;
            }
            changed = refusals.changed() => match changed {
                Ok(()) => *refusals.borrow_and_update(),
                Err(_gone) => return,
            },
        };
        drop(listener);
        tokio::time::sleep_until(until).await;
        std::fs::remove_file(&socket).ok();
        listener = match UnixListener::bind(&socket) {
            Ok(listener) => listener,
            Err(error) => panic!("listen on {} again: {error}", socket.display()),
        };
    }
}

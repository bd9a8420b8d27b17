//! A proxy before a registry that speaks plain HTTP: it counts what is asked and sent, and cuts, slows, damages, refuses or
//! sends on when told to. Without rules it is as good as not there.

mod desk;
mod relay;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;

pub use desk::{Fate, Rule, Seen};

use desk::Desk;

/// What the kernel keeps for a client that does not read: the count of bytes sent is to be near what was received.
const SEND_BUFFER: u32 = 64 << 10;

/// A running proxy. Dropping it closes every connection.
pub struct RegistryProxy {
    addr: String,
    desk: Arc<Desk>,
    acceptor: tokio::task::JoinHandle<()>,
}

impl RegistryProxy {
    /// Before the registry at `upstream`, on a free port of 127.0.0.1.
    pub async fn before(upstream: &str) -> Result<RegistryProxy> {
        RegistryProxy::start("127.0.0.1", upstream).await
    }

    /// The same on another address of this machine.
    pub async fn start(ip: &str, upstream: &str) -> Result<RegistryProxy> {
        let socket = TcpSocket::new_v4()?;
        socket.set_send_buffer_size(SEND_BUFFER)?;
        socket.bind(format!("{ip}:0").parse()?)?;
        let listener = socket.listen(1024)?;
        let addr = listener.local_addr()?.to_string();
        let desk = Arc::new(Desk::default());
        let acceptor = tokio::spawn(accept(listener, upstream.to_owned(), Arc::clone(&desk)));
        Ok(RegistryProxy { addr, desk, acceptor })
    }

    /// `<ip>:<port>`.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// `<ip>:<port>/<name>:<tag>`.
    pub fn reference(&self, name: &str, tag: &str) -> String {
        format!("{}/{name}:{tag}", self.addr)
    }

    /// The next requests that the rule fits have its fate, as often as it says.
    pub fn arm(&self, rule: Rule) {
        self.desk.arm(rule);
    }

    /// Withdraws all rules and lets go what they hold.
    pub fn disarm(&self) {
        self.desk.disarm();
    }

    /// Everything that was asked so far, in order of arrival.
    pub fn seen(&self) -> Vec<Seen> {
        self.desk.seen()
    }

    /// Forgets what was asked so far.
    pub fn forget(&self) {
        self.desk.forget();
    }

    /// Requests for blobs, `HEAD` not counted.
    pub fn blobs(&self) -> Vec<Seen> {
        let mut seen = self.seen();
        seen.retain(|s| s.method == "GET" && s.path.contains("/blobs/"));
        seen
    }

    /// Bytes of blobs that were sent.
    pub fn blob_bytes(&self) -> u64 {
        self.blobs().iter().map(|s| s.sent).sum()
    }

    /// Waits until `probe` finds something among what was asked; panics with `what` when the time is over.
    pub async fn wait_for<T>(&self, deadline: Duration, what: &str, probe: impl FnMut(&[Seen]) -> Option<T>) -> T {
        crate::within::within(deadline, what, self.desk.wait_for(probe)).await
    }
}

impl Drop for RegistryProxy {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

async fn accept(listener: TcpListener, upstream: String, desk: Arc<Desk>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(relay::connection(stream, upstream.clone(), Arc::clone(&desk)));
        while connections.try_join_next().is_some() {}
    }
}

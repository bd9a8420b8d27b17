//! A proxy before a registry that counts what is asked and lets blobs through at a pace, or not at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How blobs pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As fast as can be.
    Free,
    /// So many bytes a second, of all connections together.
    BytesPerSecond(u64),
    /// Not.
    Shut,
}

/// Bytes that are let through at once.
const PIECE: usize = 16 * 1024;

struct Seen {
    manifests: AtomicUsize,
    blobs: watch::Sender<usize>,
    blob_bytes: AtomicU64,
    pace: watch::Sender<Pace>,
    /// When the next piece may pass.
    next: tokio::sync::Mutex<Instant>,
}

/// See the module. Dropping it cuts its connections.
pub struct Valve {
    addr: String,
    seen: Arc<Seen>,
    server: tokio::task::JoinHandle<()>,
}

impl Valve {
    /// Before the registry at this address.
    pub async fn before(registry: &str, pace: Pace) -> Valve {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address").to_string();
        let seen = Arc::new(Seen {
            manifests: AtomicUsize::new(0),
            blobs: watch::Sender::new(0),
            blob_bytes: AtomicU64::new(0),
            pace: watch::Sender::new(pace),
            next: tokio::sync::Mutex::new(Instant::now()),
        });
        let (registry, shared) = (registry.to_owned(), Arc::clone(&seen));
        let server = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (registry, seen) = (registry.clone(), Arc::clone(&shared));
                connections.spawn(async move { hand_on(client, &registry, &seen).await });
            }
        });
        Valve { addr, seen, server }
    }

    /// `127.0.0.1:<port>/<name>:1`.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}:1", self.addr)
    }

    pub fn set(&self, pace: Pace) {
        self.seen.pace.send_replace(pace);
    }

    /// Manifests and indexes asked for, by HEAD or GET.
    pub fn manifests(&self) -> usize {
        self.seen.manifests.load(Ordering::Relaxed)
    }

    /// Blobs asked for by GET.
    pub fn blobs(&self) -> usize {
        *self.seen.blobs.borrow()
    }

    /// Bytes of answers about blobs that were handed to clients.
    pub fn blob_bytes(&self) -> u64 {
        self.seen.blob_bytes.load(Ordering::Relaxed)
    }

    /// Waits until so many blobs have been asked for.
    pub async fn asked(&self, blobs: usize) {
        let mut asked = self.seen.blobs.subscribe();
        asked.wait_for(|n| *n >= blobs).await.expect("the valve lives");
    }
}

impl Drop for Valve {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn hand_on(client: TcpStream, registry: &str, seen: &Seen) {
    let Ok(server) = TcpStream::connect(registry).await else {
        return;
    };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let is_blob = AtomicBool::new(false);
    // The first to end ends both: a client that hangs up in the middle of a blob must not leave its connection open.
    tokio::select! {
        () = requests(from_client, to_server, seen, &is_blob) => {}
        () = answers(from_server, to_client, seen, &is_blob) => {}
    }
}

async fn requests(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    seen: &Seen,
    is_blob: &AtomicBool,
) {
    let mut buffer = vec![0; PIECE];
    // A request has no body and comes as one piece.
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let text = String::from_utf8_lossy(&buffer[..length]);
        let line = text.lines().next().unwrap_or_default();
        let blob = line.starts_with("GET ") && line.contains("/blobs/");
        if line.contains("/manifests/") {
            seen.manifests.fetch_add(1, Ordering::Relaxed);
        }
        is_blob.store(blob, Ordering::Relaxed);
        if blob {
            seen.blobs.send_modify(|n| *n += 1);
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

async fn answers(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, seen: &Seen, is_blob: &AtomicBool) {
    let mut buffer = vec![0; PIECE];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let blob = is_blob.load(Ordering::Relaxed);
        if blob {
            pass(seen, length).await;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
        if blob {
            seen.blob_bytes.fetch_add(length as u64, Ordering::Relaxed);
        }
    }
    to.shutdown().await.ok();
}

/// Waits until a piece of a blob may pass.
async fn pass(seen: &Seen, length: usize) {
    let mut pace = seen.pace.subscribe();
    loop {
        let now = *pace.borrow_and_update();
        match now {
            Pace::Free => return,
            Pace::BytesPerSecond(rate) => {
                let at = {
                    let mut next = seen.next.lock().await;
                    let at = (*next).max(Instant::now());
                    *next = at + Duration::from_secs_f64(length as f64 / rate as f64);
                    at
                };
                tokio::time::sleep_until(at).await;
                return;
            }
            Pace::Shut => {
                if pace.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

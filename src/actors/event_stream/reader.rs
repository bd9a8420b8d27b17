//! The reader: subscribes, proves that the subscription is live, lists, then forwards; begins again after a break.
//!
//! containerd answers a subscription only with its first event, so that nothing tells when it is live. The reader
//! therefore publishes a marker until one comes back, and lists the tasks **after** that: an exit before the listing
//! is in the listing, one after it is in the stream.

use crate::containerd::{Gateway, RuntimeEvent};
use crate::messages::runtime::{ContainerdFault, FaultKind, TaskView};
use crate::spec::identity::ContainerId;
use crate::spec::record::ExitRecord;
use crate::telemetry::names;
use futures_util::StreamExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tracing::Instrument as _;

/// Items on their way to the actor. When it is slow, the stream from containerd waits.
const BUFFER: usize = 256;

/// Between two markers while the subscription is not yet live.
const MARKER_INTERVAL: Duration = Duration::from_millis(100);

/// Rest before a new attempt, doubled up to the second value.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How long a subscription may take to become live.
const LIVE_WITHIN: Duration = Duration::from_secs(10);

/// What the reader brings.
pub enum Item {
    /// All tasks, taken after the subscription was live.
    Listing {
        /// Of which reader.
        generation: u64,
        /// Container and state.
        tasks: Vec<(ContainerId, TaskView)>,
    },
    /// A container's first process ended.
    Exited {
        /// Which.
        container: ContainerId,
        /// How.
        exit: ExitRecord,
        /// Which process; 0 of containerd 1.6 for one whose shim it has taken down.
        pid: u32,
    },
    /// Out of memory in a container.
    Oom {
        /// Which.
        container: ContainerId,
    },
    /// A container's record was deleted, by us or by someone else.
    Deleted {
        /// Which.
        container: ContainerId,
    },
    /// The connection broke or could not be made.
    Gap {
        /// Of which reader.
        generation: u64,
        /// Why.
        fault: ContainerdFault,
    },
}

/// A running reader; dropping it ends it.
pub struct Reader {
    /// Tells the items of this reader from those of an earlier one.
    pub generation: u64,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

static GENERATION: AtomicU64 = AtomicU64::new(0);

impl Reader {
    /// Starts a reader on the I/O runtime.
    pub fn start(io: &tokio::runtime::Handle, gateway: Gateway) -> (Self, ReceiverStream<Item>) {
        let generation = GENERATION.fetch_add(1, Ordering::Relaxed);
        let (tx, rx) = mpsc::channel(BUFFER);
        let task = io.spawn(run(gateway, generation, tx));
        (Self { generation, task }, ReceiverStream::new(rx))
    }
}

async fn run(gateway: Gateway, generation: u64, tx: mpsc::Sender<Item>) {
    let mut rest = BACKOFF.0;
    let mut last: Option<FaultKind> = None;
    loop {
        let mut live = false;
        let fault = follow(&gateway, generation, &tx, &mut live).await;
        let Some(fault) = fault else { return };
        if live {
            rest = BACKOFF.0;
            last = None;
        }
        // The same failure again is no news.
        if last != Some(fault.kind) {
            last = Some(fault.kind);
            if tx.send(Item::Gap { generation, fault }).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(rest).await;
        rest = (rest * 2).min(BACKOFF.1);
    }
}

/// Follows one subscription to its end. `None`: nobody listens any more.
async fn follow(
    gateway: &Gateway,
    generation: u64,
    tx: &mpsc::Sender<Item>,
    live: &mut bool,
) -> Option<ContainerdFault> {
    let nonce = format!(
        "{}-{generation}-{}",
        std::process::id(),
        GENERATION.fetch_add(1, Ordering::Relaxed)
    );
    let mut events = Box::pin(gateway.subscribe());
    let mut early = Vec::new();
    let mut marker = tokio::time::interval(MARKER_INTERVAL);
    let patience = tokio::time::sleep(LIVE_WITHIN);
    tokio::pin!(patience);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(RuntimeEvent::Marker { nonce: seen })) if seen == nonce => break,
                Some(Ok(event)) => early.push(event),
                Some(Err(fault)) => return Some(fault),
                None => return Some(ended()),
            },
            _ = marker.tick() => {
                if let Err(fault) = gateway.publish_marker(&nonce).await {
                    return Some(fault);
                }
            }
            () = &mut patience => return Some(ContainerdFault {
                kind: FaultKind::Deadline,
                operation: "subscribe to events",
                text: format!("the subscription was not live within {LIVE_WITHIN:?}"),
            }),
        }
    }
    let listing = tracing::info_span!(parent: None, names::EVENTS_RESYNC);
    let tasks = match gateway.list_tasks().instrument(listing).await {
        Ok(tasks) => tasks,
        Err(fault) => return Some(fault),
    };
    *live = true;
    tx.send(Item::Listing { generation, tasks }).await.ok()?;
    for event in early {
        forward(event, tx).await?;
    }
    loop {
        match events.next().await {
            Some(Ok(event)) => forward(event, tx).await?,
            Some(Err(fault)) => return Some(fault),
            None => return Some(ended()),
        }
    }
}

fn ended() -> ContainerdFault {
    ContainerdFault {
        kind: FaultKind::Unreachable,
        operation: "receive events",
        text: "the stream ended".to_owned(),
    }
}

async fn forward(event: RuntimeEvent, tx: &mpsc::Sender<Item>) -> Option<()> {
    let item = match event {
        // The first process of a container has no exec id of its own.
        RuntimeEvent::Exited {
            container,
            exec_id,
            exit,
            pid,
        } if exec_id.is_empty() => Item::Exited { container, exit, pid },
        RuntimeEvent::Oom { container } => Item::Oom { container },
        RuntimeEvent::Deleted { container } => Item::Deleted { container },
        RuntimeEvent::Exited { .. } | RuntimeEvent::Marker { .. } | RuntimeEvent::Other => return Some(()),
    };
    tx.send(item).await.ok()
}

//! The attachments of the pump threads: what is attached, to what, and how it ended.
//!
//! Outlives the actor. A pump thread that dies is replaced and its streams are attached again: the kernel's pipe has
//! kept their bytes.

use crate::host::fifo::open_reader;
use crate::host::log_files::LogFile;
use crate::host::{PumpKey, PumpPool, PumpRefused, PumpSink, Report};
use crate::messages::logs::{Drained, LogError, Stream};
use crate::spec::identity::ContainerId;
use crate::spec::log_collection::LogFiles;
use crate::telemetry::Counter;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Notify;

/// Where a stream goes, as each thread that takes it up is told.
#[derive(Debug, Clone)]
pub enum Target {
    /// Into a descriptor.
    Descriptor(Arc<OwnedFd>),
    /// Into log files.
    Files(LogFiles),
}

impl Target {
    /// As a thread needs it. Log files are opened anew: what they hold is known on the disk alone.
    fn sink(&self, stream: Stream) -> Result<PumpSink, String> {
        match self {
            Self::Descriptor(sink) => Ok(PumpSink::Descriptor(Arc::clone(sink))),
            Self::Files(files) => LogFile::open(files, stream.name())
                .map(|log| PumpSink::Files(Box::new(log)))
                .map_err(|e| e.to_string()),
        }
    }
}

/// One stream that is moved.
struct Attachment {
    container: ContainerId,
    stream: Stream,
    fifo: PathBuf,
    to: Target,
    /// Bytes moved by attachments of this stream that are over.
    bytes: u64,
    over: bool,
    /// No writer will come any more.
    finishing: bool,
}

#[derive(Default)]
struct Table {
    next: u32,
    attachments: BTreeMap<PumpKey, Attachment>,
}

/// See the module.
pub struct Pumps {
    threads: usize,
    pool: Mutex<Option<Arc<PumpPool>>>,
    table: Mutex<Table>,
    ended: Notify,
    me: Weak<Self>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pumps {
    /// Pumps without a thread: threads are started with the first attachment.
    #[must_use]
    pub fn new(threads: usize) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            threads,
            pool: Mutex::default(),
            table: Mutex::default(),
            ended: Notify::new(),
            me: me.clone(),
        })
    }

    fn pool(&self) -> Result<Arc<PumpPool>, String> {
        let mut pool = lock(&self.pool);
        if let Some(pool) = pool.as_ref() {
            return Ok(Arc::clone(pool));
        }
        let me = self.me.clone();
        let started = PumpPool::start(self.threads, move |report| {
            if let Some(pumps) = me.upgrade() {
                pumps.on_report(report);
            }
        });
        let started = Arc::new(started.map_err(|e| e.to_string())?);
        *pool = Some(Arc::clone(&started));
        Ok(started)
    }

    /// Makes every thread that has a stream panic, for chaos tests. How many those are.
    #[cfg(feature = "chaos")]
    pub fn kill_threads(&self) -> usize {
        let keys: BTreeMap<u32, PumpKey> = lock(&self.table)
            .attachments
            .iter()
            .filter(|(_, a)| !a.over)
            .filter_map(|(key, _)| Some((key.0 % u32::try_from(self.threads).ok()?.max(1), *key)))
            .collect();
        let Ok(pool) = self.pool() else { return 0 };
        keys.values().filter(|key| pool.kill_thread_of(**key).is_ok()).count()
    }

    /// Attaches a stream. A no-op while the same stream of the same container is attached.
    ///
    /// # Errors
    /// Names the stream, the path and what is wrong.
    pub fn attach(&self, container: &ContainerId, stream: Stream, fifo: &Path, to: Target) -> Result<(), LogError> {
        let key = {
            let mut table = lock(&self.table);
            if table
                .attachments
                .values()
                .any(|a| !a.over && a.container == *container && a.stream == stream)
            {
                return Ok(());
            }
            let key = PumpKey(table.next);
            table.next = table.next.wrapping_add(1);
            table.attachments.insert(
                key,
                Attachment {
                    container: container.clone(),
                    stream,
                    fifo: fifo.to_owned(),
                    to,
                    bytes: 0,
                    over: false,
                    finishing: false,
                },
            );
            key
        };
        self.hand_over(key).map_err(|reason| {
            lock(&self.table).attachments.remove(&key);
            LogError {
                stream: stream.name(),
                path: fifo.display().to_string(),
                reason,
            }
        })
    }

    /// Gives an attachment to its thread.
    fn hand_over(&self, key: PumpKey) -> Result<(), String> {
        let (fifo, stream, to, finishing) = {
            let table = lock(&self.table);
            let Some(a) = table.attachments.get(&key) else {
                return Ok(());
            };
            (a.fifo.clone(), a.stream, a.to.clone(), a.finishing)
        };
        let source = open_reader(&fifo).map_err(|e| e.to_string())?;
        let sink = to.sink(stream)?;
        let pool = self.pool()?;
        pool.attach(key, source, sink).map_err(|e| e.to_string())?;
        if finishing {
            pool.finish(key).map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// On a pump thread: must not block.
    fn on_report(&self, report: Report) {
        match report {
            Report::Ended { key, bytes, fault } => {
                if let Some(fault) = fault {
                    Counter::LogFaults.bump();
                    tracing::warn!(error = fault, "a log stream ended with a fault");
                }
                self.over(key, bytes);
            }
            Report::Detached { .. } => {}
            Report::Died { keys } => {
                tracing::warn!(streams = keys.len(), "a pump thread died, attaching its streams again");
                for key in keys {
                    if let Err(reason) = self.hand_over(key) {
                        Counter::LogFaults.bump();
                        tracing::error!(error = reason, "a log stream cannot be attached again");
                        self.over(key, 0);
                    }
                }
            }
        }
    }

    fn over(&self, key: PumpKey, bytes: u64) {
        if let Some(a) = lock(&self.table).attachments.get_mut(&key) {
            a.bytes = a.bytes.saturating_add(bytes);
            a.over = true;
        }
        self.ended.notify_waiters();
    }

    /// Waits until the streams of a container were moved to their last byte, then forgets them. The container is
    /// gone: no writer will come any more. After `patience`, what could not be moved is given up.
    ///
    /// # Errors
    /// If a pump thread cannot be told.
    pub async fn drained(&self, container: &ContainerId, patience: Option<Duration>) -> Result<Drained, LogError> {
        let Some(patience) = patience else {
            return self.moved(container).await;
        };
        match tokio::time::timeout(patience, self.moved(container)).await {
            Ok(moved) => moved,
            Err(_) => Ok(self.give_up(container)),
        }
    }

    /// Forgets the streams of a container, whatever is still in them.
    fn give_up(&self, container: &ContainerId) -> Drained {
        let mut given_up = Vec::new();
        let bytes = {
            let mut table = lock(&self.table);
            table.attachments.retain(|key, a| {
                let ours = a.container == *container;
                if ours {
                    given_up.push((*key, a.over, a.bytes));
                }
                !ours
            });
            given_up.iter().map(|(_, _, bytes)| bytes).sum()
        };
        for (key, _, _) in given_up.iter().filter(|(_, over, _)| !over) {
            Counter::LogFaults.bump();
            // A thread that cannot be told has no stream to let go of.
            if let Ok(pool) = self.pool() {
                while pool.detach(*key) == Err(PumpRefused::Busy) {
                    std::thread::yield_now();
                }
            }
        }
        self.ended.notify_waiters();
        Drained { bytes }
    }

    async fn moved(&self, container: &ContainerId) -> Result<Drained, LogError> {
        let open: Vec<(PumpKey, Stream, PathBuf)> = lock(&self.table)
            .attachments
            .iter_mut()
            .filter(|(_, a)| a.container == *container && !a.over)
            .map(|(key, a)| {
                a.finishing = true;
                (*key, a.stream, a.fifo.clone())
            })
            .collect();
        for (key, stream, fifo) in open {
            let refused = self.pool().and_then(|pool| {
                loop {
                    match pool.finish(key) {
                        // The thread is at work: it takes commands every turn.
                        Err(PumpRefused::Busy) => std::thread::yield_now(),
                        other => break other.map_err(|e| e.to_string()),
                    }
                }
            });
            refused.map_err(|reason| LogError {
                stream: stream.name(),
                path: fifo.display().to_string(),
                reason,
            })?;
        }
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            {
                let mut table = lock(&self.table);
                let ours = || table.attachments.values().filter(|a| a.container == *container);
                if ours().all(|a| a.over) {
                    let bytes = ours().map(|a| a.bytes).sum();
                    table.attachments.retain(|_, a| a.container != *container);
                    return Ok(Drained { bytes });
                }
            }
            ended.await;
        }
    }
}

//! The data plane of `LogPump`: a few OS threads that move bytes from FIFOs to sinks.
//!
//! Each thread owns an epoll set and is commanded over a bounded channel plus an eventfd in that set, so that bytes
//! never enter a mailbox and an actor never waits for a thread. A thread that panics is replaced with the next
//! command; what its FIFOs hold stays in the kernel until they are attached again.
//!
//! What is promised: every byte of a stream arrives once and in order. A sink that stalls makes its own stream wait
//! (and in the end the writer, as a pipe does) and no other. Detaching loses nothing.

use super::error::HostError;
use super::log_files::LogFile;
use super::pump_thread;
use crossbeam_channel::{Sender, TrySendError, bounded};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Commands that may wait for one thread.
const COMMANDS: usize = 256;

/// Names one attachment. Chosen by the caller, unique while it lives; `key % threads` is the thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PumpKey(pub u32);

/// What a pump thread tells, on that thread: the receiver must neither block nor panic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// The stream is over and was moved to its last byte, or cannot go on.
    Ended {
        /// Which.
        key: PumpKey,
        /// Bytes moved since it was attached.
        bytes: u64,
        /// Why it ended if not by end of file.
        fault: Option<String>,
    },
    /// As asked by [`PumpPool::detach`]: the source is closed here.
    Detached {
        /// Which.
        key: PumpKey,
        /// Bytes moved since it was attached.
        bytes: u64,
    },
    /// The thread panicked: these must be attached again, and finished again if they were. Includes what was still on
    /// its way to the thread.
    Died {
        /// Which.
        keys: Vec<PumpKey>,
    },
}

/// A command was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PumpRefused {
    /// Too many commands wait: try again.
    #[error("the log pump has too many commands waiting")]
    Busy,
    /// No thread can be had, or the pool was shut down.
    #[error("the log pump has no thread")]
    Gone,
}

/// Where the bytes of a stream go.
#[derive(Debug)]
pub enum PumpSink {
    /// Into an open descriptor, which may be shared. Its `O_NONBLOCK` flag is left alone.
    Descriptor(Arc<OwnedFd>),
    /// Into log files.
    Files(Box<LogFile>),
}

/// What a pump thread is told.
pub(super) enum Command {
    Attach {
        key: PumpKey,
        source: OwnedFd,
        sink: PumpSink,
    },
    Detach {
        key: PumpKey,
    },
    Finish {
        key: PumpKey,
    },
    Shutdown,
    #[cfg(any(test, feature = "chaos"))]
    Panic,
}

/// What a thread has been given and has not reported on. Kept beside the channel, because a command that is in the
/// channel of a thread that panics would vanish without a word.
#[derive(Default)]
pub(super) struct Ledger {
    pub(super) dead: bool,
    pub(super) keys: BTreeSet<PumpKey>,
}

type Reports = Arc<dyn Fn(Report) + Send + Sync>;

struct Worker {
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
    ledger: Arc<Mutex<Ledger>>,
    thread: JoinHandle<()>,
}

impl Worker {
    fn tell(&self, key: PumpKey, command: Command) -> Result<(), TrySendError<Command>> {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        if ledger.dead {
            return Err(TrySendError::Disconnected(command));
        }
        let new = matches!(command, Command::Attach { .. }) && ledger.keys.insert(key);
        let sent = self.commands.try_send(command);
        match &sent {
            Ok(()) => wake(&self.wake),
            Err(_) if new => drop(ledger.keys.remove(&key)),
            Err(_) => {}
        }
        sent
    }
}

/// The threads.
pub struct PumpPool {
    workers: Mutex<Vec<Worker>>,
    reports: Reports,
}

impl PumpPool {
    /// Starts `threads` threads (at least one).
    ///
    /// # Errors
    /// If the system has no thread or descriptor left.
    pub fn start(threads: usize, reports: impl Fn(Report) + Send + Sync + 'static) -> Result<Self, HostError> {
        let reports: Reports = Arc::new(reports);
        let workers = (0..threads.max(1))
            .map(|n| worker(n, &reports))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            workers: Mutex::new(workers),
            reports,
        })
    }

    /// Moves the bytes of `source` (the non-blocking reading end of a FIFO) into `sink` until every writer has come
    /// and gone. A no-op while `key` is attached.
    ///
    /// # Errors
    /// [`PumpRefused`]; then nothing was read from the source.
    pub fn attach(&self, key: PumpKey, source: OwnedFd, sink: PumpSink) -> Result<(), PumpRefused> {
        self.tell(key, Command::Attach { key, source, sink })
    }

    /// Stops moving, keeps every byte; answered by [`Report::Detached`] if it was attached. Attach again to go on with
    /// the next byte.
    ///
    /// # Errors
    /// [`PumpRefused`].
    pub fn detach(&self, key: PumpKey) -> Result<(), PumpRefused> {
        self.tell(key, Command::Detach { key })
    }

    /// No writer will come any more (the container is gone): move what is there, then end, even if no writer was seen.
    ///
    /// # Errors
    /// [`PumpRefused`].
    pub fn finish(&self, key: PumpKey) -> Result<(), PumpRefused> {
        self.tell(key, Command::Finish { key })
    }

    /// Makes the thread of `key` panic, for chaos tests.
    ///
    /// # Errors
    /// [`PumpRefused`].
    #[cfg(any(test, feature = "chaos"))]
    pub fn kill_thread_of(&self, key: PumpKey) -> Result<(), PumpRefused> {
        self.tell(key, Command::Panic)
    }

    /// Ends the threads; true if all ended in time. The pipes keep what was not moved.
    pub fn shutdown(&self, timeout: Duration) -> bool {
        let workers = std::mem::take(&mut *self.workers.lock().unwrap_or_else(PoisonError::into_inner));
        let until = Instant::now() + timeout;
        // A full channel: the thread ends when it has drained it and finds this end closed.
        let threads: Vec<_> = workers
            .into_iter()
            .map(|w| {
                w.commands.try_send(Command::Shutdown).ok();
                drop(w.commands);
                wake(&w.wake);
                w.thread
            })
            .collect();
        while threads.iter().any(|t| !t.is_finished()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
        threads.iter().all(JoinHandle::is_finished)
    }

    fn tell(&self, key: PumpKey, command: Command) -> Result<(), PumpRefused> {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        let index = usize::try_from(key.0)
            .unwrap_or(0)
            .checked_rem(workers.len())
            .ok_or(PumpRefused::Gone)?;
        let slot = workers.get_mut(index).ok_or(PumpRefused::Gone)?;
        let command = match slot.tell(key, command) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(_)) => return Err(PumpRefused::Busy),
            Err(TrySendError::Disconnected(command)) => command,
        };
        *slot = worker(index, &self.reports).map_err(|_| PumpRefused::Gone)?;
        slot.tell(key, command).map_err(|_| PumpRefused::Gone)
    }
}

impl Drop for PumpPool {
    fn drop(&mut self) {
        // Does not wait: a thread may be in a write to a slow terminal.
        self.shutdown(Duration::ZERO);
    }
}

fn worker(index: usize, reports: &Reports) -> Result<Worker, HostError> {
    let fault = |reason: String| HostError::new("start log pump thread", Path::new(""), reason);
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| fault(e.to_string()))?);
    let (commands, inbox) = bounded(COMMANDS);
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let pump = pump_thread::Pump::new(inbox, wake.clone(), ledger.clone(), reports.clone())
        .map_err(|e| fault(e.to_string()))?;
    let thread = std::thread::Builder::new()
        .name(format!("log-pump-{index}"))
        .spawn(move || pump.run())
        .map_err(|e| fault(e.to_string()))?;
    Ok(Worker {
        commands,
        wake,
        ledger,
        thread,
    })
}

fn wake(eventfd: &OwnedFd) {
    // Fails only when the counter is full, and then the thread is awake anyway.
    rustix::io::write(eventfd, &1_u64.to_ne_bytes()).ok();
}

#[cfg(test)]
#[path = "pump_tests.rs"]
mod tests;

//! One pump thread: an epoll set of sources that may have bytes and of sinks that streams wait for.
//!
//! A stream is registered with one of the two ends at a time, level-triggered. A source is taken out while its sink
//! stalls, because its readiness would be reported again and again; a sink is never watched while it is not waited
//! for, for the same reason.

use super::pump::{Command, Ledger, PumpKey, PumpSink, Report};
use super::pump_stream::{Desk, Stream, Turn};
use crate::telemetry::Counter;
use crossbeam_channel::{Receiver, TryRecvError};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::{self, Errno};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

/// Events taken per wait.
const EVENTS: usize = 64;
/// Bytes that one stream may move before the others have their turn.
pub(super) const QUOTA: usize = 256 * 1024;
/// Token of the eventfd; keys are 32 bits wide.
const WAKE: u64 = u64::MAX;

/// Which end of a stream the epoll set watches.
enum Armed {
    Nothing,
    Source,
    /// A duplicate of the sink: two streams may wait for one sink, and an epoll set takes a descriptor once.
    Sink(OwnedFd),
}

struct Attached {
    stream: Stream,
    armed: Armed,
}

/// The thread's state.
pub(super) struct Pump {
    inbox: Receiver<Command>,
    wake: Arc<OwnedFd>,
    epoll: OwnedFd,
    streams: HashMap<u64, Attached>,
    /// Bytes read but not written when their stream was taken away, for the next one under that key.
    carried: HashMap<u64, Vec<u8>>,
    desk: Desk,
    ledger: Arc<Mutex<Ledger>>,
    reports: Arc<dyn Fn(Report) + Send + Sync>,
    /// Inside `reports`: a panic there must not lead to a second call while the first unwinds (that would abort).
    reporting: bool,
}

impl Pump {
    pub(super) fn new(
        inbox: Receiver<Command>,
        wake: Arc<OwnedFd>,
        ledger: Arc<Mutex<Ledger>>,
        reports: Arc<dyn Fn(Report) + Send + Sync>,
    ) -> Result<Self, Errno> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &wake, EventData::new_u64(WAKE), EventFlags::IN)?;
        Ok(Self {
            inbox,
            wake,
            epoll,
            streams: HashMap::new(),
            carried: HashMap::new(),
            desk: Desk::default(),
            ledger,
            reports,
            reporting: false,
        })
    }

    pub(super) fn run(mut self) {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                // The set itself is broken: let the guard in `Drop` tell that these streams need another thread.
                Err(errno) => panic!("epoll_wait: {errno}"),
            }
            for event in &events {
                let token = event.data.u64();
                if token != WAKE {
                    self.turn(token);
                } else if !self.commands() {
                    return;
                }
            }
        }
    }

    /// Carries out what waits; false at the end.
    fn commands(&mut self) -> bool {
        let mut count = [0_u8; 8];
        // Empty if another wait has read it: then the commands are done too.
        io::read(&self.wake, &mut count).ok();
        loop {
            match self.inbox.try_recv() {
                Ok(Command::Attach { key, source, sink }) => self.attach(key, source, sink),
                Ok(Command::Detach { key }) => self.detach(key),
                Ok(Command::Finish { key }) => {
                    let token = u64::from(key.0);
                    if let Some(a) = self.streams.get_mut(&token) {
                        a.stream.finishing = true;
                        self.turn(token);
                    }
                }
                #[cfg(any(test, feature = "chaos"))]
                Ok(Command::Panic) => panic!("asked to"),
                Ok(Command::Shutdown) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    fn attach(&mut self, key: PumpKey, source: OwnedFd, sink: PumpSink) {
        let token = u64::from(key.0);
        if self.streams.contains_key(&token) {
            return;
        }
        let pending = self.carried.remove(&token).unwrap_or_default();
        let stream = Stream::new(source, sink, pending);
        self.streams.insert(
            token,
            Attached {
                stream,
                armed: Armed::Nothing,
            },
        );
        self.turn(token);
    }

    fn detach(&mut self, key: PumpKey) {
        if let Some(gone) = self.take(u64::from(key.0)) {
            self.report(Report::Detached { key, bytes: gone.moved });
        }
    }

    /// Takes a stream out and keeps what it has read but not written.
    fn take(&mut self, token: u64) -> Option<Stream> {
        let mut gone = self.streams.remove(&token)?;
        disarm(&self.epoll, &mut gone);
        let pending = std::mem::take(&mut gone.stream.pending);
        if !pending.is_empty() {
            self.carried.insert(token, pending);
        }
        self.ledger
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .keys
            .remove(&key_of(token));
        Some(gone.stream)
    }

    /// Lets one stream move up to its quota.
    fn turn(&mut self, token: u64) {
        let Some(attached) = self.streams.get_mut(&token) else {
            return;
        };
        let before = attached.stream.moved;
        let outcome = attached.stream.turn(&mut self.desk, QUOTA);
        Counter::LogBytes.add(attached.stream.moved - before);
        let armed = match outcome {
            Turn::Quota | Turn::WaitSource => arm_source(&self.epoll, attached, token),
            Turn::WaitSink => arm_sink(&self.epoll, attached, token),
            Turn::Ended(fault) => return self.end(token, fault),
        };
        if let Err(errno) = armed {
            self.end(token, Some(format!("cannot be watched: {errno}")));
        }
    }

    fn report(&mut self, report: Report) {
        self.reporting = true;
        (self.reports)(report);
        self.reporting = false;
    }

    fn end(&mut self, token: u64, fault: Option<String>) {
        let Some(gone) = self.take(token) else { return };
        if fault.is_some() {
            Counter::LogFaults.bump();
        }
        self.report(Report::Ended {
            key: key_of(token),
            bytes: gone.moved,
            fault,
        });
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        let keys = {
            let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
            ledger.dead = true;
            std::mem::take(&mut ledger.keys)
        };
        if std::thread::panicking() && !self.reporting {
            (self.reports)(Report::Died {
                keys: keys.into_iter().collect(),
            });
        }
    }
}

fn key_of(token: u64) -> PumpKey {
    PumpKey(u32::try_from(token).unwrap_or(u32::MAX))
}

fn disarm(epoll: &OwnedFd, attached: &mut Attached) {
    // Closing the descriptor would do as well, unless it is shared: say it.
    match std::mem::replace(&mut attached.armed, Armed::Nothing) {
        Armed::Nothing => {}
        Armed::Source => drop(epoll::delete(epoll, &attached.stream.source)),
        Armed::Sink(fd) => drop(epoll::delete(epoll, fd)),
    }
}

fn arm_source(epoll: &OwnedFd, attached: &mut Attached, token: u64) -> Result<(), Errno> {
    if matches!(attached.armed, Armed::Source) {
        return Ok(());
    }
    disarm(epoll, attached);
    epoll::add(
        epoll,
        &attached.stream.source,
        EventData::new_u64(token),
        EventFlags::IN,
    )?;
    attached.armed = Armed::Source;
    Ok(())
}

fn arm_sink(epoll: &OwnedFd, attached: &mut Attached, token: u64) -> Result<(), Errno> {
    if matches!(attached.armed, Armed::Sink(_)) {
        return Ok(());
    }
    Counter::LogStalls.bump();
    disarm(epoll, attached);
    let own = io::fcntl_dupfd_cloexec(attached.stream.sink_fd(), 3)?;
    match epoll::add(epoll, &own, EventData::new_u64(token), EventFlags::OUT) {
        Ok(()) => attached.armed = Armed::Sink(own),
        // A sink that cannot be polled never blocks: it is not what is waited for.
        Err(Errno::PERM) => return arm_source(epoll, attached, token),
        Err(errno) => return Err(errno),
    }
    Ok(())
}

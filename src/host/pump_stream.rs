//! One stream of a pump thread: how its bytes get from the FIFO into the sink without blocking the thread.
//!
//! | sink | way |
//! |---|---|
//! | pipe | `splice`; the call itself is told not to block, whatever the descriptor's flags |
//! | terminal, other device | opened anew by `/proc/self/fd` for a non-blocking description of our own, then `splice` |
//! | regular file | one buffer: a write of a whole chunk is ordered with other writers to the same open file, which a splice's own offset handling is not, and `O_APPEND` files refuse splice |
//! | log files | see `pump_files` |
//! | socket, or what cannot be opened anew | small writes, each after `poll` said that there is room |
//!
//! **The end.** An empty FIFO without a writer reads as end of file, also before its first writer. A writer has come and
//! gone if and only if the kernel reports a hang-up (`pipe_poll` compares the writer count with the one at our open).
//! That report is made without the pipe's lock and can be seen while the first writer is just coming in (`fifo_open`
//! counts it in two steps), so it is believed only if a read after it, which takes the lock, finds no writer again.
//!
//! `O_NONBLOCK` belongs to the open file description, which an inherited stdout shares with a shell: it is never set
//! on a sink that was given to us.

use super::pump::PumpSink;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::{self, Errno};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice, tee};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::sync::Arc;

/// Size of a thread's buffer: the default capacity of a pipe.
pub(super) const BUFFER: usize = 64 * 1024;
/// A sink that `poll` calls writable takes this much without blocking: PIPE_BUF for pipes, and both unix and TCP
/// sockets report room only while far more than a page is free.
const GATED: usize = 4096;
/// The same for a terminal that could not be opened anew: the line discipline's low-water mark.
const GATED_TTY: usize = 256;

/// Size of the pipe of a stream that writes much: the most that the kernel gives to anybody (`pipe-max-size`).
const WIDE: usize = 1 << 20;

/// How often a splice that found room at both ends is tried again before the sink is waited for.
const AGAIN_MAX: u32 = 4;

/// What the streams of a thread share.
#[derive(Default)]
pub(super) struct Desk {
    buffer: Vec<u8>,
    peek: Option<(OwnedFd, OwnedFd)>,
}

impl Desk {
    /// Room for a chunk. Not made before it is needed: a thread without streams takes no memory.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        if self.buffer.is_empty() {
            self.buffer.resize(BUFFER, 0);
        }
        &mut self.buffer
    }

    /// What comes next in a pipe, which stays there: at most the size of a buffer. Nothing if it is empty and has no writer.
    pub(super) fn peek(&mut self, source: &OwnedFd) -> Result<&[u8], Errno> {
        let (reader, writer) = match self.peek.take() {
            Some(ends) => ends,
            None => pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?,
        };
        let n = io::retry_on_intr(|| tee(source, &writer, BUFFER, SpliceFlags::NONBLOCK))?;
        let mut read = 0;
        while read < n {
            let rest = self.buffer().get_mut(read..n).unwrap_or_default();
            match io::retry_on_intr(|| io::read(&reader, &mut *rest))? {
                0 => break,
                more => read += more,
            }
        }
        // Only now: of a pipe in which something is left nobody wants to see more.
        self.peek = Some((reader, writer));
        Ok(self.buffer.get(..read).unwrap_or_default())
    }
}

/// How a turn ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// There may be more; others first.
    Quota,
    /// Nothing to read.
    WaitSource,
    /// No room to write.
    WaitSink,
    /// Over; with a fault if not by end of file.
    Ended(Option<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Splice,
    Copy {
        chunk: usize,
        gated: bool,
    },
    /// Into log files, by splice or, where a file system has none, by a copy of what stays in the pipe until it is written.
    Files {
        copy: bool,
    },
}

pub(super) struct Stream {
    pub(super) source: OwnedFd,
    pub(super) sink: PumpSink,
    pub(super) way: Way,
    /// Being thrown away, for want of room on the disk.
    pub(super) dropped: u64,
    /// The pipe has been enlarged, or cannot be.
    wide: bool,
    /// Read and not yet written; empty unless the sink took part of a chunk.
    pub(super) pending: Vec<u8>,
    /// Bytes written.
    pub(super) moved: u64,
    /// No writer will come any more.
    pub(super) finishing: bool,
}

impl Stream {
    pub(super) fn new(source: OwnedFd, sink: PumpSink, pending: Vec<u8>) -> Self {
        let (sink, way) = match sink {
            PumpSink::Descriptor(sink) => {
                let (sink, way) = way_into(sink);
                (PumpSink::Descriptor(sink), way)
            }
            files @ PumpSink::Files(_) => (files, Way::Files { copy: false }),
        };
        Self {
            source,
            sink,
            way,
            dropped: 0,
            wide: false,
            pending,
            moved: 0,
            finishing: false,
        }
    }

    /// What is written to at this moment.
    pub(super) fn sink_fd(&self) -> &OwnedFd {
        match &self.sink {
            PumpSink::Descriptor(sink) => sink,
            PumpSink::Files(log) => log.file(),
        }
    }

    /// Moves up to about `quota` bytes.
    pub(super) fn turn(&mut self, desk: &mut Desk, quota: usize) -> Turn {
        let (mut left, mut hung_up) = (quota, false);
        loop {
            match self.step(desk, left) {
                Ok(0) => {
                    let seen = ready(&self.source, PollFlags::IN);
                    if seen.contains(PollFlags::IN) {
                        continue; // bytes came in the meantime
                    }
                    if self.finishing || (hung_up && seen.contains(PollFlags::HUP)) {
                        return Turn::Ended(None);
                    }
                    if !seen.contains(PollFlags::HUP) {
                        return Turn::WaitSource;
                    }
                    hung_up = true;
                }
                Ok(n) => {
                    hung_up = false;
                    left = left.saturating_sub(n);
                    if left == 0 {
                        self.widen();
                        return Turn::Quota;
                    }
                }
                Err(turn) => return turn,
            }
        }
    }

    /// Moves some bytes; 0 if the FIFO is empty and has no writer.
    fn step(&mut self, desk: &mut Desk, left: usize) -> Result<usize, Turn> {
        self.write_pending()?;
        let (chunk, gated) = match self.way {
            Way::Splice => return self.splice(left),
            Way::Files { copy } => return self.move_to_files(desk, left, copy),
            Way::Copy { chunk, gated } => (chunk, gated),
        };
        let buffer = desk.buffer();
        if gated && !writable(self.sink_fd()) && waiting(&self.source) {
            return Err(Turn::WaitSink);
        }
        let chunk = chunk.min(buffer.len()).min(left);
        let Some(room) = buffer.get_mut(..chunk) else {
            return Ok(0);
        };
        let n = match io::retry_on_intr(|| io::read(&self.source, &mut *room)) {
            Ok(n) => n,
            Err(Errno::AGAIN) => return Err(Turn::WaitSource),
            Err(errno) => return Err(Turn::Ended(Some(format!("read: {}", words(errno))))),
        };
        let mut rest = room.get(..n).unwrap_or_default();
        while !rest.is_empty() {
            match io::write(self.sink_fd(), rest) {
                Ok(w) => {
                    self.moved += count(w);
                    rest = rest.get(w..).unwrap_or_default();
                    if gated && !rest.is_empty() && !writable(self.sink_fd()) {
                        self.pending = rest.to_vec();
                        return Err(Turn::WaitSink);
                    }
                }
                Err(Errno::INTR) => {}
                Err(errno) => {
                    self.pending = rest.to_vec();
                    return Err(if errno == Errno::AGAIN {
                        Turn::WaitSink
                    } else {
                        refused(errno)
                    });
                }
            }
        }
        Ok(n)
    }

    /// A pipe that is filled faster than it is emptied is given more room, so that fewer turns are needed. Not before: the
    /// kernel counts its pages, and most tasks write little.
    fn widen(&mut self) {
        if matches!(self.way, Way::Files { .. }) && !std::mem::replace(&mut self.wide, true) {
            // As it is, it does too.
            fcntl_setpipe_size(&self.source, WIDE).ok();
        }
    }

    fn write_pending(&mut self) -> Result<(), Turn> {
        while !self.pending.is_empty() {
            if let Way::Copy { gated: true, .. } = self.way
                && !writable(self.sink_fd())
            {
                return Err(Turn::WaitSink);
            }
            let end = self
                .pending
                .len()
                .min(if matches!(self.way, Way::Copy { gated: false, .. }) {
                    BUFFER
                } else {
                    GATED
                });
            // A blocking pipe with room for a page takes a page; `splice` sinks are polled for the same reason.
            if self.way == Way::Splice && !writable(self.sink_fd()) {
                return Err(Turn::WaitSink);
            }
            match io::write(self.sink_fd(), self.pending.get(..end).unwrap_or_default()) {
                Ok(w) => {
                    self.moved += count(w);
                    self.pending.drain(..w.min(end));
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(Turn::WaitSink),
                Err(errno) => return Err(refused(errno)),
            }
        }
        Ok(())
    }

    fn splice(&mut self, left: usize) -> Result<usize, Turn> {
        let mut again = 0;
        loop {
            match splice(
                &self.source,
                None,
                self.sink_fd(),
                None,
                left,
                SpliceFlags::NONBLOCK | SpliceFlags::MOVE,
            ) {
                Ok(n) => {
                    self.moved += count(n);
                    return Ok(n);
                }
                Err(Errno::INTR) => {}
                // Either end may be the reason, or bytes came just after: a sink with room was not it.
                Err(Errno::AGAIN) if !waiting(&self.source) => return Err(Turn::WaitSource),
                Err(Errno::AGAIN) if again < AGAIN_MAX && writable(self.sink_fd()) => again += 1,
                Err(Errno::AGAIN) => return Err(Turn::WaitSink),
                Err(Errno::INVAL) => {
                    self.way = Way::Copy {
                        chunk: GATED,
                        gated: true,
                    };
                    // Not zero, which would mean "empty": one byte less of quota.
                    return Ok(1);
                }
                Err(errno) => return Err(refused(errno)),
            }
        }
    }
}

fn way_into(sink: Arc<OwnedFd>) -> (Arc<OwnedFd>, Way) {
    let careful = Way::Copy {
        chunk: GATED,
        gated: true,
    };
    let Ok(found) = fs::fstat(&*sink) else {
        return (sink, careful);
    };
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Fifo => (sink, Way::Splice),
        FileType::RegularFile => (
            sink,
            Way::Copy {
                chunk: BUFFER,
                gated: false,
            },
        ),
        FileType::CharacterDevice => {
            let path = format!("/proc/self/fd/{}", sink.as_raw_fd());
            let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            match fs::open(path, flags, Mode::empty()) {
                Ok(own) => (Arc::new(own), Way::Splice),
                Err(_) => (
                    sink,
                    Way::Copy {
                        chunk: GATED_TTY,
                        gated: true,
                    },
                ),
            }
        }
        _ => (sink, careful),
    }
}

fn ready(fd: impl AsFd, want: PollFlags) -> PollFlags {
    let mut fds = [PollFd::new(&fd, want)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match io::retry_on_intr(|| poll(&mut fds, Some(&now))) {
        Ok(_) => fds.first().map_or(PollFlags::empty(), PollFd::revents),
        Err(_) => PollFlags::ERR,
    }
}

/// Room, or a fault that the write will show.
fn writable(sink: &OwnedFd) -> bool {
    ready(sink, PollFlags::OUT).intersects(PollFlags::OUT | PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL)
}

pub(super) fn waiting(source: &OwnedFd) -> bool {
    ready(source, PollFlags::IN).contains(PollFlags::IN)
}

fn refused(errno: Errno) -> Turn {
    Turn::Ended(Some(format!("write: {}", words(errno))))
}

pub(super) fn words(errno: Errno) -> String {
    std::io::Error::from(errno).to_string()
}

pub(super) fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

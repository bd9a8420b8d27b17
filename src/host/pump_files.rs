//! From a pipe into log files: spliced unseen while a file has room, looked at near its end, so that files end with a line.
//!
//! What is looked at stays in the pipe (`tee`) until it is spliced: a thread that dies, or the whole process, leaves each
//! byte either in the pipe or in a file. Only where a file system has no splice can the bytes of one write be there twice.

use super::log_files::is_full;
use super::pump::PumpSink;
use super::pump_stream::{BUFFER, Desk, Stream, Turn, Way, count, words};
use crate::spec::log_collection::unseen;
use crate::telemetry::Counter;
use rustix::io::{self, Errno};
use rustix::pipe::{SpliceFlags, splice};
use std::time::{Instant, SystemTime};

impl Stream {
    /// Moves some bytes; 0 if the pipe is empty and has no writer.
    pub(super) fn move_to_files(&mut self, desk: &mut Desk, left: usize, copy: bool) -> Result<usize, Turn> {
        let PumpSink::Files(log) = &mut self.sink else {
            return Ok(0);
        };
        if log.treatment().is_some() {
            return self.treated(desk);
        }
        let (size, max) = log.fill();
        let ahead = usize::try_from(unseen(size, max)).unwrap_or(usize::MAX);
        if ahead > 0 && !copy {
            return self.spliced(desk, ahead.min(left));
        }
        let chunk = match desk.peek(&self.source) {
            Ok([]) => return Ok(0),
            Ok(chunk) => chunk,
            Err(Errno::AGAIN) => return Err(Turn::WaitSource),
            Err(errno) => return Err(Turn::Ended(Some(format!("look: {}", words(errno))))),
        };
        let share = log.share(chunk);
        if copy {
            let chunk = chunk.get(..share).unwrap_or_default();
            let written = io::write(log.file(), chunk);
            return match written {
                Ok(n) => {
                    log.wrote(count(n));
                    self.moved += count(n);
                    self.take_out(desk, n)
                }
                Err(Errno::INTR) => Ok(1),
                Err(errno) => self.refused(desk, share, errno),
            };
        }
        self.spliced(desk, share)
    }

    /// Moves what comes next as it is to be written. It stays in the pipe until it is in the file: a thread that dies in
    /// between leaves it in both.
    fn treated(&mut self, desk: &mut Desk) -> Result<usize, Turn> {
        let PumpSink::Files(log) = &mut self.sink else {
            return Ok(0);
        };
        let Some(treatment) = log.treatment() else {
            return Ok(0);
        };
        let treated = match desk.peek(&self.source) {
            Ok([]) => {
                let notice = treatment.notice(SystemTime::now());
                self.write_out(&notice);
                return Ok(0);
            }
            Ok(chunk) => treatment.treat(chunk, chunk.len() == BUFFER, Instant::now(), SystemTime::now()),
            Err(Errno::AGAIN) => return Err(Turn::WaitSource),
            Err(errno) => return Err(Turn::Ended(Some(format!("look: {}", words(errno))))),
        };
        self.write_out(&treated.out);
        Counter::LogBytesDropped.add(treated.dropped);
        self.take_out(desk, treated.used)
    }

    /// Writes to the files, each up to where it ends. What the disk does not take is thrown away, as with all log bytes.
    fn write_out(&mut self, mut out: &[u8]) {
        while !out.is_empty() {
            let PumpSink::Files(log) = &mut self.sink else { return };
            let share = log.share(out);
            match io::write(log.file(), out.get(..share).unwrap_or_default()) {
                Ok(n) => {
                    log.wrote(count(n));
                    self.moved += count(n);
                    out = out.get(n..).unwrap_or_default();
                    self.tell_dropped();
                }
                Err(Errno::INTR) => {}
                Err(errno) if is_full(errno) && log.make_room() => {}
                Err(errno) => {
                    self.note_dropped(out.len(), errno);
                    return;
                }
            }
        }
    }

    /// Bytes are thrown away from now on.
    fn note_dropped(&mut self, n: usize, errno: Errno) {
        if self.dropped == 0 {
            tracing::error!(error = words(errno), "log bytes cannot be written and are thrown away");
        }
        self.dropped += count(n);
        Counter::LogBytesDropped.add(count(n));
    }

    /// Bytes are written again.
    fn tell_dropped(&mut self) {
        if self.dropped > 0 {
            tracing::warn!(
                bytes = self.dropped,
                "log bytes were thrown away while they could not be written"
            );
            self.dropped = 0;
        }
    }

    fn spliced(&mut self, desk: &mut Desk, most: usize) -> Result<usize, Turn> {
        let PumpSink::Files(log) = &mut self.sink else {
            return Ok(0);
        };
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        match io::retry_on_intr(|| splice(&self.source, None, log.file(), None, most, flags)) {
            Ok(n) => {
                log.wrote(count(n));
                self.moved += count(n);
                if n > 0 {
                    self.tell_dropped();
                }
                Ok(n)
            }
            Err(Errno::AGAIN) => Err(Turn::WaitSource),
            Err(Errno::INVAL) => {
                self.way = Way::Files { copy: true };
                Ok(1)
            }
            Err(errno) => self.refused(desk, most, errno),
        }
    }

    /// The file does not take it. On a full disk the oldest file makes room; if there is none, or for another reason, the
    /// bytes are thrown away: a task must not stand still because nobody can read what it says.
    fn refused(&mut self, desk: &mut Desk, most: usize, errno: Errno) -> Result<usize, Turn> {
        let PumpSink::Files(log) = &self.sink else {
            return Ok(0);
        };
        if is_full(errno) && log.make_room() {
            return Ok(1);
        }
        let n = self.take_out(desk, most)?;
        self.note_dropped(n, errno);
        Ok(n)
    }

    /// Takes bytes out of the pipe.
    fn take_out(&mut self, desk: &mut Desk, n: usize) -> Result<usize, Turn> {
        let mut taken = 0;
        while taken < n {
            let buffer = desk.buffer();
            let end = buffer.len().min(n - taken);
            let room = buffer.get_mut(..end).unwrap_or_default();
            match io::retry_on_intr(|| io::read(&self.source, &mut *room)) {
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(more) => taken += more,
                Err(errno) => return Err(Turn::Ended(Some(format!("read: {}", words(errno))))),
            }
        }
        if taken == 0 {
            return Err(Turn::WaitSource);
        }
        Ok(taken)
    }
}

//! What is done to the output of a task on its way into a log file: lines as JSON with the time, and no more than so many
//! bytes a second.

use super::log_collection::LogFiles;
use super::timestamp::timestamp;
use serde_json::json;
use std::time::{Instant, SystemTime};

/// Most bytes of a character that may be missing from the end of what is at hand.
const CHARACTER: usize = 3;

/// The treatment of one stream.
#[derive(Debug)]
pub struct Treatment {
    stream: String,
    json: bool,
    rate: Option<Rate>,
    /// What was kept last ends within a line.
    mid_line: bool,
}

/// A limit, and what it has cost so far.
#[derive(Debug)]
struct Rate {
    /// Bytes a second, which is also the most that may come at once.
    per_second: i64,
    /// Below 0 when a line was let to its end.
    left: i64,
    at: Option<Instant>,
    /// Within a line whose beginning was kept.
    in_kept: bool,
    /// Within a line whose beginning was dropped.
    in_dropped: bool,
    /// The end of a line whose beginning was kept was dropped.
    cut: bool,
    bytes: u64,
    lines: u64,
}

/// What has become of a chunk.
#[derive(Debug, PartialEq, Eq)]
pub struct Treated {
    /// For the file.
    pub out: Vec<u8>,
    /// How much of the chunk this was; the rest is to be looked at again with what follows.
    pub used: usize,
    /// Bytes that the limit has cost.
    pub dropped: u64,
}

impl Treatment {
    /// Of a stream of a task; `None` if its bytes go into the file as they are.
    #[must_use]
    pub fn of(files: &LogFiles, stream: &str) -> Option<Self> {
        (files.json || files.rate.is_some()).then(|| Self {
            stream: stream.to_owned(),
            json: files.json,
            rate: files
                .rate
                .map(|rate| i64::try_from(rate).unwrap_or(i64::MAX))
                .map(|per_second| Rate {
                    per_second,
                    left: per_second,
                    at: None,
                    in_kept: false,
                    in_dropped: false,
                    cut: false,
                    bytes: 0,
                    lines: 0,
                }),
            mid_line: false,
        })
    }

    /// Treats what comes next; `full` if more has come already.
    pub fn treat(&mut self, chunk: &[u8], full: bool, now: Instant, at: SystemTime) -> Treated {
        let used = usable(chunk, full);
        let chunk = chunk.get(..used).unwrap_or_default();
        let mut kept = Vec::new();
        let mut dropped = 0;
        let mut out = Vec::new();
        match &mut self.rate {
            None => kept.push(chunk),
            Some(rate) => {
                rate.refill(now);
                for line in chunk.split_inclusive(|byte| *byte == b'\n') {
                    if rate.admits(line) {
                        kept.push(line);
                    } else {
                        dropped += line.len() as u64;
                    }
                }
            }
        }
        for piece in kept {
            // Between two lines: one that was begun is ended first, unless its end was dropped.
            let is_cut = self.rate.as_ref().is_some_and(|rate| rate.cut);
            if (!self.mid_line || is_cut) && !piece.is_empty() {
                out.extend(self.notice(at));
            }
            self.write(piece, at, &mut out);
        }
        Treated { out, used, dropped }
    }

    /// What is to be said of dropped bytes, once.
    pub fn notice(&mut self, at: SystemTime) -> Vec<u8> {
        let mut out = Vec::new();
        let Some(rate) = self.rate.as_mut().filter(|rate| rate.bytes > 0) else {
            return out;
        };
        let line = format!(
            "[containerd-driver] {} bytes in {} lines were dropped: log_rate_limit is {} bytes per second\n",
            std::mem::take(&mut rate.bytes),
            std::mem::take(&mut rate.lines),
            rate.per_second
        );
        rate.cut = false;
        if self.mid_line && !self.json {
            out.push(b'\n');
        }
        self.write(line.as_bytes(), at, &mut out);
        out
    }

    fn write(&mut self, piece: &[u8], at: SystemTime, out: &mut Vec<u8>) {
        let Some(last) = piece.last() else { return };
        self.mid_line = *last != b'\n';
        if !self.json {
            out.extend_from_slice(piece);
            return;
        }
        let time = timestamp(at);
        for line in piece.split_inclusive(|byte| *byte == b'\n') {
            let record = json!({"log": String::from_utf8_lossy(line), "stream": self.stream, "time": time});
            out.extend_from_slice(record.to_string().as_bytes());
            out.push(b'\n');
        }
    }
}

impl Rate {
    fn refill(&mut self, now: Instant) {
        let since = self.at.map_or(0, |at| now.saturating_duration_since(at).as_micros());
        let per_second = u128::try_from(self.per_second).unwrap_or_default();
        let more = since.saturating_mul(per_second) / 1_000_000;
        // What is less than a byte is not lost: the clock stays.
        if more > 0 || self.at.is_none() {
            self.at = Some(now);
        }
        let more = i64::try_from(more).unwrap_or(i64::MAX);
        self.left = self.left.saturating_add(more).min(self.per_second);
    }

    /// Whether a line, or a part of one, may pass. A line whose beginning was dropped is dropped to its end; one whose beginning
    /// was kept is kept to its end, on account of the next second.
    fn admits(&mut self, line: &[u8]) -> bool {
        let (size, ends) = (i64::try_from(line.len()).unwrap_or(i64::MAX), line.ends_with(b"\n"));
        let may = size <= self.left || (self.in_kept && size <= self.left.saturating_add(self.per_second));
        if may && !self.in_dropped {
            self.left -= size;
            self.in_kept = !ends;
            return true;
        }
        self.bytes += line.len() as u64;
        self.lines += u64::from(!self.in_dropped);
        self.in_dropped = !ends;
        self.cut |= std::mem::take(&mut self.in_kept);
        false
    }
}

/// How much of a chunk is worth to be looked at by itself: whole lines if more has come already, and no half character.
fn usable(chunk: &[u8], full: bool) -> usize {
    if full && let Some(newline) = chunk.iter().rposition(|byte| *byte == b'\n') {
        return newline + 1;
    }
    let half = match std::str::from_utf8(chunk) {
        Err(e) if e.error_len().is_none() => chunk.len() - e.valid_up_to(),
        _ => 0,
    };
    if half <= CHARACTER && half < chunk.len() {
        chunk.len() - half
    } else {
        chunk.len()
    }
}

#[cfg(test)]
#[path = "log_treatment_test.rs"]
mod tests;

//! The log files of one stream of a task, as Nomad's collector leaves them: `TASK.STREAM.N`, of which the last is written.
//!
//! The directory is in the allocation, where tasks can write unless it is mounted read-only for them. So it is opened
//! beneath the allocation's directory without following a link, and a file is one only if it is regular and has one name.
//! Numbers only grow: whoever follows a log looks for the next one, and never comes back to an earlier.

use super::error::HostError;
use super::paths::open_beneath;
use crate::spec::log_collection::{LogFiles, share};
use crate::spec::log_treatment::Treatment;
use crate::telemetry::Counter;
use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, SeekFrom};
use rustix::io::{self, Errno};
use std::os::fd::OwnedFd;
use std::path::Path;

const WHAT: &str = "log file";
/// Permission bits, as Nomad's collector gives them.
const MODE: u32 = 0o644;
/// Numbers that are tried for a new file before something else must be wrong.
const TRIES: u64 = 100;

/// See the module.
#[derive(Debug)]
pub struct LogFile {
    dir: OwnedFd,
    /// `TASK.STREAM.`
    prefix: String,
    number: u64,
    file: OwnedFd,
    size: u64,
    max_files: u64,
    max_bytes: u64,
    treatment: Option<Treatment>,
}

impl LogFile {
    /// Opens the file with the greatest number to go on at its end, or makes the first.
    ///
    /// # Errors
    /// Names the path and what is in the way.
    pub fn open(files: &LogFiles, stream: &str) -> Result<Self, HostError> {
        let path = files.dir();
        let fault = |errno| HostError::from_errno(WHAT, &path, errno);
        let alloc = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let alloc = fs::open(&files.alloc_dir, alloc, Mode::empty()).map_err(fault)?;
        let dir = open_beneath(&alloc, LogFiles::beneath(), OFlags::RDONLY | OFlags::DIRECTORY).map_err(fault)?;
        let prefix = format!("{}.{stream}.", files.task);
        let last = numbers(&dir, &prefix).map_err(fault)?.into_iter().max();
        let existing = last.and_then(|number| Some((number, existing(&dir, &prefix, number)?)));
        let (number, file) = match (existing, last) {
            (Some(found), _) => found,
            (None, last) => create(&dir, &prefix, last.map_or(0, |n| n + 1)).map_err(fault)?,
        };
        let size = fs::seek(&file, SeekFrom::End(0)).map_err(fault)?;
        Ok(Self {
            dir,
            prefix,
            number,
            file,
            size,
            max_files: u64::from(files.max_files),
            max_bytes: files.max_bytes,
            treatment: Treatment::of(files, stream),
        })
    }

    /// What is done to the bytes, if anything is.
    pub(super) fn treatment(&mut self) -> Option<&mut Treatment> {
        self.treatment.as_mut()
    }

    /// The file to write to, at its position, which is its end.
    pub(super) fn file(&self) -> &OwnedFd {
        &self.file
    }

    /// Bytes that are in it, and that may be.
    pub(super) fn fill(&self) -> (u64, u64) {
        (self.size, self.max_bytes)
    }

    /// So many bytes were written.
    pub(super) fn wrote(&mut self, n: u64) {
        self.size += n;
    }

    /// How much of what comes next belongs into the file at hand, which is a new one if the last was full; more than nothing.
    pub(super) fn share(&mut self, chunk: &[u8]) -> usize {
        let share = |log: &Self| share(chunk, log.size, log.max_bytes, log.is_mid_line());
        match share(self) {
            0 => match self.next() {
                Ok(()) => share(self),
                Err(errno) => {
                    tracing::warn!(error = %errno, "a log file grows beyond its limit: the next cannot be made");
                    chunk.len()
                }
            },
            some => some,
        }
    }

    /// True if it ends within a line.
    fn is_mid_line(&self) -> bool {
        let mut last = [0];
        let Some(at) = self.size.checked_sub(1) else {
            return false;
        };
        matches!(io::pread(&self.file, &mut last, at), Ok(1)) && last != *b"\n"
    }

    /// Goes on with a new file, and removes what is then too many.
    ///
    /// # Errors
    /// If there can be none; then the one at hand is gone on with.
    fn next(&mut self) -> Result<(), Errno> {
        let (number, file) = match create(&self.dir, &self.prefix, self.number + 1) {
            Err(errno) if is_full(errno) && self.make_room() => create(&self.dir, &self.prefix, self.number + 1)?,
            other => other?,
        };
        (self.number, self.file, self.size) = (number, file, 0);
        self.keep((number + 1).saturating_sub(self.max_files));
        Ok(())
    }

    /// On a full disk the oldest file goes. False if there is none but the one that is written.
    pub(super) fn make_room(&self) -> bool {
        let Ok(mut all) = numbers(&self.dir, &self.prefix) else {
            return false;
        };
        all.retain(|number| *number < self.number);
        let Some(oldest) = all.into_iter().min() else {
            return false;
        };
        Counter::LogFilesDropped.bump();
        self.unlink(oldest)
    }

    /// Removes the files before this number.
    fn keep(&self, first: u64) {
        let old = numbers(&self.dir, &self.prefix).unwrap_or_default();
        for number in old.into_iter().filter(|number| *number < first) {
            self.unlink(number);
        }
    }

    fn unlink(&self, number: u64) -> bool {
        let name = format!("{}{number}", self.prefix);
        match fs::unlinkat(&self.dir, name.as_str(), AtFlags::empty()) {
            Ok(()) => true,
            Err(errno) => {
                tracing::warn!(file = name, error = %errno, "an old log file cannot be removed");
                false
            }
        }
    }
}

/// True of the errors of a disk on which there is no room.
pub(super) fn is_full(errno: Errno) -> bool {
    [Errno::NOSPC, Errno::DQUOT, Errno::FBIG].contains(&errno)
}

/// Numbers of the files with this beginning. A name with anything else after it is not one of them.
fn numbers(dir: &OwnedFd, prefix: &str) -> Result<Vec<u64>, Errno> {
    let entries = Dir::read_from(dir)?;
    let number = |name: &[u8]| {
        let digits = std::str::from_utf8(name.strip_prefix(prefix.as_bytes())?).ok()?;
        digits
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| digits.parse().ok())?
    };
    entries
        .filter_map(|entry| entry.map(|entry| number(entry.file_name().to_bytes())).transpose())
        .collect()
}

/// The file of this number, if it is ours to go on with.
fn existing(dir: &OwnedFd, prefix: &str, number: u64) -> Option<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = fs::openat(dir, Path::new(&format!("{prefix}{number}")), flags, Mode::empty()).ok()?;
    let found = fs::fstat(&file).ok()?;
    let is_file = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
    (is_file && found.st_nlink == 1).then_some(file)
}

/// Makes the first file from `number` on that there is not.
fn create(dir: &OwnedFd, prefix: &str, number: u64) -> Result<(u64, OwnedFd), Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for number in number..number.saturating_add(TRIES) {
        match fs::openat(
            dir,
            Path::new(&format!("{prefix}{number}")),
            flags,
            Mode::from_raw_mode(MODE),
        ) {
            Err(Errno::EXIST | Errno::INTR) => {}
            Err(errno) => return Err(errno),
            Ok(file) => {
                // The mask of whoever started the agent is not what readers go by.
                fs::fchmod(&file, Mode::from_raw_mode(MODE))?;
                return Ok((number, file));
            }
        }
    }
    Err(Errno::EXIST)
}

#[cfg(test)]
#[path = "log_files_tests.rs"]
mod tests;

//! The pipes of a command that runs in a task: three FIFOs in a directory of its own, which only we may enter.
//!
//! The shim opens the other ends. It keeps both ends of each output FIFO, so a reader that goes away leaves it blocked
//! in a write: whoever has begun to read goes on until the shim lets go.

use super::error::HostError;
use super::{fifo, paths};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{self, Mode, OFlags};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Attempts to make the directory while another command of the same task removes the one above it.
const ATTEMPTS: usize = 5;

/// The directory and the paths in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pipes {
    dir: PathBuf,
    /// For standard input.
    pub stdin: PathBuf,
    /// For standard output.
    pub stdout: PathBuf,
    /// For standard error.
    pub stderr: PathBuf,
}

/// Our ends.
#[derive(Debug)]
pub struct Ends {
    /// Writing end.
    pub stdin: Option<OwnedFd>,
    /// Reading end.
    pub stdout: OwnedFd,
    /// Reading end.
    pub stderr: Option<OwnedFd>,
}

impl Pipes {
    /// Where the pipes of this exec are.
    #[must_use]
    pub fn of(run_dir: &Path, container: &str, exec: &str) -> Self {
        let dir = run_dir.join(container).join(exec);
        Self {
            stdin: dir.join("stdin"),
            stdout: dir.join("stdout"),
            stderr: dir.join("stderr"),
            dir,
        }
    }

    /// Makes them and opens our ends.
    ///
    /// # Errors
    /// If the directory cannot be written or there are no descriptors left.
    pub fn open(&self, stdin: bool, stderr: bool) -> Result<Ends, HostError> {
        self.make_dir()?;
        let reader = |path: &Path| {
            fifo::make_fifo(path)?;
            fifo::open_reader(path)
        };
        Ok(Ends {
            stdin: stdin.then(|| writer(&self.stdin)).transpose()?,
            stdout: reader(&self.stdout)?,
            stderr: stderr.then(|| reader(&self.stderr)).transpose()?,
        })
    }

    /// Both ends of each output pipe, of those that can be had. As long as they are held and read, the shim waits neither for
    /// a reader when it opens a pipe, which it may not have done yet, nor in a write.
    #[must_use]
    pub fn hold_outputs(&self) -> Vec<OwnedFd> {
        [&self.stdout, &self.stderr]
            .into_iter()
            .filter_map(|path| fifo::open_both(path).ok())
            .collect()
    }

    fn make_dir(&self) -> Result<(), HostError> {
        let mut made = Ok(());
        for _ in 0..ATTEMPTS {
            if let Some(above) = self.dir.parent() {
                paths::create_run_dir(above)?;
            }
            made = paths::create_run_dir(&self.dir);
            if made.is_ok() {
                break;
            }
        }
        made
    }

    /// Removes them, and the directory above if nothing else is in it.
    ///
    /// # Errors
    /// Names what failed.
    pub fn remove(&self) -> Result<(), HostError> {
        for path in [&self.stdin, &self.stdout, &self.stderr] {
            paths::remove_generated(path)?;
        }
        paths::remove_dir(&self.dir)?;
        if let Some(above) = self.dir.parent() {
            // Not empty: files of the container, or pipes of another command.
            paths::remove_dir(above).ok();
        }
        Ok(())
    }
}

/// Names of what lies in the directory of a container; none if there is no such directory.
#[must_use]
pub fn names(run_dir: &Path, container: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(run_dir.join(container)) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

/// A writing end before anybody reads: by way of a descriptor that does both, since a mere writer is refused then.
fn writer(path: &Path) -> Result<OwnedFd, HostError> {
    let fault = |e| HostError::from_errno("open input pipe", path, e);
    fifo::make_fifo(path)?;
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let both = fs::open(path, OFlags::RDWR | flags, Mode::empty()).map_err(fault)?;
    let writer = fs::open(path, OFlags::WRONLY | flags, Mode::empty()).map_err(fault)?;
    drop(both);
    Ok(writer)
}

/// True while somebody has the other end of a writing end open. A write without a reader would lose its bytes.
#[must_use]
pub fn has_reader(writer: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(writer, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match rustix::io::retry_on_intr(|| poll(&mut fds, Some(&now))) {
        Ok(_) => fds.first().is_some_and(|fd| !fd.revents().contains(PollFlags::ERR)),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_are_made_opened_and_removed_with_their_directories() {
        let run = tempfile::tempdir().unwrap();
        let pipes = Pipes::of(run.path(), "web", "exec-1");
        let other = Pipes::of(run.path(), "web", "exec-2");
        let ends = pipes.open(true, true).unwrap();
        other.open(false, false).unwrap();
        let stdin = ends.stdin.unwrap();
        assert!(!has_reader(&stdin));
        let reader = fifo::open_reader(&pipes.stdin).unwrap();
        assert!(has_reader(&stdin));
        rustix::io::write(&stdin, b"hi").unwrap();
        drop(stdin);
        let mut buffer = [0; 8];
        assert_eq!(rustix::io::read(&reader, &mut buffer), Ok(2));
        assert_eq!(
            rustix::io::read(&reader, &mut buffer),
            Ok(0),
            "the end of the input is seen"
        );
        let mut found = names(run.path(), "web");
        found.sort();
        assert_eq!(found, ["exec-1", "exec-2"]);
        pipes.remove().unwrap();
        pipes.remove().unwrap();
        assert_eq!(names(run.path(), "web"), ["exec-2"]);
        other.remove().unwrap();
        assert!(!run.path().join("web").exists());
        assert!(names(run.path(), "web").is_empty());
    }
}

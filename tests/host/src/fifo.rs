//! The log collector of a host: one thread per pipe, opened for reading once, copied until EOF, never opened again. The descriptor
//! stays open until the collector is closed, as Nomad's does: who only looks whether there is a reader is deceived by it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use tokio::sync::watch;

#[derive(Default)]
struct Record {
    bytes: Vec<u8>,
    /// When each line became complete.
    line_times: Vec<Instant>,
    opened: Option<Instant>,
    ended: Option<Instant>,
    paused: bool,
    closing: bool,
}

/// Reads one stream.
pub struct LogCollector {
    fifo: PathBuf,
    record: Arc<Mutex<Record>>,
    changed: watch::Receiver<u64>,
    wake: File,
}

/// Makes a log pipe, mode 0600; an existing file of any kind is refused.
pub fn make_fifo(path: &Path) -> Result<()> {
    ensure!(path.symlink_metadata().is_err(), "{} exists", path.display());
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        .with_context(|| format!("mkfifo {}", path.display()))
}

impl LogCollector {
    /// Starts the thread. `copy` is the file the bytes are appended to, as a host does.
    pub fn start(fifo: &Path, copy: &Path) -> Result<LogCollector> {
        let copy = File::options()
            .create(true)
            .append(true)
            .open(copy)
            .context("log copy")?;
        let (sleeper, wake) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let record = Arc::new(Mutex::new(Record::default()));
        let (tx, changed) = watch::channel(0);
        let (path, shared) = (fifo.to_owned(), record.clone());
        std::thread::spawn(move || {
            let open = collect(&path, copy, &sleeper, &shared, &tx);
            lock(&shared).ended = Some(Instant::now());
            tx.send_modify(|n| *n += 1);
            while open.is_some() && !lock(&shared).closing {
                let mut byte = [0; 16];
                rustix::io::read(&sleeper, &mut byte).ok();
            }
        });
        Ok(LogCollector {
            fifo: fifo.to_owned(),
            record,
            changed,
            wake: wake.into(),
        })
    }

    pub fn bytes(&self) -> Vec<u8> {
        lock(&self.record).bytes.clone()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&lock(&self.record).bytes).into_owned()
    }

    pub fn lines(&self) -> Vec<String> {
        self.text().lines().map(str::to_owned).collect()
    }

    /// When each line became complete.
    pub fn line_times(&self) -> Vec<Instant> {
        lock(&self.record).line_times.clone()
    }

    /// When a writer opened the pipe.
    pub fn opened_at(&self) -> Option<Instant> {
        lock(&self.record).opened
    }

    /// When the last writer had closed it (or the collector was closed).
    pub fn ended_at(&self) -> Option<Instant> {
        lock(&self.record).ended
    }

    /// Stops reading; the pipe fills up.
    pub fn pause(&self) {
        self.control(|record| record.paused = true);
    }

    pub fn resume(&self) {
        self.control(|record| record.paused = false);
    }

    /// Closes the read end now, as a collector that dies.
    pub fn close(&self) {
        self.control(|record| record.closing = true);
        // Releases a thread that still waits in open(2).
        if self.opened_at().is_none() {
            OpenOptions::new()
                .write(true)
                .custom_flags(OFlags::NONBLOCK.bits() as i32)
                .open(&self.fifo)
                .ok();
        }
    }

    fn control(&self, change: impl FnOnce(&mut Record)) {
        change(&mut lock(&self.record));
        (&self.wake).write_all(b".").ok();
    }

    /// Waits until `probe` finds something in what was read so far; `None` at EOF or when the time is over.
    pub async fn wait_for<T>(&self, timeout: Duration, mut probe: impl FnMut(&str) -> Option<T>) -> Option<T> {
        let mut changed = self.changed.clone();
        let search = async {
            loop {
                let ended = self.ended_at().is_some();
                if let Some(found) = probe(&self.text()) {
                    return Some(found);
                }
                if ended {
                    return None;
                }
                changed.changed().await.ok();
            }
        };
        tokio::time::timeout(timeout, search).await.ok().flatten()
    }

    /// Waits for a line that contains `text` and returns it.
    pub async fn wait_line(&self, timeout: Duration, text: &str) -> Option<String> {
        self.wait_for(timeout, |all| {
            let complete = &all[..all.rfind('\n')? + 1];
            complete.lines().find(|line| line.contains(text)).map(str::to_owned)
        })
        .await
    }

    /// Waits for EOF; `false` when the time is over.
    pub async fn wait_eof(&self, timeout: Duration) -> bool {
        let mut changed = self.changed.clone();
        let end = async {
            while self.ended_at().is_none() {
                changed.changed().await.ok();
            }
        };
        tokio::time::timeout(timeout, end).await.is_ok()
    }
}

impl Drop for LogCollector {
    fn drop(&mut self) {
        self.close();
    }
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Blocking open, then copy until EOF or until told to close. The answer is the pipe, at its end.
fn collect(
    path: &Path,
    mut copy: File,
    sleeper: &OwnedFd,
    record: &Mutex<Record>,
    tx: &watch::Sender<u64>,
) -> Option<File> {
    let mut fifo = File::open(path).ok()?;
    lock(record).opened = Some(Instant::now());
    tx.send_modify(|n| *n += 1);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let (paused, closing) = {
            let record = lock(record);
            (record.paused, record.closing)
        };
        if closing {
            return None;
        }
        let mut fds = vec![PollFd::from_borrowed_fd(sleeper.as_fd(), PollFlags::IN)];
        if !paused {
            fds.push(PollFd::new(&fifo, PollFlags::IN));
        }
        if poll(&mut fds, None).is_err() {
            continue;
        }
        if !fds[0].revents().is_empty() {
            let mut byte = [0; 16];
            rustix::io::read(sleeper, &mut byte).ok();
            continue;
        }
        match fifo.read(&mut buffer) {
            Ok(0) => return Some(fifo),
            Ok(n) => {
                copy.write_all(&buffer[..n]).ok();
                let mut record = lock(record);
                record.bytes.extend(&buffer[..n]);
                let lines = buffer[..n].iter().filter(|b| **b == b'\n').count();
                let total = record.line_times.len() + lines;
                record.line_times.resize(total, Instant::now());
                drop(record);
                tx.send_modify(|n| *n += 1);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

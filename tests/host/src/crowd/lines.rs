//! The log collector for many: one thread that reads every pipe and tells how many have shown a line.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::sync::watch;

/// The token of the pipe whose end is the end of the thread.
const END: u64 = 0;

struct Pipe {
    file: File,
    has_spoken: bool,
}

type Pipes = Mutex<HashMap<u64, Pipe>>;

/// See the module. Its drop closes all pipes.
pub struct Lines {
    epoll: Arc<OwnedFd>,
    pipes: Arc<Pipes>,
    next: AtomicU64,
    spoken: watch::Receiver<usize>,
    /// Its drop ends the thread.
    _alive: OwnedFd,
}

impl Lines {
    pub fn start() -> Result<Lines> {
        let epoll = Arc::new(epoll::create(CreateFlags::CLOEXEC)?);
        let (end, alive) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        epoll::add(&*epoll, &end, EventData::new_u64(END), EventFlags::IN)?;
        let pipes = Arc::new(Pipes::default());
        let (tx, spoken) = watch::channel(0);
        let (set, all) = (epoll.clone(), pipes.clone());
        std::thread::Builder::new()
            .name("lines".into())
            .spawn(move || read_all(&set, &end, &all, &tx))?;
        Ok(Lines {
            epoll,
            pipes,
            next: AtomicU64::new(END + 1),
            spoken,
            _alive: alive,
        })
    }

    /// Reads this pipe from now on, until its writers have left it.
    pub fn listen(&self, fifo: &Path) -> Result<()> {
        let nonblocking = OFlags::NONBLOCK.bits() as i32;
        let file = File::options()
            .read(true)
            .custom_flags(nonblocking)
            .open(fifo)
            .with_context(|| format!("log pipe {}", fifo.display()))?;
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        epoll::add(&*self.epoll, &file, EventData::new_u64(token), EventFlags::IN)?;
        pipes.insert(
            token,
            Pipe {
                file,
                has_spoken: false,
            },
        );
        Ok(())
    }

    /// How many pipes have shown a complete line so far.
    pub fn spoken(&self) -> usize {
        *self.spoken.borrow()
    }

    /// Returns when so many pipes have shown a complete line.
    pub async fn until_spoken(&self, count: usize) {
        let mut spoken = self.spoken.clone();
        // The sender lives as long as this does.
        spoken.wait_for(|now| *now >= count).await.ok();
    }
}

fn read_all(set: &OwnedFd, _end: &OwnedFd, pipes: &Pipes, tx: &watch::Sender<usize>) {
    let mut events: Vec<Event> = Vec::with_capacity(256);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        events.clear();
        match epoll::wait(set, spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => panic!("epoll_wait: {errno}"),
        }
        let mut pipes = pipes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut more = 0;
        for event in &events {
            let token = event.data.u64();
            if token == END {
                pipes.clear();
                return;
            }
            let Some(pipe) = pipes.get_mut(&token) else { continue };
            match pipe.file.read(&mut buffer) {
                Ok(0) => drop(pipes.remove(&token)),
                Ok(count) if !pipe.has_spoken && buffer[..count].contains(&b'\n') => {
                    pipe.has_spoken = true;
                    more += 1;
                }
                // Read again when there is more; an error shows as the end.
                Ok(_) | Err(_) => {}
            }
        }
        drop(pipes);
        if more > 0 {
            tx.send_modify(|spoken| *spoken += more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fifo::make_fifo;
    use crate::within::within;
    use std::io::Write as _;
    use std::time::Duration;

    #[tokio::test]
    async fn each_pipe_counts_once_and_only_with_a_whole_line() {
        let dir = tempfile::tempdir().unwrap();
        let lines = Lines::start().unwrap();
        let mut writers = Vec::new();
        for n in 0..50 {
            let fifo = dir.path().join(n.to_string());
            make_fifo(&fifo).unwrap();
            lines.listen(&fifo).unwrap();
            writers.push(File::options().write(true).open(&fifo).unwrap());
        }
        for (n, writer) in writers.iter_mut().enumerate() {
            writer.write_all(if n < 30 { b"one\ntwo\n" } else { b"half" }).unwrap();
        }
        within(Duration::from_secs(10), "30 lines", lines.until_spoken(30)).await;
        drop(writers);
        assert_eq!(lines.spoken(), 30);
    }
}

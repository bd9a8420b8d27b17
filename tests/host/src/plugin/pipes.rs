//! The plugin's stdout and stderr: always drained, every line kept, the instant of EOF recorded.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use tokio::sync::watch;

#[derive(Default)]
struct Seen {
    lines: Vec<String>,
    eof: Option<Instant>,
}

/// One pipe. Cloning shares the record.
#[derive(Clone)]
pub struct Pipe {
    seen: Arc<Mutex<Seen>>,
    changed: watch::Receiver<u64>,
}

impl Pipe {
    /// Starts the draining thread.
    pub fn drain(source: impl Read + Send + 'static) -> Pipe {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (tx, changed) = watch::channel(0);
        let record = seen.clone();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(source);
            let mut raw = Vec::new();
            loop {
                raw.clear();
                let ended = !matches!(reader.read_until(b'\n', &mut raw), Ok(n) if n > 0);
                {
                    let mut seen = lock(&record);
                    if ended {
                        seen.eof = Some(Instant::now());
                    } else {
                        seen.lines
                            .push(String::from_utf8_lossy(&raw).trim_end_matches('\n').to_owned());
                    }
                }
                tx.send_modify(|n| *n += 1);
                if ended {
                    return;
                }
            }
        });
        Pipe { seen, changed }
    }

    pub fn lines(&self) -> Vec<String> {
        lock(&self.seen).lines.clone()
    }

    pub fn eof_at(&self) -> Option<Instant> {
        lock(&self.seen).eof
    }

    /// The first line, or `None` at EOF without one.
    pub async fn first_line(&self) -> Option<String> {
        let mut changed = self.changed.clone();
        loop {
            {
                let seen = lock(&self.seen);
                if let Some(line) = seen.lines.first() {
                    return Some(line.clone());
                }
                if seen.eof.is_some() {
                    return None;
                }
            }
            if changed.changed().await.is_err() {
                return self.lines().first().cloned();
            }
        }
    }

    /// Waits for EOF.
    pub async fn eof(&self) -> Instant {
        let mut changed = self.changed.clone();
        loop {
            if let Some(at) = self.eof_at() {
                return at;
            }
            if changed.changed().await.is_err() && self.eof_at().is_none() {
                std::future::pending::<()>().await;
            }
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

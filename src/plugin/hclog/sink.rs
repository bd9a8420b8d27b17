//! The thread that writes log lines. Standard error is a pipe that the host drains, or does not: after an agent crash
//! it is broken, and a stuck agent leaves it full. Neither may stop an actor, so lines go through a bounded queue to
//! one thread; what does not fit is dropped and counted. Write errors are ignored: there is nowhere to report them.

use super::line;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Lines that may wait: some hundred KiB in the usual case, 60 MiB if every line had the greatest length.
const QUEUE: usize = 1024;

enum Item {
    Line(String),
    /// Everything queued before this has been written; then this is dropped, which wakes the waiter.
    Mark(Sender<()>),
}

/// Where lines go. Cheap to clone.
#[derive(Clone)]
pub struct Sink {
    queue: Sender<Item>,
    dropped: Arc<AtomicU64>,
}

impl Sink {
    /// A sink on standard error.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn stderr() -> std::io::Result<Self> {
        Self::to(std::io::stderr())
    }

    /// A sink on any writer.
    pub(super) fn to(writer: impl Write + Send + 'static) -> std::io::Result<Self> {
        Self::with_queue(writer, QUEUE)
    }

    fn with_queue(writer: impl Write + Send + 'static, size: usize) -> std::io::Result<Self> {
        let (queue, items) = bounded(size);
        let dropped = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&dropped);
        std::thread::Builder::new()
            .name("log-writer".into())
            .spawn(move || write_all(writer, &items, &count))?;
        Ok(Self { queue, dropped })
    }

    /// Queues a line that ends with a line break. Never blocks.
    pub(super) fn line(&self, text: String) {
        match self.queue.try_send(Item::Line(text)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Waits until what was logged before is written, at most `within`. For the end of the process.
    pub fn flush(&self, within: Duration) {
        let (mark, done) = bounded(0);
        if self.queue.send_timeout(Item::Mark(mark), within).is_ok() {
            // An error is either the timeout or the dropped mark, which is the answer.
            done.recv_timeout(within).ok();
        }
    }
}

fn write_all(mut writer: impl Write, items: &Receiver<Item>, dropped: &AtomicU64) {
    while let Ok(item) = items.recv() {
        let text = match item {
            Item::Line(text) => text,
            Item::Mark(done) => {
                writer.flush().ok();
                drop(done);
                continue;
            }
        };
        // A failed write (EPIPE after an agent crash) is the end of this line only.
        writer.write_all(text.as_bytes()).ok();
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let fields = [("count".to_owned(), lost.into())];
            let note = line::render(
                SystemTime::now(),
                "warn",
                "log lines dropped: the host reads too slowly",
                &fields,
            );
            writer.write_all(note.as_bytes()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::Mutex;
    use std::time::Instant;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(buf);
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    /// Accepts nothing until the gate is opened.
    struct Gate(Receiver<()>, Memory);
    impl Write for Gate {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.0.recv().ok();
            self.1.write(buf)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn flushed_lines_are_written_in_order() {
        let memory = Memory::default();
        let sink = Sink::to(memory.clone()).unwrap();
        for n in 0..100 {
            sink.line(format!("{n}\n"));
        }
        sink.flush(Duration::from_secs(5));
        let want: String = (0..100).map(|n| format!("{n}\n")).collect();
        assert_eq!(String::from_utf8(memory.0.lock().unwrap().clone()).unwrap(), want);
    }

    #[test]
    fn broken_pipe_neither_panics_nor_blocks() {
        let sink = Sink::to(Broken).unwrap();
        for _ in 0..5_000 {
            sink.line("x\n".into());
        }
        sink.flush(Duration::from_secs(5));
        sink.line("still here\n".into());
        sink.flush(Duration::from_secs(5));
    }

    #[test]
    fn stuck_reader_costs_lines_not_time() {
        let (open, gate) = bounded::<()>(0);
        let memory = Memory::default();
        let sink = Sink::with_queue(Gate(gate, memory.clone()), 4).unwrap();
        let begun = Instant::now();
        for _ in 0..10_000 {
            sink.line("x\n".into());
        }
        sink.flush(Duration::from_millis(50));
        assert!(begun.elapsed() < Duration::from_secs(2));
        drop(open);
        sink.flush(Duration::from_secs(5));
        let text = String::from_utf8(memory.0.lock().unwrap().clone()).unwrap();
        assert!(
            text.contains("log lines dropped") && text.contains("\"count\":99"),
            "{text}"
        );
    }
}

//! Pump threads with real pipes.

use super::*;
use crate::host::fifo;
use crossbeam_channel::{Receiver, unbounded};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;

const K: PumpKey = PumpKey(0);
const WAIT: Duration = Duration::from_secs(20);

struct Bench {
    dir: tempfile::TempDir,
    pool: PumpPool,
    reports: Receiver<Report>,
}

fn bench(threads: usize) -> Bench {
    let (tx, reports) = unbounded();
    let pool = PumpPool::start(threads, move |r| drop(tx.send(r))).unwrap();
    Bench {
        dir: tempfile::tempdir().unwrap(),
        pool,
        reports,
    }
}

impl Bench {
    fn fifo(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fifo::make_fifo(&path).unwrap();
        path
    }

    fn next(&self) -> Report {
        self.reports.recv_timeout(WAIT).expect("a report")
    }
}

fn writer(path: &PathBuf) -> File {
    File::options().write(true).open(path).unwrap()
}

fn pipe() -> (File, Arc<OwnedFd>) {
    let (r, w) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    (File::from(r), Arc::new(w))
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| u8::try_from((i.wrapping_mul(2_654_435_761) >> 13) & 0xff).unwrap())
        .collect()
}

fn collect(mut from: File) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        from.read_to_end(&mut all).unwrap();
        all
    })
}

#[test]
fn a_stream_without_a_writer_yet_is_not_over_and_one_whose_writers_left_is() {
    let b = bench(1);
    let path = b.fifo("f");
    let (out, sink) = pipe();
    b.pool
        .attach(K, fifo::open_reader(&path).unwrap(), PumpSink::Descriptor(sink))
        .unwrap();
    assert!(
        b.reports.recv_timeout(Duration::from_millis(100)).is_err(),
        "ended before the first writer"
    );
    let mut w = writer(&path);
    w.write_all(b"hello ").unwrap();
    let mut second = writer(&path);
    drop(w);
    second.write_all(b"world").unwrap();
    drop(second);
    assert_eq!(
        b.next(),
        Report::Ended {
            key: K,
            bytes: 11,
            fault: None
        }
    );
    assert_eq!(collect(out).join().unwrap(), b"hello world");
}

#[test]
fn a_finished_stream_ends_even_if_no_writer_was_seen() {
    let b = bench(1);
    let path = b.fifo("f");
    let (_out, sink) = pipe();
    b.pool
        .attach(K, fifo::open_reader(&path).unwrap(), PumpSink::Descriptor(sink))
        .unwrap();
    b.pool.finish(K).unwrap();
    assert_eq!(
        b.next(),
        Report::Ended {
            key: K,
            bytes: 0,
            fault: None
        }
    );
}

fn ten_megabytes_into(sink: Arc<OwnedFd>, b: &Bench) -> Vec<u8> {
    let data = pattern(10 << 20);
    let path = b.fifo("f");
    b.pool
        .attach(K, fifo::open_reader(&path).unwrap(), PumpSink::Descriptor(sink))
        .unwrap();
    let mut w = writer(&path);
    w.write_all(&data).unwrap();
    drop(w);
    assert_eq!(
        b.next(),
        Report::Ended {
            key: K,
            bytes: 10 << 20,
            fault: None
        }
    );
    data
}

#[test]
fn ten_megabytes_arrive_whole_through_a_slow_pipe() {
    let b = bench(1);
    let (out, sink) = pipe();
    let reader = collect(out);
    let data = ten_megabytes_into(sink, &b);
    assert!(reader.join().unwrap() == data);
}

#[test]
fn ten_megabytes_arrive_whole_in_files() {
    for append in [false, true] {
        let b = bench(1);
        let path = b.dir.path().join("out");
        let sink = File::options()
            .create(true)
            .write(true)
            .append(append)
            .truncate(false)
            .open(&path)
            .unwrap();
        let data = ten_megabytes_into(Arc::new(OwnedFd::from(sink)), &b);
        assert!(std::fs::read(&path).unwrap() == data);
    }
}

#[test]
fn ten_megabytes_arrive_whole_through_a_socket() {
    let b = bench(1);
    let (a, z) = std::os::unix::net::UnixStream::pair().unwrap();
    let reader = collect(File::from(OwnedFd::from(z)));
    let data = ten_megabytes_into(Arc::new(OwnedFd::from(a)), &b);
    assert!(reader.join().unwrap() == data);
}

#[test]
fn small_writes_into_a_sink_that_cannot_be_polled_arrive() {
    let b = bench(1);
    for round in 0..20 {
        let path = b.fifo(&format!("f{round}"));
        let null = File::options().write(true).open("/dev/null").unwrap();
        b.pool
            .attach(
                K,
                fifo::open_reader(&path).unwrap(),
                PumpSink::Descriptor(Arc::new(OwnedFd::from(null))),
            )
            .unwrap();
        let mut w = writer(&path);
        for _ in 0..5000 {
            w.write_all(&[0; 100]).unwrap();
        }
        drop(w);
        assert_eq!(
            b.next(),
            Report::Ended {
                key: K,
                bytes: 500_000,
                fault: None
            }
        );
    }
}

#[test]
fn a_writer_that_comes_in_at_the_moment_of_the_attach_is_not_taken_for_gone() {
    let b = bench(1);
    let path = b.fifo("f");
    for _ in 0..2000 {
        let (mut out, sink) = pipe();
        let source = fifo::open_reader(&path).unwrap();
        let at = path.clone();
        let coming = std::thread::spawn(move || writer(&at).write_all(b"x").unwrap());
        b.pool.attach(K, source, PumpSink::Descriptor(sink)).unwrap();
        coming.join().unwrap();
        assert_eq!(
            b.next(),
            Report::Ended {
                key: K,
                bytes: 1,
                fault: None
            }
        );
        let mut got = String::new();
        out.read_to_string(&mut got).unwrap();
        assert_eq!(got, "x");
    }
}

#[test]
fn a_stalled_sink_and_a_loud_stream_do_not_hold_up_a_quiet_one() {
    let b = bench(1);
    let (loud, stalled, quiet) = (b.fifo("loud"), b.fifo("stalled"), b.fifo("quiet"));
    let null: Arc<OwnedFd> = Arc::new(OwnedFd::from(File::options().write(true).open("/dev/null").unwrap()));
    let (_never_read, full) = pipe();
    let (mut out, sink) = pipe();
    for (n, (path, to)) in [(&loud, null), (&stalled, full), (&quiet, sink)]
        .into_iter()
        .enumerate()
    {
        b.pool
            .attach(
                PumpKey(u32::try_from(n).unwrap()),
                fifo::open_reader(path).unwrap(),
                PumpSink::Descriptor(to),
            )
            .unwrap();
    }
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writers: Vec<_> = [(loud, true), (stalled, false)]
        .into_iter()
        .map(|(path, forever)| {
            let (stop, mut w) = (stop.clone(), writer(&path));
            std::thread::spawn(move || {
                let chunk = vec![b'x'; 64 * 1024];
                let mut left = 2; // more than the stalled pipe holds would block this thread for ever
                while !stop.load(std::sync::atomic::Ordering::Relaxed) && (forever || left > 0) {
                    left -= 1;
                    w.write_all(&chunk).unwrap();
                }
            })
        })
        .collect();
    let mut w = writer(&quiet);
    let mut slowest = Duration::ZERO;
    for n in 0..200_u8 {
        let begun = Instant::now();
        w.write_all(&[n]).unwrap();
        let mut got = [0];
        out.read_exact(&mut got).unwrap();
        assert_eq!(got, [n]);
        slowest = slowest.max(begun.elapsed());
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for w in writers {
        w.join().unwrap();
    }
    eprintln!("slowest of 200 quiet lines beside a loud stream: {slowest:?}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}

#[test]
fn detach_and_attach_go_on_with_the_next_byte() {
    let b = bench(2);
    let path = b.fifo("f");
    // As the shim does: an end that stays open keeps the kernel's bytes.
    let _held = rustix::fs::open(&path, OFlags::RDWR | OFlags::NONBLOCK, Mode::empty()).unwrap();
    let target = b.dir.path().join("out");
    let data = pattern(4 << 20);
    let copy = data.clone();
    let mut w = writer(&path);
    let writing = std::thread::spawn(move || w.write_all(&copy).unwrap());
    let mut moved = 0;
    for round in 0..2000 {
        let sink = File::options().create(true).append(true).open(&target).unwrap();
        b.pool
            .attach(
                K,
                fifo::open_reader(&path).unwrap(),
                PumpSink::Descriptor(Arc::new(OwnedFd::from(sink))),
            )
            .unwrap();
        if round % 7 == 3 {
            b.pool.kill_thread_of(K).unwrap();
            assert_eq!(b.next(), Report::Died { keys: vec![K] });
        } else {
            b.pool.detach(K).unwrap();
            match b.next() {
                Report::Detached { key: K, bytes } => moved += bytes,
                other => panic!("{other:?}"),
            }
        }
        if std::fs::metadata(&target).unwrap().len() == data.len() as u64 {
            break;
        }
    }
    writing.join().unwrap();
    assert!(moved > 0);
    assert!(std::fs::read(&target).unwrap() == data);
}

#[test]
fn a_sink_whose_reader_is_gone_ends_the_stream_with_a_fault() {
    let b = bench(1);
    let path = b.fifo("f");
    let (out, sink) = pipe();
    b.pool
        .attach(K, fifo::open_reader(&path).unwrap(), PumpSink::Descriptor(sink))
        .unwrap();
    drop(out);
    let mut w = writer(&path);
    w.write_all(b"x").unwrap();
    match b.next() {
        Report::Ended {
            key: K,
            bytes: 0,
            fault: Some(fault),
        } => assert!(fault.contains("write"), "{fault}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_idle_pump_uses_no_time_and_a_stalled_one_neither() {
    let b = bench(1);
    let (idle, stalled) = (b.fifo("idle"), b.fifo("stalled"));
    let (_never_read, full) = pipe();
    b.pool
        .attach(
            PumpKey(1),
            fifo::open_reader(&idle).unwrap(),
            PumpSink::Descriptor(full.clone()),
        )
        .unwrap();
    b.pool
        .attach(
            PumpKey(2),
            fifo::open_reader(&stalled).unwrap(),
            PumpSink::Descriptor(full),
        )
        .unwrap();
    let mut w = writer(&stalled);
    w.write_all(&vec![0; 100 * 1024]).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let ticks = |id: &str| -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{id}/stat")).unwrap();
        let rest: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        rest[11].parse::<u64>().unwrap() + rest[12].parse::<u64>().unwrap()
    };
    let pumps: Vec<String> = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|id| {
            std::fs::read_to_string(format!("/proc/self/task/{id}/comm")).is_ok_and(|c| c.starts_with("log-pump"))
        })
        .collect();
    // Threads of tests that run beside this one may work: one that spins would use all of the time, and there must be
    // one that uses none.
    let before: Vec<_> = pumps.iter().map(|id| ticks(id)).collect();
    std::thread::sleep(Duration::from_millis(400));
    let idle = pumps
        .iter()
        .zip(before)
        .filter(|(id, t)| std::fs::metadata(format!("/proc/self/task/{id}")).is_ok_and(|_| ticks(id) - t <= 1))
        .count();
    assert!(idle >= 1);
}

#[test]
fn a_pool_that_was_shut_down_refuses() {
    let b = bench(2);
    assert!(b.pool.shutdown(Duration::from_secs(5)));
    let path = b.fifo("f");
    let (_out, sink) = pipe();
    assert_eq!(
        b.pool
            .attach(K, fifo::open_reader(&path).unwrap(), PumpSink::Descriptor(sink)),
        Err(PumpRefused::Gone)
    );
}

#[path = "pump_files_tests.rs"]
mod files;

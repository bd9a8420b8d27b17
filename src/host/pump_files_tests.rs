//! Pump threads and log files.

use super::*;

/// The log files of a task in `dir`, and a sink that goes on with them.
fn log_files(dir: &Path, max_bytes: u64, max_files: u32) -> PumpSink {
    std::fs::create_dir_all(dir.join("alloc/logs")).unwrap();
    let files = crate::spec::log_collection::LogFiles {
        alloc_dir: dir.to_owned(),
        task: "web".to_owned(),
        max_files,
        max_bytes,
        json: false,
        rate: None,
    };
    PumpSink::Files(Box::new(LogFile::open(&files, "stdout").unwrap()))
}

fn read_logs(dir: &Path) -> Vec<Vec<u8>> {
    let mut all: Vec<(u32, Vec<u8>)> = std::fs::read_dir(dir.join("alloc/logs"))
        .unwrap()
        .map(|e| {
            let path = e.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            (
                name.strip_prefix("web.stdout.").unwrap().parse().unwrap(),
                std::fs::read(&path).unwrap(),
            )
        })
        .collect();
    all.sort();
    all.into_iter().map(|(_, bytes)| bytes).collect()
}

fn lines(n: usize) -> Vec<u8> {
    (0..n)
        .flat_map(|i| format!("line {i} {}\n", "x".repeat(i % 200)).into_bytes())
        .collect()
}

#[test]
fn log_files_hold_every_byte_in_order_and_end_with_a_line() {
    let b = bench(1);
    let path = b.fifo("f");
    let sink = log_files(b.dir.path(), 100_000, 1000);
    b.pool.attach(K, fifo::open_reader(&path).unwrap(), sink).unwrap();
    let data = lines(20_000);
    let mut w = writer(&path);
    w.write_all(&data).unwrap();
    drop(w);
    let total = data.len() as u64;
    assert_eq!(
        b.next(),
        Report::Ended {
            key: K,
            bytes: total,
            fault: None
        }
    );
    let files = read_logs(b.dir.path());
    assert_eq!(files.concat(), data);
    assert!(files.iter().all(|file| file.len() <= 100_000 && file.ends_with(b"\n")));
    // What is given up for it is less than the zone in which lines are looked for.
    let (_, full) = files.split_last().unwrap();
    assert!(full.iter().all(|file| file.len() > 75_000));
}

#[test]
fn a_pump_thread_that_dies_again_and_again_loses_and_doubles_nothing_in_log_files() {
    let b = bench(1);
    let path = b.fifo("f");
    let data = lines(60_000);
    let written = {
        let (path, data) = (path.clone(), data.clone());
        let reader = fifo::open_reader(&path).unwrap();
        b.pool
            .attach(K, reader, log_files(b.dir.path(), 64 << 10, 1000))
            .unwrap();
        // As a shim does, it holds a reading end too: with no reader at all the pipe would break.
        let hold = fifo::open_reader(&path).unwrap();
        std::thread::spawn(move || {
            let mut w = writer(&path);
            for chunk in data.chunks(5000) {
                w.write_all(chunk).unwrap();
            }
            drop((w, hold));
        })
    };
    let mut deaths = 0;
    loop {
        if deaths < 20 {
            b.pool.kill_thread_of(K).ok();
        }
        match b.next() {
            Report::Died { keys } => {
                deaths += 1;
                for key in keys {
                    let sink = log_files(b.dir.path(), 64 << 10, 1000);
                    b.pool.attach(key, fifo::open_reader(&path).unwrap(), sink).unwrap();
                }
            }
            Report::Ended { fault, .. } => {
                assert_eq!(fault, None);
                break;
            }
            other @ Report::Detached { .. } => panic!("{other:?}"),
        }
    }
    written.join().unwrap();
    assert!(deaths > 0, "no thread died");
    assert_eq!(read_logs(b.dir.path()).concat(), data);
}

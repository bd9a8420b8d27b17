//! What options and settings say about logs, and how a file is filled.

use super::*;
use crate::spec::identity::TaskId;
use proptest::prelude::*;

fn task() -> TaskSpec {
    TaskSpec {
        id: TaskId::new("a/web/1"),
        name: "web".to_owned(),
        alloc_dir: PathBuf::from("/var/nomad/alloc/a"),
        stdout_path: PathBuf::from("/var/nomad/alloc/a/alloc/logs/.web.stdout.fifo"),
        stderr_path: PathBuf::from("/var/nomad/alloc/a/alloc/logs/.web.stderr.fifo"),
        ..TaskSpec::default()
    }
}

fn plugin(way: &str) -> Settings {
    Settings {
        log_collection: way.to_owned(),
        ..Settings::default()
    }
}

fn files(max_files: u32, max_bytes: u64) -> LogWay {
    LogWay::Files(LogFiles {
        alloc_dir: task().alloc_dir,
        task: "web".to_owned(),
        max_files,
        max_bytes,
        json: false,
        rate: None,
    })
}

#[test]
fn a_task_follows_the_plugin_and_overrides_it_downwards() {
    let way = |by_plugin: &str, by_task: Option<&str>| {
        let mut task = task();
        task.options.log_collection = by_task.map(ToOwned::to_owned);
        of(&plugin(by_plugin), &task).map_err(|e| e.to_string())
    };
    assert_eq!(way("nomad", None), Ok(LogWay::Paths));
    assert_eq!(way("nomad", Some("nomad")), Ok(LogWay::Paths));
    assert_eq!(way("nomad", Some("none")), Ok(LogWay::Nowhere));
    assert_eq!(way("driver", None), Ok(files(10, 10 << 20)));
    assert_eq!(way("driver", Some("none")), Ok(LogWay::Nowhere));
    assert_eq!(way("none", Some("")), Ok(LogWay::Nowhere));
    for (by_plugin, by_task) in [
        ("nomad", "driver"),
        ("driver", "nomad"),
        ("none", "driver"),
        ("driver", "syslog"),
    ] {
        let refused = way(by_plugin, Some(by_task)).unwrap_err();
        for word in ["log_collection", by_task, by_plugin] {
            assert!(refused.contains(word), "{refused}");
        }
    }
}

#[test]
fn how_much_is_kept_is_the_tasks_or_the_plugins() {
    let mut settings = plugin("driver");
    settings.log_max_files = 3;
    settings.log_max_file_size = "64k".to_owned();
    let mut task = task();
    assert_eq!(of(&settings, &task).unwrap(), files(3, 64 << 10));
    task.options.log_max_files = Some(0);
    task.options.log_max_file_size = Some(String::new());
    assert_eq!(of(&settings, &task).unwrap(), files(3, 64 << 10));
    settings.log_max_files = 0;
    assert_eq!(of(&settings, &task).unwrap(), files(10, 64 << 10));
    task.options.log_max_files = Some(5);
    task.options.log_max_file_size = Some("2".to_owned());
    assert_eq!(of(&settings, &task).unwrap(), files(5, 2 << 20));
    let mut treated = task.clone();
    treated.options.log_format = Some("json".to_owned());
    settings.log_rate_limit = "64k".to_owned();
    assert!(matches!(
        of(&settings, &treated).unwrap(),
        LogWay::Files(LogFiles {
            json: true,
            rate: Some(65_536),
            ..
        })
    ));
    treated.options.log_rate_limit = Some("0".to_owned());
    assert!(matches!(
        of(&settings, &treated).unwrap(),
        LogWay::Files(LogFiles { rate: None, .. })
    ));
    for (format, limit) in [("xml", "1m"), ("raw", "1"), ("json", "fast")] {
        treated.options.log_format = Some(format.to_owned());
        treated.options.log_rate_limit = Some(limit.to_owned());
        assert!(of(&settings, &treated).is_err(), "{format} {limit}");
    }
    // Nobody would follow it.
    let refused = of(&plugin("nomad"), &task).unwrap_err().to_string();
    assert!(
        refused.contains("log_max_files") && refused.contains("logs block"),
        "{refused}"
    );
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    for (files, size, named) in [
        (-1, "1m", "log_max_files"),
        (1001, "1m", "log_max_files"),
        (1, "1k", "log_max_file_size"),
    ] {
        let mut settings = plugin("driver");
        settings.log_max_files = files;
        settings.log_max_file_size = size.to_owned();
        assert!(check(&settings).unwrap_err().to_string().contains(named));
    }
    assert!(check(&plugin("journald")).unwrap_err().to_string().contains("journald"));
    for text in ["", "many", "-1", "0", "99999999999999999999", "2t"] {
        assert!(bytes("log_max_file_size", text).is_err(), "{text:?}");
    }
    let mut nowhere = task();
    nowhere.alloc_dir = PathBuf::new();
    assert!(of(&plugin("driver"), &nowhere).is_err());
}

#[test]
fn a_job_without_logs_has_none() {
    let mut task = task();
    task.stdout_path = PathBuf::from("/dev/null");
    task.stderr_path = PathBuf::from("/dev/null");
    for by_plugin in ["driver", "nomad", "none"] {
        assert_eq!(of(&plugin(by_plugin), &task).unwrap(), LogWay::Nowhere);
    }
}

#[test]
fn lines_stay_whole_where_they_can() {
    const MAX: u64 = 8192;
    // Far from the limit nobody looks.
    assert_eq!(share(b"half a li", 0, MAX, false), 9);
    // Near it, whole lines.
    assert_eq!(share(b"one\ntwo\nthr", MAX - 100, MAX, false), 8);
    assert_eq!(share(b"thr", MAX - 100, MAX, false), 0);
    // A line that the file has begun is ended in it.
    assert_eq!(share(b"ee\nfour", MAX - 100, MAX, true), 3);
    assert_eq!(share(b"ee", MAX - 100, MAX, true), 2);
    // One that is longer than a file is cut where the file is full.
    assert_eq!(share(&[b'x'; 9000], 0, MAX, false), 8192);
    assert_eq!(share(&[b'x'; 9000], MAX - 5, MAX, true), 5);
    assert_eq!(share(b"x", MAX, MAX, true), 0);
}

proptest! {
    /// Whatever comes in whatever pieces: no file is longer than its limit, every byte is in one of them in order, and a
    /// line that fits the zone before the limit is not cut.
    #[test]
    fn files_are_filled_in_order_and_lines_stay_whole(
        lines in proptest::collection::vec("[a-z]{0,300}", 0..400),
        pieces in proptest::collection::vec(1_usize..700, 1..40),
        max in 4096_u64..12_000,
    ) {
        let text: Vec<u8> = lines.iter().flat_map(|l| [l.as_bytes(), b"\n"].concat()).collect();
        let mut files: Vec<Vec<u8>> = vec![Vec::new()];
        let (mut rest, mut next) = (text.as_slice(), pieces.iter().cycle());
        while !rest.is_empty() {
            let mut piece = &rest[..(*next.next().unwrap()).min(rest.len())];
            rest = &rest[piece.len()..];
            while !piece.is_empty() {
                let file = files.last_mut().unwrap();
                let size = file.len() as u64;
                let n = share(piece, size, max, file.last().is_some_and(|b| *b != b'\n'));
                if n == 0 {
                    prop_assert!(size > 0, "an empty file takes something");
                    files.push(Vec::new());
                    continue;
                }
                file.extend_from_slice(&piece[..n]);
                piece = &piece[n..];
            }
        }
        prop_assert_eq!(files.concat(), text);
        for file in &files {
            prop_assert!(file.len() as u64 <= max);
        }
        for file in files.iter().rev().skip(1) {
            prop_assert_eq!(file.last(), Some(&b'\n'));
        }
    }
}

//! Log files in a directory that a task can write to.

use super::*;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

struct Alloc(tempfile::TempDir);

impl Alloc {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("alloc/logs")).unwrap();
        Self(dir)
    }

    fn files(&self, max_files: u32) -> LogFiles {
        LogFiles {
            alloc_dir: self.0.path().to_owned(),
            task: "web".to_owned(),
            max_files,
            max_bytes: 4096,
            json: false,
            rate: None,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("alloc/logs").join(name)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.path(""))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn write(log: &mut LogFile, text: &str) {
    let n = io::write(log.file(), text.as_bytes()).unwrap();
    log.wrote(n as u64);
}

#[test]
fn the_first_is_made_and_the_last_gone_on_with() {
    let alloc = Alloc::new();
    let mut log = LogFile::open(&alloc.files(3), "stdout").unwrap();
    write(&mut log, "one\n");
    assert!(!log.is_mid_line());
    write(&mut log, "tw");
    assert!(log.is_mid_line());
    drop(log);
    let mode = std::fs::metadata(alloc.path("web.stdout.0"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o644);
    let mut again = LogFile::open(&alloc.files(3), "stdout").unwrap();
    assert_eq!(again.fill(), (6, 4096));
    write(&mut again, "o\n");
    assert_eq!(
        std::fs::read_to_string(alloc.path("web.stdout.0")).unwrap(),
        "one\ntwo\n"
    );
}

#[test]
fn numbers_only_grow_and_the_oldest_go() {
    let alloc = Alloc::new();
    std::fs::write(alloc.path("web.stdout.7"), "x").unwrap();
    // Neither of this stream.
    std::fs::write(alloc.path("web.stderr.9"), "x").unwrap();
    std::fs::write(alloc.path("web.stdout.7.bak"), "x").unwrap();
    let mut log = LogFile::open(&alloc.files(2), "stdout").unwrap();
    assert_eq!(log.fill().0, 1);
    for _ in 0..3 {
        log.next().unwrap();
    }
    assert_eq!(
        alloc.names(),
        ["web.stderr.9", "web.stdout.10", "web.stdout.7.bak", "web.stdout.9"]
    );
    // Between the two, none is missing for whoever follows; on a full disk the older one goes, and then none is left.
    assert!(log.make_room());
    assert!(!log.make_room());
    assert_eq!(alloc.names(), ["web.stderr.9", "web.stdout.10", "web.stdout.7.bak"]);
}

#[test]
fn what_a_task_has_laid_in_the_way_is_not_written_to() {
    let alloc = Alloc::new();
    let host = tempfile::NamedTempFile::new().unwrap();
    symlink(host.path(), alloc.path("web.stdout.0")).unwrap();
    std::fs::hard_link(host.path(), alloc.path("web.stderr.0")).unwrap_or_else(|_| {
        std::fs::write(alloc.path("other"), "").unwrap();
        std::fs::hard_link(alloc.path("other"), alloc.path("web.stderr.0")).unwrap();
    });
    for stream in ["stdout", "stderr"] {
        let mut log = LogFile::open(&alloc.files(2), stream).unwrap();
        write(&mut log, "mine\n");
        assert_eq!(
            std::fs::read_to_string(alloc.path(&format!("web.{stream}.1"))).unwrap(),
            "mine\n"
        );
    }
    assert_eq!(std::fs::read_to_string(host.path()).unwrap(), "");
    // The directory itself is a link.
    std::fs::rename(alloc.path(""), alloc.0.path().join("moved")).unwrap();
    symlink(alloc.0.path().join("moved"), alloc.0.path().join("alloc/logs")).unwrap();
    assert!(LogFile::open(&alloc.files(2), "stdout").is_err());
}

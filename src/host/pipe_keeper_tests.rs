//! What `pipe_keeper.rs` promises.

use super::*;
use crate::host::fifo::make_fifo;

fn kept(kept: &mut Kept, line: &str) -> Result<usize, String> {
    kept.take(line, 1).map(|()| kept.pipes.len())
}

#[test]
fn an_end_to_write_to_is_held_until_its_key_is_let_go_or_its_plugin_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe");
    make_fifo(&path).unwrap();
    let at = rustix::fs::open(&path, OFlags::PATH, Mode::empty()).unwrap();
    let mut keeper = Kept::default();
    let (device, inode) = number(&at).unwrap();
    let line = |key: &str| {
        format!(
            "w/proc/{}/fd/{} {device}:{inode} {key}",
            std::process::id(),
            at.as_raw_fd()
        )
    };
    assert_eq!(keeper.take(&line("web"), 1).unwrap_err(), UNREAD);
    let mut reader = std::fs::File::from(open_reader(&path).unwrap());
    let mut ended = || !matches!(reader.read(&mut [0; 1]), Err(e) if e.kind() == ErrorKind::WouldBlock);
    assert!(ended());
    keeper.take(&line("web"), 1).unwrap();
    keeper.take(&line("web"), 1).unwrap();
    assert_eq!(keeper.writers["web"].ends.len(), 1);
    assert!(!ended());
    keeper.take("rother", 1).unwrap();
    assert!(!ended());
    keeper.take("rweb", 1).unwrap();
    assert!(ended() && keeper.is_empty());
    let now = Instant::now();
    keeper.take(&line("web"), 1).unwrap();
    keeper.abandon(2, now);
    assert_eq!(keeper.expire(now + ABANDONED), None);
    keeper.abandon(1, now);
    assert_eq!(keeper.expire(now), Some(ABANDONED));
    // Its successor wants them too.
    keeper.take(&line("web"), 2).unwrap();
    assert_eq!(keeper.expire(now + ABANDONED), None);
    assert!(!ended());
    keeper.abandon(2, now);
    assert_eq!(keeper.expire(now + ABANDONED), None);
    assert!(ended() && keeper.is_empty());
    let other = line("web").replace(&format!(" {device}:"), " 0:");
    assert!(keeper.take(&other, 1).unwrap_err().contains("another"));
    let refused = keeper.take(&format!("w{} 0:0 web", dir.path().display()), 1);
    assert!(refused.is_err() && keeper.take("w", 1).is_err());
}

#[test]
fn a_pipe_that_is_held_keeps_its_bytes_and_one_that_is_gone_is_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (dir.path().join("one"), dir.path().join("other"));
    make_fifo(&one).unwrap();
    make_fifo(&other).unwrap();
    let mut keeper = Kept::default();
    assert_eq!(kept(&mut keeper, &format!("+{}", one.display())), Ok(1));
    assert_eq!(kept(&mut keeper, &format!("+{}", one.display())), Ok(1));
    assert_eq!(kept(&mut keeper, &format!("+{}", other.display())), Ok(2));
    std::fs::File::options()
        .write(true)
        .open(&one)
        .unwrap()
        .write_all(b"last words")
        .unwrap();
    let mut read = [0; 20];
    let mut reader = std::fs::File::from(open_reader(&one).unwrap());
    assert_eq!(reader.read(&mut read).unwrap(), 10);
    std::fs::remove_file(&other).unwrap();
    keeper.forget_gone();
    assert_eq!(keeper.pipes.len(), 1);
    // Another pipe by the same name.
    std::fs::remove_file(&one).unwrap();
    make_fifo(&one).unwrap();
    assert!(!keeper.is_open(&one));
    assert_eq!(kept(&mut keeper, &format!("+{}", one.display())), Ok(1));
    assert!(keeper.is_open(&one));
    assert_eq!(kept(&mut keeper, &format!("-{}", dir.path().display())), Ok(0));
    assert!(kept(&mut keeper, "+/nowhere/at/all").is_err());
    assert!(kept(&mut keeper, "?").is_err() && kept(&mut keeper, "").is_err());
}

#[test]
fn a_keeper_that_does_not_answer_is_left_alone_for_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let _hung = UnixListener::bind(dir.path().join(SOCKET)).unwrap();
    let path = dir.path().join("pipe");
    make_fifo(&path).unwrap();
    let at = rustix::fs::open(&path, OFlags::PATH, Mode::empty()).unwrap();
    let keeper = PipeKeeper::new(dir.path());
    let begun = Instant::now();
    assert!(keeper.hold_writing("web", &at).is_err());
    assert!(begun.elapsed() >= ANSWER);
    let begun = Instant::now();
    assert!(keeper.hold_writing("web", &at).is_err());
    keeper.let_go("web");
    assert!(begun.elapsed() < ANSWER);
}

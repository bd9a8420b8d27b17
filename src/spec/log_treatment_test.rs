//! Limits and lines as JSON.

use super::*;
use proptest::prelude::*;
use std::time::{Duration, UNIX_EPOCH};

fn files(json: bool, rate: Option<u64>) -> LogFiles {
    LogFiles {
        alloc_dir: "/a".into(),
        task: "web".to_owned(),
        max_files: 1,
        max_bytes: 4096,
        json,
        rate,
    }
}

fn text(treated: &Treated) -> &str {
    std::str::from_utf8(&treated.out).unwrap()
}

#[test]
fn lines_become_records_with_stream_and_time() {
    assert!(Treatment::of(&files(false, None), "stdout").is_none());
    let mut json = Treatment::of(&files(true, None), "stderr").unwrap();
    let treated = json.treat("one\n\"zwö\"\npart".as_bytes(), false, Instant::now(), UNIX_EPOCH);
    let records: Vec<serde_json::Value> = text(&treated)
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let logs: Vec<_> = records.iter().map(|r| r["log"].as_str().unwrap()).collect();
    assert_eq!(logs, ["one\n", "\"zwö\"\n", "part"]);
    assert_eq!(
        (records[0]["stream"].as_str(), records[0]["time"].as_str()),
        (Some("stderr"), Some("1970-01-01T00:00:00.000000Z"))
    );
    // Half a character is left for the next look, but not for ever.
    let half = &"aö".as_bytes()[..2];
    assert_eq!(json.treat(half, false, Instant::now(), UNIX_EPOCH).used, 1);
    assert_eq!(json.treat(&half[1..], false, Instant::now(), UNIX_EPOCH).used, 1);
    // Of a full chunk the whole lines are used, and of one without a line all.
    assert_eq!(json.treat(b"a\nb", true, Instant::now(), UNIX_EPOCH).used, 2);
    assert_eq!(json.treat(b"ab", true, Instant::now(), UNIX_EPOCH).used, 2);
}

#[test]
fn what_is_above_the_limit_is_dropped_by_lines_and_counted_in_one() {
    let mut limited = Treatment::of(&files(false, Some(10)), "stdout").unwrap();
    let begin = Instant::now();
    let mut treat = |chunk: &[u8], ms| limited.treat(chunk, false, begin + Duration::from_millis(ms), UNIX_EPOCH);
    assert_eq!(text(&treat(b"12345\n", 0)), "12345\n");
    // Four bytes are left: not enough for this line, and its end goes with it.
    let treated = treat(b"abcdef", 0);
    assert_eq!((treated.out.len(), treated.dropped), (0, 6));
    assert_eq!(
        text(&treat(b"gh\nxy\n", 100)),
        "[containerd-driver] 9 bytes in 1 lines were dropped: log_rate_limit is 10 bytes per second\nxy\n"
    );
    // A second later it is as at first.
    assert_eq!(text(&treat(b"123456789\n", 2000)), "123456789\n");
    treat(b"z\n", 2000);
    // A line that was begun is ended, and what was dropped meanwhile is told after it.
    let mut whole = Treatment::of(&files(false, Some(10)), "stdout").unwrap();
    for (piece, kept) in [(&b"1234567"[..], 7), (b"89abc\n", 6), (b"x\n", 0)] {
        assert_eq!(whole.treat(piece, false, begin, UNIX_EPOCH).out.len(), kept);
    }
    // One that is too long for that is cut, and what follows is on a line of its own.
    let mut cut = Treatment::of(&files(false, Some(10)), "stdout").unwrap();
    let mut treat = |chunk: &[u8], ms| cut.treat(chunk, false, begin + Duration::from_millis(ms), UNIX_EPOCH);
    assert_eq!(text(&treat(b"12345678", 0)), "12345678");
    assert_eq!(text(&treat(b"9abcdefghijklmnop\n", 0)), "");
    let treated = treat(b"x\n", 1000);
    let lines: Vec<&str> = text(&treated).lines().collect();
    assert_eq!(
        (lines[0], lines[1].contains("18 bytes in 1 lines"), lines[2]),
        ("", true, "x")
    );
}

proptest! {
    /// Whatever comes: what is kept and what is dropped is what came, and time brings no more than the limit.
    #[test]
    fn nothing_is_lost_without_being_counted(
        pieces in proptest::collection::vec(("[a-zß\n]{0,40}", 0_u64..300), 1..40),
        per_second in 1_u64..60,
    ) {
        let mut limited = Treatment::of(&files(false, Some(per_second)), "stdout").unwrap();
        let (mut now, begin) = (0, Instant::now());
        let (mut came, mut kept, mut dropped) = (0_u64, 0_u64, 0_u64);
        for (piece, ms) in &pieces {
            now += ms;
            let treated = limited.treat(piece.as_bytes(), false, begin + Duration::from_millis(now), UNIX_EPOCH);
            came += treated.used as u64;
            dropped += treated.dropped;
            let out = String::from_utf8(treated.out).unwrap();
            kept += out.split_inclusive('\n').filter(|l| !l.contains("[containerd-driver]")).map(|l| l.len() as u64).sum::<u64>();
        }
        // A line break after a line that was cut is ours.
        prop_assert!(kept + dropped >= came && kept + dropped <= came + pieces.len() as u64);
        // A line that was begun may take from the next second.
        prop_assert!(kept <= 2 * per_second + per_second * now / 1000 + pieces.len() as u64);
    }
}

//! When a stream is due. Pure; all times are on one monotonic clock, from the sampler's own beginning.
//!
//! Streams are opened at any moment, and each would keep a beat of its own. They are drawn towards common beats, by a
//! tenth of the interval at most, so that after a few samples one sweep serves all of an interval.

use std::time::Duration;

/// Nomad's `telemetry.collection_interval` where the host gives none.
const DEFAULT: Duration = Duration::from_secs(1);

/// Bounds of what is asked for: below, reading costs more than it tells; above, a timer may overflow.
const BOUNDS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30 * 24 * 3600));

/// From the first reading of a stream to its first sample. A rate needs two readings, and whoever opens a stream wants
/// the first sample within a second, also where the interval is long.
const FIRST: Duration = Duration::from_millis(250);

/// The share of an interval by which a beat may be moved: one in this many.
const DRAW: u32 = 10;

/// The interval in force: the plugin's own setting, what the host asks for, or the default.
#[must_use]
pub fn interval(setting: Option<Duration>, asked: Duration) -> Duration {
    let given = |d: &Duration| !d.is_zero();
    setting
        .filter(given)
        .or(Some(asked).filter(given))
        .unwrap_or(DEFAULT)
        .clamp(BOUNDS.0, BOUNDS.1)
}

/// When the first sample is due after the first reading.
#[must_use]
pub fn first(now: Duration, interval: Duration) -> Duration {
    now + interval.min(FIRST)
}

/// When the next sample is due after one that was due at `due` and taken at `now`.
#[must_use]
pub fn next(due: Duration, now: Duration, interval: Duration) -> Duration {
    // Late by an interval or more: what was missed is missed.
    let from = if now.saturating_sub(due) >= interval {
        now
    } else {
        due.min(now)
    };
    let plain = from + interval;
    let (beat, draw) = (interval.as_nanos(), interval / DRAW);
    // The nearest common beat, and how far it is.
    let over = plain.as_nanos() % beat;
    let drawn = if over * 2 <= beat {
        plain - nanos(over).min(draw)
    } else {
        plain + nanos(beat - over).min(draw)
    };
    // Never in the past, should this be late.
    drawn.max(now)
}

/// Less than an interval, which is far below 2^64 nanoseconds.
fn nanos(n: u128) -> Duration {
    Duration::from_nanos(u64::try_from(n).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_setting_goes_before_what_is_asked() {
        assert_eq!(interval(Some(SECOND * 5), SECOND), SECOND * 5);
        assert_eq!(interval(None, SECOND * 2), SECOND * 2);
        assert_eq!(interval(None, Duration::ZERO), SECOND);
        assert_eq!(interval(Some(Duration::ZERO), SECOND * 3), SECOND * 3);
        assert_eq!(interval(None, Duration::from_nanos(1)), BOUNDS.0);
        assert_eq!(interval(None, Duration::MAX), BOUNDS.1);
    }

    #[test]
    fn the_first_sample_is_early_also_where_the_interval_is_long() {
        assert_eq!(first(SECOND, SECOND * 10), SECOND + FIRST);
        assert_eq!(first(SECOND, BOUNDS.0), SECOND + BOUNDS.0);
    }

    #[test]
    fn what_was_missed_is_missed() {
        let due = next(SECOND * 10, SECOND * 15, SECOND);
        assert!(due >= SECOND * 15 && due <= SECOND * 16 + SECOND / 10, "{due:?}");
    }

    proptest! {
        #[test]
        fn beats_come_together_and_no_interval_is_far_from_what_was_asked(
            start in 0_u64..1 << 45, every in 100_000_000_u64..1 << 42
        ) {
            let every = Duration::from_nanos(every);
            let mut due = Duration::from_nanos(start);
            for _ in 0..8 {
                let then = next(due, due, every);
                let step = then - due;
                prop_assert!(step >= every * 9 / 10 - SECOND / 1000 && step <= every * 11 / 10 + SECOND / 1000);
                due = then;
            }
            prop_assert_eq!(due.as_nanos() % every.as_nanos(), 0);
        }

        #[test]
        fn the_next_is_never_in_the_past(due in 0_u64..1 << 45, late in 0_u64..1 << 45, every in 100_000_000_u64..1 << 42) {
            let (due, every) = (Duration::from_nanos(due), Duration::from_nanos(every));
            let now = due + Duration::from_nanos(late);
            prop_assert!(next(due, now, every) <= now + every * 11 / 10 + SECOND / 1000);
            prop_assert!(next(due, now, every) >= now);
        }
    }
}

//! Whether a task that was killed ran out of memory: what the kernel killed near its end counts, and nothing before.
//!
//! The kernel counts per cgroup whom it has killed for want of memory, and does not say whom. So a child that was killed long
//! ago must not be the reason of a SIGKILL that somebody sends today. The count is read whenever containerd tells of a want
//! of memory, and when a task is found running: what was counted well before the exit is no reason of it.

/// How long before the exit, in nanoseconds, the kernel may have chosen the process: its memory is freed first, and its end
/// told after that, which takes seconds where there is much of it or little else of the machine.
const NEAR: i64 = 10_000_000_000;

/// True if something that was at `at` may be the reason of an exit; both in nanoseconds since the Unix epoch.
pub(super) fn is_near(at: i64, exit_at: i64) -> bool {
    exit_at.saturating_sub(at) <= NEAR
}

/// What is known of the kernel's count while the task lives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// What was counted well before the last reading.
    settled: u64,
    /// The last reading: when, and the count.
    last: Option<(i64, u64)>,
}

impl Tally {
    /// The count at this moment, at which the task was alive a moment ago. It may have been killed since, so a reading is no
    /// base for an exit near it.
    pub(super) fn read(&mut self, kills: u64, at: i64) {
        if let Some((before, counted)) = self.last
            && !is_near(before, at)
        {
            self.settled = counted;
        }
        self.last = Some((at, kills));
    }

    /// Whether `kills`, counted after an exit by SIGKILL, tells that memory was its reason.
    pub(super) fn is_reason(&self, kills: u64, exit_at: i64) -> bool {
        let base = match self.last {
            Some((at, counted)) if !is_near(at, exit_at) => counted,
            Some(_) | None => self.settled,
        };
        kills > base
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: i64 = 1_000_000_000;

    fn tally(readings: &[(i64, u64)]) -> Tally {
        let mut tally = Tally::default();
        for (at, kills) in readings {
            tally.read(*kills, at * SECOND);
        }
        tally
    }

    #[test]
    fn a_child_of_long_ago_is_no_reason() {
        let after_a_child = tally(&[(0, 0), (100, 1)]);
        assert!(!after_a_child.is_reason(1, 111 * SECOND));
        assert!(after_a_child.is_reason(2, 111 * SECOND), "killed once more");
        // Read again meanwhile, by a second child.
        assert!(!tally(&[(0, 0), (100, 1), (105, 2)]).is_reason(2, 116 * SECOND));
        // Found running with a count, as by the next plugin process.
        assert!(!tally(&[(50, 3)]).is_reason(3, 61 * SECOND));
    }

    #[test]
    fn the_task_itself_is_the_reason_whenever_it_is_told() {
        assert!(Tally::default().is_reason(1, 5 * SECOND), "told after the exit");
        assert!(tally(&[(0, 0), (100, 1)]).is_reason(1, 100 * SECOND), "told before it");
        assert!(tally(&[(0, 0), (100, 1)]).is_reason(1, 109 * SECOND), "slow to end");
        assert!(
            tally(&[(0, 0), (50, 1), (100, 2)]).is_reason(2, 101 * SECOND),
            "after a child"
        );
        assert!(tally(&[(7, 1)]).is_reason(1, 7 * SECOND), "read at its end");
        // A containerd that does not say when it was.
        assert!(tally(&[(7, 1)]).is_reason(1, 0));
    }

    #[test]
    fn nobody_was_killed() {
        assert!(!Tally::default().is_reason(0, SECOND));
        assert!(!tally(&[(1, 0), (2, 0)]).is_reason(0, 3 * SECOND));
    }

    proptest! {
        #[test]
        fn a_kill_after_the_last_reading_always_counts(
            steps in proptest::collection::vec((0_i64..30, 0_u64..3), 0..20),
            after in 0_i64..30,
        ) {
            let (mut at, mut kills, mut tally) = (0, 0, Tally::default());
            for (seconds, more) in steps {
                at += seconds * SECOND;
                kills += more;
                tally.read(kills, at);
            }
            prop_assert!(tally.is_reason(kills + 1, at + after * SECOND));
            prop_assert!(!tally.is_reason(kills, at + NEAR + 1 + after * SECOND));
        }
    }
}

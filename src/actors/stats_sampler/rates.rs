//! From counters to rates. Pure.
//!
//! 100 is one core that is always busy (Nomad `client/lib/cpustats`). A counter that went back began anew (a cgroup that
//! was replaced), and a clock that stands still or went back says nothing: there is never a negative or endless rate.

use crate::host::usage::Counters;
use crate::messages::stats::{CpuUsage, Usage};
use std::time::Duration;

/// Counters, and when they were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// On the monotonic clock.
    pub on: Duration,
    /// On the wall clock, nanoseconds since the Unix epoch.
    pub at: i64,
    /// What was read.
    pub counters: Counters,
}

/// What was used between two readings. `None` if no time has passed.
#[must_use]
pub fn between(before: &Reading, now: &Reading) -> Option<Usage> {
    let passed = now.on.checked_sub(before.on).filter(|passed| !passed.is_zero())?;
    let rate = |before: Option<u64>, now: Option<u64>| now.map(|now| percent(before, now, passed));
    let (then, cpu) = (&before.counters.cpu, &now.counters.cpu);
    Some(Usage {
        at: now.at,
        cpu: CpuUsage {
            percent: rate(then.total, cpu.total),
            user: rate(then.user, cpu.user),
            system: rate(then.system, cpu.system),
            throttled_periods: cpu.throttled_periods,
            throttled_time: cpu.throttled_time,
        },
        memory: now.counters.memory,
    })
}

/// Zero for a counter that has no past or began anew.
fn percent(before: Option<u64>, now: u64, passed: Duration) -> f64 {
    let used = before.and_then(|before| now.checked_sub(before)).unwrap_or_default();
    Duration::from_nanos(used).as_secs_f64() / passed.as_secs_f64() * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::usage::Cpu;
    use proptest::prelude::*;

    fn reading(on: Duration, total: Option<u64>) -> Reading {
        Reading {
            on,
            at: 7,
            counters: Counters {
                cpu: Cpu {
                    total,
                    user: total,
                    throttled_periods: total,
                    ..Cpu::default()
                },
                ..Counters::default()
            },
        }
    }

    fn second(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn one_busy_core_is_a_hundred() {
        let usage = between(&reading(second(1), Some(5)), &reading(second(3), Some(2_000_000_005))).unwrap();
        assert_eq!(
            (usage.cpu.percent, usage.cpu.user, usage.cpu.system),
            (Some(100.0), Some(100.0), None)
        );
        assert_eq!((usage.at, usage.cpu.throttled_periods), (7, Some(2_000_000_005)));
    }

    #[test]
    fn a_counter_that_began_anew_is_no_rate() {
        let rate = |before, now| {
            between(&reading(second(1), before), &reading(second(2), now))
                .unwrap()
                .cpu
                .percent
        };
        assert_eq!(rate(Some(10), Some(9)), Some(0.0));
        assert_eq!(rate(Some(u64::MAX), Some(0)), Some(0.0));
        assert_eq!(rate(None, Some(9)), Some(0.0));
        assert_eq!(rate(Some(9), None), None);
    }

    #[test]
    fn without_time_there_is_no_sample() {
        assert_eq!(
            between(&reading(second(2), Some(1)), &reading(second(2), Some(2))),
            None
        );
        assert_eq!(
            between(&reading(second(3), Some(1)), &reading(second(2), Some(2))),
            None
        );
    }

    proptest! {
        #[test]
        fn no_rate_is_negative_or_endless(
            a in any::<u64>(), b in any::<u64>(), before in any::<Option<u64>>(), now in any::<Option<u64>>()
        ) {
            let readings = (reading(Duration::from_nanos(a), before), reading(Duration::from_nanos(b), now));
            if let Some(usage) = between(&readings.0, &readings.1) {
                prop_assert!(b > a);
                prop_assert_eq!(usage.cpu.percent.is_some(), now.is_some());
                for rate in [usage.cpu.percent, usage.cpu.user].into_iter().flatten() {
                    prop_assert!(rate.is_finite() && rate >= 0.0);
                }
            }
        }
    }
}

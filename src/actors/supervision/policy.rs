//! When to restart, how long to wait before it, when to give up. Pure: the clock is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How often an actor may fail, and how long it rests after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartPolicy {
    /// Failures tolerated within [`RestartPolicy::window`]; one more escalates.
    pub max_restarts: usize,
    /// Length of the window.
    pub window: Duration,
    /// Rest after the first failure in the window; doubles with each further one.
    pub min_backoff: Duration,
    /// Longest rest.
    pub max_backoff: Duration,
}

impl RestartPolicy {
    /// For actors inside the process: 5 failures in 30 s would be the textbook value; ours is wider, since a restart
    /// costs milliseconds and giving up costs a relaunch of the plugin.
    pub const ACTOR: Self = Self {
        max_restarts: 30,
        window: Duration::from_secs(30),
        min_backoff: Duration::from_millis(5),
        max_backoff: Duration::from_millis(500),
    };

    /// For replacements by the root after an escalation, that is after thirty-one panics in a row, which take twelve
    /// seconds. A fresh actor that goes the same way shows that the process must be relaunched.
    pub const ESCALATED: Self = Self {
        max_restarts: 1,
        window: Duration::from_secs(300),
        min_backoff: Duration::ZERO,
        max_backoff: Duration::ZERO,
    };

    /// For replacements by the root of an actor that vanished.
    pub const REPLACEMENT: Self = Self {
        max_restarts: 30,
        window: Duration::from_secs(60),
        min_backoff: Duration::ZERO,
        max_backoff: Duration::ZERO,
    };
}

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Restart after this rest.
    RestartAfter(Duration),
    /// Too many: hand the problem to the parent.
    Escalate,
}

/// The failures of one actor within the window.
#[derive(Clone, Debug, Default)]
pub struct FailureHistory(VecDeque<Instant>);

impl FailureHistory {
    /// Records a failure at `now` and decides.
    pub fn record(&mut self, policy: &RestartPolicy, now: Instant) -> Decision {
        while self
            .0
            .front()
            .is_some_and(|t| now.saturating_duration_since(*t) >= policy.window)
        {
            self.0.pop_front();
        }
        self.0.push_back(now);
        let failures = self.0.len();
        if failures > policy.max_restarts {
            return Decision::Escalate;
        }
        let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
        Decision::RestartAfter(
            policy
                .min_backoff
                .saturating_mul(1 << doublings)
                .min(policy.max_backoff),
        )
    }

    /// Failures within the window as of the last record.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RestartPolicy = RestartPolicy {
        max_restarts: 3,
        window: Duration::from_secs(10),
        min_backoff: Duration::from_millis(10),
        max_backoff: Duration::from_millis(25),
    };

    #[test]
    fn rest_doubles_up_to_the_cap_then_escalates() {
        let mut h = FailureHistory::default();
        let t = Instant::now();
        let rests: Vec<_> = (0..4).map(|_| h.record(&POLICY, t)).collect();
        assert_eq!(
            rests,
            [
                Decision::RestartAfter(Duration::from_millis(10)),
                Decision::RestartAfter(Duration::from_millis(20)),
                Decision::RestartAfter(Duration::from_millis(25)),
                Decision::Escalate
            ]
        );
    }

    #[test]
    fn failures_are_forgiven_after_the_window() {
        let mut h = FailureHistory::default();
        let t = Instant::now();
        for s in 0..100 {
            let d = h.record(&POLICY, t + Duration::from_secs(s * 10));
            assert_eq!(d, Decision::RestartAfter(Duration::from_millis(10)));
        }
    }
}

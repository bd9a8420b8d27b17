//! A start, or a command in a task, waits for a containerd that is away: an upgrade or a restart of it takes a second or two, and
//! a start that fails meanwhile costs its job an attempt, a check that fails the task its health.
//!
//! The call itself is the question whether containerd is back: nothing tells of a socket that is not there yet. Only these
//! two wait so; a stop has another way (`task_supervisor::kernel`), and a recovery a patience of its own.

use crate::messages::runtime::{ContainerdFault, FaultKind};
use std::time::Duration;
use tokio::time::Instant;

/// How long a start waits, from the first call on that nobody answered.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// First and longest rest between two tries.
const REST: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// How long a command waits: what runs it, such as a check, has a time of its own, and is to be told why nothing came of it.
const COMMAND_PATIENCE: Duration = Duration::from_secs(3);

/// One wait for a containerd that is away.
#[derive(Debug)]
pub struct Absence {
    patience: Duration,
    /// Since the first call: its end, and the next rest.
    begun: Option<(Instant, Duration)>,
}

impl Default for Absence {
    /// A start's.
    fn default() -> Self {
        Self {
            patience: PATIENCE,
            begun: None,
        }
    }
}

impl Absence {
    /// A command's.
    #[must_use]
    pub fn of_command() -> Self {
        Self {
            patience: COMMAND_PATIENCE,
            begun: None,
        }
    }

    /// After a call that ended with this fault: true, after a rest, if the same call is worth another try. A containerd that
    /// answers, or that hangs, is not away.
    pub async fn outlast(&mut self, fault: &ContainerdFault) -> bool {
        if fault.kind != FaultKind::Unreachable {
            return false;
        }
        let now = Instant::now();
        let (end, rest) = *self.begun.get_or_insert_with(|| {
            tracing::info!(error = %fault, "containerd is away and waited for");
            (now + self.patience, REST.0)
        });
        if now >= end {
            return false;
        }
        tokio::time::sleep_until(end.min(now + rest)).await;
        self.begun = Some((end, (rest * 2).min(REST.1)));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(kind: FaultKind) -> ContainerdFault {
        ContainerdFault {
            kind,
            operation: "create task",
            text: "x".to_owned(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_containerd_that_is_away_is_waited_for_and_not_for_ever() {
        let (mut absence, begun, mut tries) = (Absence::default(), Instant::now(), 0);
        while absence.outlast(&fault(FaultKind::Unreachable)).await {
            tries += 1;
        }
        assert_eq!(begun.elapsed(), PATIENCE);
        assert!((20..30).contains(&tries), "{tries}");
        assert!(!absence.outlast(&fault(FaultKind::Unreachable)).await, "it begins anew");
        let (mut absence, begun) = (Absence::of_command(), Instant::now());
        while absence.outlast(&fault(FaultKind::Unreachable)).await {}
        assert_eq!(begun.elapsed(), COMMAND_PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_answers_or_hangs_is_not_away() {
        let (mut absence, begun) = (Absence::default(), Instant::now());
        for kind in [
            FaultKind::Deadline,
            FaultKind::NotFound,
            FaultKind::AlreadyExists,
            FaultKind::FailedPrecondition,
            FaultKind::Exhausted,
            FaultKind::Failed,
        ] {
            assert!(!absence.outlast(&fault(kind)).await, "{kind:?}");
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}

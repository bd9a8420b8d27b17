//! When the canary is run, and what its failures mean. Pure.
//!
//! | outcome | the node | next run |
//! |---|---|---|
//! | success | healthy at once | after `period` |
//! | first failure | as before | after a second |
//! | second failure in a row | unhealthy, with the step | after `period`, at most 30 s |

use crate::messages::health::{Health, Verdict};
use std::time::Duration;

/// Failures in a row before the node is called unhealthy: one may be a hiccup, such as a registry that restarts.
const PATIENCE: u32 = 2;
/// Rest before a failure is looked at again.
const AGAIN: Duration = Duration::from_secs(1);
/// Longest rest while it fails, so that a repair is noticed soon.
const WHILE_FAILING: Duration = Duration::from_secs(30);
/// How the description of a node begins whose canary fails.
const PREFIX: &str = "canary: ";

/// Why a run failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// In which step, e.g. `pulling the image`.
    pub step: String,
    /// What happened.
    pub text: String,
}

/// What is known from earlier runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Canary {
    failures: u32,
    standing: Option<Trouble>,
}

impl Canary {
    /// What a restarted probe knows from the last verdict: trouble that it told of stands until a run succeeds.
    #[must_use]
    pub fn resume(last: &Verdict) -> Self {
        let told = last
            .description
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once(": "));
        let standing = told
            .filter(|_| last.health == Health::Unhealthy)
            .map(|(step, text)| Trouble {
                step: step.to_owned(),
                text: text.to_owned(),
            });
        Self {
            failures: if standing.is_some() { PATIENCE } else { 0 },
            standing,
        }
    }

    /// Takes note of a run; the time until the next.
    pub fn note(&mut self, outcome: Result<(), Trouble>, period: Duration) -> Duration {
        let Err(trouble) = outcome else {
            *self = Self::default();
            return period;
        };
        self.failures = self.failures.saturating_add(1);
        if self.failures < PATIENCE {
            return AGAIN;
        }
        // The same step for another reason is no news: each change of the description is an event of the node.
        if self
            .standing
            .as_ref()
            .is_none_or(|standing| standing.step != trouble.step)
        {
            self.standing = Some(trouble);
        }
        period.min(WHILE_FAILING)
    }

    /// The description of the node, if the canary makes it unhealthy.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        let Trouble { step, text } = self.standing.as_ref()?;
        Some(format!("{PREFIX}{step}: {text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(300);

    fn trouble(step: &str, text: &str) -> Result<(), Trouble> {
        Err(Trouble {
            step: step.into(),
            text: text.into(),
        })
    }

    #[test]
    fn one_failure_is_looked_at_again_and_the_second_is_told() {
        let mut canary = Canary::default();
        assert_eq!(canary.note(trouble("start", "x"), PERIOD), AGAIN);
        assert_eq!(canary.complaint(), None);
        assert_eq!(canary.note(trouble("start", "x"), PERIOD), WHILE_FAILING);
        assert_eq!(canary.complaint().as_deref(), Some("canary: start: x"));
        assert_eq!(canary.note(Ok(()), PERIOD), PERIOD);
        assert_eq!(canary, Canary::default());
    }

    #[test]
    fn the_description_changes_with_the_step_only() {
        let mut canary = Canary::default();
        for text in ["a", "b", "c"] {
            canary.note(trouble("start", text), PERIOD);
        }
        assert_eq!(canary.complaint().as_deref(), Some("canary: start: b"));
        canary.note(trouble("exit", "code 1"), Duration::from_secs(5));
        assert_eq!(canary.complaint().as_deref(), Some("canary: exit: code 1"));
        assert_eq!(
            canary.note(trouble("exit", "code 1"), Duration::from_secs(5)),
            Duration::from_secs(5)
        );
    }

    #[test]
    fn a_success_between_two_failures_makes_them_two_first_ones() {
        let mut canary = Canary::default();
        for _ in 0..3 {
            canary.note(trouble("start", "x"), PERIOD);
            canary.note(Ok(()), PERIOD);
            assert_eq!(canary.complaint(), None);
        }
    }

    #[test]
    fn trouble_outlives_the_death_of_the_probe() {
        let mut canary = Canary::default();
        canary.note(trouble("start", "a: b"), PERIOD);
        canary.note(trouble("start", "a: b"), PERIOD);
        let verdict = |health, description: String| Verdict {
            health,
            description,
            attributes: Vec::new(),
        };
        let told = canary.complaint().unwrap();
        assert_eq!(Canary::resume(&verdict(Health::Unhealthy, told)), canary);
        for last in [
            verdict(Health::Healthy, "Healthy".into()),
            verdict(Health::Unhealthy, "containerd does not answer".into()),
        ] {
            assert_eq!(Canary::resume(&last), Canary::default());
        }
    }
}

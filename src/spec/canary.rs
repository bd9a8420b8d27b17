//! The canary: a tiny container that the health probe runs now and then, to see whether containers can be run at all.
//!
//! Its task id tells which process runs it, so that a later process finds and removes what a killed one has left, and
//! leaves alone what belongs to another agent on the same containerd:
//! `canary/health/<process id>-<its start in clock ticks since the boot>-<which run>`.

use super::error::SpecError;
use super::identity::TaskId;
use super::options::{Entrypoint, TaskOptions};
use super::settings::{CanarySettings, Settings};
use super::task::{JobNames, Resources, TaskSpec};

/// How the task id of a canary begins; an allocation's id, which other tasks have there, is a UUID.
const PREFIX: &str = "canary/health/";

/// A process, told from others of the same id by when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Keeper {
    /// Process id.
    pub pid: u32,
    /// Start in clock ticks since the boot (field 22 of `/proc/<pid>/stat`).
    pub started: u64,
}

/// The task id of one run.
#[must_use]
pub fn task_id(keeper: Keeper, run: u64) -> TaskId {
    TaskId::new(format!("{PREFIX}{}-{}-{run}", keeper.pid, keeper.started))
}

/// True for a canary of any process. Such a container is not to be judged by anybody but the health probe.
#[must_use]
pub fn is_canary(task: &TaskId) -> bool {
    keeper(task).is_some()
}

/// The process that runs this canary; `None` if it is none.
#[must_use]
pub fn keeper(task: &TaskId) -> Option<Keeper> {
    let mut words = task.as_str().strip_prefix(PREFIX)?.split('-');
    let keeper = Keeper {
        pid: words.next()?.parse().ok()?,
        started: words.next()?.parse().ok()?,
    };
    words.next()?.parse::<u64>().ok()?;
    words.next().is_none().then_some(keeper)
}

/// Checks the `canary` block.
///
/// # Errors
/// The option, its value and what is allowed.
pub fn check(settings: &Settings) -> Result<(), SpecError> {
    let Some(canary) = settings.canary.as_ref().filter(|canary| canary.enabled) else {
        return Ok(());
    };
    if canary.image.is_empty() {
        return Err(SpecError::option(
            "canary.image",
            "",
            "an image is expected where the canary is enabled",
        ));
    }
    if canary.command.is_empty() {
        return Err(SpecError::option(
            "canary.command",
            "[]",
            "a command that ends with exit code 0 is expected",
        ));
    }
    if canary.period < canary.timeout {
        return Err(SpecError::option(
            "canary.period",
            super::go::format_duration(canary.period),
            format!(
                "at least canary.timeout, {}, is expected",
                super::go::format_duration(canary.timeout)
            ),
        ));
    }
    Ok(())
}

/// The task of one run: no log, no network, no more than a few processes and little memory.
#[must_use]
pub fn task(id: TaskId, canary: &CanarySettings) -> TaskSpec {
    let (entrypoint, args) = canary.command.split_at(canary.command.len().min(1));
    TaskSpec {
        id,
        name: "canary".to_owned(),
        options: TaskOptions {
            image: canary.image.clone(),
            image_pull_timeout: Some(canary.timeout),
            entrypoint: Entrypoint(entrypoint.to_vec()),
            args: args.to_vec(),
            ..TaskOptions::default()
        },
        resources: Resources {
            cpu_shares: 100,
            memory_mb: 64,
            ..Resources::default()
        },
        job: JobNames {
            job_name: "canary".to_owned(),
            ..JobNames::default()
        },
        ..TaskSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::identity::{ContainerId, is_identifier};
    use std::time::Duration;

    const KEEPER: Keeper = Keeper {
        pid: 4_194_303,
        started: u64::MAX,
    };

    #[test]
    fn a_canary_tells_who_runs_it_and_nothing_else_is_one() {
        assert_eq!(keeper(&task_id(KEEPER, u64::MAX)), Some(KEEPER));
        for other in [
            "",
            "canary/health/",
            "canary/health/1-2",
            "canary/health/1-2-3-4",
            "canary/health/x-2-3",
            "run/health/1-2-3",
            "11111111-2222-3333-4444-555555555555/web/0a1b2c3d",
        ] {
            assert!(!is_canary(&TaskId::new(other)), "{other}");
        }
    }

    #[test]
    fn its_container_has_a_name_that_shows_it() {
        let id = ContainerId::of(&task_id(KEEPER, 1));
        assert_eq!(id.as_str(), format!("health-canary-4194303-{}-1", u64::MAX));
        assert!(is_identifier(id.as_str()));
    }

    #[test]
    fn what_cannot_be_run_is_refused_by_option() {
        let with = |change: fn(&mut CanarySettings)| {
            let mut canary = CanarySettings {
                enabled: true,
                image: "busybox".into(),
                ..CanarySettings::default()
            };
            change(&mut canary);
            let settings = Settings {
                canary: Some(canary),
                ..Settings::default()
            };
            check(&settings).map_err(|e| e.to_string())
        };
        assert_eq!(with(|_| {}), Ok(()));
        assert_eq!(check(&Settings::default()), Ok(()));
        assert!(with(|c| c.image.clear()).unwrap_err().contains("canary.image"));
        assert!(with(|c| c.command.clear()).unwrap_err().contains("canary.command"));
        assert!(
            with(|c| c.period = Duration::from_secs(1))
                .unwrap_err()
                .contains("canary.period")
        );
        assert_eq!(
            with(|c| {
                c.enabled = false;
                c.image.clear();
            }),
            Ok(())
        );
    }
}

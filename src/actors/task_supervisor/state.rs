//! The life of a task as one pure function: `step(state, event)` gives the next state and what is to be done.
//!
//! A state changes only from a fact that was observed, never because a request was sent. Pairs that make no sense are
//! refused with both ends named; there is no catch-all arm.

use crate::spec::record::ExitRecord;

/// Where a task is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Nothing is known of it: new, or its supervisor has restarted and not yet looked.
    Absent,
    /// Its image is being made ready.
    Pulling,
    /// Its container is being made and started.
    Creating,
    /// Its process runs.
    Running,
    /// Its process was told to stop, and SIGKILL follows at the deadline.
    Stopping,
    /// SIGKILL was sent to all its processes.
    Killing,
    /// Its process has ended; the container is still there.
    Exited(ExitRecord),
    /// Its container is being removed. Holds the exit, if one was seen.
    Removing(Option<ExitRecord>),
    /// All that was its own is gone.
    Destroyed,
}

/// What happened, or is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// `StartTask`.
    StartAsked,
    /// The image is there.
    ImageReady,
    /// The start failed; nothing is left of it.
    StartFailed,
    /// The process runs.
    Started,
    /// The process ended.
    Exited(ExitRecord),
    /// `StopTask` with some grace.
    StopAsked,
    /// The stop signal could not be sent; whoever asked for it is told so.
    StopFailed,
    /// `StopTask` without grace, or the grace is over.
    KillAsked,
    /// `DestroyTask`.
    DestroyAsked {
        /// Kill first.
        force: bool,
    },
    /// The container and all that belongs to it is gone.
    Removed,
    /// The removal failed.
    RemoveFailed,
}

/// What is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Make the image ready.
    Pull,
    /// Make and start the container.
    Create,
    /// Give up the start that is under way.
    CancelStart,
    /// Send the stop signal and arm the deadline.
    Signal,
    /// SIGKILL all processes.
    Kill,
    /// Keep the exit where it survives this process.
    RecordExit,
    /// Answer all who wait for the exit, and all who asked to stop.
    AnswerExit,
    /// Remove the container.
    Remove,
    /// Answer who asked to destroy, and end.
    Finish,
}

/// A pair of state and event that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{event} is not possible: the task is {state}")]
pub struct Refused {
    /// State name.
    pub state: &'static str,
    /// Event name.
    pub event: &'static str,
}

impl State {
    /// For messages and logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Pulling => "pulling its image",
            Self::Creating => "being created",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Killing => "being killed",
            Self::Exited(_) => "exited",
            Self::Removing(_) => "being removed",
            Self::Destroyed => "destroyed",
        }
    }

    /// The exit, once there is one.
    #[must_use]
    pub fn exit(&self) -> Option<&ExitRecord> {
        match self {
            Self::Exited(exit) | Self::Removing(Some(exit)) => Some(exit),
            Self::Absent
            | Self::Pulling
            | Self::Creating
            | Self::Running
            | Self::Stopping
            | Self::Killing
            | Self::Removing(None)
            | Self::Destroyed => None,
        }
    }

    /// True while a process of the task runs, as far as was observed.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        match self {
            Self::Running | Self::Stopping | Self::Killing => true,
            Self::Absent | Self::Pulling | Self::Creating | Self::Exited(_) | Self::Removing(_) | Self::Destroyed => {
                false
            }
        }
    }

    /// True while a start is under way.
    #[must_use]
    pub fn is_starting(&self) -> bool {
        matches!(self, Self::Pulling | Self::Creating)
    }
}

impl Effect {
    /// For the table in the documentation.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Create => "create",
            Self::CancelStart => "cancel the start",
            Self::Signal => "signal",
            Self::Kill => "kill",
            Self::RecordExit => "record the exit",
            Self::AnswerExit => "tell the exit",
            Self::Remove => "remove",
            Self::Finish => "finish",
        }
    }
}

impl Event {
    /// For messages and logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::StartAsked => "start",
            Self::ImageReady => "create",
            Self::StartFailed => "fail to start",
            Self::Started => "run",
            Self::Exited(_) => "exit",
            Self::StopAsked => "stop",
            Self::StopFailed => "fail to stop",
            Self::KillAsked => "kill",
            Self::DestroyAsked { force: false } => "destroy",
            Self::DestroyAsked { force: true } => "destroy by force",
            Self::Removed => "be removed",
            Self::RemoveFailed => "fail to be removed",
        }
    }
}

/// The next state and the effects, in order.
///
/// # Errors
/// [`Refused`] for a pair that makes no sense; the state stays.
pub fn step(state: &State, event: &Event) -> Result<(State, Vec<Effect>), Refused> {
    use Effect as F;
    use Event as E;
    use State as S;
    let refused = || {
        Err(Refused {
            state: state.name(),
            event: event.name(),
        })
    };
    let stay = || Ok((state.clone(), Vec::new()));
    match (state, event) {
        (S::Absent, E::StartAsked) => Ok((S::Pulling, vec![F::Pull])),
        // A start that is under way is joined.
        (S::Pulling | S::Creating, E::StartAsked) => stay(),
        (S::Pulling, E::ImageReady) => Ok((S::Creating, vec![F::Create])),
        (S::Pulling | S::Creating, E::StartFailed) => Ok((S::Absent, Vec::new())),
        // `Absent`: found running by a supervisor that has restarted or recovers the task.
        (S::Absent | S::Creating, E::Started) => Ok((S::Running, Vec::new())),
        (S::Running | S::Stopping | S::Killing, E::Started) => stay(),
        (S::Absent | S::Creating | S::Running | S::Stopping | S::Killing, E::Exited(exit)) => {
            Ok((S::Exited(exit.clone()), vec![F::RecordExit, F::AnswerExit]))
        }
        // The first exit that was seen is the one; it is told once.
        (S::Exited(_) | S::Removing(Some(_)) | S::Destroyed, E::Exited(_)) => stay(),
        (S::Removing(None), E::Exited(exit)) => Ok((S::Removing(Some(exit.clone())), vec![F::AnswerExit])),
        (S::Pulling, E::StopAsked) | (S::Pulling | S::Creating, E::KillAsked) => {
            Ok((S::Removing(None), vec![F::CancelStart, F::Remove]))
        }
        // Its process may run before the answer to the start says so: it is owed its signal, once it is known to run.
        (S::Creating, E::StopAsked) => stay(),
        (S::Running, E::StopAsked) => Ok((S::Stopping, vec![F::Signal])),
        (S::Stopping | S::Killing, E::StopAsked) => stay(),
        // No signal, no grace that could run out: the next to ask finds the task running.
        (S::Stopping, E::StopFailed) => Ok((S::Running, Vec::new())),
        // Killed or gone meanwhile.
        (S::Killing | S::Exited(_) | S::Removing(_) | S::Destroyed, E::StopFailed) => stay(),
        (S::Running | S::Stopping | S::Killing, E::KillAsked) => Ok((S::Killing, vec![F::Kill])),
        // Gone already: that is what was asked for.
        (S::Exited(_) | S::Removing(_) | S::Destroyed, E::StopAsked | E::KillAsked) => stay(),
        (S::Running | S::Stopping | S::Killing | S::Pulling | S::Creating, E::DestroyAsked { force: false }) => {
            refused()
        }
        (S::Pulling | S::Creating, E::DestroyAsked { force: true }) => {
            Ok((S::Removing(None), vec![F::CancelStart, F::Remove]))
        }
        (S::Absent | S::Running | S::Stopping | S::Killing, E::DestroyAsked { force: true })
        | (S::Absent, E::DestroyAsked { force: false }) => Ok((S::Removing(None), vec![F::Remove])),
        (S::Exited(exit), E::DestroyAsked { .. }) => Ok((S::Removing(Some(exit.clone())), vec![F::Remove])),
        (S::Removing(_), E::DestroyAsked { .. }) => stay(),
        (S::Destroyed, E::DestroyAsked { .. }) => stay(),
        (S::Removing(_), E::Removed) => Ok((S::Destroyed, vec![F::AnswerExit, F::Finish])),
        // Tried again by whoever asks next; what was observed stays known.
        (S::Removing(Some(exit)), E::RemoveFailed) => Ok((S::Exited(exit.clone()), Vec::new())),
        (S::Removing(None), E::RemoveFailed) => Ok((S::Absent, Vec::new())),
        (S::Running | S::Stopping | S::Killing | S::Exited(_) | S::Removing(_) | S::Destroyed, E::StartAsked) => {
            refused()
        }
        (
            S::Absent
            | S::Creating
            | S::Running
            | S::Stopping
            | S::Killing
            | S::Exited(_)
            | S::Removing(_)
            | S::Destroyed,
            E::ImageReady,
        ) => refused(),
        (
            S::Absent | S::Running | S::Stopping | S::Killing | S::Exited(_) | S::Removing(_) | S::Destroyed,
            E::StartFailed,
        ) => refused(),
        (S::Pulling | S::Exited(_) | S::Removing(_) | S::Destroyed, E::Started) => refused(),
        (S::Pulling, E::Exited(_)) => refused(),
        (S::Absent, E::StopAsked | E::KillAsked) => refused(),
        (S::Absent | S::Pulling | S::Creating | S::Running, E::StopFailed) => refused(),
        (
            S::Absent | S::Pulling | S::Creating | S::Running | S::Stopping | S::Killing | S::Exited(_) | S::Destroyed,
            E::Removed | E::RemoveFailed,
        ) => refused(),
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;

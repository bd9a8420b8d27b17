//! The transition table of [`super::state::step`], made by asking it: a row for each state, a column for each event.
//! `docs/architecture.md` has it; a test compares.

use super::state::{Event, State, step};
use crate::spec::record::ExitRecord;
use std::fmt::Write as _;

/// Every state there is, with an exit of no meaning where one belongs.
#[must_use]
pub fn states() -> Vec<State> {
    vec![
        State::Absent,
        State::Pulling,
        State::Creating,
        State::Running,
        State::Stopping,
        State::Killing,
        State::Exited(exit()),
        State::Removing(None),
        State::Removing(Some(exit())),
        State::Destroyed,
    ]
}

/// Every event there is.
#[must_use]
pub fn events() -> Vec<Event> {
    vec![
        Event::StartAsked,
        Event::ImageReady,
        Event::StartFailed,
        Event::Started,
        Event::Exited(exit()),
        Event::StopAsked,
        Event::StopFailed,
        Event::KillAsked,
        Event::DestroyAsked { force: false },
        Event::DestroyAsked { force: true },
        Event::Removed,
        Event::RemoveFailed,
    ]
}

fn exit() -> ExitRecord {
    ExitRecord {
        code: 0,
        oom: false,
        at: 0,
        lost: String::new(),
    }
}

fn name(state: &State) -> String {
    match state {
        State::Removing(None) => format!("{}, no exit seen", state.name()),
        State::Absent
        | State::Pulling
        | State::Creating
        | State::Running
        | State::Stopping
        | State::Killing
        | State::Exited(_)
        | State::Removing(Some(_))
        | State::Destroyed => state.name().to_owned(),
    }
}

/// The table as Markdown: for each event, where it leads from each state, and what is done. Pairs that are refused are
/// left out; those that change and do nothing are in one row.
#[must_use]
pub fn markdown() -> String {
    let mut out = String::from("| event | the task is | then it is | done |\n|---|---|---|---|\n");
    for event in events() {
        let mut idle = Vec::new();
        for state in states() {
            let Ok((next, effects)) = step(&state, &event) else {
                continue;
            };
            if next == state && effects.is_empty() {
                idle.push(name(&state));
                continue;
            }
            let effects: Vec<&str> = effects.iter().map(|effect| effect.name()).collect();
            // Writing to a string cannot fail.
            writeln!(
                out,
                "| {} | {} | {} | {} |",
                event.name(),
                name(&state),
                name(&next),
                effects.join(", ")
            )
            .ok();
        }
        if !idle.is_empty() {
            writeln!(out, "| {} | {} | the same | |", event.name(), idle.join("; ")).ok();
        }
    }
    out
}

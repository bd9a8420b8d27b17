//! The state machine under events in any order: what is promised whatever comes.

use super::*;
use crate::actors::task_supervisor::table::{events, states};
use proptest::prelude::*;

fn exit(code: i32) -> ExitRecord {
    ExitRecord {
        code,
        oom: false,
        at: 1,
        lost: String::new(),
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::StartAsked),
        Just(Event::ImageReady),
        Just(Event::StartFailed),
        Just(Event::Started),
        (0..256i32).prop_map(|c| Event::Exited(exit(c))),
        Just(Event::StopAsked),
        Just(Event::StopFailed),
        Just(Event::KillAsked),
        any::<bool>().prop_map(|force| Event::DestroyAsked { force }),
        Just(Event::Removed),
        Just(Event::RemoveFailed),
    ]
}

proptest! {
    #[test]
    fn first_exit_stands_until_the_end(events in prop::collection::vec(event(), 0..200)) {
        let mut state = State::Absent;
        let mut first: Option<ExitRecord> = None;
        let mut answered_with_exit = 0;
        for event in events {
            let Ok((next, effects)) = step(&state, &event) else { continue };
            if let (Some(known), Some(now)) = (&first, next.exit()) {
                prop_assert_eq!(known, now);
            }
            if let (None, Some(exit)) = (&first, next.exit()) {
                first = Some(exit.clone());
                prop_assert!(effects.contains(&Effect::AnswerExit));
                answered_with_exit += 1;
            }
            prop_assert!(answered_with_exit <= 1);
            state = next;
        }
    }

    #[test]
    fn nothing_is_done_after_the_end(events in prop::collection::vec(event(), 0..50)) {
        for event in events {
            if let Ok((next, effects)) = step(&State::Destroyed, &event) {
                prop_assert_eq!(next, State::Destroyed);
                prop_assert!(effects.is_empty());
            }
        }
    }

    #[test]
    fn destroy_without_force_never_removes_what_lives(events in prop::collection::vec(event(), 0..50)) {
        let mut state = State::Absent;
        for event in events {
            let before = state.clone();
            if let Ok((next, effects)) = step(&state, &event) {
                if event == (Event::DestroyAsked { force: false }) {
                    prop_assert!(!(before.is_alive() && effects.contains(&Effect::Remove)));
                }
                state = next;
            }
        }
    }
}

#[test]
fn a_stop_signal_that_could_not_be_sent_is_sent_again() {
    let (state, effects) = step(&State::Running, &Event::StopAsked).expect("running");
    assert_eq!((&state, effects), (&State::Stopping, vec![Effect::Signal]));
    let (state, effects) = step(&state, &Event::StopFailed).expect("stopping");
    assert_eq!((&state, effects), (&State::Running, Vec::new()));
    assert_eq!(
        step(&state, &Event::StopAsked),
        Ok((State::Stopping, vec![Effect::Signal]))
    );
    assert_eq!(
        step(&State::Killing, &Event::StopFailed),
        Ok((State::Killing, Vec::new()))
    );
}

#[test]
fn the_plain_life_of_a_task() {
    let mut state = State::Absent;
    let mut done = Vec::new();
    for event in [
        Event::StartAsked,
        Event::ImageReady,
        Event::Started,
        Event::StopAsked,
        Event::KillAsked,
        Event::Exited(exit(137)),
        Event::DestroyAsked { force: true },
        Event::Removed,
    ] {
        let (next, effects) = step(&state, &event).expect("a plain life has no refusals");
        state = next;
        done.extend(effects);
    }
    assert_eq!(state, State::Destroyed);
    use Effect as F;
    assert_eq!(
        done,
        [
            F::Pull,
            F::Create,
            F::Signal,
            F::Kill,
            F::RecordExit,
            F::AnswerExit,
            F::Remove,
            F::AnswerExit,
            F::Finish
        ]
    );
}

/// Nothing is asked of it that cannot be told apart in the table.
#[test]
fn every_state_and_every_event_is_in_the_table_once() {
    let kind = |state: &State| std::mem::discriminant(state);
    let mut kinds: Vec<_> = states().iter().map(kind).collect();
    kinds.dedup();
    // `Removing` is there with and without an exit.
    assert_eq!((kinds.len(), states().len()), (9, 10));
    let names: std::collections::BTreeSet<_> = events().iter().map(Event::name).collect();
    assert_eq!(names.len(), events().len());
}

proptest! {
    /// Whatever comes in whatever order: a process that is there is not forgotten, and one that is killed stays killed.
    #[test]
    fn a_task_that_runs_ends_only_by_its_exit_or_by_its_removal(events in prop::collection::vec(event(), 0..200)) {
        let mut state = State::Absent;
        for event in events {
            let Ok((next, effects)) = step(&state, &event) else { continue };
            if state.is_alive() && !next.is_alive() {
                prop_assert!(matches!(
                    event,
                    Event::Exited(_) | Event::DestroyAsked { force: true }
                ), "{} by {}", state.name(), event.name());
            }
            if state == State::Killing && event != (Event::DestroyAsked { force: true }) {
                prop_assert!(!effects.contains(&Effect::Signal));
                prop_assert!(next == State::Killing || next.exit().is_some());
            }
            state = next;
        }
    }

    /// Who stops or destroys is answered: each effect that begins something is in a state from which its end is possible.
    #[test]
    fn from_every_state_the_end_can_be_reached(events in prop::collection::vec(event(), 0..100)) {
        let mut state = State::Absent;
        for event in events {
            if let Ok((next, _)) = step(&state, &event) {
                state = next;
            }
        }
        if let Ok((next, _)) = step(&state, &Event::DestroyAsked { force: true }) {
            state = next;
        }
        let (end, effects) = match state {
            State::Destroyed => (State::Destroyed, vec![Effect::Finish]),
            other => step(&other, &Event::Removed).expect("a removal that was asked for can be over"),
        };
        prop_assert_eq!(end, State::Destroyed);
        prop_assert!(effects.contains(&Effect::Finish));
    }
}

//! Sequences that are always run: each call of a start, a command, a stop and a removal spoilt in each way, and what random
//! sequences have found.
//!
//! A sequence that failed is kept here as the test prints it, with what it was about; seeds alone mean another sequence as
//! soon as `plan` changes. Seeds that are to be looked at again all the same are in `proptest-regressions/faults`.

use std::time::Duration;

use testhost::fault_proxy::{Fate, Loss, Which};

use crate::plan::{Call, Kind, Sequence, Sig, Step, fates};

/// Calls of a start, in their order.
const START: [&str; 5] = [
    "Containers/Create",
    "Snapshots/Prepare",
    "Tasks/Create",
    "Tasks/Start",
    "Containers/Get",
];

/// Calls of a removal, in their order.
const REMOVAL: [&str; 6] = [
    "Containers/Get",
    "Tasks/Kill",
    "Tasks/Wait",
    "Tasks/Delete",
    "Snapshots/Remove",
    "Containers/Delete",
];

/// Calls of a command, in their order.
const COMMAND: [&str; 4] = ["Tasks/Exec", "Tasks/Start", "Tasks/Wait", "Tasks/DeleteProcess"];

fn sequence(first: Kind, steps: Vec<Step>) -> Sequence {
    Sequence {
        spoilt: None,
        first,
        steps,
    }
}

/// What a sequence is about, and the sequence.
pub fn all() -> Vec<(String, Sequence)> {
    let mut all = Vec::new();
    for fate in fates() {
        for method in START {
            let steps = vec![Step::Do(0, Call::Exec(3)), Step::Do(0, Call::Inspect)];
            let spoilt = Sequence {
                spoilt: Some((method, fate)),
                ..sequence(Kind::Obeys(7), steps)
            };
            all.push((format!("a start, {method} {fate:?}"), spoilt));
        }
        for method in COMMAND {
            let steps = vec![
                Step::Spoil(0, method, fate),
                Step::Do(0, Call::Exec(3)),
                Step::Do(0, Call::Exec(4)),
            ];
            all.push((format!("a command, {method} {fate:?}"), sequence(Kind::Obeys(7), steps)));
        }
        for method in REMOVAL {
            let steps = vec![Step::Spoil(0, method, fate), Step::Do(0, Call::Destroy { force: true })];
            all.push((format!("a removal, {method} {fate:?}"), sequence(Kind::Ignores, steps)));
        }
        // A stop does without containerd where it can.
        let steps = vec![
            Step::Spoil(0, "Tasks/Kill", fate),
            Step::Do(0, Call::Signal(Sig::Term)),
            Step::Do(0, Call::Stop(2000)),
            Step::Do(0, Call::Wait),
        ];
        all.push((
            format!("a signal and a stop, {fate:?}"),
            sequence(Kind::Obeys(7), steps),
        ));
        let steps = vec![
            Step::Spoil(0, "Containers/Update", fate),
            Step::Do(0, Call::Wait),
            Step::Restart,
            Step::Do(0, Call::Wait),
        ];
        all.push((
            format!("the record of an exit, {fate:?}"),
            sequence(Kind::Ends(5, 200), steps),
        ));
        // All tasks are recovered by one listing.
        let steps = vec![
            Step::SpoilAny("Tasks/List", fate),
            Step::Restart,
            Step::Do(0, Call::Inspect),
        ];
        all.push((format!("a recovery, {fate:?}"), sequence(Kind::Obeys(7), steps)));
    }
    all.extend(
        by_hand()
            .into_iter()
            .map(|(what, sequence)| (what.to_owned(), sequence)),
    );
    all
}

fn by_hand() -> Vec<(&'static str, Sequence)> {
    let silent = Fate::LoseAnswer(Loss::Silent);
    let late = Fate::DelayAnswer(Duration::from_millis(600));
    let force = Call::Destroy { force: true };
    vec![
        (
            "the events break off while a task ends",
            sequence(Kind::Ends(9, 100), vec![Step::CutStreams, Step::Do(0, Call::Wait)]),
        ),
        (
            "containerd is away while a task ends",
            sequence(Kind::Ends(9, 100), vec![Step::Refuse(700), Step::Do(0, Call::Wait)]),
        ),
        (
            "containerd hangs while a task is stopped, and the events break off",
            sequence(
                Kind::Obeys(7),
                vec![
                    Step::Hold(600),
                    Step::CutStreams,
                    Step::Do(0, Call::Stop(2000)),
                    Step::Do(0, Call::Wait),
                ],
            ),
        ),
        (
            "a task is made, late",
            Sequence {
                spoilt: Some(("Tasks/Create", late)),
                ..sequence(Kind::Obeys(7), vec![Step::Do(0, Call::Inspect)])
            },
        ),
        (
            "a task is stopped, and its exit recorded late",
            sequence(
                Kind::Obeys(7),
                vec![
                    Step::Spoil(0, "Containers/Update", late),
                    Step::Do(0, Call::Stop(2000)),
                    Step::Do(0, Call::Wait),
                ],
            ),
        ),
        (
            "stopped and destroyed at once, late",
            sequence(
                Kind::Ignores,
                vec![
                    Step::Spoil(0, "Tasks/Delete", late),
                    Step::Both(0, Call::Stop(200), 0, force),
                ],
            ),
        ),
        (
            "a command while its task is killed",
            sequence(
                Kind::Obeys(7),
                vec![
                    Step::Spoil(0, "Tasks/Exec", late),
                    Step::Both(0, Call::Exec(3), 0, Call::Signal(Sig::Kill)),
                    Step::Do(0, Call::Wait),
                ],
            ),
        ),
        (
            "the plugin is killed while containerd is away, and a task ends meanwhile",
            sequence(
                Kind::Ends(9, 300),
                vec![Step::Refuse(800), Step::Restart, Step::Do(0, Call::Wait)],
            ),
        ),
        (
            "a task told to be destroyed is destroyed twice",
            sequence(
                Kind::Obeys(7),
                vec![
                    Step::Spoil(0, "Containers/Delete", Fate::Twice(Which::Second)),
                    Step::Both(0, force, 0, force),
                ],
            ),
        ),
        (
            "the answer to a start of a process never comes",
            Sequence {
                spoilt: Some(("Tasks/Start", silent)),
                ..sequence(Kind::Obeys(7), vec![])
            },
        ),
        (
            "the answer to a removal never comes",
            sequence(
                Kind::Obeys(7),
                vec![Step::Spoil(0, "Tasks/Delete", silent), Step::Do(0, force)],
            ),
        ),
    ]
}

/// Seeds and numbers that are run again: two words a line, and after a number sign what it was about.
pub fn seeds() -> Vec<(u64, u64)> {
    let lines = include_str!("../../proptest-regressions/faults/sequences.txt").lines();
    lines
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty())
        .map(|line| {
            let (seed, case) = line.split_once(' ').expect("a seed and a number");
            (seed.parse().expect("a seed"), case.trim().parse().expect("a number"))
        })
        .collect()
}

//! What a sequence consists of. Pure; the same seed and number give the same sequence everywhere.

use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{BoxedStrategy, Just, Strategy, any};
use proptest::prop_oneof;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use testhost::fault_proxy::{Fate, Loss, Which};

/// Tasks that a sequence may have at a time.
pub const SLOTS: usize = 2;

/// What a task does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ends by itself with this code after so many milliseconds.
    Ends(i32, u64),
    /// Runs on; SIGTERM makes it end with this code, SIGUSR1 makes it say so.
    Obeys(i32),
    /// Runs on; only SIGKILL ends it.
    Ignores,
}

/// The signals that are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sig {
    Usr1,
    Term,
    Kill,
}

/// A call about the task of a slot. Without a task only `Start` does something, with one it does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Inspect,
    Wait,
    Stats,
    Recover,
    /// A command that ends with this code.
    Exec(i32),
    Signal(Sig),
    /// With a grace of so many milliseconds.
    Stop(u64),
    Destroy {
        force: bool,
    },
    Start(Kind),
}

/// One step. Milliseconds where there is a number.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A call about the task of a slot.
    Do(usize, Call),
    /// Two calls at once, about one task or two.
    Both(usize, Call, usize, Call),
    /// The next call of that method to containerd about the task of the slot (or about the next one there) fares ill.
    Spoil(usize, &'static str, Fate),
    /// The next call of that method to containerd fares ill, whatever it is about. Kept sequences alone.
    SpoilAny(&'static str, Fate),
    /// All connections to containerd are cut.
    Cut,
    /// The events of containerd break off.
    CutStreams,
    /// All connections are cut, and new ones refused for so long.
    Refuse(u64),
    /// containerd hangs for so long.
    Hold(u64),
    /// The plugin is killed, launched again, and every task is recovered.
    Restart,
}

/// A sequence. It begins with a start in slot 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// In effect from the first start on: method and fate.
    pub spoilt: Option<(&'static str, Fate)>,
    pub first: Kind,
    pub steps: Vec<Step>,
}

/// The unary calls to containerd that are about one task.
pub const METHODS: [&str; 15] = [
    "Containers/Get",
    "Tasks/Get",
    "Containers/Create",
    "Snapshots/Prepare",
    "Tasks/Create",
    "Tasks/Start",
    "Containers/Update",
    "Tasks/Kill",
    "Tasks/Wait",
    "Tasks/Delete",
    "Snapshots/Remove",
    "Containers/Delete",
    "Tasks/Exec",
    "Tasks/ListPids",
    "Tasks/DeleteProcess",
];

/// The ways in which a call can fare ill but for silence, which takes a deadline's time each.
pub fn fates() -> Vec<Fate> {
    vec![
        Fate::LoseRequest(Loss::Reset),
        Fate::LoseAnswer(Loss::Reset),
        Fate::Twice(Which::First),
        Fate::Twice(Which::Second),
        Fate::CutBefore,
        Fate::CutAfter,
    ]
}

fn kind() -> BoxedStrategy<Kind> {
    prop_oneof![
        3 => (1_i32..100).prop_map(Kind::Obeys),
        3 => (0_i32..100, 0_u64..400).prop_map(|(code, after)| Kind::Ends(code, after)),
        1 => Just(Kind::Ignores),
    ]
    .boxed()
}

fn fate() -> BoxedStrategy<Fate> {
    let delay = (20_u64..900).prop_map(Duration::from_millis);
    prop_oneof![
        10 => delay.clone().prop_map(Fate::DelayAnswer),
        10 => delay.prop_map(Fate::DelayRequest),
        60 => select(fates()),
        1 => Just(Fate::LoseRequest(Loss::Silent)),
        1 => Just(Fate::LoseAnswer(Loss::Silent)),
    ]
    .boxed()
}

fn call() -> BoxedStrategy<Call> {
    prop_oneof![
        3 => Just(Call::Inspect),
        3 => Just(Call::Wait),
        1 => Just(Call::Stats),
        1 => Just(Call::Recover),
        3 => (0_i32..100).prop_map(Call::Exec),
        2 => select(vec![Sig::Usr1, Sig::Term, Sig::Kill]).prop_map(Call::Signal),
        3 => select(vec![0_u64, 200, 2000]).prop_map(Call::Stop),
        3 => any::<bool>().prop_map(|force| Call::Destroy { force }),
        3 => kind().prop_map(Call::Start),
    ]
    .boxed()
}

fn slot() -> BoxedStrategy<usize> {
    prop_oneof![3 => Just(0_usize), 1 => Just(1)].boxed()
}

fn step() -> BoxedStrategy<Step> {
    prop_oneof![
        24 => (slot(), call()).prop_map(|(slot, call)| Step::Do(slot, call)),
        8 => (slot(), call(), slot(), call()).prop_map(|(a, first, b, second)| Step::Both(a, first, b, second)),
        16 => (slot(), select(METHODS.to_vec()), fate()).prop_map(|(slot, method, fate)| Step::Spoil(slot, method, fate)),
        1 => Just(Step::Cut),
        1 => Just(Step::CutStreams),
        1 => (50_u64..800).prop_map(Step::Refuse),
        1 => (50_u64..800).prop_map(Step::Hold),
        1 => Just(Step::Restart),
    ]
    .boxed()
}

fn sequence() -> BoxedStrategy<Sequence> {
    let spoilt = option::weighted(0.5, (select(METHODS.to_vec()), fate()));
    (spoilt, kind(), vec(step(), 1..8))
        .prop_map(|(spoilt, first, steps)| Sequence { spoilt, first, steps })
        .boxed()
}

/// Sequence `case` of a seed, with the ways to a shorter one.
pub fn draw(seed: u64, case: u64) -> impl ValueTree<Value = Sequence> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&case.to_le_bytes());
    let config = Config {
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    sequence().new_tree(&mut runner).expect("no sequence is rejected")
}

#[test]
fn a_seed_and_a_number_give_one_sequence() {
    assert_eq!(draw(1, 2).current(), draw(1, 2).current());
    assert_ne!(draw(1, 2).current(), draw(1, 3).current());
    assert_ne!(draw(1, 2).current(), draw(2, 2).current());
}

#[test]
fn three_hundred_sequences_have_every_call_every_method_and_every_kind_of_fate() {
    let all: Vec<Sequence> = (0..300).map(|case| draw(crate::random::SEED, case).current()).collect();
    let text = format!("{all:?}");
    for method in METHODS {
        assert!(text.contains(&format!("{method:?}")), "{method}");
    }
    for word in [
        "Inspect)",
        "Wait)",
        "Stats)",
        "Recover)",
        "Exec(",
        "Signal(Usr1)",
        "Signal(Term)",
        "Signal(Kill)",
        "Stop(",
        "force: true",
        "force: false",
        "Start(",
        "Both(",
        "Cut,",
        "CutStreams",
        "Refuse",
        "Hold",
        "Restart",
        "DelayRequest",
        "DelayAnswer",
        "Silent",
        "LoseRequest",
        "LoseAnswer",
        "Twice(First)",
        "Twice(Second)",
        "CutBefore",
        "CutAfter",
    ] {
        assert!(text.contains(word), "{word}");
    }
}

//! Many sequences, some at a time, against one plugin; and the shortest of one that fails.

use std::collections::VecDeque;
use std::env;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proptest::strategy::ValueTree;
use testhost::stack::on_a_large_stack;

use crate::field::{Field, lock};
use crate::kept;
use crate::life::{self, Verdict};
use crate::plan::{Sequence, draw};

/// The seed of an ordinary run; other ones find other things.
pub const SEED: u64 = 20_260_101;

/// Sequences of an ordinary run.
const CASES: u64 = 300;

/// Sequences at a time: each mostly waits for containerd and runc.
const LANES: usize = 10;

/// What happens to calls and connections, as the proxy counts it.
const KINDS: [&str; 9] = [
    "delayed",
    "request lost",
    "answer lost",
    "made twice",
    "cut by a call",
    "cut",
    "refused",
    "held",
    "stream cut",
];

/// So many sequences have every kind of fault.
const MANY: usize = 100;

/// One kept sequence in so many may miss the call that it is about.
const MISSED: usize = 8;

/// How long a shorter sequence is looked for.
const SHORTEN: Duration = Duration::from_secs(120);

fn number(name: &str) -> Option<u64> {
    match env::var(name).as_deref() {
        Ok("now") => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
            Some(u64::from(now.subsec_nanos()) ^ now.as_secs())
        }
        Ok(text) => Some(
            text.parse()
                .unwrap_or_else(|_| panic!("{name} is {text:?}: a number is expected")),
        ),
        Err(_) => None,
    }
}

/// A sequence to run: its name, itself, and where it comes from if it was drawn.
struct Job {
    name: String,
    sequence: Sequence,
    drawn: Option<(u64, u64)>,
}

impl Job {
    fn drawn(seed: u64, case: u64) -> Job {
        Job {
            name: format!("FAULTS_SEED={seed} FAULTS_CASE={case}"),
            sequence: draw(seed, case).current(),
            drawn: Some((seed, case)),
        }
    }
}

/// What a run came to.
#[derive(Default)]
struct Tally {
    done: u64,
    starts: (u32, u32),
    orphans: u32,
    /// What was to fare ill in which sequences, and did not come.
    unused: Vec<String>,
    failed: Option<(Job, Verdict)>,
}

/// Runs all, some at a time, until one fails.
async fn run(field: &Field, jobs: Vec<Job>, lanes: usize) -> Tally {
    let jobs = Mutex::new(VecDeque::from(jobs));
    let tally = Mutex::new(Tally::default());
    let lane = || async {
        loop {
            if lock(&tally).failed.is_some() {
                return;
            }
            let Some(job) = lock(&jobs).pop_front() else { return };
            // A sequence is a large future: on the heap, since the lanes lie beside one another on one stack.
            let verdict = Box::pin(life::run(field, &job.sequence)).await;
            let mut tally = lock(&tally);
            tally.done += 1;
            tally.starts.0 += verdict.starts.0;
            tally.starts.1 += verdict.starts.1;
            tally.orphans += verdict.orphans;
            if verdict.unused > 0 {
                tally.unused.push(job.name.clone());
            }
            if verdict.failure.is_some() && tally.failed.is_none() {
                tally.failed = Some((job, verdict));
            }
        }
    };
    futures_util::future::join_all((0..lanes).map(|_| lane())).await;
    tally.into_inner().unwrap_or_default()
}

/// The sequence again by itself, on a field of its own.
async fn alone(sequence: &Sequence) -> Verdict {
    let field = Box::pin(Field::new()).await;
    Box::pin(life::run(&field, sequence)).await
}

/// The shortest sequence found that fails by itself, in the time there is.
async fn shortest(seed: u64, case: u64) -> Option<(Sequence, Verdict)> {
    let end = Instant::now() + SHORTEN;
    let mut tree = draw(seed, case);
    let verdict = alone(&tree.current()).await;
    verdict.failure.as_ref()?;
    let mut best = (tree.current(), verdict);
    let mut more = tree.simplify();
    while more && Instant::now() < end {
        let verdict = alone(&tree.current()).await;
        more = match verdict.failure.is_some() {
            true => {
                best = (tree.current(), verdict);
                tree.simplify()
            }
            false => tree.complicate(),
        };
    }
    Some(best)
}

fn told(verdict: &Verdict) -> String {
    format!(
        "{}\n  {}",
        verdict.failure.as_deref().unwrap_or_default(),
        verdict.trace.join("\n  ")
    )
}

/// Fails with everything that is known of a sequence that failed.
async fn explain(field: Field, job: Job, verdict: Verdict) -> ! {
    let (words, about) = (field.last_words().await, field.words_about(&verdict.names).await);
    drop(field);
    let (name, sequence) = (job.name, job.sequence);
    let by_itself = match job.drawn {
        Some((seed, case)) => shortest(seed, case).await,
        None => {
            let verdict = alone(&sequence).await;
            verdict.failure.is_some().then(|| (sequence.clone(), verdict))
        }
    };
    let by_itself = match by_itself {
        Some((shortest, verdict)) => format!("the shortest that fails by itself: {shortest:#?}\n{}", told(&verdict)),
        None => "by itself it does not fail".to_owned(),
    };
    panic!(
        "{name}: {}\n{sequence:#?}\n{by_itself}\nof its tasks:\n{about}\nthe plugin's last words:\n{words}",
        told(&verdict)
    );
}

/// Runs all and says in which sequences something was to fare ill that did not come.
async fn all(jobs: Vec<Job>, lanes: usize) -> Vec<String> {
    let (begun, many) = (Instant::now(), jobs.len() >= MANY);
    let field = Box::pin(Field::new()).await;
    let tally = run(&field, jobs, lanes).await;
    println!(
        "{} sequences in {:?}: {} starts answered with a task, {} with an error ({} of these left something to the reaper); faults: {:?}",
        tally.done,
        begun.elapsed(),
        tally.starts.0,
        tally.starts.1,
        tally.orphans,
        field.proxy.applied()
    );
    if let Some((job, verdict)) = tally.failed {
        Box::pin(explain(field, job, verdict)).await;
    }
    if let Err(failure) = field.settled().await {
        panic!("after all sequences: {failure}\n{}", field.last_words().await);
    }
    let applied = field.proxy.applied();
    let missing: Vec<_> = KINDS.iter().filter(|kind| !applied.contains_key(*kind)).collect();
    assert!(
        !many || missing.is_empty(),
        "no call or connection was {missing:?}: {applied:?}"
    );
    assert!(
        tally.starts.0 > tally.starts.1,
        "most starts fail: nothing is shown of tasks that run"
    );
    tally.unused
}

#[test]
fn each_call_may_fare_ill_in_each_way() {
    if number("FAULTS_CASE").is_some() {
        println!("only the drawn sequence is run");
        return;
    }
    let jobs = kept::all().into_iter().map(|(name, sequence)| Job {
        name,
        sequence,
        drawn: None,
    });
    let jobs: Vec<Job> = jobs.collect();
    let count = jobs.len();
    on_a_large_stack(move || async move {
        let unused = all(jobs, LANES).await;
        // Some never come since a fault of another sequence made the plugin go another way. If it is more, the plugin has left
        // the way that a sequence is about.
        assert!(
            unused.len() * MISSED <= count,
            "in {} of {count} sequences nothing fared ill: {unused:#?}",
            unused.len()
        );
    });
}

#[test]
fn random_sequences_end_without_hang_panic_leak_or_lie() {
    let seed = number("FAULTS_SEED").unwrap_or(SEED);
    let count = number("FAULTS_CASES").unwrap_or(CASES);
    println!("FAULTS_SEED={seed}");
    let (jobs, lanes) = match number("FAULTS_CASE") {
        Some(case) => (vec![Job::drawn(seed, case)], 1),
        None => {
            let kept = kept::seeds().into_iter().map(|(seed, case)| Job::drawn(seed, case));
            (
                kept.chain((0..count).map(|case| Job::drawn(seed, case))).collect(),
                LANES,
            )
        }
    };
    on_a_large_stack(move || async move { drop(all(jobs, lanes).await) });
}

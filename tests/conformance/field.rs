//! One bench for the cases of a group: those that leave each other alone run at once, the others after them one by one.

use crate::bench::{Bench, holdings, kind, words};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use serde_json::{Value as Json, json};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::time::Instant;
use testhost::ledger::{Outcome, note};
use testhost::rig::RigOpts;

/// Cases that run at once. Most of them wait for a task most of the time.
const AT_ONCE: usize = 6;

/// What a case says of itself; a case that returns nothing has shown what it promises.
pub struct Verdict(Outcome);

impl From<()> for Verdict {
    fn from((): ()) -> Verdict {
        Verdict(Outcome::Shown)
    }
}

/// The answer of a case that cannot be on this combination.
pub fn not_here(why: impl Into<String>) -> Verdict {
    Verdict(Outcome::NotHere(why.into()))
}

/// The answer of a case that may also be impossible.
pub fn shown() -> Verdict {
    Verdict(Outcome::Shown)
}

/// A boxed case.
pub type Running<'a> = Pin<Box<dyn Future<Output = Verdict> + 'a>>;

/// A case that shares the bench.
pub type Together = (&'static str, for<'a> fn(&'a Bench) -> Running<'a>);

/// A case that has the bench for itself.
pub type Alone = (&'static str, for<'a> fn(&'a mut Bench) -> Running<'a>);

/// The runtime that all tasks have: `CD_RUNTIME`, `runc` where nothing is said.
pub fn runtime() -> String {
    match std::env::var("CD_RUNTIME").as_deref() {
        Ok("crun") => "crun".to_owned(),
        Ok("runc" | "") | Err(_) => "runc".to_owned(),
        Ok(other) => panic!("CD_RUNTIME is runc or crun, not {other:?}"),
    }
}

/// A bench whose operator has these settings, with the runtime under test.
pub async fn operated(config: Json) -> Bench {
    let mut opts = RigOpts::new(kind()).expect("CD_DRIVER_BIN");
    opts.config = config;
    if runtime() == "crun" {
        opts.config["containerd_runtime"] = json!("crun");
        // crun takes the empty unified hierarchy beside version 1 for a machine with version 2.
        opts.without_unified = true;
    }
    // A task or two first, so that what is made once is there before anything is counted.
    Bench::with(opts).await
}

/// An operator who consents to everything that the Go driver allowed and to what its successors can do besides.
pub fn consent() -> Json {
    json!({
        "security_profile": "go-driver",
        "allow_runtimes": ["*"],
        "allowed_modes": { "pid": ["host"], "ipc": ["host"], "uts": ["host"], "cgroup": ["host"], "network": ["host"] },
        "allow_unconfined": ["seccomp", "apparmor", "systempaths"],
    })
}

/// The cases of one group on one bench, and how they ended.
pub struct Group {
    bench: Bench,
    begun: Instant,
    ended: Vec<(&'static str, Outcome)>,
    left: Vec<String>,
}

fn wanted(name: &str) -> bool {
    std::env::var("CD_CASE").map_or(true, |filter| name.contains(&filter))
}

async fn judged(name: &'static str, case: Running<'_>) -> (&'static str, Outcome) {
    let begin = Instant::now();
    let outcome = match AssertUnwindSafe(case).catch_unwind().await {
        Ok(Verdict(outcome)) => outcome,
        Err(panic) => Outcome::Failed(words(&*panic)),
    };
    println!("  {name} … {outcome:?} ({:.1} s)", begin.elapsed().as_secs_f64());
    (name, outcome)
}

impl Group {
    pub fn on(bench: Bench) -> Group {
        Group {
            bench,
            begun: Instant::now(),
            ended: Vec::new(),
            left: Vec::new(),
        }
    }

    /// Runs these at once, a few at a time, and counts what is left of all.
    pub async fn together(&mut self, cases: &[Together]) {
        let cases: Vec<_> = cases.iter().filter(|(name, _)| wanted(name)).collect();
        if cases.is_empty() {
            return;
        }
        let before = self.bench.rig.scope().take().await.expect("census");
        let pid = self.bench.rig.plugin().pid();
        let held = holdings(pid);
        let bench = &self.bench;
        let running = stream::iter(cases).map(|(name, case)| judged(name, case(bench)));
        let ended: Vec<_> = running.buffer_unordered(AT_ONCE).collect().await;
        let left = self.bench.left(&before, (pid, &held)).await;
        self.took(ended, left);
    }

    /// Runs one that changes the bench, and counts what is left of it.
    pub async fn alone(&mut self, (name, case): Alone) {
        if !wanted(name) {
            return;
        }
        let before = self.bench.rig.scope().take().await.expect("census");
        let pid = self.bench.rig.plugin().pid();
        let held = holdings(pid);
        let ended = judged(name, case(&mut self.bench)).await;
        let left = self.bench.left(&before, (pid, &held)).await;
        self.took(vec![ended], left);
    }

    /// What was left cannot be told apart. It is laid to those that failed, which did not come to their end; where none did,
    /// none of the cases that may have left it counts as shown.
    fn took(&mut self, ended: Vec<(&'static str, Outcome)>, left: Vec<String>) {
        let broken = ended.iter().any(|(_, outcome)| matches!(outcome, Outcome::Failed(_)));
        for (name, outcome) in ended {
            let outcome = match outcome {
                Outcome::Shown if !left.is_empty() && !broken => {
                    Outcome::Failed(format!("left behind: {}", left.join(", ")))
                }
                other => other,
            };
            self.ended.push((name, outcome));
        }
        self.left.extend(left);
    }

    /// Writes all down and fails if one failed.
    pub fn finish(self) {
        let on = self.bench.combination();
        for (name, outcome) in &self.ended {
            note("conformance", name, &on, outcome).expect("the ledger");
        }
        println!(
            "  {} cases in {:.1} s",
            self.ended.len(),
            self.begun.elapsed().as_secs_f64()
        );
        let failed: Vec<String> = self
            .ended
            .iter()
            .filter_map(|(name, outcome)| match outcome {
                Outcome::Failed(why) => Some(format!("{name}: {why}")),
                Outcome::Shown | Outcome::NotHere(_) => None,
            })
            .chain(self.left)
            .collect();
        assert!(failed.is_empty(), "{}", failed.join("\n"));
        self.bench.finish();
    }
}

/// Declares a group: the names of its cases as a constant, and the test that runs them.
macro_rules! group {
    ($name:ident, $names:ident, $bench:expr, together { $($case:ident),* $(,)? } alone { $($alone:ident),* $(,)? }) => {
        pub const $names: &[&str] = &[$(stringify!($case),)* $(stringify!($alone),)*];

        #[test]
        fn $name() {
            testhost::stack::on_a_large_stack(|| async {
                let mut group = crate::field::Group::on($bench.await);
                let together: &[crate::field::Together] = &[$((stringify!($case), |b| {
                    Box::pin(async move { crate::field::Verdict::from($case(b).await) })
                }),)*];
                group.together(together).await;
                $(group.alone((stringify!($alone), |b| {
                    Box::pin(async move { crate::field::Verdict::from($alone(b).await) })
                })).await;)*
                group.finish();
            });
        }
    };
}
pub(crate) use group;

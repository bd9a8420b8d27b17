//! One sequence, carried out and judged, with all of it cleared away at the end.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use testhost::alloc::Alloc;
use testhost::fault_proxy::{Fate, Rule};

use crate::calls::{self, Live};
use crate::field::{Field, lock};
use crate::plan::{Call, Kind, SLOTS, Sequence, Step};

/// How long after the last fault a removal may still fail.
const CLEARED: Duration = Duration::from_secs(60);

/// Between two attempts.
const AGAIN: Duration = Duration::from_millis(200);

/// How a sequence went.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// What was wrong; `None` if nothing.
    pub failure: Option<String>,
    /// Steps and what came of them.
    pub trace: Vec<String>,
    /// Starts that were answered with a task, and with an error.
    pub starts: (u32, u32),
    /// Starts that failed, whose plugin process was killed before it had removed what they had made: a reaper's work.
    pub orphans: u32,
    /// Calls that were to fare ill and were never made.
    pub unused: usize,
    /// The allocations whose tasks it had.
    pub names: Vec<String>,
}

struct Slot {
    /// Of the task, or of the one to come.
    alloc: Arc<Alloc>,
    live: Option<Arc<Live>>,
    /// A start is under way.
    taken: bool,
}

/// A start that was answered with an error.
#[derive(Clone)]
struct Failed {
    id: String,
    alloc: Arc<Alloc>,
    /// The plugin process that gave the answer.
    launch: u64,
}

struct Life<'a> {
    field: &'a Field,
    slots: [Mutex<Slot>; SLOTS],
    /// Every task that was started, and the ids of those that were not.
    lives: Mutex<Vec<Arc<Live>>>,
    failed: Mutex<Vec<Failed>>,
    verdict: Mutex<Verdict>,
}

/// Carries a sequence out. A panic of the host's own checks is a failure like any other.
pub async fn run(field: &Field, sequence: &Sequence) -> Verdict {
    let allocs = {
        let rig = field.rig.read().await;
        [(); SLOTS].map(|()| rig.alloc())
    };
    let life = Life {
        field,
        slots: allocs.map(|alloc| {
            Mutex::new(Slot {
                alloc,
                live: None,
                taken: false,
            })
        }),
        lives: Mutex::default(),
        failed: Mutex::default(),
        verdict: Mutex::default(),
    };
    let steps = caught(life.steps(sequence)).await;
    // Also after a failure: the next sequence finds a clean field, and a shorter one may be looked for.
    let finish = caught(life.finish(steps.is_ok())).await;
    let mut verdict = life.verdict.into_inner().unwrap_or_default();
    verdict.failure = steps.and(finish).err();
    verdict
}

async fn caught(work: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|panic| {
        let words = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", words.unwrap_or_default()))
    })
}

impl Life<'_> {
    async fn steps(&self, sequence: &Sequence) -> Result<(), String> {
        if let Some((method, fate)) = sequence.spoilt {
            self.spoil(0, method, fate);
        }
        self.call(0, Call::Start(sequence.first)).await?;
        for step in &sequence.steps {
            self.step(step).await?;
        }
        Ok(())
    }

    fn note(&self, line: String) {
        lock(&self.verdict).trace.push(line);
    }

    fn spoil(&self, slot: usize, method: &'static str, fate: Fate) {
        self.note(format!("spoil {method} of slot {slot}: {fate:?}"));
        self.field.proxy.arm(Rule {
            method,
            needle: lock(&self.slots[slot]).alloc.id().to_owned(),
            fate,
        });
    }

    async fn step(&self, step: &Step) -> Result<(), String> {
        let proxy = &self.field.proxy;
        match step {
            Step::Do(slot, call) => return self.call(*slot, *call).await,
            Step::Both(a, first, b, second) => {
                let (first, second) = tokio::join!(self.call(*a, *first), self.call(*b, *second));
                return first.and(second);
            }
            Step::Spoil(slot, method, fate) => self.spoil(*slot, method, *fate),
            Step::SpoilAny(method, fate) => {
                self.note(format!("spoil the next {method}: {fate:?}"));
                proxy.arm(Rule {
                    method,
                    needle: String::new(),
                    fate: *fate,
                });
            }
            Step::Cut => proxy.cut(),
            Step::CutStreams => proxy.cut_streams(),
            Step::Refuse(ms) => proxy.refuse(Duration::from_millis(*ms)),
            Step::Hold(ms) => proxy.hold(Duration::from_millis(*ms)),
            Step::Restart => {
                let done = self.field.restart().await?;
                self.note(format!("restart: {}", if done { "done" } else { "never quiet" }));
            }
        }
        Ok(())
    }

    async fn call(&self, slot: usize, call: Call) -> Result<(), String> {
        if let Call::Start(kind) = call {
            return self.start(slot, kind).await;
        }
        let Some(live) = lock(&self.slots[slot]).live.clone() else {
            return Ok(());
        };
        let begun = Instant::now();
        let outcome = calls::call(self.field, &live, call).await;
        self.note(format!(
            "{call:?} in slot {slot}: {outcome:?} after {:?}",
            begun.elapsed()
        ));
        if outcome? {
            self.vacate(slot).await;
        }
        Ok(())
    }

    /// The slot has room for another task, in an allocation of its own.
    async fn vacate(&self, slot: usize) {
        let alloc = self.field.rig.read().await.alloc();
        let mut slot = lock(&self.slots[slot]);
        slot.live = None;
        slot.taken = false;
        slot.alloc = alloc;
    }

    async fn start(&self, slot: usize, kind: Kind) -> Result<(), String> {
        let alloc = {
            let mut slot = lock(&self.slots[slot]);
            if std::mem::replace(&mut slot.taken, true) {
                return Ok(());
            }
            slot.alloc.clone()
        };
        let begun = Instant::now();
        let outcome = calls::start(self.field, alloc.clone(), kind).await;
        let said = outcome
            .as_ref()
            .map(|started| started.as_ref().map(|live| live.task.id()));
        self.note(format!(
            "start {kind:?} in slot {slot}: {said:?} after {:?}",
            begun.elapsed()
        ));
        match outcome? {
            Ok(live) => {
                lock(&self.verdict).starts.0 += 1;
                lock(&self.lives).push(live.clone());
                lock(&self.slots[slot]).live = Some(live);
            }
            Err(id) => {
                lock(&self.verdict).starts.1 += 1;
                let launch = self.field.launch();
                lock(&self.failed).push(Failed { id, alloc, launch });
                self.vacate(slot).await;
            }
        }
        Ok(())
    }

    /// No more faults of its own: what has to have happened has happened, and all of it can be removed.
    async fn finish(&self, judge: bool) -> Result<(), String> {
        let lives = lock(&self.lives).clone();
        let failed = lock(&self.failed).clone();
        let slots = self.slots.iter().map(|slot| lock(slot).alloc.id().to_owned());
        let names: Vec<String> = lives
            .iter()
            .map(|live| live.task.alloc.id().to_owned())
            .chain(failed.iter().map(|start| start.alloc.id().to_owned()))
            .chain(slots)
            .collect();
        lock(&self.verdict).names.clone_from(&names);
        for name in &names {
            let unused = self.field.proxy.disarm(name);
            lock(&self.verdict).unused += unused;
        }
        let mut judged = Ok(());
        if judge {
            for live in lives.iter().filter(|live| !live.facts().destroy) {
                judged = judged.and(self.judge(live).await);
            }
        }
        for start in &failed {
            judged = judged.and(self.undone(start).await);
        }
        lives.iter().for_each(|live| live.give_up());
        let ids = lives.iter().map(|live| live.task.id().to_owned());
        for id in ids.chain(failed.into_iter().map(|start| start.id)) {
            judged = judged.and(self.clear(&id).await);
        }
        for live in &lives {
            // Forgets its handle, too: the next restart does not recover it.
            judged = judged.and(self.once_only(live).await);
        }
        let left = self.field.left_of(&names).await?;
        if !left.is_empty() {
            judged = judged.and(Err(format!("left behind: {left:#?}")));
        }
        judged.and(self.field.healthy().await)
    }

    /// At rest, a task that was told to end has ended and one that was not runs.
    async fn judge(&self, live: &Live) -> Result<(), String> {
        calls::call(self.field, live, Call::Wait).await?;
        calls::call(self.field, live, Call::Inspect).await?;
        let facts = live.facts();
        if !facts.may_have_ended() && live.processes().is_empty() {
            return Err(format!("a task that nobody stopped has no process; {facts:?}"));
        }
        Ok(())
    }

    /// A start that failed leaves nothing, without being asked: the host destroys no task that it never had. What a plugin
    /// process owes dies with it, and is a reaper's work then.
    async fn undone(&self, start: &Failed) -> Result<(), String> {
        let left = self.field.left_of(&[start.alloc.id().to_owned()]).await?;
        match (left.is_empty(), self.field.launch() == start.launch) {
            (true, _) => Ok(()),
            (false, true) => Err(format!("left behind by a start that failed, {}: {left:#?}", start.id)),
            (false, false) => {
                lock(&self.verdict).orphans += 1;
                Ok(())
            }
        }
    }

    /// Removes whatever there is of a task. Faults of other sequences go on meanwhile.
    async fn clear(&self, id: &str) -> Result<(), String> {
        let end = Instant::now() + CLEARED;
        loop {
            match calls::destroy_by_name(self.field, id).await? {
                Ok(()) => return Ok(()),
                Err(status) if Instant::now() > end => {
                    return Err(format!(
                        "{id} cannot be destroyed {CLEARED:?} after the last fault: {status:?}"
                    ));
                }
                Err(status) => self.note(format!("DestroyTask {id}: {status:?}")),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// The process of a task that was started has run once.
    async fn once_only(&self, live: &Live) -> Result<(), String> {
        let end = Instant::now() + CLEARED;
        loop {
            // Idempotent, and the way in which the rig forgets a handle. Faults of other sequences go on meanwhile.
            let rig = self.field.rig.read().await;
            let answer = live.task.destroy(true).await;
            drop(rig);
            match answer {
                Ok(()) => break,
                Err(status) if Instant::now() > end => {
                    return Err(format!("DestroyTask of what is gone: {status:?}"));
                }
                Err(status) => self.note(format!("DestroyTask of what is gone: {status:?}")),
            }
            tokio::time::sleep(AGAIN).await;
        }
        let ready = live.task.lines().iter().filter(|line| *line == "ready").count();
        match ready {
            1 => Ok(()),
            n => Err(format!("the process of {} has run {n} times", live.task.id())),
        }
    }
}

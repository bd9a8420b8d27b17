//! What the proxy is told to do, and how often it has done what.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::stage::Understudy;

/// How a message is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The call breaks off: the caller learns at once that it will get no answer.
    Reset,
    /// Nothing comes any more: the caller has to give up by itself.
    Silent,
}

/// Which of two answers is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// To the request that was sent first.
    First,
    /// To the one that was sent second; often "already exists" or "not found".
    Second,
}

/// What becomes of one unary call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Made later.
    DelayRequest(Duration),
    /// Made at once, answered later.
    DelayAnswer(Duration),
    /// Never made.
    LoseRequest(Loss),
    /// Made, and never answered.
    LoseAnswer(Loss),
    /// Made twice, the second time as soon as the first is on its way.
    Twice(Which),
    /// Not made: the connection is cut instead.
    CutBefore,
    /// Made; the connection is cut when the answer is there.
    CutAfter,
}

impl Fate {
    /// For counting.
    fn name(self) -> &'static str {
        match self {
            Fate::DelayRequest(_) | Fate::DelayAnswer(_) => "delayed",
            Fate::LoseRequest(_) => "request lost",
            Fate::LoseAnswer(_) => "answer lost",
            Fate::Twice(_) => "made twice",
            Fate::CutBefore | Fate::CutAfter => "cut by a call",
        }
    }
}

/// One call that fares ill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// End of the call's path, as in `Tasks/Create`; empty for any unary call.
    pub method: &'static str,
    /// What the request has to contain; empty for any.
    pub needle: String,
    pub fate: Fate,
}

impl Rule {
    fn fits(&self, path: &str, body: &[u8]) -> bool {
        path.ends_with(self.method)
            && (self.needle.is_empty() || body.windows(self.needle.len()).any(|w| w == self.needle.as_bytes()))
    }
}

/// How often what has happened, by name.
pub type Applied = BTreeMap<&'static str, u64>;

/// How many calls, by the end of their paths.
pub type Calls = BTreeMap<String, u64>;

/// See the module.
pub(super) struct Desk {
    calls: Mutex<Calls>,
    understudy: Option<Arc<dyn Understudy>>,
    rules: Mutex<Vec<Rule>>,
    applied: Mutex<Applied>,
    cuts: watch::Sender<u64>,
    stream_cuts: watch::Sender<u64>,
    refusals: watch::Sender<Instant>,
    held_until: Mutex<Instant>,
}

impl Default for Desk {
    fn default() -> Self {
        Desk {
            calls: Mutex::default(),
            understudy: None,
            rules: Mutex::default(),
            applied: Mutex::default(),
            cuts: watch::Sender::new(0),
            stream_cuts: watch::Sender::new(0),
            refusals: watch::Sender::new(Instant::now()),
            held_until: Mutex::new(Instant::now()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    pub fn with_understudy(understudy: Arc<dyn Understudy>) -> Desk {
        Desk {
            understudy: Some(understudy),
            ..Desk::default()
        }
    }

    pub fn understudy(&self) -> Option<&dyn Understudy> {
        self.understudy.as_deref()
    }

    /// A call with this path has come.
    pub fn called(&self, path: &str) {
        let name = path.rsplit_once('.').map_or(path, |(_, name)| name);
        let mut calls = lock(&self.calls);
        match calls.get_mut(name) {
            Some(count) => *count += 1,
            None => drop(calls.insert(name.to_owned(), 1)),
        }
    }

    pub fn calls(&self) -> Calls {
        lock(&self.calls).clone()
    }

    pub fn arm(&self, rule: Rule) {
        lock(&self.rules).push(rule);
    }

    pub fn disarm(&self, needle: &str) -> usize {
        let mut rules = lock(&self.rules);
        let before = rules.len();
        rules.retain(|rule| rule.needle != needle);
        before - rules.len()
    }

    /// The fate of this call, which the rule is used up by.
    pub fn fate(&self, path: &str, body: &[u8]) -> Option<Fate> {
        let mut rules = lock(&self.rules);
        let at = rules.iter().position(|rule| rule.fits(path, body))?;
        let fate = rules.remove(at).fate;
        drop(rules);
        self.count(fate.name());
        Some(fate)
    }

    pub fn count(&self, what: &'static str) {
        *lock(&self.applied).entry(what).or_default() += 1;
    }

    pub fn applied(&self) -> Applied {
        lock(&self.applied).clone()
    }

    pub fn cut(&self) {
        self.count("cut");
        self.cuts.send_modify(|n| *n += 1);
    }

    /// Changes at every cut from now on.
    pub fn cuts(&self) -> watch::Receiver<u64> {
        self.cuts.subscribe()
    }

    pub fn cut_streams(&self) {
        self.stream_cuts.send_modify(|n| *n += 1);
    }

    /// Changes at every cut of the streams from now on.
    pub fn stream_cuts(&self) -> watch::Receiver<u64> {
        self.stream_cuts.subscribe()
    }

    pub fn refuse(&self, until: Instant) {
        self.count("refused");
        // Before the cut: whoever connects again at once must not get in.
        self.refusals.send_replace(until);
        self.cuts.send_modify(|n| *n += 1);
    }

    pub fn refusals(&self) -> watch::Receiver<Instant> {
        self.refusals.subscribe()
    }

    pub fn hold(&self, until: Instant) {
        self.count("held");
        let mut held = lock(&self.held_until);
        *held = until.max(*held);
    }

    pub fn held_until(&self) -> Instant {
        *lock(&self.held_until)
    }
}

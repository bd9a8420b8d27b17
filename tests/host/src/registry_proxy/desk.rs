//! The rules that are armed and what was seen.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The connection ends after so many bytes of the body.
    Cut { after: u64 },
    /// Nothing more comes after so many bytes of the body; the connection stays.
    Stall { after: u64 },
    /// The body comes at this many bytes a second.
    Slow { per_second: u64 },
    /// The byte at this place of the body is another one.
    Damage { at: u64 },
    /// This answer instead of the registry's.
    Answer {
        status: u16,
        headers: Vec<(String, String)>,
        body: String,
    },
    /// 307 to the same path at this URL (`http://host:port`).
    Redirect { to: String },
    /// The registry does not see that only a part was asked for, and answers with all.
    WithoutRanges,
    /// The registry does not see the credentials.
    WithoutCredentials,
    /// Who shows something else than this gets a 401 with this challenge.
    Login { wanted: String, challenge: String },
    /// It is passed on when the rules are withdrawn.
    Hold,
}

/// Which requests, how often, and what becomes of them.
#[derive(Clone, Debug)]
pub struct Rule {
    /// In the path and query.
    needle: String,
    method: Option<&'static str>,
    left: usize,
    fate: Fate,
}

impl Rule {
    /// For the next request with this in its path.
    pub fn once(needle: impl Into<String>, fate: Fate) -> Rule {
        Rule::times(1, needle, fate)
    }

    pub fn times(left: usize, needle: impl Into<String>, fate: Fate) -> Rule {
        Rule {
            needle: needle.into(),
            method: None,
            left,
            fate,
        }
    }

    /// Until it is withdrawn.
    pub fn always(needle: impl Into<String>, fate: Fate) -> Rule {
        Rule::times(usize::MAX, needle, fate)
    }

    /// Only requests of this method.
    pub fn method(mut self, method: &'static str) -> Rule {
        self.method = Some(method);
        self
    }
}

/// One request.
#[derive(Clone, Debug)]
pub struct Seen {
    pub at: Instant,
    pub method: String,
    /// With the query.
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
    /// Header names and values, as sent.
    pub headers: Vec<(String, String)>,
    /// 0 until there is an answer, 499 if the client went while the request was held.
    pub status: u16,
    /// Bytes of the body so far.
    pub sent: u64,
}

#[derive(Default)]
pub struct Desk {
    rules: Mutex<Vec<Rule>>,
    seen: Mutex<Vec<Seen>>,
    changed: watch::Sender<u64>,
    withdrawn: watch::Sender<u64>,
}

impl Desk {
    pub fn arm(&self, rule: Rule) {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).push(rule);
    }

    pub fn disarm(&self) {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.withdrawn.send_modify(|n| *n += 1);
    }

    /// Counts from now on, for a request that is held.
    pub fn withdrawals(&self) -> watch::Receiver<u64> {
        self.withdrawn.subscribe()
    }

    /// The first rule that fits; one use of it is gone.
    pub fn fate_of(&self, method: &str, path: &str) -> Option<Fate> {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let at = rules
            .iter()
            .position(|rule| path.contains(&rule.needle) && rule.method.is_none_or(|wanted| wanted == method))?;
        let rule = rules.get_mut(at)?;
        let fate = rule.fate.clone();
        if rule.left != usize::MAX {
            rule.left -= 1;
        }
        if rule.left == 0 {
            rules.remove(at);
        }
        Some(fate)
    }

    /// Takes a request down; the answer is its number.
    pub fn note(&self, seen: Seen) -> usize {
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(seen);
        let number = all.len() - 1;
        drop(all);
        self.changed.send_modify(|n| *n += 1);
        number
    }

    pub fn update(&self, number: usize, change: impl FnOnce(&mut Seen)) {
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = all.get_mut(number) {
            change(seen);
        }
        drop(all);
        self.changed.send_modify(|n| *n += 1);
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn forget(&self) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub async fn wait_for<T>(&self, mut probe: impl FnMut(&[Seen]) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(found) = probe(&self.seen()) {
                return found;
            }
            if changed.changed().await.is_err() {
                // The sender is ours.
                std::future::pending::<()>().await;
            }
        }
    }
}

//! Which images this process is about to use: between the moment when a start asks for an image and the moment when its
//! container is recorded, nothing in containerd says that the image is needed.
//!
//! Whoever needs an image holds it; whoever removes one marks it as leaving. The two exclude each other: a held image does
//! not leave, and one that leaves can be held only when it is gone, so that it is pulled again rather than found by halves.

use super::unix_nanos;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Holds by normalised name. It outlives every actor.
#[derive(Debug, Default)]
pub struct ImageHolds {
    state: Mutex<State>,
    /// Counts what may let an image go: the end of a hold or of a removal, and containers that are gone.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    held: HashMap<String, usize>,
    leaving: HashSet<String>,
    /// Ends of the last holds, nanoseconds since the Unix epoch.
    used: HashMap<String, i64>,
}

/// The image is needed. Ends when it is dropped.
#[derive(Debug)]
pub struct Hold {
    holds: Arc<ImageHolds>,
    name: String,
}

/// The image is being removed. Ends when it is dropped.
#[derive(Debug)]
pub struct Leaving {
    holds: Arc<ImageHolds>,
    name: String,
}

impl ImageHolds {
    /// Holds an image; waits for the end of its removal first.
    pub async fn hold(self: &Arc<Self>, name: &str) -> Hold {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            {
                let mut state = self.state();
                if !state.leaving.contains(name) {
                    *state.held.entry(name.to_owned()).or_default() += 1;
                    return Hold {
                        holds: Arc::clone(self),
                        name: name.to_owned(),
                    };
                }
            }
            // The sender lives as long as this does: an error cannot come.
            changed.changed().await.ok();
        }
    }

    /// Marks an image as leaving, unless somebody holds it or removes it already.
    #[must_use]
    pub fn leave(self: &Arc<Self>, name: &str) -> Option<Leaving> {
        let mut state = self.state();
        if state.held.contains_key(name) || !state.leaving.insert(name.to_owned()) {
            return None;
        }
        Some(Leaving {
            holds: Arc::clone(self),
            name: name.to_owned(),
        })
    }

    /// Whether somebody holds it.
    #[must_use]
    pub fn is_held(&self, name: &str) -> bool {
        self.state().held.contains_key(name)
    }

    /// Whether any image is held: a task is being started.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.state().held.is_empty()
    }

    /// When the last hold of this process ended, nanoseconds since the Unix epoch.
    #[must_use]
    pub fn last_used(&self, name: &str) -> Option<i64> {
        self.state().used.get(name).copied()
    }

    /// A container is gone: its image may not be needed any more.
    pub fn container_gone(&self) {
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Changes whenever an image may have come free.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        {
            let mut state = self.holds.state();
            if let Some(count) = state.held.get_mut(&self.name) {
                *count -= 1;
                if *count == 0 {
                    state.held.remove(&self.name);
                }
            }
            state.used.insert(self.name.clone(), unix_nanos());
        }
        self.holds.container_gone();
    }
}

impl Leaving {
    /// The image is gone, and what was remembered of it.
    pub fn done(self) {
        self.holds.state().used.remove(&self.name);
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.holds.state().leaving.remove(&self.name);
        self.holds.container_gone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_held_image_does_not_leave_and_one_that_leaves_is_held_when_it_is_gone() {
        let holds = Arc::new(ImageHolds::default());
        let (one, two) = (holds.hold("a").await, holds.hold("a").await);
        assert!(holds.leave("a").is_none() && holds.is_held("a") && holds.is_busy());
        drop(one);
        assert!(holds.leave("a").is_none());
        drop(two);
        assert!(holds.last_used("a").is_some() && !holds.is_busy());
        let leaving = holds.leave("a").unwrap();
        assert!(holds.leave("a").is_none());
        // Others are not in its way.
        drop(holds.hold("b").await);
        let waits = Arc::clone(&holds);
        let again = tokio::spawn(async move { waits.hold("a").await });
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(!again.is_finished());
        leaving.done();
        let hold = again.await.unwrap();
        assert!(holds.is_held("a") && holds.last_used("a").is_none());
        drop(hold);
    }

    #[tokio::test]
    async fn whoever_watches_hears_of_what_may_have_come_free() {
        let holds = Arc::new(ImageHolds::default());
        let mut watch = holds.watch();
        watch.mark_unchanged();
        drop(holds.hold("a").await);
        assert!(watch.has_changed().unwrap());
        watch.mark_unchanged();
        holds.container_gone();
        assert!(watch.has_changed().unwrap());
    }
}

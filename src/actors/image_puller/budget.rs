//! A bound on work of one kind, given out in the order of [`Turns`].

use super::turns::Turns;
use crate::telemetry::Gauge;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// The gauges of a budget: places that are taken, and waiters.
pub(super) type Shown = (Gauge, Gauge);

struct State {
    turns: Turns<u64>,
    last: u64,
    /// Who waits, by number.
    calls: HashMap<u64, oneshot::Sender<()>>,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(super) struct Budget(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    shown: Shown,
}

impl Budget {
    pub(super) fn new(places: usize, shown: Shown) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::new(State {
                turns: Turns::new(places),
                last: 0,
                calls: HashMap::new(),
            }),
            shown,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something and calls whose turn has come.
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let answer = change(&mut state);
        while let Some(id) = state.turns.next() {
            if let Some(call) = state.calls.remove(&id) {
                // One that has just gone gives its place back in its drop.
                call.send(()).ok();
            }
        }
        self.0.shown.0.set(state.turns.taken());
        self.0.shown.1.set(state.turns.waiting());
        answer
    }

    /// So many places from now on.
    pub(super) fn set_places(&self, places: usize) {
        self.with(|state| state.turns.set_places(places));
    }

    /// Stands in line for a job, from this moment on.
    pub(super) fn wait(&self, job: &str) -> Waiting {
        let (call, called) = oneshot::channel();
        let id = self.with(|state| {
            state.last += 1;
            let id = state.last;
            state.calls.insert(id, call);
            state.turns.wait(job, id);
            id
        });
        Waiting {
            ticket: Ticket {
                budget: self.clone(),
                id,
            },
            called: Some(called),
        }
    }
}

/// A place in the line that others can look at.
#[derive(Clone)]
pub(super) struct Ticket {
    budget: Budget,
    id: u64,
}

impl Ticket {
    /// How many are served before it; `None` once it has had its turn.
    pub(super) fn ahead(&self) -> Option<usize> {
        self.budget.state().turns.ahead(self.id)
    }

    /// Stands in the line of one more job. Nothing if it has had its turn.
    pub(super) fn also(&self, job: &str) {
        self.budget.with(|state| {
            if state.turns.is_waiting(self.id) {
                state.turns.wait(job, self.id);
            }
        });
    }
}

/// Somebody in line. Its drop leaves the line.
pub(super) struct Waiting {
    ticket: Ticket,
    /// `None` once the turn was taken.
    called: Option<oneshot::Receiver<()>>,
}

impl Waiting {
    pub(super) fn ticket(&self) -> Ticket {
        self.ticket.clone()
    }

    /// Waits for the turn.
    pub(super) async fn turn(mut self) -> Place {
        if let Some(called) = self.called.as_mut() {
            // The other end is kept until the call.
            called.await.ok();
        }
        self.called = None;
        Place(self.ticket.budget.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.called.is_some() {
            let id = self.ticket.id;
            self.ticket.budget.with(|state| {
                state.calls.remove(&id);
                if !state.turns.leave(id) {
                    // Called, and gone before it heard of it.
                    state.turns.give_back();
                }
            });
        }
    }
}

/// A place in the budget, given back by its drop.
pub(super) struct Place(Budget);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.with(|state| state.turns.give_back());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    fn budget(places: usize) -> Budget {
        Budget::new(places, (Gauge::PullsRunning, Gauge::PullsWaiting))
    }

    const SOON: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_place_is_given_to_the_next_when_it_comes_back() {
        let budget = budget(1);
        let first = budget.wait("a").turn().await;
        let (second, third) = (budget.wait("a"), budget.wait("b"));
        let tickets = [second.ticket(), third.ticket()];
        assert_eq!(tickets.each_ref().map(Ticket::ahead), [Some(0), Some(1)]);
        let second = tokio::spawn(second.turn());
        assert!(timeout(SOON, third.turn()).await.is_err());
        // Gone from the line with its future.
        assert_eq!(tickets[1].ahead(), None);
        drop(first);
        let second = timeout(SOON, second).await.unwrap().unwrap();
        assert_eq!(tickets[0].ahead(), None);
        drop(second);
        assert!(timeout(SOON, budget.wait("c").turn()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_after_the_call_gives_the_place_back() {
        let budget = budget(1);
        let first = budget.wait("a").turn().await;
        let called = budget.wait("a");
        drop(first);
        assert_eq!(called.ticket().ahead(), None);
        let next = budget.wait("a");
        assert_eq!(next.ticket().ahead(), Some(0));
        drop(called);
        assert!(timeout(SOON, next.turn()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pull_that_another_job_wants_too_has_the_turn_of_either() {
        let budget = budget(1);
        let held = budget.wait("a").turn().await;
        let lines: Vec<_> = (0..3).map(|_| budget.wait("a")).collect();
        let last = lines[2].ticket();
        assert_eq!(last.ahead(), Some(2));
        last.also("b");
        assert_eq!(last.ahead(), Some(1));
        drop(held);
        budget.set_places(3);
        for line in lines {
            assert!(timeout(SOON, line.turn()).await.is_ok());
        }
    }
}

//! What outlives the factory: whose turn it is at each container, and admission.
//!
//! Work on a container that has begun is not cut off when the actor dies. containerd goes on with a cancelled call, and
//! when that has done its part, takes down what it had made: by then a second attempt may have adopted and started it.
//! So the work goes on, and whoever asks again waits for its end and finds its outcome.

use crate::spec::identity::ContainerId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{AcquireError, Mutex as AsyncMutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

/// Creates and starts at once, per core. Each is mostly runc's own work; measured against `ctr run -d`, more at once
/// only makes all of them slower.
const CREATES_PER_CORE: usize = 3;

/// Removals at once, per core; a budget of their own, so that a burst of starts does not hold up stops.
const REMOVALS_PER_CORE: usize = 3;

/// See the module.
pub struct Workshop {
    creates: Arc<Semaphore>,
    removals: Arc<Semaphore>,
    turns: Mutex<Turns>,
}

/// Turns by container. Those that nobody holds or waits for are looked for whenever as many have come as stayed the last
/// time, so that a burst of starts does not look at all of them with each.
#[derive(Default)]
struct Turns {
    of: HashMap<ContainerId, Arc<AsyncMutex<()>>>,
    /// How many there may be before the next look.
    room: usize,
}

impl Turns {
    fn of(&mut self, id: &ContainerId) -> Arc<AsyncMutex<()>> {
        if self.of.len() > self.room {
            self.of.retain(|_, turn| Arc::strong_count(turn) > 1);
            self.room = self.of.len().saturating_mul(2);
        }
        Arc::clone(self.of.entry(id.clone()).or_default())
    }
}

/// The right to work on one container, within the budget. Given back by its drop.
pub struct Turn {
    _turn: OwnedMutexGuard<()>,
    permit: Option<Result<OwnedSemaphorePermit, AcquireError>>,
}

impl Turn {
    /// Gives back the place in the budget, and keeps the container.
    pub fn leave_budget(&mut self) {
        self.permit = None;
    }
}

impl Workshop {
    /// A workshop for so many cores.
    #[must_use]
    pub fn new(cores: usize) -> Arc<Self> {
        let cores = cores.max(1);
        Arc::new(Self {
            creates: Arc::new(Semaphore::new(CREATES_PER_CORE.saturating_mul(cores))),
            removals: Arc::new(Semaphore::new(REMOVALS_PER_CORE.saturating_mul(cores))),
            turns: Mutex::default(),
        })
    }

    /// Waits for the turn to create this container, first come first served.
    pub async fn create(&self, id: &ContainerId) -> Turn {
        self.turn(id, &self.creates).await
    }

    /// Waits for the turn to remove this container.
    pub async fn remove(&self, id: &ContainerId) -> Turn {
        self.turn(id, &self.removals).await
    }

    async fn turn(&self, id: &ContainerId, budget: &Arc<Semaphore>) -> Turn {
        let turn = self.turns.lock().unwrap_or_else(PoisonError::into_inner).of(id);
        let turn = turn.lock_owned().await;
        // Never closed; an error would mean no bound, not no work.
        Turn {
            _turn: turn,
            permit: Some(Arc::clone(budget).acquire_owned().await),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn one_container_is_worked_on_by_one_at_a_time() {
        let workshop = Workshop::new(1);
        let (one, other) = (
            ContainerId::reported("one".to_owned()),
            ContainerId::reported("other".to_owned()),
        );
        let first = workshop.create(&one).await;
        let within = Duration::from_secs(1);
        assert!(tokio::time::timeout(within, workshop.remove(&one)).await.is_err());
        assert!(tokio::time::timeout(within, workshop.remove(&other)).await.is_ok());
        drop(first);
        assert!(tokio::time::timeout(within, workshop.remove(&one)).await.is_ok());
        drop(workshop.create(&other).await);
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_forgotten_whatever_the_number() {
        let workshop = Workshop::new(1);
        let container = |n: usize| ContainerId::reported(n.to_string());
        let held = workshop.create(&container(0)).await;
        for n in 1..1000 {
            drop(workshop.remove(&container(n)).await);
        }
        let turns = workshop.turns.lock().unwrap();
        assert!(turns.of.len() <= 4, "{}", turns.of.len());
        assert!(turns.of.contains_key(&container(0)));
        drop((turns, held));
    }
}

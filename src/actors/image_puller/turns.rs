//! Whose turn it is: a number of places, and who waits for one. Jobs take turns, and within a job who came first is first,
//! so that a job that floods the queue holds up itself and not the others. Pure.
//!
//! A job that was served goes to the end of the round, and so does one that comes anew: whoever is first of its job is served
//! after at most one turn of each job that was in the round before it.

use std::collections::{BTreeSet, VecDeque};

/// One job and who waits for it.
#[derive(Debug, Clone)]
struct Job<I> {
    name: String,
    waiting: VecDeque<I>,
}

/// See the module. One waiter may wait for several jobs, and is served once, by the first of their turns.
#[derive(Debug, Clone)]
pub(super) struct Turns<I> {
    places: usize,
    taken: usize,
    round: VecDeque<Job<I>>,
}

impl<I: Copy + Ord> Turns<I> {
    pub(super) fn new(places: usize) -> Self {
        Self {
            places,
            taken: 0,
            round: VecDeque::new(),
        }
    }

    /// From now on there are so many places. If there were more, those that are taken are kept until they are given back.
    pub(super) fn set_places(&mut self, places: usize) {
        self.places = places;
    }

    /// Puts a waiter into the line of a job, unless it is in it.
    pub(super) fn wait(&mut self, job: &str, id: I) {
        match self.round.iter_mut().find(|j| j.name == job) {
            Some(line) if line.waiting.contains(&id) => {}
            Some(line) => line.waiting.push_back(id),
            None => self.round.push_back(Job {
                name: job.to_owned(),
                waiting: VecDeque::from([id]),
            }),
        }
    }

    /// Takes a waiter out of every line. False if it was in none.
    pub(super) fn leave(&mut self, id: I) -> bool {
        let mut was = false;
        for job in &mut self.round {
            let before = job.waiting.len();
            job.waiting.retain(|other| *other != id);
            was |= job.waiting.len() < before;
        }
        self.round.retain(|job| !job.waiting.is_empty());
        was
    }

    /// Whether a waiter is in a line.
    pub(super) fn is_waiting(&self, id: I) -> bool {
        self.round.iter().any(|job| job.waiting.contains(&id))
    }

    /// Gives the next place to whose turn it is. `None` if nobody waits or no place is free.
    pub(super) fn next(&mut self) -> Option<I> {
        if self.taken >= self.places {
            return None;
        }
        let mut job = self.round.pop_front()?;
        let id = job.waiting.pop_front()?;
        if !job.waiting.is_empty() {
            self.round.push_back(job);
        }
        // It may wait in the lines of other jobs as well.
        self.leave(id);
        self.taken += 1;
        Some(id)
    }

    /// A place is free again.
    pub(super) fn give_back(&mut self) {
        self.taken = self.taken.saturating_sub(1);
    }

    /// How many are served before a waiter if nobody else comes. `None` if it does not wait.
    pub(super) fn ahead(&self, id: I) -> Option<usize> {
        if !self.is_waiting(id) {
            return None;
        }
        let mut rest = Self {
            places: usize::MAX,
            taken: 0,
            round: self.round.clone(),
        };
        std::iter::from_fn(|| rest.next()).position(|other| other == id)
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        let all: BTreeSet<I> = self.round.iter().flat_map(|job| job.waiting.iter().copied()).collect();
        all.len()
    }

    /// How many places are taken.
    pub(super) fn taken(&self) -> usize {
        self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_job_that_floods_the_queue_holds_up_only_itself() {
        let mut turns = Turns::new(1);
        for id in 0..50 {
            turns.wait("flood", id);
        }
        assert_eq!(turns.next(), Some(0));
        turns.wait("small", 100);
        turns.wait("other", 101);
        assert_eq!(
            (turns.ahead(100), turns.ahead(101), turns.ahead(49)),
            (Some(1), Some(2), Some(50))
        );
        let mut served = Vec::new();
        for _ in 0..4 {
            turns.give_back();
            served.extend(turns.next());
        }
        assert_eq!(served, [1, 100, 101, 2]);
    }

    #[test]
    fn who_waits_for_two_jobs_is_served_once_by_the_first_turn_of_both() {
        let mut turns = Turns::new(1);
        turns.wait("a", 1);
        turns.wait("a", 2);
        turns.wait("b", 2);
        turns.wait("b", 2);
        assert_eq!((turns.waiting(), turns.ahead(2)), (2, Some(1)));
        assert_eq!(turns.next(), Some(1));
        turns.give_back();
        assert_eq!((turns.next(), turns.waiting()), (Some(2), 0));
        turns.give_back();
        assert_eq!(turns.next(), None);
    }

    #[test]
    fn fewer_places_are_kept_to_once_those_that_are_taken_come_back() {
        let mut turns = Turns::new(2);
        for id in 0..4 {
            turns.wait("a", id);
        }
        assert_eq!([turns.next(), turns.next(), turns.next()], [Some(0), Some(1), None]);
        turns.set_places(1);
        turns.give_back();
        assert_eq!(turns.next(), None);
        turns.give_back();
        assert_eq!((turns.next(), turns.taken()), (Some(2), 1));
    }

    /// What happens to a queue.
    #[derive(Debug, Clone)]
    enum Act {
        Wait(u8),
        Leave(u8),
        Next,
        GiveBack,
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            4 => (0_u8..5).prop_map(Act::Wait),
            1 => any::<u8>().prop_map(Act::Leave),
            3 => Just(Act::Next),
            3 => Just(Act::GiveBack),
        ]
    }

    proptest! {
        /// However jobs come and go: nobody is served twice or forgotten, the bound holds, a place that is free is given
        /// to somebody who waits, a waiter's place in the order never gets worse by more than others' turns allow.
        #[test]
        fn nobody_starves_and_no_job_is_served_twice_in_one_round(
            places in 1_usize..4,
            acts in proptest::collection::vec(act(), 0..200),
        ) {
            let mut turns = Turns::new(places);
            let (mut job_of, mut next_id, mut out) = (BTreeMap::new(), 0_u32, 0_usize);
            // Of each waiter: whom of which job was served while it waited and was the first of its job.
            let mut overtaken: BTreeMap<u32, BTreeMap<u8, usize>> = BTreeMap::new();
            for act in acts {
                match act {
                    Act::Wait(job) => {
                        turns.wait(&job.to_string(), next_id);
                        job_of.insert(next_id, job);
                        next_id += 1;
                    }
                    Act::Leave(n) => {
                        let of = job_of.keys().nth(usize::from(n) % job_of.len().max(1)).copied();
                        if let Some(id) = of {
                            prop_assert!(turns.leave(id));
                            prop_assert!(!turns.leave(id));
                            job_of.remove(&id);
                            overtaken.remove(&id);
                        }
                    }
                    Act::GiveBack if out > 0 => {
                        turns.give_back();
                        out -= 1;
                    }
                    Act::GiveBack => {}
                    Act::Next => {
                        let expected = job_of.keys().copied().find(|id| turns.ahead(*id) == Some(0));
                        let served = turns.next();
                        if out >= places || job_of.is_empty() {
                            prop_assert_eq!(served, None);
                            continue;
                        }
                        prop_assert_eq!(served, expected);
                        let id = served.unwrap();
                        let job = job_of.remove(&id).unwrap();
                        out += 1;
                        overtaken.remove(&id);
                        // First of their jobs: each other job may be served once before them.
                        let mut seen = BTreeSet::new();
                        for (other, its) in &job_of {
                            if seen.insert(*its) && *its != job {
                                let turns_of = overtaken.entry(*other).or_default().entry(job).or_default();
                                *turns_of += 1;
                                prop_assert!(*turns_of <= 1, "job {} was served {} times before {}", job, turns_of, other);
                            }
                        }
                    }
                }
                prop_assert_eq!(turns.waiting(), job_of.len());
                prop_assert_eq!(turns.taken(), out);
                let mut order: Vec<_> = job_of.keys().filter_map(|id| turns.ahead(*id)).collect();
                order.sort_unstable();
                prop_assert_eq!(order, (0..job_of.len()).collect::<Vec<_>>());
            }
        }
    }
}

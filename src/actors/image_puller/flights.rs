//! Work that several wait for: begun by the first, joined by whoever wants the same, ended early when the last has gone.

use crate::messages::Cx;
use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tracing::{Instrument as _, Span};

/// What all aboard can read of the work.
pub(super) trait Note: Send + Sync + 'static {
    /// Nobody waits any more. True if the work has been told and ends by itself; else it is dropped where it stands.
    fn deserted(&self) -> bool;
}

/// For work that may be dropped anywhere.
impl Note for () {
    fn deserted(&self) -> bool {
        false
    }
}

struct Flight<T, N> {
    number: u64,
    aboard: usize,
    note: Arc<N>,
    /// Context of the span that the work runs in.
    cx: Cx,
    done: watch::Receiver<Option<T>>,
    work: AbortHandle,
}

struct Board<K, T, N> {
    last: u64,
    flights: HashMap<K, Flight<T, N>>,
}

/// Work in flight by key, each with a note that all aboard can read. Cheap to clone.
pub(super) struct Flights<K, T, N: Note = ()>(Arc<Mutex<Board<K, T, N>>>);

impl<K, T, N: Note> Clone for Flights<K, T, N> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, T, N: Note> Default for Flights<K, T, N> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Board {
            last: 0,
            flights: HashMap::new(),
        })))
    }
}

impl<K: Eq + Hash, T, N: Note> Flights<K, T, N> {
    fn locked(&self) -> MutexGuard<'_, Board<K, T, N>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes it from the board, so that nobody joins any more.
    fn land(&self, key: &K, number: u64) {
        let mut board = self.locked();
        if board.flights.get(key).is_some_and(|flight| flight.number == number) {
            board.flights.remove(key);
        }
    }
}

/// Lands a flight by its drop: also one that panics or is cancelled.
struct Landing<K: Eq + Hash, T, N: Note> {
    flights: Flights<K, T, N>,
    key: K,
    number: u64,
}

impl<K: Eq + Hash, T, N: Note> Drop for Landing<K, T, N> {
    fn drop(&mut self) {
        self.flights.land(&self.key, self.number);
    }
}

impl<K, T, N> Flights<K, T, N>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
    N: Note,
{
    /// Takes a seat in the work of this key. If there is none, `begin` makes its note and the work, which runs on `io` in
    /// `span`.
    pub(super) fn board<W>(
        &self,
        key: K,
        io: &Handle,
        span: &Span,
        begin: impl FnOnce() -> (Arc<N>, W),
    ) -> Seat<K, T, N>
    where
        W: Future<Output = T> + Send + 'static,
    {
        let mut board = self.locked();
        if let Some(flight) = board.flights.get_mut(&key) {
            flight.aboard += 1;
            return Seat {
                flights: self.clone(),
                number: flight.number,
                note: Arc::clone(&flight.note),
                done: flight.done.clone(),
                joined: Some(flight.cx.clone()),
                key,
            };
        }
        board.last += 1;
        let number = board.last;
        let (note, work) = begin();
        let (told, done) = watch::channel(None);
        let landing = Landing {
            flights: self.clone(),
            key: key.clone(),
            number,
        };
        let work = async move {
            let answer = work.await;
            drop(landing);
            told.send_replace(Some(answer));
        };
        let flight = Flight {
            number,
            aboard: 1,
            note: Arc::clone(&note),
            cx: span.in_scope(Cx::current),
            done: done.clone(),
            work: io.spawn(work.instrument(span.clone())).abort_handle(),
        };
        board.flights.insert(key.clone(), flight);
        Seat {
            flights: self.clone(),
            key,
            number,
            note,
            done,
            joined: None,
        }
    }
}

/// Somebody who waits for work in flight. Its drop is how one stops waiting; that of the last ends the work.
pub(super) struct Seat<K: Eq + Hash, T, N: Note = ()> {
    flights: Flights<K, T, N>,
    key: K,
    number: u64,
    note: Arc<N>,
    done: watch::Receiver<Option<T>>,
    joined: Option<Cx>,
}

impl<K: Eq + Hash, T: Clone, N: Note> Seat<K, T, N> {
    /// The note of the work.
    pub(super) fn note(&self) -> &Arc<N> {
        &self.note
    }

    /// The context that the work runs in, if it was begun by another.
    pub(super) fn joined(&self) -> Option<&Cx> {
        self.joined.as_ref()
    }

    /// The answer; `None` if the work has panicked.
    pub(super) async fn done(&mut self) -> Option<T> {
        let done = self.done.wait_for(Option::is_some).await;
        done.ok().and_then(|answer| answer.clone())
    }
}

impl<K: Eq + Hash, T, N: Note> Drop for Seat<K, T, N> {
    fn drop(&mut self) {
        let mut board = self.flights.locked();
        let Some(flight) = board.flights.get_mut(&self.key).filter(|f| f.number == self.number) else {
            return;
        };
        flight.aboard = flight.aboard.saturating_sub(1);
        if flight.aboard == 0
            && let Some(flight) = board.flights.remove(&self.key)
            && !flight.note.deserted()
        {
            flight.work.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;
    use tokio::sync::oneshot;
    use tokio::time::timeout;

    /// Work that ends by itself if `obeys`.
    #[derive(Default)]
    struct Told {
        obeys: bool,
        deserted: AtomicBool,
    }

    impl Note for Told {
        fn deserted(&self) -> bool {
            self.deserted.store(true, Ordering::Relaxed);
            self.obeys
        }
    }

    type Seats = Flights<&'static str, usize, Told>;

    fn board<W: Future<Output = usize> + Send + 'static>(all: &Seats, work: W) -> Seat<&'static str, usize, Told> {
        all.board("key", &Handle::current(), &Span::none(), || {
            (Arc::new(Told::default()), work)
        })
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_want_the_same_have_one_answer() {
        let all = Seats::default();
        let (end, ended) = oneshot::channel();
        let mut first = board(&all, async { ended.await.unwrap() });
        let mut second = board(&all, async { unreachable!("it is under way") });
        assert!(first.joined().is_none() && second.joined().is_some());
        end.send(5).unwrap();
        assert_eq!((first.done().await, second.done().await), (Some(5), Some(5)));
        // It has landed: the next begins anew.
        assert_eq!(board(&all, async { 6 }).done().await, Some(6));
        assert!(all.locked().flights.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_work_ends_when_the_last_has_gone_and_not_before() {
        let all = Seats::default();
        let (told, ended) = oneshot::channel::<()>();
        let first = board(&all, async {
            let _told = told;
            std::future::pending().await
        });
        let second = board(&all, async { unreachable!("it is under way") });
        drop(first);
        assert!(all.locked().flights.contains_key("key"));
        drop(second);
        assert!(all.locked().flights.is_empty());
        // Its future is dropped, and with it what tells.
        assert!(timeout(Duration::from_secs(1), ended).await.unwrap().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_ends_by_itself_is_told_and_not_dropped() {
        let all = Seats::default();
        let (told, ended) = oneshot::channel();
        let note = Arc::new(Told {
            obeys: true,
            ..Told::default()
        });
        let seen = Arc::clone(&note);
        let seat = all.board("key", &Handle::current(), &Span::none(), || {
            let work = async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                told.send(seen.deserted.load(Ordering::Relaxed)).unwrap();
                1
            };
            (note, work)
        });
        drop(seat);
        // Whoever comes now begins anew.
        assert!(board(&all, async { 2 }).joined().is_none());
        assert_eq!(timeout(Duration::from_secs(2), ended).await.unwrap(), Ok(true));
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_panics_answers_nobody_and_leaves_the_board() {
        let all = Seats::default();
        let mut seat = board(&all, async { panic!("a bug") });
        assert_eq!(seat.done().await, None);
        assert_eq!(board(&all, async { 1 }).done().await, Some(1));
    }
}

//! Waiting with a deadline and a name: a hang becomes a sentence.

use std::future::Future;
use std::time::{Duration, Instant};

/// Awaits `fut`; panics with `what` when the deadline passes.
#[track_caller]
pub fn within<F: Future>(deadline: Duration, what: &str, fut: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(deadline, fut).await {
            Ok(value) => value,
            Err(_) => panic!("not within {deadline:?}: {what} (asked at {caller})"),
        }
    }
}

/// Asks `probe` every 20 ms until it returns a value; panics with `what` when the deadline passes.
#[track_caller]
pub fn until<T>(deadline: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let end = Instant::now() + deadline;
        loop {
            if let Some(found) = probe() {
                return found;
            }
            assert!(
                Instant::now() < end,
                "not within {deadline:?}: {what} (asked at {caller})"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

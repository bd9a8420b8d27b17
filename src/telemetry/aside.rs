//! Work of the SDK that may take longer than its caller can wait.
//!
//! A flush of the SDK has no bound of the caller's, and the end of its metrics none below 5 s. So both run on a thread of
//! their own, and who asked waits as long as it likes.

use opentelemetry_sdk::error::OTelSdkResult;
use std::sync::mpsc::{self, Receiver};
use std::time::Instant;

/// Work under way. To drop it is not to wait.
#[derive(Debug)]
pub struct Aside(Receiver<OTelSdkResult>);

impl Aside {
    /// Begins `work` on a thread of that name.
    pub fn start(name: &str, work: impl FnOnce() -> OTelSdkResult + Send + 'static) -> Self {
        let (tx, rx) = mpsc::sync_channel(1);
        let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            // The waiter may have given up.
            tx.try_send(work()).ok();
        });
        if let Err(error) = spawned {
            // The sender went with the closure: whoever waits is told at once that it was not done.
            tracing::warn!(%error, "no thread for the end or the flush of an export");
        }
        Self(rx)
    }

    /// True if it succeeded by then.
    #[must_use]
    pub fn done_by(&self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        matches!(self.0.recv_timeout(left), Ok(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_sdk::error::OTelSdkError;
    use std::time::Duration;

    #[test]
    fn only_what_succeeds_in_time_is_done() {
        let in_time = || Instant::now() + Duration::from_secs(30);
        assert!(Aside::start("fine", || Ok(())).done_by(in_time()));
        assert!(!Aside::start("failed", || Err(OTelSdkError::AlreadyShutdown)).done_by(in_time()));
        let (release, held) = mpsc::channel::<()>();
        let late = Aside::start("late", move || {
            held.recv().ok();
            Ok(())
        });
        assert!(!late.done_by(Instant::now()), "it is held");
        drop(release);
        assert!(late.done_by(in_time()));
    }
}

//! How long the output of a command is waited for after its end. Pure.
//!
//! As a rule the end of the output follows at once. It does not if a child that lives on holds the pipe; then what was
//! written before the exit has still to pass the pipe, the shim and our FIFO, and nothing tells when it has. So the
//! output counts as complete when nothing came for a while, or when more came than those can hold.

use std::time::Duration;

/// Silence that means the end.
const QUIET: Duration = Duration::from_secs(1);

/// Waiting in all, for a child that says something now and then. Time that the client takes does not count.
const WAITING: Duration = Duration::from_secs(2);

/// More than the command's pipe (64 KiB), the shim's buffer (32 KiB) and our FIFO (64 KiB) hold together.
const IN_FLIGHT: usize = 1 << 20;

/// The account of what came after the exit.
#[derive(Debug, Default)]
pub(super) struct Drain {
    waited: Duration,
    bytes: usize,
}

impl Drain {
    /// So many bytes came after a wait.
    pub(super) fn came(&mut self, bytes: usize, after: Duration) {
        self.waited = self.waited.saturating_add(after);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// How long to wait for the next; `None`: no longer.
    pub(super) fn patience(&self) -> Option<Duration> {
        let left = WAITING.saturating_sub(self.waited).min(QUIET);
        (self.bytes < IN_FLIGHT && !left.is_zero()).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_a_trickle_and_a_flood_all_end() {
        let mut drain = Drain::default();
        assert_eq!(drain.patience(), Some(QUIET));
        for _ in 0..15 {
            drain.came(1, Duration::from_millis(100));
        }
        assert_eq!(drain.patience(), Some(Duration::from_millis(500)), "a trickle");
        drain.came(1, Duration::from_millis(500));
        assert_eq!(drain.patience(), None);
        let mut flood = Drain::default();
        flood.came(IN_FLIGHT - 1, Duration::ZERO);
        assert!(flood.patience().is_some(), "all that was on its way is waited for");
        flood.came(1, Duration::ZERO);
        assert_eq!(flood.patience(), None);
    }
}

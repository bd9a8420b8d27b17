//! Whether a process is there.

use std::io::ErrorKind;

/// Whether a process of this id runs, whoever it belongs to. One that has ended and was not waited for does not; an id
/// that was given anew does. What cannot be found out counts as running.
#[must_use]
pub fn is_running(pid: u32) -> bool {
    match std::fs::read(format!("/proc/{pid}/stat")) {
        // `pid (name) state …`; the name may contain anything, also parentheses.
        Ok(stat) => {
            let state = stat.iter().rposition(|b| *b == b')').and_then(|end| stat.get(end + 2));
            !matches!(state, Some(b'Z' | b'X'))
        }
        Err(e) => e.kind() != ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_run_and_a_zombie_does_not() {
        assert!(is_running(std::process::id()));
        assert!(!is_running(u32::MAX));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while is_running(child.id()) {
            assert!(std::time::Instant::now() < deadline, "the child does not end");
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }
}

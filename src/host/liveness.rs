//! Whether a process is there.

use rustix::process::Pid;

/// Whether a process of this id runs, whoever it belongs to. An id that was given anew counts as running.
#[must_use]
pub fn is_running(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // "Not permitted" means that there is one.
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_run_and_nobody_has_the_highest_id() {
        assert!(is_running(std::process::id()));
        assert!(!is_running(u32::MAX) && !is_running(i32::MAX.unsigned_abs()) && !is_running(0));
    }
}

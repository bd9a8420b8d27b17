//! All processes of one session. Both runc and crun make an exec'd process the leader of a session of its own, so the
//! session is what belongs to a command: its children are in it unless they left on purpose.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The session in `/proc/<pid>/stat`: the fourth field after the name, which is in brackets and may hold anything.
fn session_of(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(3)?.parse().ok()
}

/// SIGKILL to those of `candidates` that belong to the session; says how many there were. The candidates must be the
/// processes of the container: the number of a session is used again one day.
pub fn kill(session: u32, candidates: &[u32]) -> usize {
    candidates
        .iter()
        .filter(|pid| kill_member(session, **pid).is_some())
        .count()
}

/// The descriptor comes first: what is looked at is then what is killed.
fn kill_member(session: u32, pid: u32) -> Option<()> {
    let process = pidfd_open(Pid::from_raw(i32::try_from(pid).ok()?)?, PidfdFlags::empty()).ok()?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    if session_of(&stat)? != session {
        return None;
    }
    pidfd_send_signal(process, Signal::KILL).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_session_is_found_behind_any_name() {
        assert_eq!(session_of("7 (a) b) (c) S 1 7 42 0 -1 4194560"), Some(42));
        assert_eq!(session_of("7 (a) S 1 7"), None);
        assert_eq!(session_of(""), None);
    }

    #[test]
    fn only_members_are_killed() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let own = session_of(&std::fs::read_to_string("/proc/self/stat").unwrap()).unwrap();
        assert_eq!(kill(own.wrapping_add(1), &[child.id(), 0, u32::MAX]), 0);
        assert_eq!(child.try_wait().unwrap(), None);
        assert_eq!(kill(own, &[child.id()]), 1);
        assert!(!child.wait().unwrap().success());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,80}") {
            session_of(&text);
        }
    }
}

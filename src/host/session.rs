//! All processes that a command has started. runc makes it the leader of a session of its own, crun only if it has a
//! terminal; so what belongs to it is its session and its descendants.
//!
//! A process whose parent dies loses its ancestry, and one that runs may make another at any moment: so all are stopped
//! first, until no more are found, and killed then.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

/// Generations that are followed; also the end of a circle, which there cannot be.
const DEPTH: usize = 64;

/// What `/proc/<pid>/stat` says of kinship.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kin {
    parent: u32,
    session: u32,
}

/// The fields after the name, which is in brackets and may hold anything: state, parent, group, session.
fn kin(stat: &str) -> Option<Kin> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    Some(Kin { parent, session })
}

fn read_kin(pid: u32) -> Option<Kin> {
    kin(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// True if the process is the leader, of its session, or descends from it.
fn belongs(leader: u32, pid: u32, all: &BTreeMap<u32, Kin>) -> bool {
    let mut at = pid;
    for _ in 0..DEPTH {
        if at == leader {
            return true;
        }
        match all.get(&at) {
            Some(kin) if kin.session == leader => return true,
            Some(kin) => at = kin.parent,
            None => return false,
        }
    }
    false
}

/// The processes of one command, as far as they were found.
#[derive(Debug)]
pub struct Family {
    leader: u32,
    held: BTreeMap<u32, OwnedFd>,
}

impl Family {
    /// Of the command with this process id, which must not have been waited for yet: its number is not used again.
    #[must_use]
    pub fn of(leader: u32) -> Self {
        Self {
            leader,
            held: BTreeMap::new(),
        }
    }

    /// Stops those of `candidates`, which are the processes of its container, that belong to it; how many were new.
    pub fn hold(&mut self, candidates: &[u32]) -> usize {
        let all: BTreeMap<u32, Kin> = candidates
            .iter()
            .filter_map(|pid| Some((*pid, read_kin(*pid)?)))
            .collect();
        let before = self.held.len();
        for pid in all.keys().filter(|pid| belongs(self.leader, **pid, &all)) {
            if !self.held.contains_key(pid)
                && let Some(process) = stopped(*pid, all.get(pid))
            {
                self.held.insert(*pid, process);
            }
        }
        self.held.len() - before
    }

    /// SIGKILL to all that were stopped.
    pub fn kill(self) {
        for process in self.held.values() {
            // Gone already.
            pidfd_send_signal(process, Signal::KILL).ok();
        }
    }
}

/// The descriptor comes first, then a second look: what was looked at is what is stopped.
fn stopped(pid: u32, seen: Option<&Kin>) -> Option<OwnedFd> {
    let process = pidfd_open(Pid::from_raw(i32::try_from(pid).ok()?)?, PidfdFlags::empty()).ok()?;
    if read_kin(pid).as_ref() != seen {
        return None;
    }
    pidfd_send_signal(&process, Signal::STOP).ok()?;
    Some(process)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn kinship_is_found_behind_any_name() {
        let found = kin("7 (a) b) (c) S 1 7 42 0 -1 4194560");
        assert_eq!(found, Some(Kin { parent: 1, session: 42 }));
        assert_eq!(kin("7 (a) S 1 7"), None);
        assert_eq!(kin(""), None);
    }

    #[test]
    fn session_and_descendants_belong_and_nobody_else() {
        let of = |parent, session| Kin { parent, session };
        let all = BTreeMap::from([
            (10, of(1, 1)),
            (11, of(10, 1)),
            (12, of(11, 12)),
            (13, of(1, 10)),
            (14, of(1, 1)),
            (15, of(16, 1)),
            (16, of(15, 1)),
        ]);
        let family: Vec<u32> = all.keys().copied().filter(|pid| belongs(10, *pid, &all)).collect();
        assert_eq!(family, [10, 11, 12, 13]);
    }

    #[test]
    fn only_the_family_is_killed() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let candidates = [child.id(), other.id(), 0, u32::MAX];
        let mut family = Family::of(child.id());
        assert_eq!(family.hold(&candidates), 1);
        assert_eq!(family.hold(&candidates), 0);
        family.kill();
        assert!(!child.wait().unwrap().success());
        assert_eq!(other.try_wait().unwrap(), None);
        other.kill().unwrap();
        other.wait().unwrap();
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,80}") {
            kin(&text);
        }
    }
}

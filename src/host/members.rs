//! The processes of a container as the kernel knows them: the way to end a task when containerd or its shim does not
//! answer.
//!
//! A process belongs to a container if its cgroup lies in the container's own, in any hierarchy and at any depth. That is
//! looked up at the process (`/proc/<pid>/cgroup`) and not in the lists of the cgroups, so that nothing needs to be known
//! but the names. Whoever is signalled is held by a descriptor first and looked at after that: a number that the kernel
//! has given to somebody else in between does no harm.

use super::error::HostError;
use super::node::{CGROUP_ROOT, CgroupVersion, read};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A process that was found in a container's cgroup, and is still that process.
#[derive(Debug)]
pub struct Member {
    /// Its number on the host.
    pub pid: u32,
    /// Becomes readable when it ends.
    pub process: OwnedFd,
    /// Ticks between the boot and its start: with the number, its identity.
    pub started: u64,
    cgroups: String,
}

/// What has become of a container whose processes were killed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Killed {
    /// How many were signalled.
    pub signalled: usize,
    /// The code of the first process, 128+n after signal n; `None` if whoever is its parent has taken it already.
    pub code: Option<i32>,
    /// Who is still there at the end of the time: the kernel cannot end them (uninterruptible).
    pub left: Vec<u32>,
}

/// What `/proc/<pid>/stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    dead: bool,
    parent: u32,
    started: u64,
    status: i32,
}

/// The fields after the name, which is in brackets and may hold anything (`proc_pid_stat(5)`: state is field 3, the
/// parent field 4, the start time field 22, the status for `waitpid` field 52).
fn stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let started = fields.nth(17)?.parse().ok()?;
    let status = fields.nth(29).and_then(|field| field.parse().ok()).unwrap_or_default();
    Some(Stat {
        dead: matches!(state, "Z" | "X" | "x"),
        parent,
        started,
        status,
    })
}

fn stat_of(pid: u32) -> Option<Stat> {
    stat(&read(format!("/proc/{pid}/stat")).ok()?)
}

/// The exit code that a status for `waitpid` stands for: 128+n after signal n.
fn code_of(status: i32) -> i32 {
    match status & 0x7f {
        0 => status >> 8 & 0xff,
        signal => 128 + signal,
    }
}

/// True if the name of a cgroup is the mark, alone or as the scope that systemd makes of it (`prefix-mark.scope`).
fn bears(name: &str, mark: &str) -> bool {
    let scope = name.strip_suffix(".scope").and_then(|rest| rest.strip_suffix(mark));
    !mark.is_empty() && (name == mark || scope.is_some_and(|before| before.is_empty() || before.ends_with('-')))
}

/// The part of a cgroup's path that is the container's own: up to and with the name that bears a mark.
fn own<'a>(path: &'a str, marks: &[String]) -> Option<&'a str> {
    let mut end = 0;
    for name in path.split('/') {
        end += name.len();
        if marks.iter().any(|mark| bears(name, mark)) {
            return path.get(..end);
        }
        end += 1;
    }
    None
}

/// Controllers and path of each line of `/proc/<pid>/cgroup`.
fn lines(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        Some((parts.next()?, parts.next()?))
    })
}

fn belongs(text: &str, marks: &[String]) -> bool {
    lines(text).any(|(_, path)| own(path, marks).is_some())
}

fn member(pid: u32, marks: &[String]) -> Option<Member> {
    let look = || {
        read(format!("/proc/{pid}/cgroup"))
            .ok()
            .filter(|text| belongs(text, marks))
    };
    look()?;
    let process = pidfd_open(Pid::from_raw(i32::try_from(pid).ok()?)?, PidfdFlags::empty()).ok()?;
    // This look counts: it comes after the descriptor.
    let cgroups = look()?;
    let stat = stat_of(pid)?;
    (!stat.dead).then_some(Member {
        pid,
        process,
        started: stat.started,
        cgroups,
    })
}

/// Live processes in the cgroups that bear one of these names, the oldest first.
#[must_use]
pub fn find(marks: &[String]) -> Vec<Member> {
    let mut found: Vec<Member> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| member(pid, marks))
        .collect();
    found.sort_by_key(|member| (member.started, member.pid));
    found
}

/// The process with this number, if it is in such a cgroup.
#[must_use]
pub fn one(marks: &[String], pid: u32) -> Option<Member> {
    member(pid, marks)
}

/// The container's first process: the one with this number if it is a member, else the oldest, since every command that
/// was run in a container was started after it.
#[must_use]
pub fn first(marks: &[String], pid: Option<u32>) -> Option<Member> {
    let mut members = find(marks);
    let at = members
        .iter()
        .position(|member| Some(member.pid) == pid)
        .unwrap_or_default();
    (at < members.len()).then(|| members.swap_remove(at))
}

/// Sends a signal. A process that has ended meanwhile is no error.
///
/// # Errors
/// If the kernel refuses, or the signal is a real-time one, which cannot be sent from here.
pub fn signal(member: &Member, signal: i32) -> Result<(), HostError> {
    const WHAT: &str = "send a signal";
    let proc = || PathBuf::from(format!("/proc/{}", member.pid));
    let Some(known) = Signal::from_named_raw(signal) else {
        let text = format!("signal {signal} can only be sent by containerd; one of 1 to 31 is expected");
        return Err(HostError::new(WHAT, &proc(), text));
    };
    match pidfd_send_signal(&member.process, known) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(errno) => Err(HostError::from_errno(WHAT, &proc(), errno)),
    }
}

/// The exit code of a process that has ended and that its parent has not yet waited for. `None` if it runs, was taken, or
/// the kernel does not show the code to us.
#[must_use]
pub fn exit_code(pid: u32, started: u64) -> Option<i32> {
    // To others the kernel shows 0, which would be a lie.
    let stat = stat_of(pid).filter(|_| geteuid().is_root())?;
    (stat.dead && stat.started == started).then(|| code_of(stat.status))
}

/// When a process with this number was started, in ticks since the boot, and whether it has ended. `None`: there is none.
#[must_use]
pub fn look_at(pid: u32) -> Option<(u64, bool)> {
    stat_of(pid).map(|stat| (stat.started, stat.dead))
}

/// Whether a process is the first one of a process namespace of its own, below ours: its end is the end of all that are in it
/// (`pid_namespaces(7)`).
#[must_use]
pub fn leads_a_namespace(pid: u32) -> bool {
    read(format!("/proc/{pid}/status")).is_ok_and(|text| is_first_below(&text))
}

/// By the line `NSpid` of `/proc/<pid>/status`: the numbers of a process, from our namespace inwards.
fn is_first_below(status: &str) -> bool {
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let mut numbers = numbers.into_iter().flat_map(str::split_whitespace);
    numbers.next().is_some() && numbers.next_back() == Some("1")
}

/// The parent of a process, by its number; `None` if there is no such process.
#[must_use]
pub fn parent(pid: u32) -> Option<u32> {
    stat_of(pid).map(|stat| stat.parent)
}

/// Lets the processes go on, if they were paused: a frozen process takes no signal (with cgroup v1 not even SIGKILL).
///
/// # Errors
/// If the kernel refuses. A cgroup that is gone is no error.
pub fn thaw(members: &[Member], marks: &[String], version: CgroupVersion) -> Result<(), HostError> {
    let mut switches: Vec<PathBuf> = members
        .iter()
        .flat_map(|member| switches(Path::new(CGROUP_ROOT), &member.cgroups, marks, version))
        .collect();
    switches.sort();
    switches.dedup();
    let word = match version {
        CgroupVersion::V1 => "THAWED",
        CgroupVersion::V2 => "0",
    };
    let mut last = Ok(());
    for switch in switches {
        last = last.and(flip(&switch, word));
    }
    last
}

fn flip(switch: &Path, word: &str) -> Result<(), HostError> {
    use std::io::{ErrorKind, Write as _};
    const WHAT: &str = "thaw cgroup";
    // Not created: where there is no cgroup there must not be a file either.
    let opened = std::fs::File::options().write(true).open(switch);
    match opened.and_then(|mut file| file.write_all(word.as_bytes())) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(HostError::from_io(WHAT, switch, &e)),
        _ => Ok(()),
    }
}

/// Where a process is in the hierarchy of a controller (empty for cgroup v2), if that is within our own view.
fn path_of<'a>(text: &'a str, controller: &str) -> Option<&'a str> {
    lines(text)
        .find(|(names, _)| names.split(',').any(|name| name == controller))
        .map(|(_, path)| path)
        .filter(|path| path.split('/').all(|name| name != ".."))
}

/// The container's own cgroup in the hierarchy of a controller, of the text of `/proc/<pid>/cgroup`.
pub(super) fn own_path<'a>(text: &'a str, controller: &str, marks: &[String]) -> Option<&'a str> {
    own(path_of(text, controller)?, marks)
}

/// The files that freeze: of the container's own cgroup, and of the one beneath it in which the process is. Never of one
/// above.
fn switches(root: &Path, text: &str, marks: &[String], version: CgroupVersion) -> Vec<PathBuf> {
    let (controller, below, file) = match version {
        CgroupVersion::V1 => ("freezer", "freezer", "freezer.state"),
        CgroupVersion::V2 => ("", "", "cgroup.freeze"),
    };
    let Some((path, own)) = path_of(text, controller).and_then(|path| Some((path, own(path, marks)?))) else {
        return Vec::new();
    };
    let at = |path: &str| root.join(below).join(path.trim_start_matches('/')).join(file);
    vec![at(own), at(path)]
}

/// SIGKILL to all processes of a container, round after round until there are none, and waits until they have ended, but
/// not longer than `within`. `pid` is its first process, if that is known. Blocks.
#[must_use]
pub fn kill_all(marks: &[String], pid: Option<u32>, version: CgroupVersion, within: Duration) -> Killed {
    let deadline = Instant::now() + within;
    let mut killed = Killed::default();
    let mut leader = None;
    loop {
        let members = find(marks);
        if leader.is_none() {
            let ended = pid.and_then(|pid| Some((pid, look_at(pid).filter(|(_, dead)| *dead)?.0)));
            let first = members.iter().find(|member| Some(member.pid) == pid);
            let first = first.or_else(|| members.first().filter(|_| pid.is_none()));
            leader = ended.or_else(|| first.map(|member| (member.pid, member.started)));
        }
        let alive: Vec<u32> = members.iter().map(|member| member.pid).collect();
        if alive.is_empty() || Instant::now() >= deadline {
            killed.left = alive;
            break;
        }
        killed.signalled += alive.len();
        for member in &members {
            if let Err(error) = signal(member, Signal::KILL.as_raw()) {
                tracing::warn!(error = %error, "a process of a container cannot be killed");
            }
        }
        if let Err(error) = thaw(&members, marks, version) {
            tracing::warn!(error = %error, "a container's cgroup cannot be thawed");
        }
        wait_for_ends(&members, deadline);
    }
    killed.code = leader.and_then(|(pid, started)| exit_code(pid, started));
    killed
}

/// Until all have ended, or the deadline.
fn wait_for_ends(members: &[Member], deadline: Instant) {
    for member in members {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut ends = [PollFd::new(&member.process, PollFlags::IN)];
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            match poll(&mut ends, Some(&timeout)) {
                Err(Errno::INTR) => {}
                // Ended, or the time is over: the next look tells.
                Ok(_) | Err(_) => break,
            }
        }
    }
}

#[cfg(test)]
#[path = "members_tests.rs"]
mod tests;

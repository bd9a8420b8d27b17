//! Whether a process is there.

use super::proc::status_field;
use crate::spec::owner::ProcessId;
use rustix::fs::OFlags;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::PathBuf;

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

/// Who this process is.
#[must_use]
pub fn this_process() -> ProcessId {
    let pid = std::process::id();
    ProcessId {
        boot: boot(),
        pid,
        start: started(pid).unwrap_or_default(),
    }
}

/// The process that has launched this one, if that tells whom it works for: not the init process, which inherits those
/// whose parents have ended, and not one that has launched several of us that run, since each may work for another agent.
#[must_use]
pub fn launcher() -> Option<ProcessId> {
    parent().filter(|by| !has_sibling(std::process::id(), by.pid))
}

/// The parent process, if it is not the init process.
#[must_use]
pub fn parent() -> Option<ProcessId> {
    let pid = Some(std::os::unix::process::parent_id()).filter(|pid| *pid > 1)?;
    Some(ProcessId {
        boot: boot(),
        pid,
        start: started(pid)?,
    })
}

/// Whether the parent has another child that runs and is called as we are. What cannot be found out counts as one.
fn has_sibling(own: u32, parent: u32) -> bool {
    let name = |pid: u32| std::fs::read(format!("/proc/{pid}/comm")).ok();
    let (Some(called), Ok(processes)) = (name(own), std::fs::read_dir("/proc")) else {
        return true;
    };
    let numbers = processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers
        .filter(|pid: &u32| *pid != own && parent_of(*pid) == Some(parent))
        .any(|pid| is_running(pid) && name(pid).as_ref() == Some(&called))
}

/// Whether a process has children that run. What cannot be found out counts as some.
#[must_use]
pub fn has_children(pid: u32) -> bool {
    std::fs::read_dir("/proc").map_or(true, |processes| {
        let numbers = processes
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        numbers
            .filter(|child: &u32| parent_of(*child) == Some(pid))
            .any(is_running)
    })
}

/// Paths, by way of a process's descriptors, of the pipes that it has looked up without opening them (`O_PATH`): containerd's
/// `fifo` library does so with each pipe, and opens it by that. None if nothing can be found out.
#[must_use]
pub fn held_pipes(pid: u32) -> Vec<PathBuf> {
    let only_looked_up = |number: &str| {
        let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).ok()?;
        let flags = u32::from_str_radix(status_field(&info, "flags")?, 8).ok()?;
        Some(flags & OFlags::PATH.bits() != 0)
    };
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
    descriptors
        .flatten()
        .filter(|entry| entry.file_name().to_str().and_then(only_looked_up) == Some(true))
        .map(|entry| entry.path())
        .filter(|path| path.metadata().is_ok_and(|found| found.file_type().is_fifo()))
        .collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    stat_field(pid, 4)?.parse().ok()
}

/// A field of `/proc/<pid>/stat` by its number in proc(5), from the third on; `None` if the process is not there.
fn stat_field(pid: u32, number: usize) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the name, ends with the last parenthesis; the next is the third.
    let (_, rest) = stat.rsplit_once(')')?;
    Some(rest.split_whitespace().nth(number.checked_sub(3)?)?.to_owned())
}

/// Where this process sees paths from: its boot and its mount namespace. `None` if that cannot be read.
#[must_use]
pub fn place() -> Option<String> {
    let namespace = std::fs::read_link("/proc/self/ns/mnt").ok()?;
    Some(format!("{}:{}", boot(), namespace.display()))
}

/// Whether this very process runs: not one of another boot, not one that was given its number anew. What cannot be found
/// out counts as running.
#[must_use]
pub fn lives(process: &ProcessId) -> bool {
    process.boot == boot() && is_same(process.pid, process.start)
}

/// Names this boot and the process namespace, in which alone process ids mean something; the same text for all who cannot
/// read them.
fn boot() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let boot = match text.trim() {
        "" => "unknown",
        id => id,
    };
    let namespace = std::fs::metadata("/proc/self/ns/pid").map_or(0, |found| found.ino());
    format!("{boot}/{namespace}")
}

/// When a process started, in clock ticks since the boot (field 22 of `/proc/<pid>/stat`); `None` if it is not there.
#[must_use]
pub fn started(pid: u32) -> Option<u64> {
    stat_field(pid, 22)?.parse().ok()
}

/// The same as a time, nanoseconds since the Unix epoch, as exact as the clock's ticks.
#[must_use]
pub fn started_at(pid: u32) -> Option<i64> {
    let ticks_per_second = u128::from(rustix::param::clock_ticks_per_second()).max(1);
    let after_boot = u128::from(started(pid)?) * 1_000_000_000 / ticks_per_second;
    let clock = |clock| {
        let time = rustix::time::clock_gettime(clock);
        i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
    };
    let boot = clock(rustix::time::ClockId::Realtime) - clock(rustix::time::ClockId::Boottime);
    i64::try_from(boot + i128::try_from(after_boot).ok()?).ok()
}

/// Whether the process of this id that started then runs. What cannot be found out counts as running.
#[must_use]
pub fn is_same(pid: u32, start: u64) -> bool {
    is_running(pid) && started(pid).is_none_or(|found| found == start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_to_open_a_pipe_that_it_has_looked_up_is_given_a_reader() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        crate::host::fifo::make_fifo(&path).unwrap();
        let looked_up = rustix::fs::open(&path, OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
        let waits = std::thread::spawn(move || std::fs::File::options().write(true).open(path).map(drop));
        let found: Vec<_> = held_pipes(std::process::id())
            .into_iter()
            .filter(|found| {
                let (one, other) = (found.metadata().unwrap(), rustix::fs::fstat(&looked_up).unwrap());
                (one.ino(), one.dev()) == (other.st_ino, other.st_dev)
            })
            .collect();
        assert_eq!(found.len(), 1, "and the one that is opened is not taken for looked up");
        let reader = crate::host::fifo::open_handle_reader(&found[0]).unwrap();
        waits.join().unwrap().unwrap();
        drop(reader);
        assert!(held_pipes(u32::MAX).is_empty());
    }

    #[test]
    fn we_live_and_whoever_had_our_number_before_does_not() {
        let me = this_process();
        assert!(
            lives(&me) && me.start > 0 && me.boot.split('/').next().is_some_and(|boot| boot.len() == 36),
            "{me:?}"
        );
        let earlier = ProcessId {
            start: me.start - 1,
            ..me.clone()
        };
        let before_the_boot = ProcessId {
            boot: "another".to_owned(),
            ..me.clone()
        };
        let nobody = ProcessId { pid: u32::MAX, ..me };
        assert!(!lives(&earlier) && !lives(&before_the_boot) && !lives(&nobody));
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let age = i64::try_from(now.as_nanos()).unwrap() - started_at(std::process::id()).unwrap();
        // Tests do not take a day; the clock may have been set by a little.
        assert!((-1_000_000_000..86_400_000_000_000).contains(&age), "{age}");
        assert_eq!(started_at(u32::MAX), None);
    }

    #[test]
    fn a_child_of_our_name_is_a_sibling_of_the_other_and_of_no_other_child() {
        let sleep = |seconds| std::process::Command::new("sleep").arg(seconds).spawn().unwrap();
        let (mut one, own) = (sleep("60"), std::process::id());
        let alone = !has_sibling(one.id(), own);
        let mut two = sleep("61");
        let called = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while called(two.id()) != "sleep\n" || called(one.id()) != "sleep\n" {
            assert!(std::time::Instant::now() < end, "they do not become what was spawned");
            std::thread::yield_now();
        }
        let together = has_sibling(one.id(), own) && has_sibling(two.id(), own);
        let parent = parent_of(one.id());
        let children = has_children(own) && !has_children(one.id());
        two.kill().unwrap();
        two.wait().unwrap();
        let again = !has_sibling(one.id(), own);
        one.kill().unwrap();
        one.wait().unwrap();
        assert!(alone && together && again, "{alone} {together} {again}");
        assert!(children);
        assert_eq!(parent, Some(own));
        // Whoever runs the tests is no init process and runs one of us at a time, or more.
        assert!(launcher().is_none_or(|by| lives(&by) && by.pid == std::os::unix::process::parent_id()));
    }

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

//! Shims as the host shows them: processes that outlive containerd, and that it may have forgotten.

use super::error::HostError;
use super::{bundles, fifo, liveness, members};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where runc notes its containers, by namespace, unless a runtime's options say otherwise (containerd's `RuncRoot`).
pub(super) const RUNC_STATE: &str = "/run/containerd/runc";

/// The rest between two looks at a shim's children.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A shim that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shim {
    /// Process id.
    pub pid: u32,
    /// The container it was started for.
    pub container: String,
    /// containerd namespace.
    pub namespace: String,
    /// Path of containerd's socket.
    pub address: String,
}

/// All shims that run.
#[must_use]
pub fn all() -> Vec<Shim> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| shim(pid, &std::fs::read(format!("/proc/{pid}/cmdline")).ok()?))
        .filter(|shim| is_of_this_host(shim.pid))
        .collect()
}

/// A containerd inside a container has shims there, whose sockets and names are not ours.
fn is_of_this_host(pid: u32) -> bool {
    let namespace = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/pid")).ok();
    namespace(&pid.to_string()).is_none_or(|its| Some(its) == namespace("self"))
}

/// A shim by its arguments (`containerd-shim-runc-v2 -namespace N -id I -address A`), `None` for another program.
fn shim(pid: u32, cmdline: &[u8]) -> Option<Shim> {
    let args: Vec<&str> = cmdline
        .split(|b| *b == 0)
        .map(std::str::from_utf8)
        .collect::<Result<_, _>>()
        .ok()?;
    let program = args.first()?.rsplit('/').next()?;
    let after = |flag: &str| {
        let at = args.iter().position(|arg| *arg == flag)?;
        args.get(at + 1).map(|value| (*value).to_owned())
    };
    program.starts_with("containerd-shim").then_some(())?;
    Some(Shim {
        pid,
        container: after("-id")?,
        namespace: after("-namespace")?,
        address: after("-address")?,
    })
}

/// Whether a shim's program was run by containerd for one thing: to start the shim, or to delete what a dead one has left. It
/// ends by itself, and what it would have deleted stays if it is killed.
fn is_errand(cmdline: &[u8]) -> bool {
    let last = cmdline.split(|b| *b == 0).rfind(|arg| !arg.is_empty());
    matches!(last, Some(b"start" | b"delete"))
}

impl Shim {
    /// Where the bundles of its namespace lie: beside the one it works in. `None` if that cannot be seen.
    #[must_use]
    pub fn bundles(&self) -> Option<PathBuf> {
        let bundle = bundle_of(self.pid, &self.namespace, &self.container)?;
        bundle.parent().map(Path::to_owned)
    }

    /// Whether it was started by the containerd at this socket, for its namespace of this name.
    #[must_use]
    pub fn is_of(&self, address: &str, namespace: &str) -> bool {
        self.address.trim_end_matches('/') == address.trim_end_matches('/') && self.namespace == namespace
    }

    /// When it was started, nanoseconds since the Unix epoch, to about a second; `None` if it has ended.
    #[must_use]
    pub fn started_at(&self) -> Option<i64> {
        liveness::started_at(self.pid)
    }
}

/// The shim whose containers are processes of this kernel.
const RUNC_SHIM: &str = "containerd-shim-runc-v2";

/// Whether a process was started by a shim of runc, which makes it the container's own, and not one that plays a machine.
#[must_use]
pub fn starts_processes_here(pid: u32) -> bool {
    runc_shim_of(pid).is_some()
}

/// The shim of runc that has started a process, by its number.
fn runc_shim_of(pid: u32) -> Option<u32> {
    let parent = members::parent(pid)?;
    let cmdline = std::fs::read(format!("/proc/{parent}/cmdline")).ok()?;
    is_of_runc(&cmdline).then_some(parent)
}

fn is_of_runc(cmdline: &[u8]) -> bool {
    let program = cmdline.split(|b| *b == 0).next().unwrap_or_default();
    program.rsplit(|b| *b == b'/').next() == Some(RUNC_SHIM.as_bytes())
}

/// Unmounts the root of a container whose first process this is from the place where its shim has mounted it for the runtime.
/// The container has a root of its own by then, in its mount namespace, and keeps it; exec enters that namespace, and
/// whoever takes the container down finds nothing to unmount. The bundle; `None` if that is not known to be so of this one.
///
/// For each start the runtime reads the table of mounts several times (runc 1.1: five times) and copies all of them, and systemd
/// reads it after each change: with a mount that stays for each task, a node's every start would cost more than the one before.
///
/// # Errors
/// If the kernel refuses.
pub fn unmount_root(pid: u32, namespace: &str, container: &str) -> Result<Option<PathBuf>, HostError> {
    let Some(shim) = runc_shim_of(pid) else {
        return Ok(None);
    };
    let mounts_of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    let (its, shims, ours) = (
        mounts_of(&pid.to_string()),
        mounts_of(&shim.to_string()),
        mounts_of("self"),
    );
    if its.is_none() || its == shims || shims != ours {
        return Ok(None);
    }
    let Some(bundle) = bundle_of(shim, namespace, container) else {
        return Ok(None);
    };
    let root = bundle.join("rootfs");
    match unmount(&root, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // Or nothing was mounted there.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(Some(bundle)),
        Err(e) => Err(HostError::from_io("unmount root", &root, &e.into())),
    }
}

/// A shim that is held fast: its number cannot become another process's, and its bundle is known.
#[derive(Debug)]
pub struct Held {
    pid: u32,
    /// What runc may have noted of the container.
    state: PathBuf,
    process: OwnedFd,
    bundle: Option<PathBuf>,
}

/// The shims that were started for the container `shim` of the containerd at this socket, for those that run, without
/// containerd's errands to them. `container` is the one whose bundle counts: this one, or another that shares the shim.
#[must_use]
pub fn hold(address: &str, namespace: &str, shim: &str, container: &str) -> Vec<Held> {
    let started_for = shim;
    let is_its = |shim: &Shim| shim.is_of(address, namespace) && shim.container == started_for;
    all()
        .into_iter()
        .filter(is_its)
        .filter_map(|found| {
            let pid = Pid::from_raw(i32::try_from(found.pid).ok()?)?;
            let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
            // This look counts: it comes after the descriptor.
            let cmdline = std::fs::read(format!("/proc/{pid}/cmdline", pid = found.pid)).ok()?;
            let again = self::shim(found.pid, &cmdline).filter(|_| !is_errand(&cmdline))?;
            let bundle = bundle_of(found.pid, namespace, container);
            (again == found).then(|| Held {
                pid: found.pid,
                state: Path::new(RUNC_STATE).join(namespace).join(container),
                process,
                bundle,
            })
        })
        .collect()
}

/// SIGKILL to the shims of a container: one that does not answer keeps containerd from taking down what is left. True if
/// there was one.
#[must_use]
pub fn kill(address: &str, namespace: &str, container: &str) -> bool {
    let mut any = false;
    for shim in hold(address, namespace, container, container) {
        any |= pidfd_send_signal(&shim.process, Signal::KILL).is_ok();
    }
    any
}

/// The bundle of a container in this shim. A shim works in the bundle of the container that it was started for, which may be
/// gone; that of another that shares it lies beside.
fn bundle_of(shim: u32, namespace: &str, container: &str) -> Option<PathBuf> {
    let works_in = std::fs::read_link(format!("/proc/{shim}/cwd")).ok()?;
    let bundle = works_in.parent()?.join(container);
    bundles::is_bundle(&bundle, namespace, container).then_some(bundle)
}

impl Held {
    /// Waits for its end. False if it has not come in time. Blocks.
    #[must_use]
    pub fn ends_within(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).unwrap_or_default();
            let mut ends = [PollFd::new(&self.process, PollFlags::IN)];
            match poll(&mut ends, Some(&timeout)) {
                Ok(0) if left.is_zero() => return false,
                Ok(0) | Err(Errno::INTR) => {}
                // A process whose end cannot be seen counts as one that runs.
                answer => return answer.is_ok(),
            }
        }
    }

    /// Reading ends of the pipes that it may be opening to write to: for one whose reader has gone it waits without an end,
    /// and answers nobody meanwhile. Nothing is read here, and whoever else reads goes on. Those that can be had.
    #[must_use]
    pub fn readers(&self) -> Vec<OwnedFd> {
        liveness::held_pipes(self.pid)
            .iter()
            .filter_map(|path| fifo::open_handle_reader(path).ok())
            .collect()
    }

    /// Makes its bundle again, empty, if containerd has removed that: the runtime writes its log there, and without it fails at
    /// everything that the shim bids it, so that the shim keeps its container for ever.
    ///
    /// # Errors
    /// Names what failed.
    pub fn have_bundle(&self) -> Result<(), HostError> {
        let made = self.bundle.as_deref().map_or(Ok(()), std::fs::create_dir);
        match made {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                let bundle = self.bundle.as_deref().unwrap_or(Path::new(""));
                Err(HostError::from_io("make bundle again", bundle, &e))
            }
            _ => Ok(()),
        }
    }

    /// SIGKILL, once it has no child any more: the processes of its containers would be its children, and a runtime that it has
    /// run ends by itself. False if it has one all the time, or the kernel refuses. Blocks.
    #[must_use]
    pub fn kill_childless(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        while liveness::has_children(self.pid) {
            if Instant::now() >= end {
                return false;
            }
            // Nothing tells of the end of another's child.
            std::thread::sleep(LOOK_AGAIN);
        }
        // The descriptor keeps the number from being another's only as long as this one was not waited for; then nothing is
        // sent either.
        pidfd_send_signal(&self.process, Signal::KILL).is_ok()
    }

    /// Removes the bundle of one that has ended, with what is mounted in it, and what runc has noted of a container whose
    /// processes are gone: containerd does so only when it starts.
    ///
    /// # Errors
    /// Names what failed.
    pub fn remove_bundle(&self) -> Result<(), HostError> {
        bundles::remove(&self.state)?;
        self.bundle.as_deref().map_or(Ok(()), bundles::clear)
    }
}

/// Removes what runc has noted of a container that nobody looks after any more: a runtime that was making it when its shim
/// was ended notes it afterwards, and nobody asks for it again.
///
/// # Errors
/// Names what failed.
pub fn forget_state(namespace: &str, container: &str) -> Result<(), HostError> {
    bundles::remove(&Path::new(RUNC_STATE).join(namespace).join(container))
}

#[cfg(test)]
mod tests {
    use super::super::leftovers::{self, BUNDLES};
    use super::*;
    use std::process::Command;

    #[test]
    fn a_shim_is_known_by_its_arguments_and_nothing_else_is_one() {
        let line = b"/usr/bin/containerd-shim-runc-v2\0-namespace\0n\0-id\0web\0-address\0/a.sock\0";
        let found = shim(7, line).unwrap();
        assert_eq!((found.pid, found.container.as_str()), (7, "web"));
        assert_eq!((found.namespace.as_str(), found.address.as_str()), ("n", "/a.sock"));
        assert!(found.is_of("/a.sock/", "n") && !found.is_of("/a.sock", "m") && !found.is_of("/b.sock", "n"));
        assert_eq!(shim(7, b"/bin/sh\0-namespace\0n\0-id\0web\0-address\0/a\0"), None);
        assert_eq!(shim(7, b"containerd-shim-runc-v2\0-id\0"), None);
        assert_eq!(shim(7, b""), None);
    }

    /// A process that looks like a shim, in its bundle.
    fn pretend(root: &Path, container: &str) -> (std::process::Child, PathBuf) {
        pretend_with(root, container, &[])
    }

    fn pretend_with(root: &Path, container: &str, action: &[&str]) -> (std::process::Child, PathBuf) {
        let bundle = root.join(BUNDLES).join("n").join(container);
        std::fs::create_dir_all(bundle.join("rootfs")).unwrap();
        std::fs::write(bundle.join("log.json"), "").unwrap();
        let program = root.join("containerd-shim-pretended");
        std::os::unix::fs::symlink("/bin/sh", &program).unwrap();
        let child = Command::new(program)
            .args([
                "-c",
                "read line; exec sleep 60",
                "sh",
                "-namespace",
                "n",
                "-id",
                container,
                "-address",
                "/a.sock",
            ])
            .args(action)
            .current_dir(&bundle)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        (child, bundle)
    }

    /// What was pretended, once it has become that.
    fn held(container: &str) -> Held {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(held) = hold("/a.sock", "n", container, container).pop() {
                return held;
            }
            assert!(Instant::now() < end, "it does not become what was spawned");
            std::thread::yield_now();
        }
    }

    #[test]
    fn one_that_is_held_is_waited_for_and_its_bundle_goes_with_its_other_half() {
        let root = tempfile::tempdir().unwrap();
        let (mut child, bundle) = pretend(root.path(), "web");
        let work = root.path().join("root").join(BUNDLES).join("n/web");
        std::fs::create_dir_all(work.join("x")).unwrap();
        std::os::unix::fs::symlink(&work, bundle.join("work")).unwrap();
        let held = held("web");
        assert!(hold("/b.sock", "n", "web", "web").is_empty() && hold("/a.sock", "n", "we", "we").is_empty());
        assert!(!held.ends_within(Duration::from_millis(20)));
        assert!(!kill("/a.sock", "n", "we") && kill("/a.sock", "n", "web"));
        assert!(held.ends_within(Duration::from_secs(10)));
        child.wait().unwrap();
        std::fs::rename(&bundle, root.path().join("gone")).unwrap();
        for _ in 0..2 {
            held.have_bundle().unwrap();
            assert!(!leftovers::is_gone(&bundle));
        }
        std::fs::remove_dir(&bundle).unwrap();
        std::fs::rename(root.path().join("gone"), &bundle).unwrap();
        held.remove_bundle().unwrap();
        held.remove_bundle().unwrap();
        assert!(leftovers::is_gone(&bundle) && leftovers::is_gone(&work));
        assert!(!leftovers::is_gone(root.path()));
    }

    #[test]
    fn an_errand_of_containerd_is_no_shim_to_be_ended() {
        let line = |action: &str| {
            format!("containerd-shim-runc-v2\0-namespace\0n\0-address\0/a\0-id\0web\0-bundle\0/b\0{action}")
        };
        assert!(is_errand(line("delete\0").as_bytes()) && is_errand(line("start\0").as_bytes()));
        assert!(!is_errand(line("").as_bytes()) && !is_errand(b""));
        // Its bundle is in use all the same.
        assert!(shim(7, line("delete\0").as_bytes()).is_some());
        let root = tempfile::tempdir().unwrap();
        let (mut child, bundle) = pretend_with(root.path(), "errand", &["delete"]);
        let runs = || all().into_iter().any(|shim| shim.pid == child.id());
        while !runs() {
            std::thread::yield_now();
        }
        assert!(hold("/a.sock", "n", "errand", "errand").is_empty() && !kill("/a.sock", "n", "errand"));
        let orphaned = || bundles::remove_orphan(&bundle, "n", "errand", Duration::ZERO).unwrap();
        assert!(!orphaned(), "somebody works in it");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(orphaned());
    }

    #[test]
    fn only_processes_of_the_shim_of_runc_are_taken_for_the_containers_own() {
        assert!(is_of_runc(b"/usr/bin/containerd-shim-runc-v2\0-namespace\0n\0"));
        assert!(is_of_runc(b"containerd-shim-runc-v2\0"));
        for other in [
            &b"/usr/bin/containerd-shim-runsc-v1\0-id\0containerd-shim-runc-v2\0"[..],
            b"/sbin/init\0",
            b"",
        ] {
            assert!(!is_of_runc(other));
        }
        let me = std::process::id();
        assert!(!starts_processes_here(me) && unmount_root(me, "n", "web").unwrap().is_none());
    }
}

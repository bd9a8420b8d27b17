//! Removes everything a private containerd left behind, knowing only its root directory.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use crate::procfs;

/// runc's state directory as the shim sets it, one directory per namespace below it.
pub const RUNC_STATE: &str = "/run/containerd/runc";

/// Where clients of containerd usually put the pipes of a container.
pub const FIFO_DIR: &str = "/run/containerd/fifo";

/// Kills every containerd, shim, `ctr` and registry with an argument below `root`, and every process started with `TMPDIR` below `root` (the
/// plugins), each with its descendants; removes their cgroups, shim sockets, pipes and runc state, unmounts
/// whatever is mounted below `root` and deletes it. Safe to call when there is nothing to do.
pub fn sweep(root: &Path) {
    // An empty or short path would match half of the machine.
    if root.components().count() < 3 {
        return;
    }
    let needle = format!("{}/", root.display());
    let mut cgroups = BTreeSet::new();
    let mut sockets = BTreeSet::new();
    let mut runc_state = BTreeSet::new();
    let mut fifos = BTreeSet::new();
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let mut roots = procfs::with_argument(&needle);
        roots.retain(|pid| ours(*pid));
        roots.extend(procfs::with_environment(&format!("TMPDIR={needle}")));
        let mut doomed: Vec<u32> = roots.iter().flat_map(|pid| procfs::descendants(*pid)).collect();
        for pid in &doomed {
            cgroups.extend(procfs::cgroups(*pid));
        }
        for pid in &roots {
            fifos.extend(fifo_dirs_of(*pid));
            runc_state.extend(runc_state_of(*pid));
            sockets.extend(
                procfs::unix_sockets(*pid)
                    .into_iter()
                    .filter(|path| path.starts_with("/run/containerd/s")),
            );
        }
        doomed.extend(roots);
        doomed.retain(|pid| procfs::alive(*pid) && *pid != std::process::id());
        let none = doomed.is_empty();
        for pid in doomed {
            if let Some(pid) = Pid::from_raw(pid as i32) {
                kill_process(pid, Signal::KILL).ok();
            }
        }
        // Only now: to look for so many may have taken all the time there is.
        if none || Instant::now() > end {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    for socket in sockets {
        std::fs::remove_file(socket).ok();
    }
    for dir in fifos {
        std::fs::remove_dir_all(dir).ok();
    }
    for dir in runc_state {
        std::fs::remove_dir_all(&dir).ok();
        // The namespace's directory, if that was its last container.
        dir.parent().map(std::fs::remove_dir);
    }
    remove_cgroups(&cgroups);
    unmount_below(root);
    std::fs::remove_dir_all(root).ok();
}

/// Where runc keeps the state of a shim's container: the same place for every containerd of the machine.
fn runc_state_of(shim: u32) -> Option<PathBuf> {
    let args = procfs::cmdline(shim);
    let after = |flag: &str| args.iter().position(|arg| arg == flag).and_then(|at| args.get(at + 1));
    let (namespace, id) = (after("-namespace")?, after("-id")?);
    (!namespace.contains("..") && !id.contains("..")).then(|| Path::new(RUNC_STATE).join(namespace).join(id))
}

/// The directories of the pipes a process holds in the usual place for them.
fn fifo_dirs_of(pid: u32) -> Vec<PathBuf> {
    let pipes = procfs::descriptors(pid)
        .into_values()
        .map(PathBuf::from)
        .filter(|path| path.starts_with(FIFO_DIR));
    pipes
        .filter_map(|path| Some(path.parent()?.to_owned()))
        .filter(|dir| dir.as_path() != Path::new(FIFO_DIR))
        .collect()
}

fn ours(pid: u32) -> bool {
    let program = procfs::cmdline(pid)
        .first()
        .and_then(|arg0| arg0.rsplit('/').next().map(str::to_owned))
        .unwrap_or_default();
    program.starts_with("containerd") || program == "ctr" || program == "docker-registry"
}

/// Removes the empty directories that a namespace leaves among runc's state and as a cgroup parent. The names a Nomad agent uses itself are
/// left alone.
pub fn forget_namespace(namespace: &str) {
    if namespace.is_empty() || namespace.contains(['/', '.']) || namespace == "nomad" {
        return;
    }
    std::fs::remove_dir(Path::new(RUNC_STATE).join(namespace)).ok();
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(top)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    for dir in hierarchies.chain([top.to_owned()]).map(|dir| dir.join(namespace)) {
        std::fs::remove_dir(dir).ok();
    }
}

/// Unmounts everything below `root`, newest first.
pub fn unmount_below(root: &Path) {
    for point in procfs::mounts_below(root).into_iter().rev() {
        unmount(&point, UnmountFlags::DETACH).ok();
    }
}

/// Removes cgroups that are not those of this process, waiting shortly for their processes to go.
fn remove_cgroups(dirs: &BTreeSet<PathBuf>) {
    let own = procfs::cgroups(std::process::id());
    for dir in dirs.iter().filter(|dir| !own.contains(*dir)) {
        for _ in 0..20 {
            match std::fs::remove_dir(dir) {
                Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(Duration::from_millis(10))
                }
                Ok(()) | Err(_) => break,
            }
        }
        // The parent the runtime made for the namespace; refused while it is in use.
        if let Some(parent) = dir.parent().filter(|parent| parent.components().count() > 4) {
            std::fs::remove_dir(parent).ok();
        }
    }
}

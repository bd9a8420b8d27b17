//! Mount sources held fast: what was checked is bind-mounted to a path that only we can change, and the runtime is given
//! that path.
//!
//! A runtime resolves the path of a source anew, as root, and a task that can write on the way there can have put a link
//! in between (Kubernetes met the same with `subPath`: CVE-2017-1002101). What hangs on a descriptor cannot be replaced.
//!
//! The pins of a container lie in a directory of their own beneath [`DIR`], apart from its files: those are deleted with
//! all that is below them, which must never be a mount with a task's data.

use super::error::HostError;
use super::paths;
use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

/// Directory of all pins, in that of the driver's own files. No container is called so: ids begin with a letter or digit.
pub const DIR: &str = ".pins";

/// Mounts that may lie on top of each other at one pin: one, unless somebody else mounts there.
const STACK: usize = 16;

/// A source that is to be held: its place among the plan's, and what was opened and checked.
pub type Pinned<'a> = (usize, &'a OwnedFd);

/// Directory of the pins of one container.
#[must_use]
pub fn dir_of(run_dir: &Path, container: &str) -> PathBuf {
    run_dir.join(DIR).join(container)
}

/// Path of one pin.
#[must_use]
pub fn path_of(dir: &Path, index: usize) -> PathBuf {
    dir.join(index.to_string())
}

/// Holds the sources fast, each at the path of its place. What an earlier attempt held is let go first.
///
/// # Errors
/// Names what failed; the pins that were made stay, for [`release`].
pub fn hold(dir: &Path, sources: &[Pinned<'_>]) -> Result<(), HostError> {
    release(dir)?;
    if sources.is_empty() {
        return Ok(());
    }
    paths::create_run_dir(dir)?;
    for (index, source) in sources {
        pin(&path_of(dir, *index), source)?;
    }
    Ok(())
}

fn pin(at: &Path, source: &OwnedFd) -> Result<(), HostError> {
    const WHAT: &str = "hold mount source";
    let fault = |errno| HostError::from_errno(WHAT, at, errno);
    let found = fs::fstat(source).map_err(fault)?;
    if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
        fs::mkdirat(CWD, at, Mode::RWXU).map_err(fault)?;
    } else {
        let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat(CWD, at, create, Mode::RUSR).map_err(fault)?;
    }
    // Without what is mounted below it already: where the directory of the pins is shared with other mount namespaces, as
    // on most systems, such a tree would be copied to each of them, and the kernel lets go there only of mounts that
    // have none below them.
    mount_bind(format!("/proc/self/fd/{}", source.as_raw_fd()), at).map_err(fault)?;
    // What is mounted below the source from now on arrives, if its mount is shared, and so in a task that wants that.
    // Nothing goes the other way: to let go of a pin must not unmount anything of the source.
    mount_change(at, MountPropagationFlags::DOWNSTREAM).map_err(fault)
}

/// Lets go of all that is held for a container. Nothing held is success.
///
/// # Errors
/// Names what failed. Nothing below a mount is ever removed.
pub fn release(dir: &Path) -> Result<(), HostError> {
    const WHAT: &str = "let go of mount source";
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(|e| HostError::from_io(WHAT, dir, &e))?,
    };
    for entry in entries {
        let path = entry.map_err(|e| HostError::from_io(WHAT, dir, &e))?.path();
        let fault = |errno| HostError::from_errno(WHAT, &path, errno);
        for _ in 0..STACK {
            match unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                Ok(()) => {}
                // Not a mount (any more).
                Err(Errno::INVAL | Errno::NOENT) => break,
                Err(errno) => return Err(fault(errno)),
            }
        }
        // Neither of the two goes into a directory, and a mount that is still there is busy.
        match fs::unlinkat(CWD, &path, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => paths::remove_dir(&path)?,
            Err(errno) => return Err(fault(errno)),
        }
    }
    paths::remove_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// Mounts need root; a user namespace of its own would do as well, but not in every sandbox.
    fn may_mount() -> bool {
        rustix::process::geteuid().is_root()
    }

    #[test]
    fn what_is_held_stays_what_it_was_and_is_let_go_without_harm() {
        if !may_mount() {
            eprintln!("skipped: not root");
            return;
        }
        let base = tempfile::tempdir().unwrap();
        let (data, file) = (base.path().join("data"), base.path().join("file"));
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("mine"), "1").unwrap();
        std::fs::write(&file, "2").unwrap();
        let opened = [&data, &file].map(|path| paths::check_beneath(base.path(), path).unwrap());
        let sources: Vec<Pinned<'_>> = opened.iter().enumerate().collect();
        let dir = dir_of(&base.path().join("run"), "web");
        hold(&dir, &sources).unwrap();
        // As another task does between the check and the mount.
        std::fs::rename(&data, base.path().join("moved")).unwrap();
        symlink("/etc", &data).unwrap();
        assert_eq!(std::fs::read_to_string(path_of(&dir, 0).join("mine")).unwrap(), "1");
        assert_eq!(std::fs::read_to_string(path_of(&dir, 1)).unwrap(), "2");
        // Again, as after an interrupted start.
        hold(&dir, &sources).unwrap();
        release(&dir).unwrap();
        release(&dir).unwrap();
        assert!(!dir.exists());
        assert_eq!(std::fs::read_to_string(base.path().join("moved/mine")).unwrap(), "1");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "2");
    }

    #[test]
    fn what_is_mounted_below_a_source_later_arrives_and_is_not_let_go_with_it() {
        if !may_mount() {
            eprintln!("skipped: not root");
            return;
        }
        let base = tempfile::tempdir().unwrap();
        for shared in [true, false] {
            let source = base.path().join(format!("source-{shared}"));
            let below = source.join("below");
            std::fs::create_dir(&source).unwrap();
            mount_bind(&source, &source).unwrap();
            let kind = if shared {
                MountPropagationFlags::SHARED
            } else {
                MountPropagationFlags::PRIVATE
            };
            mount_change(&source, kind).unwrap();
            std::fs::create_dir(&below).unwrap();
            let opened = paths::check_beneath(base.path(), &source).unwrap();
            let dir = dir_of(&base.path().join("run"), "web");
            hold(&dir, &[(0, &opened)]).unwrap();
            let other = base.path().join(format!("other-{shared}"));
            std::fs::create_dir(&other).unwrap();
            std::fs::write(other.join("x"), "").unwrap();
            mount_bind(&other, &below).unwrap();
            let arrived = path_of(&dir, 0).join("below/x").exists();
            release(&dir).unwrap();
            let kept = below.join("x").exists();
            unmount(&below, UnmountFlags::DETACH).unwrap();
            unmount(&source, UnmountFlags::DETACH).unwrap();
            assert_eq!((arrived, kept), (shared, true));
            assert!(!dir.exists());
        }
    }

    #[test]
    fn nothing_held_is_no_fault() {
        let base = tempfile::tempdir().unwrap();
        let dir = dir_of(base.path(), "web");
        release(&dir).unwrap();
        hold(&dir, &[]).unwrap();
        assert!(!dir.exists());
    }
}

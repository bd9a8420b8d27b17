//! SELinux labels of files that a container is given.
//!
//! Tasks can write where this looks, so no link is followed and nothing is opened for reading but directories: a pipe
//! would block, a device act.

use super::error::HostError;
use super::paths::open_beneath;
use rustix::fs::{self, CWD, Dir, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// What was tried, for errors.
const WHAT: &str = "set SELinux label";
/// The attribute that holds a label.
const ATTRIBUTE: &str = "security.selinux";
/// Most files that one mount may have: beyond it a start would take minutes.
const MAX: usize = 1_000_000;

/// Whether the kernel has SELinux in use: its file system is then mounted.
#[must_use]
pub fn enabled() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// Gives `path` and all beneath it a label. With `dir`, the path must lie beneath it and no link may be on the way.
///
/// # Errors
/// Names the file that could not be labelled.
pub fn relabel(dir: Option<&Path>, path: &Path, label: &str) -> Result<(), HostError> {
    relabel_as(ATTRIBUTE, dir, path, label)
}

fn relabel_as(attribute: &str, dir: Option<&Path>, path: &Path, label: &str) -> Result<(), HostError> {
    let fault = |errno| HostError::from_errno(WHAT, path, errno);
    let at = OFlags::PATH | OFlags::CLOEXEC;
    let rest = dir
        .and_then(|dir| path.strip_prefix(dir).ok())
        .filter(|r| !r.as_os_str().is_empty());
    let root = match (dir, rest) {
        (Some(dir), Some(rest)) => {
            let dir = fs::openat(CWD, dir, at, Mode::empty()).map_err(fault)?;
            open_beneath(dir, rest, OFlags::PATH).map_err(fault)?
        }
        _ => fs::openat(CWD, path, at, Mode::empty()).map_err(fault)?,
    };
    let mut next = set(attribute, &root, label)
        .and_then(|()| names(&root))
        .map_err(fault)?;
    let mut seen = next.len();
    while let Some(rest) = next.pop() {
        let named = |errno| HostError::from_errno(WHAT, &path.join(&rest), errno);
        let found = match open_beneath(&root, &rest, OFlags::PATH) {
            Ok(found) => found,
            // A link, or gone meanwhile.
            Err(Errno::LOOP | Errno::NOENT | Errno::NOTDIR) => continue,
            Err(errno) => return Err(named(errno)),
        };
        set(attribute, &found, label).map_err(named)?;
        let below = names(&found).map_err(named)?;
        seen += below.len();
        if seen > MAX {
            return Err(HostError::new(WHAT, path, format!("it holds more than {MAX} files")));
        }
        next.extend(below.into_iter().map(|name| rest.join(name)));
    }
    Ok(())
}

/// Sets the attribute of what is open, whatever its name is by now. File systems without labels are left as they are.
fn set(attribute: &str, fd: &OwnedFd, label: &str) -> Result<(), Errno> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    match fs::setxattr(path, attribute, label.as_bytes(), XattrFlags::empty()) {
        Err(Errno::NOTSUP) => Ok(()),
        other => other,
    }
}

/// Names in a directory; none if it is something else.
fn names(fd: impl AsFd) -> Result<Vec<PathBuf>, Errno> {
    if FileType::from_raw_mode(fs::fstat(&fd)?.st_mode) != FileType::Directory {
        return Ok(Vec::new());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = fs::openat(&fd, ".", flags, Mode::empty())?;
    let mut out = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            out.push(PathBuf::from(OsStr::from_bytes(name)));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// An attribute that any owner may set takes the place of SELinux's.
    const TEST: &str = "user.containerd-driver";

    fn label(path: &Path) -> Option<String> {
        let mut buffer = [0_u8; 64];
        let length = fs::lgetxattr(path, TEST, &mut buffer[..]).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    #[test]
    fn all_beneath_is_labelled_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(root.join("a/b/f"), "").unwrap();
        symlink(&outside, root.join("a/link")).unwrap();
        symlink(&outside, dir.path().join("way")).unwrap();
        relabel_as(TEST, Some(dir.path()), &root, "x").unwrap();
        if label(&root).is_none() {
            eprintln!("skipped: this file system has no attributes of users");
            return;
        }
        for path in ["", "a", "a/b", "a/b/f"] {
            assert_eq!(label(&root.join(path)).as_deref(), Some("x"), "{path}");
        }
        assert_eq!(label(&outside), None);
        relabel_as(TEST, None, &root.join("a/b/f"), "y").unwrap();
        assert_eq!(label(&root.join("a/b/f")).as_deref(), Some("y"));
        assert!(relabel_as(TEST, Some(dir.path()), &dir.path().join("way"), "x").is_err());
        assert!(relabel_as(TEST, Some(dir.path()), &dir.path().join("none"), "x").is_err());
        assert_eq!(label(&outside), None);
    }
}

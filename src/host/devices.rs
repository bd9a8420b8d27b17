//! Device nodes of the host: one by path, or all of them for a privileged container.

use super::error::HostError;
use super::fifo::kind;
use rustix::fs::{self, AtFlags, CWD, FileType, major, minor};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Most directory entries that are looked at: a bound, not a wish. A directory of devices has hundreds.
const MAX: usize = 16 * 1024;
/// How deep below `/dev` is looked.
const DEPTH: usize = 8;

/// `c` or `b` as in a device cgroup rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceType {
    /// Character device.
    Char,
    /// Block device.
    Block,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    /// Where it is.
    pub path: PathBuf,
    /// Its type.
    pub kind: DeviceType,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Reads one device node. A link is followed: `/dev/disk/by-id/…` is a usual way to name a device, and the operator
/// or Nomad names it, not the task.
///
/// # Errors
/// If it is not there or is no device.
pub fn device_node(path: &Path) -> Result<DeviceNode, HostError> {
    const WHAT: &str = "device";
    let found = fs::stat(path).map_err(|e| HostError::from_errno(WHAT, path, e))?;
    from_stat(path, &found).ok_or_else(|| {
        let is = kind(FileType::from_raw_mode(found.st_mode));
        HostError::new(
            WHAT,
            path,
            format!("it is a {is}; a character or block device is expected"),
        )
    })
}

/// All device nodes beneath a path: the node itself, or those of a directory (as `docker --device /dev/snd`).
///
/// # Errors
/// If the path is not there, or is neither a device nor a directory.
pub fn device_nodes(path: &Path) -> Result<Vec<DeviceNode>, HostError> {
    if path.is_dir() {
        Ok(walk(path, &[]))
    } else {
        device_node(path).map(|d| vec![d])
    }
}

/// Every device node of the host as containerd lists them for a privileged container (`oci.HostDevices`): without
/// `pts`, `shm`, `fd`, `mqueue`, `.lxc`, `.lxd-mounts`, `.udev` and `console`, and without links.
#[must_use]
pub fn host_devices() -> Vec<DeviceNode> {
    walk(
        Path::new("/dev"),
        &["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"],
    )
}

/// What cannot be read is left out: nodes come and go while we look.
fn walk(root: &Path, skip: &[&str]) -> Vec<DeviceNode> {
    let mut out = BTreeMap::new();
    let mut open = vec![(root.to_owned(), 0)];
    let mut seen = 0;
    while let Some((dir, depth)) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            seen += 1;
            if seen > MAX {
                return out.into_values().collect();
            }
            if skip.iter().any(|s| entry.file_name() == *s) {
                continue;
            }
            let path = entry.path();
            let Ok(found) = fs::statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
                if depth < DEPTH {
                    open.push((path, depth + 1));
                }
            } else if let Some(node) = from_stat(&path, &found) {
                out.insert(path, node);
            }
        }
    }
    out.into_values().collect()
}

fn from_stat(path: &Path, found: &fs::Stat) -> Option<DeviceNode> {
    let kind = match FileType::from_raw_mode(found.st_mode) {
        FileType::CharacterDevice => DeviceType::Char,
        FileType::BlockDevice => DeviceType::Block,
        _ => return None,
    };
    Some(DeviceNode {
        path: path.to_owned(),
        kind,
        major: major(found.st_rdev),
        minor: minor(found.st_rdev),
        mode: found.st_mode & 0o7777,
        uid: found.st_uid,
        gid: found.st_gid,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dev_null_is_character_one_three() {
        let null = device_node(Path::new("/dev/null")).unwrap();
        assert_eq!((null.kind, null.major, null.minor), (DeviceType::Char, 1, 3));
        assert!(
            device_node(Path::new("/etc/passwd"))
                .unwrap_err()
                .to_string()
                .contains("regular file")
        );
        assert!(device_node(Path::new("/dev/none")).is_err());
        assert_eq!(device_nodes(Path::new("/dev/null")).unwrap(), vec![null]);
    }

    #[test]
    fn the_host_has_devices_and_no_terminals_of_others() {
        let all = host_devices();
        assert!(all.iter().any(|d| d.path == Path::new("/dev/null")));
        assert!(
            !all.iter()
                .any(|d| d.path.starts_with("/dev/pts") || d.path.starts_with("/dev/fd"))
        );
        assert!(!all.iter().any(|d| d.path == Path::new("/dev/console")));
    }
}

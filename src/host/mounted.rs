//! What a container that was created has mounted, seen from outside before its process starts.
//!
//! The runtime resolves each target in the container's root, whose links an image or another task can have laid: a mount
//! may have come to lie elsewhere than where the process will look. So each target is resolved as the process will do
//! it, and what is found must be the mount itself.

use super::error::HostError;
use super::{paths, proc};
use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};

const WHAT: &str = "mount";

/// Where a container has the null device.
pub const NULL: &str = "/dev/null";

/// Fields of a line of `mountinfo` before the optional ones (proc(5)).
const OPTIONAL: usize = 6;

/// One line of `mountinfo`: what is looked at of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is, in the container.
    pub point: PathBuf,
    /// Whether this mount is read-only.
    pub read_only: bool,
    /// The groups of mounts among which what is mounted below it shows (`shared:N`), or that it takes from (`master:N`).
    pub groups: BTreeSet<u64>,
}

/// The mounts of a container.
#[derive(Debug)]
pub struct Mounted {
    root: OwnedFd,
    mounts: BTreeMap<u64, Mount>,
}

impl Mounted {
    /// Of the container with this first process.
    ///
    /// # Errors
    /// If it cannot be looked at.
    pub fn of(pid: u32) -> Result<Self, HostError> {
        let table = PathBuf::from(format!("/proc/{pid}/mountinfo"));
        let text = std::fs::read(&table).map_err(|e| HostError::from_io(WHAT, &table, &e))?;
        let root = PathBuf::from(format!("/proc/{pid}/root"));
        let at = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = fs::openat(CWD, &root, at, Mode::empty()).map_err(|e| HostError::from_errno(WHAT, &root, e))?;
        Ok(Self {
            root: opened,
            mounts: parse(&String::from_utf8_lossy(&text)),
        })
    }

    /// What a process finds at `target`.
    ///
    /// # Errors
    /// If there is nothing, or it cannot be looked at.
    pub fn look(&self, target: &Path) -> Result<Looked, HostError> {
        let fd = self
            .open(target)
            .map_err(|errno| HostError::from_errno(WHAT, target, errno))?;
        Ok(Looked {
            target: target.to_owned(),
            fd,
        })
    }

    /// The mount that was found, and its number: not a file or directory somewhere inside of one.
    ///
    /// # Errors
    /// If it is none.
    pub fn mount_of(&self, looked: &Looked) -> Result<(u64, &Mount), HostError> {
        let Looked { target, fd } = looked;
        let id = mount_id(fd).ok_or_else(|| HostError::new(WHAT, target, "the kernel does not tell its mount"))?;
        let elsewhere = || {
            let text = "no mount is found there: links in the image, or made by a task, lead elsewhere";
            HostError::new(WHAT, target, text)
        };
        if !self.is_top(target, fd, id) {
            return Err(elsewhere());
        }
        self.mounts.get(&id).map(|mount| (id, mount)).ok_or_else(elsewhere)
    }

    /// What can be written to below a mount, of what its source brought along: what the others of these mounts have below it is
    /// theirs.
    #[must_use]
    pub fn writable_below(&self, above: u64, planned: &[u64]) -> Option<&Mount> {
        let above = &self.mounts.get(&above)?.point;
        let below = |mount: &&Mount| mount.point != *above && mount.point.starts_with(above);
        let others: Vec<&Mount> = planned
            .iter()
            .filter_map(|id| self.mounts.get(id))
            .filter(below)
            .collect();
        let brought = |mount: &&Mount| !others.iter().any(|other| mount.point.starts_with(&other.point));
        self.mounts
            .values()
            .find(|mount| below(mount) && brought(mount) && !mount.read_only)
    }

    /// True unless the container has something else than the null device at `/dev/null`: the runtime goes by what is there,
    /// and gives it to the process.
    ///
    /// # Errors
    /// If it cannot be looked at.
    pub fn null_is_null(&self) -> Result<bool, HostError> {
        let place = Path::new(NULL);
        let fault = |errno| HostError::from_errno(WHAT, place, errno);
        let found = match self.open(place) {
            Ok(fd) => fs::fstat(&fd).map_err(fault)?,
            Err(Errno::NOENT) => return Ok(true),
            Err(errno) => return Err(fault(errno)),
        };
        let is_device = FileType::from_raw_mode(found.st_mode).is_char_device();
        Ok(is_device && found.st_rdev == fs::makedev(1, 3))
    }

    /// The device at this path: whether it is a block device, and its number. `None` for what is no device.
    ///
    /// # Errors
    /// If there is nothing, or it cannot be looked at.
    pub fn device_at(&self, path: &Path) -> Result<Option<(bool, u32, u32)>, HostError> {
        let fault = |errno| HostError::from_errno("device", path, errno);
        let found = self.open(path).and_then(fs::fstat).map_err(fault)?;
        let kind = FileType::from_raw_mode(found.st_mode);
        let number = (fs::major(found.st_rdev), fs::minor(found.st_rdev));
        let is_one = kind.is_char_device() || kind.is_block_device();
        Ok(is_one.then_some((kind.is_block_device(), number.0, number.1)))
    }

    /// Makes a directory for the container's root user, and those above it, where there is nothing. What is in the way stays,
    /// and nothing is made in a mount: what is not the container's own may be the host's.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn make_dir(&self, target: &Path) -> Result<(), HostError> {
        match self.make_missing(target) {
            Ok(()) | Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(errno) => Err(HostError::from_errno("make directory", target, errno)),
        }
    }

    fn make_missing(&self, target: &Path) -> Result<(), Errno> {
        let mut path = PathBuf::from("/");
        let mut above = self.open(&path)?;
        let (root, mount) = (fs::fstat(&above)?, mount_id(&above));
        for name in target.components() {
            let Component::Normal(name) = name else { continue };
            path.push(name);
            above = match self.open(&path) {
                Err(Errno::NOENT) if mount.is_some() && mount_id(&above) == mount => {
                    match fs::mkdirat(&above, name, Mode::RWXU) {
                        // A link to nowhere, for which the next line has no eyes.
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(errno) => return Err(errno),
                    }
                    let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let made = fs::openat(&above, name, how, Mode::empty())?;
                    let owner = (Uid::from_raw(root.st_uid), Gid::from_raw(root.st_gid));
                    fs::fchown(&made, Some(owner.0), Some(owner.1))?;
                    fs::fchmod(&made, Mode::from_raw_mode(0o755))?;
                    made
                }
                Err(Errno::NOENT) => return Ok(()),
                found => found?,
            };
        }
        Ok(())
    }

    fn open(&self, target: &Path) -> Result<OwnedFd, Errno> {
        // The root itself, above what is directly in it: an empty path is none.
        let rest = match target.strip_prefix("/").unwrap_or(target) {
            rest if rest.as_os_str().is_empty() => Path::new("."),
            rest => rest,
        };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..8 {
            match fs::openat2(&self.root, rest, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
                // Something was renamed during the walk: openat2(2) asks to try again.
                Err(Errno::AGAIN | Errno::INTR) => {}
                // Linux before 5.6, or a seccomp filter that does not know the call: no link may be on the way.
                Err(Errno::NOSYS | Errno::PERM) => {
                    return paths::open_beneath(&self.root, rest, OFlags::PATH);
                }
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// True if what was found is the top of its mount. The kernel is asked, since it answers for file systems that keep root
    /// out of their directories too (NFS with `root_squash`).
    fn is_top(&self, target: &Path, found: &OwnedFd, id: u64) -> bool {
        is_mount_root(found).unwrap_or_else(|| self.is_below_another(target, found, id))
    }

    /// True if the directory above what was found belongs to another mount.
    fn is_below_another(&self, target: &Path, found: &OwnedFd, id: u64) -> bool {
        let at = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let above = match fs::openat(found, "..", at, Mode::empty()) {
            Ok(above) => Ok(above),
            // A file, or a directory that root may not search: what it lies in can only be found by name. A link in the
            // last place would show another one, which cannot make a mount of what is none: it would have to be in the
            // same mount to be taken for its inside.
            Err(Errno::NOTDIR | Errno::ACCESS) => self.open(target.parent().unwrap_or(Path::new("/"))),
            Err(errno) => Err(errno),
        };
        above
            .ok()
            .and_then(|above| mount_id(&above))
            .is_some_and(|above| above != id)
    }
}

/// What was found at a target: held by a descriptor, so that all that is asked of it is asked of the same thing.
#[derive(Debug)]
pub struct Looked {
    target: PathBuf,
    fd: OwnedFd,
}

/// What is found at a target, compared with the source that was checked before the runtime mounted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compared {
    /// It is the source.
    Source,
    /// It is not the source that was checked, but neither is that at the path of the source any more. With what is known
    /// of it.
    Replaced(String),
    /// Something else, though the source is still in its place.
    Other,
}

impl Looked {
    /// Compares it with a source. `again`: the directory and the path at which a source that may have been replaced since (a
    /// template that was written anew) is looked at once more; without it, it is known to have stayed.
    ///
    /// # Errors
    /// If it cannot be looked at.
    pub fn compare(&self, checked: &OwnedFd, again: Option<(&Path, &Path)>) -> Result<Compared, HostError> {
        if self.is(checked)? {
            return Ok(Compared::Source);
        }
        let Some((dir, source)) = again else {
            return Ok(Compared::Other);
        };
        let now = match paths::check_beneath(dir, source) {
            Ok(now) => now,
            Err(e) => return Ok(Compared::Replaced(e.reason)),
        };
        let number = |fd: &OwnedFd| self.number(fd);
        Ok(if self.is(&now)? {
            Compared::Source
        } else if number(&now)? == number(checked)? {
            Compared::Other
        } else {
            Compared::Replaced("something new is in its place".to_owned())
        })
    }

    fn is(&self, other: &OwnedFd) -> Result<bool, HostError> {
        Ok(self.number(&self.fd)? == self.number(other)?)
    }

    /// Device and inode.
    fn number(&self, fd: &OwnedFd) -> Result<(u64, u64), HostError> {
        let found = fs::fstat(fd).map_err(|errno| HostError::from_errno(WHAT, &self.target, errno))?;
        Ok((found.st_dev, found.st_ino))
    }

    /// Gives it these permission bits, unless it has them.
    ///
    /// # Errors
    /// If it cannot have them: in a read-only mount.
    pub fn set_mode(&self, bits: u32) -> Result<(), HostError> {
        let fault = |errno| HostError::from_errno("permission bits", &self.target, errno);
        if fs::fstat(&self.fd).map_err(fault)?.st_mode & 0o7777 == bits {
            return Ok(());
        }
        // A descriptor that was opened for its path alone has no other way to this (open(2), `O_PATH`).
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        fs::chmod(path, Mode::from_raw_mode(bits)).map_err(fault)
    }
}

/// Whether a descriptor is of the root of a mount (statx(2), `STATX_ATTR_MOUNT_ROOT`). `None` where the kernel does not
/// tell: before Linux 5.8, or with a seccomp filter that does not know the call.
fn is_mount_root(fd: &OwnedFd) -> Option<bool> {
    // A fact of this machine: a file server need not be asked.
    let how = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = fs::statx(fd, "", how, StatxFlags::empty()).ok()?;
    let told = found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT);
    told.then(|| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// The number of the mount that a descriptor is in (proc(5), `fdinfo`): the one in `mountinfo`.
fn mount_id(fd: &OwnedFd) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    proc::status_field(&text, "mnt_id")?.trim().parse().ok()
}

/// `mountinfo` by number of the mount (proc(5)).
fn parse(text: &str) -> BTreeMap<u64, Mount> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let id = fields.next()?.parse().ok()?;
            let (point, options) = (fields.nth(3)?, fields.next()?);
            let mount = Mount {
                point: PathBuf::from(unescaped(point)),
                read_only: options.split(',').any(|option| option == "ro"),
                groups: groups(fields),
            };
            Some((id, mount))
        })
        .collect()
}

/// The groups of mounts that this process has a part in, or takes from (`shared:N`, `master:N`): what is mounted in one of
/// them shows on the host.
///
/// # Errors
/// If the kernel does not tell.
pub fn groups_of_host() -> Result<BTreeSet<u64>, HostError> {
    let table = Path::new("/proc/self/mountinfo");
    let text = std::fs::read(table).map_err(|e| HostError::from_io(WHAT, table, &e))?;
    Ok(groups_in(&String::from_utf8_lossy(&text)))
}

fn groups_in(text: &str) -> BTreeSet<u64> {
    text.lines()
        .flat_map(|line| groups(line.split(' ').skip(OPTIONAL)))
        .collect()
}

/// The groups that the optional fields of a line of `mountinfo` name; a dash ends these (proc(5)).
fn groups<'a>(fields: impl Iterator<Item = &'a str>) -> BTreeSet<u64> {
    let of = |field: &str| {
        let group = field
            .strip_prefix("shared:")
            .or_else(|| field.strip_prefix("master:"))?;
        group.parse().ok()
    };
    fields.take_while(|field| *field != "-").filter_map(of).collect()
}

/// Takes back what the kernel writes for blank, tab, line feed and backslash.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, character)| text.replace(code, character))
}

#[cfg(test)]
#[path = "mounted_tests.rs"]
mod tests;

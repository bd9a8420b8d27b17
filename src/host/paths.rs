//! Opening beneath a root without following links, and the driver's own generated files.

use super::error::HostError;
use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Gid, Uid};
use std::fs::DirBuilder;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Component, Path};
use std::sync::atomic::{AtomicU64, Ordering};

/// The reason where a source of a mount is missing.
pub const NOTHING: &str = "there is nothing at this path; the source must exist";

/// Opens `rest` beneath `root`. No link is followed, not even one that stays inside, and `..` does not lead out.
///
/// # Errors
/// `LOOP` for a link, `XDEV` for a way out, else as `open`.
pub fn open_beneath(root: impl AsFd, rest: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    // Not NOFOLLOW: with it and O_PATH the last component may be a link in spite of NO_SYMLINKS (openat2(2)).
    let flags = flags | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..8 {
        match fs::openat2(&root, rest, flags, Mode::empty(), resolve) {
            // Something was renamed during the walk: openat2(2) asks to try again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Linux before 5.6, or a seccomp filter that does not know the call.
            Err(Errno::NOSYS | Errno::PERM) => return walk_beneath(root, rest, flags | OFlags::NOFOLLOW),
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens what is at `path` beneath `dir`, if no link leads there. A path that does not exist is a fault too.
///
/// # Errors
/// Says what is in the way.
pub fn check_beneath(dir: &Path, path: &Path) -> Result<OwnedFd, HostError> {
    const WHAT: &str = "mount source";
    let rest = path
        .strip_prefix(dir)
        .map_err(|_| HostError::new(WHAT, path, format!("is not inside {}", dir.display())))?;
    let at = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = fs::openat(CWD, dir, at, Mode::empty()).map_err(|e| HostError::from_errno(WHAT, dir, e))?;
    if rest.as_os_str().is_empty() {
        return Ok(root);
    }
    open_beneath(root, rest, OFlags::PATH).map_err(|e| match e {
        Errno::NOENT => HostError::new(WHAT, path, NOTHING),
        other => HostError::from_errno(WHAT, path, other),
    })
}

/// Checks that there is something at `path`, wherever links lead.
///
/// # Errors
/// Says why not.
pub fn check_exists(path: &Path) -> Result<(), HostError> {
    fs::stat(path).map(drop).map_err(|e| match e {
        Errno::NOENT => HostError::new("mount source", path, NOTHING),
        other => HostError::from_errno("mount source", path, other),
    })
}

/// True for a regular file that somebody may execute.
#[must_use]
pub fn is_program(path: &Path) -> bool {
    fs::stat(path).is_ok_and(|found| {
        FileType::from_raw_mode(found.st_mode) == FileType::RegularFile && found.st_mode & 0o111 != 0
    })
}

/// [`open_beneath`], one component at a time.
fn walk_beneath(root: impl AsFd, rest: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut names = Vec::new();
    for part in rest.components() {
        match part {
            Component::Normal(name) => names.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return Err(Errno::XDEV),
        }
    }
    let step = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut at = fs::openat(&root, ".", step | OFlags::DIRECTORY, Mode::empty())?;
    let last = names.pop().ok_or(Errno::INVAL)?;
    for name in names {
        at = fs::openat(&at, name, step, Mode::empty())?;
        match FileType::from_raw_mode(fs::fstat(&at)?.st_mode) {
            FileType::Directory => {}
            FileType::Symlink => return Err(Errno::LOOP),
            _ => return Err(Errno::NOTDIR),
        }
    }
    let found = fs::openat(&at, last, flags, Mode::empty())?;
    match FileType::from_raw_mode(fs::fstat(&found)?.st_mode) {
        FileType::Symlink => Err(Errno::LOOP),
        _ => Ok(found),
    }
}

/// Gives a file of ours to a user and the group of the same number.
///
/// # Errors
/// If the kernel refuses.
pub fn give(path: &Path, id: u32) -> Result<(), HostError> {
    let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
    fs::chownat(CWD, path, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| HostError::from_errno("write file", path, errno))
}

/// Writes a file of our own as a whole: readers see the old content or the new. The directory must be there and must
/// not be a link; a link at `path` itself is replaced, not followed.
///
/// # Errors
/// Names what failed.
pub fn write_generated_file(path: &Path, content: &[u8], mode: u32) -> Result<(), HostError> {
    const WHAT: &str = "write file";
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let fault = |errno| HostError::from_errno(WHAT, path, errno);
    let (dir, name) = parent(WHAT, path)?;
    let temp = format!(
        ".{name}.{}.{}.tmp",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || retry_on_intr(|| fs::openat(&dir, temp.as_str(), create, Mode::RUSR | Mode::WUSR));
    let fd = match open() {
        Err(Errno::EXIST) => {
            // Of an earlier process with our id.
            fs::unlinkat(&dir, temp.as_str(), AtFlags::empty()).map_err(fault)?;
            open()
        }
        other => other,
    }
    .map_err(fault)?;
    let mut file = std::fs::File::from(fd);
    let done = file
        .write_all(content)
        .map_err(|e| HostError::from_io(WHAT, path, &e))
        .and_then(|()| fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(fault))
        .and_then(|()| fs::renameat(&dir, temp.as_str(), &dir, name).map_err(fault));
    if done.is_err() {
        // The first fault is the one to report.
        fs::unlinkat(&dir, temp.as_str(), AtFlags::empty()).ok();
    }
    done
}

/// Removes a file of our own; a link is removed, not followed. Absent is success.
///
/// # Errors
/// Names what failed.
pub fn remove_generated(path: &Path) -> Result<(), HostError> {
    match fs::unlinkat(CWD, path, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
        Err(errno) => Err(HostError::from_errno("remove file", path, errno)),
    }
}

/// Removes a directory of our own if it is empty. Absent is success; not empty is not.
///
/// # Errors
/// Names what failed.
pub fn remove_dir(path: &Path) -> Result<(), HostError> {
    match fs::unlinkat(CWD, path, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(HostError::from_errno("remove directory", path, errno)),
    }
}

/// Makes sure that `path` is a directory that only we may enter. Missing parents are made with 0755.
///
/// # Errors
/// If something else is there (a link too), or it belongs to somebody else.
pub fn create_run_dir(path: &Path) -> Result<(), HostError> {
    const WHAT: &str = "make directory";
    let fault = |errno| HostError::from_errno(WHAT, path, errno);
    if let Some(above) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(above)
            .map_err(|e| HostError::from_io(WHAT, above, &e))?;
    }
    match fs::mkdirat(CWD, path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(fault(errno)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOTDIR | Errno::LOOP => HostError::new(WHAT, path, "something else than a directory is in its place"),
        other => fault(other),
    })?;
    let found = fs::fstat(&dir).map_err(fault)?;
    if found.st_uid != rustix::process::geteuid().as_raw() {
        return Err(HostError::new(
            WHAT,
            path,
            format!("it belongs to user id {}", found.st_uid),
        ));
    }
    fs::fchmod(&dir, Mode::RWXU).map_err(fault)
}

fn parent<'a>(what: &'static str, path: &'a Path) -> Result<(OwnedFd, &'a str), HostError> {
    let name = path
        .file_name()
        .and_then(|n| n.to_str())
        .ok_or_else(|| HostError::new(what, path, "it has no file name"))?;
    let above = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = fs::open(above, flags, Mode::empty()).map_err(|e| HostError::from_errno(what, above, e))?;
    Ok((dir, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn a_generated_file_is_replaced_as_a_whole_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "keep").unwrap();
        let path = dir.path().join("hosts");
        symlink(&victim, &path).unwrap();
        write_generated_file(&path, b"one", 0o644).unwrap();
        write_generated_file(&path, b"two", 0o640).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(
            std::fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o640
        );
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "keep");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        remove_generated(&path).unwrap();
        remove_generated(&path).unwrap();
        assert!(!path.exists());
        symlink(dir.path(), dir.path().join("link")).unwrap();
        assert!(write_generated_file(&dir.path().join("link/x"), b"", 0o644).is_err());
    }

    #[test]
    fn a_run_directory_is_ours_alone() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("a/b");
        create_run_dir(&run).unwrap();
        std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o777)).unwrap();
        create_run_dir(&run).unwrap();
        assert_eq!(std::fs::metadata(&run).unwrap().permissions().mode() & 0o777, 0o700);
        symlink(&run, dir.path().join("link")).unwrap();
        assert!(
            create_run_dir(&dir.path().join("link"))
                .unwrap_err()
                .to_string()
                .contains("something else")
        );
        remove_dir(&run).unwrap();
        remove_dir(&run).unwrap();
    }

    #[test]
    fn a_program_is_a_file_that_can_be_executed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, "").unwrap();
        assert!(!is_program(&file) && !is_program(dir.path()) && !is_program(&dir.path().join("none")));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(is_program(&file));
        assert!(check_exists(&file).is_ok() && check_exists(&dir.path().join("none")).is_err());
    }

    #[test]
    fn both_ways_of_opening_beneath_agree() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/b/f"), "").unwrap();
        symlink("b", dir.path().join("a/in")).unwrap();
        symlink("/etc", dir.path().join("a/out")).unwrap();
        let root = fs::open(dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        for (path, ok) in [
            ("a/b/f", true),
            ("a/in/f", false),
            ("a/out/passwd", false),
            ("../x", false),
            ("a/none", false),
            ("a/in", false),
        ] {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            assert_eq!(open_beneath(&root, Path::new(path), OFlags::PATH).is_ok(), ok, "{path}");
            assert_eq!(walk_beneath(&root, Path::new(path), flags).is_ok(), ok, "{path}");
        }
    }
}

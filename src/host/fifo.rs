//! Log pipes: making one, opening one to read, and checking a path that Nomad gave before a shim opens it.
//!
//! Nomad's log pipes lie in the allocation's shared directory, which the task can write to: it can put a link in the
//! place of the pipe and have a shim, which is root, write to any file. So the path is resolved beneath the allocation
//! directory and no link is followed.

use super::error::HostError;
use super::paths;
use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

/// What a log path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogTarget {
    /// A FIFO: the shim opens it directly.
    Fifo,
    /// A regular file.
    File,
    /// `/dev/null`: no output is wanted.
    Null,
    /// No path was given, or its directory is there and nothing of that name in it.
    Absent,
}

/// Says what a log path is. A path inside `alloc_dir` is resolved beneath it without following any link; of another
/// path only the last component may not be a link.
///
/// # Errors
/// If a link is in the way, the directory is missing, or it is something else than a FIFO, a regular file or
/// `/dev/null`.
pub fn check_log_path(alloc_dir: &Path, path: &Path) -> Result<LogTarget, HostError> {
    const WHAT: &str = "log path";
    if path.as_os_str().is_empty() {
        return Ok(LogTarget::Absent);
    }
    if path == Path::new("/dev/null") {
        return Ok(LogTarget::Null);
    }
    if !path.is_absolute() {
        return Err(HostError::new(WHAT, path, "an absolute path is expected"));
    }
    let fault = |errno| HostError::from_errno(WHAT, path, errno);
    let inside = if alloc_dir.as_os_str().is_empty() {
        None
    } else {
        path.strip_prefix(alloc_dir).ok()
    };
    let opened = match inside {
        Some(rest) if !rest.as_os_str().is_empty() => {
            let root = fs::open(
                alloc_dir,
                OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(|e| HostError::from_errno("allocation directory", alloc_dir, e))?;
            paths::open_beneath(&root, rest, OFlags::PATH)
        }
        _ => fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()),
    };
    let object = match opened {
        Ok(object) => object,
        Err(Errno::NOENT) => {
            let there = path.parent().is_some_and(|dir| fs::stat(dir).is_ok());
            return if there {
                Ok(LogTarget::Absent)
            } else {
                Err(HostError::new(WHAT, path, "the directory does not exist"))
            };
        }
        Err(errno) => return Err(fault(errno)),
    };
    match FileType::from_raw_mode(fs::fstat(&object).map_err(fault)?.st_mode) {
        FileType::Fifo => Ok(LogTarget::Fifo),
        FileType::RegularFile => Ok(LogTarget::File),
        FileType::Symlink => Err(fault(Errno::LOOP)),
        other => Err(HostError::new(
            WHAT,
            path,
            format!(
                "it is a {}; a FIFO, a regular file or /dev/null is expected",
                kind(other)
            ),
        )),
    }
}

/// Makes a FIFO that only its owner may open. One that is there already is kept.
///
/// # Errors
/// If something else is there, or the directory cannot be written.
pub fn make_fifo(path: &Path) -> Result<(), HostError> {
    const WHAT: &str = "make log pipe";
    match fs::mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => {
            let found =
                fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| HostError::from_errno(WHAT, path, e))?;
            match FileType::from_raw_mode(found.st_mode) {
                FileType::Fifo => Ok(()),
                other => Err(HostError::new(WHAT, path, format!("a {} is in its place", kind(other)))),
            }
        }
        Err(errno) => Err(HostError::from_errno(WHAT, path, errno)),
    }
}

/// Lets the reader of a log pipe see its end: nobody will write to it. Without a reader nothing is done. No link is
/// followed inside `alloc_dir`.
///
/// # Errors
/// If it cannot be opened.
pub fn end(alloc_dir: &Path, path: &Path) -> Result<(), HostError> {
    hold(alloc_dir, path).map(drop)
}

/// Opens both ends of a pipe of our own, which never waits: while they are held, it has a reader and a writer.
///
/// # Errors
/// If it cannot be opened.
pub fn open_both(path: &Path) -> Result<OwnedFd, HostError> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::open(path, flags, Mode::empty()).map_err(|e| HostError::from_errno("open log pipe", path, e))
}

/// A log path held by a descriptor for its path alone, which is no end of the pipe. No link is followed inside `alloc_dir`.
///
/// # Errors
/// If it cannot be opened.
pub fn at(alloc_dir: &Path, path: &Path) -> Result<OwnedFd, HostError> {
    open(alloc_dir, path, OFlags::PATH | OFlags::CLOEXEC)
        .map_err(|errno| HostError::from_errno("open log pipe", path, errno))
}

/// Opens a log path to write to it, without waiting, so that its reader does not see an end before the descriptor is
/// closed. `None` if it is a FIFO that nobody reads. No link is followed inside `alloc_dir`.
///
/// # Errors
/// If it cannot be opened.
pub fn hold(alloc_dir: &Path, path: &Path) -> Result<Option<OwnedFd>, HostError> {
    match open(alloc_dir, path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC) {
        Ok(end) => Ok(Some(end)),
        Err(Errno::NXIO) => Ok(None),
        Err(errno) => Err(HostError::from_errno("open log pipe", path, errno)),
    }
}

fn open(alloc_dir: &Path, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let rest = path.strip_prefix(alloc_dir).ok().filter(|r| !r.as_os_str().is_empty());
    match rest {
        Some(rest) if !alloc_dir.as_os_str().is_empty() => fs::open(
            alloc_dir,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .and_then(|root| paths::open_beneath(&root, rest, flags)),
        _ => fs::open(path, flags | OFlags::NOFOLLOW, Mode::empty()),
    }
}

/// Opens the reading end of a FIFO without waiting for a writer.
///
/// # Errors
/// If it is not there, is a link, or is no FIFO.
pub fn open_reader(path: &Path) -> Result<OwnedFd, HostError> {
    const WHAT: &str = "open log pipe";
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = fs::open(path, flags, Mode::empty()).map_err(|e| HostError::from_errno(WHAT, path, e))?;
    let found = fs::fstat(&fd).map_err(|e| HostError::from_errno(WHAT, path, e))?;
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Fifo => Ok(fd),
        other => Err(HostError::new(
            WHAT,
            path,
            format!("it is a {}, a FIFO is expected", kind(other)),
        )),
    }
}

/// As [`open_reader`], of a pipe that `/proc/<pid>/fd` shows, where all is links.
///
/// # Errors
/// If it is not there or cannot be opened.
pub fn open_handle_reader(path: &Path) -> Result<OwnedFd, HostError> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    fs::open(path, flags, Mode::empty()).map_err(|e| HostError::from_errno("open pipe of a shim", path, e))
}

/// Opens a log path that Nomad gave to write to it, never waiting: resolved as [`check_log_path`] does. A FIFO is
/// opened for both directions, so that a reader that is away is no error: the bytes wait in it for the next one.
///
/// # Errors
/// If a link is in the way, nothing is there, or it is something else than a FIFO, a regular file or `/dev/null`.
pub fn open_log(alloc_dir: &Path, path: &Path) -> Result<OwnedFd, HostError> {
    const WHAT: &str = "open log path";
    let flags = match check_log_path(alloc_dir, path)? {
        LogTarget::Fifo => OFlags::RDWR,
        LogTarget::File => OFlags::WRONLY | OFlags::APPEND,
        LogTarget::Null => OFlags::WRONLY,
        LogTarget::Absent => return Err(HostError::new(WHAT, path, "does not exist")),
    };
    let flags = flags | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fault = |errno| HostError::from_errno(WHAT, path, errno);
    // What was checked may have been replaced since: it is opened under the same rules and looked at again.
    let opened = match path.strip_prefix(alloc_dir) {
        Ok(rest) if !alloc_dir.as_os_str().is_empty() && !rest.as_os_str().is_empty() => {
            let root = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = fs::open(alloc_dir, root, Mode::empty()).map_err(fault)?;
            paths::open_beneath(&root, rest, flags - OFlags::NOFOLLOW)
        }
        _ => fs::open(path, flags, Mode::empty()),
    };
    let opened = opened.map_err(fault)?;
    match FileType::from_raw_mode(fs::fstat(&opened).map_err(fault)?.st_mode) {
        FileType::Fifo | FileType::RegularFile => Ok(opened),
        FileType::CharacterDevice if path == Path::new("/dev/null") => Ok(opened),
        other => Err(HostError::new(WHAT, path, format!("a {} is in its place", kind(other)))),
    }
}

/// Removes a pipe that containerd's Go client made for a container, and its directory with the last one. Those are
/// called `<directory of its own>/<container>-stdout` and so on; whatever else a task writes to is left alone.
///
/// # Errors
/// If it is there and cannot be removed.
pub fn remove_client_pipe(container: &str, path: &Path) -> Result<(), HostError> {
    const WHAT: &str = "remove output pipe";
    let stream = path
        .file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.strip_prefix(container));
    if !matches!(stream, Some("-stdin" | "-stdout" | "-stderr")) {
        return Ok(());
    }
    let fault = |errno| HostError::from_errno(WHAT, path, errno);
    match fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Fifo => {
            match fs::unlinkat(CWD, path, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(fault(errno)),
            }
        }
        Ok(_) => return Ok(()),
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(fault(errno)),
    }
    let Some(dir) = path.parent() else { return Ok(()) };
    match fs::unlinkat(CWD, dir, AtFlags::REMOVEDIR) {
        // The other pipes are still in it; EXIST is another name for it.
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
        Err(errno) => Err(HostError::from_errno(WHAT, dir, errno)),
    }
}

/// Returns when the reader of one of these pipes is gone. Files and terminals never end it.
///
/// # Errors
/// If the kernel cannot wait for them.
pub fn wait_until_unread(sinks: &[Arc<OwnedFd>]) -> Result<(), HostError> {
    use rustix::event::{PollFd, PollFlags, poll};
    loop {
        // No event is asked for: errors are told anyway.
        let mut fds: Vec<PollFd<'_>> = sinks.iter().map(|fd| PollFd::new(&**fd, PollFlags::empty())).collect();
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(HostError::from_errno("watch output", Path::new("-"), errno)),
            Ok(_) => {}
        }
        if fds.iter().any(|fd| fd.revents().contains(PollFlags::ERR)) {
            return Ok(());
        }
        if fds.iter().any(|fd| !fd.revents().is_empty()) {
            return Err(HostError::new(
                "watch output",
                Path::new("-"),
                "it cannot be waited for",
            ));
        }
    }
}

/// Words for a file type.
pub(crate) fn kind(of: FileType) -> &'static str {
    match of {
        FileType::RegularFile => "regular file",
        FileType::Directory => "directory",
        FileType::Symlink => "symbolic link",
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character device",
        FileType::BlockDevice => "block device",
        _ => "thing of unknown type",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn a_log_path_is_a_fifo_a_file_null_or_absent() {
        let dir = tempfile::tempdir().unwrap();
        let alloc = dir.path();
        std::fs::create_dir_all(alloc.join("alloc/logs")).unwrap();
        let fifo = alloc.join("alloc/logs/.web.stdout.fifo");
        make_fifo(&fifo).unwrap();
        make_fifo(&fifo).unwrap();
        assert_eq!(std::fs::metadata(&fifo).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(alloc.join("alloc/logs/file"), "").unwrap();
        assert_eq!(check_log_path(alloc, &fifo), Ok(LogTarget::Fifo));
        assert_eq!(check_log_path(Path::new(""), &fifo), Ok(LogTarget::Fifo));
        assert_eq!(
            check_log_path(alloc, &alloc.join("alloc/logs/file")),
            Ok(LogTarget::File)
        );
        assert_eq!(check_log_path(alloc, Path::new("/dev/null")), Ok(LogTarget::Null));
        assert_eq!(check_log_path(alloc, Path::new("")), Ok(LogTarget::Absent));
        assert_eq!(
            check_log_path(alloc, &alloc.join("alloc/logs/none")),
            Ok(LogTarget::Absent)
        );
    }

    #[test]
    fn a_link_anywhere_beneath_the_allocation_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let alloc = dir.path();
        std::fs::create_dir_all(alloc.join("alloc/logs")).unwrap();
        symlink("/etc/passwd", alloc.join("alloc/logs/out")).unwrap();
        symlink("/etc", alloc.join("alloc/etc")).unwrap();
        for (root, path) in [
            (alloc, alloc.join("alloc/logs/out")),
            (alloc, alloc.join("alloc/etc/passwd")),
            (Path::new("/elsewhere"), alloc.join("alloc/logs/out")),
        ] {
            let error = check_log_path(root, &path).unwrap_err().to_string();
            assert!(error.contains("symbolic link"), "{error}");
        }
        let error = check_log_path(alloc, &alloc.join("../x/../../etc/passwd"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("leads out") || error.contains("does not exist"),
            "{error}"
        );
    }

    #[test]
    fn a_pipe_without_its_reader_is_noticed_although_nobody_writes() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let sinks = vec![Arc::new(writer)];
        let watch = std::thread::spawn(move || wait_until_unread(&sinks).is_ok());
        drop(reader);
        assert!(watch.join().unwrap());
    }

    #[test]
    fn a_log_pipe_has_no_end_while_it_is_held_and_one_that_nobody_reads_is_not_held() {
        let dir = tempfile::tempdir().unwrap();
        let (fifo, file) = (dir.path().join("fifo"), dir.path().join("file"));
        make_fifo(&fifo).unwrap();
        assert!(hold(dir.path(), &fifo).unwrap().is_none());
        let reader = open_reader(&fifo).unwrap();
        let held = hold(dir.path(), &fifo).unwrap().unwrap();
        end(dir.path(), &fifo).unwrap();
        let mut read = [0; 8];
        assert_eq!(rustix::io::read(&reader, &mut read), Err(Errno::AGAIN));
        drop(held);
        assert_eq!(rustix::io::read(&reader, &mut read), Ok(0));
        std::fs::write(&file, "kept").unwrap();
        assert!(hold(Path::new(""), &file).unwrap().is_some());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
        symlink(&file, dir.path().join("link")).unwrap();
        hold(dir.path(), &dir.path().join("link")).unwrap_err();
        hold(dir.path(), &dir.path().join("none")).unwrap_err();
    }

    #[test]
    fn a_log_is_opened_where_it_was_checked_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let alloc = dir.path();
        std::fs::create_dir_all(alloc.join("alloc/logs")).unwrap();
        let (fifo, file) = (alloc.join("alloc/logs/fifo"), alloc.join("alloc/logs/file"));
        make_fifo(&fifo).unwrap();
        std::fs::write(&file, "old ").unwrap();
        // Nobody reads: opened all the same, and what is written waits.
        let sink = open_log(alloc, &fifo).unwrap();
        rustix::io::write(&sink, b"kept").unwrap();
        let mut read = [0; 8];
        assert_eq!(rustix::io::read(open_reader(&fifo).unwrap(), &mut read), Ok(4));
        rustix::io::write(open_log(alloc, &file).unwrap(), b"new").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "old new");
        open_log(alloc, Path::new("/dev/null")).unwrap();
        open_log(Path::new(""), &fifo).unwrap();
        symlink(&file, alloc.join("alloc/logs/link")).unwrap();
        for path in [alloc.join("alloc/logs/link"), alloc.join("alloc/logs/none")] {
            open_log(alloc, &path).unwrap_err();
        }
    }

    #[test]
    fn pipes_of_containerds_client_go_with_their_directory_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("123");
        std::fs::create_dir_all(&own).unwrap();
        let (out, err, other) = (own.join("web-stdout"), own.join("web-stderr"), own.join("web-b-stdout"));
        for path in [&out, &err] {
            make_fifo(path).unwrap();
        }
        std::fs::write(&other, "").unwrap();
        remove_client_pipe("web", &out).unwrap();
        remove_client_pipe("web", &other).unwrap();
        assert!(!out.exists() && err.exists() && other.exists());
        std::fs::remove_file(&other).unwrap();
        remove_client_pipe("web", &err).unwrap();
        assert!(!own.exists() && dir.path().exists());
        remove_client_pipe("web", &err).unwrap();
        std::fs::create_dir_all(&own).unwrap();
        std::fs::write(&out, "no pipe").unwrap();
        remove_client_pipe("web", &out).unwrap();
        assert!(out.exists());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = check_log_path(dir.path(), &dir.path().join("no/such"))
            .unwrap_err()
            .to_string();
        assert!(missing.contains("directory does not exist"), "{missing}");
        let null = check_log_path(dir.path(), Path::new("/dev/zero"))
            .unwrap_err()
            .to_string();
        assert!(null.contains("character device"), "{null}");
        std::fs::create_dir(dir.path().join("d")).unwrap();
        assert!(
            make_fifo(&dir.path().join("d"))
                .unwrap_err()
                .to_string()
                .contains("directory")
        );
        assert!(open_reader(&dir.path().join("d")).is_err());
    }
}

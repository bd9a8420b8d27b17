//! A process that runc has made and that waits for the word to begin.

use super::error::HostError;
use super::shims::RUNC_STATE;
use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::path::Path;

/// What runc calls a process that has not begun: the container's own program has another name.
const WAITING: &str = "runc:[2:INIT]";

/// Lets a `runc start` return that waits in vain. The process writes into a pipe when it begins, once, and `runc start` reads that and
/// removes the pipe. One that is killed between the two, since whoever ran it has gone, leaves a process that runs and a pipe; to the next
/// `runc start` that looks like a process that waits, and it waits for it for ever (seen with runc 1.1). What it waits for is written here.
/// True if there was one.
///
/// # Errors
/// Names what failed.
pub fn let_start_return(namespace: &str, container: &str, pid: u32) -> Result<bool, HostError> {
    let pipe = Path::new(RUNC_STATE).join(namespace).join(container).join("exec.fifo");
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm"));
    if comm.map_or(true, |name| name.trim_end() == WAITING) || has_open(pid, &pipe) {
        return Ok(false);
    }
    write_once(&pipe)
}

/// Whether a process has this file open. One that crun has made waits at the pipe itself, and would begin by what is written. What
/// cannot be looked at counts as open.
fn has_open(pid: u32, file: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(wanted) = file.symlink_metadata() else {
        return true;
    };
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return true;
    };
    descriptors
        .flatten()
        .filter_map(|entry| entry.path().metadata().ok())
        .any(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()))
}

fn write_once(pipe: &Path) -> Result<bool, HostError> {
    let fault = |e: Errno| HostError::from_errno("let a start return by", pipe, e);
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match fs::open(pipe, flags, Mode::empty()) {
        Ok(opened) => opened,
        // It is gone, or nobody waits at it.
        Err(Errno::NOENT | Errno::NXIO) => return Ok(false),
        Err(e) => return Err(fault(e)),
    };
    let is_pipe = FileType::from_raw_mode(fs::fstat(&opened).map_err(fault)?.st_mode) == FileType::Fifo;
    if is_pipe {
        rustix::io::write(&opened, b"0").map_err(fault)?;
    }
    Ok(is_pipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn only_who_waits_at_a_pipe_is_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("exec.fifo");
        assert!(!write_once(&pipe).unwrap(), "there is none");
        fs::mknodat(fs::CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert!(!write_once(&pipe).unwrap(), "nobody waits");
        let reader = {
            let pipe = pipe.clone();
            std::thread::spawn(move || {
                let mut text = String::new();
                std::fs::File::open(pipe).unwrap().read_to_string(&mut text).unwrap();
                text
            })
        };
        while !write_once(&pipe).unwrap() {
            std::thread::yield_now();
        }
        assert_eq!(reader.join().unwrap(), "0");
        std::fs::remove_file(&pipe).unwrap();
        std::fs::write(&pipe, "").unwrap();
        assert!(!write_once(&pipe).unwrap(), "a file");
        assert_eq!(std::fs::read(&pipe).unwrap(), b"");
    }

    #[test]
    fn a_process_that_waits_at_the_pipe_itself_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let (file, me) = (dir.path().join("file"), std::process::id());
        assert!(has_open(me, &file), "there is none");
        let open = std::fs::File::create(&file).unwrap();
        assert!(has_open(me, &file) && has_open(u32::MAX, &file));
        drop(open);
        assert!(!has_open(me, &file));
    }

    #[test]
    fn a_process_that_is_gone_has_not_begun() {
        assert!(!let_start_return("n", "web", u32::MAX).unwrap());
        assert!(!let_start_return("n", "web", std::process::id()).unwrap(), "no pipe");
    }
}

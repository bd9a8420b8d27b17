//! A process that holds log pipes open while the plugin is away.
//!
//! The kernel keeps what is in a pipe only while somebody has it open. A shim closes the pipes of a task when that ends, so
//! what a task has said last would be gone if the plugin is not there at that moment: an agent that restarts ends the plugin
//! and no task. So one small process per machine, without a timer and without a thread per task, has the reading end of each
//! pipe open. It never reads, and it ends when there is neither a pipe nor a plugin.
//!
//! The plugin talks to it by lines over a socket in the directory of its files: `+PATH` opens, `-PATH` closes all beneath a
//! directory. Each is answered by a line that is empty or says what is wrong.

use super::error::HostError;
use super::fifo::open_reader;
use super::limits::raise_open_files;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::setsid;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const WHAT: &str = "pipe keeper";

/// How this program is called to be one.
pub const SUBCOMMAND: &str = "pipe-keeper";

/// Where it is talked to, in the directory of the driver's files. No container has a name that begins so.
const SOCKET: &str = ".pipe-keeper";
const LOCK: &str = ".pipe-keeper.lock";

/// How long an answer may take: opening a pipe takes none.
const ANSWER: Duration = Duration::from_secs(5);

/// Times that a keeper is looked for, of which each finds one that ends just then or starts another.
const TRIES: usize = 3;

/// How long a keeper waits for the plugin that has started it.
const FIRST: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// The pipes are looked through for those that are gone when they have become so many more than they were then.
const LOOK_THROUGH: usize = 64;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The plugin's side.
pub struct PipeKeeper {
    dir: PathBuf,
    connection: Mutex<Option<BufReader<UnixStream>>>,
}

impl PipeKeeper {
    /// For the pipes beneath `dir`. Nothing is started before the first pipe.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            connection: Mutex::default(),
        }
    }

    /// Has a pipe held open. Again is no fault. Blocks for as long as a process takes to start.
    ///
    /// # Errors
    /// If there is no keeper and none can be started, or if the pipe cannot be opened.
    pub fn hold(&self, pipe: &Path) -> Result<(), HostError> {
        let mut connection = lock(&self.connection);
        let mut tries = 0;
        let answer = loop {
            if connection.is_none() {
                *connection = Some(BufReader::new(self.reach()?));
            }
            match self.ask(&mut connection, '+', pipe) {
                Ok(answer) => break answer,
                // It has died, or ended for want of pipes just now: another.
                Err(e) => {
                    *connection = None;
                    tries += 1;
                    if tries == TRIES {
                        return Err(e);
                    }
                }
            }
        };
        match answer.as_str() {
            "" => Ok(()),
            reason => Err(HostError::new(WHAT, pipe, reason)),
        }
    }

    /// Lets go of all pipes in a directory. Without a keeper there are none.
    pub fn release(&self, dir: &Path) {
        let mut connection = lock(&self.connection);
        if connection.is_some() && self.ask(&mut connection, '-', dir).is_err() {
            *connection = None;
        }
    }

    fn ask(
        &self,
        connection: &mut Option<BufReader<UnixStream>>,
        sign: char,
        path: &Path,
    ) -> Result<String, HostError> {
        let fault = |e: std::io::Error| HostError::new(WHAT, &self.dir, e.to_string());
        let Some(to) = connection else {
            return Err(HostError::new(WHAT, &self.dir, "is not connected"));
        };
        writeln!(to.get_mut(), "{sign}{}", path.display()).map_err(fault)?;
        let mut answer = String::new();
        match to.read_line(&mut answer).map_err(fault)? {
            0 => Err(HostError::new(WHAT, &self.dir, "has ended")),
            _ => Ok(answer.trim_end().to_owned()),
        }
    }

    /// A connection to the keeper there is, or to a new one.
    fn reach(&self) -> Result<UnixStream, HostError> {
        let path = self.dir.join(SOCKET);
        let fault = |e: std::io::Error| HostError::new(WHAT, &path, e.to_string());
        super::paths::create_run_dir(&self.dir)?;
        // Two plugins that come at the same moment start one.
        let lock = File::create(self.dir.join(LOCK)).map_err(fault)?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|e| fault(e.into()))?;
        let stream = match UnixStream::connect(&path) {
            Ok(stream) => stream,
            Err(_) => {
                self.start(&path).map_err(fault)?;
                UnixStream::connect(&path).map_err(fault)?
            }
        };
        stream.set_read_timeout(Some(ANSWER)).map_err(fault)?;
        Ok(stream)
    }

    /// Starts one. It is given its socket, so that it can be talked to at once.
    fn start(&self, path: &Path) -> std::io::Result<()> {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        // By its path, after which the process is called. One that was replaced on disk is still there to be run.
        let program = std::env::current_exe().ok().filter(|path| path.exists());
        let mut child = Command::new(program.unwrap_or_else(|| PathBuf::from("/proc/self/exe")))
            .arg(SUBCOMMAND)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        // Its end while this process lives is waited for, so that nothing is left of it.
        std::thread::Builder::new()
            .name("keeper-wait".to_owned())
            .spawn(move || child.wait().map(drop))?;
        Ok(())
    }
}

/// What the keeper has open.
#[derive(Default)]
struct Kept {
    pipes: BTreeMap<PathBuf, OwnedFd>,
    /// How many there were when they were looked through.
    seen: usize,
}

impl Kept {
    fn take(&mut self, line: &str) -> Result<(), String> {
        let (sign, path) = line.split_at_checked(1).ok_or("an empty line")?;
        let path = Path::new(path);
        match sign {
            "+" => {
                if self.pipes.len() >= self.seen + LOOK_THROUGH {
                    self.forget_gone();
                }
                if !self.is_open(path) {
                    let end = open_reader(path).map_err(|e| e.to_string())?;
                    self.pipes.insert(path.to_owned(), end);
                }
                Ok(())
            }
            "-" => {
                self.pipes.retain(|pipe, _| !pipe.starts_with(path));
                Ok(())
            }
            other => Err(format!("{other:?} is no command")),
        }
    }

    /// Whether what is at the path is what is held: a start that was begun anew has made another pipe.
    fn is_open(&self, path: &Path) -> bool {
        let held = self.pipes.get(path).and_then(|end| rustix::fs::fstat(end).ok());
        let there = rustix::fs::lstat(path).ok();
        held.zip(there)
            .is_some_and(|(a, b)| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
    }

    fn forget_gone(&mut self) {
        self.pipes.retain(|path, _| path.exists());
        self.seen = self.pipes.len();
    }
}

/// The process: serves the socket that is its standard input until nobody needs it.
///
/// # Errors
/// If there is no such socket.
pub fn serve() -> Result<(), HostError> {
    let fault = |e: std::io::Error| HostError::new(WHAT, Path::new("standard input"), e.to_string());
    // A session of its own: what ends the agent's group of processes does not end this one. It leads one already if it was
    // started by hand.
    match setsid() {
        Ok(_) | Err(Errno::PERM) => {}
        Err(errno) => return Err(HostError::new(WHAT, Path::new(""), errno.to_string())),
    }
    raise_open_files();
    let socket = std::io::stdin().as_fd().try_clone_to_owned().map_err(fault)?;
    let listener = UnixListener::from(socket);
    let mut kept = Kept::default();
    let mut plugins: Vec<Plugin> = Vec::new();
    let mut limit = Some(&FIRST);
    loop {
        let (comes, ready) = {
            let mut fds = vec![PollFd::new(&listener, PollFlags::IN)];
            fds.extend(plugins.iter().map(|plugin| PollFd::new(&plugin.stream, PollFlags::IN)));
            match poll(&mut fds, limit.take()) {
                Ok(0) => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(fault(errno.into())),
            }
            let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
            (ready.next().unwrap_or_default(), ready.collect::<Vec<_>>())
        };
        let mut ready = ready.into_iter();
        let had = plugins.len();
        plugins.retain_mut(|plugin| !ready.next().unwrap_or_default() || plugin.converse(&mut kept).is_ok());
        if comes {
            let (stream, _) = listener.accept().map_err(fault)?;
            // A plugin that is new here: what an earlier one has removed without a word.
            kept.forget_gone();
            plugins.push(Plugin {
                stream,
                said: Vec::new(),
            });
        } else if had > 0 && plugins.is_empty() && kept.pipes.is_empty() {
            return Ok(());
        }
    }
}

/// One that is connected.
struct Plugin {
    stream: UnixStream,
    /// The beginning of a line.
    said: Vec<u8>,
}

impl Plugin {
    /// Takes what has come. A connection that breaks is a plugin that has gone.
    fn converse(&mut self, kept: &mut Kept) -> std::io::Result<()> {
        let mut chunk = [0; 4096];
        let n = self.stream.read(&mut chunk)?;
        if n == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.said.extend_from_slice(chunk.get(..n).unwrap_or_default());
        while let Some(end) = self.said.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.said.drain(..=end).collect();
            let line = String::from_utf8_lossy(line.get(..end).unwrap_or_default());
            let answer = kept.take(&line).err().unwrap_or_default();
            writeln!(self.stream, "{}", answer.replace('\n', " "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fifo::make_fifo;

    fn kept(kept: &mut Kept, line: &str) -> Result<usize, String> {
        kept.take(line).map(|()| kept.pipes.len())
    }

    #[test]
    fn a_pipe_that_is_held_keeps_its_bytes_and_one_that_is_gone_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        make_fifo(&one).unwrap();
        make_fifo(&other).unwrap();
        let mut keeper = Kept::default();
        assert_eq!(kept(&mut keeper, &format!("+{}", one.display())), Ok(1));
        assert_eq!(kept(&mut keeper, &format!("+{}", one.display())), Ok(1));
        assert_eq!(kept(&mut keeper, &format!("+{}", other.display())), Ok(2));
        std::fs::File::options()
            .write(true)
            .open(&one)
            .unwrap()
            .write_all(b"last words")
            .unwrap();
        let mut read = [0; 20];
        let mut reader = std::fs::File::from(open_reader(&one).unwrap());
        assert_eq!(reader.read(&mut read).unwrap(), 10);
        std::fs::remove_file(&other).unwrap();
        keeper.forget_gone();
        assert_eq!(keeper.pipes.len(), 1);
        // Another pipe by the same name.
        std::fs::remove_file(&one).unwrap();
        make_fifo(&one).unwrap();
        assert!(!keeper.is_open(&one));
        assert_eq!(kept(&mut keeper, &format!("+{}", one.display())), Ok(1));
        assert!(keeper.is_open(&one));
        assert_eq!(kept(&mut keeper, &format!("-{}", dir.path().display())), Ok(0));
        assert!(kept(&mut keeper, "+/nowhere/at/all").is_err());
        assert!(kept(&mut keeper, "?").is_err() && kept(&mut keeper, "").is_err());
    }
}

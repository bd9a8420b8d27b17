//! A process that holds log pipes open while the plugin is away.
//!
//! The kernel keeps what is in a pipe only while somebody has it open. A shim closes the pipes of a task when that ends, so
//! what a task has said last would be gone if the plugin is not there at that moment: an agent that restarts ends the plugin
//! and no task. So one small process per machine, without a timer and without a thread per task, has the reading end of each
//! pipe open. It never reads, and it ends some time after there is neither a pipe nor a plugin that is connected.
//!
//! Pipes that Nomad's collector reads it holds at the other end, and only while a task is being started: the collector leaves
//! for good when nobody has its pipe open to write to (`client/lib/fifo`, `logmon`), and a start that breaks off with its plugin
//! is asked for again without another collector. Nobody may come back for it: so these ends are let go `ABANDONED` after the
//! plugin that wanted them.
//!
//! The plugin talks to it by lines over a socket in the directory of its files: `+PATH` opens, `-PATH` closes all beneath a
//! directory; `wFILE DEVICE:INODE KEY` opens to write what the plugin has at `FILE` below `/proc`, `rKEY` closes all of a key. Each is
//! answered by a line that is empty or says what is wrong.

use super::error::HostError;
use super::fifo::open_reader;
use super::limits::raise_open_files;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use rustix::process::setsid;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const WHAT: &str = "pipe keeper";

/// How this program is called to be one.
pub const SUBCOMMAND: &str = "pipe-keeper";

/// Where it is talked to, in the directory of the driver's files. No container has a name that begins so.
const SOCKET: &str = ".pipe-keeper";
const LOCK: &str = ".pipe-keeper.lock";

/// How long an answer may take: opening a pipe takes none.
const ANSWER: Duration = Duration::from_secs(3);

/// How long one that has not answered is left alone: all starts would wait for it.
const HANGS: Duration = Duration::from_secs(60);

/// Times that a keeper is looked for, of which each finds one that ends just then or starts another.
const TRIES: usize = 3;

/// How long a keeper waits for the plugin that has started it.
const FIRST: Duration = Duration::from_secs(10);

/// How long what a start has had held outlives its plugin. Nomad launches another within seconds and repeats the start; but
/// that one may be killed too, again and again, before it has come to the pipes.
const ABANDONED: Duration = Duration::from_secs(600);

/// How long one without anything to hold waits for more: starts often come together.
const LINGER: Duration = Duration::from_secs(60);

/// Said of a pipe that nobody reads yet.
const UNREAD: &str = "nobody reads it";

/// The pipes are looked through for those that are gone when they have become so many more than they were then.
const LOOK_THROUGH: usize = 64;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The plugin's side.
pub struct PipeKeeper {
    dir: PathBuf,
    connection: Mutex<Link>,
}

/// A connection to the keeper, and what for.
#[derive(Default)]
struct Link {
    stream: Option<BufReader<UnixStream>>,
    /// Pipes are held to be read, which ends with the plugin alone.
    stays: bool,
    /// Of what is held to be written to.
    keys: BTreeSet<String>,
    /// Until when one that has not answered is not asked again.
    hangs_until: Option<Instant>,
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
        let mut link = lock(&self.connection);
        link.stays = true;
        match self.tell(&mut link, '+', &pipe.display().to_string())?.as_str() {
            "" => Ok(()),
            reason => Err(HostError::new(WHAT, pipe, reason)),
        }
    }

    /// Has a pipe held open to write to, under a key, whether this process lives or not. `pipe` may be a descriptor that was
    /// opened for its path alone. False if nobody reads it yet. Blocks as [`Self::hold`].
    ///
    /// # Errors
    /// As [`Self::hold`].
    pub fn hold_writing(&self, key: &str, pipe: &OwnedFd) -> Result<bool, HostError> {
        let path = format!("/proc/{}/fd/{}", std::process::id(), pipe.as_raw_fd());
        let (device, inode) = number(pipe).unwrap_or_default();
        let mut link = lock(&self.connection);
        link.keys.insert(key.to_owned());
        match self
            .tell(&mut link, 'w', &format!("{path} {device}:{inode} {key}"))?
            .as_str()
        {
            "" => Ok(true),
            UNREAD => Ok(false),
            reason => Err(HostError::new(WHAT, Path::new(&path), reason)),
        }
    }

    /// Lets go of what is held under a key, by whomever. Without a keeper there is nothing.
    pub fn let_go(&self, key: &str) {
        let (mut link, begun) = (lock(&self.connection), Instant::now());
        self.find(&mut link);
        let told = link.stream.is_some() && self.ask(&mut link.stream, 'r', key).is_ok();
        link.keys.remove(key);
        Self::rest(&mut link, told, begun);
    }

    /// Lets go of all pipes in a directory. Without a keeper there are none.
    pub fn release(&self, dir: &Path) {
        let (mut link, begun) = (lock(&self.connection), Instant::now());
        self.find(&mut link);
        let told = link.stream.is_some() && self.ask(&mut link.stream, '-', &dir.display().to_string()).is_ok();
        Self::rest(&mut link, told, begun);
    }

    /// After something was let go: a plugin that has nothing held needs no connection.
    fn rest(link: &mut Link, told: bool, begun: Instant) {
        if !told && begun.elapsed() >= ANSWER {
            link.hangs_until = Some(Instant::now() + HANGS);
        }
        if !told || link.keys.is_empty() && !link.stays {
            link.stream = None;
        }
    }

    /// Connects to a keeper that is there; none is started.
    fn find(&self, link: &mut Link) {
        if link.stream.is_none() && link.hangs_until.is_none_or(|until| Instant::now() >= until) {
            let there = UnixStream::connect(self.dir.join(SOCKET)).ok();
            let there = there.filter(|stream| stream.set_read_timeout(Some(ANSWER)).is_ok());
            link.stream = there.map(BufReader::new);
        }
    }

    fn tell(&self, link: &mut Link, sign: char, words: &str) -> Result<String, HostError> {
        let begun = Instant::now();
        if link.hangs_until.is_some_and(|until| begun < until) {
            return Err(HostError::new(WHAT, &self.dir, "does not answer"));
        }
        let mut tries = 0;
        loop {
            if link.stream.is_none() {
                link.stream = Some(BufReader::new(self.reach()?));
            }
            match self.ask(&mut link.stream, sign, words) {
                Ok(answer) => return Ok(answer),
                // It has died, or ended for want of pipes just now: another.
                Err(e) => {
                    link.stream = None;
                    tries += 1;
                    if begun.elapsed() >= ANSWER {
                        link.hangs_until = Some(Instant::now() + HANGS);
                        return Err(e);
                    }
                    if tries == TRIES {
                        return Err(e);
                    }
                }
            }
        }
    }

    fn ask(
        &self,
        connection: &mut Option<BufReader<UnixStream>>,
        sign: char,
        words: &str,
    ) -> Result<String, HostError> {
        let fault = |e: std::io::Error| HostError::new(WHAT, &self.dir, e.to_string());
        let Some(to) = connection else {
            return Err(HostError::new(WHAT, &self.dir, "is not connected"));
        };
        writeln!(to.get_mut(), "{sign}{words}").map_err(fault)?;
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
    /// By key.
    writers: BTreeMap<String, Writers>,
}

/// Ends of pipes that others read.
#[derive(Default)]
struct Writers {
    ends: Vec<OwnedFd>,
    /// Who wanted them last.
    by: u64,
    /// When that one has gone.
    abandoned: Option<Instant>,
}

impl Kept {
    /// `by`: who says so.
    fn take(&mut self, line: &str, by: u64) -> Result<(), String> {
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
            "w" => {
                let mut words = line.get(1..).unwrap_or_default().splitn(3, ' ');
                let (file, which) = words.next().zip(words.next()).ok_or("no file")?;
                let key = words.next().ok_or("no key")?;
                let end = open_writer(Path::new(file))?;
                // A number that was asked for long ago may be another file's by now.
                if number(&end).is_none_or(|(device, inode)| format!("{device}:{inode}") != which) {
                    return Err("it is another pipe by now".to_owned());
                }
                let writers = self.writers.entry(key.to_owned()).or_default();
                (writers.by, writers.abandoned) = (by, None);
                if !writers.ends.iter().any(|other| number(other) == number(&end)) {
                    writers.ends.push(end);
                }
                Ok(())
            }
            "r" => {
                self.writers.remove(line.get(1..).unwrap_or_default());
                Ok(())
            }
            other => Err(format!("{other:?} is no command")),
        }
    }

    /// One who has wanted something is gone.
    fn abandon(&mut self, by: u64, now: Instant) {
        for writers in self.writers.values_mut().filter(|writers| writers.by == by) {
            writers.abandoned = Some(now);
        }
    }

    /// Lets go of what nobody has come back for; how long the next may still come.
    fn expire(&mut self, now: Instant) -> Option<Duration> {
        let left = |writers: &Writers| Some((writers.abandoned? + ABANDONED).saturating_duration_since(now));
        self.writers.retain(|_, writers| left(writers) != Some(Duration::ZERO));
        self.writers.values().filter_map(left).min()
    }

    fn is_empty(&self) -> bool {
        self.pipes.is_empty() && self.writers.is_empty()
    }

    /// Whether what is at the path is what is held: a start that was begun anew has made another pipe.
    fn is_open(&self, path: &Path) -> bool {
        let held = self.pipes.get(path).and_then(number);
        let there = rustix::fs::lstat(path).ok().map(|found| (found.st_dev, found.st_ino));
        held.is_some() && held == there
    }

    fn forget_gone(&mut self) {
        self.pipes.retain(|path, _| path.exists());
        self.seen = self.pipes.len();
    }
}

/// Device and inode.
fn number(end: &OwnedFd) -> Option<(u64, u64)> {
    let found = rustix::fs::fstat(end).ok()?;
    Some((found.st_dev, found.st_ino))
}

/// What another process has open, to write to it.
fn open_writer(file: &Path) -> Result<OwnedFd, String> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let end = rustix::fs::open(file, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NXIO => UNREAD.to_owned(),
        errno => errno.to_string(),
    })?;
    let found = rustix::fs::fstat(&end).map_err(|errno| errno.to_string())?;
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Fifo => Ok(end),
        _ => Err("it is no pipe".to_owned()),
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
    let (mut idle_since, mut patience, mut number) = (None, FIRST, 0);
    loop {
        let now = Instant::now();
        let expires = kept.expire(now);
        idle_since = (plugins.is_empty() && kept.is_empty()).then(|| idle_since.unwrap_or(now));
        let left = match idle_since {
            Some(since) => Some((since + patience).saturating_duration_since(now)),
            None => expires,
        };
        if idle_since.is_some() && left == Some(Duration::ZERO) {
            return Ok(());
        }
        let limit = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        });
        let (comes, ready) = {
            let mut fds = vec![PollFd::new(&listener, PollFlags::IN)];
            fds.extend(plugins.iter().map(|plugin| PollFd::new(&plugin.stream, PollFlags::IN)));
            match poll(&mut fds, limit.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(fault(errno.into())),
            }
            let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
            (ready.next().unwrap_or_default(), ready.collect::<Vec<_>>())
        };
        let mut ready = ready.into_iter();
        plugins.retain_mut(|plugin| {
            let stays = !ready.next().unwrap_or_default() || plugin.converse(&mut kept).is_ok();
            if !stays {
                kept.abandon(plugin.number, Instant::now());
            }
            stays
        });
        if comes {
            patience = LINGER;
            let (stream, _) = listener.accept().map_err(fault)?;
            // A plugin that is new here: what an earlier one has removed without a word.
            kept.forget_gone();
            number += 1;
            plugins.push(Plugin {
                stream,
                number,
                said: Vec::new(),
            });
        }
    }
}

/// One that is connected.
struct Plugin {
    stream: UnixStream,
    /// Tells it from the others.
    number: u64,
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
            let answer = kept.take(&line, self.number).err().unwrap_or_default();
            writeln!(self.stream, "{}", answer.replace('\n', " "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "pipe_keeper_tests.rs"]
mod tests;

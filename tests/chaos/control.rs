//! The control socket of a chaos build.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::UnixStream;

/// The actors of which there is one.
pub const SINGLETONS: [&str; 9] = [
    "root",
    "health_probe",
    "event_stream",
    "image_puller",
    "image_keeper",
    "container_factory",
    "log_pump",
    "stats_sampler",
    "reaper",
];

/// What is done to an actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It panics.
    Kill,
    /// Its future is dropped without unwinding.
    Abort,
    /// It is not run for so many milliseconds.
    Stall(u64),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Kill => f.write_str("kill"),
            Fault::Abort => f.write_str("abort"),
            Fault::Stall(ms) => write!(f, "stall for {ms} ms"),
        }
    }
}

/// How long a process that was launched may take to listen.
const LISTENS_WITHIN: Duration = Duration::from_secs(10);

/// A step that is armed.
pub struct Halt {
    lines: Lines<BufReader<UnixStream>>,
}

impl Halt {
    /// Returns when it is reached.
    pub async fn reached(mut self) -> Result<()> {
        match self.lines.next_line().await?.as_deref() {
            Some(line) if line.starts_with("halted ") => Ok(()),
            other => bail!("{other:?} in place of `halted`"),
        }
    }
}

/// The client of the socket.
#[derive(Clone, Debug)]
pub struct Chaos {
    path: PathBuf,
}

impl Chaos {
    pub fn at(path: PathBuf) -> Chaos {
        Chaos { path }
    }

    /// One command. `None`: there is no such actor (any more).
    async fn say(&self, command: &str) -> Result<Option<Vec<String>>> {
        let mut stream = UnixStream::connect(&self.path).await.context("chaos socket")?;
        stream.write_all(format!("{command}\n").as_bytes()).await?;
        let mut lines = BufReader::new(stream).lines();
        let mut answer = Vec::new();
        while let Some(line) = lines.next_line().await? {
            match line.as_str() {
                "ok" => return Ok(Some(answer)),
                _ if line.starts_with("error no actor") => return Ok(None),
                _ if line.starts_with("error") => bail!("{command}: {line}"),
                _ => answer.push(line),
            }
        }
        bail!("{command}: the plugin closed the socket")
    }

    /// False if there is no such actor.
    pub async fn inject(&self, name: &str, fault: Fault) -> Result<bool> {
        let command = match fault {
            Fault::Kill => format!("kill {name}"),
            Fault::Abort => format!("abort {name}"),
            Fault::Stall(ms) => format!("stall {name} {ms}"),
        };
        Ok(self.say(&command).await?.is_some())
    }

    /// Each thread that moves log bytes panics. How many those were.
    pub async fn kill_pump_threads(&self) -> Result<usize> {
        let answer = self.say("pump").await?.unwrap_or_default();
        Ok(answer.first().context("a number")?.parse()?)
    }

    /// A connection, also to a process that has just been launched.
    async fn connect(&self) -> Result<UnixStream> {
        let end = Instant::now() + LISTENS_WITHIN;
        loop {
            match UnixStream::connect(&self.path).await {
                Ok(stream) => return Ok(stream),
                Err(e) if Instant::now() > end => return Err(e).context("chaos socket"),
                // Not bound yet, or the file of an earlier process: nothing tells when it is.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// Arms a step. See `telemetry::steps` for the names and for what `after_ms` does.
    pub async fn halt(&self, step: &str, after_ms: Option<u64>) -> Result<Halt> {
        let after = after_ms.map(|ms| format!(" {ms}")).unwrap_or_default();
        let mut stream = self.connect().await?;
        stream.write_all(format!("halt {step}{after}\n").as_bytes()).await?;
        let mut lines = BufReader::new(stream).lines();
        match lines.next_line().await?.as_deref() {
            Some("ok") => Ok(Halt { lines }),
            other => bail!("halt {step}: {other:?}"),
        }
    }

    /// Names of all steps.
    pub async fn steps(&self) -> Result<Vec<String>> {
        Ok(self.say("steps").await?.unwrap_or_default())
    }

    /// Into the supervisor of a task.
    pub async fn inject_task(&self, task: &str, fault: Fault) -> Result<bool> {
        self.inject(&format!("task:{task}"), fault).await
    }

    /// From now on (or no more) the supervisor of a task panics whenever it is to do something. It need not be there yet.
    pub async fn curse_task(&self, task: &str, cursed: bool) -> Result<()> {
        let verb = if cursed { "curse" } else { "lift" };
        self.say(&format!("{verb} task:{task}")).await.map(drop)
    }

    /// All live actors.
    pub async fn list(&self) -> Result<Vec<String>> {
        Ok(self.say("list").await?.unwrap_or_default())
    }
}

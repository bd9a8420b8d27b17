//! The control socket of a chaos build.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

/// The actors of which there is one.
pub const SINGLETONS: [&str; 7] = [
    "root",
    "health_probe",
    "event_stream",
    "image_puller",
    "container_factory",
    "log_pump",
    "stats_sampler",
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

    /// Into the supervisor of a task.
    pub async fn inject_task(&self, task: &str, fault: Fault) -> Result<bool> {
        self.inject(&format!("task:{task}"), fault).await
    }

    /// All live actors.
    pub async fn list(&self) -> Result<Vec<String>> {
        Ok(self.say("list").await?.unwrap_or_default())
    }
}

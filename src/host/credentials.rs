//! Where this node keeps credentials for registries: Docker's file, and programs that are asked for them.
//!
//! A program is run without a shell, in a process group of its own that is killed when nobody waits for the answer any more:
//! such programs start others and talk to services that may be away. What it prints is given back and goes into no error.

use super::HostError;
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::{ErrorKind, Read as _};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

/// What the names of the programs begin with (`docker-credential-helpers`).
const PREFIX: &str = "docker-credential-";
/// Most bytes of a `config.json`. One with a thousand registries has some 200 KiB.
const CONFIG_MAX: u64 = 1 << 20;
/// Most bytes of an answer. Tokens have a few KiB.
const ANSWER_MAX: u64 = 64 << 10;
/// Longest time that a program may take: those of clouds ask a service, and try again by themselves.
const WITHIN: Duration = Duration::from_secs(30);

/// The answer of a credential program.
pub struct Answer {
    /// Whether it ended with code 0.
    pub success: bool,
    /// What it printed, the secret among it.
    pub stdout: Vec<u8>,
    /// What it printed beside.
    pub stderr: Vec<u8>,
    /// How it ended, in words.
    pub ended: String,
}

/// Why a credential program has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HelperFault {
    /// There is no such program.
    #[error("there is no program of this name in the PATH of the Nomad agent")]
    Missing,
    /// It cannot be run.
    #[error("it cannot be run: {0}")]
    Unusable(String),
    /// It took too long and was killed.
    #[error("it did not end within {0:?}")]
    Late(Duration),
    /// It printed too much and was killed.
    #[error("it printed more than {ANSWER_MAX} bytes")]
    Verbose,
}

impl HelperFault {
    /// Whether it may go better next time.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Late(_) => true,
            Self::Missing | Self::Unusable(_) | Self::Verbose => false,
        }
    }
}

/// The program of a credential helper.
#[must_use]
pub fn program(helper: &str) -> String {
    format!("{PREFIX}{helper}")
}

/// Reads a `config.json`, on the thread that calls.
///
/// # Errors
/// The file is not there, cannot be read or is too long.
pub fn read_config(path: &Path) -> Result<Vec<u8>, HostError> {
    const WHAT: &str = "read credentials";
    let failed = |error: &std::io::Error| HostError::new(WHAT, path, error.to_string());
    let file = std::fs::File::open(path).map_err(|e| failed(&e))?;
    // A pipe or a device has no end.
    if !file.metadata().map_err(|e| failed(&e))?.is_file() {
        return Err(HostError::new(WHAT, path, "a file is expected"));
    }
    let mut bytes = Vec::new();
    let read = file.take(CONFIG_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|e| failed(&e))?;
    if bytes.len() as u64 > CONFIG_MAX {
        return Err(HostError::new(
            WHAT,
            path,
            format!("it has more than {CONFIG_MAX} bytes"),
        ));
    }
    Ok(bytes)
}

/// A running program. Dropping it kills it, and what it has started.
struct Running(Child);

impl Running {
    fn kill(&self) {
        // Not yet waited for, so that the number is still its own.
        if let Some(pid) = self
            .0
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(Pid::from_raw)
        {
            // It may have ended by itself just now.
            kill_process_group(pid, Signal::KILL).ok();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Asks a credential program for the credentials of one registry. Dropping the future kills it.
///
/// # Errors
/// See [`HelperFault`]. A program that ends with another code than 0 has answered.
pub async fn ask(helper: &str, question: &str) -> Result<Answer, HelperFault> {
    ask_within(&program(helper), question, WITHIN).await
}

async fn ask_within(program: &str, question: &str, within: Duration) -> Result<Answer, HelperFault> {
    let mut command = Command::new(program);
    command
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    // To start a program takes a fork and an exec: milliseconds in which a thread of the runtime would stand still.
    let started = tokio::task::spawn_blocking(move || command.spawn().map(Running)).await;
    let mut running = match started {
        Ok(Ok(running)) => running,
        Ok(Err(e)) if e.kind() == ErrorKind::NotFound => return Err(HelperFault::Missing),
        Ok(Err(e)) => return Err(HelperFault::Unusable(e.to_string())),
        Err(e) => return Err(HelperFault::Unusable(e.to_string())),
    };
    let answer = tokio::time::timeout(within, conversation(&mut running.0, question)).await;
    match answer {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(fault)) => Err(gone(running, fault).await),
        Err(_) => Err(gone(running, HelperFault::Late(within)).await),
    }
}

/// Kills the program and takes its exit, so that no zombie is left.
async fn gone(mut running: Running, fault: HelperFault) -> HelperFault {
    running.kill();
    match running.0.wait().await {
        Ok(_) => fault,
        Err(e) => HelperFault::Unusable(e.to_string()),
    }
}

async fn conversation(child: &mut Child, question: &str) -> Result<Answer, HelperFault> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let say = async {
        if let Some(mut stdin) = stdin {
            // One that does not read, and so breaks the pipe, may answer all the same.
            stdin.write_all(question.as_bytes()).await.ok();
        }
        Ok(())
    };
    let ((), stdout, stderr) = tokio::try_join!(say, heard(stdout), heard(stderr))?;
    let status = child.wait().await.map_err(|e| HelperFault::Unusable(e.to_string()))?;
    Ok(Answer {
        success: status.success(),
        stdout,
        stderr,
        ended: status.to_string(),
    })
}

async fn heard(from: Option<impl AsyncRead + Unpin>) -> Result<Vec<u8>, HelperFault> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        let read = from.take(ANSWER_MAX + 1).read_to_end(&mut bytes).await;
        read.map_err(|e| HelperFault::Unusable(e.to_string()))?;
    }
    if bytes.len() as u64 > ANSWER_MAX {
        return Err(HelperFault::Verbose);
    }
    Ok(bytes)
}

#[cfg(test)]
#[path = "credentials_tests.rs"]
mod tests;

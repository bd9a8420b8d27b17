//! The plugin process: spawned as the host does, reaped by its own thread, signalled only by pid and only while it lives.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;

use super::pipes::Pipe;

/// How a plugin is launched. `LaunchOpts::default()` is what an agent does.
#[derive(Clone, Debug)]
pub struct LaunchOpts {
    pub args: Vec<OsString>,
    /// Added to (or, with `None`, removed from) the inherited environment, after the host's own variables.
    pub env: Vec<(OsString, Option<OsString>)>,
    pub handshake_timeout: Duration,
    /// Open `GRPCStdio` and `GRPCBroker` on every connection, as the host does.
    pub aux_streams: bool,
}

impl Default for LaunchOpts {
    fn default() -> Self {
        LaunchOpts {
            args: Vec::new(),
            env: Vec::new(),
            handshake_timeout: Duration::from_secs(60),
            aux_streams: true,
        }
    }
}

impl LaunchOpts {
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((key.into(), Some(value.into())));
        self
    }

    pub fn without_env(mut self, key: impl Into<OsString>) -> Self {
        self.env.push((key.into(), None));
        self
    }
}

/// What the host sets for every plugin.
pub const HOST_ENV: [(&str, &str); 4] = [
    (
        "NOMAD_PLUGIN_MAGIC_COOKIE",
        "e4327c2e01eabfd75a8a67adb114fb34a757d57eee7728d857a8cec6e91a7255",
    ),
    ("PLUGIN_PROTOCOL_VERSIONS", "2"),
    ("PLUGIN_MIN_PORT", "10000"),
    ("PLUGIN_MAX_PORT", "25000"),
];

/// A spawned binary with drained pipes. Dropping it kills the process.
pub struct Process {
    pid: u32,
    pub stdout: Pipe,
    pub stderr: Pipe,
    exit: watch::Receiver<Option<ExitStatus>>,
}

impl Process {
    pub fn spawn(bin: &Path, opts: &LaunchOpts) -> Result<Process> {
        let mut command = Command::new(bin);
        command.args(&opts.args).envs(HOST_ENV);
        for (key, value) in &opts.env {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("spawn {}", bin.display()))?;
        let pid = child.id();
        let stdout = Pipe::drain(child.stdout.take().context("stdout pipe")?);
        let stderr = Pipe::drain(child.stderr.take().context("stderr pipe")?);
        let (tx, exit) = watch::channel(None);
        std::thread::spawn(move || {
            if let Ok(status) = child.wait() {
                tx.send_replace(Some(status));
            }
        });
        Ok(Process {
            pid,
            stdout,
            stderr,
            exit,
        })
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The exit status, once the process is gone.
    pub fn exited(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    pub fn signal(&self, signal: Signal) {
        if self.exited().is_none()
            && let Some(pid) = Pid::from_raw(self.pid as i32)
        {
            // The process may end in between; then there is nothing to signal.
            kill_process(pid, signal).ok();
        }
    }

    /// Waits for the end of the process; `None` when the time is over.
    pub async fn wait_exit(&self, timeout: Duration) -> Option<ExitStatus> {
        let mut exit = self.exit.clone();
        let ended = tokio::time::timeout(timeout, exit.wait_for(Option::is_some)).await;
        match ended {
            Ok(Ok(status)) => *status,
            Ok(Err(_)) | Err(_) => None,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

//! A server process of the test: its output goes to a file, a thread of its own reaps it, and it cannot outlive the test.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::sync::watch;

/// A running daemon. Dropping it kills it.
pub struct Daemon {
    pid: u32,
    exit: watch::Receiver<Option<ExitStatus>>,
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Recipe {
    pub bin: PathBuf,
    pub args: Vec<OsString>,
    pub env: Vec<(OsString, OsString)>,
    pub log: PathBuf,
}

impl Daemon {
    /// The daemon dies with the test process, if `setpriv` is installed: the kernel signals it when the reaping thread ends.
    pub fn spawn(recipe: &Recipe) -> Result<Daemon> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&recipe.log)
            .context("daemon log")?;
        let mut command = match which("setpriv") {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--"]).arg(&recipe.bin);
                command
            }
            None => Command::new(&recipe.bin),
        };
        command.args(&recipe.args).envs(recipe.env.iter().map(|(k, v)| (k, v)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // Not in the caller's process group: a Ctrl-C must reach the test, which then stops the daemon in order.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let (born_tx, born) = std::sync::mpsc::channel::<std::io::Result<u32>>();
        let (tx, exit) = watch::channel(None);
        std::thread::spawn(move || {
            let child: std::io::Result<Child> = command.spawn();
            match child {
                Ok(mut child) => {
                    born_tx.send(Ok(child.id())).ok();
                    if let Ok(status) = child.wait() {
                        tx.send_replace(Some(status));
                    }
                }
                Err(error) => {
                    born_tx.send(Err(error)).ok();
                }
            }
        });
        let pid = born
            .recv()
            .context("spawn thread")?
            .with_context(|| format!("spawn {}", recipe.bin.display()))?;
        Ok(Daemon { pid, exit })
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn exited(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Sends a signal. After SIGSTOP none of its threads runs when this returns: on a busy machine the kernel needs a moment.
    pub fn signal(&self, signal: Signal) {
        if self.exited().is_none()
            && let Some(pid) = Pid::from_raw(self.pid as i32)
        {
            kill_process(pid, signal).ok();
            if signal == Signal::STOP {
                // An end counts too, and stays for whoever waits for it.
                let stopped = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
                waitid(WaitId::Pid(pid), stopped).ok();
            }
        }
    }

    /// Waits for the end; `false` when the time is over.
    pub async fn wait(&self, timeout: Duration) -> bool {
        let mut exit = self.exit.clone();
        matches!(
            tokio::time::timeout(timeout, exit.wait_for(Option::is_some)).await,
            Ok(Ok(_))
        )
    }

    /// SIGTERM (after a SIGCONT, in case it was stopped), 10 s of patience, SIGKILL.
    pub async fn stop(&self) {
        self.signal(Signal::CONT);
        self.signal(Signal::TERM);
        if !self.wait(Duration::from_secs(10)).await {
            self.kill().await;
        }
    }

    pub async fn kill(&self) {
        self.signal(Signal::KILL);
        self.wait(Duration::from_secs(10)).await;
    }

    /// SIGKILL and a short blocking wait, for destructors.
    pub fn kill_now(&self) {
        self.signal(Signal::KILL);
        let end = Instant::now() + Duration::from_secs(5);
        while self.exited().is_none() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill_now();
    }
}

/// The first executable of that name on PATH (and in the usual system directories).
pub fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(usual)
        .map(|dir| dir.join(name))
        .find(|file| is_file(file))
}

fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file())
}

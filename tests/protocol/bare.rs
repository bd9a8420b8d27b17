//! A plugin process whose pipes the test holds itself: to close them, to leave them unread, to look at what is not a plugin.

use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use testhost::plugin::{Connection, HOST_ENV, Handshake};

use crate::bin;

/// A serving plugin. Dropping it kills the process.
pub struct Bare {
    pub child: Child,
    pub handshake: Handshake,
    /// Both pipes, until taken.
    pub pipes: Option<(OwnedFd, OwnedFd)>,
}

impl Bare {
    pub fn start(env: &[(&str, &str)]) -> Bare {
        let mut child = command(&[], &HOST_ENV)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .spawn()
            .expect("spawn");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("handshake line");
        let handshake = Handshake::parse(&line).expect("handshake");
        assert!(stdout.buffer().is_empty(), "more than one line on standard output");
        let stderr = child.stderr.take().expect("stderr");
        Bare {
            child,
            handshake,
            pipes: Some((stdout.into_inner().into(), stderr.into())),
        }
    }

    pub async fn connect(&self) -> Connection {
        Connection::open(&self.socket(), true).await.expect("connection")
    }

    pub fn socket(&self) -> PathBuf {
        self.handshake.socket()
    }

    pub fn alive(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        std::fs::remove_file(self.socket()).ok();
    }
}

/// The binary with pipes and no variable of the host but `env`.
pub fn command(args: &[&str], env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(bin());
    for (name, _) in HOST_ENV {
        command.env_remove(name);
    }
    command
        .args(args)
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs the binary to its end.
pub fn ended(args: &[&str], env: &[(&str, &str)]) -> Output {
    command(args, env).output().expect("run")
}

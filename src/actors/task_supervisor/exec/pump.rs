//! The three streams of a command, between its FIFOs and the channels of its client.

use super::drain::Drain;
use crate::containerd::Gateway;
use crate::host::exec::{Pipes, has_reader};
use crate::messages::exec::{Input, Output};
use crate::messages::logs::Stream;
use bytes::BytesMut;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// One read.
const CHUNK: usize = 32 * 1024;

/// How often it is looked whether the shim has opened its end of the input: it does so a moment after the start.
const LOOK: Duration = Duration::from_millis(3);

/// EOT, by which a terminal in its usual mode ends the input of a program.
const EOT: u8 = 4;

/// How the process that is waited for stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It runs.
    Running,
    /// It ended: what it wrote is still on its way.
    Ended,
}

/// Delivers an output stream: to its end, or after the process's end for as long as that can take. Then says so by
/// dropping `delivered`, and goes on reading until the shim lets go, because that would otherwise stay blocked in a
/// write. So it does if the client is gone.
pub(super) async fn deliver(
    source: OwnedFd,
    stream: Stream,
    outputs: mpsc::Sender<Output>,
    mut phase: watch::Receiver<Phase>,
    delivered: mpsc::Sender<()>,
) {
    let mut source = match pipe::Receiver::from_owned_fd(source) {
        Ok(source) => source,
        Err(e) => {
            tracing::error!(stream = stream.name(), error = %e, "output of a command not readable");
            return;
        }
    };
    let at_end = read_out(&mut source, stream, &outputs, &mut phase).await;
    outputs.send(Output::Closed(stream)).await.ok();
    drop((outputs, delivered));
    if !at_end {
        discard(source).await;
    }
}

/// True if the end of the stream was reached.
async fn read_out(
    source: &mut pipe::Receiver,
    stream: Stream,
    outputs: &mpsc::Sender<Output>,
    phase: &mut watch::Receiver<Phase>,
) -> bool {
    let mut drain = Drain::default();
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK);
        let ended = *phase.borrow() == Phase::Ended;
        let patience = match (ended, drain.patience()) {
            (true, None) => return false,
            (true, Some(patience)) => patience,
            (false, _) => Duration::MAX,
        };
        let begun = Instant::now();
        let read = tokio::select! {
            biased;
            read = source.read_buf(&mut buffer) => read,
            changed = phase.changed(), if !ended => match changed {
                Ok(()) => continue,
                Err(_gone) => return false,
            },
            () = tokio::time::sleep(patience), if ended => return false,
        };
        match read {
            Ok(0) => return true,
            Ok(n) => {
                if ended {
                    drain.came(n, begun.elapsed());
                }
                if outputs
                    .send(Output::Data(stream, buffer.split().freeze()))
                    .await
                    .is_err()
                {
                    return false;
                }
            }
            Err(e) => {
                tracing::warn!(stream = stream.name(), error = %e, "output of a command broke off");
                return true;
            }
        }
    }
}

/// Reads until the end and keeps nothing.
pub(super) async fn discard(mut source: pipe::Receiver) {
    let mut sink = vec![0; CHUNK];
    while source.read(&mut sink).await.is_ok_and(|n| n > 0) {}
}

/// Keeps a command that is being removed from holding up its shim, whatever step that is at: a shim that waits for a reader
/// of an output pipe, or in a write to one, answers no call for its task any more, not even one to kill it. Until dropped.
pub(super) fn discard_all(pipes: &Pipes) -> JoinSet<()> {
    let mut readers = JoinSet::new();
    for source in tokio::task::block_in_place(|| pipes.hold_outputs()) {
        match pipe::Receiver::from_owned_fd(source) {
            Ok(source) => drop(readers.spawn(discard(source))),
            Err(e) => tracing::error!(error = %e, "output of a command not readable"),
        }
    }
    readers
}

/// What the input needs to know.
pub(super) struct Feed {
    pub(super) gateway: Gateway,
    pub(super) container: String,
    pub(super) exec: String,
    pub(super) terminal: bool,
}

impl Feed {
    /// Writes the input until it is closed. What comes after that, or when nobody reads any more, is dropped: the exit
    /// is still owed.
    pub(super) async fn run(self, writer: OwnedFd, mut inputs: mpsc::Receiver<Input>) {
        if let Err(e) = self.write(writer, &mut inputs).await {
            tracing::debug!(error = %e, "the command reads no more input");
        }
        while inputs.recv().await.is_some() {}
    }

    async fn write(&self, writer: OwnedFd, inputs: &mut mpsc::Receiver<Input>) -> io::Result<()> {
        let Some(first) = self.next(inputs).await else {
            drop(writer);
            self.close().await;
            return Ok(());
        };
        while !has_reader(&writer) {
            tokio::time::sleep(LOOK).await;
        }
        let mut writer = pipe::Sender::from_owned_fd(writer)?;
        writer.write_all(&first).await?;
        while let Some(bytes) = self.next(inputs).await {
            writer.write_all(&bytes).await?;
        }
        drop(writer);
        self.close().await;
        Ok(())
    }

    /// The next bytes; `None` for the end of the input. A terminal has none: to hang it up would end the session.
    async fn next(&self, inputs: &mut mpsc::Receiver<Input>) -> Option<bytes::Bytes> {
        loop {
            match inputs.recv().await {
                Some(Input::Data(bytes)) if bytes.is_empty() => {}
                Some(Input::Data(bytes)) => return Some(bytes),
                Some(Input::Close) if self.terminal => return Some(bytes::Bytes::from_static(&[EOT])),
                Some(Input::Close) => return None,
                None if self.terminal => std::future::pending().await,
                None => return None,
            }
        }
    }

    /// The shim holds a writing end of its own, for the case that ours goes away by accident.
    async fn close(&self) {
        if let Err(fault) = self.gateway.close_exec_stdin(&self.container, &self.exec).await {
            tracing::warn!(error = %fault, "input of a command not closed");
        }
    }
}

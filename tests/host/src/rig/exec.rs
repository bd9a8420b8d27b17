//! An interactive exec session as a host drives it: setup first, heartbeats allowed, never half-closed.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::plugin::Driver;
use crate::wire::driver::exec_task_streaming_request::{Setup, TerminalSize};
use crate::wire::driver::{
    ExecTaskStreamingIoOperation, ExecTaskStreamingRequest, ExecTaskStreamingResponse, ExitResult,
};

/// An open session. Dropping it cancels the call.
pub struct ExecSession {
    to_plugin: mpsc::Sender<ExecTaskStreamingRequest>,
    from_plugin: Streaming<ExecTaskStreamingResponse>,
}

/// A finished session.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExecOutcome {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub stdout_closed: bool,
    pub stderr_closed: bool,
    pub result: Option<ExitResult>,
}

impl ExecOutcome {
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The exit code; panics if the stream ended without one.
    pub fn code(&self) -> i32 {
        self.result
            .as_ref()
            .expect("no exit message before the end of the stream")
            .exit_code
    }
}

impl ExecSession {
    pub(super) async fn open(
        mut driver: Driver,
        task_id: &str,
        argv: &[&str],
        tty: bool,
        size: Option<(i32, i32)>,
    ) -> Result<ExecSession, Status> {
        let (to_plugin, requests) = mpsc::channel(64);
        let command = argv.iter().map(|arg| (*arg).to_owned()).collect();
        let setup = Setup {
            task_id: task_id.to_owned(),
            command,
            tty,
        };
        let first = ExecTaskStreamingRequest {
            setup: Some(setup),
            ..Default::default()
        };
        to_plugin
            .send(first)
            .await
            .map_err(|_| Status::internal("request queue"))?;
        if let Some((height, width)) = size {
            let second = ExecTaskStreamingRequest {
                tty_size: Some(TerminalSize { height, width }),
                ..Default::default()
            };
            to_plugin
                .send(second)
                .await
                .map_err(|_| Status::internal("request queue"))?;
        }
        let from_plugin = driver
            .exec_task_streaming(ReceiverStream::new(requests))
            .await?
            .into_inner();
        Ok(ExecSession { to_plugin, from_plugin })
    }

    async fn send(&self, request: ExecTaskStreamingRequest) {
        // A finished call takes no more input, which is no fault of the caller.
        self.to_plugin.send(request).await.ok();
    }

    pub async fn stdin(&self, data: impl Into<Vec<u8>>) {
        let stdin = ExecTaskStreamingIoOperation {
            data: data.into(),
            close: false,
        };
        self.send(ExecTaskStreamingRequest {
            stdin: Some(stdin),
            ..Default::default()
        })
        .await;
    }

    pub async fn close_stdin(&self) {
        let stdin = ExecTaskStreamingIoOperation {
            data: Vec::new(),
            close: true,
        };
        self.send(ExecTaskStreamingRequest {
            stdin: Some(stdin),
            ..Default::default()
        })
        .await;
    }

    pub async fn resize(&self, height: i32, width: i32) {
        let tty_size = Some(TerminalSize { height, width });
        self.send(ExecTaskStreamingRequest {
            tty_size,
            ..Default::default()
        })
        .await;
    }

    /// The empty message a host forwards every 10 s.
    pub async fn heartbeat(&self) {
        self.send(ExecTaskStreamingRequest::default()).await;
    }

    /// The next message; `None` at the end of the stream.
    pub async fn next(&mut self) -> Result<Option<ExecTaskStreamingResponse>, Status> {
        self.from_plugin.message().await
    }

    /// Reads to the end. Panics on output after the exit message: a client would have left by then.
    pub async fn finish(mut self) -> Result<ExecOutcome, Status> {
        let mut outcome = ExecOutcome::default();
        while let Some(message) = self.next().await? {
            assert!(
                outcome.result.is_none(),
                "a message after the exit message: {message:?}"
            );
            if let Some(out) = message.stdout {
                outcome.stdout.extend(out.data);
                outcome.stdout_closed |= out.close;
            }
            if let Some(err) = message.stderr {
                outcome.stderr.extend(err.data);
                outcome.stderr_closed |= err.close;
            }
            if message.exited {
                outcome.result = Some(message.result.expect("an exit message without a result"));
            }
        }
        Ok(outcome)
    }
}

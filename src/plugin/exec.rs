//! Commands in a task: Nomad's messages on one side, the channels of an [`ExecSession`] on the other.
//!
//! The host never ends its side of the stream, so ours ends after the exit message. It notices a client that has gone only
//! when it has something to forward to it, and then it takes a first message to end one half of its relay and a second to
//! end the other, which cancels the call. So a command that prints nothing is accompanied by empty messages, which reach
//! clients as `{}` and are skipped by them. Clients send empty messages too, every ten seconds; one that began with it and
//! falls silent has gone as well.

use super::convert;
use super::pb::driver as pb;
use super::streams::Answers;
use super::{status, tasks::Tasks};
use crate::messages::exec::{Exec, ExecSession, Input, Output, TerminalSize};
use crate::messages::logs::Stream as OutputStream;
use crate::spec::identity::TaskId;
use crate::telemetry::names;
use futures_util::stream::{self, Stream, StreamExt as _};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tonic::Status;
use tracing::Span;

/// What a client sends: a stream of tonic's, as a rule.
pub(super) trait Requests: Stream<Item = Result<Request, Status>> + Send + Unpin + 'static {}

impl<S: Stream<Item = Result<Request, Status>> + Send + Unpin + 'static> Requests for S {}

/// How much of the output of an `ExecTask` is kept, from its end: what Nomad's own drivers keep.
const KEPT_BYTES: usize = 4096;

/// Six messages of a client that sends one every ten seconds.
const SILENCE: Duration = Duration::from_secs(60);

/// Time without output after which the host is given an empty message: two of them, and it has noticed that its client
/// is gone.
const STILL_THERE: Duration = Duration::from_secs(5);

/// Words of Nomad's Go drivers.
const NO_SETUP: &str = "first message should always be setup";

type Request = pb::ExecTaskStreamingRequest;
type Response = pb::ExecTaskStreamingResponse;

/// `ExecTask`: runs the command to its end. Standard error is merged into the output, since Nomad reads nothing else;
/// a copy of its own is in `stderr`.
pub(super) async fn to_its_end(tasks: &Tasks, request: pb::ExecTaskRequest) -> Result<pb::ExecTaskResponse, Status> {
    let timeout = convert::duration(request.timeout);
    let exec = Exec {
        argv: argv(request.command)?,
        terminal: false,
        stdin: false,
        // None was given, not none is left.
        timeout: (!timeout.is_zero()).then_some(timeout),
    };
    let ExecSession { mut output, .. } = tasks.exec(&TaskId::new(&request.task_id), exec).await?;
    let (mut all, mut errors) = (Tail::default(), Tail::default());
    while let Some(said) = output.recv().await {
        match said {
            Output::Data(stream, bytes) => {
                all.push(&bytes);
                if stream == OutputStream::Stderr {
                    errors.push(&bytes);
                }
            }
            Output::Closed(_) => {}
            Output::Exited(code) => {
                return Ok(pb::ExecTaskResponse {
                    stdout: all.0.into(),
                    stderr: errors.0.into(),
                    result: Some(result(code)),
                });
            }
            Output::Failed(error) => return Err(status::of_task(&error)),
        }
    }
    Err(lost())
}

/// The last bytes of a stream.
#[derive(Default)]
struct Tail(VecDeque<u8>);

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
        let surplus = self.0.len().saturating_sub(KEPT_BYTES);
        self.0.drain(..surplus);
    }
}

/// `ExecTaskStreaming`. An error before the command has been taken up is the answer; a later one ends the stream.
pub(super) async fn session(tasks: &Tasks, mut requests: impl Requests) -> Result<Answers<Response>, Status> {
    let first = requests.next().await.transpose()?.and_then(|first| first.setup);
    let setup = first.ok_or_else(|| Status::invalid_argument(NO_SETUP))?;
    Span::current().record(names::TASK_ID, &setup.task_id);
    let exec = Exec {
        argv: argv(setup.command)?,
        terminal: setup.tty,
        stdin: true,
        timeout: None,
    };
    let session = tasks.exec(&TaskId::new(&setup.task_id), exec).await.map_err(brief)?;
    let (refuse, refused) = oneshot::channel();
    let listen = tokio::spawn(async move {
        // Without a refusal the stream goes on without its client's messages.
        if let Err(why) = listen(requests, session.input, session.size, setup.tty).await {
            refuse.send(why).ok();
        }
    });
    let talk = Talk {
        output: session.output,
        refused: Some(refused),
        _listener: Abort(listen.abort_handle()),
    };
    Ok(stream::unfold(Some(talk), say).boxed())
}

/// The most that a user of `nomad alloc exec` is shown of an error: the agent tells it in the frame that closes a WebSocket, of
/// which 123 bytes are the reason (RFC 6455, 5.5) and begin with gRPC's code; a longer one is not told at all.
const SHOWN_BYTES: usize = 74;

/// What runtimes say before the reason.
const PREAMBLE: [&str; 3] = [
    "OCI runtime exec failed: ",
    "exec failed: ",
    "unable to start container process: ",
];

/// An error short enough to be shown; the log has all of it.
fn brief(status: Status) -> Status {
    let text = status.message();
    if text.len() <= SHOWN_BYTES {
        return status;
    }
    tracing::info!(error = text, "a command is not run");
    let mut text = text.to_owned();
    for words in PREAMBLE {
        text = text.replacen(words, "", 1);
    }
    let ellipsis = "…";
    if text.len() > SHOWN_BYTES {
        let mut end = SHOWN_BYTES - ellipsis.len();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(ellipsis);
    }
    // Without its details: those have the whole text once more, which is what the agent would take, and whether a command is
    // worth another try nobody asks.
    Status::new(status.code(), text)
}

/// Our side of a stream. Its drop kills the command if it still runs.
struct Talk {
    output: mpsc::Receiver<Output>,
    refused: Option<oneshot::Receiver<Status>>,
    _listener: Abort,
}

struct Abort(AbortHandle);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The next message, and what comes after it; `None` after the last.
async fn say(talk: Option<Talk>) -> Option<(Result<Response, Status>, Option<Talk>)> {
    let mut talk = talk?;
    loop {
        let refused = async {
            match talk.refused.as_mut() {
                Some(refused) => refused.await.ok(),
                None => std::future::pending().await,
            }
        };
        let said = tokio::select! {
            biased;
            said = talk.output.recv() => said,
            why = refused => match why {
                Some(why) => return Some((Err(why), None)),
                None => {
                    talk.refused = None;
                    continue;
                }
            },
            () = tokio::time::sleep(STILL_THERE) => return Some((Ok(Response::default()), Some(talk))),
        };
        return Some(match said {
            Some(Output::Data(stream, bytes)) => (Ok(message(stream, bytes.into(), false)), Some(talk)),
            Some(Output::Closed(stream)) => (Ok(message(stream, Vec::new(), true)), Some(talk)),
            Some(Output::Exited(code)) => (Ok(exited(code)), None),
            Some(Output::Failed(error)) => (Err(brief(status::of_task(&error))), None),
            None => (Err(lost()), None),
        });
    }
}

/// Hands on what the client sends, until the command takes no more.
async fn listen(
    mut requests: impl Requests,
    input: mpsc::Sender<Input>,
    size: watch::Sender<Option<TerminalSize>>,
    tty: bool,
) -> Result<(), Status> {
    let mut beats = false;
    loop {
        let next = if beats {
            tokio::time::timeout(SILENCE, requests.next())
                .await
                .map_err(|_| Status::deadline_exceeded(format!("the client was silent for {SILENCE:?}")))?
        } else {
            requests.next().await
        };
        // A broken stream is told to our side too, by its drop.
        let Some(Ok(request)) = next else { return Ok(()) };
        if request.setup.is_some() {
            return Err(Status::invalid_argument("setup was sent already"));
        }
        beats |= request.tty_size.is_none() && request.stdin.is_none();
        if let Some(wanted) = request.tty_size.filter(|_| tty)
            && let Some(wanted) = terminal_size(wanted)
        {
            size.send_replace(Some(wanted));
        }
        if let Some(stdin) = request.stdin {
            // No receiver: the command has ended, and its exit is on the way.
            if !stdin.data.is_empty() {
                input.send(Input::Data(stdin.data.into())).await.ok();
            }
            if stdin.close {
                input.send(Input::Close).await.ok();
            }
        }
    }
}

/// `None` for a size that is none; too large ones are cut.
fn terminal_size(size: pb::exec_task_streaming_request::TerminalSize) -> Option<TerminalSize> {
    let clamp = |n: i32| u16::try_from(n.min(i32::from(u16::MAX))).ok().filter(|n| *n > 0);
    Some(TerminalSize {
        rows: clamp(size.height)?,
        columns: clamp(size.width)?,
    })
}

fn argv(command: Vec<String>) -> Result<Vec<String>, Status> {
    match command.first() {
        Some(program) if !program.is_empty() => Ok(command),
        _ => Err(Status::invalid_argument("command is not present")),
    }
}

/// One field in each message: the client looks at the first that is set, and at no other.
fn message(stream: OutputStream, data: Vec<u8>, close: bool) -> Response {
    let io = Some(pb::ExecTaskStreamingIoOperation { data, close });
    match stream {
        OutputStream::Stdout => Response {
            stdout: io,
            ..Default::default()
        },
        OutputStream::Stderr => Response {
            stderr: io,
            ..Default::default()
        },
    }
}

fn exited(code: i32) -> Response {
    Response {
        exited: true,
        result: Some(result(code)),
        ..Default::default()
    }
}

fn result(exit_code: i32) -> pb::ExitResult {
    pb::ExitResult {
        exit_code,
        ..Default::default()
    }
}

/// The work behind the channels ended without a word: it panicked.
fn lost() -> Status {
    Status::internal("the driver lost track of the command")
}

#[cfg(test)]
#[path = "exec_tests.rs"]
mod tests;

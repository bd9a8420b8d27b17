//! The life of one command, from its turn to the removal of its pipes.

use super::kill::kill;
use super::pump::{self, Feed, Phase};
use crate::actors::absence::Absence;
use crate::actors::shared::{Configured, LiveExec, Shared};
use crate::containerd::{Gateway, NewExec};
use crate::host::exec::{Ends, Pipes};
use crate::host::{HostError, mounted};
use crate::messages::exec::{Exec, Input, Output, TerminalSize};
use crate::messages::logs::Stream;
use crate::messages::runtime::{ContainerdFault, FaultKind, TaskView};
use crate::messages::task::TaskError;
use crate::spec::exec;
use crate::spec::identity::ContainerId;
use crate::telemetry::steps::step;
use crate::telemetry::{Counter, names};
use bytes::Bytes;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{Instrument as _, Span};

/// 128 + SIGKILL: how a process ends that is taken along by the end of its container.
const KILLED: i32 = 137;

/// What is told of an exit that nobody has seen.
const UNKNOWN: i32 = -1;

/// How long a command with a terminal waits for the terminal's size, so that its program finds it there.
const FIRST_SIZE: Duration = Duration::from_millis(250);

/// How long a killed process may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// How long the answer to a command whose time is over waits for its end.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// First and longest rest before a call to a containerd that is away is made again.
const REST: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How often a removal is tried while containerd is away: some ten minutes. After that the container's removal, or the
/// next plugin process, clears up.
const REMOVALS: usize = 120;

/// How often an exit is asked for that containerd answers with a fault although the task runs.
const LOOKS: usize = 3;

/// What is given to a command at its birth.
pub(super) struct Work {
    pub(super) _live: LiveExec,
    pub(super) shared: Arc<Shared>,
    /// The way to containerd for this task: one that was adopted may be in another namespace.
    pub(super) configured: Result<Configured, ContainerdFault>,
    pub(super) container: ContainerId,
    pub(super) req: Exec,
    pub(super) inputs: mpsc::Receiver<Input>,
    pub(super) sizes: watch::Receiver<Option<TerminalSize>>,
    pub(super) outputs: mpsc::Sender<Output>,
}

/// Why a command is given up.
enum Surrender {
    /// Its client is gone.
    Gone,
    /// Its time is over.
    Late,
}

/// A command that was not begun, as far as is known: a call whose answer was lost may still begin it.
struct NotBegun {
    error: TaskError,
    /// Of its pipes, until it is removed.
    readers: JoinSet<()>,
}

impl<E: Into<TaskError>> From<E> for NotBegun {
    fn from(error: E) -> Self {
        Self {
            error: error.into(),
            readers: JoinSet::new(),
        }
    }
}

/// A command that has an entry in containerd, or may have one.
struct Entry {
    gateway: Gateway,
    container: ContainerId,
    exec: String,
    pipes: Pipes,
}

impl Work {
    pub(super) async fn run(self) {
        let outputs = self.outputs.clone();
        let deadline = self.req.timeout.and_then(|t| Instant::now().checked_add(t));
        let ready = async {
            if self.req.terminal {
                // A client tells it right after the command. One that tells none has none.
                let mut first = self.sizes.clone();
                drop(tokio::time::timeout(FIRST_SIZE, first.wait_for(Option::is_some)).await);
            }
            self.shared.execs.turn().await
        };
        let turn = tokio::select! {
            biased;
            surrender = given_up(&outputs, deadline) => return surrendered(&outputs, &surrender).await,
            turn = ready => turn,
        };
        let exec = self.shared.execs.name();
        Span::current().record(names::EXEC_ID, &exec);
        let configured = match self.configured.clone() {
            Ok(configured) => configured,
            Err(fault) => return failed(&outputs, fault.into()).await,
        };
        let entry = Entry {
            gateway: configured.gateway,
            pipes: Pipes::of(&self.shared.run_dir, self.container.as_str(), &exec),
            container: self.container.clone(),
            exec,
        };
        let begun = {
            let begin = entry.begin(&self.req, &self.sizes);
            tokio::pin!(begin);
            tokio::select! {
                biased;
                begun = &mut begin => begun,
                // A call to containerd that has begun is not taken back: what comes of it is killed.
                surrender = given_up(&outputs, deadline) => {
                    surrendered(&outputs, &surrender).await;
                    begin.await
                }
            }
        };
        drop(turn);
        match begun {
            Ok((ends, pid)) => {
                Counter::ExecsStarted.bump();
                entry.attend(self, ends, pid, deadline).await;
            }
            Err(NotBegun { error, readers }) => {
                entry.answer_failure(&self.req, error, &outputs).await;
                let live = self._live;
                drop(outputs);
                drop(self.outputs);
                entry.remove().await;
                drop((readers, live));
            }
        }
    }
}

impl Entry {
    fn id(&self) -> (&str, &str) {
        (self.container.as_str(), &self.exec)
    }

    /// Makes pipes and entry and starts the process. On an error there may be any part of it.
    async fn begin(&self, req: &Exec, sizes: &watch::Receiver<Option<TerminalSize>>) -> Result<(Ends, u32), NotBegun> {
        let mut absence = Absence::of_command();
        let record = loop {
            match self.gateway.container(self.container.as_str()).await {
                Err(fault) if absence.outlast(&fault).await => {}
                found => break found?.ok_or(TaskError::NotFound)?,
            }
        };
        let size = sizes.borrow().map(|s| (s.rows, s.columns));
        let process_json = exec::process(&record.spec_json, &req.argv, req.terminal, size)
            .map_err(|reason| command_error(req, reason))?;
        let ends = tokio::task::block_in_place(|| self.pipes.open(req.stdin, !req.terminal))
            .map_err(|e: HostError| command_error(req, e.to_string()))?;
        step!(ExecPipes);
        let new = NewExec {
            container: self.container.as_str().to_owned(),
            id: self.exec.clone(),
            process_json,
            // Never the shim's own, the host's null device: crun before 1.24 would give that to the command's user.
            stdin: match (req.stdin, req.terminal) {
                (true, _) => Some(self.pipes.stdin.clone()),
                (false, false) => Some(mounted::NULL.into()),
                (false, true) => None,
            },
            stdout: Some(self.pipes.stdout.clone()),
            stderr: (!req.terminal).then(|| self.pipes.stderr.clone()),
            terminal: req.terminal,
        };
        let (container, exec) = self.id();
        let start = async {
            self.gateway.add_exec(new).await?;
            step!(ExecAdded);
            self.gateway.start_exec(container, exec).await
        };
        match start.await {
            Ok(pid) => {
                step!(ExecStarted);
                Ok((ends, pid))
            }
            Err(fault) => {
                let readers = pump::discard_all(&self.pipes);
                drop(ends);
                let error = match exec::no_entry(&fault.text, &record.spec_json) {
                    Some(why) => {
                        tracing::info!(container.id = container, error = %fault, "a command is not run");
                        command_error(req, why.to_owned())
                    }
                    None => fault.into(),
                };
                Err(NotBegun { error, readers })
            }
        }
    }

    /// A program that cannot be run is answered as a shell does: words on standard error, and a code.
    async fn answer_failure(&self, req: &Exec, error: TaskError, outputs: &mpsc::Sender<Output>) {
        let TaskError::Containerd(fault) = &error else {
            return failed(outputs, error).await;
        };
        match exec::start_failure(&fault.text).filter(|_| !fault.is_transient()) {
            Some(code) => {
                let stream = if req.terminal { Stream::Stdout } else { Stream::Stderr };
                let line_end = if req.terminal { "\r\n" } else { "\n" };
                let words = command_error(req, fault.text.clone());
                let words = Bytes::from(format!("{words}{line_end}"));
                let all = [
                    Output::Data(stream, words),
                    Output::Closed(Stream::Stdout),
                    Output::Closed(Stream::Stderr),
                    Output::Exited(code),
                ];
                for output in all {
                    outputs.send(output).await.ok();
                }
            }
            None if fault.kind == FaultKind::NotFound => failed(outputs, TaskError::NotFound).await,
            None if fault.is_transient() => failed(outputs, error).await,
            None => failed(outputs, command_error(req, fault.text.clone())).await,
        }
    }

    /// Moves its bytes until it ends or is given up, answers, and removes what is left.
    async fn attend(self, work: Work, ends: Ends, pid: u32, deadline: Option<Instant>) {
        let Work {
            _live,
            req,
            inputs,
            sizes,
            outputs,
            ..
        } = work;
        let (phase, phases) = watch::channel(Phase::Running);
        let (delivered, mut all_delivered) = mpsc::channel::<()>(1);
        // Aborted when dropped.
        let mut helpers = JoinSet::new();
        let mut help = |work: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            helpers.spawn(work.in_current_span());
        };
        let readers = [(Stream::Stdout, Some(ends.stdout)), (Stream::Stderr, ends.stderr)];
        for (stream, source) in readers {
            if let Some(source) = source {
                let (outputs, phases) = (outputs.clone(), phases.clone());
                help(Box::pin(pump::deliver(
                    source,
                    stream,
                    outputs,
                    phases,
                    delivered.clone(),
                )));
            }
        }
        drop(delivered);
        if let Some(writer) = ends.stdin {
            let feed = Feed {
                gateway: self.gateway.clone(),
                container: self.container.as_str().to_owned(),
                exec: self.exec.clone(),
                terminal: req.terminal,
            };
            help(Box::pin(feed.run(writer, inputs)));
        }
        if req.terminal {
            help(Box::pin(resize(
                self.gateway.clone(),
                self.container.clone(),
                self.exec.clone(),
                sizes,
            )));
        }
        let exit = self.exit();
        tokio::pin!(exit);
        let surrender = tokio::select! {
            biased;
            code = &mut exit => Ok(code),
            surrender = given_up(&outputs, deadline) => Err(surrender),
        };
        match surrender {
            Ok(code) => {
                Span::current().record(names::EXIT_CODE, code);
                phase.send_replace(Phase::Ended);
                // Ends when every reader has dropped its end.
                all_delivered.recv().await;
                outputs.send(Output::Exited(code)).await.ok();
                drop(outputs);
            }
            Err(surrender) => {
                let killed = async {
                    kill(&self.gateway, self.container.as_str(), &self.exec, Some(pid)).await;
                    if tokio::time::timeout(KILL_PATIENCE, &mut exit).await.is_err() {
                        tracing::warn!(
                            exec.id = self.exec,
                            "a command is still there {KILL_PATIENCE:?} after SIGKILL"
                        );
                    }
                };
                tokio::pin!(killed);
                let in_time = tokio::time::timeout(ANSWER_WITHIN, &mut killed).await;
                surrendered(&outputs, &surrender).await;
                drop(outputs);
                if in_time.is_err() {
                    killed.await;
                }
                phase.send_replace(Phase::Ended);
            }
        }
        self.remove().await;
        drop(helpers);
    }

    /// The exit code, whatever containerd does meanwhile.
    async fn exit(&self) -> i32 {
        let (container, exec) = self.id();
        let (mut rest, mut looks) = (REST.0, 0);
        loop {
            match self.gateway.wait_exec(container, exec).await {
                Ok(code) => return code,
                Err(fault) if fault.is_transient() => {
                    tracing::debug!(exec.id = exec, error = %fault, "waiting for a command again");
                }
                Err(fault) => match self.gateway.task(container).await {
                    // Ended with the container.
                    Ok(None | Some(TaskView::Stopped(_))) => return KILLED,
                    Ok(Some(TaskView::Running { .. } | TaskView::Created { .. })) if looks >= LOOKS => {
                        tracing::warn!(exec.id = exec, error = %fault, "the exit of a command is not known");
                        return UNKNOWN;
                    }
                    Ok(Some(TaskView::Running { .. } | TaskView::Created { .. })) => looks += 1,
                    Err(_) => {}
                },
            }
            tokio::time::sleep(rest).await;
            rest = (rest * 2).min(REST.1);
        }
    }

    /// Removes entry and pipes, after a kill if it may still run.
    async fn remove(&self) {
        step!(ExecEnded);
        let (container, exec) = self.id();
        let mut rest = REST.0;
        for _ in 0..REMOVALS {
            match self.gateway.delete_exec(container, exec).await {
                Ok(()) => break,
                Err(fault) if is_away(&fault) => {}
                Err(fault) => {
                    tracing::debug!(exec.id = exec, error = %fault, "a command is not removed yet");
                    kill(&self.gateway, container, exec, None).await;
                    // Its container may be gone, and its entry with it.
                    if matches!(self.gateway.task(container).await, Ok(None)) {
                        break;
                    }
                }
            }
            tokio::time::sleep(rest).await;
            rest = (rest * 2).min(REST.1);
        }
        step!(ExecDeleted);
        if let Err(e) = tokio::task::block_in_place(|| self.pipes.remove()) {
            tracing::warn!(exec.id = exec, error = %e, "pipes of a command not removed");
        }
    }
}

fn is_away(fault: &ContainerdFault) -> bool {
    matches!(fault.kind, FaultKind::Unreachable | FaultKind::Deadline)
}

fn command_error(req: &Exec, reason: String) -> TaskError {
    TaskError::Command {
        command: req.argv.first().cloned().unwrap_or_default(),
        reason,
    }
}

async fn failed(outputs: &mpsc::Sender<Output>, error: TaskError) {
    outputs.send(Output::Failed(error)).await.ok();
}

/// Ends when the client is gone or the time is over.
async fn given_up(outputs: &mpsc::Sender<Output>, deadline: Option<Instant>) -> Surrender {
    let late = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = outputs.closed() => Surrender::Gone,
        () = late => Surrender::Late,
    }
}

async fn surrendered(outputs: &mpsc::Sender<Output>, surrender: &Surrender) {
    match surrender {
        Surrender::Gone => {}
        Surrender::Late => failed(outputs, TaskError::CommandTimeout).await,
    }
}

/// Gives the terminal each new size; also the one that came while the process was started.
async fn resize(
    gateway: Gateway,
    container: ContainerId,
    exec: String,
    mut sizes: watch::Receiver<Option<TerminalSize>>,
) {
    loop {
        let size = *sizes.borrow_and_update();
        if let Some(size) = size
            && let Err(fault) = gateway
                .resize_exec(container.as_str(), &exec, (size.rows, size.columns))
                .await
        {
            tracing::debug!(exec.id = exec, error = %fault, "terminal not resized");
        }
        if sizes.changed().await.is_err() {
            return;
        }
    }
}

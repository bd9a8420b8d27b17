//! `containerd-driver run`: one task in the foreground, asked for through the same doors as Nomad's.
//!
//! Whatever happens, the task is destroyed and its pipes are removed before this returns. The first interrupt stops
//! the task as Nomad would, with a grace of ten seconds; the second kills it.

use super::args::RunCommand;
use super::ending::Ending;
use super::logs::LogDoor;
use super::progress::Progress;
use crate::messages::doors::{Doors, TaskDoor, TaskDoors};
use crate::messages::logs::Stream;
use crate::messages::task::{Destroy, Start, Stop, TaskError, TaskEvent, Wait};
use crate::messages::{AskError, Cx, Request};
use crate::spec::identity::ContainerId;
use crate::spec::record::ExitRecord;
use crate::spec::secret::Secret;
use crate::spec::task::TaskSpec;
use crate::telemetry::names;
use std::future::{Future, pending};
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{Instrument as _, info_span};

/// Writes a line to standard error. `eprintln!` would panic on a closed pipe, before the task is cleared away; a line
/// that nobody can read is not worth that.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        writeln!(std::io::stderr(), $($text)*).ok();
    }};
}

/// Between the signal and SIGKILL.
const GRACE: Duration = Duration::from_secs(10);
/// Upper bound of the removal at the end.
const REMOVE: Duration = Duration::from_secs(60);
/// Upper bound for the last bytes of output once the task is gone.
const DRAIN: Duration = Duration::from_secs(5);
/// How often a request is asked again when the actor died with it.
const TRIES: u32 = 5;

/// Runs the command to its end and gives the exit code. `doors` must be those of actors that were started with
/// [`RunCommand::settings`]. Errors go to standard error.
pub async fn run(command: RunCommand, doors: Doors, logs: Arc<dyn LogDoor>) -> u8 {
    let (tell, mut interrupts) = mpsc::channel(8);
    let watching = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(|kind| {
        let (tell, listening) = (tell.clone(), signal(kind));
        tokio::spawn(async move {
            let Ok(mut listening) = listening else { return };
            while listening.recv().await.is_some() && tell.send(kind.as_raw_value()).await.is_ok() {}
        })
    });
    let password = tokio::select! {
        biased;
        // Nothing was begun. The thread that reads standard input ends with the process.
        Some(number) = interrupts.recv(), if command.registry_user.is_some() => Err(Ending::Interrupted(number)),
        password = password(&command) => Ok(password),
    };
    let ending = match password {
        Ok(password) => follow(command.task(password), &doors, &*logs, interrupts).await,
        Err(ending) => ending,
    };
    for task in watching {
        task.abort();
    }
    if let Some(sentence) = ending.sentence() {
        say!("containerd-driver: {sentence}");
    }
    ending.code()
}

async fn password(command: &RunCommand) -> Option<Secret> {
    match &command.registry_user {
        Some(_) => tokio::task::spawn_blocking(first_line).await.unwrap_or_default(),
        None => None,
    }
}

/// The same with the interrupts as a parameter.
pub async fn follow(
    mut task: TaskSpec,
    doors: &Doors,
    logs: &dyn LogDoor,
    mut interrupts: mpsc::Receiver<i32>,
) -> Ending {
    let container = ContainerId::of(&task.id);
    let span = info_span!(names::CLI_RUN, { names::TASK_ID } = %task.id, { names::CONTAINER_ID } = %container);
    async {
        let pipes = match logs.open(&container).await {
            Ok(pipes) => pipes,
            Err(error) => return Ending::Driver(error.to_string()),
        };
        (task.stdout_path, task.stderr_path) = (pipes.stdout, pipes.stderr);
        let task = Arc::new(task);
        let ending = live(&task, &container, doors, logs, &mut interrupts).await;
        let removed = ask(doors, &task, |_| Destroy { force: true }, Some(REMOVE)).await;
        // Every writer is gone now, unless the removal failed; then what came so far is all there is.
        timeout(DRAIN, logs.drain(&container)).await.ok();
        logs.close(&container).await;
        let left = match removed {
            Ok(Ok(()) | Err(TaskError::NotFound)) | Err(AskError::Ended { .. } | AskError::Failed { .. }) => doors
                .tasks
                .sweep(&task.id, true, Cx::current())
                .await
                .err()
                .map(|e| e.to_string()),
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(error) = left {
            say!("containerd-driver: task {} could not be removed: {error}", task.id);
        }
        ending
    }
    .instrument(span)
    .await
}

/// From the first byte of the start to the exit.
async fn live(
    task: &Arc<TaskSpec>,
    container: &ContainerId,
    doors: &Doors,
    logs: &dyn LogDoor,
    interrupts: &mut mpsc::Receiver<i32>,
) -> Ending {
    let mut events = Some(doors.events.subscribe());
    let mut progress = Progress::stderr();
    let running = AtomicBool::new(false);
    let mut life = pin!(start_and_wait(task, container, doors, logs, &running));
    let mut broken = pin!(logs.broken(container));
    let mut stop: Option<Pin<Box<dyn Future<Output = ()> + Send + '_>>> = None;
    let (mut count, mut last, mut whole) = (0_u32, 0, true);
    loop {
        tokio::select! {
            biased;
            ending = &mut life => {
                return match ending {
                    Ending::Refused(TaskError::Cancelled) if count > 0 => Ending::Interrupted(last),
                    other => other,
                };
            }
            Some(number) = interrupts.recv() => {
                (count, last) = (count + 1, number);
                let grace = if count == 1 { GRACE } else { Duration::ZERO };
                // A stop under way that is replaced goes on in the supervisor; this one overtakes it.
                stop = Some(Box::pin(halt(task, doors, grace)));
            }
            reason = &mut broken, if whole => {
                whole = false;
                progress.clear();
                say!("containerd-driver: the task is stopped, its output cannot be written: {reason}");
                stop = Some(Box::pin(halt(task, doors, GRACE)));
            }
            () = async { match stop.as_mut() { Some(s) => s.await, None => pending().await } } => stop = None,
            event = next_event(&mut events) => {
                if event.task == task.id && !running.load(Ordering::Relaxed) {
                    progress.show(&event.message);
                } else if running.load(Ordering::Relaxed) {
                    progress.clear();
                    events = None;
                }
            }
        }
        if running.load(Ordering::Relaxed) {
            progress.clear();
        }
    }
}

async fn start_and_wait(
    task: &Arc<TaskSpec>,
    container: &ContainerId,
    doors: &Doors,
    logs: &dyn LogDoor,
    running: &AtomicBool,
) -> Ending {
    if let Err(ending) = attach(task, container, logs).await {
        return ending;
    }
    if let Err(error) = doors.tasks.open(&task.id, Cx::current()).await {
        return error.into();
    }
    match ask(
        doors,
        task,
        |resume| Start {
            task: task.clone(),
            resume,
        },
        None,
    )
    .await
    {
        Ok(Ok(_)) => running.store(true, Ordering::Relaxed),
        Ok(Err(error)) => return Ending::Refused(error),
        Err(error) => return error.into(),
    }
    match ask(doors, task, |_| Wait, None).await {
        Ok(Ok::<ExitRecord, _>(exit)) => Ending::Exited(exit),
        Ok(Err(error)) => Ending::Refused(error),
        Err(error) => error.into(),
    }
}

/// Before the start: a pipe that has its reader loses nothing.
async fn attach(task: &TaskSpec, container: &ContainerId, logs: &dyn LogDoor) -> Result<(), Ending> {
    let own = |fd: std::io::Result<OwnedFd>| {
        fd.map(Arc::new)
            .map_err(|e| Ending::Driver(format!("standard output: {e}")))
    };
    let out = own(std::io::stdout().as_fd().try_clone_to_owned())?;
    let err = own(std::io::stderr().as_fd().try_clone_to_owned())?;
    for (stream, path, sink) in [
        (Stream::Stdout, &task.stdout_path, out),
        (Stream::Stderr, &task.stderr_path, err),
    ] {
        logs.attach(container, stream, path, sink)
            .await
            .map_err(|e| Ending::Driver(e.to_string()))?;
    }
    Ok(())
}

async fn halt(task: &TaskSpec, doors: &Doors, grace: Duration) {
    let within = Some(grace + REMOVE);
    match ask(
        doors,
        task,
        |_| Stop {
            timeout: grace,
            signal: None,
        },
        within,
    )
    .await
    {
        Ok(Ok(()) | Err(TaskError::NotFound)) => {}
        Ok(Err(error)) => say!("containerd-driver: stopping: {error}"),
        Err(error) => say!("containerd-driver: stopping: {error}"),
    }
}

/// Asks, and asks again if the actor died with it; `make` is told whether it is for the first time.
async fn ask<R: Request>(
    doors: &Doors,
    task: &TaskSpec,
    make: impl Fn(bool) -> R,
    within: Option<Duration>,
) -> Result<R::Reply, AskError>
where
    dyn TaskDoors: TaskDoor<R>,
{
    let mut tries = 0;
    loop {
        let answer = TaskDoor::<R>::ask(&*doors.tasks, &task.id, make(tries > 0), Cx::current(), within).await;
        tries += 1;
        match answer {
            Err(AskError::Died { .. }) if tries < TRIES => {
                crate::telemetry::Counter::MessagesAskedAgain.bump();
                tokio::time::sleep(Duration::from_millis(50) * tries).await;
            }
            other => return other,
        }
    }
}

/// Never resolves once there are no more.
async fn next_event(events: &mut Option<broadcast::Receiver<TaskEvent>>) -> TaskEvent {
    while let Some(receiver) = events {
        match receiver.recv().await {
            Ok(event) => return event,
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => *events = None,
        }
    }
    pending().await
}

fn first_line() -> Option<Secret> {
    use std::io::{BufRead as _, Read as _};
    let mut line = String::new();
    std::io::stdin().lock().take(64 * 1024).read_line(&mut line).ok()?;
    let password = line.trim_end_matches(['\r', '\n']);
    (!password.is_empty()).then(|| Secret::new(password))
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;

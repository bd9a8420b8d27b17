//! The calls of a sequence, each bounded and judged.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use testhost::alloc::{Alloc, random_hex};
use testhost::procfs;
use testhost::rig::RunningTask;
use testhost::task::TaskSpec;
use testhost::wire::driver::{DestroyTaskRequest, RecoverTaskRequest, TaskState};
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::field::{Field, lock};
use crate::plan::{Call, Kind, Sig};
use crate::truth::Facts;

// The bounds of the driver's answers (`docs/architecture.md` and `plugin/tasks.rs`), and a little for a machine under load.

/// A start whose image is there already.
const START: Duration = Duration::from_secs(190);
const INSPECT: Duration = Duration::from_secs(15);
const SIGNAL: Duration = Duration::from_secs(35);
/// Beyond the grace.
const STOP: Duration = Duration::from_secs(95);
const DESTROY: Duration = Duration::from_secs(130);
const RECOVER: Duration = Duration::from_secs(130);
/// Of the command itself.
const COMMAND: Duration = Duration::from_secs(5);
/// Until the command is taken up, beyond its own time.
const EXEC: Duration = Duration::from_secs(35);
/// Until a stream of statistics has its first message.
const STATS: Duration = Duration::from_secs(15);

/// How long after its end a task's exit may take to be told: the events break off, are subscribed to again and followed by
/// a listing, and a silent fault keeps each of these waiting.
const EXIT_TOLD: Duration = Duration::from_secs(60);

/// How long a wait is given in which no exit may come.
const MOMENT: Duration = Duration::from_millis(300);

/// How long the first line of a task that is told to run may take on a machine under load.
const READY: Duration = Duration::from_secs(20);

/// How long the processes of a task that is told to have ended may still be seen.
const GONE: Duration = Duration::from_secs(5);

/// A task that was started.
pub struct Live {
    pub task: RunningTask,
    pub facts: Arc<Mutex<Facts>>,
}

impl Live {
    pub fn facts(&self) -> Facts {
        lock(&self.facts).clone()
    }

    fn change(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut lock(&self.facts));
    }

    fn failed(&self, call: &str, status: &Status) -> Result<(), String> {
        self.facts().told_error(call, status)
    }

    /// From now on the task may be gone at any moment.
    pub fn give_up(&self) {
        self.change(|facts| {
            facts.kill = true;
            facts.destroy = true;
        });
    }

    /// Its live processes, seen without anybody's help.
    pub fn processes(&self) -> Vec<u32> {
        procfs::with_environment(&format!("NOMAD_ALLOC_ID={}", self.task.alloc.id()))
    }
}

/// An answer within its deadline, or a hang.
async fn within<T>(call: &str, limit: Duration, answer: impl Future<Output = T>) -> Result<T, String> {
    timeout(limit, answer)
        .await
        .map_err(|_| format!("hang: {call}: no answer within {limit:?}"))
}

fn script(kind: Kind) -> String {
    match kind {
        Kind::Ends(code, after) => format!("echo ready; sleep {}.{:03}; exit {code}", after / 1000, after % 1000),
        // A shell takes a signal in `wait` at once, but only after any other command.
        Kind::Obeys(code) => {
            format!("trap 'exit {code}' TERM; trap 'echo usr1' USR1; sleep 1000 & echo ready; while :; do wait; done")
        }
        // The first process of a namespace is only sent what it has asked for, and SIGKILL.
        Kind::Ignores => "echo ready; exec sleep 1000".to_owned(),
    }
}

/// `StartTask`. An error with its task's id is what the sequence still has to clear up.
pub async fn start(field: &Field, alloc: Arc<Alloc>, kind: Kind) -> Result<Result<Arc<Live>, String>, String> {
    let id = format!("{}/t/{}", alloc.id(), random_hex(4));
    let spec = TaskSpec::new(&field.image)
        .name("t")
        .memory_mb(32)
        .sh(&script(kind))
        .id(&id);
    let live = {
        let rig = field.rig.read().await;
        let facts = Facts::new(kind);
        match within("StartTask", START, rig.start_in(alloc, &spec)).await? {
            Ok(task) => {
                let facts = Arc::new(Mutex::new(facts));
                field.enter(&id, facts.clone());
                Arc::new(Live { task, facts })
            }
            Err(status) => {
                facts.told_error("StartTask", &status)?;
                return Ok(Err(id));
            }
        }
    };
    match live.task.logs().stdout.wait_line(READY, "ready").await {
        Some(_) => Ok(Ok(live)),
        None => Err(format!(
            "a lie: {id} is told to run and said nothing within {READY:?}: {}",
            silence(field, &live).await
        )),
    }
}

/// What is known of a task without a word.
async fn silence(field: &Field, live: &Live) -> String {
    let logs = live.task.logs();
    let collected = (logs.stdout.opened_at(), logs.stdout.ended_at(), logs.stdout.text());
    let status = live.task.status().await;
    let about = field.words_about(&[live.task.alloc.id().to_owned()]).await;
    format!("pipe {collected:?}; {status:?}\n{about}")
}

/// `DestroyTask` with force, by name alone.
pub async fn destroy_by_name(field: &Field, id: &str) -> Result<Result<(), Status>, String> {
    let mut driver = field.rig.read().await.driver();
    let request = DestroyTaskRequest {
        task_id: id.to_owned(),
        force: true,
    };
    let answer = within("DestroyTask", DESTROY, driver.destroy_task(request)).await?;
    Ok(answer.map(drop))
}

/// Waits until no process of the task is left.
async fn gone(live: &Live, call: &str) -> Result<(), String> {
    let end = Instant::now() + GONE;
    loop {
        let left = live.processes();
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(format!(
                "a lie: {call} says that the task has ended and its processes {left:?} run; {:?}",
                live.facts()
            ));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Any call but a start. True if the task was destroyed.
pub async fn call(field: &Field, live: &Live, call: Call) -> Result<bool, String> {
    // No restart of the plugin meanwhile.
    let _quiet = field.rig.read().await;
    match call {
        Call::Start(_) => {}
        Call::Inspect => inspect(live).await?,
        Call::Wait => wait(live).await?,
        Call::Stats => stats(live).await?,
        Call::Recover => recover(live).await?,
        Call::Exec(code) => exec(live, code).await?,
        Call::Signal(signal) => send(live, signal).await?,
        Call::Stop(grace) => stop(live, Duration::from_millis(grace)).await?,
        Call::Destroy { force } => return destroy(live, force).await,
    }
    Ok(false)
}

async fn inspect(live: &Live) -> Result<(), String> {
    let ended = live.facts().ended;
    match within("InspectTask", INSPECT, live.task.status()).await? {
        Ok(status) if status.state() == TaskState::Running => match ended {
            true => live.facts().told_running(),
            false => Ok(()),
        },
        Ok(status) if status.state() == TaskState::Exited => {
            lock(&live.facts).told(&status.result.unwrap_or_default(), "")
        }
        Ok(status) => Err(format!("InspectTask: {status:?}")),
        Err(status) => live.failed("InspectTask", &status),
    }
}

/// An exit that has to come comes; one that cannot come does not.
async fn wait(live: &Live) -> Result<(), String> {
    let must_end = live.facts().must_end();
    let patience = if must_end { EXIT_TOLD } else { MOMENT };
    match timeout(patience, live.task.wait()).await {
        Err(_) if must_end => Err(format!("hang: no exit is told within {patience:?}; {:?}", live.facts())),
        Err(_) => Ok(()),
        Ok(Ok(answer)) => {
            lock(&live.facts).told(&answer.result.unwrap_or_default(), &answer.err)?;
            gone(live, "WaitTask").await
        }
        // The host takes any error for the end of the task.
        Ok(Err(status)) if status.code() == Code::NotFound => live.failed("WaitTask", &status),
        Ok(Err(status)) => Err(format!("WaitTask: {status:?}; {:?}", live.facts())),
    }
}

async fn stats(live: &Live) -> Result<(), String> {
    let first = async {
        let mut stream = live.task.stats(Duration::from_secs(1)).await?;
        stream.message().await
    };
    match timeout(STATS, first).await {
        Ok(Ok(Some(_))) => Ok(()),
        Ok(Err(status)) => live.failed("TaskStats", &status),
        Ok(Ok(None)) | Err(_) if live.facts().may_have_ended() => Ok(()),
        Ok(Ok(None)) => Err(format!(
            "a lie: the statistics of a task that runs end; {:?}",
            live.facts()
        )),
        Err(_) => Err(format!("hang: no statistics within {STATS:?}; {:?}", live.facts())),
    }
}

async fn recover(live: &Live) -> Result<(), String> {
    let request = RecoverTaskRequest {
        task_id: String::new(),
        handle: Some(live.task.persisted_handle()),
    };
    let mut driver = live.task.driver();
    match within("RecoverTask", RECOVER, driver.recover_task(request)).await? {
        Ok(_) => Ok(()),
        Err(status) if live.facts().destroy => live.failed("RecoverTask", &status),
        // The host destroys what cannot be recovered.
        Err(status) => Err(format!("RecoverTask: {status:?}; {:?}", live.facts())),
    }
}

async fn exec(live: &Live, code: i32) -> Result<(), String> {
    let script = format!("echo x{code}; exit {code}");
    let before = live.facts();
    let argv = ["sh", "-c", &script];
    let answer = live.task.exec(&argv, COMMAND);
    match within("ExecTask", COMMAND + EXEC, answer).await? {
        Ok(answer) if before.ended || before.exit.is_some() => Err(format!(
            "a lie: a command is told to have run after the task's end: {answer:?}; {before:?}"
        )),
        Ok(answer) => live
            .facts()
            .told_command(code, &answer.result.unwrap_or_default(), &answer.stdout),
        Err(status) => live.failed("ExecTask", &status),
    }
}

async fn send(live: &Live, signal: Sig) -> Result<(), String> {
    live.change(|facts| facts.signalled(signal));
    let name = match signal {
        Sig::Usr1 => "SIGUSR1",
        Sig::Term => "SIGTERM",
        Sig::Kill => "SIGKILL",
    };
    if let Err(status) = within("SignalTask", SIGNAL, live.task.signal(name)).await? {
        return live.failed("SignalTask", &status);
    }
    live.change(|facts| facts.told_sent(signal));
    let answers = signal == Sig::Usr1 && matches!(live.facts().kind, Kind::Obeys(_));
    if answers && !live.facts().may_have_ended() {
        let said = live.task.logs().stdout.wait_line(GONE, "usr1").await;
        if said.is_none() && !live.facts().may_have_ended() {
            return Err(format!(
                "a lie: the signal is told to be sent and did not come; {:?}",
                live.facts()
            ));
        }
    }
    Ok(())
}

async fn stop(live: &Live, grace: Duration) -> Result<(), String> {
    live.change(|facts| {
        facts.term = true;
        facts.kill = true;
    });
    match within("StopTask", grace + STOP, live.task.stop(grace, "")).await? {
        Ok(()) => {
            live.change(|facts| facts.ended = true);
            gone(live, "StopTask").await
        }
        Err(status) => live.failed("StopTask", &status),
    }
}

/// True if it is told to be gone.
async fn destroy(live: &Live, force: bool) -> Result<bool, String> {
    live.change(|facts| {
        facts.kill |= force;
        facts.destroy |= force || facts.may_have_ended();
    });
    match within("DestroyTask", DESTROY, live.task.destroy(force)).await? {
        Ok(()) if !live.facts().destroy => Err(format!(
            "a task that runs is destroyed without force; {:?}",
            live.facts()
        )),
        Ok(()) => {
            live.change(|facts| facts.ended = true);
            gone(live, "DestroyTask").await.map(|()| true)
        }
        Err(status) => live.failed("DestroyTask", &status).map(|()| false),
    }
}

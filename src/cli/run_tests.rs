//! A run from start to removal, with doors that are played.

use super::*;
use crate::cli::logs::Pipes;
use crate::messages::doors::{Answer, SettingsDoor, StatsDoor};
use crate::messages::exec::Exec;
use crate::messages::health::{Health, Verdict};
use crate::messages::logs::{Drained, LogError};
use crate::messages::stats::{Samples, WatchId, Watched};
use crate::messages::task::{Inspect, Inspection, Recover, Signal, Started};
use crate::spec::identity::TaskId;
use crate::spec::record::HandleState;
use crate::spec::settings::Settings;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;
use tokio::sync::{Notify, watch};

/// Doors that answer from a script and write down what they were asked.
#[derive(Default)]
struct Script {
    asked: Mutex<Vec<String>>,
    /// How many times a start dies before it is answered.
    deaths: AtomicU32,
    refuse: Option<TaskError>,
    /// Exit without being stopped.
    exit: Option<i32>,
    stopped: Notify,
}

impl Script {
    fn note(&self, what: impl Into<String>) {
        self.asked.lock().unwrap().push(what.into());
    }
}

macro_rules! door {
    ($request:ty, |$self:ident, $req:ident| $body:expr) => {
        impl TaskDoor<$request> for Script {
            fn ask<'a>(&'a $self, _: &'a TaskId, $req: $request, _: Cx, _: Option<Duration>) -> Answer<'a, Result<<$request as Request>::Reply, AskError>> {
                Box::pin(async move { $body })
            }
        }
    };
}

door!(Start, |self, req| {
    self.note(format!("start resume={}", req.resume));
    if self.deaths.load(Ordering::Relaxed) > 0 {
        self.deaths.fetch_sub(1, Ordering::Relaxed);
        return Err(AskError::Died {
            actor: "TaskSupervisor",
            message: "Start",
        });
    }
    Ok(match &self.refuse {
        Some(error) => Err(error.clone()),
        None => Ok(Started {
            handle: HandleState {
                container: ContainerId::reported("c"),
                namespace: String::new(),
                started_at: 0,
                stop_signal: 15,
                logs: None,
                go: None,
            },
        }),
    })
});
door!(Wait, |self, _req| {
    let code = match self.exit {
        Some(code) => code,
        None => {
            self.stopped.notified().await;
            143
        }
    };
    Ok(Ok(ExitRecord {
        code,
        oom: false,
        at: 0,
        lost: String::new(),
    }))
});
door!(Stop, |self, req| {
    self.note(format!("stop {:?}", req.timeout));
    if req.timeout.is_zero() || self.exit.is_some() {
        self.stopped.notify_one();
    } else {
        pending::<()>().await;
    }
    Ok(Ok(()))
});
door!(Destroy, |self, req| {
    self.note(format!("destroy force={}", req.force));
    Ok(Ok(()))
});
door!(Recover, |self, _req| Ok(Err(TaskError::NotFound)));
door!(Signal, |self, _req| Ok(Err(TaskError::NotFound)));
door!(Inspect, |self, _req| Ok(Err::<Inspection, _>(TaskError::NotFound)));
door!(Exec, |self, _req| Ok(Err(TaskError::NotFound)));

impl TaskDoors for Script {
    fn open<'a>(&'a self, _: &'a TaskId, _: Cx) -> Answer<'a, Result<(), AskError>> {
        Box::pin(async { Ok(()) })
    }
    fn sweep<'a>(&'a self, _: &'a TaskId, _: bool, _: Cx) -> Answer<'a, Result<(), TaskError>> {
        Box::pin(async { Ok(()) })
    }
}

impl SettingsDoor for Script {
    fn apply(&self, _: Settings) {}
    fn count_compute(&self, _: u64) {}
    fn current(&self) -> Arc<Settings> {
        Arc::default()
    }
}

impl StatsDoor for Script {
    fn watch<'a>(&'a self, _: Watched, _: Cx) -> Answer<'a, Result<(WatchId, Samples), AskError>> {
        Box::pin(std::future::pending())
    }
    fn unwatch(&self, _: WatchId) {}
}

#[derive(Default)]
struct Logs(Mutex<Vec<&'static str>>);

impl LogDoor for Logs {
    fn open<'a>(&'a self, _: &'a ContainerId) -> Answer<'a, Result<Pipes, LogError>> {
        self.0.lock().unwrap().push("open");
        Box::pin(async {
            Ok(Pipes {
                stdout: "/o".into(),
                stderr: "/e".into(),
            })
        })
    }
    fn attach<'a>(
        &'a self,
        _: &'a ContainerId,
        s: Stream,
        _: &'a Path,
        _: Arc<OwnedFd>,
    ) -> Answer<'a, Result<(), LogError>> {
        self.0.lock().unwrap().push(s.name());
        Box::pin(async { Ok(()) })
    }
    fn drain<'a>(&'a self, _: &'a ContainerId) -> Answer<'a, Result<Drained, LogError>> {
        self.0.lock().unwrap().push("drain");
        Box::pin(async { Ok(Drained::default()) })
    }
    fn close<'a>(&'a self, _: &'a ContainerId) -> Answer<'a, ()> {
        self.0.lock().unwrap().push("close");
        Box::pin(async {})
    }
}

async fn outcome(script: Script, signals: &[i32]) -> (Ending, Vec<String>, Vec<&'static str>) {
    let script = Arc::new(script);
    let verdict = Verdict {
        health: Health::Healthy,
        description: String::new(),
        attributes: vec![],
    };
    let doors = Doors {
        tasks: script.clone(),
        health: watch::channel(verdict).1,
        events: broadcast::channel(4).0,
        settings: script.clone(),
        stats: script.clone(),
    };
    let logs = Logs::default();
    let (tx, rx) = mpsc::channel(8);
    let task = TaskSpec {
        id: TaskId::new("run/x/00000000"),
        ..TaskSpec::default()
    };
    let signalling = async {
        for s in signals {
            tokio::time::sleep(Duration::from_millis(100)).await;
            tx.send(*s).await.unwrap();
        }
        pending::<()>().await;
    };
    let ending = tokio::select! {
        ending = follow(task, &doors, &logs, rx) => ending,
        () = signalling => unreachable!(),
    };
    let asked = script.asked.lock().unwrap().clone();
    (ending, asked, logs.0.into_inner().unwrap())
}

#[tokio::test(start_paused = true)]
async fn the_exit_code_passes_and_nothing_is_left() {
    let (ending, asked, logs) = outcome(
        Script {
            exit: Some(7),
            ..Script::default()
        },
        &[],
    )
    .await;
    assert_eq!(ending.code(), 7);
    assert_eq!(asked, ["start resume=false", "destroy force=true"]);
    assert_eq!(logs, ["open", "stdout", "stderr", "drain", "close"]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_start_is_cleaned_up_too() {
    let refuse = Some(TaskError::Driver("x".into()));
    let (ending, asked, logs) = outcome(
        Script {
            refuse,
            ..Script::default()
        },
        &[],
    )
    .await;
    assert_eq!(ending.code(), 125);
    assert_eq!(asked.last().unwrap(), "destroy force=true");
    assert_eq!(logs.last(), Some(&"close"));
}

#[tokio::test(start_paused = true)]
async fn a_start_whose_actor_died_is_asked_again_as_resumed() {
    let (ending, asked, _) = outcome(
        Script {
            exit: Some(0),
            deaths: 2.into(),
            ..Script::default()
        },
        &[],
    )
    .await;
    assert_eq!(ending.code(), 0);
    assert_eq!(
        asked[..3],
        ["start resume=false", "start resume=true", "start resume=true"]
    );
    let (ending, asked, _) = outcome(
        Script {
            deaths: 99.into(),
            ..Script::default()
        },
        &[],
    )
    .await;
    assert_eq!((ending.code(), asked.len()), (125, 6));
}

#[tokio::test(start_paused = true)]
async fn the_first_interrupt_stops_and_the_second_kills() {
    let (ending, asked, _) = outcome(Script::default(), &[2, 2]).await;
    assert_eq!(ending.code(), 143);
    assert_eq!(
        asked,
        ["start resume=false", "stop 10s", "stop 0ns", "destroy force=true"]
    );
}

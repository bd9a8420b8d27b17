//! Test builds only: kill (panic), stall or abort any actor by name while it works.
//!
//! A line protocol on the unix socket named by `CONTAINERD_DRIVER_CHAOS_SOCKET`:
//!
//! | line | effect |
//! |---|---|
//! | `list` | names of the live actors, one per line |
//! | `kill NAME` | the actor panics at its next poll |
//! | `stall NAME MILLISECONDS` | the actor is not polled for that long |
//! | `abort NAME` | the actor's future is dropped without unwinding |
//! | `curse NAME` | the actor, and whoever comes after it, panics at each poll; it need not be there yet |
//! | `lift NAME` | no more |
//! | `pump` | each thread that moves log bytes panics; answered by their number |
//! | `steps` | names of the steps of `telemetry::steps`, one per line |
//! | `halt STEP` | who reaches the step first is halted there for good; then the line `halted STEP` follows |
//! | `halt STEP MILLISECONDS` | it goes on, and the line follows so long after |
//!
//! `NAME` is one of the actor names or `task:<task id>`. Each line is answered by `ok`, the list, or `error …`.

use crate::actors::log_pump::Pumps;
use crate::messages::lifecycle::ChildName;
use crate::telemetry::steps::{self, Halted, Step};
use futures_util::task::AtomicWaker;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::task::AbortHandle;
use tokio::time::Sleep;

#[derive(Default)]
struct Pending {
    kill: bool,
    cursed: bool,
    stall: Option<Duration>,
    stalled: Option<Pin<Box<Sleep>>>,
    abort: Option<AbortHandle>,
}

/// Where faults for one actor are put.
#[derive(Default)]
pub struct Injector {
    pending: Mutex<Pending>,
    waker: AtomicWaker,
}

impl Injector {
    fn with<T>(&self, f: impl FnOnce(&mut Pending) -> T) -> T {
        f(&mut self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Called by the guard before each poll.
    pub fn poll_stall(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        self.with(|p| {
            if let Some(for_) = p.stall.take() {
                p.stalled = Some(Box::pin(tokio::time::sleep(for_)));
            }
            if let Some(sleep) = p.stalled.as_mut() {
                std::task::ready!(sleep.as_mut().poll(cx));
                p.stalled = None;
            }
            Poll::Ready(())
        })
    }

    /// Panics if a kill is due. Called by the guard inside `catch_unwind`.
    pub fn strike(&self) {
        if self.with(|p| std::mem::take(&mut p.kill) || p.cursed) {
            panic!("chaos: killed");
        }
    }

    /// Keeps the handle by which the actor can be aborted.
    pub fn set_abort(&self, handle: AbortHandle) {
        self.with(|p| p.abort = Some(handle));
    }

    fn inject(&self, f: impl FnOnce(&mut Pending)) {
        self.with(f);
        self.waker.wake();
    }
}

/// Arms a step: the answer, and what to wait for.
fn arm(wish: &str) -> (String, Option<Halted>) {
    let (name, after) = match wish.split_once(' ') {
        Some((name, ms)) => match ms.parse::<u64>() {
            Ok(ms) => (name, Some(Duration::from_millis(ms))),
            Err(e) => return (format!("error {ms:?} milliseconds: {e}\n"), None),
        },
        None => (wish, None),
    };
    match Step::ALL.iter().find(|step| step.name() == name) {
        Some(step) => ("ok\n".to_owned(), Some(steps::arm(*step, after))),
        None => (format!("error no step {name:?}\n"), None),
    }
}

/// All actors that faults can be put into.
pub struct Registry {
    known: Mutex<Known>,
    pumps: Arc<Pumps>,
}

#[derive(Default)]
struct Known {
    actors: BTreeMap<String, Arc<Injector>>,
    cursed: BTreeSet<String>,
}

fn key(name: &ChildName) -> String {
    match name {
        ChildName::Singleton(name) => (*name).to_owned(),
        ChildName::Task(id) => format!("task:{id}"),
    }
}

impl Registry {
    /// No actors yet, and the threads that move log bytes.
    #[must_use]
    pub fn over(pumps: Arc<Pumps>) -> Self {
        Self {
            known: Mutex::default(),
            pumps,
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Known) -> T) -> T {
        f(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The injector of an actor, made at its start.
    pub fn enrol(&self, name: &ChildName) -> Arc<Injector> {
        let injector = Arc::new(Injector::default());
        self.with(|known| {
            let key = key(name);
            injector.with(|p| p.cursed = known.cursed.contains(&key));
            known.actors.insert(key, Arc::clone(&injector));
        });
        injector
    }

    /// Forgets an actor that has ended.
    pub fn forget(&self, name: &ChildName) {
        self.with(|known| known.actors.remove(&key(name)));
    }

    fn curse(&self, name: &str, cursed: bool) {
        self.with(|known| {
            if cursed {
                known.cursed.insert(name.to_owned());
            } else {
                known.cursed.remove(name);
            }
            if let Some(injector) = known.actors.get(name) {
                injector.inject(|p| p.cursed = cursed);
            }
        });
    }

    fn command(&self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let verb = words.next().unwrap_or_default();
        if verb == "list" {
            return self.with(|known| known.actors.keys().map(|k| format!("{k}\n")).collect::<String>()) + "ok\n";
        }
        if verb == "pump" {
            return format!("{}\nok\n", self.pumps.kill_threads());
        }
        if verb == "steps" {
            return Step::ALL
                .iter()
                .map(|step| format!("{}\n", step.name()))
                .collect::<String>()
                + "ok\n";
        }
        // A task id may contain spaces: everything between the verb and a trailing number is the name.
        let rest = line.trim().strip_prefix(verb).unwrap_or_default().trim();
        let (name, millis) = match (verb, rest.rsplit_once(' ')) {
            ("stall", Some((name, ms))) => (name.trim(), ms.parse::<u64>().ok()),
            _ => (rest, None),
        };
        if matches!(verb, "curse" | "lift") {
            self.curse(name, verb == "curse");
            return "ok\n".to_owned();
        }
        let Some(injector) = self.with(|known| known.actors.get(name).cloned()) else {
            return format!("error no actor {name:?}\n");
        };
        match (verb, millis) {
            ("kill", _) => injector.inject(|p| p.kill = true),
            ("stall", Some(ms)) => injector.inject(|p| p.stall = Some(Duration::from_millis(ms))),
            ("abort", _) => {
                if let Some(handle) = injector.with(|p| p.abort.take()) {
                    handle.abort();
                }
            }
            _ => return "error usage: list | kill NAME | stall NAME MILLISECONDS | abort NAME | curse NAME | lift NAME\n".to_owned(),
        }
        "ok\n".to_owned()
    }

    /// Serves the line protocol until the process ends.
    pub async fn serve(self: Arc<Self>, path: std::path::PathBuf) -> std::io::Result<()> {
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = tokio::net::UnixListener::bind(&path)?;
        loop {
            let (stream, _) = listener.accept().await?;
            let registry = Arc::clone(&self);
            tokio::spawn(async move {
                let (read, mut write) = stream.into_split();
                let mut lines = BufReader::new(read).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    if let Some(wish) = line.strip_prefix("halt ") {
                        let (answer, halted) = arm(wish);
                        if write.write_all(answer.as_bytes()).await.is_err() {
                            break;
                        }
                        let Some(halted) = halted else { continue };
                        let report = match halted.await {
                            Ok(()) => format!("halted {wish}\n"),
                            Err(_) => "error another step was armed\n".to_owned(),
                        };
                        if write.write_all(report.as_bytes()).await.is_err() {
                            break;
                        }
                        continue;
                    }
                    if write.write_all(registry.command(&line).as_bytes()).await.is_err() {
                        break;
                    }
                }
            });
        }
    }
}

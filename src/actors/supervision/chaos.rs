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
//!
//! `NAME` is one of the actor names or `task:<task id>`. Each line is answered by `ok`, the list, or `error …`.

use crate::messages::lifecycle::ChildName;
use futures_util::task::AtomicWaker;
use std::collections::BTreeMap;
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
        if self.with(|p| std::mem::take(&mut p.kill)) {
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

/// All actors that faults can be put into.
#[derive(Default)]
pub struct Registry(Mutex<BTreeMap<String, Arc<Injector>>>);

fn key(name: &ChildName) -> String {
    match name {
        ChildName::Singleton(name) => (*name).to_owned(),
        ChildName::Task(id) => format!("task:{id}"),
    }
}

impl Registry {
    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<String, Arc<Injector>>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The injector of an actor, made at its start.
    pub fn enrol(&self, name: &ChildName) -> Arc<Injector> {
        let injector = Arc::new(Injector::default());
        self.with(|map| map.insert(key(name), Arc::clone(&injector)));
        injector
    }

    /// Forgets an actor that has ended.
    pub fn forget(&self, name: &ChildName) {
        self.with(|map| map.remove(&key(name)));
    }

    fn command(&self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let verb = words.next().unwrap_or_default();
        if verb == "list" {
            return self.with(|map| map.keys().map(|k| format!("{k}\n")).collect::<String>()) + "ok\n";
        }
        // A task id may contain spaces: everything between the verb and a trailing number is the name.
        let rest = line.trim().strip_prefix(verb).unwrap_or_default().trim();
        let (name, millis) = match (verb, rest.rsplit_once(' ')) {
            ("stall", Some((name, ms))) => (name.trim(), ms.parse::<u64>().ok()),
            _ => (rest, None),
        };
        let Some(injector) = self.with(|map| map.get(name).cloned()) else {
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
            _ => return "error usage: list | kill NAME | stall NAME MILLISECONDS | abort NAME\n".to_owned(),
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
                    if write.write_all(registry.command(&line).as_bytes()).await.is_err() {
                        break;
                    }
                }
            });
        }
    }
}

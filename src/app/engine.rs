//! The machine room: threads, actors and the doors to them, for whichever front door is used.
//!
//! | thread | what runs there |
//! |---|---|
//! | main | the actix system; nothing of ours |
//! | `io` (2 to 8) | gRPC both ways, registries, streams, the front door |
//! | control arbiter | all actors of which there is one |
//! | task arbiters (1 to 4) | the task supervisors, by hash of the task id |
//! | pump threads | log bytes, from the first attachment on |

use crate::actors::log_pump::Pumps;
use crate::actors::shared::bundles::BundleDirs;
use crate::actors::shared::groups::Groups;
use crate::actors::shared::looks::Looks;
use crate::actors::shared::{Execs, Lives, Served, Shared};
use crate::actors::supervision::book::ask_until;
use crate::actors::supervision::front::Front;
use crate::actors::supervision::tree::{Arbiters, Nursery};
use crate::cli;
use crate::host::node::Node;
use crate::host::pipe_keeper::PipeKeeper;
use crate::host::{fifo, leftovers, liveness};
use crate::messages::Cx;
use crate::messages::audit::{Audit, AuditError, Report};
use crate::messages::doors::{Answer, Doors};
use crate::messages::health::{Health, Verdict};
use crate::messages::logs::{Attach, Drained, LogError, Sink, Stream};
use crate::spec::identity::ContainerId;
use crate::spec::owner::RunOwner;
use crate::spec::settings::Settings;
use actix_rt::{Arbiter, System};
use std::future::Future;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::{broadcast, watch};

/// Task events that a slow listener may lag behind before it misses the oldest.
const EVENTS: usize = 1024;

/// Directory for files of tasks that have no allocation directory.
const RUN_DIR: &str = "/run/containerd-driver";

/// How long commands in tasks may take to be killed when the process ends. Nomad gives it two seconds in all.
const GOODBYE: Duration = Duration::from_secs(1);

/// Variable that names the control socket of a chaos build.
#[cfg(feature = "chaos")]
const CHAOS_SOCKET: &str = "CONTAINERD_DRIVER_CHAOS_SOCKET";

fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// Threads of the I/O runtime.
#[must_use]
pub fn io_threads() -> usize {
    (cores() / 4).clamp(2, 8)
}

/// The machine room could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The system gave no thread.
    #[error("threads of the actors: {0}")]
    Threads(#[from] std::io::Error),
    /// The front door panicked.
    #[error("the front door ended: {0}")]
    FrontDoor(String),
}

/// See the module.
pub struct Engine {
    nursery: Arc<Nursery>,
    shared: Arc<Shared>,
    front: Arc<Front>,
    last_resort: watch::Receiver<Option<String>>,
}

impl Engine {
    /// Sets up the machine room, runs a front door on the I/O runtime, and takes everything down when it ends.
    ///
    /// # Errors
    /// If threads cannot be had or the front door panics.
    pub fn run<F, Fut>(
        io: &Arc<Runtime>,
        on_settings: impl Fn(&Settings) + Send + Sync + 'static,
        env: impl Fn(&str) -> Option<String>,
        front_door: F,
    ) -> Result<u8, Ended>
    where
        F: FnOnce(Arc<Self>) -> Fut,
        Fut: Future<Output = u8> + Send + 'static,
    {
        let system_rt = Arc::clone(io);
        let system = System::with_tokio_rt(move || system_rt);
        let control = Arbiter::try_new()?;
        let tasks = (0..(cores() / 8).clamp(1, 4))
            .map(|_| Arbiter::try_new())
            .collect::<Result<Vec<_>, _>>()?;
        let arbiters = Arbiters {
            control: control.handle(),
            tasks: tasks.iter().map(Arbiter::handle).collect(),
        };
        let engine = Arc::new(Self::new(io, arbiters, on_settings));
        #[cfg(feature = "chaos")]
        engine.serve_chaos(io, &env);
        #[cfg(not(feature = "chaos"))]
        drop(env);
        engine.nursery.start();
        let door = io.spawn(front_door(Arc::clone(&engine)));
        let code = system.block_on(door);
        // The clients of commands are gone with the front door; what is not done in time, the next process does.
        let execs = engine.shared.execs.idle();
        system.block_on(async { tokio::time::timeout(GOODBYE, execs).await.ok() });
        for arbiter in tasks.iter().chain([&control]) {
            arbiter.stop();
        }
        code.map_err(|e| Ended::FrontDoor(e.to_string()))
    }

    fn new(io: &Arc<Runtime>, arbiters: Arbiters, on_settings: impl Fn(&Settings) + Send + Sync + 'static) -> Self {
        let (events, _) = broadcast::channel(EVENTS);
        let verdict = Verdict {
            health: Health::Undetected,
            description: "containerd was not looked for yet".to_owned(),
            attributes: Vec::new(),
        };
        let shared = Arc::new(Shared {
            configured: watch::Sender::new(None),
            io: io.handle().clone(),
            events,
            verdict: watch::Sender::new(verdict),
            node: Node::read(),
            total_compute_mhz: AtomicU64::new(0),
            transfer: AtomicBool::new(false),
            run_dir: PathBuf::from(RUN_DIR),
            cores: cores(),
            execs: Execs::new(cores()),
            looks: Looks::default(),
            process: liveness::this_process(),
            launcher: liveness::launcher(),
            parent: liveness::parent(),
            lives: Lives::default(),
            groups: Groups::new(Path::new(RUN_DIR)),
            bundles: BundleDirs::default(),
            images: Arc::default(),
            keeper: Arc::new(PipeKeeper::new(Path::new(RUN_DIR))),
            served: Served::default(),
        });
        let (resort, last_resort) = watch::channel(None);
        let pumps = Pumps::new(cores().div_ceil(8).min(2));
        let nursery = Nursery::new(Arc::clone(&shared), pumps, arbiters, resort);
        let front = Front::new(Arc::clone(&nursery), Arc::clone(&shared), on_settings);
        Self {
            nursery,
            shared,
            front,
            last_resort,
        }
    }

    #[cfg(feature = "chaos")]
    fn serve_chaos(&self, io: &Arc<Runtime>, env: &impl Fn(&str) -> Option<String>) {
        if let Some(path) = env(CHAOS_SOCKET) {
            let registry = self.nursery.chaos();
            io.spawn(async move {
                if let Err(e) = registry.serve(PathBuf::from(path)).await {
                    tracing::error!(error = %e, "chaos socket");
                }
            });
        }
    }

    /// The doors of a front door.
    #[must_use]
    pub fn doors(&self) -> Doors {
        Doors {
            tasks: Arc::clone(&self.front) as _,
            health: self.shared.verdict.subscribe(),
            events: self.shared.events.clone(),
            settings: Arc::clone(&self.front) as _,
            stats: Arc::clone(&self.front) as _,
        }
    }

    /// The door to the log pump for the command line.
    #[must_use]
    pub fn log_door(&self) -> Arc<dyn cli::LogDoor> {
        Arc::new(Logs {
            front: Arc::clone(&self.front),
            shared: Arc::clone(&self.shared),
            sinks: watch::Sender::default(),
        })
    }

    /// The door to the reaper for the command line.
    #[must_use]
    pub fn audit_door(&self) -> Arc<dyn cli::AuditDoor> {
        Arc::new(Audits(Arc::clone(&self.nursery)))
    }

    /// Ends when the process is asked to by SIGTERM. SIGINT is swallowed: a Ctrl-C on a foreground agent reaches the
    /// plugin too, and must not end it before its tasks are looked after.
    pub async fn terminated(&self) {
        use tokio::signal::unix::{SignalKind, signal};
        let interrupts = signal(SignalKind::interrupt());
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => {
                terminate.recv().await;
            }
            Err(e) => {
                tracing::warn!(error = %e, "SIGTERM cannot be caught");
                std::future::pending::<()>().await;
            }
        }
        drop(interrupts);
    }

    /// Ends when the supervision gives up; the reason.
    pub async fn last_resort(&self) -> String {
        let mut resort = self.last_resort.clone();
        let reason = resort
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|reason| reason.clone());
        match reason {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }
}

/// The audit door of the command line.
struct Audits(Arc<Nursery>);

impl cli::AuditDoor for Audits {
    fn audit(&self, audit: Audit) -> Answer<'_, Result<Report, AuditError>> {
        Box::pin(async move {
            ask_until(&*self.0.doors().reaper, audit, Cx::current(), None)
                .await
                .unwrap_or_else(|e| Err(AuditError::Host(e.to_string())))
        })
    }
}

/// The log door of the command line: pipes in the run directory of the container, bytes by `LogPump`.
struct Logs {
    front: Arc<Front>,
    shared: Arc<Shared>,
    /// Where the bytes go, to be watched.
    sinks: watch::Sender<Vec<Arc<OwnedFd>>>,
}

impl Logs {
    fn pipes(&self, container: &ContainerId) -> cli::Pipes {
        let dir = self.shared.run_dir.join(container.as_str());
        cli::Pipes {
            stdout: dir.join("stdout"),
            stderr: dir.join("stderr"),
        }
    }
}

impl cli::LogDoor for Logs {
    fn open<'a>(&'a self, container: &'a ContainerId) -> Answer<'a, Result<cli::Pipes, LogError>> {
        let pipes = self.pipes(container);
        Box::pin(async move {
            let fault = |stream: &'static str, path: &Path, reason: String| LogError {
                stream,
                path: path.display().to_string(),
                reason,
            };
            let dir = self.shared.run_dir.join(container.as_str());
            let configured = self
                .shared
                .configured()
                .map_err(|e| fault("output", &dir, e.to_string()))?;
            let owner = RunOwner {
                address: configured.gateway.socket().to_owned(),
                namespace: configured.gateway.namespace().to_owned(),
                owner: self.shared.owner_of(Path::new("")),
                shim: None,
            };
            leftovers::claim_run_dir(&dir, &owner).map_err(|e| fault("output", &dir, e.to_string()))?;
            fifo::make_fifo(&pipes.stdout).map_err(|e| fault("stdout", &pipes.stdout, e.to_string()))?;
            fifo::make_fifo(&pipes.stderr).map_err(|e| fault("stderr", &pipes.stderr, e.to_string()))?;
            Ok(pipes)
        })
    }

    fn attach<'a>(
        &'a self,
        container: &'a ContainerId,
        stream: Stream,
        fifo: &'a Path,
        sink: Arc<OwnedFd>,
    ) -> Answer<'a, Result<(), LogError>> {
        self.sinks.send_modify(|sinks| sinks.push(Arc::clone(&sink)));
        Box::pin(self.front.attach(Attach {
            container: container.clone(),
            stream,
            fifo: fifo.to_owned(),
            sink: Sink::Descriptor(sink),
        }))
    }

    fn drain<'a>(&'a self, container: &'a ContainerId) -> Answer<'a, Result<Drained, LogError>> {
        Box::pin(self.front.drain(container.clone()))
    }

    /// A pipe whose reader is gone shows an error to poll(2), also when nobody writes. The thread that waits for it ends
    /// with the process.
    fn broken<'a>(&'a self, _container: &'a ContainerId) -> Answer<'a, String> {
        let mut attached = self.sinks.subscribe();
        Box::pin(async move {
            // Both, or the command has failed before.
            let both = attached.wait_for(|sinks| sinks.len() > 1).await;
            let Some(sinks) = both.ok().map(|sinks| sinks.clone()) else {
                return std::future::pending().await;
            };
            let (tell, told) = tokio::sync::oneshot::channel();
            let watch = std::thread::Builder::new()
                .name("output-watch".to_owned())
                .spawn(move || {
                    if fifo::wait_until_unread(&sinks).is_ok() {
                        tell.send(()).ok();
                    }
                });
            match watch {
                Ok(_) if told.await.is_ok() => "nobody reads it any more".to_owned(),
                _ => std::future::pending().await,
            }
        })
    }

    fn close<'a>(&'a self, container: &'a ContainerId) -> Answer<'a, ()> {
        Box::pin(async move {
            let dir = self.shared.run_dir.join(container.as_str());
            match tokio::fs::remove_dir_all(&dir).await {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(error = %e, path = %dir.display(), "pipes not removed");
                }
                _ => {}
            }
        })
    }
}

//! A rig whose plugin reaches containerd through the proxy, and what was there before.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use testhost::census::{Census, Holdings};
use testhost::containerd::ContainerdKind;
use testhost::fault_proxy::FaultProxy;
use testhost::image::ImageConfig;
use testhost::rig::{Backend, Rig, RigOpts};
use testhost::task::TaskSpec;
use tokio::sync::RwLock;

use crate::truth::Facts;

/// How long what a task had may take to be gone: containerd removes a snapshot's files behind our back, and a removal that
/// gets no answer takes its deadline (30 s) and is tried again after a rest; the reaper has its grace period.
const SETTLE: Duration = Duration::from_secs(90);

/// How long a restart waits for the calls under way. A silent fault takes longer; then there is no restart.
const QUIET_WITHIN: Duration = Duration::from_secs(3);

/// Bound of a relaunch with all its recoveries: each has five seconds for a containerd that is away.
const RELAUNCH: Duration = Duration::from_secs(150);

/// The directory of containerd's bundles, in its root and in its state.
const BUNDLES: &str = "io.containerd.runtime.v2.task";

/// Where the driver keeps what a container needs on the host.
const RUN_DIR: &str = "/run/containerd-driver";

pub struct Field {
    /// Read for a call, written to for a restart of the plugin.
    pub rig: RwLock<Rig>,
    pub proxy: FaultProxy,
    pub image: String,
    /// Of every task that was started, for the judgement of its recovery.
    ledger: Mutex<BTreeMap<String, Arc<Mutex<Facts>>>>,
    before: Census,
    held: Holdings,
    launches: AtomicU64,
    /// What earlier plugin processes have said.
    earlier: Mutex<Vec<String>>,
}

fn kind() -> ContainerdKind {
    match env::var("CD_KIND").as_deref() {
        Ok("2.4") => ContainerdKind::V24,
        Ok("1.6") | Err(_) => ContainerdKind::Debian16,
        Ok(other) => panic!("CD_KIND is {other:?}: 1.6 or 2.4 is expected"),
    }
}

impl Field {
    pub async fn new() -> Field {
        let mut opts = RigOpts::new(kind()).expect("options");
        // Every task is recovered long before the grace period is over.
        opts.config = json!({
            "reaper": { "period": "5s", "grace": "45s" },
        });
        let backend = Backend::start(opts).await.expect("back end");
        let upstream = backend.containerd.step_aside().expect("another socket");
        let proxy = FaultProxy::start(&backend.containerd.socket(), &upstream).expect("proxy");
        let rig = backend.launch().await.expect("plugin");
        let image = rig.busybox().await.expect("image");
        let before = rig.scope().take().await.expect("census");
        // Connections, the registry's pool and the threads for blocking calls are there after the first task; and both
        // images are there before the first fault.
        for image in [
            &image,
            &rig.image("warm", &ImageConfig::default().salt("warm"))
                .await
                .expect("image"),
        ] {
            let task = rig.start(TaskSpec::new(image).sh("exit 3")).await.expect("first task");
            assert_eq!(task.exit(SETTLE).await.exit_code, 3);
            task.destroy(false).await.expect("DestroyTask");
        }
        let held = Holdings::unpooled(rig.plugin().pid());
        Field {
            rig: RwLock::new(rig),
            proxy,
            image,
            ledger: Mutex::default(),
            before,
            held,
            launches: AtomicU64::new(0),
            earlier: Mutex::default(),
        }
    }

    /// Keeps what is known of a task where a restart finds it.
    pub fn enter(&self, id: &str, facts: Arc<Mutex<Facts>>) {
        lock(&self.ledger).insert(id.to_owned(), facts);
    }

    /// Tells one plugin process from the next.
    pub fn launch(&self) -> u64 {
        self.launches.load(Ordering::SeqCst)
    }

    /// Kills the plugin between two calls, launches it again and recovers every task. False if it was never quiet.
    pub async fn restart(&self) -> Result<bool, String> {
        let Ok(mut rig) = tokio::time::timeout(QUIET_WITHIN, self.rig.write()).await else {
            return Ok(false);
        };
        without_panic(&rig)?;
        lock(&self.earlier).extend(rig.plugin().stderr_lines());
        self.launches.fetch_add(1, Ordering::SeqCst);
        let relaunch = tokio::time::timeout(RELAUNCH, rig.relaunch_and_recover());
        let outcomes = relaunch
            .await
            .map_err(|_| format!("hang: no relaunch within {RELAUNCH:?}"))?
            .map_err(|e| format!("relaunch: {e:#}"))?;
        drop(rig);
        for (id, outcome) in outcomes {
            let Err(status) = outcome else { continue };
            let facts = lock(&self.ledger).get(&id).cloned();
            let facts = facts.map(|facts| lock(&facts).clone());
            // An error has the host destroy the task and start it anew.
            if !facts.as_ref().is_some_and(|facts| facts.destroy) {
                return Err(format!("RecoverTask {id} after a restart: {status:?}; {facts:?}"));
            }
        }
        Ok(true)
    }

    /// Waits until nothing in containerd, in the kernel or on disk bears one of these names. The answer is what is left.
    pub async fn left_of(&self, names: &[String]) -> Result<Vec<String>, String> {
        let end = Instant::now() + SETTLE;
        loop {
            let rig = self.rig.read().await;
            let census = rig.scope().take().await.map_err(|e| format!("census: {e:#}"))?;
            let mut left = census.diff(&self.before);
            left.extend(run_directories());
            left.retain(|line| names.iter().any(|name| line.contains(name)));
            without_forsaken(&rig, &mut left);
            drop(rig);
            if left.is_empty() || Instant::now() > end {
                return Ok(left);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The plugin lives, has not panicked, holds no more than at first, and nothing is left of any task.
    pub async fn settled(&self) -> Result<(), String> {
        let rig = self.rig.read().await;
        without_panic(&rig)?;
        let end = Instant::now() + SETTLE;
        loop {
            let census = rig.scope().take().await.map_err(|e| format!("census: {e:#}"))?;
            let mut left = census.diff(&self.before);
            without_forsaken(&rig, &mut left);
            if left.is_empty() {
                break;
            }
            if Instant::now() > end {
                return Err(format!("left behind: {left:#?}"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let end = Instant::now() + SETTLE;
        loop {
            let mut more = Holdings::unpooled(rig.plugin().pid()).diff(&self.held);
            // Threads for blocking calls come and go with load.
            more.retain(|line| !line.contains("thread(s)"));
            if more.is_empty() {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(format!("the plugin holds more than before: {more:?}"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The plugin lives and has not panicked.
    pub async fn healthy(&self) -> Result<(), String> {
        without_panic(&*self.rig.read().await)
    }

    /// What the plugins and containerd have said of these names, in the order of each.
    pub async fn words_about(&self, names: &[String]) -> String {
        let rig = self.rig.read().await;
        let containerd = fs::read_to_string(rig.containerd.log_path()).unwrap_or_default();
        let earlier = lock(&self.earlier).clone();
        let now = rig.plugin().stderr_lines();
        let lines = earlier.iter().chain(&now).map(String::as_str).chain(containerd.lines());
        let about = lines.filter(|line| names.iter().any(|name| line.contains(name)));
        about.collect::<Vec<_>>().join("\n")
    }

    /// What the plugin said at the end, for the message of a failed test.
    pub async fn last_words(&self) -> String {
        let lines = self.rig.read().await.plugin().stderr_lines();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

/// Leaves out the log pipes in bundles that containerd says it could not delete. It makes a task's bundle while it still deletes that of
/// an attempt that broke off, finds one in the way of the other, and forgets both; nobody asks for these ids again.
fn without_forsaken(rig: &Rig, left: &mut Vec<String>) {
    if left.iter().all(|line| !line.contains(BUNDLES)) {
        return;
    }
    let log = fs::read_to_string(rig.containerd.log_path()).unwrap_or_default();
    let forsaken: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("failed to delete bundle"))
        .collect();
    left.retain(|line| {
        let pipe = line.strip_prefix("pipe ").filter(|path| path.ends_with("/log"));
        let bundle = pipe.and_then(|path| path.split('/').skip_while(|part| *part != BUNDLES).nth(2));
        bundle.is_none_or(|id| !forsaken.iter().any(|line| line.contains(id.trim_start_matches('.'))))
    });
}

fn run_directories() -> Vec<String> {
    let entries = fs::read_dir(Path::new(RUN_DIR)).into_iter().flatten().flatten();
    entries
        .map(|entry| format!("directory {}", entry.path().display()))
        .collect()
}

fn without_panic(rig: &Rig) -> Result<(), String> {
    if let Some(status) = rig.plugin().process().exited() {
        return Err(format!("the plugin ended: {status}"));
    }
    let lines = rig.plugin().stderr_lines();
    match lines.iter().find(|line| line.contains("panic")) {
        Some(line) => Err(format!("a panic in the plugin: {line}")),
        None => Ok(()),
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

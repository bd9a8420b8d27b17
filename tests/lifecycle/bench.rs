//! One rig for a group of cases, and the count of what is left after each.

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use serde_json::json;
use std::any::Any;
use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::pin::Pin;
use std::time::{Duration, Instant};
use testhost::census::{Holdings, cgroups_below};
use testhost::containerd::ContainerdKind;
use testhost::ledger::{Combination, Outcome, note};
use testhost::other_driver::{OtherDriver, container_by_shim};
use testhost::procfs;
use testhost::rig::{Rig, RigOpts, RunningTask};
use testhost::task::TaskSpec;
use testhost::wire::driver::TaskState;

/// A rig and the plain image in its registry.
pub struct Bench {
    pub rig: Rig,
    pub image: String,
    failed: Vec<String>,
    cases: usize,
}

/// The containerd under test.
pub fn kind() -> ContainerdKind {
    match std::env::var("CD_KIND").as_deref() {
        Ok("2.4") => ContainerdKind::V24,
        Ok("1.6") | Err(_) => ContainerdKind::Debian16,
        Ok(other) => panic!("CD_KIND is 1.6 or 2.4, not {other:?}"),
    }
}

/// How much slower than a machine this may be.
pub fn slowness() -> u32 {
    let given = std::env::var("CD_SLOW").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| {
        let guest = std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("User Mode Linux"));
        if guest { 5 } else { 1 }
    })
}

/// A deadline for something that takes a fraction of it.
pub fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds) * slowness()
}

/// A deadline that only keeps a hang from being endless.
pub fn patience() -> Duration {
    secs(40)
}

/// The suite that this is compiled into.
const SUITE: &str = env!("CARGO_CRATE_NAME");

/// A boxed case.
pub type Case<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

impl Bench {
    pub async fn new() -> Bench {
        let mut opts = RigOpts::new(kind()).expect("CD_DRIVER_BIN");
        // Some cases share a namespace with the host, and an operator must agree to that.
        opts.config = json!({ "allowed_modes": { "pid": ["host"], "network": ["host"] } });
        Bench::with(opts).await
    }

    /// Starts everything and runs a task or two, so that what is made once is there before anything is counted.
    pub async fn with(opts: RigOpts) -> Bench {
        let bench = Bench::bare(opts).await;
        // In a slow guest a second one would cost more than it shows.
        let names = if slowness() > 1 {
            &["web"][..]
        } else {
            &["web", "other"][..]
        };
        for task in join_all(names.iter().map(|name| bench.start(bench.sh("true").name(*name)))).await {
            assert_eq!(task.exit(patience()).await.exit_code, 0);
            task.destroy(true).await.expect("destroy");
        }
        bench
    }

    /// The same without any task.
    pub async fn bare(opts: RigOpts) -> Bench {
        let rig = Rig::with(opts).await.expect("rig");
        let image = rig.busybox().await.expect("image");
        Bench {
            rig,
            image,
            failed: Vec::new(),
            cases: 0,
        }
    }

    /// The same with these settings of the operator.
    pub async fn configured(config: serde_json::Value) -> Bench {
        let mut opts = RigOpts::new(kind()).expect("CD_DRIVER_BIN");
        opts.config = config;
        Bench::bare(opts).await
    }

    /// The same with crun for all tasks.
    pub async fn crun(mut config: serde_json::Value) -> Bench {
        let mut opts = RigOpts::new(kind()).expect("CD_DRIVER_BIN");
        config["containerd_runtime"] = serde_json::json!("crun");
        opts.config = config;
        // crun takes the empty unified hierarchy beside version 1 for a machine with version 2.
        opts.without_unified = true;
        Bench::bare(opts).await
    }

    /// A task of the plain image.
    pub fn sh(&self, script: &str) -> TaskSpec {
        TaskSpec::new(&self.image).sh(script)
    }

    /// A task that runs until it is stopped.
    pub fn sleeper(&self) -> TaskSpec {
        TaskSpec::new(&self.image).command(["sleep", "3600"])
    }

    pub async fn start(&self, spec: TaskSpec) -> RunningTask {
        testhost::within::within(patience(), "StartTask", self.rig.start(spec))
            .await
            .expect("StartTask")
    }

    /// Runs the task to its end and returns code and standard output.
    pub async fn run(&self, spec: TaskSpec) -> (i32, String) {
        let task = self.start(spec).await;
        let exit = task.exit(patience()).await;
        task.logs_end(patience()).await;
        let text = task.logs().stdout.text();
        if exit.exit_code != 0 {
            eprintln!("stderr of {}: {:?}", task.id(), task.stderr_lines());
        }
        task.destroy(false).await.expect("destroy");
        (exit.exit_code, text)
    }

    /// Runs one case and counts what is left of it. A failure is kept; the next case has its turn.
    pub async fn case<F>(&mut self, promise: &str, body: F)
    where
        F: for<'a> FnOnce(&'a mut Bench) -> Case<'a>,
    {
        if std::env::var("CD_CASE").is_ok_and(|filter| !promise.contains(&filter)) {
            return;
        }
        self.cases += 1;
        let begin = Instant::now();
        let before = self.rig.scope().take().await.expect("census");
        let pid = self.rig.plugin().pid();
        let held = holdings(pid);
        let outcome = AssertUnwindSafe(body(&mut *self)).catch_unwind().await;
        let mut faults: Vec<String> = outcome.err().map(|panic| words(&*panic)).into_iter().collect();
        faults.extend(self.left(&before, (pid, &held)).await);
        let verdict = if faults.is_empty() { "ok" } else { "FAILED" };
        println!("  {promise} … {verdict} ({:.1} s)", begin.elapsed().as_secs_f64());
        let outcome = match faults.is_empty() {
            true => Outcome::Shown,
            false => Outcome::Failed(faults.join("; ")),
        };
        note(SUITE, promise, &self.combination(), &outcome).expect("the ledger");
        self.failed
            .extend(faults.into_iter().map(|fault| format!("{promise}: {fault}")));
    }

    /// What this bench runs with.
    pub fn combination(&self) -> Combination {
        let runtime = self.rig.config()["containerd_runtime"].as_str();
        Combination::here(&kind(), runtime.unwrap_or_default())
    }

    /// What is left of a case in containerd, the kernel and the plugin, each as a sentence.
    pub async fn left(&self, before: &testhost::census::Census, (pid, held): (u32, &Holdings)) -> Vec<String> {
        let mut left = self.rig.scope().leaks(before, secs(10)).await.expect("census");
        if self.rig.plugin().wait_exit(Duration::ZERO).await.is_some() {
            left.push("the plugin is gone".to_owned());
        }
        // Another process has another number of everything.
        if self.rig.plugin().pid() == pid {
            left.extend(settle(secs(10), || holdings(pid).diff(held)).await);
        }
        left
    }

    /// The end of a group: no failures, and no more threads than a plugin at rest has.
    pub fn finish(self) {
        let pid = self.rig.plugin().pid();
        let threads = procfs::threads(pid);
        assert!(
            threads <= THREADS_MAX,
            "the plugin has {threads} threads: {:?}",
            thread_names(pid)
        );
        let tcp = tcp_sockets(pid);
        let idle = procfs::descriptors(pid)
            .into_values()
            .filter(|target| tcp.contains(target))
            .count();
        assert!(idle <= CONNECTIONS_MAX, "the plugin has {idle} connections");
        assert!(
            self.failed.is_empty(),
            "{} of {} cases failed:\n{}",
            self.failed.len(),
            self.cases,
            self.failed.join("\n")
        );
    }
}

/// Arbiters, I/O workers, and the blocking pool at its bound on two cores, with room for more cores.
const THREADS_MAX: usize = 40;

/// Idle connections to registries: a few per registry that was asked in the last 90 s.
const CONNECTIONS_MAX: usize = 16;

fn thread_names(pid: u32) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect()
}

/// What the plugin holds, without threads and without its connections to registries: the client keeps idle ones for 90 s.
pub fn holdings(pid: u32) -> Holdings {
    let mut held = Holdings::of(pid);
    let tcp = tcp_sockets(pid);
    held.descriptors.retain(|_, target| !tcp.contains(target));
    held.threads = 0;
    held
}

/// As descriptors show them: `socket:[inode]`.
fn tcp_sockets(pid: u32) -> BTreeSet<String> {
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    let inodes = table.lines().filter_map(|line| line.split_whitespace().nth(9));
    inodes.map(|inode| format!("socket:[{inode}]")).collect()
}

/// Asks until the list is empty or the time is over.
pub async fn settle(deadline: Duration, mut probe: impl FnMut() -> Vec<String>) -> Vec<String> {
    let end = Instant::now() + deadline;
    loop {
        let found = probe();
        if found.is_empty() || Instant::now() > end {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What a panic says.
pub fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "a panic".to_owned())
}

/// The container of a task and the process id of its init, as `InspectTask` tells; with another driver, as its shim shows.
pub async fn container_of(task: &RunningTask) -> (String, u32) {
    if OtherDriver::from_env().expect("the other driver").is_some() {
        return container_by_shim(&task.config.alloc_id, &task.config.name).expect("no container runs for the task");
    }
    let found = task.inspect().await.expect("InspectTask");
    let attributes = found.driver.expect("driver status").attributes;
    let pid = attributes
        .get("pid")
        .and_then(|pid| pid.parse().ok())
        .unwrap_or_default();
    (attributes["container_id"].clone(), pid)
}

/// Cgroups that bear the name of a container, wherever the driver puts them.
pub fn cgroups_named(container: &str) -> Vec<String> {
    let all: BTreeSet<_> = ["nomad", "nomad.slice"].into_iter().flat_map(cgroups_below).collect();
    all.into_iter()
        .filter(|path| path.file_name().is_some_and(|name| name == container))
        .map(|path| path.display().to_string())
        .collect()
}

/// True for a machine with cgroup version 2 only.
pub fn unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// A setting of the cgroup a process is in, by its name in version 1 (`controller.name`) and 2; `None` if the kernel has
/// no such controller.
pub fn setting(pid: u32, v1: &str, v2: &str) -> Option<String> {
    let controller = v1.split('.').next().unwrap_or_default();
    let of_controller = |dir: &Path| {
        let mut parts = dir
            .components()
            .map(|part| part.as_os_str().to_string_lossy().into_owned());
        parts.any(|part| part.split(',').any(|name| name == controller))
    };
    let dirs = procfs::cgroups(pid).into_iter();
    let mut files = dirs
        .filter(|dir| unified() || of_controller(dir))
        .map(|dir| dir.join(if unified() { v2 } else { v1 }));
    let found = files.find_map(|file| std::fs::read_to_string(file).ok());
    found.map(|text| text.trim().to_owned())
}

/// Asserts that these are the lines of a counting task: each once and in order, with none missing before the last.
#[track_caller]
pub fn assert_counted<S: AsRef<str>>(lines: &[S], id: &str) {
    let lines: Vec<&str> = lines.iter().map(AsRef::as_ref).collect();
    let count = lines.len() - 1;
    let expected: Vec<String> = (0..count)
        .map(|n| format!("line {n}"))
        .chain([format!("end {count}")])
        .collect();
    assert_eq!(lines, expected, "{id}");
}

/// Asserts that a task runs.
pub async fn assert_running(task: &RunningTask) {
    assert_eq!(task.status().await.expect("InspectTask").state(), TaskState::Running);
}

/// The number of a namespace of a process, as in `net:[4026531840]`.
pub fn namespace(pid: impl std::fmt::Display, kind: &str) -> String {
    let link = std::fs::read_link(Path::new("/proc").join(pid.to_string()).join("ns").join(kind)).expect("a namespace");
    link.display().to_string()
}

/// Runs a group on a runtime of its own.
macro_rules! group {
    ($(#[$doc:meta])* $name:ident, $bench:expr, $(if $wanted:expr,)? { $($promise:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            $(if !$wanted { return; })?
            let mut bench = $bench.await;
            $(bench.case(stringify!($promise), |bench| Box::pin($promise(bench))).await;)+
            bench.finish();
        }
    };
}
pub(crate) use group;

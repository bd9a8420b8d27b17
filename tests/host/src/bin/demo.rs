//! `make run`: a guided tour of one task's life, on a private containerd and a private registry, with nothing left behind.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};
use serde_json::json;
use testhost::census::Census;
use testhost::containerd::ContainerdKind;
use testhost::image::ImageConfig;
use testhost::plugin::Plugin;
use testhost::rig::{Backend, EventLog, Rig, RigOpts, RunningTask};
use testhost::task::TaskSpec;
use testhost::wire::structs::attribute::Value;
use tokio::signal::unix::{SignalKind, signal};

const SCRIPT: &str = "trap 'echo \"caught SIGUSR1, carrying on\"' USR1; trap 'echo \"caught SIGTERM, leaving with 7\"; exit 7' TERM; \
                      n=0; while true; do n=$((n+1)); echo \"line $n from inside the container\"; sleep 0.3; done";

const USAGE: &str = "usage: demo --driver PATH --containerd DIR_OR_BIN --work DIR";

/// How long any one step may take.
const PATIENCE: Duration = Duration::from_secs(60);

struct Args {
    driver: PathBuf,
    containerd: PathBuf,
    work: PathBuf,
}

/// Prints steps with the time since the start and since the step before.
struct Tour {
    begin: Instant,
    last: Instant,
    step: u32,
}

impl Tour {
    fn step(&mut self, title: &str, detail: &str) {
        self.step += 1;
        let now = Instant::now();
        println!("{:>2}. {title:<12} {detail}  [{}]", self.step, millis(now - self.last));
        self.last = now;
    }

    fn note(&self, text: &str) {
        println!("    {:<12} {text}", "");
    }
}

fn millis(span: Duration) -> String {
    format!("{:.1} ms", span.as_secs_f64() * 1000.0)
}

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("demo: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        let args = parse(std::env::args().skip(1))?;
        let mut term = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        // Dropping the tour drops everything it started.
        tokio::select! {
            outcome = tour(&args) => outcome.map(|()| ExitCode::SUCCESS),
            _ = tokio::signal::ctrl_c() => Ok(interrupted()),
            _ = term.recv() => Ok(interrupted()),
            _ = hangup.recv() => Ok(interrupted()),
        }
    });
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn interrupted() -> ExitCode {
    eprintln!("\ninterrupted: containers, containerd and registry are stopped and removed");
    ExitCode::from(130)
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Args> {
    let (mut driver, mut containerd, mut work) = (None, None, None);
    while let Some(flag) = words.next() {
        let slot = match flag.as_str() {
            "--driver" => &mut driver,
            "--containerd" => &mut containerd,
            "--work" => &mut work,
            other => bail!("unknown argument {other:?}\n{USAGE}"),
        };
        *slot = Some(PathBuf::from(
            words.next().with_context(|| format!("{flag} needs a value\n{USAGE}"))?,
        ));
    }
    let missing = |what: &str| format!("{what} is missing\n{USAGE}");
    Ok(Args {
        driver: driver.with_context(|| missing("--driver"))?,
        containerd: containerd.with_context(|| missing("--containerd"))?,
        work: work.with_context(|| missing("--work"))?,
    })
}

/// Creates the work directory and makes sure that nobody else demonstrates in it.
fn claim(work: &Path) -> Result<(PathBuf, File)> {
    std::fs::create_dir_all(work).with_context(|| format!("create {}", work.display()))?;
    let work = work.canonicalize()?;
    let lock = File::create(work.join("demo.lock"))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .with_context(|| format!("another demo runs in {}", work.display()))?;
    Ok((work.join("demo"), lock))
}

async fn tour(args: &Args) -> Result<()> {
    ensure!(args.driver.is_file(), "no driver at {}", args.driver.display());
    ensure!(
        rustix::process::geteuid().is_root(),
        "containers need root: run as root"
    );
    let (dir, _lock) = claim(&args.work)?;
    let driver = args.driver.canonicalize()?;
    let now = Instant::now();
    let mut tour = Tour {
        begin: now,
        last: now,
        step: 0,
    };
    let mut opts = RigOpts::of(ContainerdKind::At(args.containerd.clone()), driver);
    opts.dir = Some(dir);
    opts.namespace = "nomad-demo".into();
    opts.like_agent = true;

    let backend = Backend::start(opts).await?;
    let version = &backend.containerd.binaries().version;
    tour.step(
        "backend",
        &format!(
            "private containerd {version} and registry on {} are up",
            backend.registry.addr()
        ),
    );
    let image = backend
        .registry
        .push_busybox("library/busybox", "demo", &ImageConfig::default())
        .await?;
    tour.step("image", &format!("pushed {image}"));

    let rig = backend.launch().await?;
    tour.step(
        "launch",
        "the driver was started like a Nomad agent does: two probes, then the instance",
    );
    describe(&tour, rig.plugin()).await?;
    fingerprint(&mut tour, &rig).await?;

    let before = rig.scope().take().await?;
    tour.step("before", &format!("in containerd: {}", before.summary()));

    let events = rig.events();
    let spec = TaskSpec::new(&image).name("demo").sh(SCRIPT);
    let task = tokio::time::timeout(PATIENCE, start(&tour, &rig, &events, spec))
        .await
        .context("StartTask")??;
    tour.step("StartTask", &format!("running as {}", task.id()));

    follow(&tour, &task, 4).await?;
    tour.step("logs", "through the pipes Nomad's log collector reads");
    task.signal("SIGUSR1").await.context("SignalTask")?;
    expect_line(&tour, &task, "caught SIGUSR1").await?;
    tour.step("SignalTask", "SIGUSR1 reached the task");
    task.stop(Duration::from_secs(5), "SIGTERM").await.context("StopTask")?;
    expect_line(&tour, &task, "caught SIGTERM").await?;
    tour.step("StopTask", "SIGTERM, with 5 s of grace that were not needed");
    let exit = tokio::time::timeout(PATIENCE, task.wait())
        .await
        .context("WaitTask")??
        .result
        .unwrap_or_default();
    tour.step(
        "WaitTask",
        &format!(
            "exit code {}, signal {}, out of memory: {}",
            exit.exit_code, exit.signal, exit.oom_killed
        ),
    );
    task.destroy(true).await.context("DestroyTask")?;
    tour.step("DestroyTask", "container, snapshot and shim are gone");

    check_nothing_left(&mut tour, &rig, &before).await?;
    ensure!(exit.exit_code == 7, "exit code {} instead of 7", exit.exit_code);
    let report = rig.plugin().shutdown().await?;
    let status = report
        .status
        .map_or("no status".to_owned(), |status| status.to_string());
    tour.step(
        "Shutdown",
        &format!(
            "the driver left {} ({status})",
            if report.forced { "by SIGKILL" } else { "by itself" }
        ),
    );
    drop(task);
    drop(rig);
    tour.step("cleanup", "private containerd and registry stopped and removed");
    println!("\ntotal {}", millis(tour.begin.elapsed()));
    hints(&args.driver);
    Ok(())
}

async fn describe(tour: &Tour, plugin: &Plugin) -> Result<()> {
    let info = plugin.info().await?;
    tour.note(&format!(
        "handshake  {}  after {}",
        plugin.handshake().line,
        millis(plugin.handshake_after())
    ));
    tour.note(&format!(
        "plugin     {} {}, api {}",
        info.name,
        info.plugin_version,
        info.plugin_api_versions.join(", ")
    ));
    Ok(())
}

async fn fingerprint(tour: &mut Tour, rig: &Rig) -> Result<()> {
    let first = async { anyhow::Ok(rig.fingerprint().await?.message().await?.context("no fingerprint")?) };
    let found = tokio::time::timeout(PATIENCE, first).await.context("Fingerprint")??;
    tour.step(
        "Fingerprint",
        &format!("{:?}: {}", found.health(), found.health_description),
    );
    let mut attributes: Vec<_> = found.attributes.iter().collect();
    attributes.sort_by_key(|(key, _)| key.as_str());
    for (key, attribute) in attributes {
        let text = match &attribute.value {
            Some(Value::StringVal(text)) => text.clone(),
            Some(Value::IntVal(n)) => n.to_string(),
            Some(Value::FloatVal(n)) => n.to_string(),
            Some(Value::BoolVal(b)) => b.to_string(),
            None => String::new(),
        };
        tour.note(&format!("{key} = {text}{}", attribute.unit));
    }
    Ok(())
}

/// `StartTask`, with the task events printed as they come.
async fn start(tour: &Tour, rig: &Rig, events: &EventLog, spec: TaskSpec) -> Result<RunningTask> {
    let begin = Instant::now();
    let mut shown = 0;
    let starting = rig.start(spec);
    tokio::pin!(starting);
    loop {
        let fresh = events.wait_for(PATIENCE, |all| (all.len() > shown).then(|| all[shown..].to_vec()));
        tokio::select! {
            started = &mut starting => return started.context("StartTask"),
            found = fresh => for event in found.unwrap_or_default() {
                shown += 1;
                tour.note(&format!("event      {}  at {}", event.message, millis(begin.elapsed())));
            }
        }
    }
}

/// Prints the task's lines as they come, until there are `count`.
async fn follow(tour: &Tour, task: &RunningTask, count: usize) -> Result<()> {
    for number in 0..count {
        let found = task.logs().stdout.wait_for(PATIENCE, |text| {
            let complete = &text[..text.rfind('\n')? + 1];
            complete.lines().nth(number).map(str::to_owned)
        });
        let line = found
            .await
            .with_context(|| format!("line {} of the task; stderr: {:?}", number + 1, task.stderr_lines()))?;
        tour.note(&format!("stdout     {line}"));
    }
    Ok(())
}

async fn expect_line(tour: &Tour, task: &RunningTask, text: &str) -> Result<()> {
    let line = task.logs().stdout.wait_line(Duration::from_secs(10), text).await;
    tour.note(&format!(
        "stdout     {}",
        line.with_context(|| format!("no line with {text:?}: {:?}", task.lines()))?
    ));
    Ok(())
}

async fn check_nothing_left(tour: &mut Tour, rig: &Rig, before: &Census) -> Result<()> {
    let leaks = rig.scope().leaks(before, Duration::from_secs(5)).await?;
    for leak in &leaks {
        tour.note(&format!("left       {leak}"));
    }
    ensure!(leaks.is_empty(), "{} thing(s) left behind", leaks.len());
    tour.step(
        "after",
        "containers, tasks, snapshots, leases, shims, mounts, pipes, cgroups: nothing is left",
    );
    Ok(())
}

fn hints(driver: &Path) {
    let dir = driver.parent().unwrap_or(Path::new(".")).display();
    let job = json!({ "image": "docker.io/library/busybox", "command": "sh", "args": ["-c", "while true; do date; sleep 1; done"] });
    println!(
        "\nnext steps\n\n  without Nomad:   containerd-driver run docker.io/library/busybox -- echo hi\n\n  Nomad agent (client.hcl):\n\n\
         \x20   plugin_dir = \"{dir}\"\n    plugin \"containerd-driver\" {{\n      config {{\n        containerd_runtime = \"io.containerd.runc.v2\"\n      }}\n    }}\n\n\
         \x20 job (demo.nomad.hcl):\n\n    job \"demo\" {{\n      group \"demo\" {{\n        task \"demo\" {{\n          driver = \"containerd-driver\"\n          config {{\n\
         \x20           image   = {}\n            command = {}\n            args    = {}\n          }}\n        }}\n      }}\n    }}",
        job["image"], job["command"], job["args"]
    );
}

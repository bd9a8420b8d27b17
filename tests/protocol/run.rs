//! `containerd-driver run`: the same actors, no Nomad. Output, exit code, Ctrl-C, and nothing left.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use testhost::alloc::random_hex;
use testhost::census::Scope;
use testhost::containerd::Containerd;
use testhost::image::ImageConfig;
use testhost::registry::Registry;
use testhost::within::{until, within};
use tokio::process::Command;

use crate::bare::{command, ended};
use crate::{SECOND, SOON, home, kind};

/// Where the pipes of a run are, by container.
const RUN_DIR: &str = "/run/containerd-driver";

struct Stage {
    containerd: Containerd,
    registry: Registry,
    image: String,
    namespace: String,
    /// Part of every container's name.
    name: String,
    _home: tempfile::TempDir,
}

impl Stage {
    async fn new() -> Stage {
        let home = home();
        let registry = Registry::start(&home.path().join("r")).await.expect("registry");
        let image = registry
            .push_busybox("library/busybox", "1", &ImageConfig::default())
            .await
            .expect("push");
        let containerd = Containerd::start(kind(), &home.path().join("c"))
            .await
            .expect("containerd");
        let unique = random_hex(4);
        Stage {
            containerd,
            registry,
            image,
            namespace: format!("t{unique}"),
            name: format!("r{unique}"),
            _home: home,
        }
    }

    fn command(&self, options: &[&str], image: &str, argv: &[&str]) -> Command {
        let socket = self.containerd.socket().display().to_string();
        let fixed = [
            "run",
            "--address",
            &socket,
            "--namespace",
            &self.namespace,
            "--name",
            &self.name,
        ];
        let mut args: Vec<&str> = fixed.iter().chain(options).copied().collect();
        args.push(image);
        if !argv.is_empty() {
            args.push("--");
            args.extend(argv);
        }
        let mut command = Command::from(command(&args, &[]));
        command.kill_on_drop(true);
        command
    }

    async fn run(&self, options: &[&str], argv: &[&str]) -> Output {
        within(
            SOON * 2,
            "the end of the run",
            self.command(options, &self.image, argv).output(),
        )
        .await
        .expect("run")
    }

    async fn nothing_left(&self) {
        let leaks = Scope::new(&self.containerd, &self.namespace)
            .leaks(&Default::default(), SOON)
            .await
            .expect("census");
        assert!(leaks.is_empty(), "{leaks:?}");
        let dirs = std::fs::read_dir(RUN_DIR)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok());
        let dirs: Vec<String> = dirs.filter(|dir| dir.contains(&self.name)).collect();
        assert!(dirs.is_empty(), "{dirs:?} in {RUN_DIR}");
    }
}

#[track_caller]
fn outcome(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code().expect("an exit code"),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[tokio::test]
async fn output_and_exit_code_pass_through_and_nothing_is_left() {
    let stage = Stage::new().await;
    let (code, out, err) = outcome(&stage.run(&[], &["sh", "-c", "seq 3; echo to-stderr >&2; exit 7"]).await);
    assert_eq!((code, out.as_str()), (7, "1\n2\n3\n"), "{err}");
    assert!(err.lines().any(|line| line == "to-stderr"), "{err}");
    stage.nothing_left().await;

    let options = [
        "-e",
        "GREETING=hello world",
        "-u",
        "1000",
        "-w",
        "/tmp",
        "--memory",
        "64",
    ];
    let (code, out, err) = outcome(&stage.run(&options, &["sh", "-c", "echo $GREETING; id -u; pwd"]).await);
    assert_eq!((code, out.as_str()), (0, "hello world\n1000\n/tmp\n"), "{err}");

    // From outside: within its own pid namespace the first process is safe from SIGKILL.
    let dir = home();
    let (mut child, _) = start(&stage, "echo up; exec sleep 98765", &dir.path().join("out"));
    let victim = until(SOON, "the sleep", || {
        testhost::procfs::with_argument("98765")
            .into_iter()
            .find_map(|pid| in_namespace(pid, &stage))
    });
    kill_process(victim.await, Signal::KILL).expect("kill");
    assert_eq!(
        within(SOON, "the end", child.wait()).await.expect("wait").code(),
        Some(137)
    );
    stage.nothing_left().await;
}

#[tokio::test]
async fn a_megabyte_arrives_whole_before_the_end() {
    let stage = Stage::new().await;
    let (code, out, err) = outcome(&stage.run(&[], &["sh", "-c", "seq 200000"]).await);
    assert_eq!(
        (code, out.lines().count(), out.lines().last()),
        (0, 200_000, Some("200000")),
        "{err}"
    );
    stage.nothing_left().await;
}

#[tokio::test]
async fn what_cannot_run_has_the_codes_of_docker_and_says_why() {
    let stage = Stage::new().await;
    let missing = stage.registry.reference("library/missing", "1");
    let output = within(
        SOON * 2,
        "a missing image",
        stage.command(&[], &missing, &["true"]).output(),
    )
    .await
    .expect("run");
    let (code, out, err) = outcome(&output);
    assert_eq!((code, out.as_str()), (125, ""), "{err}");
    assert!(err.contains("library/missing"), "{err}");

    let (code, _, err) = outcome(&stage.run(&[], &["/no/such/program"]).await);
    assert_eq!(code, 127, "{err}");
    assert!(err.contains("/no/such/program"), "{err}");
    let (code, _, err) = outcome(&stage.run(&[], &["/etc/passwd"]).await);
    assert_eq!(code, 126, "{err}");
    stage.nothing_left().await;

    stage.containerd.kill().await;
    let begun = Instant::now();
    let (code, _, err) = outcome(&stage.run(&[], &["true"]).await);
    assert_eq!(code, 125, "{err}");
    assert!(err.contains("containerd"), "{err}");
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn ctrl_c_stops_the_task_properly() {
    let stage = Stage::new().await;
    // The rest before the first line: a signal before the start is answered cancels the start.
    let script = "trap 'echo bye; exit 9' TERM; sleep 1; echo up; while :; do sleep 0.1; done";
    let dir = home();
    let log = dir.path().join("out");
    for (signal, code) in [(Signal::INT, 9), (Signal::TERM, 9)] {
        let (mut child, pid) = start(&stage, script, &log);
        until(SOON, "the task's first line", || {
            std::fs::read_to_string(&log).ok().filter(|text| text.contains("up"))
        })
        .await;
        kill_process(pid, signal).expect("signal");
        let status = within(SOON, "the end after a signal", child.wait())
            .await
            .expect("wait");
        assert_eq!(status.code(), Some(code), "{signal:?}");
        assert_eq!(
            std::fs::read_to_string(&log).expect("output"),
            "up\nbye\n",
            "{signal:?}"
        );
    }
    stage.nothing_left().await;
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_the_task() {
    use std::io::{BufRead as _, BufReader};
    let stage = Stage::new().await;
    // Says nothing more after its first line: that nobody listens must be noticed without a write.
    let script = "trap 'exit 3' TERM; echo one; while :; do sleep 0.1; done";
    let mut command = stage.command(&[], &stage.image, &["sh", "-c", script]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("spawn");
    let out = child
        .stdout
        .take()
        .and_then(|out| out.into_owned_fd().ok())
        .expect("a pipe");
    let line = tokio::task::spawn_blocking(move || {
        // The descriptor is non-blocking, as tokio's are.
        let flags = rustix::fs::fcntl_getfl(&out).expect("flags");
        rustix::fs::fcntl_setfl(&out, flags - rustix::fs::OFlags::NONBLOCK).expect("flags");
        let mut line = String::new();
        BufReader::new(std::fs::File::from(out))
            .read_line(&mut line)
            .expect("a line");
        line
    });
    assert_eq!(within(SOON, "the first line", line).await.expect("reader"), "one\n");
    let output = within(SOON, "the end without a reader", child.wait_with_output())
        .await
        .expect("wait");
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("nobody reads it"), "{said}");
    stage.nothing_left().await;
}

#[tokio::test]
async fn an_interrupt_ends_the_wait_for_a_password() {
    let stage = Stage::new().await;
    let mut command = stage.command(&["--registry-user", "me"], &stage.image, &[]);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("spawn");
    // `wait` would close it, which is an empty password.
    let _input = child.stdin.take();
    let pid = child.id().and_then(|pid| Pid::from_raw(pid as i32)).expect("a pid");
    // Ready once the signal is caught.
    until(SOON, "the signal handler", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
        (u64::from_str_radix(caught.trim(), 16).ok()? & 2 != 0).then_some(())
    })
    .await;
    kill_process(pid, Signal::INT).expect("signal");
    let status = within(SOON, "the end after the interrupt", child.wait())
        .await
        .expect("wait");
    assert_eq!(status.code(), Some(130));
    stage.nothing_left().await;
}

#[tokio::test]
async fn the_second_ctrl_c_kills() {
    let stage = Stage::new().await;
    let dir = home();
    let log = dir.path().join("out");
    let (mut child, pid) = start(
        &stage,
        "trap 'echo no' TERM; sleep 1; echo up; while :; do sleep 0.1; done",
        &log,
    );
    until(SOON, "the task's first line", || {
        std::fs::read_to_string(&log).ok().filter(|text| text.contains("up"))
    })
    .await;
    kill_process(pid, Signal::INT).expect("signal");
    until(SOON, "the refusal", || {
        let text = std::fs::read_to_string(&log).expect("output");
        let ended = child.try_wait().expect("wait");
        assert!(ended.is_none(), "{ended:?} after the first signal, with {text:?}");
        text.contains("no").then_some(())
    })
    .await;
    let begun = Instant::now();
    kill_process(pid, Signal::INT).expect("signal");
    let status = within(SOON, "the end after the second signal", child.wait())
        .await
        .expect("wait");
    assert_eq!(status.code(), Some(137));
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "not before the grace was over: {:?}",
        begun.elapsed()
    );
    stage.nothing_left().await;
}

/// The process, if it is the stage's: its cgroup has the container's name.
fn in_namespace(pid: u32, stage: &Stage) -> Option<Pid> {
    testhost::procfs::cgroups(pid)
        .iter()
        .any(|dir| dir.display().to_string().contains(&stage.name))
        .then(|| Pid::from_raw(pid as i32))
        .flatten()
}

fn start(stage: &Stage, script: &str, log: &Path) -> (tokio::process::Child, Pid) {
    let out = std::fs::File::create(log).expect("file");
    let mut command = stage.command(&[], &stage.image, &["sh", "-c", script]);
    let child = command.stdout(out).stderr(Stdio::inherit()).spawn().expect("spawn");
    let pid = child.id().and_then(|pid| Pid::from_raw(pid as i32)).expect("a pid");
    (child, pid)
}

#[test]
fn the_other_commands_print_and_end() {
    let begun = Instant::now();
    for (args, code, shown) in [
        (&["version"][..], 0, "containerd-driver "),
        (&["--version"], 0, "containerd-driver "),
        (&["config"], 0, "containerd_runtime"),
        (&["config", "--json"], 0, "\"containerd_runtime\""),
        (&["help"], 0, "run"),
        (&["run", "--help"], 0, "--address"),
    ] {
        let output = ended(args, &[]);
        let (found, out, err) = outcome(&output);
        assert_eq!(found, code, "{args:?}: {err}");
        assert!(out.contains(shown), "{args:?}: {out}");
    }
    for args in [
        &["run"][..],
        &["no-such-command"],
        &["run", "--memory", "lots", "busybox"],
        &["run", "-e", "novalue", "busybox"],
    ] {
        let (code, out, err) = outcome(&ended(args, &[]));
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}");
        assert!(!err.is_empty(), "{args:?}");
    }
    assert!(begun.elapsed() < SECOND * 10);
}

//! Tasks that the Go driver has started are taken over.
//!
//! The containers are made here under that driver's conventions: their names and namespaces, a snapshot of another
//! name, output pipes of containerd's Go client, a handle of version 1.

use crate::bench::{Bench, assert_running, container_of, group, kind, patience, secs, slowness};
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{PrepareSnapshotRequest, StatSnapshotRequest};
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::{
    Container, CreateContainerRequest, CreateTaskRequest, DeleteTaskRequest, GetContainerRequest, KillRequest,
    StartRequest,
};
use prost_types::Timestamp;
use serde_json::{Value as Json, json};
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use testhost::alloc::{Alloc, Logs, random_hex};
use testhost::census::{Census, Scope};
use testhost::fifo::make_fifo;
use testhost::rig::{RigOpts, RunningTask};
use testhost::wire::driver::{RecoverTaskRequest, TaskHandle, TaskState};
use testhost::within::within;
use tonic::Status;

/// Namespaces of the Go driver on cgroup version 1 and 2.
const NAMESPACES: [&str; 2] = ["nomad", "nomad.slice"];

group!(go_driver, bench(json!({})), {
    a_task_that_was_never_started_is_started,
    an_exit_without_containerd_is_known,
    a_full_pipe_waits_for_the_next_plugin,
    an_adopted_task_is_destroyed_by_force_with_all_it_has,
    what_a_reboot_left_is_removed,
    a_handle_of_a_later_version_is_refused_with_words,
    a_task_that_ended_while_nobody_looked_has_its_code,
    an_adopted_task_keeps_its_output_its_signals_and_its_code,
});

group!(
    /// The driver is configured for the very namespace: events come too.
    go_driver_in_the_same_namespace, bench(json!({ "containerd_namespace": "nomad" })), {
    an_exit_without_containerd_is_known,
    a_task_that_ended_while_nobody_looked_has_its_code,
    an_adopted_task_keeps_its_output_its_signals_and_its_code,
});

async fn bench(config: Json) -> Bench {
    let mut opts = RigOpts::new(kind()).expect("CD_DRIVER_BIN");
    opts.config = config;
    let bench = Bench::with(opts).await;
    for namespace in NAMESPACES {
        let containerd = &bench.rig.containerd;
        let pull = ["images", "pull", "--plain-http", &bench.image];
        containerd.ctr(namespace, &pull).await.expect("ctr images pull");
        let create = ["containers", "create", &bench.image, "template"];
        containerd.ctr(namespace, &create).await.expect("ctr containers create");
    }
    // The pump threads are made for the first and kept.
    let (task, _) = GoTask::start(&bench, "nomad", "sleep 3600")
        .await
        .hand_over(&bench)
        .await;
    task.expect("RecoverTask").destroy(true).await.expect("DestroyTask");
    bench
}

/// A container as the Go driver makes it, and what its plugin holds.
struct GoTask {
    namespace: &'static str,
    container: String,
    handle: TaskHandle,
    alloc: Arc<Alloc>,
    logs: Logs,
    /// The reading ends of the output pipes, while the Go plugin lives.
    plugin: Vec<File>,
    before: Census,
}

impl GoTask {
    /// Created, not started.
    async fn create(b: &Bench, namespace: &'static str, script: &str) -> GoTask {
        let before = scope(b, namespace).take().await.expect("census");
        let alloc = b.rig.alloc();
        let spec = b.sh(script);
        alloc.add_task(&spec.name).expect("task directory");
        let logs = alloc.collect_logs(&spec.name).expect("log collectors");
        let config = spec.compose(&alloc, b.rig.schema()).expect("a configuration");
        let container = match namespace {
            "nomad" => format!("web-{}", alloc.id()),
            _ => format!("{}.web.scope", alloc.id()),
        };
        let pipes = b.rig.dir().join("cd/fifo").join(random_hex(4));
        std::fs::create_dir_all(&pipes).expect("a directory");
        let pipe = |stream: &str| {
            let path = pipes.join(format!("{container}-{stream}"));
            make_fifo(&path).expect("a pipe");
            path
        };
        let (stdout, stderr) = (pipe("stdout"), pipe("stderr"));
        let plugin = [&stdout, &stderr].map(reader).into();
        make_container(b, namespace, &container, script).await;
        make_task(b, namespace, &container, [&stdout, &stderr]).await;
        let driver_state = state(&container, &config.stdout_path, &config.stderr_path);
        let handle = TaskHandle {
            version: 1,
            config: Some(testhost::wire::driver::TaskConfig {
                msgpack_driver_config: Vec::new(),
                ..config
            }),
            state: TaskState::Running.into(),
            driver_state,
        };
        GoTask {
            namespace,
            container,
            handle,
            alloc,
            logs,
            plugin,
            before,
        }
    }

    async fn start(b: &Bench, namespace: &'static str, script: &str) -> GoTask {
        let task = GoTask::create(b, namespace, script).await;
        let request = StartRequest {
            container_id: task.container.clone(),
            exec_id: String::new(),
        };
        tasks(b, namespace).start(request).await.expect("start");
        task
    }

    /// The Go plugin is gone; ours takes over.
    async fn hand_over(self, b: &Bench) -> (Result<RunningTask, Status>, Leftovers) {
        drop(self.plugin);
        let leftovers = Leftovers {
            namespace: self.namespace,
            before: self.before,
        };
        let recovery = b.rig.recover(self.handle, self.alloc, Some(self.logs));
        (within(patience(), "RecoverTask", recovery).await, leftovers)
    }
}

/// What must be gone in the end.
struct Leftovers {
    namespace: &'static str,
    before: Census,
}

impl Leftovers {
    async fn assert_none(&self, b: &Bench) {
        let left = scope(b, self.namespace).leaks(&self.before, secs(10)).await;
        assert_eq!(left.expect("census"), Vec::<String>::new());
    }
}

fn scope<'a>(b: &'a Bench, namespace: &str) -> Scope<'a> {
    Scope::new(&b.rig.containerd, namespace)
        .fifos(b.rig.dir().join("cd"))
        .cgroups(b.rig.namespace())
}

fn reader(path: &PathBuf) -> File {
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let opened = File::options().read(true).custom_flags(nonblock).open(path);
    opened.expect("the reading end")
}

fn tasks(b: &Bench, namespace: &str) -> TasksClient<testhost::containerd::Namespaced> {
    TasksClient::new(b.rig.containerd.in_namespace(namespace).expect("a channel"))
}

/// Record and snapshot, after the template that `ctr` has made of the image.
async fn make_container(b: &Bench, namespace: &str, id: &str, script: &str) {
    let channel = b.rig.containerd.in_namespace(namespace).expect("a channel");
    let mut containers = ContainersClient::new(channel.clone());
    let template = containers.get(GetContainerRequest { id: "template".into() }).await;
    let template = template
        .expect("the template")
        .into_inner()
        .container
        .expect("a record");
    let mut snapshots = SnapshotsClient::new(channel);
    let stat = StatSnapshotRequest {
        snapshotter: template.snapshotter.clone(),
        key: template.snapshot_key.clone(),
    };
    let stat = snapshots.stat(stat).await.expect("its snapshot").into_inner();
    let key = format!("{id}-snapshot");
    let prepare = PrepareSnapshotRequest {
        snapshotter: template.snapshotter.clone(),
        key: key.clone(),
        parent: stat.info.expect("a snapshot").parent,
        ..Default::default()
    };
    snapshots.prepare(prepare).await.expect("a snapshot");
    let mut spec = template.spec.clone().expect("a spec");
    let mut oci: Json = serde_json::from_slice(&spec.value).expect("JSON");
    oci["process"]["args"] = json!(["sh", "-c", script]);
    oci["process"]["terminal"] = json!(false);
    oci["linux"]["cgroupsPath"] = json!(format!("/{}/{id}", b.rig.namespace()));
    spec.value = serde_json::to_vec(&oci).expect("JSON");
    let container = Container {
        id: id.to_owned(),
        snapshot_key: key,
        spec: Some(spec),
        ..template
    };
    let request = CreateContainerRequest {
        container: Some(container),
    };
    containers.create(request).await.expect("a record");
}

async fn make_task(b: &Bench, namespace: &str, id: &str, [stdout, stderr]: [&PathBuf; 2]) {
    let channel = b.rig.containerd.in_namespace(namespace).expect("a channel");
    let mounts = containerd_client::services::v1::snapshots::MountsRequest {
        snapshotter: "overlayfs".into(),
        key: format!("{id}-snapshot"),
    };
    let rootfs = SnapshotsClient::new(channel).mounts(mounts).await.expect("mounts");
    let request = CreateTaskRequest {
        container_id: id.to_owned(),
        rootfs: rootfs.into_inner().mounts,
        stdout: stdout.display().to_string(),
        stderr: stderr.display().to_string(),
        ..Default::default()
    };
    tasks(b, namespace).create(request).await.expect("a task");
}

/// 2024-06-13T12:34:56.789 as Go's clock writes it.
const TIME: [u8; 15] = [1, 0, 0, 0, 0x0e, 0xdd, 0xfc, 0xde, 0x70, 0x2f, 0x07, 0x2f, 0x40, 0, 120];

const STARTED: Timestamp = Timestamp {
    seconds: 1_718_282_096,
    nanos: 789_000_000,
};

/// The Go driver's `driver_state`: sorted keys, no `str8`, the time as a string.
fn state(container: &str, stdout: &str, stderr: &str) -> Vec<u8> {
    fn string(bytes: &[u8], out: &mut Vec<u8>) {
        match u8::try_from(bytes.len()) {
            Ok(short @ 0..32) => out.push(0xa0 | short),
            _ => {
                out.push(0xda);
                out.extend(u16::try_from(bytes.len()).expect("a short text").to_be_bytes());
            }
        }
        out.extend(bytes);
    }
    let mut out = vec![0x84];
    for (key, value) in [
        ("ContainerName", container.as_bytes()),
        ("StartedAt", &TIME),
        ("StderrPath", stderr.as_bytes()),
        ("StdoutPath", stdout.as_bytes()),
    ] {
        string(key.as_bytes(), &mut out);
        string(value, &mut out);
    }
    out
}

/// Numbered lines until SIGTERM, then their number and a code.
fn counter(code: u8) -> String {
    let pause = if slowness() > 1 { "0.5" } else { "0.02" };
    format!(
        "n=0; trap 'echo end $n; echo late >&2; exit {code}' TERM; trap 'echo caught >&2' USR1
         while :; do echo line $n; n=$((n+1)); sleep {pause}; done"
    )
}

fn assert_complete(task: &RunningTask) {
    let text = std::fs::read_to_string(task.alloc.logs_dir().join("web.stdout.0")).expect("the log");
    let lines: Vec<&str> = text.lines().collect();
    let count = lines.len() - 1;
    let expected: Vec<String> = (0..count)
        .map(|n| format!("line {n}"))
        .chain([format!("end {count}")])
        .collect();
    assert_eq!(lines, expected, "{}", task.id());
}

async fn an_adopted_task_keeps_its_output_its_signals_and_its_code(b: &mut Bench) {
    let go = GoTask::start(b, "nomad", &counter(33)).await;
    let (container, later) = (go.container.clone(), Duration::from_millis(300));
    // Nobody reads: the lines wait in the container's pipe.
    tokio::time::sleep(later).await;
    let (task, leftovers) = go.hand_over(b).await;
    let mut task = task.expect("RecoverTask");
    task.wait_line(patience(), "line 0").await;
    task.wait_line(patience(), "line 3").await;
    assert_running(&task).await;
    let status = task.status().await.expect("InspectTask");
    assert_eq!(status.started_at, Some(STARTED));
    let (id, pid) = container_of(&task).await;
    assert_eq!(id, container);
    assert!(testhost::procfs::alive(pid), "process {pid}");
    task.signal("SIGUSR1").await.expect("SignalTask");
    let caught = task.logs().stderr.wait_line(patience(), "caught").await;
    assert!(caught.is_some(), "no signal arrived");
    let early = tokio::time::timeout(Duration::from_millis(200), task.wait()).await;
    assert!(early.is_err(), "a running task has an exit");
    let refused = task.destroy(false).await.expect_err("a running task");
    assert!(refused.message().contains("cannot destroy running task"), "{refused:?}");
    // And again, by the next plugin and the same handle.
    b.rig.plugin().sigkill().await;
    task.logs_end(patience()).await;
    tokio::time::sleep(later).await;
    let seen = task.lines().len();
    b.rig.relaunch().await.expect("relaunch");
    // A host's collector ends with the last writer, and is started again when the agent is.
    task.logs = Some(task.alloc.collect_logs("web").expect("log collectors"));
    assert_running(&task).await;
    task.wait_line(patience(), &format!("line {}", seen + 3)).await;
    let begun = std::time::Instant::now();
    task.stop(Duration::from_secs(3600), "").await.expect("StopTask");
    assert!(begun.elapsed() < patience(), "the stop took {:?}", begun.elapsed());
    assert_eq!(task.exit(patience()).await.exit_code, 33);
    task.logs_end(patience()).await;
    assert_complete(&task);
    assert_eq!(task.stderr_lines(), ["late"]);
    task.destroy(false).await.expect("DestroyTask");
    leftovers.assert_none(b).await;
}

async fn a_task_that_ended_while_nobody_looked_has_its_code(b: &mut Bench) {
    for namespace in NAMESPACES {
        let go = GoTask::start(b, namespace, "exit 44").await;
        let wait = containerd_client::services::v1::WaitRequest {
            container_id: go.container.clone(),
            exec_id: String::new(),
        };
        tasks(b, namespace).wait(wait).await.expect("its end");
        let (task, leftovers) = go.hand_over(b).await;
        let task = task.expect("RecoverTask");
        assert_eq!(task.exit(patience()).await.exit_code, 44);
        let status = task.status().await.expect("InspectTask");
        assert_eq!((status.state(), status.started_at), (TaskState::Exited, Some(STARTED)));
        // What one plugin has seen, the next one tells.
        b.rig.relaunch().await.expect("relaunch");
        assert_eq!(task.exit(patience()).await.exit_code, 44);
        task.destroy(false).await.expect("DestroyTask");
        leftovers.assert_none(b).await;
    }
}

async fn a_task_that_was_never_started_is_started(b: &mut Bench) {
    let go = GoTask::create(b, "nomad.slice", "echo hello; exit 5").await;
    let (task, leftovers) = go.hand_over(b).await;
    let task = task.expect("RecoverTask");
    assert_eq!(task.exit(patience()).await.exit_code, 5);
    task.logs_end(patience()).await;
    assert_eq!(task.lines(), ["hello"]);
    task.destroy(false).await.expect("DestroyTask");
    leftovers.assert_none(b).await;
}

async fn an_exit_without_containerd_is_known(b: &mut Bench) {
    let script = "echo ready; while ! [ -e /end ]; do sleep 0.1; done; echo last; exit 66";
    let go = GoTask::start(b, "nomad", script).await;
    let (task, leftovers) = go.hand_over(b).await;
    let task = task.expect("RecoverTask");
    task.wait_line(patience(), "ready").await;
    let (_, pid) = container_of(&task).await;
    b.rig.containerd.kill().await;
    std::fs::write(format!("/proc/{pid}/root/end"), "").expect("the sign to end");
    task.wait_line(patience(), "last").await;
    assert_eq!(task.exit(patience()).await.exit_code, 66);
    b.rig.containerd.start_again().await.expect("containerd");
    task.logs_end(patience()).await;
    task.destroy(false).await.expect("DestroyTask");
    leftovers.assert_none(b).await;
}

async fn a_full_pipe_waits_for_the_next_plugin(b: &mut Bench) {
    // More than the pipes on the way hold together.
    let script = "n=0; while [ $n -lt 8000 ]; do echo line $n of many that fill a pipe; n=$((n+1)); done; exit 8";
    let go = GoTask::start(b, "nomad", script).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (task, leftovers) = go.hand_over(b).await;
    let task = task.expect("RecoverTask");
    assert_eq!(task.exit(patience()).await.exit_code, 8);
    task.logs_end(patience()).await;
    let expected = (0..8000).map(|n| format!("line {n} of many that fill a pipe"));
    assert!(task.lines().into_iter().eq(expected), "a line is missing");
    task.destroy(false).await.expect("DestroyTask");
    leftovers.assert_none(b).await;
}

async fn an_adopted_task_is_destroyed_by_force_with_all_it_has(b: &mut Bench) {
    let go = GoTask::start(b, "nomad.slice", "trap '' TERM; echo ready; while :; do sleep 1; done").await;
    let (task, leftovers) = go.hand_over(b).await;
    let task = task.expect("RecoverTask");
    task.wait_line(patience(), "ready").await;
    task.destroy(true).await.expect("DestroyTask");
    task.logs_end(patience()).await;
    leftovers.assert_none(b).await;
}

/// A record and a snapshot without a task: the Go driver would trip over their name for ever.
async fn what_a_reboot_left_is_removed(b: &mut Bench) {
    let go = GoTask::start(b, "nomad", "sleep 3600").await;
    let mut tasks = tasks(b, "nomad");
    let kill = KillRequest {
        container_id: go.container.clone(),
        signal: 9,
        all: true,
        ..Default::default()
    };
    let wait = containerd_client::services::v1::WaitRequest {
        container_id: go.container.clone(),
        exec_id: String::new(),
    };
    tasks.kill(kill).await.expect("kill");
    tasks.wait(wait).await.expect("its end");
    let delete = DeleteTaskRequest {
        container_id: go.container.clone(),
    };
    tasks.delete(delete).await.expect("delete");
    // They lie in /run, which a boot empties.
    std::fs::remove_dir_all(b.rig.dir().join("cd/fifo")).expect("the pipes");
    let (task, leftovers) = go.hand_over(b).await;
    let refused = task.err().expect("there is no task");
    assert!(refused.message().contains("not found"), "{refused:?}");
    leftovers.assert_none(b).await;
}

async fn a_handle_of_a_later_version_is_refused_with_words(b: &mut Bench) {
    let task = b.start(b.sleeper()).await;
    let good = task.persisted_handle();
    for (version, driver_state, words) in [
        (3, good.driver_state.clone(), &["version 3", "1", "2"][..]),
        (1, good.driver_state.clone(), &["version 1"][..]),
        (2, state("web-x", "", ""), &["driver_state"][..]),
    ] {
        let handle = TaskHandle {
            version,
            driver_state,
            ..good.clone()
        };
        let request = RecoverTaskRequest {
            task_id: String::new(),
            handle: Some(handle),
        };
        let error = b.rig.driver().recover_task(request).await.expect_err("no such handle");
        for word in words {
            assert!(error.message().contains(word), "{error:?}");
        }
    }
    assert_running(&task).await;
    task.destroy(true).await.expect("DestroyTask");
}

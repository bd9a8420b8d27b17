//! Tasks as the Go driver makes them: its names and namespaces, a snapshot of another name, output pipes of containerd's
//! Go client, a handle of version 1.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{MountsRequest, PrepareSnapshotRequest, StatSnapshotRequest};
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::{
    Container, CreateContainerRequest, CreateTaskRequest, DeleteTaskRequest, GetContainerRequest, KillRequest,
    StartRequest, WaitRequest,
};
use prost_types::Timestamp;
use serde_json::{Value as Json, json};
use tonic::Status;

use crate::alloc::{Alloc, Logs, random_hex};
use crate::containerd::Namespaced;
use crate::fifo::make_fifo;
use crate::rig::{Rig, RunningTask};
use crate::task::TaskSpec;
use crate::wire::driver::{TaskHandle, TaskState};

/// Namespaces of the Go driver on cgroup version 1 and 2.
pub const NAMESPACES: [&str; 2] = ["nomad", "nomad.slice"];

/// When each of these tasks was started, as its handle says.
pub const STARTED: Timestamp = Timestamp {
    seconds: 1_718_282_096,
    nanos: 789_000_000,
};

/// The same, 2024-06-13T12:34:56.789 at two hours east, as Go's clock writes it.
const STARTED_GO: [u8; 15] = [1, 0, 0, 0, 0x0e, 0xdd, 0xfc, 0xde, 0x70, 0x2f, 0x07, 0x2f, 0x40, 0, 120];

/// A container with its handle, and what the plugin of the Go driver holds.
pub struct GoTask {
    pub namespace: &'static str,
    pub container: String,
    pub handle: TaskHandle,
    pub alloc: Arc<Alloc>,
    logs: Logs,
    /// The reading ends of the output pipes, while that plugin lives.
    plugin: Vec<File>,
    tasks: TasksClient<Namespaced>,
}

/// Brings an image into both namespaces. To be called once, before the first task.
pub async fn prepare(rig: &Rig, image: &str) {
    for namespace in NAMESPACES {
        let pull = ["images", "pull", "--plain-http", image];
        rig.containerd.ctr(namespace, &pull).await.expect("ctr images pull");
        let create = ["containers", "create", image, "template"];
        rig.containerd
            .ctr(namespace, &create)
            .await
            .expect("ctr containers create");
    }
}

impl GoTask {
    /// Created, not started.
    pub async fn create(rig: &Rig, namespace: &'static str, script: &str) -> GoTask {
        let alloc = rig.alloc();
        let spec = TaskSpec::new("template").sh(script);
        alloc.add_task(&spec.name).expect("task directory");
        let logs = alloc.collect_logs(&spec.name).expect("log collectors");
        let mut config = spec.compose(&alloc, rig.schema()).expect("a configuration");
        // A host does not keep it.
        config.msgpack_driver_config.clear();
        let container = match namespace {
            "nomad" => format!("web-{}", alloc.id()),
            _ => format!("{}.web.scope", alloc.id()),
        };
        let pipes = pipes_dir(rig).join(random_hex(4));
        std::fs::create_dir_all(&pipes).expect("a directory");
        let pipe = |stream: &str| {
            let path = pipes.join(format!("{container}-{stream}"));
            make_fifo(&path).expect("a pipe");
            path
        };
        let (stdout, stderr) = (pipe("stdout"), pipe("stderr"));
        let plugin = [&stdout, &stderr].map(|path| reader(path)).into();
        make_container(rig, namespace, &container, script).await;
        make_task(rig, namespace, &container, [&stdout, &stderr]).await;
        let handle = TaskHandle {
            version: 1,
            driver_state: state(&container, &config.stdout_path, &config.stderr_path),
            config: Some(config),
            state: TaskState::Running.into(),
        };
        let channel = rig.containerd.in_namespace(namespace).expect("a channel");
        GoTask {
            namespace,
            container,
            handle,
            alloc,
            logs,
            plugin,
            tasks: TasksClient::new(channel),
        }
    }

    pub async fn start(rig: &Rig, namespace: &'static str, script: &str) -> GoTask {
        let mut task = GoTask::create(rig, namespace, script).await;
        let request = StartRequest {
            container_id: task.container.clone(),
            ..Default::default()
        };
        task.tasks.start(request).await.expect("start");
        task
    }

    /// Waits for its end at containerd.
    pub async fn ended(&mut self) {
        let request = WaitRequest {
            container_id: self.container.clone(),
            ..Default::default()
        };
        self.tasks.wait(request).await.expect("its end");
    }

    /// What a boot does: the process, the task and the pipes are gone, record and snapshot are not.
    pub async fn reboot(&mut self, rig: &Rig) {
        let kill = KillRequest {
            container_id: self.container.clone(),
            signal: 9,
            all: true,
            ..Default::default()
        };
        self.tasks.kill(kill).await.expect("kill");
        self.ended().await;
        let container_id = self.container.clone();
        let delete = DeleteTaskRequest { container_id };
        self.tasks.delete(delete).await.expect("delete");
        std::fs::remove_dir_all(pipes_dir(rig)).expect("the pipes");
    }

    /// The plugin of the Go driver is gone; the rig's takes over.
    pub async fn hand_over(self, rig: &Rig) -> Result<RunningTask, Status> {
        drop(self.plugin);
        rig.recover(self.handle, self.alloc, Some(self.logs)).await
    }
}

fn pipes_dir(rig: &Rig) -> PathBuf {
    rig.dir().join("cd/fifo")
}

fn reader(path: &Path) -> File {
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let opened = File::options().read(true).custom_flags(nonblock).open(path);
    opened.expect("the reading end")
}

/// Record and snapshot, after the template that `ctr` has made of the image.
async fn make_container(rig: &Rig, namespace: &str, id: &str, script: &str) {
    let channel = rig.containerd.in_namespace(namespace).expect("a channel");
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
    let prepare = PrepareSnapshotRequest {
        snapshotter: template.snapshotter.clone(),
        key: snapshot(id),
        parent: stat.info.expect("a snapshot").parent,
        // Until there is a record, nothing else keeps it from being collected.
        labels: [("containerd.io/gc.root".to_owned(), "test".to_owned())].into(),
    };
    snapshots.prepare(prepare).await.expect("a snapshot");
    let mut spec = template.spec.clone().expect("a spec");
    let mut oci: Json = serde_json::from_slice(&spec.value).expect("JSON");
    oci["process"]["args"] = json!(["sh", "-c", script]);
    oci["process"]["terminal"] = json!(false);
    // Where the rig looks for what is left behind.
    oci["linux"]["cgroupsPath"] = json!(format!("/{}/{id}", rig.namespace()));
    spec.value = serde_json::to_vec(&oci).expect("JSON");
    let container = Container {
        id: id.to_owned(),
        snapshot_key: snapshot(id),
        spec: Some(spec),
        ..template
    };
    let request = CreateContainerRequest {
        container: Some(container),
    };
    containers.create(request).await.expect("a record");
}

fn snapshot(container: &str) -> String {
    format!("{container}-snapshot")
}

async fn make_task(rig: &Rig, namespace: &str, id: &str, [stdout, stderr]: [&PathBuf; 2]) {
    let channel = rig.containerd.in_namespace(namespace).expect("a channel");
    let mounts = MountsRequest {
        snapshotter: "overlayfs".into(),
        key: snapshot(id),
    };
    let rootfs = SnapshotsClient::new(channel.clone())
        .mounts(mounts)
        .await
        .expect("mounts");
    let request = CreateTaskRequest {
        container_id: id.to_owned(),
        rootfs: rootfs.into_inner().mounts,
        stdout: stdout.display().to_string(),
        stderr: stderr.display().to_string(),
        ..Default::default()
    };
    TasksClient::new(channel).create(request).await.expect("a task");
}

/// The Go driver's `driver_state`: sorted keys, no `str8`, the time as a string.
pub fn state(container: &str, stdout: &str, stderr: &str) -> Vec<u8> {
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
        ("StartedAt", &STARTED_GO),
        ("StderrPath", stderr.as_bytes()),
        ("StdoutPath", stdout.as_bytes()),
    ] {
        string(key.as_bytes(), &mut out);
        string(value, &mut out);
    }
    out
}

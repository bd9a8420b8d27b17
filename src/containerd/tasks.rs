//! Tasks: the processes of containers.

use super::channel::{Call, LIST_MAX_BYTES};
use super::error::{fault, found, hollow};
use super::types::{mounts_to_proto, nanoseconds};
use super::{Gateway, Line, Mount};
use crate::messages::runtime::{ContainerdFault, TaskView};
use crate::spec::identity::ContainerId;
use crate::spec::record::ExitRecord;
use containerd_client::services::v1 as proto;
use containerd_client::types::v1::{Process, Status};
use proto::tasks_client::TasksClient;
use std::path::{Path, PathBuf};
use tonic::codegen::http::uri::PathAndQuery;

/// A task to be: a container's process, created but not started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewTask {
    /// The container.
    pub container: String,
    /// Its root file system.
    pub rootfs: Vec<Mount>,
    /// FIFO or URI for standard input; `None` for `/dev/null`.
    pub stdin: Option<PathBuf>,
    /// FIFO or URI for standard output.
    pub stdout: Option<PathBuf>,
    /// FIFO or URI for standard error; with a terminal there is none.
    pub stderr: Option<PathBuf>,
    /// Whether the process gets a terminal.
    pub terminal: bool,
    /// The container whose shim is to take it, if its record names a sandbox: containerd starts no shim then, nor does it ask
    /// the shim's program which one it is. To be given for such a record alone, see [`hands_over`].
    ///
    /// [`hands_over`]: crate::spec::shim_group::hands_over
    pub shim: Option<String>,
}

/// `CreateTaskRequest` of containerd 2.4 as far as we use it: the definition that containerd-client has is older, and lacks the
/// last two.
#[derive(Clone, PartialEq, prost::Message)]
struct CreateTask {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(message, repeated, tag = "3")]
    rootfs: Vec<containerd_client::types::Mount>,
    #[prost(string, tag = "4")]
    stdin: String,
    #[prost(string, tag = "5")]
    stdout: String,
    #[prost(string, tag = "6")]
    stderr: String,
    #[prost(bool, tag = "7")]
    terminal: bool,
    /// Of a shim's task service: its protocol, `+`, and the URL of its socket.
    #[prost(string, tag = "11")]
    task_api_address: String,
    #[prost(uint32, tag = "12")]
    task_api_version: u32,
}

/// The version of the shims' protocol that containerd 2 speaks (`CurrentShimVersion` in `core/runtime/v2/shim.go`). A shim that
/// knows less is found out by its first answer.
const SHIM_VERSION: u32 = 3;

const CREATE: &str = "/containerd.services.tasks.v1.Tasks/Create";

/// What the streams of a task's first process are connected to: FIFOs, files or URIs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stdio {
    /// Standard input.
    pub stdin: Option<PathBuf>,
    /// Standard output.
    pub stdout: Option<PathBuf>,
    /// Standard error.
    pub stderr: Option<PathBuf>,
}

impl Stdio {
    /// The pipes that containerd's Go client makes for a container (its package `cio`).
    #[must_use]
    pub fn of_client(dir: &Path, container: &ContainerId) -> Self {
        let pipe = |stream: &str| Some(dir.join(format!("{container}-{stream}")));
        Self {
            stdin: pipe("stdin"),
            stdout: pipe("stdout"),
            stderr: pipe("stderr"),
        }
    }

    /// The directory of the pipes, if they are those of containerd's Go client.
    #[must_use]
    pub fn client_dir(&self, container: &ContainerId) -> Option<&Path> {
        let dir = self.stdout.as_ref().or(self.stderr.as_ref())?.parent()?;
        let client = Self::of_client(dir, container);
        (self.stdout == client.stdout || self.stderr == client.stderr).then_some(dir)
    }
}

impl Gateway {
    pub(super) fn tasks(&self) -> TasksClient<Line> {
        TasksClient::new(self.line()).max_decoding_message_size(LIST_MAX_BYTES)
    }

    /// Starts the shim and lets the runtime create the container. Returns the process id of its init.
    ///
    /// # Errors
    /// `AlreadyExists` if there is a task, `Failed` with the runtime's words, any other fault.
    pub async fn create_task(&self, new: NewTask) -> Result<u32, ContainerdFault> {
        const CALL: Call = Call::within("create task", 60);
        let (task_api_address, task_api_version) = match &new.shim {
            Some(shim) => (self.task_api(shim), SHIM_VERSION),
            None => (String::new(), 0),
        };
        let request = CALL.request(CreateTask {
            container_id: new.container,
            rootfs: mounts_to_proto(&new.rootfs),
            stdin: text(new.stdin.as_deref()),
            stdout: text(new.stdout.as_deref()),
            stderr: text(new.stderr.as_deref()),
            terminal: new.terminal,
            task_api_address,
            task_api_version,
        });
        let created = async {
            let mut line = tonic::client::Grpc::new(self.line());
            line.ready()
                .await
                .map_err(|e| tonic::Status::unknown(format!("service was not ready: {e}")))?;
            let codec = tonic_prost::ProstCodec::<CreateTask, proto::CreateTaskResponse>::default();
            line.unary(request, PathAndQuery::from_static(CREATE), codec).await
        };
        Ok(CALL.answer(created).await?.pid)
    }

    /// Starts the process. Returns its process id.
    ///
    /// # Errors
    /// `Failed` with the runtime's words, any other fault.
    pub async fn start_task(&self, id: &str) -> Result<u32, ContainerdFault> {
        const CALL: Call = Call::within("start task", 30);
        let request = CALL.request(proto::StartRequest {
            container_id: id.to_owned(),
            exec_id: String::new(),
        });
        Ok(CALL.answer(self.tasks().start(request)).await?.pid)
    }

    /// Sends a signal to the first process, or to all processes of the container.
    ///
    /// # Errors
    /// `NotFound` if there is no task or its process has ended; any other fault.
    pub async fn kill_task(&self, id: &str, signal: u32, all: bool) -> Result<(), ContainerdFault> {
        const CALL: Call = Call::short("kill task");
        let request = proto::KillRequest {
            container_id: id.to_owned(),
            exec_id: String::new(),
            signal,
            all,
        };
        CALL.answer(self.tasks().kill(CALL.request(request))).await
    }

    /// Waits until the first process has ended. Without a deadline: the caller bounds it. An answer may also come from
    /// the shim's memory, if it has ended already.
    ///
    /// # Errors
    /// `NotFound` if there is no task; a broken connection is a fault, never an exit.
    pub async fn wait_task(&self, id: &str) -> Result<ExitRecord, ContainerdFault> {
        let request = proto::WaitRequest {
            container_id: id.to_owned(),
            exec_id: String::new(),
        };
        let answer = self
            .tasks()
            .wait(request)
            .await
            .map_err(|status| fault("wait for task", &status))?
            .into_inner();
        Ok(exit_record(answer.exit_status, nanoseconds(answer.exited_at)))
    }

    /// Removes a task that has ended (or was never started). `None` if there was none.
    ///
    /// # Errors
    /// `Failed` while it runs (neither generation has a code for it); any other fault but `NotFound`.
    pub async fn delete_task(&self, id: &str) -> Result<Option<ExitRecord>, ContainerdFault> {
        const CALL: Call = Call::within("delete task", 30);
        let request = CALL.request(proto::DeleteTaskRequest {
            container_id: id.to_owned(),
        });
        let answer = found(CALL.answer(self.tasks().delete(request)).await)?;
        Ok(answer.map(|a| exit_record(a.exit_status, nanoseconds(a.exited_at))))
    }

    /// containerd's view of a task, `None` if there is none.
    ///
    /// # Errors
    /// Any fault of the call but `NotFound`.
    pub async fn task(&self, id: &str) -> Result<Option<TaskView>, ContainerdFault> {
        Ok(self.process(id).await?.map(|p| view(&p)))
    }

    /// What a task's streams are connected to, `None` if there is no task.
    ///
    /// # Errors
    /// Any fault of the call but `NotFound`.
    pub async fn task_stdio(&self, id: &str) -> Result<Option<Stdio>, ContainerdFault> {
        let path = |text: String| (!text.is_empty()).then(|| PathBuf::from(text));
        Ok(self.process(id).await?.map(|p| Stdio {
            stdin: path(p.stdin),
            stdout: path(p.stdout),
            stderr: path(p.stderr),
        }))
    }

    async fn process(&self, id: &str) -> Result<Option<Process>, ContainerdFault> {
        const CALL: Call = Call::short("get task");
        let request = CALL.request(proto::GetRequest {
            container_id: id.to_owned(),
            exec_id: String::new(),
        });
        let Some(answer) = found(CALL.answer(self.tasks().get(request)).await)? else {
            return Ok(None);
        };
        answer
            .process
            .map(Some)
            .ok_or_else(|| hollow(CALL.operation, "process"))
    }

    /// All tasks of the namespace.
    ///
    /// # Errors
    /// Any fault of the call.
    pub async fn list_tasks(&self) -> Result<Vec<(ContainerId, TaskView)>, ContainerdFault> {
        // containerd asks every shim in turn.
        const CALL: Call = Call::within("list tasks", 60);
        let request = CALL.request(proto::ListTasksRequest { filter: String::new() });
        let answer = CALL.answer(self.tasks().list(request)).await?;
        Ok(answer
            .tasks
            .iter()
            .map(|p| (ContainerId::reported(&p.id), view(p)))
            .collect())
    }

    /// Process ids of everything that runs in the container.
    ///
    /// # Errors
    /// Any fault of the call, `NotFound` too.
    pub async fn task_pids(&self, id: &str) -> Result<Vec<u32>, ContainerdFault> {
        const CALL: Call = Call::short("list processes");
        let request = CALL.request(proto::ListPidsRequest {
            container_id: id.to_owned(),
        });
        let answer = CALL.answer(self.tasks().list_pids(request)).await?;
        Ok(answer.processes.into_iter().map(|process| process.pid).collect())
    }
}

/// The exit of a process as containerd reports it.
pub(super) fn exit_record(status: u32, at: i64) -> ExitRecord {
    ExitRecord {
        code: i32::try_from(status).unwrap_or(255),
        oom: false,
        at,
        lost: String::new(),
    }
}

fn view(process: &Process) -> TaskView {
    let pid = process.pid;
    match process.status() {
        Status::Created => TaskView::Created { pid },
        // Unknown is what containerd says of a shim that did not answer it in time: never an exit.
        Status::Running | Status::Paused | Status::Pausing | Status::Unknown => TaskView::Running { pid },
        Status::Stopped => TaskView::Stopped(exit_record(process.exit_status, nanoseconds(process.exited_at))),
    }
}

fn text(path: Option<&Path>) -> String {
    path.map(|p| p.to_string_lossy().into_owned()).unwrap_or_default()
}

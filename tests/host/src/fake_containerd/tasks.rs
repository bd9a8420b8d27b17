//! Tasks, and their exits.

use std::time::SystemTime;

use containerd_client::events::TaskExit;
use containerd_client::services::v1 as proto;
use containerd_client::types::v1::{Process, Status};
use prost::bytes::Bytes;
use prost_types::Timestamp;
use tokio::sync::watch;
use tonic::Code;

use super::{Stage, any, missing, one, read};
use crate::fault_proxy::Reply;

const SIGKILL: u32 = 9;

/// How one ended.
#[derive(Clone, Copy)]
struct End {
    code: u32,
    at: Timestamp,
}

/// A task; without an end it runs, or is about to.
pub(super) struct Task {
    process: Process,
    end: watch::Sender<Option<End>>,
}

impl Task {
    pub(super) fn is_running(&self) -> bool {
        self.process.status() == Status::Running
    }
}

impl Stage {
    pub(super) fn tasks(&self, method: &str, request: &Bytes) -> Result<Reply, Reply> {
        Ok(match method {
            "Create" => self.create_task(read(request)?),
            "Start" => {
                let id = read::<proto::StartRequest>(request)?.container_id;
                match self.cast().tasks.get_mut(&id) {
                    None => missing("task", &id),
                    Some(task) => {
                        task.process.set_status(Status::Running);
                        one(&proto::StartResponse { pid: self.pid })
                    }
                }
            }
            "Get" => {
                let id = read::<proto::GetRequest>(request)?.container_id;
                match self.cast().tasks.get(&id) {
                    None => missing("task", &id),
                    Some(task) => one(&proto::GetResponse {
                        process: Some(task.process.clone()),
                    }),
                }
            }
            "List" => one(&proto::ListTasksResponse {
                tasks: self.cast().tasks.values().map(|task| task.process.clone()).collect(),
            }),
            "Kill" => self.kill(&read(request)?),
            "Delete" => self.delete_task(&read::<proto::DeleteTaskRequest>(request)?.container_id),
            _ => Reply::PassOn,
        })
    }

    fn create_task(&self, request: proto::CreateTaskRequest) -> Reply {
        let id = request.container_id;
        let mut cast = self.cast();
        if !cast.containers.contains_key(&id) {
            return missing("container", &id);
        }
        if cast.tasks.contains_key(&id) {
            return Reply::Refused(Code::AlreadyExists, format!("task {id}: already exists"));
        }
        let process = Process {
            id: id.clone(),
            container_id: id.clone(),
            pid: self.pid,
            status: Status::Created.into(),
            stdout: request.stdout,
            stderr: request.stderr,
            ..Process::default()
        };
        let end = watch::Sender::new(None);
        cast.tasks.insert(id.clone(), Task { process, end });
        one(&proto::CreateTaskResponse {
            container_id: id,
            pid: self.pid,
        })
    }

    /// These tasks listen to no other signal.
    fn kill(&self, request: &proto::KillRequest) -> Reply {
        let id = &request.container_id;
        let running = match self.cast().tasks.get(id) {
            None => return missing("task", id),
            Some(task) => task.is_running(),
        };
        match running {
            false => missing("process of task", id),
            true => {
                if request.signal == SIGKILL {
                    self.exit(id, 128 + SIGKILL);
                }
                one(&())
            }
        }
    }

    fn delete_task(&self, id: &str) -> Reply {
        let mut cast = self.cast();
        let Some(task) = cast.tasks.get(id) else {
            return missing("task", id);
        };
        let Some(end) = *task.end.borrow() else {
            return Reply::Refused(
                Code::FailedPrecondition,
                format!("task {id} must be stopped before deletion"),
            );
        };
        cast.tasks.remove(id);
        one(&proto::DeleteResponse {
            id: id.to_owned(),
            pid: self.pid,
            exit_status: end.code,
            exited_at: Some(end.at),
        })
    }

    /// A task ends: whoever waits is told, and whoever has subscribed.
    pub(super) fn exit(&self, id: &str, code: u32) {
        let at = Timestamp::from(SystemTime::now());
        if let Some(task) = self.cast().tasks.get_mut(id) {
            task.process.set_status(Status::Stopped);
            (task.process.exit_status, task.process.exited_at) = (code, Some(at));
            task.end.send_replace(Some(End { code, at }));
        }
        let event = TaskExit {
            container_id: id.to_owned(),
            id: id.to_owned(),
            pid: self.pid,
            exit_status: code,
            exited_at: Some(at),
        };
        self.publish("/tasks/exit", any("TaskExit", &event));
    }

    pub(super) async fn wait(&self, request: &Bytes) -> Result<Reply, Reply> {
        let id = read::<proto::WaitRequest>(request)?.container_id;
        let Some(mut end) = self.cast().tasks.get(&id).map(|task| task.end.subscribe()) else {
            return Err(missing("task", &id));
        };
        match end.wait_for(Option::is_some).await.map(|end| *end) {
            Ok(Some(end)) => Ok(one(&proto::WaitResponse {
                exit_status: end.code,
                exited_at: Some(end.at),
            })),
            // It was deleted, and so had ended before.
            Ok(None) | Err(_) => Err(missing("task", &id)),
        }
    }
}

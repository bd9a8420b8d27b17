//! A started task and everything a host does with it.

use std::sync::Arc;
use std::time::Duration;

use prost_types::Duration as ProtoDuration;
use tonic::{Status, Streaming};

use super::exec::ExecSession;
use super::shared::Shared;
use crate::alloc::{Alloc, Logs};
use crate::plugin::Driver;
use crate::wire::driver::{
    DestroyTaskRequest, ExecTaskRequest, ExecTaskResponse, ExitResult, InspectTaskRequest, InspectTaskResponse,
    NetworkOverride, SignalTaskRequest, StopTaskRequest, TaskConfig, TaskHandle, TaskState, TaskStatsRequest,
    TaskStatsResponse, TaskStatus, WaitTaskRequest, WaitTaskResponse,
};
use crate::within::within;

/// A task the plugin was asked to start. It talks to whatever plugin process the rig runs at the moment, also after a relaunch.
pub struct RunningTask {
    pub(super) shared: Arc<Shared>,
    /// The configuration as sent.
    pub config: TaskConfig,
    /// The handle as returned.
    pub handle: TaskHandle,
    pub network_override: Option<NetworkOverride>,
    pub alloc: Arc<Alloc>,
    /// `None` if the test gave its own log paths.
    pub logs: Option<Logs>,
}

impl RunningTask {
    pub fn id(&self) -> &str {
        &self.config.id
    }

    pub fn driver(&self) -> Driver {
        self.shared.driver()
    }

    /// `WaitTask`, without a deadline, as the host waits.
    pub async fn wait(&self) -> Result<WaitTaskResponse, Status> {
        let answer = self
            .driver()
            .wait_task(WaitTaskRequest {
                task_id: self.id().to_owned(),
            })
            .await?
            .into_inner();
        assert!(answer.result.is_some(), "WaitTaskResponse without a result: {answer:?}");
        Ok(answer)
    }

    /// `wait`, which must succeed within `deadline`; the result alone.
    pub async fn exit(&self, deadline: Duration) -> ExitResult {
        let answer = within(deadline, "the task's exit", self.wait())
            .await
            .expect("WaitTask");
        answer.result.unwrap_or_default()
    }

    /// `StopTask`; an empty signal means the driver's default.
    pub async fn stop(&self, timeout: Duration, signal: &str) -> Result<(), Status> {
        let request = StopTaskRequest {
            task_id: self.id().to_owned(),
            timeout: Some(proto(timeout)),
            signal: signal.to_owned(),
        };
        self.driver().stop_task(request).await.map(drop)
    }

    pub async fn signal(&self, signal: &str) -> Result<(), Status> {
        self.driver()
            .signal_task(SignalTaskRequest {
                task_id: self.id().to_owned(),
                signal: signal.to_owned(),
            })
            .await
            .map(drop)
    }

    /// `DestroyTask`; a destroyed task is no longer recovered by a relaunch.
    pub async fn destroy(&self, force: bool) -> Result<(), Status> {
        self.driver()
            .destroy_task(DestroyTaskRequest {
                task_id: self.id().to_owned(),
                force,
            })
            .await?;
        self.shared.forget(self.id());
        Ok(())
    }

    /// `InspectTask`, checked for everything a host would stumble over.
    pub async fn inspect(&self) -> Result<InspectTaskResponse, Status> {
        let answer = self
            .driver()
            .inspect_task(InspectTaskRequest {
                task_id: self.id().to_owned(),
            })
            .await?
            .into_inner();
        let task = answer.task.as_ref().expect("InspectTaskResponse without a task");
        assert!(task.result.is_some(), "TaskStatus without a result");
        assert!(
            task.started_at.is_some() && task.completed_at.is_some(),
            "TaskStatus without times"
        );
        Ok(answer)
    }

    pub async fn status(&self) -> Result<TaskStatus, Status> {
        Ok(self.inspect().await?.task.unwrap_or_default())
    }

    /// Inspects every 100 ms until the state is reached.
    pub async fn reach(&self, state: TaskState, deadline: Duration) {
        let polling = async {
            while self.status().await.expect("InspectTask").state() != state {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        within(deadline, &format!("state {state:?}"), polling).await;
    }

    /// `ExecTask`.
    pub async fn exec(&self, argv: &[&str], timeout: Duration) -> Result<ExecTaskResponse, Status> {
        let command = argv.iter().map(|arg| (*arg).to_owned()).collect();
        let request = ExecTaskRequest {
            task_id: self.id().to_owned(),
            command,
            timeout: Some(proto(timeout)),
        };
        let answer = self.driver().exec_task(request).await?.into_inner();
        assert!(answer.result.is_some(), "ExecTaskResponse without a result");
        Ok(answer)
    }

    /// `ExecTaskStreaming`.
    pub async fn exec_session(&self, argv: &[&str], tty: bool) -> Result<ExecSession, Status> {
        ExecSession::open(self.driver(), self.id(), argv, tty, None).await
    }

    /// The same with a terminal whose size follows at once, as clients send it.
    pub async fn exec_session_sized(&self, argv: &[&str], size: (i32, i32)) -> Result<ExecSession, Status> {
        ExecSession::open(self.driver(), self.id(), argv, true, Some(size)).await
    }

    pub async fn stats(&self, interval: Duration) -> Result<Streaming<TaskStatsResponse>, Status> {
        let request = TaskStatsRequest {
            task_id: self.id().to_owned(),
            collection_interval: Some(proto(interval)),
        };
        Ok(self.driver().task_stats(request).await?.into_inner())
    }

    /// Lines of stdout so far.
    pub fn lines(&self) -> Vec<String> {
        self.logs().stdout.lines()
    }

    pub fn stderr_lines(&self) -> Vec<String> {
        self.logs().stderr.lines()
    }

    /// Waits for a complete stdout line that contains `text`; panics when the time is over.
    pub async fn wait_line(&self, deadline: Duration, text: &str) -> String {
        match self.logs().stdout.wait_line(deadline, text).await {
            Some(line) => line,
            None => panic!(
                "no line with {text:?} within {deadline:?}; stdout: {:?}; stderr: {:?}",
                self.lines(),
                self.stderr_lines()
            ),
        }
    }

    /// Waits for EOF on both log pipes; panics when the time is over.
    pub async fn logs_end(&self, deadline: Duration) {
        let logs = self.logs();
        assert!(
            logs.stdout.wait_eof(deadline).await,
            "no EOF on stdout within {deadline:?}"
        );
        assert!(
            logs.stderr.wait_eof(deadline).await,
            "no EOF on stderr within {deadline:?}"
        );
    }

    pub fn logs(&self) -> &Logs {
        self.logs.as_ref().expect("this task has log paths of its own")
    }

    /// The handle as a host sends it after its own restart: without the driver's configuration.
    pub fn persisted_handle(&self) -> TaskHandle {
        persisted(&self.handle)
    }
}

/// What survives in a host's store.
pub(super) fn persisted(handle: &TaskHandle) -> TaskHandle {
    let mut handle = handle.clone();
    if let Some(config) = handle.config.as_mut() {
        config.msgpack_driver_config.clear();
        config.parent_job_id.clear();
    }
    handle
}

pub(super) fn proto(duration: Duration) -> ProtoDuration {
    ProtoDuration {
        seconds: duration.as_secs() as i64,
        nanos: duration.subsec_nanos() as i32,
    }
}

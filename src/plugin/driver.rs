//! Nomad's driver service: decode, ask, map. What is asked and how often is in `tasks`, the shapes are in `convert`.

use super::pb::driver as pb;
use super::pb::driver::driver_capabilities::FsIsolation;
use super::pb::driver::driver_server::Driver;
use super::pb::driver::network_isolation_spec::NetworkIsolationMode;
use super::rpc::{call_span, traced};
use super::streams::{self, Answers};
use super::tasks::Tasks;
use super::{convert, schema};
use crate::messages::doors::Doors;
use crate::spec::identity::TaskId;
use crate::spec::options;
use crate::spec::record::{HANDLE_VERSION, HandleState};
use crate::spec::signal;
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

/// Text of Nomad's Go drivers, which users and scripts may know.
const NO_EXEC: &str = "This driver does not support exec";
const NO_NETWORK: &str = "this driver creates no networks: the host does (must_create_network is false)";

/// The service.
pub(super) struct DriverService {
    doors: Doors,
    tasks: Tasks,
}

impl DriverService {
    pub(super) fn new(doors: Doors) -> Self {
        Self { tasks: Tasks::new(Arc::clone(&doors.tasks)), doors }
    }

    async fn start(&self, request: pb::StartTaskRequest) -> Result<pb::StartTaskResponse, Status> {
        let config = request.task.ok_or_else(|| Status::invalid_argument("task config is missing"))?;
        let task = convert::task(&config)?;
        let pull = task.options.image_pull_timeout.unwrap_or_else(|| self.doors.settings.current().image_pull_timeout);
        let started = self.tasks.start(Arc::new(task), pull).await?;
        let driver_state = started.handle.encode().map_err(Status::unknown)?;
        let handle = pb::TaskHandle {
            version: HANDLE_VERSION,
            config: Some(config),
            state: pb::TaskState::Running.into(),
            driver_state,
        };
        Ok(pb::StartTaskResponse { handle: Some(handle), ..Default::default() })
    }

    async fn recover(&self, handle: Option<pb::TaskHandle>) -> Result<pb::RecoverTaskResponse, Status> {
        let handle = handle.ok_or_else(|| Status::invalid_argument("error: handle cannot be nil"))?;
        let id = handle.config.map(|c| c.id).filter(|id| !id.is_empty());
        let id = id.ok_or_else(|| Status::invalid_argument("handle has no task config or no task id"))?;
        let state = HandleState::decode(handle.version, &handle.driver_state)
            .map_err(|e| Status::invalid_argument(format!("failed to decode task state from handle: {e}")))?;
        self.tasks.recover(&TaskId::new(id), state).await?;
        Ok(pb::RecoverTaskResponse {})
    }
}

fn capabilities() -> pb::DriverCapabilities {
    let modes = [NetworkIsolationMode::Host, NetworkIsolationMode::Group, NetworkIsolationMode::Task];
    pb::DriverCapabilities {
        send_signals: true,
        exec: false,
        fs_isolation: FsIsolation::Image.into(),
        network_isolation_modes: modes.into_iter().map(i32::from).collect(),
        must_create_network: false,
        ..Default::default()
    }
}

fn signal_number(name: &str) -> Result<i32, Status> {
    signal::parse(name).map_err(|e| Status::invalid_argument(e.to_string()))
}

/// Id of the task in a `StartTask` or `RecoverTask`, for the span.
fn id_of(config: Option<&pb::TaskConfig>) -> &str {
    config.map_or("", |c| &c.id)
}

#[tonic::async_trait]
impl Driver for DriverService {
    type FingerprintStream = Answers<pb::FingerprintResponse>;
    type TaskStatsStream = Answers<pb::TaskStatsResponse>;
    type TaskEventsStream = Answers<pb::DriverTaskEvent>;
    type ExecTaskStreamingStream = Answers<pb::ExecTaskStreamingResponse>;

    async fn init(&self, request: Request<pb::InitRequest>) -> Result<Response<pb::InitResponse>, Status> {
        let (metadata, _, _) = request.into_parts();
        traced(call_span!("nomad.Init"), metadata, async { Ok(pb::InitResponse {}) }).await
    }

    /// The agent stops; tasks go on.
    async fn shutdown(&self, request: Request<pb::ShutdownRequest>) -> Result<Response<pb::ShutdownResponse>, Status> {
        let (metadata, _, _) = request.into_parts();
        traced(call_span!("nomad.Shutdown"), metadata, async { Ok(pb::ShutdownResponse {}) }).await
    }

    async fn task_config_schema(
        &self,
        request: Request<pb::TaskConfigSchemaRequest>,
    ) -> Result<Response<pb::TaskConfigSchemaResponse>, Status> {
        let (metadata, _, _) = request.into_parts();
        let answer = async { Ok(pb::TaskConfigSchemaResponse { spec: Some(schema::root(&options::schema())) }) };
        traced(call_span!("nomad.TaskConfigSchema"), metadata, answer).await
    }

    async fn capabilities(
        &self,
        request: Request<pb::CapabilitiesRequest>,
    ) -> Result<Response<pb::CapabilitiesResponse>, Status> {
        let (metadata, _, _) = request.into_parts();
        let answer = async { Ok(pb::CapabilitiesResponse { capabilities: Some(capabilities()) }) };
        traced(call_span!("nomad.Capabilities"), metadata, answer).await
    }

    async fn fingerprint(
        &self,
        request: Request<pb::FingerprintRequest>,
    ) -> Result<Response<Self::FingerprintStream>, Status> {
        let (metadata, _, _) = request.into_parts();
        let answer = async { Ok(streams::fingerprints(self.doors.health.clone())) };
        traced(call_span!("nomad.Fingerprint"), metadata, answer).await
    }

    async fn task_events(
        &self,
        request: Request<pb::TaskEventsRequest>,
    ) -> Result<Response<Self::TaskEventsStream>, Status> {
        let (metadata, _, _) = request.into_parts();
        let answer = async { Ok(streams::events(self.doors.events.subscribe())) };
        traced(call_span!("nomad.TaskEvents"), metadata, answer).await
    }

    async fn start_task(
        &self,
        request: Request<pb::StartTaskRequest>,
    ) -> Result<Response<pb::StartTaskResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let config = request.task.as_ref();
        let alloc = config.map_or("", |c| &c.alloc_id);
        let span = call_span!("nomad.StartTask", task.id = id_of(config), alloc.id = alloc);
        traced(span, metadata, self.start(request)).await
    }

    /// The host never sets `task_id`; the id is in the handle.
    async fn recover_task(
        &self,
        request: Request<pb::RecoverTaskRequest>,
    ) -> Result<Response<pb::RecoverTaskResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let config = request.handle.as_ref().and_then(|h| h.config.as_ref());
        let span = call_span!("nomad.RecoverTask", task.id = id_of(config));
        traced(span, metadata, self.recover(request.handle)).await
    }

    async fn wait_task(
        &self,
        request: Request<pb::WaitTaskRequest>,
    ) -> Result<Response<pb::WaitTaskResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let task = TaskId::new(request.task_id);
        let answer = async { self.tasks.wait(&task).await.map(|e| convert::exit(&e)) };
        traced(call_span!("nomad.WaitTask", task.id = %task), metadata, answer).await
    }

    async fn stop_task(
        &self,
        request: Request<pb::StopTaskRequest>,
    ) -> Result<Response<pb::StopTaskResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let task = TaskId::new(&request.task_id);
        let span = call_span!("nomad.StopTask", task.id = %task, signal = request.signal);
        let answer = async {
            let signal = match request.signal.as_str() {
                "" => None,
                name => Some(signal_number(name)?),
            };
            self.tasks.stop(&task, convert::duration(request.timeout), signal).await?;
            Ok(pb::StopTaskResponse {})
        };
        traced(span, metadata, answer).await
    }

    async fn signal_task(
        &self,
        request: Request<pb::SignalTaskRequest>,
    ) -> Result<Response<pb::SignalTaskResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let task = TaskId::new(&request.task_id);
        let span = call_span!("nomad.SignalTask", task.id = %task, signal = request.signal);
        let answer = async {
            self.tasks.signal(&task, signal_number(&request.signal)?).await?;
            Ok(pb::SignalTaskResponse {})
        };
        traced(span, metadata, answer).await
    }

    async fn destroy_task(
        &self,
        request: Request<pb::DestroyTaskRequest>,
    ) -> Result<Response<pb::DestroyTaskResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let task = TaskId::new(&request.task_id);
        let span = call_span!("nomad.DestroyTask", task.id = %task, force = request.force);
        let answer = async { self.tasks.destroy(&task, request.force).await.map(|()| pb::DestroyTaskResponse {}) };
        traced(span, metadata, answer).await
    }

    async fn inspect_task(
        &self,
        request: Request<pb::InspectTaskRequest>,
    ) -> Result<Response<pb::InspectTaskResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let task = TaskId::new(&request.task_id);
        let answer = async { self.tasks.inspect(&task).await.map(|i| convert::inspection(&request.task_id, &i)) };
        traced(call_span!("nomad.InspectTask", task.id = %task), metadata, answer).await
    }

    async fn task_stats(
        &self,
        request: Request<pb::TaskStatsRequest>,
    ) -> Result<Response<Self::TaskStatsStream>, Status> {
        let (metadata, _, request) = request.into_parts();
        let task = TaskId::new(request.task_id);
        let span = call_span!("nomad.TaskStats", task.id = %task);
        let answer = async {
            // An unknown task is an error at once, not a silent stream.
            self.tasks.inspect(&task).await?;
            Ok(streams::silent_stats(self.tasks.clone(), task))
        };
        traced(span, metadata, answer).await
    }

    async fn exec_task(
        &self,
        request: Request<pb::ExecTaskRequest>,
    ) -> Result<Response<pb::ExecTaskResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let span = call_span!("nomad.ExecTask", task.id = request.task_id);
        traced(span, metadata, async { Err(Status::unimplemented(NO_EXEC)) }).await
    }

    async fn exec_task_streaming(
        &self,
        request: Request<Streaming<pb::ExecTaskStreamingRequest>>,
    ) -> Result<Response<Self::ExecTaskStreamingStream>, Status> {
        let (metadata, _, _) = request.into_parts();
        traced(call_span!("nomad.ExecTaskStreaming"), metadata, async { Err(Status::unimplemented(NO_EXEC)) }).await
    }

    async fn create_network(
        &self,
        request: Request<pb::CreateNetworkRequest>,
    ) -> Result<Response<pb::CreateNetworkResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let span = call_span!("nomad.CreateNetwork", alloc.id = request.alloc_id);
        traced(span, metadata, async { Err(Status::unimplemented(NO_NETWORK)) }).await
    }

    async fn destroy_network(
        &self,
        request: Request<pb::DestroyNetworkRequest>,
    ) -> Result<Response<pb::DestroyNetworkResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let span = call_span!("nomad.DestroyNetwork", alloc.id = request.alloc_id);
        traced(span, metadata, async { Err(Status::unimplemented(NO_NETWORK)) }).await
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;

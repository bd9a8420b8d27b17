//! Nomad's driver service: decode, ask, map. What is asked and how often is in `tasks`, the shapes are in `convert`.

use super::base::NodeCompute;
use super::pb::driver as pb;
use super::pb::driver::driver_capabilities::FsIsolation;
use super::pb::driver::driver_server::Driver;
use super::pb::driver::network_isolation_spec::NetworkIsolationMode;
use super::rpc::call;
use super::streams::{self, Answers};
use super::tasks::Tasks;
use super::{convert, exec, schema, stats};
use crate::messages::doors::Doors;
use crate::messages::task::Recover;
use crate::spec::identity::TaskId;
use crate::spec::log_collection;
use crate::spec::options;
use crate::spec::record::{HANDLE_VERSION, HandleState};
use crate::spec::settings::Settings;
use crate::spec::signal;
use crate::telemetry::steps::step;
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

const NO_NETWORK: &str = "this driver creates no networks: the host does (must_create_network is false)";

type Reply<T> = Result<Response<T>, Status>;

/// How long the first fingerprint waits for the first look at containerd. The host waits far longer for it.
const FIRST_VERDICT: std::time::Duration = std::time::Duration::from_millis(800);

/// The service.
pub(super) struct DriverService {
    doors: Doors,
    tasks: Tasks,
    compute: NodeCompute,
}

impl DriverService {
    pub(super) fn new(doors: Doors, compute: NodeCompute) -> Self {
        Self {
            tasks: Tasks::new(Arc::clone(&doors.tasks)),
            doors,
            compute,
        }
    }

    async fn start(&self, request: pb::StartTaskRequest) -> Result<pb::StartTaskResponse, Status> {
        let config = request
            .task
            .ok_or_else(|| Status::invalid_argument("task config is missing"))?;
        let task = convert::task(&config)?;
        let pull = task
            .options
            .image_pull_timeout
            .unwrap_or_else(|| self.doors.settings.current().image_pull_timeout);
        let started = self.tasks.start(Arc::new(task), pull).await?;
        step!(StartKnown);
        let driver_state = started.handle.encode().map_err(Status::unknown)?;
        let handle = pb::TaskHandle {
            version: HANDLE_VERSION,
            config: Some(config),
            state: pb::TaskState::Running.into(),
            driver_state,
        };
        Ok(pb::StartTaskResponse {
            handle: Some(handle),
            ..Default::default()
        })
    }

    async fn recover(&self, handle: Option<pb::TaskHandle>) -> Result<pb::RecoverTaskResponse, Status> {
        let handle = handle.ok_or_else(|| Status::invalid_argument("error: handle cannot be nil"))?;
        let config = handle.config.filter(|c| !c.id.is_empty());
        let config = config.ok_or_else(|| Status::invalid_argument("handle has no task config or no task id"))?;
        let mut state = HandleState::decode(handle.version, &handle.driver_state)
            .map_err(|e| Status::invalid_argument(format!("failed to decode task state from handle: {e}")))?;
        if let Some(logs) = state.go.as_mut() {
            logs.alloc_dir = config.alloc_dir.clone().into();
        }
        if let Some(logs) = state.logs.as_mut() {
            logs.alloc_dir = config.alloc_dir.into();
        }
        let recover = Recover {
            task: TaskId::new(config.id),
            name: config.name,
            alloc_id: config.alloc_id,
            handle: state,
        };
        self.tasks.recover(&recover).await?;
        Ok(pb::RecoverTaskResponse {})
    }
}

fn capabilities(settings: &Settings) -> pb::DriverCapabilities {
    let modes = [
        NetworkIsolationMode::Host,
        NetworkIsolationMode::Group,
        NetworkIsolationMode::Task,
    ];
    pb::DriverCapabilities {
        send_signals: true,
        exec: true,
        fs_isolation: FsIsolation::Image.into(),
        network_isolation_modes: modes.into_iter().map(i32::from).collect(),
        must_create_network: false,
        disable_log_collection: log_collection::without_nomad(settings),
        ..Default::default()
    }
}

fn signal_number(name: &str) -> Result<i32, Status> {
    signal::parse(name).map_err(|e| Status::invalid_argument(e.to_string()))
}

#[tonic::async_trait]
impl Driver for DriverService {
    type FingerprintStream = Answers<pb::FingerprintResponse>;
    type TaskStatsStream = Answers<pb::TaskStatsResponse>;
    type TaskEventsStream = Answers<pb::DriverTaskEvent>;
    type ExecTaskStreamingStream = Answers<pb::ExecTaskStreamingResponse>;

    async fn init(&self, request: Request<pb::InitRequest>) -> Reply<pb::InitResponse> {
        call!("Init", &request).answer(async { Ok(pb::InitResponse {}) }).await
    }

    /// The agent stops; tasks go on.
    async fn shutdown(&self, request: Request<pb::ShutdownRequest>) -> Reply<pb::ShutdownResponse> {
        call!("Shutdown", &request)
            .answer(async { Ok(pb::ShutdownResponse {}) })
            .await
    }

    async fn task_config_schema(
        &self,
        request: Request<pb::TaskConfigSchemaRequest>,
    ) -> Reply<pb::TaskConfigSchemaResponse> {
        let answer = async {
            Ok(pb::TaskConfigSchemaResponse {
                spec: Some(schema::root(&options::schema())),
            })
        };
        call!("TaskConfigSchema", &request).answer(answer).await
    }

    async fn capabilities(&self, request: Request<pb::CapabilitiesRequest>) -> Reply<pb::CapabilitiesResponse> {
        let answer = async {
            Ok(pb::CapabilitiesResponse {
                capabilities: Some(capabilities(&self.doors.settings.current())),
            })
        };
        call!("Capabilities", &request).answer(answer).await
    }

    async fn fingerprint(&self, request: Request<pb::FingerprintRequest>) -> Reply<Self::FingerprintStream> {
        let mut health = self.doors.health.clone();
        let answer = async {
            // A process that has just started has not looked yet, and the host takes the first word for the truth.
            if !health.has_changed().unwrap_or(true) {
                tokio::time::timeout(FIRST_VERDICT, health.changed()).await.ok();
            }
            Ok(streams::fingerprints(health))
        };
        call!("Fingerprint", &request).answer(answer).await
    }

    async fn task_events(&self, request: Request<pb::TaskEventsRequest>) -> Reply<Self::TaskEventsStream> {
        let answer = async { Ok(streams::events(self.doors.events.subscribe())) };
        call!("TaskEvents", &request).answer(answer).await
    }

    async fn start_task(&self, request: Request<pb::StartTaskRequest>) -> Reply<pb::StartTaskResponse> {
        let (id, alloc) = request
            .get_ref()
            .task
            .as_ref()
            .map_or(("", ""), |c| (&c.id, &c.alloc_id));
        let call = call!("StartTask", &request, task.id = id, alloc.id = alloc);
        call.answer(self.start(request.into_inner())).await
    }

    /// The host never sets `task_id`; the id is in the handle.
    async fn recover_task(&self, request: Request<pb::RecoverTaskRequest>) -> Reply<pb::RecoverTaskResponse> {
        let config = request.get_ref().handle.as_ref().and_then(|h| h.config.as_ref());
        let call = call!("RecoverTask", &request, task.id = config.map_or("", |c| &c.id));
        call.answer(self.recover(request.into_inner().handle)).await
    }

    async fn wait_task(&self, request: Request<pb::WaitTaskRequest>) -> Reply<pb::WaitTaskResponse> {
        let task = TaskId::new(&request.get_ref().task_id);
        let answer = async { self.tasks.wait(&task).await.map(|e| convert::exit(&e)) };
        call!("WaitTask", &request, task.id = %task).answer(answer).await
    }

    async fn stop_task(&self, request: Request<pb::StopTaskRequest>) -> Reply<pb::StopTaskResponse> {
        let stop = request.get_ref();
        let task = TaskId::new(&stop.task_id);
        let answer = async {
            let signal = match stop.signal.as_str() {
                "" => None,
                name => Some(signal_number(name)?),
            };
            self.tasks.stop(&task, convert::duration(stop.timeout), signal).await?;
            Ok(pb::StopTaskResponse {})
        };
        call!("StopTask", &request, task.id = %task, signal = stop.signal)
            .answer(answer)
            .await
    }

    async fn signal_task(&self, request: Request<pb::SignalTaskRequest>) -> Reply<pb::SignalTaskResponse> {
        let signal = &request.get_ref().signal;
        let task = TaskId::new(&request.get_ref().task_id);
        let answer = async {
            self.tasks.signal(&task, signal_number(signal)?).await?;
            Ok(pb::SignalTaskResponse {})
        };
        call!("SignalTask", &request, task.id = %task, signal = signal)
            .answer(answer)
            .await
    }

    async fn destroy_task(&self, request: Request<pb::DestroyTaskRequest>) -> Reply<pb::DestroyTaskResponse> {
        let force = request.get_ref().force;
        let task = TaskId::new(&request.get_ref().task_id);
        let answer = async {
            self.tasks
                .destroy(&task, force)
                .await
                .map(|()| pb::DestroyTaskResponse {})
        };
        call!("DestroyTask", &request, task.id = %task, force)
            .answer(answer)
            .await
    }

    async fn inspect_task(&self, request: Request<pb::InspectTaskRequest>) -> Reply<pb::InspectTaskResponse> {
        let task = TaskId::new(&request.get_ref().task_id);
        let answer = async { self.tasks.inspect(&task).await.map(|i| convert::inspection(&task, &i)) };
        call!("InspectTask", &request, task.id = %task).answer(answer).await
    }

    async fn task_stats(&self, request: Request<pb::TaskStatsRequest>) -> Reply<Self::TaskStatsStream> {
        let task = TaskId::new(&request.get_ref().task_id);
        let interval = convert::duration(request.get_ref().collection_interval);
        let call = call!("TaskStats", &request, task.id = %task);
        let answer = async {
            // An unknown task is an error at once, not a silent stream.
            let found = self.tasks.inspect(&task).await?;
            let source = stats::Source {
                tasks: self.tasks.clone(),
                door: Arc::clone(&self.doors.stats),
                compute: NodeCompute::clone(&self.compute),
            };
            Ok(stats::stream(source, task, interval, found).await)
        };
        call.answer(answer).await
    }

    async fn exec_task(&self, request: Request<pb::ExecTaskRequest>) -> Reply<pb::ExecTaskResponse> {
        let call = call!("ExecTask", &request, task.id = request.get_ref().task_id);
        call.answer(exec::to_its_end(&self.tasks, request.into_inner())).await
    }

    async fn exec_task_streaming(
        &self,
        request: Request<Streaming<pb::ExecTaskStreamingRequest>>,
    ) -> Reply<Self::ExecTaskStreamingStream> {
        let call = call!("ExecTaskStreaming", &request, task.id = tracing::field::Empty);
        call.answer(exec::session(&self.tasks, request.into_inner())).await
    }

    async fn create_network(&self, request: Request<pb::CreateNetworkRequest>) -> Reply<pb::CreateNetworkResponse> {
        let call = call!("CreateNetwork", &request, alloc.id = request.get_ref().alloc_id);
        call.answer(async { Err(Status::unimplemented(NO_NETWORK)) }).await
    }

    async fn destroy_network(&self, request: Request<pb::DestroyNetworkRequest>) -> Reply<pb::DestroyNetworkResponse> {
        let call = call!("DestroyNetwork", &request, alloc.id = request.get_ref().alloc_id);
        call.answer(async { Err(Status::unimplemented(NO_NETWORK)) }).await
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;

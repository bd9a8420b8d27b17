//! A plugin that runs plain processes instead of containers: just enough to prove the host's own code without a driver.

use std::collections::BTreeMap;
use std::io::Write;
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use testhost::plugin::HOST_ENV;
use testhost::procfs;
use testhost::wire::driver::driver_server::{Driver, DriverServer};
use testhost::wire::hclspec::{Attr, Object, Spec, spec::Block as Kind};
use testhost::wire::{base, driver as d, plugin};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

type Answer<T> = Result<Response<T>, Status>;
type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Clone, Default)]
struct StandIn {
    tasks: Arc<Mutex<BTreeMap<String, Entry>>>,
}

#[derive(Clone, Copy)]
struct Entry {
    pid: u32,
    /// Once it is known.
    exit: Option<i32>,
    /// Another process's child: its exit code will never be known.
    recovered: bool,
}

fn schema(items: &[(&str, &str)]) -> Option<Spec> {
    let attr = |kind: &str| Spec {
        block: Some(Kind::Attr(Attr {
            name: String::new(),
            r#type: kind.into(),
            required: false,
        })),
    };
    let attributes = items
        .iter()
        .map(|(key, kind)| ((*key).to_owned(), attr(kind)))
        .collect();
    Some(Spec {
        block: Some(Kind::Object(Object { attributes })),
    })
}

#[tonic::async_trait]
impl base::base_plugin_server::BasePlugin for StandIn {
    async fn plugin_info(&self, _: Request<base::PluginInfoRequest>) -> Answer<base::PluginInfoResponse> {
        let info = base::PluginInfoResponse {
            r#type: base::PluginType::Driver as i32,
            plugin_api_versions: vec!["v0.1.0".into()],
            plugin_version: "v0.0.1".into(),
            name: "stand-in".into(),
        };
        Ok(Response::new(info))
    }

    async fn config_schema(&self, _: Request<base::ConfigSchemaRequest>) -> Answer<base::ConfigSchemaResponse> {
        let spec = schema(&[
            ("containerd_address", "string"),
            ("containerd_namespace", "string"),
            ("containerd_runtime", "string"),
        ]);
        Ok(Response::new(base::ConfigSchemaResponse { spec }))
    }

    async fn set_config(&self, request: Request<base::SetConfigRequest>) -> Answer<base::SetConfigResponse> {
        let request = request.into_inner();
        eprintln!("SetConfig topology={}", request.nomad_config.is_some());
        rmpv::decode::read_value(&mut request.msgpack_config.as_slice())
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        Ok(Response::new(base::SetConfigResponse {}))
    }
}

impl StandIn {
    fn task(&self, id: &str) -> Result<Entry, Status> {
        self.tasks
            .lock()
            .expect("lock")
            .get(id)
            .copied()
            .ok_or_else(|| Status::not_found("task not found for given id"))
    }

    fn kill(&self, id: &str, signal: Signal) -> Result<(), Status> {
        let entry = self.task(id)?;
        if let (None, Some(pid)) = (entry.exit, Pid::from_raw(entry.pid as i32)) {
            kill_process(pid, signal).ok();
        }
        Ok(())
    }

    async fn ended(&self, id: &str) -> Result<i32, Status> {
        loop {
            let entry = self.task(id)?;
            match entry.exit {
                Some(code) => return Ok(code),
                None if entry.recovered && !procfs::alive(entry.pid) => return Ok(0),
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }
}

fn argv(config: &[u8]) -> Result<Vec<String>, Status> {
    let value = rmpv::decode::read_value(&mut &config[..]).map_err(|e| Status::invalid_argument(e.to_string()))?;
    let field = |key: &str| {
        value
            .as_map()
            .and_then(|map| map.iter().find(|(k, _)| k.as_str() == Some(key)))
            .map(|(_, v)| v.clone())
    };
    let command = field("command")
        .and_then(|v| v.as_str().map(str::to_owned))
        .ok_or_else(|| Status::invalid_argument("no command"))?;
    let args = field("args").and_then(|v| v.as_array().cloned()).unwrap_or_default();
    Ok(std::iter::once(command)
        .chain(args.iter().filter_map(|v| v.as_str().map(str::to_owned)))
        .collect())
}

#[tonic::async_trait]
impl Driver for StandIn {
    async fn init(&self, _: Request<d::InitRequest>) -> Answer<d::InitResponse> {
        Ok(Response::new(d::InitResponse {}))
    }

    async fn task_config_schema(&self, _: Request<d::TaskConfigSchemaRequest>) -> Answer<d::TaskConfigSchemaResponse> {
        let spec = schema(&[("image", "string"), ("command", "string"), ("args", "list(string)")]);
        Ok(Response::new(d::TaskConfigSchemaResponse { spec }))
    }

    async fn capabilities(&self, _: Request<d::CapabilitiesRequest>) -> Answer<d::CapabilitiesResponse> {
        Ok(Response::new(d::CapabilitiesResponse {
            capabilities: Some(d::DriverCapabilities::default()),
        }))
    }

    type FingerprintStream = Boxed<d::FingerprintResponse>;
    async fn fingerprint(&self, _: Request<d::FingerprintRequest>) -> Answer<Self::FingerprintStream> {
        let first = d::FingerprintResponse {
            health: d::fingerprint_response::HealthState::Healthy as i32,
            health_description: "Healthy".into(),
            ..Default::default()
        };
        Ok(Response::new(Box::pin(
            tokio_stream::once(Ok(first)).chain(tokio_stream::pending()),
        )))
    }

    async fn recover_task(&self, request: Request<d::RecoverTaskRequest>) -> Answer<d::RecoverTaskResponse> {
        let request = request.into_inner();
        let handle = request.handle.ok_or_else(|| Status::invalid_argument("no handle"))?;
        let config = handle.config.ok_or_else(|| Status::invalid_argument("no config"))?;
        if !request.task_id.is_empty() || !config.msgpack_driver_config.is_empty() {
            return Err(Status::invalid_argument(
                "a host sends neither task id nor driver config",
            ));
        }
        let pid = String::from_utf8_lossy(&handle.driver_state)
            .parse()
            .map_err(|_| Status::invalid_argument("driver state"))?;
        self.tasks.lock().expect("lock").insert(
            config.id,
            Entry {
                pid,
                exit: None,
                recovered: true,
            },
        );
        Ok(Response::new(d::RecoverTaskResponse {}))
    }

    async fn start_task(&self, request: Request<d::StartTaskRequest>) -> Answer<d::StartTaskResponse> {
        let task = request
            .into_inner()
            .task
            .ok_or_else(|| Status::invalid_argument("no task"))?;
        let argv = argv(&task.msgpack_driver_config)?;
        let (out, err) = (task.stdout_path.clone(), task.stderr_path.clone());
        let open = |path: String| std::fs::File::options().write(true).open(path);
        let (out, err) = tokio::task::spawn_blocking(move || (open(out), open(err)))
            .await
            .map_err(|e| Status::unknown(e.to_string()))?;
        let child = Command::new(&argv[0])
            .args(&argv[1..])
            .envs(&task.env)
            .stdin(Stdio::null())
            .stdout(out?)
            .stderr(err?)
            .spawn();
        let mut child = child.map_err(|e| Status::unknown(e.to_string()))?;
        let pid = child.id();
        self.tasks.lock().expect("lock").insert(
            task.id.clone(),
            Entry {
                pid,
                exit: None,
                recovered: false,
            },
        );
        let (tasks, id) = (self.tasks.clone(), task.id.clone());
        std::thread::spawn(move || {
            let code = child.wait().ok().and_then(|status| status.code()).unwrap_or(-1);
            if let Some(entry) = tasks.lock().expect("lock").get_mut(&id) {
                entry.exit = Some(code);
            }
        });
        let handle = d::TaskHandle {
            version: 1,
            config: Some(task),
            state: d::TaskState::Running as i32,
            driver_state: pid.to_string().into(),
        };
        Ok(Response::new(d::StartTaskResponse {
            handle: Some(handle),
            ..Default::default()
        }))
    }

    async fn wait_task(&self, request: Request<d::WaitTaskRequest>) -> Answer<d::WaitTaskResponse> {
        let exit_code = self.ended(&request.into_inner().task_id).await?;
        let result = Some(d::ExitResult {
            exit_code,
            ..Default::default()
        });
        Ok(Response::new(d::WaitTaskResponse {
            result,
            err: String::new(),
        }))
    }

    async fn stop_task(&self, request: Request<d::StopTaskRequest>) -> Answer<d::StopTaskResponse> {
        let request = request.into_inner();
        let grace = request.timeout.map_or(0, |timeout| timeout.seconds as u64);
        self.kill(&request.task_id, Signal::TERM)?;
        if tokio::time::timeout(Duration::from_secs(grace), self.ended(&request.task_id))
            .await
            .is_err()
        {
            self.kill(&request.task_id, Signal::KILL)?;
        }
        Ok(Response::new(d::StopTaskResponse {}))
    }

    async fn destroy_task(&self, request: Request<d::DestroyTaskRequest>) -> Answer<d::DestroyTaskResponse> {
        let id = request.into_inner().task_id;
        self.kill(&id, Signal::KILL)?;
        self.tasks.lock().expect("lock").remove(&id);
        Ok(Response::new(d::DestroyTaskResponse {}))
    }

    async fn inspect_task(&self, request: Request<d::InspectTaskRequest>) -> Answer<d::InspectTaskResponse> {
        let id = request.into_inner().task_id;
        let exit = self.task(&id)?.exit;
        let state = if exit.is_none() {
            d::TaskState::Running
        } else {
            d::TaskState::Exited
        };
        let result = Some(d::ExitResult {
            exit_code: exit.unwrap_or(0),
            ..Default::default()
        });
        let time = Some(prost_types::Timestamp::default());
        let task = d::TaskStatus {
            id,
            name: String::new(),
            state: state as i32,
            started_at: time,
            completed_at: time,
            result,
        };
        Ok(Response::new(d::InspectTaskResponse {
            task: Some(task),
            ..Default::default()
        }))
    }

    type TaskStatsStream = Boxed<d::TaskStatsResponse>;
    async fn task_stats(&self, _: Request<d::TaskStatsRequest>) -> Answer<Self::TaskStatsStream> {
        Ok(Response::new(Box::pin(tokio_stream::pending())))
    }

    type TaskEventsStream = Boxed<d::DriverTaskEvent>;
    async fn task_events(&self, _: Request<d::TaskEventsRequest>) -> Answer<Self::TaskEventsStream> {
        let event = d::DriverTaskEvent {
            message: "Pulling nothing at all".into(),
            ..Default::default()
        };
        Ok(Response::new(Box::pin(
            tokio_stream::once(Ok(event)).chain(tokio_stream::pending()),
        )))
    }

    async fn signal_task(&self, request: Request<d::SignalTaskRequest>) -> Answer<d::SignalTaskResponse> {
        let request = request.into_inner();
        match request.signal.as_str() {
            "SIGUSR1" => self.kill(&request.task_id, Signal::USR1)?,
            "SIGTERM" => self.kill(&request.task_id, Signal::TERM)?,
            other => return Err(Status::invalid_argument(format!("Invalid signal: {other}"))),
        }
        Ok(Response::new(d::SignalTaskResponse {}))
    }

    async fn exec_task(&self, request: Request<d::ExecTaskRequest>) -> Answer<d::ExecTaskResponse> {
        let argv = request.into_inner().command;
        let output = Command::new(&argv[0]).args(&argv[1..]).output()?;
        let result = Some(d::ExitResult {
            exit_code: output.status.code().unwrap_or(-1),
            ..Default::default()
        });
        Ok(Response::new(d::ExecTaskResponse {
            stdout: output.stdout,
            stderr: output.stderr,
            result,
        }))
    }

    type ExecTaskStreamingStream = Boxed<d::ExecTaskStreamingResponse>;
    /// Echoes until stdin is closed, then exits with 3.
    async fn exec_task_streaming(
        &self,
        request: Request<Streaming<d::ExecTaskStreamingRequest>>,
    ) -> Answer<Self::ExecTaskStreamingStream> {
        let mut requests = request.into_inner();
        if requests.message().await?.is_none_or(|first| first.setup.is_none()) {
            return Err(Status::invalid_argument("first message should always be setup"));
        }
        let (tx, rx) = tokio::sync::mpsc::channel(8);
        tokio::spawn(async move {
            while let Ok(Some(message)) = requests.message().await {
                let Some(stdin) = message.stdin else { continue };
                let close = stdin.close;
                tx.send(Ok(d::ExecTaskStreamingResponse {
                    stdout: Some(stdin),
                    ..Default::default()
                }))
                .await
                .ok();
                if close {
                    let result = Some(d::ExitResult {
                        exit_code: 3,
                        ..Default::default()
                    });
                    tx.send(Ok(d::ExecTaskStreamingResponse {
                        exited: true,
                        result,
                        ..Default::default()
                    }))
                    .await
                    .ok();
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(rx))))
    }

    async fn create_network(&self, _: Request<d::CreateNetworkRequest>) -> Answer<d::CreateNetworkResponse> {
        Err(Status::unimplemented("networks"))
    }

    async fn destroy_network(&self, _: Request<d::DestroyNetworkRequest>) -> Answer<d::DestroyNetworkResponse> {
        Err(Status::unimplemented("networks"))
    }

    async fn shutdown(&self, _: Request<d::ShutdownRequest>) -> Answer<d::ShutdownResponse> {
        Ok(Response::new(d::ShutdownResponse {}))
    }
}

struct Controller(tokio::sync::watch::Sender<bool>);

#[tonic::async_trait]
impl plugin::grpc_controller_server::GrpcController for Controller {
    async fn shutdown(&self, _: Request<plugin::Empty>) -> Answer<plugin::Empty> {
        self.0.send_replace(true);
        Ok(Response::new(plugin::Empty {}))
    }
}

#[tokio::main]
async fn main() {
    let (key, cookie) = HOST_ENV[0];
    if std::env::var(key).as_deref() != Ok(cookie) {
        eprintln!("this is a plugin, started by a host");
        std::process::exit(1);
    }
    let path = std::env::temp_dir().join(format!("plugin{}", std::process::id()));
    let listener = tokio::net::UnixListener::bind(&path).expect("bind");
    println!("1|2|unix|{}|grpc|", path.display());
    std::io::stdout().flush().expect("stdout");
    let (tx, mut stop) = tokio::sync::watch::channel(false);
    let stand_in = StandIn::default();
    let server = tonic::transport::Server::builder()
        .add_service(base::base_plugin_server::BasePluginServer::new(stand_in.clone()))
        .add_service(DriverServer::new(stand_in))
        .add_service(plugin::grpc_controller_server::GrpcControllerServer::new(Controller(
            tx,
        )))
        .serve_with_incoming(UnixListenerStream::new(listener));
    tokio::select! {
        served = server => served.expect("serve"),
        _ = stop.wait_for(|stop| *stop) => {}
    }
    std::fs::remove_file(path).ok();
}

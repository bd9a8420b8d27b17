//! A plugin served for a test, and a plain gRPC client.

use super::*;

pub(super) struct Served {
    pub(super) dir: tempfile::TempDir,
    pub(super) stdout: Stdout,
    pub(super) stop: Option<oneshot::Sender<()>>,
    end: JoinHandle<Result<(), ServeError>>,
    pub(super) tasks: Arc<FakeTasks>,
}

#[derive(Clone, Default)]
pub(super) struct Stdout(Arc<std::sync::Mutex<Vec<u8>>>);
impl Write for Stdout {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(buf);
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stdout {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

pub(super) fn launch(dir: &Path) -> Launch {
    Launch {
        socket_dir: dir.to_owned(),
        socket_group: None,
        socket_dir_is_given: true,
        multiplex_asked: false,
        protocol_offered: true,
    }
}

pub(super) async fn serve() -> Served {
    serve_in(tempfile::tempdir().unwrap()).await
}

pub(super) async fn serve_in(dir: tempfile::TempDir) -> Served {
    let (doors, tasks, verdicts) = doors();
    let stdout = Stdout::default();
    let (stop, stopped) = oneshot::channel::<()>();
    let (launch, mut out) = (launch(dir.path()), stdout.clone());
    let end = tokio::spawn(async move {
        let _verdicts = verdicts;
        let shutdown = async move {
            if stopped.await.is_err() {
                std::future::pending().await
            }
        };
        Plugin::new(doors).serve(&launch, &mut out, shutdown).await
    });
    while !stdout.text().ends_with('\n') {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Served {
        dir,
        stdout,
        stop: Some(stop),
        end,
        tasks,
    }
}

impl Served {
    pub(super) fn socket(&self) -> PathBuf {
        self.stdout.text().split('|').nth(3).unwrap().into()
    }

    pub(super) async fn client(&self) -> Grpc<Channel> {
        let channel = Endpoint::from_shared(format!("unix://{}", self.socket().display())).unwrap();
        Grpc::new(channel.connect().await.unwrap())
    }

    pub(super) async fn ended(self) -> Duration {
        let begun = Instant::now();
        tokio::time::timeout(Duration::from_secs(5), self.end)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        begun.elapsed()
    }
}

pub(super) async fn call<Q, A>(client: &mut Grpc<Channel>, path: &'static str, request: Q) -> Result<A, Status>
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + Default + 'static,
{
    client.ready().await.unwrap();
    let codec = ProstCodec::<Q, A>::default();
    client
        .unary(Request::new(request), PathAndQuery::from_static(path), codec)
        .await
        .map(tonic::Response::into_inner)
}

pub(super) async fn info(client: &mut Grpc<Channel>) -> base_pb::PluginInfoResponse {
    call(
        client,
        "/hashicorp.nomad.plugins.base.proto.BasePlugin/PluginInfo",
        base_pb::PluginInfoRequest {},
    )
    .await
    .unwrap()
}

pub(super) async fn health(client: &mut Grpc<Channel>, service: &str) -> Result<i32, Status> {
    let request = tonic_health::pb::HealthCheckRequest {
        service: service.into(),
    };
    let answer: tonic_health::pb::HealthCheckResponse = call(client, "/grpc.health.v1.Health/Check", request).await?;
    Ok(answer.status)
}

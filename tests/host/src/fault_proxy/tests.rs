//! The proxy before a server that counts.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::net::UnixListener;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status};

use super::{Fate, FaultProxy, Loss, Rule, Which};
use crate::wire::health::health_check_response::ServingStatus;
use crate::wire::health::health_client::HealthClient;
use crate::wire::health::health_server::{Health, HealthServer};
use crate::wire::health::{HealthCheckRequest, HealthCheckResponse};
use crate::within::within;

const SOON: Duration = Duration::from_secs(10);

/// Says `Serving` to the first call and `NotServing` to all later ones; of `absent` it knows nothing.
#[derive(Clone, Default)]
struct Counting(Arc<AtomicU32>);

fn status(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for Counting {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if request.get_ref().service == "absent" {
            return Err(Status::not_found("absent"));
        }
        let earlier = self.0.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(status(match earlier {
            0 => ServingStatus::Serving,
            _ => ServingStatus::NotServing,
        })))
    }

    type WatchStream = ReceiverStream<Result<HealthCheckResponse, Status>>;

    /// One message, then nothing, without an end.
    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (tx, rx) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            tx.send(Ok(status(ServingStatus::Serving))).await.ok();
            tx.closed().await;
        });
        Ok(Response::new(ReceiverStream::new(rx)))
    }
}

struct Scene {
    proxy: FaultProxy,
    served: Counting,
    client: HealthClient<Channel>,
    _server: tokio::task::JoinSet<()>,
    _dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Scene {
        let dir = tempfile::tempdir().expect("directory");
        let (far, near): (PathBuf, PathBuf) = (dir.path().join("far.sock"), dir.path().join("near.sock"));
        let served = Counting::default();
        let listener = UnixListener::bind(&far).expect("listener");
        let serve = Server::builder()
            .add_service(HealthServer::new(served.clone()))
            .serve_with_incoming(UnixListenerStream::new(listener));
        let mut server = tokio::task::JoinSet::new();
        server.spawn(async move { serve.await.expect("server") });
        let proxy = FaultProxy::start(&near, &far).expect("proxy");
        let endpoint = Endpoint::from_shared(format!("unix://{}", near.display())).expect("endpoint");
        Scene {
            proxy,
            served,
            client: HealthClient::new(endpoint.connect_lazy()),
            _server: server,
            _dir: dir,
        }
    }

    fn calls(&self) -> u32 {
        self.served.0.load(Ordering::SeqCst)
    }

    async fn check(&self, service: &str) -> Result<ServingStatus, Status> {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let mut client = self.client.clone();
        let answer = within(SOON, "Check", client.check(request)).await?;
        Ok(answer.into_inner().status())
    }

    /// The call that is to fare ill, made.
    async fn check_under(&self, fate: Fate) -> Result<ServingStatus, Status> {
        self.proxy.arm(Rule {
            method: "Health/Check",
            needle: "me".into(),
            fate,
        });
        self.check("me").await
    }
}

#[tokio::test]
async fn without_rules_answers_errors_and_streams_pass() {
    let scene = Scene::new();
    assert_eq!(scene.check("me").await.expect("answer"), ServingStatus::Serving);
    assert_eq!(scene.check("absent").await.expect_err("absent").code(), Code::NotFound);
    let mut client = scene.client.clone();
    let request = HealthCheckRequest { service: "me".into() };
    let mut stream = within(SOON, "Watch", client.watch(request))
        .await
        .expect("stream")
        .into_inner();
    let first = within(SOON, "message", stream.message()).await.expect("message");
    assert_eq!(first.expect("message").status(), ServingStatus::Serving);
    assert!(scene.proxy.applied().is_empty());
}

#[tokio::test]
async fn a_rule_is_for_one_call_with_its_name_in_it() {
    let scene = Scene::new();
    scene.proxy.arm(Rule {
        method: "Health/Check",
        needle: "me".into(),
        fate: Fate::LoseRequest(Loss::Reset),
    });
    scene.check("other").await.expect("not the one");
    scene.check("me").await.expect_err("lost");
    scene.check("me").await.expect("the rule is used up");
    assert_eq!(scene.proxy.applied()["request lost"], 1);
    scene.proxy.arm(Rule {
        method: "Health/Watch",
        needle: "me".into(),
        fate: Fate::LoseRequest(Loss::Reset),
    });
    scene.check("me").await.expect("another method");
    assert_eq!((scene.proxy.disarm("me"), scene.proxy.disarm("me")), (1, 0));
}

#[tokio::test]
async fn a_lost_request_is_not_made_and_a_lost_answer_was() {
    let scene = Scene::new();
    let lost = scene.check_under(Fate::LoseRequest(Loss::Reset)).await;
    assert_eq!((lost.expect_err("lost").code(), scene.calls()), (Code::Internal, 0));
    let lost = scene.check_under(Fate::LoseAnswer(Loss::Reset)).await;
    assert_eq!((lost.expect_err("lost").code(), scene.calls()), (Code::Internal, 1));
}

#[tokio::test]
async fn silence_lasts_until_the_caller_gives_up() {
    let scene = Scene::new();
    for (fate, calls) in [
        (Fate::LoseRequest(Loss::Silent), 0),
        (Fate::LoseAnswer(Loss::Silent), 1),
    ] {
        let given_up = tokio::time::timeout(Duration::from_millis(300), scene.check_under(fate)).await;
        assert!(given_up.is_err(), "{given_up:?}");
        assert_eq!(scene.calls(), calls);
    }
    scene.check("me").await.expect("the connection is as before");
}

#[tokio::test]
async fn a_repeated_call_is_made_twice_and_answered_once() {
    for (which, said) in [
        (Which::First, ServingStatus::Serving),
        (Which::Second, ServingStatus::NotServing),
    ] {
        let scene = Scene::new();
        assert_eq!(scene.check_under(Fate::Twice(which)).await.expect("answer"), said);
        assert_eq!(scene.calls(), 2);
    }
}

#[tokio::test]
async fn a_delay_delays_and_no_more() {
    let scene = Scene::new();
    let by = Duration::from_millis(200);
    for fate in [Fate::DelayRequest(by), Fate::DelayAnswer(by)] {
        let begun = Instant::now();
        scene.check_under(fate).await.expect("answer");
        assert!(begun.elapsed() >= by);
    }
    let begun = Instant::now();
    scene.proxy.hold(by);
    scene.check("other").await.expect("answer");
    assert!(begun.elapsed() >= by);
    assert_eq!(scene.calls(), 3);
}

#[tokio::test]
async fn a_cut_takes_all_calls_along_and_the_next_connects_anew() {
    let scene = Scene::new();
    for (fate, calls) in [(Fate::CutBefore, 0), (Fate::CutAfter, 1)] {
        let mut client = scene.client.clone();
        let request = HealthCheckRequest { service: "me".into() };
        let mut stream = within(SOON, "Watch", client.watch(request))
            .await
            .expect("stream")
            .into_inner();
        within(SOON, "message", stream.message()).await.expect("message");
        scene.check_under(fate).await.expect_err("cut");
        assert_eq!(scene.calls(), calls);
        within(SOON, "the end of the stream", stream.message())
            .await
            .expect_err("cut");
    }
    scene.check("me").await.expect("a new connection");
}

#[tokio::test]
async fn a_cut_of_the_streams_leaves_the_connection() {
    let scene = Scene::new();
    let mut client = scene.client.clone();
    let request = HealthCheckRequest { service: "me".into() };
    let mut stream = within(SOON, "Watch", client.watch(request))
        .await
        .expect("stream")
        .into_inner();
    within(SOON, "message", stream.message()).await.expect("message");
    scene.proxy.cut_streams();
    within(SOON, "the end of the stream", stream.message())
        .await
        .expect_err("cut");
    scene.check("me").await.expect("answer");
    assert_eq!(scene.proxy.applied()["stream cut"], 1);
}

#[tokio::test]
async fn refused_connections_are_refused_for_their_time_only() {
    let scene = Scene::new();
    scene.check("me").await.expect("answer");
    scene.proxy.refuse(Duration::from_millis(300));
    let refused = async {
        // The cut takes a moment; from then on there is nobody to connect to.
        while scene.check("me").await.is_ok() {}
    };
    within(SOON, "a refusal", refused).await;
    let back = async {
        while scene.check("me").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(SOON, "the return", back).await;
}

//! Calls to containerd carry the trace context, so that containerd's own spans join the tree.

use std::sync::{Arc, Mutex, PoisonError};

use testhost::otlp::Collector;
use testhost::rig::Rig;
use testhost::task::TaskSpec;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::service::InterceptorLayer;
use tonic::{Request, Status};

use crate::scene::{PATIENCE, opts};

type Headers = Arc<Mutex<Vec<(Option<String>, Option<String>)>>>;

/// A containerd that knows no call, but notes the headers of each.
fn deaf(socket: &std::path::Path, heard: &Headers) -> tokio::task::JoinHandle<()> {
    let listener = UnixListener::bind(socket).expect("socket");
    let heard = heard.clone();
    let note = move |request: Request<()>| -> Result<Request<()>, Status> {
        let text = |key| {
            request
                .metadata()
                .get(key)
                .and_then(|v| v.to_str().ok())
                .map(str::to_owned)
        };
        heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((text("traceparent"), text("containerd-namespace")));
        Ok(request)
    };
    tokio::spawn(async move {
        let (_, health) = tonic_health::server::health_reporter();
        let server = tonic::transport::Server::builder()
            .layer(InterceptorLayer::new(note))
            .add_service(health);
        server
            .serve_with_incoming(UnixListenerStream::new(listener))
            .await
            .expect("server");
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_to_containerd_carry_the_trace_of_the_start() {
    let dir = tempfile::tempdir().expect("directory");
    let socket = dir.path().join("deaf.sock");
    let heard = Headers::default();
    let server = deaf(&socket, &heard);
    let collector = Collector::start().await.expect("collector");
    let mut opts = opts();
    opts.config = serde_json::json!({ "containerd_address": socket.display().to_string() });
    opts.launch = opts.launch.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint());
    let rig = Rig::with(opts).await.expect("rig");
    let refused = rig.start(TaskSpec::new("example.com/nothing:1")).await;
    assert!(refused.is_err(), "that containerd can do nothing");
    let root = collector.wait_named(PATIENCE, "nomad.StartTask").await.expect("span");
    let trace: String = root.trace_id.iter().map(|b| format!("{b:02x}")).collect();
    let calls = collector.wait_for(PATIENCE, |spans| {
        let calls: Vec<_> = spans
            .iter()
            .filter(|s| s.trace_id == root.trace_id && s.name == "containerd.call")
            .cloned()
            .collect();
        (!calls.is_empty()).then_some(calls)
    });
    let calls = calls.await.expect("spans of calls");
    let heard = heard.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for call in &calls {
        let id: String = call.span_id.iter().map(|b| format!("{b:02x}")).collect();
        let wanted = format!("00-{trace}-{id}-01");
        let found = heard
            .iter()
            .find(|(parent, _)| parent.as_deref() == Some(wanted.as_str()));
        let (_, namespace) = found.unwrap_or_else(|| panic!("no call with traceparent {wanted}: {heard:?}"));
        assert_eq!(namespace.as_deref(), Some(rig.namespace()));
    }
    server.abort();
}

//! The server on the socket: what it answers besides Nomad's services, and what cannot disturb it.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use testhost::plugin::Plugin;
use testhost::wire::driver::{InspectTaskRequest, StartTaskRequest, TaskConfig, TaskEventsRequest, WaitTaskRequest};
use testhost::wire::health::HealthCheckRequest;
use testhost::wire::health::health_check_response::ServingStatus;
use testhost::within::within;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request};

use crate::{SECOND, SOON, configured, home};

async fn unary(plugin: &Plugin, path: &'static str) -> Code {
    let mut grpc = tonic::client::Grpc::new(plugin.connection().channel());
    grpc.ready().await.expect("connection");
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let answer = grpc
        .unary(Request::new(()), PathAndQuery::from_static(path), codec)
        .await;
    answer.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test]
async fn raw_and_garbage_connections_disturb_nobody() {
    let home = home();
    let plugin = configured(&home).await;
    for bytes in [
        &b""[..],
        b"\0",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &[0xff; 70_000],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff",
    ] {
        let mut raw = UnixStream::connect(plugin.socket()).expect("connect");
        // The plugin may close as soon as it sees that this is no HTTP/2.
        raw.write_all(bytes).ok();
    }
    let held: Vec<_> = (0..50)
        .map(|_| UnixStream::connect(plugin.socket()).expect("connect"))
        .collect();
    let mut others = Vec::new();
    for _ in 0..5 {
        others.push(plugin.connect().await.expect("connection"));
    }
    let calls = others.iter().map(|other| {
        let mut base = other.base();
        tokio::spawn(async move {
            base.plugin_info(testhost::wire::base::PluginInfoRequest {})
                .await
                .map(drop)
        })
    });
    for call in calls.collect::<Vec<_>>() {
        within(SECOND, "PluginInfo", call)
            .await
            .expect("joined")
            .expect("PluginInfo");
    }
    drop((held, others));
    within(SECOND, "PluginInfo", plugin.info())
        .await
        .expect("the first connection still works");
}

#[tokio::test]
async fn health_is_that_of_the_service_plugin() {
    let home = home();
    let plugin = configured(&home).await;
    let ask = async |service: &str| {
        plugin
            .health()
            .check(HealthCheckRequest {
                service: service.into(),
            })
            .await
    };
    assert_eq!(
        ask("plugin").await.expect("Check").into_inner().status(),
        ServingStatus::Serving
    );
    assert_eq!(
        ask("another").await.expect_err("unknown service").code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented_and_harms_nobody() {
    let home = home();
    let plugin = configured(&home).await;
    for path in [
        "/hashicorp.nomad.plugins.drivers.proto.Driver/OfTomorrow",
        "/hashicorp.nomad.plugins.base.proto.BasePlugin/OfTomorrow",
        "/no.such.Service/Method",
    ] {
        assert_eq!(unary(&plugin, path).await, Code::Unimplemented, "{path}");
    }
    plugin.info().await.expect("PluginInfo");
}

#[tokio::test]
async fn the_streams_of_the_host_stay_open_and_silent() {
    let home = home();
    let plugin = configured(&home).await;
    let mut driver = plugin.driver();
    let events = tokio::spawn(async move {
        let mut stream = driver
            .task_events(TaskEventsRequest {})
            .await
            .expect("TaskEvents")
            .into_inner();
        stream.message().await
    });
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(plugin.connection().aux_open(), "GRPCStdio or GRPCBroker has ended");
    assert_eq!(plugin.connection().aux_messages(), 0);
    assert!(
        !events.is_finished(),
        "TaskEvents has ended: Nomad would open it again without a pause"
    );
    events.abort();
}

#[tokio::test]
async fn a_request_of_six_mebibytes_is_decoded() {
    let home = home();
    let plugin = configured(&home).await;
    let env = (0..6).map(|n| (format!("V{n}"), "x".repeat(1 << 20))).collect();
    let task = TaskConfig {
        id: "a/web/b".into(),
        env,
        ..Default::default()
    };
    let status = plugin
        .driver()
        .start_task(StartTaskRequest { task: Some(task) })
        .await
        .expect_err("no image");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(status.message().contains("image"), "{status:?}");
}

#[tokio::test]
async fn ten_thousand_cancelled_calls_do_not_close_the_connection() {
    let home = home();
    let plugin = configured(&home).await;
    let begun = Instant::now();
    for _ in 0..10_000 {
        let mut driver = plugin.driver();
        let mut call = Box::pin(async move { driver.wait_task(WaitTaskRequest { task_id: "none".into() }).await });
        // Polled once: the request is on its way, then it is cancelled.
        tokio::select! { biased; _ = &mut call => {}, () = tokio::task::yield_now() => {} }
    }
    within(SOON, "PluginInfo", plugin.info())
        .await
        .unwrap_or_else(|e| panic!("after {:?}: {e:#}", begun.elapsed()));
}

#[tokio::test]
async fn a_dropped_connection_ends_nothing() {
    let home = home();
    let plugin = configured(&home).await;
    for _ in 0..3 {
        drop(plugin.connect().await.expect("connection"));
    }
    tokio::time::sleep(SECOND).await;
    let later = plugin.connect().await.expect("connection");
    let status = later
        .driver()
        .inspect_task(InspectTaskRequest { task_id: "none".into() })
        .await
        .expect_err("no task");
    assert_eq!(status.code(), Code::NotFound);
    assert!(plugin.process().exited().is_none());
}

//! The server on a real socket, asked by a plain gRPC client.

use super::*;
use crate::plugin::fake::{FakeTasks, doors};
use crate::plugin::pb::base as base_pb;
use crate::plugin::pb::driver as pb;
use crate::plugin::pb::go_plugin;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

#[path = "served.rs"]
mod served;
use served::*;

const SHUTDOWN: &str = "/plugin.GRPCController/Shutdown";
const WAIT: &str = "/hashicorp.nomad.plugins.drivers.proto.Driver/WaitTask";
const START: &str = "/hashicorp.nomad.plugins.drivers.proto.Driver/StartTask";

#[tokio::test]
async fn one_line_then_the_services_answer() {
    let served = serve().await;
    let mut client = served.client().await;
    assert_eq!(info(&mut client).await.name, "containerd-driver");
    assert_eq!(
        (
            health(&mut client, "plugin").await.unwrap(),
            health(&mut client, "").await.unwrap()
        ),
        (1, 1)
    );
    assert_eq!(health(&mut client, "other").await.unwrap_err().code(), Code::NotFound);
    let unknown = call::<(), ()>(&mut client, "/hashicorp.nomad.plugins.drivers.proto.Driver/Nope", ()).await;
    assert_eq!(unknown.unwrap_err().code(), Code::Unimplemented);
    let line = served.stdout.text();
    assert!(
        line.starts_with("1|2|unix|") && line.ends_with(".sock|grpc|\n") && line.matches('\n').count() == 1,
        "{line}"
    );
}

#[tokio::test]
async fn controller_ends_it_at_once_whatever_is_in_flight() {
    let served = serve().await;
    let socket = served.socket();
    let mut client = served.client().await;
    let mut waiting = client.clone();
    let waiter = tokio::spawn(async move {
        call::<_, pb::WaitTaskResponse>(&mut waiting, WAIT, pb::WaitTaskRequest { task_id: "t".into() }).await
    });
    while served.tasks.asked().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let parting: Result<go_plugin::Empty, _> = call(&mut client, SHUTDOWN, go_plugin::Empty {}).await;
    assert!(parting.is_ok(), "{parting:?}");
    let tasks = served.tasks.clone();
    assert!(served.ended().await < Duration::from_secs(1));
    assert!(!socket.exists());
    assert!(waiter.await.unwrap().is_err());
    // The handler is gone too: only the test holds the doors.
    assert_eq!(Arc::strong_count(&tasks), 1);
}

#[tokio::test]
async fn shutdown_future_ends_it_and_removes_the_socket() {
    let mut served = serve().await;
    let socket = served.socket();
    served.stop.take().unwrap().send(()).unwrap();
    assert!(served.ended().await < Duration::from_secs(1));
    assert!(!socket.exists());
}

#[tokio::test]
async fn survives_raw_connections_and_garbage() {
    let served = serve().await;
    for bytes in [
        &b""[..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xff; 4096],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff",
    ] {
        let mut raw = UnixStream::connect(served.socket()).await.unwrap();
        raw.write_all(bytes).await.unwrap();
        drop(raw);
    }
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(served.client().await);
    }
    for client in &mut clients {
        info(client).await;
    }
    drop(clients);
    info(&mut served.client().await).await;
}

#[tokio::test]
async fn hundreds_of_waiters_and_their_cancellation_harm_nobody() {
    let served = serve().await;
    let mut client = served.client().await;
    let waiters: Vec<_> = (0..500)
        .map(|n| {
            let mut client = client.clone();
            let request = pb::WaitTaskRequest { task_id: n.to_string() };
            tokio::spawn(async move { call::<_, pb::WaitTaskResponse>(&mut client, WAIT, request).await })
        })
        .collect();
    while served.tasks.asked().len() < 500 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let begun = Instant::now();
    info(&mut client).await;
    assert!(begun.elapsed() < Duration::from_secs(1));
    waiters.iter().for_each(JoinHandle::abort);
    for waiter in waiters {
        assert!(waiter.await.unwrap_err().is_cancelled());
    }
    // The same connection, not a new one.
    info(&mut client).await;
}

#[tokio::test]
async fn large_task_is_decoded() {
    let served = serve().await;
    let mut client = served.client().await;
    let env = (0..6).map(|n| (n.to_string(), "x".repeat(1 << 20))).collect();
    let task = pb::TaskConfig {
        id: "t".into(),
        env,
        msgpack_driver_config: vec![0x80],
        ..Default::default()
    };
    let start =
        async { call::<_, pb::StartTaskResponse>(&mut client, START, pb::StartTaskRequest { task: Some(task) }).await };
    let asked = async {
        while !served.tasks.asked().iter().any(|l| l.starts_with("Start t")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        answer = start => panic!("answered: {answer:?}"),
        () = asked => {}
    }
}

#[tokio::test]
async fn stale_sockets_go_and_live_ones_stay() {
    let dir = tempfile::tempdir().unwrap();
    // No process has this id: the kernel's greatest is 2^22.
    let stale = dir.path().join("containerd-driver-4194305-00000000.sock");
    let listening = dir.path().join("containerd-driver-4194306-00000000.sock");
    let ours = dir
        .path()
        .join(format!("containerd-driver-{}-00000000.sock", std::process::id()));
    let foreign = dir.path().join("plugin123");
    for path in [&stale, &ours, &foreign] {
        drop(std::os::unix::net::UnixListener::bind(path).unwrap());
    }
    let _live = std::os::unix::net::UnixListener::bind(&listening).unwrap();
    let served = serve_in(dir).await;
    assert!(!stale.exists() && listening.exists() && ours.exists() && foreign.exists());
    assert_eq!(served.socket().parent(), Some(served.dir.path()));
}

#[tokio::test]
async fn too_long_a_directory_is_an_error_if_the_host_gave_it() {
    let dir = tempfile::tempdir().unwrap();
    let long = dir.path().join("d".repeat(100));
    std::fs::create_dir(&long).unwrap();
    let mut given = launch(&long);
    let never = || std::future::pending::<()>();
    let outcome = Plugin::new(doors().0).serve(&given, &mut io::sink(), never()).await;
    assert!(outcome.unwrap_err().to_string().contains("PLUGIN_UNIX_SOCKET_DIR"));
    given.socket_dir_is_given = false;
    let out = Stdout::default();
    let ready = std::future::ready(());
    Plugin::new(doors().0)
        .serve(&given, &mut out.clone(), ready)
        .await
        .unwrap();
    assert!(out.text().starts_with("1|2|unix|/tmp/containerd-driver-"));
}

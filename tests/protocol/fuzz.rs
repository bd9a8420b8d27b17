//! Messages that no host should send. Each is answered with an error that does not look like the end of the plugin, or served.

use std::fmt::Debug;
use std::time::Duration;

use prost_types::{Any, Duration as ProtoDuration};
use testhost::plugin::Plugin;
use testhost::wire::driver::*;
use testhost::within::within;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Response, Status};

use crate::{configured, home};

/// A removal without a containerd to ask may take this long.
const LIMIT: Duration = Duration::from_secs(20);

/// `Unavailable` and `Cancelled` make the host wait for the plugin's death; `Unknown` without a text helps nobody.
#[track_caller]
fn sane<T: Debug>(what: &str, answer: Result<Response<T>, Status>) -> Code {
    match answer {
        Ok(_) => Code::Ok,
        Err(status) => {
            assert!(
                ![Code::Unavailable, Code::Cancelled].contains(&status.code()),
                "{what}: {status:?}"
            );
            assert!(
                !status.message().is_empty(),
                "{what}: an error without a text: {status:?}"
            );
            status.code()
        }
    }
}

async fn unharmed(plugin: &Plugin) {
    plugin.info().await.expect("PluginInfo");
    assert!(plugin.process().exited().is_none());
    let panics: Vec<String> = plugin
        .stderr_lines()
        .into_iter()
        .filter(|line| line.contains("panic"))
        .collect();
    assert!(panics.is_empty(), "{panics:?}");
}

#[tokio::test]
async fn null_and_empty_messages_are_refused_one_by_one() {
    let home = home();
    let plugin = configured(&home).await;
    let d = || plugin.driver();
    assert_eq!(
        sane("no task", d().start_task(StartTaskRequest { task: None }).await),
        Code::InvalidArgument
    );
    assert_eq!(
        sane(
            "no id",
            d().start_task(StartTaskRequest {
                task: Some(TaskConfig::default())
            })
            .await
        ),
        Code::InvalidArgument
    );
    let bare = TaskConfig {
        id: "x".into(),
        ..Default::default()
    };
    assert_eq!(
        sane(
            "no image",
            d().start_task(StartTaskRequest {
                task: Some(bare.clone())
            })
            .await
        ),
        Code::InvalidArgument
    );
    let garbage = TaskConfig {
        msgpack_driver_config: vec![0xc1, 0xff, 0x93],
        ..bare.clone()
    };
    assert_eq!(
        sane(
            "garbage",
            d().start_task(StartTaskRequest { task: Some(garbage) }).await
        ),
        Code::InvalidArgument
    );
    let deep = TaskConfig {
        msgpack_driver_config: vec![0x91; 200_000],
        ..bare.clone()
    };
    assert_eq!(
        sane("deep", d().start_task(StartTaskRequest { task: Some(deep) }).await),
        Code::InvalidArgument
    );
    let handle = |config, version, state: &[u8]| {
        let handle = TaskHandle {
            version,
            config,
            state: 9,
            driver_state: state.to_vec(),
        };
        RecoverTaskRequest {
            task_id: String::new(),
            handle: Some(handle),
        }
    };
    let recoveries = [
        (
            "null handle",
            RecoverTaskRequest {
                task_id: "x".into(),
                handle: None,
            },
        ),
        ("null config", handle(None, 1, b"")),
        ("empty id", handle(Some(TaskConfig::default()), 1, b"")),
        ("no state", handle(Some(bare.clone()), 1, b"")),
        ("garbage state", handle(Some(bare.clone()), 1, &[0xc1; 40])),
        ("deep state", handle(Some(bare.clone()), 1, &[0x91; 200_000])),
        ("version of tomorrow", handle(Some(bare.clone()), 99, b"\x80")),
        ("negative version", handle(Some(bare), -1, b"\x80")),
    ];
    for (what, request) in recoveries {
        let code = sane(what, within(LIMIT, what, d().recover_task(request)).await);
        assert_ne!(code, Code::Ok, "{what}");
    }
    unharmed(&plugin).await;
}

#[tokio::test]
async fn ids_that_are_unknown_are_answered_and_not_waited_for() {
    let home = home();
    let plugin = configured(&home).await;
    for id in ["", "none", "a/b/c", "../../etc", "\0", "🦀"] {
        let task_id = id.to_owned();
        let d = || plugin.driver();
        let timeouts = [
            None,
            Some(ProtoDuration { seconds: -5, nanos: -1 }),
            Some(ProtoDuration {
                seconds: i64::MAX,
                nanos: i32::MAX,
            }),
        ];
        for timeout in timeouts {
            let request = StopTaskRequest {
                task_id: task_id.clone(),
                timeout,
                signal: String::new(),
            };
            assert_eq!(
                sane("StopTask", within(LIMIT, "StopTask", d().stop_task(request)).await),
                Code::NotFound,
                "{id:?}"
            );
        }
        let request = WaitTaskRequest {
            task_id: task_id.clone(),
        };
        assert_eq!(
            sane("WaitTask", within(LIMIT, "WaitTask", d().wait_task(request)).await),
            Code::NotFound,
            "{id:?}"
        );
        let request = InspectTaskRequest {
            task_id: task_id.clone(),
        };
        assert_eq!(
            sane(
                "InspectTask",
                within(LIMIT, "InspectTask", d().inspect_task(request)).await
            ),
            Code::NotFound,
            "{id:?}"
        );
        let request = SignalTaskRequest {
            task_id: task_id.clone(),
            signal: "SIGHUP".into(),
        };
        assert_eq!(
            sane(
                "SignalTask",
                within(LIMIT, "SignalTask", d().signal_task(request)).await
            ),
            Code::NotFound,
            "{id:?}"
        );
        let request = TaskStatsRequest {
            task_id: task_id.clone(),
            collection_interval: None,
        };
        assert_eq!(
            sane("TaskStats", within(LIMIT, "TaskStats", d().task_stats(request)).await),
            Code::NotFound,
            "{id:?}"
        );
        let request = DestroyTaskRequest {
            task_id: task_id.clone(),
            force: true,
        };
        sane(
            "DestroyTask",
            within(LIMIT, "DestroyTask", d().destroy_task(request)).await,
        );
        let request = ExecTaskRequest {
            task_id: task_id.clone(),
            command: Vec::new(),
            timeout: None,
        };
        assert_ne!(
            sane("ExecTask", within(LIMIT, "ExecTask", d().exec_task(request)).await),
            Code::Ok,
            "{id:?}"
        );
        let request = DestroyNetworkRequest {
            alloc_id: task_id,
            isolation_spec: None,
        };
        sane(
            "DestroyNetwork",
            within(LIMIT, "DestroyNetwork", d().destroy_network(request)).await,
        );
    }
    unharmed(&plugin).await;
}

#[tokio::test]
async fn an_exec_session_without_a_task_ends_before_any_output() {
    let home = home();
    let plugin = configured(&home).await;
    let setup = |task_id: &str, command: &[&str]| ExecTaskStreamingRequest {
        setup: Some(exec_task_streaming_request::Setup {
            task_id: task_id.into(),
            command: command.iter().map(|arg| (*arg).to_owned()).collect(),
            tty: false,
        }),
        ..Default::default()
    };
    let openings = [
        ("no message", Vec::new()),
        ("a heartbeat first", vec![ExecTaskStreamingRequest::default()]),
        ("an unknown task", vec![setup("none", &["true"])]),
        ("no command", vec![setup("none", &[])]),
    ];
    for (what, messages) in openings {
        let session = async {
            let mut answers = plugin
                .driver()
                .exec_task_streaming(tokio_stream::iter(messages))
                .await?
                .into_inner();
            match answers.message().await? {
                Some(message) => panic!("{what}: {message:?}"),
                None => Ok(()),
            }
        };
        let status: Status = within(LIMIT, what, session).await.expect_err(what);
        sane::<()>(what, Err(status));
    }
    unharmed(&plugin).await;
}

/// A string where a message is expected, and the like: every method decodes, and refuses, by itself.
#[tokio::test]
async fn messages_of_another_shape_are_errors_of_the_call() {
    let home = home();
    let plugin = configured(&home).await;
    let shape = Any {
        type_url: "\u{7f}\u{7f}\u{7f}not what was meant".into(),
        value: vec![0xff; 300],
    };
    let driver = "/hashicorp.nomad.plugins.drivers.proto.Driver/";
    for method in [
        "StartTask",
        "RecoverTask",
        "StopTask",
        "CreateNetwork",
        "ExecTask",
        "TaskStats",
        "SignalTask",
        "DestroyTask",
    ] {
        let mut grpc = tonic::client::Grpc::new(plugin.connection().channel());
        grpc.ready().await.expect("connection");
        let codec = tonic_prost::ProstCodec::<Any, ()>::default();
        let path = PathAndQuery::try_from(format!("{driver}{method}")).expect("path");
        let answer = within(LIMIT, method, grpc.unary(Request::new(shape.clone()), path, codec)).await;
        assert_ne!(sane(method, answer), Code::Ok, "{method}");
    }
    unharmed(&plugin).await;
}

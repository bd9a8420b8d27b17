//! The service over scripted doors: what is asked for each call, and what each answer becomes.

use super::*;
use crate::messages::AskError;
use crate::messages::task::{Destroy, Inspect, Recover, Signal, Start, Started, Stop, TaskError, Wait};
use crate::plugin::fake::{FakeTasks, died, doors, handle};
use crate::spec::record::ExitRecord;
use prost::Message as _;
use std::time::Duration;
use tokio::time::Instant;
use tonic::Code;

#[path = "driver_start_tests.rs"]
mod start;

const ID: &str = "11111111-2222-3333-4444-555555555555/web/0a1b2c3d";

fn service() -> (DriverService, Arc<FakeTasks>) {
    let (doors, tasks, _) = doors();
    (DriverService::new(doors, NodeCompute::default()), tasks)
}

fn config() -> pb::TaskConfig {
    pb::TaskConfig {
        id: ID.into(),
        name: "web".into(),
        msgpack_driver_config: vec![0x80],
        ..Default::default()
    }
}

fn start_request() -> Request<pb::StartTaskRequest> {
    Request::new(pb::StartTaskRequest { task: Some(config()) })
}

fn started() -> Result<Result<Started, TaskError>, AskError> {
    Ok(Ok(Started { handle: handle() }))
}

fn exited(code: i32) -> ExitRecord {
    ExitRecord {
        code,
        oom: false,
        at: 1,
        lost: String::new(),
    }
}

fn wait() -> Request<pb::WaitTaskRequest> {
    Request::new(pb::WaitTaskRequest { task_id: ID.into() })
}

fn destroy() -> Request<pb::DestroyTaskRequest> {
    Request::new(pb::DestroyTaskRequest {
        task_id: ID.into(),
        force: true,
    })
}

fn late() -> AskError {
    AskError::Late {
        actor: "task",
        message: "m",
        after: Duration::from_secs(1),
    }
}

/// The verbs of what was asked.
fn verbs(tasks: &FakeTasks) -> Vec<String> {
    tasks
        .asked()
        .iter()
        .filter_map(|l| l.split(' ').next().map(str::to_owned))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn wait_outlives_any_number_of_deaths() {
    let (service, tasks) = service();
    (0..60).for_each(|_| tasks.then::<Wait>(Err(died())));
    tasks.then::<Wait>(Ok(Ok(exited(137))));
    let answer = service.wait_task(wait()).await.unwrap().into_inner();
    assert_eq!(answer.result.map(|r| (r.exit_code, r.signal)), Some((137, 9)));
    assert!(tasks.asked().iter().all(|l| l.ends_with("no limit")));
}

#[tokio::test(start_paused = true)]
async fn unknown_tasks_are_not_found() {
    let (service, tasks) = service();
    let ended = || AskError::Ended { actor: "task" };
    tasks.then::<Wait>(Err(ended()));
    let status = service.wait_task(wait()).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::NotFound, "task not found for given id")
    );
    tasks.then::<Stop>(Ok(Err(TaskError::NotFound)));
    let stop = pb::StopTaskRequest {
        task_id: ID.into(),
        ..Default::default()
    };
    assert_eq!(
        service.stop_task(Request::new(stop)).await.unwrap_err().code(),
        Code::NotFound
    );
    tasks.then::<Inspect>(Err(ended()));
    let stats = pb::TaskStatsRequest {
        task_id: ID.into(),
        ..Default::default()
    };
    let refused = service.task_stats(Request::new(stats)).await.err().unwrap();
    assert_eq!(refused.code(), Code::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_a_task_that_was_given_up_ends_with_the_reason() {
    let (service, tasks) = service();
    tasks.then::<Wait>(Err(AskError::Failed {
        actor: "task",
        reason: "a bug".into(),
    }));
    let error = service.wait_task(wait()).await.unwrap_err();
    assert!(
        error.message().contains("given up") && error.message().contains("a bug"),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn destroy_of_an_unknown_task_sweeps() {
    let (service, tasks) = service();
    tasks.then::<Destroy>(Err(AskError::Ended { actor: "task" }));
    service.destroy_task(destroy()).await.unwrap();
    tasks.then::<Destroy>(Ok(Err(TaskError::NotFound)));
    service.destroy_task(destroy()).await.unwrap();
    assert_eq!(verbs(&tasks), ["Destroy", "sweep", "Destroy", "sweep"]);
    // Of a supervisor that was given up too; and what the host has said about force goes along.
    tasks.then::<Destroy>(Err(AskError::Failed {
        actor: "task",
        reason: "again".into(),
    }));
    let gentle = pb::DestroyTaskRequest {
        task_id: ID.into(),
        force: false,
    };
    service.destroy_task(Request::new(gentle)).await.unwrap();
    let sweeps: Vec<String> = tasks.asked().into_iter().filter(|l| l.starts_with("sweep")).collect();
    assert_eq!(
        sweeps,
        [
            format!("sweep {ID} force=true"),
            format!("sweep {ID} force=true"),
            format!("sweep {ID} force=false")
        ]
    );
    tasks.then::<Destroy>(Ok(Err(TaskError::StillRunning)));
    assert_eq!(
        service.destroy_task(destroy()).await.unwrap_err().message(),
        "cannot destroy running task"
    );
}

#[tokio::test(start_paused = true)]
async fn stop_reads_the_signal_and_does_not_lengthen_the_grace() {
    let (service, tasks) = service();
    let request = |signal: &str| {
        Request::new(pb::StopTaskRequest {
            task_id: ID.into(),
            timeout: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
            signal: signal.into(),
        })
    };
    let status = service.stop_task(request("SIGDOESNOTEXIST")).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "Invalid signal: SIGDOESNOTEXIST")
    );
    assert!(tasks.asked().is_empty());
    (0..5).for_each(|_| tasks.then::<Stop>(Err(died())));
    tasks.then::<Stop>(Ok(Ok(())));
    let begun = Instant::now();
    service.stop_task(request("sigusr1")).await.unwrap();
    let asked = tasks.asked();
    assert!(asked[0].contains("timeout: 5s, signal: Some(10)"), "{asked:?}");
    let left = format!("timeout: {:?}", Duration::from_secs(5) - begun.elapsed());
    assert!(asked[5].contains(&left), "{left} in {asked:?}");
    tasks.then::<Stop>(Ok(Ok(())));
    service.stop_task(request("")).await.unwrap();
    assert!(tasks.asked()[6].contains("signal: None"));
}

#[tokio::test(start_paused = true)]
async fn signals_are_sent_by_number() {
    let (service, tasks) = service();
    let request = |s: &str| {
        Request::new(pb::SignalTaskRequest {
            task_id: ID.into(),
            signal: s.into(),
        })
    };
    tasks.then::<Signal>(Ok(Ok(())));
    service.signal_task(request("SIGHUP")).await.unwrap();
    assert!(tasks.asked()[0].contains("signal: 1"));
    assert_eq!(
        service.signal_task(request("INVALID")).await.unwrap_err().message(),
        "Invalid signal: INVALID"
    );
}

#[test]
fn capabilities_are_those_of_an_image_driver() {
    let r = pb::CapabilitiesResponse {
        capabilities: Some(capabilities(&Settings::default())),
    };
    let hex: String = r.encode_to_vec().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, "0a0b0801100118022203000102");
}

#[test]
fn nomad_collects_the_logs_unless_told_otherwise() {
    for (way, without_nomad) in [("nomad", false), ("driver", true), ("none", true)] {
        let settings = Settings {
            log_collection: way.to_owned(),
            ..Settings::default()
        };
        assert_eq!(capabilities(&settings).disable_log_collection, without_nomad, "{way}");
    }
}

#[tokio::test]
async fn networks_are_refused_and_a_command_needs_a_program() {
    let (service, fake) = service();
    let exec = service
        .exec_task(Request::new(pb::ExecTaskRequest::default()))
        .await
        .unwrap_err();
    assert_eq!(exec.code(), Code::InvalidArgument);
    assert!(fake.asked().is_empty());
    let network = service
        .create_network(Request::new(pb::CreateNetworkRequest::default()))
        .await
        .unwrap_err();
    assert_eq!(network.code(), Code::Unimplemented);
}

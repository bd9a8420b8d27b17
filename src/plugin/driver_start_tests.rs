//! Starting and recovering over scripted doors.

use super::*;

#[tokio::test(start_paused = true)]
async fn started_task_has_a_handle_that_recovers_it() {
    let (service, tasks) = service();
    tasks.then::<Start>(started());
    let handle = service
        .start_task(start_request())
        .await
        .unwrap()
        .into_inner()
        .handle
        .unwrap();
    assert_eq!(
        (handle.version, handle.state(), handle.config.clone()),
        (HANDLE_VERSION, pb::TaskState::Running, Some(config()))
    );
    assert_eq!(verbs(&tasks), ["open", "Start"]);
    tasks.then::<Recover>(Ok(Ok(())));
    let request = pb::RecoverTaskRequest {
        task_id: String::new(),
        handle: Some(handle),
    };
    service.recover_task(Request::new(request)).await.unwrap();
    assert_eq!(verbs(&tasks), ["open", "Start", "open", "Recover"]);
    assert!(tasks.asked()[3].starts_with(&format!("Recover {ID}")));
}

#[tokio::test(start_paused = true)]
async fn start_is_asked_again_as_a_resumption_when_the_actor_dies() {
    let (service, tasks) = service();
    tasks.then::<Start>(Err(died()));
    tasks.then::<Start>(Err(AskError::Ended { actor: "task" }));
    tasks.then::<Start>(started());
    service.start_task(start_request()).await.unwrap();
    let asked = tasks.asked();
    assert_eq!(verbs(&tasks), ["open", "Start", "open", "Start", "open", "Start"]);
    assert!(
        asked[1].contains("resume: false") && asked[3].contains("resume: true") && asked[5].contains("resume: true")
    );
}

#[tokio::test(start_paused = true)]
async fn unanswered_start_is_recoverable_and_leaves_nothing() {
    let (service, tasks) = service();
    tasks.then::<Start>(Err(late()));
    tasks.then::<Destroy>(Ok(Ok(())));
    let status = service.start_task(start_request()).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(!status.details().is_empty());
    assert_eq!(verbs(&tasks), ["open", "Start", "Destroy"]);
}

#[tokio::test(start_paused = true)]
async fn start_gives_up_after_too_many_deaths() {
    let (service, tasks) = service();
    (0..=100).for_each(|_| tasks.then::<Start>(Err(died())));
    tasks.then::<Destroy>(Err(AskError::Ended { actor: "task" }));
    let status = service.start_task(start_request()).await.unwrap_err();
    assert!(
        status.message().contains("restarted while") && !status.details().is_empty(),
        "{status:?}"
    );
    assert_eq!(verbs(&tasks).last().map(String::as_str), Some("sweep"));
}

#[tokio::test(start_paused = true)]
async fn refused_start_is_final_and_says_why() {
    let (service, tasks) = service();
    tasks.then::<Start>(Ok(Err(TaskError::AlreadyStarted(ID.into()))));
    let status = service.start_task(start_request()).await.unwrap_err();
    assert_eq!(status.message(), format!("task with ID \"{ID}\" already started"));
    assert!(status.details().is_empty());
    assert_eq!(verbs(&tasks), ["open", "Start"]);
    let empty = service
        .start_task(Request::new(pb::StartTaskRequest::default()))
        .await
        .unwrap_err();
    assert_eq!(empty.code(), Code::InvalidArgument);
}

/// Where the log pipes lie is in the host's part of the handle, the rest in the Go driver's.
#[tokio::test(start_paused = true)]
async fn a_handle_of_the_go_driver_is_handed_on_with_the_hosts_directory() {
    let (service, tasks) = service();
    tasks.then::<Recover>(Ok(Ok(())));
    let handle = pb::TaskHandle {
        version: 1,
        config: Some(pb::TaskConfig {
            id: "a/web/1".into(),
            alloc_dir: "/allocs/a".into(),
            ..Default::default()
        }),
        driver_state: b"\x81\xadContainerName\xa5web-a".to_vec(),
        state: pb::TaskState::Running.into(),
    };
    let request = pb::RecoverTaskRequest {
        task_id: String::new(),
        handle: Some(handle),
    };
    service.recover_task(Request::new(request)).await.unwrap();
    let asked = tasks.asked().join("\n");
    for word in ["web-a", "/allocs/a", "\"nomad\""] {
        assert!(asked.contains(word), "no {word} in {asked}");
    }
}

#[tokio::test(start_paused = true)]
async fn handles_that_cannot_be_read_are_errors() {
    let (service, tasks) = service();
    let good = handle().encode().unwrap();
    let make = |version, config, driver_state: &[u8]| pb::TaskHandle {
        version,
        config,
        driver_state: driver_state.to_vec(),
        state: pb::TaskState::Running.into(),
    };
    let handles = [
        None,
        Some(make(HANDLE_VERSION, None, &good)),
        Some(make(HANDLE_VERSION, Some(pb::TaskConfig::default()), &good)),
        Some(make(HANDLE_VERSION, Some(config()), b"")),
        Some(make(HANDLE_VERSION, Some(config()), b"\xffgarbage")),
        Some(make(HANDLE_VERSION + 1, Some(config()), &good)),
    ];
    for handle in handles {
        let request = pb::RecoverTaskRequest {
            task_id: String::new(),
            handle,
        };
        let status = service.recover_task(Request::new(request)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    assert!(tasks.asked().is_empty());
}

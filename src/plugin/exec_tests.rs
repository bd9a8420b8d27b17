//! Commands at the front door: shapes and order of messages, refusals, silence, the unary form.

use super::*;
use crate::messages::AskError;
use crate::messages::task::TaskError;
use crate::plugin::fake::{FakeTasks, died, doors};
use bytes::Bytes;
use prost::Message as _;
use std::sync::Arc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

/// The other ends of a session.
struct Ends {
    input: mpsc::Receiver<Input>,
    size: watch::Receiver<Option<TerminalSize>>,
    output: mpsc::Sender<Output>,
}

fn pair() -> (ExecSession, Ends) {
    let (input, inputs) = mpsc::channel(64);
    let (size, sizes) = watch::channel(None);
    let (outputs, output) = mpsc::channel(64);
    let ends = Ends {
        input: inputs,
        size: sizes,
        output: outputs,
    };
    (ExecSession { input, size, output }, ends)
}

fn tasks() -> (Tasks, Arc<FakeTasks>) {
    let (doors, fake, _) = doors();
    (Tasks::new(doors.tasks), fake)
}

fn setup(command: &[&str], tty: bool) -> Request {
    let setup = pb::exec_task_streaming_request::Setup {
        task_id: "t".into(),
        command: command.iter().map(|w| (*w).to_owned()).collect(),
        tty,
    };
    Request {
        setup: Some(setup),
        ..Default::default()
    }
}

fn stdin(data: &[u8], close: bool) -> Request {
    let stdin = pb::ExecTaskStreamingIoOperation {
        data: data.to_vec(),
        close,
    };
    Request {
        stdin: Some(stdin),
        ..Default::default()
    }
}

fn resize(height: i32, width: i32) -> Request {
    Request {
        tty_size: Some(pb::exec_task_streaming_request::TerminalSize { height, width }),
        ..Default::default()
    }
}

fn said(stream: OutputStream, text: &'static str) -> Output {
    Output::Data(stream, Bytes::from_static(text.as_bytes()))
}

/// A session with these requests, and the ends behind it.
async fn open(
    all: Vec<Request>,
) -> (
    Result<Answers<Response>, Status>,
    Ends,
    mpsc::Sender<Result<Request, Status>>,
) {
    let (tasks, fake) = tasks();
    let (session_, ends) = pair();
    fake.then::<Exec>(Ok(Ok(session_)));
    let (tx, rx) = mpsc::channel(64);
    for request in all {
        tx.send(Ok(request)).await.unwrap();
    }
    (session(&tasks, ReceiverStream::new(rx)).await, ends, tx)
}

#[tokio::test]
async fn every_message_has_one_field_and_the_exit_is_the_last() {
    let (answers, ends, _requests) = open(vec![setup(&["sh"], false)]).await;
    for output in [
        said(OutputStream::Stdout, "x\n"),
        said(OutputStream::Stderr, "x\n"),
        Output::Closed(OutputStream::Stdout),
        Output::Closed(OutputStream::Stderr),
        Output::Exited(137),
    ] {
        ends.output.send(output).await.unwrap();
    }
    let wire: Vec<_> = answers.unwrap().map(|m| m.unwrap().encode_to_vec()).collect().await;
    let golden: [&[u8]; 5] = [
        &[0x0a, 4, 0x0a, 2, 0x78, 0x0a],
        &[0x12, 4, 0x0a, 2, 0x78, 0x0a],
        &[0x0a, 2, 0x10, 1],
        &[0x12, 2, 0x10, 1],
        &[0x18, 1, 0x22, 3, 8, 0x89, 1],
    ];
    assert_eq!(wire, golden);
    assert!(ends.output.is_closed());
}

#[tokio::test]
async fn input_and_sizes_arrive_and_heartbeats_and_nonsense_do_not() {
    let all = vec![
        setup(&["sh"], true),
        resize(50, 40),
        resize(0, 7),
        Request::default(),
        stdin(b"", false),
        stdin(b"hi\n", true),
        resize(100_000, 100),
    ];
    let (answers, mut ends, _requests) = open(all).await;
    assert_eq!(ends.input.recv().await, Some(Input::Data(Bytes::from_static(b"hi\n"))));
    assert_eq!(ends.input.recv().await, Some(Input::Close));
    let last = TerminalSize {
        rows: u16::MAX,
        columns: 100,
    };
    assert_eq!(*ends.size.wait_for(|s| *s == Some(last)).await.unwrap(), Some(last));
    drop(answers);
    assert!(ends.output.is_closed(), "a client that is gone lets go of the command");
}

#[tokio::test]
async fn what_cannot_be_a_session_is_refused_before_anything_runs() {
    let (tasks, fake) = tasks();
    for (first, text) in [
        (vec![], NO_SETUP),
        (vec![stdin(b"x", false)], NO_SETUP),
        (vec![setup(&[], false)], "command is not present"),
        (vec![setup(&[""], false)], "command is not present"),
    ] {
        let requests = stream::iter(first.into_iter().map(Ok));
        let status = session(&tasks, requests).await.err().unwrap();
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, text));
    }
    assert!(fake.asked().is_empty());
    fake.then::<Exec>(Err(AskError::Ended { actor: "a" }));
    let unknown = session(&tasks, stream::iter([Ok(setup(&["a"], false))]))
        .await
        .err()
        .unwrap();
    assert_eq!(
        (unknown.code(), unknown.message()),
        (Code::NotFound, "task not found for given id")
    );
}

#[tokio::test]
async fn a_second_setup_ends_the_session_with_an_error() {
    let (answers, ends, _requests) = open(vec![setup(&["a"], false), setup(&["b"], false)]).await;
    let all: Vec<_> = answers.unwrap().collect().await;
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].as_ref().unwrap_err().code(), Code::InvalidArgument);
    assert!(ends.output.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_heart_has_stopped_is_given_up_and_one_that_never_beat_is_not() {
    let (answers, _ends, _requests) = open(vec![setup(&["a"], false), Request::default()]).await;
    let all: Vec<_> = answers.unwrap().collect().await;
    let last = all.last().unwrap();
    assert_eq!(last.as_ref().unwrap_err().code(), Code::DeadlineExceeded);
    let (answers, _ends, _requests) = open(vec![setup(&["a"], false), stdin(b"x", false)]).await;
    let answers = answers.unwrap().take_until(tokio::time::sleep(SILENCE * 10));
    assert!(answers.all(|answer| async move { answer.is_ok() }).await);
}

#[tokio::test(start_paused = true)]
async fn a_silent_command_is_accompanied_by_empty_messages_so_that_the_host_misses_its_client() {
    let (answers, ends, _requests) = open(vec![setup(&["a"], false)]).await;
    let mut answers = answers.unwrap();
    let began = tokio::time::Instant::now();
    for _ in 0..2 {
        let empty = answers.next().await.unwrap().unwrap();
        assert!(empty.encode_to_vec().is_empty(), "{empty:?}");
    }
    assert!(began.elapsed() <= Duration::from_secs(11), "{:?}", began.elapsed());
    ends.output.send(Output::Exited(0)).await.unwrap();
    assert!(answers.next().await.unwrap().unwrap().exited);
    assert!(answers.next().await.is_none());
}

#[tokio::test]
async fn a_unary_command_answers_with_its_last_words_and_is_never_without_a_result() {
    let (tasks, fake) = tasks();
    let (session_, ends) = pair();
    fake.then::<Exec>(Err(died()));
    fake.then::<Exec>(Ok(Ok(session_)));
    let long = Bytes::from("y".repeat(1 << 20));
    for output in [
        Output::Data(OutputStream::Stdout, long),
        said(OutputStream::Stderr, "no such thing"),
        Output::Exited(2),
    ] {
        ends.output.send(output).await.unwrap();
    }
    let request = pb::ExecTaskRequest {
        task_id: "t".into(),
        command: vec!["stat".into()],
        timeout: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
    };
    let answer = to_its_end(&tasks, request.clone()).await.unwrap();
    assert_eq!(answer.result.unwrap().exit_code, 2);
    assert_eq!(answer.stdout.len(), KEPT_BYTES);
    assert!(answer.stdout.ends_with(b"yno such thing"));
    assert_eq!(answer.stderr, b"no such thing");
    assert!(fake.asked()[1].contains("timeout: Some(5s)"), "{:?}", fake.asked());

    let (session_, ends) = pair();
    fake.then::<Exec>(Ok(Ok(session_)));
    ends.output
        .send(Output::Failed(TaskError::CommandTimeout))
        .await
        .unwrap();
    let late = to_its_end(&tasks, request.clone()).await.unwrap_err();
    assert_eq!(
        (late.code(), late.message()),
        (Code::DeadlineExceeded, "context deadline exceeded")
    );

    let (session_, ends) = pair();
    fake.then::<Exec>(Ok(Ok(session_)));
    drop(ends);
    let lost = to_its_end(
        &tasks,
        pb::ExecTaskRequest {
            timeout: None,
            ..request
        },
    )
    .await
    .unwrap_err();
    assert_eq!(lost.code(), Code::Internal);
    assert!(fake.asked()[3].contains("timeout: None"), "no timeout is no limit");
}

#[test]
fn an_error_is_short_enough_to_be_shown_and_keeps_its_code() {
    let long = "cannot run \"echo\" in the task: OCI runtime exec failed: exec failed: unable to start container process: \
                cannot exec in a paused container (use --ignore-paused to override)";
    let short = brief(Status::failed_precondition(long));
    assert_eq!(short.code(), tonic::Code::FailedPrecondition);
    assert!(
        short
            .message()
            .starts_with("cannot run \"echo\" in the task: cannot exec in a paused"),
        "{short:?}"
    );
    let whole = format!("rpc error: code = {:?} desc = {}", short.code(), short.message());
    assert!(whole.len() <= 123, "{} bytes: {whole}", whole.len());
    assert_eq!(brief(Status::not_found("no such task")).message(), "no such task");
    assert!(brief(Status::unknown("ä".repeat(200))).message().len() <= SHOWN_BYTES);
    // What says that it is worth a retry has the whole text again.
    let fault = TaskError::Driver("x".repeat(200));
    let whole = status::of_task(&fault);
    assert!(!whole.details().is_empty());
    let short = brief(whole);
    assert!(
        short.details().is_empty() && short.message().len() <= SHOWN_BYTES,
        "{short:?}"
    );
}

//! One connection, and one call on it.

use std::future::poll_fn;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use prost::bytes::{Bytes, BytesMut};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tonic::codegen::http::{HeaderMap, Request, Response, request, response};

use super::desk::{Desk, Fate, Loss, Which};
use super::stage;

/// Bytes on their way that nobody has taken yet, for a stream and for a connection: more than any call here needs.
const WINDOW: (u32, u32) = (4 << 20, 16 << 20);

/// Calls that are not one request and one answer, by the end of their paths.
const STREAMS: [&str; 8] = [
    "Events/Subscribe",
    "Content/Read",
    "Content/Write",
    "Content/List",
    "Snapshots/List",
    "Containers/ListStream",
    "Streaming/Stream",
    "Health/Watch",
];

/// Relays until either side leaves or the connection is cut.
pub(super) async fn connection(downstream: UnixStream, upstream: PathBuf, desk: Arc<Desk>) {
    let mut cuts = desk.cuts();
    let work = async {
        let far = UnixStream::connect(&upstream).await?;
        let (requests, driver) = h2::client::Builder::new()
            .initial_window_size(WINDOW.0)
            .initial_connection_window_size(WINDOW.1)
            .enable_push(false)
            .handshake::<_, Bytes>(far)
            .await?;
        let mut server = h2::server::Builder::new()
            .initial_window_size(WINDOW.0)
            .initial_connection_window_size(WINDOW.1)
            .handshake::<_, Bytes>(downstream)
            .await?;
        let mut calls = JoinSet::new();
        tokio::pin!(driver);
        loop {
            tokio::select! {
                // containerd has left: the plugin has to see that too, or it would stay on a dead connection.
                ended = &mut driver => return ended.context("connection to containerd"),
                accepted = server.accept() => match accepted {
                    Some(accepted) => {
                        let (request, respond) = accepted?;
                        calls.spawn(call(request, respond, requests.clone(), desk.clone()));
                        while calls.try_join_next().is_some() {}
                    }
                    None => return Ok(()),
                },
            }
        }
    };
    tokio::select! {
        biased;
        _ = cuts.changed() => {}
        // Whoever left has been told by the close; there is nobody else to tell.
        _ended = work => {}
    }
}

/// What becomes of an answer.
enum Outcome {
    Answer(Box<Answer>),
    Reset,
    Cut,
}

/// A complete answer.
struct Answer {
    head: response::Parts,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

async fn call(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    upstream: SendRequest<Bytes>,
    desk: Arc<Desk>,
) {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    desk.called(&path);
    if desk.understudy().is_some_and(|understudy| understudy.plays(&path)) {
        return stage::play(head, body, &mut respond, upstream, &desk).await;
    }
    let is_stream = STREAMS.iter().any(|end| path.ends_with(end));
    let relayed = match is_stream {
        true => stream(head, body, &mut respond, upstream, &desk).await,
        false => unary(head, body, &mut respond, upstream, &desk).await,
    };
    if relayed.is_err() {
        // Either it was reset already, or the other side failed and this one has to know.
        respond.send_reset(Reason::INTERNAL_ERROR);
    }
}

/// Ends when the caller has given up.
pub(super) async fn given_up(respond: &mut SendResponse<Bytes>) {
    poll_fn(|cx| respond.poll_reset(cx)).await.ok();
}

async fn unary(
    head: request::Parts,
    mut body: RecvStream,
    respond: &mut SendResponse<Bytes>,
    upstream: SendRequest<Bytes>,
    desk: &Desk,
) -> Result<()> {
    let body = gather(&mut body).await?;
    gathered(head, body, respond, upstream, desk).await
}

/// Passes a request on whose bytes are here.
pub(super) async fn gathered(
    head: request::Parts,
    body: Bytes,
    respond: &mut SendResponse<Bytes>,
    upstream: SendRequest<Bytes>,
    desk: &Desk,
) -> Result<()> {
    let fate = desk.fate(head.uri.path(), &body);
    let outcome = tokio::select! {
        outcome = outcome(fate, &head, &body, &upstream, desk) => outcome?,
        () = given_up(respond) => return Ok(()),
    };
    match outcome {
        Outcome::Answer(answer) => pass_on(*answer, respond).await,
        Outcome::Reset => bail!("lost by order"),
        Outcome::Cut => {
            desk.cut();
            Ok(())
        }
    }
}

async fn outcome(
    fate: Option<Fate>,
    head: &request::Parts,
    body: &Bytes,
    upstream: &SendRequest<Bytes>,
    desk: &Desk,
) -> Result<Outcome> {
    tokio::time::sleep_until(desk.held_until()).await;
    let once = || once(upstream, head, body);
    let answer = |answer| Ok(Outcome::Answer(Box::new(answer)));
    match fate {
        None => answer(once().await?),
        Some(Fate::DelayRequest(by)) => {
            tokio::time::sleep(by).await;
            answer(once().await?)
        }
        Some(Fate::DelayAnswer(by)) => {
            let found = once().await?;
            tokio::time::sleep(by).await;
            answer(found)
        }
        Some(Fate::LoseRequest(Loss::Reset)) => Ok(Outcome::Reset),
        Some(Fate::LoseAnswer(Loss::Reset)) => once().await.map(|_| Outcome::Reset),
        Some(Fate::LoseRequest(Loss::Silent)) => std::future::pending().await,
        Some(Fate::LoseAnswer(Loss::Silent)) => {
            once().await?;
            std::future::pending().await
        }
        Some(Fate::Twice(which)) => {
            // `join` polls in order, so that the first is sent first.
            let (first, second) = tokio::join!(once(), once());
            answer(match which {
                Which::First => first?,
                Which::Second => second?,
            })
        }
        Some(Fate::CutBefore) => Ok(Outcome::Cut),
        Some(Fate::CutAfter) => once().await.map(|_| Outcome::Cut),
    }
}

/// Makes the call and takes the whole answer.
async fn once(upstream: &SendRequest<Bytes>, head: &request::Parts, body: &Bytes) -> Result<Answer> {
    let mut ready = upstream.clone().ready().await?;
    let (answer, mut out) = ready.send_request(Request::from_parts(head.clone(), ()), false)?;
    // A server may answer before it has taken the whole request, and then closes the stream for the rest: the answer counts.
    let _rest = send(&mut out, body.clone(), true).await;
    let (head, mut body) = answer.await?.into_parts();
    let bytes = gather(&mut body).await?;
    Ok(Answer {
        head,
        body: bytes,
        trailers: body.trailers().await?,
    })
}

async fn pass_on(answer: Answer, respond: &mut SendResponse<Bytes>) -> Result<()> {
    let Answer { head, body, trailers } = answer;
    // An answer of headers alone must stay one: that is how an error is told.
    let bare = body.is_empty() && trailers.is_none();
    let mut out = respond.send_response(Response::from_parts(head, ()), bare)?;
    if bare {
        return Ok(());
    }
    send(&mut out, body, trailers.is_none()).await?;
    if let Some(trailers) = trailers {
        out.send_trailers(trailers)?;
    }
    Ok(())
}

/// Passes both directions on as they come.
async fn stream(
    head: request::Parts,
    mut body: RecvStream,
    respond: &mut SendResponse<Bytes>,
    upstream: SendRequest<Bytes>,
    desk: &Desk,
) -> Result<()> {
    let mut cuts = desk.stream_cuts();
    let mut ready = upstream.ready().await?;
    let (answer, mut out) = ready.send_request(Request::from_parts(head, ()), false)?;
    let there = async {
        match copy(&mut body, &mut out).await {
            // A request that is complete leaves the answer to come, and so does one that the server has closed the stream to.
            Ok(()) => {}
            Err(_closed) => {}
        }
        std::future::pending::<()>().await;
    };
    let back = async {
        let answer = tokio::select! {
            answer = answer => answer?,
            () = given_up(respond) => bail!("the caller has left"),
        };
        let (head, mut body) = answer.into_parts();
        if body.is_end_stream() {
            respond.send_response(Response::from_parts(head, ()), true)?;
            return Ok(());
        }
        let mut out = respond.send_response(Response::from_parts(head, ()), false)?;
        copy(&mut body, &mut out).await
    };
    tokio::select! {
        back = back => back,
        () = there => Ok(()),
        _ = cuts.changed() => {
            desk.count("stream cut");
            bail!("cut by order")
        }
    }
}

/// Copies data and trailers to the end. Ends early if the receiver gives up.
async fn copy(from: &mut RecvStream, to: &mut SendStream<Bytes>) -> Result<()> {
    loop {
        let data = tokio::select! {
            data = from.data() => data,
            reset = poll_fn(|cx| to.poll_reset(cx)) => bail!("the receiver has left: {reset:?}"),
        };
        let Some(data) = data else { break };
        let data = data?;
        from.flow_control().release_capacity(data.len())?;
        send(to, data, false).await?;
    }
    match from.trailers().await? {
        Some(trailers) => to.send_trailers(trailers)?,
        None => to.send_data(Bytes::new(), true)?,
    }
    Ok(())
}

/// Sends as much at a time as the other side has room for. With `last`, the end of the stream comes with the last byte.
pub(super) async fn send(to: &mut SendStream<Bytes>, mut data: Bytes, last: bool) -> Result<()> {
    if data.is_empty() && last {
        to.send_data(data, true)?;
        return Ok(());
    }
    while !data.is_empty() {
        to.reserve_capacity(data.len());
        match poll_fn(|cx| to.poll_capacity(cx)).await {
            Some(Ok(room)) => {
                let part = data.split_to(room.min(data.len()));
                to.send_data(part, last && data.is_empty())?;
            }
            Some(Err(error)) => return Err(error.into()),
            None => bail!("the stream is closed"),
        }
    }
    Ok(())
}

pub(super) async fn gather(body: &mut RecvStream) -> Result<Bytes> {
    let mut all = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        all.extend_from_slice(&data);
    }
    Ok(all.freeze())
}

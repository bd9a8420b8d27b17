//! Calls that somebody else answers instead of containerd: the messages of gRPC, without knowing what they mean.

use std::future::Future;
use std::pin::Pin;

use anyhow::{Context, Result, bail};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream, client::SendRequest};
use prost::bytes::{BufMut as _, Bytes, BytesMut};
use tokio::sync::mpsc;
use tonic::Code;
use tonic::codegen::http::{HeaderMap, HeaderValue, Response, request};

use super::desk::Desk;
use super::relay::{gather, gathered, given_up, send};

/// What a call is answered with.
pub enum Reply {
    /// These messages: one for a unary call.
    Messages(Vec<Vec<u8>>),
    /// As they come, until the sender is dropped.
    Stream(mpsc::UnboundedReceiver<Vec<u8>>),
    Refused(Code, String),
    /// containerd is to answer.
    PassOn,
}

/// Somebody who answers in containerd's place.
pub trait Understudy: Send + Sync {
    /// Whether calls with this path are looked at. Each must have one message as its request.
    fn plays(&self, path: &str) -> bool;

    /// The answer to one. Dropped when the caller gives up.
    fn answer<'a>(&'a self, path: &'a str, request: Bytes) -> Pin<Box<dyn Future<Output = Reply> + Send + 'a>>;
}

/// Has the understudy answer.
pub(super) async fn play(
    head: request::Parts,
    body: RecvStream,
    respond: &mut SendResponse<Bytes>,
    upstream: SendRequest<Bytes>,
    desk: &Desk,
) {
    if answered(head, body, respond, upstream, desk).await.is_err() {
        respond.send_reset(Reason::INTERNAL_ERROR);
    }
}

async fn answered(
    head: request::Parts,
    mut body: RecvStream,
    respond: &mut SendResponse<Bytes>,
    upstream: SendRequest<Bytes>,
    desk: &Desk,
) -> Result<()> {
    let body = gather(&mut body).await?;
    let message = message_of(&body)?;
    let understudy = desk.understudy().context("nobody is there to answer")?;
    let reply = tokio::select! {
        reply = understudy.answer(head.uri.path(), message) => reply,
        () = given_up(respond) => return Ok(()),
    };
    match reply {
        Reply::PassOn => gathered(head, body, respond, upstream, desk).await,
        Reply::Messages(messages) => {
            let mut out = open(respond)?;
            for message in messages {
                send(&mut out, framed(&message), false).await?;
            }
            close(&mut out, Code::Ok, "")
        }
        Reply::Stream(mut messages) => {
            let mut out = open(respond)?;
            while let Some(message) = messages.recv().await {
                send(&mut out, framed(&message), false).await?;
            }
            close(&mut out, Code::Ok, "")
        }
        Reply::Refused(code, words) => close(&mut open(respond)?, code, &words),
    }
}

/// The one message of a request: a byte that says whether it is compressed, its length, and its bytes.
fn message_of(body: &Bytes) -> Result<Bytes> {
    match body.first() {
        Some(0) if body.len() >= 5 => Ok(body.slice(5..)),
        _ => bail!("not one plain message"),
    }
}

fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

fn open(respond: &mut SendResponse<Bytes>) -> Result<SendStream<Bytes>> {
    let head = Response::builder()
        .header("content-type", "application/grpc")
        .body(())?;
    Ok(respond.send_response(head, false)?)
}

fn close(out: &mut SendStream<Bytes>, code: Code, words: &str) -> Result<()> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(code as i32));
    trailers.insert("grpc-message", HeaderValue::from_str(words)?);
    Ok(out.send_trailers(trailers)?)
}

//! One connection of a client: its requests one after another, each with a connection to the registry of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::desk::{Desk, Fate, Seen};
use crate::http_server::{Head, answer, read_head, refused_tls};

const PIECE: usize = 16 << 10;

/// What is noted as the status of a request whose client went while it was held; as nginx has it.
const GONE: u16 = 499;

/// Serves until the client goes or a fate ends it. What breaks on the way ends the connection, as the client then sees.
pub async fn connection(mut client: TcpStream, upstream: String, desk: Arc<Desk>) {
    if refused_tls(&mut client).await {
        return;
    }
    let mut rest = Vec::new();
    loop {
        let Ok(Some((head, more))) = read_head(&mut client, rest).await else {
            return;
        };
        rest = more;
        let last = head
            .header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"));
        match request(&mut client, head, &mut rest, &upstream, &desk).await {
            Ok(true) if !last => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// One request; whether the connection is good for another.
async fn request(
    client: &mut TcpStream,
    mut head: Head,
    rest: &mut Vec<u8>,
    upstream: &str,
    desk: &Desk,
) -> std::io::Result<bool> {
    let (method, path) = (head.word(0).to_owned(), head.word(1).to_owned());
    let number = desk.note(Seen {
        at: Instant::now(),
        method: method.clone(),
        path: path.clone(),
        range: head.header("range").map(str::to_owned),
        authorization: head.header("authorization").map(str::to_owned),
        headers: head.headers.clone(),
        status: 0,
        sent: 0,
    });
    let length = usize::try_from(head.length().unwrap_or(0)).map_err(std::io::Error::other)?;
    while rest.len() < length {
        if client.read_buf(rest).await? == 0 {
            return Ok(false);
        }
    }
    let more = rest.split_off(length);
    let body = std::mem::replace(rest, more);
    let withdrawn = desk.withdrawals();
    let fate = desk.fate_of(&method, &path);
    match &fate {
        Some(Fate::Answer { status, headers, body }) => {
            desk.update(number, |seen| seen.status = *status);
            return whole(client, &method, answer(*status, headers, body.len()), body).await;
        }
        Some(Fate::Redirect { to }) => {
            desk.update(number, |seen| seen.status = 307);
            let location = [("Location".to_owned(), format!("{to}{path}"))];
            return whole(client, &method, answer(307, &location, 0), "").await;
        }
        Some(Fate::Login { wanted, challenge }) if head.header("authorization") != Some(wanted.as_str()) => {
            desk.update(number, |seen| seen.status = 401);
            let challenge = [("WWW-Authenticate".to_owned(), challenge.clone())];
            return whole(client, &method, answer(401, &challenge, 0), "").await;
        }
        Some(Fate::Login { .. }) => {}
        Some(Fate::WithoutRanges) => head.remove("range"),
        Some(Fate::WithoutCredentials) => head.remove("authorization"),
        Some(Fate::Hold) => {
            if let Err(gone) = held(client, withdrawn).await {
                desk.update(number, |seen| seen.status = GONE);
                return Err(gone);
            }
        }
        Some(Fate::Cut { .. } | Fate::Stall { .. } | Fate::Slow { .. } | Fate::Damage { .. }) | None => {}
    }
    head.set("Connection", "close");
    let mut registry = TcpStream::connect(upstream).await?;
    registry.write_all(&head.bytes()).await?;
    registry.write_all(&body).await?;
    let Some((mut reply, first)) = read_head(&mut registry, Vec::new()).await? else {
        return Ok(false);
    };
    desk.update(number, |seen| seen.status = reply.word(1).parse().unwrap_or(0));
    reply.remove("connection");
    // Of unknown length: it ends with the connection.
    let length = reply.length();
    if length.is_none() {
        reply.set("Connection", "close");
    }
    client.write_all(&reply.bytes()).await?;
    if method == "HEAD" || matches!(reply.word(1), "204" | "304") {
        return Ok(true);
    }
    let mut body = Body {
        client,
        registry,
        desk,
        number,
        sent: 0,
    };
    body.send(first, length, fate.as_ref()).await
}

/// Waits until the rules are withdrawn, or the client goes.
async fn held(client: &TcpStream, mut withdrawn: tokio::sync::watch::Receiver<u64>) -> std::io::Result<()> {
    let mut byte = [0];
    tokio::select! {
        released = withdrawn.changed() => released.map_err(std::io::Error::other),
        gone = client.peek(&mut byte) => match gone {
            Ok(0) => Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => std::future::pending().await,
            Err(error) => Err(error),
        },
    }
}

async fn whole(client: &mut TcpStream, method: &str, head: Head, body: &str) -> std::io::Result<bool> {
    client.write_all(&head.bytes()).await?;
    if method != "HEAD" {
        client.write_all(body.as_bytes()).await?;
    }
    Ok(true)
}

struct Body<'a> {
    client: &'a mut TcpStream,
    registry: TcpStream,
    desk: &'a Desk,
    number: usize,
    sent: u64,
}

impl Body<'_> {
    async fn send(&mut self, first: Vec<u8>, length: Option<u64>, fate: Option<&Fate>) -> std::io::Result<bool> {
        let mut piece = first;
        loop {
            if let Some(Fate::Damage { at }) = fate
                && let Some(place) = at.checked_sub(self.sent)
                && let Some(byte) = usize::try_from(place).ok().and_then(|n| piece.get_mut(n))
            {
                *byte ^= 0xff;
            }
            if let Some(Fate::Cut { after } | Fate::Stall { after }) = fate {
                let room = usize::try_from(after.saturating_sub(self.sent)).unwrap_or(usize::MAX);
                piece.truncate(room);
            }
            self.pass(&piece).await?;
            match fate {
                Some(Fate::Cut { after }) if self.sent >= *after => return Ok(false),
                Some(Fate::Stall { after }) if self.sent >= *after => return self.silence().await,
                Some(Fate::Slow { per_second }) => {
                    let nanos = piece.len() as u64 * 1_000_000_000 / (*per_second).max(1);
                    tokio::time::sleep(Duration::from_nanos(nanos)).await;
                }
                Some(_) | None => {}
            }
            if length.is_some_and(|length| self.sent >= length) {
                return Ok(true);
            }
            piece = Vec::with_capacity(PIECE);
            if self.registry.read_buf(&mut piece).await? == 0 {
                return Ok(false);
            }
        }
    }

    async fn pass(&mut self, piece: &[u8]) -> std::io::Result<()> {
        self.client.write_all(piece).await?;
        self.sent += piece.len() as u64;
        let sent = self.sent;
        self.desk.update(self.number, |seen| seen.sent = sent);
        Ok(())
    }

    /// Until the client goes.
    async fn silence(&mut self) -> std::io::Result<bool> {
        let mut buffer = [0; 1024];
        while self.client.read(&mut buffer).await? > 0 {}
        Ok(false)
    }
}

//! A registry that answers whatever a test wants.

use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What is answered to one request.
pub enum Answer {
    /// Status and JSON.
    Status(u16, &'static str),
    /// Nothing, with the connection left open.
    Never,
}

/// A listener that speaks plain HTTP. Dropping it ends its connections.
pub struct FakeRegistry {
    port: u16,
    asked: watch::Receiver<usize>,
    server: tokio::task::JoinHandle<()>,
}

impl FakeRegistry {
    /// `answer` is given the path of each request.
    pub async fn start(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> FakeRegistry {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (tx, asked) = watch::channel(0);
        let (answer, tx) = (Arc::new(answer), Arc::new(tx));
        let server = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, tx) = (Arc::clone(&answer), Arc::clone(&tx));
                connections.spawn(async move { serve(stream, &*answer, &tx).await });
            }
        });
        FakeRegistry { port, asked, server }
    }

    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}:1", self.addr())
    }

    /// Waits for the first request.
    pub async fn asked(&self) {
        self.asked.clone().wait_for(|n| *n > 0).await.expect("the server lives");
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Answers a TLS handshake as Go's HTTP server does; clients know it by this. Closed only when the client has seen it: a
/// reset would look like a broken connection.
async fn speak_plainly(mut stream: TcpStream) {
    let text = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTPS request to an HTTP server.\n";
    if stream.write_all(text).await.is_ok() && stream.shutdown().await.is_ok() {
        stream.read_to_end(&mut Vec::new()).await.ok();
    }
}

async fn serve(mut stream: TcpStream, answer: &(dyn Fn(&str) -> Answer + Send + Sync), asked: &watch::Sender<usize>) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                // The first byte of a TLS handshake: the client has to see that this is none.
                Ok(0x16) if head.is_empty() => return speak_plainly(stream).await,
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        let path = text.split_whitespace().nth(1).unwrap_or_default();
        let answer = answer(path);
        asked.send_modify(|n| *n += 1);
        let Answer::Status(status, body) = answer else {
            return std::future::pending().await;
        };
        let length = body.len();
        let reply =
            format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}");
        if stream.write_all(reply.as_bytes()).await.is_err() {
            return;
        }
    }
}

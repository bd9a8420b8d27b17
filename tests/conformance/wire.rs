//! Listeners that see what a client says to a registry.

use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Hands on what clients say to the registry and counts their requests for parts of images.
pub struct Counter {
    pub addr: String,
    parts: watch::Receiver<usize>,
    server: tokio::task::JoinHandle<()>,
}

impl Counter {
    pub async fn before(registry: &str) -> Counter {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address").to_string();
        let ((tx, parts), registry) = (watch::channel(0), registry.to_owned());
        let tx = Arc::new(tx);
        let server = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (tx, registry) = (Arc::clone(&tx), registry.clone());
                connections.spawn(async move { hand_on(client, &registry, &tx).await });
            }
        });
        Counter { addr, parts, server }
    }

    pub fn seen(&self) -> usize {
        *self.parts.borrow()
    }

    pub async fn asked(&self) {
        self.parts.clone().wait_for(|n| *n > 0).await.expect("the server lives");
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn hand_on(client: TcpStream, registry: &str, parts: &watch::Sender<usize>) {
    let Ok(server) = TcpStream::connect(registry).await else {
        return;
    };
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let requests = async {
        let mut buffer = vec![0; 16 * 1024];
        // A request has no body and comes as one piece.
        while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
            let text = String::from_utf8_lossy(&buffer[..length]);
            let asked = text
                .lines()
                .filter(|line| line.starts_with("GET ") && line.contains("/blobs/"))
                .count();
            parts.send_modify(|n| *n += asked);
            if to_server.write_all(&buffer[..length]).await.is_err() {
                break;
            }
        }
        to_server.shutdown().await.ok();
    };
    let answers = async {
        tokio::io::copy(&mut from_server, &mut to_client).await.ok();
        to_client.shutdown().await.ok();
    };
    tokio::join!(requests, answers);
}

/// What a listener was sent, one request a connection.
pub struct Recorder {
    pub addr: String,
    seen: Arc<Mutex<Vec<String>>>,
    server: tokio::task::JoinHandle<()>,
}

/// The first byte of a TLS handshake: the client has to see that this is none.
const TLS: [u8; 1] = [0x16];

async fn answered(mut stream: TcpStream, answer: &(dyn Fn(&str) -> String + Send + Sync), seen: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head != TLS {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let plain = "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTPS request to an HTTP server.\n";
    let reply = match head == TLS {
        true => plain.to_owned(),
        false => answer(&text),
    };
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    // Closed only when the client has seen it: a reset would look like a broken connection.
    if stream.write_all(reply.as_bytes()).await.is_ok() && stream.shutdown().await.is_ok() {
        stream.read_to_end(&mut Vec::new()).await.ok();
    }
}

impl Recorder {
    /// Answers each request by its head.
    pub async fn start(ip: &str, answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Recorder {
        let listener = TcpListener::bind((ip, 0)).await.expect("a port");
        let addr = listener.local_addr().expect("an address").to_string();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let (record, answer) = (Arc::clone(&seen), Arc::new(answer));
        let server = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (record, answer) = (Arc::clone(&record), Arc::clone(&answer));
                connections.spawn(async move { answered(stream, &*answer, &record).await });
            }
        });
        Recorder { addr, seen, server }
    }

    pub fn requests(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|text| text.contains("HTTP/1.1")).cloned().collect()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.server.abort();
    }
}

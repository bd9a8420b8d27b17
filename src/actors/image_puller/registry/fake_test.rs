//! A server on the loopback address that speaks plain HTTP and answers what a test wants, for tests.

use super::*;
use crate::messages::image::Credentials;
use crate::spec::secret::Secret;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// One request.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked {
    pub(super) method: String,
    /// Path and query.
    pub(super) target: String,
    headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Asked {
    /// A header, by its name in lower case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether the path ends so.
    pub(super) fn is(&self, end: &str) -> bool {
        self.target.split('?').next().unwrap_or_default().ends_with(end)
    }

    /// Whether it shows this.
    pub(super) fn shows(&self, authorization: &str) -> bool {
        self.header("authorization") == Some(authorization)
    }
}

/// What is answered.
#[derive(Debug, Clone, Default)]
pub(super) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    sent: Option<(usize, bool)>,
}

impl Reply {
    pub(super) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            body: body.into(),
            ..Self::default()
        }
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Only the first bytes of the body are sent, then the connection is closed.
    pub(super) fn cut_after(mut self, bytes: usize) -> Self {
        self.sent = Some((bytes, true));
        self
    }

    /// Only the first bytes of the body are sent, and no more comes.
    pub(super) fn stalled_after(mut self, bytes: usize) -> Self {
        self.sent = Some((bytes, false));
        self
    }
}

type Answer = dyn Fn(&Asked) -> Reply + Send + Sync;

/// The server. Dropping it ends its connections.
pub(super) struct Fake {
    pub(super) addr: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    server: tokio::task::JoinHandle<()>,
}

impl Fake {
    pub(super) async fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answer): (_, Arc<Answer>) = (Arc::clone(&asked), Arc::new(answer));
        let server = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                connections.spawn(serve(stream, answer, log));
            }
        });
        Self { addr, asked, server }
    }

    /// All requests so far.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Paths and queries of all requests so far.
    pub(super) fn targets(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.target).collect()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// An address on which nobody listens.
pub(super) async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

async fn serve(stream: TcpStream, answer: Arc<Answer>, log: Arc<Mutex<Vec<Asked>>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        loop {
            let before = head.len();
            match stream.fill_buf().await {
                // A TLS handshake: no HTTP server would answer it otherwise.
                Ok(bytes) if before == 0 && bytes.first() == Some(&0x16) => {
                    stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n").await.ok();
                    return;
                }
                Ok(bytes) if !bytes.is_empty() => {}
                _ => return,
            }
            stream.read_until(b'\n', &mut head).await.unwrap();
            if head.ends_with(b"\r\n\r\n") {
                break;
            }
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let mut first = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
        let mut asked = Asked {
            method: first.next().unwrap_or_default(),
            target: first.next().unwrap_or_default(),
            headers: lines
                .filter_map(|line| line.split_once(": "))
                .map(|(key, value)| (key.to_lowercase(), value.to_owned()))
                .collect(),
            body: String::new(),
        };
        let length = asked.header("content-length").map_or(0, |n| n.parse().unwrap());
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        asked.body = String::from_utf8(body).unwrap();
        let reply = answer(&asked);
        log.lock().unwrap().push(asked);
        let mut head = format!(
            "HTTP/1.1 {} X\r\nContent-Length: {}\r\n",
            reply.status,
            reply.body.len()
        );
        for (name, value) in &reply.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        let (sent, closed) = reply.sent.unwrap_or((reply.body.len(), false));
        if stream.write_all(head.as_bytes()).await.is_err() || stream.write_all(&reply.body[..sent]).await.is_err() {
            return;
        }
        if closed {
            return;
        }
        if reply.sent.is_some() {
            return std::future::pending().await;
        }
    }
}

pub(super) const MANIFEST: &str = r#"{"schemaVersion":2}"#;
/// Most that is read at once: less than what comes.
const READ: usize = 3;
pub(super) const MINUTE: Duration = Duration::from_secs(60);

pub(super) fn credentials() -> Credentials {
    Credentials {
        username: "u".to_owned(),
        password: Secret::new("hunter2"),
        identity_token: None,
    }
}

pub(super) fn descriptor(bytes: &[u8]) -> Descriptor {
    Descriptor {
        media_type: String::new(),
        digest: Digest::sha256(bytes).to_string(),
        size: bytes.len() as u64,
    }
}

pub(super) async fn session(registries: &Registries, registry: &str, keyring: &Keyring) -> Session {
    let of = Reference::parse(&format!("{registry}/a/b:1")).unwrap();
    registries.session(&of, keyring, MINUTE).await.unwrap()
}

/// Credentials for nobody.
pub(super) fn no_keys() -> Keyring {
    Keyring::single("", None)
}

/// A session with one registry on the loopback address, with credentials for it or without.
pub(super) async fn with(fake: &Fake, credentials: Option<Credentials>) -> Session {
    let keyring = Keyring::single(&fake.addr, credentials);
    session(&Registries::default(), &fake.addr, &keyring).await
}

pub(super) async fn read(mut blob: Blob) -> Result<Vec<u8>, String> {
    let mut all = Vec::new();
    while let Some(part) = blob.next(READ, &|_| ()).await? {
        all.extend_from_slice(&part);
    }
    Ok(all)
}

/// A registry whose directory says this.
pub(super) fn said(registry: &str, hosts: &str) -> (tempfile::TempDir, Registries) {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join(registry.replace(':', "_") + "_");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("hosts.toml"), hosts).unwrap();
    let registries = Registries::default().configured_in(&root.path().display().to_string(), MINUTE * 2);
    (root, registries)
}

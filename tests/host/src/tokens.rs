//! An authorization server as registries have beside them: it hands out tokens that `docker-registry` verifies.
//!
//! It speaks the flow by `GET` with basic authentication, and the one of OAuth 2 by `POST` with a password or an identity
//! token (refresh token). Whatever it is asked is recorded.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value as Json, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::alloc::random_hex;
use crate::certificates::{self, Identity};
use crate::daemon::which;
use crate::http_server::{Head, answer, read_head, refused_tls};
use crate::registry::LOGIN;

/// Who signs, as the registry's configuration has it.
pub const ISSUER: &str = "issuer of a test";
/// For whom, likewise.
pub const SERVICE: &str = "registry of a test";
/// An identity token that is as good as [`LOGIN`].
pub const IDENTITY_TOKEN: &str = "identity-token-of-test";
/// Repositories below this are for everybody.
pub const PUBLIC: &str = "public/";

/// How long a token is good, in seconds. The registry itself grants another minute.
const GOOD_FOR: u64 = 300;

/// What a client asked, and what it got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub method: String,
    /// `repository:<name>:pull`; several are joined by a space.
    pub scope: String,
    /// Empty for nobody.
    pub user: String,
    /// `refresh_token` or `password`, where the client used `POST`.
    pub grant: String,
    pub granted: bool,
    /// Of any `Authorization` header, as sent.
    pub authorization: Option<String>,
    /// The token that it got.
    pub issued: Option<String>,
}

/// A running server. Dropping it ends its connections.
pub struct TokenServer {
    addr: String,
    signer: Identity,
    seen: Arc<Mutex<Vec<Asked>>>,
    server: tokio::task::JoinHandle<()>,
}

struct Office {
    signer: Identity,
    chain: String,
    expires_in: u64,
    seen: Arc<Mutex<Vec<Asked>>>,
}

impl TokenServer {
    /// `dir` is for its key.
    pub async fn start(dir: &Path) -> Result<TokenServer> {
        TokenServer::start_with(dir, GOOD_FOR).await
    }

    /// Says of its tokens that they are good for so many seconds.
    pub async fn start_with(dir: &Path, expires_in: u64) -> Result<TokenServer> {
        let signer = certificates::signer(dir, "tokens")?;
        let pem = std::fs::read_to_string(&signer.certificate)?;
        let chain: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?.to_string();
        let seen: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let office = Arc::new(Office {
            signer: signer.clone(),
            chain,
            expires_in,
            seen: Arc::clone(&seen),
        });
        let server = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let office = Arc::clone(&office);
                connections.spawn(async move {
                    if let Err(error) = office.serve(stream).await {
                        eprintln!("token server: {error:#}");
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(TokenServer {
            addr,
            signer,
            seen,
            server,
        })
    }

    /// Where clients are sent.
    pub fn realm(&self) -> String {
        format!("http://{}/token", self.addr)
    }

    pub fn certificate(&self) -> PathBuf {
        self.signer.certificate.clone()
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Office {
    async fn serve(&self, mut stream: TcpStream) -> Result<()> {
        if refused_tls(&mut stream).await {
            return Ok(());
        }
        let mut rest = Vec::new();
        while let Some((head, more)) = read_head(&mut stream, rest).await? {
            let mut body = more;
            let length = usize::try_from(head.length().unwrap_or(0))?;
            while body.len() < length {
                use tokio::io::AsyncReadExt as _;
                ensure!(stream.read_buf(&mut body).await? > 0, "a request that breaks off");
            }
            rest = body.split_off(length);
            let (status, text) = self.decide(&head, &String::from_utf8_lossy(&body)).await?;
            let json = [("Content-Type".to_owned(), "application/json".to_owned())];
            let mut bytes = answer(status, &json, text.len()).bytes();
            bytes.extend(text.into_bytes());
            stream.write_all(&bytes).await?;
        }
        Ok(())
    }

    async fn decide(&self, head: &Head, body: &str) -> Result<(u16, String)> {
        let target = head.word(1);
        let query = match head.word(0) {
            "POST" => body,
            _ => target.split_once('?').map_or("", |(_, query)| query),
        };
        let fields = form(query);
        let all = |key: &str| {
            let found = fields.iter().filter(|(k, _)| k == key);
            found.map(|(_, value)| value.clone()).collect::<Vec<_>>().join(" ")
        };
        let authorization = head.header("authorization").map(str::to_owned);
        let (grant, user, good) = match all("grant_type").as_str() {
            "refresh_token" => {
                let good = all("refresh_token") == IDENTITY_TOKEN;
                (
                    "refresh_token",
                    if good { LOGIN.0.to_owned() } else { "?".to_owned() },
                    good,
                )
            }
            "password" => {
                let user = all("username");
                let good = (user.as_str(), all("password").as_str()) == LOGIN;
                ("password", user, good)
            }
            _ => match authorization.as_deref().and_then(basic) {
                Some((user, password)) => {
                    let good = (user.as_str(), password.as_str()) == LOGIN;
                    ("", user, good)
                }
                None => ("", String::new(), true),
            },
        };
        let scope = all("scope");
        let issued = match good {
            true => Some(self.token(&user, &scope).await?),
            false => None,
        };
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(Asked {
            method: head.word(0).to_owned(),
            scope,
            user,
            grant: grant.to_owned(),
            granted: good,
            authorization,
            issued: issued.clone(),
        });
        let Some(token) = issued else {
            return Ok((401, r#"{"details":"incorrect username or password"}"#.to_owned()));
        };
        let text = json!({ "token": token, "access_token": token, "expires_in": self.expires_in });
        Ok((200, text.to_string()))
    }

    /// A JSON web token with what the user may do, signed by RS256 (RFC 7515), its certificate in the header.
    async fn token(&self, user: &str, scope: &str) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let access: Vec<Json> = scope
            .split_whitespace()
            .filter_map(|scope| scope.strip_prefix("repository:"))
            .filter_map(|scope| scope.rsplit_once(':'))
            .filter(|(name, _)| !user.is_empty() || name.starts_with(PUBLIC))
            .map(|(name, _)| json!({ "type": "repository", "name": name, "actions": ["pull"] }))
            .collect();
        let header = json!({ "typ": "JWT", "alg": "RS256", "x5c": [self.chain] });
        let claims = json!({
            "iss": ISSUER, "sub": user, "aud": SERVICE, "exp": now + GOOD_FOR, "nbf": now - 10, "iat": now,
            "jti": random_hex(8), "access": access,
        });
        let part = |json: &Json| URL_SAFE_NO_PAD.encode(json.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = sign(&self.signer.key, signed.as_bytes()).await?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

async fn sign(key: &Path, bytes: &[u8]) -> Result<Vec<u8>> {
    let program = which("openssl").context("no openssl")?;
    let mut child = tokio::process::Command::new(program)
        .args(["dgst", "-sha256", "-sign"])
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = child.stdin.take().context("no pipe to openssl")?;
    stdin.write_all(bytes).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    ensure!(output.status.success(), "openssl dgst failed");
    Ok(output.stdout)
}

fn basic(header: &str) -> Option<(String, String)> {
    let encoded = header.strip_prefix("Basic ")?;
    let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// The fields of `application/x-www-form-urlencoded`.
fn form(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(key, value)| (unescaped(key), unescaped(value)))
        .collect()
}

fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                let value = std::str::from_utf8(&digits)
                    .ok()
                    .and_then(|hex| u8::from_str_radix(hex, 16).ok());
                bytes.push(value.unwrap_or(b'?'));
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read() {
        let found = form("scope=repository%3Aa%2Fb%3Apull&grant_type=password&x=a+b&y");
        let expected = [
            ("scope", "repository:a/b:pull"),
            ("grant_type", "password"),
            ("x", "a b"),
            ("y", ""),
        ];
        let expected: Vec<_> = expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        assert_eq!(found, expected);
    }

    #[tokio::test]
    async fn passwords_and_identity_tokens_are_judged_and_recorded() {
        let dir = tempfile::tempdir().expect("a directory");
        let server = TokenServer::start(dir.path()).await.expect("a server");
        let ask = async |method: &str, target: &str, body: &str| {
            let addr = server.addr.clone();
            let mut stream = TcpStream::connect(&addr).await.expect("connected");
            let request = format!(
                "{method} {target} HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(request.as_bytes()).await.expect("sent");
            let (head, _) = read_head(&mut stream, Vec::new())
                .await
                .expect("read")
                .expect("an answer");
            head.word(1).to_owned()
        };
        let scope = "scope=repository:a/b:pull";
        assert_eq!(ask("GET", &format!("/token?{scope}"), "").await, "200");
        let good = format!("grant_type=refresh_token&refresh_token={IDENTITY_TOKEN}&{scope}");
        assert_eq!(ask("POST", "/token", &good).await, "200");
        let bad = format!("grant_type=refresh_token&refresh_token=other&{scope}");
        assert_eq!(ask("POST", "/token", &bad).await, "401");
        let asked = server.asked();
        let told: Vec<_> = asked.iter().map(|a| (a.user.as_str(), a.granted)).collect();
        assert_eq!(told, [("", true), (LOGIN.0, true), ("?", false)]);
    }
}

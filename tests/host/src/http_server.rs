//! The server's side of just enough HTTP/1.1: heads of requests and whole answers.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longest head that is read.
const HEAD_MAX: usize = 64 << 10;

/// The first byte of a TLS handshake.
const TLS: u8 = 0x16;

/// The head of a request or an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// `GET /v2/ HTTP/1.1` or `HTTP/1.1 200 OK`.
    pub first: String,
    pub headers: Vec<(String, String)>,
}

impl Head {
    fn parse(raw: &[u8]) -> Head {
        let text = String::from_utf8_lossy(raw);
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default().to_owned();
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
            .collect();
        Head { first, headers }
    }

    /// Method or protocol version.
    pub fn word(&self, n: usize) -> &str {
        self.first.split_whitespace().nth(n).unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.as_str())
    }

    pub fn remove(&mut self, name: &str) {
        self.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
    }

    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.remove(name);
        self.headers.push((name.to_owned(), value.into()));
    }

    pub fn length(&self) -> Option<u64> {
        self.header("content-length").and_then(|text| text.parse().ok())
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.first);
        for (key, value) in &self.headers {
            text.push_str(&format!("{key}: {value}\r\n"));
        }
        text.push_str("\r\n");
        text.into_bytes()
    }
}

/// The next head, and what was read beyond it; `None` at the end of the connection.
pub async fn read_head(stream: &mut TcpStream, mut buffer: Vec<u8>) -> std::io::Result<Option<(Head, Vec<u8>)>> {
    loop {
        if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            let rest = buffer.split_off(at + 4);
            return Ok(Some((Head::parse(&buffer), rest)));
        }
        if buffer.len() > HEAD_MAX {
            return Err(std::io::Error::other("a head without an end"));
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(None);
        }
    }
}

/// Whether the client begins with a TLS handshake. If so it is told that this is no TLS, as Go's HTTP server does; clients
/// know a plain registry by this. Closed only when the client has seen it: a reset would look like a broken connection.
pub async fn refused_tls(stream: &mut TcpStream) -> bool {
    let mut first = [0];
    if !matches!(stream.peek(&mut first).await, Ok(1)) || first != [TLS] {
        return false;
    }
    let text = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTPS request to an HTTP server.\n";
    if stream.write_all(text).await.is_ok() && stream.shutdown().await.is_ok() {
        stream.read_to_end(&mut Vec::new()).await.ok();
    }
    true
}

/// The head of a whole answer with a body of this length.
pub fn answer(status: u16, headers: &[(String, String)], length: usize) -> Head {
    let mut head = Head {
        first: format!("HTTP/1.1 {status} X"),
        headers: headers.to_vec(),
    };
    head.set("Content-Length", length.to_string());
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_and_written_and_its_headers_know_no_case() {
        let raw = b"GET /v2/ HTTP/1.1\r\nHost: a:1\r\ncontent-length: 7\r\n\r\n";
        let mut head = Head::parse(raw);
        assert_eq!((head.word(0), head.word(1), head.length()), ("GET", "/v2/", Some(7)));
        assert_eq!(head.header("HOST"), Some("a:1"));
        assert_eq!(head.bytes(), raw);
        head.set("Content-Length", "8");
        assert_eq!((head.length(), head.headers.len()), (Some(8), 2));
    }
}

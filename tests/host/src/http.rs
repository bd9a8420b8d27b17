//! Just enough HTTP/1.1 to push an image and to read metrics: one request per connection.

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub struct Response {
    pub status: u16,
    headers: String,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// `target` is a path with query, or a full URL of the same server.
pub async fn request(addr: &str, method: &str, target: &str, content_type: &str, body: &[u8]) -> Result<Response> {
    let target = target
        .strip_prefix("http://")
        .and_then(|rest| rest.find('/').map(|at| &rest[at..]))
        .unwrap_or(target);
    let mut stream = TcpStream::connect(addr)
        .await
        .with_context(|| format!("connect to {addr}"))?;
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\nAccept: */*\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw).await?;
    let split = raw
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .context("answer without headers")?;
    let headers = String::from_utf8_lossy(&raw[..split]).into_owned();
    let status = headers
        .split_whitespace()
        .nth(1)
        .and_then(|code| code.parse().ok())
        .context("answer without status")?;
    let mut answer = Response {
        status,
        headers,
        body: raw.split_off(split + 4),
    };
    if answer.header("transfer-encoding") == Some("chunked") {
        answer.body = joined(&answer.body)?;
    }
    Ok(answer)
}

/// The chunks of a body that was sent in such, put together (RFC 9112, section 7.1). A server cuts where its buffer ends, in
/// the middle of a line too.
fn joined(mut body: &[u8]) -> Result<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = body
            .windows(2)
            .position(|w| w == b"\r\n")
            .context("a chunk without a size")?;
        let head = std::str::from_utf8(&body[..end]).context("the size of a chunk")?;
        let size = head.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).with_context(|| format!("the size of a chunk: {size:?}"))?;
        let rest = &body[end + 2..];
        if size == 0 {
            return Ok(whole);
        }
        whole.extend(rest.get(..size).context("a chunk that breaks off")?);
        body = rest
            .get(size..)
            .and_then(|rest| rest.strip_prefix(b"\r\n"))
            .context("a chunk without an end")?;
    }
}

#[cfg(test)]
mod tests {
    use super::joined;

    #[test]
    fn chunks_are_put_together_wherever_they_were_cut() {
        let whole = joined(b"4\r\ncoun\r\n9;x=y\r\nt 17\r\nnex\r\n1\r\nt\r\n0\r\n\r\n").expect("chunks");
        assert_eq!(whole, b"count 17\r\nnext");
        for broken in [&b"4\r\nco"[..], b"x\r\n", b"", b"2\r\nabc\r\n0\r\n\r\n"] {
            assert!(joined(broken).is_err(), "{broken:?}");
        }
    }
}

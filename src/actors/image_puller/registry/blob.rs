//! The bytes of a blob as they come.

use super::chain;
use crate::actors::image_puller::refusal::Failure;
use bytes::Bytes;
use reqwest::header::HeaderMap;
use reqwest::{Response, StatusCode, header};
use std::time::Duration;

/// A blob that is coming. Not verified: the content store does that when it commits.
pub(in crate::actors::image_puller) struct Blob {
    response: Response,
    /// Bytes that are here already, of a registry that sends all.
    skip: u64,
    idle: Duration,
    host: usize,
}

impl Blob {
    /// From byte `from` on, out of the answer of host number `host`.
    pub(super) fn new(response: Response, from: u64, idle: Duration, host: usize) -> Result<Self, Failure> {
        let begins = begins(response.status(), response.headers(), from);
        if begins > from {
            return Err(Failure::Broken(format!(
                "bytes from {from} on were asked for, those from {begins} on came"
            )));
        }
        Ok(Self {
            response,
            skip: from - begins,
            idle,
            host,
        })
    }

    /// Number of the host that it comes from.
    pub(in crate::actors::image_puller) fn host(&self) -> usize {
        self.host
    }

    /// The next bytes, `None` after the last ones; an error says what became of the connection. `came` is told how many
    /// have come, also of those that are here already.
    pub(in crate::actors::image_puller) async fn next(
        &mut self,
        came: &(dyn Fn(u64) + Sync),
    ) -> Result<Option<Bytes>, String> {
        loop {
            let part = match tokio::time::timeout(self.idle, self.response.chunk()).await {
                Ok(Ok(part)) => part,
                // The outer text has the URL, whose query may be a signature.
                Ok(Err(e)) => return Err(chain(&e.without_url())),
                Err(_) => return Err(format!("nothing came for {:?}", self.idle)),
            };
            let Some(mut part) = part else { return Ok(None) };
            came(part.len() as u64);
            let cut = usize::try_from(self.skip).unwrap_or(usize::MAX).min(part.len());
            self.skip -= cut as u64;
            let rest = part.split_off(cut);
            if !rest.is_empty() {
                return Ok(Some(rest));
            }
        }
    }
}

/// The first byte of an answer. A registry may send more than was asked for, or all of it.
fn begins(status: StatusCode, headers: &HeaderMap, asked: u64) -> u64 {
    if status != StatusCode::PARTIAL_CONTENT {
        return 0;
    }
    let range = headers.get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
    let first = range.and_then(|range| {
        range
            .trim()
            .strip_prefix("bytes ")?
            .split('-')
            .next()?
            .trim()
            .parse()
            .ok()
    });
    // One that says nothing has done what was asked.
    first.unwrap_or(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_begins_where_it_says() {
        let of = |status: u16, range: &str| {
            let mut headers = HeaderMap::new();
            if !range.is_empty() {
                headers.insert(header::CONTENT_RANGE, range.parse().unwrap());
            }
            begins(StatusCode::from_u16(status).unwrap(), &headers, 7)
        };
        assert_eq!(of(200, ""), 0);
        assert_eq!(of(206, ""), 7);
        assert_eq!(of(206, "bytes 7-99/100"), 7);
        assert_eq!(of(206, "bytes 4-99/*"), 4);
        assert_eq!(of(206, "bytes 9-99/100"), 9);
        assert_eq!(of(206, "bytes x"), 7);
    }
}

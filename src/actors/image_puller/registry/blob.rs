//! The bytes of a blob as they come.

use super::chain;
use super::remote::Ask;
use crate::actors::image_puller::refusal::Failure;
use bytes::Bytes;
use reqwest::header::HeaderMap;
use reqwest::{Response, StatusCode, header};
use std::time::Duration;

/// A blob that is coming, or a part of one. Not verified: the content store does that when it commits.
pub(in crate::actors::image_puller) struct Blob {
    response: Response,
    /// What has come and was not taken.
    rest: Bytes,
    /// Bytes that are here already, of a registry that sends all.
    skip: u64,
    /// Bytes of a part that are still to come; more is not looked at. `None` for one that goes on to the end.
    part: Option<u64>,
    idle: Duration,
    host: usize,
}

impl Blob {
    /// What was asked for, out of the answer of host number `host`.
    pub(super) fn new(response: Response, ask: &Ask, idle: Duration, host: usize) -> Result<Self, Failure> {
        let sent = sent(response.status(), response.headers(), ask);
        if sent.begins > ask.from {
            return Err(Failure::Broken(format!(
                "bytes from {} on were asked for, those from {} on came",
                ask.from, sent.begins
            )));
        }
        Ok(Self {
            response,
            rest: Bytes::new(),
            skip: ask.from - sent.begins,
            part: ask.to.filter(|_| sent.is_part).map(|to| to.saturating_sub(ask.from)),
            idle,
            host,
        })
    }

    /// Number of the host that it comes from.
    pub(in crate::actors::image_puller) fn host(&self) -> usize {
        self.host
    }

    /// Whether it ends where it was asked to end.
    pub(in crate::actors::image_puller) fn is_part(&self) -> bool {
        self.part.is_some()
    }

    /// The next bytes, `most` of them at most, `None` after the last ones; an error says what became of the connection. `came`
    /// is told how many have come, also of those that are here already.
    pub(in crate::actors::image_puller) async fn next(
        &mut self,
        most: usize,
        came: &(dyn Fn(u64) + Sync),
    ) -> Result<Option<Bytes>, String> {
        if self.part == Some(0) {
            return Ok(None);
        }
        while self.rest.is_empty() {
            let part = match tokio::time::timeout(self.idle, self.response.chunk()).await {
                Ok(Ok(part)) => part,
                // The outer text has the URL, whose query may be a signature.
                Ok(Err(e)) => return Err(chain(&e.without_url())),
                Err(_) => return Err(format!("nothing came for {:?}", self.idle)),
            };
            let Some(mut part) = part else { return Ok(None) };
            came(part.len() as u64);
            self.rest = part.split_off(within(self.skip, part.len()));
            self.skip -= part.len() as u64;
        }
        let wanted = within(self.part.unwrap_or(u64::MAX), most.min(self.rest.len()));
        let next = self.rest.split_to(wanted);
        self.part = self.part.map(|left| left - next.len() as u64);
        Ok(Some(next))
    }
}

fn within(bytes: u64, most: usize) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX).min(most)
}

/// What there is in an answer.
#[derive(Debug, PartialEq, Eq)]
struct Sent {
    begins: u64,
    /// Whether no more comes than was asked for.
    is_part: bool,
}

/// A registry may send more than was asked for, or all of it.
fn sent(status: StatusCode, headers: &HeaderMap, ask: &Ask) -> Sent {
    if status != StatusCode::PARTIAL_CONTENT {
        return Sent {
            begins: 0,
            is_part: false,
        };
    }
    let range = headers.get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
    let range = range.and_then(|range| range.trim().strip_prefix("bytes ")?.split_once('-'));
    let (first, last) = range.unwrap_or_default();
    let last: Option<u64> = last.split('/').next().and_then(|last| last.trim().parse().ok());
    // One that says nothing has done what was asked.
    Sent {
        begins: first.trim().parse().unwrap_or(ask.from),
        is_part: ask.to.is_some_and(|to| last.is_none_or(|last| last < to)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, range: &str, to: Option<u64>) -> Sent {
        let mut headers = HeaderMap::new();
        if !range.is_empty() {
            headers.insert(header::CONTENT_RANGE, range.parse().unwrap());
        }
        let ask = Ask {
            path: String::new(),
            accept: None,
            from: 7,
            to,
            by_digest: true,
        };
        sent(StatusCode::from_u16(status).unwrap(), &headers, &ask)
    }

    #[test]
    fn an_answer_begins_where_it_says() {
        let begins = |status, range| of(status, range, None).begins;
        assert_eq!(begins(200, ""), 0);
        assert_eq!(begins(206, ""), 7);
        assert_eq!(begins(206, "bytes 7-99/100"), 7);
        assert_eq!(begins(206, "bytes 4-99/*"), 4);
        assert_eq!(begins(206, "bytes 9-99/100"), 9);
        assert_eq!(begins(206, "bytes x"), 7);
    }

    #[test]
    fn an_answer_is_a_part_if_it_ends_where_it_should() {
        let is_part = |status, range| of(status, range, Some(10)).is_part;
        assert!(is_part(206, "bytes 7-9/100"));
        assert!(is_part(206, ""));
        assert!(!is_part(206, "bytes 7-10/100"));
        assert!(!is_part(200, "bytes 7-9/100"));
        assert!(!of(206, "bytes 7-9/10", None).is_part);
    }
}

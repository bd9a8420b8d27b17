//! One host of a registry: what it is asked with, over what, and whose answers are followed where.

use super::challenge::challenge;
use super::token::{Authorizer, Shown};
use super::{Clients, Common, chain};
use crate::actors::image_puller::refusal::{Failure, WORDS_MAX_BYTES};
use crate::host::registries::Configured;
use crate::spec::hosts::{self, Address, Transport};
use crate::spec::reference::is_loopback;
use bytes::{Bytes, BytesMut};
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Response, StatusCode, Url};
use std::sync::PoisonError;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// Redirects that are followed, as Go's clients do.
const REDIRECTS_MAX: usize = 10;

/// What is asked of a registry.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    /// Behind the repository, such as `manifests/latest`.
    pub(super) path: String,
    /// Media types that are understood.
    pub(super) accept: Option<&'static str>,
    /// The first byte that is wanted.
    pub(super) from: u64,
    /// The first one that is not, if it is not all that follow.
    pub(super) to: Option<u64>,
    /// Whether the answer is verified by its digest, so that it does not matter who gives it.
    pub(super) by_digest: bool,
}

impl Ask {
    /// The header of one that does not want all.
    pub(super) fn range(&self) -> Option<String> {
        match (self.from, self.to) {
            (0, None) => None,
            (from, None) => Some(format!("bytes={from}-")),
            (from, Some(to)) => Some(format!("bytes={from}-{}", to.saturating_sub(1))),
        }
    }
}

/// A host of a registry.
pub(super) struct Remote {
    pub(super) address: Address,
    pub(super) pull: bool,
    pub(super) resolve: bool,
    /// How often it failed in this session: those that did not are asked before.
    pub(super) trouble: AtomicU32,
    client: Client,
    /// For other places that it sends us to.
    elsewhere: Client,
    headers: HeaderMap,
    mirror: bool,
    authorizer: Authorizer,
}

impl Remote {
    pub(super) fn new(
        configured: &Configured,
        registry: &str,
        loopback: bool,
        clients: &Clients,
    ) -> Result<Self, String> {
        let host = &configured.host;
        let address = host.place(registry, loopback);
        // As Docker: the loopback address is trusted, unless somebody has said what to trust there.
        let own = host.address.is_none() && loopback;
        let insecure = host.skip_verify.unwrap_or(own && host.ca.is_empty());
        let client = clients.of(configured, insecure, is_loopback(&address.host))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &host.headers {
            let name = HeaderName::try_from(name.as_str())
                .map_err(|_| format!("header: {name:?}: a name of a header is expected"))?;
            let mut value = HeaderValue::try_from(value.reveal())
                .map_err(|_| format!("header.{name}: a text that a header can have is expected"))?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
        Ok(Self {
            mirror: hosts::is_mirror(&address.host, registry),
            elsewhere: if own { clients.ordinary()? } else { client.clone() },
            address,
            pull: host.pull,
            resolve: host.resolve,
            trouble: AtomicU32::new(0),
            client,
            headers,
            authorizer: Authorizer::default(),
        })
    }

    /// Asks, shows what is wanted to be shown, and follows redirects. Status 200 or 206.
    pub(super) async fn get(&self, ask: &Ask, common: &Common) -> Result<Response, Failure> {
        let mut shown = self.authorizer.shown().await;
        loop {
            let (response, at_home) = self.reach(ask, &shown, common).await?;
            if response.status() != StatusCode::UNAUTHORIZED || !at_home {
                return self.answer(response, at_home, common).await;
            }
            let headers = response.headers().get_all(header::WWW_AUTHENTICATE);
            let Some(challenge) = challenge(headers.iter().filter_map(|h| h.to_str().ok())) else {
                return self.answer(response, at_home, common).await;
            };
            drop(response);
            shown = self.authorizer.renew(self, common, &challenge, &shown).await?;
        }
    }

    /// Over TLS, or without where that is allowed and nothing else is spoken. True: the answer is the host's own.
    async fn reach(&self, ask: &Ask, shown: &Shown, common: &Common) -> Result<(Response, bool), Failure> {
        if !self.is_plain(common) {
            let url = self.url("https", ask, common)?;
            match self.follow(&url, ask, shown, common).await {
                Err(Failure::Down(_)) if self.address.transport == Transport::TlsThenPlain => {}
                answer => return answer,
            }
        }
        let answer = self.follow(&self.url("http", ask, common)?, ask, shown, common).await;
        // What a server of TLS says to whoever speaks plainly; it may have begun with that since.
        if matches!(&answer, Ok((response, _)) if response.status() == StatusCode::BAD_REQUEST)
            && self.address.transport == Transport::TlsThenPlain
        {
            let over_tls = self.follow(&self.url("https", ask, common)?, ask, shown, common).await;
            if !matches!(over_tls, Err(Failure::Down(_))) {
                let mut plain = common.plain.lock().unwrap_or_else(PoisonError::into_inner);
                plain.remove(&self.address.host);
                return over_tls;
            }
        }
        let mut plain = common.plain.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            // Another registry may answer on this port next time.
            Err(Failure::Down(_)) => plain.remove(&self.address.host),
            _ => plain.insert(self.address.host.clone()),
        };
        drop(plain);
        answer
    }

    /// Whether no TLS is spoken there, as far as is known.
    pub(super) fn is_plain(&self, common: &Common) -> bool {
        let known = || {
            let plain = common.plain.lock().unwrap_or_else(PoisonError::into_inner);
            plain.contains(&self.address.host)
        };
        match self.address.transport {
            Transport::Tls => false,
            Transport::Plain => true,
            Transport::TlsThenPlain => known(),
        }
    }

    fn url(&self, scheme: &str, ask: &Ask, common: &Common) -> Result<Url, Failure> {
        let Address { host, path, .. } = &self.address;
        let text = format!("{scheme}://{host}{path}/{}/{}", common.repository, ask.path);
        let mut url = Url::parse(&text).map_err(|e| Failure::Unusable(format!("{text:?} is no URL: {e}")))?;
        if self.mirror {
            url.query_pairs_mut().append_pair("ns", &common.registry);
        }
        Ok(url)
    }

    async fn follow(
        &self,
        start: &Url,
        ask: &Ask,
        shown: &Shown,
        common: &Common,
    ) -> Result<(Response, bool), Failure> {
        let (mut url, mut at_home) = (start.clone(), true);
        for hop in 0..=REDIRECTS_MAX {
            let mut request = self.client_for(&url).get(url.clone());
            if let Some(accept) = ask.accept {
                request = request.header(header::ACCEPT, accept);
            }
            if let Some(range) = ask.range() {
                request = request.header(header::RANGE, range);
            }
            if at_home {
                let mut headers = self.headers.clone();
                if let Some(value) = &shown.header {
                    // In place of one that the file may have: that one was not good enough.
                    headers.insert(header::AUTHORIZATION, value.clone());
                }
                request = request.headers(headers);
            }
            let response = match sent(request, common.idle).await {
                // Where it sends us is not where it is.
                Err(Failure::Down(reason)) if hop > 0 => Err(Failure::Broken(reason)),
                other => other,
            }?;
            let Some(next) = redirect(&response)? else {
                return Ok((response, at_home));
            };
            if !ask.by_digest && url.scheme() == "https" && next.scheme() == "http" {
                let words = "it redirects a tag from TLS to HTTP, where anybody could change what it stands for";
                return Err(Failure::Unusable(words.to_owned()));
            }
            // Once away, what was for the registry is shown to nobody any more.
            at_home = at_home && is_same_place(&url, &next);
            url = next;
        }
        Err(Failure::Unusable(format!("more than {REDIRECTS_MAX} redirects")))
    }

    /// The response if it is what was asked for, else what it means.
    async fn answer(&self, response: Response, at_home: bool, common: &Common) -> Result<Response, Failure> {
        let (status, host) = (response.status(), &self.address.host);
        if matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            return Ok(response);
        }
        let headers = response.headers().clone();
        if !at_home {
            return Err(Failure::of_another(host, response.url().authority(), status, &headers));
        }
        // What it says is of use, but no reason to take a refusal for a broken connection.
        let said = body(response, WORDS_MAX_BYTES, common.idle)
            .await
            .ok()
            .flatten()
            .unwrap_or_default();
        Err(Failure::of_registry(host, status, &headers, &said, &common.keyring))
    }

    /// The client for a place that this host has named: its own for itself and, if it is on this machine, for all others on
    /// it, since a registry that needs no known certificate is trusted no further than that.
    pub(super) fn client_for(&self, url: &Url) -> &Client {
        let place = url.host_str().unwrap_or_default();
        match is_loopback(place) && is_loopback(&self.address.host) {
            true => &self.client,
            false => &self.elsewhere,
        }
    }

    /// The headers that are for this host, if the URL is in it.
    pub(super) fn headers_for(&self, url: &Url) -> HeaderMap {
        let own = ["https", "http"].iter().any(|scheme| {
            Url::parse(&format!("{scheme}://{}", self.address.host))
                .is_ok_and(|own| own.scheme() == url.scheme() && is_same_place(&own, url))
        });
        if own { self.headers.clone() } else { HeaderMap::new() }
    }
}

/// Sends a request; a place that says nothing for `idle` has gone away.
pub(super) async fn sent(request: reqwest::RequestBuilder, idle: Duration) -> Result<Response, Failure> {
    match tokio::time::timeout(idle, request.send()).await {
        Ok(Ok(response)) => Ok(response),
        // The library's own text has the URL, whose query may be a signature.
        Ok(Err(e)) if e.is_connect() => Err(Failure::Down(chain(&e.without_url()))),
        Ok(Err(e)) => Err(Failure::Broken(chain(&e.without_url()))),
        Err(_) => Err(Failure::Broken(format!("no answer within {idle:?}"))),
    }
}

/// Reads a body of at most `limit` bytes; `None` for a longer one.
pub(super) async fn body(mut response: Response, limit: u64, idle: Duration) -> Result<Option<Bytes>, Failure> {
    let mut body = BytesMut::new();
    loop {
        match tokio::time::timeout(idle, response.chunk()).await {
            Ok(Ok(Some(part))) if body.len() as u64 + part.len() as u64 > limit => return Ok(None),
            Ok(Ok(Some(part))) => body.extend_from_slice(&part),
            Ok(Ok(None)) => return Ok(Some(body.freeze())),
            Ok(Err(e)) => return Err(Failure::Broken(chain(&e.without_url()))),
            Err(_) => return Err(Failure::Broken(format!("nothing came for {idle:?}"))),
        }
    }
}

/// Where a redirect leads.
pub(super) fn redirect(response: &Response) -> Result<Option<Url>, Failure> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = response.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
    let next = location.and_then(|location| response.url().join(location).ok());
    match next.filter(|next| matches!(next.scheme(), "http" | "https") && next.has_host()) {
        Some(mut next) => {
            // A user name there would be sent as credentials.
            if next.set_username("").and_then(|()| next.set_password(None)).is_err() {
                return Err(Failure::Unusable("it redirects to no place".to_owned()));
            }
            Ok(Some(next))
        }
        None => Err(Failure::Unusable("it redirects to no place".to_owned())),
    }
}

/// Whether what is for one is for the other: the same host and port, or the same host's TLS in place of its HTTP.
pub(super) fn is_same_place(one: &Url, other: &Url) -> bool {
    let port = |url: &Url| url.port_or_known_default();
    one.host_str() == other.host_str() && (one.scheme(), port(one)) == (other.scheme(), port(other))
        || one.host_str() == other.host_str()
            && (one.scheme(), port(one), other.scheme(), port(other)) == ("http", Some(80), "https", Some(443))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_scheme_host_and_port() {
        let same = |one: &str, other: &str| is_same_place(&Url::parse(one).unwrap(), &Url::parse(other).unwrap());
        assert!(same("https://a/x", "https://a:443/y"));
        assert!(same("http://a/x", "https://a/x"));
        assert!(!same("https://a/x", "http://a/x"));
        assert!(!same("https://a", "https://b"));
        assert!(!same("https://a", "https://a:444"));
        assert!(!same("http://a:5000", "https://a:5000"));
        assert!(!same("https://a", "https://a.b"));
    }
}

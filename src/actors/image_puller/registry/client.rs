//! HTTP clients, one for each way of trusting a host: with its connections it is shared by all pulls that trust alike.
//! Credentials are no part of a client.

use super::trust;
use crate::host::registries::Configured;
use crate::spec::identity::Digest;
use reqwest::{Client, ClientBuilder, redirect};
use rustls::ClientConfig;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Longest time to connect, where `hosts.toml` says nothing: half of what a question for the newest may take, so that a mirror that
/// nobody answers at leaves time for the registry.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Clients that are kept; beyond that, all are made anew. Few nodes have more than two.
const KEPT_MAX: usize = 32;

/// Clients by what they trust. Cheap to clone; clones share them.
#[derive(Clone, Default)]
pub(super) struct Clients(Arc<Mutex<HashMap<String, Client>>>);

impl Clients {
    /// A client that trusts what the system does.
    pub(super) fn ordinary(&self) -> Result<Client, String> {
        self.kept("", || Ok(base(CONNECT_TIMEOUT, trust::tls(None, false)?)))
    }

    /// A client for a host with what its files say. A `direct` one uses no proxy, as Go's clients do on the loopback address.
    pub(super) fn of(&self, host: &Configured, insecure: bool, direct: bool) -> Result<Client, String> {
        let connect = host.host.dial_timeout.unwrap_or(CONNECT_TIMEOUT);
        let mut key = format!("{insecure} {direct} {connect:?}");
        for pem in &host.authorities {
            key += &format!(" {}", Digest::sha256(pem));
        }
        if let Some(identity) = &host.identity {
            key += &format!(" as {}", Digest::sha256(identity.reveal().as_bytes()));
        }
        self.kept(&key, || {
            let builder = base(connect, trust::tls(Some(host), insecure)?);
            Ok(if direct { builder.no_proxy() } else { builder })
        })
    }

    fn kept(&self, key: &str, make: impl FnOnce() -> Result<ClientBuilder, String>) -> Result<Client, String> {
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(key) {
            return Ok(client.clone());
        }
        let client = make()?.build().map_err(|e| super::chain(&e))?;
        if clients.len() >= KEPT_MAX {
            clients.clear();
        }
        clients.insert(key.to_owned(), client.clone());
        Ok(client)
    }
}

fn base(connect: Duration, tls: ClientConfig) -> ClientBuilder {
    Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(concat!("containerd-driver/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(connect)
        // Followed by ourselves, since reqwest would show another host what is for the first one.
        .redirect(redirect::Policy::none())
        .referer(false)
}

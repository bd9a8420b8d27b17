//! Where the images of a registry come from: containerd's `hosts.toml` (`docs/hosts.md` of containerd), read.
//!
//! A registry has hosts that are asked in order: mirrors as the file lists them, and the registry itself last. Paths of
//! certificates are as the file has them, relative to its directory. Keys that are not known are passed over, as
//! containerd does, since later versions add some.

use super::go;
use super::secret::Secret;
use std::time::Duration;
use toml::{Table, Value};

/// containerd's place for these files, then Docker's (the default of CRI's `config_path`).
pub const DEFAULT_ROOTS: &str = "/etc/containerd/certs.d:/etc/docker/certs.d";
/// Docker Hub answers under another name than images have.
const HUB: &str = "docker.io";
const HUB_HOST: &str = "registry-1.docker.io";
/// Where the API of a registry begins.
const API: &str = "/v2";

/// What may be spoken to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TLS only.
    Tls,
    /// TLS, and HTTP if no TLS is spoken there.
    TlsThenPlain,
    /// HTTP only.
    Plain,
}

/// Where a host is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// What is spoken there.
    pub transport: Transport,
    /// Host name or address, with the port if one is given.
    pub host: String,
    /// Path of its API, `/v2` mostly; begins with a slash and does not end with one, or is empty.
    pub path: String,
}

/// One host of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Where it is; `None` for the registry's own place.
    pub address: Option<Address>,
    /// Whether it may be asked for content by digest.
    pub pull: bool,
    /// Whether it may be asked what a tag stands for.
    pub resolve: bool,
    /// Files with certificates of authorities, besides those that the system trusts.
    pub ca: Vec<String>,
    /// Files with a client certificate and its key, which may be in the same file.
    pub client: Vec<(String, Option<String>)>,
    /// Whether any certificate is good enough.
    pub skip_verify: Option<bool>,
    /// Headers for each request; they may be as secret as a password.
    pub headers: Vec<(String, Secret)>,
    /// Longest time to connect, where the file says one.
    pub dial_timeout: Option<Duration>,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            address: None,
            pull: true,
            resolve: true,
            ca: Vec::new(),
            client: Vec::new(),
            skip_verify: None,
            headers: Vec::new(),
            dial_timeout: None,
        }
    }
}

impl Host {
    /// Where it is, if `registry` is the one whose images are wanted. Without an address it is the registry itself, and on
    /// the loopback address HTTP will do, as with Docker. A host with `http://` for which the file says something about
    /// TLS is tried with TLS first, as containerd does, unless its port is 80.
    #[must_use]
    pub fn place(&self, registry: &str, loopback: bool) -> Address {
        let with_tls = self.skip_verify.is_some() || !self.ca.is_empty() || !self.client.is_empty();
        match &self.address {
            Some(address) if address.transport == Transport::Plain && with_tls && !has_port_80(&address.host) => {
                Address {
                    transport: Transport::TlsThenPlain,
                    ..address.clone()
                }
            }
            Some(address) => address.clone(),
            None => Address {
                transport: match loopback {
                    true if has_port_80(registry) => Transport::Plain,
                    true => Transport::TlsThenPlain,
                    false => Transport::Tls,
                },
                host: if registry == HUB { HUB_HOST } else { registry }.to_owned(),
                path: API.to_owned(),
            },
        }
    }
}

/// Whether a host is another one than the registry, which then has to be told whose images are wanted (`ns`).
#[must_use]
pub fn is_mirror(host: &str, registry: &str) -> bool {
    host != registry && !(registry == HUB && host == HUB_HOST)
}

/// The directories of the setting, which separates them by `:` as containerd does.
pub fn roots(setting: &str) -> impl Iterator<Item = &str> {
    setting.split(':').filter(|root| !root.is_empty())
}

/// Names that the directory of a registry may have, the best first.
#[must_use]
pub fn directories(registry: &str) -> Vec<String> {
    let mut names = Vec::with_capacity(3);
    if let Some((host, port)) = registry.rsplit_once(':').filter(|(host, _)| !host.is_empty()) {
        names.push(format!("{host}_{port}_"));
    }
    names.push(registry.to_owned());
    names.push("_default".to_owned());
    names
}

/// Reads a `hosts.toml`: the mirrors in their order, then the registry itself.
///
/// # Errors
/// Says which key of which host is wrong, and what is allowed.
pub fn parse(text: &str) -> Result<Vec<Host>, String> {
    let file: Table = toml::from_str(text).map_err(|e| match e.span() {
        Some(span) => format!("line {}: {}", line_of(text, span.start), e.message()),
        None => e.message().to_owned(),
    })?;
    let mut hosts = Vec::new();
    match file.get("host") {
        None => {}
        Some(Value::Table(mirrors)) => {
            for (url, keys) in mirrors {
                let within = format!("host.{url:?}");
                let Value::Table(keys) = keys else {
                    return Err(format!("{}: a table [host.\"URL\"] is expected", shown(&within)));
                };
                hosts.push(host(Some(url), keys, &within)?);
            }
        }
        Some(_) => return Err("host: tables [host.\"URL\"] are expected".to_owned()),
    }
    let server = match file.get("server") {
        None => None,
        Some(Value::String(server)) => Some(server.as_str()).filter(|s| !s.is_empty()),
        Some(_) => return Err("server: a URL is expected".to_owned()),
    };
    let mut own = host(server, &file, "")?;
    if server.is_none() {
        // As containerd does: without a server, what is said at the top is not said of the registry itself.
        (own.pull, own.resolve) = (true, true);
    }
    hosts.push(own);
    Ok(hosts)
}

/// What Docker's layout says, which has files with certificates and nothing else: `*.crt` of authorities, `*.cert` and
/// `*.key` of clients.
#[must_use]
pub fn docker_layout(mut names: Vec<String>) -> Vec<Host> {
    names.sort_unstable();
    let mut host = Host::default();
    for name in &names {
        if name.ends_with(".crt") {
            host.ca.push(name.clone());
        } else if let Some(stem) = name.strip_suffix(".cert") {
            let key = Some(format!("{stem}.key")).filter(|key| names.contains(key));
            host.client.push((name.clone(), key));
        }
    }
    vec![host]
}

fn host(url: Option<&str>, keys: &Table, within: &str) -> Result<Host, String> {
    let at = |key: &str| match within {
        "" => key.to_owned(),
        within => format!("{}.{key}", shown(within)),
    };
    let flag = |key: &str| match keys.get(key) {
        None => Ok(None),
        Some(Value::Boolean(flag)) => Ok(Some(*flag)),
        Some(_) => Err(format!("{}: true or false is expected", at(key))),
    };
    let override_path = flag("override_path")?.unwrap_or(false);
    let mut host = Host {
        skip_verify: flag("skip_verify")?,
        ..Host::default()
    };
    if let Some(url) = url {
        let name = if within.is_empty() {
            "server".to_owned()
        } else {
            "host".to_owned()
        };
        host.address = Some(address(url, override_path).map_err(|e| format!("{name}: {:?}: {e}", shown(url)))?);
    }
    let words = |key: &str| match keys.get(key) {
        None => Ok(None),
        Some(value) => texts(value)
            .map(Some)
            .ok_or_else(|| format!("{}: a list of texts is expected", at(key))),
    };
    if let Some(capabilities) = words("capabilities")?.filter(|list| !list.is_empty()) {
        (host.pull, host.resolve) = (false, false);
        for capability in capabilities {
            match capability.to_lowercase().as_str() {
                "pull" => host.pull = true,
                "resolve" => host.resolve = true,
                "push" | "referrers" => {}
                _ => {
                    let key = at("capabilities");
                    return Err(format!(
                        "{key}: {capability:?}: pull, resolve, push and referrers are expected"
                    ));
                }
            }
        }
    }
    host.ca = match keys.get("ca") {
        Some(Value::String(file)) => vec![file.clone()],
        _ => words("ca")?.unwrap_or_default(),
    };
    if let Some(client) = keys.get("client") {
        host.client = pairs(client).ok_or_else(|| {
            format!(
                "{}: a file, a list of files, or a list of pairs of certificate and key is expected",
                at("client")
            )
        })?;
    }
    match keys.get("header") {
        None => {}
        Some(Value::Table(headers)) => {
            for (name, value) in headers {
                let values = match value {
                    Value::String(value) => Some(vec![value.clone()]),
                    list => texts(list),
                };
                // The value may be a secret, and is not shown.
                let values =
                    values.ok_or_else(|| format!("{}.{name}: a text or a list of texts is expected", at("header")))?;
                host.headers
                    .extend(values.into_iter().map(|value| (name.clone(), Secret::new(value))));
            }
        }
        Some(_) => return Err(format!("{}: a table of names and texts is expected", at("header"))),
    }
    host.dial_timeout = match keys.get("dial_timeout") {
        None => None,
        Some(value) => {
            let text = value.as_str();
            let read = text
                .filter(|t| !t.is_empty())
                .map(|t| go::parse_duration(t).filter(|d| !d.is_zero()));
            match (text, read) {
                (Some(""), _) => None,
                (_, Some(Some(timeout))) => Some(timeout),
                _ => {
                    let given = text.map_or_else(|| value.type_str().to_owned(), |text| format!("{text:?}"));
                    let key = at("dial_timeout");
                    return Err(format!("{key}: {given}: a duration such as \"3s\" is expected"));
                }
            }
        }
    };
    Ok(host)
}

fn texts(value: &Value) -> Option<Vec<String>> {
    let list = value.as_array()?;
    list.iter().map(|text| text.as_str().map(str::to_owned)).collect()
}

fn pairs(value: &Value) -> Option<Vec<(String, Option<String>)>> {
    match value {
        Value::String(file) => Some(vec![(file.clone(), None)]),
        Value::Array(list) => list
            .iter()
            .map(|entry| match entry {
                Value::String(file) => Some((file.clone(), None)),
                pair => match texts(pair)?.as_slice() {
                    // containerd reads an empty key as none.
                    [certificate, key] => Some((certificate.clone(), Some(key.clone()).filter(|key| !key.is_empty()))),
                    _ => None,
                },
            })
            .collect(),
        _ => None,
    }
}

/// Reads `[http[s]://]HOST[:PORT][/PATH]`.
fn address(url: &str, override_path: bool) -> Result<Address, String> {
    const EXPECTED: &str = "a URL such as https://mirror.example:5000 is expected, with http or https and a host, without user, query and fragment";
    let (transport, rest) = match url.split_once("://") {
        Some(("http", rest)) => (Transport::Plain, rest),
        Some(("https", rest)) => (Transport::Tls, rest),
        Some(_) => return Err(EXPECTED.to_owned()),
        None => (Transport::Tls, url),
    };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let is_plain = |c: char| c.is_ascii_graphic() && !"@?#\\\"<>^`{|}%".contains(c);
    if host.is_empty() || host.starts_with(':') || !is_port(host) || !rest.chars().all(is_plain) {
        return Err(EXPECTED.to_owned());
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    if !override_path && parts.last() != Some(&"v2") {
        parts.push("v2");
    }
    let path = parts.iter().map(|part| format!("/{part}")).collect();
    Ok(Address {
        transport,
        host: host.to_owned(),
        path,
    })
}

/// Whether what follows the last colon, if anything does, is a port; the colons of an IPv6 address are in brackets.
fn is_port(host: &str) -> bool {
    match host.rsplit_once(':') {
        Some((before, port)) if !port.ends_with(']') => {
            (!before.contains(':') || before.ends_with(']')) && port.parse::<u16>().is_ok_and(|port| port > 0)
        }
        _ => !host.contains('[') || host.ends_with(']'),
    }
}

fn has_port_80(host: &str) -> bool {
    host.ends_with(":80")
}

/// A key or URL for an error, without what may be a password in it.
fn shown(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((_, rest)) => format!("…@{rest}"),
        None => text.to_owned(),
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|b| *b == b'\n').count() + 1
}

#[cfg(test)]
#[path = "hosts_test.rs"]
mod tests;

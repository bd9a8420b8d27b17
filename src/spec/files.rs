//! Text of generated files: `/etc/hosts` and `/etc/resolv.conf`. Where they lie and when they are made is `netfiles`'s.

use super::error::SpecError;
use super::network::Network;
use super::node::NodeFacts;
use super::task::{Dns, TaskSpec};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Loopback and multicast lines that the Go driver (and Nomad's `hostnames` package) writes.
const LOOPBACK: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost\n::1\tip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
                        ff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\nff02::3\tip6-allhosts\n";

/// Docker's word for the host as a container reaches it. Never written: it is no address.
pub(super) const HOST_GATEWAY: &str = "host-gateway";

/// What Debian has for a name without an address in a network.
const NO_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1));

/// Content of `/etc/hosts`: loopback (or the host's lines on the host's network), the own name, `extra_hosts`. In the
/// group's network the name has the address there, as with Docker: what listens on it is reached by the other tasks.
pub(super) fn hosts(
    task: &TaskSpec,
    network: Network<'_>,
    hostname: &str,
    node: &NodeFacts,
) -> Result<String, SpecError> {
    let base = node.hosts.as_deref().filter(|_| network == Network::Host);
    let mut out = base.unwrap_or(LOOPBACK).to_owned();
    if !out.ends_with('\n') {
        out.push('\n');
    }
    let group = task.network.as_ref().and_then(|n| n.hosts.as_ref());
    match group.filter(|_| matches!(network, Network::Group(_))) {
        // Both come from the host, but a line of them must stay one.
        Some((name, address)) if is_host(name) && address.parse::<IpAddr>().is_ok() => {
            let own = if name == hostname { "" } else { hostname };
            line(&mut out, address, format!("{name} {own}").trim_end());
        }
        // The host's file may have it, most of all where the host's name is shared.
        _ if hostname.is_empty() || names(base.unwrap_or_default()).any(|name| name == hostname) => {}
        _ => {
            let own = node.network_address.filter(|_| matches!(network, Network::Group(_)));
            line(&mut out, &own.unwrap_or(NO_ADDRESS).to_string(), hostname);
        }
    }
    for extra in &task.options.extra_hosts {
        let (name, address) = parse_extra(extra)?;
        let address = match address {
            Some(address) => address,
            None => gateway(network, node).ok_or_else(|| {
                SpecError::option(
                    "extra_hosts",
                    extra,
                    "neither the group's network nor this node has a default route by which host-gateway could be told; an address is expected",
                )
            })?,
        };
        line(&mut out, &address.to_string(), name);
    }
    Ok(out)
}

/// The host as the container reaches it. On a node without a default route that is loopback on the host's own network;
/// a container with loopback only reaches nothing else, and is no reason to refuse a job that the Go driver took.
fn gateway(network: Network<'_>, node: &NodeFacts) -> Option<IpAddr> {
    let loopback = (!matches!(network, Network::Group(_))).then_some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    node.host_gateway.or(loopback)
}

fn line(out: &mut String, address: &str, names: &str) {
    out.push_str(&format!("{address}\t{names}\n"));
}

/// All names in an `/etc/hosts`.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    lines.flat_map(|line| line.split_whitespace().skip(1))
}

fn is_host(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#')
}

/// `name:address`, with the Go driver's words where it is not that; no address for `host-gateway`.
fn parse_extra(extra: &str) -> Result<(&str, Option<IpAddr>), SpecError> {
    let refuse = |text: String| SpecError::option("extra_hosts", extra, text);
    let (name, address) = extra
        .split_once(':')
        .filter(|(name, _)| is_host(name))
        .ok_or_else(|| refuse("bad format for add-host: name:address is expected".to_owned()))?;
    if address == HOST_GATEWAY {
        return Ok((name, None));
    }
    // Docker takes IPv6 addresses in brackets too.
    let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
    let parsed = match bare {
        Some(six) => six.parse::<Ipv6Addr>().map(IpAddr::V6),
        None => address.parse::<IpAddr>(),
    };
    match parsed {
        Ok(address) => Ok((name, Some(address))),
        Err(_) => Err(refuse(format!(
            "invalid IP address in add-host: {address:?}; an IPv4 or IPv6 address, or host-gateway, is expected"
        ))),
    }
}

/// Content of `/etc/resolv.conf`; what `dns` leaves out is taken from the host's file.
pub(super) fn resolv_conf(dns: &Dns, host: &str) -> String {
    let or_host = |given: &[String], of_host: Vec<String>| if given.is_empty() { of_host } else { given.to_vec() };
    let mut out = String::new();
    let searches = or_host(&dns.searches, host_searches(host));
    if !searches.is_empty() {
        out.push_str(&format!("search {}\n", searches.join(" ")));
    }
    for server in or_host(&dns.servers, host_servers(host)) {
        out.push_str(&format!("nameserver {server}\n"));
    }
    let options = or_host(&dns.options, host_options(host));
    if !options.is_empty() {
        out.push_str(&format!("options {}\n", options.join(" ")));
    }
    out
}

/// The words after a keyword, line by line; a comment ends a line.
fn lines_of<'a>(host: &'a str, keywords: &'a [&str]) -> impl DoubleEndedIterator<Item = Vec<String>> + 'a {
    host.lines().filter_map(move |line| {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let keyword = words.next()?;
        keywords
            .contains(&keyword)
            .then(|| words.map(ToOwned::to_owned).collect())
    })
}

fn host_servers(host: &str) -> Vec<String> {
    lines_of(host, &["nameserver"])
        .filter_map(|words| words.into_iter().next())
        .collect()
}

/// True if a server on loopback is asked.
pub(super) fn asks_loopback(host: &str) -> bool {
    host_servers(host).iter().any(|server| is_loopback(server))
}

/// True if another server is asked.
pub(super) fn asks_others(host: &str) -> bool {
    host_servers(host).iter().any(|server| !is_loopback(server))
}

/// The file without its servers on loopback.
pub(super) fn without_loopback(host: &str) -> String {
    let kept = host.lines().filter(|line| !asks_loopback(line));
    let mut out: String = kept.map(|line| format!("{line}\n")).collect();
    if !asks_others(&out) {
        out.push_str(PUBLIC);
    }
    out
}

/// What Docker's daemon writes where nothing is left (libnetwork, `resolvconf`). A file without any server would
/// have the task ask its own loopback.
const PUBLIC: &str = "# All name servers of the host are on its loopback, which only its own network reaches: these are public ones.\n\
                      # The plugin setting dns_servers names others.\nnameserver 8.8.8.8\nnameserver 8.8.4.4\n";

fn is_loopback(server: &str) -> bool {
    let address = server.split('%').next().unwrap_or_default();
    address
        .parse::<IpAddr>()
        .is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// Of several lines the last one counts (resolv.conf(5)).
fn host_searches(host: &str) -> Vec<String> {
    lines_of(host, &["search", "domain"]).next_back().unwrap_or_default()
}

fn host_options(host: &str) -> Vec<String> {
    lines_of(host, &["options"]).flatten().collect()
}

/// A name server: an IP address; an IPv6 one may have a zone, such as `fe80::1%eth0`.
pub(super) fn is_server(text: &str) -> bool {
    match text.split_once('%') {
        Some((address, zone)) => {
            let word = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
            address.parse::<Ipv6Addr>().is_ok() && !zone.is_empty() && zone.chars().all(word)
        }
        None => text.parse::<IpAddr>().is_ok(),
    }
}

/// A search domain or option: one word that does not begin a comment.
pub(super) fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control() || "#;".contains(c))
}

#[cfg(test)]
#[path = "files_test.rs"]
mod tests;

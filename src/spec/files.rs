//! Generated files: `/etc/hosts` and `/etc/resolv.conf`.
//!
//! They lie beside the task's `local` directory, not in it: the Go driver put them where the task could replace them.

use super::error::SpecError;
use super::node::NodeFacts;
use super::task::{Dns, TaskSpec};
use std::net::IpAddr;

/// Loopback and multicast lines that the Go driver (and Nomad's `hostnames` package) writes.
const LOOPBACK: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost\n::1\tip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
                        ff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\nff02::3\tip6-allhosts\n";

/// Content of `/etc/hosts`: loopback (or the host's file with `host_network`), the own name, `extra_hosts`.
pub(super) fn hosts(task: &TaskSpec, hostname: &str, node: &NodeFacts) -> Result<String, SpecError> {
    let base = node.hosts.as_deref().filter(|_| task.options.host_network);
    let mut out = base.unwrap_or(LOOPBACK).to_owned();
    if !out.ends_with('\n') {
        out.push('\n');
    }
    match task.network.as_ref().and_then(|n| n.hosts.as_ref()) {
        Some((name, address)) if name == hostname => line(&mut out, address, name),
        Some((name, address)) => line(&mut out, address, &format!("{name} {hostname}")),
        // The address that Debian uses for a name without a network address.
        None => line(&mut out, "127.0.1.1", hostname),
    }
    for extra in &task.options.extra_hosts {
        let (name, address) = parse_extra(extra)?;
        line(&mut out, address, name);
    }
    Ok(out)
}

fn line(out: &mut String, address: &str, names: &str) {
    out.push_str(&format!("{address}\t{names}\n"));
}

/// `name:address`, in the Go driver's words where it is not that.
fn parse_extra(extra: &str) -> Result<(&str, &str), SpecError> {
    let refuse = |text: String| SpecError::Refused {
        option: "extra_hosts".to_owned(),
        text,
    };
    let (name, address) = extra
        .split_once(':')
        .filter(|(name, _)| {
            !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#')
        })
        .ok_or_else(|| refuse(format!("bad format for add-host: {extra:?}")))?;
    if address != "host-gateway" && address.parse::<IpAddr>().is_err() {
        return Err(refuse(format!("invalid IP address in add-host: {address:?}")));
    }
    Ok((name, address))
}

/// Content of `/etc/resolv.conf` for a group's `dns` block; what the block leaves out is taken from the host's file.
pub(super) fn resolv_conf(dns: &Dns, host: &str) -> Result<String, SpecError> {
    let bad = |text: &&String| text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control());
    if let Some(text) = dns.servers.iter().chain(&dns.searches).chain(&dns.options).find(bad) {
        return Err(SpecError::Refused {
            option: "dns".to_owned(),
            text: format!("failed to build mount for resolv.conf: {text:?}: a name without spaces is expected"),
        });
    }
    let from_host = |keyword: &str| -> Vec<String> {
        host.lines()
            .filter_map(|l| {
                let mut words = l.split_whitespace();
                (words.next() == Some(keyword)).then(|| words.map(ToOwned::to_owned).collect::<Vec<_>>())
            })
            .flatten()
            .collect()
    };
    let or_host = |given: &[String], keyword: &str| {
        if given.is_empty() {
            from_host(keyword)
        } else {
            given.to_vec()
        }
    };
    let mut out = String::new();
    let searches = or_host(&dns.searches, "search");
    if !searches.is_empty() {
        out.push_str(&format!("search {}\n", searches.join(" ")));
    }
    for server in or_host(&dns.servers, "nameserver") {
        out.push_str(&format!("nameserver {server}\n"));
    }
    let options = or_host(&dns.options, "options");
    if !options.is_empty() {
        out.push_str(&format!("options {}\n", options.join(" ")));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::task::NetworkNamespace;

    #[test]
    fn hosts_has_loopback_own_name_and_extra_lines() {
        let mut task = TaskSpec::default();
        task.options.extra_hosts = vec![
            "db:10.0.0.1".to_owned(),
            "six:fd00::1".to_owned(),
            "gw:host-gateway".to_owned(),
        ];
        let text = hosts(&task, "web-1", &NodeFacts::default()).unwrap();
        assert!(text.starts_with("127.0.0.1\tlocalhost\n::1\t"));
        assert!(
            text.ends_with("127.0.1.1\tweb-1\n10.0.0.1\tdb\nfd00::1\tsix\nhost-gateway\tgw\n"),
            "{text}"
        );
    }

    #[test]
    fn hosts_starts_from_the_host_with_host_network() {
        let mut task = TaskSpec::default();
        task.options.host_network = true;
        let node = NodeFacts {
            hosts: Some("10.1.1.1 node".to_owned()),
            ..NodeFacts::default()
        };
        assert_eq!(hosts(&task, "h", &node).unwrap(), "10.1.1.1 node\n127.0.1.1\th\n");
    }

    #[test]
    fn hosts_knows_the_groups_address() {
        let network = NetworkNamespace {
            path: "/n".to_owned(),
            hosts: Some(("grp".to_owned(), "172.26.64.2".to_owned())),
        };
        let task = TaskSpec {
            network: Some(network),
            ..TaskSpec::default()
        };
        assert!(
            hosts(&task, "h", &NodeFacts::default())
                .unwrap()
                .ends_with("172.26.64.2\tgrp h\n")
        );
    }

    #[test]
    fn bad_extra_hosts_are_refused_in_the_go_drivers_words() {
        assert_eq!(
            parse_extra("nocolon").unwrap_err().to_string(),
            "bad format for add-host: \"nocolon\""
        );
        assert_eq!(
            parse_extra(":1.1.1.1").unwrap_err().to_string(),
            "bad format for add-host: \":1.1.1.1\""
        );
        assert_eq!(
            parse_extra("a:nope").unwrap_err().to_string(),
            "invalid IP address in add-host: \"nope\""
        );
        assert!(parse_extra("a\nb:1.1.1.1").is_err());
    }

    #[test]
    fn resolv_conf_takes_from_the_host_what_the_block_leaves_out() {
        let host = "# c\nnameserver 9.9.9.9\nsearch a b\noptions ndots:5\n";
        let own = Dns {
            servers: vec!["1.1.1.1".to_owned(), "8.8.8.8".to_owned()],
            ..Dns::default()
        };
        assert_eq!(
            resolv_conf(&own, host).unwrap(),
            "search a b\nnameserver 1.1.1.1\nnameserver 8.8.8.8\noptions ndots:5\n"
        );
        assert_eq!(
            resolv_conf(&Dns::default(), host).unwrap(),
            "search a b\nnameserver 9.9.9.9\noptions ndots:5\n"
        );
        let bad = Dns {
            servers: vec!["1.1.1.1\nsearch evil".to_owned()],
            ..Dns::default()
        };
        assert!(
            resolv_conf(&bad, host)
                .unwrap_err()
                .to_string()
                .starts_with("failed to build mount for resolv.conf: ")
        );
    }
}

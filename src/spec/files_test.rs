//! What `files.rs` promises.

use super::*;
use crate::spec::task::NetworkNamespace;
use proptest::prelude::*;

fn node() -> NodeFacts {
    NodeFacts {
        host_gateway: Some("172.26.64.1".parse().unwrap()),
        ..NodeFacts::default()
    }
}

#[test]
fn hosts_has_loopback_own_name_and_extra_lines() {
    let mut task = TaskSpec::default();
    let extra = ["db:10.0.0.1", "six:fd00::1", "seven:[fd00::2]", "gw:host-gateway"];
    task.options.extra_hosts = extra.map(ToOwned::to_owned).to_vec();
    let text = hosts(&task, Network::Own, "web-1", &node()).unwrap();
    assert!(text.starts_with("127.0.0.1\tlocalhost\n::1\t"));
    assert!(
        text.ends_with("127.0.1.1\tweb-1\n10.0.0.1\tdb\nfd00::1\tsix\nfd00::2\tseven\n172.26.64.1\tgw\n"),
        "{text}"
    );
}

#[test]
fn host_gateway_is_an_address_or_an_error() {
    let mut task = TaskSpec::default();
    task.options.extra_hosts = vec!["gw:host-gateway".to_owned()];
    let text = |network| hosts(&task, network, "h", &NodeFacts::default()).map_err(|e| e.to_string());
    for network in [Network::Host, Network::Own] {
        assert!(text(network).unwrap().ends_with("127.0.0.1\tgw\n"));
    }
    let error = text(Network::Group("/n")).unwrap_err();
    assert!(
        error.starts_with("option extra_hosts: \"gw:host-gateway\": "),
        "{error}"
    );
}

#[test]
fn hosts_starts_from_the_host_with_host_network() {
    let node = NodeFacts {
        hosts: Some("10.1.1.1 node".to_owned()),
        ..NodeFacts::default()
    };
    let task = TaskSpec::default();
    assert_eq!(
        hosts(&task, Network::Host, "h", &node).unwrap(),
        "10.1.1.1 node\n127.0.1.1\th\n"
    );
    assert_eq!(hosts(&task, Network::Host, "", &node).unwrap(), "10.1.1.1 node\n");
    // The host's name is there already, if the host knows it.
    assert_eq!(hosts(&task, Network::Host, "node", &node).unwrap(), "10.1.1.1 node\n");
    let node = NodeFacts {
        hosts: Some("10.1.1.1 nodes # node\n".to_owned()),
        ..node
    };
    let text = hosts(&task, Network::Host, "node", &node).unwrap();
    assert!(text.ends_with("\n127.0.1.1\tnode\n"), "{text}");
}

#[test]
fn the_own_name_has_the_address_of_the_groups_network() {
    let node = NodeFacts {
        network_address: Some("172.26.64.7".parse().unwrap()),
        ..node()
    };
    let task = TaskSpec::default();
    let text = |network| hosts(&task, network, "web-1", &node).unwrap();
    assert!(text(Network::Group("/n")).ends_with("\n172.26.64.7\tweb-1\n"));
    assert!(text(Network::Own).ends_with("\n127.0.1.1\tweb-1\n"));
    assert!(text(Network::Host).ends_with("\n127.0.1.1\tweb-1\n"));
}

#[test]
fn what_is_on_loopback_is_known() {
    for (server, loopback) in [
        ("127.0.0.53", true),
        ("127.8.8.8", true),
        ("::1", true),
        ("::1%lo", true),
        ("::ffff:127.0.0.1", true),
        ("1.127.0.0", false),
        ("fe80::1%eth0", false),
        ("nonsense", false),
    ] {
        assert_eq!(is_loopback(server), loopback, "{server}");
    }
    assert!(asks_loopback("options edns0\nnameserver 127.0.0.53 # stub\n"));
    assert!(!asks_loopback("# nameserver 127.0.0.53\nsearch 127.0.0.53\n"));
    assert!(asks_others("nameserver 127.0.0.53\nnameserver 10.0.0.1\n"));
    assert!(!asks_others("nameserver 127.0.0.53\n") && !asks_others(""));
}

#[test]
fn hosts_knows_the_groups_address() {
    let with = |name: &str, address: &str, network| {
        let task = TaskSpec {
            network: Some(NetworkNamespace {
                path: "/n".to_owned(),
                hosts: Some((name.to_owned(), address.to_owned())),
            }),
            ..TaskSpec::default()
        };
        hosts(&task, network, "h", &NodeFacts::default()).unwrap()
    };
    let group = Network::Group("/n");
    assert!(with("grp", "172.26.64.2", group).ends_with("172.26.64.2\tgrp h\n"));
    assert!(with("h", "172.26.64.2", group).ends_with("172.26.64.2\th\n"));
    // Not joined, or no lines of the file: the own name is all there is.
    for text in [
        with("grp", "172.26.64.2", Network::Own),
        with("grp\n1.1.1.1 x", "172.26.64.2", group),
        with("grp", "172.26.64.2\n", group),
    ] {
        assert!(text.ends_with("127.0.1.1\th\n"), "{text}");
    }
}

#[test]
fn bad_extra_hosts_are_refused_in_the_go_drivers_words() {
    for (extra, want) in [
        ("nocolon", "bad format for add-host: name:address is expected"),
        (":1.1.1.1", "bad format for add-host: name:address is expected"),
        ("a:nope", "invalid IP address in add-host: \"nope\""),
        ("a:[1.1.1.1]", "invalid IP address in add-host: \"[1.1.1.1]\""),
        ("a:host-gateway ", "invalid IP address in add-host: \"host-gateway \""),
    ] {
        let text = parse_extra(extra).unwrap_err().to_string();
        assert!(
            text.starts_with(&format!("option extra_hosts: {extra:?}: {want}")),
            "{text}"
        );
    }
    assert!(parse_extra("a\nb:1.1.1.1").is_err());
}

#[test]
fn resolv_conf_takes_from_the_host_what_is_left_out() {
    let host = "# c\nnameserver 9.9.9.9 # x\nsearch old\nsearch a b\noptions ndots:5\noptions edns0\nnameserver fe80::1%eth0\n";
    let own = Dns {
        servers: vec!["1.1.1.1".to_owned(), "8.8.8.8".to_owned()],
        ..Dns::default()
    };
    assert_eq!(
        resolv_conf(&own, host),
        "search a b\nnameserver 1.1.1.1\nnameserver 8.8.8.8\noptions ndots:5 edns0\n"
    );
    assert_eq!(
        resolv_conf(&Dns::default(), host),
        "search a b\nnameserver 9.9.9.9\nnameserver fe80::1%eth0\noptions ndots:5 edns0\n"
    );
    assert_eq!(resolv_conf(&Dns::default(), "domain x.y\n"), "search x.y\n");
}

#[test]
fn servers_are_addresses() {
    for good in ["1.1.1.1", "fd00::1", "fe80::1%eth0.5"] {
        assert!(is_server(good), "{good}");
    }
    for bad in [
        "",
        "dns.example",
        "1.1.1.1%eth0",
        "fe80::1%",
        "fe80::1%a b",
        "1.1.1.1\nsearch evil",
        "1.1.1.1:53",
    ] {
        assert!(!is_server(bad), "{bad}");
    }
}

proptest! {
    #[test]
    fn any_extra_host_is_answered_and_stays_one_line(extra in "([a-z.:#\\[\\] \n\t]|[0-9]|host-gateway|\\PC){0,16}") {
        let mut task = TaskSpec::default();
        let before = hosts(&task, Network::Own, "h", &node()).unwrap().lines().count();
        task.options.extra_hosts = vec![extra];
        if let Ok(text) = hosts(&task, Network::Own, "h", &node()) {
            prop_assert_eq!(text.lines().count(), before + 1);
            let last = text.lines().last().unwrap();
            prop_assert!(last.split_whitespace().next().unwrap().parse::<IpAddr>().is_ok(), "{}", last);
        }
    }

    #[test]
    fn any_resolver_file_is_read(host in "(nameserver|search|domain|options|[ \n\t#;%.:]|[0-9a-z]|\\PC){0,40}") {
        let text = resolv_conf(&Dns::default(), &host);
        for line in text.lines() {
            prop_assert!(["search ", "nameserver ", "options "].iter().any(|k| line.starts_with(k)), "{}", line);
        }
        // What we write is read as we wrote it.
        prop_assert_eq!(resolv_conf(&Dns::default(), &text), text);
    }
}

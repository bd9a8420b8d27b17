//! The host as a container can reach it: the default gateway of the container's network, which for a bridge is the
//! bridge itself; else the address that this node has towards others. And the address that a container has in its network.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

/// That address, by the network namespace at `netns`, if it has one to join. `None` for a node without a default route.
#[must_use]
pub fn host_gateway(netns: Option<&Path>) -> Option<IpAddr> {
    netns.and_then(|path| gateway_in(path.to_owned())).or_else(own_address)
}

/// The address by which a container in the network namespace at `netns` is reached: IPv4 before IPv6, that of the default
/// route before any other. `None` if there is only loopback, or no such namespace.
#[must_use]
pub fn address(netns: &Path) -> Option<IpAddr> {
    inside(netns.to_owned(), || {
        let four = || address_v4(&read("fib_trie"));
        let six = || address_v6(&read("if_inet6"));
        own_address_v4().or_else(four).or_else(own_address_v6).or_else(six)
    })
}

/// The address from which this node speaks to others.
fn own_address() -> Option<IpAddr> {
    own_address_v4().or_else(own_address_v6)
}

// Addresses for documentation (RFC 5737, RFC 3849): no network has them, so only the default route fits.

fn own_address_v4() -> Option<IpAddr> {
    local_end(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into())
}

fn own_address_v6() -> Option<IpAddr> {
    let other = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    local_end(Ipv6Addr::UNSPECIFIED.into(), other.into())
}

/// The own address towards another. Nothing is sent: a datagram socket only asks the routes.
fn local_end(any: IpAddr, other: IpAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((other, 9)).ok()?;
    let own = socket.local_addr().ok()?.ip();
    Some(own).filter(|ip| !ip.is_unspecified() && !ip.is_loopback())
}

/// The default gateway in a network namespace.
fn gateway_in(netns: PathBuf) -> Option<IpAddr> {
    inside(netns, || {
        gateway_v4(&read("route")).or_else(|| gateway_v6(&read("ipv6_route")))
    })
}

/// Looks at a network namespace. A thread of its own enters it and ends there: a thread cannot be sure to come back.
fn inside(netns: PathBuf, look: impl FnOnce() -> Option<IpAddr> + Send + 'static) -> Option<IpAddr> {
    let enter = move || {
        let namespace = File::open(netns).ok()?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).ok()?;
        look()
    };
    let thread = std::thread::Builder::new().name("network-look".to_owned()).spawn(enter);
    thread.ok()?.join().ok().flatten()
}

/// A table of the network that this thread is in.
fn read(name: &str) -> String {
    super::node::read(format!("/proc/thread-self/net/{name}")).unwrap_or_default()
}

/// `/proc/net/fib_trie`: an address of this node is a leaf, `|-- ADDRESS`, with `/32 host LOCAL` below it.
fn address_v4(text: &str) -> Option<IpAddr> {
    let mut leaf = None;
    text.lines().find_map(|line| {
        let line = line.trim_start();
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.trim_end().parse::<Ipv4Addr>().ok();
        }
        let own = line.trim_end() == "/32 host LOCAL";
        leaf.filter(|address| own && !address.is_loopback()).map(IpAddr::V4)
    })
}

/// `/proc/net/if_inet6`: address, number of the interface, length of the prefix, scope, flags, name. Scope 0 is global.
fn address_v6(text: &str) -> Option<IpAddr> {
    text.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [address, _, _, "00", ..] = words.as_slice() else {
            return None;
        };
        let address = Ipv6Addr::from(u128::from_str_radix(address, 16).ok()?);
        (!address.is_loopback()).then_some(IpAddr::V6(address))
    })
}

/// `/proc/net/route`: numbers in hexadecimal, addresses as the kernel has them in memory.
fn gateway_v4(text: &str) -> Option<IpAddr> {
    let routes = text.lines().skip(1).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, destination, gateway, _, _, _, metric, mask, ..] = words.as_slice() else {
            return None;
        };
        let gateway = u32::from_str_radix(gateway, 16).ok()?;
        let metric: u32 = metric.parse().ok()?;
        let default = *destination == "00000000" && *mask == "00000000" && gateway != 0;
        default.then(|| (metric, IpAddr::V4(Ipv4Addr::from(gateway.to_ne_bytes()))))
    });
    routes.min_by_key(|(metric, _)| *metric).map(|(_, gateway)| gateway)
}

/// `/proc/net/ipv6_route`: destination, its length, source, its length, next hop, metric, …
fn gateway_v6(text: &str) -> Option<IpAddr> {
    let routes = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, length, _, _, next, metric, ..] = words.as_slice() else {
            return None;
        };
        let next = u128::from_str_radix(next, 16).ok()?;
        let metric = u32::from_str_radix(metric, 16).ok()?;
        let default = *length == "00" && next != 0;
        default.then(|| (metric, IpAddr::V6(Ipv6Addr::from(next))))
    });
    routes.min_by_key(|(metric, _)| *metric).map(|(_, gateway)| gateway)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEAD: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";

    #[test]
    #[cfg(target_endian = "little")]
    fn the_default_gateway_is_read_from_the_routes() {
        let text = format!(
            "{HEAD}eth0\t00401AAC\t00000000\t0001\t0\t0\t0\t00F0FFFF\t0\t0\t0\neth1\t00000000\t01000A0A\t0003\t0\t0\t100\t00000000\t0\t0\t0\neth0\t00000000\t01401AAC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        );
        assert_eq!(gateway_v4(&text), Some("172.26.64.1".parse().unwrap()));
        assert_eq!(gateway_v4(HEAD), None);
    }

    #[test]
    fn an_ipv6_gateway_is_read_too() {
        let zero = "0".repeat(32);
        let text = format!(
            "fd000000000000000000000000000000 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001 eth0\n{zero} 00 {zero} 00 fd000000000000000000000000000001 00000400 00000001 00000000 00000003 eth0\n"
        );
        assert_eq!(gateway_v6(&text), Some("fd00::1".parse().unwrap()));
        assert_eq!(gateway_v6(""), None);
    }

    #[test]
    fn a_namespace_that_is_not_there_leaves_the_nodes_own_address() {
        assert_eq!(host_gateway(Some(Path::new("/does/not/exist"))), host_gateway(None));
    }

    #[test]
    fn the_routes_are_those_of_the_namespace_that_is_entered() {
        // Only root may enter one.
        if rustix::process::geteuid().is_root() {
            let read = |name: &str| std::fs::read_to_string(format!("/proc/self/net/{name}")).unwrap_or_default();
            let own = gateway_v4(&read("route")).or_else(|| gateway_v6(&read("ipv6_route")));
            assert_eq!(gateway_in(PathBuf::from("/proc/self/ns/net")), own);
        }
    }

    #[test]
    fn an_address_is_that_of_a_leaf_that_is_local() {
        let text = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     +-- 10.9.0.0/24 2 0 2\n        \
                    |-- 10.9.0.0\n           /24 link UNICAST\n        |-- 10.9.0.7\n           /32 host LOCAL\n        |-- \
                    10.9.0.255\n           /32 link BROADCAST\n";
        assert_eq!(address_v4(text), Some("10.9.0.7".parse().unwrap()));
        let loopback =
            "Local:\n     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 10.0.0.0\n        /24 link UNICAST\n";
        assert_eq!(address_v4(loopback), None);
        let six = "00000000000000000000000000000001 01 80 10 80       lo\n\
                   fe80000000000000001122fffe334455 02 40 20 80     eth0\nfd000000000000000000000000000007 02 40 00 80     eth0\n";
        assert_eq!(address_v6(six), Some("fd00::7".parse().unwrap()));
        assert_eq!(address_v6(""), None);
    }

    #[test]
    fn a_namespace_has_the_address_that_is_read_in_it() {
        assert_eq!(address(Path::new("/does/not/exist")), None);
        // Only root may enter one.
        if rustix::process::geteuid().is_root() {
            let own = own_address_v4().or_else(|| address_v4(&read("fib_trie")));
            let own = own.or_else(own_address_v6).or_else(|| address_v6(&read("if_inet6")));
            assert_eq!(address(Path::new("/proc/self/ns/net")), own);
        }
    }

    proptest! {
        #[test]
        fn any_route_table_is_read(text in "([0-9A-Fa-f]{1,33}|[ \\t\\n]|\\PC){0,60}") {
            gateway_v4(&text);
            gateway_v6(&text);
            address_v4(&text);
            address_v6(&text);
        }
    }
}

//! Network, name servers, hosts.

use crate::bench::{Bench, container_of, namespace, patience};
use crate::field::{consent, group, operated};
use crate::look::{says, with};
use rustix::mount::{UnmountFlags, unmount};
use serde_json::json;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::Command;
use testhost::task::TaskSpec;
use testhost::wire::driver::network_isolation_spec::NetworkIsolationMode;
use testhost::wire::driver::{DnsConfig, HostsConfig, NetworkIsolationSpec};
use testhost::within::within;

group!(net, NET, operated(consent()),
    together {
        net_01_a_groups_network_is_joined_and_stays,
        net_02_loopback_only_or_the_hosts,
        net_03_host_and_group_exclude_each_other,
        net_04_without_dns_the_hosts_servers,
        net_05_a_groups_dns_and_the_hosts_where_it_is_silent,
        net_06_extra_hosts,
        net_07_a_groups_own_name_resolves,
        net_08_the_host_name,
    }
    alone {}
);

/// A network namespace bound to a file, as a host makes one for a group.
struct Bound(PathBuf);

impl Bound {
    fn new(path: PathBuf) -> Bound {
        std::fs::write(&path, "").expect("a file to bind to");
        let made = Command::new("unshare")
            .arg(format!("--net={}", path.display()))
            .arg("true")
            .status();
        let bound = Bound(path);
        assert!(made.expect("unshare of util-linux").success());
        bound
    }

    /// As `/proc/<pid>/ns/net` shows it.
    fn name(&self) -> String {
        format!("net:[{}]", std::fs::metadata(&self.0).expect("the namespace").ino())
    }

    fn spec(&self) -> NetworkIsolationSpec {
        NetworkIsolationSpec {
            mode: NetworkIsolationMode::Group.into(),
            path: self.0.display().to_string(),
            ..Default::default()
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).ok();
        std::fs::remove_file(&self.0).ok();
    }
}

async fn net_01_a_groups_network_is_joined_and_stays(b: &Bench) {
    let bound = Bound::new(b.rig.dir().join("net-01"));
    let name = bound.name();
    let task = b.start(b.sleeper().network(bound.spec())).await;
    assert_eq!(namespace(container_of(&task).await.1, "net"), name);
    task.destroy(true).await.expect("DestroyTask");
    assert_eq!(bound.name(), name);
    // It can still be entered.
    let entered = Command::new("nsenter")
        .arg(format!("--net={}", bound.0.display()))
        .arg("true")
        .status();
    assert!(entered.expect("nsenter of util-linux").success());
}

async fn net_02_loopback_only_or_the_hosts(b: &Bench) {
    let seen = b
        .look(
            json!({}),
            "echo links=$(ls /sys/class/net | tr '\\n' ' '); echo lo=$(ip -o addr show lo | grep -c 127.0.0.1)",
        )
        .await;
    seen.are([("links", "lo"), ("lo", "1")]);
    let host = namespace("self", "net");
    for (options, same) in [(json!({}), false), (json!({ "host_network": true }), true)] {
        let task = b.start(with(b.sleeper(), options)).await;
        assert_eq!(namespace(container_of(&task).await.1, "net") == host, same);
        task.destroy(true).await.expect("DestroyTask");
    }
    // With the host's network the host's names are known, and the own one.
    let spec = with(
        b.sh("cat /etc/hosts; grep -qw \"$(hostname)\" /etc/hosts; echo own=$?"),
        json!({ "host_network": true }),
    );
    let (code, text) = b.run(spec).await;
    let of_host = std::fs::read_to_string("/etc/hosts").expect("the host's file");
    assert!(text.starts_with(of_host.trim_end()), "{of_host:?} is not in {text:?}");
    assert!(code == 0 && text.ends_with("own=0\n"), "{text:?}");
}

async fn net_03_host_and_group_exclude_each_other(b: &Bench) {
    let bound = Bound::new(b.rig.dir().join("net-03"));
    let spec = b.sleeper().network(bound.spec()).option("host_network", json!(true));
    let words = "host_network and bridge network mode are mutually exclusive, and only one of them should be set";
    says(&b.refused_spec(spec).await, &[words]);
}

/// Words of a resolver's file after a keyword, each line's in turn.
fn words(text: &str, key: &str) -> Vec<String> {
    let lines = text.lines().map(str::split_whitespace);
    lines
        .filter_map(|mut line| (line.next() == Some(key)).then(|| line.map(str::to_owned).collect::<Vec<_>>()))
        .flatten()
        .collect()
}

/// The host's file; in another network without the servers on loopback: what is left, else what systemd-resolved asks
/// itself, else the public servers that Docker takes.
fn hosts_resolver(own_network: bool) -> String {
    let text = std::fs::read_to_string("/etc/resolv.conf").expect("the host's resolv.conf");
    let local = |line: &&str| {
        let mut words = line.split_whitespace();
        let server = (words.next() == Some("nameserver")).then(|| words.next()).flatten();
        server.is_some_and(|s| s.starts_with("127.") || s == "::1")
    };
    let is_stub = text.lines().any(|line| local(&line));
    if !own_network || !is_stub {
        return text;
    }
    let left = |text: &str| {
        let lines: Vec<&str> = text.lines().filter(|line| !local(line)).collect();
        lines.join("\n")
    };
    let upstream = std::fs::read_to_string("/run/systemd/resolve/resolv.conf").unwrap_or_default();
    let answers = |text: &String| !words(text, "nameserver").is_empty();
    let found = [left(&text), left(&upstream)].into_iter().find(answers);
    found.unwrap_or_else(|| format!("{}\nnameserver 8.8.8.8\nnameserver 8.8.4.4\n", left(&text)))
}

async fn resolver_of(b: &Bench, spec: TaskSpec) -> String {
    let (code, text) = b.run(spec).await;
    assert_eq!(code, 0, "{text}");
    text
}

async fn net_04_without_dns_the_hosts_servers(b: &Bench) {
    for own in [true, false] {
        let spec = with(b.sh("cat /etc/resolv.conf"), json!({ "host_network": !own }));
        let (found, host) = (resolver_of(b, spec).await, hosts_resolver(own));
        for key in ["nameserver", "search", "options"] {
            assert_eq!(
                words(&found, key),
                words(&host, key),
                "{key} with a network of its own: {own}"
            );
        }
    }
}

async fn net_05_a_groups_dns_and_the_hosts_where_it_is_silent(b: &Bench) {
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let host = hosts_resolver(true);
    let script = "cat /etc/resolv.conf; (echo x >>/etc/resolv.conf) 2>/dev/null; echo written=$?";
    for (dns, all) in [
        (
            DnsConfig {
                servers: texts(&["10.0.0.1", "10.0.0.2"]),
                ..Default::default()
            },
            false,
        ),
        (
            DnsConfig {
                servers: texts(&["10.0.0.1"]),
                searches: texts(&["internal.corp", "corp"]),
                options: texts(&["ndots:2", "rotate"]),
            },
            true,
        ),
    ] {
        let mut spec = b.sh(script);
        spec.dns = Some(dns.clone());
        let found = resolver_of(b, spec).await;
        assert_eq!(words(&found, "nameserver"), dns.servers);
        let (searches, options) = match all {
            true => (dns.searches, dns.options),
            false => (words(&host, "search"), words(&host, "options")),
        };
        assert_eq!((words(&found, "search"), words(&found, "options")), (searches, options));
        assert!(!found.contains("written=0"), "the file was written to: {found}");
    }
}

async fn net_06_extra_hosts(b: &Bench) {
    let options = json!({ "extra_hosts": ["db:10.1.2.3", "six:fd00::1"] });
    let (code, text) = b.run(b.with_options(options, "cat /etc/hosts")).await;
    assert_eq!(code, 0);
    for line in ["10.1.2.3\tdb", "fd00::1\tsix"] {
        assert!(text.lines().any(|found| found == line), "no {line:?} in {text:?}");
    }
    let bare = b.refused(json!({ "extra_hosts": ["example.com"] })).await;
    says(&bare, &["bad format for add-host", "example.com"]);
    let odd = b
        .refused(json!({ "extra_hosts": ["example.com:not-an-address"] }))
        .await;
    says(&odd, &["invalid IP address in add-host", "not-an-address"]);
}

async fn net_07_a_groups_own_name_resolves(b: &Bench) {
    let bound = Bound::new(b.rig.dir().join("net-07"));
    let mut network = bound.spec();
    network.hosts_config = Some(HostsConfig {
        hostname: "group-of-mine".to_owned(),
        address: "172.26.64.9".to_owned(),
    });
    let alloc = b.rig.alloc();
    let script = "grep group-of-mine /etc/hosts | cut -f 1";
    for name in ["one", "two"] {
        let spec = b.sh(script).name(name).network(network.clone());
        let task = within(patience(), "StartTask", b.rig.start_in(alloc.clone(), &spec))
            .await
            .expect("StartTask");
        assert_eq!(task.exit(patience()).await.exit_code, 0);
        task.logs_end(patience()).await;
        assert_eq!(task.lines(), ["172.26.64.9"], "task {name}");
        task.destroy(false).await.expect("DestroyTask");
    }
    the_own_name_has_the_address_of_the_network(b).await;
}

/// Without `hosts_config`, which an agent gives only to drivers that make networks themselves.
async fn the_own_name_has_the_address_of_the_network(b: &Bench) {
    let bound = Bound::new(b.rig.dir().join("net-07-address"));
    let script = "getent hosts \"$(hostname)\" || grep -w \"$(hostname)\" /etc/hosts";
    let resolved = async || {
        let (code, text) = b.run(b.sh(script).network(bound.spec())).await;
        assert_eq!(code, 0, "{text}");
        words_of(&text).first().cloned().unwrap_or_default()
    };
    assert_eq!(resolved().await, "127.0.1.1");
    for address in ["fd00:77::5/128", "10.77.0.5/32"] {
        let set = Command::new("nsenter")
            .arg(format!("--net={}", bound.0.display()))
            .args(["sh", "-c", "ip link set lo up && ip addr add \"$0\" dev lo", address])
            .status();
        assert!(set.expect("nsenter of util-linux").success());
        // IPv4 counts where there is both.
        assert_eq!(Some(resolved().await.as_str()), address.split('/').next());
    }
}

fn words_of(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

async fn net_08_the_host_name(b: &Bench) {
    let asked = b.run(b.sh("hostname").option("hostname", json!("of-my-own"))).await;
    assert_eq!(asked, (0, "of-my-own\n".to_owned()));
    let (code, text) = b.run(b.sh("hostname").name("x".repeat(100))).await;
    let name = text.trim_end();
    let valid = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    assert!(
        code == 0 && !name.is_empty() && name.len() <= 64 && name.chars().all(valid),
        "{name:?}"
    );
}

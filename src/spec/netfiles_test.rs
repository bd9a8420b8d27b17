//! What `netfiles.rs` promises.

use super::*;
use crate::spec::namespaces::tests::{group, with};
use crate::spec::node::NodeFacts;
use crate::spec::options::MountOption;
use crate::spec::settings::{AllowedModes, Settings};
use crate::spec::task::TaskSpec;
use serde_json::Value;

const STUB: &str = "nameserver 127.0.0.53\nsearch lan\n";
const UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";

fn task() -> TaskSpec {
    TaskSpec {
        name: "web".to_owned(),
        alloc_dir: "/a".into(),
        network: group(),
        ..TaskSpec::default()
    }
}

fn stub() -> NodeFacts {
    NodeFacts {
        resolv_conf: Some(STUB.to_owned()),
        resolv_upstream: Some((UPSTREAM.to_owned(), "nameserver 10.0.0.1\nsearch corp\n".to_owned())),
        hosts: Some("1.2.3.4 node\n".to_owned()),
        hostname: "node7".to_owned(),
        ..NodeFacts::default()
    }
}

fn settings(dns: &[&str]) -> Settings {
    let host = || Some(vec!["host".to_owned()]);
    Settings {
        dns_servers: dns.iter().map(|s| (*s).to_owned()).collect(),
        allowed_modes: Some(AllowedModes {
            uts: host(),
            network: host(),
            ..AllowedModes::default()
        }),
        ..Settings::go_driver()
    }
}

fn resolver_of(task: &TaskSpec, node: &NodeFacts, dns: &[&str]) -> Result<Option<Resolver>, String> {
    with(task, node, &settings(dns), resolver).map_err(|e| e.to_string())
}

fn text(by: &'static str, content: &str) -> Option<Resolver> {
    Some(Resolver::Text(by, content.to_owned()))
}

fn file(path: &str) -> Option<Resolver> {
    Some(Resolver::File(path.to_owned()))
}

fn list(items: &[&str]) -> Vec<String> {
    items.iter().map(|s| (*s).to_owned()).collect()
}

fn mounts(task: &TaskSpec) -> Result<Mounts, String> {
    let built = |inputs: &Inputs<'_>| {
        let user = crate::spec::user::resolve(inputs.task, inputs.image)?;
        Mounts::build(inputs, &ContainerId::reported("c"), "h", &user)
    };
    with(task, &stub(), &settings(&[]), built).map_err(|e| e.to_string())
}

fn mount(mounts: Mounts, target: &str) -> Option<String> {
    let all = mounts.into_json();
    let found = all.iter().find(|m| m["destination"] == target)?;
    let options: Vec<&str> = found["options"].as_array()?.iter().filter_map(Value::as_str).collect();
    Some(format!("{} {}", found["source"].as_str()?, options.join(",")))
}

#[test]
fn group_task_plugin_and_host_count_in_this_order() {
    let mut task = task();
    let dns = &["9.9.9.9"];
    assert_eq!(resolver_of(&task, &stub(), &[]).unwrap(), file(UPSTREAM));
    assert_eq!(
        resolver_of(&task, &stub(), dns).unwrap(),
        text("dns_servers", "search corp\nnameserver 9.9.9.9\n")
    );
    task.options.dns_search_domains = list(&["x.y"]);
    assert_eq!(
        resolver_of(&task, &stub(), dns).unwrap(),
        text("dns_servers", "search x.y\nnameserver 9.9.9.9\n")
    );
    task.options.dns_servers = list(&["fe80::1%eth0"]);
    task.options.dns_options = list(&["ndots:2"]);
    assert_eq!(
        resolver_of(&task, &stub(), dns).unwrap(),
        text("dns_servers", "search x.y\nnameserver fe80::1%eth0\noptions ndots:2\n")
    );
    task.dns = Some(Dns {
        searches: list(&["group"]),
        ..Dns::default()
    });
    assert_eq!(
        resolver_of(&task, &stub(), &[]).unwrap(),
        text("dns", "search group\nnameserver 10.0.0.1\n")
    );
}

#[test]
fn the_hosts_network_has_the_hosts_file() {
    let mut task = TaskSpec::default();
    task.options.network_mode = Some("host".to_owned());
    task.options.host_dns = false;
    // The stub is reached there, and the plugin's servers are for networks of a container's own.
    assert_eq!(
        resolver_of(&task, &stub(), &["9.9.9.9"]).unwrap(),
        file("/etc/resolv.conf")
    );
    task.options.dns_servers = list(&["1.1.1.1"]);
    assert_eq!(
        resolver_of(&task, &stub(), &[]).unwrap(),
        text("dns_servers", "search lan\nnameserver 1.1.1.1\n")
    );
}

/// The files of a host, and what a task in a network of its own is given.
#[test]
fn a_resolver_on_loopback_is_left_out_in_another_network() {
    let given = |plain: &str, upstream: Option<&str>| {
        let node = NodeFacts {
            resolv_conf: Some(plain.to_owned()),
            resolv_upstream: upstream.map(|text| (UPSTREAM.to_owned(), text.to_owned())),
            ..NodeFacts::default()
        };
        resolver_of(&task(), &node, &[]).unwrap()
    };
    const TWO: &str = "nameserver 127.0.0.1\nnameserver 10.0.0.2\nsearch lan\n";
    // One that can be reached, with or without systemd-resolved beside it.
    for upstream in [None, Some("nameserver 10.0.0.1\n")] {
        assert_eq!(
            given(TWO, upstream),
            text("host_dns", "nameserver 10.0.0.2\nsearch lan\n")
        );
        assert_eq!(given("nameserver 10.0.0.2\n", upstream), file("/etc/resolv.conf"));
    }
    assert_eq!(given(STUB, Some("nameserver 10.0.0.1\n")), file(UPSTREAM));
    assert_eq!(
        given(STUB, Some(TWO)),
        text("host_dns", "nameserver 10.0.0.2\nsearch lan\n")
    );
    // None: those of Docker, whether or not systemd-resolved has a list that is of no more use.
    for upstream in [None, Some("# none\n"), Some("nameserver ::1\n")] {
        let Some(Resolver::Text("host_dns", found)) = given(STUB, upstream) else {
            panic!("no text of ours")
        };
        assert!(found.starts_with("search lan\n"), "{found}");
        assert!(found.ends_with("\nnameserver 8.8.8.8\nnameserver 8.8.4.4\n"), "{found}");
        assert!(!found.contains("127."), "{found}");
    }
    // What the job leaves out comes from there too.
    let mut searching = task();
    searching.options.dns_search_domains = list(&["x"]);
    let node = NodeFacts {
        resolv_conf: Some(TWO.to_owned()),
        ..NodeFacts::default()
    };
    assert_eq!(
        resolver_of(&searching, &node, &[]).unwrap(),
        text("dns_servers", "search x\nnameserver 10.0.0.2\n")
    );
}

#[test]
fn without_host_dns_the_images_file_stays() {
    let mut task = task();
    task.options.host_dns = false;
    assert_eq!(resolver_of(&task, &stub(), &[]).unwrap(), None);
    assert!(resolver_of(&task, &stub(), &["9.9.9.9"]).unwrap().is_some());
    task.options.host_dns = true;
    assert_eq!(resolver_of(&task, &NodeFacts::default(), &[]).unwrap(), None);
    assert_eq!(
        mount(mounts(&task).unwrap(), "/etc/resolv.conf").unwrap(),
        format!("{UPSTREAM} rbind,rprivate,ro")
    );
}

#[test]
fn what_cannot_be_a_resolver_is_refused_by_name() {
    let error = |change: fn(&mut TaskSpec), dns: &[&str]| {
        let mut task = task();
        change(&mut task);
        resolver_of(&task, &stub(), dns).unwrap_err()
    };
    assert!(
        error(|t| t.options.dns_servers = list(&["dns.x"]), &[]).starts_with("option dns_servers: \"dns.x\": an IP")
    );
    assert!(error(|t| t.options.dns_search_domains = list(&["a b"]), &[]).starts_with("option dns_search_domains: "));
    assert!(error(|t| t.options.dns_options = list(&["a\nb"]), &[]).starts_with("option dns_options: "));
    assert!(error(|_| {}, &["x"]).starts_with("option dns_servers: \"x\""));
    let group = |t: &mut TaskSpec| {
        t.dns = Some(Dns {
            servers: list(&["1.1.1.1\nsearch evil"]),
            ..Dns::default()
        });
    };
    let refused = error(group, &[]);
    assert!(
        refused.starts_with("option dns: \"1.1.1.1\\nsearch evil\": failed to build mount for resolv.conf: "),
        "{refused}"
    );
}

#[test]
fn hostname_is_a_file_unless_it_is_the_hosts_or_the_jobs() {
    let mut task = task();
    let built = mounts(&task).unwrap();
    let found = built
        .files
        .iter()
        .find(|f| f.path_on_host.ends_with("hostname"))
        .unwrap();
    assert_eq!((found.content.as_str(), found.mode), ("h\n", 0o644));
    assert_eq!(
        mount(built, "/etc/hostname").unwrap(),
        "/a/web/.containerd-driver/hostname rbind,rprivate,rw"
    );
    task.options.uts_mode = Some("host".to_owned());
    assert_eq!(mount(mounts(&task).unwrap(), "/etc/hostname"), None);
    task.options.uts_mode = None;
    task.options.mounts = vec![MountOption {
        source: "/srv/name".to_owned(),
        target: "/etc/hostname".to_owned(),
        options: list(&["rbind", "ro"]),
        ..MountOption::default()
    }];
    assert_eq!(
        mount(mounts(&task).unwrap(), "/etc/hostname").unwrap(),
        "/srv/name rbind,ro"
    );
}

/// The directories a task can write are its `local` and `secrets` and the shared `alloc`. What it can write by its mounts is
/// not in the memory of the node either.
#[test]
fn no_generated_file_is_in_a_directory_of_the_task_nor_in_memory_if_it_can_be_written() {
    let mut task = task();
    task.options.dns_servers = list(&["1.1.1.1"]);
    let built = mounts(&task).unwrap();
    let paths: Vec<_> = built
        .files
        .iter()
        .map(|f| f.path_on_host.display().to_string())
        .collect();
    assert_eq!(
        paths,
        [
            "/run/containerd-driver/c/resolv.conf",
            "/a/web/.containerd-driver/hosts",
            "/a/web/.containerd-driver/hostname",
        ]
    );
    // Whoever can write there can lay a link: what is mounted must be what was written.
    let last: Vec<_> = built
        .beneath
        .iter()
        .rev()
        .take(2)
        .map(|b| b.source.display().to_string())
        .collect();
    assert_eq!(last, [paths[2].clone(), paths[1].clone()]);
    let in_memory = |m: &Value| m["source"].as_str().is_some_and(|source| source.starts_with("/run/"));
    for mount in built.into_json().iter().filter(|m| in_memory(m)) {
        assert!(
            mount["options"].as_array().unwrap().iter().any(|o| o == "ro"),
            "{mount}"
        );
    }
}

/// Whoever asks for what is in the file: plugin, group or task.
#[test]
fn the_jobs_own_mount_counts_before_what_would_be_written() {
    for (target, name) in [
        ("/etc/resolv.conf", "resolv.conf"),
        ("/etc/hosts", "hosts"),
        ("/etc/hostname", "hostname"),
    ] {
        let mut task = task();
        task.options.volumes = list(&[&format!("/srv/mine:{target}")]);
        task.options.dns_servers = list(&["1.1.1.1"]);
        task.options.extra_hosts = list(&["a:1.1.1.1"]);
        task.options.hostname = Some("me".to_owned());
        for group in [None, Some(Dns::default())] {
            task.dns = group;
            let built = |inputs: &Inputs<'_>| {
                let user = crate::spec::user::resolve(inputs.task, inputs.image)?;
                Mounts::build(inputs, &ContainerId::reported("c"), "h", &user)
            };
            let built = with(&task, &stub(), &settings(&["9.9.9.9"]), built).unwrap();
            assert!(built.files.iter().all(|f| !f.path_on_host.ends_with(name)), "{target}");
            assert_eq!(built.files.len(), 2);
            assert_eq!(mount(built, target).unwrap(), "/srv/mine rbind,rprivate");
        }
    }
    // What cannot be written is refused all the same.
    let mut task = task();
    task.options.volumes = list(&["/srv/mine:/etc/hosts"]);
    task.options.extra_hosts = list(&["nocolon"]);
    assert!(mounts(&task).unwrap_err().contains("nocolon"));
}

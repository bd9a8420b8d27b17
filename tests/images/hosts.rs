//! `hosts.toml`: mirrors in order, capabilities, plain HTTP, authorities, client certificates, headers, other paths; and a
//! registry that wants patience.

use crate::bench::{Bench, group, kind, patience, secs};
use crate::scene::{
    front, front_with_login, has_transfer, login, never_content, outer_ip, proxy, pushed, refused, tells, which,
    without_credentials,
};
use serde_json::{Value as Json, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use testhost::alloc::random_hex;
use testhost::certificates::Authority;
use testhost::front::Manner;
use testhost::layers::{Layer, Plan};
use testhost::registry_proxy::{Fate, RegistryProxy, Rule};
use testhost::rig::RigOpts;
use testhost::task::TaskSpec;

macro_rules! cases {
    ($(#[$attribute:meta])* $name:ident, $method:expr, $(if $wanted:expr,)?) => {
        group!($(#[$attribute])* $name, with_hosts($method), $(if $wanted,)? {
            mirrors_are_asked_in_order_until_one_has_it,
            the_server_is_asked_when_no_mirror_has_it,
            a_mirror_that_breaks_in_the_middle_of_content_is_left_for_the_server,
            a_mirror_that_only_serves_content_is_not_asked_what_a_tag_is,
            an_authority_of_ones_own_is_believed_where_it_is_named,
            a_certificate_of_the_client_opens_a_registry_that_wants_one,
            headers_are_sent_to_the_host_they_are_for,
            a_path_that_is_not_v2_is_used_as_it_stands,
            directories_are_found_under_each_of_their_names,
            a_task_logs_in_at_the_server_that_the_file_names_and_at_no_mirror,
            a_registry_that_is_busy_for_a_while_is_waited_for,
            a_registry_that_asks_for_too_much_patience_is_an_error_in_time,
            a_registry_that_stumbles_over_a_document_is_asked_again,
            a_file_that_cannot_be_read_is_an_error_that_names_it,
            an_authority_that_cannot_be_read_is_an_error_that_names_it,
        });
    };
}

cases!(hosts, json!({}),);
cases!(
    hosts_by_ourselves,
    json!({ "image_pull_method": "client" }),
    if has_transfer(),
);

group!(
    /// Of our own client, since how patient containerd's is we cannot choose.
    patience_of_ours,
    with_hosts(match has_transfer() {
        true => json!({ "image_pull_method": "client" }),
        false => json!({}),
    }),
    {
        a_registry_that_asks_for_patience_gets_it,
    }
);

/// A bench whose `registry_config_dir` is `hosts` in its directory.
pub async fn with_hosts(mut config: Json) -> Bench {
    let mut opts = RigOpts::new(kind()).expect("CD_DRIVER_BIN");
    let dir = std::env::temp_dir().join(format!("cdt-{}", random_hex(4)));
    config["registry_config_dir"] = json!(dir.join("hosts").display().to_string());
    opts.dir = Some(dir);
    opts.config = config;
    Bench::bare(opts).await
}

pub fn hosts_dir(b: &Bench) -> PathBuf {
    b.rig.dir().join("hosts")
}

/// Writes the `hosts.toml` of a registry.
pub fn configure(b: &Bench, directory: &str, text: &str) {
    let dir = hosts_dir(b).join(directory);
    std::fs::create_dir_all(&dir).expect("a directory");
    std::fs::write(dir.join("hosts.toml"), text).expect("hosts.toml");
}

/// A `hosts.toml` with these mirrors, each with `more` lines, in this order.
pub fn toml(server: &str, mirrors: &[(&str, &str)]) -> String {
    let mut text = format!("server = \"{server}\"\n");
    for (url, more) in mirrors {
        text.push_str(&format!("\n[host.\"{url}\"]\n{more}\n"));
    }
    text
}

pub const BOTH: &str = "  capabilities = [\"pull\", \"resolve\"]";

pub fn url(proxy: &RegistryProxy) -> String {
    format!("http://{}", proxy.addr())
}

fn status(status: u16) -> Fate {
    Fate::Answer {
        status,
        headers: Vec::new(),
        body: String::new(),
    }
}

/// A port of this machine that nobody listens on.
fn closed() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    format!("http://{}", listener.local_addr().expect("an address"))
}

async fn push(b: &Bench, name: &str) {
    pushed(b, name, &Plan::new(name).env(format!("WHICH={name}"))).await;
}

async fn mirrors_are_asked_in_order_until_one_has_it(b: &mut Bench) {
    push(b, "mirrors/image").await;
    let (broken, empty, good, late, server) = (
        proxy(b).await,
        proxy(b).await,
        proxy(b).await,
        proxy(b).await,
        proxy(b).await,
    );
    broken.arm(Rule::always("/", status(503)));
    empty.arm(Rule::always("/", status(404)));
    let mirrors = [closed(), url(&broken), url(&empty), url(&good), url(&late)];
    let mirrors: Vec<_> = mirrors.iter().map(|mirror| (mirror.as_str(), BOTH)).collect();
    configure(b, "mirrored.test", &toml(&url(&server), &mirrors));
    assert_eq!(which(b, "mirrored.test/mirrors/image:1").await, "mirrors/image");
    assert!(!good.blobs().is_empty(), "the good mirror was not asked");
    for (name, asked) in [("broken", &broken), ("empty", &empty)] {
        assert!(!asked.seen().is_empty(), "the {name} mirror was passed over");
    }
    for (name, asked) in [("next mirror", &late), ("server", &server)] {
        assert!(asked.seen().is_empty(), "the {name} was asked: {:?}", asked.seen());
    }
}

async fn the_server_is_asked_when_no_mirror_has_it(b: &mut Bench) {
    push(b, "mirrors/only-there").await;
    let (empty, server) = (proxy(b).await, proxy(b).await);
    empty.arm(Rule::always("/", status(404)));
    configure(b, "server.test", &toml(&url(&server), &[(&url(&empty), BOTH)]));
    assert_eq!(which(b, "server.test/mirrors/only-there:1").await, "mirrors/only-there");
    assert!(!empty.seen().is_empty() && !server.blobs().is_empty());
    // What nobody has is said once, and briefly.
    let error = refused(b, TaskSpec::new("server.test/mirrors/nowhere:1").sh("true")).await;
    tells(&error, &["server.test/mirrors/nowhere:1"], None);
}

async fn a_mirror_that_breaks_in_the_middle_of_content_is_left_for_the_server(b: &mut Bench) {
    push(b, "mirrors/breaks").await;
    let (breaks, server) = (proxy(b).await, proxy(b).await);
    breaks.arm(Rule::always("/blobs/", Fate::Cut { after: 700 }));
    configure(b, "breaks.test", &toml(&url(&server), &[(&url(&breaks), BOTH)]));
    assert_eq!(which(b, "breaks.test/mirrors/breaks:1").await, "mirrors/breaks");
    assert!(!breaks.blobs().is_empty(), "the mirror was not asked");
    // containerd asks the mirror for the rest, again and again.
    let by_us = !has_transfer() || b.rig.config()["image_pull_method"] == "client";
    assert!(!by_us || !server.blobs().is_empty(), "the server was not asked");
}

async fn a_mirror_that_only_serves_content_is_not_asked_what_a_tag_is(b: &mut Bench) {
    push(b, "mirrors/content").await;
    let (content, server) = (proxy(b).await, proxy(b).await);
    let only_pull = "  capabilities = [\"pull\"]";
    configure(b, "content.test", &toml(&url(&server), &[(&url(&content), only_pull)]));
    assert_eq!(which(b, "content.test/mirrors/content:1").await, "mirrors/content");
    assert!(!content.blobs().is_empty(), "the mirror was not asked");
    let by_tag = content
        .seen()
        .into_iter()
        .filter(|seen| seen.path.contains("/manifests/1"));
    assert_eq!(by_tag.count(), 0, "{:?}", content.seen());
    assert!(server.blobs().is_empty(), "{:?}", server.blobs());
}

async fn an_authority_of_ones_own_is_believed_where_it_is_named(b: &mut Bench) {
    let (authority, ip) = (
        Authority::new(&b.rig.dir().join("ca")).expect("an authority"),
        outer_ip(),
    );
    let identity = authority.issue("front", &format!("IP:{ip}")).expect("a certificate");
    let front = front(b, "ca-front", &Manner::default().ip(&ip).tls(&identity)).await;
    let server = format!("https://{}", front.addr());
    for (host, line) in [
        ("named", format!("  ca = \"{}\"", authority.certificate().display())),
        ("listed", format!("  ca = [\"{}\"]", authority.certificate().display())),
        ("skipped", "  skip_verify = true".to_owned()),
    ] {
        let name = format!("ca/{host}");
        push(b, &name).await;
        let more = format!("{BOTH}\n{line}");
        configure(b, &format!("{host}.test"), &toml(&server, &[(&server, &more)]));
        assert_eq!(which(b, &format!("{host}.test/{name}:1")).await, name);
    }
    push(b, "ca/unknown").await;
    configure(b, "unknown.test", &toml(&server, &[]));
    let error = refused(b, TaskSpec::new("unknown.test/ca/unknown:1").sh("true")).await;
    let text = error.message().to_lowercase();
    assert!(text.contains("certificate"), "{error:?}");
}

async fn a_certificate_of_the_client_opens_a_registry_that_wants_one(b: &mut Bench) {
    let (authority, ip) = (
        Authority::new(&b.rig.dir().join("mca")).expect("an authority"),
        outer_ip(),
    );
    let identity = authority.issue("front", &format!("IP:{ip}")).expect("a certificate");
    let client = authority.issue("client", "DNS:client.test").expect("a certificate");
    let manner = Manner::default().ip(&ip).tls(&identity);
    let front = front(b, "mutual", &manner.clients_of(authority.certificate())).await;
    let server = format!("https://{}", front.addr());
    let ca = format!("{BOTH}\n  ca = \"{}\"", authority.certificate().display());
    let pair = format!(
        "{ca}\n  client = [[\"{}\", \"{}\"]]",
        client.certificate.display(),
        client.key.display()
    );
    push(b, "mutual/without").await;
    configure(b, "without.test", &toml(&server, &[(&server, &ca)]));
    refused(b, TaskSpec::new("without.test/mutual/without:1").sh("true")).await;
    push(b, "mutual/with").await;
    configure(b, "with.test", &toml(&server, &[(&server, &pair)]));
    assert_eq!(which(b, "with.test/mutual/with:1").await, "mutual/with");
}

async fn headers_are_sent_to_the_host_they_are_for(b: &mut Bench) {
    push(b, "headers/image").await;
    let (mirror, server) = (proxy(b).await, proxy(b).await);
    let header = format!(
        "{BOTH}\n[host.\"{}\".header]\n  x-of-test = \"one\"\n  x-list = [\"two\", \"three\"]",
        url(&mirror)
    );
    mirror.arm(Rule::always("/blobs/", status(404)));
    configure(b, "headers.test", &toml(&url(&server), &[(&url(&mirror), &header)]));
    assert_eq!(which(b, "headers.test/headers/image:1").await, "headers/image");
    let values = |proxy: &RegistryProxy, name: &str| {
        let seen = proxy.seen().into_iter().flat_map(|seen| seen.headers);
        let mut values: Vec<_> = seen
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, v)| v)
            .collect();
        values.dedup();
        values
    };
    assert!(
        values(&mirror, "x-of-test").contains(&"one".to_owned()),
        "{:?}",
        mirror.seen()
    );
    assert!(
        values(&mirror, "x-list").iter().any(|value| value.contains("three")),
        "{:?}",
        mirror.seen()
    );
    assert!(values(&server, "x-of-test").is_empty(), "{:?}", server.seen());
}

async fn a_path_that_is_not_v2_is_used_as_it_stands(b: &mut Bench) {
    push(b, "elsewhere/image").await;
    let (mirror, server) = (proxy(b).await, proxy(b).await);
    let base = format!("{}/some/place", url(&mirror));
    let more = format!("{BOTH}\n  override_path = true");
    configure(b, "path.test", &toml(&url(&server), &[(&base, &more)]));
    // The registry behind knows no such path; the server has it.
    assert_eq!(which(b, "path.test/elsewhere/image:1").await, "elsewhere/image");
    let paths: Vec<_> = mirror.seen().into_iter().map(|seen| seen.path).collect();
    assert!(!paths.is_empty(), "the mirror was not asked");
    assert!(
        paths
            .iter()
            .all(|path| path.starts_with("/some/place/elsewhere/image/")),
        "{paths:?}"
    );
}

async fn directories_are_found_under_each_of_their_names(b: &mut Bench) {
    for (directory, registry) in [
        ("names.test_5001_", "names.test:5001"),
        ("names.test:5002", "names.test:5002"),
        ("names.test", "names.test"),
        ("_default", "others.test"),
    ] {
        let name = format!("names/{}", directory.replace([':', '_'], "-").trim_matches('-'));
        push(b, &name).await;
        let server = proxy(b).await;
        configure(b, directory, &toml(&url(&server), &[(&url(&server), BOTH)]));
        assert_eq!(which(b, &format!("{registry}/{name}:1")).await, name, "{directory}");
        assert!(!server.blobs().is_empty(), "{directory}");
    }
    std::fs::remove_dir_all(hosts_dir(b).join("_default")).expect("removed");
}

fn busy(seconds: u64) -> Fate {
    Fate::Answer {
        status: 429,
        headers: vec![("Retry-After".to_owned(), seconds.to_string())],
        body: r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#.to_owned(),
    }
}

async fn a_registry_that_asks_for_patience_gets_it(b: &mut Bench) {
    const WAIT: u64 = 2;
    let proxy = proxy(b).await;
    let plan = Plan::new("busy").env("WHICH=busy").layer(Layer::of(100_000, "busy"));
    let image = pushed(b, "busy/image", &plan).await;
    let places = ["/manifests/1".to_owned(), image.layers[1].digest.clone()];
    for place in &places {
        proxy.arm(Rule::once(place, busy(WAIT)));
    }
    assert_eq!(which(b, &proxy.reference("busy/image", "1")).await, "busy");
    for place in &places {
        let seen = proxy.seen();
        let of_place: Vec<_> = seen.iter().filter(|s| s.path.contains(place.as_str())).collect();
        let refusal = of_place.iter().position(|s| s.status == 429).expect("it was busy");
        let next = of_place.get(refusal + 1).expect("it was asked again");
        let waited = next.at - of_place[refusal].at;
        assert!(waited >= Duration::from_secs(WAIT), "{place}: {waited:?}");
    }
}

/// containerd does not wait, but somebody does.
async fn a_registry_that_is_busy_for_a_while_is_waited_for(b: &mut Bench) {
    const WAIT: u64 = 2;
    let proxy = proxy(b).await;
    push(b, "busy/while").await;
    // More often than containerd asks in a row.
    proxy.arm(Rule::times(9, "/manifests/1", busy(WAIT)));
    assert_eq!(which(b, &proxy.reference("busy/while", "1")).await, "busy/while");
    let seen = proxy.seen();
    let asked: Vec<_> = seen.iter().filter(|s| s.path.contains("/manifests/1")).collect();
    let last = asked.iter().rposition(|s| s.status == 429).expect("it was busy");
    let next = asked.get(last + 1).expect("it was asked again");
    let waited = next.at - asked[last].at;
    assert!(waited >= Duration::from_secs(WAIT), "{waited:?}");
}

async fn a_task_logs_in_at_the_server_that_the_file_names_and_at_no_mirror(b: &mut Bench) {
    push(b, "login/image").await;
    let front = front_with_login(b, "server-front").await;
    let server = RegistryProxy::before(front.addr()).await.expect("a proxy");
    let mirror = never_content(b).await;
    configure(b, "login.test", &toml(&url(&server), &[(&url(&mirror), BOTH)]));
    let spec = TaskSpec::new("login.test/login/image:1").sh("echo $WHICH");
    let found = b.run(spec.option("auth", login())).await;
    assert_eq!(found, (0, "login/image\n".to_owned()));
    assert!(!server.blobs().is_empty(), "the server was not asked");
    assert!(
        mirror.seen().iter().any(|seen| seen.status == 401),
        "{:?}",
        mirror.seen()
    );
    without_credentials(&mirror.seen());
}

async fn a_registry_that_asks_for_too_much_patience_is_an_error_in_time(b: &mut Bench) {
    let proxy = proxy(b).await;
    push(b, "busy/always").await;
    proxy.arm(Rule::always("/manifests/", busy(3600)));
    let begun = Instant::now();
    let image = proxy.reference("busy/always", "1");
    let spec = TaskSpec::new(&image)
        .sh("true")
        .option("image_pull_timeout", json!("5s"));
    let error = refused(b, spec).await;
    assert!(
        begun.elapsed() < secs(15) && begun.elapsed() < patience(),
        "{:?}",
        begun.elapsed()
    );
    tells(&error, &[&image], Some(true));
}

async fn a_registry_that_stumbles_over_a_document_is_asked_again(b: &mut Bench) {
    let proxy = proxy(b).await;
    let image = pushed(b, "stumbles/image", &Plan::new("stumbles").env("WHICH=stumbles")).await;
    proxy.arm(Rule::times(2, "/manifests/", status(500)));
    proxy.arm(Rule::once(&image.config.digest, Fate::Cut { after: 10 }).method("GET"));
    assert_eq!(which(b, &proxy.reference("stumbles/image", "1")).await, "stumbles");
}

async fn a_file_that_cannot_be_read_is_an_error_that_names_it(b: &mut Bench) {
    configure(b, "broken.test", "server = [what\n");
    let error = refused(b, TaskSpec::new("broken.test/some/image:1").sh("true")).await;
    tells(&error, &["broken.test", "hosts.toml"], None);
}

async fn an_authority_that_cannot_be_read_is_an_error_that_names_it(b: &mut Bench) {
    push(b, "authority/image").await;
    let server = proxy(b).await;
    for (registry, file, text) in [
        ("absent.test", "absent.pem", None),
        ("garbage.test", "garbage.pem", Some("no certificate")),
    ] {
        configure(
            b,
            registry,
            &format!("server = \"{}\"\nca = \"{file}\"\n", url(&server)),
        );
        if let Some(text) = text {
            std::fs::write(hosts_dir(b).join(registry).join(file), text).expect("a file");
        }
        let image = format!("{registry}/authority/image:1");
        let error = refused(b, TaskSpec::new(&image).sh("true")).await;
        tells(&error, &[&image, file], None);
        assert!(server.seen().is_empty(), "{:?}", server.seen());
    }
}

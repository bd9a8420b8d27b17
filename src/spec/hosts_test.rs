//! What a `hosts.toml` says, and what is said of one that says nothing.

use super::*;
use proptest::prelude::*;

fn whole() -> Vec<Host> {
    parse(
        r#"
server = "https://registry.example"
ca = "own.pem"

[host."https://b.mirror:5000/proxy"]
  capabilities = ["pull", "Resolve"]
  ca = ["one.pem", "/etc/two.pem"]
  client = [["c.cert", "c.key"], ["both.pem", ""]]
  skip_verify = true
  dial_timeout = "1m3s"
  unknown_key = 7
  [host."https://b.mirror:5000/proxy".header]
    x-one = "1"
    x-two = ["2", "3"]

[host."http://a.mirror"]
  capabilities = ["pull"]

[host."z.mirror/api/v2/"]
  client = "all.pem"
  override_path = true
"#,
    )
    .unwrap()
}

#[test]
fn mirrors_come_in_the_order_of_the_file_and_the_server_last() {
    let hosts = whole();
    let at: Vec<_> = hosts.iter().map(|h| h.place("registry.example", false)).collect();
    let seen: Vec<_> = at
        .iter()
        .map(|a| (a.transport, a.host.as_str(), a.path.as_str()))
        .collect();
    assert_eq!(
        seen,
        [
            (Transport::Tls, "b.mirror:5000", "/proxy/v2"),
            (Transport::Plain, "a.mirror", "/v2"),
            (Transport::Tls, "z.mirror", "/api/v2"),
            (Transport::Tls, "registry.example", "/v2"),
        ]
    );
}

#[test]
fn each_key_is_read() {
    let hosts = whole();
    let [b, a, z, server] = hosts.as_slice() else { panic!() };
    assert_eq!((b.pull, b.resolve, a.pull, a.resolve), (true, true, true, false));
    assert_eq!(b.ca, ["one.pem", "/etc/two.pem"]);
    assert_eq!(
        b.client,
        [
            ("c.cert".to_owned(), Some("c.key".to_owned())),
            ("both.pem".to_owned(), None)
        ]
    );
    assert_eq!((b.skip_verify, a.skip_verify), (Some(true), None));
    assert_eq!(b.dial_timeout, Some(Duration::from_secs(63)));
    let headers: Vec<_> = b.headers.iter().map(|(k, v)| (k.as_str(), v.reveal())).collect();
    assert_eq!(headers, [("x-one", "1"), ("x-two", "2"), ("x-two", "3")]);
    assert_eq!(z.client, [("all.pem".to_owned(), None)]);
    assert_eq!(server.ca, ["own.pem"]);
}

#[test]
fn without_a_server_the_registry_itself_is_last() {
    let at = |text: &str, registry: &str, loopback| {
        let place = parse(text).unwrap().pop().unwrap().place(registry, loopback);
        (place.transport, place.host)
    };
    let mirror = "[host.\"http://m\"]\n";
    assert_eq!(
        at(mirror, "docker.io", false),
        (Transport::Tls, "registry-1.docker.io".into())
    );
    assert_eq!(at(mirror, "ghcr.io", false), (Transport::Tls, "ghcr.io".into()));
    assert_eq!(
        at("", "localhost:5000", true),
        (Transport::TlsThenPlain, "localhost:5000".into())
    );
    assert_eq!(at("", "localhost:80", true), (Transport::Plain, "localhost:80".into()));
    assert_eq!(at("server = 'http://r'", "r", false), (Transport::Plain, "r".into()));
    assert_eq!(
        at("server = 'http://r:5000'\nskip_verify = true", "r:5000", false),
        (Transport::TlsThenPlain, "r:5000".into())
    );
}

#[test]
fn a_path_is_the_apis_only_where_the_file_says_so() {
    let path = |url: &str, override_path| address(url, override_path).unwrap().path;
    assert_eq!(path("https://m", false), "/v2");
    assert_eq!(path("https://m/", false), "/v2");
    assert_eq!(path("https://m/v2/", false), "/v2");
    assert_eq!(path("https://m/a/./b//../v2/x", false), "/a/v2/x/v2");
    assert_eq!(path("https://m", true), "");
    assert_eq!(path("https://m/a/", true), "/a");
}

#[test]
fn what_is_wrong_is_named_with_what_is_allowed() {
    for (text, want) in [
        ("server = 1", "server: a URL is expected"),
        ("\nserver = ", "line 2: "),
        ("host = 1", "host: tables"),
        ("[host]\nm = 1", "host.\"m\": a table"),
        ("[host.\"ftp://m\"]", "host: \"ftp://m\": a URL such as"),
        ("server = 'https://me:hunter2@m'", "server: \"…@m\": a URL such as"),
        ("server = 'https://m:0'", "server: \"https://m:0\": a URL such as"),
        ("server = 'https:///v2'", "server: "),
        ("skip_verify = 'yes'", "skip_verify: true or false"),
        (
            "[host.\"http://m\"]\ncapabilities = ['pul']",
            "host.\"http://m\".capabilities: \"pul\": pull, resolve, push and referrers",
        ),
        ("capabilities = 'pull'", "capabilities: a list of texts"),
        ("ca = [1]", "ca: a list of texts"),
        ("client = [['a', 'b', 'c']]", "client: a file, a list of files"),
        ("[header]\nx = 1", "header.x: a text or a list"),
        ("dial_timeout = '3'", "dial_timeout: \"3\": a duration"),
        ("dial_timeout = 3", "dial_timeout: integer: a duration"),
        ("dial_timeout = '0s'", "dial_timeout: "),
    ] {
        let error = parse(text).expect_err(text);
        assert!(error.starts_with(want), "{text}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_header_does_not_show() {
    let hosts = parse("[header]\nauthorization = 'Bearer hunter2'").unwrap();
    assert!(!format!("{hosts:?}").contains("hunter2"));
}

#[test]
fn directories_are_looked_for_in_containerds_order() {
    assert_eq!(
        directories("r.example:5000"),
        ["r.example_5000_", "r.example:5000", "_default"]
    );
    assert_eq!(directories("docker.io"), ["docker.io", "_default"]);
    assert_eq!(roots(DEFAULT_ROOTS).count(), 2);
    assert_eq!(roots("").count(), 0);
    assert_eq!(roots("/a::/b").collect::<Vec<_>>(), ["/a", "/b"]);
}

#[test]
fn dockers_layout_has_certificates_only() {
    let names = ["x.key", "ca.crt", "x.cert", "b.crt", "y.cert", "note.txt"];
    let hosts = docker_layout(names.map(str::to_owned).into());
    assert_eq!(hosts.len(), 1);
    assert_eq!(hosts[0].ca, ["b.crt", "ca.crt"]);
    assert_eq!(
        hosts[0].client,
        [
            ("x.cert".to_owned(), Some("x.key".to_owned())),
            ("y.cert".to_owned(), None)
        ]
    );
    assert_eq!(hosts[0].place("r:5000", false).transport, Transport::Tls);
}

#[test]
fn a_mirror_is_told_whose_images_are_wanted() {
    assert!(is_mirror("m.example", "docker.io") && is_mirror("registry-1.docker.io", "ghcr.io"));
    assert!(!is_mirror("registry-1.docker.io", "docker.io") && !is_mirror("ghcr.io", "ghcr.io"));
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,80}", key in "(server|host|ca|client|header|capabilities|dial_timeout)", value in "\\PC{0,20}") {
        parse(&text).ok();
        parse(&format!("{key} = {value}")).ok();
        parse(&format!("[host.\"{value}\"]\n{key} = {value:?}")).ok();
    }

    #[test]
    fn the_order_of_mirrors_is_that_of_the_file(names in proptest::collection::hash_set("[a-z]{1,8}", 1..12)) {
        let names: Vec<String> = names.into_iter().collect();
        let text: String = names.iter().map(|n| format!("[host.\"https://{n}\"]\n[host.\"https://{n}\".header]\na = 'b'\n")).collect();
        let hosts = parse(&text).unwrap();
        let found: Vec<_> = hosts.iter().filter_map(|h| h.address.as_ref()).map(|a| a.host.clone()).collect();
        prop_assert_eq!(found, names);
    }

    #[test]
    fn an_address_has_a_host_and_a_clean_path(url in "(https?://)?[a-z0-9.:@/?#\\[\\]-]{0,30}", override_path: bool) {
        if let Ok(address) = address(&url, override_path) {
            prop_assert!(!address.host.is_empty() && !address.host.contains(['/', '@', '?', '#']));
            prop_assert!(address.path.is_empty() || address.path.starts_with('/'));
            prop_assert!(!address.path.ends_with('/') && !address.path.contains("//"));
            prop_assert!(override_path || address.path.ends_with("/v2"));
        }
    }
}

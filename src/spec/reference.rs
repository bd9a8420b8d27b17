//! Image references, read and normalised as docker and containerd do (`distribution/reference`, `ParseDockerRef`).
//!
//! `[registry[:port]/]path[:tag][@digest]`; without a registry it is Docker Hub, without a tag `latest`, and where
//! there is a digest the tag no longer counts.

use super::identity::Digest;
use std::fmt;

/// Registry of a reference that names none.
const DEFAULT_REGISTRY: &str = "docker.io";
/// What may stand before a reference: `https://` for Docker's driver and the Go driver, `docker://` as people copy it.
/// `http://` asks for something that a name cannot say.
const SCHEMES: [&str; 2] = ["https://", "docker://"];
/// Limit for registry and repository together (`reference.NameTotalLengthMax`).
const NAME_MAX: usize = 255;
/// Limit for a tag (OCI distribution specification).
const TAG_MAX: usize = 128;

/// Which manifest of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Version {
    Tag(String),
    Digest(Digest),
}

/// A normalised image reference.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    version: Version,
}

impl Reference {
    /// Reads a reference as a user writes it.
    ///
    /// # Errors
    /// Says what is wrong and what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = SCHEMES.iter().find_map(|s| text.strip_prefix(s)).unwrap_or(text);
        if text.is_empty() {
            return Err("it is empty; expected [registry/]name[:tag][@digest]".to_owned());
        }
        if text.contains("://") {
            return Err(format!(
                "of prefixes only {} may be written (and mean nothing); plain HTTP is a matter of the registry's hosts.toml",
                SCHEMES.join(", ")
            ));
        }
        if text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err("64 hex digits are an id, not a name".to_owned());
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(Digest::parse(digest)?)),
            None => (text, None),
        };
        let (registry, path) = split_registry(rest);
        check_registry(registry)?;
        let (path, tag) = match path.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (path, None),
        };
        if let Some(tag) = tag {
            check_tag(tag)?;
        }
        check_path(path)?;
        let official = registry == DEFAULT_REGISTRY && !path.contains('/');
        let repository = if official {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        if registry.len() + 1 + repository.len() > NAME_MAX {
            return Err(format!("the name has more than {NAME_MAX} characters"));
        }
        let version = match digest {
            Some(digest) => Version::Digest(digest),
            None => Version::Tag(tag.unwrap_or("latest").to_owned()),
        };
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            version,
        })
    }

    /// The same repository at a digest.
    ///
    /// # Errors
    /// If it is no digest.
    pub fn at(&self, digest: &str) -> Result<Self, String> {
        Ok(Self {
            version: Version::Digest(Digest::parse(digest)?),
            ..self.clone()
        })
    }

    /// Registry host with port, e.g. `docker.io`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Path in the registry, e.g. `library/busybox`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, unless there is a digest.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        match &self.version {
            Version::Tag(tag) => Some(tag),
            Version::Digest(_) => None,
        }
    }

    /// The digest, if one was given.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        match &self.version {
            Version::Tag(_) => None,
            Version::Digest(digest) => Some(digest),
        }
    }

    /// Name of the image record in containerd, e.g. `docker.io/library/busybox:latest`.
    #[must_use]
    pub fn name(&self) -> String {
        self.to_string()
    }

    /// Whether the registry is on this machine, where Docker's rule allows plain HTTP.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.registry)
    }
}

/// Whether a host, with or without a port, is this machine.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.split_once(']').map_or(v6, |(host, _)| host),
        None => host.split_once(':').map_or(host, |(host, _)| host),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Version::Tag(tag) => write!(f, "{}/{}:{tag}", self.registry, self.repository),
            Version::Digest(digest) => write!(f, "{}/{}@{digest}", self.registry, self.repository),
        }
    }
}

/// The part before the first slash is a registry if it looks like a host: that is docker's rule, and why
/// `localhost/x` is one and `library/x` is not.
fn split_registry(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((first, path)) if looks_like_host(first) => (
            if first == "index.docker.io" {
                DEFAULT_REGISTRY
            } else {
                first
            },
            path,
        ),
        _ => (DEFAULT_REGISTRY, text),
    }
}

fn looks_like_host(text: &str) -> bool {
    text == "localhost" || text.contains(['.', ':']) || text.bytes().any(|b| b.is_ascii_uppercase())
}

pub(super) fn check_registry(registry: &str) -> Result<(), String> {
    let wrong = || format!("{registry:?} is not a registry: host name or address, and a port after a colon");
    let (host_ok, port) = if let Some(v6) = registry.strip_prefix('[') {
        let (address, port) = v6.split_once(']').ok_or_else(wrong)?;
        (
            address.parse::<std::net::Ipv6Addr>().is_ok(),
            port.strip_prefix(':').or((!port.is_empty()).then_some("")),
        )
    } else {
        let (host, port) = registry
            .split_once(':')
            .map_or((registry, None), |(host, port)| (host, Some(port)));
        (host.split('.').all(is_host_word), port)
    };
    let port_ok = port.is_none_or(|p| p.parse::<u16>().is_ok() && p.bytes().all(|b| b.is_ascii_digit()));
    if host_ok && port_ok { Ok(()) } else { Err(wrong()) }
}

fn is_host_word(word: &str) -> bool {
    !word.is_empty()
        && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !word.starts_with('-')
        && !word.ends_with('-')
}

fn check_path(path: &str) -> Result<(), String> {
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(format!("{path:?}: the name must be in lower case"));
    }
    if path.split('/').all(is_path_word) {
        Ok(())
    } else {
        Err(format!(
            "{path:?}: a name is words of a-z and 0-9 joined by one `.`, one or two `_`, or `-`, and `/` between them"
        ))
    }
}

fn is_path_word(word: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_digit() || b.is_ascii_lowercase();
    let ends = |b: Option<u8>| b.is_some_and(alphanumeric);
    ends(word.bytes().next())
        && ends(word.bytes().next_back())
        && word
            .split(|c: char| c.is_ascii() && alphanumeric(c as u8))
            .all(|joint| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|b| b == b'-'))
}

fn check_tag(tag: &str) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let ok = tag.len() <= TAG_MAX
        && tag.bytes().next().is_some_and(plain)
        && tag.bytes().all(|b| plain(b) || b == b'.' || b == b'-');
    if ok {
        Ok(())
    } else {
        Err(format!(
            "{tag:?} is not a tag: 1 to {TAG_MAX} of letters, digits, `_`, `.` and `-`, not beginning with the last two"
        ))
    }
}

/// Words about what somebody has written in place of a reference, without the password that may be in it
/// (`https://name:password@host/…`): they go into events and logs.
#[must_use]
pub fn without_password(words: &str, image: &str) -> String {
    match password_in(image) {
        Some(password) => words.replace(password, "…"),
        None => words.to_owned(),
    }
}

fn password_in(image: &str) -> Option<&str> {
    let rest = image.split_once("://").map_or(image, |(_, rest)| rest);
    let (user, host) = rest.split('/').next()?.rsplit_once('@')?;
    let (_, password) = user.split_once(':')?;
    // `name:tag@sha256:…` is what a reference looks like.
    let is_digest = host.starts_with("sha256:") || host.starts_with("sha512:");
    (!is_digest && !password.is_empty()).then_some(password)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_password_is_in_no_words() {
        for (image, words) in [
            ("https://alice:s3cret@host/x:1", "https://alice:…@host/x:1"),
            ("alice:s3cret@host:5000/x", "alice:…@host:5000/x"),
            ("alice@host/x", "alice@host/x"),
            ("busybox:1@sha256:00", "busybox:1@sha256:00"),
            ("host:5000/x:1@sha256:00", "host:5000/x:1@sha256:00"),
            ("", ""),
        ] {
            assert_eq!(without_password(image, image), words);
        }
        let reason = Reference::parse("alice:s3cret@host/x").unwrap_err();
        assert!(
            !without_password(&reason, "alice:s3cret@host/x").contains("s3cret"),
            "{reason}"
        );
    }

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_those_of_docker() {
        let digest = format!("sha256:{HEX}");
        let cases = [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1.36", "docker.io/library/busybox:1.36".to_owned()),
            ("grafana/loki", "docker.io/grafana/loki:latest".to_owned()),
            (
                "index.docker.io/library/redis:7",
                "docker.io/library/redis:7".to_owned(),
            ),
            ("docker.io/redis", "docker.io/library/redis:latest".to_owned()),
            ("https://ghcr.io/a/b__c--d.e:X_1", "ghcr.io/a/b__c--d.e:X_1".to_owned()),
            ("docker://busybox:1", "docker.io/library/busybox:1".to_owned()),
            (
                "docker://docker.io/library/busybox",
                "docker.io/library/busybox:latest".to_owned(),
            ),
            ("127.0.0.1:5000/t/bb", "127.0.0.1:5000/t/bb:latest".to_owned()),
            ("[::1]:5000/t/bb:1", "[::1]:5000/t/bb:1".to_owned()),
            ("localhost/bb", "localhost/bb:latest".to_owned()),
            ("MyHost/bb", "MyHost/bb:latest".to_owned()),
            (
                &format!("busybox@{digest}"),
                format!("docker.io/library/busybox@{digest}"),
            ),
            (
                &format!("busybox:1.36@{digest}"),
                format!("docker.io/library/busybox@{digest}"),
            ),
        ];
        for (text, want) in cases {
            assert_eq!(Reference::parse(text).map(|r| r.name()), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_docker_refuses_is_refused() {
        for text in [
            "",
            "busybox:",
            "busybox@",
            "Busybox",
            "a/B",
            "busybox:-x",
            "a//b",
            "/a",
            "a/",
            "a b",
            "http://x/y",
            "-a",
            "a-",
            "a___b",
            "a..b",
            "ftp://x/y",
            "https://http://x/y",
            "docker://",
            "x@sha256:12",
            "localhost:port/a",
            "localhost:99999/a",
            "[::1/a",
            "ü",
            "a:b:c",
            HEX,
            "docker.io/",
        ] {
            assert!(Reference::parse(text).is_err(), "{text:?}");
        }
        assert!(Reference::parse(&format!("a:{}", "t".repeat(129))).is_err());
        assert!(Reference::parse(&"a/".repeat(140)).is_err());
    }

    #[test]
    fn loopback_is_known_by_its_address() {
        for (text, want) in [
            ("127.0.0.1:5000/a", true),
            ("127.9.9.9/a", true),
            ("localhost:5000/a", true),
            ("[::1]:5000/a", true),
            ("a", false),
            ("10.0.0.1:5000/a", false),
            ("127.0.0.1.example.org/a", false),
        ] {
            assert_eq!(Reference::parse(text).map(|r| r.is_loopback()), Ok(want), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,80}") {
            Reference::parse(&text).ok();
        }

        #[test]
        fn a_normal_name_is_its_own_normal_form(text in "([a-z0-9.:-]{1,12}/)?[a-z0-9._/-]{1,20}(:[A-Za-z0-9._-]{1,8})?") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(Reference::parse(&reference.name()), Ok(reference));
            }
        }
    }
}

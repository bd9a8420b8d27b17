//! Who is let at a private image, by a registry that knows one password.

use super::super::keyring::Keys;
use super::*;
use crate::containerd::Descriptor;
use crate::messages::image::{CredentialScope, EnsureImage, PullPolicy};
use crate::spec::auth::PluginAuth;
use crate::spec::settings::Settings;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const MANIFEST: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[]}"#;
/// base64 of `me:hunter2`.
const RIGHT: &str = "authorization: basic bwu6ahvudgvymg==";

/// A registry over plain HTTP that shows a manifest to whoever has the password.
struct Registry {
    addr: String,
    asked: Arc<AtomicUsize>,
    server: tokio::task::JoinHandle<()>,
}

impl Registry {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let server = tokio::spawn(async move {
            // Its connections end with it.
            let mut served = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                served.spawn(serve(stream, Arc::clone(&count)));
            }
        });
        Self { addr, asked, server }
    }

    /// Manifests that were asked for.
    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    fn stop(self) {
        self.server.abort();
    }
}

async fn serve(mut stream: TcpStream, asked: Arc<AtomicUsize>) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                // A TLS handshake: this is none, as Go's servers say it.
                Ok(0x16) if head.is_empty() => {
                    let text = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTPS request to an HTTP server.\n";
                    stream.write_all(text).await.ok();
                    stream.shutdown().await.ok();
                    stream.read_to_end(&mut Vec::new()).await.ok();
                    return;
                }
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let (status, more, body) = match (head.contains(RIGHT), head.contains("/manifests/")) {
            (false, _) => ("401 Unauthorized", "WWW-Authenticate: Basic realm=\"test\"\r\n", "{}"),
            (true, false) => ("200 OK", "", "{}"),
            (true, true) => {
                asked.fetch_add(1, Ordering::Relaxed);
                let kind = "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n";
                ("200 OK", kind, MANIFEST)
            }
        };
        let length = body.len();
        let answer = format!("HTTP/1.1 {status}\r\n{more}Content-Length: {length}\r\n\r\n{body}");
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn login(password: &str) -> Credentials {
    Credentials {
        username: "me".to_owned(),
        password: Secret::new(password),
        identity_token: None,
    }
}

/// One task after the other on one node.
struct Node {
    config: PullConfig,
    reference: Reference,
    record: ImageRecord,
}

impl Node {
    fn new(registry: &str, whose: Option<Whose>, settings: &Settings) -> Self {
        let reference = Reference::parse(&format!("{registry}/team/app:1")).unwrap();
        let target = Descriptor {
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            digest: crate::spec::identity::Digest::sha256(MANIFEST.as_bytes()).to_string(),
            size: MANIFEST.len() as u64,
        };
        let record = ImageRecord {
            name: reference.name(),
            target,
            labels: mark(whose),
        };
        let config = PullConfig {
            keys: Keys::default().with(settings),
            ..PullConfig::of_nothing()
        };
        Self {
            config,
            reference,
            record,
        }
    }

    fn keyring(&self, credentials: Option<Credentials>) -> Keyring {
        let request = EnsureImage {
            image: self.reference.name(),
            credentials,
            scope: CredentialScope::default(),
            policy: PullPolicy::default(),
            timeout: Duration::from_secs(9),
            job: String::new(),
            load: None,
            snapshotter: "overlayfs".to_owned(),
            observer: None,
        };
        self.config.keys.keyring(&request, &self.reference)
    }

    async fn task(&self, credentials: Option<Credentials>) -> Result<(), ImageError> {
        check(&self.config, &self.keyring(credentials), &self.reference, &self.record).await
    }
}

#[tokio::test]
async fn a_private_image_is_for_those_whose_credentials_could_pull_it() {
    let registry = Registry::start().await;
    let node = Node::new(&registry.addr, Some(Whose::Task), &Settings::default());
    for wrong in [None, Some(login("wrong"))] {
        let error = node.task(wrong).await.unwrap_err();
        assert!(matches!(error, ImageError::Denied { .. }), "{error}");
        assert_eq!(error.image(), node.reference.name(), "as the task names it");
        assert!(
            error.to_string().contains("was pulled with other credentials"),
            "{error}"
        );
    }
    assert_eq!(registry.asked(), 0);
    node.task(Some(login("hunter2"))).await.unwrap();
    assert_eq!(registry.asked(), 1);
    node.task(Some(login("hunter2"))).await.unwrap();
    assert_eq!(registry.asked(), 1, "the answer is remembered");
    node.task(None).await.unwrap_err();
    registry.stop();
}

#[tokio::test]
async fn the_answer_counts_for_a_time() {
    let registry = Registry::start().await;
    let settings = Settings {
        image_auth_ttl: Duration::from_nanos(1),
        ..Settings::default()
    };
    let node = Node::new(&registry.addr, Some(Whose::Task), &settings);
    node.task(Some(login("hunter2"))).await.unwrap();
    node.task(Some(login("hunter2"))).await.unwrap();
    assert_eq!(registry.asked(), 2);
    registry.stop();
}

#[tokio::test]
async fn what_is_not_marked_is_for_everybody_and_so_is_all_where_nothing_is_checked() {
    // Nobody listens there.
    let public = Node::new("127.0.0.1:1", None, &Settings::default());
    public.task(None).await.unwrap();
    let unchecked = Settings {
        image_auth_check: false,
        ..Settings::default()
    };
    let private = Node::new("127.0.0.1:1", Some(Whose::Task), &unchecked);
    private.task(None).await.unwrap();
}

#[tokio::test]
async fn with_the_registry_down_what_is_known_counts() {
    let registry = Registry::start().await;
    let settings = Settings {
        image_auth_ttl: Duration::from_nanos(1),
        ..Settings::default()
    };
    let node = Node::new(&registry.addr, Some(Whose::Task), &settings);
    node.task(Some(login("hunter2"))).await.unwrap();
    registry.stop();
    node.task(Some(login("hunter2"))).await.unwrap();
    for unknown in [None, Some(login("wrong"))] {
        let error = node.task(unknown).await.unwrap_err();
        assert!(
            error.is_transient() && matches!(error, ImageError::Registry { .. }),
            "{error}"
        );
        assert!(error.to_string().contains("the image is on this node"), "{error}");
    }
}

#[tokio::test]
async fn with_the_registry_down_what_the_node_has_pulled_is_for_tasks_without_credentials_of_their_own() {
    let settings = Settings {
        auth: Some(PluginAuth {
            username: "me".to_owned(),
            password: Secret::new("hunter2"),
            hosts: Some(vec!["*".to_owned()]),
            ..PluginAuth::default()
        }),
        ..Settings::default()
    };
    let node = Node::new("127.0.0.1:1", Some(Whose::Node), &settings);
    node.task(None).await.unwrap();
    node.task(Some(login("x"))).await.unwrap_err();
    let of_a_task = Node::new("127.0.0.1:1", Some(Whose::Task), &settings);
    of_a_task.task(None).await.unwrap_err();
}

#[tokio::test]
async fn a_pull_shows_it_too() {
    let node = Node::new("127.0.0.1:1", Some(Whose::Task), &Settings::default());
    let target = node.record.target.digest.as_str();
    // An anonymous pull shows nothing.
    shown(&node.config, &node.keyring(None), &node.reference, target)
        .await
        .unwrap();
    node.task(None).await.unwrap_err();
    let ring = node.keyring(Some(login("hunter2")));
    ring.of(node.reference.registry()).await.unwrap();
    shown(&node.config, &ring, &node.reference, target).await.unwrap();
    node.task(Some(login("hunter2"))).await.unwrap();
    node.task(Some(login("other"))).await.unwrap_err();
}

#[test]
fn a_mark_says_private_and_not_whose() {
    for (whose, back) in [
        (None, None),
        (Some(Whose::Node), Some(Whose::Node)),
        (Some(Whose::Task), Some(Whose::Task)),
    ] {
        assert_eq!(marked(&mark(whose)), back);
    }
    assert_eq!(marked(&Labels::new()), None);
    let of_a_later_version = Labels::from([(PRIVATE.to_owned(), "vault".to_owned())]);
    assert_eq!(marked(&of_a_later_version), Some(Whose::Task));
}

#[test]
fn somebody_is_known_by_all_that_they_give_and_to_one_process_only() {
    let (one, other) = (Admitted::default(), Admitted::default());
    let token = Credentials {
        identity_token: Some(Secret::new("t")),
        ..login("p")
    };
    let all = [
        one.who(&["", "", "", ""], None),
        one.who(&["", "", "", ""], Some(&login("p"))),
        one.who(&["", "", "", ""], Some(&login("q"))),
        one.who(&["", "", "", ""], Some(&token)),
        one.who(&["password", "r", "a", "bc"], None),
        one.who(&["password", "r", "ab", "c"], None),
        other.who(&["", "", "", ""], None),
    ];
    let different: std::collections::HashSet<_> = all.iter().collect();
    assert_eq!(different.len(), all.len());
    assert_eq!(
        one.who(&["", "", "", ""], Some(&token)),
        one.clone().who(&["", "", "", ""], Some(&token))
    );
    assert_eq!(format!("{one:?}"), "Admitted");
}

#[test]
fn memory_has_a_bound() {
    let admitted = Admitted::default();
    let reference = Reference::parse("r.x/i").unwrap();
    let of = |n: usize| Shown::new(&reference, &n.to_string(), [0; 32]);
    for n in 0..REMEMBERED_MAX + 10 {
        admitted.put(of(n), Duration::from_secs(60));
    }
    let held = admitted.shown.lock().unwrap().len();
    assert!((1..=REMEMBERED_MAX).contains(&held), "{held}");
    assert!(admitted.since(&of(REMEMBERED_MAX + 9)).is_some());
}

#[test]
fn what_is_shown_of_a_repository_is_known_by_each_of_its_names() {
    let admitted = Admitted::default();
    let digest = format!("sha256:{}", "a".repeat(64));
    let of = |name: &str| Shown::new(&Reference::parse(name).unwrap(), &digest, [0; 32]);
    let by_digest = format!("r.x/a@{digest}");
    admitted.put(of("r.x/a:1"), Duration::from_secs(60));
    for same in ["r.x/a:1", "r.x/a:2", &by_digest] {
        assert!(admitted.since(&of(same)).is_some(), "{same}");
    }
    for other in ["r.x/b:1", "s.x/a:1"] {
        assert!(admitted.since(&of(other)).is_none(), "{other}");
    }
    admitted.forget(&of(&by_digest));
    assert!(admitted.since(&of("r.x/a:1")).is_none());
    // A mirror of content, which may have been asked for a digest, says nothing of tags.
    admitted.put(of(&by_digest), Duration::from_secs(60));
    assert!(admitted.since(&of(&by_digest)).is_some());
    assert!(admitted.since(&of("r.x/a:1")).is_none());
}

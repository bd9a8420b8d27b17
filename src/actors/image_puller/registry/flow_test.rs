//! A session with registries and mirrors of all sorts, over HTTP.

use super::fake_test::{
    Asked, Fake, MANIFEST, MINUTE, Reply, credentials, descriptor, no_keys, nobody, read, said, session, with,
};
use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Answers so many times otherwise than it should.
fn at_first(times: usize, first: Reply, then: Reply) -> impl Fn(&Asked) -> Reply {
    let count = AtomicUsize::new(0);
    move |_| match count.fetch_add(1, Ordering::Relaxed) < times {
        true => first.clone(),
        false => then.clone(),
    }
}

#[tokio::test]
async fn a_busy_registry_is_asked_again_when_it_says() {
    let busy = Reply::new(429, "slow down").with("Retry-After", "1");
    let registry = Fake::start(at_first(2, busy, Reply::new(200, MANIFEST))).await;
    let begun = Instant::now();
    with(&registry, None).await.top().await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(2));
    let busy = Reply::new(429, "slow down").with("Retry-After", "1");
    let registry = Fake::start(at_first(1, busy, Reply::new(200, "x"))).await;
    let blob = with(&registry, None).await.blob(&descriptor(b"x"), 0).await.unwrap();
    assert_eq!(read(blob).await.unwrap(), b"x");
}

#[tokio::test]
async fn a_registry_that_is_busy_for_longer_than_the_pull_is_not_waited_for() {
    let registry = Fake::start(|_| Reply::new(429, "slow down").with("Retry-After", "3600")).await;
    let error = with(&registry, None).await.top().await.unwrap_err();
    assert!(
        error.is_transient()
            && error
                .to_string()
                .contains("slow down; it is to be asked again in 3600s"),
        "{error}"
    );
    assert_eq!(registry.asked().len(), 1);
}

#[tokio::test]
async fn a_registry_that_is_busy_for_longer_than_a_pull_may_be_silent_is_not_waited_for() {
    let registry = Fake::start(|_| Reply::new(429, "slow down").with("Retry-After", "30")).await;
    let registries = Registries::default().configured_in("", Duration::from_secs(20));
    let begun = Instant::now();
    let error = session(&registries, &registry.addr, &no_keys())
        .await
        .top()
        .await
        .unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(
        error.is_transient()
            && error
                .to_string()
                .contains("slow down; it is to be asked again in 30s, image_pull_activity_timeout is 20s"),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_in_the_way_is_known_until_it_is_not_any_more() {
    let busy = Reply::new(429, "slow down").with("Retry-After", "1");
    let registry = Fake::start(at_first(1, busy, Reply::new(200, MANIFEST))).await;
    let registries = Registries::default().configured_in("", MINUTE);
    let session = session(&registries, &registry.addr, &no_keys()).await;
    let last_word = registries.last_word();
    let (mut top, mut word) = (std::pin::pin!(session.top()), None);
    while let Err(_elapsed) = tokio::time::timeout(Duration::from_millis(50), &mut top).await {
        word = word.or(last_word.get());
    }
    assert_eq!(word.as_deref(), Some("status 429: slow down"));
    assert_eq!(last_word.get(), None);
    let other = registries.configured_in("", MINUTE).last_word();
    last_word.put("words".to_owned());
    assert_eq!(other.get(), None, "another pull's");
}

#[tokio::test]
async fn a_document_is_asked_for_again_after_trouble() {
    for trouble in [Reply::new(503, ""), Reply::new(200, MANIFEST).cut_after(3)] {
        let registry = Fake::start(at_first(1, trouble, Reply::new(200, MANIFEST))).await;
        assert_eq!(with(&registry, None).await.top().await.unwrap().0, MANIFEST);
    }
    let registry = Fake::start(|_| Reply::new(500, "")).await;
    let error = with(&registry, None).await.top().await.unwrap_err();
    assert!(matches!(error, ImageError::Registry { .. }), "{error}");
    assert_eq!(registry.asked().len(), ROUNDS as usize);
    let error = session(&Registries::default(), &nobody().await, &no_keys())
        .await
        .top()
        .await;
    assert!(matches!(error, Err(ImageError::Registry { .. })), "{error:?}");
}

#[tokio::test]
async fn a_blob_goes_on_where_it_broke_off_whatever_the_registry_can() {
    const BLOB: &[u8] = b"0123456789";
    let target = descriptor(BLOB);
    let whole = |_: &Asked| Reply::new(200, BLOB);
    let ranges = |asked: &Asked| {
        assert_eq!(asked.header("range"), Some("bytes=4-"));
        Reply::new(206, &BLOB[4..]).with("Content-Range", "bytes 4-9/10")
    };
    let earlier = |_: &Asked| Reply::new(206, &BLOB[2..]).with("Content-Range", "bytes 2-9/10");
    let refuses = |asked: &Asked| match asked.header("range") {
        Some(_) => Reply::new(416, ""),
        None => Reply::new(200, BLOB),
    };
    for fake in [
        Fake::start(whole).await,
        Fake::start(ranges).await,
        Fake::start(earlier).await,
        Fake::start(refuses).await,
    ] {
        let blob = with(&fake, None).await.blob(&target, 4).await.unwrap();
        assert_eq!(read(blob).await.unwrap(), b"456789");
        assert!(fake.asked()[0].is(&format!("/v2/a/b/blobs/{}", target.digest)));
    }
    let later = Fake::start(|_| Reply::new(206, &BLOB[6..]).with("Content-Range", "bytes 6-9/10")).await;
    assert!(with(&later, None).await.blob(&target, 4).await.is_err());
    let none = Fake::start(|asked| {
        assert_eq!(asked.header("range"), None);
        Reply::new(200, BLOB)
    })
    .await;
    assert_eq!(
        read(with(&none, None).await.blob(&target, 0).await.unwrap())
            .await
            .unwrap(),
        BLOB
    );
}

#[tokio::test]
async fn a_part_of_a_blob_is_a_part_or_goes_on_to_the_end() {
    const BLOB: &[u8] = b"0123456789";
    let target = descriptor(BLOB);
    let ranges = |asked: &Asked| {
        assert_eq!(asked.header("range"), Some("bytes=4-6"));
        Reply::new(206, &BLOB[4..7]).with("Content-Range", "bytes 4-6/10")
    };
    // More than it says: that is nobody's part.
    let more = |_: &Asked| Reply::new(206, &BLOB[4..9]).with("Content-Range", "bytes 4-6/10");
    let to_the_end = |_: &Asked| Reply::new(206, &BLOB[4..]).with("Content-Range", "bytes 4-9/10");
    let whole = |_: &Asked| Reply::new(200, BLOB);
    let refuses = |status: u16| {
        move |asked: &Asked| match asked.header("range") {
            Some(_) => Reply::new(status, ""),
            None => Reply::new(200, BLOB),
        }
    };
    for (fake, part, asked) in [
        (Fake::start(ranges).await, true, 1),
        (Fake::start(more).await, true, 1),
        (Fake::start(to_the_end).await, false, 1),
        (Fake::start(whole).await, false, 1),
        (Fake::start(refuses(416)).await, false, 2),
        (Fake::start(refuses(400)).await, false, 2),
    ] {
        let blob = with(&fake, None).await.part(&target, 4, Some(7), None).await.unwrap();
        assert_eq!(blob.is_part(), part);
        let read = read(blob).await.unwrap();
        assert_eq!(read, if part { &BLOB[4..7] } else { &BLOB[4..] });
        assert_eq!(fake.asked().len(), asked);
    }
    let first = Fake::start(|asked| {
        assert_eq!(asked.header("range"), Some("bytes=0-2"));
        Reply::new(206, &BLOB[..3])
    })
    .await;
    let blob = with(&first, None).await.part(&target, 0, Some(3), None).await.unwrap();
    assert!(blob.is_part());
    assert_eq!(read(blob).await.unwrap(), &BLOB[..3]);
}

#[tokio::test]
async fn a_part_of_one_host_is_asked_of_no_other() {
    let mirror = Fake::start(|_| Reply::new(503, "")).await;
    let registry = Fake::start(|_| Reply::new(206, "345")).await;
    let (_root, registries) = said(&registry.addr, &format!("[host.'http://{}']\n", mirror.addr));
    let session = session(&registries, &registry.addr, &no_keys()).await;
    let target = descriptor(b"0123456789");
    let of = async |host| session.part(&target, 3, Some(6), host).await;
    assert!(matches!(of(Some(0)).await, Err(ImageError::Registry { .. })));
    assert_eq!((mirror.asked().len(), registry.asked().len()), (1, 0));
    assert_eq!(of(Some(1)).await.unwrap().host(), 1);
    // The one in trouble comes last now.
    assert_eq!(of(None).await.unwrap().host(), 1);
    assert_eq!(mirror.asked().len(), 1);
}

#[tokio::test]
async fn a_busy_host_is_waited_for_by_those_who_want_a_part_of_it() {
    let busy = Reply::new(429, "slow down").with("Retry-After", "1");
    let registry = Fake::start(at_first(1, busy, Reply::new(206, "012"))).await;
    let begun = Instant::now();
    let session = with(&registry, None).await;
    let part = session.part(&descriptor(b"0123456789"), 0, Some(3), Some(0)).await;
    assert_eq!(read(part.unwrap()).await.unwrap(), b"012");
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_registry_that_says_nothing_any_more_ends_the_attempt() {
    let quick = Registries {
        idle: Duration::from_millis(200),
        ..Registries::default()
    };
    let registry = Fake::start(|_| Reply::new(200, "0123456789").stalled_after(3)).await;
    let one = session(&quick, &registry.addr, &no_keys()).await;
    let blob = one.blob(&descriptor(b"0123456789"), 0).await.unwrap();
    assert_eq!(read(blob).await.unwrap_err(), "nothing came for 200ms");
    let cut = Fake::start(|_| Reply::new(200, "0123456789").cut_after(3)).await;
    let two = session(&quick, &cut.addr, &no_keys()).await;
    assert!(
        read(two.blob(&descriptor(b"0123456789"), 0).await.unwrap())
            .await
            .is_err()
    );
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = silent.local_addr().unwrap().to_string();
    let three = session(&quick, &addr, &no_keys()).await;
    assert!(matches!(
        three.blob(&descriptor(b"x"), 0).await,
        Err(ImageError::Registry { .. })
    ));
}

#[tokio::test]
async fn mirrors_are_asked_in_their_order_and_the_registry_last() {
    let lacks = Fake::start(|_| Reply::new(404, "")).await;
    let broken = Fake::start(|_| Reply::new(503, "")).await;
    let registry = Fake::start(|_| Reply::new(200, MANIFEST)).await;
    let dead = nobody().await;
    let hosts = format!(
        "[host.'http://{dead}']\n[host.'http://{}/proxy']\n[host.'http://{}/api']\noverride_path = true\n\
         [host.'http://{}/api'.header]\nx-a = 'b'\n",
        broken.addr, lacks.addr, lacks.addr
    );
    let (_root, registries) = said(&registry.addr, &hosts);
    let keyring = Keyring::single(&registry.addr, Some(credentials()));
    let session = session(&registries, &registry.addr, &keyring).await;
    assert_eq!(session.top().await.unwrap().0, MANIFEST);
    let ns = format!("?ns={}", registry.addr.replace(':', "%3A"));
    assert_eq!(broken.targets(), [format!("/proxy/v2/a/b/manifests/1{ns}")]);
    assert_eq!(lacks.targets(), [format!("/api/a/b/manifests/1{ns}")]);
    assert_eq!(lacks.asked()[0].header("x-a"), Some("b"));
    assert_eq!(registry.targets(), ["/v2/a/b/manifests/1"]);
    // Those in trouble come last now.
    session.top().await.unwrap();
    assert_eq!(
        (broken.targets().len(), lacks.targets().len(), registry.targets().len()),
        (1, 2, 2)
    );
}

#[tokio::test]
async fn a_mirror_that_lets_nobody_in_is_not_asked_first_again() {
    let closed = Fake::start(|_| Reply::new(401, "").with("WWW-Authenticate", "Basic")).await;
    let registry = Fake::start(|_| Reply::new(200, MANIFEST)).await;
    let (_root, registries) = said(&registry.addr, &format!("[host.'http://{}']\n", closed.addr));
    let session = session(&registries, &registry.addr, &no_keys()).await;
    for _ in 0..3 {
        session.top().await.unwrap();
    }
    assert_eq!((closed.targets().len(), registry.targets().len()), (1, 3));
}

#[tokio::test]
async fn a_mirror_in_trouble_that_passes_may_have_what_its_registry_refuses() {
    for refusal in [Reply::new(404, "none"), Reply::new(403, "not you")] {
        let registry = Fake::start(move |_| refusal.clone()).await;
        let mirror = Fake::start(at_first(1, Reply::new(503, "in a moment"), Reply::new(200, MANIFEST))).await;
        let (_root, registries) = said(&registry.addr, &format!("[host.'http://{}']\n", mirror.addr));
        let one = session(&registries, &registry.addr, &no_keys()).await;
        one.top().await.unwrap();
        assert_eq!(mirror.targets().len(), 2);
    }
    // For good, it is trouble and no refusal, told with both.
    let registry = Fake::start(|_| Reply::new(403, "not you")).await;
    let mirror = Fake::start(|_| Reply::new(503, "never")).await;
    let (_root, registries) = said(&registry.addr, &format!("[host.'http://{}']\n", mirror.addr));
    let one = session(&registries, &registry.addr, &no_keys()).await;
    let error = one.top().await.unwrap_err();
    assert!(error.is_outage(), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("not you") && text.contains("status 503: never"), "{text}");
    let error = one.of_permission().top().await.unwrap_err();
    assert!(matches!(error, ImageError::Denied { .. }), "{error:?}");
}

#[tokio::test]
async fn what_is_told_of_several_hosts_is_the_registrys_word_and_names_the_mirrors() {
    let registry = Fake::start(|_| {
        Reply::new(
            404,
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such tag"}]}"#,
        )
    })
    .await;
    let dead = nobody().await;
    let (_root, registries) = said(&registry.addr, &format!("[host.'http://{dead}']\n"));
    let session = session(&registries, &registry.addr, &no_keys()).await;
    let error = session.top().await.unwrap_err();
    let ImageError::NotFound { reason, .. } = &error else {
        panic!("{error}")
    };
    assert!(reason.starts_with(&format!("no such tag; mirror {dead}: ")), "{reason}");
}

#[tokio::test]
async fn a_mirror_that_may_not_resolve_gives_content_only() {
    let mirror = Fake::start(|_| Reply::new(200, MANIFEST)).await;
    let registry = Fake::start(|_| Reply::new(200, MANIFEST)).await;
    let hosts = format!("[host.'http://{}']\ncapabilities = ['pull']\n", mirror.addr);
    let (_root, registries) = said(&registry.addr, &hosts);
    let one = session(&registries, &registry.addr, &no_keys()).await;
    let (_, digest) = one.top().await.unwrap();
    assert_eq!((mirror.targets().len(), registry.targets().len()), (0, 1));
    one.document(&digest).await.unwrap();
    assert_eq!((mirror.targets().len(), registry.targets().len()), (1, 1));
    // Where it is the registry's word that counts, content is asked of that too.
    one.of_resolvers().document(&digest).await.unwrap();
    assert_eq!((mirror.targets().len(), registry.targets().len()), (1, 2));
    // Of the registry itself only where it is named, as with containerd.
    let (_root, registries) = said(&registry.addr, "capabilities = ['push']\n");
    session(&registries, &registry.addr, &no_keys())
        .await
        .top()
        .await
        .unwrap();
    let named = format!("server = 'http://{}'\ncapabilities = ['push']\n", registry.addr);
    let (_root, registries) = said(&registry.addr, &named);
    let error = session(&registries, &registry.addr, &no_keys()).await.top().await;
    assert!(
        matches!(&error, Err(ImageError::Unusable { reason, .. }) if reason.contains("capabilities")),
        "{error:?}"
    );
}

#[tokio::test]
async fn what_a_mirror_has_damaged_the_next_host_gives() {
    let mirror = Fake::start(|_| Reply::new(200, "something else")).await;
    let registry = Fake::start(|_| Reply::new(200, MANIFEST)).await;
    let (_root, registries) = said(&registry.addr, &format!("[host.'http://{}']\n", mirror.addr));
    let one = session(&registries, &registry.addr, &no_keys()).await;
    let target = descriptor(MANIFEST.as_bytes());
    assert_eq!(one.document(&target.digest).await.unwrap(), MANIFEST);
    assert_eq!(one.small_blob(&target).await.unwrap(), MANIFEST.as_bytes());
    assert_eq!(mirror.targets().len(), 1);
    let alone = with(&mirror, None).await;
    let error = alone.document(&target.digest).await.unwrap_err();
    assert!(
        matches!(&error, ImageError::Unusable { reason, .. } if reason.contains("is damaged")),
        "{error}"
    );
    let error = alone.small_blob(&target).await.unwrap_err();
    assert!(matches!(error, ImageError::Unusable { .. }), "{error}");
}

#[tokio::test]
async fn a_tag_that_is_not_what_its_registry_says_is_refused() {
    let registry =
        Fake::start(|_| Reply::new(200, MANIFEST).with("Docker-Content-Digest", Digest::sha256(b"x").to_string()))
            .await;
    let error = with(&registry, None).await.top().await.unwrap_err();
    assert!(
        matches!(&error, ImageError::Unusable { reason, .. } if reason.contains("is damaged")),
        "{error}"
    );
}

#[tokio::test]
async fn a_document_is_read_up_to_a_limit() {
    let big = vec![b' '; usize::try_from(plan::DOCUMENT_MAX_BYTES).unwrap() + 1];
    let registry = Fake::start(move |_| Reply::new(200, big.clone())).await;
    let error = with(&registry, None).await.top().await.unwrap_err();
    assert!(
        matches!(&error, ImageError::Unusable { reason, .. } if reason.contains("more than 8388608 bytes")),
        "{error}"
    );
}

#[tokio::test]
async fn a_file_that_cannot_be_is_told_and_not_passed_over() {
    let registry = nobody().await;
    let (root, registries) = said(&registry, "capabilities = ['pul']\n");
    let of = Reference::parse(&format!("{registry}/a")).unwrap();
    let error = registries.session(&of, &no_keys(), MINUTE).await.err().unwrap();
    assert!(
        error.to_string().contains("hosts.toml: capabilities: \"pul\""),
        "{error}"
    );
    let dir = std::fs::read_dir(root.path()).unwrap().next().unwrap().unwrap().path();
    for (text, want) in [
        ("ca = 'ca.pem'", "ca: \"ca.pem\": certificates in PEM form"),
        ("client = 'ca.pem'", "client: \"ca.pem\": a certificate and its key"),
        ("[header]\n'a b' = 'c'", "header: \"a b\": a name"),
        (
            "[header]\na = \"hunter2\\n\"",
            "header.a: a text that a header can have",
        ),
    ] {
        std::fs::write(dir.join("hosts.toml"), text).unwrap();
        std::fs::write(dir.join("ca.pem"), "hunter2").unwrap();
        let error = registries
            .session(&of, &no_keys(), MINUTE)
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains(want) && !error.contains("hunter2"), "{error}");
    }
    assert_eq!(
        registries.host_dir(&of).await.unwrap(),
        Some(root.path().display().to_string())
    );
    assert_eq!(Registries::default().host_dir(&of).await.unwrap(), None);
}

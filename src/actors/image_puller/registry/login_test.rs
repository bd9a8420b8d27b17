//! What a session shows to whom: tokens, passwords, and what does not go along with a redirect.

use super::fake_test::{Fake, MANIFEST, MINUTE, Reply, credentials, descriptor, read, said, session, with};
use super::*;
use crate::actors::image_puller::keyring::Keys;
use crate::messages::image::{CredentialScope, Credentials, EnsureImage, PullPolicy};
use crate::spec::auth::PluginAuth;
use crate::spec::secret::Secret;
use crate::spec::settings::Settings;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// `u:hunter2`, as it is shown.
const BASIC: &str = "Basic dTpodW50ZXIy";

fn unauthorized(realm: &str) -> Reply {
    let challenge = format!("Bearer realm=\"http://{realm}/token\",service=\"s v\",scope=\"repository:a/b:pull\"");
    Reply::new(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}"#).with("WWW-Authenticate", challenge)
}

/// An authorization server that numbers its tokens, for who shows the password if there has to be one.
async fn tokens(password: bool) -> Fake {
    let count = AtomicUsize::new(0);
    Fake::start(move |asked| match password && !asked.shows(BASIC) {
        true => Reply::new(401, r#"{"details":"incorrect username or password"}"#),
        false => {
            let n = count.fetch_add(1, Ordering::Relaxed) + 1;
            Reply::new(200, format!(r#"{{"token":"t{n}","expires_in":60}}"#))
        }
    })
    .await
}

#[tokio::test]
async fn a_token_is_had_for_the_credentials_and_shown_from_then_on() {
    let server = tokens(true).await;
    let realm = server.addr.clone();
    let registry = Fake::start(move |asked| match asked.shows("Bearer t1") {
        true => Reply::new(200, MANIFEST),
        false => unauthorized(&realm),
    })
    .await;
    let session = with(&registry, Some(credentials())).await;
    let (bytes, digest) = session.top().await.unwrap();
    assert_eq!(
        (&bytes[..], digest),
        (MANIFEST.as_bytes(), Digest::sha256(MANIFEST.as_bytes()).to_string())
    );
    session.top().await.unwrap();
    assert_eq!(
        server.targets(),
        ["/token?service=s+v&scope=repository%3Aa%2Fb%3Apull&account=u"]
    );
    assert_eq!(registry.targets(), ["/v2/a/b/manifests/1"; 3]);
    let accepted = registry.asked()[0].header("accept").unwrap().to_owned();
    for kind in [
        plan::OCI_INDEX,
        plan::OCI_MANIFEST,
        plan::DOCKER_LIST,
        plan::DOCKER_MANIFEST,
    ] {
        assert!(accepted.contains(kind), "{accepted}");
    }
}

#[tokio::test]
async fn a_token_that_expires_in_mid_pull_is_had_anew_once_for_all() {
    let server = tokens(false).await;
    let (realm, served) = (server.addr.clone(), AtomicUsize::new(0));
    let registry = Fake::start(move |asked| {
        let good = match served.load(Ordering::Relaxed) < 1 {
            true => "Bearer t1",
            false => "Bearer t2",
        };
        if !asked.shows(good) {
            return unauthorized(&realm);
        }
        served.fetch_add(1, Ordering::Relaxed);
        Reply::new(200, MANIFEST)
    })
    .await;
    let session = with(&registry, None).await;
    session.top().await.unwrap();
    let (a, b, c) = tokio::join!(session.top(), session.top(), session.top());
    assert!(a.is_ok() && b.is_ok() && c.is_ok(), "{a:?} {b:?} {c:?}");
    assert_eq!(server.targets().len(), 2);
}

#[tokio::test]
async fn user_and_password_are_shown_where_they_are_wanted() {
    let registry = Fake::start(|asked| match asked.shows(BASIC) {
        true => Reply::new(200, MANIFEST),
        false => Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"r\""),
    })
    .await;
    with(&registry, Some(credentials())).await.top().await.unwrap();
    assert_eq!(registry.asked()[0].header("authorization"), None);
    let error = with(&registry, None).await.top().await.unwrap_err();
    let want = format!("{} wants credentials, none were given", registry.addr);
    assert!(
        matches!(&error, ImageError::Denied { reason, .. } if *reason == want),
        "{error}"
    );
}

#[tokio::test]
async fn wrong_credentials_are_told_from_missing_ones_and_do_not_show() {
    let registry = Fake::start(|_| Reply::new(401, "").with("WWW-Authenticate", "Basic")).await;
    let error = with(&registry, Some(credentials())).await.top().await.unwrap_err();
    assert!(matches!(&error, ImageError::Denied { reason, .. } if reason.ends_with("does not accept the credentials")));
    assert_eq!(registry.asked().len(), 2);

    let server = tokens(true).await;
    let realm = server.addr.clone();
    let registry = Fake::start(move |_| unauthorized(&realm)).await;
    let error = with(&registry, None).await.top().await.unwrap_err();
    assert!(matches!(&error, ImageError::Denied { reason, .. } if reason == "incorrect username or password"));
    let wrong = Credentials {
        password: Secret::new("hunter3"),
        ..credentials()
    };
    let error = with(&registry, Some(wrong)).await.top().await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter3"), "{error:?}");
    // A token that is not taken is no reason for another.
    let error = with(&registry, Some(credentials())).await.top().await.unwrap_err();
    assert!(matches!(&error, ImageError::Denied { reason, .. } if reason.ends_with("does not accept the credentials")));
    assert_eq!(server.targets().len(), 3);
}

#[tokio::test]
async fn a_broken_authorization_server_is_no_refusal() {
    let server = Fake::start(|_| Reply::new(502, "<html>")).await;
    let realm = server.addr.clone();
    let registry = Fake::start(move |_| unauthorized(&realm)).await;
    let error = with(&registry, None).await.top().await.unwrap_err();
    assert!(
        error.is_transient() && error.to_string().contains("no token from the authorization server"),
        "{error}"
    );
    assert_eq!(server.targets().len(), ROUNDS as usize);
}

#[tokio::test]
async fn an_identity_token_is_given_for_a_token_by_oauth2() {
    let server = Fake::start(|_| Reply::new(200, r#"{"access_token":"t1"}"#)).await;
    let realm = server.addr.clone();
    let registry = Fake::start(move |asked| match asked.shows("Bearer t1") {
        true => Reply::new(200, MANIFEST),
        false => unauthorized(&realm),
    })
    .await;
    let identity = Credentials {
        identity_token: Some(Secret::new("i+d")),
        ..credentials()
    };
    with(&registry, Some(identity)).await.top().await.unwrap();
    let asked = &server.asked()[0];
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("POST", "/token"));
    assert_eq!(
        asked.body,
        "grant_type=refresh_token&client_id=containerd-driver&refresh_token=i%2Bd&scope=repository%3Aa%2Fb%3Apull&service=s+v"
    );
    assert_eq!(asked.header("authorization"), None);
}

#[tokio::test]
async fn a_redirect_takes_nothing_along_to_another_host() {
    const BLOB: &[u8] = b"bytes";
    let storage = Fake::start(|_| Reply::new(200, BLOB)).await;
    let place = storage.addr.clone();
    let registry = Fake::start(move |asked| {
        if !asked.shows(BASIC) {
            Reply::new(401, "").with("WWW-Authenticate", "Basic")
        } else if asked.is("/here") {
            Reply::new(307, "").with("Location", format!("http://{place}/there?sig=x"))
        } else {
            Reply::new(302, "").with("Location", "/here")
        }
    })
    .await;
    let (_root, registries) = said(&registry.addr, "[header]\nx-key = 'hunter2'\n");
    let keyring = Keyring::single(&registry.addr, Some(credentials()));
    let session = session(&registries, &registry.addr, &keyring).await;
    let blob = session.blob(&descriptor(BLOB), 0).await.unwrap();
    assert_eq!(read(blob).await.unwrap(), BLOB);
    let here = registry.asked().into_iter().next_back().unwrap();
    assert!(here.is("/here") && here.shows(BASIC));
    assert_eq!(here.header("x-key"), Some("hunter2"));
    let there = &storage.asked()[0];
    assert_eq!(there.target, "/there?sig=x");
    assert_eq!((there.header("authorization"), there.header("x-key")), (None, None));
}

#[tokio::test]
async fn a_place_that_was_redirected_to_is_not_shown_credentials_for_the_asking() {
    let thief = Fake::start(|_| Reply::new(401, "").with("WWW-Authenticate", "Basic")).await;
    let place = thief.addr.clone();
    let registry = Fake::start(move |_| Reply::new(307, "").with("Location", format!("http://{place}/x"))).await;
    let error = with(&registry, Some(credentials())).await.top().await.unwrap_err();
    assert!(matches!(error, ImageError::Denied { .. }), "{error}");
    assert_eq!(
        (thief.asked().len(), thief.asked()[0].header("authorization")),
        (1, None)
    );
}

#[tokio::test]
async fn redirects_in_a_ring_end() {
    let registry = Fake::start(|_| Reply::new(307, "").with("Location", "/x")).await;
    let error = with(&registry, None).await.top().await.unwrap_err();
    assert!(
        matches!(&error, ImageError::Unusable { reason, .. } if reason.contains("redirects")),
        "{error}"
    );
    assert_eq!(registry.asked().len(), 11);
}

#[tokio::test]
async fn what_a_file_shows_gives_way_to_what_the_registry_wants() {
    let registry = Fake::start(|asked| match asked.shows(BASIC) {
        true => Reply::new(200, MANIFEST),
        false => Reply::new(401, "").with("WWW-Authenticate", "Basic"),
    })
    .await;
    let (_root, registries) = said(&registry.addr, "[header]\nauthorization = 'Bearer of-the-file'\n");
    let keyring = Keyring::single(&registry.addr, Some(credentials()));
    let session = session(&registries, &registry.addr, &keyring).await;
    session.top().await.unwrap();
    assert!(registry.asked()[0].shows("Bearer of-the-file"));
}

/// A keyring that reads Docker's file, with this password in it for the registry.
fn of_file(registry: &str, password: &str) -> (tempfile::TempDir, Keyring) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    write_file(&path, registry, password);
    let settings = Settings {
        auth: Some(PluginAuth {
            config: Some(path.display().to_string()),
            ..PluginAuth::default()
        }),
        ..Settings::default()
    };
    let request = EnsureImage {
        image: format!("{registry}/a/b:1"),
        credentials: None,
        scope: CredentialScope::default(),
        policy: PullPolicy::default(),
        timeout: MINUTE,
        job: String::new(),
        load: None,
        snapshotter: String::new(),
        observer: None,
    };
    let of = Reference::parse(&request.image).unwrap();
    (dir, Keys::default().with(&settings).keyring(&request, &of))
}

fn write_file(path: &Path, registry: &str, password: &str) {
    let entry = format!(r#"{{"username":"u","password":"{password}"}}"#);
    std::fs::write(path, format!(r#"{{"auths":{{"{registry}":{entry}}}}}"#)).unwrap();
}

#[tokio::test]
async fn a_password_that_expires_in_mid_pull_is_looked_for_once_more() {
    let renewed = Arc::new(AtomicBool::new(false));
    let wants_new = Arc::clone(&renewed);
    let registry = Fake::start(move |asked| {
        // `u:hunter3`.
        let good = match wants_new.load(Ordering::Relaxed) {
            true => "Basic dTpodW50ZXIz",
            false => BASIC,
        };
        match asked.shows(good) {
            true => Reply::new(200, MANIFEST),
            false => Reply::new(401, "").with("WWW-Authenticate", "Basic"),
        }
    })
    .await;
    let (dir, keyring) = of_file(&registry.addr, "hunter2");
    let session = session(&Registries::default(), &registry.addr, &keyring).await;
    session.top().await.unwrap();
    renewed.store(true, Ordering::Relaxed);
    let error = session.top().await.unwrap_err();
    assert!(
        matches!(&error, ImageError::Denied { reason, .. } if reason.ends_with("does not accept the credentials")),
        "{error}"
    );
    write_file(&dir.path().join("config.json"), &registry.addr, "hunter3");
    session.top().await.unwrap();
}

/// Writes into its error what it was shown.
fn echoing(asked: &super::fake_test::Asked, status: u16) -> Reply {
    let shown = asked.header("authorization").unwrap_or("nothing").to_owned();
    let long = "x".repeat(290);
    let body = format!(
        r#"{{"errors":[{{"code":"X","message":"no {shown}, password hunter2 {long} hunter2 {shown} https://s/x?sig=signature"}}]}}"#
    );
    Reply::new(status, body)
}

#[tokio::test]
async fn what_a_host_was_shown_does_not_come_back_in_its_words() {
    let secrets = ["hunter2", "unter", "dTpodW50ZXIy", "t0ken-of-test", "signature"];
    let without = |error: &ImageError| {
        let told = format!("{error} {error:?}");
        assert!(told.contains("[secret]"), "{told}");
        for secret in secrets {
            assert!(!told.contains(secret), "{secret} in {told}");
        }
    };
    for status in [403, 404, 418, 500] {
        let registry = Fake::start(move |asked| match asked.shows(BASIC) {
            true => echoing(asked, status),
            false => Reply::new(401, "").with("WWW-Authenticate", "Basic"),
        })
        .await;
        without(
            &with(&registry, Some(credentials()))
                .await
                .blob(&descriptor(b"x"), 0)
                .await
                .err()
                .unwrap(),
        );
    }
    let server = Fake::start(|asked| echoing(asked, 403)).await;
    let realm = server.addr.clone();
    let registry = Fake::start(move |_| unauthorized(&realm)).await;
    without(&with(&registry, Some(credentials())).await.top().await.unwrap_err());
    let server = Fake::start(|_| Reply::new(200, r#"{"token":"t0ken-of-test"}"#)).await;
    let realm = server.addr.clone();
    let registry = Fake::start(move |asked| match asked.shows("Bearer t0ken-of-test") {
        true => echoing(asked, 418),
        false => unauthorized(&realm),
    })
    .await;
    without(&with(&registry, Some(credentials())).await.top().await.unwrap_err());
}

#[tokio::test]
async fn the_words_of_a_place_that_was_redirected_to_are_not_repeated() {
    let storage = Fake::start(|_| Reply::new(403, "its own words")).await;
    let place = storage.addr.clone();
    let registry = Fake::start(move |_| Reply::new(307, "").with("Location", format!("http://{place}/x?sig=y"))).await;
    let error = with(&registry, None).await.top().await.unwrap_err();
    let want = format!("{} redirects to {}, which answered 403", registry.addr, storage.addr);
    assert!(
        matches!(&error, ImageError::Denied { reason, .. } if *reason == want),
        "{error}"
    );
}

#[tokio::test]
async fn a_tasks_password_is_for_the_server_that_the_file_names() {
    let server = Fake::start(|asked| match asked.shows(BASIC) {
        true => Reply::new(200, MANIFEST),
        false => Reply::new(401, "").with("WWW-Authenticate", "Basic"),
    })
    .await;
    let mirror = Fake::start(|_| Reply::new(401, "").with("WWW-Authenticate", "Basic")).await;
    let text = format!("server = 'http://{}'\n[host.'http://{}']\n", server.addr, mirror.addr);
    let (_root, registries) = said("x.test:1", &text);
    let keyring = Keyring::single("x.test:1", Some(credentials()));
    session(&registries, "x.test:1", &keyring).await.top().await.unwrap();
    assert!(!mirror.asked().is_empty());
    assert!(
        mirror
            .asked()
            .iter()
            .all(|asked| asked.header("authorization").is_none())
    );
}

//! Registries as they are in the field: with TLS, with a login, with tokens, as a mirror of another.

use crate::bench::{Bench, group};
use crate::scene::{
    auth, by_ourselves, front, front_with_login, has_transfer, is_by_ourselves, login, pushed, refused, tells, usual,
    which,
};
use testhost::certificates::Authority;
use testhost::front::Manner;
use testhost::layers::{Layer, Plan};
use testhost::registry::LOGIN;
use testhost::registry_proxy::{Fate, RegistryProxy, Rule};
use testhost::task::TaskSpec;
use testhost::tokens::TokenServer;

macro_rules! cases {
    ($(#[$attribute:meta])* $name:ident, $bench:expr, $(if $wanted:expr,)?) => {
        group!($(#[$attribute])* $name, $bench, $(if $wanted,)? {
            a_plain_registry_on_the_loopback_address_needs_no_setting,
            a_registry_with_tls_on_the_loopback_address_needs_no_setting,
            a_login_opens_what_is_closed_without,
            a_token_opens_what_is_closed_without,
            a_token_that_is_no_longer_good_is_replaced_in_mid_pull,
            a_mirror_serves_what_its_registry_has,
        });
    };
}

cases!(registries, usual(),);
cases!(registries_by_ourselves, by_ourselves(), if has_transfer(),);

async fn a_plain_registry_on_the_loopback_address_needs_no_setting(b: &mut Bench) {
    pushed(b, "plain/image", &Plan::new("plain").env("WHICH=plain")).await;
    let (_, port) = b.rig.registry.addr().rsplit_once(':').expect("a port");
    for host in ["127.0.0.1", "localhost"] {
        assert_eq!(
            which(b, &format!("{host}:{port}/plain/image:1")).await,
            "plain",
            "{host}"
        );
    }
}

async fn a_registry_with_tls_on_the_loopback_address_needs_no_setting(b: &mut Bench) {
    let authority = Authority::new(&b.rig.dir().join("ca")).expect("an authority");
    let identity = authority.issue("front", "IP:127.0.0.1").expect("a certificate");
    let front = front(b, "tls", &Manner::default().tls(&identity)).await;
    pushed(b, "tls/image", &Plan::new("tls").env("WHICH=tls")).await;
    assert_eq!(which(b, &front.reference("tls/image", "1")).await, "tls");
}

/// Each with an image of its own: one that is here needs no login.
async fn opens(b: &mut Bench, kind: &str, front: &testhost::front::Front) {
    let wants = |n: u32| (format!("{kind}/private-{n}"), Plan::new(format!("{kind}-{n}")));
    for n in 1..=3 {
        let (name, plan) = wants(n);
        pushed(b, &name, &plan).await;
    }
    let image = |n: u32| front.reference(&wants(n).0, "1");
    let anonymous = refused(b, TaskSpec::new(image(1)).sh("true")).await;
    tells(&anonymous, &[&image(1), "pull access denied"], None);
    let wrong = TaskSpec::new(image(2))
        .sh("true")
        .option("auth", auth("not-the-password"));
    let wrong = refused(b, wrong).await;
    tells(&wrong, &[&image(2), "pull access denied"], None);
    assert!(!wrong.message().contains("not-the-password"), "{wrong:?}");
    let right = TaskSpec::new(image(3)).sh("exit 4").option("auth", login());
    assert_eq!(b.run(right).await.0, 4);
}

async fn a_login_opens_what_is_closed_without(b: &mut Bench) {
    let front = front_with_login(b, "basic").await;
    opens(b, "basic", &front).await;
}

async fn a_token_opens_what_is_closed_without(b: &mut Bench) {
    let server = TokenServer::start(&b.rig.dir().join("tokens"))
        .await
        .expect("a token server");
    let front = front(b, "token", &Manner::default().tokens(&server)).await;
    opens(b, "token", &front).await;
    let asked = server.asked();
    let of = |name: &str| {
        let found = asked.iter().filter(|a| a.scope.contains(name));
        found.map(|a| (a.user.clone(), a.granted)).collect::<Vec<_>>()
    };
    assert!(
        of("token/private-1").iter().all(|(user, _)| user.is_empty()),
        "{asked:?}"
    );
    assert!(of("token/private-3").contains(&(LOGIN.0.to_owned(), true)), "{asked:?}");
    // A token that everybody gets.
    pushed(b, "public/image", &Plan::new("public").env("WHICH=public")).await;
    assert_eq!(which(b, &front.reference("public/image", "1")).await, "public");
}

/// The registry forgets whom it knows when half of the image is fetched.
async fn a_token_that_is_no_longer_good_is_replaced_in_mid_pull(b: &mut Bench) {
    let server = TokenServer::start(&b.rig.dir().join("expiring"))
        .await
        .expect("a token server");
    let front = front(b, "expires", &Manner::default().tokens(&server)).await;
    let proxy = RegistryProxy::before(front.addr()).await.expect("a proxy");
    let plan = Plan::new("expires").layer(Layer::of(3 << 20, "expires"));
    let image = pushed(b, "expires/image", &plan).await;
    proxy.arm(Rule::once(&image.layers[1].digest, Fate::WithoutCredentials).method("GET"));
    let spec = TaskSpec::new(proxy.reference("expires/image", "1"));
    let spec = spec.sh("wc -c < /var/expires-0").option("auth", login());
    assert_eq!(b.run(spec).await, (0, format!("{}\n", 3 << 20)));
    let refusals = proxy.blobs().iter().filter(|seen| seen.status == 401).count();
    assert_eq!(refusals, 1, "{:?}", proxy.blobs());
    if is_by_ourselves(b) {
        // containerd shows the one it has once more.
        let asked = server.asked();
        let had = asked.iter().filter(|a| a.granted && a.scope.contains("expires/image"));
        assert_eq!(had.count(), 2, "{asked:?}");
    }
}

async fn a_mirror_serves_what_its_registry_has(b: &mut Bench) {
    let upstream = crate::scene::proxy(b).await;
    pushed(b, "mirrored/image", &Plan::new("mirrored").env("WHICH=mirrored")).await;
    let manner = Manner::default().mirror_of(format!("http://{}", upstream.addr()));
    let mirror = front(b, "mirror", &manner).await;
    assert_eq!(which(b, &mirror.reference("mirrored/image", "1")).await, "mirrored");
    assert!(!upstream.blobs().is_empty(), "the mirror had it from nowhere");
}

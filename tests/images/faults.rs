//! Registries that break, lie, or send their clients elsewhere.

use crate::bench::{Bench, group};
use crate::scene::{
    by_ourselves, by_transfer, front_with_login, has_transfer, login, proxy, pushed, refused, tells, usual,
    without_credentials,
};
use crate::store::Store;
use testhost::layers::{Layer, Plan};
use testhost::registry_proxy::{Fate, RegistryProxy, Rule, Seen};
use testhost::task::TaskSpec;

macro_rules! cases {
    ($(#[$attribute:meta])* $name:ident, $bench:expr, $(if $wanted:expr,)?) => {
        group!($(#[$attribute])* $name, $bench, $(if $wanted,)? {
            a_cut_connection_is_continued_where_it_ended,
            a_cut_connection_to_a_registry_without_ranges_is_made_good,
            a_registry_in_trouble_is_worth_another_try,
            a_registry_in_trouble_for_a_moment_is_asked_again,
            a_manifest_that_does_not_come_for_a_moment_is_asked_for_again,
            a_layer_that_comes_wrong_once_comes_right_the_next_time,
            a_damaged_layer_is_refused_and_not_kept,
            a_manifest_that_is_not_what_its_digest_says_is_refused,
            a_redirect_to_another_host_takes_no_credentials_along,
        });
    };
}

cases!(faults, usual(),);
cases!(faults_by_ourselves, by_ourselves(), if has_transfer(),);
cases!(faults_by_transfer, by_transfer(), if has_transfer(),);

/// Of our own client, since how containerd's fetches is its own affair.
macro_rules! cases_of_our_client {
    ($(#[$attribute:meta])* $name:ident, $bench:expr, if $wanted:expr,) => {
        group!($(#[$attribute])* $name, $bench, if $wanted, {
            a_part_that_is_cut_goes_on_where_it_ended,
            a_large_layer_that_is_damaged_comes_right_the_next_time,
            a_large_layer_of_a_registry_without_ranges_comes_once,
            a_large_layer_of_a_registry_that_refuses_ranges_comes_once,
        });
    };
}

cases_of_our_client!(faults_of_our_client, usual(), if !has_transfer(),);
cases_of_our_client!(
    faults_of_our_client_beside_transfer,
    by_ourselves(),
    if has_transfer(),
);

const LAYER: usize = 12 << 20;

fn plan(salt: &str) -> Plan {
    Plan::new(salt).layer(Layer::of(LAYER, salt))
}

/// A task that looks whether the large layer came whole.
fn whole(image: &str, salt: &str) -> TaskSpec {
    TaskSpec::new(image).sh(&format!("wc -c < /var/{salt}-0"))
}

async fn a_cut_connection_is_continued_where_it_ended(b: &mut Bench) {
    let proxy = proxy(b).await;
    let image = pushed(b, "fault/cut", &plan("cut")).await;
    let large = &image.layers[1];
    proxy.arm(Rule::times(3, &large.digest, Fate::Cut { after: 3 << 20 }).method("GET"));
    let found = b.run(whole(&proxy.reference("fault/cut", "1"), "cut")).await;
    assert_eq!(found, (0, format!("{LAYER}\n")));
    let asked: Vec<_> = proxy
        .blobs()
        .into_iter()
        .filter(|s| s.path.contains(&large.digest))
        .collect();
    assert!(asked.len() >= 4, "{asked:?}");
    let sent: u64 = asked.iter().map(|seen| seen.sent).sum();
    let bound = large.bytes.len() as u64 * 12 / 10;
    assert!(sent <= bound, "{sent} bytes of {}: {asked:?}", large.bytes.len());
}

async fn a_cut_connection_to_a_registry_without_ranges_is_made_good(b: &mut Bench) {
    let proxy = proxy(b).await;
    let image = pushed(b, "fault/whole", &plan("whole")).await;
    let large = &image.layers[1];
    proxy.arm(Rule::once(&large.digest, Fate::Cut { after: 3 << 20 }).method("GET"));
    proxy.arm(Rule::always(&large.digest, Fate::WithoutRanges).method("GET"));
    let found = b.run(whole(&proxy.reference("fault/whole", "1"), "whole")).await;
    assert_eq!(found, (0, format!("{LAYER}\n")));
}

fn trouble() -> Fate {
    Fate::Answer {
        status: 503,
        headers: Vec::new(),
        body: "nobody home".to_owned(),
    }
}

async fn a_registry_in_trouble_is_worth_another_try(b: &mut Bench) {
    let proxy = proxy(b).await;
    let image = pushed(b, "fault/trouble", &plan("trouble")).await;
    let reference = proxy.reference("fault/trouble", "1");
    proxy.arm(Rule::always(&image.layers[1].digest, trouble()).method("GET"));
    let error = refused(b, whole(&reference, "trouble")).await;
    tells(&error, &[&reference, "503"], Some(true));
    proxy.disarm();
    assert_eq!(b.run(whole(&reference, "trouble")).await, (0, format!("{LAYER}\n")));
}

async fn a_registry_in_trouble_for_a_moment_is_asked_again(b: &mut Bench) {
    let proxy = proxy(b).await;
    let image = pushed(b, "fault/moment", &plan("moment")).await;
    proxy.arm(Rule::times(2, &image.layers[1].digest, trouble()).method("GET"));
    let found = b.run(whole(&proxy.reference("fault/moment", "1"), "moment")).await;
    assert_eq!(found, (0, format!("{LAYER}\n")));
}

async fn a_manifest_that_does_not_come_for_a_moment_is_asked_for_again(b: &mut Bench) {
    for (n, status) in [429, 500, 503].into_iter().enumerate() {
        let proxy = proxy(b).await;
        let (name, salt) = (format!("fault/document-{n}"), format!("document-{n}"));
        pushed(b, &name, &plan(&salt)).await;
        let answer = Fate::Answer {
            status,
            headers: Vec::new(),
            body: String::new(),
        };
        proxy.arm(Rule::times(2, "/manifests/", answer));
        let found = b.run(whole(&proxy.reference(&name, "1"), &salt)).await;
        assert_eq!(found, (0, format!("{LAYER}\n")), "{status}");
    }
}

async fn a_layer_that_comes_wrong_once_comes_right_the_next_time(b: &mut Bench) {
    let proxy = proxy(b).await;
    let image = pushed(b, "fault/once", &plan("once")).await;
    let damage = Fate::Damage { at: 5 << 20 };
    proxy.arm(Rule::once(&image.layers[1].digest, damage).method("GET"));
    let found = b.run(whole(&proxy.reference("fault/once", "1"), "once")).await;
    assert_eq!(found, (0, format!("{LAYER}\n")));
}

async fn a_damaged_layer_is_refused_and_not_kept(b: &mut Bench) {
    let proxy = proxy(b).await;
    let image = pushed(b, "fault/damaged", &plan("damaged")).await;
    let large = &image.layers[1];
    let reference = proxy.reference("fault/damaged", "1");
    proxy.arm(Rule::always(&large.digest, Fate::Damage { at: 5 << 20 }).method("GET"));
    let error = refused(b, whole(&reference, "damaged")).await;
    tells(&error, &[&reference, &large.digest], None);
    let store = Store::of(&b.rig.containerd, b.rig.namespace()).await;
    assert!(!store.images.contains_key(&reference), "{:?}", store.images);
    assert!(!store.blobs.contains_key(&large.digest), "it was kept");
    // Nothing of the wrong bytes is in the way of the right ones.
    proxy.disarm();
    assert_eq!(b.run(whole(&reference, "damaged")).await, (0, format!("{LAYER}\n")));
}

async fn a_manifest_that_is_not_what_its_digest_says_is_refused(b: &mut Bench) {
    let proxy = proxy(b).await;
    let image = pushed(b, "fault/forged", &Plan::new("forged")).await;
    let by_digest = format!("{}/fault/forged@{}", proxy.addr(), image.manifest.digest);
    proxy.arm(Rule::always("/manifests/", Fate::Damage { at: 20 }).method("GET"));
    let error = refused(b, TaskSpec::new(&by_digest).sh("true")).await;
    tells(&error, &[&by_digest], None);
    let store = Store::of(&b.rig.containerd, b.rig.namespace()).await;
    assert!(!store.images.contains_key(&by_digest), "{:?}", store.images);
    proxy.disarm();
    assert_eq!(b.run(TaskSpec::new(&by_digest).sh("exit 3")).await.0, 3);
}

/// As cloud registries do: the blobs lie with another service.
async fn a_redirect_to_another_host_takes_no_credentials_along(b: &mut Bench) {
    let front = front_with_login(b, "redirecting").await;
    let proxy = RegistryProxy::before(front.addr()).await.expect("a proxy");
    // A host is known by its address; ports of one address may share what they know.
    let elsewhere = RegistryProxy::start("127.0.0.2", b.rig.registry.addr())
        .await
        .expect("a proxy");
    let image = pushed(b, "fault/elsewhere", &plan("elsewhere")).await;
    let to = format!("http://{}", elsewhere.addr());
    proxy.arm(Rule::always("/blobs/", Fate::Redirect { to }).method("GET"));
    let spec = whole(&proxy.reference("fault/elsewhere", "1"), "elsewhere").option("auth", login());
    assert_eq!(b.run(spec).await, (0, format!("{LAYER}\n")));
    let seen = elsewhere.seen();
    for blob in image.layers.iter().chain([&image.config]) {
        assert!(seen.iter().any(|s| s.path.contains(&blob.digest)), "{seen:?}");
    }
    without_credentials(&seen);
    let first = proxy.seen();
    assert!(first.iter().any(|s| s.authorization.is_some()), "{first:?}");
}

/// Large enough to come in parts.
const LARGE: usize = 40 << 20;

/// An image with a large layer behind a proxy, and the digest of the layer.
async fn large(b: &Bench, salt: &str) -> (RegistryProxy, String) {
    let plan = Plan::new(salt).layer(Layer::of(LARGE, salt));
    let image = pushed(b, &format!("fault/{salt}"), &plan).await;
    (proxy(b).await, image.layers[1].digest.clone())
}

/// Runs a task that looks whether it is whole, and tells what was asked of it.
async fn large_arrives(b: &mut Bench, proxy: &RegistryProxy, salt: &str, digest: &str) -> Vec<Seen> {
    let image = proxy.reference(&format!("fault/{salt}"), "1");
    assert_eq!(b.run(whole(&image, salt)).await, (0, format!("{LARGE}\n")));
    let mut asked = proxy.blobs();
    asked.retain(|seen| seen.path.contains(digest));
    asked
}

fn assert_sent(asked: &[Seen], most: usize) {
    let sent: u64 = asked.iter().map(|seen| seen.sent).sum();
    assert!(sent <= most as u64, "{sent} bytes, at most {most}: {asked:?}");
}

fn unhindered() -> Fate {
    Fate::Slow { per_second: u64::MAX }
}

async fn a_part_that_is_cut_goes_on_where_it_ended(b: &mut Bench) {
    const CUT: u64 = 100_000;
    let (proxy, digest) = large(b, "part").await;
    proxy.arm(Rule::times(2, &digest, unhindered()).method("GET"));
    proxy.arm(Rule::once(&digest, Fate::Cut { after: CUT }).method("GET"));
    let asked = large_arrives(b, &proxy, "part", &digest).await;
    let begins = |seen: &Seen| {
        let range = seen.range.as_deref()?.strip_prefix("bytes=")?;
        range.split('-').next()?.parse::<u64>().ok()
    };
    let cut = begins(&asked[2]).expect("a range");
    assert!(cut > 0 && asked[2].sent == CUT, "{asked:?}");
    let again = asked.iter().filter_map(begins).any(|from| from == cut + CUT);
    assert!(again, "nobody went on from {}: {asked:?}", cut + CUT);
    assert_sent(&asked, LARGE * 12 / 10);
}

async fn a_large_layer_that_is_damaged_comes_right_the_next_time(b: &mut Bench) {
    let (proxy, digest) = large(b, "mixed").await;
    proxy.arm(Rule::times(2, &digest, unhindered()).method("GET"));
    proxy.arm(Rule::once(&digest, Fate::Damage { at: 5000 }).method("GET"));
    let asked = large_arrives(b, &proxy, "mixed", &digest).await;
    let last = asked.last().expect("asked");
    assert!(last.range.is_none() && last.sent > LARGE as u64, "{last:?}");
    assert!(asked.len() > 3 && asked[2].range.is_some(), "{asked:?}");
}

async fn a_large_layer_of_a_registry_without_ranges_comes_once(b: &mut Bench) {
    let (proxy, digest) = large(b, "all").await;
    proxy.arm(Rule::always(&digest, Fate::WithoutRanges).method("GET"));
    let asked = large_arrives(b, &proxy, "all", &digest).await;
    assert_eq!(asked.len(), 1, "{asked:?}");
}

async fn a_large_layer_of_a_registry_that_refuses_ranges_comes_once(b: &mut Bench) {
    let (proxy, digest) = large(b, "refused").await;
    let refusal = Fate::Answer {
        status: 416,
        headers: Vec::new(),
        body: String::new(),
    };
    proxy.arm(Rule::once(&digest, refusal).method("GET"));
    let asked = large_arrives(b, &proxy, "refused", &digest).await;
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert_eq!(asked[1].range, None);
}

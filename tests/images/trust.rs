//! Certificates as people make them with one line of `openssl`: what containerd takes, the driver's own client takes too.

use crate::bench::{Bench, group};
use crate::hosts::{BOTH, configure, toml, with_hosts};
use crate::scene::{auth, front, has_transfer, login, outer_ip, pushed, refused, tells, which};
use serde_json::json;
use testhost::certificates::{Authority, Identity, self_signed};
use testhost::front::Manner;
use testhost::layers::Plan;
use testhost::task::TaskSpec;

macro_rules! cases {
    ($(#[$attribute:meta])* $name:ident, $method:expr, $(if $wanted:expr,)?) => {
        group!($(#[$attribute])* $name, with_hosts($method), $(if $wanted,)? {
            a_certificate_that_is_its_own_authority_is_believed_where_it_is_named,
            a_certificate_that_is_its_own_authority_is_no_other_hosts,
            who_may_use_what_is_here_is_asked_of_a_host_that_is_its_own_authority,
            a_certificate_of_the_client_may_be_of_version_1,
        });
    };
}

cases!(trust, json!({}),);
cases!(
    trust_by_ourselves,
    json!({ "image_pull_method": "client" }),
    if has_transfer(),
);

async fn push(b: &Bench, name: &str) {
    pushed(b, name, &Plan::new(name).env(format!("WHICH={name}"))).await;
}

fn its_own(b: &Bench, name: &str, names: &str) -> Identity {
    self_signed(&b.rig.dir().join(name), name, names).expect("a certificate")
}

/// A `ca` line with this certificate.
fn trusting(identity: &Identity) -> String {
    format!("{BOTH}\n  ca = \"{}\"", identity.certificate.display())
}

async fn a_certificate_that_is_its_own_authority_is_believed_where_it_is_named(b: &mut Bench) {
    let ip = outer_ip();
    let identity = its_own(b, "own", &format!("IP:{ip},DNS:localhost"));
    let front = front(b, "own-front", &Manner::default().ip(&ip).tls(&identity)).await;
    let server = format!("https://{}", front.addr());
    push(b, "own/named").await;
    configure(b, "own.test", &toml(&server, &[(&server, &trusting(&identity))]));
    assert_eq!(which(b, "own.test/own/named:1").await, "own/named");
    push(b, "own/unknown").await;
    let other = its_own(b, "other", &format!("IP:{ip}"));
    configure(b, "unknown.test", &toml(&server, &[(&server, &trusting(&other))]));
    let error = refused(b, TaskSpec::new("unknown.test/own/unknown:1").sh("true")).await;
    assert!(error.message().to_lowercase().contains("certificate"), "{error:?}");
}

async fn a_certificate_that_is_its_own_authority_is_no_other_hosts(b: &mut Bench) {
    let ip = outer_ip();
    let identity = its_own(b, "strange", "DNS:elsewhere.test");
    let front = front(b, "strange-front", &Manner::default().ip(&ip).tls(&identity)).await;
    let server = format!("https://{}", front.addr());
    push(b, "strange/image").await;
    configure(b, "strange.test", &toml(&server, &[(&server, &trusting(&identity))]));
    let error = refused(b, TaskSpec::new("strange.test/strange/image:1").sh("true")).await;
    assert!(error.message().to_lowercase().contains("certificate"), "{error:?}");
}

async fn who_may_use_what_is_here_is_asked_of_a_host_that_is_its_own_authority(b: &mut Bench) {
    let ip = outer_ip();
    let identity = its_own(b, "closed", &format!("IP:{ip}"));
    let manner = Manner::default().ip(&ip).tls(&identity);
    let manner = manner.basic(b.rig.dir()).expect("a list of users");
    let front = front(b, "closed-front", &manner).await;
    let (server, ca) = (front.addr(), identity.certificate.display());
    configure(
        b,
        "closed.test",
        &format!("server = \"https://{server}\"\nca = \"{ca}\"\n"),
    );
    push(b, "closed/image").await;
    let image = "closed.test/closed/image:1";
    let spec = |auth| TaskSpec::new(image).sh("exit 6").option("auth", auth);
    assert_eq!(b.run(spec(login())).await.0, 6);
    let error = refused(b, spec(auth("not-the-password"))).await;
    tells(&error, &[image, "denied"], None);
    // Another process has to find it out again.
    b.rig.relaunch().await.expect("relaunch");
    assert_eq!(b.run(spec(login())).await.0, 6);
}

async fn a_certificate_of_the_client_may_be_of_version_1(b: &mut Bench) {
    let (authority, ip) = (
        Authority::new(&b.rig.dir().join("old-ca")).expect("an authority"),
        outer_ip(),
    );
    let identity = authority.issue("front", &format!("IP:{ip}")).expect("a certificate");
    let client = authority.issue_version_1("client").expect("a certificate");
    let manner = Manner::default().ip(&ip).tls(&identity);
    let front = front(b, "old-front", &manner.clients_of(authority.certificate())).await;
    let server = format!("https://{}", front.addr());
    let ca = format!("{BOTH}\n  ca = \"{}\"", authority.certificate().display());
    let pair = |certificate: &Identity| {
        let (certificate, key) = (certificate.certificate.display(), client.key.display());
        format!("{ca}\n  client = [[\"{certificate}\", \"{key}\"]]")
    };
    push(b, "old/image").await;
    configure(b, "old.test", &toml(&server, &[(&server, &pair(&client))]));
    assert_eq!(which(b, "old.test/old/image:1").await, "old/image");
    // The key of one beside the certificate of another is an error that names the file, by whoever pulls.
    push(b, "old/mixed").await;
    configure(b, "mixed.test", &toml(&server, &[(&server, &pair(&identity))]));
    let error = refused(b, TaskSpec::new("mixed.test/old/mixed:1").sh("true")).await;
    tells(&error, &["client", "front.pem"], None);
}

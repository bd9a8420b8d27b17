//! What the cases share: benches, pushed images, refused starts.

use crate::bench::{Bench, kind, patience};
use serde_json::{Value as Json, json};
use testhost::containerd::ContainerdKind;
use testhost::front::{Front, Manner};
use testhost::image::Image;
use testhost::layers::Plan;
use testhost::registry::LOGIN;
use testhost::registry_proxy::{Fate, RegistryProxy, Rule, Seen};
use testhost::status::recoverable;
use testhost::task::TaskSpec;
use testhost::within::within;
use tonic::Status;

/// A bench with the driver's own choice of how it pulls.
pub async fn usual() -> Bench {
    Bench::configured(json!({})).await
}

/// A bench whose driver pulls by itself, whatever containerd offers.
pub async fn by_ourselves() -> Bench {
    Bench::configured(json!({ "image_pull_method": "client" })).await
}

/// A bench whose containerd pulls, and nobody else if it cannot.
pub async fn by_transfer() -> Bench {
    Bench::configured(json!({ "image_pull_method": "transfer" })).await
}

/// Whether the driver pulls by itself on this bench.
pub fn is_by_ourselves(b: &Bench) -> bool {
    !has_transfer() || b.rig.config()["image_pull_method"] == "client"
}

/// A way to the bench's registry that wants a login it never accepts: what it is shown, it has asked for.
pub async fn never_content(b: &Bench) -> RegistryProxy {
    let proxy = proxy(b).await;
    let refusal = Fate::Answer {
        status: 401,
        headers: vec![("WWW-Authenticate".to_owned(), "Basic realm=\"test\"".to_owned())],
        body: String::new(),
    };
    proxy.arm(Rule::always("/v2/", refusal));
    proxy
}

/// Whether `by_ourselves` is another thing than `usual`.
pub fn has_transfer() -> bool {
    kind() == ContainerdKind::V24
}

/// Pushes an image under the tag `1`.
pub async fn pushed(b: &Bench, name: &str, plan: &Plan) -> Image {
    let image = plan.build().expect("an image");
    b.rig.registry.push(name, "1", &image).await.expect("pushed");
    image
}

/// A proxy before the bench's registry.
pub async fn proxy(b: &Bench) -> RegistryProxy {
    RegistryProxy::before(b.rig.registry.addr()).await.expect("a proxy")
}

/// Another way to the images of the bench's registry; `name` is of its directory.
pub async fn front(b: &Bench, name: &str, manner: &Manner) -> Front {
    Front::open(&b.rig.registry, &b.rig.dir().join(name), manner)
        .await
        .expect("a front")
}

/// Like [`front`], for those who log in.
pub async fn front_with_login(b: &Bench, name: &str) -> Front {
    let manner = Manner::default().basic(b.rig.dir()).expect("a list of users");
    front(b, name, &manner).await
}

/// A task's `auth` with this password.
pub fn auth(password: &str) -> Json {
    json!([{ "username": LOGIN.0, "password": password }])
}

/// The task option for [`LOGIN`].
pub fn login() -> Json {
    auth(LOGIN.1)
}

/// What the plugin says to a task that cannot start.
pub async fn refused(b: &Bench, spec: TaskSpec) -> Status {
    within(patience(), "a refused StartTask", b.rig.start(spec))
        .await
        .err()
        .expect("this cannot start")
}

/// Asserts what an error says, and whether it is worth another try.
#[track_caller]
pub fn tells(error: &Status, words: &[&str], again: Option<bool>) {
    for word in words {
        assert!(error.message().contains(word), "no {word:?} in {error:?}");
    }
    assert_eq!(recoverable(error), again, "{error:?}");
}

/// Runs a task of an image that says who it is in `WHICH`.
pub async fn which(b: &Bench, image: &str) -> String {
    let (code, text) = b.run(TaskSpec::new(image).sh("echo $WHICH")).await;
    assert_eq!(code, 0, "{image}");
    text.trim().to_owned()
}

/// Asserts that no request carries credentials in any form.
#[track_caller]
pub fn without_credentials(seen: &[Seen]) {
    use base64::Engine as _;
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", LOGIN.0, LOGIN.1));
    for request in seen {
        assert_eq!(request.authorization, None, "{request:?}");
        for (name, value) in &request.headers {
            assert!(
                !value.contains(LOGIN.1) && !value.contains(&basic),
                "{name} of {request:?}"
            );
        }
        assert!(!request.path.contains(LOGIN.1), "{request:?}");
    }
}

/// An address of this machine that is not on the loopback interface, without a packet being sent.
pub fn outer_ip() -> String {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
    // Kept for documentation (RFC 5737): only the choice of a route is asked for.
    socket.connect("203.0.113.1:9").expect("a route to anywhere");
    socket.local_addr().expect("an address").ip().to_string()
}

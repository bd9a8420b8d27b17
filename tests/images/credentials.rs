//! The operator's credentials, and who may use an image that is here because somebody else could pull it.

use crate::bench::{Bench, group, kind};
use crate::scene::{
    auth, front, front_with_login, has_transfer, login, never_content, proxy, pushed, refused, tells, which,
    without_credentials,
};
use crate::store::Store;
use base64::Engine as _;
use serde_json::{Value as Json, json};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use testhost::alloc::random_hex;
use testhost::front::{Front, Manner};
use testhost::layers::Plan;
use testhost::registry::LOGIN;
use testhost::registry_proxy::RegistryProxy;
use testhost::rig::RigOpts;
use testhost::task::TaskSpec;
use testhost::tokens::{IDENTITY_TOKEN, TokenServer};

/// Label of the record of an image that was pulled with credentials.
const PRIVATE: &str = "containerd-driver/private";

macro_rules! cases {
    ($(#[$attribute:meta])* $name:ident, $config:expr, $(if $wanted:expr,)?) => {
        group!($(#[$attribute])* $name, with_programs($config), $(if $wanted,)? {
            the_operators_password_goes_to_its_host_and_to_no_other,
            a_password_without_a_host_goes_nowhere_but_where_the_operator_lists,
            a_tasks_password_for_one_host_is_not_shown_to_another,
            dockers_file_has_a_password_for_each_host,
            an_identity_token_is_exchanged_and_never_shown,
            a_helper_is_asked_with_the_host_and_believed,
            a_helper_that_fails_is_an_error_that_names_it,
            a_private_image_that_is_here_is_only_for_those_who_could_pull_it,
            what_a_registry_gives_to_everybody_is_not_private,
        });
    };
}

cases!(credentials, json!({}),);
cases!(
    credentials_by_ourselves,
    json!({ "image_pull_method": "client" }),
    if has_transfer(),
);

/// A bench whose plugin finds programs in `programs` of its directory first, and what is said of registries in `hosts`.
pub async fn with_programs(mut config: Json) -> Bench {
    let mut opts = RigOpts::new(kind()).expect("CD_DRIVER_BIN");
    let dir = std::env::temp_dir().join(format!("cdt-{}", random_hex(4)));
    let path = std::env::var("PATH").unwrap_or_default();
    let programs = dir.join("programs").display().to_string();
    opts.launch = opts.launch.env("PATH", format!("{programs}:{path}"));
    config["registry_config_dir"] = json!(dir.join("hosts").display().to_string());
    opts.dir = Some(dir);
    opts.config = config;
    Bench::bare(opts).await
}

/// The operator's `auth` from now on.
pub async fn operator(b: &Bench, auth: Json) {
    let mut config = b.rig.config().clone();
    config["auth"] = auth;
    b.rig.plugin().configure(&config).await.expect("SetConfig");
}

/// Without the operator's credentials again, for the next case.
pub async fn nobody(b: &Bench) {
    b.rig.plugin().configure(b.rig.config()).await.expect("SetConfig");
}

async fn push(b: &Bench, name: &str) {
    pushed(b, name, &Plan::new(name).env(format!("WHICH={name}"))).await;
}

/// A registry with a login, and a proxy before it.
async fn private(b: &Bench, name: &str) -> (Front, RegistryProxy) {
    let front = front_with_login(b, name).await;
    let proxy = RegistryProxy::before(front.addr()).await.expect("a proxy");
    (front, proxy)
}

/// A registry that wants a login is shown none that is for another.
async fn shown_nothing(b: &Bench, name: &str, auth: Option<Json>) {
    let other = never_content(b).await;
    let image = other.reference(name, "1");
    let spec = TaskSpec::new(&image).sh("true");
    let spec = match auth {
        Some(auth) => spec.option("auth", auth),
        None => spec,
    };
    tells(&refused(b, spec).await, &[&image, "pull access denied"], None);
    let seen = other.seen();
    assert!(
        seen.iter().any(|seen| seen.status == 401),
        "nobody asked for a login: {seen:?}"
    );
    without_credentials(&seen);
}

async fn the_operators_password_goes_to_its_host_and_to_no_other(b: &mut Bench) {
    let (_front, here) = private(b, "op-front").await;
    push(b, "operator/image").await;
    operator(
        b,
        json!({ "username": LOGIN.0, "password": LOGIN.1, "server_address": here.addr() }),
    )
    .await;
    assert_eq!(which(b, &here.reference("operator/image", "1")).await, "operator/image");
    shown_nothing(b, "operator/image", None).await;
    nobody(b).await;
}

async fn a_password_without_a_host_goes_nowhere_but_where_the_operator_lists(b: &mut Bench) {
    let (_front, here) = private(b, "list-front").await;
    push(b, "listed/image").await;
    let image = here.reference("listed/image", "1");
    operator(b, json!({ "username": LOGIN.0, "password": LOGIN.1 })).await;
    let error = refused(b, TaskSpec::new(&image).sh("true")).await;
    tells(&error, &[&image, "pull access denied"], None);
    without_credentials(&here.seen());
    operator(
        b,
        json!({ "username": LOGIN.0, "password": LOGIN.1, "hosts": [here.addr()] }),
    )
    .await;
    assert_eq!(which(b, &image).await, "listed/image");
    nobody(b).await;
}

async fn a_tasks_password_for_one_host_is_not_shown_to_another(b: &mut Bench) {
    push(b, "bound/image").await;
    let mut bound = login();
    bound[0]["server_address"] = json!("registry.test:5000");
    shown_nothing(b, "bound/image", Some(bound)).await;
}

fn encoded() -> String {
    base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", LOGIN.0, LOGIN.1))
}

/// Docker's file, and the operator's `auth` that names it.
pub async fn with_file(b: &Bench, file: Json) {
    let path = b.rig.dir().join("config.json");
    std::fs::write(&path, file.to_string()).expect("config.json");
    operator(b, json!({ "config": path.display().to_string() })).await;
}

async fn dockers_file_has_a_password_for_each_host(b: &mut Bench) {
    let (_front, here) = private(b, "file-front").await;
    for name in ["file/one", "file/two"] {
        push(b, name).await;
    }
    // Both ways to write a password, and both to write a host.
    with_file(b, json!({ "auths": { here.addr(): { "auth": encoded() } } })).await;
    assert_eq!(which(b, &here.reference("file/one", "1")).await, "file/one");
    let with_scheme = format!("http://{}/v2/", here.addr());
    with_file(
        b,
        json!({ "auths": { with_scheme: { "username": LOGIN.0, "password": LOGIN.1 } } }),
    )
    .await;
    assert_eq!(which(b, &here.reference("file/two", "1")).await, "file/two");
    shown_nothing(b, "file/one", None).await;
    nobody(b).await;
}

async fn an_identity_token_is_exchanged_and_never_shown(b: &mut Bench) {
    let server = TokenServer::start(&b.rig.dir().join("tokens"))
        .await
        .expect("a token server");
    let front = front(b, "id-front", &Manner::default().tokens(&server)).await;
    let proxy = RegistryProxy::before(front.addr()).await.expect("a proxy");
    push(b, "identity/image").await;
    let entry = json!({ "identitytoken": IDENTITY_TOKEN });
    with_file(b, json!({ "auths": { proxy.addr(): entry } })).await;
    assert_eq!(
        which(b, &proxy.reference("identity/image", "1")).await,
        "identity/image"
    );
    let asked = server.asked();
    assert!(
        asked.iter().any(|a| a.grant == "refresh_token" && a.granted),
        "{asked:?}"
    );
    let log = b.rig.plugin().stderr_lines().join("\n");
    assert!(!log.contains(IDENTITY_TOKEN), "{log}");
    nobody(b).await;
}

/// A helper program that notes what it is asked and answers with `script`; the file of its notes.
pub fn helper(b: &Bench, name: &str, script: &str) -> PathBuf {
    let programs = b.rig.dir().join("programs");
    std::fs::create_dir_all(&programs).expect("a directory");
    let notes = b.rig.dir().join(format!("{name}.asked"));
    let program = programs.join(format!("docker-credential-{name}"));
    let text = format!(
        "#!/bin/sh\nread -r host\necho \"$1 $host\" >> {}\n{script}\n",
        notes.display()
    );
    std::fs::write(&program, text).expect("a program");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    notes
}

async fn a_helper_is_asked_with_the_host_and_believed(b: &mut Bench) {
    let (_front, here) = private(b, "help-front").await;
    let answer = json!({ "ServerURL": here.addr(), "Username": LOGIN.0, "Secret": LOGIN.1 });
    let script = format!("echo '{answer}'");
    for (way, auth) in [
        ("helper", None),
        ("store", Some(json!({ "credsStore": "of-store" }))),
        ("host", Some(json!({ "credHelpers": { here.addr(): "of-host" } }))),
    ] {
        let name = format!("helper/{way}");
        push(b, &name).await;
        let notes = helper(b, &format!("of-{way}"), &script);
        match auth {
            Some(file) => with_file(b, file).await,
            None => operator(b, json!({ "helper": "of-helper" })).await,
        }
        assert_eq!(which(b, &here.reference(&name, "1")).await, name);
        let asked = std::fs::read_to_string(&notes).expect("it was asked");
        let right = format!("get {}", here.addr());
        assert!(asked.lines().all(|line| line == right), "{way}: {asked:?}");
    }
    // One that knows nothing of a host is no obstacle.
    helper(
        b,
        "of-helper",
        "echo 'credentials not found in native keychain'; exit 1",
    );
    operator(b, json!({ "helper": "of-helper" })).await;
    let open = proxy(b).await;
    push(b, "helper/open").await;
    assert_eq!(which(b, &open.reference("helper/open", "1")).await, "helper/open");
    nobody(b).await;
}

async fn a_helper_that_fails_is_an_error_that_names_it(b: &mut Bench) {
    let open = proxy(b).await;
    push(b, "helper/fails").await;
    helper(b, "broken", &format!("echo 'oh no {}' >&2; exit 7", LOGIN.1));
    operator(b, json!({ "helper": "broken" })).await;
    let image = open.reference("helper/fails", "1");
    let error = refused(b, TaskSpec::new(&image).sh("true")).await;
    assert!(error.message().contains("broken"), "{error:?}");
    assert!(!error.message().contains(LOGIN.1), "{error:?}");
    nobody(b).await;
}

async fn a_private_image_that_is_here_is_only_for_those_who_could_pull_it(b: &mut Bench) {
    let (_front, here) = private(b, "cached-front").await;
    push(b, "cached/private").await;
    let image = here.reference("cached/private", "1");
    let spec = || TaskSpec::new(&image).sh("exit 6");
    assert_eq!(b.run(spec().option("auth", login())).await.0, 6);
    // It is here now; the registry knows neither of these.
    let error = refused(b, spec()).await;
    tells(&error, &[&image, "denied"], None);
    let error = refused(b, spec().option("auth", auth("not-the-password"))).await;
    tells(&error, &[&image, "denied"], None);
    here.forget();
    assert_eq!(b.run(spec().option("auth", login())).await.0, 6);
    assert!(
        here.seen().is_empty(),
        "what was found out is not remembered: {:?}",
        here.seen()
    );
    // Another process has to find it out again, and fetches nothing.
    b.rig.relaunch().await.expect("relaunch");
    refused(b, spec()).await;
    assert_eq!(b.run(spec().option("auth", login())).await.0, 6);
    assert!(here.blobs().is_empty(), "{:?}", here.blobs());
}

async fn what_a_registry_gives_to_everybody_is_not_private(b: &mut Bench) {
    let open = proxy(b).await;
    push(b, "cached/public").await;
    let image = open.reference("cached/public", "1");
    let spec = || TaskSpec::new(&image).sh("exit 6");
    // It has credentials, but nobody wanted to see them.
    assert_eq!(b.run(spec().option("auth", login())).await.0, 6);
    without_credentials(&open.seen());
    let store = Store::of(&b.rig.containerd, b.rig.namespace()).await;
    let labels = &store.image_labels[&image];
    assert!(!labels.contains_key(PRIVATE), "{labels:?}");
    open.forget();
    assert_eq!(b.run(spec()).await.0, 6);
    assert!(open.seen().is_empty(), "{:?}", open.seen());
    let (_front, closed) = private(b, "marked-front").await;
    let image = closed.reference("cached/public", "1");
    assert_eq!(
        b.run(TaskSpec::new(&image).sh("exit 6").option("auth", login()))
            .await
            .0,
        6
    );
    let store = Store::of(&b.rig.containerd, b.rig.namespace()).await;
    assert!(
        store.image_labels[&image].contains_key(PRIVATE),
        "{:?}",
        store.image_labels
    );
}

//! Credentials for registries, and who may use a private image that is on the node.

use crate::bench::{Bench, group, kind, patience};
use serde_json::{Value as Json, json};
use std::os::unix::fs::PermissionsExt as _;
use testhost::alloc::random_hex;
use testhost::image::ImageConfig;
use testhost::registry::LOGIN;
use testhost::rig::RigOpts;
use testhost::status::recoverable;
use testhost::task::TaskSpec;
use testhost::within::within;
use tonic::Status;

group!(credentials, with_programs(), {
    a_private_image_that_is_here_is_for_those_who_could_pull_it,
    what_the_operators_password_has_pulled_is_used_while_the_registry_is_down,
    a_program_of_the_node_is_a_tasks_to_name_with_consent,
    a_task_can_go_on_without_what_cannot_be_had,
});

/// A bench whose plugin finds programs in `programs` of its directory first.
async fn with_programs() -> Bench {
    let mut opts = RigOpts::new(kind()).expect("CD_DRIVER_BIN");
    let dir = std::env::temp_dir().join(format!("cdt-{}", random_hex(4)));
    let path = std::env::var("PATH").unwrap_or_default();
    opts.launch = opts
        .launch
        .env("PATH", format!("{}:{path}", dir.join("programs").display()));
    opts.dir = Some(dir);
    Bench::bare(opts).await
}

/// The operator's `auth` from now on; `null` for none.
async fn operator(b: &Bench, auth: Json) {
    let mut config = b.rig.config().clone();
    config["auth"] = auth;
    b.rig.plugin().configure(&config).await.expect("SetConfig");
}

fn auth(password: &str) -> Json {
    json!([{ "username": LOGIN.0, "password": password }])
}

async fn refused(b: &Bench, spec: TaskSpec, words: &[&str], again: Option<bool>) -> Status {
    let error = within(patience(), "a refused StartTask", b.rig.start(spec))
        .await
        .err()
        .expect("this cannot start");
    for word in words {
        assert!(error.message().contains(word), "no {word:?} in {error:?}");
    }
    assert!(!error.message().contains(LOGIN.1), "{error:?}");
    assert_eq!(recoverable(&error), again, "{error:?}");
    error
}

/// Pushes an image while everybody may.
async fn pushed(b: &mut Bench, name: &str) -> String {
    let config = ImageConfig::default().salt(name);
    b.rig.registry.let_all_in().await.expect("no login");
    b.rig.image(name, &config).await.expect("image")
}

/// What containerd has on the image's record.
async fn labels(b: &Bench, image: &str) -> String {
    let list = ["images", "ls", &format!("name=={image}")];
    b.rig.containerd.ctr(b.rig.namespace(), &list).await.expect("ctr")
}

async fn a_private_image_that_is_here_is_for_those_who_could_pull_it(b: &mut Bench) {
    let image = pushed(b, "credentials/task").await;
    let open = pushed(b, "credentials/open").await;
    let task = |image: &str| TaskSpec::new(image).sh("exit 6");
    // What anybody can pull is for everybody, with the registry down as well.
    assert_eq!(b.run(task(&open)).await.0, 6);
    assert!(!labels(b, &open).await.contains("containerd-driver/private"));
    b.rig.registry.require_login().await.expect("a login");
    assert_eq!(b.run(task(&image).option("auth", auth(LOGIN.1))).await.0, 6);
    let marks = labels(b, &image).await;
    assert!(marks.contains("containerd-driver/private=task"), "{marks}");
    assert!(!marks.contains(LOGIN.0) && !marks.contains(LOGIN.1), "{marks}");
    for without in [task(&image), task(&image).option("auth", auth("wrong"))] {
        refused(b, without, &["pull access denied", "the image is on this node"], None).await;
    }
    b.rig.registry.stop().await;
    assert_eq!(b.run(task(&open)).await.0, 6);
    // Its right was shown before; nobody else's can be.
    assert_eq!(b.run(task(&image).option("auth", auth(LOGIN.1))).await.0, 6);
    refused(
        b,
        task(&image),
        &["the image is on this node", "pulled with credentials"],
        Some(true),
    )
    .await;
    b.rig.registry.start_again().await.expect("the registry");
    // Whoever pulls it without credentials shows that it is private no more.
    b.rig.registry.let_all_in().await.expect("no login");
    let moved = ImageConfig::default().salt("credentials/task again");
    b.rig.image("credentials/task", &moved).await.expect("image");
    assert_eq!(b.run(task(&image).option("force_pull", json!(true))).await.0, 6);
    let marks = labels(b, &image).await;
    assert!(!marks.contains("containerd-driver/private"), "{marks}");
}

async fn what_the_operators_password_has_pulled_is_used_while_the_registry_is_down(b: &mut Bench) {
    let image = pushed(b, "credentials/node").await;
    b.rig.registry.require_login().await.expect("a login");
    let task = || TaskSpec::new(&image).sh("exit 5");
    operator(b, json!({ "username": LOGIN.0, "password": LOGIN.1 })).await;
    refused(
        b,
        task(),
        &["pull access denied", "auth.server_address", "auth.hosts"],
        None,
    )
    .await;
    let server = format!("http://{}/v2/", b.rig.registry.addr());
    operator(
        b,
        json!({ "username": LOGIN.0, "password": LOGIN.1, "server_address": server }),
    )
    .await;
    assert_eq!(b.run(task()).await.0, 5);
    let marks = labels(b, &image).await;
    assert!(marks.contains("containerd-driver/private=node"), "{marks}");
    b.rig.registry.stop().await;
    // Another process knows nothing of what was shown to this one.
    b.rig.relaunch().await.expect("relaunch");
    operator(
        b,
        json!({ "username": LOGIN.0, "password": LOGIN.1, "server_address": server }),
    )
    .await;
    assert_eq!(b.run(task()).await.0, 5);
    refused(
        b,
        task().option("auth", auth("wrong")),
        &["the image is on this node"],
        Some(true),
    )
    .await;
    b.rig.registry.start_again().await.expect("the registry");
    operator(b, Json::Null).await;
}

/// A program that answers with `script`.
fn program(b: &Bench, name: &str, script: &str) {
    let programs = b.rig.dir().join("programs");
    std::fs::create_dir_all(&programs).expect("a directory");
    let path = programs.join(format!("docker-credential-{name}"));
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a program");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("its mode");
}

async fn a_program_of_the_node_is_a_tasks_to_name_with_consent(b: &mut Bench) {
    let image = pushed(b, "credentials/program").await;
    b.rig.registry.require_login().await.expect("a login");
    let answer = json!({ "Username": LOGIN.0, "Secret": LOGIN.1 });
    let addr = b.rig.registry.addr().to_owned();
    let script = format!("[ \"$(cat)\" = {addr} ] || exit 3\necho '{answer}'");
    program(b, "of-task", &script);
    let task = || {
        TaskSpec::new(&image)
            .sh("exit 7")
            .option("auth", json!([{ "helper": "of-task" }]))
    };
    operator(b, Json::Null).await;
    refused(
        b,
        task(),
        &["option auth.helper", "of-task", "auth.allow_helpers"],
        None,
    )
    .await;
    operator(b, json!({ "allow_helpers": ["of-*"] })).await;
    assert_eq!(b.run(task()).await.0, 7);
    operator(b, Json::Null).await;
}

async fn a_task_can_go_on_without_what_cannot_be_had(b: &mut Bench) {
    let image = pushed(b, "credentials/soft").await;
    program(b, "broken", &format!("echo {} >&2; exit 9", LOGIN.1));
    operator(b, json!({ "helper": "broken" })).await;
    let task = || TaskSpec::new(&image).sh("exit 8");
    refused(b, task(), &["docker-credential-broken", "exit status: 9"], Some(true)).await;
    assert_eq!(b.run(task().option("auth_soft_fail", json!(true))).await.0, 8);
    let log = b.rig.plugin().stderr_lines().join("\n");
    assert!(log.contains("auth_soft_fail") && !log.contains(LOGIN.1), "{log}");
    operator(b, Json::Null).await;
}

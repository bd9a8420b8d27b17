//! Images and registries.

use crate::bench::{Bench, patience, secs, slowness};
use crate::field::{consent, group, operated};
use crate::registry::{Answer, FakeRegistry};
use crate::wire::{Counter, Recorder};
use futures_util::future::join_all;
use serde_json::{Value as Json, json};
use std::time::Instant;
use testhost::image::ImageConfig;
use testhost::registry::LOGIN;
use testhost::status::recoverable;
use testhost::task::TaskSpec;
use testhost::within::within;
use tonic::Status;

group!(img, IMG, operated(consent()),
    together {
        img_01_an_empty_image_is_refused,
        img_02_a_registry_that_cannot_be_reached_is_worth_another_try,
        img_03_a_refusal_or_a_missing_image_is_final,
        img_04_names_in_every_form,
        img_06_a_forced_pull_by_tag_and_by_digest,
        img_08_a_pull_that_is_slow_or_breaks_is_an_error,
        img_11_credentials_go_to_no_other_host,
    }
    alone {
        img_05_an_image_on_the_node_needs_no_registry,
        img_07_ten_starts_share_a_pull,
        img_08_a_pull_that_the_end_of_the_plugin_cuts_off,
    }
);

/// The operator has credentials for all registries.
fn credentials() -> Json {
    let mut config = consent();
    config["auth"] = json!({ "username": LOGIN.0, "password": LOGIN.1 });
    config
}

group!(img_with_credentials, IMG_AUTH, operated(credentials()),
    together {}
    alone {
        img_10_credentials_of_the_task_and_of_the_plugin,
    }
);

async fn refused(b: &Bench, spec: TaskSpec) -> Status {
    within(patience(), "a refused StartTask", b.rig.start(spec))
        .await
        .err()
        .expect("this cannot start")
}

#[track_caller]
fn tells(error: &Status, words: &[&str], again: Option<bool>) {
    for word in words {
        assert!(error.message().contains(word), "no {word:?} in {error:?}");
    }
    assert_eq!(recoverable(error), again, "{error:?}");
}

async fn img_01_an_empty_image_is_refused(b: &Bench) {
    tells(&refused(b, TaskSpec::new("")).await, &["image", "empty"], None);
}

/// A port of this machine that nobody listens on.
fn closed_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").to_string()
}

async fn img_02_a_registry_that_cannot_be_reached_is_worth_another_try(b: &Bench) {
    let nobody = closed_port();
    let error = refused(b, TaskSpec::new(format!("{nobody}/no/body:1"))).await;
    tells(&error, &["Error in pulling image", &nobody], Some(true));
}

async fn img_03_a_refusal_or_a_missing_image_is_final(b: &Bench) {
    const DENIED: &str = "pull access denied, repository does not exist or may require authorization";
    for (status, body, reason) in [
        (
            401,
            r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#,
            DENIED,
        ),
        (
            403,
            r#"{"errors":[{"code":"DENIED","message":"not for you"}]}"#,
            "not for you",
        ),
    ] {
        let fake = FakeRegistry::start(move |path| match path {
            "/v2/" => Answer::Status(200, "{}"),
            _ => Answer::Status(status, body),
        })
        .await;
        let error = refused(b, TaskSpec::new(fake.reference("some/image"))).await;
        tells(&error, &["Error in pulling image", DENIED, reason], None);
    }
    let missing = b.rig.registry.reference("no/such", "1");
    tells(
        &refused(b, TaskSpec::new(&missing)).await,
        &["Error in pulling image", &missing],
        None,
    );
}

/// Pushes an image under the tag `1`; its reference and its digest.
async fn pushed(b: &Bench, name: &str, config: &ImageConfig) -> (String, String) {
    let image = testhost::image::busybox(config).expect("an image");
    let digest = b.rig.registry.push(name, "1", &image).await.expect("pushed");
    (b.rig.registry.reference(name, "1"), digest)
}

async fn img_04_names_in_every_form(b: &Bench) {
    let addr = b.rig.registry.addr().to_owned();
    let config = ImageConfig::default().env("WHICH=one").salt("img-04");
    let (_, digest) = pushed(b, "img/names", &config).await;
    let latest = ImageConfig::default().env("WHICH=latest").salt("img-04-latest");
    b.rig
        .registry
        .push_busybox("img/names", "latest", &latest)
        .await
        .expect("image");
    for (name, which) in [
        (format!("{addr}/img/names"), "latest"),
        (format!("{addr}/img/names:1"), "one"),
        (format!("{addr}/img/names@{digest}"), "one"),
        // The digest counts, whatever the tag is.
        (format!("{addr}/img/names:latest@{digest}"), "one"),
        (format!("https://{addr}/img/names:1"), "one"),
    ] {
        let found = b.run(TaskSpec::new(&name).sh("echo $WHICH")).await;
        assert_eq!(found, (0, format!("{which}\n")), "{name}");
    }
    for bad in [
        format!("{addr}/img/names:"),
        "UPPER/Case".to_owned(),
        "a b".to_owned(),
        "http://x/y".to_owned(),
    ] {
        tells(&refused(b, TaskSpec::new(&bad)).await, &["image", &bad], None);
    }
}

async fn img_05_an_image_on_the_node_needs_no_registry(b: &mut Bench) {
    b.rig.registry.stop().await;
    let (plain, forced) = (b.sh("exit 5"), b.sh("true").option("force_pull", json!(true)));
    let plain = within(patience(), "StartTask", b.rig.start(plain)).await;
    let forced = within(patience(), "StartTask", b.rig.start(forced)).await;
    b.rig.registry.start_again().await.expect("registry");
    let task = plain.expect("StartTask without a registry");
    assert_eq!(task.exit(patience()).await.exit_code, 5);
    task.destroy(false).await.expect("DestroyTask");
    tells(
        &forced.err().expect("a forced pull without a registry"),
        &["Error in pulling image"],
        Some(true),
    );
}

async fn img_06_a_forced_pull_by_tag_and_by_digest(b: &Bench) {
    let config = ImageConfig::default().env("N=1").salt("img-06");
    let (image, digest) = pushed(b, "img/forced", &config).await;
    let by_digest = format!("{}/img/forced@{digest}", b.rig.registry.addr());
    let run = async |image: &str| {
        let spec = TaskSpec::new(image).sh("echo $N").option("force_pull", json!(true));
        b.run(spec).await
    };
    assert_eq!(run(&image).await, (0, "1\n".to_owned()));
    // The tag moves on, which only a forced pull sees; the digest does not.
    b.rig
        .image("img/forced", &ImageConfig::default().env("N=2").salt("img-06-2"))
        .await
        .expect("image");
    assert_eq!(b.run(TaskSpec::new(&image).sh("echo $N")).await, (0, "1\n".to_owned()));
    assert_eq!(run(&image).await, (0, "2\n".to_owned()));
    assert_eq!(run(&by_digest).await, (0, "1\n".to_owned()));
}

async fn img_07_ten_starts_share_a_pull(b: &mut Bench) {
    let config = |salt: &str| ImageConfig::default().salt(salt).ballast(4 << 20);
    pushed(b, "img/one", &config("img-07-one")).await;
    let one = Counter::before(b.rig.registry.addr()).await;
    let image = format!("{}/img/one:1", one.addr);
    assert_eq!(b.run(TaskSpec::new(&image).sh("true")).await.0, 0);
    let parts = one.seen();
    assert!(parts > 0, "nothing was asked for");
    pushed(b, "img/ten", &config("img-07-ten")).await;
    let ten = Counter::before(b.rig.registry.addr()).await;
    let image = format!("{}/img/ten:1", ten.addr);
    let count = if slowness() > 1 { 4 } else { 10 };
    let starts = (0..count).map(|n| b.start(TaskSpec::new(&image).sh("true").name(format!("ten-{n}"))));
    for task in join_all(starts).await {
        assert_eq!(task.exit(patience()).await.exit_code, 0);
        task.destroy(false).await.expect("DestroyTask");
    }
    let all = ten.seen();
    assert!(
        all > 0 && all < parts * count,
        "{all} requests for parts, {parts} for one pull"
    );
}

async fn img_08_a_pull_that_is_slow_or_breaks_is_an_error(b: &Bench) {
    let fake = FakeRegistry::start(|_| Answer::Never).await;
    let begin = Instant::now();
    let spec = TaskSpec::new(fake.reference("slow/image")).option("image_pull_timeout", json!("2s"));
    tells(&refused(b, spec).await, &["image_pull_timeout", "2s"], Some(true));
    assert!(begin.elapsed() < secs(10), "it took {:?}", begin.elapsed());
    let broken = FakeRegistry::start(|path| match path {
        "/v2/" => Answer::Status(200, "{}"),
        _ => Answer::Status(503, "nobody home"),
    })
    .await;
    tells(
        &refused(b, TaskSpec::new(broken.reference("broken/image"))).await,
        &["503"],
        Some(true),
    );
}

/// Half of an image is there when the plugin is killed. The next pull completes it.
async fn img_08_a_pull_that_the_end_of_the_plugin_cuts_off(b: &mut Bench) {
    let config = ImageConfig::default().salt("img-08").ballast(48 << 20);
    pushed(b, "img/cut", &config).await;
    let counter = Counter::before(b.rig.registry.addr()).await;
    let image = format!("{}/img/cut:1", counter.addr);
    let starting = {
        let (mut driver, alloc, spec) = (b.rig.driver(), b.rig.alloc(), TaskSpec::new(&image).sh("true"));
        alloc.add_task(&spec.name).expect("task directory");
        let logs = alloc.collect_logs(&spec.name).expect("log collectors");
        let task = spec.compose(&alloc, b.rig.schema()).expect("a configuration");
        tokio::spawn(async move {
            let request = testhost::wire::driver::StartTaskRequest { task: Some(task) };
            let answer = driver.start_task(request).await.map(drop);
            drop((alloc, logs));
            answer
        })
    };
    within(patience(), "the pull", counter.asked()).await;
    b.rig.plugin().sigkill().await;
    within(patience(), "the end of the call", starting)
        .await
        .expect("joined")
        .expect_err("the plugin was killed");
    b.rig.relaunch_only().await.expect("relaunch");
    assert_eq!(
        b.run(TaskSpec::new(&image).sh("echo whole")).await,
        (0, "whole\n".to_owned())
    );
}

async fn img_10_credentials_of_the_task_and_of_the_plugin(b: &mut Bench) {
    let config = ImageConfig::default().salt("img-10");
    let of_plugin = b.rig.image("img/plugin", &config).await.expect("image");
    let of_task = b.rig.image("img/task", &config).await.expect("image");
    b.rig.registry.require_login().await.expect("a login");
    assert_eq!(b.run(TaskSpec::new(&of_plugin).sh("exit 3")).await.0, 3);
    // The task's win.
    let auth = |password: &str| json!([{ "username": LOGIN.0, "password": password }]);
    let wrong = TaskSpec::new(&of_task).sh("true").option("auth", auth("wrong"));
    tells(&refused(b, wrong).await, &["Error in pulling image"], None);
    let right = TaskSpec::new(&of_task).sh("exit 4").option("auth", auth(LOGIN.1));
    assert_eq!(b.run(right).await.0, 4);
}

/// A registry that is given a password sends its clients on to another host.
async fn img_11_credentials_go_to_no_other_host(b: &Bench) {
    const NOTHING: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    // A host is known by its address; ports of one address may share what they know.
    let other = Recorder::start("127.0.0.2", |_| NOTHING.to_owned()).await;
    let target = other.addr.clone();
    let first = Recorder::start("127.0.0.1", move |head| {
        let authorised = head.to_ascii_lowercase().contains("\r\nauthorization: basic ");
        match authorised {
            false => "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"test\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned(),
            true => format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{target}/elsewhere\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        }
    })
    .await;
    let auth = json!([{ "username": "me", "password": "for-the-first-only" }]);
    let spec = TaskSpec::new(format!("{}/some/image:1", first.addr)).option("auth", auth);
    let spec = spec.option("image_pull_timeout", json!("20s"));
    let error = refused(b, spec).await;
    assert!(!error.message().contains("for-the-first-only"), "{error:?}");
    let asked = first.requests();
    assert!(
        asked
            .iter()
            .any(|head| head.to_ascii_lowercase().contains("authorization: basic ")),
        "{asked:?}"
    );
    for head in other.requests() {
        assert!(
            !head.to_ascii_lowercase().contains("authorization"),
            "credentials went to another host: {head}"
        );
    }
}

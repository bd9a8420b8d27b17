//! What a registry refuses containerd and does not refuse the driver, passwords that change while they are used, and a
//! registry that is slow: by default a pull goes on.

use crate::bench::{Bench, group, patience};
use crate::credentials::{helper, nobody, operator, with_file, with_programs};
use crate::hosts::{BOTH, configure, toml, url};
use crate::scene::{has_transfer, login, never_content, proxy, pushed, refused, tells, which, without_credentials};
use base64::Engine as _;
use serde_json::{Value as Json, json};
use std::path::PathBuf;
use std::time::Duration;
use testhost::image::Blob;
use testhost::layers::{Layer, Plan};
use testhost::registry::LOGIN;
use testhost::registry_proxy::{Fate, RegistryProxy, Rule, Seen};
use testhost::task::TaskSpec;
use testhost::within::within;

macro_rules! cases {
    ($(#[$attribute:meta])* $name:ident, $config:expr, $(if $wanted:expr,)? { $($more:ident,)* }) => {
        group!($(#[$attribute])* $name, with_programs($config), $(if $wanted,)? {
            a_password_that_changes_in_mid_pull_is_asked_for_once_more,
            a_password_that_has_changed_since_the_last_pull_is_asked_for_once_more,
            a_wrong_password_is_refused_in_the_end,
            the_operators_login_for_docker_hub_is_for_the_server_that_stands_for_it,
            $($more,)*
        });
    };
}

cases!(refusals, json!({}), {
    one_of_several_challenges_in_a_line_is_enough,
    a_registry_may_refuse_questions_and_answer_requests,
    a_registry_that_is_slow_is_not_silent,
});
cases!(refusals_by_ourselves, json!({ "image_pull_method": "client" }), if has_transfer(), {
    one_of_several_challenges_in_a_line_is_enough,
    a_registry_may_refuse_questions_and_answer_requests,
    a_registry_that_is_slow_is_not_silent,
});
cases!(refusals_by_transfer, json!({ "image_pull_method": "transfer" }), if has_transfer(), {});

group!(
    /// Of our own client, wherever it pulls.
    refusals_of_our_client,
    with_programs(match has_transfer() {
        true => json!({ "image_pull_method": "client" }),
        false => json!({}),
    }),
    {
        what_comes_slowly_is_kept_though_the_plugin_is_killed,
        a_program_that_does_not_answer_is_told_from_a_silent_registry,
        an_image_that_another_task_had_to_show_credentials_for_is_not_had_by_naming_its_digest,
    }
);

fn basic(password: &str) -> String {
    let pair = format!("{}:{password}", LOGIN.0);
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}

/// Only for this password of [`LOGIN`]'s user.
fn only_for(password: &str) -> Fate {
    Fate::Login {
        wanted: basic(password),
        challenge: "Basic realm=\"test\"".to_owned(),
    }
}

/// A helper that tells the password in this file, and the file.
fn changing(b: &Bench, name: &str, password: &str) -> PathBuf {
    let file = b.rig.dir().join(format!("{name}.password"));
    std::fs::write(&file, password).expect("a file");
    let user = LOGIN.0;
    let script = format!(
        "printf '{{\"Username\":\"{user}\",\"Secret\":\"%s\"}}' \"$(cat {})\"",
        file.display()
    );
    helper(b, name, &script);
    file
}

async fn a_password_that_changes_in_mid_pull_is_asked_for_once_more(b: &mut Bench) {
    let layers = |plan: Plan, n| plan.layer(Layer::of(100_000, format!("mid-{n}")));
    let plan = (0..12).fold(Plan::new("mid").env("WHICH=mid"), layers);
    let image = pushed(b, "changing/mid", &plan).await;
    let proxy = proxy(b).await;
    let password = changing(b, "mid", "first");
    operator(b, json!({ "helper": "mid" })).await;
    // In whatever order they are asked for: some are answered, and the others wait until the password has changed. What is under way
    // then may be given up.
    proxy.arm(Rule::times(4, "/blobs/", only_for("first")).method("GET"));
    proxy.arm(Rule::always("/blobs/", Fate::Hold).method("GET"));
    proxy.arm(Rule::always("/v2/", only_for("first")));
    let answered = |seen: &[Seen]| -> Vec<String> {
        let of = |layer: &&Blob| seen.iter().any(|s| s.path.contains(&layer.digest) && s.status == 200);
        image
            .layers
            .iter()
            .filter(of)
            .map(|layer| layer.digest.clone())
            .collect()
    };
    let reference = proxy.reference("changing/mid", "1");
    let change = async {
        let held = |seen: &[Seen]| {
            let is_held = |s: &Seen| s.path.contains("/blobs/") && s.status == 0;
            (seen.iter().any(is_held) && !answered(seen).is_empty()).then_some(())
        };
        proxy
            .wait_for(patience(), "some are answered, another is held", held)
            .await;
        let there = answered(&proxy.seen());
        within(patience(), "what was answered", written(b, &there)).await;
        std::fs::write(&password, "second").expect("a file");
        proxy.disarm();
        proxy.arm(Rule::always("/v2/", only_for("second")));
        there
    };
    let (found, there) = tokio::join!(which(b, &reference), change);
    assert_eq!(found, "mid");
    let seen = proxy.seen();
    let stale = |s: &&Seen| s.status == 401 && s.authorization == Some(basic("first"));
    assert!(seen.iter().any(|s| stale(&s)), "{seen:?}");
    for digest in there {
        let whole = |s: &&Seen| s.path.contains(&digest) && s.sent > 0;
        assert_eq!(
            seen.iter().filter(whole).count(),
            1,
            "what had come was fetched again: {seen:?}"
        );
    }
    nobody(b).await;
}

/// Until containerd has this content.
async fn written(b: &Bench, digests: &[String]) {
    loop {
        let listed = b.rig.containerd.ctr(b.rig.namespace(), &["content", "ls", "-q"]).await;
        let listed = listed.expect("ctr content ls");
        if digests.iter().all(|digest| listed.contains(digest)) {
            return;
        }
        // Nothing tells of it.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn a_password_that_has_changed_since_the_last_pull_is_asked_for_once_more(b: &mut Bench) {
    for name in ["changing/one", "changing/two"] {
        pushed(b, name, &Plan::new(name).env(format!("WHICH={name}"))).await;
    }
    let proxy = proxy(b).await;
    let password = changing(b, "last", "first");
    operator(b, json!({ "helper": "last" })).await;
    proxy.arm(Rule::always("/v2/", only_for("first")));
    assert_eq!(which(b, &proxy.reference("changing/one", "1")).await, "changing/one");
    std::fs::write(&password, "second").expect("a file");
    proxy.disarm();
    proxy.arm(Rule::always("/v2/", only_for("second")));
    assert_eq!(which(b, &proxy.reference("changing/two", "1")).await, "changing/two");
    nobody(b).await;
}

async fn a_wrong_password_is_refused_in_the_end(b: &mut Bench) {
    pushed(b, "changing/never", &Plan::new("never")).await;
    let proxy = proxy(b).await;
    proxy.arm(Rule::always("/v2/", only_for("another")));
    let image = proxy.reference("changing/never", "1");
    let error = refused(b, TaskSpec::new(&image).sh("true").option("auth", login())).await;
    tells(&error, &[&image, "denied"], None);
    assert!(proxy.seen().len() < 20, "{:?}", proxy.seen());
}

async fn one_of_several_challenges_in_a_line_is_enough(b: &mut Bench) {
    pushed(b, "challenges/image", &Plan::new("challenges").env("WHICH=challenges")).await;
    let proxy = proxy(b).await;
    let several = Fate::Login {
        wanted: basic(LOGIN.1),
        challenge: "Negotiate, Basic realm=\"x\"".to_owned(),
    };
    proxy.arm(Rule::always("/v2/", several));
    let spec = TaskSpec::new(proxy.reference("challenges/image", "1")).sh("exit 6");
    assert_eq!(b.run(spec.option("auth", login())).await.0, 6);
}

async fn a_registry_may_refuse_questions_and_answer_requests(b: &mut Bench) {
    for status in [403, 404] {
        let name = format!("questions/of-{status}");
        pushed(b, &name, &Plan::new(&name).env(format!("WHICH={name}"))).await;
        let proxy = proxy(b).await;
        let answer = Fate::Answer {
            status,
            headers: Vec::new(),
            body: String::new(),
        };
        proxy.arm(Rule::always("/v2/", answer).method("HEAD"));
        assert_eq!(which(b, &proxy.reference(&name, "1")).await, name);
    }
    // What is not there is said to be so by both.
    let error = refused(
        b,
        TaskSpec::new(proxy(b).await.reference("questions/none", "1")).sh("true"),
    )
    .await;
    tells(&error, &["questions/none"], None);
}

async fn a_registry_that_is_slow_is_not_silent(b: &mut Bench) {
    const BYTES: usize = 600_000;
    let plan = Plan::new("slow").env("WHICH=slow").layer(Layer::of(BYTES, "slow"));
    let image = pushed(b, "slow/image", &plan).await;
    let proxy = proxy(b).await;
    // Less than a MiB, of which containerd tells only when it is there.
    let slow = Fate::Slow { per_second: 60_000 };
    proxy.arm(Rule::always(&image.layers[1].digest, slow).method("GET"));
    let mut config = b.rig.config().clone();
    config["image_pull_activity_timeout"] = json!("4s");
    b.rig.plugin().configure(&config).await.expect("SetConfig");
    assert_eq!(which(b, &proxy.reference("slow/image", "1")).await, "slow");
    nobody(b).await;
}

async fn what_comes_slowly_is_kept_though_the_plugin_is_killed(b: &mut Bench) {
    const SEEN: u64 = 120_000;
    let plan = Plan::new("kept").env("WHICH=kept").layer(Layer::of(200_000, "kept"));
    let image = pushed(b, "slow/kept", &plan).await;
    let proxy = proxy(b).await;
    let digest = &image.layers[1].digest;
    proxy.arm(Rule::always(digest, Fate::Slow { per_second: 40_000 }).method("GET"));
    let reference = proxy.reference("slow/kept", "1");
    {
        let start = b.rig.start(TaskSpec::new(&reference).sh("true"));
        let some = |seen: &[Seen]| {
            seen.iter()
                .any(|s| s.path.contains(digest) && s.sent >= SEEN)
                .then_some(())
        };
        tokio::select! {
            started = start => panic!("it has started: {:?}", started.err()),
            () = proxy.wait_for(patience(), "a part of the layer", some) => {}
        }
    }
    b.rig.relaunch_only().await.expect("relaunch");
    proxy.disarm();
    proxy.forget();
    assert_eq!(which(b, &reference).await, "kept");
    let asked = proxy
        .blobs()
        .into_iter()
        .find(|s| s.path.contains(digest))
        .expect("the rest");
    let from = asked
        .range
        .as_deref()
        .and_then(|range| range.strip_prefix("bytes=")?.split('-').next()?.parse().ok());
    assert!(from >= Some(SEEN / 2), "{asked:?}");
}

async fn a_program_that_does_not_answer_is_told_from_a_silent_registry(b: &mut Bench) {
    pushed(b, "silent/program", &Plan::new("program")).await;
    let proxy = proxy(b).await;
    helper(b, "hangs", "exec sleep 300");
    let mut config = b.rig.config().clone();
    config["auth"] = json!({ "helper": "hangs" });
    config["image_pull_activity_timeout"] = json!("3s");
    b.rig.plugin().configure(&config).await.expect("SetConfig");
    let image = proxy.reference("silent/program", "1");
    let patient = TaskSpec::new(&image)
        .sh("true")
        .option("image_pull_timeout", json!("7s"));
    let error = refused(b, patient).await;
    tells(
        &error,
        &[&image, "7s", "docker-credential-hangs had not answered"],
        Some(true),
    );
    nobody(b).await;
}

/// Docker's file with these logins.
fn file_with(login: &str, at: &str) -> Json {
    match at {
        "credHelpers" => json!({ "credHelpers": { login: "hub" } }),
        at => json!({ at: { login: { "username": LOGIN.0, "password": LOGIN.1 } } }),
    }
}

async fn the_operators_login_for_docker_hub_is_for_the_server_that_stands_for_it(b: &mut Bench) {
    let server = proxy(b).await;
    server.arm(Rule::always("/v2/", only_for(LOGIN.1)));
    let mirror: RegistryProxy = never_content(b).await;
    configure(b, "docker.io", &toml(&url(&server), &[(&url(&mirror), BOTH)]));
    changing(b, "hub", LOGIN.1);
    for (n, (at, login)) in [
        ("auths", "https://index.docker.io/v1/"),
        ("auths", "docker.io"),
        ("credHelpers", "index.docker.io"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("hub/of-{n}");
        pushed(b, &name, &Plan::new(&name).env(format!("WHICH={name}"))).await;
        with_file(b, file_with(login, at)).await;
        assert_eq!(which(b, &format!("{name}:1")).await, name, "{at} {login}");
    }
    let name = "hub/of-password";
    pushed(b, name, &Plan::new(name).env(format!("WHICH={name}"))).await;
    operator(
        b,
        json!({ "username": LOGIN.0, "password": LOGIN.1, "server_address": "docker.io" }),
    )
    .await;
    assert_eq!(which(b, &format!("{name}:1")).await, name);
    assert!(!mirror.seen().is_empty());
    without_credentials(&mirror.seen());
    std::fs::remove_dir_all(b.rig.dir().join("hosts/docker.io")).expect("removed");
    nobody(b).await;
}

/// Whoever can read a job knows the digest of its image, and may have a registry that lists it as a part of another image.
async fn an_image_that_another_task_had_to_show_credentials_for_is_not_had_by_naming_its_digest(b: &mut Bench) {
    let plan = Plan::new("secret").env("WHICH=secret");
    let image = pushed(b, "secret/image", &plan).await;
    let private = proxy(b).await;
    private.arm(Rule::always("/v2/", only_for(LOGIN.1)));
    let spec = TaskSpec::new(private.reference("secret/image", "1")).sh("exit 6");
    assert_eq!(b.run(spec.option("auth", login())).await.0, 6);
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": image.media_type, "digest": image.manifest.digest, "size": image.manifest.bytes.len(),
            "platform": { "os": "linux", "architecture": plan.architecture },
        }],
    });
    let theirs = proxy(b).await;
    let media_type = (
        "Content-Type".to_owned(),
        "application/vnd.oci.image.index.v1+json".to_owned(),
    );
    let answer = Fate::Answer {
        status: 200,
        headers: vec![media_type],
        body: index.to_string(),
    };
    theirs.arm(Rule::always("/v2/theirs/image/manifests/1", answer));
    let theirs = theirs.reference("theirs/image", "1");
    let error = refused(b, TaskSpec::new(&theirs).sh("true")).await;
    tells(&error, &[&theirs], None);
}

//! When the registry is asked although the image is here, and when it is not asked at all.

use crate::bench::{Bench, group, patience, secs};
use crate::scene::{proxy, pushed, refused, tells, which};
use serde_json::{Value as Json, json};
use std::time::Instant;
use testhost::layers::Plan;
use testhost::task::TaskSpec;
use testhost::within::within;

macro_rules! cases {
    ($(#[$attribute:meta])* $name:ident, $bench:expr, $(if $wanted:expr,)?) => {
        group!($(#[$attribute])* $name, $bench, $(if $wanted,)? {
            never_without_the_image_is_a_short_error_that_names_the_option,
            never_with_the_image_asks_nobody,
            always_notices_a_moved_tag_and_needs_the_registry,
            an_image_by_digest_that_is_here_asks_nobody,
            an_image_by_digest_is_found_under_its_tag_while_the_registry_is_down,
            latest_means_the_newest_unless_a_task_says_otherwise,
            a_policy_that_contradicts_force_pull_is_refused_by_name,
            a_policy_that_there_is_not_is_refused_by_name,
        });
    };
}

cases!(policy, crate::scene::usual(),);
cases!(
    policy_by_ourselves,
    crate::scene::by_ourselves(),
    if crate::scene::has_transfer(),
);

group!(
    policy_of_the_operator,
    Bench::configured(json!({ "image_pull_policy": "always" })),
    {
        the_operators_policy_holds_where_a_task_says_nothing,
    }
);

fn with(image: &str, policy: &str) -> TaskSpec {
    TaskSpec::new(image)
        .sh("echo $WHICH")
        .option("image_pull_policy", json!(policy))
}

fn says(which: &str) -> (i32, String) {
    (0, format!("{which}\n"))
}

async fn push(b: &Bench, name: &str, which: &str) {
    pushed(
        b,
        name,
        &Plan::new(format!("{name}-{which}")).env(format!("WHICH={which}")),
    )
    .await;
}

async fn never_without_the_image_is_a_short_error_that_names_the_option(b: &mut Bench) {
    let proxy = proxy(b).await;
    push(b, "policy/absent", "absent").await;
    let image = proxy.reference("policy/absent", "1");
    let begun = Instant::now();
    let error = refused(b, with(&image, "never")).await;
    assert!(begun.elapsed() < secs(5), "it took {:?}", begun.elapsed());
    tells(&error, &[&image, "image_pull_policy", "never"], None);
    let length = error.message().len();
    assert!(length < 400, "{length} bytes: {error:?}");
    assert!(proxy.seen().is_empty(), "{:?}", proxy.seen());
}

async fn never_with_the_image_asks_nobody(b: &mut Bench) {
    let proxy = proxy(b).await;
    push(b, "policy/never", "first").await;
    let image = proxy.reference("policy/never", "1");
    assert_eq!(which(b, &image).await, "first");
    push(b, "policy/never", "second").await;
    proxy.forget();
    assert_eq!(b.run(with(&image, "never")).await, says("first"));
    assert!(proxy.seen().is_empty(), "{:?}", proxy.seen());
}

async fn always_notices_a_moved_tag_and_needs_the_registry(b: &mut Bench) {
    push(b, "policy/always", "first").await;
    let image = b.rig.registry.reference("policy/always", "1");
    assert_eq!(b.run(with(&image, "always")).await, says("first"));
    push(b, "policy/always", "second").await;
    assert_eq!(b.run(with(&image, "if-not-present")).await, says("first"));
    assert_eq!(b.run(with(&image, "always")).await, says("second"));
    b.rig.registry.stop().await;
    let answer = within(patience(), "StartTask", b.rig.start(with(&image, "always"))).await;
    b.rig.registry.start_again().await.expect("registry");
    tells(&answer.err().expect("no registry"), &[&image], Some(true));
}

async fn an_image_by_digest_that_is_here_asks_nobody(b: &mut Bench) {
    let proxy = proxy(b).await;
    let built = pushed(b, "policy/digest", &Plan::new("policy-digest").env("WHICH=digest")).await;
    let image = format!("{}/policy/digest@{}", proxy.addr(), built.manifest.digest);
    assert_eq!(b.run(with(&image, "if-not-present")).await, says("digest"));
    proxy.forget();
    for policy in ["if-not-present", "always", "never"] {
        assert_eq!(b.run(with(&image, policy)).await, says("digest"), "{policy}");
    }
    assert!(proxy.seen().is_empty(), "{:?}", proxy.seen());
}

async fn an_image_by_digest_is_found_under_its_tag_while_the_registry_is_down(b: &mut Bench) {
    let built = pushed(b, "policy/tagged", &Plan::new("policy-tagged").env("WHICH=tagged")).await;
    let tagged = b.rig.registry.reference("policy/tagged", "1");
    assert_eq!(which(b, &tagged).await, "tagged");
    let (repository, _) = tagged.rsplit_once(':').expect("a tag");
    let image = format!("{repository}@{}", built.manifest.digest);
    let other = format!("{}/policy/elsewhere@{}", b.rig.registry.addr(), built.manifest.digest);
    b.rig.registry.stop().await;
    for policy in ["never", "always"] {
        assert_eq!(b.run(with(&image, policy)).await, says("tagged"), "{policy}");
    }
    // Another repository may be another's.
    let error = refused(b, with(&other, "never")).await;
    b.rig.registry.start_again().await.expect("registry");
    tells(&error, &[&other, "image_pull_policy"], None);
}

async fn latest_means_the_newest_unless_a_task_says_otherwise(b: &mut Bench) {
    let proxy = proxy(b).await;
    let push = async |which: &str| {
        let plan = Plan::new(format!("latest-{which}")).env(format!("WHICH={which}"));
        let image = plan.build().expect("an image");
        b.rig
            .registry
            .push("policy/latest", "latest", &image)
            .await
            .expect("pushed");
    };
    let image = format!("{}/policy/latest", proxy.addr());
    push("first").await;
    assert_eq!(which(b, &image).await, "first");
    push("second").await;
    proxy.forget();
    assert_eq!(b.run(with(&image, "if-not-present")).await, says("first"));
    assert!(proxy.seen().is_empty(), "{:?}", proxy.seen());
    assert_eq!(which(b, &image).await, "second");
}

async fn a_policy_that_contradicts_force_pull_is_refused_by_name(b: &mut Bench) {
    for policy in ["never", "if-not-present"] {
        let spec = with(&b.image, policy).option("force_pull", json!(true));
        let error = refused(b, spec).await;
        tells(&error, &["image_pull_policy", "force_pull", policy], None);
    }
    let both = with(&b.image, "always").option("force_pull", json!(true));
    assert_eq!(b.run(both).await.0, 0);
}

async fn a_policy_that_there_is_not_is_refused_by_name(b: &mut Bench) {
    let error = refused(b, with(&b.image, "sometimes")).await;
    let words = ["image_pull_policy", "sometimes", "if-not-present", "always", "never"];
    tells(&error, &words, None);
    let mut config: Json = b.rig.config().clone();
    config["image_pull_policy"] = json!("sometimes");
    let error = b
        .rig
        .plugin()
        .configure(&config)
        .await
        .expect_err("a word that is none");
    let text = format!("{error:#}");
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
}

async fn the_operators_policy_holds_where_a_task_says_nothing(b: &mut Bench) {
    push(b, "policy/operator", "first").await;
    let image = b.rig.registry.reference("policy/operator", "1");
    assert_eq!(which(b, &image).await, "first");
    push(b, "policy/operator", "second").await;
    assert_eq!(b.run(with(&image, "if-not-present")).await, says("first"));
    assert_eq!(which(b, &image).await, "second");
}

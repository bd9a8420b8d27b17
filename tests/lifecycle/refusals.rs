//! Starts that cannot be: the error says why and which option, and whether another try may help.

use crate::bench::{Bench, group, patience};
use crate::registry::{Answer, FakeRegistry};
use serde_json::json;
use testhost::status::recoverable;
use testhost::task::TaskSpec;
use testhost::wire::driver::fingerprint_response::HealthState;
use testhost::within::within;
use tonic::Status;

group!(refusals, Bench::new(), {
    names_that_are_no_images_are_refused,
    a_missing_image_is_final_and_an_absent_registry_is_not,
    a_registry_that_refuses_is_final_and_one_that_is_broken_is_not,
    a_registry_that_hangs_is_given_up_after_the_options_time,
    a_command_that_cannot_be_run_is_named_with_its_option,
    a_user_that_does_not_exist_is_named,
});

async fn refused(b: &Bench, spec: TaskSpec) -> Status {
    within(patience(), "a refused StartTask", b.rig.start(spec))
        .await
        .err()
        .expect("this cannot start")
}

#[track_caller]
fn assert_says(error: &Status, words: &[&str], again: Option<bool>) {
    for word in words {
        assert!(error.message().contains(word), "no {word:?} in {error:?}");
    }
    assert_eq!(recoverable(error), again, "{error:?}");
}

async fn names_that_are_no_images_are_refused(b: &mut Bench) {
    for name in ["", "busybox:", "UPPER/Case", "a b", "http://", "x@sha256:12", "/x"] {
        let error = refused(b, TaskSpec::new(name)).await;
        assert_says(&error, &["image", name], None);
    }
}

async fn a_missing_image_is_final_and_an_absent_registry_is_not(b: &mut Bench) {
    for missing in [
        b.rig.registry.reference("no/such", "1"),
        b.rig.registry.reference("library/busybox", "none"),
    ] {
        let error = refused(b, TaskSpec::new(&missing)).await;
        assert_says(&error, &["Error in pulling image", &missing, "does not exist"], None);
    }
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address").to_string()
    };
    let error = refused(b, TaskSpec::new(format!("{nobody}/no/body:1"))).await;
    assert_says(&error, &["Error in pulling image", &nobody, "refused"], Some(true));
}

async fn a_registry_that_refuses_is_final_and_one_that_is_broken_is_not(b: &mut Bench) {
    const DENIED: &str = "pull access denied, repository does not exist or may require authorization";
    let table: [(u16, &'static str, &[&str], Option<bool>); 5] = [
        (
            401,
            r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#,
            &[DENIED],
            None,
        ),
        (
            403,
            r#"{"errors":[{"code":"DENIED","message":"not for you"}]}"#,
            &[DENIED, "not for you"],
            None,
        ),
        (403, "forbidden", &[DENIED], None),
        (
            429,
            r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#,
            &["registry"],
            Some(true),
        ),
        (503, "nobody home", &["503"], Some(true)),
    ];
    for (status, body, words, again) in table {
        let fake = FakeRegistry::start(move |path| match path {
            "/v2/" => Answer::Status(200, "{}"),
            _ => Answer::Status(status, body),
        })
        .await;
        let image = fake.reference("some/image");
        let error = refused(b, TaskSpec::new(&image)).await;
        assert_says(&error, words, again);
        assert_says(&error, &["Error in pulling image", &image], again);
    }
    // Credentials that are refused do not show.
    let fake = FakeRegistry::start(|_| Answer::Status(401, "{}")).await;
    let spec =
        TaskSpec::new(fake.reference("some/image")).option("auth", json!({ "username": "me", "password": "hunter2" }));
    let error = refused(b, spec).await;
    assert_says(&error, &[DENIED], None);
    assert!(!format!("{error:?}").contains("hunter2"));
    assert!(
        !b.rig
            .plugin()
            .stderr_lines()
            .iter()
            .any(|line| line.contains("hunter2"))
    );
}

async fn a_registry_that_hangs_is_given_up_after_the_options_time(b: &mut Bench) {
    let fake = FakeRegistry::start(|_| Answer::Never).await;
    let image = fake.reference("slow/image");
    let error = refused(b, TaskSpec::new(&image).option("image_pull_timeout", json!("2s"))).await;
    assert_says(&error, &["image_pull_timeout", &image, "2s"], Some(true));
}

async fn a_command_that_cannot_be_run_is_named_with_its_option(b: &mut Bench) {
    let table = [
        (
            TaskSpec::new(&b.image).command(["/no/such/program"]),
            "option command",
            "/no/such/program",
        ),
        (
            TaskSpec::new(&b.image).command(["no-such-word", "x"]),
            "option command",
            "no-such-word",
        ),
        (
            TaskSpec::new(&b.image).command(["/etc/passwd"]),
            "option command",
            "/etc/passwd",
        ),
        (
            TaskSpec::new(&b.image).option("entrypoint", json!(["/no/entry"])),
            "option entrypoint",
            "/no/entry",
        ),
    ];
    for (spec, option, program) in table {
        let error = refused(b, spec).await;
        assert_says(&error, &["Error in creating container", option, program], None);
    }
    let error = refused(b, b.sh("true").option("cwd", json!("relative"))).await;
    assert_says(&error, &["cwd", "relative"], None);
}

async fn a_user_that_does_not_exist_is_named(b: &mut Bench) {
    let error = refused(b, b.sh("true").user("stranger")).await;
    assert_says(&error, &["user", "stranger"], None);
}

group!(without_containerd, Bench::absent(), {
    a_machine_without_containerd_says_so_and_starts_nothing,
});

impl Bench {
    /// The plugin is told of a socket that is not there.
    async fn absent() -> Bench {
        Bench::configured(json!({ "containerd_address": "/run/no-such-containerd.sock" })).await
    }
}

async fn a_machine_without_containerd_says_so_and_starts_nothing(b: &mut Bench) {
    let found = b
        .rig
        .wait_health(HealthState::Undetected, patience())
        .await
        .expect("undetected");
    assert!(
        found.health_description.contains("/run/no-such-containerd.sock"),
        "{found:?}"
    );
    let error = refused(b, b.sh("true")).await;
    assert_says(&error, &["/run/no-such-containerd.sock"], Some(true));
}

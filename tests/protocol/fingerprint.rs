//! What the node is told about the driver while containerd comes, hangs, goes and comes back.

use std::time::{Duration, Instant};

use serde_json::json;
use testhost::containerd::Containerd;
use testhost::plugin::Plugin;
use testhost::wire::driver::fingerprint_response::HealthState;
use testhost::wire::driver::{FingerprintRequest, FingerprintResponse};
use testhost::wire::structs::attribute::Value;
use testhost::within::within;
use tonic::Streaming;

use crate::{SECOND, configured, home, kind, launch};

/// The host's own interval is 30 s; a change may take one of ours and a deadline or two.
const NOTICE: Duration = Duration::from_secs(35);

/// A second by the contract; a process that nobody has configured uses most of it in the hope of a first look.
const FIRST: Duration = Duration::from_millis(1500);

async fn open(plugin: &Plugin) -> (Streaming<FingerprintResponse>, FingerprintResponse) {
    let first = async {
        let mut stream = plugin
            .driver()
            .fingerprint(FingerprintRequest {})
            .await
            .expect("Fingerprint")
            .into_inner();
        let first = stream.message().await.expect("no error").expect("no end");
        (stream, first)
    };
    within(FIRST, "the first fingerprint", first).await
}

async fn next(stream: &mut Streaming<FingerprintResponse>, health: HealthState) -> FingerprintResponse {
    let search = async {
        loop {
            let found = stream
                .message()
                .await
                .expect("no error")
                .expect("the stream ended while the plugin lives");
            if found.health() == health {
                return found;
            }
        }
    };
    within(NOTICE, &format!("{health:?}"), search).await
}

fn text<'a>(found: &'a FingerprintResponse, key: &str) -> &'a str {
    match found.attributes.get(key).and_then(|attribute| attribute.value.as_ref()) {
        Some(Value::StringVal(text)) => text,
        other => panic!("{key}: {other:?} in {found:?}"),
    }
}

#[tokio::test]
async fn without_containerd_the_driver_is_undetected_at_once_and_the_stream_stays() {
    let home = home();
    for configure in [false, true] {
        let plugin = if configure {
            configured(&home).await
        } else {
            launch(&home).await
        };
        let (mut stream, first) = open(&plugin).await;
        assert_eq!(first.health(), HealthState::Undetected, "{first:?}");
        assert!(
            first.err.is_empty() && !first.health_description.is_empty(),
            "{first:?}"
        );
        let quiet = tokio::time::timeout(Duration::from_secs(8), async {
            while let Some(again) = stream.message().await.expect("no error") {
                assert_eq!(again.health(), HealthState::Undetected);
            }
        });
        assert!(quiet.await.is_err(), "the stream ended while the plugin lives");
    }
}

#[tokio::test]
async fn a_disabled_driver_says_so() {
    let home = home();
    let plugin = launch(&home).await;
    plugin.configure(&json!({ "enabled": false })).await.expect("SetConfig");
    let disabled = async {
        let (mut stream, mut found) = open(&plugin).await;
        while !found.health_description.contains("enabled") {
            found = stream.message().await.expect("no error").expect("no end");
        }
        found
    };
    assert_eq!(
        within(SECOND * 5, "disabled", disabled).await.health(),
        HealthState::Undetected
    );
}

#[tokio::test]
async fn health_follows_containerd_through_start_hang_death_and_return() {
    let home = home();
    let root = home.path().join("c");
    let plugin = launch(&home).await;
    plugin
        .configure(&json!({ "containerd_address": root.join("c.sock").display().to_string() }))
        .await
        .expect("SetConfig");
    plugin.init().await.expect("Init");
    let (mut stream, first) = open(&plugin).await;
    assert_eq!(first.health(), HealthState::Undetected, "{first:?}");

    let containerd = Containerd::start(kind(), &root).await.expect("containerd");
    let healthy = next(&mut stream, HealthState::Healthy).await;
    assert_eq!(healthy.health_description, "Healthy");
    assert_eq!(
        text(&healthy, "driver.containerd-driver.version"),
        containerd.binaries().version
    );
    let (_, late) = open(&plugin).await;
    assert_eq!(
        (late.health(), &late.attributes),
        (HealthState::Healthy, &healthy.attributes),
        "a second stream is told at once"
    );

    containerd.sigstop();
    let hung = next(&mut stream, HealthState::Unhealthy).await;
    assert!(hung.health_description.contains("does not answer"), "{hung:?}");
    let begun = Instant::now();
    within(SECOND, "PluginInfo while containerd hangs", plugin.info())
        .await
        .expect("PluginInfo");
    assert!(begun.elapsed() < SECOND);
    containerd.sigcont();
    assert_eq!(
        next(&mut stream, HealthState::Healthy).await.health_description,
        "Healthy"
    );

    containerd.kill().await;
    let lost = next(&mut stream, HealthState::Unhealthy).await;
    assert!(lost.health_description.contains("containerd"), "{lost:?}");
    containerd.start_again().await.expect("containerd");
    let back = next(&mut stream, HealthState::Healthy).await;
    assert_eq!(
        (back.health_description.as_str(), back.attributes),
        ("Healthy", healthy.attributes)
    );

    containerd.stop().await;
    let again = next(&mut stream, HealthState::Unhealthy).await;
    assert_eq!(
        again.health(),
        HealthState::Unhealthy,
        "a containerd that was seen is not undetected: {again:?}"
    );
}

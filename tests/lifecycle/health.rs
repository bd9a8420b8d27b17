//! What the node is told of the driver: the canary, hiccups, attributes.

use crate::bench::{Bench, group, patience, secs, slowness};
use serde_json::{Value as Json, json};
use std::time::Duration;
use testhost::image::ImageConfig;
use testhost::wire::driver::fingerprint_response::HealthState;
use testhost::wire::driver::{CapabilitiesRequest, FingerprintResponse};
use testhost::wire::structs::attribute::Value;
use testhost::within::within;
use tokio::time::{Instant, timeout};
use tonic::Streaming;

group!(health, Bench::new(), {
    fp_01_the_first_fingerprint_comes_at_once_and_is_whole,
    fp_05_capabilities_are_the_same_at_any_time,
    fp_06_what_is_withdrawn_is_sent_once_more_and_empty,
    a_containerd_that_pauses_for_four_seconds_is_not_ill,
    a_containerd_that_is_refused_is_ill_soon_and_well_at_once,
    a_containerd_that_is_started_anew_is_not_ill,
    a_canary_that_runs_is_pulled_and_keeps_the_node_healthy,
    a_canary_that_fails_tells_its_exit_and_heals,
    a_canary_that_does_not_end_is_told_and_removed,
    a_canary_without_a_registry_tells_that_the_pull_failed,
    a_canary_with_a_broken_runtime_tells_that_it_does_not_start,
    a_canary_of_a_killed_plugin_is_removed_by_the_next,
    a_runtime_that_is_not_there_is_told_and_its_coming_heals,
    settings_of_a_canary_that_make_no_sense_are_refused_by_name,
});

/// The agent looks every 30 s; a change has to be known by then.
const NOTICE: Duration = Duration::from_secs(35);

async fn told(b: &Bench, health: HealthState) -> FingerprintResponse {
    b.rig.wait_health(health, NOTICE * slowness()).await.expect("health")
}

/// A duration as the settings take it.
fn seconds(n: u32) -> String {
    format!("{}s", n * slowness())
}

/// The rig's configuration with more.
fn with(b: &Bench, more: Json) -> Json {
    let mut config = b.rig.config().clone();
    for (key, value) in more.as_object().expect("settings") {
        config[key] = value.clone();
    }
    config
}

async fn configure(b: &Bench, config: &Json) {
    b.rig.plugin().configure(config).await.expect("SetConfig");
}

/// Runs the canary from now on, as often as is possible.
async fn canary(b: &Bench, image: &str, command: &[&str], more: Json) {
    let canary =
        json!({ "enabled": true, "image": image, "command": command, "period": seconds(6), "timeout": seconds(6) });
    let mut config = with(b, more);
    config["canary"] = canary;
    configure(b, &config).await;
}

/// The end of a case: no canary, and a node that is well.
async fn plain(b: &Bench) {
    configure(b, b.rig.config()).await;
    told(b, HealthState::Healthy).await;
}

async fn canaries(b: &Bench) -> Vec<String> {
    let all = b
        .rig
        .containerd
        .ctr(b.rig.namespace(), &["containers", "ls", "-q"])
        .await
        .expect("ctr");
    all.lines()
        .filter(|id| id.starts_with("health-canary-"))
        .map(str::to_owned)
        .collect()
}

fn text<'a>(found: &'a FingerprintResponse, key: &str) -> Option<&'a str> {
    match found.attributes.get(key)?.value.as_ref()? {
        Value::StringVal(text) => Some(text),
        _ => None,
    }
}

async fn open(b: &Bench) -> Streaming<FingerprintResponse> {
    b.rig.fingerprint().await.expect("Fingerprint")
}

async fn next(stream: &mut Streaming<FingerprintResponse>) -> FingerprintResponse {
    within(NOTICE * slowness(), "a fingerprint", stream.message())
        .await
        .expect("no error")
        .expect("no end")
}

async fn fp_01_the_first_fingerprint_comes_at_once_and_is_whole(b: &mut Bench) {
    told(b, HealthState::Healthy).await;
    let first = within(secs(1), "the first fingerprint", async {
        next(&mut open(b).await).await
    })
    .await;
    assert_eq!(
        (first.health(), first.health_description.as_str()),
        (HealthState::Healthy, "Healthy")
    );
    let version = &b.rig.containerd.binaries().version;
    for key in [
        "driver.containerd-driver.version",
        "driver.containerd.containerd_version",
    ] {
        assert_eq!(text(&first, key), Some(version.as_str()), "{key}");
    }
    for key in [
        "runtime",
        "runtimes",
        "snapshotter",
        "snapshotters",
        "cgroup",
        "security_profile",
        "caps",
        "runc.version",
    ] {
        let found = text(&first, &format!("driver.containerd-driver.{key}"));
        assert!(found.is_some_and(|text| !text.is_empty()), "{key}: {first:?}");
    }
    assert_eq!(text(&first, "driver.containerd-driver.modes"), Some("network,pid"));
    for key in ["transfer", "privileged.enabled", "volumes.enabled"] {
        let key = format!("driver.containerd-driver.{key}");
        let value = first.attributes.get(&key).and_then(|a| a.value.as_ref());
        assert!(matches!(value, Some(Value::BoolVal(_))), "{key}: {first:?}");
    }
}

async fn fp_05_capabilities_are_the_same_at_any_time(b: &mut Bench) {
    let ask = || async {
        b.rig
            .driver()
            .capabilities(CapabilitiesRequest {})
            .await
            .expect("Capabilities")
            .into_inner()
    };
    let well = ask().await;
    assert!(well.capabilities.is_some());
    b.rig.containerd.sigstop();
    let hung = within(secs(1), "Capabilities while containerd hangs", ask()).await;
    b.rig.containerd.sigcont();
    assert_eq!(well, hung);
    told(b, HealthState::Healthy).await;
}

async fn fp_06_what_is_withdrawn_is_sent_once_more_and_empty(b: &mut Bench) {
    let mut stream = open(b).await;
    let healthy = next(&mut stream).await;
    assert!(!healthy.attributes.is_empty(), "{healthy:?}");
    configure(b, &with(b, json!({ "enabled": false }))).await;
    let disabled = next(&mut stream).await;
    assert_eq!(disabled.health(), HealthState::Undetected, "{disabled:?}");
    for key in healthy.attributes.keys() {
        assert_eq!(text(&disabled, key), Some(""), "{key}: {disabled:?}");
    }
    configure(b, b.rig.config()).await;
    let back = next(&mut stream).await;
    assert_eq!(
        (back.health(), &back.attributes),
        (HealthState::Healthy, &healthy.attributes)
    );
}

/// A probe waits for three seconds and a second one follows: only both together are an illness.
async fn a_containerd_that_pauses_for_four_seconds_is_not_ill(b: &mut Bench) {
    let mut stream = open(b).await;
    assert_eq!(next(&mut stream).await.health(), HealthState::Healthy);
    b.rig.containerd.sigstop();
    let said = timeout(Duration::from_secs(4), stream.message()).await;
    b.rig.containerd.sigcont();
    assert!(said.is_err(), "told within four seconds: {said:?}");
    // Two probes later it would be known.
    let later = timeout(Duration::from_secs(10), stream.message()).await;
    assert!(later.is_err(), "told afterwards: {later:?}");
}

/// Neither told while it is away for a moment, nor afterwards.
async fn a_containerd_that_is_started_anew_is_not_ill(b: &mut Bench) {
    let mut stream = open(b).await;
    assert_eq!(next(&mut stream).await.health(), HealthState::Healthy);
    for _ in 0..3 {
        let begun = Instant::now();
        b.rig.containerd.kill().await;
        b.rig.containerd.start_again().await.expect("containerd");
        let away = begun.elapsed();
        let said = timeout(Duration::from_secs(6), stream.message()).await;
        // One that takes longer than the rest before the second look may be told of; here that is a machine with much to do.
        assert!(
            said.is_err() || away > Duration::from_millis(1500),
            "told of a restart of {away:?}: {said:?}"
        );
        if said.is_ok() {
            told(b, HealthState::Healthy).await;
            stream = open(b).await;
            next(&mut stream).await;
        }
    }
}

async fn a_containerd_that_is_refused_is_ill_soon_and_well_at_once(b: &mut Bench) {
    let mut stream = open(b).await;
    let healthy = next(&mut stream).await;
    b.rig.containerd.kill().await;
    let begun = Instant::now();
    let lost = next(&mut stream).await;
    assert_eq!(lost.health(), HealthState::Unhealthy, "{lost:?}");
    assert!(begun.elapsed() < secs(8), "the interval is 5 s: {:?}", begun.elapsed());
    // The one that follows the health makes the node one of another class, for which the scheduler does not remember that
    // it takes no tasks.
    let (mut stayed, mut told) = (lost.attributes, healthy.attributes.clone());
    let key = "driver.containerd-driver.healthy";
    let both = [told.remove(key), stayed.remove(key)].map(|attribute| attribute.and_then(|a| a.value));
    assert_eq!(both, [true, false].map(|b| Some(Value::BoolVal(b))));
    assert_eq!(stayed, told, "attributes do not come and go with containerd");
    b.rig.containerd.start_again().await.expect("containerd");
    let begun = Instant::now();
    let back = next(&mut stream).await;
    assert_eq!(
        (back.health(), &back.attributes),
        (HealthState::Healthy, &healthy.attributes)
    );
    assert!(begun.elapsed() < secs(8), "{:?}", begun.elapsed());
}

async fn a_canary_that_runs_is_pulled_and_keeps_the_node_healthy(b: &mut Bench) {
    let image = b
        .rig
        .image("canary/well", &ImageConfig::default().salt("well"))
        .await
        .expect("image");
    let mut stream = open(b).await;
    let healthy = next(&mut stream).await;
    canary(b, &image, &["true"], json!({})).await;
    // That it is there shows that a run has begun; that it is gone, that one has ended.
    let began = async {
        while !b
            .rig
            .containerd
            .ctr(b.rig.namespace(), &["images", "ls", "-q"])
            .await
            .expect("ctr")
            .contains(&image)
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(patience(), "the canary's image", began).await;
    let quiet = timeout(secs(10), stream.message()).await;
    assert!(quiet.is_err(), "a canary that runs is no news: {quiet:?}");
    assert_eq!(healthy.health(), HealthState::Healthy);
    plain(b).await;
}

async fn a_canary_that_fails_tells_its_exit_and_heals(b: &mut Bench) {
    canary(b, &b.image, &["sh", "-c", "exit 7"], json!({})).await;
    let ill = told(b, HealthState::Unhealthy).await;
    assert_eq!(ill.health_description, "canary: its exit: code 7 where 0 is expected");
    assert!(!ill.attributes.is_empty(), "{ill:?}");
    // The same complaint is not told twice.
    let mut stream = open(b).await;
    next(&mut stream).await;
    let again = timeout(secs(15), stream.message()).await;
    assert!(again.is_err(), "{again:?}");
    // Tasks are not kept from running.
    assert_eq!(b.run(b.sh("echo on")).await, (0, "on\n".to_owned()));
    canary(b, &b.image, &["true"], json!({})).await;
    told(b, HealthState::Healthy).await;
    plain(b).await;
}

async fn a_canary_that_does_not_end_is_told_and_removed(b: &mut Bench) {
    canary(b, &b.image, &["sleep", "3600"], json!({})).await;
    let ill = told(b, HealthState::Unhealthy).await;
    assert!(
        ill.health_description.starts_with("canary: waiting for its end: "),
        "{ill:?}"
    );
    plain(b).await;
}

async fn a_canary_without_a_registry_tells_that_the_pull_failed(b: &mut Bench) {
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address").to_string()
    };
    canary(b, &format!("{nobody}/no/body:1"), &["true"], json!({})).await;
    let ill = told(b, HealthState::Unhealthy).await;
    assert!(
        ill.health_description.starts_with("canary: pulling the image: "),
        "{ill:?}"
    );
    assert!(ill.health_description.contains(&nobody), "{ill:?}");
    plain(b).await;
}

async fn a_canary_with_a_broken_runtime_tells_that_it_does_not_start(b: &mut Bench) {
    let broken =
        json!({ "runtimes": [{ "broken": "io.containerd.runc.v2 /bin/false" }], "containerd_runtime": "broken" });
    canary(b, &b.image, &["true"], broken).await;
    let ill = told(b, HealthState::Unhealthy).await;
    assert!(
        ill.health_description.starts_with("canary: starting the container: "),
        "{ill:?}"
    );
    plain(b).await;
}

async fn a_canary_of_a_killed_plugin_is_removed_by_the_next(b: &mut Bench) {
    let canary =
        json!({ "enabled": true, "image": b.image, "command": ["sleep", "3600"], "period": "1h", "timeout": "1h" });
    configure(b, &with(b, json!({ "canary": canary }))).await;
    let runs = async {
        while canaries(b).await.is_empty() || b.rig.containerd.shims().is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(patience(), "a canary", runs).await;
    // Its configuration has no canary: it sweeps all the same.
    b.rig.relaunch_only().await.expect("a new plugin");
    told(b, HealthState::Healthy).await;
    let gone = async {
        while !canaries(b).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(patience(), "the end of the canary", gone).await;
}

async fn settings_of_a_canary_that_make_no_sense_are_refused_by_name(b: &mut Bench) {
    for (canary, option) in [
        (json!({ "enabled": true }), "canary.image"),
        (
            json!({ "enabled": true, "image": b.image, "command": [] }),
            "canary.command",
        ),
        (
            json!({ "enabled": true, "image": b.image, "period": "1s" }),
            "canary.period",
        ),
    ] {
        let refused = b.rig.plugin().configure(&with(b, json!({ "canary": canary }))).await;
        let words = format!("{:#}", refused.expect_err("these settings make no sense"));
        assert!(words.contains(option), "{words}");
    }
}

async fn a_runtime_that_is_not_there_is_told_and_its_coming_heals(b: &Bench) {
    let dir = tempfile::tempdir().expect("directory");
    let program = dir.path().join("runc");
    let own = format!("io.containerd.runc.v2 {}", program.display());
    let config = with(b, json!({ "runtimes": [{ "own": own }], "containerd_runtime": "own" }));
    configure(b, &config).await;
    let ill = told(b, HealthState::Unhealthy).await;
    let wanted = program.display().to_string();
    for word in ["containerd_runtime", &wanted] {
        assert!(ill.health_description.contains(word), "{:?}", ill.health_description);
    }
    std::fs::copy("/usr/bin/true", &program).expect("a program");
    told(b, HealthState::Healthy).await;
    let config = with(b, json!({ "containerd_runtime": "io.containerd.absent.v1" }));
    configure(b, &config).await;
    let ill = told(b, HealthState::Unhealthy).await;
    for word in ["containerd_runtime", "containerd-shim-absent-v1", "/usr/bin"] {
        assert!(ill.health_description.contains(word), "{:?}", ill.health_description);
    }
    plain(b).await;
}

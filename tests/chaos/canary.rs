//! The health probe dies in the middle of a canary: the run comes to its end all the same, and nothing of it is left.

use std::time::Duration;

use serde_json::json;
use testhost::wire::driver::fingerprint_response::HealthState;
use testhost::within::within;

use crate::control::Fault;
use crate::field::Field;
use crate::lives::PATIENCE;

async fn canaries(field: &Field) -> Vec<String> {
    let rig = &field.rig;
    let all = rig
        .containerd
        .ctr(rig.namespace(), &["containers", "ls", "-q"])
        .await
        .expect("ctr");
    all.lines()
        .filter(|id| id.starts_with("health-canary-"))
        .map(str::to_owned)
        .collect()
}

async fn until(field: &Field, what: &str, wanted: impl Fn(&[String]) -> bool) -> Vec<String> {
    let search = async {
        loop {
            let found = canaries(field).await;
            if wanted(&found) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(PATIENCE, what, search).await
}

async fn survives(fault: Fault) {
    let field = Field::new().await;
    let mut config = field.rig.config().clone();
    let image = &field.image;
    config["canary"] =
        json!({ "enabled": true, "image": image, "command": ["sleep", "3600"], "period": "5m", "timeout": "5m" });
    field.rig.plugin().configure(&config).await.expect("SetConfig");
    let first = until(&field, "a canary", |found| !found.is_empty()).await;
    assert!(
        field.chaos.inject("health_probe", fault).await.expect("chaos"),
        "no such actor"
    );
    // The next incarnation does not wait for the run of the one before.
    until(&field, "the next canary", |found| {
        found.iter().any(|id| !first.contains(id))
    })
    .await;
    let plain = field.rig.config().clone();
    field.rig.plugin().configure(&plain).await.expect("SetConfig");
    assert!(
        field.chaos.inject("health_probe", fault).await.expect("chaos"),
        "no such actor"
    );
    field
        .rig
        .wait_health(HealthState::Healthy, PATIENCE)
        .await
        .expect("healthy");
    if let Err(e) = field.settled().await {
        panic!("{fault}: {e:#}\n{}", field.last_words());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_a_canary_whose_probe_panics() {
    survives(Fault::Kill).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_a_canary_whose_probe_vanishes() {
    survives(Fault::Abort).await;
}

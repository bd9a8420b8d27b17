//! What is exported is what `observability/CATALOGUE.md` says.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::scene::{By, PATIENCE, Scene};

/// First column of the table under a heading.
pub fn table(title: &str) -> BTreeSet<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/observability/CATALOGUE.md");
    let text = std::fs::read_to_string(path).expect("catalogue");
    let part = text.split_once(&format!("## {title}\n")).expect("heading").1;
    let part = part.split("\n## ").next().unwrap_or_default();
    let cell = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
    part.lines().filter_map(cell).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_span_and_field_of_a_full_life_is_in_the_catalogue() {
    let scene = Scene::new(By::Environment).await;
    let failed = scene
        .rig
        .start(
            scene
                .task("true")
                .option("command", serde_json::json!("/does/not/exist")),
        )
        .await;
    assert!(failed.is_err(), "a command that does not exist");
    let task = scene
        .rig
        .start(scene.task("trap 'exit 3' USR1; echo up; while :; do sleep 0.1; done"))
        .await
        .expect("StartTask");
    task.wait_line(PATIENCE, "up").await;
    task.status().await.expect("InspectTask");
    task.exec(&["true"], PATIENCE).await.expect("ExecTask");
    task.signal("SIGUSR1").await.expect("SignalTask");
    assert_eq!(task.exit(PATIENCE).await.exit_code, 3);
    task.destroy(false).await.expect("DestroyTask");
    // Nobody looks after it any more: removed by name.
    task.destroy(true).await.expect("second DestroyTask");
    let second = scene.rig.start(scene.task("sleep 100")).await.expect("StartTask");
    second.stop(Duration::from_millis(200), "").await.expect("StopTask");
    second.destroy(true).await.expect("DestroyTask");
    for name in ["task.exec", "task.sweep", "task.destroy", "task.signal", "health.probe"] {
        assert!(
            scene.collector.wait_named(PATIENCE, name).await.is_some(),
            "no span {name}"
        );
    }
    let (spans, fields) = (table("Spans"), table("Fields"));
    assert!(spans.len() > 10 && fields.len() > 10);
    let mut strangers = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for span in scene.collector.spans() {
        let name = if span.name.starts_with("nomad.") {
            "nomad.rpc"
        } else {
            span.name.as_str()
        };
        seen.insert(name.to_owned());
        if !spans.contains(name) {
            strangers.insert(format!("span {name}"));
        }
        for key in span.attributes.iter().map(|a| a.key.as_str()) {
            // Written by the libraries about the place in the source and about time.
            let foreign = ["code.", "thread.", "otel.", "busy_ns", "idle_ns", "target", "level"]
                .iter()
                .any(|f| key.starts_with(f));
            if !foreign && !fields.contains(key) {
                strangers.insert(format!("field {key} of span {name}"));
            }
        }
    }
    println!(
        "seen: {seen:?}\nnot seen: {:?}",
        spans.difference(&seen).collect::<Vec<_>>()
    );
    assert!(strangers.is_empty(), "not in the catalogue: {strangers:#?}");
}

//! The counters and gauges of the catalogue reach the collector, and only the one that is meant for them.

use std::collections::BTreeSet;

use testhost::otlp::{Collector, metric, points};
use testhost::rig::Rig;
use testhost::task::TaskSpec;

use crate::catalogue::table;
use crate::scene::{By, PATIENCE, Scene, opts};
use crate::silence::threads;

const STARTS: &str = "containerd_driver_task_starts_total";
const EXITS: &str = "containerd_driver_task_exits_total";

/// One task from its start to its end.
async fn live(rig: &Rig, spec: TaskSpec) {
    let task = rig.start(spec).await.expect("StartTask");
    assert_eq!(task.exit(PATIENCE).await.exit_code, 4);
    task.destroy(true).await.expect("DestroyTask");
}

/// Waits until so many starts and exits are known to the collector.
async fn counted(collector: &Collector, tasks: u64) {
    for name in [STARTS, EXITS] {
        assert!(
            collector.wait_metric(PATIENCE, name, tasks).await,
            "{name} is {:?}, not {tasks}",
            collector.metric(name)
        );
    }
}

fn has_thread_for_metrics(rig: &Rig) -> bool {
    threads(rig.plugin().pid()).iter().any(|name| name == "OpenTelemetry.M")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_counter_and_gauge_of_the_catalogue_is_exported_with_its_value() {
    let scene = Scene::new(By::Environment).await;
    live(&scene.rig, scene.task("echo up; exit 4")).await;
    counted(&scene.collector, 1).await;
    live(&scene.rig, scene.task("exit 4")).await;
    counted(&scene.collector, 2).await;
    let found = scene.collector.metrics();
    let (counters, gauges) = (table("Counters"), table("Gauges"));
    let wanted: BTreeSet<&String> = counters.union(&gauges).collect();
    assert_eq!(found.keys().collect::<BTreeSet<_>>(), wanted);
    for (name, metric) in &found {
        match &metric.data {
            Some(metric::Data::Sum(sum)) => {
                assert!(counters.contains(name) && sum.is_monotonic, "{name}");
                assert_eq!(sum.aggregation_temporality, 2, "{name} is cumulative");
            }
            Some(metric::Data::Gauge(_)) => assert!(gauges.contains(name), "{name}"),
            other => panic!("{name}: {other:?}"),
        }
        let points = points(metric);
        assert!(
            points.len() == 1 && points[0].attributes.is_empty(),
            "{name}: one point without a label"
        );
        assert!(!metric.description.is_empty(), "{name}");
        let unit = match name {
            name if name.ends_with("_bytes_total") => "By",
            name if name.ends_with("_milliseconds_total") => "ms",
            _ => "",
        };
        assert_eq!(metric.unit, unit, "{name}");
    }
    let value = |name| scene.collector.metric(name).expect(name);
    assert_eq!(value("containerd_driver_image_pulls_total"), 1);
    assert!(value("containerd_driver_image_fetched_bytes_total") > 0);
    assert_eq!(value("containerd_driver_image_pulls_running"), 0);
    assert_eq!(value("containerd_driver_metric_faults_total"), 0);
    assert_eq!(
        scene.collector.services(),
        BTreeSet::from(["containerd-driver".to_owned()])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_collector_of_the_plugin_option_takes_over_from_that_of_the_environment() {
    let first = Collector::start().await.expect("collector");
    let endpoint = first.endpoint();
    let scene = Scene::with(
        By::PluginConfig,
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", &endpoint),
        ],
    )
    .await;
    // Its last values, from before any task.
    assert!(
        first.wait_metric(PATIENCE, STARTS, 0).await,
        "nothing came to the first"
    );
    live(&scene.rig, scene.task("exit 4")).await;
    counted(&scene.collector, 1).await;
    assert_eq!(first.metric(STARTS), Some(0), "the first is told no more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_go_to_a_collector_of_their_own() {
    let of_metrics = Collector::start().await.expect("collector");
    let endpoint = of_metrics.endpoint();
    let scene = Scene::with(
        By::Environment,
        &[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", endpoint.as_str())],
    )
    .await;
    live(&scene.rig, scene.task("exit 4")).await;
    counted(&of_metrics, 1).await;
    let span = scene.collector.wait_named(PATIENCE, "nomad.DestroyTask").await;
    assert!(span.is_some(), "spans go where they did");
    assert!(scene.collector.metrics().is_empty());
    assert!(of_metrics.spans().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_turned_off_alone() {
    let scene = Scene::with(By::PluginConfig, &[("OTEL_METRICS_EXPORTER", "none")]).await;
    live(&scene.rig, scene.task("exit 4")).await;
    let span = scene.collector.wait_named(PATIENCE, "nomad.DestroyTask").await;
    assert!(span.is_some(), "spans are exported");
    assert!(!has_thread_for_metrics(&scene.rig));
    assert!(scene.collector.metrics().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_are_turned_off_alone() {
    let scene = Scene::with(By::PluginConfig, &[("OTEL_TRACES_EXPORTER", "none")]).await;
    live(&scene.rig, scene.task("exit 4")).await;
    counted(&scene.collector, 1).await;
    assert!(has_thread_for_metrics(&scene.rig));
    assert!(scene.collector.spans().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disabled_sdk_exports_nothing_whoever_names_a_collector() {
    for by in [By::Environment, By::PluginConfig] {
        let scene = Scene::with(by, &[("OTEL_SDK_DISABLED", "true")]).await;
        live(&scene.rig, scene.task("exit 4")).await;
        let exporting: Vec<String> = threads(scene.rig.plugin().pid())
            .into_iter()
            .filter(|name| name.starts_with("OpenTelemetry"))
            .collect();
        assert!(exporting.is_empty(), "{by:?}: {exporting:?}");
        assert!(
            scene.collector.metrics().is_empty() && scene.collector.spans().is_empty(),
            "{by:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_holds_up_nobody() {
    // The port is given back, so that nobody listens there.
    let gone = Collector::start().await.expect("collector").endpoint();
    let mut opts = opts();
    opts.launch = opts
        .launch
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", gone)
        .env("OTEL_EXPORTER_OTLP_TIMEOUT", "50");
    let rig = Rig::with(opts).await.expect("rig");
    let image = rig.busybox().await.expect("image");
    for _ in 0..3 {
        live(&rig, TaskSpec::new(&image).memory_mb(32).sh("exit 4")).await;
    }
    let said = |what: &str| rig.plugin().stderr_lines().iter().filter(|l| l.contains(what)).count();
    assert_eq!(said("does not take metrics"), 1, "once, not with each interval");
    assert_eq!(said("does not take spans"), 1);
}

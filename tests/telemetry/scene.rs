//! A collector, and a rig whose plugin exports to it.

use std::time::Duration;

use testhost::containerd::ContainerdKind;
use testhost::otlp::{self, Collector, Span, attribute};
use testhost::rig::{Rig, RigOpts};
use testhost::task::TaskSpec;

/// Bound of every wait; wide, since the suite also runs in a slow guest.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Who names the collector.
#[derive(Clone, Copy, Debug)]
pub enum By {
    Environment,
    PluginConfig,
}

pub struct Scene {
    pub rig: Rig,
    pub collector: Collector,
    pub image: String,
}

pub fn opts() -> RigOpts {
    let kind = match std::env::var("CD_KIND").as_deref() {
        Ok("2.4") => ContainerdKind::V24,
        Ok("1.6") | Err(_) => ContainerdKind::Debian16,
        Ok(other) => panic!("CD_KIND is {other:?}: 1.6 or 2.4 is expected"),
    };
    let mut opts = RigOpts::new(kind).expect("CD_DRIVER_BIN");
    // Batches leave soon; the defaults are 5 s for spans and 60 s for metrics.
    opts.launch = opts
        .launch
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .env("OTEL_METRIC_EXPORT_INTERVAL", "100")
        .without_env("OTEL_EXPORTER_OTLP_ENDPOINT");
    opts
}

impl Scene {
    pub async fn new(by: By) -> Scene {
        Scene::with(by, &[]).await
    }

    /// With further variables in the plugin's environment.
    pub async fn with(by: By, env: &[(&str, &str)]) -> Scene {
        let collector = Collector::start().await.expect("collector");
        let mut opts = opts();
        for (name, value) in env {
            opts.launch = opts.launch.env(name, value);
        }
        match by {
            By::Environment => opts.launch = opts.launch.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint()),
            By::PluginConfig => opts.config = serde_json::json!({ "otlp_endpoint": collector.endpoint() }),
        }
        let rig = Rig::with(opts).await.expect("rig");
        let image = rig.busybox().await.expect("image");
        Scene { rig, collector, image }
    }

    pub fn task(&self, script: &str) -> TaskSpec {
        TaskSpec::new(&self.image).memory_mb(32).sh(script)
    }

    /// The whole trace of a call of this method for this task.
    pub async fn trace_of(&self, method: &str, task: &str) -> Vec<Span> {
        let name = format!("nomad.{method}");
        let of_task = |spans: &[Span]| {
            spans
                .iter()
                .find(|s| s.name == name && attribute(s, "task.id").as_deref() == Some(task))
                .cloned()
        };
        let root = self
            .collector
            .wait_for(PATIENCE, of_task)
            .await
            .unwrap_or_else(|| panic!("no span {name} of {task}"));
        // The call's own span is the last to end, but batches are not sent in order of that.
        let complete = |spans: &[Span]| {
            let trace: Vec<Span> = spans.iter().filter(|s| s.trace_id == root.trace_id).cloned().collect();
            otlp::is_connected_tree(&trace).then_some(trace)
        };
        let whole = self.collector.wait_for(Duration::from_secs(5), complete).await;
        whole.unwrap_or_else(|| panic!("not one tree:\n{}", otlp::render(&self.collector.trace(&root.trace_id))))
    }
}

/// The first span of that name among `spans`.
pub fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    spans
        .iter()
        .find(|s| s.name == name)
        .unwrap_or_else(|| panic!("no span {name}:\n{}", otlp::render(spans)))
}

/// Whether `below` hangs under `above`, at any depth.
pub fn is_under(spans: &[Span], below: &Span, above: &Span) -> bool {
    let mut at = below;
    while let Some(parent) = spans.iter().find(|s| s.span_id == at.parent_span_id) {
        if parent.span_id == above.span_id {
            return true;
        }
        at = parent;
    }
    false
}

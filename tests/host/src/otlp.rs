//! A collector that keeps the spans and metrics it receives.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
pub use opentelemetry_proto::tonic::metrics::v1::{Metric, metric};
use opentelemetry_proto::tonic::metrics::v1::{NumberDataPoint, number_data_point};
pub use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// A running collector on a free loopback port.
pub struct Collector {
    addr: std::net::SocketAddr,
    kept: Arc<Mutex<Kept>>,
    changed: watch::Receiver<u64>,
    server: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Kept {
    spans: Vec<Span>,
    /// By name, as received last.
    metrics: BTreeMap<String, Metric>,
    /// `service.name` of whoever sent metrics.
    services: BTreeSet<String>,
}

#[derive(Clone)]
struct Service {
    kept: Arc<Mutex<Kept>>,
    changed: watch::Sender<u64>,
}

impl Service {
    fn keep(&self, change: impl FnOnce(&mut Kept)) {
        change(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_modify(|n| *n += 1);
    }
}

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let groups = request
            .into_inner()
            .resource_spans
            .into_iter()
            .flat_map(|resource| resource.scope_spans);
        self.keep(|kept| kept.spans.extend(groups.flat_map(|scope| scope.spans)));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Service {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.keep(|kept| {
            for group in request.into_inner().resource_metrics {
                let attributes = group.resource.into_iter().flat_map(|resource| resource.attributes);
                let service = attributes.filter(|entry| entry.key == "service.name");
                kept.services.extend(service.filter_map(|entry| value(&entry)));
                let metrics = group.scope_metrics.into_iter().flat_map(|scope| scope.metrics);
                kept.metrics.extend(metrics.map(|metric| (metric.name.clone(), metric)));
            }
        });
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

impl Collector {
    pub async fn start() -> Result<Collector> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let kept = Arc::new(Mutex::new(Kept::default()));
        let (tx, changed) = watch::channel(0);
        let service = Service {
            kept: kept.clone(),
            changed: tx,
        };
        let server = tokio::spawn(async move {
            let serving = tonic::transport::Server::builder()
                .add_service(TraceServiceServer::new(service.clone()))
                .add_service(MetricsServiceServer::new(service))
                .serve_with_incoming(TcpListenerStream::new(listener));
            if let Err(error) = serving.await {
                eprintln!("collector: {error}");
            }
        });
        Ok(Collector {
            addr,
            kept,
            changed,
            server,
        })
    }

    /// `http://127.0.0.1:<port>`, the driver's `otlp_endpoint`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn spans(&self) -> Vec<Span> {
        self.kept().spans.clone()
    }

    /// By name, each as it was received last.
    pub fn metrics(&self) -> BTreeMap<String, Metric> {
        self.kept().metrics.clone()
    }

    /// The last value of the one point of a counter or gauge.
    pub fn metric(&self, name: &str) -> Option<u64> {
        self.kept().metrics.get(name).and_then(single)
    }

    /// `service.name` of all who sent metrics.
    pub fn services(&self) -> BTreeSet<String> {
        self.kept().services.clone()
    }

    /// Forgets everything.
    pub fn clear(&self) {
        *self.kept() = Kept::default();
    }

    pub fn named(&self, name: &str) -> Vec<Span> {
        self.spans().into_iter().filter(|span| span.name == name).collect()
    }

    pub fn trace(&self, trace_id: &[u8]) -> Vec<Span> {
        self.spans()
            .into_iter()
            .filter(|span| span.trace_id == trace_id)
            .collect()
    }

    /// Waits until `probe` finds something among the spans; `None` when the time is over.
    pub async fn wait_for<T>(&self, timeout: Duration, mut probe: impl FnMut(&[Span]) -> Option<T>) -> Option<T> {
        self.wait_until(timeout, || probe(&self.spans())).await
    }

    /// Waits until that counter or gauge is received with that value; false when the time is over.
    pub async fn wait_metric(&self, timeout: Duration, name: &str, wanted: u64) -> bool {
        let reached = || (self.metric(name) == Some(wanted)).then_some(());
        self.wait_until(timeout, reached).await.is_some()
    }

    async fn wait_until<T>(&self, timeout: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
        let mut changed = self.changed.clone();
        let search = async {
            loop {
                if let Some(found) = probe() {
                    return Some(found);
                }
                changed.changed().await.ok()?;
            }
        };
        tokio::time::timeout(timeout, search).await.ok().flatten()
    }

    /// Waits for a span of that name.
    pub async fn wait_named(&self, timeout: Duration, name: &str) -> Option<Span> {
        self.wait_for(timeout, |spans| spans.iter().find(|span| span.name == name).cloned())
            .await
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The points of a counter or gauge.
pub fn points(metric: &Metric) -> &[NumberDataPoint] {
    match &metric.data {
        Some(metric::Data::Sum(sum)) => &sum.data_points,
        Some(metric::Data::Gauge(gauge)) => &gauge.data_points,
        _ => &[],
    }
}

fn single(metric: &Metric) -> Option<u64> {
    match points(metric) {
        [point] => match point.value? {
            number_data_point::Value::AsInt(n) => u64::try_from(n).ok(),
            number_data_point::Value::AsDouble(_) => None,
        },
        _ => None,
    }
}

/// One trace id, one root, every other span's parent among them. A root whose parent is remote counts as the root.
pub fn is_connected_tree(spans: &[Span]) -> bool {
    let ids: BTreeSet<&[u8]> = spans.iter().map(|span| span.span_id.as_slice()).collect();
    let traces: BTreeSet<&[u8]> = spans.iter().map(|span| span.trace_id.as_slice()).collect();
    traces.len() == 1 && ids.len() == spans.len() && roots(spans).len() == 1
}

/// Spans whose parent is not among `spans`.
pub fn roots(spans: &[Span]) -> Vec<&Span> {
    let ids: BTreeSet<&[u8]> = spans.iter().map(|span| span.span_id.as_slice()).collect();
    spans
        .iter()
        .filter(|span| !ids.contains(span.parent_span_id.as_slice()))
        .collect()
}

/// The spans whose parent is `parent`.
pub fn children<'a>(spans: &'a [Span], parent: &Span) -> Vec<&'a Span> {
    spans
        .iter()
        .filter(|span| span.trace_id == parent.trace_id && span.parent_span_id == parent.span_id)
        .collect()
}

/// An attribute as text.
pub fn attribute(span: &Span, key: &str) -> Option<String> {
    span.attributes.iter().find(|entry| entry.key == key).and_then(value)
}

fn value(entry: &KeyValue) -> Option<String> {
    Some(match entry.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => text.clone(),
        any_value::Value::BoolValue(b) => b.to_string(),
        any_value::Value::IntValue(n) => n.to_string(),
        any_value::Value::DoubleValue(n) => n.to_string(),
        other => format!("{other:?}"),
    })
}

/// The tree as indented text, for messages of failed assertions and for people.
pub fn render(spans: &[Span]) -> String {
    let mut out = String::new();
    for root in roots(spans) {
        branch(spans, root, 0, &mut out);
    }
    out
}

fn branch(spans: &[Span], span: &Span, depth: usize, out: &mut String) {
    let micros = span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano) / 1000;
    out.push_str(&format!(
        "{}{} {}.{:03} ms\n",
        "  ".repeat(depth),
        span.name,
        micros / 1000,
        micros % 1000
    ));
    let mut below = children(spans, span);
    below.sort_by_key(|child| child.start_time_unix_nano);
    for child in below {
        branch(spans, child, depth + 1, out);
    }
}

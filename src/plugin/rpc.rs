//! The span around every call: the caller's trace context in, the outcome recorded once.

use std::future::Future;
use tonic::metadata::MetadataMap;
use tonic::{Code, Response, Status};
use tracing::{Instrument as _, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The span of a call, with the fields that an outcome is recorded in.
macro_rules! call_span {
    ($rpc:literal $(, $($fields:tt)*)?) => {
        tracing::info_span!(
            $rpc,
            otel.kind = "server",
            otel.status_description = tracing::field::Empty,
            $($($fields)*)?
        )
    };
}
pub(super) use call_span;

/// Runs `work` inside `span`. An error is recorded on the span and logged here, and nowhere else.
pub(super) async fn traced<T>(
    span: Span,
    metadata: MetadataMap,
    work: impl Future<Output = Result<T, Status>>,
) -> Result<Response<T>, Status> {
    adopt(&span, &metadata);
    let outcome = work.instrument(span.clone()).await;
    outcome.map(Response::new).inspect_err(|status| span.in_scope(|| record(&span, status)))
}

fn adopt(span: &Span, metadata: &MetadataMap) {
    if !metadata.contains_key("traceparent") {
        return;
    }
    let parent = opentelemetry::global::get_text_map_propagator(|p| p.extract(&Carrier(metadata)));
    // An error means that no exporter is installed: then there is no trace to join.
    span.set_parent(parent).ok();
}

fn record(span: &Span, status: &Status) {
    span.record("otel.status_description", status.message());
    let rpc = span.metadata().map_or("", |m| m.name());
    let code = status.code();
    match code {
        // Nomad asks after tasks that are gone, and tries calls that a driver may lack, in the ordinary course.
        Code::NotFound | Code::Unimplemented => {
            tracing::debug!(rpc, code = ?code, error = status.message(), "call refused");
        }
        _ => tracing::warn!(rpc, code = ?code, error = status.message(), "call failed"),
    }
}

/// gRPC metadata as the propagator reads it.
struct Carrier<'a>(&'a MetadataMap);

impl opentelemetry::propagation::Extractor for Carrier<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|v| v.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        ["traceparent", "tracestate"].into_iter().filter(|key| self.0.contains_key(*key)).collect()
    }
}

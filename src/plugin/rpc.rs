//! The span around every call: the caller's trace context in, the outcome recorded once.

use crate::telemetry::propagate;
use std::future::Future;
use tonic::metadata::MetadataMap;
use tonic::{Code, Response, Status};
use tracing::{Instrument as _, Span};

/// A call that has come in: `call!("WaitTask", &request, task.id = …)`. Its span is exported as `nomad.WaitTask`.
macro_rules! call {
    ($method:literal, $request:expr $(, $($fields:tt)*)?) => {
        $crate::plugin::rpc::Call::new(
            $method,
            tracing::info_span!(
                $crate::telemetry::names::NOMAD_RPC,
                otel.name = concat!("nomad.", $method),
                otel.kind = "server",
                otel.status_description = tracing::field::Empty,
                rpc.method = $method,
                rpc.grpc.status_code = tracing::field::Empty,
                $($($fields)*)?
            ),
            $request.metadata(),
        )
    };
}
pub(super) use call;

/// See [`call!`].
pub(super) struct Call {
    method: &'static str,
    span: Span,
}

impl Call {
    /// Joins the caller's trace, if there is one.
    pub(super) fn new(method: &'static str, span: Span, metadata: &MetadataMap) -> Self {
        let header = |name| Some((name, metadata.get(name)?.to_str().ok()?));
        propagate::adopt(
            &span,
            &propagate::extract(["traceparent", "tracestate"].into_iter().filter_map(header)),
        );
        Self { method, span }
    }

    /// Runs `work` inside the span. An error is recorded on the span and logged here, and nowhere else.
    pub(super) async fn answer<T>(self, work: impl Future<Output = Result<T, Status>>) -> Result<Response<T>, Status> {
        let outcome = work.instrument(self.span.clone()).await;
        let code = outcome.as_ref().err().map_or(0, |status| i32::from(status.code()));
        self.span.record("rpc.grpc.status_code", code);
        outcome.map(Response::new).inspect_err(|status| {
            self.span.record("otel.status_description", status.message());
            self.span.in_scope(|| log(self.method, status));
        })
    }
}

fn log(method: &'static str, status: &Status) {
    let (code, error) = (i32::from(status.code()), status.message());
    match status.code() {
        // Nomad asks after tasks that are gone, and tries calls that a driver may lack, in the ordinary course.
        Code::NotFound | Code::Unimplemented => {
            tracing::debug!(rpc.method = method, rpc.grpc.status_code = code, error, "call refused");
        }
        _ => tracing::warn!(rpc.method = method, rpc.grpc.status_code = code, error, "call failed"),
    }
}

#[cfg(test)]
mod tests {
    use crate::messages::Cx;
    use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tonic::Request;
    use tracing_subscriber::layer::SubscriberExt as _;

    /// The trace that a message sent while a call with this header is answered belongs to.
    async fn trace_of(header: Option<&str>) -> String {
        let provider = SdkTracerProvider::builder().build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
        let mut request = Request::new(());
        if let Some(header) = header {
            request.metadata_mut().insert("traceparent", header.parse().unwrap());
        }
        let work = async { Ok(Cx::current().0.span().span_context().trace_id().to_string()) };
        call!("WaitTask", &request, task.id = "t")
            .answer(work)
            .await
            .unwrap()
            .into_inner()
    }

    #[tokio::test]
    async fn messages_of_a_call_belong_to_the_callers_trace() {
        let id = "0af7651916cd43dd8448eb211c80319c";
        let joined = trace_of(Some(&format!("00-{id}-b7ad6b7169203331-01"))).await;
        assert_eq!(joined, id);
        let own = trace_of(None).await;
        assert!(own != id && own != "0".repeat(32), "{own}");
    }
}

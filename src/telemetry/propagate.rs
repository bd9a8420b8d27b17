//! Trace context on its way in (Nomad's metadata) and on to a span. W3C `traceparent` and `tracestate` only.

use opentelemetry::Context;
use opentelemetry::global;
use opentelemetry::propagation::{Extractor, Injector};
use opentelemetry::trace::TraceContextExt as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use std::sync::Once;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// Sets the process-wide propagator; without it the gateway to containerd would write no `traceparent`. Idempotent.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| global::set_text_map_propagator(TraceContextPropagator::new()));
}

/// The remote context in a set of headers; an empty context if there is none or it is not valid. Never fails: a bad
/// header costs the caller their trace, not their call.
pub fn extract<'a>(headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Context {
    install();
    let carrier = Pairs(headers.into_iter().collect());
    // Not from the context that is current here: a header that is missing means "no parent".
    global::get_text_map_propagator(|p| p.extract_with_context(&Context::new(), &carrier))
}

/// Writes a context as header pairs; nothing for an empty context.
#[must_use]
pub fn inject(cx: &Context) -> Vec<(String, String)> {
    install();
    let mut out = Written(Vec::new());
    global::get_text_map_propagator(|p| p.inject_context(cx, &mut out));
    out.0
}

/// Makes `span` a child of the span in `cx`, if `cx` has one and `span` is recorded.
pub fn adopt(span: &tracing::Span, cx: &Context) {
    if span.is_disabled() || !cx.span().span_context().is_valid() {
        return;
    }
    if span.set_parent(cx.clone()).is_err() {
        // The span was started already: it keeps the parent it has. A trace with a wrong parent, no more.
        tracing::debug!("trace context came after the start of its span");
    }
}

/// Notes that `span` was caused by, but is not part of, the span in `cx`: for timers, sweeps and subscriptions.
pub fn link(span: &tracing::Span, cx: &Context) {
    let cause = cx.span().span_context().clone();
    if !span.is_disabled() && cause.is_valid() {
        span.add_link(cause);
    }
}

/// The span in which an actor handles a message, child of the context that came with it:
/// `handling!(cx, names::TASK_START, "task_supervisor", Start::NAME, …fields)`.
macro_rules! handling {
    ($cx:expr, $name:expr, $actor:expr, $message:expr $(, $($fields:tt)*)?) => {{
        let span = ::tracing::info_span!(
            parent: None,
            $name,
            { $crate::telemetry::names::ACTOR_NAME } = $actor,
            { $crate::telemetry::names::MESSAGE } = $message,
            $($($fields)*)?
        );
        $crate::telemetry::propagate::adopt(&span, &$cx.0);
        span
    }};
}
pub(crate) use handling;

struct Pairs<'a>(Vec<(&'a str, &'a str)>);

impl Extractor for Pairs<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(k, _)| k.eq_ignore_ascii_case(key))
            .map(|(_, v)| *v)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(k, _)| *k).collect()
    }
}

struct Written(Vec<(String, String)>);

impl Injector for Written {
    fn set(&mut self, key: &str, value: String) {
        if !value.is_empty() {
            self.0.push((key.to_owned(), value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_comes_in_and_goes_out_unchanged() {
        let cx = extract([("Traceparent", PARENT)]);
        assert!(cx.span().span_context().is_remote());
        assert_eq!(inject(&cx), vec![("traceparent".to_owned(), PARENT.to_owned())]);
    }

    #[test]
    fn a_bad_or_missing_header_gives_an_empty_context() {
        for value in ["", "00", "zz-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "ü"] {
            assert!(
                !extract([("traceparent", value)]).span().span_context().is_valid(),
                "{value}"
            );
        }
        assert!(!extract([]).span().span_context().is_valid());
        assert_eq!(inject(&Context::new()), vec![]);
    }
}

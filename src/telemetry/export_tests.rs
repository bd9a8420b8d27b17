//! Export switched on, off and while it cannot be had.

use super::*;
use std::time::Instant;
use tracing::info_span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

fn quiet() -> LogLayer {
    Box::new(tracing_subscriber::fmt::layer().with_writer(std::io::sink))
}

#[test]
fn without_a_collector_spans_are_disabled_and_events_still_logged() {
    let io = runtime();
    let (telemetry, subscriber) = Telemetry::build(quiet(), io.handle().clone(), false);
    tracing::subscriber::with_default(subscriber, || {
        assert!(info_span!("a").is_disabled());
        assert!(tracing::enabled!(tracing::Level::INFO));
        telemetry.enable("127.0.0.1:1").unwrap();
        let span = info_span!("b");
        assert!(!span.is_disabled());
        assert!(tracing::debug_span!("c").is_disabled());
        assert!(info_span!(target: "h2", "d").is_disabled());
        let remote = propagate::extract([("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]);
        propagate::adopt(&span, &remote);
        use opentelemetry::trace::TraceContextExt as _;
        let trace = span.context().span().span_context().trace_id().to_string();
        assert_eq!(trace, "0af7651916cd43dd8448eb211c80319c");
        drop(span);
        let begun = Instant::now();
        telemetry.shutdown(Duration::from_secs(9));
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        assert!(info_span!("e").is_disabled());
    });
}

#[test]
fn a_disabled_sdk_stays_off() {
    let io = runtime();
    let (telemetry, _subscriber) = Telemetry::build(quiet(), io.handle().clone(), true);
    telemetry.enable("http://127.0.0.1:1").unwrap();
    assert!(!telemetry.is_exporting());
    assert!(telemetry.flush(Duration::from_secs(1)));
}

#[test]
fn a_bad_endpoint_is_an_error_that_shows_it() {
    let io = runtime();
    let (telemetry, _subscriber) = Telemetry::build(quiet(), io.handle().clone(), false);
    let error = telemetry.enable("http://not an address").unwrap_err().to_string();
    assert!(error.contains("not an address"), "{error}");
    assert!(!telemetry.is_exporting());
}

#[test]
fn the_environment_is_read_by_the_standard_names() {
    let read = |pairs: &'static [(&str, &str)]| {
        Options::read(move |n| pairs.iter().find(|(k, _)| *k == n).map(|(_, v)| (*v).to_owned()))
    };
    assert_eq!(read(&[]), Options::default());
    assert_eq!(
        read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:1")])
            .endpoint
            .as_deref(),
        Some("http://a:1")
    );
    let both = read(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "a"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "b"),
    ]);
    assert_eq!(both.endpoint.as_deref(), Some("b"));
    assert!(read(&[("OTEL_SDK_DISABLED", "True")]).disabled);
    assert!(read(&[("OTEL_TRACES_EXPORTER", "none")]).disabled);
}

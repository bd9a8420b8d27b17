//! Export switched on, off and while it cannot be had.

use super::*;
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
    let (telemetry, subscriber) = Telemetry::build(quiet(), io.handle().clone(), &Options::default());
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

fn off() -> Signal {
    Signal {
        disabled: true,
        ..Signal::default()
    }
}

#[test]
fn a_disabled_sdk_stays_off() {
    let io = runtime();
    let options = Options {
        spans: off(),
        metrics: off(),
    };
    let (telemetry, _subscriber) = Telemetry::build(quiet(), io.handle().clone(), &options);
    telemetry.enable("http://127.0.0.1:1").unwrap();
    assert!(!telemetry.is_exporting());
    assert!(telemetry.flush(Duration::from_secs(1)));
}

#[test]
fn spans_and_metrics_are_disabled_one_by_one() {
    let io = runtime();
    for (spans, metrics) in [(true, false), (false, true)] {
        let signal = |disabled| Signal {
            disabled,
            ..Signal::default()
        };
        let options = Options {
            spans: signal(spans),
            metrics: signal(metrics),
        };
        let (telemetry, _subscriber) = Telemetry::build(quiet(), io.handle().clone(), &options);
        telemetry.enable("http://127.0.0.1:1").unwrap();
        assert_eq!((telemetry.switch.is_on(), telemetry.meters.is_on()), (!spans, !metrics));
        telemetry.shutdown(Duration::ZERO);
        assert!(!telemetry.is_exporting());
    }
}

#[test]
fn a_bad_endpoint_is_an_error_that_shows_it() {
    let io = runtime();
    let (telemetry, _subscriber) = Telemetry::build(quiet(), io.handle().clone(), &Options::default());
    let error = telemetry.enable("http://not an address").unwrap_err().to_string();
    assert!(error.contains("not an address"), "{error}");
    assert!(!telemetry.is_exporting());
}

#[test]
fn the_environment_is_read_by_the_standard_names() {
    let read =
        |pairs: &[(&str, &str)]| Options::read(|n| pairs.iter().find(|(k, _)| *k == n).map(|(_, v)| (*v).to_owned()));
    assert_eq!(read(&[]), Options::default());
    let ends = |options: Options| (options.spans.endpoint, options.metrics.endpoint);
    let some = |text: &str| Some(text.to_owned());
    let one = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:1");
    assert_eq!(ends(read(&[one])), (some("http://a:1"), some("http://a:1")));
    let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "b");
    assert_eq!(ends(read(&[one, traces])), (some("b"), some("http://a:1")));
    let metrics = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "c");
    assert_eq!(ends(read(&[one, metrics])), (some("http://a:1"), some("c")));
    assert_eq!(ends(read(&[metrics])), (None, some("c")));
    let disabled = |options: Options| (options.spans.disabled, options.metrics.disabled);
    assert_eq!(disabled(read(&[("OTEL_SDK_DISABLED", "True")])), (true, true));
    assert_eq!(disabled(read(&[("OTEL_TRACES_EXPORTER", "none")])), (true, false));
    assert_eq!(disabled(read(&[("OTEL_METRICS_EXPORTER", "None")])), (false, true));
    assert_eq!(disabled(read(&[("OTEL_METRICS_EXPORTER", "otlp")])), (false, false));
}

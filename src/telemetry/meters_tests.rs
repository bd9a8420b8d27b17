//! What is said and counted of a collector, and who gets the values.

use super::*;
use opentelemetry_sdk::error::OTelSdkError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use testhost::otlp::Collector;

const PATIENCE: Duration = Duration::from_secs(30);

/// A collector that takes metrics or does not.
#[derive(Debug, Default)]
struct Moody(AtomicBool);

impl PushMetricExporter for Moody {
    async fn export(&self, _: &ResourceMetrics) -> OTelSdkResult {
        if self.0.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err(OTelSdkError::InternalFailure("away".into()))
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn temporality(&self) -> Temporality {
        Temporality::Cumulative
    }
}

#[tokio::test]
async fn each_failure_is_counted_and_the_first_of_an_outage_said() {
    let exporter = Counted::new(Moody::default());
    let before = Counter::MetricExportFaults.get();
    for _ in 0..3 {
        assert!(exporter.export(&ResourceMetrics::default()).await.is_err());
    }
    assert!(Counter::MetricExportFaults.get() >= before + 3);
    assert!(!exporter.begins_to_fail(), "it was said");
    exporter.inner.0.store(true, Ordering::Relaxed);
    assert!(exporter.export(&ResourceMetrics::default()).await.is_ok());
    assert!(!exporter.recovers(), "that was said, too");
    assert!(exporter.begins_to_fail(), "the next outage is said again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_collector_takes_over_and_after_the_end_there_is_none() {
    let (a, b) = (Collector::start().await.unwrap(), Collector::start().await.unwrap());
    let (meters, resource, io) = (
        Meters::new(false),
        Resource::builder().build(),
        tokio::runtime::Handle::current(),
    );
    assert!(meters.flush().is_none() && !meters.is_on());
    meters.enable(&a.endpoint(), &resource, &io).unwrap();
    meters.enable(&a.endpoint(), &resource, &io).unwrap();
    // Of the process, but no other unit test has loads.
    Gauge::LoadsWaiting.set(7);
    assert!(meters.flush().unwrap().done_by(Instant::now() + PATIENCE));
    assert_eq!(a.metric(Gauge::LoadsWaiting.name()), Some(7));
    assert_eq!(a.metrics().len(), Counter::ALL.len() + Gauge::ALL.len());
    Gauge::LoadsWaiting.set(8);
    meters.enable(&b.endpoint(), &resource, &io).unwrap();
    assert!(
        a.wait_metric(PATIENCE, Gauge::LoadsWaiting.name(), 8).await,
        "the old one gets the last values"
    );
    Gauge::LoadsWaiting.set(9);
    assert!(meters.end().unwrap().done_by(Instant::now() + PATIENCE));
    assert_eq!(b.metric(Gauge::LoadsWaiting.name()), Some(9));
    assert!(meters.flush().is_none() && !meters.is_on());
}

#[test]
fn disabled_it_stays_off() {
    let io = tokio::runtime::Runtime::new().unwrap();
    let meters = Meters::new(true);
    let resource = Resource::builder().build();
    meters.enable("http://127.0.0.1:1", &resource, io.handle()).unwrap();
    assert!(!meters.is_on());
}

#[test]
fn a_collector_that_is_away_is_not_waited_for() {
    let io = tokio::runtime::Runtime::new().unwrap();
    let meters = Meters::new(false);
    let resource = Resource::builder().build();
    meters.enable("http://127.0.0.1:1", &resource, io.handle()).unwrap();
    assert!(!meters.flush().unwrap().done_by(Instant::now()));
    // What is dropped ends on a thread of its own.
    let begun = Instant::now();
    drop(meters);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

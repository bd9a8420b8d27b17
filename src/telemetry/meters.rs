//! The export of the counters and gauges.
//!
//! Each is an observable instrument that reads its cell of the static tables when it is collected. A provider, with the
//! SDK's thread and timer, exists only while somebody has named a collector: without one, counting stays an atomic
//! addition. With another collector a new provider takes over, and the old one sends the values of that moment.

use super::TelemetryError;
use super::aside::Aside;
use super::counters::Counter;
use super::export::SERVICE;
use super::gauges::Gauge;
use super::lazy::Counted;
use opentelemetry::metrics::{Meter, MeterProvider as _};
use opentelemetry_otlp::{MetricExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider, Temporality};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The collector of the metrics, if there is one.
#[derive(Debug)]
pub struct Meters {
    disabled: bool,
    current: Mutex<Option<Export>>,
}

/// One collector and what exports to it.
#[derive(Debug)]
struct Export {
    endpoint: String,
    provider: SdkMeterProvider,
}

impl Meters {
    /// None yet; with `disabled`, none ever.
    #[must_use]
    pub fn new(disabled: bool) -> Self {
        Self {
            disabled,
            current: Mutex::new(None),
        }
    }

    /// Exports to `endpoint`, a URL, from now on; the same again is a no-op. Does not connect.
    ///
    /// # Errors
    /// If the endpoint is not an address.
    pub fn enable(
        &self,
        endpoint: &str,
        resource: &Resource,
        io: &tokio::runtime::Handle,
    ) -> Result<(), TelemetryError> {
        if self.disabled {
            return Ok(());
        }
        let mut current = self.lock();
        if current.as_ref().is_some_and(|export| export.endpoint == endpoint) {
            return Ok(());
        }
        let exporter = {
            // The channel's tasks are spawned where it is built; the reader's thread, which drives the calls, has no
            // runtime.
            let _inside = io.enter();
            MetricExporter::builder().with_tonic().with_endpoint(endpoint).build()
        };
        let exporter = exporter.map_err(|e| TelemetryError::Endpoint {
            endpoint: endpoint.to_owned(),
            reason: e.to_string(),
        })?;
        let provider = SdkMeterProvider::builder()
            .with_resource(resource.clone())
            .with_reader(PeriodicReader::builder(Counted::new(exporter)).build())
            .build();
        observe(&provider.meter(SERVICE));
        let old = current.replace(Export {
            endpoint: endpoint.to_owned(),
            provider,
        });
        drop(current);
        // The caller may be an arbiter.
        drop(old.map(Export::end));
        Ok(())
    }

    /// True while metrics are exported.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.lock().is_some()
    }

    /// Begins to send the values of now.
    #[must_use]
    pub fn flush(&self) -> Option<Aside> {
        let provider = self.lock().as_ref().map(|export| export.provider.clone())?;
        Some(Aside::start("metric-flush", move || provider.force_flush()))
    }

    /// Begins to send the values of now for the last time; nothing is exported after that.
    pub fn end(&self) -> Option<Aside> {
        let old = self.lock().take()?;
        Some(old.end())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Export>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Meters {
    fn drop(&mut self) {
        // The last reference to a provider waits for a collector that is away.
        drop(self.end());
    }
}

impl Export {
    fn end(self) -> Aside {
        Aside::start("metric-end", move || self.provider.shutdown())
    }
}

/// The instruments live as long as the provider: their callbacks belong to its reader.
fn observe(meter: &Meter) {
    for counter in Counter::ALL.iter().copied() {
        meter
            .u64_observable_counter(counter.name())
            .with_description(counter.doc())
            .with_unit(counter.unit())
            .with_callback(move |observer| observer.observe(counter.get(), &[]))
            .build();
    }
    for gauge in Gauge::ALL.iter().copied() {
        meter
            .u64_observable_gauge(gauge.name())
            .with_description(gauge.doc())
            .with_callback(move |observer| observer.observe(u64::try_from(gauge.get()).unwrap_or(u64::MAX), &[]))
            .build();
    }
}

impl<E: PushMetricExporter> PushMetricExporter for Counted<E> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let result = self.inner.export(metrics).await;
        match &result {
            Ok(()) => {
                if self.recovers() {
                    tracing::info!("the collector takes metrics again");
                }
            }
            Err(error) => {
                Counter::MetricExportFaults.bump();
                if self.begins_to_fail() {
                    tracing::warn!(%error, "the collector does not take metrics; tasks are not affected");
                }
            }
        }
        result
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.inner.temporality()
    }
}

#[cfg(test)]
#[path = "meters_tests.rs"]
mod tests;

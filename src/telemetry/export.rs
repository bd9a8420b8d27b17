//! Installing the subscriber once, and turning the export of spans and metrics on, over and off.
//!
//! Export is OTLP over gRPC, in batches, from threads of the SDK. A collector that is away or slow never blocks a
//! caller: a full queue drops spans, what fails is counted and said once (`lazy::Counted`).

use super::aside::Aside;
use super::lazy::{self, Counted, LazyProcessor, Switch, WhileOn};
use super::meters::Meters;
use super::propagate;
use opentelemetry::Key;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SdkTracerProvider, SpanProcessor as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{Layer, Registry, filter::filter_fn};

/// Default of `service.name`.
pub const SERVICE: &str = "containerd-driver";

/// Upper bound for a flush or a shutdown, whatever the caller asks for: Nomad kills a plugin after 2 s.
pub const END_MAX: Duration = Duration::from_secs(1);

/// The layer that writes log lines (hclog JSON for Nomad, text for a terminal). It is shown events only, of other
/// crates those at WARN and above; how far down ours go is its own filter's business.
pub type LogLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// What the environment says about the export. The rest of the standard variables (service name, resource attributes,
/// headers, sampler, batch sizes, interval, time-outs) is read by the SDK itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Of spans.
    pub spans: Signal,
    /// Of counters and gauges.
    pub metrics: Signal,
}

/// What the environment says about the export of one kind of thing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signal {
    /// Where to export to from the start.
    pub endpoint: Option<String>,
    /// `OTEL_SDK_DISABLED=true` or the exporter `none`: never export, whatever is configured later.
    pub disabled: bool,
}

impl Options {
    /// Reads them through `get`, e.g. `|name| std::env::var(name).ok()`.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name| get(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        let is = |name, wanted: &str| get(name).is_some_and(|v| v.eq_ignore_ascii_case(wanted));
        let signal = |endpoint, exporter| Signal {
            endpoint: get(endpoint).or_else(|| get("OTEL_EXPORTER_OTLP_ENDPOINT")),
            disabled: is("OTEL_SDK_DISABLED", "true") || is(exporter, "none"),
        };
        Self {
            spans: signal("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER"),
            metrics: signal("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_METRICS_EXPORTER"),
        }
    }
}

/// Why telemetry could not be set up. Never a reason to refuse work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TelemetryError {
    /// A subscriber is installed already.
    #[error("tracing: a subscriber is installed already")]
    Installed,
    /// The endpoint cannot be used.
    #[error("otlp endpoint {endpoint:?}: {reason}: expected http://host:port")]
    Endpoint {
        /// As given.
        endpoint: String,
        /// The exporter's words.
        reason: String,
    },
}

/// The installed telemetry. Keep it for the life of the process.
pub struct Telemetry {
    switch: Arc<Switch>,
    meters: Meters,
    resource: Resource,
    io: tokio::runtime::Handle,
    /// No spans, ever.
    disabled: bool,
    /// Where spans go.
    endpoint: Mutex<Option<String>>,
}

impl Telemetry {
    /// Installs the process-wide subscriber. `io` is the runtime on which the exporter's connection lives; it must be
    /// multi-threaded and outlive the last flush. The endpoints in `options` are enabled at once; a bad one is told
    /// through the log, since a typo there must not keep tasks from running.
    ///
    /// # Errors
    /// If a subscriber is installed already.
    pub fn install(log: LogLayer, io: tokio::runtime::Handle, options: &Options) -> Result<Self, TelemetryError> {
        let (telemetry, subscriber) = Self::build(log, io, options);
        tracing::subscriber::set_global_default(subscriber).map_err(|_| TelemetryError::Installed)?;
        if let Some(endpoint) = &options.spans.endpoint
            && let Err(error) = telemetry.enable_spans(&url(endpoint))
        {
            tracing::warn!(%error, "spans are not exported");
        }
        if let Some(endpoint) = &options.metrics.endpoint
            && let Err(error) = telemetry.enable_metrics(&url(endpoint))
        {
            tracing::warn!(%error, "metrics are not exported");
        }
        Ok(telemetry)
    }

    /// The parts of [`Telemetry::install`] without the global state, for tests. Of `options`, what is disabled.
    pub fn build(
        log: LogLayer,
        io: tokio::runtime::Handle,
        options: &Options,
    ) -> (
        Self,
        impl tracing::Subscriber + Send + Sync + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    ) {
        propagate::install();
        let switch = Arc::new(Switch::default());
        let resource = resource();
        let provider = SdkTracerProvider::builder()
            .with_resource(resource.clone())
            .with_span_processor(LazyProcessor(switch.clone()))
            .build();
        let spans = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer(SERVICE))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(WhileOn(switch.clone()));
        // Ours as far as the layer's own filter lets them; of libraries only what a person should see (tonic and its
        // friends tell every poll at TRACE).
        let events = log.with_filter(filter_fn(|meta| {
            !meta.is_span() && (lazy::is_ours(meta) || *meta.level() <= tracing::Level::WARN)
        }));
        let subscriber = Registry::default().with(events).with(spans);
        (
            Self {
                switch,
                meters: Meters::new(options.metrics.disabled),
                resource,
                io,
                disabled: options.spans.disabled,
                endpoint: Mutex::new(None),
            },
            subscriber,
        )
    }

    /// Exports spans and metrics to `endpoint` from now on, unless they are disabled. The same endpoint again is a
    /// no-op; another one takes over, and what is queued for the old one is still sent there. Does not connect: a
    /// collector that is away is no error.
    ///
    /// # Errors
    /// If the endpoint is not an address.
    pub fn enable(&self, endpoint: &str) -> Result<(), TelemetryError> {
        let endpoint = url(endpoint);
        match (self.enable_spans(&endpoint), self.enable_metrics(&endpoint)) {
            // One error can be returned; they differ if a variable for one of both has a say.
            (Err(spans), Err(metrics)) if spans != metrics => {
                tracing::warn!(error = %metrics, "metrics are not exported");
                Err(spans)
            }
            (spans, metrics) => spans.and(metrics),
        }
    }

    fn enable_metrics(&self, endpoint: &str) -> Result<(), TelemetryError> {
        self.meters.enable(endpoint, &self.resource, &self.io)
    }

    fn enable_spans(&self, endpoint: &str) -> Result<(), TelemetryError> {
        if self.disabled {
            return Ok(());
        }
        let mut current = self.endpoint.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_deref() == Some(endpoint) {
            return Ok(());
        }
        let exporter = {
            // The channel's tasks are spawned where it is built.
            let _inside = self.io.enter();
            SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()
        };
        let exporter = exporter.map_err(|e| TelemetryError::Endpoint {
            endpoint: endpoint.to_owned(),
            reason: e.to_string(),
        })?;
        let mut processor = BatchSpanProcessor::builder(Counted::new(exporter)).build();
        processor.set_resource(&self.resource);
        if let Some(old) = self.switch.put(processor) {
            // The caller may be an arbiter.
            drop(Aside::start("span-handover", move || {
                old.shutdown_with_timeout(END_MAX)
            }));
        }
        *current = Some(endpoint.to_owned());
        Ok(())
    }

    /// True while spans are recorded or metrics exported.
    #[must_use]
    pub fn is_exporting(&self) -> bool {
        self.switch.is_on() || self.meters.is_on()
    }

    /// Sends what is queued, and the metrics as they are; false if that was not done within `timeout` (at most
    /// [`END_MAX`]).
    #[must_use]
    pub fn flush(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout.min(END_MAX);
        let spans = self.switch.current();
        let spans = spans.map(|p| Aside::start("span-flush", move || p.force_flush()));
        let metrics = self.meters.flush();
        // Both are under way: the second has had the time of the first.
        let done = [spans, metrics].map(|work| work.is_none_or(|work| work.done_by(deadline)));
        done == [true, true]
    }

    /// Sends what is queued, and the metrics as they are, and ends the export; false if that was not done within
    /// `timeout` (at most [`END_MAX`]). Blocks, so not on the only thread of `io`; at worst it then takes the whole
    /// time-out.
    pub fn shutdown(&self, timeout: Duration) -> bool {
        let timeout = timeout.min(END_MAX);
        let deadline = Instant::now() + timeout;
        *self.endpoint.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let metrics = self.meters.end();
        let spans = self.switch.take();
        let spans = spans.is_none_or(|p| p.shutdown_with_timeout(timeout).is_ok());
        metrics.is_none_or(|work| work.done_by(deadline)) && spans
    }
}

/// `host:port` means `http://host:port`; tonic wants the scheme.
fn url(endpoint: &str) -> String {
    if endpoint.contains("://") {
        endpoint.to_owned()
    } else {
        format!("http://{endpoint}")
    }
}

fn resource() -> Resource {
    let found = Resource::builder().build();
    let named = found
        .get(&Key::from_static_str("service.name"))
        .is_some_and(|v| !v.as_str().starts_with("unknown_service"));
    let builder = Resource::builder().with_attribute(opentelemetry::KeyValue::new(
        "service.version",
        env!("CARGO_PKG_VERSION"),
    ));
    if named {
        builder.build()
    } else {
        builder.with_service_name(SERVICE).build()
    }
}

#[cfg(test)]
#[path = "export_tests.rs"]
mod tests;

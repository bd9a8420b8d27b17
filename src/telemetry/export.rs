//! Installing the subscriber once, and turning the export of spans on, over and off.
//!
//! Export is OTLP over gRPC, in batches, from a thread of the SDK. A collector that is away or slow never blocks a
//! caller: a full queue drops spans, a failed batch is counted and said once (`lazy::Counted`).

use super::lazy::{self, Counted, LazyProcessor, Switch, WhileOn};
use super::propagate;
use opentelemetry::Key;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SdkTracerProvider, SpanProcessor as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{Layer, Registry, filter::filter_fn};

/// Default of `service.name`.
pub const SERVICE: &str = "containerd-driver";

/// Upper bound for a flush or a shutdown, whatever the caller asks for: Nomad kills a plugin after 2 s.
pub const END_MAX: Duration = Duration::from_secs(1);

/// The layer that writes log lines (hclog JSON for Nomad, text for a terminal). It is shown events only, of other
/// crates those at WARN and above; how far down ours go is its own filter's business.
pub type LogLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// What the environment says about tracing. The rest of the standard variables (service name, resource attributes,
/// headers, sampler, batch sizes, time-outs) is read by the SDK itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Where to export to from the start.
    pub endpoint: Option<String>,
    /// `OTEL_SDK_DISABLED=true` or `OTEL_TRACES_EXPORTER=none`: never export, whatever is configured later.
    pub disabled: bool,
}

impl Options {
    /// Reads them through `get`, e.g. `|name| std::env::var(name).ok()`.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name| get(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        Self {
            endpoint: get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| get("OTEL_EXPORTER_OTLP_ENDPOINT")),
            disabled: get("OTEL_SDK_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"))
                || get("OTEL_TRACES_EXPORTER").is_some_and(|v| v.eq_ignore_ascii_case("none")),
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
    resource: Resource,
    io: tokio::runtime::Handle,
    disabled: bool,
    endpoint: Mutex<Option<String>>,
}

impl Telemetry {
    /// Installs the process-wide subscriber. `io` is the runtime on which the exporter's connection lives; it must be
    /// multi-threaded and outlive the last flush. An endpoint in `options` is enabled at once; a bad one is told
    /// through the log, since a typo there must not keep tasks from running.
    ///
    /// # Errors
    /// If a subscriber is installed already.
    pub fn install(log: LogLayer, io: tokio::runtime::Handle, options: &Options) -> Result<Self, TelemetryError> {
        let (telemetry, subscriber) = Self::build(log, io, options.disabled);
        tracing::subscriber::set_global_default(subscriber).map_err(|_| TelemetryError::Installed)?;
        if let Some(endpoint) = &options.endpoint
            && let Err(error) = telemetry.enable(endpoint)
        {
            tracing::warn!(%error, "spans are not exported");
        }
        Ok(telemetry)
    }

    /// The parts of [`Telemetry::install`] without the global state, for tests.
    pub fn build(
        log: LogLayer,
        io: tokio::runtime::Handle,
        disabled: bool,
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
                resource,
                io,
                disabled,
                endpoint: Mutex::new(None),
            },
            subscriber,
        )
    }

    /// Exports spans to `endpoint` from now on. The same endpoint again is a no-op; another one takes over, and what
    /// is queued for the old one is still sent there. Does not connect: a collector that is away is no error.
    ///
    /// # Errors
    /// If the endpoint is not an address.
    pub fn enable(&self, endpoint: &str) -> Result<(), TelemetryError> {
        if self.disabled {
            return Ok(());
        }
        let endpoint = if endpoint.contains("://") {
            endpoint.to_owned()
        } else {
            format!("http://{endpoint}")
        };
        let mut current = self.endpoint.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref() == Some(&endpoint) {
            return Ok(());
        }
        let exporter = {
            // The channel's tasks are spawned where it is built.
            let _inside = self.io.enter();
            SpanExporter::builder()
                .with_tonic()
                .with_endpoint(endpoint.clone())
                .build()
        };
        let exporter = exporter.map_err(|e| TelemetryError::Endpoint {
            endpoint: endpoint.clone(),
            reason: e.to_string(),
        })?;
        let mut processor = BatchSpanProcessor::builder(Counted::new(exporter)).build();
        processor.set_resource(&self.resource);
        if let Some(old) = self.switch.put(processor) {
            // Bounded by the SDK; on a thread of its own, since the caller may be an arbiter.
            let spawned = std::thread::Builder::new()
                .name("span-handover".into())
                .spawn(move || drop(old.shutdown_with_timeout(END_MAX)));
            drop(spawned);
        }
        *current = Some(endpoint);
        Ok(())
    }

    /// True while spans are recorded.
    #[must_use]
    pub fn is_exporting(&self) -> bool {
        self.switch.is_on()
    }

    /// Sends what is queued; false if that was not done within `timeout` (at most [`END_MAX`]).
    #[must_use]
    pub fn flush(&self, timeout: Duration) -> bool {
        self.switch
            .current()
            .is_none_or(|p| lazy::flush(p, timeout.min(END_MAX)))
    }

    /// Sends what is queued and ends the export; false if that was not done within `timeout` (at most [`END_MAX`]).
    /// Blocks, so not on the only thread of `io`; at worst it then takes the whole time-out.
    pub fn shutdown(&self, timeout: Duration) -> bool {
        *self.endpoint.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.switch
            .take()
            .is_none_or(|p| p.shutdown_with_timeout(timeout.min(END_MAX)).is_ok())
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

//! The span processor that does nothing until somebody names a collector.
//!
//! The collector's address can come from the environment at start or from Nomad's plugin configuration later, but a
//! tracing layer cannot be exchanged later (reloading breaks `span.context()` and `set_parent`). So the layer and its
//! provider are there from the start, behind a filter that turns every span off, and only this processor changes.

use super::counters::Counter;
use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context as LayerContext, Filter};

/// Only spans of this crate are exported.
pub const TARGET: &str = "containerd_driver";

/// What the filter, the processor and the owner share.
#[derive(Debug, Default)]
pub struct Switch {
    on: AtomicBool,
    inner: RwLock<Option<Arc<BatchSpanProcessor>>>,
}

impl Switch {
    /// True once spans are recorded.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Puts a processor in place and turns spans on. Gives back the one that was there.
    pub fn put(&self, processor: BatchSpanProcessor) -> Option<Arc<BatchSpanProcessor>> {
        let old = self
            .inner
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .replace(Arc::new(processor));
        self.on.store(true, Ordering::Relaxed);
        tracing::callsite::rebuild_interest_cache();
        old
    }

    /// Turns spans off and gives back the processor.
    pub fn take(&self) -> Option<Arc<BatchSpanProcessor>> {
        self.on.store(false, Ordering::Relaxed);
        tracing::callsite::rebuild_interest_cache();
        self.inner.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The processor in place. The lock is held for a pointer copy only.
    #[must_use]
    pub fn current(&self) -> Option<Arc<BatchSpanProcessor>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The provider's only processor.
#[derive(Debug)]
pub struct LazyProcessor(pub Arc<Switch>);

impl SpanProcessor for LazyProcessor {
    fn on_start(&self, _span: &mut Span, _cx: &Context) {}

    fn on_end(&self, span: SpanData) {
        if let Some(inner) = self.0.current() {
            inner.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.current().map_or(Ok(()), |inner| inner.force_flush())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0
            .take()
            .map_or(Ok(()), |inner| inner.shutdown_with_timeout(timeout))
    }
}

/// True for what this crate's own modules say.
#[must_use]
pub fn is_ours(meta: &Metadata<'_>) -> bool {
    meta.target()
        .strip_prefix(TARGET)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Per-layer filter of the OpenTelemetry layer: our spans at INFO, and warnings on them, while the switch is on.
pub struct WhileOn(pub Arc<Switch>);

impl WhileOn {
    fn wants(meta: &Metadata<'_>) -> bool {
        is_ours(meta) && *meta.level() <= if meta.is_span() { Level::INFO } else { Level::WARN }
    }
}

impl<S: Subscriber> Filter<S> for WhileOn {
    fn enabled(&self, meta: &Metadata<'_>, _: &LayerContext<'_, S>) -> bool {
        self.0.is_on() && Self::wants(meta)
    }

    fn callsite_enabled(&self, meta: &'static Metadata<'static>) -> tracing::subscriber::Interest {
        // Cached per callsite until the switch turns, so that a span which is off costs one load and one branch.
        if self.0.is_on() && Self::wants(meta) {
            tracing::subscriber::Interest::always()
        } else {
            tracing::subscriber::Interest::never()
        }
    }
}

/// Counts what the collector does not take and says so once per outage, not once per batch.
#[derive(Debug)]
pub struct Counted<E> {
    /// The exporter proper.
    pub inner: E,
    failing: AtomicBool,
}

impl<E> Counted<E> {
    /// Wraps an exporter.
    pub fn new(inner: E) -> Self {
        Self {
            inner,
            failing: AtomicBool::new(false),
        }
    }

    /// After a failure: true for the first of an outage.
    pub(super) fn begins_to_fail(&self) -> bool {
        !self.failing.swap(true, Ordering::Relaxed)
    }

    /// After a success: true for the first after an outage.
    pub(super) fn recovers(&self) -> bool {
        self.failing.swap(false, Ordering::Relaxed)
    }
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let result = self.inner.export(batch).await;
        match &result {
            Ok(()) => {
                if self.recovers() {
                    tracing::info!("the trace collector takes spans again");
                }
            }
            Err(error) => {
                Counter::SpanExportFaults.bump();
                Counter::SpansDropped.add(spans);
                if self.begins_to_fail() {
                    tracing::warn!(%error, "the trace collector does not take spans; tasks are not affected");
                }
            }
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

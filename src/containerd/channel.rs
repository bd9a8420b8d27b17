//! The channel, what every request carries, and how long an answer may take.
//!
//! The channel is lazy and heals by itself: while the socket is dead every call fails at once, the first call after
//! containerd is back succeeds (observed). It must be made inside the I/O runtime, where its connection tasks live.
//! Streams carry no deadline: the server would end them when it passes.

use super::error::{fault, late, refused};
use crate::messages::runtime::ContainerdFault;
use crate::telemetry::names;
use opentelemetry::propagation::Injector;
use std::future::Future;
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};
use tracing::{Instrument as _, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// containerd's own limit for a message it receives (`defaults.DefaultMaxRecvMsgSize`); tonic's is 4 MiB.
pub(super) const MESSAGE_MAX_BYTES: usize = 16 << 20;

/// Lists that are one message: what containerd sends is bounded by its own configuration (16 MiB unless it says otherwise).
pub(super) const LIST_MAX_BYTES: usize = 256 << 20;

/// Connecting to a unix socket either works at once or not at all; a full backlog is a hung containerd.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Makes the channel without dialling.
pub(super) fn lazy(socket: &str) -> Result<Channel, ContainerdFault> {
    let endpoint = Endpoint::from_shared(format!("unix://{socket}"))
        .map_err(|e| refused("connect", format!("containerd_address {socket:?}: {e}")))?;
    Ok(endpoint.connect_timeout(CONNECT_TIMEOUT).connect_lazy())
}

/// Adds to each request what containerd needs to know beside its message.
#[derive(Debug, Clone)]
pub(super) struct Outgoing {
    namespace: MetadataValue<Ascii>,
    lease: Option<MetadataValue<Ascii>>,
}

impl Outgoing {
    pub(super) fn new(namespace: &str) -> Result<Self, ContainerdFault> {
        let value = namespace
            .parse()
            .map_err(|e| refused("connect", format!("namespace {namespace:?}: {e}")))?;
        Ok(Self {
            namespace: value,
            lease: None,
        })
    }

    /// A lease id that cannot be a header is left out: containerd would refuse the id anyway when it is created.
    pub(super) fn with_lease(&self, lease: &str) -> Self {
        Self {
            namespace: self.namespace.clone(),
            lease: lease.parse().ok(),
        }
    }
}

impl Interceptor for Outgoing {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert("containerd-namespace", self.namespace.clone());
        if let Some(lease) = &self.lease {
            metadata.insert("containerd-lease", lease.clone());
        }
        // Runs in the caller's poll, so the current span is the caller's. Without a propagator nothing is written.
        let cx = Span::current().context();
        opentelemetry::global::get_text_map_propagator(|p| p.inject_context(&cx, &mut Carrier(metadata)));
        Ok(request)
    }
}

struct Carrier<'a>(&'a mut MetadataMap);

impl Injector for Carrier<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(key), Ok(value)) = (key.parse::<MetadataKey<Ascii>>(), value.parse()) {
            self.0.insert(key, value);
        }
    }
}

/// One kind of unary call: its name in errors and spans, and its deadline.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) operation: &'static str,
    pub(super) deadline: Duration,
}

impl Call {
    /// A call that only touches containerd's database.
    pub(super) const fn short(operation: &'static str) -> Self {
        Self::within(operation, 10)
    }

    pub(super) const fn within(operation: &'static str, seconds: u64) -> Self {
        Self {
            operation,
            deadline: Duration::from_secs(seconds),
        }
    }

    /// The request with its deadline: containerd stops working on it when the deadline has passed.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.deadline);
        request
    }

    /// Waits for the answer. tonic's timer covers the wait for response headers only, hence the second, later one:
    /// no call is without an end.
    pub(super) async fn answer<T, F>(&self, call: F) -> Result<T, ContainerdFault>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.status(call)
            .await?
            .map_err(|status| fault(self.operation, &status))
    }

    /// As [`Call::answer`], with the status for callers that look closer.
    pub(super) async fn status<T, F>(&self, call: F) -> Result<Result<T, Status>, ContainerdFault>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        // A call outside of any request (a probe, a sweep) makes no trace of its own.
        let span = if Span::current().is_none() {
            Span::none()
        } else {
            tracing::info_span!(
                names::CONTAINERD_CALL,
                otel.kind = "client",
                { names::OPERATION } = self.operation
            )
        };
        let grace = Duration::from_secs(1);
        match tokio::time::timeout(self.deadline + grace, call.instrument(span)).await {
            Ok(answer) => Ok(answer.map(Response::into_inner)),
            Err(_) => Err(late(self.operation, self.deadline)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_carries_namespace_lease_and_deadline() {
        const CALL: Call = Call::short("x");
        let outgoing = Outgoing::new("nomad").unwrap();
        let sent = |mut outgoing: Outgoing| {
            let mut request = Request::new(());
            *request.metadata_mut() = CALL.request(()).metadata().clone();
            outgoing.call(request).unwrap().metadata().clone()
        };
        let plain = sent(outgoing.clone());
        assert_eq!(plain.get("containerd-namespace").unwrap(), "nomad");
        assert!(plain.get("containerd-lease").is_none());
        assert_eq!(plain.get("grpc-timeout").unwrap(), "10000000u");
        assert_eq!(sent(outgoing.with_lease("l")).get("containerd-lease").unwrap(), "l");
        assert!(Outgoing::new("a\nb").is_err());
    }

    #[tokio::test]
    async fn no_answer_is_an_answer_after_the_deadline() {
        const CALL: Call = Call {
            operation: "x",
            deadline: Duration::from_millis(10),
        };
        let fault = CALL.answer::<(), _>(std::future::pending()).await.unwrap_err();
        assert_eq!(fault.kind, crate::messages::runtime::FaultKind::Deadline);
    }
}

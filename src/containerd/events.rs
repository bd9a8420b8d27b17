//! The one subscription to what happens in containerd, and the marker that shows that it is live.
//!
//! grpc-go sends response headers with the first event, so "subscribed" cannot be seen from the call. Whoever
//! subscribes therefore publishes markers until one comes back: from then on no event is missed.

use super::channel::{Call, MESSAGE_MAX_BYTES};
use super::error::fault;
use super::tasks::exit_record;
use super::types::nanoseconds;
use super::{Gateway, Line};
use crate::messages::runtime::ContainerdFault;
use crate::spec::identity::ContainerId;
use crate::spec::record::ExitRecord;
use containerd_client::events::{ContainerDelete, TaskExit, TaskOom};
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::{PublishRequest, SubscribeRequest};
use containerd_client::types::Envelope;
use futures_util::stream::{self, Stream, StreamExt as _, TryStreamExt as _};
use prost::Message as _;
use tonic::Request;

const EXIT_TOPIC: &str = "/tasks/exit";
const OOM_TOPIC: &str = "/tasks/oom";
const DELETE_TOPIC: &str = "/containers/delete";
/// Ours; containerd takes any topic of words and slashes, and carries payloads that it does not know as they are.
const MARKER_TOPIC: &str = "/containerd-driver/marker";
const MARKER_TYPE: &str = "containerd-driver/marker";

/// Something that happened in our namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// A process has ended.
    Exited {
        /// Its container.
        container: ContainerId,
        /// Empty for the container's first process.
        exec_id: String,
        /// Process id on the host.
        pid: u32,
        /// How.
        exit: ExitRecord,
    },
    /// The kernel killed a process of the container for want of memory.
    Oom {
        /// The container.
        container: ContainerId,
    },
    /// The container's record was deleted. A shim that has to go at once after a kill may take the news of the exit
    /// with it, so this may be all that is told of a task that was removed by someone else.
    Deleted {
        /// The container.
        container: ContainerId,
    },
    /// A marker came back.
    Marker {
        /// As it was given to [`Gateway::publish_marker`].
        nonce: String,
    },
    /// Something that we do not understand.
    Other,
}

impl Gateway {
    fn events(&self) -> EventsClient<Line> {
        EventsClient::new(self.line()).max_decoding_message_size(MESSAGE_MAX_BYTES)
    }

    /// Subscribes with the first poll. The stream ends after its first error, or when containerd closes it; events
    /// of the time in between are lost, so list tasks after every start of a stream.
    pub fn subscribe(&self) -> impl Stream<Item = Result<RuntimeEvent, ContainerdFault>> + Send + 'static {
        const OPERATION: &str = "subscribe to events";
        let mut client = self.events();
        let namespace = self.namespace();
        let filters = [EXIT_TOPIC, OOM_TOPIC, DELETE_TOPIC, MARKER_TOPIC]
            .iter()
            .map(|topic| format!("namespace=={namespace:?},topic=={topic:?}"))
            .collect();
        let open = async move { client.subscribe(Request::new(SubscribeRequest { filters })).await };
        stream::once(open)
            .map_ok(tonic::Response::into_inner)
            .try_flatten()
            .map(|event| event.map(read).map_err(|status| fault(OPERATION, &status)))
    }

    /// Publishes a marker that comes back to every subscriber of the namespace.
    ///
    /// # Errors
    /// Any fault of the call.
    pub async fn publish_marker(&self, nonce: &str) -> Result<(), ContainerdFault> {
        const CALL: Call = Call::within("publish marker", 3);
        let event = prost_types::Any {
            type_url: MARKER_TYPE.to_owned(),
            value: nonce.as_bytes().to_vec(),
        };
        let request = CALL.request(PublishRequest {
            topic: MARKER_TOPIC.to_owned(),
            event: Some(event),
        });
        CALL.answer(self.events().publish(request)).await
    }
}

fn read(envelope: Envelope) -> RuntimeEvent {
    let payload = envelope.event.map(|any| any.value).unwrap_or_default();
    match envelope.topic.as_str() {
        EXIT_TOPIC => TaskExit::decode(payload.as_slice()).map_or(RuntimeEvent::Other, exited),
        OOM_TOPIC => TaskOom::decode(payload.as_slice()).map_or(RuntimeEvent::Other, |oom| RuntimeEvent::Oom {
            container: ContainerId::reported(oom.container_id),
        }),
        DELETE_TOPIC => {
            ContainerDelete::decode(payload.as_slice()).map_or(RuntimeEvent::Other, |deleted| RuntimeEvent::Deleted {
                container: ContainerId::reported(deleted.id),
            })
        }
        MARKER_TOPIC => RuntimeEvent::Marker {
            nonce: String::from_utf8_lossy(&payload).into_owned(),
        },
        _ => RuntimeEvent::Other,
    }
}

/// The first process of a container has the container's id; an exec has its own.
fn exited(event: TaskExit) -> RuntimeEvent {
    let exec_id = if event.id == event.container_id {
        String::new()
    } else {
        event.id
    };
    let exit = exit_record(event.exit_status, nanoseconds(event.exited_at));
    RuntimeEvent::Exited {
        container: ContainerId::reported(event.container_id),
        exec_id,
        pid: event.pid,
        exit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exec_is_not_the_end_of_the_container() {
        let event = |id: &str| TaskExit {
            container_id: "c".into(),
            id: id.into(),
            exit_status: 137,
            ..Default::default()
        };
        let exec_of = |e| match exited(e) {
            RuntimeEvent::Exited { exec_id, .. } => exec_id,
            other => panic!("{other:?}"),
        };
        assert_eq!(exec_of(event("c")), "");
        assert_eq!(exec_of(event("e1")), "e1");
    }
}

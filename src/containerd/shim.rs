//! The shim of one container, asked directly while containerd is away.
//!
//! Why: a containerd that starts removes every shim whose container has no process left (`shouldCleanupShim` in
//! `core/runtime/v2/shim_load.go`, since containerd#6860), and with it the only record of an exit that happened while it
//! was away. The shim itself answers all the time. It speaks ttrpc, of which one unary call is needed here: a frame of
//! ten bytes (length, stream, kind, flags; big endian) and a protobuf message.
//!
//! The socket's name is a digest of containerd's address, the namespace and the container (`CreateSocketAddress` in
//! `pkg/shim/util_unix.go`, the same from 1.6 to 2.4). A containerd with another socket directory, or configured under
//! another spelling of its address, has its shims elsewhere: then there is no answer, and nothing is worse than before.

use super::Gateway;
use super::error::{ended, refused};
use super::tasks::exit_record;
use super::types::nanoseconds;
use crate::messages::runtime::{ContainerdFault, FaultKind};
use crate::spec::record::ExitRecord;
use prost::Message;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::path::PathBuf;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// Where shims have their sockets unless containerd is configured otherwise.
const SOCKETS: &str = "/run/containerd/s";
/// The task service of containerd 2 and that of 1.
const SERVICES: [&str; 2] = ["containerd.task.v3.Task", "containerd.task.v2.Task"];
const NAMESPACE: &str = "containerd-namespace-ttrpc";
const OPERATION: &str = "wait for task at its shim";
/// Kinds of frames.
const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;
/// ttrpc's own limit of a message.
const MESSAGE_MAX: usize = 4 << 20;
/// gRPC's UNIMPLEMENTED: a shim of the other generation.
const UNIMPLEMENTED: i32 = 12;

#[derive(Clone, PartialEq, Message)]
struct TtrpcRequest {
    #[prost(string, tag = "1")]
    service: String,
    #[prost(string, tag = "2")]
    method: String,
    #[prost(bytes = "vec", tag = "3")]
    payload: Vec<u8>,
    #[prost(message, repeated, tag = "5")]
    metadata: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct TtrpcResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<TtrpcStatus>,
    #[prost(bytes = "vec", tag = "2")]
    payload: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct TtrpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

#[derive(Clone, PartialEq, Message)]
struct WaitRequest {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct WaitResponse {
    #[prost(uint32, tag = "1")]
    exit_status: u32,
    #[prost(message, optional, tag = "2")]
    exited_at: Option<prost_types::Timestamp>,
}

impl Gateway {
    /// Waits at the shim for the exit of a container's first process; at once if it has ended. As long as it takes.
    ///
    /// # Errors
    /// `Unreachable` if there is no such shim or it goes away, `Failed` for what it refuses.
    pub async fn wait_at_shim(&self, container: &str) -> Result<ExitRecord, ContainerdFault> {
        let path = socket_of(self.socket(), &self.namespace, container);
        let mut last = ended(OPERATION);
        for service in SERVICES {
            match self.wait_by(service, &path, container).await {
                Err(fault) if fault.kind == FaultKind::FailedPrecondition => last = fault,
                answer => return answer,
            }
        }
        Err(last)
    }

    /// `FailedPrecondition`: the shim does not know the service.
    async fn wait_by(&self, service: &str, path: &PathBuf, container: &str) -> Result<ExitRecord, ContainerdFault> {
        let broken = |error: std::io::Error| ContainerdFault {
            kind: FaultKind::Unreachable,
            operation: OPERATION,
            text: format!("shim socket {}: {error}", path.display()),
        };
        let mut stream = UnixStream::connect(path).await.map_err(broken)?;
        let request = TtrpcRequest {
            service: service.to_owned(),
            method: "Wait".to_owned(),
            payload: WaitRequest {
                id: container.to_owned(),
            }
            .encode_to_vec(),
            metadata: vec![KeyValue {
                key: NAMESPACE.to_owned(),
                value: self.namespace.to_string(),
            }],
        };
        stream
            .write_all(&frame(&request.encode_to_vec()))
            .await
            .map_err(broken)?;
        loop {
            let mut head = [0; 10];
            stream.read_exact(&mut head).await.map_err(broken)?;
            let [a, b, c, d, _, _, _, _, kind, _] = head;
            let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
            if length > MESSAGE_MAX {
                return Err(refused(OPERATION, format!("the shim sent a message of {length} bytes")));
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.map_err(broken)?;
            if kind == RESPONSE {
                return answer(&body);
            }
        }
    }
}

fn answer(body: &[u8]) -> Result<ExitRecord, ContainerdFault> {
    let garbled = |error: prost::DecodeError| refused(OPERATION, error.to_string());
    let response = TtrpcResponse::decode(body).map_err(garbled)?;
    match response.status.filter(|status| status.code != 0) {
        Some(status) if status.code == UNIMPLEMENTED => Err(ContainerdFault {
            kind: FaultKind::FailedPrecondition,
            operation: OPERATION,
            text: status.message,
        }),
        Some(status) => Err(refused(OPERATION, status.message)),
        None => {
            let wait = WaitResponse::decode(response.payload.as_slice()).map_err(garbled)?;
            Ok(exit_record(wait.exit_status, nanoseconds(wait.exited_at)))
        }
    }
}

/// A request on the first stream of a connection.
fn frame(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(body.len().saturating_add(10));
    bytes.extend(length.to_be_bytes());
    bytes.extend(1_u32.to_be_bytes());
    bytes.extend([REQUEST, 0]);
    bytes.extend(body);
    bytes
}

fn socket_of(address: &str, namespace: &str, container: &str) -> PathBuf {
    let mut name = String::new();
    for byte in Sha256::digest(format!("{}/{namespace}/{container}", address.trim_end_matches('/')).as_bytes()) {
        // Writing to a string cannot fail.
        write!(name, "{byte:02x}").ok();
    }
    PathBuf::from(SOCKETS).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_of_a_shim_is_named_as_containerd_names_it() {
        // sha256("/run/containerd/containerd.sock/default/web"), by sha256sum.
        let path = socket_of("/run/containerd/containerd.sock", "default", "web");
        assert_eq!(
            path,
            PathBuf::from("/run/containerd/s/2cde4450fa38c74f53603e01d2afd903b315a27a596f12a151414cd59897d883")
        );
    }

    #[test]
    fn an_answer_of_a_shim_is_read_and_garbage_is_an_error() {
        let exit = WaitResponse {
            exit_status: 42,
            exited_at: Some(prost_types::Timestamp { seconds: 1, nanos: 2 }),
        };
        let good = TtrpcResponse {
            status: None,
            payload: exit.encode_to_vec(),
        };
        let record = answer(&good.encode_to_vec()).expect("an answer");
        assert_eq!((record.code, record.at), (42, 1_000_000_002));
        let unknown = TtrpcStatus {
            code: UNIMPLEMENTED,
            message: "service".into(),
        };
        let other = TtrpcResponse {
            status: Some(unknown),
            payload: Vec::new(),
        };
        assert_eq!(
            answer(&other.encode_to_vec()).map_err(|f| f.kind),
            Err(FaultKind::FailedPrecondition)
        );
        assert_eq!(answer(&[0xff; 9]).map_err(|f| f.kind), Err(FaultKind::Failed));
    }

    #[test]
    fn a_frame_begins_with_its_length_and_an_odd_stream() {
        assert_eq!(frame(b"abc"), [0, 0, 0, 3, 0, 0, 0, 1, 1, 0, b'a', b'b', b'c']);
    }
}

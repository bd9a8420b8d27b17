//! The shim of a container, asked directly: while containerd is away, or when it has forgotten the shim.
//!
//! Why: a containerd that starts removes every shim whose container has no process left (`shouldCleanupShim` in
//! `core/runtime/v2/shim_load.go`, since containerd#6860), and with it the only record of an exit that happened while it
//! was away. The shim itself answers all the time. It speaks ttrpc, of which unary calls are needed here: a frame of
//! ten bytes (length, stream, kind, flags; big endian) and a protobuf message.
//!
//! The socket's name is a digest of containerd's address, the namespace and the container, or the group of containers that
//! share the shim (`CreateSocketAddress` in `pkg/shim/util_unix.go`, the same from 1.6 to 2.4). A group is named after the
//! container that its shim was started for, so that a shim always is. A containerd with another socket directory, or configured under
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
const ENDING: &str = "end the shim";
const LOOKING: &str = "look for the container at a shim";
/// How long a killed process may take to be gone before its task is deleted all the same.
const KILLED_WITHIN: std::time::Duration = std::time::Duration::from_secs(2);
/// Kinds of frames.
const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;
/// ttrpc's own limit of a message.
const MESSAGE_MAX: usize = 4 << 20;
/// gRPC's UNIMPLEMENTED: a shim of the other generation.
const UNIMPLEMENTED: i32 = 12;

/// gRPC's NOT_FOUND: the shim does not have the container, or not any more.
const NOT_FOUND: i32 = 5;

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

#[derive(Clone, PartialEq, Message)]
struct KillRequest {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(uint32, tag = "3")]
    signal: u32,
    #[prost(bool, tag = "4")]
    all: bool,
}

#[derive(Clone, PartialEq, Message)]
struct ConnectResponse {
    #[prost(uint32, tag = "2")]
    task_pid: u32,
}

/// `WaitRequest`, `DeleteRequest`, `ConnectRequest` and `ShutdownRequest`, as far as they are needed.
#[derive(Clone, PartialEq, Message)]
struct NamedRequest {
    #[prost(string, tag = "1")]
    id: String,
}

impl Gateway {
    /// Ends a container that containerd has forgotten, at its shim: kills and deletes what that may still have made, and bids
    /// it to leave if `alone`. Another container may be just being made in it, which it does not know of yet.
    ///
    /// # Errors
    /// `Unreachable` if there is no such shim; it may also leave before it has answered. `Failed` for what it refuses.
    pub async fn end_at_shim(&self, shim: &str, container: &str, alone: bool) -> Result<(), ContainerdFault> {
        let path = socket_of(self.socket(), &self.namespace, shim);
        let id = container.to_owned();
        let kill = KillRequest {
            id: id.clone(),
            signal: 9,
            all: true,
        };
        let named = NamedRequest { id }.encode_to_vec();
        let mut last = ended(ENDING);
        for service in SERVICES {
            // What it has not made, or what has ended, it cannot kill.
            match self.call(service, &path, ENDING, "Kill", kill.encode_to_vec()).await {
                Err(fault) if fault.kind == FaultKind::FailedPrecondition => {
                    last = fault;
                    continue;
                }
                Err(fault) if fault.kind == FaultKind::Unreachable => return Err(fault),
                _ => {}
            }
            // Only what has ended can be deleted; it has a moment for that, and one that was never made is not waited for.
            let wait = self.call(service, &path, ENDING, "Wait", named.clone());
            drop(tokio::time::timeout(KILLED_WITHIN, wait).await);
            match self.call(service, &path, ENDING, "Delete", named.clone()).await {
                Err(fault) if fault.kind == FaultKind::Unreachable => return Err(fault),
                // One that others need stays, and with it what it has not deleted.
                Err(fault) if !alone && fault.kind != FaultKind::NotFound => return Err(fault),
                _ if !alone => return Ok(()),
                _ => {}
            }
            return self.call(service, &path, ENDING, "Shutdown", named).await.map(drop);
        }
        Err(last)
    }

    /// Whether there is a socket of this shim: one that runs, or one that was killed. Looks at a file.
    #[must_use]
    pub fn has_shim(&self, shim: &str) -> bool {
        socket_of(self.socket(), &self.namespace, shim).exists()
    }

    /// Where containerd is to talk to a shim, in its own words.
    pub(super) fn task_api(&self, shim: &str) -> String {
        format!(
            "ttrpc+unix://{}",
            socket_of(self.socket(), &self.namespace, shim).display()
        )
    }

    /// Whether a shim listens there: one that was killed does not.
    pub async fn shim_listens(&self, shim: &str) -> bool {
        let path = socket_of(self.socket(), &self.namespace, shim);
        UnixStream::connect(path).await.is_ok()
    }

    /// Whether a shim has this container. One that is busy may take its time.
    ///
    /// # Errors
    /// `Unreachable` if there is no such shim, `Failed` for what it refuses.
    pub async fn is_at_shim(&self, shim: &str, container: &str) -> Result<bool, ContainerdFault> {
        let path = socket_of(self.socket(), &self.namespace, shim);
        let named = NamedRequest {
            id: container.to_owned(),
        };
        let mut last = ended(LOOKING);
        for service in SERVICES {
            match self
                .call(service, &path, LOOKING, "Connect", named.encode_to_vec())
                .await
            {
                Err(fault) if fault.kind == FaultKind::FailedPrecondition => last = fault,
                Err(fault) => return Err(fault),
                Ok(payload) => return has_task(&payload),
            }
        }
        Err(last)
    }

    /// Waits at the shim for the exit of a container's first process; at once if it has ended. As long as it takes.
    ///
    /// # Errors
    /// `Unreachable` if there is no such shim or it goes away, `Failed` for what it refuses.
    pub async fn wait_at_shim(&self, shim: &str, container: &str) -> Result<ExitRecord, ContainerdFault> {
        let path = socket_of(self.socket(), &self.namespace, shim);
        let mut last = ended(OPERATION);
        for service in SERVICES {
            match self.wait_by(service, &path, container).await {
                Err(fault) if fault.kind == FaultKind::FailedPrecondition => last = fault,
                answer => return answer,
            }
        }
        Err(last)
    }

    async fn wait_by(&self, service: &str, path: &PathBuf, container: &str) -> Result<ExitRecord, ContainerdFault> {
        let request = WaitRequest {
            id: container.to_owned(),
        };
        let payload = self
            .call(service, path, OPERATION, "Wait", request.encode_to_vec())
            .await?;
        exit_of(&payload)
    }

    /// One unary call over a connection of its own. `FailedPrecondition`: the shim does not know the service.
    async fn call(
        &self,
        service: &str,
        path: &PathBuf,
        operation: &'static str,
        method: &str,
        payload: Vec<u8>,
    ) -> Result<Vec<u8>, ContainerdFault> {
        let broken = |error: std::io::Error| ContainerdFault {
            kind: FaultKind::Unreachable,
            operation,
            text: format!("shim socket {}: {error}", path.display()),
        };
        let mut stream = UnixStream::connect(path).await.map_err(broken)?;
        let request = TtrpcRequest {
            service: service.to_owned(),
            method: method.to_owned(),
            payload,
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
                return Err(refused(operation, format!("the shim sent a message of {length} bytes")));
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.map_err(broken)?;
            if kind == RESPONSE {
                return answer(operation, &body);
            }
        }
    }
}

fn answer(operation: &'static str, body: &[u8]) -> Result<Vec<u8>, ContainerdFault> {
    let response = TtrpcResponse::decode(body).map_err(|error| refused(operation, error.to_string()))?;
    match response.status.filter(|status| status.code != 0) {
        Some(status) if matches!(status.code, UNIMPLEMENTED | NOT_FOUND) => Err(ContainerdFault {
            kind: if status.code == NOT_FOUND {
                FaultKind::NotFound
            } else {
                FaultKind::FailedPrecondition
            },
            operation,
            text: status.message,
        }),
        Some(status) => Err(refused(operation, status.message)),
        None => Ok(response.payload),
    }
}

fn exit_of(payload: &[u8]) -> Result<ExitRecord, ContainerdFault> {
    let wait = WaitResponse::decode(payload).map_err(|error| refused(OPERATION, error.to_string()))?;
    Ok(exit_record(wait.exit_status, nanoseconds(wait.exited_at)))
}

/// Shims answer also for containers that they do not have.
fn has_task(payload: &[u8]) -> Result<bool, ContainerdFault> {
    let found = ConnectResponse::decode(payload).map_err(|error| refused(LOOKING, error.to_string()))?;
    Ok(found.task_pid != 0)
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
        let payload = answer(OPERATION, &good.encode_to_vec()).expect("an answer");
        let record = exit_of(&payload).expect("an exit");
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
            answer(OPERATION, &other.encode_to_vec()).map_err(|f| f.kind),
            Err(FaultKind::FailedPrecondition)
        );
        assert_eq!(
            answer(OPERATION, &[0xff; 9]).map_err(|f| f.kind),
            Err(FaultKind::Failed)
        );
    }

    #[test]
    fn a_frame_begins_with_its_length_and_an_odd_stream() {
        assert_eq!(frame(b"abc"), [0, 0, 0, 3, 0, 0, 0, 1, 1, 0, b'a', b'b', b'c']);
    }
}

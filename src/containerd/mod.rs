//! Gateway to containerd: one method per fact or act, own types out, no policy.
//!
//! Nothing here decides, retries or remembers. Generated protobuf types stay inside; faults come out as
//! [`ContainerdFault`] with a kind to decide by. Works from containerd 1.6
//! on; what a newer one has more is asked of introspection ([`Gateway::abilities`]), never read from a version.

mod channel;
mod containers;
mod content;
mod error;
mod events;
mod exec;
mod health;
mod images;
mod ingest;
mod leases;
mod sandboxes;
mod shim;
mod snapshots;
mod tasks;
mod transfer;
mod types;

pub use containers::{ContainerRecord, NewContainer, RuntimeOptions};
pub use content::BlobRecord;
pub use events::RuntimeEvent;
pub use exec::NewExec;
pub use health::{Abilities, FailedPlugin, Version};
pub use images::ImageRecord;
pub use ingest::{ContentWriter, Ingest};
pub use leases::{LeaseRecord, expires_after};
pub use sandboxes::SandboxRecord;
pub use snapshots::{SnapshotKind, SnapshotRecord};
pub use tasks::{NewTask, Stdio};
pub use transfer::{BlobProgress, BlobStage, Logins, RemoteLogin, RemotePull, RemotePullFault};
pub use types::{Descriptor, Labels, Mount};

use crate::messages::runtime::ContainerdFault;
use channel::Outgoing;
use std::sync::Arc;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

/// What the generated clients are built on.
type Line = InterceptedService<Channel, Outgoing>;

/// One containerd, one namespace. Cheap to clone; all clones share one connection.
#[derive(Debug, Clone)]
pub struct Gateway {
    channel: Channel,
    outgoing: Outgoing,
    socket: Arc<str>,
    namespace: Arc<str>,
}

impl Gateway {
    /// A gateway that dials when it is first used. Must be called inside the I/O runtime's context.
    ///
    /// # Errors
    /// If the address or the namespace cannot be sent at all. Whether containerd is there is not looked at.
    pub fn new(socket: &str, namespace: &str) -> Result<Self, ContainerdFault> {
        Ok(Self {
            channel: channel::lazy(socket)?,
            outgoing: Outgoing::new(namespace)?,
            socket: socket.into(),
            namespace: namespace.into(),
        })
    }

    /// The namespace all calls are made in.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Path of containerd's socket.
    #[must_use]
    pub fn socket(&self) -> &str {
        &self.socket
    }

    /// The same containerd over the same connection, in another namespace.
    ///
    /// # Errors
    /// If the name cannot be sent at all.
    pub fn in_namespace(&self, namespace: &str) -> Result<Self, ContainerdFault> {
        Ok(Self {
            outgoing: Outgoing::new(namespace)?,
            namespace: namespace.into(),
            ..self.clone()
        })
    }

    /// The same gateway, whose calls protect what they create by a lease.
    #[must_use]
    pub fn with_lease(&self, lease: &str) -> Self {
        Self {
            outgoing: self.outgoing.with_lease(lease),
            ..self.clone()
        }
    }

    fn line(&self) -> Line {
        InterceptedService::new(self.channel.clone(), self.outgoing.clone())
    }
}

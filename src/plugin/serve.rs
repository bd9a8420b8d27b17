//! The gRPC server of the plugin, from the handshake line to the hard stop.
//!
//! Nothing here limits the host: `WaitTask` lasts for days, so there are no deadlines, no keepalive and no cap on
//! concurrent streams (a cap would stop the host without a word). A connection that ends, or was never one, ends
//! nothing else; the process ends when the host says so, or when `shutdown` does.

use super::base::{Base, NodeCompute};
use super::broker::Broker;
use super::controller::Controller;
use super::driver::DriverService;
use super::handshake::Launch;
use super::pb::base::base_plugin_server::BasePluginServer;
use super::pb::driver::driver_server::DriverServer;
use super::pb::go_plugin::grpc_broker_server::GrpcBrokerServer;
use super::pb::go_plugin::grpc_controller_server::GrpcControllerServer;
use super::pb::go_plugin::grpc_stdio_server::GrpcStdioServer;
use super::socket::{Socket, SocketError};
use super::stdio::Stdio;
use crate::messages::doors::Doors;
use futures_util::Stream;
use std::future::Future;
use std::io::{self, Write};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tonic::transport::Server;
use tonic_health::ServingStatus;

/// The name under which go-plugin hosts ask for our health.
const HEALTH_SERVICE: &str = "plugin";

/// The host's own limit per message, both ways.
const MESSAGE_MAX: usize = i32::MAX as usize;

/// How long the answer to `GRPCController.Shutdown` may take to leave before connections are cut.
const PARTING: Duration = Duration::from_millis(50);

/// After the cut, how long handlers have to be dropped.
const DROPPING: Duration = Duration::from_millis(20);

/// Why the plugin did not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// No socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The handshake line did not reach the host.
    #[error("writing the handshake line: {0}")]
    Announce(#[source] io::Error),
    /// The server ended by itself.
    #[error("grpc server: {0}")]
    Server(#[from] tonic::transport::Error),
}

/// The plugin: everything it answers comes through the doors.
pub struct Plugin {
    doors: Doors,
    compute: NodeCompute,
}

impl Plugin {
    /// A plugin that asks through `doors`.
    #[must_use]
    pub fn new(doors: Doors) -> Self {
        Self {
            doors,
            compute: NodeCompute::default(),
        }
    }

    /// Serves until the host or `shutdown` ends it; then all calls in flight are aborted, the socket file is gone, and
    /// nothing of the server keeps the process alive. Writes one line to standard output, and never again.
    ///
    /// # Errors
    /// If the socket cannot be made or the host cannot be told of it.
    pub async fn run(self, launch: Launch, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
        self.serve(&launch, &mut io::stdout(), shutdown).await
    }

    async fn serve(
        self,
        launch: &Launch,
        stdout: &mut impl Write,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let (end, mut ended) = watch::channel(false);
        let (cut, cuts) = watch::channel(false);
        let (connections, file) = Socket::bind(launch).await?.into_parts(cuts);
        let interrupts = ignore_interrupts();
        announce(stdout, &launch.line(&file.text()))?;
        if !launch.protocol_offered {
            tracing::warn!("the host does not offer protocol version 2");
        }
        tracing::debug!(
            version = env!("CARGO_PKG_VERSION"),
            socket = file.text(),
            "plugin serves"
        );
        let outcome = tokio::select! {
            result = self.server(end, connections) => result.map_err(ServeError::from),
            () = told(&mut ended) => {
                tokio::time::sleep(PARTING).await;
                Ok(())
            }
            () = shutdown => Ok(()),
            () = interrupts => Ok(()),
        };
        cut.send_replace(true);
        drop(file);
        tokio::time::sleep(DROPPING).await;
        outcome
    }

    async fn server(
        self,
        end: watch::Sender<bool>,
        connections: impl Stream<Item = io::Result<super::socket::Connection>>,
    ) -> Result<(), tonic::transport::Error> {
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_service_status(HEALTH_SERVICE, ServingStatus::Serving).await;
        let base = BasePluginServer::new(Base::new(
            self.doors.settings.clone(),
            NodeCompute::clone(&self.compute),
        ))
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX);
        let driver = DriverServer::new(DriverService::new(self.doors, self.compute))
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX);
        Server::builder()
            // Hyper's defaults take many cancelled calls for an attack and close the connection, which the host would
            // take for the end of every task. The host is trusted; it may cancel as it likes.
            .http2_max_pending_accept_reset_streams(Some(1 << 20))
            .http2_max_local_error_reset_streams(None)
            .add_service(health_service)
            .add_service(base)
            .add_service(driver)
            .add_service(GrpcControllerServer::new(Controller::new(end)))
            .add_service(GrpcStdioServer::new(Stdio))
            .add_service(GrpcBrokerServer::new(Broker))
            .serve_with_incoming(connections)
            .await
    }
}

fn announce(stdout: &mut impl Write, line: &str) -> Result<(), ServeError> {
    stdout
        .write_all(line.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(ServeError::Announce)
}

/// Resolves when the host asked for the end, and only then.
async fn told(ended: &mut watch::Receiver<bool>) {
    if ended.wait_for(|ended| *ended).await.is_err() {
        std::future::pending().await
    }
}

/// Swallows SIGINT for the rest of the process: Ctrl-C on a foreground agent reaches the plugin as well, which must
/// outlive the agent's own handling of its tasks. Never resolves.
async fn swallow(mut interrupts: tokio::signal::unix::Signal) {
    while interrupts.recv().await.is_some() {
        tracing::debug!("interrupt ignored: the host ends the plugin");
    }
    std::future::pending().await
}

fn ignore_interrupts() -> impl Future<Output = ()> {
    let interrupts = signal(SignalKind::interrupt());
    async move {
        match interrupts {
            Ok(interrupts) => swallow(interrupts).await,
            Err(e) => {
                tracing::warn!(error = %e, "interrupts are not ignored");
                std::future::pending().await
            }
        }
    }
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;

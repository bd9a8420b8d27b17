//! One gRPC connection to a plugin: HTTP/2 cleartext, authority `unused`, no message limit, the two auxiliary streams open.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::wire::{base, driver, health, plugin};

pub type Base = base::base_plugin_client::BasePluginClient<Channel>;
pub type Driver = driver::driver_client::DriverClient<Channel>;
pub type Controller = plugin::grpc_controller_client::GrpcControllerClient<Channel>;
pub type Health = health::health_client::HealthClient<Channel>;

/// What happened on an auxiliary stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuxEnd {
    /// Not offered by the plugin; the host tolerates that.
    Unimplemented,
    /// Ended without an error.
    Closed,
    Failed(Code, String),
}

/// A connection; dropping it closes it.
pub struct Connection {
    channel: Channel,
    aux: Vec<JoinHandle<AuxEnd>>,
    aux_messages: Arc<AtomicUsize>,
}

impl Connection {
    pub async fn open(socket: &Path, aux_streams: bool) -> Result<Connection> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?.origin("http://unused".parse()?);
        let channel = endpoint
            .connect()
            .await
            .with_context(|| format!("connect to {}", socket.display()))?;
        let aux_messages = Arc::new(AtomicUsize::new(0));
        let aux = match aux_streams {
            true => vec![
                tokio::spawn(stdio(channel.clone(), aux_messages.clone())),
                tokio::spawn(broker(channel.clone(), aux_messages.clone())),
            ],
            false => Vec::new(),
        };
        Ok(Connection {
            channel,
            aux,
            aux_messages,
        })
    }

    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub fn base(&self) -> Base {
        Base::new(self.channel())
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX)
    }

    pub fn driver(&self) -> Driver {
        Driver::new(self.channel())
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX)
    }

    pub fn controller(&self) -> Controller {
        Controller::new(self.channel())
    }

    pub fn health(&self) -> Health {
        Health::new(self.channel())
    }

    /// Messages received on `GRPCStdio` and `GRPCBroker`; a quiet plugin sends none.
    pub fn aux_messages(&self) -> usize {
        self.aux_messages.load(Ordering::SeqCst)
    }

    /// Whether both auxiliary streams are still open.
    pub fn aux_open(&self) -> bool {
        !self.aux.is_empty() && self.aux.iter().all(|task| !task.is_finished())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.aux.iter().for_each(JoinHandle::abort);
    }
}

async fn stdio(channel: Channel, seen: Arc<AtomicUsize>) -> AuxEnd {
    let mut client = plugin::grpc_stdio_client::GrpcStdioClient::new(channel);
    match client.stream_stdio(()).await {
        Ok(answer) => drain(answer.into_inner(), seen).await,
        Err(status) => refused(&status),
    }
}

async fn broker(channel: Channel, seen: Arc<AtomicUsize>) -> AuxEnd {
    let mut client = plugin::grpc_broker_client::GrpcBrokerClient::new(channel);
    match client.start_stream(tokio_stream::pending()).await {
        Ok(answer) => drain(answer.into_inner(), seen).await,
        Err(status) => refused(&status),
    }
}

async fn drain<T>(mut stream: tonic::Streaming<T>, seen: Arc<AtomicUsize>) -> AuxEnd {
    loop {
        match stream.message().await {
            Ok(Some(_)) => seen.fetch_add(1, Ordering::SeqCst),
            Ok(None) => return AuxEnd::Closed,
            Err(status) => return refused(&status),
        };
    }
}

fn refused(status: &tonic::Status) -> AuxEnd {
    match status.code() {
        Code::Unimplemented => AuxEnd::Unimplemented,
        code => AuxEnd::Failed(code, status.message().to_owned()),
    }
}

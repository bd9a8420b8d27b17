//! `plugin.GRPCBroker`: opened by every go-plugin host, never used by Nomad for drivers. Kept open until the host ends
//! it; what it sends is read and ignored, so that its window never fills.

use super::pb::go_plugin::ConnInfo;
use super::pb::go_plugin::grpc_broker_server::GrpcBroker;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

/// The idle stream.
pub(super) struct Broker;

#[tonic::async_trait]
impl GrpcBroker for Broker {
    type StartStreamStream = BoxStream<'static, Result<ConnInfo, Status>>;

    async fn start_stream(
        &self,
        request: Request<Streaming<ConnInfo>>,
    ) -> Result<Response<Self::StartStreamStream>, Status> {
        // Ends when the host half-closes; a broken connection drops it.
        let silent = stream::unfold(request.into_inner(), |mut offers| async move {
            while let Ok(Some(_)) = offers.message().await {}
            None
        });
        Ok(Response::new(silent.boxed()))
    }
}

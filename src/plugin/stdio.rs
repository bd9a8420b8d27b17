//! `plugin.GRPCStdio`: the host opens it once per connection and throws the data away. Kept open and silent, since a
//! stream that ends makes go-plugin log, and since our standard output carries one line only.

use super::pb::go_plugin::StdioData;
use super::pb::go_plugin::grpc_stdio_server::GrpcStdio;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tonic::{Request, Response, Status};

/// The silent stream.
pub(super) struct Stdio;

#[tonic::async_trait]
impl GrpcStdio for Stdio {
    type StreamStdioStream = BoxStream<'static, Result<StdioData, Status>>;

    async fn stream_stdio(&self, _: Request<()>) -> Result<Response<Self::StreamStdioStream>, Status> {
        Ok(Response::new(stream::pending().boxed()))
    }
}

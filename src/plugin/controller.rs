//! `plugin.GRPCController`: the host's way to end the process. Without it every kill takes two seconds and a SIGKILL.

use super::pb::go_plugin::Empty;
use super::pb::go_plugin::grpc_controller_server::GrpcController;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

/// Passes the host's wish on to the server.
pub(super) struct Controller {
    end: watch::Sender<bool>,
}

impl Controller {
    /// `end` turns true when the host wants the process gone.
    pub(super) fn new(end: watch::Sender<bool>) -> Self {
        Self { end }
    }
}

#[tonic::async_trait]
impl GrpcController for Controller {
    async fn shutdown(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        tracing::debug!("the host ends the plugin");
        self.end.send_replace(true);
        Ok(Response::new(Empty {}))
    }
}

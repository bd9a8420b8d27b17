//! Blobs: read, look at, label. Writing is in `ingest.rs`.

use super::channel::{Call, MESSAGE_MAX_BYTES};
use super::error::{fault, found, hollow, late, refused};
use super::types::label_mask;
use super::{Gateway, Labels, Line};
use crate::messages::runtime::{ContainerdFault, FaultKind};
use bytes::{Bytes, BytesMut};
use containerd_client::services::v1 as proto;
use proto::content_client::ContentClient;
use std::time::Duration;
use tonic::Request;

/// A blob that is in the store, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobRecord {
    /// Size in bytes.
    pub size: u64,
    /// Labels.
    pub labels: Labels,
}

impl Gateway {
    pub(super) fn content(&self) -> ContentClient<Line> {
        ContentClient::new(self.line()).max_decoding_message_size(MESSAGE_MAX_BYTES)
    }

    /// The whole blob, or `None` if it is not here. For manifests and configs, not for layers.
    ///
    /// # Errors
    /// Any fault of the call, and `Failed` for a blob of more than `limit_bytes`.
    pub async fn read_blob(&self, digest: &str, limit_bytes: u64) -> Result<Option<Bytes>, ContainerdFault> {
        const OPERATION: &str = "read content";
        // A stream, so without a deadline on the wire; the whole of it is bounded here.
        const DEADLINE: Duration = Duration::from_secs(10);
        let read = async {
            let request = proto::ReadContentRequest {
                digest: digest.to_owned(),
                offset: 0,
                size: 0,
            };
            let mut stream = self.content().read(Request::new(request)).await?.into_inner();
            let mut blob = BytesMut::new();
            while let Some(part) = stream.message().await? {
                blob.extend_from_slice(&part.data);
                if blob.len() as u64 > limit_bytes {
                    return Ok(None);
                }
            }
            Ok(Some(blob.freeze()))
        };
        match tokio::time::timeout(DEADLINE, read).await {
            Ok(Ok(Some(blob))) => Ok(Some(blob)),
            Ok(Ok(None)) => Err(refused(
                OPERATION,
                format!("{digest} is larger than {limit_bytes} bytes"),
            )),
            Ok(Err(status)) => found(Err(fault(OPERATION, &status))),
            Err(_) => Err(late(OPERATION, DEADLINE)),
        }
    }

    /// Size and labels of a blob, `None` if it is not here (whole).
    ///
    /// # Errors
    /// Any fault of the call but `NotFound`.
    pub async fn blob_info(&self, digest: &str) -> Result<Option<BlobRecord>, ContainerdFault> {
        const CALL: Call = Call::short("stat content");
        let request = CALL.request(proto::InfoRequest {
            digest: digest.to_owned(),
        });
        let Some(answer) = found(CALL.answer(self.content().info(request)).await)? else {
            return Ok(None);
        };
        let info = answer.info.ok_or_else(|| hollow(CALL.operation, "info"))?;
        let size = u64::try_from(info.size).unwrap_or(0);
        Ok(Some(BlobRecord {
            size,
            labels: info.labels.into_iter().collect(),
        }))
    }

    /// Sets these labels on a blob and leaves its others alone.
    ///
    /// # Errors
    /// Any fault of the call, `NotFound` too.
    pub async fn update_blob_labels(&self, digest: &str, labels: &Labels) -> Result<(), ContainerdFault> {
        const CALL: Call = Call::short("label content");
        if labels.is_empty() {
            return Ok(());
        }
        let info = proto::Info {
            digest: digest.to_owned(),
            labels: labels.clone().into_iter().collect(),
            ..Default::default()
        };
        let request = proto::UpdateRequest {
            info: Some(info),
            update_mask: Some(label_mask(labels.keys())),
        };
        CALL.answer(self.content().update(CALL.request(request)))
            .await
            .map(drop)
    }

    /// How far the write under `reference` is, in bytes; `None` if there is none.
    ///
    /// # Errors
    /// Any fault of the call but `NotFound`.
    pub async fn ingest_offset(&self, reference: &str) -> Result<Option<u64>, ContainerdFault> {
        const CALL: Call = Call::short("read status of write");
        let request = CALL.request(proto::StatusRequest {
            r#ref: reference.to_owned(),
        });
        let status = found(CALL.answer(self.content().status(request)).await)?;
        Ok(status
            .and_then(|answer| answer.status)
            .map(|status| u64::try_from(status.offset).unwrap_or_default()))
    }

    /// Throws away what an interrupted write left behind under `reference`.
    ///
    /// # Errors
    /// Any fault of the call but `NotFound`.
    pub async fn abort_ingest(&self, reference: &str) -> Result<(), ContainerdFault> {
        const CALL: Call = Call::short("abort write");
        let request = CALL.request(proto::AbortRequest {
            r#ref: reference.to_owned(),
        });
        match CALL.answer(self.content().abort(request)).await {
            Err(fault) if fault.kind != FaultKind::NotFound => Err(fault),
            _ => Ok(()),
        }
    }
}

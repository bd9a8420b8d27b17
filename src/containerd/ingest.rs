//! Writing a blob: a bidirectional stream in lock step, resumed where an earlier one broke off.
//!
//! containerd keeps what was written under a ref until it is committed, aborted or collected, and verifies size and
//! digest at commit. Only one writer may hold a ref; a second is told `Unavailable`, as containerd's own client knows.

use super::error::{ended, fault, is_locked, late};
use super::{Gateway, Labels};
use crate::messages::runtime::{ContainerdFault, FaultKind};
use containerd_client::services::v1::{WriteAction, WriteContentRequest, WriteContentResponse};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

/// One chunk has to be taken within this; a disk that stalls longer is a fault.
const STEP: Duration = Duration::from_secs(60);
/// A commit syncs the whole blob to disk.
const COMMIT: Duration = Duration::from_secs(300);

/// What became of the wish to write a blob.
#[derive(Debug)]
pub enum Ingest {
    /// Write on from [`ContentWriter::offset`].
    Open(Box<ContentWriter>),
    /// The blob is here already.
    Exists,
    /// Someone else is writing it. Ask again later.
    Locked,
}

/// A blob being written. Dropping it ends the write and keeps the bytes for a later one.
#[derive(Debug)]
pub struct ContentWriter {
    requests: mpsc::Sender<WriteContentRequest>,
    answers: Streaming<WriteContentResponse>,
    reference: String,
    total: u64,
    expected: String,
    offset: u64,
}

impl Gateway {
    /// Opens `reference` for writing a blob of `total` bytes and digest `expected`.
    ///
    /// # Errors
    /// Any fault of the call; "exists" and "locked" are answers.
    pub async fn open_ingest(&self, reference: &str, total: u64, expected: &str) -> Result<Ingest, ContainerdFault> {
        const OPERATION: &str = "open content writer";
        let (requests, queue) = mpsc::channel(1);
        let first = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: reference.to_owned(),
            total: signed(total),
            expected: expected.to_owned(),
            ..Default::default()
        };
        // Before the call: grpc-go sends its headers with the first answer, so the call would wait for ever.
        requests.send(first).await.map_err(|_| ended(OPERATION))?;
        let mut client = self.content();
        let open = async {
            let mut answers = client
                .write(Request::new(ReceiverStream::new(queue)))
                .await?
                .into_inner();
            let answer = answers.message().await?;
            Ok::<_, Status>((answers, answer))
        };
        match tokio::time::timeout(STEP, open).await {
            Ok(Ok((answers, Some(answer)))) => {
                let offset = u64::try_from(answer.offset).unwrap_or(0);
                let (reference, expected) = (reference.to_owned(), expected.to_owned());
                let writer = ContentWriter {
                    requests,
                    answers,
                    reference,
                    total,
                    expected,
                    offset,
                };
                Ok(Ingest::Open(Box::new(writer)))
            }
            Ok(Ok((_, None))) => Err(ended(OPERATION)),
            Ok(Err(status)) if is_locked(&status) => Ok(Ingest::Locked),
            Ok(Err(status)) => match fault(OPERATION, &status) {
                fault if fault.kind == FaultKind::AlreadyExists => Ok(Ingest::Exists),
                fault => Err(fault),
            },
            Err(_) => Err(late(OPERATION, STEP)),
        }
    }
}

impl ContentWriter {
    /// Bytes that are in the store; the next write goes here.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Appends a chunk (well below 16 MiB).
    ///
    /// # Errors
    /// Any fault; the writer is of no use afterwards.
    pub async fn write(&mut self, data: Vec<u8>) -> Result<(), ContainerdFault> {
        const OPERATION: &str = "write content";
        let length = data.len() as u64;
        let request = WriteContentRequest {
            action: WriteAction::Write.into(),
            offset: signed(self.offset),
            data,
            ..self.template()
        };
        let answer = self
            .step(OPERATION, STEP, request)
            .await?
            .map_err(|status| fault(OPERATION, &status))?;
        // The answer's offset is the truth, but a server that does not fill it in has taken the chunk all the same.
        self.offset = u64::try_from(answer.offset)
            .ok()
            .filter(|o| *o > 0)
            .unwrap_or(self.offset + length);
        Ok(())
    }

    /// Makes the blob visible, if its size and digest are right. A blob that someone else committed first is success.
    ///
    /// # Errors
    /// `FailedPrecondition` if size or digest are wrong; any other fault.
    pub async fn commit(mut self: Box<Self>, labels: &Labels) -> Result<(), ContainerdFault> {
        const OPERATION: &str = "commit content";
        let request = WriteContentRequest {
            action: WriteAction::Commit.into(),
            offset: signed(self.offset),
            labels: labels.clone().into_iter().collect(),
            ..self.template()
        };
        let answer = self.step(OPERATION, COMMIT, request).await?;
        match answer.map_err(|status| fault(OPERATION, &status)) {
            Err(fault) if fault.kind != FaultKind::AlreadyExists => Err(fault),
            _ => Ok(()),
        }
    }

    fn template(&self) -> WriteContentRequest {
        WriteContentRequest {
            r#ref: self.reference.clone(),
            total: signed(self.total),
            expected: self.expected.clone(),
            ..Default::default()
        }
    }

    async fn step(
        &mut self,
        operation: &'static str,
        deadline: Duration,
        request: WriteContentRequest,
    ) -> Result<Result<WriteContentResponse, Status>, ContainerdFault> {
        let step = async {
            // A closed queue means that the server ended the stream: its reason is the next answer.
            drop(self.requests.send(request).await);
            self.answers.message().await
        };
        match tokio::time::timeout(deadline, step).await {
            Ok(Ok(Some(answer))) => Ok(Ok(answer)),
            Ok(Ok(None)) => Err(ended(operation)),
            Ok(Err(status)) => Ok(Err(status)),
            Err(_) => Err(late(operation, deadline)),
        }
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

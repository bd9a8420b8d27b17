//! Blobs of an archive into the content store, resumed where an earlier load broke off.

use crate::containerd::{ContentWriter, Descriptor, Gateway, Ingest, Labels};
use crate::host::archive::{Archive, Piece};
use crate::messages::runtime::{ContainerdFault, FaultKind};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// How often to look whether another writer has finished the same blob.
const LOCKED_POLL: Duration = Duration::from_millis(200);
/// Pieces of 1 MiB between the thread that reads and the stream that writes.
const PIECES: usize = 2;

/// Why a blob is not in the store.
#[derive(Debug)]
pub(super) enum StoreError {
    Containerd(ContainerdFault),
    /// The archive cannot be read, or is not what it says.
    Archive(String),
    /// What was there of this blob was thrown away: it is worth another try.
    Damaged(String),
}

impl From<ContainerdFault> for StoreError {
    fn from(fault: ContainerdFault) -> Self {
        Self::Containerd(fault)
    }
}

/// Where blobs go. `gateway` works under `lease`.
pub(super) struct Store<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) lease: &'a str,
    /// Bytes of layers that are in the store.
    pub(super) stored: &'a AtomicU64,
}

impl Store<'_> {
    /// Holds a blob that is in the store and labels it. False if it is not there.
    pub(super) async fn has(&self, target: &Descriptor, labels: &Labels) -> Result<bool, ContainerdFault> {
        if self.gateway.blob_info(&target.digest).await?.is_none() {
            return Ok(false);
        }
        self.gateway.lease_blob(self.lease, &target.digest).await?;
        // Again: it may have been collected before it was held.
        if self.gateway.blob_info(&target.digest).await?.is_none() {
            return Ok(false);
        }
        match self.gateway.update_blob_labels(&target.digest, labels).await {
            Err(fault) if fault.kind == FaultKind::NotFound => Ok(false),
            answer => answer.map(|()| true),
        }
    }

    /// Stores a document.
    pub(super) async fn put(
        &self,
        kind: &str,
        target: &Descriptor,
        bytes: &[u8],
        labels: &Labels,
    ) -> Result<(), StoreError> {
        if self.has(target, labels).await? {
            return Ok(());
        }
        let reference = format!("{kind}-{}", target.digest);
        let Some(mut writer) = self.open(&reference, target).await? else {
            return self.has(target, labels).await.map(drop).map_err(StoreError::from);
        };
        if let Some(rest) = usize::try_from(writer.offset()).ok().and_then(|at| bytes.get(at..))
            && !rest.is_empty()
        {
            writer.write(rest.to_vec()).await?;
        }
        self.commit(writer, &reference, target, labels).await
    }

    /// Stores the bodies of these entries, which are blobs without labels.
    pub(super) async fn fill(
        &self,
        archive: &Arc<Archive>,
        wanted: &HashMap<String, Descriptor>,
    ) -> Result<(), StoreError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let (send, mut pieces) = mpsc::channel(PIECES);
        let (archive, names) = (Arc::clone(archive), wanted.keys().cloned().collect());
        // Ends when the archive does, or when nobody takes its pieces any more.
        let reader =
            tokio::task::spawn_blocking(move || archive.read(names, |piece| send.blocking_send(piece).is_ok()));
        let mut missing = wanted.len();
        let mut at: Option<Blob<'_>> = None;
        while let Some(piece) = pieces.recv().await {
            match piece {
                Piece::Begin(name, size) => {
                    let Some(target) = wanted.get(&name) else { continue };
                    if size != target.size {
                        return Err(StoreError::Archive(format!("its entry {name:?} has changed")));
                    }
                    missing -= 1;
                    let reference = format!("layer-{}", target.digest);
                    let writer = self.open(&reference, target).await?;
                    let skip = writer.as_ref().map_or(0, |w| w.offset());
                    self.stored.fetch_add(skip, Ordering::Relaxed);
                    at = Some(Blob {
                        target,
                        reference,
                        writer,
                        skip,
                    });
                }
                Piece::Bytes(bytes) => {
                    if let Some(blob) = &mut at {
                        let written = blob.take(bytes).await?;
                        self.stored.fetch_add(written, Ordering::Relaxed);
                    }
                }
                Piece::End => match at.take() {
                    Some(Blob {
                        target,
                        reference,
                        writer: Some(writer),
                        ..
                    }) => self.commit(writer, &reference, target, &Labels::new()).await?,
                    // Somebody else has written it meanwhile.
                    Some(Blob { target, .. }) => {
                        self.has(target, &Labels::new()).await?;
                    }
                    None => {}
                },
            }
        }
        match reader.await {
            Ok(Ok(())) if missing == 0 => Ok(()),
            Ok(Ok(())) => Err(StoreError::Archive(format!("{missing} of its entries are gone"))),
            Ok(Err(error)) => Err(StoreError::Archive(error.reason)),
            Err(error) => Err(StoreError::Archive(error.to_string())),
        }
    }

    async fn commit(
        &self,
        writer: Box<ContentWriter>,
        reference: &str,
        target: &Descriptor,
        labels: &Labels,
    ) -> Result<(), StoreError> {
        match writer.commit(labels).await {
            Err(fault) if fault.kind == FaultKind::FailedPrecondition => {
                self.gateway.abort_ingest(reference).await?;
                Err(StoreError::Damaged(format!(
                    "its blob {} is damaged: {}",
                    target.digest, fault.text
                )))
            }
            answer => answer.map_err(StoreError::from),
        }
    }

    /// A writer for the blob; `None` if it has come into the store meanwhile.
    async fn open(&self, reference: &str, target: &Descriptor) -> Result<Option<Box<ContentWriter>>, ContainerdFault> {
        loop {
            match self.gateway.open_ingest(reference, target.size, &target.digest).await? {
                Ingest::Open(writer) => return Ok(Some(writer)),
                Ingest::Exists => return Ok(None),
                Ingest::Locked => tokio::time::sleep(LOCKED_POLL).await,
            }
        }
    }
}

/// A blob on its way.
struct Blob<'a> {
    target: &'a Descriptor,
    reference: String,
    /// `None` if it is there already.
    writer: Option<Box<ContentWriter>>,
    /// Bytes that an earlier load has left in the store.
    skip: u64,
}

impl Blob<'_> {
    /// Writes what is not there yet; how much that was.
    async fn take(&mut self, mut bytes: Vec<u8>) -> Result<u64, ContainerdFault> {
        let Some(writer) = &mut self.writer else { return Ok(0) };
        let here = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
        self.skip -= here as u64;
        bytes.drain(..here);
        let length = bytes.len() as u64;
        if length > 0 {
            writer.write(bytes).await?;
        }
        Ok(length)
    }
}

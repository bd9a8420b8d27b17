//! Blobs from a registry into the content store, resumed where an earlier pull broke off.

use super::plan::source_labels;
use super::registry::Session;
use crate::containerd::{ContentWriter, Descriptor, Gateway, Ingest, Labels};
use crate::messages::image::ImageError;
use crate::messages::runtime::{ContainerdFault, FaultKind};
use crate::spec::reference::Reference;
use futures_util::StreamExt as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// One write to the content store. Larger is not faster; 16 MiB is the limit.
const CHUNK_BYTES: usize = 1 << 20;
/// Tries in a row that bring no new byte, and the wait after the first; it doubles.
const TRIES: u32 = 5;
const BACKOFF: Duration = Duration::from_millis(500);
/// How often to look whether another writer has finished the same blob.
const LOCKED_POLL: Duration = Duration::from_millis(200);

/// What has been done of a pull, for whoever watches.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) fetched_bytes: AtomicU64,
    pub(super) total_bytes: AtomicU64,
    pub(super) layers_done: AtomicUsize,
    pub(super) layers: AtomicUsize,
}

impl Tally {
    /// Corrects one blob's share, down as well: a write may be thrown away.
    fn correct(&self, old: u64, new: u64) {
        self.fetched_bytes.fetch_add(new.wrapping_sub(old), Ordering::Relaxed);
    }
}

/// Brings blobs of one image into the content store, under one lease.
pub(super) struct Fetcher<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) lease: &'a str,
    pub(super) session: &'a Session,
    pub(super) reference: &'a Reference,
    pub(super) tally: &'a Tally,
}

impl Fetcher<'_> {
    /// Stores a document that is in memory already.
    pub(super) async fn store(
        &self,
        kind: &str,
        bytes: &[u8],
        target: &Descriptor,
        labels: Labels,
    ) -> Result<(), ImageError> {
        if self.adopt(target, &labels).await? {
            return Ok(());
        }
        let reference = ingest_name(kind, target);
        let Some(mut writer) = self.open(&reference, target).await? else {
            return self.adopt(target, &labels).await.map(drop);
        };
        if writer.offset() > 0 {
            drop(writer);
            self.containerd(self.gateway.abort_ingest(&reference).await)?;
            let Some(again) = self.open(&reference, target).await? else {
                return self.adopt(target, &labels).await.map(drop);
            };
            writer = again;
        }
        self.containerd(writer.write(bytes.to_vec()).await)?;
        match writer.commit(&self.sourced(labels, None)).await {
            Err(fault) if fault.kind == FaultKind::FailedPrecondition => {
                self.containerd(self.gateway.abort_ingest(&reference).await)?;
                Err(self.unusable(format!("{kind} {} is damaged: {}", target.digest, fault.text)))
            }
            answer => self.containerd(answer),
        }
    }

    /// Fetches a blob unless it is here. Its labels are set in either case.
    pub(super) async fn blob(&self, kind: &str, target: &Descriptor, labels: Labels) -> Result<(), ImageError> {
        if self.adopt(target, &labels).await? {
            self.tally.correct(0, target.size);
            return Ok(());
        }
        let reference = ingest_name(kind, target);
        let mut counted = 0;
        let mut failures = 0;
        let mut damaged = false;
        loop {
            let Some(mut writer) = self.open(&reference, target).await? else {
                self.tally.correct(counted, target.size);
                return self.adopt(target, &labels).await.map(drop);
            };
            let start = writer.offset();
            self.tally.correct(counted, start);
            counted = start;
            let copied = self.copy(&mut writer, target, &mut counted).await;
            match copied {
                Ok(()) => match writer.commit(&self.sourced(labels.clone(), None)).await {
                    // What an earlier pull left here was damaged, or this transfer was: once more from the start.
                    Err(fault) if fault.kind == FaultKind::FailedPrecondition && !damaged => {
                        damaged = true;
                        self.containerd(self.gateway.abort_ingest(&reference).await)?;
                    }
                    Err(fault) if fault.kind == FaultKind::FailedPrecondition => {
                        return Err(self.unusable(format!("{kind} {} is damaged: {}", target.digest, fault.text)));
                    }
                    answer => return self.containerd(answer),
                },
                Err(ImageError::Registry { .. }) if failures + 1 < TRIES => {
                    failures = if writer.offset() > start { 0 } else { failures + 1 };
                    drop(writer);
                    tokio::time::sleep(BACKOFF * 2_u32.pow(failures)).await;
                }
                Err(e) => {
                    if e.is_out_of_room() {
                        drop(writer);
                        self.make_room(&reference).await;
                    }
                    return Err(e);
                }
            }
        }
    }

    /// Throws away what has come of a blob. A fault is logged: the full disk is what the user has to hear of.
    async fn make_room(&self, reference: &str) {
        if let Err(fault) = self.gateway.abort_ingest(reference).await {
            tracing::debug!(%fault, ingest = reference, "a part of a blob is left on a full disk");
        }
    }

    /// Holds a blob that is in the store and labels it. False if it is not there.
    async fn adopt(&self, target: &Descriptor, labels: &Labels) -> Result<bool, ImageError> {
        let info = || self.gateway.blob_info(&target.digest);
        if self.containerd(info().await)?.is_none() {
            return Ok(false);
        }
        self.containerd(self.gateway.lease_blob(self.lease, &target.digest).await)?;
        // Again: it may have been collected before it was held.
        let Some(present) = self.containerd(info().await)? else {
            return Ok(false);
        };
        let mut labels = self.sourced(labels.clone(), Some(&present.labels));
        labels.retain(|key, value| present.labels.get(key) != Some(value));
        match self.gateway.update_blob_labels(&target.digest, &labels).await {
            Err(fault) if fault.kind == FaultKind::NotFound => Ok(false),
            answer => self.containerd(answer).map(|()| true),
        }
    }

    /// A writer for the blob; `None` if it has come into the store meanwhile.
    async fn open(&self, reference: &str, target: &Descriptor) -> Result<Option<Box<ContentWriter>>, ImageError> {
        loop {
            match self.containerd(self.gateway.open_ingest(reference, target.size, &target.digest).await)? {
                Ingest::Open(writer) => return Ok(Some(writer)),
                Ingest::Exists => return Ok(None),
                Ingest::Locked => tokio::time::sleep(LOCKED_POLL).await,
            }
        }
    }

    async fn copy(&self, writer: &mut ContentWriter, target: &Descriptor, counted: &mut u64) -> Result<(), ImageError> {
        if writer.offset() >= target.size {
            return Ok(());
        }
        let mut stream = self.session.blob(target, writer.offset()).await?;
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        loop {
            let part = stream.next().await;
            if let Some(Ok(bytes)) = &part {
                chunk.extend_from_slice(bytes);
            }
            let received = writer.offset() + chunk.len() as u64;
            if received > target.size {
                return Err(self.unusable(format!("{} is larger than its manifest says", target.digest)));
            }
            // What has come is kept, also before a broken connection is reported.
            let ended = !matches!(part, Some(Ok(_)));
            if chunk.len() >= CHUNK_BYTES || (ended && !chunk.is_empty()) {
                self.containerd(
                    writer
                        .write(std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK_BYTES)))
                        .await,
                )?;
                self.tally.correct(*counted, writer.offset());
                *counted = writer.offset();
            }
            match part {
                Some(Ok(_)) => {}
                // The whole blob is there: whether it is the right one, the commit finds out.
                Some(Err(_)) | None if received == target.size => return Ok(()),
                Some(Err(e)) => return Err(self.session.broken(&e)),
                None => return Err(self.session.unavailable("the connection ended early".to_owned())),
            }
        }
    }

    fn sourced(&self, mut labels: Labels, present: Option<&Labels>) -> Labels {
        labels.extend(source_labels(
            self.reference.registry(),
            self.reference.repository(),
            present,
        ));
        labels
    }

    pub(super) fn containerd<T>(&self, answer: Result<T, ContainerdFault>) -> Result<T, ImageError> {
        answer.map_err(|source| ImageError::Containerd {
            image: self.session.image().to_owned(),
            source,
        })
    }

    fn unusable(&self, reason: String) -> ImageError {
        ImageError::Unusable {
            image: self.session.image().to_owned(),
            reason,
        }
    }
}

/// Name of an interrupted write: containerd's own (`remotes.MakeRefKey`), so that `ctr` and we continue each other's.
fn ingest_name(kind: &str, target: &Descriptor) -> String {
    format!("{kind}-{}", target.digest)
}

//! Blobs from a registry into the content store, resumed where an earlier pull broke off.

use super::lanes::{self, Lanes};
use super::plan::{self, source_labels};
use super::registry::Session;
use crate::containerd::{ContentWriter, Descriptor, Gateway, Ingest, Labels};
use crate::messages::image::ImageError;
use crate::messages::runtime::{ContainerdFault, FaultKind};
use crate::spec::reference::Reference;
use crate::telemetry::Counter;
use bytes::Bytes;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Tries in a row that bring no new byte, and the wait after the first; it doubles.
const TRIES: u32 = 5;
const BACKOFF: Duration = Duration::from_millis(500);
/// How often to look whether another writer has finished the same blob.
const LOCKED_POLL: Duration = Duration::from_millis(200);

/// What has been done of a pull, for whoever watches.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// What came from the registry, as it comes: also what is thrown away again.
    pub(super) received_bytes: AtomicU64,
    /// What is in the content store.
    pub(super) fetched_bytes: AtomicU64,
    pub(super) total_bytes: AtomicU64,
    pub(super) layers_done: AtomicUsize,
    pub(super) layers: AtomicUsize,
    /// What another pull has brought of blobs that this one waits for.
    pub(super) elsewhere_bytes: AtomicU64,
}

impl Tally {
    /// Bytes have come.
    pub(super) fn came(&self, n: u64) {
        self.received_bytes.fetch_add(n, Ordering::Relaxed);
        Counter::ImageBytes.add(n);
    }

    /// Begins anew, by another way. What has come has come.
    pub(super) fn begins_anew(&self) {
        for bytes in [&self.fetched_bytes, &self.total_bytes] {
            bytes.store(0, Ordering::Relaxed);
        }
        for layers in [&self.layers, &self.layers_done] {
            layers.store(0, Ordering::Relaxed);
        }
    }

    /// Corrects one blob's share, down as well: a write may be thrown away.
    pub(super) fn correct(&self, old: u64, new: u64) {
        self.fetched_bytes.fetch_add(new.wrapping_sub(old), Ordering::Relaxed);
    }
}

/// Brings blobs of one image into the content store, under one lease.
pub(super) struct Fetcher<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) lease: &'a str,
    pub(super) session: &'a Session,
    pub(super) reference: &'a Reference,
    pub(super) lanes: &'a Lanes,
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
        let reference = ingest_name(kind, target);
        // What an earlier pull left here may be damaged: once more from the start.
        let mut fresh_starts = 1;
        while !self.adopt(target, &labels).await? {
            let Some(mut writer) = self.open(&reference, target).await? else {
                return self.adopt(target, &labels).await.map(drop);
            };
            // All of it is here if another namespace has the blob: containerd then opens a write that is complete.
            let rest = usize::try_from(writer.offset()).ok().and_then(|at| bytes.get(at..));
            if let Some(rest) = rest.filter(|rest| !rest.is_empty()) {
                self.containerd(writer.write(rest.to_vec()).await)?;
            }
            match writer.commit(&self.sourced(labels.clone(), None)).await {
                Err(fault) if fault.kind == FaultKind::FailedPrecondition => {
                    self.containerd(self.gateway.abort_ingest(&reference).await)?;
                    if fresh_starts == 0 {
                        return Err(self.unusable(format!("{kind} {} is damaged: {}", target.digest, fault.text)));
                    }
                    fresh_starts -= 1;
                }
                answer => return self.containerd(answer),
            }
        }
        Ok(())
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
        // What an earlier pull left here was damaged, or what came: once more from the start, and from each other host.
        let mut fresh_starts = self.session.hosts().max(2) - 1;
        // Requests at once: fewer after each failure, since too many may be the reason.
        let mut widest = lanes::WIDEST;
        loop {
            let Some(mut writer) = self.open(&reference, target).await? else {
                self.tally.correct(counted, target.size);
                return self.adopt(target, &labels).await.map(drop);
            };
            let start = writer.offset();
            self.tally.correct(counted, start);
            counted = start;
            let mut host = None;
            let copied = self.copy(&mut writer, target, widest, &mut counted, &mut host).await;
            match copied {
                Ok(()) => match writer.commit(&self.sourced(labels.clone(), None)).await {
                    Err(fault) if fault.kind == FaultKind::FailedPrecondition => {
                        if let Some(host) = host {
                            self.session.distrust(host);
                        }
                        if fresh_starts == 0 {
                            return Err(self.unusable(format!("{kind} {} is damaged: {}", target.digest, fault.text)));
                        }
                        fresh_starts -= 1;
                        widest = 1;
                        self.containerd(self.gateway.abort_ingest(&reference).await)?;
                    }
                    answer => return self.containerd(answer),
                },
                // Whoever sends more than there should be would send it again.
                Err(ImageError::Unusable { .. }) if host.is_some() && self.session.hosts() > 1 && fresh_starts > 0 => {
                    fresh_starts -= 1;
                    widest = 1;
                    drop(writer);
                    self.containerd(self.gateway.abort_ingest(&reference).await)?;
                }
                Err(ImageError::Registry { .. }) if failures + 1 < TRIES => {
                    // The others are asked for the rest first, where there are others.
                    if let Some(host) = host {
                        self.session.distrust(host);
                    }
                    failures = if writer.offset() > start { 0 } else { failures + 1 };
                    widest = (widest / 2).max(1);
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

    /// A document that is in the store and has come from the same repository. One from elsewhere may be somebody's who had to show
    /// credentials for it: whoever may name it here may not have them.
    pub(super) async fn document_here(&self, digest: &str) -> Result<Option<Bytes>, ImageError> {
        let info = self.containerd(self.gateway.blob_info(digest).await)?;
        let (registry, repository) = (self.reference.registry(), self.reference.repository());
        if !info.is_some_and(|info| plan::is_from(&info.labels, registry, repository)) {
            return Ok(None);
        }
        let here = self.gateway.read_blob(digest, plan::DOCUMENT_MAX_BYTES).await;
        self.containerd(here)
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
        let mut seen = 0;
        loop {
            match self.containerd(self.gateway.open_ingest(reference, target.size, &target.digest).await)? {
                Ingest::Open(writer) => return Ok(Some(writer)),
                Ingest::Exists => return Ok(None),
                Ingest::Locked => tokio::time::sleep(LOCKED_POLL).await,
            }
            // Whoever writes it brings this pull on as well.
            let now = self
                .containerd(self.gateway.ingest_offset(reference).await)?
                .unwrap_or(seen);
            let more = now.saturating_sub(std::mem::replace(&mut seen, now));
            self.tally.elsewhere_bytes.fetch_add(more, Ordering::Relaxed);
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

    pub(super) fn unusable(&self, reason: String) -> ImageError {
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

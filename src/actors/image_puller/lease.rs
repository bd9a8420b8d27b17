//! The lease that a pull works under, and the leases that interrupted ones have left.

use super::unpack::unique;
use crate::containerd::{Gateway, Labels, expires_after};
use crate::host::liveness::is_running;
use crate::messages::image::ImageError;
use crate::messages::runtime::{ContainerdFault, FaultKind};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long what an interrupted pull has fetched is kept for the next one, at least.
pub(super) const LEASE_EXPIRES: Duration = Duration::from_secs(60 * 60);
/// Label of the leases of pulls: the image's name.
const IMAGE_LABEL: &str = "containerd-driver/pull";
/// Label of the leases of pulls: process id of the driver that pulls.
const OWNER_LABEL: &str = "containerd-driver/pid";

/// Leases of pulls that this process is carrying out.
pub(super) type Living = Arc<Mutex<HashSet<String>>>;

/// A lease of a running pull. Dropping it leaves it to expire: what was fetched is kept for the next pull.
pub(super) struct Lease {
    pub(super) id: String,
    living: Living,
}

impl Lease {
    /// A new lease that also holds what interrupted pulls of this image have left; theirs are removed.
    pub(super) async fn open(
        gateway: &Gateway,
        living: &Living,
        image: &str,
        expires: Duration,
    ) -> Result<Self, ContainerdFault> {
        let id = format!("containerd-driver-pull-{}", unique());
        let labels = Labels::from([
            expires_after(expires),
            (IMAGE_LABEL.to_owned(), image.to_owned()),
            (OWNER_LABEL.to_owned(), std::process::id().to_string()),
        ]);
        let abandoned = Self::abandoned(gateway, living, image).await?;
        living.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
        let lease = Self {
            id,
            living: Arc::clone(living),
        };
        gateway.create_lease(&lease.id, &labels).await?;
        for old in abandoned {
            // One that has just expired has nothing to give.
            match gateway.share_lease(&old, &lease.id).await {
                Err(fault) if fault.kind != FaultKind::NotFound => return Err(fault),
                _ => remove(gateway, &old).await,
            }
        }
        Ok(lease)
    }

    /// Removes what pulls of this image have left that were cut off after their work was done: it is here.
    pub(super) async fn sweep(gateway: &Gateway, living: &Living, image: &str) -> Result<(), ContainerdFault> {
        for old in Self::abandoned(gateway, living, image).await? {
            remove(gateway, &old).await;
        }
        Ok(())
    }

    /// Removes it. A fault is no reason to fail what has succeeded: the lease expires.
    pub(super) async fn close(self, gateway: &Gateway) {
        remove(gateway, &self.id).await;
    }

    /// Ends a pull: what a failed one has fetched is kept for the next, if there can be a next one and it has any.
    pub(super) async fn end<T>(self, gateway: &Gateway, answer: &Result<T, ImageError>, fetched_bytes: u64) {
        match answer {
            // Unless it is what fills the disk: then no try could ever succeed.
            Err(e) if e.is_transient() && fetched_bytes > 0 && !e.is_out_of_room() => {}
            _ => self.close(gateway).await,
        }
    }

    async fn abandoned(gateway: &Gateway, living: &Living, image: &str) -> Result<Vec<String>, ContainerdFault> {
        let mut leases = gateway.list_leases().await?;
        leases.retain(|lease| {
            lease.labels.get(IMAGE_LABEL).map(String::as_str) == Some(image)
                && !is_living(living, &lease.id, &lease.labels)
        });
        Ok(leases.into_iter().map(|lease| lease.id).collect())
    }
}

/// Whether the pull of a lease still runs, here or in another process (the command line beside the plugin).
fn is_living(living: &Living, id: &str, labels: &Labels) -> bool {
    match labels.get(OWNER_LABEL).and_then(|pid| pid.parse::<u32>().ok()) {
        Some(pid) if pid == std::process::id() => living.lock().unwrap_or_else(PoisonError::into_inner).contains(id),
        Some(pid) => is_running(pid),
        None => false,
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.living
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.id);
    }
}

async fn remove(gateway: &Gateway, id: &str) {
    if let Err(fault) = gateway.delete_lease(id).await {
        tracing::debug!(error = %fault, "lease of a pull left to expire");
    }
}

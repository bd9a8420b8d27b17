//! The lease that a pull works under, and the leases that interrupted ones have left.

use super::unpack::unique;
use crate::containerd::{Gateway, Labels, expires_after};
use crate::host::liveness::is_running;
use crate::messages::runtime::ContainerdFault;
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
    image: String,
    living: Living,
}

impl Lease {
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
        living.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
        let lease = Self { id, image: image.to_owned(), living: Arc::clone(living) };
        gateway.create_lease(&lease.id, &labels).await?;
        Ok(lease)
    }

    /// Removes it. A fault is no reason to fail what has succeeded: the lease expires.
    pub(super) async fn close(self, gateway: &Gateway) {
        remove(gateway, &self.id).await;
    }

    /// Removes it and what interrupted pulls of the same image have left.
    pub(super) async fn close_all(self, gateway: &Gateway) {
        // A fault here leaves them to expire, too.
        let all = gateway.list_leases().await.unwrap_or_default();
        remove(gateway, &self.id).await;
        for other in all {
            let same_image = other.labels.get(IMAGE_LABEL) == Some(&self.image);
            if same_image && other.id != self.id && !self.is_living(&other.id, &other.labels) {
                remove(gateway, &other.id).await;
            }
        }
    }

    /// Whether the pull of a lease still runs, here or in another process (the command line beside the plugin).
    fn is_living(&self, id: &str, labels: &Labels) -> bool {
        match labels.get(OWNER_LABEL).and_then(|pid| pid.parse::<u32>().ok()) {
            Some(pid) if pid == std::process::id() => {
                self.living.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
            }
            Some(pid) => is_running(pid),
            None => false,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.living.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

async fn remove(gateway: &Gateway, id: &str) {
    if let Err(fault) = gateway.delete_lease(id).await {
        tracing::debug!(%fault, lease = id, "lease of a pull left to expire");
    }
}

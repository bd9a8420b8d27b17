//! The lease that a pull works under, and the leases that interrupted ones have left.

use super::unpack::unique;
use crate::containerd::{Gateway, Labels, expires_after};
use crate::host::liveness;
use crate::messages::image::ImageError;
use crate::messages::runtime::{ContainerdFault, FaultKind};
use crate::spec::owner::{KEY_PLUGIN, KEY_PULLED, PULL_LEASE, ProcessId};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tracing::Instrument as _;

/// How long a pull's lease is kept by containerd, counted from the pull's begin. The reaper takes that of a process that has
/// ended when it is older than the grace period.
pub(super) const LEASE_EXPIRES: Duration = Duration::from_secs(60 * 60);
/// First and longest rest before another attempt to remove a lease, and how many there are: some ten minutes.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
const REMOVALS: usize = 64;
/// Label of the leases of pulls by earlier versions: process id of the driver that pulls.
const PID_LABEL: &str = "containerd-driver/pid";

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
        let id = format!("{PULL_LEASE}{}", unique());
        let labels = Labels::from([
            expires_after(expires),
            (KEY_PULLED.to_owned(), image.to_owned()),
            (KEY_PLUGIN.to_owned(), liveness::this_process().text()),
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
            lease.labels.get(KEY_PULLED).map(String::as_str) == Some(image)
                && !is_living(living, &lease.id, &lease.labels)
        });
        Ok(leases.into_iter().map(|lease| lease.id).collect())
    }
}

/// Whether the pull of a lease still runs, here or in another process (the command line beside the plugin).
fn is_living(living: &Living, id: &str, labels: &Labels) -> bool {
    let me = liveness::this_process();
    match labels.get(KEY_PLUGIN).and_then(|text| ProcessId::parse(text)) {
        Some(process) if process == me => living.lock().unwrap_or_else(PoisonError::into_inner).contains(id),
        Some(process) => process.is_out_of_sight(&me) || liveness::lives(&process),
        None => labels
            .get(PID_LABEL)
            .and_then(|pid| pid.parse().ok())
            .is_some_and(liveness::is_running),
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

/// Removes a lease. Of a containerd that is away it is removed when it is back, which nobody waits for.
pub(super) async fn remove(gateway: &Gateway, id: &str) {
    let Err(fault) = gateway.delete_lease(id).await else {
        return;
    };
    if !fault.is_transient() {
        tracing::debug!(lease = id, error = %fault, "a lease is left to expire");
        return;
    }
    let (gateway, id) = (gateway.clone(), id.to_owned());
    let later = async move {
        let mut rest = AGAIN.0;
        for _ in 0..REMOVALS {
            tokio::time::sleep(rest).await;
            rest = (rest * 2).min(AGAIN.1);
            match gateway.delete_lease(&id).await {
                Err(fault) if fault.is_transient() => {}
                Err(fault) => return tracing::debug!(lease = id, error = %fault, "a lease is left to expire"),
                Ok(_) => return,
            }
        }
        tracing::debug!(lease = id, "a lease is left to expire");
    };
    drop(tokio::spawn(later.in_current_span()));
}

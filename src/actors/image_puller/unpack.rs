//! Layers from the content store into snapshots, one upon the other.

use super::budget::{Budget, Place};
use crate::containerd::{Descriptor, Gateway, Labels};
use crate::messages::runtime::{ContainerdFault, FaultKind};
use crate::spec::identity::Digest;
use std::hash::{BuildHasher as _, Hasher as _};
use std::time::SystemTime;

/// Why a layer could not be unpacked.
#[derive(Debug)]
pub(super) enum UnpackError {
    Containerd(ContainerdFault),
    /// The layer is not what the config says.
    Damaged(String),
}

impl From<ContainerdFault> for UnpackError {
    fn from(fault: ContainerdFault) -> Self {
        Self::Containerd(fault)
    }
}

/// Where layers are unpacked to. `gateway` works under `lease`.
pub(super) struct Unpacker<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) lease: &'a str,
    pub(super) snapshotter: &'a str,
    pub(super) turns: &'a Unpacks,
}

/// Turns for layers to be unpacked.
#[derive(Clone)]
pub(super) struct Unpacks {
    pub(super) budget: Budget,
    /// In whose line.
    pub(super) job: String,
}

impl Unpacks {
    /// The turn for a layer.
    pub(super) async fn turn(&self) -> Place {
        self.budget.wait(&self.job).turn().await
    }
}

impl Unpacker<'_> {
    /// Whether this stack of layers is there; holds it if it is.
    pub(super) async fn has(&self, chain: &Digest) -> Result<bool, ContainerdFault> {
        if self.stat(chain).await? {
            self.gateway
                .lease_snapshot(self.lease, self.snapshotter, chain.as_str())
                .await?;
            // Again: it may have been collected before it was held.
            return self.stat(chain).await;
        }
        Ok(false)
    }

    async fn stat(&self, chain: &Digest) -> Result<bool, ContainerdFault> {
        Ok(self
            .gateway
            .stat_snapshot(self.snapshotter, chain.as_str())
            .await?
            .is_some())
    }

    /// Unpacks one layer on top of `parent` (`None`: nothing) as `chain`. False if it was there already.
    pub(super) async fn layer(
        &self,
        layer: &Descriptor,
        diff_id: &Digest,
        parent: Option<&Digest>,
        chain: &Digest,
    ) -> Result<bool, UnpackError> {
        if self.has(chain).await? {
            return Ok(false);
        }
        let _place = self.turns.turn().await;
        // Whoever had the turn before may have unpacked the same.
        if self.has(chain).await? {
            return Ok(false);
        }
        // Each attempt has its own key (containerd's `UnpackKeyFormat`): what a killed one left behind is in nobody's
        // way, and goes with its lease.
        let key = format!("extract-{} {chain}", unique());
        let parent = parent.map_or("", Digest::as_str);
        let mounts = self
            .gateway
            .prepare_snapshot(self.snapshotter, &key, parent, &Labels::new())
            .await?;
        let answer = self.fill(layer, diff_id, &mounts, &key, chain).await;
        if !matches!(answer, Ok(Outcome::Committed)) {
            // The answer counts more than the tidying up, which the lease does too.
            if let Err(fault) = self.gateway.remove_snapshot(self.snapshotter, &key).await {
                tracing::debug!(error = %fault, "unpack snapshot left to its lease");
            }
        }
        // Held by this pull too, whatever becomes of the faster one.
        if matches!(answer, Ok(Outcome::SomeoneWasFaster)) {
            self.has(chain).await?;
        }
        answer.map(|_| true)
    }

    async fn fill(
        &self,
        layer: &Descriptor,
        diff_id: &Digest,
        mounts: &[crate::containerd::Mount],
        key: &str,
        chain: &Digest,
    ) -> Result<Outcome, UnpackError> {
        let applied = self.gateway.apply_diff(layer, mounts).await?;
        if applied.digest != diff_id.as_str() {
            let digest = &applied.digest;
            return Err(UnpackError::Damaged(format!(
                "layer {} unpacks to {digest}, not to {diff_id}",
                layer.digest
            )));
        }
        match self
            .gateway
            .commit_snapshot(self.snapshotter, chain.as_str(), key, &Labels::new())
            .await
        {
            Ok(()) => Ok(Outcome::Committed),
            Err(fault) if fault.kind == FaultKind::AlreadyExists => Ok(Outcome::SomeoneWasFaster),
            Err(fault) => Err(fault.into()),
        }
    }
}

enum Outcome {
    Committed,
    SomeoneWasFaster,
}

/// A text that no other attempt has: time, and chance for attempts at the same time.
pub(super) fn unique() -> String {
    let nanos = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos());
    let chance = std::hash::RandomState::new().build_hasher().finish() & 0xffff_ffff;
    format!("{nanos}-{chance:08x}")
}

//! A pull by containerd's transfer service: the same result, with containerd's own configuration for registries.

use super::ensure::{PullConfig, bounded};
use super::facts::{self, Known};
use super::fetch::Tally;
use super::lease::{LEASE_EXPIRES, Lease};
use super::plan;
use super::unpack::unique;
use crate::containerd::{BlobProgress, Gateway, RemotePull, RemotePullFault};
use crate::messages::image::{Credentials, ImageError};
use crate::spec::reference::Reference;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Pulls, unpacks what containerd did not, and says what the image is.
pub(super) async fn pull(
    gateway: &Gateway,
    config: &PullConfig,
    reference: &Reference,
    credentials: Option<&Credentials>,
    timeout: Duration,
    tally: &Tally,
) -> Result<Option<Known>, ImageError> {
    let name = reference.name();
    let at = |source| ImageError::Containerd {
        image: name.clone(),
        source,
    };
    // Our lease, not the service's own: that one ends with the call, and with it what an interrupted pull has fetched.
    let lease = Lease::open(gateway, &config.living, &name, LEASE_EXPIRES.max(timeout * 2))
        .await
        .map_err(at)?;
    let leased = gateway.with_lease(&lease.id);
    let mut request = RemotePull {
        image: name.clone(),
        snapshotter: Some(config.snapshotter.clone()),
        architecture: plan::architecture().to_owned(),
        credentials: credentials.map(|c| (c.username.clone(), c.password.clone())),
        hosts: hosts(reference),
        id: unique(),
    };
    let mut blobs = HashMap::new();
    let work = async {
        let mut pulled = leased.pull_image(&request, |blob| count(&mut blobs, blob, tally)).await;
        if pulled == Err(RemotePullFault::CannotUnpack) {
            // Which snapshotters it is configured for cannot be asked. We unpack below.
            request.snapshotter = None;
            request.id = unique();
            pulled = leased.pull_image(&request, |blob| count(&mut blobs, blob, tally)).await;
        }
        pulled.map_err(|fault| meaning(reference, fault))?;
        let record = leased.image(&name).await.map_err(at)?;
        let Some(record) = record else { return Ok(None) };
        // Also unpacks, where containerd did not.
        facts::of_target(&leased, config, &name, &record.target, Some(&lease.id)).await
    };
    let answer = bounded(reference, timeout, timeout, work).await;
    lease
        .end(gateway, &answer, tally.fetched_bytes.load(Ordering::Relaxed))
        .await;
    answer
}

/// The hosts that credentials for this reference are for.
fn hosts(reference: &Reference) -> Vec<String> {
    match reference.registry() {
        // Docker Hub's registry answers under other names than images have.
        "docker.io" => ["docker.io", "registry-1.docker.io", "index.docker.io"]
            .map(str::to_owned)
            .into(),
        other => vec![other.to_owned()],
    }
}

fn count(blobs: &mut HashMap<String, BlobProgress>, blob: BlobProgress, tally: &Tally) {
    blobs.insert(blob.digest.clone(), blob);
    let sum = |of: fn(&BlobProgress) -> u64| blobs.values().map(of).fold(0, u64::saturating_add);
    tally.fetched_bytes.store(sum(|b| b.fetched_bytes), Ordering::Relaxed);
    tally.total_bytes.store(sum(|b| b.total_bytes), Ordering::Relaxed);
    tally
        .layers
        .store(blobs.values().filter(|b| b.layer).count(), Ordering::Relaxed);
    tally.layers_done.store(
        blobs.values().filter(|b| b.layer && b.unpacked).count(),
        Ordering::Relaxed,
    );
}

fn meaning(reference: &Reference, fault: RemotePullFault) -> ImageError {
    let (image, registry) = (reference.name(), reference.registry().to_owned());
    match fault {
        RemotePullFault::NotFound(reason) => ImageError::NotFound {
            image,
            registry,
            reason,
        },
        RemotePullFault::Denied(reason) => ImageError::Denied { image, reason },
        RemotePullFault::CannotUnpack => ImageError::Unusable {
            image,
            reason: "containerd cannot unpack it".to_owned(),
        },
        RemotePullFault::Unusable(reason) => ImageError::Unusable { image, reason },
        RemotePullFault::Registry(reason) => ImageError::Registry {
            image,
            registry,
            reason,
        },
        RemotePullFault::Containerd(source) => ImageError::Containerd { image, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_for_docker_hub_are_for_its_registry_too() {
        let hub = Reference::parse("busybox").unwrap();
        assert!(hosts(&hub).contains(&"registry-1.docker.io".to_owned()));
        let other = Reference::parse("ghcr.io/a/b").unwrap();
        assert_eq!(hosts(&other), ["ghcr.io"]);
    }
}

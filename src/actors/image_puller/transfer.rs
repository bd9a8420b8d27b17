//! A pull by containerd's transfer service: the same result. It reads the same `hosts.toml` and asks for credentials host by
//! host.

use super::ensure::PullConfig;
use super::facts::{self, Known};
use super::fetch::Tally;
use super::keyring::Keyring;
use super::lease::Lease;
use super::mark;
use super::plan;
use super::unpack::unique;
use super::watch::Watch;
use crate::containerd::{BlobProgress, Gateway, RemoteLogin, RemotePull, RemotePullFault};
use crate::messages::image::{Credentials, ImageError};
use crate::spec::reference::Reference;
use crate::telemetry::steps::step;
use futures_util::FutureExt as _;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

/// Pulls, unpacks what containerd did not, and says what the image is.
pub(super) async fn pull(
    gateway: &Gateway,
    config: &PullConfig,
    reference: &Reference,
    keyring: &Keyring,
    watch: &Watch,
) -> Result<Option<Known>, ImageError> {
    let name = reference.name();
    let at = |source| ImageError::Containerd {
        image: name.clone(),
        source,
    };
    let host_dir = config.registries.host_dir(reference).await?;
    // containerd makes the record, so that its marks have to be known before.
    keyring.of(reference.registry()).await?;
    let labels = mark::pulled(gateway, &name, keyring.used()).await.map_err(at)?;
    // Our lease, not the service's own: that one ends with the call, and with it what an interrupted pull has fetched.
    let lease = Lease::open(gateway, &config.living, &name, watch.lease())
        .await
        .map_err(at)?;
    step!(PullLeased);
    let leased = gateway.with_lease(&lease.id);
    let mut request = RemotePull {
        image: name.clone(),
        snapshotter: Some(config.snapshotter.clone()),
        architecture: plan::architecture().to_owned(),
        host_dir,
        labels,
        id: unique(),
    };
    let tally = watch.tally();
    let mut blobs = HashMap::new();
    let unknown: Mutex<Option<ImageError>> = Mutex::new(None);
    let login = |host: String| {
        let unknown = &unknown;
        async move {
            match keyring.of(&host).await {
                Ok(credentials) => credentials.map(login),
                // containerd can only be told that there are none; why there are none, is told if it fails for that.
                Err(e) => {
                    unknown.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                    None
                }
            }
        }
        .boxed()
    };
    let work = async {
        let mut pulled = leased
            .pull_image(&request, &login, |blob| count(&mut blobs, blob, tally))
            .await;
        if pulled == Err(RemotePullFault::CannotUnpack) {
            // Which snapshotters it is configured for cannot be asked. We unpack below.
            request.snapshotter = None;
            request.id = unique();
            pulled = leased
                .pull_image(&request, &login, |blob| count(&mut blobs, blob, tally))
                .await;
        }
        if let Err(RemotePullFault::Damaged { ingest, .. }) = &pulled {
            // As long as the blob should be, so that the next pull would not fetch them again but judge them again.
            leased.abort_ingest(ingest).await.map_err(at)?;
        }
        pulled.map_err(|fault| {
            let unknown = unknown.lock().unwrap_or_else(PoisonError::into_inner).take();
            unknown.unwrap_or_else(|| meaning(reference, fault))
        })?;
        settle(&mut blobs, tally);
        step!(PullRecorded);
        let record = leased.image(&name).await.map_err(at)?;
        let Some(record) = record else { return Ok(None) };
        // Also unpacks, where containerd did not.
        facts::of_target(&leased, config, &name, &record.target, Some(&lease.id)).await
    };
    let answer = watch.over(&name, work).await;
    lease
        .end(gateway, &answer, tally.fetched_bytes.load(Ordering::Relaxed))
        .await;
    answer
}

/// Credentials as containerd takes them.
fn login(credentials: Credentials) -> RemoteLogin {
    match credentials.identity_token {
        Some(token) => RemoteLogin::IdentityToken(token),
        None => RemoteLogin::Password(credentials.username, credentials.password),
    }
}

fn count(blobs: &mut HashMap<String, BlobProgress>, blob: BlobProgress, tally: &Tally) {
    // containerd announces each blob that it looks for; one that it only unpacks was here before.
    let announced = blobs.get(&blob.digest).filter(|_| !blob.was_here);
    if let Some(more) = announced.and_then(|before| blob.fetched_bytes.checked_sub(before.fetched_bytes)) {
        tally.came(more);
    }
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

/// A pull has succeeded: what was announced is here. containerd tells how far it is three times a second, and its last words
/// may come after its answer.
fn settle(blobs: &mut HashMap<String, BlobProgress>, tally: &Tally) {
    let all: Vec<_> = blobs.values().cloned().collect();
    for blob in all {
        let fetched_bytes = blob.total_bytes;
        count(blobs, BlobProgress { fetched_bytes, ..blob }, tally);
    }
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
        RemotePullFault::Unusable(reason) | RemotePullFault::Damaged { text: reason, .. } => {
            ImageError::Unusable { image, reason }
        }
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
    use crate::spec::secret::Secret;

    #[test]
    fn what_has_come_is_counted_and_what_was_here_is_not() {
        let (mut blobs, tally) = (HashMap::new(), Tally::default());
        let blob = |digest: &str, fetched_bytes, was_here| BlobProgress {
            digest: digest.to_owned(),
            layer: true,
            fetched_bytes,
            was_here,
            total_bytes: 100,
            unpacked: false,
        };
        let mut told = |digest, fetched, was_here| {
            count(&mut blobs, blob(digest, fetched, was_here), &tally);
            tally.received_bytes.load(Ordering::Relaxed)
        };
        assert_eq!(told("unpacked", 100, false), 0);
        assert_eq!(told("kept", 0, false), 0);
        assert_eq!(told("kept", 100, true), 0);
        assert_eq!(told("fetched", 0, false), 0);
        assert_eq!(told("fetched", 70, false), 70);
        assert_eq!(told("unseen", 0, false), 70);
        settle(&mut blobs, &tally);
        assert_eq!(tally.received_bytes.load(Ordering::Relaxed), 200);
        assert_eq!(tally.fetched_bytes.load(Ordering::Relaxed), 400);
    }

    #[test]
    fn an_identity_token_goes_before_a_password() {
        let mut credentials = Credentials {
            username: "u".into(),
            password: Secret::new("p"),
            identity_token: None,
        };
        let password = RemoteLogin::Password("u".into(), Secret::new("p"));
        assert_eq!(login(credentials.clone()), password);
        credentials.identity_token = Some(Secret::new("t"));
        assert_eq!(login(credentials), RemoteLogin::IdentityToken(Secret::new("t")));
    }
}

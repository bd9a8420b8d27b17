//! A pull by containerd's transfer service: the same result. It reads the same `hosts.toml` and asks for credentials host by
//! host.
//!
//! What the service does not do: try again after a registry's trouble or damaged bytes, refuse files that cannot be, and leave
//! a record alone that it moves to an image of no use here.

use super::admission;
use super::ensure::PullConfig;
use super::facts::{self, Known};
use super::fetch::Tally;
use super::keyring::{Given, Keyring};
use super::layer_spans::LayerSpans;
use super::lease::Lease;
use super::mark;
use super::plan;
use super::pull::whole;
use super::unpack::unique;
use super::watch::Watch;
use crate::containerd::{BlobProgress, BlobStage, Gateway, ImageRecord, RemoteLogin, RemotePull, RemotePullFault};
use crate::messages::image::{Credentials, ImageError};
use crate::messages::runtime::{ContainerdFault, FaultKind};
use crate::spec::reference::Reference;
use crate::telemetry::steps::step;
use futures_util::FutureExt as _;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Tries where there is no other way to pull, and the wait after the first; it doubles.
const TRIES: u32 = 4;
const BACKOFF: Duration = Duration::from_millis(500);

/// What became of a pull.
pub(super) enum Outcome {
    /// The image is here; `None` if it was removed meanwhile.
    Here(Option<Known>),
    /// The registry is in trouble or slow, sent other bytes than it should, or has said no to containerd: it may give the image
    /// to us, who ask with patience. What has come is held by a lease for that.
    Passing(ImageError),
}

/// Pulls in place of the record `before`, unpacks what containerd did not, and says what the image is. `is_last`: there is no
/// other way to try after this one.
pub(super) async fn pull(
    gateway: &Gateway,
    config: &PullConfig,
    reference: &Reference,
    keyring: &Keyring,
    before: Option<&ImageRecord>,
    watch: &Watch,
    is_last: bool,
) -> Result<Outcome, ImageError> {
    let name = reference.name();
    let at = |source| ImageError::Containerd {
        image: name.clone(),
        source,
    };
    let keyring = &config.registries.checked(reference, keyring).await?;
    let host_dir = config.registries.host_dir(reference).await?;
    // containerd makes the record, so that its marks have to be known before: private until it is known not to be.
    let whose = keyring.look(reference.registry()).await?;
    let labels = mark::pulled(gateway, &name, whose).await.map_err(at)?;
    // Our lease, not the service's own: that one ends with the call, and with it what an interrupted pull has fetched.
    let lease = Lease::open(gateway, &config.living, &name, watch.lease())
        .await
        .map_err(at)?;
    step!(PullLeased);
    let leased = gateway.with_lease(&lease.id);
    if let Some(before) = before {
        // Until the new image is known to be of use, the record may have to go back to it.
        match gateway.lease_blob(&lease.id, &before.target.digest).await {
            Err(fault) if fault.kind != FaultKind::NotFound => return Err(at(fault)),
            _ => {}
        }
    }
    let mut request = RemotePull {
        image: name.clone(),
        snapshotter: Some(config.snapshotter.clone()),
        architecture: plan::architecture().to_owned(),
        host_dir,
        labels,
        id: unique(),
    };
    let tally = watch.tally();
    let (mut blobs, mut spans) = (HashMap::new(), LayerSpans::new(true));
    let unknown: Mutex<Option<ImageError>> = Mutex::new(None);
    let shown = Given::default();
    let login = |host: String| {
        let (unknown, shown) = (&unknown, &shown);
        async move {
            match keyring.of(&host).await {
                Ok(credentials) => {
                    let credentials = credentials?;
                    let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
                    shown.insert(host, credentials.clone());
                    Some(login(credentials))
                }
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
        let (mut failed, mut is_renewed) = (0, false);
        loop {
            let pulled = leased.pull_image(&request, &login, |blob| {
                spans.see(&blob);
                count(&mut blobs, blob, tally);
            });
            let Err(fault) = pulled.await else { break };
            request.id = unique();
            if fault == RemotePullFault::CannotUnpack && request.snapshotter.is_some() {
                // Which snapshotters it is configured for cannot be asked. We unpack below.
                request.snapshotter = None;
                spans = LayerSpans::new(false);
                continue;
            }
            spans = LayerSpans::new(request.snapshotter.is_some());
            if let RemotePullFault::Damaged { ingest, .. } = &fault {
                // As long as the blob should be, so that the next pull would not fetch them again but judge them again.
                leased.abort_ingest(ingest).await.map_err(at)?;
            }
            let is_passing = matches!(fault, RemotePullFault::Registry(_) | RemotePullFault::Damaged { .. });
            let unknown = unknown.lock().unwrap_or_else(PoisonError::into_inner).take();
            let error = match unknown {
                Some(unknown) => return Err(unknown),
                None => meaning(reference, fault, keyring),
            };
            let may_be_wrong = match &error {
                ImageError::Unusable { reason, .. } => reason.contains(OLD_FORM),
                // One question of ours decides: containerd takes a mirror's word for the registry's, asks in ways that not
                // every registry knows, and shows to the end what was good when it began.
                ImageError::NotFound { .. } | ImageError::Denied { .. } => true,
                _ => false,
            };
            if !is_last && may_be_wrong {
                return Ok(Outcome::Passing(error));
            }
            if matches!(error, ImageError::Denied { .. }) && !is_renewed && keyring.has_others(&shown).await? {
                tracing::debug!(image.ref = name, %error, "containerd is asked to pull again, with other credentials");
                is_renewed = true;
                continue;
            }
            failed += 1;
            if !is_passing || is_last && failed >= TRIES {
                return Err(error);
            }
            if !is_last {
                return Ok(Outcome::Passing(error));
            }
            tracing::debug!(image.ref = name, %error, failed, "containerd is asked to pull again");
            config.registries.last_word().put(error.to_string());
            tokio::time::sleep(BACKOFF * 2_u32.pow(failed - 1)).await;
        }
        spans.succeed();
        settle(&mut blobs, tally);
        step!(PullRecorded);
        let record = leased.image(&name).await.map_err(at)?;
        let Some(record) = record else {
            return Ok(Outcome::Here(None));
        };
        if keyring.used() != whose {
            // A registry that did not ask for them gives the image to everybody.
            let marks = admission::mark(keyring.used());
            leased.update_image_labels(&record, &marks).await.map_err(at)?;
        }
        // Also unpacks, where containerd did not.
        let known = facts::of_target(&leased, config, &name, &record.target, Some(&lease.id)).await;
        match known {
            // containerd has chosen, or read, something else than we would, and what we need is not here.
            Ok(None) if !is_last => Ok(Outcome::Passing(ImageError::Unusable {
                image: name.clone(),
                reason: "containerd has pulled something else of it than this driver needs".to_owned(),
            })),
            known => known.map(Outcome::Here),
        }
    };
    let answer = match watch.over(&name, work).await {
        // containerd tells of a blob by the MiB: whether a registry is silent or slow, we see ourselves.
        Err(error @ ImageError::Stalled { .. }) if !is_last => Ok(Outcome::Passing(error)),
        answer => answer,
    };
    let is_of_no_use = match &answer {
        Err(e) | Ok(Outcome::Passing(e)) => matches!(e, ImageError::Unusable { .. }),
        Ok(Outcome::Here(_)) => false,
    };
    if is_of_no_use && let Err(fault) = put_back(gateway, &name, before).await {
        tracing::warn!(image.ref = name, error = %fault, "the record of an image that is of no use here is left");
    }
    let fetched_bytes = tally.fetched_bytes.load(Ordering::Relaxed);
    match &answer {
        Ok(Outcome::Passing(ImageError::Stalled { .. })) => drop(lease),
        Ok(Outcome::Passing(_)) if fetched_bytes > 0 => drop(lease),
        answer => {
            let (gateway, ended) = (gateway.clone(), answer.as_ref().map(drop).map_err(Clone::clone));
            // Also when nobody waits any more: an image that is known is not pulled again, and nobody would end the lease.
            let end = async move {
                lease.end(&gateway, &ended, fetched_bytes).await;
                Ok(())
            };
            whole(&name, end).await?;
        }
    }
    answer
}

/// What containerd says of a manifest that it takes for one of an old form, by the type that the registry sends: a static server
/// sends any.
const OLD_FORM: &str = "schema 1 image manifests";

/// Makes the record what it was: containerd makes one of an image for another machine, too, also in place of a good one.
async fn put_back(gateway: &Gateway, name: &str, before: Option<&ImageRecord>) -> Result<(), ContainerdFault> {
    let Some(now) = gateway.image(name).await? else {
        return Ok(());
    };
    match before {
        None => gateway.delete_image(name).await.map(drop),
        Some(before) if before.target.digest == now.target.digest => Ok(()),
        Some(before) => {
            let mut labels = before.labels.clone();
            for key in now.labels.into_keys() {
                // A blank label takes away what the new one has and the old one had not.
                labels.entry(key).or_default();
            }
            let before = ImageRecord {
                labels,
                ..before.clone()
            };
            gateway.put_image(&before).await
        }
    }
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
    let announced = blobs.get(&blob.digest).filter(|_| blob.stage != BlobStage::WasHere);
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
        blobs
            .values()
            .filter(|b| b.layer && b.stage == BlobStage::Unpacked)
            .count(),
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

/// For the user; containerd repeats what a registry says.
fn meaning(reference: &Reference, fault: RemotePullFault, shown: &Keyring) -> ImageError {
    let (image, registry) = (reference.name(), reference.registry().to_owned());
    let hidden = |words: String| shown.hidden(&words);
    match fault {
        RemotePullFault::NotFound(reason) => ImageError::NotFound {
            image,
            registry,
            reason: hidden(reason),
        },
        RemotePullFault::Denied(reason) => ImageError::Denied {
            image,
            reason: hidden(reason),
        },
        RemotePullFault::CannotUnpack => ImageError::Unusable {
            image,
            reason: "containerd cannot unpack it".to_owned(),
        },
        RemotePullFault::Unusable(reason) | RemotePullFault::Damaged { text: reason, .. } => ImageError::Unusable {
            image,
            reason: hidden(reason),
        },
        RemotePullFault::Registry(reason) => ImageError::Registry {
            image,
            registry,
            reason: hidden(reason),
        },
        RemotePullFault::Containerd(source) => ImageError::Containerd {
            image,
            source: ContainerdFault {
                text: hidden(source.text),
                ..source
            },
        },
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
            total_bytes: 100,
            stage: if was_here {
                BlobStage::WasHere
            } else {
                BlobStage::Coming
            },
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

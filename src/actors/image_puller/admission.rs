//! Who may use a private image that is on this node.
//!
//! What was pulled with credentials is marked on its image record, without saying whose they were. A task that wants such an
//! image from disk has to be able to pull it: the registry is asked once for its credentials, and the answer counts for
//! `image_auth_ttl`. It is remembered by a digest that this process alone can make. What is not marked, such as what `ctr` or
//! an anonymous pull has brought, is for everybody.
//!
//! **The registry is down.** Then a task may use the image if its credentials were ever shown to be good for it in the life of
//! this process, or if it has none of its own and the image was pulled with the node's, which all tasks have. Otherwise it
//! fails, and may be tried again.

use super::ensure::PullConfig;
use super::keyring::{Keyring, Whose};
use crate::containerd::{ImageRecord, Labels};
use crate::messages::image::{Credentials, ImageError};
use crate::spec::reference::Reference;
use crate::spec::secret::Secret;
use crate::telemetry::names;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing::Instrument as _;

/// Label of an image record: pulled with credentials.
const PRIVATE: &str = "containerd-driver/private";
/// With those of the plugin's configuration.
const OF_NODE: &str = "node";
/// With those of a task.
const OF_TASK: &str = "task";
/// How long the registry has for the answer; later it counts as down.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Answers remembered; beyond that those that are no longer fresh are forgotten, then all.
const REMEMBERED_MAX: usize = 4096;

/// The mark for the record of an image that was pulled so. Blank for one that needs none, which takes an old one away.
pub(super) fn mark(whose: Option<Whose>) -> Labels {
    let value = match whose {
        None => "",
        Some(Whose::Node) => OF_NODE,
        Some(Whose::Task) => OF_TASK,
    };
    Labels::from([(PRIVATE.to_owned(), value.to_owned())])
}

/// The mark that a record has, for another record of the same image.
pub(super) fn mark_of(labels: &Labels) -> Labels {
    let mark = labels.get_key_value(PRIVATE);
    mark.map(|(key, value)| (key.clone(), value.clone()))
        .into_iter()
        .collect()
}

/// Whose credentials an image was pulled with, if it is private. Another version's word is the stricter one.
fn marked(labels: &Labels) -> Option<Whose> {
    match labels.get(PRIVATE).map(String::as_str) {
        None | Some("") => None,
        Some(OF_NODE) => Some(Whose::Node),
        Some(_) => Some(Whose::Task),
    }
}

/// Somebody with these credentials, known to this process only.
type Who = [u8; 32];

/// What was shown to somebody. A registry gives access by repository, so that it does not matter by which tag.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Shown {
    registry: String,
    repository: String,
    /// Digest of the image.
    target: String,
    /// Whether those hosts alone were asked that may tell what a tag stands for. A mirror of content may give it to
    /// everybody, and its word is none about a tag.
    by_name: bool,
    who: Who,
}

impl Shown {
    fn new(reference: &Reference, target: &str, who: Who) -> Self {
        Self {
            registry: reference.registry().to_owned(),
            repository: reference.repository().to_owned(),
            target: target.to_owned(),
            by_name: reference.digest().is_none(),
            who,
        }
    }
}

/// Whose credentials were shown to be good for which image, and when. Cheap to clone; clones share it.
#[derive(Clone)]
pub(super) struct Admitted {
    /// Random, of this process.
    key: Arc<[u64; 4]>,
    shown: Arc<Mutex<HashMap<Shown, Instant>>>,
}

impl Default for Admitted {
    fn default() -> Self {
        // A new `RandomState` has random keys, from the kernel: its hash of anything is a random number.
        let key = [0_u8, 1, 2, 3].map(|i| RandomState::new().hash_one(i));
        Self {
            key: Arc::new(key),
            shown: Arc::default(),
        }
    }
}

impl fmt::Debug for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Admitted")
    }
}

impl Admitted {
    /// `own` is what a task gives itself, `found` what there is for the registry of the image.
    fn who(&self, own: &[&str], found: Option<&Credentials>) -> Who {
        let mut digest = Sha256::new();
        for word in *self.key {
            digest.update(word.to_le_bytes());
        }
        // Lengths keep neighbours apart.
        let mut feed = |part: &str| {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part.as_bytes());
        };
        own.iter().for_each(|part| feed(part));
        if let Some(found) = found {
            feed(&found.username);
            feed(found.password.reveal());
            feed(found.identity_token.as_ref().map_or("", Secret::reveal));
        }
        digest.finalize().into()
    }

    /// For how long it has been known that this may be used.
    fn since(&self, wanted: &Shown) -> Option<Duration> {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let by_name = Shown {
            by_name: true,
            ..wanted.clone()
        };
        let at = shown.get(wanted).max(shown.get(&by_name));
        at.map(Instant::elapsed)
    }

    fn put(&self, new: Shown, fresh: Duration) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.len() >= REMEMBERED_MAX {
            shown.retain(|_, at| at.elapsed() < fresh);
        }
        if shown.len() >= REMEMBERED_MAX {
            shown.clear();
        }
        shown.insert(new, Instant::now());
    }

    fn forget(&self, refused: &Shown) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for by_name in [true, false] {
            shown.remove(&Shown {
                by_name,
                ..refused.clone()
            });
        }
    }
}

/// Remembers that the registry has shown this image to this task.
pub(super) async fn shown(
    config: &PullConfig,
    keyring: &Keyring,
    reference: &Reference,
    target: &str,
) -> Result<(), ImageError> {
    if let Some(admitted) = &config.keys.admitted
        && keyring.used().is_some()
    {
        let found = keyring.of(reference.registry()).await?;
        let who = admitted.who(&keyring.own_parts(), found.as_ref());
        admitted.put(Shown::new(reference, target, who), config.keys.admitted_for);
    }
    Ok(())
}

/// Whether a task may use this image of the node.
///
/// # Errors
/// `Denied` or `NotFound` as the registry says, `Registry` if it says nothing and nothing is known, and those of the keyring.
pub(super) async fn check(
    config: &PullConfig,
    keyring: &Keyring,
    reference: &Reference,
    record: &ImageRecord,
) -> Result<(), ImageError> {
    let (Some(admitted), Some(whose)) = (&config.keys.admitted, marked(&record.labels)) else {
        return Ok(());
    };
    let (image, target) = (reference.name(), record.target.digest.as_str());
    let of_node = whose == Whose::Node && keyring.is_the_nodes();
    let found = match keyring.of(reference.registry()).await {
        // What the node's credentials come from is down, which says as little as a registry that is.
        Err(error) if of_node && error.is_transient() => {
            let reason = error.to_string();
            tracing::warn!(image.ref = image, reason, "a private image is used from disk without credentials to show");
            return Ok(());
        }
        found => found?,
    };
    let who = admitted.who(&keyring.own_parts(), found.as_ref());
    let wanted = Shown::new(reference, target, who);
    let since = admitted.since(&wanted);
    if since.is_some_and(|since| since < config.keys.admitted_for) {
        return Ok(());
    }
    let span = tracing::info_span!(names::IMAGE_RESOLVE, { names::IMAGE_REF } = %image);
    let asked = ask(config, keyring, reference, target).instrument(span);
    let answer = tokio::time::timeout(ANSWER_WITHIN, asked).await;
    match answer.unwrap_or_else(|_elapsed| Err(silent(reference))) {
        Ok(()) => {
            admitted.put(wanted, config.keys.admitted_for);
            Ok(())
        }
        Err(error) => match outage(error) {
            Ok(reason) if since.is_some() || of_node => {
                tracing::warn!(
                    image.ref = image,
                    reason,
                    "a private image is used from disk without asking its registry, which is down"
                );
                Ok(())
            }
            Ok(reason) => Err(ImageError::Registry {
                image,
                registry: reference.registry().to_owned(),
                reason: format!(
                    "{reason} (the image is on this node, but was pulled with credentials, and whether this task has such \
                     is for the registry to say)"
                ),
            }),
            Err(error) => {
                admitted.forget(&wanted);
                Err(refused(image, error))
            }
        },
    }
}

/// Asks for what is here, by its digest: a tag may have moved since.
async fn ask(config: &PullConfig, keyring: &Keyring, reference: &Reference, target: &str) -> Result<(), ImageError> {
    let here = reference.at(target).map_err(|reason| ImageError::Unusable {
        image: reference.name(),
        reason,
    })?;
    let session = config.registries.session(&here, keyring, ANSWER_WITHIN).await?;
    let session = session.of_permission();
    // A mirror of content may give it to everybody, and has never been asked what the name stands for.
    let session = match reference.digest() {
        Some(_) => session,
        None => session.of_resolvers(),
    };
    session.top().await.map(drop)
}

/// The registry does not answer.
fn silent(reference: &Reference) -> ImageError {
    ImageError::Registry {
        image: reference.name(),
        registry: reference.registry().to_owned(),
        reason: format!("no answer within {ANSWER_WITHIN:?}"),
    }
}

/// What is wrong with the registry; an answer of it is none of that.
fn outage(error: ImageError) -> Result<String, ImageError> {
    match error {
        ImageError::Registry { reason, .. } => Ok(reason),
        answer => Err(answer),
    }
}

/// What the registry answered, about the image as the task names it.
fn refused(image: String, error: ImageError) -> ImageError {
    const HERE: &str = "the image is on this node, but was pulled with other credentials";
    match error {
        ImageError::Denied { reason, .. } => ImageError::Denied {
            image,
            reason: format!("{reason} ({HERE})"),
        },
        ImageError::NotFound { registry, reason, .. } => ImageError::NotFound {
            image,
            registry,
            reason: format!("{reason} ({HERE})"),
        },
        other => other,
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;

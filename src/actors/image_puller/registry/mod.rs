//! Conversation with a registry: its hosts as the node's files name them, asked in order, one session per pull.
//!
//! A session shows each host only what is for that host. What one does not give, the next is asked for, and the registry
//! itself last; a host that has failed is asked after the others for the rest of the session. Registries on the loopback
//! address are taken as Docker takes them: TLS without a known certificate is good enough, and plain HTTP is tried when TLS
//! cannot be spoken.

mod blob;
mod challenge;
mod client;
mod remote;
mod token;
mod trust;

#[cfg(test)]
mod fake_test;
#[cfg(test)]
mod flow_test;
#[cfg(test)]
mod login_test;

use super::keyring::Keyring;
use super::plan;
use super::refusal::Failure;
use crate::containerd::Descriptor;
use crate::host::registries;
use crate::messages::image::ImageError;
use crate::spec::error::with_causes;
use crate::spec::identity::Digest;
use crate::spec::reference::Reference;
pub(super) use blob::Blob;
use bytes::Bytes;
use client::Clients;
use remote::{Ask, Remote, body};
use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A registry that sends nothing for this long has gone away.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Times that all hosts are asked for a document, and the wait after the first; it doubles.
const ROUNDS: u32 = 4;
const BACKOFF: Duration = Duration::from_millis(500);
/// Values of headers out of `hosts.toml` are taken for secrets from this length on.
const HEADER_SECRET_MIN: usize = 8;
/// Index, manifest and their Docker forms. Schema 1 is accepted so that such an image is named as what it is, instead of
/// "not found".
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.v1+prettyjws";

/// What was learned about registries. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct Registries {
    /// Directories with `hosts.toml` and certificates, separated by `:`.
    roots: Arc<str>,
    idle: Duration,
    /// Longest time without a byte, after which a pull ends.
    quiet: Duration,
    last_word: LastWord,
    /// Hosts that speak plain HTTP where TLS may be spoken.
    plain: Arc<Mutex<HashSet<String>>>,
    clients: Clients,
}

impl Default for Registries {
    fn default() -> Self {
        Self {
            roots: Arc::from(""),
            idle: READ_TIMEOUT,
            quiet: READ_TIMEOUT * 2,
            last_word: LastWord::default(),
            plain: Arc::default(),
            clients: Clients::default(),
        }
    }
}

impl fmt::Debug for Registries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registries")
            .field("roots", &self.roots)
            .field("plain", &self.plain)
            .finish_non_exhaustive()
    }
}

/// What the hosts of a session have in common.
struct Common {
    repository: String,
    registry: String,
    keyring: Keyring,
    idle: Duration,
    plain: Arc<Mutex<HashSet<String>>>,
}

/// One image at its registry.
pub(super) struct Session {
    common: Common,
    remotes: Vec<Remote>,
    version: String,
    digest: Option<Digest>,
    image: String,
    /// When the pull ends at the latest: nobody waits longer for a registry that is busy.
    until: Instant,
    quiet: Duration,
    last_word: LastWord,
    /// A refusal of the registry itself counts, whatever its mirrors say.
    refuses_itself: bool,
}

/// What went wrong last with the registry and has not gone well since, for the words of a pull that takes too long. Clones
/// share it.
#[derive(Debug, Clone, Default)]
pub(super) struct LastWord(Arc<Mutex<Option<String>>>);

impl LastWord {
    pub(super) fn put(&self, words: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(words);
    }

    fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A document or a small blob that is read whole.
struct Whole {
    limit: u64,
    digest: Option<Digest>,
}

impl Registries {
    /// The same for one pull, with the directories of the plugin's setting. It ends after `quiet` without a byte: before
    /// that, what stands still is tried again.
    #[must_use]
    pub(super) fn configured_in(&self, roots: &str, quiet: Duration) -> Self {
        Self {
            roots: Arc::from(roots),
            idle: READ_TIMEOUT.min(quiet / 2),
            quiet,
            last_word: LastWord::default(),
            ..self.clone()
        }
    }

    /// What the sessions of this pull have met.
    pub(super) fn last_word(&self) -> LastWord {
        self.last_word.clone()
    }

    /// Finds what is wrong with the files about a registry, as a session would: containerd passes it over. The keyring is
    /// that of a session.
    pub(super) async fn checked(&self, of: &Reference, keyring: &Keyring) -> Result<Keyring, ImageError> {
        let session = self.session(of, keyring, Duration::ZERO).await?;
        Ok(session.common.keyring)
    }

    /// Finds out whom to ask. Nobody is asked yet, and credentials are not looked for before somebody wants them.
    pub(super) async fn session(
        &self,
        of: &Reference,
        keyring: &Keyring,
        within: Duration,
    ) -> Result<Session, ImageError> {
        let unusable = |reason| ImageError::Unusable {
            image: of.name(),
            reason,
        };
        let (roots, registry) = (Arc::clone(&self.roots), of.registry().to_owned());
        let read = tokio::task::spawn_blocking(move || registries::configured(&roots, &registry)).await;
        let configured = read
            .map_err(|e| unusable(e.to_string()))?
            .map_err(|e| unusable(e.to_string()))?;
        let remote = |host| Remote::new(host, of.registry(), of.is_loopback(), &self.clients);
        let remotes = configured.iter().map(remote).collect::<Result<Vec<_>, _>>();
        let remotes = remotes.map_err(|reason| unusable(format!("the configuration of its registry: {reason}")))?;
        let keyring = match remotes.last() {
            Some(server) => keyring.served_by(of.registry(), &server.address.host),
            None => keyring.clone(),
        };
        for (_, value) in configured.iter().flat_map(|configured| &configured.host.headers) {
            // A short one is no secret, and hiding it would hide more.
            if value.reveal().len() >= HEADER_SECRET_MIN {
                keyring.knows(value.reveal());
            }
        }
        let version = match of.digest() {
            Some(digest) => digest.to_string(),
            None => of.tag().unwrap_or("latest").to_owned(),
        };
        Ok(Session {
            remotes,
            common: Common {
                repository: of.repository().to_owned(),
                registry: of.registry().to_owned(),
                keyring,
                idle: self.idle,
                plain: Arc::clone(&self.plain),
            },
            version,
            digest: of.digest().cloned(),
            image: of.name(),
            until: Instant::now() + within,
            quiet: self.quiet,
            last_word: self.last_word.clone(),
            refuses_itself: false,
        })
    }

    /// The directory in which containerd finds what is said of a registry.
    pub(super) async fn host_dir(&self, of: &Reference) -> Result<Option<String>, ImageError> {
        let (roots, registry) = (Arc::clone(&self.roots), of.registry().to_owned());
        let unusable = |reason| ImageError::Unusable {
            image: of.name(),
            reason,
        };
        let found = tokio::task::spawn_blocking(move || registries::directory(&roots, &registry)).await;
        let found = found
            .map_err(|e| unusable(e.to_string()))?
            .map_err(|e| unusable(e.to_string()))?;
        Ok(found.map(|(root, _)| root.display().to_string()))
    }
}

impl Session {
    /// The document that the reference names, verified against its digest, and that digest.
    pub(super) async fn top(&self) -> Result<(Bytes, String), ImageError> {
        let bytes = self.manifest(&self.version, self.digest.clone()).await?;
        let digest = self.digest.clone().unwrap_or_else(|| Digest::sha256(&bytes));
        Ok((bytes, digest.to_string()))
    }

    /// A document of the same repository by digest.
    pub(super) async fn document(&self, digest: &str) -> Result<Bytes, ImageError> {
        let parsed = Digest::parse(digest).map_err(|e| self.meaning(Failure::Unusable(e)))?;
        self.manifest(digest, Some(parsed)).await
    }

    async fn manifest(&self, version: &str, digest: Option<Digest>) -> Result<Bytes, ImageError> {
        let ask = Ask {
            path: format!("manifests/{version}"),
            accept: Some(MANIFESTS),
            from: 0,
            to: None,
            by_digest: digest.is_some(),
        };
        let limit = plan::DOCUMENT_MAX_BYTES;
        self.whole(&ask, &Whole { limit, digest }).await
    }

    /// A small blob whole, verified.
    pub(super) async fn small_blob(&self, blob: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let digest = Digest::parse(&blob.digest).map_err(|e| self.meaning(Failure::Unusable(e)))?;
        let whole = Whole {
            limit: blob.size,
            digest: Some(digest),
        };
        Ok(self.whole(&blob_from(blob, 0, None), &whole).await?.into())
    }

    async fn whole(&self, ask: &Ask, wanted: &Whole) -> Result<Bytes, ImageError> {
        let mut failed = 0;
        loop {
            let failure = match self.whole_once(ask, wanted).await {
                Ok(bytes) => return Ok(bytes),
                Err(failure) => failure,
            };
            let wait = self.wait(failure, &mut failed, ROUNDS)?;
            tokio::time::sleep(wait).await;
        }
    }

    async fn whole_once(&self, ask: &Ask, wanted: &Whole) -> Result<Bytes, Failure> {
        let mut failures = Vec::new();
        for number in self.order(ask) {
            let Some(remote) = self.remotes.get(number) else {
                continue;
            };
            let answer = async {
                let response = remote.get(ask, &self.common).await?;
                let named = response.headers().get("docker-content-digest");
                let named = named.and_then(|digest| digest.to_str().ok()).map(str::to_owned);
                let Some(bytes) = body(response, wanted.limit, self.common.idle).await? else {
                    let words = format!("{} has more than {} bytes", ask.path, wanted.limit);
                    return Err(Failure::Unusable(words));
                };
                verified(bytes, wanted.digest.as_ref(), named.as_deref())
                    .map_err(|e| Failure::Unusable(format!("{} of {} is damaged: {e}", ask.path, remote.address.host)))
            };
            match answer.await {
                Ok(bytes) => {
                    self.last_word.clear();
                    return Ok(bytes);
                }
                Err(failure) => failures.push(self.noted(number, failure)),
            }
        }
        Err(self.outcome(failures))
    }

    /// A blob from byte `from` on. A busy registry is waited for; other failures are the caller's to try again.
    pub(super) async fn blob(&self, blob: &Descriptor, from: u64) -> Result<Blob, ImageError> {
        self.part(blob, from, None, None).await
    }

    /// The same up to byte `to`, or of one host. The answer of a host that cannot do parts goes on to the end.
    pub(super) async fn part(
        &self,
        blob: &Descriptor,
        from: u64,
        to: Option<u64>,
        host: Option<usize>,
    ) -> Result<Blob, ImageError> {
        let ask = blob_from(blob, from, to);
        let mut failed = 0;
        loop {
            let failure = match self.blob_once(blob, &ask, host).await {
                Ok(blob) => return Ok(blob),
                Err(failure) => failure,
            };
            let wait = self.wait(failure, &mut failed, 1)?;
            tokio::time::sleep(wait).await;
        }
    }

    async fn blob_once(&self, blob: &Descriptor, ask: &Ask, host: Option<usize>) -> Result<Blob, Failure> {
        let mut failures = Vec::new();
        let asked = |number: &usize| host.is_none_or(|host| host == *number);
        for number in self.order(ask).into_iter().filter(asked) {
            let Some(remote) = self.remotes.get(number) else {
                continue;
            };
            let mut answer = remote.get(ask, &self.common).await;
            if ask.range().is_some() && matches!(answer, Err(Failure::Unusable(_))) {
                // One that cannot do ranges may say so instead of sending all.
                answer = remote.get(&blob_from(blob, 0, None), &self.common).await;
            }
            match answer.and_then(|response| Blob::new(response, ask, self.common.idle, number)) {
                Ok(blob) => {
                    self.last_word.clear();
                    return Ok(blob);
                }
                Err(failure) => failures.push(self.noted(number, failure)),
            }
        }
        Err(self.outcome(failures))
    }

    /// What came from this host was not what it should be: the others are asked before it from now on.
    pub(super) fn distrust(&self, host: usize) {
        if let Some(remote) = self.remotes.get(host) {
            remote.trouble.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The same with those hosts alone that may tell what a tag stands for: whose word counts for more than the bytes.
    pub(super) fn of_resolvers(mut self) -> Self {
        for remote in &mut self.remotes {
            remote.pull &= remote.resolve;
        }
        self
    }

    /// The same where it is asked for a permission: trouble of a mirror is none.
    pub(super) fn of_permission(mut self) -> Self {
        self.refuses_itself = true;
        self
    }

    /// How many hosts the registry has.
    pub(super) fn hosts(&self) -> usize {
        self.remotes.len()
    }

    /// Whom to ask, in order. What a tag stands for only those tell that may.
    fn order(&self, ask: &Ask) -> Vec<usize> {
        let mut order: Vec<_> = (0_usize..)
            .zip(&self.remotes)
            .filter(|(_, remote)| remote.pull && (ask.by_digest || remote.resolve))
            .map(|(number, remote)| (remote.trouble.load(Ordering::Relaxed), number))
            .collect();
        order.sort_unstable();
        order.into_iter().map(|(_, number)| number).collect()
    }

    fn noted(&self, number: usize, failure: Failure) -> (usize, Failure) {
        // A mirror that lets nobody in will let nobody in for the next blob either; the registry's own word is the answer.
        let is_mirror = number + 1 < self.remotes.len();
        if failure.is_trouble() || is_mirror && matches!(failure, Failure::Denied(_)) {
            self.distrust(number);
        }
        let failure = failure.saying(|words| self.common.keyring.hidden(&words));
        (number, failure)
    }

    /// What counts of several failures: the registry's own word, since it knows what there is, unless a mirror that may have what the
    /// registry has not is in trouble that passes; the others are named.
    fn outcome(&self, mut failures: Vec<(usize, Failure)>) -> Failure {
        failures.sort_by_key(|(number, _)| *number);
        let Some((_, last)) = failures.pop() else {
            let registry = &self.common.registry;
            return Failure::Unusable(format!(
                "no host of {registry} may be asked for it (capabilities in hosts.toml)"
            ));
        };
        let mirrors = failures.iter().filter_map(|(number, failure)| {
            let host = &self.remotes.get(*number)?.address.host;
            Some(format!("; mirror {host}: {}", failure.words()))
        });
        let named = mirrors.collect::<String>();
        let passing = failures.into_iter().map(|(_, failure)| failure).find(Failure::passes);
        match passing {
            Some(passing) if last.is_no() && !self.refuses_itself => passing.saying_of(&last).adding(&named),
            _ => last.adding(&named),
        }
    }

    /// How long to wait before all hosts are asked again, or what to tell the user.
    fn wait(&self, failure: Failure, failed: &mut u32, rounds: u32) -> Result<Duration, ImageError> {
        let wait = match &failure {
            Failure::Busy { after: Some(after), .. } => (*after).max(BACKOFF),
            Failure::Busy { after: None, .. } | Failure::Broken(_) if *failed + 1 < rounds => {
                *failed += 1;
                BACKOFF * 2_u32.pow(*failed - 1)
            }
            _ => return Err(self.meaning(failure)),
        };
        let more = if wait >= self.until.saturating_duration_since(Instant::now()) {
            format!("; it is to be asked again in {wait:?}, but the pull ends before")
        } else if wait >= self.quiet {
            let quiet = self.quiet;
            format!("; it is to be asked again in {wait:?}, image_pull_activity_timeout is {quiet:?}")
        } else {
            self.last_word.put(failure.words());
            tracing::debug!(reason = failure.words(), wait = ?wait, "a registry is asked again");
            return Ok(wait);
        };
        Err(self.meaning(failure.adding(&more)))
    }

    fn meaning(&self, failure: Failure) -> ImageError {
        self.last_word.put(failure.words());
        failure.meaning(&self.image, &self.common.registry)
    }

    pub(super) fn unavailable(&self, reason: String) -> ImageError {
        self.meaning(Failure::Broken(reason))
    }

    pub(super) fn image(&self) -> &str {
        &self.image
    }
}

fn blob_from(blob: &Descriptor, from: u64, to: Option<u64>) -> Ask {
    Ask {
        path: format!("blobs/{}", blob.digest),
        accept: None,
        from,
        to,
        by_digest: true,
    }
}

/// The bytes, if they are those that were asked for; without a digest, if they are those that the registry names.
fn verified(bytes: Bytes, wanted: Option<&Digest>, named: Option<&str>) -> Result<Bytes, String> {
    let wanted = wanted.map(Digest::as_str).or(named);
    // By another algorithm, containerd verifies it when it is stored.
    let Some(wanted) = wanted.filter(|wanted| wanted.starts_with("sha256:")) else {
        return Ok(bytes);
    };
    match Digest::sha256(&bytes) {
        found if found.as_str() == wanted => Ok(bytes),
        found => Err(format!(
            "{} bytes came with digest {found} instead of {wanted}",
            bytes.len()
        )),
    }
}

/// An error with its causes: "error sending request" alone explains nothing.
fn chain(error: &dyn std::error::Error) -> String {
    with_causes(error.to_string(), error.source())
}

//! The course of one pull: its turn, then resolve, fetch and unpack, by ourselves or by containerd; or of one load out of an
//! archive.

use super::admission;
use super::budget::{Place, Waiting};
use super::ensure::PullConfig;
use super::facts::{self, Known};
use super::keyring::Keyring;
use super::lease::Lease;
use super::load;
use super::progress::{Phase, Pulling};
use super::pull::{self, Resolved};
use super::registry::Session;
use super::transfer::{self, Outcome};
use super::watch::Watch;
use crate::containerd::Gateway;
use crate::messages::image::{ImageError, ImageReady, LoadFrom};
use crate::spec::image_gc::Origin;
use crate::spec::reference::Reference;
use crate::telemetry::{Counter, names};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::Instrument as _;

/// How often who waits for a turn looks whether to say so.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// One pull.
pub(super) struct Course {
    pub(super) gateway: Gateway,
    pub(super) config: PullConfig,
    pub(super) reference: Reference,
    pub(super) keyring: Keyring,
    /// What the registry has said already.
    pub(super) resolved: Option<Resolved>,
    /// The archive that it is in, in place of a registry.
    pub(super) load: Option<LoadFrom>,
    /// Whether containerd pulls (its transfer service) instead of us.
    pub(super) transfer: bool,
    /// Whether we pull where containerd could not.
    pub(super) or_ourselves: bool,
    /// Whether an image that has come here meanwhile will do.
    pub(super) may_be_here: bool,
    /// How long the first who waits for it does.
    pub(super) patience: Duration,
    /// Longest time without a byte.
    pub(super) quiet: Duration,
    pub(super) pulling: Arc<Pulling>,
}

impl Course {
    /// Carries it out, unless nobody waits for it any more; what was fetched is kept for a while for the next try.
    pub(super) async fn run(self, waiting: Waiting) -> Result<ImageReady, ImageError> {
        let place = tokio::select! {
            place = self.turn(waiting) => place,
            error = self.pulling.is_deserted() => {
                self.count(Counter::ImagePullsCancelled);
                return Err(error);
            }
        };
        let begun = Instant::now();
        let answer = self.pull(place).await;
        let answer = answer.map_err(|error| self.keyring.explained(error, self.reference.registry()));
        if self.load.is_none() {
            Counter::ImagePullMillis.add(millis(begun));
        }
        match &answer {
            Ok(ready) if ready.pulled => {
                match self.load {
                    None => Counter::ImagePulls.bump(),
                    Some(_) => Counter::ImageLoads.bump(),
                }
                self.pulling.pulled();
            }
            Ok(_) => {}
            Err(_) if self.pulling.is_wanted() => self.count(Counter::ImagePullFaults),
            Err(_) => self.count(Counter::ImagePullsCancelled),
        }
        answer
    }

    /// Counts what became of a pull. Loads are counted as far as they succeed.
    fn count(&self, counter: Counter) {
        if self.load.is_none() {
            counter.bump();
        }
    }

    /// Waits for the turn, and tells those who wait with it.
    async fn turn(&self, waiting: Waiting) -> Place {
        let (begun, ahead) = (Instant::now(), waiting.ticket().ahead());
        // What containerd unpacks itself it has bounds of its own for, and a slow registry must not keep those turns.
        let turn = waiting.turn();
        let place = match ahead {
            None => self.told(turn).await,
            Some(ahead) => {
                let span = tracing::info_span!(names::IMAGE_QUEUE, { names::IMAGE_REF } = %self.reference, { names::COUNT } = ahead);
                self.told(turn).instrument(span).await
            }
        };
        if self.load.is_none() {
            Counter::ImageQueueMillis.add(millis(begun));
        }
        place
    }

    async fn told<T>(&self, turn: impl Future<Output = T>) -> T {
        let mut turn = std::pin::pin!(turn);
        loop {
            tokio::select! {
                biased;
                place = &mut turn => return place,
                // Not at once: a turn that comes within a moment is not worth a line.
                () = tokio::time::sleep(LOOK_EVERY) => self.pulling.tick(),
            }
        }
    }

    async fn pull(&self, place: Place) -> Result<ImageReady, ImageError> {
        let (gateway, config, reference) = (&self.gateway, &self.config, &self.reference);
        let name = reference.name();
        if self.may_be_here
            && let Some((record, known)) = facts::here(gateway, config, reference).await?
        {
            admission::check(config, &self.keyring, reference, &record).await?;
            return Ok(ready(name, known, false));
        }
        // An archive is read at the pace of a disk, and nothing of it may come for long while it is surveyed.
        let quiet = self.load.is_none().then_some(self.quiet);
        let watch = Watch::new(Arc::clone(&self.pulling), self.patience, quiet, place);
        if let Some(from) = &self.load {
            let loaded = self.by_archive(from, &watch).await;
            self.sweep().await;
            return loaded;
        }
        let by_containerd = match self.transfer {
            true => self.by_containerd(&watch).await?,
            false => None,
        };
        let (known, pulled) = match by_containerd {
            Some(answer) => answer,
            None => self.by_ourselves(&watch).await?,
        };
        self.sweep().await;
        known
            .map(|known| ready(name.clone(), known, pulled))
            .ok_or(ImageError::Interrupted {
                image: name,
                reason: "it was removed while it was pulled".to_owned(),
            })
    }

    /// Removes what an earlier pull of the image has kept that was given up while this one began. A fault is no reason to
    /// fail what has succeeded: leases expire.
    async fn sweep(&self) {
        if let Err(fault) = Lease::sweep(&self.gateway, &self.config.living, &self.reference.name()).await {
            tracing::debug!(image.ref = %self.reference, error = %fault, "leases of earlier pulls left to expire");
        }
    }

    /// `None` if it is for us to go on: containerd asks once, and we with patience.
    async fn by_containerd(&self, watch: &Watch) -> Result<Option<(Option<Known>, bool)>, ImageError> {
        let (gateway, reference, name) = (&self.gateway, &self.reference, self.reference.name());
        let record = facts::record_of(gateway, &name).await?;
        self.pulling.enters(Phase::Fetching);
        let span = tracing::info_span!(names::IMAGE_PULL, { names::IMAGE_REF } = %name);
        let is_last = !self.or_ourselves;
        let before = record.as_ref();
        let work = transfer::pull(gateway, &self.config, reference, &self.keyring, before, watch, is_last);
        let known = match work.instrument(span).await? {
            Outcome::Here(known) => known,
            Outcome::Passing(error) => {
                tracing::info!(image.ref = name, %error, "containerd could not pull, the driver goes on");
                self.pulling.tally.begins_anew();
                return Ok(None);
            }
        };
        let before = record.map(|record| record.target.digest);
        // containerd resolves by itself: whether anything was new shows afterwards.
        let after = target_of(gateway, &name).await?;
        if let Some(target) = &after {
            admission::shown(&self.config, &self.keyring, reference, target).await?;
        }
        let pulled = before.is_none() || before != after;
        Ok(Some((known, pulled)))
    }

    async fn by_archive(&self, from: &LoadFrom, watch: &Watch) -> Result<ImageReady, ImageError> {
        self.pulling.enters(Phase::Fetching);
        let span = tracing::info_span!(names::IMAGE_LOAD, { names::IMAGE_REF } = %self.reference.name());
        let work = load::load(&self.gateway, &self.config, &self.reference, from, watch);
        work.instrument(span).await
    }

    async fn by_ourselves(&self, watch: &Watch) -> Result<(Option<Known>, bool), ImageError> {
        let (gateway, config, name) = (&self.gateway, &self.config, self.reference.name());
        self.pulling.enters(Phase::Resolving);
        let resolve = async {
            match &self.resolved {
                Some(resolved) => {
                    let (reference, keyring) = (&self.reference, &resolved.keyring);
                    let session = config.registries.session(reference, keyring, self.patience).await?;
                    Ok((session, resolved.clone()))
                }
                None => resolve(config, &self.reference, &self.keyring, self.patience).await,
            }
        };
        let resolve = resolve.instrument(tracing::info_span!(names::IMAGE_RESOLVE, { names::IMAGE_REF } = %name));
        let (session, resolved) = watch.over(&name, resolve).await?;
        // What a task had loaded becomes the registry's by a pull, which fetches nothing then.
        if let Some(record) = facts::record_of(gateway, &name).await?
            && record.target.digest == resolved.target.digest
            && Origin::of(&name, &record.labels) != Some(Origin::Loaded)
            && let Some(known) = facts::of_target(gateway, config, &name, &resolved.target, None).await?
        {
            return Ok((Some(known), false));
        }
        self.pulling.enters(Phase::Fetching);
        let span = tracing::info_span!(names::IMAGE_PULL, { names::IMAGE_REF } = %name);
        let work = pull::pull(gateway, config, &session, &self.reference, &resolved, watch);
        Ok((work.instrument(span).await?, true))
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn ready(name: String, (manifest, facts): Known, pulled: bool) -> ImageReady {
    ImageReady {
        name,
        manifest,
        facts,
        pulled,
    }
}

/// Digest that the name stands for now.
pub(super) async fn target_of(gateway: &Gateway, name: &str) -> Result<Option<String>, ImageError> {
    let record = facts::record_of(gateway, name).await?;
    Ok(record.map(|record| record.target.digest))
}

/// Asks the registry what the name stands for; that credentials were good for it is remembered.
pub(super) async fn resolve(
    config: &PullConfig,
    reference: &Reference,
    keyring: &Keyring,
    within: Duration,
) -> Result<(Session, Resolved), ImageError> {
    // As with a pull of containerd's, where they have to be known before.
    keyring.look(reference.registry()).await?;
    let session = config.registries.session(reference, keyring, within).await?;
    let resolved = pull::resolve(&session, keyring).await?;
    admission::shown(config, keyring, reference, &resolved.target.digest).await?;
    Ok((session, resolved))
}

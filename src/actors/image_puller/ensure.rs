//! Makes sure that an image is here and unpacked, for one asker: when the registry is asked, and when it is not; whose work
//! is shared, and how long it is waited for.

use super::admission;
use super::budget::Budget;
use super::course::{self, Course};
use super::facts::{self, FactsMemory, Here, Known};
use super::flights::{Flights, Seat};
use super::keyring::{Keyring, Keys};
use super::lanes::Lanes;
use super::lease::Living;
use super::progress::{Pulling, Watcher, Way};
use super::pull::Resolved;
use super::registry::Registries;
use super::unpack::Unpacks;
use crate::actors::shared::{Configured, Links};
use crate::messages::Cx;
use crate::messages::image::{CredentialScope, Credentials, EnsureImage, ImageError, ImageReady, LoadFrom, PullPolicy};
use crate::spec::pull::{Budgets, PullMethod};
use crate::spec::reference::{Reference, without_password};
use crate::telemetry::propagate;
use crate::telemetry::{Counter, Gauge, names};
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tracing::{Instrument as _, Span};

/// How long a registry may take to tell what a tag stands for, where the image on disk does as well.
const NEWEST_WITHIN: Duration = Duration::from_secs(10);

/// Archives that are loaded at once: each takes a thread, and a disk is not faster with more.
const LOADS: usize = 2;

/// How often an asker looks again: after a pull that another had begun before it asked, or one that was interrupted. Beyond
/// that it takes what it has.
const ROUNDS: usize = 4;

/// What the parts of a pull have in common. Cheap to clone.
#[derive(Clone)]
pub(super) struct PullConfig {
    /// Where images are unpacked.
    pub(super) snapshotter: String,
    /// What was learned about registries.
    pub(super) registries: Registries,
    /// What is known of images.
    pub(super) facts: FactsMemory,
    /// Credentials of the node, and who has shown which.
    pub(super) keys: Keys,
    /// The pulls that are running.
    pub(super) living: Living,
    /// Turns of unpacks.
    pub(super) unpacks: Unpacks,
    /// Requests beside the first of each blob.
    pub(super) lanes: Lanes,
}

#[cfg(test)]
impl PullConfig {
    /// Of a node that knows nothing yet.
    pub(super) fn of_nothing() -> Self {
        Self {
            snapshotter: "overlayfs".to_owned(),
            registries: Registries::default(),
            facts: FactsMemory::default(),
            keys: Keys::default(),
            living: Living::default(),
            unpacks: Unpacks {
                budget: Budget::new(1, (Gauge::UnpacksRunning, Gauge::UnpacksWaiting)),
                job: String::new(),
            },
            lanes: Lanes::default(),
        }
    }
}

/// Askers share work only if they would have done the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    /// Normalised name.
    image: String,
    credentials: Option<Credentials>,
    scope: CredentialScope,
    snapshotter: String,
    load: Option<LoadFrom>,
}

/// What outlives one asker: what was learned about registries and images (harmless to lose), budgets, work in flight.
#[derive(Clone)]
pub(super) struct Desk {
    registries: Registries,
    facts: FactsMemory,
    keys: Keys,
    living: Living,
    pulls: Budget,
    loads: Budget,
    unpacks: Budget,
    lanes: Lanes,
    /// Looks at what is on disk.
    looking: Flights<Key, Result<Option<Here>, ImageError>>,
    /// Questions to registries whether a private image on disk, of this digest, may be used.
    admitting: Flights<(Key, String), Result<(), ImageError>>,
    /// Questions to registries what a tag stands for.
    asking: Flights<Key, Result<Resolved, ImageError>>,
    pulling: Flights<Key, Result<ImageReady, ImageError>, Pulling>,
    links: Arc<Links>,
    io: Handle,
}

impl Desk {
    pub(super) fn new(links: Arc<Links>, io: Handle) -> Self {
        // Nothing before the first settings.
        Self {
            registries: Registries::default(),
            facts: FactsMemory::default(),
            keys: Keys::default(),
            living: Living::default(),
            pulls: Budget::new(0, (Gauge::PullsRunning, Gauge::PullsWaiting)),
            loads: Budget::new(LOADS, (Gauge::LoadsRunning, Gauge::LoadsWaiting)),
            unpacks: Budget::new(0, (Gauge::UnpacksRunning, Gauge::UnpacksWaiting)),
            lanes: Lanes::default(),
            looking: Flights::default(),
            admitting: Flights::default(),
            asking: Flights::default(),
            pulling: Flights::default(),
            links,
            io,
        }
    }

    pub(super) fn set_budgets(&self, budgets: Budgets) {
        self.pulls.set_places(budgets.pulls);
        self.unpacks.set_places(budgets.unpacks);
    }
}

/// Where an asker is, for the words of its deadline.
#[derive(Default)]
pub(super) enum Stage {
    #[default]
    Looking,
    Asking,
    Pulling(Arc<Pulling>),
}

/// See [`Stage`].
pub(super) type Whereabouts = Mutex<Stage>;

/// How far it is, in words.
pub(super) fn how_far(whereabouts: &Whereabouts) -> String {
    match &*whereabouts.lock().unwrap_or_else(PoisonError::into_inner) {
        Stage::Looking => "containerd had not told what is on this node".to_owned(),
        Stage::Asking => "the registry had not told what the name stands for".to_owned(),
        Stage::Pulling(pulling) => pulling.how_far(),
    }
}

/// One asker.
pub(super) struct Errand<'a> {
    pub(super) desk: &'a Desk,
    pub(super) configured: &'a Configured,
    pub(super) req: &'a EnsureImage,
    pub(super) method: PullMethod,
    /// Whether containerd can pull.
    pub(super) can_transfer: bool,
    pub(super) whereabouts: &'a Whereabouts,
    /// The span in which it is handled.
    pub(super) span: &'a Span,
}

/// The answer to an asker; `None` if work that it shared has panicked: then it is to ask again.
pub(super) type Answer<T> = Option<Result<T, ImageError>>;

/// Leaves the function with an error or with the want of an answer.
macro_rules! got {
    ($answer:expr) => {
        match $answer {
            Some(Ok(value)) => value,
            Some(Err(error)) => return Some(Err(error)),
            None => return None,
        }
    };
}

impl Errand<'_> {
    /// Carries it out. Dropping the future gives it up; shared work goes on while others wait for it.
    pub(super) async fn run(&self) -> Answer<ImageReady> {
        let reference = match Reference::parse(&self.req.image) {
            Ok(reference) => reference,
            Err(reason) => {
                let image = &self.req.image;
                return Some(Err(ImageError::BadReference {
                    reference: without_password(image, image),
                    reason: without_password(&reason, image),
                }));
            }
        };
        if self.req.load.is_some() {
            return self.load(&reference).await;
        }
        // What a digest stands for never changes.
        let asks = self.req.policy.asks() && reference.digest().is_none();
        for round in 1..=ROUNDS {
            let here = got!(self.look(&reference).await);
            let resolved = match (&here, self.req.policy) {
                (Some(here), _) if !asks => {
                    got!(self.admit(&reference, here).await);
                    return Some(Ok(on_disk(&reference, &here.1)));
                }
                (None, PullPolicy::Never) => {
                    return Some(Err(ImageError::NotHere {
                        image: reference.name(),
                    }));
                }
                (Some((record, known)), _) => match self.ask(&reference).await? {
                    // What is known is of the record that was read before the registry was asked; another pull may have moved it.
                    Ok(resolved)
                        if record.target.digest == resolved.target.digest
                            && got!(Some(self.is_here(&reference, &resolved).await)) =>
                    {
                        return Some(Ok(on_disk(&reference, known)));
                    }
                    Ok(resolved) => Some(resolved),
                    Err(e) if self.is_excused(&e) => return self.unasked(&reference, here.as_ref(), &e).await,
                    // It may know other ways to the registry.
                    Err(e) if e.is_outage() && self.by_transfer() => None,
                    Err(e) => return Some(Err(e)),
                },
                (None, _) => None,
            };
            let (is_ours, pulled) = self.pull(&reference, resolved).await?;
            match pulled {
                // Begun before this one asked: what it has brought may not be the newest.
                Ok(ready) if is_ours || !asks || round == ROUNDS => return Some(Ok(ready)),
                Ok(_) => {}
                Err(ImageError::Interrupted { .. }) if round < ROUNDS => {}
                Err(e) if self.is_excused(&e) => return self.unasked(&reference, here.as_ref(), &e).await,
                Err(e) => return Some(Err(e)),
            }
        }
        None
    }

    /// Takes it from the archive that came with the task, whatever there is in a registry.
    async fn load(&self, reference: &Reference) -> Answer<ImageReady> {
        for round in 1..=ROUNDS {
            match self.pull(reference, None).await? {
                (_, Err(ImageError::Interrupted { .. })) if round < ROUNDS => {}
                (_, loaded) => return Some(loaded),
            }
        }
        None
    }

    /// Whether an image on disk does, although its registry was to be asked.
    fn is_excused(&self, error: &ImageError) -> bool {
        self.req.policy == PullPolicy::Newest && error.is_outage()
    }

    fn by_transfer(&self) -> bool {
        match self.method {
            PullMethod::Auto => self.can_transfer,
            PullMethod::Transfer => true,
            PullMethod::Client => false,
        }
    }

    fn stage(&self, stage: Stage) {
        *self.whereabouts.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }

    fn key(&self, reference: &Reference) -> Key {
        Key {
            image: reference.name(),
            credentials: self.req.credentials.clone(),
            scope: self.req.scope.clone(),
            snapshotter: self.req.snapshotter.clone(),
            load: self.req.load.clone(),
        }
    }

    fn config(&self) -> PullConfig {
        PullConfig {
            snapshotter: self.req.snapshotter.clone(),
            registries: self.desk.registries.configured_in(
                &self.configured.settings.registry_config_dir,
                self.configured.settings.image_pull_activity_timeout,
            ),
            facts: self.desk.facts.clone(),
            keys: self.desk.keys.with(&self.configured.settings),
            living: Arc::clone(&self.desk.living),
            unpacks: Unpacks {
                budget: self.desk.unpacks.clone(),
                job: self.req.job.clone(),
            },
            lanes: self.desk.lanes.clone(),
        }
    }

    /// Credentials for the hosts that may be asked.
    fn keyring(&self, reference: &Reference) -> Keyring {
        self.config().keys.keyring(self.req, reference)
    }

    /// What is on disk; unpacked, if it has to be.
    async fn look(&self, reference: &Reference) -> Answer<Option<Here>> {
        self.stage(Stage::Looking);
        let (gateway, config, wanted) = (self.configured.gateway.clone(), self.config(), reference.clone());
        let key = self.key(reference);
        let mut seat = self.desk.looking.board(key, &self.desk.io, self.span, || {
            let work = async move { facts::here(&gateway, &config, &wanted).await };
            (Arc::new(()), work)
        });
        seat.done().await
    }

    /// Whether this task may use what is on disk.
    async fn admit(&self, reference: &Reference, (record, _): &Here) -> Answer<()> {
        self.stage(Stage::Asking);
        let key = (self.key(reference), record.target.digest.clone());
        let mut seat = self.desk.admitting.board(key, &self.desk.io, self.span, || {
            let (config, reference, record) = (self.config(), reference.clone(), record.clone());
            let keyring = self.keyring(&reference);
            let work = async move {
                let admitted = admission::check(&config, &keyring, &reference, &record).await;
                admitted.map_err(|error| keyring.explained(error, reference.registry()))
            };
            (Arc::new(()), work)
        });
        seat.done().await
    }

    /// The image on disk, since the registry cannot be asked; the error, if there is none.
    async fn unasked(&self, reference: &Reference, here: Option<&Here>, error: &ImageError) -> Answer<ImageReady> {
        let Some(here) = here else {
            return Some(Err(error.clone()));
        };
        got!(self.admit(reference, here).await);
        Counter::ImagesUnasked.bump();
        tracing::warn!(image.ref = %reference, %error, "the registry cannot be asked, the image on disk is taken");
        Some(Ok(on_disk(reference, &here.1)))
    }

    /// What the registry says that the name stands for.
    async fn ask(&self, reference: &Reference) -> Answer<Resolved> {
        self.stage(Stage::Asking);
        let quiet = self.configured.settings.image_pull_activity_timeout;
        let within = match self.req.policy {
            PullPolicy::Newest => NEWEST_WITHIN.min(quiet),
            PullPolicy::Always | PullPolicy::IfNotPresent | PullPolicy::Never => quiet,
        };
        let key = self.key(reference);
        let mut seat = self.desk.asking.board(key, &self.desk.io, self.span, || {
            let (config, reference) = (self.config(), reference.clone());
            let keyring = self.keyring(&reference);
            let name = reference.name();
            let work = async move {
                let resolved = course::resolve(&config, &reference, &keyring, within).await;
                resolved.map(|(_, resolved)| resolved)
            };
            let span = tracing::info_span!(names::IMAGE_RESOLVE, { names::IMAGE_REF } = %name);
            (Arc::new(()), work.instrument(span))
        });
        match tokio::time::timeout(within, seat.done()).await {
            Ok(answer) => answer,
            Err(_elapsed) => Some(Err(ImageError::Stalled {
                image: reference.name(),
                after: within,
                how_far: how_far(self.whereabouts),
            })),
        }
    }

    /// Whether what is here is what the registry has.
    async fn is_here(&self, reference: &Reference, resolved: &Resolved) -> Result<bool, ImageError> {
        let here = course::target_of(&self.configured.gateway, &reference.name()).await?;
        Ok(here.as_ref() == Some(&resolved.target.digest))
    }

    /// Pulls it, or waits for the pull under way; whether the answer is as new as this asker.
    async fn pull(
        &self,
        reference: &Reference,
        resolved: Option<Resolved>,
    ) -> Option<(bool, Result<ImageReady, ImageError>)> {
        let mut seat = self.take_a_seat(reference, resolved);
        let is_ours = match seat.joined() {
            None => true,
            Some(cx) => {
                self.span.record(names::JOINED, true);
                propagate::link(self.span, &cx.0);
                Counter::ImagePullsShared.bump();
                !seat.note().is_resolved()
            }
        };
        let watcher = self.req.observer.clone().map(|task| Watcher {
            task,
            cx: self.span.in_scope(Cx::current),
        });
        seat.note().join(&self.req.job, watcher);
        self.stage(Stage::Pulling(Arc::clone(seat.note())));
        seat.done().await.map(|pulled| (is_ours, pulled))
    }

    fn take_a_seat(
        &self,
        reference: &Reference,
        resolved: Option<Resolved>,
    ) -> Seat<Key, Result<ImageReady, ImageError>, Pulling> {
        let key = self.key(reference);
        self.desk.pulling.board(key, &self.desk.io, self.span, || {
            let (way, budget) = match &self.req.load {
                None => (Way::Pull, &self.desk.pulls),
                Some(_) => (Way::Load, &self.desk.loads),
            };
            let (waiting, config) = (budget.wait(&self.req.job), self.config());
            let (tasks, keyring) = (Arc::clone(&self.desk.links.tasks), self.keyring(reference));
            let words = (config.registries.last_word(), keyring.asking());
            let pulling = Pulling::new(way, reference.name(), waiting.ticket(), words, tasks);
            let pulling = Arc::new(pulling);
            let course = Course {
                gateway: self.configured.gateway.clone(),
                config,
                reference: reference.clone(),
                keyring,
                resolved,
                load: self.req.load.clone(),
                transfer: self.req.load.is_none() && self.by_transfer(),
                or_ourselves: self.method == PullMethod::Auto,
                may_be_here: self.req.load.is_none() && !self.req.policy.asks(),
                patience: self.req.timeout,
                quiet: self.configured.settings.image_pull_activity_timeout,
                pulling: Arc::clone(&pulling),
            };
            (pulling, course.run(waiting))
        })
    }
}

fn on_disk(reference: &Reference, (manifest, facts): &Known) -> ImageReady {
    ImageReady {
        name: reference.name(),
        manifest: manifest.clone(),
        facts: Arc::clone(facts),
        pulled: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Does not compile if a pull cannot move between threads; nothing else here says so.
    #[allow(dead_code, reason = "compiled, not run")]
    fn an_errand_can_be_spawned(errand: &'static Errand<'static>) {
        fn spawnable(_: impl Future + Send) {}
        spawnable(errand.run());
    }
}

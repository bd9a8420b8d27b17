//! Over a pull: whether it still gets on, and what it holds of the budgets meanwhile.

use super::budget::Place;
use super::fetch::Tally;
use super::lease::LEASE_EXPIRES;
use super::progress::Pulling;
use crate::messages::image::ImageError;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How often a pull is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a pull without a byte counts against the budget, which is for network, disk and cores. One that only waits for
/// its registry would keep all others waiting with it; when bytes come again it goes on, beside the budget.
const COUNTS: Duration = Duration::from_secs(10);

/// Before the lease of a pull expires, for tidying up.
const BEFORE_EXPIRY: Duration = Duration::from_secs(5 * 60);

/// See the module.
pub(super) struct Watch {
    pulling: Arc<Pulling>,
    /// Longest time without a byte: `image_pull_activity_timeout`. `None` where nobody else is waited for: then it does not
    /// leave the budget either.
    quiet: Option<Duration>,
    lease: Duration,
    begun: Instant,
    place: Mutex<Option<Place>>,
}

impl Watch {
    /// Over a pull that begins now. `patience` is what the first of those who wait has.
    pub(super) fn new(pulling: Arc<Pulling>, patience: Duration, quiet: Option<Duration>, place: Place) -> Self {
        Self {
            pulling,
            quiet,
            lease: LEASE_EXPIRES.max(patience.saturating_mul(2)),
            begun: Instant::now(),
            place: Mutex::new(Some(place)),
        }
    }

    /// How long its lease is to last. What is fetched under a lease that has expired may be collected.
    pub(super) fn lease(&self) -> Duration {
        self.lease
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.pulling.tally
    }

    fn leave_budget(&self) {
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Calls whoever is next: outside of the lock.
        drop(place);
    }

    /// Carries out work of the pull unless nothing comes for too long.
    pub(super) async fn over<T>(
        &self,
        image: &str,
        work: impl Future<Output = Result<T, ImageError>>,
    ) -> Result<T, ImageError> {
        let mut work = std::pin::pin!(work);
        let mut looks = tokio::time::interval(LOOK_EVERY);
        let mut last = (self.pulling.signs(), Instant::now());
        loop {
            tokio::select! {
                answer = &mut work => return answer,
                error = self.pulling.is_deserted() => return Err(error),
                now = looks.tick() => {
                    self.pulling.tick();
                    let signs = self.pulling.signs();
                    if signs != last.0 || !self.pulling.is_fetching() || self.pulling.is_asking() {
                        last = (signs, now);
                    }
                    let silent = now.saturating_duration_since(last.1);
                    if let Some(quiet) = self.quiet && silent >= quiet {
                        return Err(ImageError::Stalled {
                            image: image.to_owned(),
                            after: quiet,
                            how_far: self.pulling.how_far(),
                        });
                    }
                    if self.quiet.is_some() && silent >= COUNTS {
                        self.leave_budget();
                    }
                    if self.begun.elapsed() + BEFORE_EXPIRY >= self.lease {
                        return Err(ImageError::Interrupted {
                            image: image.to_owned(),
                            reason: format!("its lease of {:?} is over, {}", self.lease, self.pulling.how_far()),
                        });
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::image_puller::budget::Budget;
    use crate::actors::image_puller::flights::Note as _;
    use crate::actors::image_puller::progress::{Phase, tests::pulling};
    use crate::telemetry::Gauge;
    use std::sync::atomic::Ordering;
    use tokio::time::{sleep, timeout};

    const QUIET: Duration = Duration::from_secs(60);

    fn budget() -> Budget {
        Budget::new(1, (Gauge::PullsRunning, Gauge::PullsWaiting))
    }

    async fn watched(patience: Duration) -> (Arc<Pulling>, Watch, Budget) {
        let ((pulling, _), budget) = (pulling().await, budget());
        pulling.enters(Phase::Fetching);
        let place = budget.wait("a").turn().await;
        let watch = Watch::new(Arc::clone(&pulling), patience, Some(QUIET), place);
        (pulling, watch, budget)
    }

    #[tokio::test(start_paused = true)]
    async fn a_pull_that_gets_on_slowly_is_left_alone_and_a_silent_one_is_not() {
        let (pulling, watch, _) = watched(QUIET).await;
        let begun = Instant::now();
        let slow = async {
            for _ in 0..20 {
                sleep(QUIET / 2).await;
                pulling.tally.came(1);
            }
            std::future::pending().await
        };
        let ended: Result<(), _> = watch.over("a", slow).await;
        let error = ended.unwrap_err();
        assert!(
            matches!(&error, ImageError::Stalled { after, .. } if *after == QUIET),
            "{error}"
        );
        assert!(error.to_string().ends_with("nothing of it had come"), "{error}");
        let took = begun.elapsed();
        assert!(
            took >= QUIET * 11 && took < QUIET * 11 + Duration::from_secs(3),
            "{took:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_that_is_asked_for_credentials_is_no_silent_registry() {
        let (pulling, watch, _) = watched(QUIET).await;
        let asks = async {
            let asked = pulling.asking.begins("docker-credential-slow".to_owned());
            sleep(QUIET * 5).await;
            let how_far = pulling.how_far();
            assert!(how_far.starts_with("docker-credential-slow had not"), "{how_far}");
            drop(asked);
            std::future::pending().await
        };
        let ended: Result<(), _> = watch.over("a", asks).await;
        let error = ended.unwrap_err();
        assert!(error.to_string().ends_with("nothing of it had come"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_unpacks_what_has_come_is_not_silent() {
        let (pulling, watch, _) = watched(QUIET).await;
        pulling.tally.layers.store(1, Ordering::Relaxed);
        let unpack = async {
            sleep(QUIET * 5).await;
            Ok(7)
        };
        assert_eq!(watch.over("a", unpack).await, Ok(7));
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_an_archive_may_be_silent_and_keeps_its_place() {
        let ((pulling, _), budget) = (pulling().await, budget());
        pulling.enters(Phase::Fetching);
        let place = budget.wait("a").turn().await;
        let watch = Watch::new(pulling, QUIET, None, place);
        let survey = async {
            assert!(timeout(QUIET * 5, budget.wait("b").turn()).await.is_err());
            Ok(7)
        };
        assert_eq!(watch.over("a", survey).await, Ok(7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_given_up_while_nothing_comes() {
        let (_pulling, watch, budget) = watched(QUIET).await;
        let next = async {
            let next = budget.wait("b").turn();
            assert!(timeout(COUNTS / 2, next).await.is_err());
            assert!(timeout(COUNTS, budget.wait("b").turn()).await.is_ok());
            Ok(())
        };
        assert_eq!(watch.over("a", next).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pull_ends_when_nobody_waits_or_its_lease_is_over() {
        let (pulling, watch, _) = watched(QUIET).await;
        let deserted = async {
            pulling.deserted();
            std::future::pending::<Result<(), ImageError>>().await
        };
        assert!(matches!(
            watch.over("a", deserted).await,
            Err(ImageError::Interrupted { .. })
        ));
        let (pulling, watch, _) = watched(QUIET).await;
        assert_eq!(watch.lease(), LEASE_EXPIRES);
        let busy = async {
            loop {
                sleep(QUIET / 2).await;
                pulling.tally.came(1);
            }
        };
        let ended: Result<(), _> = watch.over("a", busy).await;
        let text = ended.unwrap_err().to_string();
        assert!(text.contains("its lease of 3600s is over"), "{text}");
    }
}

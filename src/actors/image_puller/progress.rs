//! How far a pull is, for all who wait for it: the few lines that a person wants to see, and the words of a pull that took
//! too long.
//!
//! Nomad keeps ten events per task and writes each to disk: one at the start, few while it lasts, one at the end.

use super::budget::Ticket;
use super::fetch::Tally;
use super::flights::Note;
use super::programs::Asking;
use super::registry::LastWord;
use crate::actors::shared::TaskTells;
use crate::messages::Cx;
use crate::messages::image::{ImageError, PullProgress};
use crate::spec::identity::TaskId;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Until the first line after the one at the start.
const FIRST_LINE: Duration = Duration::from_secs(5);

/// Until the second; it doubles with each, so that an hour has eight lines.
const SECOND_LINE: Duration = Duration::from_secs(30);

/// A task that waits for a pull, and the trace that it waits in.
#[derive(Debug, Clone)]
pub(super) struct Watcher {
    pub(super) task: TaskId,
    /// Context of the span of its request.
    pub(super) cx: Cx,
}

/// Where a pull is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It waits for its turn, so many before it.
    Queued(usize),
    /// The registry is asked what the name stands for.
    Resolving,
    /// Layers are fetched and unpacked.
    Fetching,
}

/// Where the image comes from, for the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// A registry.
    Pull,
    /// An archive that came with a task.
    Load,
}

impl Way {
    /// What is done, is being done, and was done.
    fn words(self) -> [&'static str; 3] {
        match self {
            Self::Pull => ["pull", "Pulling", "Pulled"],
            Self::Load => ["load", "Loading", "Loaded"],
        }
    }
}

/// What has been done of a pull at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    fetched_bytes: u64,
    /// 0 until it is known.
    total_bytes: u64,
    layers_done: usize,
    /// 0 until it is known.
    layers: usize,
}

/// How far it is, to be put after what went wrong.
fn how_far(phase: Phase, counts: Counts) -> String {
    match phase {
        Phase::Queued(0) => "it waited for its turn as the next".to_owned(),
        Phase::Queued(ahead) => format!("it waited for its turn with {ahead} pulls before it"),
        Phase::Resolving => "the registry had not told what the name stands for".to_owned(),
        Phase::Fetching if counts.total_bytes == 0 => "nothing of it had come".to_owned(),
        Phase::Fetching => format!(
            "{} of {} bytes had come, {} of {} layers were unpacked",
            counts.fetched_bytes, counts.total_bytes, counts.layers_done, counts.layers
        ),
    }
}

/// The line while it lasts.
fn line(way: Way, image: &str, phase: Phase, counts: Counts) -> String {
    let [act, acting, _] = way.words();
    match phase {
        Phase::Queued(0) => format!("Waiting to {act} image {image}: it is next"),
        Phase::Queued(ahead) => format!("Waiting to {act} image {image}: {ahead} before it"),
        Phase::Resolving => format!("{acting} image {image}"),
        Phase::Fetching if counts.total_bytes == 0 => format!("{acting} image {image}"),
        Phase::Fetching => format!(
            "{acting} image {image}: {} of {} bytes, {} of {} layers",
            counts.fetched_bytes, counts.total_bytes, counts.layers_done, counts.layers
        ),
    }
}

struct State {
    watchers: Vec<Watcher>,
    phase: Phase,
    /// What was told last began with it; `None` while nothing was.
    told: Option<Phase>,
    next_line: Instant,
    pause: Duration,
}

/// The note of a pull: what all who wait for it may know.
pub(super) struct Pulling {
    way: Way,
    image: String,
    tasks: Arc<dyn TaskTells>,
    pub(super) tally: Tally,
    last_word: LastWord,
    /// What the credentials of it wait for.
    pub(super) asking: Asking,
    ticket: Ticket,
    begun: Instant,
    state: Mutex<State>,
    deserted: watch::Sender<bool>,
}

/// A pull gives back its lease, or keeps what it has fetched: so it is told to end.
impl Note for Pulling {
    fn deserted(&self) -> bool {
        self.deserted.send_replace(true);
        true
    }
}

impl Pulling {
    pub(super) fn new(
        way: Way,
        image: String,
        ticket: Ticket,
        (last_word, asking): (LastWord, Asking),
        tasks: Arc<dyn TaskTells>,
    ) -> Self {
        let begun = Instant::now();
        Self {
            way,
            image,
            tasks,
            tally: Tally::default(),
            last_word,
            asking,
            ticket,
            begun,
            state: Mutex::new(State {
                watchers: Vec::new(),
                phase: Phase::Queued(0),
                told: None,
                next_line: begun,
                pause: SECOND_LINE,
            }),
            deserted: watch::Sender::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends when nobody waits for it any more.
    pub(super) async fn is_deserted(&self) -> ImageError {
        // Its sender is ours.
        self.deserted.subscribe().wait_for(|deserted| *deserted).await.ok();
        ImageError::Interrupted {
            image: self.image.clone(),
            reason: format!("nobody waited for it any more, {}", self.how_far()),
        }
    }

    /// Whether somebody waits for it.
    pub(super) fn is_wanted(&self) -> bool {
        !*self.deserted.borrow()
    }

    fn counts(&self) -> Counts {
        let tally = &self.tally;
        Counts {
            fetched_bytes: tally.fetched_bytes.load(Ordering::Relaxed),
            total_bytes: tally.total_bytes.load(Ordering::Relaxed),
            layers_done: tally.layers_done.load(Ordering::Relaxed),
            layers: tally.layers.load(Ordering::Relaxed),
        }
    }

    fn phase(&self) -> Phase {
        match self.state().phase {
            Phase::Queued(_) => Phase::Queued(self.ticket.ahead().unwrap_or(0)),
            phase @ (Phase::Resolving | Phase::Fetching) => phase,
        }
    }

    /// One more task waits for it, for a job. It is told what the others were.
    pub(super) fn join(&self, job: &str, watcher: Option<Watcher>) {
        self.ticket.also(job);
        let Some(watcher) = watcher else { return };
        let mut state = self.state();
        let told = state.told.is_some();
        state.watchers.push(watcher.clone());
        drop(state);
        if told {
            let (phase, counts) = (self.phase(), self.counts());
            self.tell(&[watcher], &line(self.way, &self.image, phase, counts), phase, counts);
        }
    }

    /// It is there now; what it has to say about it is said at once.
    pub(super) fn enters(&self, phase: Phase) {
        self.state().phase = phase;
        self.tick();
    }

    /// Whether the registry has told what the name stands for: who joins later may want to know it anew.
    pub(super) fn is_resolved(&self) -> bool {
        self.state().phase == Phase::Fetching && self.counts().total_bytes > 0
    }

    /// Whether bytes are yet to come. What takes long after that is containerd's work, which has its own deadlines.
    pub(super) fn is_fetching(&self) -> bool {
        let counts = self.counts();
        counts.layers == 0 || counts.fetched_bytes < counts.total_bytes
    }

    /// Whether a program is asked for credentials, which has a deadline of its own: it is not the registry that is silent.
    pub(super) fn is_asking(&self) -> bool {
        self.asking.now().is_some()
    }

    /// What changes whenever the pull gets on.
    pub(super) fn signs(&self) -> impl PartialEq + use<> {
        let [received, elsewhere] =
            [&self.tally.received_bytes, &self.tally.elsewhere_bytes].map(|bytes| bytes.load(Ordering::Relaxed));
        (self.counts(), received, elsewhere)
    }

    /// How far it is, in words, and what is in its way, if the registry has said so.
    pub(super) fn how_far(&self) -> String {
        let how_far = match self.asking.now() {
            Some(program) => format!("{program} had not answered the question for credentials"),
            None => how_far(self.phase(), self.counts()),
        };
        match self.last_word.get() {
            Some(words) => format!("{how_far}; the last error was: {words}"),
            None => how_far,
        }
    }

    /// Says how far it is, if it is time for it: called about once a second.
    pub(super) fn tick(&self) {
        let (phase, counts, now) = (self.phase(), self.counts(), Instant::now());
        let mut state = self.state();
        let is_news = match (state.told, phase) {
            (None, _) | (Some(Phase::Queued(_)), Phase::Resolving | Phase::Fetching) => true,
            (Some(_), _) => false,
        };
        if !is_news && now < state.next_line {
            return;
        }
        state.told = Some(phase);
        if is_news {
            state.next_line = now + FIRST_LINE;
        } else {
            state.next_line = now + state.pause;
            state.pause *= 2;
        }
        let watchers = state.watchers.clone();
        drop(state);
        self.tell(&watchers, &line(self.way, &self.image, phase, counts), phase, counts);
    }

    /// The end of the pull. A failure is told by the start that fails.
    pub(super) fn pulled(&self) {
        let counts = self.counts();
        let text = format!(
            "{} image {} in {:.1} s ({} layers, {} bytes)",
            self.way.words()[2],
            self.image,
            self.begun.elapsed().as_secs_f64(),
            counts.layers,
            counts.total_bytes
        );
        let watchers = self.state().watchers.clone();
        self.tell(&watchers, &text, Phase::Fetching, counts);
    }

    fn tell(&self, watchers: &[Watcher], text: &str, phase: Phase, counts: Counts) {
        for Watcher { task, cx } in watchers {
            let mut details = vec![
                ("image", self.image.clone()),
                ("fetched_bytes", counts.fetched_bytes.to_string()),
                ("total_bytes", counts.total_bytes.to_string()),
                ("layers_done", counts.layers_done.to_string()),
                ("layers", counts.layers.to_string()),
            ];
            if let Phase::Queued(ahead) = phase {
                details.push(("queue_ahead", ahead.to_string()));
            }
            let fact = PullProgress {
                task: task.clone(),
                text: text.to_owned(),
                details,
            };
            self.tasks.progress(fact, cx.clone());
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::actors::image_puller::budget::Budget;
    use crate::messages::runtime::{ContainerdAway, TaskExited, TaskOom};
    use crate::spec::identity::ContainerId;
    use crate::telemetry::Gauge;

    /// Keeps what tasks are told.
    #[derive(Default)]
    pub(in crate::actors::image_puller) struct Heard(Mutex<Vec<(String, String)>>);

    impl TaskTells for Heard {
        fn exited(&self, _: TaskExited, _: Cx) -> bool {
            false
        }
        fn away(&self, _: ContainerdAway, _: Cx) {}
        fn oom(&self, _: TaskOom, _: Cx) {}
        fn progress(&self, fact: PullProgress, _: Cx) {
            let mut heard = self.0.lock().unwrap();
            heard.push((fact.task.as_str().to_owned(), fact.text));
        }
        fn containers(&self) -> Vec<ContainerId> {
            Vec::new()
        }
    }

    impl Heard {
        fn by(&self, task: &str) -> Vec<String> {
            let heard = self.0.lock().unwrap();
            heard
                .iter()
                .filter(|(of, _)| of == task)
                .map(|(_, text)| text.clone())
                .collect()
        }
    }

    /// A pull that is in no line, and who hears of it.
    pub(in crate::actors::image_puller) async fn pulling() -> (Arc<Pulling>, Arc<Heard>) {
        let budget = Budget::new(1, (Gauge::PullsRunning, Gauge::PullsWaiting));
        let waiting = budget.wait("job");
        let ticket = waiting.ticket();
        drop(waiting.turn().await);
        let heard = Arc::new(Heard::default());
        let tasks: Arc<dyn TaskTells> = heard.clone();
        let last_word = LastWord::default();
        let pulling = Pulling::new(Way::Pull, "a".to_owned(), ticket, (last_word, Asking::default()), tasks);
        (Arc::new(pulling), heard)
    }

    fn watcher(task: &str) -> Option<Watcher> {
        Some(Watcher {
            task: TaskId::new(task),
            cx: Cx::default(),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn an_hour_of_a_pull_is_a_handful_of_lines_and_who_joins_hears_at_once() {
        let (pulling, heard) = pulling().await;
        pulling.join("job", watcher("first"));
        assert!(heard.by("first").is_empty());
        pulling.enters(Phase::Resolving);
        pulling.enters(Phase::Fetching);
        for second in 0..3600 {
            if second == 100 {
                pulling.tally.total_bytes.store(9, Ordering::Relaxed);
                pulling.join("other", watcher("second"));
            }
            pulling.tick();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        pulling.pulled();
        let lines = heard.by("first");
        assert!((6..=9).contains(&lines.len()), "{lines:#?}");
        assert_eq!(lines[0], "Pulling image a");
        assert!(
            lines.last().unwrap().starts_with("Pulled image a in 3600"),
            "{lines:#?}"
        );
        assert_eq!(heard.by("second")[0], "Pulling image a: 0 of 9 bytes, 0 of 0 layers");
    }

    #[tokio::test]
    async fn what_is_in_the_way_is_told_with_how_far_it_is() {
        let (pulling, _) = pulling().await;
        pulling.enters(Phase::Fetching);
        assert_eq!(pulling.how_far(), "nothing of it had come");
        pulling.last_word.put("status 429: slow down".to_owned());
        assert_eq!(
            pulling.how_far(),
            "nothing of it had come; the last error was: status 429: slow down"
        );
    }

    #[test]
    fn the_words_say_where_it_is_and_how_far() {
        let counts = Counts {
            fetched_bytes: 5,
            total_bytes: 9,
            layers_done: 1,
            layers: 3,
        };
        let none = Counts::default();
        assert_eq!(
            how_far(Phase::Queued(2), none),
            "it waited for its turn with 2 pulls before it"
        );
        assert_eq!(how_far(Phase::Fetching, none), "nothing of it had come");
        assert_eq!(
            how_far(Phase::Fetching, counts),
            "5 of 9 bytes had come, 1 of 3 layers were unpacked"
        );
        assert_eq!(
            line(Way::Pull, "a", Phase::Queued(2), none),
            "Waiting to pull image a: 2 before it"
        );
        assert_eq!(line(Way::Pull, "a", Phase::Resolving, none), "Pulling image a");
        assert_eq!(
            line(Way::Pull, "a", Phase::Fetching, counts),
            "Pulling image a: 5 of 9 bytes, 1 of 3 layers"
        );
        assert_eq!(
            line(Way::Load, "a", Phase::Queued(0), none),
            "Waiting to load image a: it is next"
        );
        assert_eq!(line(Way::Load, "a", Phase::Fetching, none), "Loading image a");
    }
}

//! From byte counts to the few lines that a person who waits for a task wants to see.
//!
//! Nomad keeps ten events per task and writes each to disk: one at the start, few while it lasts, one at the end.

use super::ensure::{self, PullEvent};
use crate::actors::shared::Links;
use crate::messages::Cx;
use crate::messages::image::{ImageError, ImageReady, PullProgress};
use crate::spec::identity::TaskId;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two lines while a pull lasts.
const INTERVAL: Duration = Duration::from_secs(30);

/// A task that waits for a pull, and the trace that it waits in.
#[derive(Debug, Clone)]
pub struct Watcher {
    /// The task.
    pub task: TaskId,
    /// Context of the span of its request.
    pub cx: Cx,
}

struct State {
    announced: bool,
    last: Instant,
    latest: ensure::Progress,
}

/// Tells all tasks that wait for one pull how it goes.
pub struct Progress {
    image: String,
    watchers: Arc<Mutex<Vec<Watcher>>>,
    links: Arc<Links>,
    begun: Instant,
    state: Mutex<State>,
}

impl Progress {
    /// Nothing is told before the first byte is asked for: an image on disk makes no noise.
    pub fn new(image: String, watchers: Arc<Mutex<Vec<Watcher>>>, links: Arc<Links>) -> Self {
        let begun = Instant::now();
        Self {
            image,
            watchers,
            links,
            begun,
            state: Mutex::new(State {
                announced: false,
                last: begun,
                latest: ensure::Progress::default(),
            }),
        }
    }

    /// News from the pull.
    pub fn on(&self, event: &PullEvent) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let text = match event {
            // Resolved only: there may be nothing to fetch.
            PullEvent::Resolving { .. } => return,
            PullEvent::Progress(latest) => {
                state.latest = *latest;
                if !state.announced {
                    state.announced = true;
                    format!("Pulling image {}", self.image)
                } else if state.last.elapsed() >= INTERVAL {
                    format!(
                        "Pulling image {}: {} of {} bytes, {} of {} layers",
                        self.image, latest.fetched_bytes, latest.total_bytes, latest.layers_done, latest.layers
                    )
                } else {
                    return;
                }
            }
        };
        state.last = Instant::now();
        let latest = state.latest;
        drop(state);
        self.tell(&text, latest);
    }

    /// The end of the pull. A failure is told by the start that fails.
    pub fn finish(&self, done: &Result<ImageReady, ImageError>) {
        let latest = self.state.lock().unwrap_or_else(PoisonError::into_inner).latest;
        if done.as_ref().is_ok_and(|ready| ready.pulled) {
            let text = format!(
                "Pulled image {} in {:.1} s ({} bytes)",
                self.image,
                self.begun.elapsed().as_secs_f64(),
                latest.total_bytes
            );
            self.tell(&text, latest);
        }
    }

    fn tell(&self, text: &str, event: ensure::Progress) {
        let watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for Watcher { task, cx } in watchers {
            let fact = PullProgress {
                task,
                text: text.to_owned(),
                details: vec![
                    ("image", self.image.clone()),
                    ("fetched_bytes", event.fetched_bytes.to_string()),
                    ("total_bytes", event.total_bytes.to_string()),
                    ("layers_done", event.layers_done.to_string()),
                    ("layers", event.layers.to_string()),
                ],
            };
            self.links.tasks.progress(fact, cx);
        }
    }
}

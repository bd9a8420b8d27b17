//! From byte counts to the few lines that a person who waits for a task wants to see.
//!
//! Nomad keeps ten events per task and writes each to disk: one at the start, few while it lasts, one at the end.

use super::fetch::PullEvent;
use crate::actors::shared::Links;
use crate::messages::Cx;
use crate::messages::image::{ImageError, ImageReady, PullProgress};
use crate::spec::identity::TaskId;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two lines while a pull lasts.
const INTERVAL: Duration = Duration::from_secs(30);

struct State {
    announced: bool,
    last: Instant,
    latest: Option<PullEvent>,
}

/// Tells all tasks that wait for one pull how it goes.
pub struct Progress {
    image: String,
    watchers: Arc<Mutex<Vec<TaskId>>>,
    links: Arc<Links>,
    begun: Instant,
    state: Mutex<State>,
}

impl Progress {
    /// Nothing is told before the first byte is asked for: an image on disk makes no noise.
    pub fn new(image: String, watchers: Arc<Mutex<Vec<TaskId>>>, links: Arc<Links>) -> Self {
        let begun = Instant::now();
        Self { image, watchers, links, begun, state: Mutex::new(State { announced: false, last: begun, latest: None }) }
    }

    /// News from the pull.
    pub fn on(&self, event: &PullEvent) {
        let text = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.latest = Some(event.clone());
            if !state.announced {
                state.announced = true;
                state.last = Instant::now();
                format!("Pulling image {}", self.image)
            } else if state.last.elapsed() >= INTERVAL {
                state.last = Instant::now();
                format!("Pulling image {}: {} of {} bytes, {} of {} layers", self.image, event.fetched_bytes, event.total_bytes, event.layers_done, event.layers)
            } else {
                return;
            }
        };
        self.tell(&text, event);
    }

    /// The end of the pull. A failure is told by the start that fails.
    pub fn finish(&self, done: &Result<ImageReady, ImageError>) {
        let latest = self.state.lock().unwrap_or_else(PoisonError::into_inner).latest.clone();
        if let (Ok(ready), Some(event)) = (done, latest)
            && ready.pulled
        {
            let text = format!("Pulled image {} in {:.1} s ({} bytes)", self.image, self.begun.elapsed().as_secs_f64(), event.total_bytes);
            self.tell(&text, &event);
        }
    }

    fn tell(&self, text: &str, event: &PullEvent) {
        let watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for task in watchers {
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
            self.links.tasks.progress(fact, Cx::current());
        }
    }
}

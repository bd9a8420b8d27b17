//! The plugin's event stream, recorded.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tonic::Status;

use crate::plugin::Driver;
use crate::wire::driver::{DriverTaskEvent, TaskEventsRequest};

/// Collects events until dropped.
pub struct EventLog {
    events: Arc<Mutex<Vec<DriverTaskEvent>>>,
    changed: watch::Receiver<u64>,
    reader: tokio::task::JoinHandle<Option<Status>>,
}

impl EventLog {
    pub fn start(mut driver: Driver) -> EventLog {
        let events: Arc<Mutex<Vec<DriverTaskEvent>>> = Arc::default();
        let (tx, changed) = watch::channel(0);
        let record = events.clone();
        let reader = tokio::spawn(async move {
            // The answer's headers may come with the first event only, so nobody waits for this call.
            let mut stream = match driver.task_events(TaskEventsRequest {}).await {
                Ok(answer) => answer.into_inner(),
                Err(status) => return Some(status),
            };
            loop {
                match stream.message().await {
                    Ok(Some(event)) => {
                        record.lock().unwrap_or_else(PoisonError::into_inner).push(event);
                        tx.send_modify(|n| *n += 1);
                    }
                    Ok(None) => return None,
                    Err(status) => return Some(status),
                }
            }
        });
        EventLog {
            events,
            changed,
            reader,
        }
    }

    pub fn events(&self) -> Vec<DriverTaskEvent> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the plugin ended the stream, which it must never do while alive.
    pub fn ended(&self) -> bool {
        self.reader.is_finished()
    }

    /// Waits until `probe` finds something among the events; `None` when the time is over.
    pub async fn wait_for<T>(
        &self,
        timeout: Duration,
        mut probe: impl FnMut(&[DriverTaskEvent]) -> Option<T>,
    ) -> Option<T> {
        let mut changed = self.changed.clone();
        let search = async {
            loop {
                if let Some(found) = probe(&self.events()) {
                    return Some(found);
                }
                changed.changed().await.ok()?;
            }
        };
        tokio::time::timeout(timeout, search).await.ok().flatten()
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

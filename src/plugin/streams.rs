//! The streams that Nomad opens once and expects to live as long as the plugin. A stream that ends while the plugin
//! lives is opened again at once, without a pause, for ever: so these end only with the connection.

use super::convert;
use super::pb::driver as pb;
use crate::messages::health::Verdict;
use crate::messages::task::TaskEvent;
use futures_util::future;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use std::collections::BTreeSet;
use tokio::sync::{broadcast, watch};
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tokio_stream::wrappers::{BroadcastStream, WatchStream};
use tonic::Status;

/// A stream of answers.
pub(super) type Answers<T> = BoxStream<'static, Result<T, Status>>;

/// The verdict at once, then each change. Nomad keeps what is no longer reported, so a key that goes away is sent once
/// more, empty.
pub(super) fn fingerprints(health: watch::Receiver<Verdict>) -> Answers<pb::FingerprintResponse> {
    let told = BTreeSet::<String>::new();
    WatchStream::new(health)
        .scan(told, |told, verdict| {
            let mut message = convert::verdict(&verdict);
            let now: BTreeSet<String> = message.attributes.keys().cloned().collect();
            for gone in told.difference(&now) {
                message.attributes.insert(gone.clone(), convert::withdrawn());
            }
            *told = now;
            future::ready(Some(Ok(message)))
        })
        .chain(stream::pending())
        .boxed()
}

/// Task events from now on. What a slow reader misses is not made up for: events are for people.
pub(super) fn events(events: broadcast::Receiver<TaskEvent>) -> Answers<pb::DriverTaskEvent> {
    BroadcastStream::new(events)
        .filter_map(|event| {
            future::ready(match event {
                Ok(event) => Some(Ok(convert::event(event))),
                Err(BroadcastStreamRecvError::Lagged(missed)) => {
                    tracing::debug!(missed, "the host reads task events too slowly");
                    None
                }
            })
        })
        .chain(stream::pending())
        .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::health::{Attribute, Health};
    use crate::plugin::pb::structs::attribute::Value;
    use crate::spec::identity::TaskId;
    use futures_util::FutureExt as _;

    fn verdict(health: Health, keys: &[&str]) -> Verdict {
        let attributes = keys.iter().map(|k| ((*k).to_owned(), Attribute::Bool(true))).collect();
        Verdict {
            health,
            description: "d".into(),
            attributes,
        }
    }

    fn event(n: i64) -> TaskEvent {
        TaskEvent {
            task: TaskId::new("t"),
            alloc_id: "a".into(),
            task_name: "n".into(),
            at: n,
            message: n.to_string(),
            annotations: Default::default(),
        }
    }

    #[tokio::test]
    async fn fingerprint_comes_at_once_then_on_change_and_never_ends() {
        let (tx, rx) = watch::channel(verdict(Health::Undetected, &["a", "b"]));
        let mut stream = fingerprints(rx);
        let first = stream.next().now_or_never().flatten().unwrap().unwrap();
        assert_eq!((first.health, first.attributes.len()), (0, 2));
        assert!(stream.next().now_or_never().is_none());
        tx.send_replace(verdict(Health::Healthy, &["b"]));
        let second = stream.next().await.unwrap().unwrap();
        assert_eq!(second.health, 2);
        assert_eq!(second.attributes["a"].value, Some(Value::StringVal(String::new())));
        tx.send_replace(verdict(Health::Unhealthy, &["b"]));
        assert_eq!(stream.next().await.unwrap().unwrap().attributes.len(), 1);
        drop(tx);
        assert!(stream.next().now_or_never().is_none());
    }

    #[tokio::test]
    async fn events_reach_every_stream_and_a_slow_one_loses_the_oldest() {
        let (tx, _) = broadcast::channel(2);
        let (mut quick, mut slow) = (events(tx.subscribe()), events(tx.subscribe()));
        for n in 0..5 {
            tx.send(event(n)).unwrap();
            assert_eq!(quick.next().await.unwrap().unwrap().message, n.to_string());
        }
        assert_eq!(slow.next().await.unwrap().unwrap().message, "3");
        assert_eq!(slow.next().await.unwrap().unwrap().message, "4");
        drop(tx);
        assert!(slow.next().now_or_never().is_none() && quick.next().now_or_never().is_none());
    }
}

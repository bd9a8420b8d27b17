//! The last rung: an actor that cannot be kept alive ends the process, and the next one takes up every task.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::control::Fault;
use crate::field::Field;
use crate::lives::{self, End};

/// `EX_SOFTWARE`.
const EXIT_SOFTWARE: i32 = 70;

/// Hammers an actor until the process ends.
async fn hammer(field: &Field, actor: &str, fault: Fault, pause: Duration) {
    let end = Instant::now() + Duration::from_secs(180);
    while field.rig.plugin().process().exited().is_none() {
        assert!(Instant::now() < end, "{actor} may die for ever");
        // Refused when the process is on its way out.
        field.chaos.inject(actor, fault).await.ok();
        tokio::time::sleep(pause).await;
    }
}

async fn ends_and_recovers(actor: &str, fault: Fault, pause: Duration) {
    let mut field = Field::new().await;
    let ends = [End::Exits, End::Obeys, End::Ignores, End::Destroyed];
    let starts = ends
        .iter()
        .enumerate()
        .map(|(n, end)| field.rig.start(lives::spec(&field.image, n, *end)));
    let tasks: Vec<_> = join_all(starts)
        .await
        .into_iter()
        .map(|task| task.expect("StartTask"))
        .collect();
    hammer(&field, actor, fault, pause).await;
    let status = field.rig.plugin().process().exited().expect("ended");
    assert_eq!(status.code(), Some(EXIT_SOFTWARE), "{status:?}\n{}", field.last_words());
    field.rig.relaunch().await.expect("RecoverTask");
    let lives = tasks
        .iter()
        .zip(ends)
        .enumerate()
        .map(|(n, (task, end))| lives::finish(task, n, end));
    for (n, life) in join_all(lives).await.into_iter().enumerate() {
        assert!(life.is_ok(), "task {n}: {life:?}\n{}", field.last_words());
    }
    field.nothing_left().await.expect("nothing left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_that_panics_for_ever_ends_the_process_and_the_next_recovers_all_tasks() {
    ends_and_recovers("event_stream", Fault::Kill, Duration::from_millis(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_that_vanishes_for_ever_ends_the_process_and_the_next_recovers_all_tasks() {
    ends_and_recovers("root", Fault::Abort, Duration::from_millis(20)).await;
}

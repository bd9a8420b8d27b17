//! Each actor in turn, by each method, while twenty tasks start, run and stop.

use std::time::Duration;

use crate::control::Fault;
use crate::field::Field;
use crate::lives;

/// The rhythm of faults. Deaths come in quick succession with a stall among them that is longer than a task lives.
const BEAT: [(u64, Fault); 6] = [
    (60, Fault::Kill),
    (250, Fault::Abort),
    (250, Fault::Stall(2000)),
    (2300, Fault::Kill),
    (400, Fault::Abort),
    (700, Fault::Kill),
];

/// Goes on until dropped.
async fn suffer(field: &Field, victims: impl AsyncFn(&Field) -> Vec<String>) -> std::convert::Infallible {
    loop {
        for (pause, fault) in BEAT {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            for victim in victims(field).await {
                // A task may be gone by then.
                field.chaos.inject(&victim, fault).await.ok();
            }
        }
    }
}

async fn holds(victims: impl AsyncFn(&Field) -> Vec<String>) {
    let field = Field::new().await;
    let failures = tokio::select! {
        failures = lives::twenty(&field.rig, &field.image) => failures,
        never = suffer(&field, victims) => match never {},
    };
    assert!(failures.is_empty(), "{failures:#?}\n{}", field.last_words());
    if let Err(e) = field.settled().await {
        panic!("{e:#}\n{}", field.last_words());
    }
}

macro_rules! survives {
    ($($test:ident $actor:literal;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                holds(async |_| vec![$actor.to_owned()]).await;
            }
        )*
    };
}

survives! {
    tasks_do_not_notice_faults_of_the_root "root";
    tasks_do_not_notice_faults_of_the_health_probe "health_probe";
    tasks_do_not_notice_faults_of_the_event_stream "event_stream";
    tasks_do_not_notice_faults_of_the_image_puller "image_puller";
    tasks_do_not_notice_faults_of_the_container_factory "container_factory";
    tasks_do_not_notice_faults_of_the_log_pump "log_pump";
    tasks_do_not_notice_faults_of_the_stats_sampler "stats_sampler";
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_do_not_notice_faults_of_all_their_supervisors_at_once() {
    holds(async |field| {
        let mut names = field.chaos.list().await.unwrap_or_default();
        names.retain(|name| name.starts_with("task:"));
        names
    })
    .await;
}

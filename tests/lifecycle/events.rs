//! `TaskEvents`.

use crate::bench::{Bench, group, patience};
use std::time::SystemTime;
use testhost::image::ImageConfig;
use testhost::task::TaskSpec;

group!(events, Bench::new(), {
    pull_start_and_exit_are_told_in_order_to_whom_it_concerns,
});

async fn pull_start_and_exit_are_told_in_order_to_whom_it_concerns(b: &mut Bench) {
    let begin = SystemTime::now();
    let image = b
        .rig
        .image("events/fresh", &ImageConfig::default().salt("events"))
        .await
        .expect("image");
    let events = b.rig.events();
    // The subscription is live once the event of another task has come through it.
    let first = b.start(b.sh("true")).await;
    events
        .wait_for(patience(), |all| {
            all.iter().any(|event| event.task_id == first.id()).then_some(())
        })
        .await
        .expect("an event");
    first.destroy(true).await.expect("DestroyTask");
    let task = b.start(TaskSpec::new(&image).sh("exit 9")).await;
    assert_eq!(task.exit(patience()).await.exit_code, 9);
    let mine = |all: &[testhost::wire::driver::DriverTaskEvent]| {
        all.iter()
            .filter(|event| event.task_id == task.id())
            .cloned()
            .collect::<Vec<_>>()
    };
    let found = events
        .wait_for(patience(), |all| {
            mine(all)
                .iter()
                .any(|event| event.message.contains("exited"))
                .then(|| mine(all))
        })
        .await
        .expect("the exit");
    let messages: Vec<&str> = found.iter().map(|event| event.message.as_str()).collect();
    let at = |words: &str| {
        messages
            .iter()
            .position(|message| message.contains(words))
            .unwrap_or_else(|| panic!("no {words:?} in {messages:?}"))
    };
    let order = [
        at("Pulling image"),
        at("Pulled image"),
        at("Started container"),
        at("exited with code 9"),
    ];
    assert!(order.is_sorted(), "{messages:?}");
    assert!(messages[order[0]].contains(&image), "{messages:?}");
    let mut last = begin;
    for event in &found {
        assert_eq!(
            (event.alloc_id.as_str(), event.task_name.as_str()),
            (task.alloc.id(), "web")
        );
        let time = SystemTime::try_from(event.timestamp.expect("a time")).expect("a time");
        assert!(last <= time && time <= SystemTime::now(), "{event:?}");
        assert!(event.message.len() < 200, "{event:?}");
        last = time;
    }
    assert_eq!(
        found[order[3]].annotations.get("exit_code").map(String::as_str),
        Some("9")
    );
    assert!(!events.ended());
    task.destroy(false).await.expect("DestroyTask");
}

//! `WaitTask` and `InspectTask`.

use crate::bench::{Bench, assert_running, group, patience, slowness};
use futures_util::future::join_all;
use std::time::{Duration, SystemTime};
use testhost::wire::driver::TaskState;
use testhost::within::within;
use tokio::time::timeout;

group!(waiting, Bench::new(), {
    every_waiter_gets_the_exit_and_a_cancelled_one_disturbs_nobody,
    exit_codes_and_signals_are_the_tasks_own,
});

async fn every_waiter_gets_the_exit_and_a_cancelled_one_disturbs_nobody(b: &mut Bench) {
    let begin = SystemTime::now();
    let task = b
        .start(b.sh("while ! [ -e /alloc/end ]; do sleep 0.1; done; exit 42"))
        .await;
    assert_running(&task).await;
    assert_eq!(task.handle.state(), TaskState::Running);
    assert!(
        task.handle.version >= 1 && !task.handle.driver_state.is_empty(),
        "{:?}",
        task.handle
    );
    // Cancelled by its drop.
    assert!(
        timeout(Duration::from_secs(1), task.wait()).await.is_err(),
        "WaitTask answered for a running task"
    );
    let waiting = async {
        tokio::join!(
            task.wait(),
            task.wait(),
            timeout(Duration::from_millis(300), task.wait())
        )
    };
    let end = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_running(&task).await;
        std::fs::write(task.alloc.shared_dir().join("end"), "").unwrap();
    };
    let ((one, two, cancelled), ()) = within(patience(), "the exit", async { tokio::join!(waiting, end) }).await;
    assert!(cancelled.is_err());
    let one = one.expect("WaitTask");
    assert_eq!(
        one.result.map(|r| (r.exit_code, r.signal, r.oom_killed)),
        Some((42, 0, false))
    );
    assert_eq!((one.err.as_str(), &one), ("", &two.expect("WaitTask")));
    for _ in 0..3 {
        assert_eq!(
            within(patience(), "a known exit", task.wait()).await.expect("WaitTask"),
            one
        );
    }
    let status = task.status().await.expect("InspectTask");
    assert_eq!((status.state(), status.result), (TaskState::Exited, one.result));
    let time = |stamp: Option<prost_types::Timestamp>| SystemTime::try_from(stamp.expect("a time")).expect("a time");
    let (started, completed) = (time(status.started_at), time(status.completed_at));
    assert!(
        begin <= started && started < completed && completed <= SystemTime::now(),
        "{begin:?} {started:?} {completed:?}"
    );
    assert_eq!((status.id.as_str(), status.name.as_str()), (task.id(), "web"));
    task.destroy(false).await.expect("DestroyTask");
}

async fn exit_codes_and_signals_are_the_tasks_own(b: &mut Bench) {
    let scripts = [
        ("exit 0", 0),
        ("exit 1", 1),
        ("exit 127", 127),
        ("exit 255", 255),
        ("kill -TERM $$; sleep 9", 143),
        ("kill -KILL $$; sleep 9", 137),
    ];
    let b = &*b;
    // The first process of a container is deaf to its own signals, so another one is told to die and is waited for.
    let spec = |script: &str| b.sh(&format!("sh -c '{script}'; exit $?"));
    // In a slow guest every other one has to do.
    let step = if slowness() > 1 { 2 } else { 1 };
    join_all(scripts.into_iter().step_by(step).map(|(script, code)| async move {
        let task = b.start(spec(script)).await;
        assert_eq!(task.exit(patience()).await.exit_code, code, "{script}");
        task.destroy(false).await.expect("DestroyTask");
    }))
    .await;
}

//! `DestroyTask`.

use crate::bench::{Bench, assert_running, cgroups_named, container_of, group, patience};
use std::time::Duration;
use testhost::wire::driver::{DestroyTaskRequest, WaitTaskRequest};
use testhost::within::within;
use tonic::Code;

group!(destroying, Bench::new(), {
    a_running_task_is_destroyed_only_by_force,
    an_unknown_task_is_not_found_and_destroying_it_harms_nobody,
});

async fn a_running_task_is_destroyed_only_by_force(b: &mut Bench) {
    let task = b.start(b.sleeper()).await;
    let (container, pid) = container_of(&task).await;
    assert!(!cgroups_named(&container).is_empty(), "no cgroup is named {container}");
    let error = task.destroy(false).await.expect_err("a running task");
    assert!(error.message().contains("cannot destroy running task"), "{error:?}");
    assert_running(&task).await;
    let (exit, destroyed) = within(patience(), "DestroyTask", async {
        tokio::join!(task.wait(), task.destroy(true))
    })
    .await;
    destroyed.expect("DestroyTask");
    let exit = exit.expect("WaitTask").result.expect("a result");
    assert!(exit.exit_code != 0, "{exit:?}");
    assert!(!testhost::procfs::alive(pid));
    assert_eq!(cgroups_named(&container), Vec::<String>::new());
    // It is unknown now, and a second time is no fault.
    assert_eq!(task.inspect().await.expect_err("destroyed").code(), Code::NotFound);
    assert_eq!(
        task.signal("SIGTERM").await.expect_err("destroyed").code(),
        Code::NotFound
    );
    assert_eq!(
        task.stop(Duration::from_secs(1), "")
            .await
            .expect_err("destroyed")
            .code(),
        Code::NotFound
    );
    within(patience(), "the second DestroyTask", task.destroy(true))
        .await
        .expect("DestroyTask");
}

async fn an_unknown_task_is_not_found_and_destroying_it_harms_nobody(b: &mut Bench) {
    let task = b.start(b.sleeper()).await;
    let task_id = "ffffffff-0000-4000-8000-000000000000/web/ffffffff".to_owned();
    let mut driver = b.rig.driver();
    let waited = within(
        patience(),
        "WaitTask",
        driver.wait_task(WaitTaskRequest {
            task_id: task_id.clone(),
        }),
    )
    .await;
    assert_eq!(waited.expect_err("unknown").code(), Code::NotFound);
    for force in [false, true] {
        let request = DestroyTaskRequest {
            task_id: task_id.clone(),
            force,
        };
        within(patience(), "DestroyTask", driver.destroy_task(request))
            .await
            .expect("DestroyTask of an unknown task");
    }
    assert_running(&task).await;
    task.destroy(true).await.expect("DestroyTask");
}

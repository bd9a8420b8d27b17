//! One id, several starts: one process.

use testhost::task::TaskSpec;
use testhost::wire::driver::StartTaskRequest;
use testhost::within::within;

use crate::tasks::{TICKER, end, still_ticks, ticker};
use crate::{SOON, rig};

#[tokio::test]
async fn a_duplicate_start_is_refused_and_harms_nothing() {
    let rig = rig().await;
    let task = ticker(&rig).await;
    let shims = rig.containerd.shims();
    let again = StartTaskRequest {
        task: Some(task.config.clone()),
    };
    let status = rig
        .driver()
        .start_task(again.clone())
        .await
        .expect_err("the task runs already");
    assert!(status.message().contains("already"), "{status:?}");
    let answers = tokio::join!(async { rig.driver().start_task(again.clone()).await }, async {
        rig.driver().start_task(again.clone()).await
    });
    assert!(answers.0.is_err() && answers.1.is_err());
    still_ticks(&rig, &task, &shims, "duplicates").await;
    end(&rig, &task).await;

    // Both at once, from nothing: one process.
    let alloc = rig.alloc();
    let spec = TaskSpec::new(rig.busybox().await.expect("image")).sh(TICKER);
    alloc.add_task(&spec.name).expect("task directory");
    let config = spec.compose(&alloc, rig.schema()).expect("config");
    let logs = alloc.collect_logs(&spec.name).expect("collectors");
    let request = StartTaskRequest {
        task: Some(config.clone()),
    };
    let calls: Vec<_> = (0..5).map(|_| (rig.driver(), request.clone())).collect();
    let calls = calls
        .into_iter()
        .map(|(mut driver, request)| tokio::spawn(async move { driver.start_task(request).await }));
    let mut started = 0;
    for call in calls.collect::<Vec<_>>() {
        started += usize::from(within(SOON, "StartTask", call).await.expect("joined").is_ok());
    }
    assert!(started >= 1, "none of five has started");
    assert_eq!(
        rig.containerd.shims().len(),
        1,
        "{started} of five say that they have started"
    );
    logs.stdout.wait_line(SOON, "tick 2").await.expect("output");
    let mut driver = rig.driver();
    driver
        .destroy_task(testhost::wire::driver::DestroyTaskRequest {
            task_id: config.id,
            force: true,
        })
        .await
        .expect("DestroyTask");
    let leaks = rig.scope().leaks(&Default::default(), SOON).await.expect("census");
    assert!(leaks.is_empty(), "{leaks:?}");
}

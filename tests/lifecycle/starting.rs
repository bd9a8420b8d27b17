//! `StartTask`: ids and names, leftovers, starts that are cut off.

use crate::bench::{Bench, assert_running, container_of, group, patience, slowness};
use std::time::Duration;
use testhost::image::ImageConfig;
use testhost::task::TaskSpec;
use testhost::within::within;

group!(starting, Bench::new(), {
    an_id_is_started_once,
    any_id_and_any_name_will_do,
    ten_starts_of_one_new_image_share_a_pull,
    an_image_on_the_node_needs_no_registry,
    a_start_cut_off_by_sigkill_leaves_nothing_in_the_way_of_the_next,
});

async fn an_id_is_started_once(b: &mut Bench) {
    let task = b.start(b.sleeper()).await;
    let error = b
        .rig
        .start_in(b.rig.alloc(), &b.sleeper().id(task.id()))
        .await
        .err()
        .expect("an id in use");
    assert!(error.message().contains("already started"), "{error:?}");
    assert_running(&task).await;
    task.destroy(true).await.expect("DestroyTask");
    // After its end the id is free again.
    let again = b.start(b.sleeper().id(task.id())).await;
    assert_running(&again).await;
    again.destroy(true).await.expect("DestroyTask");
}

async fn any_id_and_any_name_will_do(b: &mut Bench) {
    let uuid = testhost::alloc::uuid();
    let (bare, long, odd) = tokio::join!(
        b.start(b.sh("hostname; exit 1").id(&uuid)),
        b.start(b.sh("hostname; exit 2").name("x".repeat(100))),
        b.start(b.sh("hostname; exit 3").name("Größe und Länge!")),
    );
    for (task, code) in [(bare, 1), (long, 2), (odd, 3)] {
        assert_eq!(task.exit(patience()).await.exit_code, code);
        task.logs_end(patience()).await;
        let host = task.lines().concat();
        assert!(
            !host.is_empty() && host.len() <= 64 && host.is_ascii(),
            "host name {host:?}"
        );
        assert!(container_of(&task).await.0.len() <= 76);
        task.destroy(false).await.expect("DestroyTask");
    }
}

async fn ten_starts_of_one_new_image_share_a_pull(b: &mut Bench) {
    let image = b
        .rig
        .image("starting/shared", &ImageConfig::default().salt("shared"))
        .await
        .expect("image");
    let count = if slowness() > 1 { 4 } else { 10 };
    let events = b.rig.events();
    let starts = (0..count).map(|n| b.start(TaskSpec::new(&image).sh("true").name(format!("shared-{n}"))));
    for task in futures_util::future::join_all(starts).await {
        assert_eq!(task.exit(patience()).await.exit_code, 0);
        task.destroy(false).await.expect("DestroyTask");
    }
    drop(events);
}

async fn an_image_on_the_node_needs_no_registry(b: &mut Bench) {
    b.rig.registry.stop().await;
    let outcome = within(patience(), "StartTask", b.rig.start(b.sh("exit 5"))).await;
    let forced = within(
        patience(),
        "StartTask",
        b.rig.start(b.sh("true").option("force_pull", true.into())),
    )
    .await;
    b.rig.registry.start_again().await.expect("registry");
    let task = outcome.expect("StartTask without a registry");
    assert_eq!(task.exit(patience()).await.exit_code, 5);
    task.destroy(false).await.expect("DestroyTask");
    let error = forced.err().expect("a forced pull without a registry");
    assert_eq!(testhost::status::recoverable(&error), Some(true), "{error:?}");
}

async fn a_start_cut_off_by_sigkill_leaves_nothing_in_the_way_of_the_next(b: &mut Bench) {
    let id = format!("{}/web/0badcafe", testhost::alloc::uuid());
    // Two dozen points within a start; a start takes about 150 ms where 20 tests run a second.
    let rounds: u64 = if slowness() > 1 { 3 } else { 8 };
    let step = Duration::from_millis(20) * slowness() * if slowness() > 1 { 4 } else { 1 };
    for round in 0..rounds {
        let spec = b.sleeper().id(&id);
        let started = tokio::time::timeout(step * round as u32, b.rig.start_in(b.rig.alloc(), &spec)).await;
        drop(started);
        b.rig.relaunch_only().await.expect("relaunch");
        let task = b.start(b.sh("echo once; sleep 3600").id(&id)).await;
        task.wait_line(patience(), "once").await;
        let (container, _) = container_of(&task).await;
        let found = b.rig.scope().take().await.expect("census");
        assert_eq!(
            (
                found.containers.len(),
                found.tasks.len(),
                found.snapshots.len(),
                found.shims.len()
            ),
            (1, 1, 1, 1),
            "round {round}: {found:?}"
        );
        assert!(found.containers.contains(&container));
        task.destroy(true).await.expect("DestroyTask");
        let left = b.rig.scope().take().await.expect("census");
        assert!(
            left.containers.is_empty() && left.snapshots.is_empty(),
            "round {round}: {left:?}"
        );
    }
}

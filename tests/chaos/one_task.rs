//! A task whose supervisor cannot be kept alive ends alone: the process and all other tasks live on.

use testhost::alloc::random_hex;
use tokio::time::timeout;

use crate::field::Field;
use crate::lives::{self, End, PATIENCE};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_whose_supervisor_panics_at_every_start_ends_alone() {
    let field = Field::new().await;
    let other = field
        .rig
        .start(lives::spec(&field.image, 1, End::Obeys))
        .await
        .expect("StartTask");
    let alloc = field.rig.alloc();
    let id = format!("{}/t2/{}", alloc.id(), random_hex(4));
    let spec = lives::spec(&field.image, 2, End::Exits).id(&id);
    field.chaos.curse_task(&id, true).await.expect("the chaos socket");
    let error = timeout(PATIENCE, field.rig.start_in(alloc.clone(), &spec))
        .await
        .expect("StartTask is answered")
        .err()
        .expect("a start that cannot be looked after fails");
    assert!(
        error.message().contains("given up") && error.message().contains("chaos"),
        "{error:?}"
    );
    // The same id again is a new task.
    field.chaos.curse_task(&id, false).await.expect("the chaos socket");
    let again = timeout(PATIENCE, field.rig.start_in(alloc, &spec))
        .await
        .expect("StartTask is answered")
        .expect("StartTask");
    lives::finish(&again, 2, End::Exits).await.expect("its life");
    lives::finish(&other, 1, End::Obeys).await.expect("the other's life");
    field.settled().await.expect("settled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_task_whose_supervisor_is_given_up_is_told_to_have_failed_and_can_be_destroyed() {
    let field = Field::new().await;
    let spec = |n| lives::spec(&field.image, n, End::Obeys);
    let (one, other) = tokio::join!(field.rig.start(spec(1)), field.rig.start(spec(2)));
    let (one, other) = (one.expect("StartTask"), other.expect("StartTask"));
    field.chaos.curse_task(one.id(), true).await.expect("the chaos socket");
    let error = timeout(PATIENCE, one.wait())
        .await
        .expect("WaitTask is answered")
        .expect_err("a task that nobody looks after");
    assert!(error.message().contains("given up"), "{error:?}");
    field.chaos.curse_task(one.id(), false).await.expect("the chaos socket");
    timeout(PATIENCE, one.destroy(true))
        .await
        .expect("DestroyTask is answered")
        .expect("DestroyTask");
    lives::finish(&other, 2, End::Obeys).await.expect("the other's life");
    field.settled().await.expect("settled");
}

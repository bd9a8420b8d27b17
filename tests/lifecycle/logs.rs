//! Where a task's output goes.

use crate::bench::{Bench, group, patience, secs, slowness};
use std::time::Duration;
use testhost::alloc::Alloc;

group!(logs, Bench::new(), {
    a_hundred_thousand_lines_arrive_complete_and_in_order,
    a_silent_task_still_opens_and_closes_both_pipes,
    plain_files_take_the_output,
    dev_null_takes_nothing,
    a_link_in_place_of_a_pipe_is_refused_and_its_target_untouched,
    a_missing_pipe_is_named,
    a_reader_that_pauses_loses_nothing,
});

async fn a_hundred_thousand_lines_arrive_complete_and_in_order(b: &mut Bench) {
    let task = b.start(b.sh("seq 100000; seq 100000 >&2")).await;
    assert_eq!(task.exit(secs(60)).await.exit_code, 0);
    task.logs_end(patience()).await;
    let expected: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    for (name, log) in [("stdout", &task.logs().stdout), ("stderr", &task.logs().stderr)] {
        let found = log.text();
        assert!(found == expected, "{name}: {} of {} bytes", found.len(), expected.len());
    }
    task.destroy(false).await.expect("DestroyTask");
}

async fn a_silent_task_still_opens_and_closes_both_pipes(b: &mut Bench) {
    let task = b.start(b.sh("while ! [ -e /alloc/end ]; do sleep 0.1; done")).await;
    let opened = testhost::within::until(patience(), "both pipes to be opened", || {
        task.logs().stdout.opened_at().zip(task.logs().stderr.opened_at())
    });
    opened.await;
    std::fs::write(task.alloc.shared_dir().join("end"), "").unwrap();
    assert_eq!(task.exit(patience()).await.exit_code, 0);
    task.logs_end(Duration::from_secs(2) * slowness()).await;
    assert!(task.lines().is_empty() && task.stderr_lines().is_empty());
    task.destroy(false).await.expect("DestroyTask");
}

fn path(alloc: &Alloc, name: &str) -> String {
    alloc.logs_dir().join(name).display().to_string()
}

async fn plain_files_take_the_output(b: &mut Bench) {
    let alloc = b.rig.alloc();
    let (out, err) = (path(&alloc, "out.txt"), path(&alloc, "err.txt"));
    for file in [&out, &err] {
        std::fs::write(file, "").unwrap();
    }
    let task = b
        .rig
        .start_in(alloc, &b.sh("echo to out; echo to err >&2").log_paths(&out, &err))
        .await
        .expect("StartTask");
    assert_eq!(task.exit(patience()).await.exit_code, 0);
    task.destroy(false).await.expect("DestroyTask");
    assert_eq!(std::fs::read_to_string(out).unwrap(), "to out\n");
    assert_eq!(std::fs::read_to_string(err).unwrap(), "to err\n");
}

async fn dev_null_takes_nothing(b: &mut Bench) {
    let alloc = b.rig.alloc();
    let task = b
        .rig
        .start_in(
            alloc,
            &b.sh("seq 50000; seq 50000 >&2").log_paths("/dev/null", "/dev/null"),
        )
        .await
        .expect("StartTask");
    assert_eq!(task.exit(patience()).await.exit_code, 0);
    task.destroy(false).await.expect("DestroyTask");
    assert_eq!(std::fs::read_dir(task.alloc.logs_dir()).unwrap().count(), 0);
}

async fn a_link_in_place_of_a_pipe_is_refused_and_its_target_untouched(b: &mut Bench) {
    let alloc = b.rig.alloc();
    let target = b.rig.dir().join("precious");
    std::fs::write(&target, "precious").unwrap();
    std::os::unix::fs::symlink(&target, path(&alloc, "out")).unwrap();
    std::fs::write(path(&alloc, "err"), "").unwrap();
    let spec = b
        .sh("echo overwritten")
        .log_paths(path(&alloc, "out"), path(&alloc, "err"));
    let link = path(&alloc, "out");
    let error = b.rig.start_in(alloc, &spec).await.err().expect("a link");
    assert!(
        error.message().contains("stdout log") && error.message().contains(&link),
        "{error:?}"
    );
    assert_eq!(testhost::status::recoverable(&error), None);
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
    std::fs::remove_file(target).unwrap();
}

async fn a_missing_pipe_is_named(b: &mut Bench) {
    let alloc = b.rig.alloc();
    let missing = path(&alloc, "nowhere");
    let spec = b.sh("true").log_paths("/dev/null", &missing);
    let error = b.rig.start_in(alloc, &spec).await.err().expect("a missing pipe");
    assert!(
        error.message().contains("stderr log") && error.message().contains(&missing),
        "{error:?}"
    );
}

async fn a_reader_that_pauses_loses_nothing(b: &mut Bench) {
    let task = b
        .start(b.sh("seq 1000; while ! [ -e /alloc/paused ]; do sleep 0.1; done; touch /alloc/writing; seq 1001 60000"))
        .await;
    task.wait_line(patience(), "1000").await;
    task.logs().stdout.pause();
    std::fs::write(task.alloc.shared_dir().join("paused"), "").unwrap();
    let writing = task.alloc.shared_dir().join("writing");
    testhost::within::until(patience(), "the task to write on", || writing.exists().then_some(())).await;
    // The pipe fills up; the task waits for it and nobody else does.
    tokio::time::sleep(Duration::from_millis(500)).await;
    crate::bench::assert_running(&task).await;
    task.logs().stdout.resume();
    assert_eq!(task.exit(patience()).await.exit_code, 0);
    task.logs_end(patience()).await;
    let expected: String = (1..=60_000).map(|n| format!("{n}\n")).collect();
    assert!(task.logs().stdout.text() == expected);
    task.destroy(false).await.expect("DestroyTask");
}

//! Where a task's output goes.

use crate::bench::{Bench, assert_counted, assert_running, patience, secs, slowness};
use crate::field::{consent, group, operated};
use std::time::Duration;
use testhost::alloc::Alloc;
use testhost::within::{until, within};

group!(log, LOG, operated(consent()),
    together {
        log_01_each_stream_in_its_own_file,
        log_03_plain_files_take_the_output,
        log_04_dev_null_takes_nothing_and_nothing_is_made,
        log_05_a_link_is_refused_and_its_target_untouched,
        log_06_a_reader_that_is_gone_for_a_while_does_no_harm,
        log_08_both_pipes_are_opened_by_a_silent_task,
        log_09_both_pipes_end_with_the_task,
    }
    alone {
        log_02_a_hundred_mebibytes_arrive_in_order,
        log_07_no_line_is_lost_when_the_plugin_is_killed,
    }
);

fn path(alloc: &Alloc, name: &str) -> String {
    alloc.logs_dir().join(name).display().to_string()
}

async fn log_01_each_stream_in_its_own_file(b: &Bench) {
    let task = b.start(b.sh("echo marker of out; echo marker of err >&2")).await;
    task.exit(patience()).await;
    task.logs_end(patience()).await;
    for (stream, text) in [("stdout", "marker of out\n"), ("stderr", "marker of err\n")] {
        let file = task.alloc.logs_dir().join(format!("web.{stream}.0"));
        assert_eq!(std::fs::read_to_string(file).expect("the log"), text);
    }
    task.destroy(false).await.expect("DestroyTask");
}

/// Bytes without a pattern, the same each time (a 64-bit xorshift).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

async fn log_02_a_hundred_mebibytes_arrive_in_order(b: &mut Bench) {
    let bytes = noise(100 << 20);
    let spec = b.sh("cat /alloc/data/noise");
    let alloc = b.rig.alloc();
    std::fs::write(alloc.shared_dir().join("data/noise"), &bytes).expect("a file");
    let task = within(patience(), "StartTask", b.rig.start_in(alloc, &spec))
        .await
        .expect("StartTask");
    assert_eq!(task.exit(secs(60)).await.exit_code, 0);
    task.logs_end(patience()).await;
    let found = task.logs().stdout.bytes();
    let differs = found.iter().zip(&bytes).position(|(a, b)| a != b);
    assert_eq!((found.len(), differs), (bytes.len(), None));
    task.destroy(false).await.expect("DestroyTask");
}

async fn log_03_plain_files_take_the_output(b: &Bench) {
    let alloc = b.rig.alloc();
    let (out, err) = (path(&alloc, "out.txt"), path(&alloc, "err.txt"));
    for file in [&out, &err] {
        std::fs::write(file, "").expect("a file");
    }
    let spec = b.sh("echo to out; echo to err >&2").log_paths(&out, &err);
    let task = within(patience(), "StartTask", b.rig.start_in(alloc, &spec))
        .await
        .expect("StartTask");
    assert_eq!(task.exit(patience()).await.exit_code, 0);
    task.destroy(false).await.expect("DestroyTask");
    assert_eq!(std::fs::read_to_string(out).expect("the log"), "to out\n");
    assert_eq!(std::fs::read_to_string(err).expect("the log"), "to err\n");
}

async fn log_04_dev_null_takes_nothing_and_nothing_is_made(b: &Bench) {
    let alloc = b.rig.alloc();
    let spec = b
        .sh("seq 50000; seq 50000 >&2; exit 4")
        .log_paths("/dev/null", "/dev/null");
    let task = within(patience(), "StartTask", b.rig.start_in(alloc, &spec))
        .await
        .expect("StartTask");
    assert_eq!(task.exit(patience()).await.exit_code, 4);
    task.destroy(false).await.expect("DestroyTask");
    let made: Vec<_> = std::fs::read_dir(task.alloc.logs_dir())
        .expect("the directory")
        .flatten()
        .collect();
    assert!(made.is_empty(), "{made:?}");
}

async fn log_05_a_link_is_refused_and_its_target_untouched(b: &Bench) {
    let target = b.rig.dir().join("log-05-target");
    std::fs::write(&target, "precious").expect("a file");
    for stream in ["stdout", "stderr"] {
        let alloc = b.rig.alloc();
        std::os::unix::fs::symlink(&target, path(&alloc, stream)).expect("a link");
        let paths = match stream {
            "stdout" => (path(&alloc, stream), "/dev/null".to_owned()),
            _ => ("/dev/null".to_owned(), path(&alloc, stream)),
        };
        let spec = b
            .sh("echo overwritten; echo overwritten >&2")
            .log_paths(paths.0, paths.1);
        let error = within(patience(), "StartTask", b.rig.start_in(alloc, &spec))
            .await
            .err()
            .expect("a link is no log path");
        assert!(error.message().contains(&format!("{stream} log")), "{error:?}");
        assert_eq!(std::fs::read_to_string(&target).expect("the target"), "precious");
    }
}

/// Numbered lines until the host says `end`, then their number.
fn counter() -> String {
    let pause = if slowness() > 1 { "0.5" } else { "0.02" };
    format!("n=0; while ! [ -e /alloc/end ]; do echo line $n; n=$((n+1)); sleep {pause}; done; echo end $n; exit 5")
}

async fn log_06_a_reader_that_is_gone_for_a_while_does_no_harm(b: &Bench) {
    let mut task = b.start(b.sh(&counter())).await;
    task.wait_line(patience(), "line 3").await;
    task.logs().stdout.close();
    assert!(
        task.logs().stdout.wait_eof(patience()).await,
        "the collector does not end"
    );
    // Nobody reads for a while, and the task writes on into the pipe.
    tokio::time::sleep(Duration::from_secs(1) * slowness()).await;
    assert_running(&task).await;
    let seen = task.lines().len();
    task.logs = Some(task.alloc.collect_logs("web").expect("log collectors"));
    task.wait_line(patience(), &format!("line {}", seen + 3)).await;
    std::fs::write(task.alloc.shared_dir().join("end"), "").expect("the sign to end");
    assert_eq!(task.exit(patience()).await.exit_code, 5);
    task.logs_end(patience()).await;
    // Both collectors have written to the one file, and what came meanwhile has waited in the pipe.
    let text = std::fs::read_to_string(task.alloc.logs_dir().join("web.stdout.0")).expect("the log");
    assert_counted(&text.lines().collect::<Vec<_>>(), task.id());
    task.destroy(false).await.expect("DestroyTask");
}

async fn log_07_no_line_is_lost_when_the_plugin_is_killed(b: &mut Bench) {
    let task = b.start(b.sh(&counter())).await;
    for round in 0..3 {
        task.wait_line(patience(), &format!("line {}", 3 + round * 5)).await;
        b.rig.plugin().sigkill().await;
        let seen = task.lines().len();
        task.wait_line(patience(), &format!("line {}", seen + 3)).await;
        b.rig.relaunch().await.expect("recovery");
    }
    std::fs::write(task.alloc.shared_dir().join("end"), "").expect("the sign to end");
    assert_eq!(task.exit(patience()).await.exit_code, 5);
    task.logs_end(patience()).await;
    assert_counted(&task.lines(), task.id());
    task.destroy(false).await.expect("DestroyTask");
}

async fn log_08_both_pipes_are_opened_by_a_silent_task(b: &Bench) {
    let task = b.start(b.sh("echo loud; sleep 3600")).await;
    let opened = || task.logs().stdout.opened_at().zip(task.logs().stderr.opened_at());
    until(secs(5), "both pipes to be opened for writing", opened).await;
    assert!(task.logs().stderr.ended_at().is_none(), "the silent pipe has ended");
    task.destroy(true).await.expect("DestroyTask");
}

async fn log_09_both_pipes_end_with_the_task(b: &Bench) {
    let task = b.start(b.sh("while ! [ -e /alloc/end ]; do sleep 0.1; done")).await;
    std::fs::write(task.alloc.shared_dir().join("end"), "").expect("the sign to end");
    task.exit(patience()).await;
    task.logs_end(secs(2)).await;
    task.destroy(false).await.expect("DestroyTask");
}

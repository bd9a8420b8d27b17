//! Faults of who moves log bytes, where the driver collects them itself.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use testhost::rig::RunningTask;
use testhost::task::TaskSpec;
use testhost::within::until;

use crate::control::Fault;
use crate::field::Field;
use crate::lives::PATIENCE;

/// Lines of each task.
const LINES: u32 = 1_500_000;
const TASKS: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pump_dies_again_and_again_and_no_byte_of_the_logs_is_lost() {
    let field =
        Field::with(json!({ "log_collection": "driver", "log_max_file_size": "256k", "log_max_files": 1000 })).await;
    let mut tasks = Vec::new();
    for n in 0..TASKS {
        let alloc = field.rig.alloc();
        let path = |stream| alloc.fifo("web", stream).display().to_string();
        let spec = TaskSpec::new(&field.image)
            .sh(&format!("seq {LINES}; seq {n}00 >&2"))
            .log_paths(path("stdout"), path("stderr"));
        tasks.push(field.rig.start_in(alloc, &spec).await.expect("StartTask"));
    }
    let files = |task: &RunningTask, stream: &str| {
        let dir = task.alloc.logs_dir();
        let mut files: Vec<(u64, PathBuf)> = std::fs::read_dir(dir)
            .expect("logs directory")
            .filter_map(|entry| {
                let path = entry.expect("entry").path();
                let number = path
                    .file_name()?
                    .to_str()?
                    .strip_prefix(&format!("web.{stream}."))?
                    .parse()
                    .ok()?;
                Some((number, path))
            })
            .collect();
        files.sort();
        files.into_iter().map(|(_, path)| path).collect::<Vec<_>>()
    };
    let read = |path: &PathBuf| std::fs::read_to_string(path).expect("a log file");
    let text = |task: &RunningTask, stream: &str| files(task, stream).iter().map(read).collect::<String>();
    let end = format!("\n{LINES}\n");
    let is_over = |task: &RunningTask| {
        files(task, "stdout")
            .last()
            .is_some_and(|last| read(last).ends_with(&end))
    };
    let mut deaths = 0;
    while !tasks.iter().all(is_over) {
        deaths += field.chaos.kill_pump_threads().await.expect("chaos");
        field.chaos.inject("log_pump", Fault::Kill).await.expect("a fault");
        for task in &tasks {
            field.chaos.inject_task(task.id(), Fault::Kill).await.expect("a fault");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(deaths > 0, "no thread died");
    let expected: String = (1..=LINES).map(|n| format!("{n}\n")).collect();
    for (n, task) in tasks.iter().enumerate() {
        until(PATIENCE, "the last line", || is_over(task).then_some(())).await;
        assert!(
            text(task, "stdout") == expected,
            "task {n} has lost or doubled a byte, after {deaths} deaths"
        );
        let errors: String = (1..=n * 100).map(|line| format!("{line}\n")).collect();
        until(PATIENCE, "standard error", || {
            (text(task, "stderr") == errors).then_some(())
        })
        .await;
        assert_eq!(task.exit(PATIENCE).await.exit_code, 0);
        task.destroy(false).await.expect("DestroyTask");
    }
    println!("  {deaths} deaths of pump threads");
    if let Err(e) = field.nothing_left().await {
        panic!("{e:#}\n{}", field.last_words());
    }
}

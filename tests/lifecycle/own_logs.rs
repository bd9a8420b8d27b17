//! With `log_collection = "driver"` there is no collector: the driver writes the files that Nomad's readers look for.

use crate::bench::{Bench, assert_running, container_of, group, patience, secs};
use serde_json::{Value, json};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use testhost::alloc::Alloc;
use testhost::rig::RunningTask;
use testhost::task::TaskSpec;
use testhost::wire::driver::CapabilitiesRequest;
use testhost::within::{until, within};

group!(own_logs, bench(), {
    nomad_is_told_to_collect_nothing,
    both_streams_are_in_files_from_the_start_and_nothing_else_is,
    a_hundred_thousand_lines_are_there_complete_and_in_order,
    files_are_rotated_between_lines_and_the_oldest_go,
    the_next_task_of_an_allocation_goes_on_where_the_last_ended,
    a_terminal_has_one_stream,
    lines_can_be_records_with_the_time,
    above_its_rate_a_task_loses_lines_and_one_tells_how_many,
    a_task_without_logs_has_no_files,
    on_a_full_disk_the_oldest_file_goes_and_the_task_runs_on,
    a_plugin_that_is_killed_again_and_again_loses_no_byte,
    what_a_task_says_while_the_plugin_is_away_is_there_when_it_is_back,
    a_task_that_ends_while_the_plugin_is_away_has_said_all,
    a_link_in_place_of_the_directory_is_refused_and_its_target_untouched,
    a_file_that_a_task_has_linked_is_not_written_to,
    what_the_options_say_wrong_is_told,
});

group!(own_logs_none, Bench::configured(json!({ "log_collection": "none" })), {
    nobody_collects_and_the_task_runs,
});

/// A bench whose pump threads have done all that they do, so that what is made once is there before anything is counted.
async fn bench() -> Bench {
    let b = Bench::configured(json!({ "log_collection": "driver" })).await;
    let task = start(&b, small(b.sh("seq 50000; seq 50000 >&2"), 2)).await;
    assert_eq!(task.exit(patience()).await.exit_code, 0);
    ends_with(&task, "stdout", "\n50000\n").await;
    ends_with(&task, "stderr", "\n50000\n").await;
    end(task).await;
    b
}

/// As Nomad sends it without a collector: the paths are those of pipes that nobody has made.
fn spec(alloc: &Alloc, spec: TaskSpec) -> TaskSpec {
    let name = spec.name.clone();
    let path = |stream| alloc.fifo(&name, stream).display().to_string();
    spec.log_paths(path("stdout"), path("stderr"))
}

async fn start_in(b: &Bench, alloc: &Arc<Alloc>, task: TaskSpec) -> RunningTask {
    let spec = spec(alloc, task);
    let starting = b.rig.start_in(Arc::clone(alloc), &spec);
    within(patience(), "StartTask", starting).await.expect("StartTask")
}

async fn start(b: &Bench, task: TaskSpec) -> RunningTask {
    start_in(b, &b.rig.alloc(), task).await
}

/// The files of a stream in order of their numbers.
fn files(alloc: &Alloc, stream: &str) -> Vec<(u64, PathBuf)> {
    let prefix = format!("web.{stream}.");
    let mut found: Vec<_> = std::fs::read_dir(alloc.logs_dir())
        .expect("logs directory")
        .filter_map(|entry| {
            let path = entry.expect("entry").path();
            let number = path.file_name()?.to_str()?.strip_prefix(&prefix)?.parse().ok()?;
            Some((number, path))
        })
        .collect();
    found.sort();
    found
}

fn text(alloc: &Alloc, stream: &str) -> String {
    let all = files(alloc, stream).into_iter();
    all.map(|(_, path)| std::fs::read_to_string(path).expect("a log file"))
        .collect()
}

/// Waits until the stream ends with this.
async fn ends_with(task: &RunningTask, stream: &str, end: &str) {
    let what = format!("{end:?} at the end of {stream}");
    until(patience(), &what, || {
        text(&task.alloc, stream).ends_with(end).then_some(())
    })
    .await;
}

async fn end(task: RunningTask) {
    task.destroy(true).await.expect("DestroyTask");
}

fn numbers(from: u32, to: u32) -> String {
    (from..=to).map(|n| format!("{n}\n")).collect()
}

async fn nomad_is_told_to_collect_nothing(b: &mut Bench) {
    let answer = b
        .rig
        .driver()
        .capabilities(CapabilitiesRequest {})
        .await
        .expect("Capabilities");
    let capabilities = answer.into_inner().capabilities.expect("capabilities");
    assert!(capabilities.disable_log_collection);
}

async fn both_streams_are_in_files_from_the_start_and_nothing_else_is(b: &mut Bench) {
    let task = start(
        b,
        b.sh("while ! [ -e /alloc/go ]; do sleep 0.1; done; echo to out; echo to err >&2; sleep 3600"),
    )
    .await;
    let names = || {
        let entries = std::fs::read_dir(task.alloc.logs_dir()).expect("logs directory");
        let mut names: Vec<_> = entries.map(|e| e.expect("entry").file_name()).collect();
        names.sort();
        names
    };
    // A reader that comes right after the start finds them.
    assert_eq!(names(), ["web.stderr.0", "web.stdout.0"]);
    for (_, path) in [files(&task.alloc, "stdout"), files(&task.alloc, "stderr")].concat() {
        assert_eq!(
            std::fs::metadata(path).expect("a file").permissions().mode() & 0o7777,
            0o644
        );
    }
    std::fs::write(task.alloc.shared_dir().join("go"), "").expect("a file");
    ends_with(&task, "stdout", "to out\n").await;
    ends_with(&task, "stderr", "to err\n").await;
    assert_eq!(
        (
            text(&task.alloc, "stdout").as_str(),
            text(&task.alloc, "stderr").as_str()
        ),
        ("to out\n", "to err\n")
    );
    assert_eq!(names(), ["web.stderr.0", "web.stdout.0"]);
    end(task).await;
}

async fn a_hundred_thousand_lines_are_there_complete_and_in_order(b: &mut Bench) {
    let task = start(b, b.sh("seq 100000; seq 100000 >&2")).await;
    assert_eq!(task.exit(secs(60)).await.exit_code, 0);
    for stream in ["stdout", "stderr"] {
        ends_with(&task, stream, "\n100000\n").await;
        assert!(
            text(&task.alloc, stream) == numbers(1, 100_000),
            "{stream} is not what was written"
        );
    }
    end(task).await;
}

fn small(task: TaskSpec, files: u32) -> TaskSpec {
    task.option("log_max_files", json!(files))
        .option("log_max_file_size", json!("64k"))
}

async fn files_are_rotated_between_lines_and_the_oldest_go(b: &mut Bench) {
    let task = start(b, small(b.sh("seq 100000"), 3)).await;
    assert_eq!(task.exit(secs(60)).await.exit_code, 0);
    ends_with(&task, "stdout", "\n100000\n").await;
    let kept = files(&task.alloc, "stdout");
    let first = kept.first().expect("a file").0;
    assert!(first > 3, "{kept:?}");
    assert_eq!(
        kept.iter().map(|(n, _)| *n).collect::<Vec<_>>(),
        [first, first + 1, first + 2]
    );
    for (_, path) in &kept {
        let bytes = std::fs::read(path).expect("a file");
        assert!(
            bytes.len() <= 64 << 10 && bytes.ends_with(b"\n"),
            "{path:?}: {} bytes",
            bytes.len()
        );
    }
    let lines = text(&task.alloc, "stdout");
    let from: u32 = lines
        .lines()
        .next()
        .and_then(|line| line.parse().ok())
        .expect("a whole line");
    assert!(lines == numbers(from, 100_000), "a line is missing or cut");
    end(task).await;
}

async fn the_next_task_of_an_allocation_goes_on_where_the_last_ended(b: &mut Bench) {
    let alloc = b.rig.alloc();
    for word in ["one", "two"] {
        let task = start_in(b, &alloc, b.sh(&format!("echo {word}"))).await;
        assert_eq!(task.exit(patience()).await.exit_code, 0);
        ends_with(&task, "stdout", &format!("{word}\n")).await;
        end(task).await;
    }
    assert_eq!(text(&alloc, "stdout"), "one\ntwo\n");
}

async fn a_terminal_has_one_stream(b: &mut Bench) {
    let task = start(b, b.sh("echo to out; echo to err >&2").option("tty", json!(true))).await;
    assert_eq!(task.exit(patience()).await.exit_code, 0);
    ends_with(&task, "stdout", "to err\r\n").await;
    assert_eq!(text(&task.alloc, "stdout"), "to out\r\nto err\r\n");
    end(task).await;
}

async fn lines_can_be_records_with_the_time(b: &mut Bench) {
    let script = "echo 'a \"word\"'; echo wörter; printf end";
    let task = start(b, b.sh(script).option("log_format", json!("json"))).await;
    assert_eq!(task.exit(patience()).await.exit_code, 0);
    let records = || {
        let text = text(&task.alloc, "stdout");
        let records = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("a record"));
        records.collect::<Vec<_>>()
    };
    let all = || {
        records()
            .iter()
            .map(|r| r["log"].as_str().unwrap_or_default())
            .collect::<String>()
    };
    until(patience(), "the last record", || all().ends_with("end").then_some(())).await;
    assert_eq!(all(), "a \"word\"\nwörter\nend");
    for record in records() {
        assert_eq!(record["stream"], "stdout");
        let time = record["time"].as_str().expect("a time");
        assert!(
            time.starts_with("20") && time.ends_with('Z') && time.len() == 27,
            "{time}"
        );
    }
    end(task).await;
}

async fn above_its_rate_a_task_loses_lines_and_one_tells_how_many(b: &mut Bench) {
    let task = start(b, b.sh("seq 100000").option("log_rate_limit", json!("4k"))).await;
    assert_eq!(task.exit(patience()).await.exit_code, 0);
    // Of each byte it is known whether it is there: also after the last one, of which nothing may have been dropped.
    let is_notice = |line: &&str| line.starts_with("[containerd-driver]");
    let dropped = |text: &str| -> u64 {
        let bytes = |line: &str| line.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok());
        text.lines().filter(is_notice).filter_map(bytes).sum()
    };
    let kept = |text: &str| -> u64 {
        text.lines()
            .filter(|line| !is_notice(line))
            .map(|line| line.len() as u64 + 1)
            .sum()
    };
    let all = numbers(1, 100_000).len() as u64;
    let settled = || {
        let found = text(&task.alloc, "stdout");
        (dropped(&found) + kept(&found) == all).then_some(found)
    };
    let found = until(patience(), "all bytes to be kept or counted", settled).await;
    assert!(
        dropped(&found) > 0 && found.contains("log_rate_limit is 4096 bytes per second"),
        "nothing is dropped"
    );
    let mut lines = found.lines().filter(|line| !is_notice(line));
    assert!(lines.all(|line| line.parse::<u32>().is_ok()), "a line is cut");
    end(task).await;
}

async fn a_task_without_logs_has_no_files(b: &mut Bench) {
    let alloc = b.rig.alloc();
    let disabled = b.sh("seq 50000").log_paths("/dev/null", "/dev/null");
    let none = spec(&alloc, b.sh("seq 50000").option("log_collection", json!("none")));
    for task in [disabled, none] {
        let task = b.rig.start_in(Arc::clone(&alloc), &task).await.expect("StartTask");
        assert_eq!(task.exit(patience()).await.exit_code, 0);
        end(task).await;
    }
    assert_eq!(std::fs::read_dir(alloc.logs_dir()).expect("logs directory").count(), 0);
}

async fn a_plugin_that_is_killed_again_and_again_loses_no_byte(b: &mut Bench) {
    // Faster than it could be read while the plugin is away, so that the pipe is full then.
    let task = start(b, b.sh("seq 300000; echo end; sleep 3600")).await;
    for _ in 0..4 {
        for (id, recovered) in b.rig.relaunch_and_recover().await.expect("another plugin") {
            recovered.unwrap_or_else(|e| panic!("{id}: {e}"));
        }
    }
    ends_with(&task, "stdout", "\nend\n").await;
    assert!(
        text(&task.alloc, "stdout") == format!("{}end\n", numbers(1, 300_000)),
        "a byte is lost or doubled"
    );
    assert_running(&task).await;
    end(task).await;
}

async fn what_a_task_says_while_the_plugin_is_away_is_there_when_it_is_back(b: &mut Bench) {
    let script =
        "echo before; while ! [ -e /alloc/go ]; do sleep 0.1; done; echo meanwhile; touch /alloc/said; sleep 3600";
    let task = start(b, b.sh(script)).await;
    ends_with(&task, "stdout", "before\n").await;
    b.rig.plugin().sigkill().await;
    std::fs::write(task.alloc.shared_dir().join("go"), "").expect("a file");
    let said = task.alloc.shared_dir().join("said");
    until(patience(), "the task to have said it", || said.exists().then_some(())).await;
    b.rig.relaunch_and_recover().await.expect("another plugin");
    ends_with(&task, "stdout", "before\nmeanwhile\n").await;
    end(task).await;
}

async fn a_task_that_ends_while_the_plugin_is_away_has_said_all(b: &mut Bench) {
    let script = "echo before; while ! [ -e /alloc/go ]; do sleep 0.1; done; seq 5000; echo oops >&2; exit 3";
    let task = start(b, b.sh(script)).await;
    ends_with(&task, "stdout", "before\n").await;
    let (_, pid) = container_of(&task).await;
    b.rig.plugin().sigkill().await;
    std::fs::write(task.alloc.shared_dir().join("go"), "").expect("a file");
    let gone = || (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(());
    until(patience(), "the task to end", gone).await;
    b.rig.relaunch_and_recover().await.expect("another plugin");
    assert_eq!(task.exit(patience()).await.exit_code, 3);
    ends_with(&task, "stdout", "\n5000\n").await;
    assert_eq!(text(&task.alloc, "stdout"), format!("before\n{}", numbers(1, 5000)));
    ends_with(&task, "stderr", "oops\n").await;
    end(task).await;
}

async fn on_a_full_disk_the_oldest_file_goes_and_the_task_runs_on(b: &mut Bench) {
    let alloc = b.rig.alloc();
    let logs = alloc.logs_dir();
    let run = |program: &str, args: &[&str]| {
        let status = Command::new(program).args(args).arg(&logs).status().expect(program);
        assert!(status.success(), "{program}");
    };
    run("mount", &["-t", "tmpfs", "-o", "size=512k", "tmpfs"]);
    let outcome = async {
        let task = start_in(b, &alloc, small(b.sh("seq 500000; echo end"), 1000)).await;
        assert_eq!(task.exit(secs(60)).await.exit_code, 0);
        ends_with(&task, "stdout", "\nend\n").await;
        let lines = text(&alloc, "stdout");
        let from: u32 = lines
            .lines()
            .next()
            .and_then(|line| line.parse().ok())
            .expect("a whole line");
        assert!(from > 1, "the disk was not full");
        assert!(
            lines == format!("{}end\n", numbers(from, 500_000)),
            "something but the oldest is missing"
        );
        end(task).await;
    };
    outcome.await;
    run("umount", &["-l"]);
}

async fn refusal(b: &Bench, alloc: &Arc<Alloc>, task: TaskSpec) -> String {
    let error = b.rig.start_in(Arc::clone(alloc), &spec(alloc, task)).await.err();
    error.expect("an error").message().to_owned()
}

async fn a_link_in_place_of_the_directory_is_refused_and_its_target_untouched(b: &mut Bench) {
    let alloc = b.rig.alloc();
    let elsewhere = b.rig.dir().join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("a directory");
    std::fs::remove_dir(alloc.logs_dir()).expect("an empty directory");
    symlink(&elsewhere, alloc.logs_dir()).expect("a link");
    let error = refusal(b, &alloc, b.sh("echo x")).await;
    assert!(error.contains(&alloc.logs_dir().display().to_string()), "{error}");
    assert_eq!(std::fs::read_dir(&elsewhere).expect("a directory").count(), 0);
    std::fs::remove_dir(elsewhere).expect("an empty directory");
}

async fn a_file_that_a_task_has_linked_is_not_written_to(b: &mut Bench) {
    let alloc = b.rig.alloc();
    let precious = b.rig.dir().join("precious");
    std::fs::write(&precious, "precious").expect("a file");
    symlink(&precious, alloc.logs_dir().join("web.stdout.0")).expect("a link");
    std::fs::hard_link(&precious, alloc.logs_dir().join("web.stderr.0")).expect("a link");
    let task = start_in(b, &alloc, b.sh("echo to out; echo to err >&2")).await;
    assert_eq!(task.exit(patience()).await.exit_code, 0);
    let read = |name: &str| std::fs::read_to_string(alloc.logs_dir().join(name)).unwrap_or_default();
    for (name, wanted) in [("web.stdout.1", "to out\n"), ("web.stderr.1", "to err\n")] {
        until(patience(), name, || (read(name) == wanted).then_some(())).await;
    }
    assert_eq!(std::fs::read_to_string(&precious).expect("a file"), "precious");
    end(task).await;
    std::fs::remove_file(precious).expect("a file");
}

async fn what_the_options_say_wrong_is_told(b: &mut Bench) {
    let wrong: [(&str, Value, &str); 4] = [
        ("log_collection", json!("nomad"), "\"driver\" or \"none\""),
        ("log_collection", json!("journald"), "\"driver\" or \"none\""),
        ("log_max_files", json!(-1), "from 1 to 1000"),
        ("log_max_file_size", json!("lots"), "binary units"),
    ];
    let alloc = b.rig.alloc();
    for (option, value, allowed) in wrong {
        let given = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
        let error = refusal(b, &alloc, b.sh("true").option(option, value)).await;
        assert!(
            error.contains(option) && error.contains(&given) && error.contains(allowed),
            "{error}"
        );
    }
}

async fn nobody_collects_and_the_task_runs(b: &mut Bench) {
    let task = start(b, b.sh("seq 50000")).await;
    assert_eq!(task.exit(patience()).await.exit_code, 0);
    assert_eq!(
        std::fs::read_dir(task.alloc.logs_dir())
            .expect("logs directory")
            .count(),
        0
    );
    end(task).await;
}

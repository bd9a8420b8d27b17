//! Many tasks at once.

use crate::bench::{Bench, cgroups_named, container_of, group, patience, secs};
use futures_util::future::join_all;
use std::collections::BTreeMap;
use testhost::within::within;

group!(twenty_at_once, Bench::new(), {
    every_line_and_every_code_arrives_exactly_once
});

const TASKS: usize = 20;
const LINES: usize = 200;

fn script(task: usize) -> String {
    format!(
        "n=0; while [ $n -lt {LINES} ]; do echo \"task {task} out $n\"; echo \"task {task} err $n\" >&2; n=$((n+1)); done; \
         while ! [ -e /alloc/end ]; do sleep 0.2; done; exit {}",
        100 + task
    )
}

async fn every_line_and_every_code_arrives_exactly_once(b: &mut Bench) {
    let events = b.rig.events();
    let rig = &b.rig;
    let specs = (0..TASKS).map(|n| b.sh(&script(n)).name(format!("burst-{n}")));
    let started = within(secs(120), "20 starts", join_all(specs.map(|spec| rig.start(spec)))).await;
    let tasks: Vec<_> = started.into_iter().map(|task| task.expect("StartTask")).collect();
    let containers = join_all(tasks.iter().map(container_of)).await;
    for task in &tasks {
        std::fs::write(task.alloc.shared_dir().join("end"), "").expect("the sign to end");
    }
    let exits = within(
        secs(120),
        "20 exits",
        join_all(
            tasks
                .iter()
                .map(|task| async { (task.wait().await, task.wait().await) }),
        ),
    )
    .await;
    for (n, (task, (first, second))) in tasks.iter().zip(exits).enumerate() {
        let (first, second) = (first.expect("WaitTask"), second.expect("WaitTask"));
        assert_eq!(first, second);
        assert_eq!(
            first.result.map(|result| result.exit_code),
            Some(100 + n as i32),
            "{first:?}"
        );
        assert_eq!(first.err, "");
        task.logs_end(patience()).await;
        let expected = |stream: &str| {
            (0..LINES)
                .map(|line| format!("task {n} {stream} {line}"))
                .collect::<Vec<_>>()
        };
        assert!(
            task.lines() == expected("out"),
            "stdout of task {n}: {} lines",
            task.lines().len()
        );
        assert!(
            task.stderr_lines() == expected("err"),
            "stderr of task {n}: {} lines",
            task.stderr_lines().len()
        );
    }
    let exits = events
        .wait_for(secs(10), |all| {
            let exits: Vec<_> = all
                .iter()
                .filter(|event| event.message.contains("exited"))
                .map(|event| event.task_id.clone())
                .collect();
            (exits.len() >= TASKS).then_some(exits)
        })
        .await
        .expect("20 exit events");
    let mut times = BTreeMap::<_, usize>::new();
    exits.into_iter().for_each(|id| *times.entry(id).or_default() += 1);
    assert!(times.len() == TASKS && times.values().all(|n| *n == 1), "{times:?}");
    for destroyed in join_all(tasks.iter().map(|task| task.destroy(false))).await {
        destroyed.expect("DestroyTask");
    }
    for (container, _) in containers {
        assert_eq!(cgroups_named(&container), Vec::<String>::new());
    }
}

//! `containerd-driver audit` beside a plugin and after one: what it lists, what it removes, what it exits with.

use crate::bench::{Bench, assert_running, container_of, group, kind, patience};
use serde_json::{Value as Json, json};
use std::process::Output;
use std::time::Duration;
use testhost::rig::{RigOpts, RunningTask};
use testhost::within::within;
use tokio::process::Command;

group!(audit, bench(), {
    a_running_task_is_listed_with_its_owner_and_nothing_is_left_over,
    an_orphan_is_found_and_fixed_and_then_there_is_none,
    what_a_living_plugin_looks_after_is_not_touched,
    a_foreign_container_is_listed_on_demand_and_never_removed,
    looking_removes_no_canary,
    without_containerd_nothing_can_be_said,
    a_wrong_command_line_is_refused,
});

/// Without a reaper of its own, so that what is found is there to be found. Empty cgroups that a killed containerd of
/// another test has left are anybody's, and belong to none of these cases.
async fn bench() -> Bench {
    let mut opts = RigOpts::new(kind()).expect("CD_DRIVER_BIN");
    opts.config = json!({ "reaper": { "enabled": false } });
    let bench = Bench::with(opts).await;
    until(&bench, 0, &["--fix"]).await;
    bench
}

async fn run(args: &[&str]) -> Output {
    let bin = std::env::var_os("CD_DRIVER_BIN").expect("CD_DRIVER_BIN");
    let mut command = Command::new(bin);
    command.arg("audit").args(args).kill_on_drop(true);
    within(patience(), "the end of the audit", command.output())
        .await
        .expect("spawn")
}

async fn look(b: &Bench, more: &[&str]) -> (i32, String) {
    let socket = b.rig.containerd.socket().display().to_string();
    let fixed = ["--address", &socket, "--namespace", b.rig.namespace(), "--grace", "1s"];
    let args: Vec<&str> = fixed.iter().chain(more).copied().collect();
    let output = run(&args).await;
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    if output.status.code() != Some(0) {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    }
    (output.status.code().expect("an exit code"), text)
}

async fn json(b: &Bench, more: &[&str]) -> (i32, Json) {
    let args: Vec<&str> = more.iter().chain(&["--json"]).copied().collect();
    let (code, text) = look(b, &args).await;
    (code, serde_json::from_str(&text).expect("JSON"))
}

/// Asks until the audit exits with this code: a container is left alone while it is younger than a second.
async fn until(b: &Bench, wanted: i32, more: &[&str]) -> Json {
    let asked = async {
        loop {
            let (code, found) = json(b, more).await;
            if code == wanted {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    within(patience(), &format!("exit code {wanted}"), asked).await
}

/// Kinds and standings of all that a container has.
fn of<'a>(found: &'a Json, container: &'a str) -> Vec<(&'a str, &'a str)> {
    let things = found["things"].as_array().expect("things");
    let is_its = |thing: &&Json| thing["container"] == container || thing["name"] == container;
    let text = |thing: &'a Json, key: &str| thing[key].as_str().unwrap_or_default();
    things
        .iter()
        .filter(is_its)
        .map(|thing| (text(thing, "kind"), text(thing, "standing")))
        .collect()
}

const ESSENTIAL: [&str; 6] = ["container", "task", "snapshot", "shim", "mount", "cgroup"];

async fn a_running_task_is_listed_with_its_owner_and_nothing_is_left_over(b: &mut Bench) {
    let task = b.start(b.sleeper()).await;
    let (container, _) = container_of(&task).await;
    let (code, found) = json(b, &[]).await;
    assert_eq!((code, &found["findings"]), (0, &json!(0)), "{found:#}");
    let things = of(&found, &container);
    for kind in ESSENTIAL {
        assert!(things.contains(&(kind, "in_use")), "{kind}: {found:#}");
    }
    let owner = task.alloc.dir().display().to_string();
    let all = found["things"].as_array().expect("things");
    // The pipes that Nomad reads the task's output from.
    let name = task.status().await.expect("InspectTask").name;
    for stream in ["stdout", "stderr"] {
        let path = task.alloc.fifo(&name, stream).display().to_string();
        let pipe = all
            .iter()
            .find(|thing| thing["name"] == path.as_str())
            .expect("the pipe");
        assert_eq!((&pipe["kind"], &pipe["owner"]), (&json!("fifo"), &json!(owner)));
    }
    let mine = all
        .iter()
        .find(|thing| thing["name"] == container.as_str())
        .expect("the container");
    assert_eq!(mine["owner"], owner.as_str());
    assert!(mine["why"].as_str().is_some_and(|why| !why.is_empty()));
    let (code, text) = look(b, &[]).await;
    assert_eq!(code, 0);
    assert!(
        text.starts_with("KIND") && text.contains(&container) && text.contains(&owner),
        "{text}"
    );
    assert!(text.ends_with("nothing is left over\n"), "{text}");
    task.destroy(true).await.expect("DestroyTask");
    let (code, found) = json(b, &[]).await;
    assert_eq!((code, of(&found, &container)), (0, vec![]));
}

async fn orphan(b: &mut Bench) -> (RunningTask, String) {
    let task = b.start(b.sleeper()).await;
    let (container, _) = container_of(&task).await;
    b.rig.relaunch_only().await.expect("relaunch");
    std::fs::remove_dir_all(task.alloc.dir()).expect("the allocation's directory");
    (task, container)
}

async fn an_orphan_is_found_and_fixed_and_then_there_is_none(b: &mut Bench) {
    let (task, container) = orphan(b).await;
    let found = until(b, 1, &[]).await;
    let things = of(&found, &container);
    for kind in ESSENTIAL {
        assert!(things.contains(&(kind, "orphan")), "{kind}: {found:#}");
    }
    let (code, text) = look(b, &[]).await;
    assert!(code == 1 && text.contains("left over"), "{text}");
    // Looking removes nothing.
    assert!(b.rig.scope().take().await.expect("census").tasks.contains(&container));
    let (code, fixed) = json(b, &["--fix"]).await;
    assert_eq!((code, &fixed["failures"]), (0, &json!(0)), "{fixed:#}");
    let all = fixed["things"].as_array().expect("things");
    let mine = all
        .iter()
        .find(|thing| thing["name"] == container.as_str())
        .expect("the container");
    assert_eq!(mine["outcome"], "removed");
    let (code, found) = json(b, &[]).await;
    assert_eq!((code, of(&found, &container)), (0, vec![]), "{found:#}");
    task.destroy(true).await.expect("DestroyTask of what is gone");
}

async fn what_a_living_plugin_looks_after_is_not_touched(b: &mut Bench) {
    let task = b.start(b.sleeper()).await;
    let (container, _) = container_of(&task).await;
    std::fs::remove_dir_all(task.alloc.dir()).expect("the allocation's directory");
    // Once it is old enough to be judged.
    let judged = async {
        loop {
            let (_, found) = json(b, &["--fix"]).await;
            let all = found["things"].as_array().cloned().unwrap_or_default();
            let mine = all
                .iter()
                .find(|thing| thing["name"] == container.as_str())
                .expect("the container");
            if mine["why"].as_str().is_some_and(|why| why.contains("looks after it")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    within(patience(), "a container older than a second", judged).await;
    assert_running(&task).await;
    task.destroy(true).await.expect("DestroyTask");
}

async fn a_foreign_container_is_listed_on_demand_and_never_removed(b: &mut Bench) {
    let namespace = b.rig.namespace().to_owned();
    let id = format!("foreign-{}", testhost::alloc::random_hex(4));
    let image = b.image.clone();
    let ctr = &b.rig.containerd;
    ctr.ctr(&namespace, &["run", "-d", &image, &id, "sleep", "3600"])
        .await
        .expect("ctr run");
    let (code, found) = json(b, &["--fix"]).await;
    assert_eq!((code, of(&found, &id)), (0, vec![]), "{found:#}");
    let (code, found) = json(b, &["--fix", "--all"]).await;
    assert_eq!(code, 0, "{found:#}");
    assert!(of(&found, &id).contains(&("container", "foreign")), "{found:#}");
    let tasks = ctr.ctr(&namespace, &["tasks", "ls"]).await.expect("ctr tasks ls");
    assert!(
        tasks
            .lines()
            .any(|line| line.starts_with(&id) && line.contains("RUNNING")),
        "{tasks}"
    );
    ctr.ctr(&namespace, &["tasks", "rm", "-f", &id])
        .await
        .expect("ctr tasks rm");
    ctr.ctr(&namespace, &["containers", "rm", &id])
        .await
        .expect("ctr containers rm");
}

/// Of a process that has ended: a plugin would sweep it away.
async fn looking_removes_no_canary(b: &mut Bench) {
    let (namespace, image) = (b.rig.namespace().to_owned(), b.image.clone());
    let id = format!("canary-{}", testhost::alloc::random_hex(4));
    let task = format!("containerd-driver/task-id=canary/health/{}-1-1", i32::MAX);
    let labels = ["--label", "containerd-driver/schema=1", "--label", &task];
    let ctr = &b.rig.containerd;
    let create: Vec<&str> = ["containers", "create"]
        .into_iter()
        .chain(labels)
        .chain([&*image, &*id])
        .collect();
    ctr.ctr(&namespace, &create).await.expect("ctr containers create");
    for _ in 0..4 {
        json(b, &[]).await;
        let listed = ctr.ctr(&namespace, &["containers", "ls", "-q"]).await.expect("ctr");
        assert!(listed.lines().any(|line| line == id), "the audit has removed {id}");
    }
    ctr.ctr(&namespace, &["containers", "rm", &id])
        .await
        .expect("ctr containers rm");
}

async fn without_containerd_nothing_can_be_said(b: &mut Bench) {
    let nowhere = b.rig.dir().join("nowhere.sock").display().to_string();
    let output = run(&["--address", &nowhere, "--json"]).await;
    assert_eq!(output.status.code(), Some(2));
    let answer: Json = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(
        answer["error"].as_str().is_some_and(|text| text.contains("containerd")),
        "{answer}"
    );
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(complaint.contains("containerd"), "{complaint}");
}

async fn a_wrong_command_line_is_refused(_b: &mut Bench) {
    for args in [&["--grace", "soon"][..], &["--grace", "0"], &["--what"], &["surplus"]] {
        let output = run(args).await;
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(!output.stderr.is_empty());
    }
}

//! Faults of every actor that looks after a task of the Go driver.

use std::time::Duration;

use testhost::go_task::{self, GoTask};
use tokio::time::timeout;

use crate::control::Fault;
use crate::field::Field;
use crate::lives::PATIENCE;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adopted_task_does_not_notice_faults_of_who_looks_after_it() {
    let field = Field::new().await;
    go_task::prepare(&field.rig, &field.image).await;
    // A trap may run between any two commands: it only takes note, and the number is read where it is right.
    let script = "n=0; over=; trap over=1 TERM; while [ -z \"$over\" ]; do echo line $n; n=$((n+1)); sleep 0.02; done; \
                  echo end $n; exit 21";
    for namespace in go_task::NAMESPACES {
        let go = GoTask::start(&field.rig, namespace, script).await;
        let task = go.hand_over(&field.rig).await.expect("RecoverTask");
        let own = format!("task:{}", task.id());
        for round in 0..3 {
            for victim in [own.as_str(), "log_pump", "event_stream", "container_factory", "root"] {
                let fault = if round == 1 { Fault::Abort } else { Fault::Kill };
                field.chaos.inject(victim, fault).await.expect("a fault");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        let seen = task.lines().len();
        task.wait_line(PATIENCE, &format!("line {}", seen + 5)).await;
        field.chaos.inject(&own, Fault::Kill).await.expect("a fault");
        let stop = timeout(PATIENCE, task.stop(Duration::from_secs(60), ""));
        stop.await.expect("an answer").expect("StopTask");
        assert_eq!(task.exit(PATIENCE).await.exit_code, 21, "{}", field.last_words());
        task.logs_end(PATIENCE).await;
        let lines = task.lines();
        let count = lines.len() - 1;
        let expected = (0..count).map(|n| format!("line {n}")).chain([format!("end {count}")]);
        assert!(lines.iter().cloned().eq(expected), "{lines:?}");
        field.chaos.inject(&own, Fault::Abort).await.expect("a fault");
        let destroy = timeout(PATIENCE, task.destroy(false));
        destroy.await.expect("an answer").expect("DestroyTask");
        let left = field.rig.containerd.ctr(namespace, &["containers", "ls", "-q"]).await;
        assert_eq!(left.expect("ctr").trim(), "template");
    }
    if let Err(e) = field.nothing_left().await {
        panic!("{e:#}\n{}", field.last_words());
    }
    // The pump threads stay, what they moved does not.
    let held = testhost::procfs::descriptors(field.rig.plugin().pid());
    let dir = field.rig.dir().display().to_string();
    let pipes: Vec<_> = held
        .into_values()
        .filter(|target| target.starts_with(&dir) && (target.contains("fifo") || target.ends_with("-stdout")))
        .collect();
    assert_eq!(pipes, Vec::<String>::new());
}

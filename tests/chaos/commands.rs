//! Commands in a task whose supervisor dies again and again.

use std::time::Duration;

use futures_util::future::join_all;
use testhost::task::TaskSpec;
use tokio::time::timeout;

use crate::control::Fault;
use crate::field::Field;
use crate::lives::PATIENCE;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_do_not_notice_faults_of_their_supervisor() {
    let field = Field::new().await;
    let task = field
        .rig
        .start(TaskSpec::new(&field.image).command(["sleep", "3600"]))
        .await
        .expect("StartTask");
    let victim = format!("task:{}", task.id());
    let suffer = async {
        let faults = [Fault::Kill, Fault::Abort, Fault::Kill, Fault::Stall(300)];
        for (n, fault) in faults.iter().cycle().enumerate() {
            // A supervisor that vanishes more than 30 times in a minute is given up: of a longer run, the first nine
            // seconds are the hard ones.
            let rest = if n < 60 { 150 } else { 1100 };
            tokio::time::sleep(Duration::from_millis(rest)).await;
            field.chaos.inject(&victim, *fault).await.ok();
        }
    };
    let one = async |n: i32| {
        let script = format!("read x; sleep 1; echo $x; echo end >&2; exit {n}");
        let session = task
            .exec_session(&["sh", "-c", &script], false)
            .await
            .expect("a session");
        session.stdin(format!("line {n}\n")).await;
        let outcome = session.finish().await.expect("no error");
        assert_eq!(
            (outcome.stdout_text(), outcome.stderr_text(), outcome.code()),
            (format!("line {n}\n"), "end\n".to_owned(), n)
        );
        let unary = task
            .exec(&["sh", "-c", &format!("echo {n}; exit {n}")], PATIENCE)
            .await
            .expect("ExecTask");
        assert_eq!(
            (unary.stdout, unary.result.map(|r| r.exit_code)),
            (format!("{n}\n").into_bytes(), Some(n))
        );
    };
    let work = async {
        for round in 0..4 {
            join_all((0..5).map(|n| one(round * 10 + n))).await;
        }
    };
    tokio::select! {
        done = timeout(PATIENCE, work) => done.expect("the sessions in time"),
        () = suffer => {}
    }
    timeout(PATIENCE, task.destroy(true))
        .await
        .expect("in time")
        .expect("DestroyTask");
    field.settled().await.expect("nothing left");
}

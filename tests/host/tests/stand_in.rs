//! The host's plugin side against the stand-in plugin. Needs root for the private containerd.

use std::time::Duration;

use testhost::containerd::ContainerdKind;
use testhost::plugin::{LaunchOpts, Plugin};
use testhost::rig::{Rig, RigOpts};
use testhost::task::TaskSpec;
use testhost::wire::driver::TaskState;
use testhost::wire::driver::fingerprint_response::HealthState;

const BIN: &str = env!("CARGO_BIN_EXE_stand-in");
const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_plugin_is_launched_reattached_and_ended() {
    let mut plugin = Plugin::launch(BIN.as_ref(), LaunchOpts::default())
        .await
        .expect("launch");
    assert_eq!(plugin.handshake().rest, [""]);
    plugin.reattach().await.expect("reattach");
    assert_eq!(plugin.info().await.expect("info").name, "stand-in");
    assert!(plugin.stdout_lines().is_empty());
    assert!(plugin.pipes_eof_at().is_none());
    let report = plugin.shutdown().await.expect("shutdown");
    assert!(!report.forced && !report.socket_left, "{report:?}");
    plugin.pipes_eof().await;
}

#[tokio::test]
async fn a_killed_plugin_is_reaped_and_its_socket_removed() {
    let plugin = Plugin::launch(BIN.as_ref(), LaunchOpts::default())
        .await
        .expect("launch");
    let (pid, socket) = (plugin.pid(), plugin.socket());
    plugin.sigkill().await.expect("an exit status");
    assert!(!testhost::procfs::alive(pid) && socket.exists());
    drop(plugin);
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_rig_runs_a_task_through_a_relaunch() {
    let mut opts = RigOpts::of(ContainerdKind::Debian16, BIN);
    opts.like_agent = true;
    let mut rig = Rig::with(opts).await.expect("rig");
    let dir = rig.dir().to_owned();
    rig.wait_health(HealthState::Healthy, SOON).await.expect("healthy");
    let before = rig.scope().take().await.expect("census");
    let script = "trap 'echo usr' USR1; trap 'echo term; exit 7' TERM; echo $ODD up; while :; do sleep 0.05; done";
    let task = rig.start(TaskSpec::new("none").sh(script)).await.expect("start");
    task.wait_line(SOON, "up").await;
    task.reach(TaskState::Running, SOON).await;
    task.signal("SIGUSR1").await.expect("signal");
    task.wait_line(SOON, "usr").await;
    assert_eq!(
        task.signal("SIGNOPE").await.expect_err("unknown").code(),
        tonic::Code::InvalidArgument
    );
    let output = task.exec(&["echo", "hi"], SOON).await.expect("exec");
    assert_eq!(output.stdout, b"hi\n");
    let session = task.exec_session(&["cat"], false).await.expect("session");
    session.stdin("hi").await;
    session.heartbeat().await;
    session.close_stdin().await;
    let outcome = session.finish().await.expect("finished");
    assert_eq!(
        (outcome.stdout_text().as_str(), outcome.code(), outcome.stdout_closed),
        ("hi", 3, true)
    );

    let other = rig.start(TaskSpec::new("none").sh("exit 42")).await.expect("start");
    assert_eq!(other.exit(SOON).await.exit_code, 42);
    other.logs_end(SOON).await;
    other.destroy(true).await.expect("destroy");

    rig.relaunch().await.expect("relaunch and recover");
    task.signal("SIGUSR1").await.expect("signal after relaunch");
    task.stop(SOON, "SIGTERM").await.expect("stop");
    task.exit(SOON).await;
    task.logs_end(SOON).await;
    assert!(task.lines().ends_with(&["term".to_owned()]), "{:?}", task.lines());
    task.destroy(true).await.expect("destroy");
    assert_eq!(
        rig.scope().leaks(&before, SOON).await.expect("census"),
        Vec::<String>::new()
    );
    drop(task);
    drop(rig);
    assert!(!dir.exists());
}

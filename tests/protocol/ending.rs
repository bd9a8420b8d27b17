//! How the process ends, without tasks: promptly when told, not at all when not. With tasks: `tasks`.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use testhost::wire::driver::{FingerprintRequest, ShutdownRequest, TaskEventsRequest};

use crate::{SECOND, configured, home, launch};

#[tokio::test]
async fn the_controllers_shutdown_ends_it_at_once_even_with_streams_open() {
    let home = home();
    let plugin = configured(&home).await;
    let mut driver = plugin.driver();
    let _fingerprint = driver
        .fingerprint(FingerprintRequest {})
        .await
        .expect("Fingerprint")
        .into_inner();
    let mut driver = plugin.driver();
    let _events = tokio::spawn(async move { driver.task_events(TaskEventsRequest {}).await });
    let report = plugin.kill_sequence().await;
    assert!(!report.forced && !report.socket_left, "{report:?}");
    assert!(report.took < SECOND, "{report:?}");
    assert_eq!(report.status.and_then(|s| s.code()), Some(0));
    let eof = plugin.pipes_eof().await;
    assert!(eof.elapsed() < SECOND);
}

#[tokio::test]
async fn a_probe_that_was_never_configured_ends_as_promptly() {
    let home = home();
    let plugin = launch(&home).await;
    let report = plugin.kill_sequence().await;
    assert!(
        !report.forced && !report.socket_left && report.took < SECOND,
        "{report:?}"
    );
}

#[tokio::test]
async fn drivers_shutdown_is_answered_and_the_process_serves_on() {
    let home = home();
    let plugin = configured(&home).await;
    let begun = Instant::now();
    plugin
        .driver()
        .shutdown(ShutdownRequest {})
        .await
        .expect("Driver.Shutdown");
    assert!(begun.elapsed() < SECOND);
    plugin.info().await.expect("PluginInfo");
    plugin
        .driver()
        .shutdown(ShutdownRequest {})
        .await
        .expect("a second one");
}

#[tokio::test]
async fn interrupts_are_ignored_and_sigterm_is_not() {
    let home = home();
    let plugin = configured(&home).await;
    for _ in 0..3 {
        plugin.signal(Signal::INT);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    plugin.info().await.expect("PluginInfo after SIGINT");
    plugin.signal(Signal::TERM);
    let status = plugin
        .wait_exit(Duration::from_secs(2))
        .await
        .expect("gone after SIGTERM");
    assert_eq!(status.code(), Some(0), "{status:?}");
    assert!(!plugin.socket().exists());
}

//! Standard error: hclog lines that the host can take, and a plugin that does not care when nobody reads them.

use std::os::fd::OwnedFd;
use std::time::Duration;

use serde_json::Value as Json;
use testhost::plugin::Plugin;
use testhost::wire::base::PluginInfoRequest;
use testhost::wire::driver::{SignalTaskRequest, StartTaskRequest, TaskConfig};
use testhost::within::{until, within};

use crate::bare::Bare;
use crate::{SOON, bin, home, nowhere, opts};

const TALKATIVE: (&str, &str) = ("CONTAINERD_DRIVER_LOG", "trace");

/// The host's own rule: `2006-01-02T15:04:05.000000Z07:00`.
fn is_timestamp(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    [
        "0000-00-00T00:00:00.000000Z",
        "0000-00-00T00:00:00.000000+00:00",
        "0000-00-00T00:00:00.000000-00:00",
    ]
    .contains(&shape.as_str())
}

#[track_caller]
fn check(line: &str) -> Json {
    assert!(
        line.len() < 64 * 1024,
        "a line of {} bytes, the host's buffer has 65536",
        line.len()
    );
    let json: Json = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    let text = |key: &str| {
        json[key]
            .as_str()
            .unwrap_or_else(|| panic!("{key} is no string, the agent would panic: {line}"))
    };
    assert!(
        ["trace", "debug", "info", "warn", "error"].contains(&text("@level")),
        "{line}"
    );
    assert!(is_timestamp(text("@timestamp")), "{line}");
    assert!(!text("@message").is_empty(), "{line}");
    json
}

#[tokio::test]
async fn every_line_is_what_the_host_can_parse() {
    let home = home();
    let plugin = Plugin::launch(&bin(), opts(&home).env(TALKATIVE.0, TALKATIVE.1))
        .await
        .expect("launch");
    plugin.configure(&nowhere(&home)).await.expect("SetConfig");
    plugin.init().await.expect("Init");
    // Texts of the host reach the log: long ones, with line breaks, quotes and what is no ASCII.
    for id in [
        "plain".to_owned(),
        "two\nlines \"quoted\" \u{1b}[31m ü".to_owned(),
        "long".repeat(100_000),
    ] {
        let task = TaskConfig {
            id: id.clone(),
            ..Default::default()
        };
        plugin
            .driver()
            .start_task(StartTaskRequest { task: Some(task) })
            .await
            .expect_err("no image");
        plugin
            .driver()
            .signal_task(SignalTaskRequest {
                task_id: id.clone(),
                signal: id,
            })
            .await
            .expect_err("no such signal");
    }
    plugin.kill_sequence().await;
    plugin.pipes_eof().await;
    let lines = plugin.stderr_lines();
    assert!(
        lines.len() > 12,
        "{} lines where each call should have left one",
        lines.len()
    );
    let parsed: Vec<Json> = lines.iter().map(|line| check(line)).collect();
    assert!(parsed.iter().any(|line| line["@message"] == "plugin serves"));
    assert!(
        lines.iter().any(|line| line.len() > 16_000),
        "the long text was left out"
    );
}

#[tokio::test]
async fn a_plugin_whose_pipes_are_dead_works_on() {
    let mut bare = Bare::start(&[TALKATIVE]);
    drop(bare.pipes.take());
    let connection = bare.connect().await;
    for _ in 0..200 {
        within(SOON, "PluginInfo", connection.base().plugin_info(PluginInfoRequest {}))
            .await
            .expect("PluginInfo");
    }
    assert!(bare.alive());
    connection
        .controller()
        .shutdown(testhost::wire::plugin::Empty {})
        .await
        .ok();
    let status = until(Duration::from_secs(2), "the end", || {
        bare.child.try_wait().expect("wait")
    })
    .await;
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_host_that_does_not_read_holds_nothing_up() {
    let mut bare = Bare::start(&[TALKATIVE]);
    let unread: Option<(OwnedFd, OwnedFd)> = bare.pipes.take();
    let connection = bare.connect().await;
    for _ in 0..500 {
        within(SOON, "PluginInfo", connection.base().plugin_info(PluginInfoRequest {}))
            .await
            .expect("PluginInfo");
    }
    connection
        .controller()
        .shutdown(testhost::wire::plugin::Empty {})
        .await
        .ok();
    let status = until(Duration::from_secs(3), "the end", || {
        bare.child.try_wait().expect("wait")
    })
    .await;
    assert_eq!(status.code(), Some(0));
    drop(unread);
}

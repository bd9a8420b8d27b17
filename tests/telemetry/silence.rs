//! Without a collector there are no spans and no metrics: no thread, no connection, no attempt at one.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use testhost::census::Holdings;
use testhost::rig::Rig;
use testhost::task::TaskSpec;

use crate::scene::{PATIENCE, opts};

/// Remote ports of the TCP sockets of a process.
fn remote_ports(pid: u32) -> BTreeSet<u16> {
    let held: BTreeSet<String> = Holdings::of(pid)
        .descriptors
        .into_values()
        .filter_map(|target| Some(target.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let mut ports = BTreeSet::new();
    for table in ["tcp", "tcp6"] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (Some(remote), Some(inode)) = (words.get(2), words.get(9)) else {
                continue;
            };
            if held.contains(*inode)
                && let Some(port) = remote
                    .rsplit(':')
                    .next()
                    .and_then(|hex| u16::from_str_radix(hex, 16).ok())
            {
                ports.insert(port);
            }
        }
    }
    ports
}

/// Names of the threads of a process, as the kernel has them: 15 bytes at most.
pub fn threads(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("threads");
    tasks
        .flatten()
        .filter_map(|t| fs::read_to_string(t.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_endpoint_nothing_is_recorded_and_nobody_is_called() {
    let rig = Rig::with(opts()).await.expect("rig");
    let pid = rig.plugin().pid();
    let image = rig.busybox().await.expect("image");
    let registry: u16 = image
        .split('/')
        .next()
        .and_then(|host| host.rsplit(':').next())
        .and_then(|p| p.parse().ok())
        .expect("port");
    let mut called = BTreeSet::new();
    for _ in 0..3 {
        let task = rig
            .start(TaskSpec::new(&image).memory_mb(32).sh("exit 6"))
            .await
            .expect("StartTask");
        called.extend(remote_ports(pid));
        assert_eq!(task.exit(PATIENCE).await.exit_code, 6);
        task.destroy(true).await.expect("DestroyTask");
        tokio::time::sleep(Duration::from_millis(150)).await;
        called.extend(remote_ports(pid));
    }
    called.remove(&registry);
    assert!(called.is_empty(), "connections to ports {called:?}");
    let exporting: Vec<String> = threads(pid)
        .into_iter()
        .filter(|name| name.starts_with("OpenTelemetry"))
        .collect();
    assert!(exporting.is_empty(), "{exporting:?}");
    let said: Vec<String> = rig
        .plugin()
        .stderr_lines()
        .into_iter()
        .filter(|line| line.contains("collector") || line.contains("otlp"))
        .collect();
    assert!(said.is_empty(), "{said:?}");
}

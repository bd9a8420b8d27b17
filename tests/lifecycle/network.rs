//! The network namespace of a task: the group's, the host's, one of its own.

use crate::bench::{Bench, container_of, group, namespace};
use rustix::mount::{UnmountFlags, unmount};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;
use testhost::wire::driver::NetworkIsolationSpec;
use testhost::wire::driver::network_isolation_spec::NetworkIsolationMode;

group!(network, Bench::new(), {
    a_task_joins_the_groups_network_and_leaves_it_behind,
    a_task_shares_the_hosts_network_only_if_it_asks_to,
    the_hosts_network_and_a_groups_exclude_each_other,
});

/// A network namespace bound to a file, as the host of a group makes it (`ip netns add`).
struct Bound(PathBuf);

impl Bound {
    fn new(path: PathBuf) -> Bound {
        std::fs::write(&path, "").expect("a file to bind to");
        let made = Command::new("unshare")
            .arg(format!("--net={}", path.display()))
            .arg("true")
            .status()
            .expect("unshare of util-linux");
        assert!(made.success(), "unshare: {made}");
        Bound(path)
    }

    /// As `/proc/<pid>/ns/net` shows it.
    fn name(&self) -> String {
        format!("net:[{}]", inode(&self.0))
    }

    fn spec(&self) -> NetworkIsolationSpec {
        let path = self.0.display().to_string();
        NetworkIsolationSpec {
            mode: NetworkIsolationMode::Group.into(),
            path,
            ..Default::default()
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).ok();
        std::fs::remove_file(&self.0).ok();
    }
}

fn inode(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).expect("the namespace").ino()
}

async fn a_task_joins_the_groups_network_and_leaves_it_behind(b: &mut Bench) {
    let bound = Bound::new(b.rig.dir().join("netns"));
    let name = bound.name();
    assert_ne!(name, namespace("self", "net"));
    let (one, two) = tokio::join!(
        b.start(b.sleeper().network(bound.spec())),
        b.start(b.sleeper().name("other").network(bound.spec()))
    );
    for task in [one, two] {
        let (_, pid) = container_of(&task).await;
        assert_eq!(namespace(pid, "net"), name);
        task.destroy(true).await.expect("DestroyTask");
        assert_eq!(bound.name(), name);
    }
}

async fn a_task_shares_the_hosts_network_only_if_it_asks_to(b: &mut Bench) {
    let host = namespace("self", "net");
    let (own, shared) = tokio::join!(
        b.start(b.sleeper()),
        b.start(b.sleeper().option("host_network", json!(true)))
    );
    assert_ne!(namespace(container_of(&own).await.1, "net"), host);
    assert_eq!(namespace(container_of(&shared).await.1, "net"), host);
    for task in [own, shared] {
        task.destroy(true).await.expect("DestroyTask");
    }
}

async fn the_hosts_network_and_a_groups_exclude_each_other(b: &mut Bench) {
    let bound = Bound::new(b.rig.dir().join("netns"));
    let spec = b.sleeper().network(bound.spec()).option("host_network", json!(true));
    let error = b.rig.start(spec).await.err().expect("a contradiction");
    assert!(
        error
            .message()
            .contains("host_network and bridge network mode are mutually exclusive"),
        "{error:?}"
    );
    assert_eq!(testhost::status::recoverable(&error), None);
}

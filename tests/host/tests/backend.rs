//! The private containerd and registry, for real. Needs root.

use std::time::Duration;

use testhost::census::Scope;
use testhost::containerd::{Containerd, ContainerdKind};
use testhost::image::ImageConfig;
use testhost::registry::Registry;
use testhost::within::within;

async fn round(kind: ContainerdKind, ns: &str) {
    let dir = tempfile::Builder::new()
        .prefix("cdt-")
        .tempdir_in("/tmp")
        .expect("tempdir");
    let root = dir.path().join("c");
    let registry = Registry::start(&dir.path().join("r")).await.expect("registry");
    let reference = registry
        .push_busybox("library/busybox", "1", &ImageConfig::default())
        .await
        .expect("push");
    let containerd = Containerd::start(kind, &root).await.expect("containerd");
    assert_eq!(
        containerd.version().await.expect("version").0.trim_start_matches('v'),
        containerd.binaries().version
    );
    containerd
        .ctr(ns, &["images", "pull", "--plain-http", &reference])
        .await
        .expect("pull");
    let out = within(
        Duration::from_secs(30),
        "ctr run",
        containerd.ctr(
            ns,
            &[
                "run",
                "--rm",
                &reference,
                "one",
                "sh",
                "-c",
                "id app; cat /etc/group | head -n 1; seq 3",
            ],
        ),
    )
    .await
    .expect("run");
    assert!(
        out.contains("uid=1000(app) gid=1000(app) groups=1000(app),2000(extra)"),
        "{out}"
    );
    containerd
        .ctr(ns, &["run", "-d", &reference, "two", "sleep", "1000"])
        .await
        .expect("run detached");
    let shim = containerd.shim_of("two").expect("a shim");
    containerd.restart().await.expect("restart");
    assert_eq!(containerd.shims(), [shim]);
    drop(containerd);
    assert!(!testhost::procfs::alive(shim), "the shim survived");
    assert!(!root.exists(), "the root survived");
    assert!(testhost::procfs::mounts_below(&root).is_empty());
}

#[tokio::test]
async fn debian_containerd_pulls_runs_and_is_swept_away() {
    round(ContainerdKind::Debian16, "th16").await;
}

#[tokio::test]
async fn containerd_2_pulls_runs_and_is_swept_away() {
    match ContainerdKind::V24.locate() {
        Ok(_) => round(ContainerdKind::V24, "th24").await,
        Err(error) => eprintln!("skipped: {error:#}"),
    }
}

#[tokio::test]
async fn a_census_names_what_a_container_leaves() {
    let dir = tempfile::Builder::new()
        .prefix("cdt-")
        .tempdir_in("/tmp")
        .expect("tempdir");
    let registry = Registry::start(&dir.path().join("r")).await.expect("registry");
    let reference = registry
        .push_busybox("library/busybox", "1", &ImageConfig::default())
        .await
        .expect("push");
    let containerd = Containerd::start(ContainerdKind::Debian16, &dir.path().join("c"))
        .await
        .expect("containerd");
    containerd
        .ctr("tcensus", &["images", "pull", "--plain-http", &reference])
        .await
        .expect("pull");
    let scope = Scope::new(&containerd, "tcensus");
    let before = scope.take().await.expect("census");
    containerd
        .ctr("tcensus", &["run", "-d", &reference, "left", "sleep", "1000"])
        .await
        .expect("run");
    let shim = containerd.shim_of("left").expect("a shim");
    let leaks = scope.take().await.expect("census").diff(&before);
    for expected in [
        "container left",
        "task left",
        "snapshot overlayfs/left",
        &format!("shim {shim} left"),
        "runc state left",
    ] {
        assert!(leaks.iter().any(|leak| leak == expected), "{expected}: {leaks:?}");
    }
    for expected in ["mount ", "cgroup /sys/fs/cgroup/memory/tcensus/left"] {
        assert!(
            leaks.iter().any(|leak| leak.starts_with(expected)),
            "{expected}: {leaks:?}"
        );
    }
    containerd
        .ctr("tcensus", &["tasks", "rm", "-f", "left"])
        .await
        .expect("remove the task");
    containerd
        .ctr("tcensus", &["containers", "rm", "left"])
        .await
        .expect("remove the container");
    assert_eq!(
        scope.leaks(&before, Duration::from_secs(5)).await.expect("census"),
        Vec::<String>::new()
    );
    drop(containerd);
    testhost::sweep::forget_namespace("tcensus");
    assert!(!std::path::Path::new("/run/containerd/runc/tcensus").exists());
}

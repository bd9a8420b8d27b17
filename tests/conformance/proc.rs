//! The plugin process and its fingerprint, as far as a real containerd has a part in it.

use crate::bench::{Bench, patience, secs};
use crate::field::{Verdict, consent, group, not_here, operated, shown};
use serde_json::json;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use testhost::plugin::{Connection, Handshake, LaunchOpts, Plugin, Process, topology};
use testhost::wire::base::SetConfigRequest;
use testhost::wire::driver::fingerprint_response::HealthState;
use testhost::wire::driver::{
    DestroyTaskRequest, FingerprintRequest, FingerprintResponse, InitRequest, InspectTaskRequest, StartTaskRequest,
    TaskState,
};
use testhost::wire::structs::attribute::Value;
use testhost::within::within;
use tonic::Streaming;

group!(proc, PROC, operated(consent()),
    together {
        proc_10_a_host_that_comes_back_after_ten_seconds,
        fp_01_the_first_fingerprint_is_healthy_within_a_second,
        fp_04_without_root_it_says_so,
    }
    alone {
        fp_06_a_withdrawn_attribute_is_told_once_and_empty,
    }
);

fn bin() -> PathBuf {
    std::env::var_os("CD_DRIVER_BIN").expect("CD_DRIVER_BIN").into()
}

async fn next(stream: &mut Streaming<FingerprintResponse>) -> FingerprintResponse {
    let message = within(patience(), "a fingerprint", stream.message())
        .await
        .expect("no error");
    message.expect("the stream goes on")
}

async fn fp_01_the_first_fingerprint_is_healthy_within_a_second(b: &Bench) {
    b.rig
        .wait_health(HealthState::Healthy, patience())
        .await
        .expect("healthy");
    let begin = Instant::now();
    let mut stream = b
        .rig
        .driver()
        .fingerprint(FingerprintRequest {})
        .await
        .expect("Fingerprint")
        .into_inner();
    let first = next(&mut stream).await;
    assert!(begin.elapsed() < secs(1), "it took {:?}", begin.elapsed());
    assert_eq!(
        (first.health(), first.health_description.as_str()),
        (HealthState::Healthy, "Healthy"),
        "{first:?}"
    );
    let version = first
        .attributes
        .get("driver.containerd-driver.version")
        .and_then(|found| found.value.clone());
    let wanted = Value::StringVal(b.rig.containerd.binaries().version.clone());
    assert_eq!(version, Some(wanted), "{first:?}");
}

/// In a directory that everybody may read: the build's own may be closed to others.
async fn fp_04_without_root_it_says_so(b: &Bench) -> Verdict {
    if !Path::new("/usr/bin/setpriv").exists() {
        return not_here("no setpriv of util-linux");
    }
    let dir = b.rig.dir().join("fp-04");
    std::fs::create_dir_all(&dir).expect("a directory");
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o1777)).expect("permissions");
    let copy = dir.join("containerd-driver");
    std::fs::copy(bin(), &copy).expect("a copy of the plugin");
    let opts = LaunchOpts::default().env("TMPDIR", &dir);
    let opts = opts
        .arg("--reuid=65534")
        .arg("--regid=65534")
        .arg("--clear-groups")
        .arg(&copy);
    let plugin = Plugin::launch(Path::new("/usr/bin/setpriv"), opts)
        .await
        .expect("launch");
    plugin.configure(b.rig.config()).await.expect("SetConfig");
    plugin.init().await.expect("Init");
    let mut stream = plugin
        .driver()
        .fingerprint(FingerprintRequest {})
        .await
        .expect("Fingerprint")
        .into_inner();
    let told = async {
        loop {
            let found = next(&mut stream).await;
            assert_ne!(found.health(), HealthState::Healthy, "{found:?}");
            if found.health_description.contains("must run as root") {
                return;
            }
        }
    };
    within(secs(10), "the reason", told).await;
    plugin.kill_sequence().await;
    shown()
}

async fn fp_06_a_withdrawn_attribute_is_told_once_and_empty(b: &mut Bench) {
    b.rig
        .wait_health(HealthState::Healthy, patience())
        .await
        .expect("healthy");
    let mut stream = b
        .rig
        .driver()
        .fingerprint(FingerprintRequest {})
        .await
        .expect("Fingerprint")
        .into_inner();
    let first = next(&mut stream).await;
    assert!(!first.attributes.is_empty(), "{first:?}");
    let mut off = b.rig.config().clone();
    off["enabled"] = json!(false);
    b.rig.plugin().configure(&off).await.expect("SetConfig");
    let gone = next(&mut stream).await;
    assert_eq!(gone.health(), HealthState::Undetected, "{gone:?}");
    for key in first.attributes.keys() {
        let told = gone.attributes.get(key).and_then(|attribute| attribute.value.clone());
        assert_eq!(told, Some(Value::StringVal(String::new())), "{key} in {gone:?}");
    }
    b.rig.plugin().configure(b.rig.config()).await.expect("SetConfig");
    let back = next(&mut stream).await;
    assert_eq!(
        (back.health(), back.attributes),
        (HealthState::Healthy, first.attributes)
    );
}

/// A host that died leaves the plugin without any connection for a while.
async fn proc_10_a_host_that_comes_back_after_ten_seconds(b: &Bench) {
    let opts = LaunchOpts::default().env("TMPDIR", b.rig.dir().join("tmp"));
    let process = Process::spawn(&bin(), &opts).expect("launch");
    let line = within(patience(), "the handshake", process.stdout.first_line())
        .await
        .expect("a handshake");
    let socket = Handshake::parse(&line).expect("a handshake").socket();
    let first = Connection::open(&socket, true).await.expect("a connection");
    let config = b
        .rig
        .plugin()
        .plugin_config(b.rig.config())
        .await
        .expect("the configuration");
    let set = SetConfigRequest {
        msgpack_config: config.encode(),
        nomad_config: Some(topology()),
        plugin_api_version: "v0.1.0".to_owned(),
    };
    first.base().set_config(set).await.expect("SetConfig");
    first.driver().init(InitRequest {}).await.expect("Init");
    let alloc = b.rig.alloc();
    let spec = b.sleeper();
    alloc.add_task(&spec.name).expect("task directory");
    let logs = alloc.collect_logs(&spec.name).expect("log collectors");
    let task = spec.compose(&alloc, b.rig.schema()).expect("a configuration");
    let id = task.id.clone();
    first
        .driver()
        .start_task(StartTaskRequest { task: Some(task) })
        .await
        .expect("StartTask");
    drop(first);
    // The very time that the contract speaks of.
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(process.exited().is_none(), "the plugin ended with its connection");
    let later = Connection::open(&socket, true).await.expect("a connection");
    let found = later
        .driver()
        .inspect_task(InspectTaskRequest { task_id: id.clone() })
        .await
        .expect("InspectTask");
    let status = found.into_inner().task.expect("a task");
    assert_eq!((status.id.as_str(), status.state()), (id.as_str(), TaskState::Running));
    let destroy = DestroyTaskRequest {
        task_id: id,
        force: true,
    };
    later.driver().destroy_task(destroy).await.expect("DestroyTask");
    process.signal(rustix::process::Signal::TERM);
    within(patience(), "its end", process.wait_exit(patience()))
        .await
        .expect("SIGTERM ends it");
    drop(logs);
}

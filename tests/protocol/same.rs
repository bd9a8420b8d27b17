//! What a plugin tells about itself is the same at every call.

use testhost::schema;
use testhost::wire::driver::driver_capabilities::FsIsolation;
use testhost::wire::driver::network_isolation_spec::NetworkIsolationMode as Mode;
use testhost::wire::driver::{CapabilitiesRequest, DriverCapabilities};

use crate::{configured, home, launch};
use testhost::plugin::Plugin;

async fn capabilities(plugin: &Plugin) -> DriverCapabilities {
    let answer = plugin
        .driver()
        .capabilities(CapabilitiesRequest {})
        .await
        .expect("Capabilities")
        .into_inner();
    answer.capabilities.expect("capabilities that are not null")
}

#[tokio::test]
async fn schemas_need_no_configuration_and_never_change() {
    let home = home();
    let (fresh, set) = (launch(&home).await, configured(&home).await);
    let (plugin, task) = (
        fresh.config_schema().await.expect("ConfigSchema"),
        fresh.task_schema().await.expect("TaskConfigSchema"),
    );
    for other in [&fresh, &set] {
        assert_eq!(plugin, other.config_schema().await.expect("ConfigSchema"));
        assert_eq!(task, other.task_schema().await.expect("TaskConfigSchema"));
    }
    let empty = schema::evaluate(&plugin.expect("not null"), &serde_json::json!({})).expect("convertible");
    assert_eq!(
        empty.get("containerd_runtime"),
        Some(&testhost::cty::Value::str("io.containerd.runc.v2"))
    );
    schema::evaluate(&task, &serde_json::json!({ "image": "busybox" })).expect("convertible");
}

#[tokio::test]
async fn capabilities_never_change_and_promise_only_what_works() {
    let home = home();
    let plugin = configured(&home).await;
    let found = capabilities(&plugin).await;
    assert_eq!(found, capabilities(&plugin).await);
    assert_eq!(found, capabilities(&launch(&home).await).await);
    assert!(found.send_signals && !found.must_create_network);
    assert_eq!(found.fs_isolation(), FsIsolation::Image);
    let modes: Vec<Mode> = found.network_isolation_modes().collect();
    assert!(modes.contains(&Mode::Host) && modes.contains(&Mode::Group), "{modes:?}");
}

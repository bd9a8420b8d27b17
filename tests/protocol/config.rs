//! `SetConfig` and `Init` in every form an agent sends them; what is refused says why.

use std::time::Instant;

use serde_json::json;
use testhost::cty::{Dialect, Value};
use testhost::plugin::{Plugin, topology};
use testhost::schema;
use testhost::wire::base::{NomadConfig, NomadDriverConfig};

use crate::{SECOND, home, launch, nowhere};

/// Appendix A of the reference: every option of the Go driver's plugin configuration, most of them nil.
const APPENDIX_A: &[u8] = b"\x85\xb0allow_privileged\xc3\xa4auth\xc0\xb2containerd_runtime\xb5io.containerd.runc.v2\
\xa7enabled\xc3\xaestats_interval\xc0";

async fn refused(plugin: &Plugin, what: &str, bytes: Vec<u8>) -> String {
    let error = plugin.set_config_raw(bytes, None).await.expect_err(what);
    let status = error.downcast_ref::<tonic::Status>().expect("a status");
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status:?}");
    status.message().to_owned()
}

#[tokio::test]
async fn the_probe_configures_twice_without_nomad_config() {
    let home = home();
    let plugin = launch(&home).await;
    let bytes = plugin.plugin_config(&nowhere(&home)).await.expect("schema").encode();
    let begun = Instant::now();
    for _ in 0..2 {
        plugin.set_config_raw(bytes.clone(), None).await.expect("SetConfig");
    }
    for _ in 0..2 {
        plugin.init().await.expect("Init");
    }
    assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
    let report = plugin.kill_sequence().await;
    assert!(!report.forced, "{report:?}");
}

#[tokio::test]
async fn every_form_of_an_empty_or_foreign_configuration_is_accepted() {
    let home = home();
    let plugin = launch(&home).await;
    let spec = plugin.config_schema().await.expect("ConfigSchema").expect("a schema");
    let names = schema::names(&spec);
    assert!(names.contains(&"containerd_runtime".to_owned()), "{names:?}");
    let nils = Value::map(names.iter().map(|name| (name.as_str(), Value::Nil)));
    let harness = schema::evaluate_harness(&spec, &json!({ "enabled": true })).expect("harness");
    let unknown = Value::map([
        ("enabled", Value::Bool(true)),
        ("option_of_tomorrow", Value::list([Value::Int(1)])),
    ]);
    let forms = [
        ("zero bytes", Vec::new()),
        ("nil", Value::Nil.encode()),
        ("an empty map", Value::map::<&str>([]).encode()),
        ("all nil", nils.encode()),
        (
            "all defaults",
            schema::evaluate(&spec, &json!({})).expect("defaults").encode(),
        ),
        ("appendix A", APPENDIX_A.to_vec()),
        ("the harness's", harness.encode_as(Dialect::Legacy)),
        ("an unknown key", unknown.encode()),
    ];
    for (form, bytes) in forms {
        plugin
            .set_config_raw(bytes, None)
            .await
            .unwrap_or_else(|e| panic!("{form}: {e:#}"));
    }
    for nomad in [
        NomadConfig { driver: None },
        NomadConfig {
            driver: Some(NomadDriverConfig::default()),
        },
        topology(),
    ] {
        plugin
            .set_config_raw(Vec::new(), Some(nomad))
            .await
            .expect("nomad_config");
    }
}

#[tokio::test]
async fn a_bad_value_is_refused_with_option_and_value_and_changes_nothing() {
    let home = home();
    let plugin = launch(&home).await;
    let bad = [
        ("image_pull_timeout", Value::str("soon"), "soon"),
        ("stats_interval", Value::str("-5"), "-5"),
        ("enabled", Value::str("perhaps"), "perhaps"),
        ("containerd_address", Value::list([Value::Int(1)]), "containerd_address"),
        ("image_pull_timeout", Value::str("0s"), "0s"),
    ];
    for (option, value, shown) in bad {
        let text = refused(&plugin, option, Value::map([(option, value)]).encode()).await;
        assert!(text.contains(option) && text.contains(shown), "{option}: {text}");
    }
    for garbage in [
        &b"\xc1"[..],
        b"\x85\xb0allow",
        b"\x93\x01\x02\x03",
        b"\xde\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        &[0xff; 64],
        &[0x91; 200_000],
    ] {
        let text = refused(
            &plugin,
            &format!("{} bytes from {:?}", garbage.len(), garbage.first()),
            garbage.to_vec(),
        )
        .await;
        assert!(text.contains("config"), "{text}");
    }
    plugin
        .configure(&nowhere(&home))
        .await
        .expect("a good one after bad ones");
}

#[tokio::test]
async fn init_without_any_configuration_is_accepted() {
    let home = home();
    let mut plugin = launch(&home).await;
    plugin.init().await.expect("Init");
    plugin
        .reattach()
        .await
        .expect("an agent that finds the process after its own crash");
    plugin.init().await.expect("Init");
}

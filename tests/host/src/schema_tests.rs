//! Golden bytes: the options of the Go driver through this evaluator.

use std::collections::HashMap;

use serde_json::{Value as Json, json};

use crate::cty::Dialect;
use crate::schema::{evaluate, evaluate_harness};
use crate::wire::hclspec::{
    Attr, Block, BlockAttrs, BlockList, Default as Fallback, Literal, Object, Spec, spec::Block as Kind,
};

fn spec(kind: Kind) -> Spec {
    Spec { block: Some(kind) }
}

fn attr(name: &str, kind: &str, required: bool) -> Spec {
    spec(Kind::Attr(Attr {
        name: name.into(),
        r#type: kind.into(),
        required,
    }))
}

fn default(primary: Spec, literal: &str) -> Spec {
    let literal = spec(Kind::Literal(Literal { value: literal.into() }));
    spec(Kind::Default(Box::new(Fallback {
        primary: Some(Box::new(primary)),
        default: Some(Box::new(literal)),
    })))
}

fn object<const N: usize>(items: [(&str, Spec); N]) -> Spec {
    let attributes: HashMap<String, Spec> = items.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    spec(Kind::Object(Object { attributes }))
}

fn auth() -> Spec {
    let nested = object([
        ("username", attr("username", "string", true)),
        ("password", attr("password", "string", true)),
    ]);
    spec(Kind::BlockValue(Box::new(Block {
        name: "auth".into(),
        required: false,
        nested: Some(Box::new(nested)),
    })))
}

fn plugin_options() -> Spec {
    object([
        ("enabled", default(attr("enabled", "bool", false), "true")),
        ("containerd_runtime", attr("containerd_runtime", "string", true)),
        ("stats_interval", attr("stats_interval", "string", false)),
        (
            "allow_privileged",
            default(attr("allow_privileged", "bool", false), "true"),
        ),
        ("auth", auth()),
    ])
}

fn mounts() -> Spec {
    let nested = object([
        ("type", default(attr("type", "string", false), "\"volume\"")),
        ("target", attr("target", "string", true)),
        ("source", attr("source", "string", false)),
        ("options", attr("options", "list(string)", false)),
    ]);
    spec(Kind::BlockList(Box::new(BlockList {
        name: "mounts".into(),
        min_items: 0,
        max_items: 0,
        nested: Some(Box::new(nested)),
    })))
}

fn task_options() -> Spec {
    let lists = ["args", "cap_add", "cap_drop", "devices", "extra_hosts", "entrypoint"];
    let strings = ["command", "cwd", "pid_mode", "hostname", "seccomp_profile", "shm_size"];
    let bools = ["privileged", "seccomp", "readonly_rootfs", "host_network"];
    // An empty name means the key.
    let plain = |names: &[&str], kind: &str| {
        names
            .iter()
            .map(|n| ((*n).to_owned(), attr("", kind, false)))
            .collect::<Vec<_>>()
    };
    let mut attributes: HashMap<String, Spec> = HashMap::new();
    attributes.extend(plain(&lists, "list(string)"));
    attributes.extend(plain(&strings, "string"));
    attributes.extend(plain(&bools, "bool"));
    attributes.insert("image".into(), attr("image", "string", true));
    attributes.insert(
        "image_pull_timeout".into(),
        default(attr("image_pull_timeout", "string", false), "\"5m\""),
    );
    attributes.insert("host_dns".into(), default(attr("host_dns", "bool", false), "true"));
    attributes.insert("pids_limit".into(), attr("pids_limit", "number", false));
    attributes.insert("sysctl".into(), attr("sysctl", "list(map(string))", false));
    attributes.insert("auth".into(), auth());
    attributes.insert("mounts".into(), mounts());
    spec(Kind::Object(Object { attributes }))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
}

fn agent(spec: &Spec, config: Json) -> String {
    hex(&evaluate(spec, &config).expect("accepted").encode())
}

const PLUGIN: &str = "85 b0 61 6c 6c 6f 77 5f 70 72 69 76 69 6c 65 67 65 64 c3 a4 61 75 74 68 c0 b2 63 6f 6e 74 61 69 6e 65 72 64 5f 72 75 6e 74 69 6d 65 b5 \
    69 6f 2e 63 6f 6e 74 61 69 6e 65 72 64 2e 72 75 6e 63 2e 76 32 a7 65 6e 61 62 6c 65 64 c3 ae 73 74 61 74 73 5f 69 6e 74 65 72 76 61 6c a2 35 73";

#[test]
fn plugin_options_match_the_golden_bytes() {
    let config = json!({"containerd_runtime": "io.containerd.runc.v2", "stats_interval": "5s"});
    assert_eq!(agent(&plugin_options(), config), PLUGIN);
    let config = json!({"containerd_runtime": "io.containerd.runc.v2", "allow_privileged": "false", "auth": [{"username": "u", "password": "p"}]});
    let found = agent(&plugin_options(), config);
    assert!(
        found.contains("c2 a4 61 75 74 68 82 a8 70 61 73 73 77 6f 72 64 a1 70 a8 75 73 65 72 6e 61 6d 65 a1 75"),
        "{found}"
    );
}

#[test]
fn task_options_match_the_golden_bytes() {
    let config = json!({"image": "redis:alpine", "hostname": "foobar", "seccomp": true, "cwd": "/home/redis"});
    let golden = "de 00 17 a4 61 72 67 73 c0 a4 61 75 74 68 c0 a7 63 61 70 5f 61 64 64 c0 a8 63 61 70 5f 64 72 6f 70 c0 a7 63 6f 6d 6d 61 6e 64 c0 \
        a3 63 77 64 ab 2f 68 6f 6d 65 2f 72 65 64 69 73 a7 64 65 76 69 63 65 73 c0 aa 65 6e 74 72 79 70 6f 69 6e 74 c0 ab 65 78 74 72 61 5f 68 \
        6f 73 74 73 c0 a8 68 6f 73 74 5f 64 6e 73 c3 ac 68 6f 73 74 5f 6e 65 74 77 6f 72 6b c0 a8 68 6f 73 74 6e 61 6d 65 a6 66 6f 6f 62 61 72 \
        a5 69 6d 61 67 65 ac 72 65 64 69 73 3a 61 6c 70 69 6e 65 b2 69 6d 61 67 65 5f 70 75 6c 6c 5f 74 69 6d 65 6f 75 74 a2 35 6d a6 6d 6f 75 \
        6e 74 73 90 a8 70 69 64 5f 6d 6f 64 65 c0 aa 70 69 64 73 5f 6c 69 6d 69 74 c0 aa 70 72 69 76 69 6c 65 67 65 64 c0 af 72 65 61 64 6f 6e \
        6c 79 5f 72 6f 6f 74 66 73 c0 a7 73 65 63 63 6f 6d 70 c3 af 73 65 63 63 6f 6d 70 5f 70 72 6f 66 69 6c 65 c0 a8 73 68 6d 5f 73 69 7a 65 \
        c0 a6 73 79 73 63 74 6c c0";
    assert_eq!(agent(&task_options(), config), golden);
}

#[test]
fn blocks_match_the_golden_bytes() {
    let only = object([("mounts", mounts())]);
    let config = json!({"mounts": {"type": "bind", "source": "local/mosquitto.conf",
        "target": "/mosquitto/config/mosquitto.conf", "options": ["rbind", "rw"]}});
    let golden = "81 a6 6d 6f 75 6e 74 73 91 84 a7 6f 70 74 69 6f 6e 73 92 a5 72 62 69 6e 64 a2 72 77 a6 73 6f 75 72 63 65 b4 6c 6f 63 61 6c 2f 6d \
        6f 73 71 75 69 74 74 6f 2e 63 6f 6e 66 a6 74 61 72 67 65 74 d9 20 2f 6d 6f 73 71 75 69 74 74 6f 2f 63 6f 6e 66 69 67 2f 6d 6f 73 71 75 \
        69 74 74 6f 2e 63 6f 6e 66 a4 74 79 70 65 a4 62 69 6e 64";
    assert_eq!(agent(&only, config), golden);
    let options = spec(Kind::BlockAttrs(BlockAttrs {
        name: "options".into(),
        r#type: "string".into(),
        required: false,
    }));
    let only = object([("options", options)]);
    assert_eq!(
        agent(&only, json!({"options": [{"a": 1, "b": "2"}]})),
        "81 a7 6f 70 74 69 6f 6e 73 82 a1 61 a1 31 a1 62 a1 32"
    );
    assert_eq!(agent(&only, json!({})), "81 a7 6f 70 74 69 6f 6e 73 c0");
}

#[test]
fn the_harness_sends_zero_values() {
    let config = json!({"enabled": true, "allow_privileged": true, "containerd_runtime": "io.containerd.runc.v2", "stats_interval": "5s"});
    let found = hex(&evaluate_harness(&plugin_options(), &config)
        .expect("accepted")
        .encode_as(Dialect::Legacy));
    assert_eq!(
        found,
        PLUGIN.replace(
            "a4 61 75 74 68 c0",
            "a4 61 75 74 68 82 a8 70 61 73 73 77 6f 72 64 a0 a8 75 73 65 72 6e 61 6d 65 a0"
        )
    );
    let config = json!({"image": "redis:alpine", "image_pull_timeout": "5m", "host_dns": true});
    let found = hex(&evaluate_harness(&task_options(), &config)
        .expect("accepted")
        .encode_as(Dialect::Legacy));
    assert!(
        found.ends_with("a8 73 68 6d 5f 73 69 7a 65 a0 a6 73 79 73 63 74 6c 91 c0"),
        "{found}"
    );
}

#[test]
fn wrong_configurations_are_refused() {
    for (config, reason) in [
        (json!({"image": "x", "imagee": 1}), "imagee"),
        (json!({}), "Missing required argument"),
        (json!({"image": ["x"]}), "incorrect type"),
        (
            json!({"image": "x", "auth": [{"username": "u", "password": "p"}, {"username": "u", "password": "p"}]}),
            "Duplicate",
        ),
        (
            json!({"image": "x", "auth": {"username": "u"}}),
            "Missing required argument",
        ),
        (
            json!({"image": "x", "mounts": [{"target": "/t", "sauce": "/s"}]}),
            "sauce",
        ),
        (json!({"image": "x", "pids_limit": "many"}), "a number is required"),
    ] {
        let error = format!("{:#}", evaluate(&task_options(), &config).expect_err(reason));
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn what_is_any_is_sent_as_it_comes() {
    let spec = object([("devices", attr("devices", "any", false))]);
    for (config, bytes) in [
        (json!({}), "c0"),
        (json!({ "devices": "/dev/a" }), "a6 2f 64 65 76 2f 61"),
        (json!({ "devices": ["/dev/a", "b"] }), "92 a6 2f 64 65 76 2f 61 a1 62"),
        (
            json!({ "devices": [{ "host_path": "x" }] }),
            "91 81 a9 68 6f 73 74 5f 70 61 74 68 a1 78",
        ),
        (json!({ "devices": [1, true, null] }), "93 01 c3 c0"),
    ] {
        assert_eq!(agent(&spec, config), format!("81 a7 64 65 76 69 63 65 73 {bytes}"));
    }
}

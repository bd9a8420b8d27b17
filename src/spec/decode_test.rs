//! Decoding of both configurations: the golden bytes of the agent and of Nomad's test harness, and what else hosts send.

use super::SpecError;
use super::auth::{Auth, PluginAuth};
use super::options::{self, MountOption, TaskOptions};
use super::schema::{AttrType, Schema};
use super::secret::Secret;
use super::settings::{self, Settings};
use proptest::prelude::*;
use rmpv::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// enabled=true, containerd_runtime="io.containerd.runc.v2", stats_interval="5s", rest default.
const PLUGIN_A: &str = "\
    85b0616c6c6f775f70726976696c65676564c3a461757468c0b2636f6e7461696e6572645f72756e74696d65b5696f2e636f6e7461696e65\
    72642e72756e632e7632a7656e61626c6564c3ae73746174735f696e74657276616ca23573\
    ";

/// allow_privileged=false, auth{u,p}, runtime as above, no stats_interval.
const PLUGIN_B: &str = "\
    85b0616c6c6f775f70726976696c65676564c2a46175746882a870617373776f7264a170a8757365726e616d65a175b2636f6e7461696e65\
    72645f72756e74696d65b5696f2e636f6e7461696e6572642e72756e632e7632a7656e61626c6564c3ae73746174735f696e74657276616c\
    c0\
    ";

/// image redis:alpine, hostname foobar, seccomp true, cwd /home/redis.
const TASK_A: &str = "\
    de0017a461726773c0a461757468c0a76361705f616464c0a86361705f64726f70c0a7636f6d6d616e64c0a3637764ab2f686f6d652f7265\
    646973a764657669636573c0aa656e747279706f696e74c0ab65787472615f686f737473c0a8686f73745f646e73c3ac686f73745f6e6574\
    776f726bc0a8686f73746e616d65a6666f6f626172a5696d616765ac72656469733a616c70696e65b2696d6167655f70756c6c5f74696d65\
    6f7574a2356da66d6f756e747390a87069645f6d6f6465c0aa706964735f6c696d6974c0aa70726976696c65676564c0af726561646f6e6c\
    795f726f6f746673c0a7736563636f6d70c3af736563636f6d705f70726f66696c65c0a873686d5f73697a65c0a673797363746cc0\
    ";

/// value of `mounts`: one bind, source local/mosquitto.conf, 32-byte target.
const MOUNTS: &str = "\
    9184a76f7074696f6e7392a57262696e64a27277a6736f75726365b46c6f63616c2f6d6f7371756974746f2e636f6e66a6746172676574d9\
    202f6d6f7371756974746f2f636f6e6669672f6d6f7371756974746f2e636f6e66a474797065a462696e64\
    ";

/// value of `sysctl`: somaxconn 16384, ip_forward 1.
const SYSCTL: &str = "\
    9182b26e65742e636f72652e736f6d6178636f6e6ea53136333834b36e65742e697076342e69705f666f7277617264a131\
    ";

/// value of `auth` user/pass.
const AUTH: &str = "\
    82a870617373776f7264a470617373a8757365726e616d65a475736572\
    ";

/// A.1 first case.
const PLUGIN_HARNESS: &str = "\
    85b0616c6c6f775f70726976696c65676564c3a46175746882a870617373776f7264a0a8757365726e616d65a0b2636f6e7461696e657264\
    5f72756e74696d65b5696f2e636f6e7461696e6572642e72756e632e7632a7656e61626c6564c3ae73746174735f696e74657276616ca235\
    73\
    ";

/// A.2 first case, host_dns and image_pull_timeout set by hand.
const TASK_HARNESS: &str = "\
    de0017a461726773c0a46175746882a870617373776f7264a0a8757365726e616d65a0a76361705f616464c0a86361705f64726f70c0a763\
    6f6d6d616e64a0a3637764ab2f686f6d652f7265646973a764657669636573c0aa656e747279706f696e74c0ab65787472615f686f737473\
    c0a8686f73745f646e73c3ac686f73745f6e6574776f726bc2a8686f73746e616d65a6666f6f626172a5696d616765ac72656469733a616c\
    70696e65b2696d6167655f70756c6c5f74696d656f7574a2356da66d6f756e7473c0a87069645f6d6f6465a0aa706964735f6c696d697400\
    aa70726976696c65676564c2af726561646f6e6c795f726f6f746673c2a7736563636f6d70c3af736563636f6d705f70726f66696c65a0a8\
    73686d5f73697a65a0a673797363746c91c0\
    ";

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2)
        .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
        .collect()
}

fn packed(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    rmpv::encode::write_value(&mut out, value).unwrap();
    out
}

/// A task configuration with one option, and the option's value as bytes.
fn one(name: &str, value: &[u8]) -> Result<TaskOptions, SpecError> {
    let mut all = vec![0x81];
    all.extend(packed(&Value::from(name)));
    all.extend(value);
    options::decode(&all)
}

fn value(name: &str, value: impl Into<Value>) -> Result<TaskOptions, SpecError> {
    one(name, &packed(&value.into()))
}

fn task_a() -> TaskOptions {
    TaskOptions {
        image: "redis:alpine".to_owned(),
        hostname: Some("foobar".to_owned()),
        seccomp: Some(true),
        cwd: Some("/home/redis".to_owned()),
        image_pull_timeout: Some(Duration::from_secs(300)),
        ..TaskOptions::default()
    }
}

#[test]
fn plugin_bytes_of_the_agent_and_of_the_harness_mean_the_same() {
    let want = Settings {
        stats_interval: Some(Duration::from_secs(5)),
        allow_privileged: Some(true),
        ..Settings::default()
    };
    assert_eq!(settings::decode(&bytes(PLUGIN_A)).unwrap(), want);
    // The harness does not apply defaults and sends `allow_privileged` as it is in its struct.
    assert_eq!(settings::decode(&bytes(PLUGIN_HARNESS)).unwrap(), want);
    let auth = Some(PluginAuth {
        username: "u".to_owned(),
        password: Secret::new("p"),
        ..PluginAuth::default()
    });
    assert_eq!(
        settings::decode(&bytes(PLUGIN_B)).unwrap(),
        Settings {
            allow_privileged: Some(false),
            auth,
            ..Settings::default()
        }
    );
}

#[test]
fn task_bytes_of_the_agent_and_of_the_harness_mean_the_same() {
    assert_eq!(options::decode(&bytes(TASK_A)).unwrap(), task_a());
    // The harness sends the zero of a number that nobody gave: no limit, either way.
    let harness = TaskOptions {
        pids_limit: Some(0),
        ..task_a()
    };
    assert_eq!(options::decode(&bytes(TASK_HARNESS)).unwrap(), harness);
}

#[test]
fn golden_values_of_single_options() {
    let mount = MountOption {
        at: "mounts[0]".to_owned(),
        r#type: "bind".to_owned(),
        source: "local/mosquitto.conf".to_owned(),
        target: "/mosquitto/config/mosquitto.conf".to_owned(),
        options: vec!["rbind".to_owned(), "rw".to_owned()],
        ..MountOption::default()
    };
    assert_eq!(one("mounts", &bytes(MOUNTS)).unwrap().mounts, [mount]);
    let sysctl =
        [("net.core.somaxconn", "16384"), ("net.ipv4.ip_forward", "1")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(one("sysctl", &bytes(SYSCTL)).unwrap().sysctl, BTreeMap::from(sysctl));
    assert_eq!(
        one("auth", &bytes(AUTH)).unwrap().auth,
        Some(Auth {
            username: "user".to_owned(),
            password: Secret::new("pass"),
            ..Auth::default()
        })
    );
    for (hex, want) in [("64", 100), ("cd03e8", 1000), ("ce00011170", 70000)] {
        assert_eq!(one("pids_limit", &bytes(hex)).unwrap().pids_limit, Some(want));
    }
}

#[test]
fn nothing_means_all_defaults() {
    for nothing in [&[][..], &[0xc0], &[0x80]] {
        assert_eq!(options::decode(nothing).unwrap(), TaskOptions::default());
        assert_eq!(settings::decode(nothing).unwrap(), Settings::default());
    }
    assert!(TaskOptions::default().host_dns);
}

#[test]
fn nil_and_blank_mean_not_given() {
    let all = options::table();
    for name in all.iter().map(|o| o.name.as_str()).filter(|n| !n.contains('.')) {
        assert_eq!(value(name, Value::Nil).unwrap(), TaskOptions::default(), "{name}");
    }
    for name in [
        "image_pull_timeout",
        "command",
        "hostname",
        "pid_mode",
        "shm_size",
        "cwd",
        "seccomp_profile",
    ] {
        assert_eq!(value(name, "").unwrap(), TaskOptions::default(), "{name}");
    }
    let nil = || Value::Array(vec![Value::Nil]);
    assert_eq!(value("sysctl", nil()).unwrap(), TaskOptions::default());
    assert_eq!(value("auth", nil()).unwrap(), TaskOptions::default());
    assert_eq!(value("mounts", Value::Array(vec![])).unwrap(), TaskOptions::default());
}

#[test]
fn numbers_come_in_four_forms() {
    let forms = [
        Value::from(12),
        Value::from(12.0_f64),
        Value::from(12.0_f32),
        Value::from("12"),
        Value::Binary(b"12".to_vec()),
        Value::from("12.0"),
    ];
    for form in forms {
        assert_eq!(value("pids_limit", form).unwrap().pids_limit, Some(12));
    }
    for bad in [
        Value::from(1.5),
        Value::from("x"),
        Value::from(u64::MAX),
        Value::from("9223372036854775808"),
        Value::from(true),
        Value::from(f64::NAN),
    ] {
        assert!(value("pids_limit", bad).is_err());
    }
}

#[test]
fn an_entrypoint_is_a_list_or_one_text() {
    let list = |items: &[&str]| Value::Array(items.iter().map(|i| Value::from(*i)).collect());
    // As an agent sends what its schema calls `any`: the type in JSON, then the value.
    let dynamic = |ty: &str, value| Value::Array(vec![Value::Binary(ty.as_bytes().to_vec()), value]);
    for (form, want) in [
        (list(&["sh", "-c"]), &["sh", "-c"][..]),
        (
            dynamic(r#"["tuple",["string","string"]]"#, list(&["sh", "-c"])),
            &["sh", "-c"],
        ),
        (Value::from("sh"), &["sh"]),
        (dynamic(r#""string""#, Value::from("sh")), &["sh"]),
        (Value::Array(vec![Value::from("sh"), Value::from(5)]), &["sh", "5"]),
        (
            Value::Array(vec![Value::Binary(b"true".to_vec()), Value::from("x")]),
            &["true", "x"],
        ),
        (list(&[]), &[]),
        (Value::from(""), &[]),
    ] {
        let shown = form.to_string();
        assert_eq!(value("entrypoint", form).unwrap().entrypoint.0, want, "{shown}");
    }
    for bad in [
        Value::from(true),
        Value::Map(vec![(Value::from("a"), Value::from("b"))]),
        Value::Array(vec![list(&["a"])]),
    ] {
        let error = value("entrypoint", bad).unwrap_err().to_string();
        assert!(error.starts_with("option entrypoint"), "{error}");
    }
}

#[test]
fn text_may_be_binary_keys_too_and_unknown_keys_do_not_matter() {
    let map = Value::Map(vec![
        (Value::from("zzz"), Value::Array(vec![])),
        (Value::Nil, Value::Nil),
        (Value::Binary(b"image".to_vec()), Value::Binary(b"x".to_vec())),
        (
            Value::from("args"),
            Value::Array(vec![Value::from("a"), Value::Binary(b"b".to_vec())]),
        ),
    ]);
    let got = options::decode(&packed(&map)).unwrap();
    assert_eq!(
        (got.image.as_str(), got.args),
        ("x", vec!["a".to_owned(), "b".to_owned()])
    );
}

#[test]
fn maps_in_a_list_are_merged_and_the_later_wins() {
    let map =
        |pairs: &[(&str, &str)]| Value::Map(pairs.iter().map(|(k, v)| (Value::from(*k), Value::from(*v))).collect());
    let list = Value::Array(vec![map(&[("a", "1"), ("b", "1")]), Value::Nil, map(&[("b", "2")])]);
    let want = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
    assert_eq!(value("sysctl", list).unwrap().sysctl, want);
}

#[test]
fn errors_name_option_value_and_what_is_allowed() {
    let text = |r: Result<TaskOptions, SpecError>| r.unwrap_err().to_string();
    assert_eq!(
        text(value("pids_limit", "many")),
        "option pids_limit: \"many\": a whole number is expected, not a text"
    );
    for (name, bad, want) in [
        (
            "pids_limit",
            Value::from(1.5),
            "a whole number is expected, not a number with a fraction",
        ),
        (
            "pids_limit",
            Value::from(true),
            "a whole number is expected, not true or false",
        ),
        ("init", Value::from("maybe"), "true or false is expected, not a text"),
        ("hostname", Value::Array(vec![]), "a text is expected, not a list"),
        ("cap_add", Value::from("ALL"), "a list of texts is expected, not a text"),
        ("sysctl", Value::from(3), "a map of texts is expected, not a number"),
        (
            "mounts",
            Value::Array(vec![Value::from("x")]),
            "a block is expected, not a text",
        ),
    ] {
        let error = text(value(name, bad));
        assert!(
            error.starts_with(&format!("option {name}")) && error.ends_with(want),
            "{error}"
        );
    }
    assert!(text(value("args", "x")).starts_with("option args: \"x\": a list"));
    assert!(text(value("args", Value::Array(vec![Value::Nil]))).starts_with("option args[0]: "));
    assert!(text(value("mounts", Value::Array(vec![Value::from(1)]))).starts_with("option mounts[0]: "));
    let device = Value::Map(vec![(Value::from("host_path"), Value::from(""))]);
    assert_eq!(
        text(value("devices", Value::Array(vec![device]))),
        "option devices[0].host_path: \"\": an absolute path on the host or a CDI name is expected"
    );
    assert!(text(value("image_pull_timeout", "5")).starts_with("Failed to parse image_pull_timeout: \"5\""));
    assert!(text(value("image_pull_timeout", "0s")).contains("above zero"));
}

#[test]
fn an_error_does_not_show_the_password() {
    let secret = || Value::from("hunter2");
    let auth = Value::Map(vec![
        (Value::from("username"), Value::from("u")),
        (Value::from("password"), Value::Array(vec![secret()])),
    ]);
    for bad in [auth, secret(), Value::Array(vec![secret()])] {
        let text = value("auth", bad).unwrap_err().to_string();
        assert!(text.contains("option auth") && !text.contains("hunter2"), "{text}");
    }
}

#[test]
fn half_of_the_credentials_is_refused_by_the_name_of_the_other_half() {
    let auth = |username: &str, password: &str| {
        let pairs = [("username", username), ("password", password)];
        value(
            "auth",
            Value::Map(pairs.iter().map(|(k, v)| (Value::from(*k), Value::from(*v))).collect()),
        )
    };
    assert_eq!(auth("", "").unwrap().auth, None);
    for (username, password, want) in [
        ("u", "", "option auth.password: "),
        ("", "hunter2", "option auth.username: "),
    ] {
        let text = auth(username, password).unwrap_err().to_string();
        assert!(text.starts_with(want) && !text.contains("hunter2"), "{text}");
    }
}

#[test]
fn a_block_with_only_a_path_is_no_short_form() {
    let block = Value::Map(vec![(Value::from("host_path"), Value::from("/dev/a:r"))]);
    let device = value("devices", Value::Array(vec![block])).unwrap().devices;
    assert_eq!(device[0].container_path.as_deref(), Some("/dev/a:r"));
    let short = value("devices", Value::Array(vec![Value::from("/dev/a:r")]))
        .unwrap()
        .devices;
    assert_eq!(
        (short[0].host_path.as_str(), &short[0].container_path),
        ("/dev/a:r", &None)
    );
}

#[test]
fn another_name_that_a_job_uses_is_known() {
    let written = |pairs: &[(&str, Value)]| {
        let map = pairs.iter().map(|(k, v)| (Value::from(*k), v.clone())).collect();
        options::written(&packed(&Value::Map(map))).unwrap()
    };
    let dir = || Value::from("/x");
    assert_eq!(written(&[("work_dir", dir()), ("cwd", Value::Nil)])["cwd"], "work_dir");
    assert_eq!(written(&[("mount", Value::Array(vec![dir()]))])["mounts"], "mount");
    assert!(written(&[("cwd", dir()), ("work_dir", dir())]).is_empty());
    assert!(written(&[("work_dir", Value::from("")), ("mount", Value::Array(vec![]))]).is_empty());
    assert!(options::written(&[]).unwrap().is_empty());
}

#[test]
fn garbage_is_a_decode_error() {
    for garbage in [
        &[0x81][..],
        &[0xa5, 0x61],
        &[0xdf, 0xff, 0xff, 0xff, 0xff],
        &[0x01],
        &[0x90],
        &[0x80, 0x00],
    ] {
        assert!(
            matches!(options::decode(garbage), Err(SpecError::Decode(_))),
            "{garbage:x?}"
        );
    }
}

#[test]
fn schema_keeps_the_names_and_types_of_the_go_driver() {
    let go = "args auth cap_add cap_drop command cwd devices entrypoint extra_hosts host_dns host_network hostname image image_pull_timeout \
              mounts pid_mode pids_limit privileged readonly_rootfs seccomp seccomp_profile shm_size sysctl";
    let schema: BTreeMap<String, Schema> = options::schema().into_iter().collect();
    assert!(go.split_whitespace().count() == 23 && go.split_whitespace().all(|name| schema.contains_key(name)));
    let attr = |ty, required, default: Option<&str>| Schema::Attr {
        ty,
        required,
        default: default.map(ToOwned::to_owned),
    };
    assert_eq!(schema["image"], attr(AttrType::String, true, None));
    assert_eq!(schema["host_dns"], attr(AttrType::Bool, false, Some("true")));
    assert_eq!(schema["pids_limit"], attr(AttrType::Number, false, None));
    assert_eq!(schema["args"], attr(AttrType::StringList, false, None));
    // A list there, and so it is here; any other type would not let a text through.
    assert_eq!(schema["entrypoint"], attr(AttrType::Any, false, None));
    assert_eq!(schema["sysctl"], attr(AttrType::StringMaps, false, None));
    let Schema::BlockList(mount) = &schema["mounts"] else {
        panic!()
    };
    assert_eq!(
        mount[0],
        ("type".to_owned(), attr(AttrType::String, false, Some("\"volume\"")))
    );
    assert_eq!(mount[1], ("target".to_owned(), attr(AttrType::String, true, None)));
    let Schema::Block(auth) = &schema["auth"] else { panic!() };
    assert_eq!(
        auth.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(),
        ["username", "password", "server_address", "helper", "email"]
    );
    let settings: BTreeMap<String, Schema> = settings::schema().into_iter().collect();
    assert_eq!(
        settings["image_pull_timeout"],
        attr(AttrType::String, false, Some("\"5m\""))
    );
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        options::decode(&bytes).ok();
        settings::decode(&bytes).ok();
    }

    #[test]
    fn damaged_golden_bytes_do_not_panic(at in 0_usize..277, byte in any::<u8>()) {
        for golden in [TASK_A, TASK_HARNESS, PLUGIN_A, PLUGIN_B] {
            let mut damaged = bytes(golden);
            if let Some(b) = damaged.get_mut(at) { *b = byte; }
            options::decode(&damaged).ok();
            settings::decode(&damaged).ok();
        }
    }
}

fn reaper(fields: &[(&str, &str)]) -> Result<Settings, SpecError> {
    let block = Value::Map(
        fields
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect(),
    );
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, &Value::Map(vec![("reaper".into(), block)])).unwrap();
    settings::decode(&bytes)
}

#[test]
fn the_reaper_is_on_by_default_and_its_times_are_bounded() {
    let default = Settings::default().reaper();
    assert!(default.enabled && !default.dry_run);
    assert_eq!(
        (default.period, default.grace),
        (Duration::from_secs(300), Duration::from_secs(300))
    );
    let given = reaper(&[("enabled", "false"), ("period", "1s"), ("grace", "90s")])
        .unwrap()
        .reaper();
    assert!(!given.enabled && !given.dry_run);
    assert_eq!(
        (given.period, given.grace),
        (Duration::from_secs(1), Duration::from_secs(90))
    );
    for (name, value) in [("grace", "999ms"), ("period", "10ms"), ("grace", "never")] {
        let error = reaper(&[(name, value)]).unwrap_err().to_string();
        assert!(
            error.contains(&format!("reaper.{name}")) && error.contains(value),
            "{error}"
        );
    }
}

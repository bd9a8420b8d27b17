//! The two `auth` blocks: what is taken, what is refused, and whom a password is for.

use super::*;
use crate::spec::options::TaskOptions;
use std::collections::BTreeMap;

fn block_of(pairs: &[(&str, &str)]) -> Value {
    Value::Map(pairs.iter().map(|(k, v)| (Value::from(*k), Value::from(*v))).collect())
}

fn task(pairs: &[(&str, &str)]) -> Result<Option<Auth>, String> {
    let read = <Option<Auth> as OptionValue>::read("auth", &block_of(pairs));
    read.map(Option::flatten).map_err(|e| e.to_string())
}

fn plugin(pairs: &[(&str, &str)]) -> Result<Option<PluginAuth>, String> {
    let read = <Option<PluginAuth> as OptionValue>::read("auth", &block_of(pairs));
    read.map(Option::flatten).map_err(|e| e.to_string())
}

const PASSWORD: [(&str, &str); 2] = [("username", "u"), ("password", "hunter2")];

fn with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    PASSWORD.into_iter().chain(more.iter().copied()).collect()
}

#[test]
fn a_task_gives_a_password_or_a_program() {
    assert!(
        task(&with(&[("server_address", "https://r:5000/v2/"), ("email", "a@b")]))
            .unwrap()
            .is_some()
    );
    assert!(
        task(&[("helper", "ecr-login"), ("server_address", "r")])
            .unwrap()
            .is_some()
    );
    assert_eq!(task(&[]), Ok(None));
    assert_eq!(task(&[("username", ""), ("password", "")]), Ok(None));
    for (pairs, want) in [
        (vec![("username", "u")], "option auth.password: "),
        (vec![("password", "hunter2")], "option auth.username: "),
        (vec![("password", "hunter2"), ("helper", "x")], "option auth.username: "),
        (with(&[("helper", "x")]), "option auth.helper: \"x\": either "),
        (vec![("helper", "a/b")], "option auth.helper: \"a/b\": "),
        (vec![("server_address", "r")], "option auth.server_address: \"r\": "),
        (
            with(&[("server_address", "a b")]),
            "option auth.server_address: \"a b\": a registry",
        ),
        (
            with(&[("server_address", "https://u:hunter2@r")]),
            "option auth.server_address: \"r\": a registry",
        ),
    ] {
        let text = task(&pairs).unwrap_err();
        assert!(text.starts_with(want) && !text.contains("hunter2"), "{text}");
    }
}

#[test]
fn the_plugin_gives_a_password_a_file_and_a_program() {
    assert_eq!(plugin(&[]), Ok(None));
    assert!(plugin(&PASSWORD).unwrap().is_some(), "as for the Go driver");
    assert!(
        plugin(&[("config", "/etc/docker/config.json"), ("helper", "ecr-login")])
            .unwrap()
            .is_some()
    );
    for (pairs, want) in [
        (
            vec![("config", "config.json")],
            "option auth.config: \"config.json\": an absolute path",
        ),
        (vec![("helper", "a b")], "option auth.helper: \"a b\": "),
        (
            vec![("server_address", "r")],
            "option auth.server_address: \"r\": username and password",
        ),
        (vec![("username", "u"), ("helper", "x")], "option auth.password: "),
        (
            with(&[("server_address", "/")]),
            "option auth.server_address: \"/\": a registry",
        ),
    ] {
        let text = plugin(&pairs).unwrap_err();
        assert!(text.starts_with(want) && !text.contains("hunter2"), "{text}");
    }
    let hosts = |hosts: &[&str]| PluginAuth {
        username: "u".to_owned(),
        password: Secret::new("p"),
        hosts: Some(hosts.iter().map(|h| (*h).to_owned()).collect()),
        ..PluginAuth::default()
    };
    assert!(hosts(&["*", "r:5000", "*.example"]).check("auth").is_ok());
    for bad in ["", "a b", "u@r", "r:port"] {
        let text = hosts(&["r", bad]).check("auth").unwrap_err().to_string();
        assert!(text.starts_with("option auth.hosts[1]: "), "{text}");
    }
    let lonely = PluginAuth {
        hosts: Some(vec!["r".to_owned()]),
        ..PluginAuth::default()
    };
    assert!(
        lonely
            .check("auth")
            .unwrap_err()
            .to_string()
            .starts_with("option auth.hosts: \"r\"")
    );
}

#[test]
fn the_plugins_password_is_for_the_hosts_that_the_operator_names() {
    let auth = |server: Option<&str>, hosts: Option<&[&str]>| PluginAuth {
        username: "u".to_owned(),
        password: Secret::new("p"),
        server_address: server.map(str::to_owned),
        hosts: hosts.map(|hosts| hosts.iter().map(|h| (*h).to_owned()).collect()),
        ..PluginAuth::default()
    };
    use Profile::{GoDriver, Strict};
    let nowhere = auth(None, None);
    assert!(!nowhere.is_for("r:5000", Strict) && !nowhere.is_for("docker.io", Strict));
    assert!(nowhere.is_for("evil.example", GoDriver), "as the Go driver did");
    let bound = auth(Some("https://r:5000/v2/"), None);
    for profile in [Strict, GoDriver] {
        assert!(
            bound.is_for("r:5000", profile) && !bound.is_for("r", profile) && !bound.is_for("evil.example", profile)
        );
    }
    let listed = auth(Some("r"), Some(&["https://index.docker.io/v1/", "*.corp.example:5000"]));
    for (host, want) in [
        ("r", true),
        ("docker.io", true),
        ("a.corp.example:5000", true),
        ("a.corp.example", false),
        ("corp.example:5000.evil.example", false),
    ] {
        assert_eq!(listed.is_for(host, Strict), want, "{host}");
    }
    assert!(auth(None, Some(&["*"])).is_for("anything", Strict));
    assert!(!auth(None, Some(&[])).is_for("r", GoDriver), "an empty list is none");
    let empty = PluginAuth {
        hosts: Some(vec!["*".to_owned()]),
        ..PluginAuth::default()
    };
    assert!(!empty.is_for("r", Strict));
}

#[test]
fn a_program_is_a_tasks_to_name_only_with_consent() {
    let task = TaskSpec {
        options: TaskOptions {
            auth: Some(Auth {
                helper: Some("ecr-login".to_owned()),
                ..Auth::default()
            }),
            ..TaskOptions::default()
        },
        ..TaskSpec::default()
    };
    let settings = |allowed: &[&str]| Settings {
        auth: Some(PluginAuth {
            allow_helpers: allowed.iter().map(|a| (*a).to_owned()).collect(),
            ..PluginAuth::default()
        }),
        ..Settings::default()
    };
    assert!(consent(&task, &settings(&["ecr-login"])).is_ok() && consent(&task, &settings(&["ecr-*"])).is_ok());
    for closed in [settings(&[]), settings(&["gcr"]), Settings::default()] {
        let text = crate::spec::oci::consent(&task, &closed).unwrap_err().to_string();
        assert!(
            text.starts_with("option auth.helper: \"ecr-login\": not allowed on this node"),
            "{text}"
        );
    }
    assert!(consent(&TaskSpec::default(), &Settings::default()).is_ok());
}

#[test]
fn a_block_of_another_shape_is_refused_without_its_text() {
    let nested = Value::Map(vec![
        (Value::from("username"), Value::from("u")),
        (Value::from("password"), Value::Array(vec![Value::from("hunter2")])),
    ]);
    for bad in [
        nested,
        Value::from("hunter2"),
        Value::Array(vec![Value::from("hunter2")]),
    ] {
        let text = <Option<PluginAuth> as OptionValue>::read("auth", &bad)
            .unwrap_err()
            .to_string();
        assert!(text.starts_with("option auth") && !text.contains("hunter2"), "{text}");
    }
}

#[test]
fn the_settings_do_not_show_the_password() {
    let settings = Settings {
        auth: plugin(&PASSWORD).unwrap(),
        ..Settings::default()
    };
    let names: BTreeMap<_, _> = PluginAuth::declared()
        .into_iter()
        .map(|d| (d.name, d.default))
        .collect();
    assert!(!format!("{settings:?} {names:?}").contains("hunter2"));
}

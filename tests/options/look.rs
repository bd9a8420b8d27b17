//! A task that tells what it sees: `key=value` lines on its standard output.

use crate::bench::{Bench, patience};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use testhost::rig::RunningTask;
use testhost::task::TaskSpec;
use testhost::within::within;
use tonic::Status;

/// What the operator consents to where the options are looked at: everything.
pub fn consent() -> Json {
    json!({
        "security_profile": "go-driver",
        "allow_runtimes": ["*"],
        "allowed_modes": { "pid": ["host"], "ipc": ["host"], "uts": ["host"], "cgroup": ["host"], "network": ["host"] },
        "allow_unconfined": ["seccomp", "apparmor", "systempaths"],
        "userns_ids": "100000:65536",
    })
}

/// Which runtimes are asked for.
pub fn wants(runtime: &str) -> bool {
    std::env::var("CD_RUNTIME").map_or(true, |only| only.is_empty() || only == runtime)
}

/// A bench whose operator has these settings.
pub async fn bench(config: Json) -> Bench {
    Bench::configured(config).await
}

/// A bench of another runtime for all tasks, whose operator consents.
pub async fn crun() -> Bench {
    Bench::crun(consent()).await
}

/// What a finished task printed.
#[derive(Debug)]
pub struct Seen(BTreeMap<String, String>);

impl Seen {
    /// The value of a key, empty if the line is there and holds nothing.
    #[track_caller]
    pub fn get(&self, key: &str) -> &str {
        self.0
            .get(key)
            .unwrap_or_else(|| panic!("no {key} in {:?}", self.0))
            .as_str()
    }

    /// Asserts several at once.
    #[track_caller]
    pub fn are<const N: usize>(&self, wanted: [(&str, &str); N]) {
        for (key, value) in wanted {
            assert_eq!(self.get(key), value, "{key} in {:?}", self.0);
        }
    }

    pub fn words(&self, key: &str) -> Vec<&str> {
        self.get(key).split_whitespace().collect()
    }
}

impl Bench {
    /// A task with these options that runs a script.
    pub fn with_options(&self, options: Json, script: &str) -> TaskSpec {
        with(self.sh(script), options)
    }

    /// Runs it and reads what it printed.
    pub async fn look(&self, options: Json, script: &str) -> Seen {
        self.seen(self.with_options(options, script)).await
    }

    pub async fn seen(&self, spec: TaskSpec) -> Seen {
        let (code, text) = self.run(spec).await;
        assert_eq!(code, 0, "{text}");
        pairs(&text)
    }

    /// The error of a task that cannot start.
    pub async fn refused(&self, options: Json) -> Status {
        self.refused_spec(self.with_options(options, "true")).await
    }

    pub async fn refused_spec(&self, spec: TaskSpec) -> Status {
        let shown = spec.config.to_string();
        within(patience(), "a refused StartTask", self.rig.start(spec))
            .await
            .err()
            .unwrap_or_else(|| panic!("this must not start: {shown}"))
    }
}

/// The options added to the driver's part.
pub fn with(mut spec: TaskSpec, options: Json) -> TaskSpec {
    for (key, value) in options.as_object().expect("an object") {
        spec = spec.option(key, value.clone());
    }
    spec
}

/// `key=value` lines.
pub fn pairs(text: &str) -> Seen {
    let lines = text.lines().filter_map(|line| line.split_once('='));
    Seen(lines.map(|(k, v)| (k.to_owned(), v.trim().to_owned())).collect())
}

/// Asserts that a refusal names all of this and that no other try can help.
#[track_caller]
pub fn says(error: &Status, words: &[&str]) {
    for word in words {
        assert!(error.message().contains(word), "no {word:?} in {error:?}");
    }
    assert_eq!(testhost::status::recoverable(error), None, "{error:?}");
}

/// Ends a task that was left running.
pub async fn end(task: RunningTask) {
    task.destroy(true).await.expect("DestroyTask");
}

//! One entry of `tests/goldens/cases.json`, and what the driver makes of it.

use crate::facts;
use containerd_driver::spec::identity::TaskId;
use containerd_driver::spec::image::ImageFacts;
use containerd_driver::spec::oci;
use containerd_driver::spec::options;
use containerd_driver::spec::settings::{self, Settings};
use containerd_driver::spec::task::{Dns, HostDevice, HostMount, NetworkNamespace, Resources, TaskSpec};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

const ALLOC_ID: &str = "8e2ac4a7-6a5d-4a0c-9b6f-3f1d2c5b7e90";

/// A task as its author and the operator write it.
pub struct Case {
    pub name: String,
    pub options: Value,
    /// The option for which both refuse it.
    pub refused: Option<String>,
    all: Value,
}

/// A text, empty where there is none.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A list of texts, empty where there is none.
pub fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}

/// A list, empty where there is none.
pub fn list<T>(value: &Value, one: impl Fn(&Value) -> T) -> Vec<T> {
    value.as_array().into_iter().flatten().map(one).collect()
}

/// As an agent sends a configuration: msgpack, whole numbers as such.
pub fn msgpack(value: &Value) -> Vec<u8> {
    fn convert(value: &Value) -> rmpv::Value {
        match value {
            Value::Null => rmpv::Value::Nil,
            Value::Bool(b) => (*b).into(),
            Value::Number(n) => match (n.as_i64(), n.as_f64()) {
                (Some(int), _) => int.into(),
                (None, float) => float.unwrap().into(),
            },
            Value::String(s) => s.as_str().into(),
            Value::Array(items) => rmpv::Value::Array(items.iter().map(convert).collect()),
            Value::Object(map) => rmpv::Value::Map(map.iter().map(|(k, v)| (k.as_str().into(), convert(v))).collect()),
        }
    }
    let mut out = Vec::new();
    rmpv::encode::write_value(&mut out, &convert(value)).unwrap();
    out
}

impl Case {
    pub fn read(all: &Value) -> Self {
        Self {
            name: text(&all["name"]),
            options: all["options"].clone(),
            refused: all["refused"].as_str().map(str::to_owned),
            all: all.clone(),
        }
    }

    /// The specification, or the error.
    pub fn build(&self) -> Result<Value, String> {
        self.plan().map_err(|e| e.to_string())
    }

    fn plan(&self) -> Result<Value, containerd_driver::spec::SpecError> {
        let task = self.task()?;
        let node = facts::node(&self.all["node"], &task);
        let plan = oci::build(&task, &self.image(), &node, &self.settings())?;
        Ok(serde_json::from_slice(&plan.spec_json).unwrap())
    }

    fn settings(&self) -> Settings {
        let mut given = self.all["settings"].as_object().cloned().unwrap_or_default();
        given.entry("security_profile").or_insert("go-driver".into());
        settings::decode(&msgpack(&Value::Object(given))).unwrap()
    }

    fn image(&self) -> ImageFacts {
        let image = &self.all["image"];
        ImageFacts {
            entrypoint: texts(&image["Entrypoint"]),
            cmd: texts(&image["Cmd"]),
            env: texts(&image["Env"]),
            user: text(&image["User"]),
            working_dir: text(&image["WorkingDir"]),
            volumes: image["Volumes"]
                .as_object()
                .into_iter()
                .flat_map(|map| map.keys().cloned())
                .collect(),
            passwd: text(&self.all["passwd"]),
            group: text(&self.all["group"]),
            ..ImageFacts::default()
        }
    }

    fn task(&self) -> Result<TaskSpec, containerd_driver::spec::SpecError> {
        let all = &self.all;
        let name = Some(text(&all["task"]))
            .filter(|n| !n.is_empty())
            .unwrap_or("web".to_owned());
        let mut env = BTreeMap::from(
            [("ALLOC", "/alloc"), ("TASK", "/local"), ("SECRETS", "/secrets")]
                .map(|(name, dir)| (format!("NOMAD_{name}_DIR"), dir.to_owned())),
        );
        for (name, value) in all["env"].as_object().into_iter().flatten() {
            env.insert(name.clone(), text(value));
        }
        let r = &all["resources"];
        let number = |key: &str| r[key].as_i64().unwrap_or_default();
        let network = text(&all["network"]);
        let dns = &all["dns"];
        Ok(TaskSpec {
            id: TaskId::new(format!("{ALLOC_ID}/{name}/0a1b2c3d")),
            alloc_id: ALLOC_ID.to_owned(),
            alloc_dir: PathBuf::from("/var/lib/nomad/alloc").join(ALLOC_ID),
            name,
            env,
            user: text(&all["user"]),
            options: options::decode(&msgpack(&self.options))?,
            ports: texts(&r["ports"]).into_iter().collect(),
            resources: Resources {
                cpu_shares: number("cpu"),
                memory_mb: number("memory_mb"),
                memory_max_mb: number("memory_max_mb"),
                cpuset_cpus: text(&r["cores"]),
                cpuset_cgroup: text(&r["cpuset_cgroup"]),
                percent_ticks: r["percent_ticks"].as_f64().unwrap_or_default(),
            },
            mounts: list(&all["mounts"], |m| HostMount {
                task_path: text(&m["task_path"]),
                host_path: text(&m["host_path"]),
                readonly: m["readonly"] == true,
                propagation: text(&m["propagation"]),
                ..HostMount::default()
            }),
            devices: list(&all["devices"], |d| HostDevice {
                task_path: text(&d["task_path"]),
                host_path: text(&d["host_path"]),
                permissions: text(&d["permissions"]),
            }),
            network: (!network.is_empty()).then_some(NetworkNamespace {
                path: network,
                hosts: None,
            }),
            dns: dns.is_object().then(|| Dns {
                servers: texts(&dns["servers"]),
                searches: texts(&dns["searches"]),
                options: texts(&dns["options"]),
            }),
            ..TaskSpec::default()
        })
    }
}

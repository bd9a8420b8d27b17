//! The configuration of a task as a host composes it.

use std::collections::HashMap;

use anyhow::Result;
use serde_json::{Value as Json, json};

use crate::alloc::{Alloc, random_hex};
use crate::schema;
use crate::wire::driver::{
    AllocatedCpuResources, AllocatedMemoryResources, AllocatedTaskResources, Device, DnsConfig, LinuxResources, Mount,
    NetworkIsolationSpec, PortMapping, Resources, TaskConfig,
};
use crate::wire::hclspec::Spec;

/// What a test says about a task. `TaskSpec::new(image)` has the usual values of the recipe.
#[derive(Clone, Debug)]
pub struct TaskSpec {
    pub name: String,
    /// The driver's part, as in a job file.
    pub config: Json,
    /// Added to the variables the host sets.
    pub env: Vec<(String, String)>,
    pub user: String,
    pub memory_mb: i64,
    /// 0 = unset, -1 = unlimited.
    pub memory_max_mb: i64,
    /// MHz, out of [`TOTAL_MHZ`].
    pub cpu_shares: i64,
    pub cpuset_cpus: String,
    pub cpuset_cgroup: String,
    pub network: Option<NetworkIsolationSpec>,
    pub dns: Option<DnsConfig>,
    pub ports: Vec<PortMapping>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    /// `Some((stdout, stderr))` replaces the log pipes (plain files, `/dev/null`, empty).
    pub log_paths: Option<(String, String)>,
    /// Replaces `<alloc>/<task>/<8 hex>`.
    pub id: Option<String>,
    /// A host before 1.6: no job and node names.
    pub old_host: bool,
    /// The last word on the composed configuration.
    pub tweak: Option<fn(&mut TaskConfig)>,
}

/// The compute of [`crate::plugin::topology`].
pub const TOTAL_MHZ: i64 = 8000;

impl TaskSpec {
    pub fn new(image: impl Into<String>) -> TaskSpec {
        TaskSpec {
            name: "web".into(),
            config: json!({ "image": image.into() }),
            env: vec![("ODD".into(), "a b=c\n\"d\" $e".into())],
            user: String::new(),
            memory_mb: 256,
            memory_max_mb: 0,
            cpu_shares: 500,
            cpuset_cpus: String::new(),
            cpuset_cgroup: String::new(),
            network: None,
            dns: None,
            ports: Vec::new(),
            mounts: Vec::new(),
            devices: Vec::new(),
            log_paths: None,
            id: None,
            old_host: false,
            tweak: None,
        }
    }

    /// `command` and `args` of the driver's configuration.
    pub fn command<S: AsRef<str>>(self, argv: impl IntoIterator<Item = S>) -> Self {
        let argv: Vec<String> = argv.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        let (command, args) = argv.split_first().expect("a command of at least one word");
        self.option("command", json!(command)).option("args", json!(args))
    }

    /// `sh -c script`.
    pub fn sh(self, script: &str) -> Self {
        self.command(["sh", "-c", script])
    }

    /// Any option of the driver's configuration.
    pub fn option(mut self, key: &str, value: Json) -> Self {
        self.config[key] = value;
        self
    }

    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = user.into();
        self
    }

    pub fn memory_mb(mut self, mb: i64) -> Self {
        self.memory_mb = mb;
        self
    }

    pub fn memory_max_mb(mut self, mb: i64) -> Self {
        self.memory_max_mb = mb;
        self
    }

    pub fn cpu_shares(mut self, mhz: i64) -> Self {
        self.cpu_shares = mhz;
        self
    }

    pub fn cpuset_cgroup(mut self, dir: impl Into<String>) -> Self {
        self.cpuset_cgroup = dir.into();
        self
    }

    pub fn network(mut self, spec: NetworkIsolationSpec) -> Self {
        self.network = Some(spec);
        self
    }

    pub fn mount(mut self, mount: Mount) -> Self {
        self.mounts.push(mount);
        self
    }

    pub fn log_paths(mut self, stdout: impl Into<String>, stderr: impl Into<String>) -> Self {
        self.log_paths = Some((stdout.into(), stderr.into()));
        self
    }

    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// The complete configuration, with a fresh id.
    pub fn compose(&self, alloc: &Alloc, schema: &Spec) -> Result<TaskConfig> {
        let name = self.name.as_str();
        let path = |stream| alloc.fifo(name, stream).display().to_string();
        let (stdout_path, stderr_path) = self
            .log_paths
            .clone()
            .unwrap_or_else(|| (path("stdout"), path("stderr")));
        let job = |text: &str| if self.old_host { String::new() } else { text.to_owned() };
        let mut task = TaskConfig {
            id: self
                .id
                .clone()
                .unwrap_or_else(|| format!("{}/{name}/{}", alloc.id(), random_hex(4))),
            name: name.to_owned(),
            msgpack_driver_config: schema::evaluate(schema, &self.config)?.encode(),
            env: self.environment(alloc),
            resources: Some(self.resources()),
            mounts: self.mounts.clone(),
            devices: self.devices.clone(),
            user: self.user.clone(),
            alloc_dir: alloc.dir().display().to_string(),
            stdout_path,
            stderr_path,
            task_group_name: "group".into(),
            job_name: "job".into(),
            alloc_id: alloc.id().to_owned(),
            network_isolation_spec: self.network.clone(),
            dns: self.dns.clone(),
            job_id: job("job-id"),
            namespace: job("default"),
            node_name: job("node"),
            node_id: job("6a1c0b1e-5f1b-4c0b-9f53-0c54d8f9d8a1"),
            ..TaskConfig::default()
        };
        if let Some(tweak) = self.tweak {
            tweak(&mut task);
        }
        Ok(task)
    }

    fn environment(&self, alloc: &Alloc) -> HashMap<String, String> {
        let fixed = [
            ("NOMAD_ALLOC_DIR", "/alloc".to_owned()),
            ("NOMAD_TASK_DIR", "/local".to_owned()),
            ("NOMAD_SECRETS_DIR", "/secrets".to_owned()),
            ("NOMAD_ALLOC_ID", alloc.id().to_owned()),
            ("NOMAD_SHORT_ALLOC_ID", alloc.id()[..8].to_owned()),
            ("NOMAD_ALLOC_NAME", "job.group[0]".to_owned()),
            ("NOMAD_ALLOC_INDEX", "0".to_owned()),
            ("NOMAD_TASK_NAME", self.name.clone()),
            ("NOMAD_GROUP_NAME", "group".to_owned()),
            ("NOMAD_JOB_ID", "job-id".to_owned()),
            ("NOMAD_JOB_NAME", "job".to_owned()),
            ("NOMAD_DC", "dc1".to_owned()),
            ("NOMAD_REGION", "global".to_owned()),
            ("NOMAD_NAMESPACE", "default".to_owned()),
            ("NOMAD_CPU_LIMIT", self.cpu_shares.to_string()),
            ("NOMAD_MEMORY_LIMIT", self.memory_mb.to_string()),
            ("NOMAD_PARENT_CGROUP", "nomad.slice".to_owned()),
        ];
        let fixed = fixed.into_iter().map(|(key, value)| (key.to_owned(), value));
        fixed.chain(self.env.iter().cloned()).collect()
    }

    fn resources(&self) -> Resources {
        let mib = self.memory_mb.max(self.memory_max_mb);
        Resources {
            allocated_resources: Some(AllocatedTaskResources {
                cpu: Some(AllocatedCpuResources {
                    cpu_shares: self.cpu_shares,
                }),
                memory: Some(AllocatedMemoryResources {
                    memory_mb: self.memory_mb,
                    memory_max_mb: self.memory_max_mb,
                }),
                networks: Vec::new(),
            }),
            linux_resources: Some(LinuxResources {
                cpu_shares: self.cpu_shares,
                memory_limit_bytes: mib * 1024 * 1024,
                cpuset_cpus: self.cpuset_cpus.clone(),
                percent_ticks: self.cpu_shares as f64 / TOTAL_MHZ as f64,
                cpuset_cgroup: self.cpuset_cgroup.clone(),
                ..LinuxResources::default()
            }),
            ports: self.ports.clone(),
        }
    }
}

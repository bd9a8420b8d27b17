//! One of everything: containerd, registry, plugin and allocation base, private to a test and swept away with it.

mod events;
mod exec;
mod home;
mod running;
mod shared;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value as Json, json};
use tonic::{Status, Streaming};

pub use events::EventLog;
pub use exec::{ExecOutcome, ExecSession};
pub use running::RunningTask;

use crate::alloc::{Alloc, random_hex};
use crate::census::Scope;
use crate::containerd::{Containerd, ContainerdKind};
use crate::image::ImageConfig;
use crate::other_driver::OtherDriver;
use crate::plugin::{Driver, LaunchOpts, Plugin};
use crate::registry::Registry;
use crate::task::TaskSpec;
use crate::wire::driver::{
    FingerprintRequest, FingerprintResponse, RecoverTaskRequest, StartTaskRequest, TaskConfig, TaskHandle,
};
use crate::wire::hclspec::Spec;
use home::Home;
use running::persisted;
use shared::Shared;

/// Where the unified hierarchy is on a machine that has both.
const UNIFIED: &str = "/sys/fs/cgroup/unified";

/// What may differ from [`Rig::new`].
#[derive(Clone, Debug)]
pub struct RigOpts {
    pub kind: ContainerdKind,
    /// The plugin; default `CD_DRIVER_BIN`.
    pub bin: PathBuf,
    /// containerd namespace; default unique, so that cgroups and runc state of parallel rigs do not mix.
    pub namespace: String,
    /// Further plugin options; they win over the rig's own.
    pub config: Json,
    pub launch: LaunchOpts,
    /// Further lines of containerd's `config.toml`.
    pub containerd_config: String,
    /// The rig's directory instead of a fresh one under `/tmp`; keep it short. It is swept before and after.
    pub dir: Option<PathBuf>,
    /// Launch the probes of an agent start first.
    pub like_agent: bool,
    /// Hide the unified hierarchy that lies beside version 1 from containerd and what it starts.
    pub without_unified: bool,
    /// The plugin is another driver than ours.
    pub other: Option<OtherDriver>,
}

impl RigOpts {
    pub fn new(kind: ContainerdKind) -> Result<RigOpts> {
        let bin = std::env::var_os("CD_DRIVER_BIN").context("CD_DRIVER_BIN does not name the plugin under test")?;
        let mut opts = RigOpts::of(kind, bin);
        opts.other = OtherDriver::from_env()?;
        if let Some(other) = &opts.other {
            opts.namespace = other.namespace.clone();
        }
        Ok(opts)
    }

    pub fn of(kind: ContainerdKind, bin: impl Into<PathBuf>) -> RigOpts {
        RigOpts {
            kind,
            bin: bin.into(),
            namespace: format!("t{}", random_hex(4)),
            config: json!({}),
            launch: LaunchOpts::default(),
            containerd_config: String::new(),
            dir: None,
            like_agent: false,
            without_unified: false,
            other: None,
        }
    }
}

/// Containerd and registry of a rig, before a plugin is launched.
pub struct Backend {
    pub containerd: Containerd,
    pub registry: Registry,
    opts: RigOpts,
    config: Json,
    home: Home,
}

/// The bundle. Dropping it kills the plugin, sweeps containerd away and removes every file.
pub struct Rig {
    plugin: Plugin,
    pub containerd: Containerd,
    pub registry: Registry,
    opts: RigOpts,
    config: Json,
    schema: Spec,
    shared: Arc<Shared>,
    home: Home,
}

impl Backend {
    pub async fn start(mut opts: RigOpts) -> Result<Backend> {
        let home = match opts.dir.clone() {
            Some(dir) => Home::at(dir, &opts.namespace)?,
            None => Home::fresh(&opts.namespace)?,
        };
        let registry = Registry::start(&home.path().join("reg")).await?;
        let root = home.path().join("cd");
        let containerd = match opts.without_unified && Path::new(UNIFIED).exists() {
            true => Containerd::start_without_unified(opts.kind.clone(), &root, &opts.containerd_config).await?,
            false => Containerd::start_with(opts.kind.clone(), &root, &opts.containerd_config).await?,
        };
        let mut config = json!({ "containerd_address": containerd.socket().display().to_string(), "containerd_namespace": opts.namespace });
        if let Json::Object(more) = &opts.config {
            for (key, value) in more {
                config[key] = value.clone();
            }
        }
        if let Some(other) = &opts.other {
            config = other.settings(&config);
        }
        // The socket then lies in the rig's directory and the sweep recognises the process.
        opts.launch = opts.launch.env("TMPDIR", home.path().join("tmp"));
        Ok(Backend {
            containerd,
            registry,
            opts,
            config,
            home,
        })
    }

    /// Launches and configures the plugin.
    pub async fn launch(self) -> Result<Rig> {
        let Backend {
            containerd,
            registry,
            opts,
            config,
            home,
        } = self;
        let plugin = match opts.like_agent {
            true => crate::plugin::launch_like_agent(&opts.bin, &config, opts.launch.clone()).await?,
            false => launch(&opts, &config).await?,
        };
        let schema = plugin.task_schema().await?;
        let shared = Arc::new(Shared::new(plugin.driver()));
        Ok(Rig {
            plugin,
            containerd,
            registry,
            opts,
            config,
            schema,
            shared,
            home,
        })
    }
}

impl Rig {
    pub async fn new(kind: ContainerdKind) -> Result<Rig> {
        Rig::with(RigOpts::new(kind)?).await
    }

    pub async fn with(opts: RigOpts) -> Result<Rig> {
        Backend::start(opts).await?.launch().await
    }

    pub fn plugin(&self) -> &Plugin {
        &self.plugin
    }

    pub fn driver(&self) -> Driver {
        self.plugin.driver()
    }

    pub fn namespace(&self) -> &str {
        &self.opts.namespace
    }

    /// The plugin options in use.
    pub fn config(&self) -> &Json {
        &self.config
    }

    pub fn schema(&self) -> &Spec {
        &self.schema
    }

    /// The rig's own directory.
    pub fn dir(&self) -> &Path {
        self.home.path()
    }

    /// Where its containerd has the bundles of its namespace.
    pub fn bundles(&self) -> PathBuf {
        let state = self.dir().join("cd/state/io.containerd.runtime.v2.task");
        state.join(self.namespace())
    }

    pub fn alloc_base(&self) -> PathBuf {
        self.home.path().join("alloc")
    }

    /// Pushes a busybox image and returns its reference.
    pub async fn image(&self, name: &str, tweaks: &ImageConfig) -> Result<String> {
        self.registry.push_busybox(name, "1", tweaks).await
    }

    /// The plain busybox image.
    pub async fn busybox(&self) -> Result<String> {
        self.image("library/busybox", &ImageConfig::default()).await
    }

    pub fn alloc(&self) -> Arc<Alloc> {
        Arc::new(Alloc::new(&self.alloc_base()).expect("allocation directory"))
    }

    /// Starts a task in an allocation of its own. A fault of the rig panics; what the plugin says is returned.
    pub async fn start(&self, spec: TaskSpec) -> Result<RunningTask, Status> {
        self.start_in(self.alloc(), &spec).await
    }

    pub async fn start_in(&self, alloc: Arc<Alloc>, spec: &TaskSpec) -> Result<RunningTask, Status> {
        alloc.add_task(&spec.name).expect("task directory");
        let config = spec
            .compose(&alloc, &self.schema)
            .expect("the schema accepts the task's options");
        let logs = spec
            .log_paths
            .is_none()
            .then(|| alloc.collect_logs(&spec.name).expect("log collectors"));
        self.start_raw(config, alloc, logs).await
    }

    /// Starts with a configuration and collectors made by the test.
    pub async fn start_raw(
        &self,
        config: TaskConfig,
        alloc: Arc<Alloc>,
        logs: Option<crate::alloc::Logs>,
    ) -> Result<RunningTask, Status> {
        let answer = self
            .driver()
            .start_task(StartTaskRequest {
                task: Some(config.clone()),
            })
            .await?
            .into_inner();
        let handle = answer.handle.expect("StartTaskResponse without a handle");
        let id = handle
            .config
            .as_ref()
            .expect("a handle without its configuration")
            .id
            .clone();
        assert_eq!(id, config.id, "the handle is another task's");
        self.shared.remember(&id, handle.clone());
        Ok(RunningTask {
            shared: self.shared.clone(),
            config,
            handle,
            network_override: answer.network_override,
            alloc,
            logs,
        })
    }

    /// A task that another driver has started: `RecoverTask` with the handle that a host would have of it.
    pub async fn recover(
        &self,
        handle: TaskHandle,
        alloc: Arc<Alloc>,
        logs: Option<crate::alloc::Logs>,
    ) -> Result<RunningTask, Status> {
        let request = RecoverTaskRequest {
            task_id: String::new(),
            handle: Some(handle.clone()),
        };
        self.driver().recover_task(request).await?;
        let config = handle.config.clone().unwrap_or_default();
        self.shared.remember(&config.id, handle.clone());
        Ok(RunningTask {
            shared: self.shared.clone(),
            config,
            handle,
            network_override: None,
            alloc,
            logs,
        })
    }

    pub async fn fingerprint(&self) -> Result<Streaming<FingerprintResponse>, Status> {
        Ok(self.driver().fingerprint(FingerprintRequest {}).await?.into_inner())
    }

    pub fn events(&self) -> EventLog {
        EventLog::start(self.driver())
    }

    /// Census of the rig's namespace, its cgroups and the pipes in the usual place.
    pub fn scope(&self) -> Scope<'_> {
        Scope::new(&self.containerd, self.namespace())
            .fifos(self.home.path().join("cd"))
            .fifos(self.home.path().join("tmp"))
    }

    /// A new plugin process (the old one is killed if it still lives), configured, with every undestroyed task recovered as after the
    /// restart of an agent: blank task id, blank driver configuration.
    pub async fn relaunch(&mut self) -> Result<()> {
        for (id, outcome) in self.relaunch_and_recover().await? {
            outcome.with_context(|| format!("recover {id}"))?;
        }
        Ok(())
    }

    /// The same, with the outcome of each `RecoverTask`.
    pub async fn relaunch_and_recover(&mut self) -> Result<Vec<(String, Result<(), Status>)>> {
        self.relaunch_only().await?;
        let mut outcomes = Vec::new();
        for (id, handle) in self.shared.handles() {
            let request = RecoverTaskRequest {
                task_id: String::new(),
                handle: Some(persisted(&handle)),
            };
            outcomes.push((id, self.driver().recover_task(request).await.map(drop)));
        }
        Ok(outcomes)
    }

    /// A new plugin process, configured, without any recovery.
    pub async fn relaunch_only(&mut self) -> Result<()> {
        self.plugin.sigkill().await;
        self.plugin = launch(&self.opts, &self.config).await?;
        self.shared.replace_driver(self.plugin.driver());
        Ok(())
    }

    /// A new agent finds the old process: see [`Plugin::reattach`].
    pub async fn reattach(&mut self) -> Result<()> {
        self.plugin.reattach().await?;
        self.shared.replace_driver(self.plugin.driver());
        Ok(())
    }

    /// Waits for a fingerprint with that health.
    pub async fn wait_health(
        &self,
        health: crate::wire::driver::fingerprint_response::HealthState,
        deadline: Duration,
    ) -> Result<FingerprintResponse> {
        let search = async {
            let mut stream = self.fingerprint().await?;
            while let Some(found) = stream.message().await? {
                if found.health() == health {
                    return Ok(found);
                }
            }
            anyhow::bail!("the fingerprint stream ended")
        };
        tokio::time::timeout(deadline, search)
            .await
            .with_context(|| format!("no fingerprint {health:?} within {deadline:?}"))?
    }
}

async fn launch(opts: &RigOpts, config: &Json) -> Result<Plugin> {
    let plugin = Plugin::launch(&opts.bin, opts.launch.clone()).await?;
    plugin.configure(config).await?;
    plugin.init().await?;
    Ok(plugin)
}

//! A plugin under test, launched, configured, killed and re-attached the way a Nomad agent does it.

mod connection;
mod handshake;
mod pipes;
mod process;

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value as Json;
use tonic::{Code, Request};

pub use connection::{AuxEnd, Base, Connection, Controller, Driver, Health};
pub use handshake::Handshake;
pub use pipes::Pipe;
pub use process::{HOST_ENV, LaunchOpts, Process};

use crate::cty::Value;
use crate::schema;
use crate::wire::{base, driver, hclspec::Spec, plugin};

/// A running plugin process with one open connection. Dropping it kills the process by pid and removes its socket.
pub struct Plugin {
    process: Process,
    handshake: Handshake,
    connection: Connection,
    aux_streams: bool,
    launched: Instant,
    handshake_after: Duration,
}

/// How a kill sequence went.
#[derive(Clone, Debug)]
pub struct KillReport {
    /// The process had to be killed with SIGKILL.
    pub forced: bool,
    /// From `GRPCController.Shutdown` to the end of the process.
    pub took: Duration,
    pub status: Option<ExitStatus>,
    /// The socket file was still there after a voluntary exit.
    pub socket_left: bool,
}

impl Plugin {
    /// Spawns the binary, reads the handshake line and connects.
    pub async fn launch(bin: &Path, opts: LaunchOpts) -> Result<Plugin> {
        let launched = Instant::now();
        let process = Process::spawn(bin, &opts)?;
        let line = tokio::time::timeout(opts.handshake_timeout, process.stdout.first_line())
            .await
            .with_context(|| format!("no handshake within {:?}", opts.handshake_timeout))?;
        let Some(line) = line else {
            let status = process.wait_exit(Duration::from_secs(2)).await;
            bail!(
                "exit before the handshake ({status:?}); stderr: {}",
                process.stderr.lines().join("\n")
            );
        };
        let handshake = Handshake::parse(&line)?;
        let handshake_after = launched.elapsed();
        let connection = Connection::open(&handshake.socket(), opts.aux_streams).await?;
        Ok(Plugin {
            process,
            handshake,
            connection,
            aux_streams: opts.aux_streams,
            launched,
            handshake_after,
        })
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn handshake(&self) -> &Handshake {
        &self.handshake
    }

    /// Spawn to handshake line.
    pub fn handshake_after(&self) -> Duration {
        self.handshake_after
    }

    pub fn launched_at(&self) -> Instant {
        self.launched
    }

    pub fn socket(&self) -> PathBuf {
        self.handshake.socket()
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    pub fn stderr_lines(&self) -> Vec<String> {
        self.process.stderr.lines()
    }

    /// Lines after the handshake; a well-behaved plugin prints none.
    pub fn stdout_lines(&self) -> Vec<String> {
        self.process.stdout.lines().split_off(1)
    }

    /// When both pipes had reached EOF.
    pub fn pipes_eof_at(&self) -> Option<Instant> {
        Some(self.process.stdout.eof_at()?.max(self.process.stderr.eof_at()?))
    }

    /// Waits for EOF on both pipes.
    pub async fn pipes_eof(&self) -> Instant {
        self.process.stdout.eof().await.max(self.process.stderr.eof().await)
    }

    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// A further connection, independent of the first.
    pub async fn connect(&self) -> Result<Connection> {
        Connection::open(&self.socket(), self.aux_streams).await
    }

    pub fn base(&self) -> Base {
        self.connection.base()
    }

    pub fn driver(&self) -> Driver {
        self.connection.driver()
    }

    pub fn controller(&self) -> Controller {
        self.connection.controller()
    }

    pub fn health(&self) -> Health {
        self.connection.health()
    }

    pub async fn info(&self) -> Result<base::PluginInfoResponse> {
        Ok(self.base().plugin_info(base::PluginInfoRequest {}).await?.into_inner())
    }

    /// The plugin's own options.
    pub async fn config_schema(&self) -> Result<Option<Spec>> {
        Ok(self
            .base()
            .config_schema(base::ConfigSchemaRequest {})
            .await?
            .into_inner()
            .spec)
    }

    /// The options of a task.
    pub async fn task_schema(&self) -> Result<Spec> {
        let answer = self
            .driver()
            .task_config_schema(driver::TaskConfigSchemaRequest {})
            .await?
            .into_inner();
        answer.spec.context("nil spec: the plugin has no task schema")
    }

    /// `SetConfig` with an already decoded value, with the usual topology.
    pub async fn set_config(&self, value: &Value) -> Result<()> {
        self.set_config_raw(value.encode(), Some(topology())).await
    }

    /// Evaluates the plugin's schema against `config`, then `SetConfig` with the usual topology.
    pub async fn configure(&self, config: &Json) -> Result<()> {
        let value = self.plugin_config(config).await?;
        self.set_config(&value).await
    }

    /// The fully decoded value of a plugin configuration; an absent schema gives nil.
    pub async fn plugin_config(&self, config: &Json) -> Result<Value> {
        match self.config_schema().await? {
            Some(spec) => schema::evaluate(&spec, config),
            None => Ok(Value::Nil),
        }
    }

    pub async fn set_config_raw(&self, msgpack: Vec<u8>, nomad: Option<base::NomadConfig>) -> Result<()> {
        let request = base::SetConfigRequest {
            msgpack_config: msgpack,
            nomad_config: nomad,
            plugin_api_version: "v0.1.0".into(),
        };
        self.base().set_config(request).await?;
        Ok(())
    }

    /// `Driver.Init`; a plugin without it is tolerated.
    pub async fn init(&self) -> Result<()> {
        match self.driver().init(driver::InitRequest {}).await {
            Err(status) if status.code() != Code::Unimplemented => Err(status.into()),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The end of a clean agent: `Driver.Shutdown` (2 s), then the kill sequence of every launch.
    pub async fn shutdown(&self) -> Result<KillReport> {
        let mut request = Request::new(driver::ShutdownRequest {});
        request.set_timeout(Duration::from_secs(2));
        match self.driver().shutdown(request).await {
            Err(status) if status.code() != Code::Unimplemented => return Err(status.into()),
            Ok(_) | Err(_) => {}
        }
        Ok(self.kill_sequence().await)
    }

    /// `GRPCController.Shutdown` with its result ignored, 2 s of patience, SIGKILL.
    pub async fn kill_sequence(&self) -> KillReport {
        let begin = Instant::now();
        let limit = Duration::from_secs(2);
        let mut controller = self.controller();
        // The reply may be lost: the plugin is allowed to stop at once.
        tokio::time::timeout(limit, controller.shutdown(plugin::Empty {}))
            .await
            .ok();
        let mut status = self.process.wait_exit(limit).await;
        let forced = status.is_none();
        let socket_left = !forced && self.socket().exists();
        if forced {
            self.process.signal(Signal::KILL);
            status = self.process.wait_exit(limit).await;
        }
        KillReport {
            forced,
            took: begin.elapsed(),
            status,
            socket_left,
        }
    }

    /// SIGKILL, then waits for the process to be gone.
    pub async fn sigkill(&self) -> Option<ExitStatus> {
        self.process.signal(Signal::KILL);
        self.process.wait_exit(Duration::from_secs(10)).await
    }

    /// Any signal, by pid.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    pub async fn wait_exit(&self, timeout: Duration) -> Option<ExitStatus> {
        self.process.wait_exit(timeout).await
    }

    /// What a new agent does after the old one crashed: a throw-away connection, a new one, `PluginInfo`, `Init`, no `SetConfig`.
    pub async fn reattach(&mut self) -> Result<()> {
        drop(
            tokio::net::UnixStream::connect(self.socket())
                .await
                .context("throw-away connection")?,
        );
        self.connection = self.connect().await?;
        let info = self.info().await?;
        ensure!(
            info.plugin_api_versions.iter().any(|v| v == "v0.1.0"),
            "no common api version: {info:?}"
        );
        self.init().await
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.process.signal(Signal::KILL);
        std::fs::remove_file(self.socket()).ok();
    }
}

/// The three launches of an agent start: information, configuration twice, the instance that stays.
pub async fn launch_like_agent(bin: &Path, config: &Json, opts: LaunchOpts) -> Result<Plugin> {
    let probe = Plugin::launch(bin, opts.clone()).await.context("information probe")?;
    let info = probe.info().await?;
    ensure!(info.r#type() == base::PluginType::Driver, "not a driver: {info:?}");
    ensure!(
        info.plugin_api_versions.iter().any(|v| v == "v0.1.0"),
        "no common api version: {info:?}"
    );
    let value = probe.plugin_config(config).await?;
    probe.kill_sequence().await;
    if !value.is_nil() {
        let probe = Plugin::launch(bin, opts.clone()).await.context("configuration probe")?;
        probe.set_config_raw(value.encode(), None).await?;
        probe.set_config_raw(value.encode(), None).await?;
        probe.kill_sequence().await;
    }
    let instance = Plugin::launch(bin, opts).await.context("instance")?;
    let bytes = if value.is_nil() { Vec::new() } else { value.encode() };
    instance.set_config_raw(bytes, Some(topology())).await?;
    instance.init().await?;
    Ok(instance)
}

/// One NUMA node with four cores of 2000 MHz.
pub fn topology() -> base::NomadConfig {
    let core = |core_id| base::ClientTopologyCore {
        core_id,
        base_speed: 2000,
        ..Default::default()
    };
    let topology = base::ClientTopology {
        node_ids: vec![0],
        distances: Some(base::ClientTopologySlit {
            dimension: 1,
            values: vec![10],
        }),
        cores: (0..4).map(core).collect(),
        ..Default::default()
    };
    let driver = base::NomadDriverConfig {
        client_max_port: 14512,
        client_min_port: 14000,
        topology: Some(topology),
    };
    base::NomadConfig { driver: Some(driver) }
}

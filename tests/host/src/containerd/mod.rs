//! A private containerd: own root, state, socket and log, started and stopped at will, swept away at the end.

mod binaries;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

pub use binaries::{Binaries, ContainerdKind};

use crate::daemon::{Daemon, Recipe};
use crate::{procfs, sweep};

/// What containerd is asked with.
pub type Namespaced = InterceptedService<Channel, Namespace>;

/// Sets the `containerd-namespace` header on every request.
#[derive(Clone, Debug)]
pub struct Namespace(MetadataValue<Ascii>);

impl Interceptor for Namespace {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("containerd-namespace", self.0.clone());
        Ok(request)
    }
}

/// A private containerd. Dropping it kills daemon, shims and containers, unmounts and removes its directory.
pub struct Containerd {
    root: PathBuf,
    binaries: Binaries,
    daemon: Mutex<Option<Daemon>>,
    keep: bool,
    without_unified: bool,
    /// Where it serves when something else has its address.
    aside: OnceLock<PathBuf>,
}

/// Runs crun where no unified hierarchy is mounted. Only crun, and anew each time: a daemon in a mount namespace of its own
/// would not see what is mounted later, unless the whole tree is shared, as no init system may have made it.
const HIDE_UNIFIED: &str = "#!/bin/sh
exec unshare -m --propagation slave sh -c 'umount /sys/fs/cgroup/unified && exec \"$0\" \"$@\"' CRUN \"$@\"
";

impl Containerd {
    /// Starts one below `root`, which it creates and owns. `root` must be short: the socket path has to stay below 100 bytes.
    pub async fn start(kind: ContainerdKind, root: &Path) -> Result<Containerd> {
        Containerd::start_with(kind, root, "").await
    }

    /// The same with more lines for `config.toml`.
    pub async fn start_with(kind: ContainerdKind, root: &Path, extra_config: &str) -> Result<Containerd> {
        Containerd::begin(kind, root, extra_config, false).await
    }

    /// The same, whose crun does not see the unified hierarchy that lies beside version 1.
    pub async fn start_without_unified(kind: ContainerdKind, root: &Path, extra_config: &str) -> Result<Containerd> {
        Containerd::begin(kind, root, extra_config, true).await
    }

    async fn begin(kind: ContainerdKind, root: &Path, extra_config: &str, without_unified: bool) -> Result<Containerd> {
        let binaries = kind.locate()?;
        let containerd = Containerd {
            root: root.to_owned(),
            binaries,
            daemon: Mutex::new(None),
            keep: false,
            without_unified,
            aside: OnceLock::new(),
        };
        ensure!(
            containerd.socket().as_os_str().len() < 100,
            "socket path too long: {}",
            containerd.socket().display()
        );
        for dir in ["", "root", "state", "opt"] {
            std::fs::create_dir_all(root.join(dir))?;
        }
        std::fs::write(root.join("config.toml"), containerd.binaries.config(root, extra_config))?;
        if without_unified {
            containerd.wrap_crun()?;
        }
        containerd.start_again().await?;
        Ok(containerd)
    }

    /// A program before the daemon's `PATH` proper that takes crun's name.
    fn wrap_crun(&self) -> Result<()> {
        let path = self.binaries.path();
        let mut candidates = std::env::split_paths(&path).map(|dir| dir.join("crun"));
        let crun = candidates.find(|file| file.is_file()).context("there is no crun")?;
        let script = HIDE_UNIFIED.replace("CRUN", &crun.display().to_string());
        let own = self.own_programs();
        std::fs::create_dir_all(&own)?;
        std::fs::write(own.join("crun"), script)?;
        std::fs::set_permissions(own.join("crun"), std::fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    fn own_programs(&self) -> PathBuf {
        self.root.join("programs")
    }

    /// Starts the daemon if it does not run and waits until it serves.
    pub async fn start_again(&self) -> Result<()> {
        if self.pid().is_none() {
            let mut path = self.binaries.path();
            if self.without_unified {
                let dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
                path = std::env::join_paths(std::iter::once(self.own_programs()).chain(dirs))?;
            }
            let recipe = Recipe {
                bin: self.binaries.containerd.clone(),
                args: vec!["--config".into(), self.root.join("config.toml").into()],
                env: vec![("PATH".into(), path)],
                log: self.log_path(),
            };
            let daemon = Daemon::spawn(&recipe)?;
            *self.slot() = Some(daemon);
        }
        self.wait_serving(Duration::from_secs(30)).await
    }

    /// Polls the version service until it answers.
    pub async fn wait_serving(&self, timeout: Duration) -> Result<()> {
        let end = Instant::now() + timeout;
        loop {
            let error = match self.version().await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if self.pid().is_none() {
                bail!("containerd ended: {}", self.log_tail());
            }
            if Instant::now() > end {
                bail!(
                    "containerd does not serve after {timeout:?} ({error:#}): {}",
                    self.log_tail()
                );
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// Version and revision, from the running daemon.
    pub async fn version(&self) -> Result<(String, String)> {
        let endpoint =
            Endpoint::from_shared(format!("unix://{}", self.door().display()))?.connect_timeout(Duration::from_secs(2));
        let channel = endpoint.connect().await?;
        let mut client = containerd_client::services::v1::version_client::VersionClient::new(channel);
        let answer = tokio::time::timeout(Duration::from_secs(2), client.version(()))
            .await
            .context("no answer")??
            .into_inner();
        Ok((answer.version, answer.revision))
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Daemon>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The daemon's pid while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.slot()
            .as_ref()
            .filter(|daemon| daemon.exited().is_none())
            .map(Daemon::pid)
    }

    /// SIGTERM and wait. Containers keep running.
    pub async fn stop(&self) {
        let daemon = self.slot().take();
        if let Some(daemon) = daemon {
            daemon.stop().await;
        }
    }

    /// SIGKILL and wait. Containers keep running.
    pub async fn kill(&self) {
        let daemon = self.slot().take();
        if let Some(daemon) = daemon {
            daemon.kill().await;
        }
    }

    pub async fn restart(&self) -> Result<()> {
        self.stop().await;
        self.start_again().await
    }

    pub fn sigstop(&self) {
        self.signal(Signal::STOP);
    }

    pub fn sigcont(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(daemon) = self.slot().as_ref() {
            daemon.signal(signal);
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn state_dir(&self) -> PathBuf {
        self.root.join("state")
    }

    pub fn socket(&self) -> PathBuf {
        self.root.join("c.sock")
    }

    /// Leaves its address, [`Containerd::socket`], to something else that stands in front of it: a listening socket can be
    /// renamed. Its shims know it by that address all the same. The answer is where it serves from now on, until it is
    /// started again.
    pub fn step_aside(&self) -> Result<PathBuf> {
        let aside = self.root.join("aside.sock");
        std::fs::rename(self.socket(), &aside)?;
        Ok(self.aside.get_or_init(|| aside).clone())
    }

    /// Where this host's own calls go.
    fn door(&self) -> PathBuf {
        self.aside.get().cloned().unwrap_or_else(|| self.socket())
    }

    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    pub fn log_path(&self) -> PathBuf {
        self.root.join("containerd.log")
    }

    fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    /// A lazily connected channel; it belongs to the runtime this is called in.
    pub fn channel(&self) -> Result<Channel> {
        Ok(Endpoint::from_shared(format!("unix://{}", self.door().display()))?.connect_lazy())
    }

    /// A channel for the generated `…Client::new`, bound to a namespace.
    pub fn in_namespace(&self, namespace: &str) -> Result<Namespaced> {
        Ok(InterceptedService::new(
            self.channel()?,
            Namespace(namespace.parse().context("namespace")?),
        ))
    }

    /// Runs the matching `ctr` and returns its standard output.
    pub async fn ctr(&self, namespace: &str, args: &[&str]) -> Result<String> {
        let output = tokio::process::Command::new(&self.binaries.ctr)
            .arg("-a")
            .arg(self.door())
            .args(["-n", namespace])
            .args(args)
            .env("PATH", self.binaries.path())
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .context("run ctr")?;
        ensure!(
            output.status.success(),
            "ctr {args:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The shims of this containerd.
    pub fn shims(&self) -> Vec<u32> {
        procfs::programs_with_argument("containerd-shim-runc-v2", &self.socket().display().to_string())
    }

    /// The shim of one container.
    pub fn shim_of(&self, container: &str) -> Option<u32> {
        self.shims()
            .into_iter()
            .find(|pid| procfs::cmdline(*pid).iter().any(|arg| arg == container))
    }

    /// Leave directory, shims and containers alone on drop (the daemon is killed all the same).
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if let Some(daemon) = self.slot().take() {
            daemon.signal(Signal::CONT);
            daemon.kill_now();
        }
        if !self.keep {
            sweep::sweep(&self.root);
        }
    }
}

//! More ways to the images of a [`Registry`]: the same storage served with TLS, to whoever logs in, or as a mirror.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::certificates::Identity;
use crate::daemon::{Daemon, Recipe, which};
use crate::http;
use crate::registry::{LOGIN, LOGIN_HASH, Registry};
use crate::tokens::{ISSUER, SERVICE, TokenServer};

/// How a front serves. The default: everybody, over plain HTTP, on the loopback address.
#[derive(Clone, Debug, Default)]
pub struct Manner {
    /// The address to listen on instead of 127.0.0.1.
    pub ip: Option<String>,
    /// TLS with this certificate.
    pub tls: Option<Identity>,
    /// Only for clients whose certificate this authority has signed.
    pub clients_of: Option<PathBuf>,
    login: Option<String>,
    upstream: Option<String>,
}

impl Manner {
    pub fn ip(mut self, ip: impl Into<String>) -> Self {
        self.ip = Some(ip.into());
        self
    }

    pub fn tls(mut self, identity: &Identity) -> Self {
        self.tls = Some(identity.clone());
        self
    }

    pub fn clients_of(mut self, authority: PathBuf) -> Self {
        self.clients_of = Some(authority);
        self
    }

    /// Only for [`LOGIN`], by HTTP's basic authentication.
    pub fn basic(mut self, dir: &Path) -> Result<Self> {
        let users = dir.join("htpasswd-of-front");
        std::fs::write(&users, format!("{}:{LOGIN_HASH}\n", LOGIN.0))?;
        let realm = format!("  htpasswd:\n    realm: test\n    path: {}\n", users.display());
        self.login = Some(realm);
        Ok(self)
    }

    /// Only with a token of this server.
    pub fn tokens(mut self, server: &TokenServer) -> Self {
        self.login = Some(format!(
            "  token:\n    realm: {}\n    service: {SERVICE}\n    issuer: {ISSUER}\n    rootcertbundle: {}\n",
            server.realm(),
            server.certificate().display(),
        ));
        self
    }

    /// A pull-through cache of the registry at this URL, with a storage of its own.
    pub fn mirror_of(mut self, url: impl Into<String>) -> Self {
        self.upstream = Some(url.into());
        self
    }
}

/// A running front. Dropping it kills the daemon and removes its directory.
pub struct Front {
    addr: String,
    root: PathBuf,
    daemon: Option<Daemon>,
    recipe: Recipe,
}

impl Front {
    /// `root` is created and owned by the front.
    pub async fn open(registry: &Registry, root: &Path, manner: &Manner) -> Result<Front> {
        std::fs::create_dir_all(root)?;
        let bin = which("docker-registry").context("no docker-registry")?;
        let ip = manner.ip.as_deref().unwrap_or("127.0.0.1");
        // The port may be taken between the probe and the daemon's bind; another one then.
        for _ in 0..5 {
            let port = std::net::TcpListener::bind((ip, 0))?.local_addr()?.port();
            let addr = format!("{ip}:{port}");
            let config = root.join("config.yml");
            std::fs::write(&config, config_text(registry, root, &addr, manner)?)?;
            let recipe = Recipe {
                bin: bin.clone(),
                args: vec!["serve".into(), config.into()],
                env: vec![("OTEL_TRACES_EXPORTER".into(), "none".into())],
                log: root.join("registry.log"),
            };
            let mut front = Front {
                addr,
                root: root.to_owned(),
                daemon: None,
                recipe,
            };
            if front.start_again().await.is_ok() {
                return Ok(front);
            }
        }
        bail!(
            "the front does not start: {}",
            std::fs::read_to_string(root.join("registry.log")).unwrap_or_default()
        )
    }

    /// Starts the daemon on the same address, if it does not run.
    pub async fn start_again(&mut self) -> Result<()> {
        if self.daemon.as_ref().is_none_or(|daemon| daemon.exited().is_some()) {
            self.daemon = Some(Daemon::spawn(&self.recipe)?);
        }
        let end = Instant::now() + Duration::from_secs(15);
        // Whatever it answers, it serves: with TLS it says 400 to this.
        while http::request(&self.addr, "GET", "/v2/", "text/plain", &[])
            .await
            .is_err()
        {
            ensure!(
                self.daemon.as_ref().is_some_and(|daemon| daemon.exited().is_none()),
                "the front ended"
            );
            ensure!(Instant::now() < end, "the front does not serve");
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        Ok(())
    }

    pub async fn stop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.kill().await;
        }
    }

    /// Connections are accepted by the kernel from now on, nothing is answered.
    pub fn sigstop(&self) {
        if let Some(daemon) = &self.daemon {
            daemon.signal(Signal::STOP);
        }
    }

    /// `<ip>:<port>`.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// `<ip>:<port>/<name>:<tag>`.
    pub fn reference(&self, name: &str, tag: &str) -> String {
        format!("{}/{name}:{tag}", self.addr)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.kill_now();
        }
        std::fs::remove_dir_all(&self.root).ok();
    }
}

fn config_text(registry: &Registry, root: &Path, addr: &str, manner: &Manner) -> Result<String> {
    let storage = match manner.upstream {
        Some(_) => root.join("storage"),
        None => registry.storage(),
    };
    let mut text = format!(
        "version: 0.1\nlog:\n  level: warn\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n\
         http:\n  addr: {addr}\n  secret: test\n",
        storage.display()
    );
    if let Some(identity) = &manner.tls {
        let (certificate, key) = (identity.certificate.display(), identity.key.display());
        write!(text, "  tls:\n    certificate: {certificate}\n    key: {key}\n")?;
        if let Some(authority) = &manner.clients_of {
            write!(text, "    clientcas:\n      - {}\n", authority.display())?;
        }
    }
    if let Some(login) = &manner.login {
        write!(text, "auth:\n{login}")?;
    }
    if let Some(upstream) = &manner.upstream {
        write!(text, "proxy:\n  remoteurl: {upstream}\n")?;
    }
    Ok(text)
}

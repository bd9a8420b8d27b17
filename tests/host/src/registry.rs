//! A private registry on a free port of the loopback interface, over plain HTTP.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::daemon::{Daemon, Recipe, which};
use crate::http;
use crate::image::{self, Blob, Image, ImageConfig};

/// User and password of a registry that wants a login.
pub const LOGIN: (&str, &str) = ("user-of-test", "secret-of-test");

/// The password as `htpasswd -B` has it.
pub(crate) const LOGIN_HASH: &str = "$2b$04$6GrFP8rbkjL45vo/GrRS9ODfu9lY2SfRYZxp63GuB0JqXu83yu8CC";

/// A running registry. Dropping it kills the daemon and removes its storage.
pub struct Registry {
    addr: String,
    root: PathBuf,
    daemon: Option<Daemon>,
    recipe: Recipe,
}

impl Registry {
    /// Starts `docker-registry` with its storage below `root`, which it creates and owns.
    pub async fn start(root: &Path) -> Result<Registry> {
        std::fs::create_dir_all(root)?;
        let bin = which("docker-registry").context("no docker-registry")?;
        // The port may be taken between the probe and the daemon's bind; another one then.
        for _ in 0..5 {
            let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            let addr = format!("127.0.0.1:{port}");
            let config = root.join("config.yml");
            std::fs::write(&config, config_text(root, &addr))?;
            let recipe = Recipe {
                bin: bin.clone(),
                args: vec!["serve".into(), config.into()],
                env: vec![("OTEL_TRACES_EXPORTER".into(), "none".into())],
                log: root.join("registry.log"),
            };
            let mut registry = Registry {
                addr,
                root: root.to_owned(),
                daemon: None,
                recipe,
            };
            if registry.start_again().await.is_ok() {
                return Ok(registry);
            }
        }
        bail!(
            "the registry does not start: {}",
            std::fs::read_to_string(root.join("registry.log")).unwrap_or_default()
        )
    }

    /// Starts the daemon on the same port with the same storage, if it does not run.
    pub async fn start_again(&mut self) -> Result<()> {
        if self.daemon.as_ref().is_none_or(|daemon| daemon.exited().is_some()) {
            self.daemon = Some(Daemon::spawn(&self.recipe)?);
        }
        let end = Instant::now() + Duration::from_secs(15);
        loop {
            if let Ok(answer) = http::request(&self.addr, "GET", "/v2/", "text/plain", &[]).await
                // 401: it serves, to whoever logs in.
                && matches!(answer.status, 200 | 401)
            {
                return Ok(());
            }
            ensure!(
                self.daemon.as_ref().is_some_and(|daemon| daemon.exited().is_none()),
                "the registry ended"
            );
            ensure!(Instant::now() < end, "the registry does not serve");
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// From now on it serves only [`LOGIN`]. Nothing can be pushed any more.
    pub async fn require_login(&mut self) -> Result<()> {
        self.stop().await;
        let users = self.root.join("htpasswd");
        std::fs::write(&users, format!("{}:{LOGIN_HASH}\n", LOGIN.0))?;
        let config = config_text(&self.root, &self.addr);
        let auth = format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", users.display());
        std::fs::write(self.root.join("config.yml"), config + &auth)?;
        self.start_again().await
    }

    /// From now on it serves everybody again.
    pub async fn let_all_in(&mut self) -> Result<()> {
        self.stop().await;
        std::fs::write(self.root.join("config.yml"), config_text(&self.root, &self.addr))?;
        self.start_again().await
    }

    pub async fn stop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.kill().await;
        }
    }

    /// Freezes the daemon: connections are accepted by the kernel, nothing is answered.
    pub fn sigstop(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    pub fn sigcont(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        if let Some(daemon) = &self.daemon {
            daemon.signal(signal);
        }
    }

    /// `127.0.0.1:<port>`.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// `127.0.0.1:<port>/<name>:<tag>`.
    pub fn reference(&self, name: &str, tag: &str) -> String {
        format!("{}/{name}:{tag}", self.addr)
    }

    /// What it keeps: another registry on it serves the same images.
    pub fn storage(&self) -> PathBuf {
        self.root.join("storage")
    }

    pub fn log_path(&self) -> PathBuf {
        self.root.join("registry.log")
    }

    /// Builds and pushes a busybox image; returns its reference by tag.
    pub async fn push_busybox(&self, name: &str, tag: &str, tweaks: &ImageConfig) -> Result<String> {
        let image = image::busybox(tweaks)?;
        self.push(name, tag, &image).await?;
        Ok(self.reference(name, tag))
    }

    /// Pushes an image; returns the digest of its manifest.
    pub async fn push(&self, name: &str, tag: &str, image: &Image) -> Result<String> {
        self.push_parts(name, image).await?;
        self.push_document(name, tag, image.media_type, &image.manifest).await
    }

    /// Everything of an image but its name: what an index refers to.
    pub async fn push_parts(&self, name: &str, image: &Image) -> Result<()> {
        for blob in image.layers.iter().chain([&image.config]) {
            self.push_blob(name, blob).await?;
        }
        let by_digest = &image.manifest.digest;
        self.push_document(name, by_digest, image.media_type, &image.manifest)
            .await
            .map(drop)
    }

    /// A manifest or an index under a tag or its digest; returns the digest.
    pub async fn push_document(&self, name: &str, tag: &str, media_type: &str, document: &Blob) -> Result<String> {
        let target = format!("/v2/{name}/manifests/{tag}");
        let answer = http::request(&self.addr, "PUT", &target, media_type, &document.bytes).await?;
        ensure!(
            answer.status == 201,
            "push of manifest {name}:{tag}: {} {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        );
        Ok(document.digest.clone())
    }

    async fn push_blob(&self, name: &str, blob: &Blob) -> Result<()> {
        let known = http::request(
            &self.addr,
            "HEAD",
            &format!("/v2/{name}/blobs/{}", blob.digest),
            "text/plain",
            &[],
        )
        .await?;
        if known.status == 200 {
            return Ok(());
        }
        let begun = http::request(
            &self.addr,
            "POST",
            &format!("/v2/{name}/blobs/uploads/"),
            "text/plain",
            &[],
        )
        .await?;
        ensure!(begun.status == 202, "begin of an upload to {name}: {}", begun.status);
        let place = begun.header("location").context("upload without location")?;
        let joint = if place.contains('?') { '&' } else { '?' };
        let target = format!("{place}{joint}digest={}", blob.digest);
        let answer = http::request(&self.addr, "PUT", &target, "application/octet-stream", &blob.bytes).await?;
        ensure!(
            answer.status == 201,
            "push of {} to {name}: {}",
            blob.digest,
            answer.status
        );
        Ok(())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.kill_now();
        }
        std::fs::remove_dir_all(&self.root).ok();
    }
}

fn config_text(root: &Path, addr: &str) -> String {
    let storage = root.join("storage");
    format!(
        "version: 0.1\nlog:\n  level: warn\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n\
         http:\n  addr: {addr}\n  secret: test\n",
        storage.display()
    )
}

//! Which containerd is meant, and the configuration it needs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::daemon::which;

/// The versions under test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerdKind {
    /// Debian 12's 1.6: `CD_CONTAINERD_16`, else `/usr/bin/containerd`.
    Debian16,
    /// 2.4: the directory `CD_CONTAINERD_24` with `containerd`, `ctr` and `containerd-shim-runc-v2`.
    V24,
    /// A binary, or a directory with the three binaries.
    At(PathBuf),
}

/// The programs of one installation.
#[derive(Clone, Debug)]
pub struct Binaries {
    pub containerd: PathBuf,
    pub ctr: PathBuf,
    /// First directory of the daemon's PATH: its own shim must be found before any other.
    pub dir: PathBuf,
    /// `containerd --version`, third word.
    pub version: String,
    pub major: u32,
}

impl ContainerdKind {
    /// Both kinds that are installed here.
    pub fn available() -> Vec<ContainerdKind> {
        [ContainerdKind::Debian16, ContainerdKind::V24]
            .into_iter()
            .filter(|kind| kind.locate().is_ok())
            .collect()
    }

    pub fn locate(&self) -> Result<Binaries> {
        let env = |name: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        match self {
            ContainerdKind::Debian16 => {
                Binaries::at(&env("CD_CONTAINERD_16").unwrap_or_else(|| "/usr/bin/containerd".into()))
            }
            ContainerdKind::V24 => {
                Binaries::at(&env("CD_CONTAINERD_24").context("CD_CONTAINERD_24 names no directory")?)
            }
            ContainerdKind::At(path) => Binaries::at(path),
        }
    }
}

impl Binaries {
    /// From a binary or the directory that holds it.
    pub fn at(path: &Path) -> Result<Binaries> {
        let containerd = match path.is_dir() {
            true => path.join("containerd"),
            false => path.to_owned(),
        };
        ensure!(containerd.is_file(), "no containerd at {}", containerd.display());
        let dir = containerd
            .parent()
            .context("containerd without a directory")?
            .to_owned();
        let output = Command::new(&containerd)
            .arg("--version")
            .output()
            .context("containerd --version")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text
            .split_whitespace()
            .nth(2)
            .unwrap_or_default()
            .trim_start_matches('v')
            .to_owned();
        let major = version
            .split('.')
            .next()
            .and_then(|n| n.parse().ok())
            .with_context(|| format!("version in {text:?}"))?;
        let ctr = dir.join("ctr");
        let ctr = if ctr.is_file() {
            ctr
        } else {
            which("ctr").context("no ctr")?
        };
        Ok(Binaries {
            containerd,
            ctr,
            dir,
            version,
            major,
        })
    }

    /// The daemon's PATH.
    pub fn path(&self) -> OsString {
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let usual = [
            "/usr/local/sbin",
            "/usr/local/bin",
            "/usr/sbin",
            "/usr/bin",
            "/sbin",
            "/bin",
        ]
        .map(PathBuf::from);
        let dirs = std::iter::once(self.dir.clone())
            .chain(std::env::split_paths(&inherited))
            .chain(usual);
        std::env::join_paths(dirs).unwrap_or(inherited)
    }

    /// A configuration that touches nothing outside `root` (the shims' own sockets excepted: their place is compiled in).
    pub fn config(&self, root: &Path, extra: &str) -> String {
        let version = if self.major >= 2 { 3 } else { 2 };
        let disabled = match self.major {
            0 | 1 => r#"["io.containerd.grpc.v1.cri"]"#,
            _ => {
                r#"["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri"]"#
            }
        };
        let root = root.display();
        format!(
            "version = {version}\nroot = \"{root}/root\"\nstate = \"{root}/state\"\noom_score = 0\nimports = []\n\
             disabled_plugins = {disabled}\n\n[grpc]\n  address = \"{root}/c.sock\"\n\n[ttrpc]\n  address = \"{root}/c.sock.ttrpc\"\n\n\
             [debug]\n  level = \"info\"\n\n[plugins.\"io.containerd.internal.v1.opt\"]\n  path = \"{root}/opt\"\n{extra}"
        )
    }
}

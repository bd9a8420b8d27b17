//! A small image made of the static busybox of this machine.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// Programs linked to busybox in `/bin`.
const APPLETS: &[&str] = &[
    "[",
    "ash",
    "basename",
    "cat",
    "chmod",
    "chown",
    "cp",
    "cut",
    "date",
    "dd",
    "df",
    "echo",
    "env",
    "expr",
    "false",
    "find",
    "grep",
    "head",
    "hostname",
    "id",
    "ip",
    "kill",
    "ln",
    "ls",
    "md5sum",
    "mkdir",
    "mkfifo",
    "mount",
    "mv",
    "nc",
    "nproc",
    "printenv",
    "printf",
    "ps",
    "pwd",
    "readlink",
    "rm",
    "rmdir",
    "sed",
    "seq",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "stty",
    "sync",
    "tail",
    "tee",
    "test",
    "timeout",
    "touch",
    "tr",
    "true",
    "tty",
    "umount",
    "uname",
    "uniq",
    "usleep",
    "vi",
    "wc",
    "wget",
    "which",
    "whoami",
    "xargs",
    "yes",
];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\napp:x:1000:1000:app:/home/app:/bin/sh\n";
/// `app` is also in `extra` (2000).
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\napp:x:1000:\nextra:x:2000:app\n";

/// The image configuration a test may want to change. The default runs `sh` as root in `/`.
#[derive(Clone, Debug, Default)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// Added to the default `PATH`.
    pub env: Vec<String>,
    pub user: String,
    pub workdir: String,
    pub stop_signal: String,
    pub labels: Vec<(String, String)>,
    /// VOLUME paths.
    pub volumes: Vec<String>,
    /// Symbolic links in the image: path without the first slash, and target. Directories on the way are made.
    pub links: Vec<(String, String)>,
    /// Paths, without the first slash, at which the image has a named pipe.
    pub pipes: Vec<String>,
    /// Directories of the image: path without the first slash, mode and owner, who is also the group.
    pub dirs: Vec<(String, u32, u64)>,
    /// A second layer of this many incompressible bytes, for slow pulls.
    pub ballast: usize,
    /// Distinguishes layers of otherwise equal images, so that each is really pulled.
    pub salt: String,
}

impl ImageConfig {
    pub fn cmd<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.cmd = args.into_iter().map(Into::into).collect();
        self
    }

    pub fn entrypoint<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.entrypoint = args.into_iter().map(Into::into).collect();
        self
    }

    pub fn env(mut self, entry: impl Into<String>) -> Self {
        self.env.push(entry.into());
        self
    }

    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = user.into();
        self
    }

    pub fn workdir(mut self, dir: impl Into<String>) -> Self {
        self.workdir = dir.into();
        self
    }

    pub fn volume(mut self, path: impl Into<String>) -> Self {
        self.volumes.push(path.into());
        self
    }

    pub fn link(mut self, path: impl Into<String>, target: impl Into<String>) -> Self {
        self.links.push((path.into(), target.into()));
        self
    }

    pub fn pipe(mut self, path: impl Into<String>) -> Self {
        self.pipes.push(path.into());
        self
    }

    pub fn dir(mut self, path: impl Into<String>, mode: u32, owner: u64) -> Self {
        self.dirs.push((path.into(), mode, owner));
        self
    }

    pub fn stop_signal(mut self, signal: impl Into<String>) -> Self {
        self.stop_signal = signal.into();
        self
    }

    pub fn ballast(mut self, bytes: usize) -> Self {
        self.ballast = bytes;
        self
    }

    pub fn salt(mut self, salt: impl Into<String>) -> Self {
        self.salt = salt.into();
        self
    }
}

/// Something the registry stores under its digest.
pub struct Blob {
    pub bytes: Vec<u8>,
    pub digest: String,
}

impl Blob {
    pub fn new(bytes: Vec<u8>) -> Blob {
        let digest = digest(&bytes);
        Blob { bytes, digest }
    }
}

/// Manifest, configuration and layers.
pub struct Image {
    /// Of the manifest.
    pub media_type: &'static str,
    pub manifest: Blob,
    pub config: Blob,
    pub layers: Vec<Blob>,
}

pub const MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// `sha256:…` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        // Writing to a string cannot fail.
        write!(text, "{byte:02x}").ok();
    }
    text
}

/// The static busybox of this machine.
pub fn busybox_path() -> Result<PathBuf> {
    ["/bin/busybox", "/usr/bin/busybox"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.is_file())
        .context("no busybox: install busybox-static")
}

/// Builds the image.
pub fn busybox(tweaks: &ImageConfig) -> Result<Image> {
    let mut tars = vec![base_layer(&tweaks.salt)?];
    if tweaks.ballast > 0 {
        tars.push(ballast_layer(tweaks)?);
    }
    if !tweaks.links.is_empty() || !tweaks.pipes.is_empty() || !tweaks.dirs.is_empty() {
        tars.push(odd_layer(tweaks)?);
    }
    let diff_ids: Vec<String> = tars.iter().map(|tar| digest(tar)).collect();
    let layers = tars
        .iter()
        .map(|tar| Ok(Blob::new(gzip(tar)?)))
        .collect::<Result<Vec<_>>>()?;
    let config = Blob::new(configuration(tweaks, architecture(), &diff_ids)?);
    let entry = |kind: &str, blob: &Blob| json!({"mediaType": kind, "size": blob.bytes.len(), "digest": blob.digest});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST_TYPE,
        "config": entry("application/vnd.docker.container.image.v1+json", &config),
        "layers": layers.iter().map(|layer| entry("application/vnd.docker.image.rootfs.diff.tar.gzip", layer)).collect::<Vec<_>>(),
    });
    Ok(Image {
        media_type: MANIFEST_TYPE,
        manifest: Blob::new(serde_json::to_vec(&manifest)?),
        config,
        layers,
    })
}

/// This machine's, as images name it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The configuration document of an image with these layers.
pub(crate) fn configuration(tweaks: &ImageConfig, architecture: &str, diff_ids: &[String]) -> Result<Vec<u8>> {
    let mut env = vec!["PATH=/bin".to_owned()];
    env.extend(tweaks.env.iter().cloned());
    let or_null = |items: &[String]| if items.is_empty() { Json::Null } else { json!(items) };
    let cmd = if tweaks.cmd.is_empty() && tweaks.entrypoint.is_empty() {
        json!(["sh"])
    } else {
        or_null(&tweaks.cmd)
    };
    let labels: serde_json::Map<String, Json> = tweaks.labels.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
    let mut config = json!({
        "Env": env, "Entrypoint": or_null(&tweaks.entrypoint), "Cmd": cmd, "User": tweaks.user, "WorkingDir": tweaks.workdir, "Labels": labels,
    });
    if !tweaks.stop_signal.is_empty() {
        config["StopSignal"] = json!(tweaks.stop_signal);
    }
    if !tweaks.volumes.is_empty() {
        let volumes = tweaks.volumes.iter().map(|path| (path.clone(), json!({})));
        config["Volumes"] = Json::Object(volumes.collect());
    }
    let config = json!({
        "architecture": architecture, "os": "linux", "created": "2020-01-01T00:00:00Z", "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": [],
    });
    Ok(serde_json::to_vec(&config)?)
}

pub(crate) fn base_layer(salt: &str) -> Result<Vec<u8>> {
    let program = std::fs::read(busybox_path()?).context("read busybox")?;
    let mut tar = Builder::new(Vec::new());
    for (dir, mode, owner) in [
        ("bin/", 0o755, 0),
        ("etc/", 0o755, 0),
        ("dev/", 0o755, 0),
        ("proc/", 0o755, 0),
        ("sys/", 0o755, 0),
        ("root/", 0o700, 0),
        ("tmp/", 0o1777, 0),
        ("var/", 0o755, 0),
        ("var/tmp/", 0o1777, 0),
        ("home/", 0o755, 0),
        ("home/app/", 0o755, 1000),
        ("run/", 0o755, 0),
    ] {
        add(&mut tar, EntryType::Directory, dir, mode, owner, &[])?;
    }
    add(&mut tar, EntryType::Regular, "bin/busybox", 0o755, 0, &program)?;
    for applet in APPLETS {
        let mut header = header(EntryType::Symlink, 0o777, 0, 0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    add(&mut tar, EntryType::Regular, "etc/passwd", 0o644, 0, PASSWD.as_bytes())?;
    add(&mut tar, EntryType::Regular, "etc/group", 0o644, 0, GROUP.as_bytes())?;
    if !salt.is_empty() {
        add(&mut tar, EntryType::Regular, "etc/salt", 0o644, 0, salt.as_bytes())?;
    }
    Ok(tar.into_inner()?)
}

fn ballast_layer(tweaks: &ImageConfig) -> Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    let mut seed = tweaks
        .salt
        .bytes()
        .fold(0x9e37_79b9_7f4a_7c15_u64, |acc, b| acc.rotate_left(7) ^ u64::from(b));
    let mut noise = Vec::with_capacity(tweaks.ballast + 8);
    while noise.len() < tweaks.ballast {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        noise.extend(seed.to_le_bytes());
    }
    noise.truncate(tweaks.ballast);
    add(&mut tar, EntryType::Regular, "var/ballast", 0o644, 0, &noise)?;
    Ok(tar.into_inner()?)
}

fn odd_layer(tweaks: &ImageConfig) -> Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    for (path, target) in &tweaks.links {
        let mut header = header(EntryType::Symlink, 0o777, 0, 0);
        tar.append_link(&mut header, path, target)
            .with_context(|| format!("link {path}"))?;
    }
    for (path, mode, owner) in &tweaks.dirs {
        add(&mut tar, EntryType::Directory, path, *mode, *owner, &[])?;
    }
    for path in &tweaks.pipes {
        add(&mut tar, EntryType::Fifo, path, 0o644, 0, &[])?;
    }
    Ok(tar.into_inner()?)
}

pub(crate) fn header(kind: EntryType, mode: u32, owner: u64, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner);
    header.set_gid(owner);
    header.set_mtime(1_577_836_800);
    header.set_size(size);
    header
}

pub(crate) fn add(
    tar: &mut Builder<Vec<u8>>,
    kind: EntryType,
    path: &str,
    mode: u32,
    owner: u64,
    bytes: &[u8],
) -> Result<()> {
    let mut header = header(kind, mode, owner, bytes.len() as u64);
    tar.append_data(&mut header, path, bytes)
        .with_context(|| format!("tar entry {path}"))
}

pub(crate) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

//! What an image consists of, read from its JSON documents: which manifest is for this machine, which blobs and labels
//! it needs. Pure. Documents come from registries: nothing in them is trusted to be sane.

use crate::containerd::{Descriptor, Labels};
use crate::spec::identity::{Digest, chain_id};
use crate::spec::image::ImageFacts;
use serde::Deserialize;
use std::collections::BTreeMap;

pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Limit for an index, a manifest or a config (containerd's for manifests is 8 MB too).
pub(super) const DOCUMENT_MAX_BYTES: u64 = 8 << 20;

/// An index or a manifest.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Document {
    Index(Vec<Entry>),
    Manifest(Manifest),
}

/// One image of an index.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) target: Descriptor,
    platform: Option<Platform>,
    attestation: bool,
}

/// What one image is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

/// The config blob as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Config {
    /// Digests of the uncompressed layers.
    pub(super) diff_ids: Vec<Digest>,
    /// All but the files of the image.
    pub(super) facts: ImageFacts,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    variant: String,
    #[serde(default, rename = "os.features")]
    features: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: u32,
    media_type: Option<String>,
    manifests: Option<Vec<RawDescriptor>>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(flatten)]
    platform: Platform,
    config: Option<RawRun>,
    rootfs: Option<RawRootfs>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct RawRun {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    volumes: Option<BTreeMap<String, serde_json::Value>>,
}

#[derive(Deserialize)]
struct RawRootfs {
    diff_ids: Option<Vec<String>>,
}

impl RawDescriptor {
    fn check(self) -> Result<Descriptor, String> {
        let digest = Digest::parse(&self.digest)?;
        Ok(Descriptor {
            media_type: self.media_type,
            digest: digest.as_str().to_owned(),
            size: self.size,
        })
    }
}

/// Reads an index or a manifest; also says which media type it is.
pub(super) fn document(json: &[u8]) -> Result<(Document, &'static str), String> {
    let raw: RawDocument = serde_json::from_slice(json).map_err(|e| format!("its manifest cannot be read: {e}"))?;
    if raw.schema_version != 2 {
        return Err(format!(
            "its manifest has schema version {}; only version 2 is supported",
            raw.schema_version
        ));
    }
    let docker = raw
        .media_type
        .as_deref()
        .is_some_and(|m| m.starts_with("application/vnd.docker."));
    match (raw.manifests, raw.config, raw.layers) {
        (Some(manifests), None, None) => {
            let entries = manifests.into_iter().map(entry).collect::<Result<_, _>>()?;
            Ok((Document::Index(entries), if docker { DOCKER_LIST } else { OCI_INDEX }))
        }
        (None, Some(config), Some(layers)) => {
            let layers = layers.into_iter().map(RawDescriptor::check).collect::<Result<_, _>>()?;
            let manifest = Manifest {
                config: config.check()?,
                layers,
            };
            Ok((
                Document::Manifest(manifest),
                if docker { DOCKER_MANIFEST } else { OCI_MANIFEST },
            ))
        }
        // Both at once would mean different images to different readers (CVE-2021-41190).
        _ => Err("its manifest is neither an index nor an image".to_owned()),
    }
}

fn entry(raw: RawDescriptor) -> Result<Entry, String> {
    let attestation = raw
        .annotations
        .as_ref()
        .is_some_and(|a| a.contains_key("vnd.docker.reference.type"));
    let platform = raw.platform.clone();
    Ok(Entry {
        target: raw.check()?,
        platform,
        attestation,
    })
}

/// The entry for this machine.
pub(super) fn choose<'a>(entries: &'a [Entry], architecture: &str) -> Result<&'a Descriptor, String> {
    let best = entries
        .iter()
        .enumerate()
        .filter(|(_, entry)| !entry.attestation)
        .filter_map(|(i, entry)| rank(entry, architecture).map(|rank| (rank, i, &entry.target)))
        // Of equals the first, as containerd does.
        .max_by_key(|(rank, i, _)| (*rank, std::cmp::Reverse(*i)));
    best.map(|(_, _, target)| target).ok_or_else(|| {
        let offered: Vec<String> = entries.iter().filter(|e| !e.attestation).map(offer).collect();
        if offered.is_empty() {
            return "its index names no image for any machine".to_owned();
        }
        format!(
            "it is not for this machine (linux/{architecture}) but for {}",
            offered.join(", ")
        )
    })
}

/// The usual name of an architecture that some call by the kernel's (containerd's `platforms.Normalize`).
fn usual(architecture: &str) -> &str {
    match architecture {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// How well an entry fits; `None`: not at all.
fn rank(entry: &Entry, architecture: &str) -> Option<u8> {
    let Some(platform) = &entry.platform else {
        return Some(0);
    };
    if platform.os != "linux" || usual(&platform.architecture) != architecture {
        return None;
    }
    if !platform.features.is_empty() {
        // What it asks of the machine is not known here, such as layers of another form: where there is nothing else.
        return Some(0);
    }
    match (architecture, platform.variant.as_str()) {
        ("arm", "v7") => Some(4),
        ("arm", "v6") => Some(3),
        ("arm", "v5") => Some(2),
        ("amd64", "" | "v1") | ("arm64", "" | "v8") => Some(4),
        // Variants beyond the base may need instructions that this machine lacks.
        ("amd64" | "arm64" | "arm", variant) if !variant.is_empty() => None,
        _ => Some(1),
    }
}

fn offer(entry: &Entry) -> String {
    match &entry.platform {
        Some(p) if p.variant.is_empty() => format!("{}/{}", p.os, p.architecture),
        Some(p) => format!("{}/{}/{}", p.os, p.architecture, p.variant),
        None => "an unnamed platform".to_owned(),
    }
}

/// Reads the config of an image for this architecture with this many layers.
pub(super) fn config(json: &[u8], architecture: &str, layers: usize) -> Result<Config, String> {
    let raw: RawConfig = serde_json::from_slice(json).map_err(|e| format!("its config cannot be read: {e}"))?;
    let fits = |value: &str, want: &str| value.is_empty() || value == want;
    if !fits(&raw.platform.os, "linux") || !fits(usual(&raw.platform.architecture), architecture) {
        let (os, arch) = (raw.platform.os, raw.platform.architecture);
        return Err(format!("it is for {os}/{arch}, this machine is linux/{architecture}"));
    }
    let diff_ids = raw.rootfs.and_then(|r| r.diff_ids).unwrap_or_default();
    let diff_ids = diff_ids
        .iter()
        .map(|d| Digest::parse(d))
        .collect::<Result<Vec<_>, _>>()?;
    if diff_ids.len() != layers {
        return Err(format!(
            "its config names {} layers, its manifest {layers}",
            diff_ids.len()
        ));
    }
    let run = raw.config.unwrap_or_default();
    let facts = ImageFacts {
        chain_id: chain_id(&diff_ids),
        entrypoint: run.entrypoint.unwrap_or_default(),
        cmd: run.cmd.unwrap_or_default(),
        env: run.env.unwrap_or_default(),
        user: run.user.unwrap_or_default(),
        working_dir: run.working_dir.unwrap_or_default(),
        stop_signal: run.stop_signal.filter(|s| !s.is_empty()),
        volumes: run.volumes.unwrap_or_default().into_keys().collect(),
        directories: BTreeMap::new(),
        passwd: String::new(),
        group: String::new(),
    };
    Ok(Config { diff_ids, facts })
}

/// This machine's architecture as images name it.
pub(super) use crate::spec::platform::architecture;

/// What an index holds on to: all its images, numbered by their kinds as containerd does (`images.ChildGCLabels`). Those that are
/// not here hold nothing.
pub(super) fn index_labels(entries: &[Entry]) -> Labels {
    let is_manifest = |entry: &&Entry| matches!(entry.target.media_type.as_str(), OCI_MANIFEST | DOCKER_MANIFEST);
    let (manifests, others): (Vec<&Entry>, Vec<&Entry>) = entries.iter().partition(is_manifest);
    [("m.", manifests), ("", others)]
        .into_iter()
        .flat_map(|(kind, entries)| entries.into_iter().enumerate().map(move |(i, entry)| (kind, i, entry)))
        .map(|(kind, i, entry)| {
            (
                format!("containerd.io/gc.ref.content.{kind}{i}"),
                entry.target.digest.clone(),
            )
        })
        .collect()
}

/// What a manifest holds on to.
pub(super) fn manifest_labels(manifest: &Manifest) -> Labels {
    let layers = manifest.layers.iter().enumerate();
    let mut labels: Labels = layers
        .map(|(i, layer)| (format!("containerd.io/gc.ref.content.l.{i}"), layer.digest.clone()))
        .collect();
    labels.insert(
        "containerd.io/gc.ref.content.config".to_owned(),
        manifest.config.digest.clone(),
    );
    labels
}

/// What a config holds on to: the unpacked layers.
pub(super) fn config_labels(snapshotter: &str, chain: Option<&Digest>) -> Labels {
    let key = format!("containerd.io/gc.ref.snapshot.{snapshotter}");
    chain
        .map(|chain| (key, chain.as_str().to_owned()))
        .into_iter()
        .collect()
}

/// The label that tells where a blob came from, added to what it already says.
pub(super) fn source_labels(registry: &str, repository: &str, present: Option<&Labels>) -> Labels {
    /// containerd's limit for key and value of a label together.
    const LABEL_MAX: usize = 4096;
    if present.is_some_and(|labels| is_from(labels, registry, repository)) {
        return Labels::new();
    }
    let key = source_key(registry);
    let value = match present.and_then(|labels| labels.get(&key)).map(String::as_str) {
        None | Some("") => repository.to_owned(),
        Some(old) => format!("{old},{repository}"),
    };
    if key.len() + value.len() > LABEL_MAX {
        Labels::new()
    } else {
        Labels::from([(key, value)])
    }
}

/// Whether a blob with these labels has come from this repository.
pub(super) fn is_from(labels: &Labels, registry: &str, repository: &str) -> bool {
    let sources = labels
        .get(&source_key(registry))
        .map(String::as_str)
        .unwrap_or_default();
    sources.split(',').any(|known| !known.is_empty() && known == repository)
}

fn source_key(registry: &str) -> String {
    format!("containerd.io/distribution.source.{}", hostname(registry))
}

/// Without the port: containerd names sources by host alone (`docker.AppendDistributionSourceLabel`), and a blob that had a
/// name of ours beside containerd's would count as of two registries.
fn hostname(registry: &str) -> &str {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) | None => registry,
    };
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

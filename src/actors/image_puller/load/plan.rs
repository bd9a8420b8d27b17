//! Which images an archive has and what they consist of, read from its documents. Pure.
//!
//! Two forms: an OCI layout (`index.json`, blobs named by their digests), and what `docker save` wrote before it had that
//! (`manifest.json`, layers by any name). An archive that has both is read as an OCI layout, which says more.

use super::super::plan::{self, Config, Document, Manifest};
use crate::containerd::{Descriptor, Labels};
use crate::host::archive::{Entry, FileEntry};
use crate::spec::identity::Digest;
use crate::spec::reference::Reference;
use crate::spec::tar;
use serde::Deserialize;
use std::collections::BTreeMap;

/// What an archive has, by the names of its entries.
pub(super) type Entries = BTreeMap<String, Entry>;

/// Links that are followed from one entry.
const LINKS_MAX: usize = 8;
/// Nested indexes that are followed.
const DEPTH_MAX: usize = 3;
/// Images of one archive.
const IMAGES_MAX: usize = 256;
/// All documents that are read for them, each as often as it is named.
const READ_MAX_BYTES: usize = 64 << 20;

const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const OCI_ZSTD_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// One image of an archive.
#[derive(Debug)]
pub(super) struct Found {
    /// Its names as containerd has them.
    pub(super) names: Vec<String>,
    /// Tags without a name.
    tags: Vec<String>,
    /// Its index or manifest.
    pub(super) target: Descriptor,
    /// What it is made of, or why it is of no use here.
    pub(super) parts: Result<Parts, String>,
}

/// What an image is made of.
#[derive(Debug)]
pub(super) struct Parts {
    /// Index and manifest, from the bottom up, with what each holds on to.
    pub(super) documents: Vec<(&'static str, Descriptor, Vec<u8>, Labels)>,
    /// The config.
    pub(super) config: (Descriptor, Vec<u8>),
    /// The manifest for this machine.
    pub(super) manifest: Manifest,
    /// The entries of its layers, in the order of the manifest.
    pub(super) layers: Vec<String>,
    /// What the config says.
    pub(super) image: Config,
}

impl Parts {
    fn documents_bytes(&self) -> usize {
        let documents = self.documents.iter().map(|(_, _, json, _)| json.len());
        documents.fold(self.config.1.len(), usize::saturating_add)
    }
}

#[derive(Deserialize)]
struct Layout {
    manifests: Vec<Top>,
}

#[derive(Deserialize)]
struct Top {
    digest: String,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// All images of an archive.
pub(super) fn images(entries: &Entries, architecture: &str) -> Result<Vec<Found>, String> {
    let found = if let Some(index) = document(entries, "index.json")? {
        let layout: Layout =
            serde_json::from_slice(index).map_err(|e| format!("its index.json cannot be read: {e}"))?;
        counted(layout.manifests.len())?;
        let tops = layout.manifests.into_iter();
        merged(tops.map(|top| of_layout(entries, top, architecture)))?
    } else if let Some(list) = document(entries, "manifest.json")? {
        let saved: Vec<Saved> =
            serde_json::from_slice(list).map_err(|e| format!("its manifest.json cannot be read: {e}"))?;
        counted(saved.len())?;
        merged(saved.iter().map(|image| of_save(entries, image, architecture)))?
    } else {
        return Err(
            "it has neither an index.json (OCI layout) nor a manifest.json (docker save) at its top: it is no archive of images"
                .to_owned(),
        );
    };
    if found.is_empty() {
        return Err("it has no image".to_owned());
    }
    Ok(found)
}

fn counted(images: usize) -> Result<(), String> {
    if images > IMAGES_MAX {
        return Err(format!("it has {images} images; at most {IMAGES_MAX} are read"));
    }
    Ok(())
}

/// One image may be listed once for each of its names. A few bytes can name a large document again and again.
fn merged(found: impl Iterator<Item = Result<Found, String>>) -> Result<Vec<Found>, String> {
    let mut images: Vec<Found> = Vec::new();
    let mut read = 0_usize;
    for one in found {
        let one = one?;
        read = read.saturating_add(one.parts.as_ref().map_or(0, Parts::documents_bytes));
        if read > READ_MAX_BYTES {
            return Err(format!(
                "the documents of its images have more than {READ_MAX_BYTES} bytes"
            ));
        }
        match images.iter_mut().find(|i| i.target.digest == one.target.digest) {
            Some(image) => {
                image.names.extend(one.names);
                image.tags.extend(one.tags);
            }
            None => images.push(one),
        }
    }
    Ok(images)
}

/// The image that a task means.
pub(super) fn choose(found: Vec<Found>, reference: &Reference) -> Result<(Found, Vec<Found>), String> {
    let name = reference.name();
    let is_meant = |image: &Found| match reference.digest() {
        Some(digest) => {
            let manifest = image.parts.as_ref().ok().and_then(|parts| parts.documents.first());
            image.target.digest == digest.as_str() || manifest.is_some_and(|(_, m, ..)| m.digest == digest.as_str())
        }
        None => image.names.contains(&name),
    };
    let nameless = |image: &Found| {
        let tag = reference.tag().unwrap_or_default();
        reference.digest().is_none()
            && image.names.is_empty()
            && (image.tags.is_empty() || image.tags.iter().any(|t| t == tag))
    };
    let place = match found.iter().position(is_meant) {
        Some(place) => Some(place),
        None if found.len() == 1 => found.iter().position(nameless),
        None => None,
    };
    let Some(place) = place else {
        let has: Vec<String> = found.iter().map(offer).collect();
        return Err(format!("it does not have the image {name}; it has {}", has.join(", ")));
    };
    let mut others = found;
    let meant = others.remove(place);
    Ok((meant, others))
}

fn offer(image: &Found) -> String {
    if !image.names.is_empty() {
        return image.names.iter().map(|n| tar::shown(n)).collect::<Vec<_>>().join(", ");
    }
    let digest = &image.target.digest;
    match image.tags.first() {
        Some(tag) => format!("one without a name, tag {} ({digest})", tar::shown(tag)),
        None => format!("one without a name ({digest})"),
    }
}

fn of_layout(entries: &Entries, top: Top, architecture: &str) -> Result<Found, String> {
    let (names, tags) = names_of(top.annotations.as_ref());
    let digest = Digest::parse(&top.digest)?;
    let json = blob(entries, &digest)?;
    let (_, media_type) = plan::document(json)?;
    Ok(Found {
        names,
        tags,
        target: Descriptor {
            media_type: media_type.to_owned(),
            digest: digest.as_str().to_owned(),
            size: json.len() as u64,
        },
        parts: parts_of_layout(entries, &digest, architecture),
    })
}

fn names_of(annotations: Option<&BTreeMap<String, String>>) -> (Vec<String>, Vec<String>) {
    let get = |key: &str| annotations.and_then(|a| a.get(key)).map(String::as_str);
    let name = |text: &str| Reference::parse(text).ok().map(|r| r.name());
    if let Some(name) = get("io.containerd.image.name").and_then(name) {
        return (vec![name], Vec::new());
    }
    match get("org.opencontainers.image.ref.name") {
        // A tag has no separators; with one it is a whole name.
        Some(text) if text.contains(['/', ':']) => (name(text).into_iter().collect(), Vec::new()),
        Some(tag) => (Vec::new(), vec![tag.to_owned()]),
        None => (Vec::new(), Vec::new()),
    }
}

fn parts_of_layout(entries: &Entries, top: &Digest, architecture: &str) -> Result<Parts, String> {
    let mut documents = Vec::new();
    let mut digest = top.clone();
    for _ in 0..DEPTH_MAX {
        let json = blob(entries, &digest)?;
        let (document, media_type) = plan::document(json)?;
        let target = Descriptor {
            media_type: media_type.to_owned(),
            digest: digest.as_str().to_owned(),
            size: json.len() as u64,
        };
        match document {
            Document::Index(list) => {
                let next = plan::choose(&list, architecture)?;
                documents.push(("index", target, json.to_vec(), plan::index_labels(&list)));
                digest = Digest::parse(&next.digest)?;
            }
            Document::Manifest(manifest) => {
                documents.push(("manifest", target, json.to_vec(), plan::manifest_labels(&manifest)));
                documents.reverse();
                let config = blob(entries, &Digest::parse(&manifest.config.digest)?)?.to_vec();
                let image = plan::config(&config, architecture, manifest.layers.len())?;
                let layers = manifest.layers.iter().map(|layer| of_size(entries, layer));
                return Ok(Parts {
                    documents,
                    layers: layers.collect::<Result<_, _>>()?,
                    config: (manifest.config.clone(), config),
                    manifest,
                    image,
                });
            }
        }
    }
    Err(format!("its indexes are nested more than {DEPTH_MAX} deep"))
}

fn blob_name(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

/// A document that is named by its digest, and is what it is named.
fn blob<'a>(entries: &'a Entries, digest: &Digest) -> Result<&'a [u8], String> {
    let name = blob_name(digest.as_str());
    let json = document(entries, &name)?.ok_or_else(|| format!("its blob {digest} is missing"))?;
    if Digest::sha256(json) != *digest {
        return Err(format!("its blob {digest} is damaged"));
    }
    Ok(json)
}

/// The entry of a layer.
fn of_size(entries: &Entries, layer: &Descriptor) -> Result<String, String> {
    let (name, file) =
        file(entries, &blob_name(&layer.digest))?.ok_or_else(|| format!("its blob {} is missing", layer.digest))?;
    if file.size != layer.size {
        return Err(format!(
            "its blob {} has {} bytes, and its manifest says {}",
            layer.digest, file.size, layer.size
        ));
    }
    Ok(name.to_owned())
}

fn of_save(entries: &Entries, saved: &Saved, architecture: &str) -> Result<Found, String> {
    let names = saved.repo_tags.iter().flatten();
    let names = names.filter_map(|tag| Reference::parse(tag).ok()).map(|r| r.name());
    let parts = parts_of_save(entries, saved, architecture);
    let target = match &parts {
        Ok(parts) => parts.documents.first().map(|(_, target, ..)| target.clone()),
        Err(_) => None,
    };
    Ok(Found {
        names: names.collect(),
        tags: Vec::new(),
        target: target.unwrap_or_else(|| Descriptor {
            media_type: plan::DOCKER_MANIFEST.to_owned(),
            // Of no use, and told from others of no use.
            digest: format!("config {}", tar::shown(&saved.config)),
            size: 0,
        }),
        parts,
    })
}

/// Such an archive has no manifest that a registry would know: it is made here, always the same for the same layers.
fn parts_of_save(entries: &Entries, saved: &Saved, architecture: &str) -> Result<Parts, String> {
    let path = tar::clean(&saved.config)?;
    let json = document(entries, &path)?.ok_or_else(|| format!("its entry {:?} is missing", tar::shown(&path)))?;
    let config = Descriptor {
        media_type: DOCKER_CONFIG.to_owned(),
        digest: Digest::sha256(json).as_str().to_owned(),
        size: json.len() as u64,
    };
    let mut manifest = Manifest {
        config: config.clone(),
        layers: Vec::new(),
    };
    let mut layers = Vec::new();
    for path in saved.layers.iter().flatten() {
        let path = tar::clean(path)?;
        let (name, file) =
            file(entries, &path)?.ok_or_else(|| format!("its entry {:?} is missing", tar::shown(&path)))?;
        manifest.layers.push(Descriptor {
            media_type: layer_type(&file.head),
            digest: digest_of(name, file)?,
            size: file.size,
        });
        layers.push(name.to_owned());
    }
    let image = plan::config(json, architecture, layers.len())?;
    let part = |d: &Descriptor| serde_json::json!({ "mediaType": d.media_type, "digest": d.digest, "size": d.size });
    let text = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": plan::DOCKER_MANIFEST,
        "config": part(&config),
        "layers": manifest.layers.iter().map(part).collect::<Vec<_>>(),
    })
    .to_string()
    .into_bytes();
    let target = Descriptor {
        media_type: plan::DOCKER_MANIFEST.to_owned(),
        digest: Digest::sha256(&text).as_str().to_owned(),
        size: text.len() as u64,
    };
    let labels = plan::manifest_labels(&manifest);
    Ok(Parts {
        documents: vec![("manifest", target, text, labels)],
        config: (config, json.to_vec()),
        manifest,
        layers,
        image,
    })
}

fn layer_type(head: &[u8]) -> String {
    match head {
        [0x1f, 0x8b, ..] => format!("{DOCKER_LAYER}.gzip"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => OCI_ZSTD_LAYER.to_owned(),
        _ => DOCKER_LAYER.to_owned(),
    }
}

/// By what was read of it, or by its name in an OCI layout, which containerd checks when it is stored.
fn digest_of(name: &str, file: &FileEntry) -> Result<String, String> {
    let text = match name.strip_prefix("blobs/sha256/") {
        Some(hex) => format!("sha256:{hex}"),
        None => format!("sha256:{}", file.sha256),
    };
    Digest::parse(&text).map(|d| d.as_str().to_owned())
}

/// A document, `None` if there is no such entry.
fn document<'a>(entries: &'a Entries, name: &str) -> Result<Option<&'a [u8]>, String> {
    let Some((name, file)) = file(entries, name)? else {
        return Ok(None);
    };
    let json = file.document.as_deref();
    json.map(Some).ok_or_else(|| {
        format!(
            "its entry {:?} is no JSON document, or too large for one",
            tar::shown(name)
        )
    })
}

/// A file and its own name, links followed.
fn file<'a>(entries: &'a Entries, name: &str) -> Result<Option<(&'a str, &'a FileEntry)>, String> {
    let mut at = name;
    for _ in 0..LINKS_MAX {
        match entries.get_key_value(at) {
            None => return Ok(None),
            Some((name, Entry::File(file))) => return Ok(Some((name, file))),
            Some((_, Entry::Link(to))) => at = to,
        }
    }
    Err(format!("its entry {:?} is one link after the other", tar::shown(name)))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

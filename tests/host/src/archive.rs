//! Archives of images in the forms that tools write.

use std::io::Read as _;

use anyhow::{Context as _, Result};
use serde_json::{Value as Json, json};
use tar::{Builder, EntryType, Header};

use crate::image::Image;

/// What `docker save` wrote before it wrote OCI layouts, with layers as they are (`packed`) or unpacked. Each image has
/// its names; a layer that a second image has too is a link, as Docker makes them.
pub fn docker_save(images: &[(&Image, &[&str])], packed: bool) -> Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    let mut list = Vec::new();
    let mut known: Vec<String> = Vec::new();
    for (n, (image, names)) in images.iter().enumerate() {
        let mut layers = Vec::new();
        for (m, layer) in image.layers.iter().enumerate() {
            let path = format!("{n}{m}/layer.tar");
            match known.iter().position(|digest| *digest == layer.digest) {
                Some(place) if n > 0 && place < images[0].0.layers.len() => {
                    let mut header = header(EntryType::Symlink, 0);
                    tar.append_link(&mut header, &path, format!("../0{place}/layer.tar"))?;
                }
                _ if packed => add(&mut tar, &path, &layer.bytes)?,
                _ => add(&mut tar, &path, &gunzip(&layer.bytes)?)?,
            }
            known.push(layer.digest.clone());
            layers.push(path);
        }
        let config = format!("{}.json", &image.config.digest["sha256:".len()..]);
        add(&mut tar, &config, &image.config.bytes)?;
        list.push(json!({ "Config": config, "RepoTags": names, "Layers": layers }));
    }
    add(&mut tar, "manifest.json", Json::Array(list).to_string().as_bytes())?;
    tar.into_inner().context("docker archive")
}

/// An OCI layout. A name without a slash or a colon is a tag; an empty one is none.
pub fn oci_layout(images: &[(&Image, &str)]) -> Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    add(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let mut known = Vec::new();
    let mut list = Vec::new();
    for (image, name) in images {
        for blob in image.layers.iter().chain([&image.config, &image.manifest]) {
            if !known.contains(&blob.digest) {
                let path = format!("blobs/{}", blob.digest.replacen(':', "/", 1));
                add(&mut tar, &path, &blob.bytes)?;
                known.push(blob.digest.clone());
            }
        }
        let annotations = match *name {
            "" => json!({}),
            name if name.contains(['/', ':']) => json!({ "io.containerd.image.name": name }),
            tag => json!({ "org.opencontainers.image.ref.name": tag }),
        };
        list.push(json!({
            "mediaType": image.media_type, "digest": image.manifest.digest,
            "size": image.manifest.bytes.len(), "annotations": annotations,
        }));
    }
    let index = json!({ "schemaVersion": 2, "manifests": list }).to_string();
    add(&mut tar, "index.json", index.as_bytes())?;
    tar.into_inner().context("OCI layout")
}

/// An archive with one entry, whatever it is called.
pub fn of_one_entry(path: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut header = header(EntryType::Regular, bytes.len());
    // The builder refuses names that lead out.
    let name = &mut header.as_old_mut().name;
    name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_cksum();
    let mut tar = Builder::new(Vec::new());
    tar.append(&header, bytes)?;
    tar.into_inner().context("archive")
}

/// Compressed with gzip.
pub fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut packed = Vec::new();
    flate2::read::GzEncoder::new(bytes, flate2::Compression::fast()).read_to_end(&mut packed)?;
    Ok(packed)
}

fn gunzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain)?;
    Ok(plain)
}

fn header(kind: EntryType, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size as u64);
    header
}

fn add(tar: &mut Builder<Vec<u8>>, path: &str, bytes: &[u8]) -> Result<()> {
    let mut header = header(EntryType::Regular, bytes.len());
    tar.append_data(&mut header, path, bytes)
        .with_context(|| format!("entry {path}"))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::layers::{Layer, Packing, Plan};

    fn entries(tar: &[u8]) -> Vec<String> {
        let mut archive = tar::Archive::new(tar);
        let entries = archive.entries().expect("entries");
        entries
            .map(|entry| {
                let mut entry = entry.expect("an entry");
                entry.read_to_end(&mut Vec::new()).expect("its content");
                entry.path().expect("a path").display().to_string()
            })
            .collect()
    }

    #[test]
    fn an_archive_has_every_part_once() {
        let plan = |salt: &str| Plan::new(salt).packing(Packing::Plain).layer(Layer::of(1000, "same"));
        let (one, two) = (plan("1").build().expect("image"), plan("2").build().expect("image"));
        let docker = docker_save(&[(&one, &["a/b:1"]), (&two, &["a/b:2"])], true);
        // Two bases, one layer on both and a link to it, two configurations, the list.
        assert_eq!(entries(&docker.expect("an archive")).len(), 7);
        let layout = oci_layout(&[(&one, "a/b:1"), (&two, "a/b:2")]);
        // The same without a link, the manifests of the images, the layout's own two files.
        assert_eq!(entries(&layout.expect("an archive")).len(), 9);
    }
}

//! Images of any number and size of layers, in every format that registries hold, made without a network.

use std::io::Write as _;

use anyhow::{Context, Result};
use flate2::{Compression, write::GzEncoder};
use serde_json::json;
use tar::{Builder, EntryType};

use crate::image::{self, Blob, Image, ImageConfig, MANIFEST_TYPE};

/// Manifests of the OCI image format.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Indexes of the OCI image format.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Indexes of Docker's format.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Whose media types the documents have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Docker,
    Oci,
}

/// How a layer's tar is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// As it is.
    Plain,
    Gzip,
    /// gzip without compression: quick to make, and as long as its content.
    Stored,
    /// Zstandard, likewise without compression (RFC 8878, raw blocks).
    Zstd,
}

/// One layer above the base.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Files of this layer are named after it, and their content follows from it: equal seeds make equal layers.
    pub seed: String,
    /// Length of the content.
    pub bytes: usize,
    /// Files that the content is spread over.
    pub files: usize,
    /// Of 100 bytes, those that do not compress.
    pub noise: usize,
    pub packing: Packing,
}

impl Layer {
    /// One file of bytes that do not compress, packed quickly.
    pub fn of(bytes: usize, seed: impl Into<String>) -> Layer {
        Layer {
            seed: seed.into(),
            bytes,
            files: 1,
            noise: 100,
            packing: Packing::Stored,
        }
    }

    fn tar(&self) -> Result<Vec<u8>> {
        let mut tar = Builder::new(Vec::with_capacity(self.bytes + 1024 * (self.files + 4)));
        let mut random = Random::new(&self.seed);
        let files = self.files.max(1);
        for n in 0..files {
            let length = self.bytes / files + if n == 0 { self.bytes % files } else { 0 };
            let content = random.content(length, self.noise);
            let path = format!("var/{}-{n}", self.seed);
            image::add(&mut tar, EntryType::Regular, &path, 0o644, 0, &content)?;
        }
        Ok(tar.into_inner()?)
    }
}

/// An image to be made: the busybox base and layers on it.
#[derive(Clone, Debug)]
pub struct Plan {
    pub config: ImageConfig,
    pub format: Format,
    /// Of the base layer.
    pub packing: Packing,
    pub layers: Vec<Layer>,
    /// As images name it; default this machine's.
    pub architecture: String,
}

impl Plan {
    /// Only the base, told from others by `salt`.
    pub fn new(salt: impl Into<String>) -> Plan {
        Plan {
            config: ImageConfig::default().salt(salt),
            format: Format::Oci,
            packing: Packing::Gzip,
            layers: Vec::new(),
            architecture: image::architecture().to_owned(),
        }
    }

    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// Of the base layer.
    pub fn packing(mut self, packing: Packing) -> Self {
        self.packing = packing;
        self
    }

    pub fn env(mut self, entry: impl Into<String>) -> Self {
        self.config = self.config.env(entry);
        self
    }

    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    pub fn architecture(mut self, architecture: impl Into<String>) -> Self {
        self.architecture = architecture.into();
        self
    }

    pub fn build(&self) -> Result<Image> {
        let mut tars = vec![(image::base_layer(&self.config.salt)?, self.packing)];
        for layer in &self.layers {
            tars.push((layer.tar()?, layer.packing));
        }
        let diff_ids: Vec<String> = tars.iter().map(|(tar, _)| image::digest(tar)).collect();
        let mut layers = Vec::with_capacity(tars.len());
        let mut entries = Vec::with_capacity(tars.len());
        for (tar, packing) in tars {
            let blob = Blob::new(packed(tar, packing)?);
            entries.push(entry(layer_type(self.format, packing), &blob));
            layers.push(blob);
        }
        let config = Blob::new(image::configuration(&self.config, &self.architecture, &diff_ids)?);
        let (media_type, config_type) = match self.format {
            Format::Docker => (MANIFEST_TYPE, "application/vnd.docker.container.image.v1+json"),
            Format::Oci => (OCI_MANIFEST, "application/vnd.oci.image.config.v1+json"),
        };
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type, "config": entry(config_type, &config), "layers": entries,
        });
        Ok(Image {
            media_type,
            manifest: Blob::new(serde_json::to_vec(&manifest)?),
            config,
            layers,
        })
    }
}

/// An index of these images, by architecture; its media type and its bytes.
pub fn index(format: Format, images: &[(&str, &Image)]) -> Result<(&'static str, Blob)> {
    let media_type = match format {
        Format::Docker => DOCKER_INDEX,
        Format::Oci => OCI_INDEX,
    };
    let manifests: Vec<_> = images
        .iter()
        .map(|(architecture, image)| {
            let mut entry = entry(image.media_type, &image.manifest);
            entry["platform"] = json!({ "os": "linux", "architecture": architecture });
            entry
        })
        .collect();
    let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests });
    Ok((media_type, Blob::new(serde_json::to_vec(&index)?)))
}

fn entry(media_type: &str, blob: &Blob) -> serde_json::Value {
    json!({ "mediaType": media_type, "size": blob.bytes.len(), "digest": blob.digest })
}

fn layer_type(format: Format, packing: Packing) -> &'static str {
    match (format, packing) {
        (Format::Docker, Packing::Plain) => "application/vnd.docker.image.rootfs.diff.tar",
        (Format::Docker, Packing::Gzip | Packing::Stored) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        (Format::Docker, Packing::Zstd) => "application/vnd.docker.image.rootfs.diff.tar.zstd",
        (Format::Oci, Packing::Plain) => "application/vnd.oci.image.layer.v1.tar",
        (Format::Oci, Packing::Gzip | Packing::Stored) => "application/vnd.oci.image.layer.v1.tar+gzip",
        (Format::Oci, Packing::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
    }
}

/// The bytes of a layer or an archive, packed.
pub fn packed(tar: Vec<u8>, packing: Packing) -> Result<Vec<u8>> {
    match packing {
        Packing::Plain => Ok(tar),
        Packing::Gzip => image::gzip(&tar),
        Packing::Stored => {
            let mut encoder = GzEncoder::new(Vec::with_capacity(tar.len() + tar.len() / 1000), Compression::none());
            encoder.write_all(&tar)?;
            encoder.finish().context("gzip")
        }
        Packing::Zstd => Ok(zstd(&tar)),
    }
}

/// A Zstandard frame of raw blocks (RFC 8878, sections 3.1.1.1 and 3.1.1.2).
fn zstd(bytes: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 128 << 10;
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd];
    // Eight bytes of content size, one segment, no checksum, no dictionary.
    frame.push(0b1110_0000);
    frame.extend((bytes.len() as u64).to_le_bytes());
    let mut blocks = bytes.chunks(BLOCK).peekable();
    if blocks.peek().is_none() {
        frame.extend([1, 0, 0]);
    }
    while let Some(block) = blocks.next() {
        let last = u32::from(blocks.peek().is_none());
        let header = last | (block.len() as u32) << 3;
        frame.extend(&header.to_le_bytes()[..3]);
        frame.extend(block);
    }
    frame
}

/// The same numbers from the same seed (xorshift64).
struct Random(u64);

impl Random {
    fn new(seed: &str) -> Random {
        let mixed = seed
            .bytes()
            .fold(0x9e37_79b9_7f4a_7c15_u64, |acc, b| acc.rotate_left(7) ^ u64::from(b));
        Random(mixed.max(1))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Runs of noise and of text in turn, so that `noise` of 100 bytes do not compress.
    fn content(&mut self, length: usize, noise: usize) -> Vec<u8> {
        const RUN: usize = 1000;
        let mut content = Vec::with_capacity(length + RUN + 8);
        let noisy = RUN * noise.min(100) / 100;
        while content.len() < length {
            let end = content.len() + noisy;
            while content.len() < end {
                content.extend(self.next().to_le_bytes());
            }
            content.truncate(end);
            content.resize(end + RUN - noisy, b'.');
        }
        content.truncate(length);
        content
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_make_equal_layers_and_other_seeds_do_not() {
        let digest = |seed: &str| {
            let plan = Plan::new("a").layer(Layer::of(100_000, seed));
            plan.build().expect("an image").layers[1].digest.clone()
        };
        assert_eq!(digest("x"), digest("x"));
        assert_ne!(digest("x"), digest("y"));
    }

    #[test]
    fn a_layer_compresses_as_far_as_it_should() {
        let layer = Layer {
            files: 7,
            noise: 40,
            packing: Packing::Gzip,
            ..Layer::of(1_000_000, "x")
        };
        let image = Plan::new("a").layer(layer).build().expect("an image");
        let length = image.layers[1].bytes.len();
        assert!((400_000..460_000).contains(&length), "{length}");
    }

    #[test]
    fn a_frame_of_raw_blocks_has_the_length_of_its_content_and_ends() {
        let frame = zstd(&[7; 300_000]);
        assert_eq!(frame.len(), 4 + 1 + 8 + 3 * 3 + 300_000);
        let second = 13 + 3 + (128 << 10);
        let header = |at: usize| u32::from_le_bytes([frame[at], frame[at + 1], frame[at + 2], 0]);
        assert_eq!((header(13) & 1, header(second) & 1), (0, 0));
        let third = second + 3 + (128 << 10);
        assert_eq!(header(third), 1 | (300_000 - (256 << 10)) << 3);
        assert_eq!(zstd(&[]).len(), 16);
    }
}

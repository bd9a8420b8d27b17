//! How large an image is in the content store.

use crate::containerd::{Descriptor, Gateway};
use crate::messages::runtime::ContainerdFault;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Limit for a manifest or an index, as containerd's.
const DOCUMENT_MAX_BYTES: u64 = 8 << 20;
/// Documents that are read: an index has some ten, of which we have fetched one.
const DOCUMENTS_MAX: usize = 64;

#[derive(Deserialize, Default)]
struct Document {
    #[serde(default)]
    manifests: Vec<Part>,
    config: Option<Part>,
    #[serde(default)]
    layers: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    digest: String,
    size: u64,
}

/// Bytes of the blobs that the manifests of an image name, each counted once. Blobs that other images have too are counted:
/// how many of them go, containerd alone knows.
pub(super) async fn of(gateway: &Gateway, target: &Descriptor) -> Result<u64, ContainerdFault> {
    let mut blobs = BTreeMap::new();
    let mut next = vec![target.digest.clone()];
    for _ in 0..DOCUMENTS_MAX {
        let Some(digest) = next.pop() else { break };
        let Some(json) = gateway.read_blob(&digest, DOCUMENT_MAX_BYTES).await? else {
            continue;
        };
        blobs.insert(digest, json.len() as u64);
        next.extend(note(&json, &mut blobs));
    }
    Ok(blobs.values().fold(0, |sum, size| sum.saturating_add(*size)))
}

/// Notes what a document names, and returns the documents below it. One that cannot be read names nothing.
fn note(json: &[u8], blobs: &mut BTreeMap<String, u64>) -> Vec<String> {
    let document: Document = serde_json::from_slice(json).unwrap_or_default();
    for part in document.config.into_iter().chain(document.layers) {
        blobs.insert(part.digest, part.size);
    }
    document.manifests.into_iter().map(|part| part.digest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_blob_counts_once() {
        let mut blobs = BTreeMap::new();
        let manifest =
            br#"{"config":{"digest":"c","size":5},"layers":[{"digest":"a","size":10},{"digest":"a","size":10}]}"#;
        assert!(note(manifest, &mut blobs).is_empty());
        assert_eq!(blobs.values().sum::<u64>(), 15);
        let index = br#"{"manifests":[{"digest":"m","size":7}]}"#;
        assert_eq!(note(index, &mut blobs), ["m"]);
        assert!(note(b"no document", &mut blobs).is_empty());
    }
}

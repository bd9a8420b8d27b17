//! Types that several services share, and their way to and from protobuf.

use containerd_client::types as proto;
use std::collections::BTreeMap;

/// Labels, sorted by key.
pub type Labels = BTreeMap<String, String>;

/// Names a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Media type.
    pub media_type: String,
    /// Digest, `algorithm:hex`.
    pub digest: String,
    /// Size in bytes.
    pub size: u64,
}

impl Descriptor {
    pub(super) fn to_proto(&self) -> proto::Descriptor {
        proto::Descriptor {
            media_type: self.media_type.clone(),
            digest: self.digest.clone(),
            size: i64::try_from(self.size).unwrap_or(i64::MAX),
            annotations: Default::default(),
        }
    }

    pub(super) fn from_proto(descriptor: proto::Descriptor) -> Self {
        Self {
            media_type: descriptor.media_type,
            digest: descriptor.digest,
            size: u64::try_from(descriptor.size).unwrap_or(0),
        }
    }
}

/// A mount as a snapshotter gives it: enough for the shim to mount a root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// File system type, e.g. `overlay` or `bind`.
    pub kind: String,
    /// Device or directory.
    pub source: String,
    /// Where, beneath the root; empty for the root itself.
    pub target: String,
    /// Mount options, e.g. `lowerdir=…`.
    pub options: Vec<String>,
}

impl Mount {
    pub(super) fn to_proto(&self) -> proto::Mount {
        proto::Mount {
            r#type: self.kind.clone(),
            source: self.source.clone(),
            target: self.target.clone(),
            options: self.options.clone(),
        }
    }

    pub(super) fn from_proto(mount: proto::Mount) -> Self {
        Self {
            kind: mount.r#type,
            source: mount.source,
            target: mount.target,
            options: mount.options,
        }
    }
}

pub(super) fn mounts_to_proto(mounts: &[Mount]) -> Vec<proto::Mount> {
    mounts.iter().map(Mount::to_proto).collect()
}

pub(super) fn mounts_from_proto(mounts: Vec<proto::Mount>) -> Vec<Mount> {
    mounts.into_iter().map(Mount::from_proto).collect()
}

/// Nanoseconds since the Unix epoch; 0 if there is no time.
pub(super) fn nanoseconds(time: Option<prost_types::Timestamp>) -> i64 {
    time.map_or(0, |t| {
        t.seconds
            .saturating_mul(1_000_000_000)
            .saturating_add(i64::from(t.nanos))
    })
}

/// A mask that sets single labels and leaves the others alone.
pub(super) fn label_mask<'a>(keys: impl Iterator<Item = &'a String>) -> prost_types::FieldMask {
    prost_types::FieldMask {
        paths: keys.map(|key| format!("labels.{key}")).collect(),
    }
}

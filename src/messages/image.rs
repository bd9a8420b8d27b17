//! The conversation with `ImagePuller`: make sure that an image is on this node and unpacked.

use super::runtime::FaultKind;
use super::{Fact, Request};
use crate::spec::identity::Digest;
use crate::spec::image::ImageFacts;
use crate::spec::secret::Secret;
use std::time::Duration;

/// Credentials for one pull; the password never shows in a log, span, label or error.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// User name at the registry.
    pub username: String,
    /// Password or token.
    pub password: Secret,
}

/// When the registry is asked although the image is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PullPolicy {
    /// Pull if the image is not here; for the tag `latest`, ask the registry but start from disk if it is down.
    #[default]
    IfNotPresent,
    /// Always resolve at the registry.
    Always,
}

/// Make sure that `image` is here and unpacked, pulling it if it is not. Callers for one image share one pull.
#[derive(Debug, Clone)]
pub struct EnsureImage {
    /// The reference as the user wrote it.
    pub image: String,
    /// Credentials, if the task or the plugin configuration has any for it.
    pub credentials: Option<Credentials>,
    /// See [`PullPolicy`].
    pub policy: PullPolicy,
    /// Upper bound for the whole pull.
    pub timeout: Duration,
    /// containerd snapshotter in which it must be unpacked.
    pub snapshotter: String,
    /// Who is told about progress (task events); `None` for nobody.
    pub observer: Option<crate::spec::identity::TaskId>,
}

impl Request for EnsureImage {
    type Reply = Result<ImageReady, ImageError>;
    const NAME: &'static str = "EnsureImage";
}

/// The image is here.
#[derive(Debug, Clone)]
pub struct ImageReady {
    /// Normalised name of the image record in containerd.
    pub name: String,
    /// Digest of the manifest for this platform.
    pub manifest: Digest,
    /// What a container needs to know of the image.
    pub facts: std::sync::Arc<ImageFacts>,
    /// True if this call had to fetch it.
    pub pulled: bool,
}

/// Progress of a pull that a task waits for.
#[derive(Debug, Clone)]
pub struct PullProgress {
    /// The task that waits.
    pub task: crate::spec::identity::TaskId,
    /// Text for a human, e.g. `Pulling docker.io/library/busybox:latest`.
    pub text: String,
    /// Details as key and value: bytes, layers.
    pub details: Vec<(&'static str, String)>,
}

impl Fact for PullProgress {
    const NAME: &'static str = "PullProgress";
}

/// Why an image is not here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The reference cannot be read.
    #[error("option image: {reference:?} is not an image reference: {reason}")]
    BadReference {
        /// As the user wrote it.
        reference: String,
        /// What is wrong and what is allowed.
        reason: String,
    },
    /// containerd cannot unpack it where the task wants it.
    #[error("option snapshotter: {snapshotter:?}: one of containerd's snapshotters is expected: {known}")]
    NoSnapshotter {
        /// Normalised name.
        image: String,
        /// As the task names it.
        snapshotter: String,
        /// Those that containerd has.
        known: String,
    },
    /// The registry says that there is no such image.
    #[error("option image: {image} does not exist at {registry}: {reason}")]
    NotFound {
        /// Normalised name.
        image: String,
        /// Registry host.
        registry: String,
        /// The registry's words.
        reason: String,
    },
    /// The registry refuses these credentials, or none were given.
    #[error(
        "option image: {image}: pull access denied, repository does not exist or may require authorization: {reason}"
    )]
    Denied {
        /// Normalised name.
        image: String,
        /// The registry's words.
        reason: String,
    },
    /// The registry cannot be reached, is overloaded, or the connection broke. Worth a retry.
    #[error("option image: {image}: registry {registry}: {reason}")]
    Registry {
        /// Normalised name.
        image: String,
        /// Registry host.
        registry: String,
        /// What happened.
        reason: String,
    },
    /// The image is not for this machine, or is damaged.
    #[error("option image: {image}: {reason}")]
    Unusable {
        /// Normalised name.
        image: String,
        /// Why.
        reason: String,
    },
    /// The pull took too long.
    #[error("option image_pull_timeout: {image} was not pulled within {after:?}")]
    Timeout {
        /// Normalised name.
        image: String,
        /// The bound.
        after: Duration,
    },
    /// containerd failed in the middle of it.
    #[error("image {image}: {source}")]
    Containerd {
        /// Normalised name.
        image: String,
        /// The fault.
        source: crate::messages::runtime::ContainerdFault,
    },
    /// The puller restarted too often while this pull ran. Worth a retry.
    #[error("image {image}: the pull was interrupted: {reason}")]
    Interrupted {
        /// Normalised name.
        image: String,
        /// Why.
        reason: String,
    },
}

impl ImageError {
    /// The image: its normalised name, or what was written instead of one.
    #[must_use]
    pub fn image(&self) -> &str {
        match self {
            Self::BadReference { reference, .. } => reference,
            Self::NoSnapshotter { image, .. }
            | Self::NotFound { image, .. }
            | Self::Denied { image, .. }
            | Self::Registry { image, .. }
            | Self::Unusable { image, .. }
            | Self::Timeout { image, .. }
            | Self::Containerd { image, .. }
            | Self::Interrupted { image, .. } => image,
        }
    }

    /// Whether the disk is full: then nothing may be kept for another try.
    #[must_use]
    pub fn is_out_of_room(&self) -> bool {
        matches!(self, Self::Containerd { source, .. } if source.kind == FaultKind::Exhausted)
    }

    /// Whether trying again may help without a change by the user.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::BadReference { .. }
            | Self::NoSnapshotter { .. }
            | Self::NotFound { .. }
            | Self::Denied { .. }
            | Self::Unusable { .. } => false,
            Self::Registry { .. } | Self::Timeout { .. } | Self::Interrupted { .. } => true,
            Self::Containerd { source, .. } => source.is_transient(),
        }
    }
}

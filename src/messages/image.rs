//! The conversation with `ImagePuller`: make sure that an image is on this node and unpacked.

use super::runtime::FaultKind;
use super::{Fact, Request};
use crate::spec::identity::Digest;
use crate::spec::image::ImageFacts;
use std::path::PathBuf;
use std::time::Duration;

pub use crate::spec::registry_auth::Credentials;

/// What a task says about its credentials besides those that it gives.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct CredentialScope {
    /// The registry that they are for, as the task writes it; `None` for that of the image.
    pub server_address: Option<String>,
    /// Name of the program of the node that is asked for them, which the operator has allowed.
    pub helper: Option<String>,
    /// Whether the pull goes on without those that cannot be had.
    pub soft_fail: bool,
}

pub use crate::spec::pull::PullPolicy;

/// An archive that came with a task.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LoadFrom {
    /// The task's directory on the host, out of which nothing leads.
    pub task_dir: PathBuf,
    /// Path in it, as the job wrote it.
    pub path: String,
}

/// Make sure that `image` is here and unpacked, pulling it if it is not. Callers for one image share one pull.
#[derive(Debug, Clone)]
pub struct EnsureImage {
    /// The reference as the user wrote it.
    pub image: String,
    /// The task's own credentials. Those of the plugin configuration are the puller's to find.
    pub credentials: Option<Credentials>,
    /// See [`CredentialScope`].
    pub scope: CredentialScope,
    /// See [`PullPolicy`].
    pub policy: PullPolicy,
    /// How long this asker waits. A pull that others wait for goes on.
    pub timeout: Duration,
    /// Whose turn it is when pulls wait: turns go round between jobs. Nomad namespace and job id, or what stands for them.
    pub job: String,
    /// containerd snapshotter in which it must be unpacked.
    pub snapshotter: String,
    /// The archive that it is in; `None` for one out of a registry.
    pub load: Option<LoadFrom>,
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
    /// Where credentials are kept cannot be read, or a program that has them fails. Nothing here is secret.
    #[error("option {option}: credentials for {registry}, for the image {image}: {reason}")]
    Credentials {
        /// Normalised name.
        image: String,
        /// Registry host.
        registry: String,
        /// The option by which it was looked for there.
        option: &'static str,
        /// What happened, with the name of the program or file.
        reason: String,
        /// Whether it may go better next time.
        transient: bool,
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
    /// It is not here, and the registry is not to be asked.
    #[error("option image_pull_policy: \"never\": {image} is not on this node")]
    NotHere {
        /// Normalised name.
        image: String,
    },
    /// containerd is to pull and cannot.
    #[error(
        "option image_pull_method: \"transfer\": this containerd has no transfer service that reads \
         registry_config_dir (2.0 and later have): \
         \"auto\" or \"client\" is expected"
    )]
    NoTransfer {
        /// Normalised name.
        image: String,
    },
    /// The archive that is to be loaded is not there, is none, or does not have the image.
    #[error("option load: {path:?}: {reason}")]
    Archive {
        /// Normalised name of the image.
        image: String,
        /// As the job wrote it.
        path: String,
        /// What is wrong and what is expected.
        reason: String,
    },
    /// The pull took too long.
    #[error("option image_pull_timeout: {image} was not pulled within {after:?}: {how_far}")]
    Timeout {
        /// Normalised name.
        image: String,
        /// The bound.
        after: Duration,
        /// How far it was.
        how_far: String,
    },
    /// The registry sent nothing any more.
    #[error("option image_pull_activity_timeout: {image}: nothing came for {after:?}: {how_far}")]
    Stalled {
        /// Normalised name.
        image: String,
        /// The bound.
        after: Duration,
        /// How far it was.
        how_far: String,
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
            | Self::NotHere { image }
            | Self::NoTransfer { image }
            | Self::Stalled { image, .. }
            | Self::Credentials { image, .. }
            | Self::Registry { image, .. }
            | Self::Unusable { image, .. }
            | Self::Archive { image, .. }
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

    /// Whether the registry cannot be asked now. A refusal is an answer.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Registry { .. } | Self::Stalled { .. } => true,
            // What keeps credentials is down, which says as little as a registry that is.
            Self::Credentials { transient, .. } => *transient,
            Self::BadReference { .. }
            | Self::NoSnapshotter { .. }
            | Self::NotFound { .. }
            | Self::Denied { .. }
            | Self::NotHere { .. }
            | Self::NoTransfer { .. }
            | Self::Unusable { .. }
            | Self::Archive { .. }
            | Self::Timeout { .. }
            | Self::Interrupted { .. }
            | Self::Containerd { .. } => false,
        }
    }

    /// Whether trying again may help without a change by the user.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::BadReference { .. }
            | Self::NoSnapshotter { .. }
            | Self::NotFound { .. }
            | Self::Denied { .. }
            | Self::NotHere { .. }
            | Self::NoTransfer { .. }
            | Self::Unusable { .. }
            | Self::Archive { .. } => false,
            Self::Credentials { transient, .. } => *transient,
            Self::Registry { .. } | Self::Timeout { .. } | Self::Stalled { .. } | Self::Interrupted { .. } => true,
            Self::Containerd { source, .. } => source.is_transient(),
        }
    }
}

//! What a container needs to know of its image.

use super::identity::Digest;
use std::collections::BTreeMap;

/// Of a directory of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Directory {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Permissions and the bits before them, such as 0o1777.
    pub mode: u32,
}

/// Facts read from an image once, when it was pulled or first used. Immutable: they belong to a digest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageFacts {
    /// Chain id of the topmost layer: the parent of a container's snapshot. `None` for an image without layers.
    pub chain_id: Option<Digest>,
    /// ENTRYPOINT.
    pub entrypoint: Vec<String>,
    /// CMD.
    pub cmd: Vec<String>,
    /// ENV as `K=V`.
    pub env: Vec<String>,
    /// USER.
    pub user: String,
    /// WORKDIR.
    pub working_dir: String,
    /// STOPSIGNAL.
    pub stop_signal: Option<String>,
    /// VOLUME paths, sorted.
    pub volumes: Vec<String>,
    /// Those of them that are directories of the image.
    pub directories: BTreeMap<String, Directory>,
    /// Content of `/etc/passwd` in the image, empty if there is none.
    pub passwd: String,
    /// Content of `/etc/group` in the image, empty if there is none.
    pub group: String,
}

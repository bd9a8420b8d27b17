//! Names and ids, each with one constructor that validates or derives.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;

/// What the names of containers begin with in systemd's form of a cgroup path.
pub(super) const SCOPE_PREFIX: &str = "containerd-driver";

/// Nomad's task id: `<alloc id>/<task name>/<8 hex digits>`, but opaque to us. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(std::sync::Arc<str>);

impl TaskId {
    /// Takes any text.
    #[must_use]
    pub fn new(id: impl AsRef<str>) -> Self {
        Self(id.as_ref().into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TaskId {
    fn default() -> Self {
        Self::new("")
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// containerd's limit for an identifier (containerd `pkg/identifiers`: 76 characters, words joined by `.`, `_`, `-`).
const CONTAINER_ID_MAX: usize = 76;

/// Id of a container, of its task and of its snapshot: a function of the task id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContainerId(String);

impl ContainerId {
    /// The container of a task: `<task>-<alloc id>-<8 hex>`, where a task name that containerd would refuse, or that
    /// is too long, is cut and carries a hash of the whole id.
    #[must_use]
    pub fn of(task: &TaskId) -> Self {
        let hash = hex(&Sha256::digest(task.as_str().as_bytes()));
        let mut parts = task.as_str().splitn(2, '/');
        let alloc = parts.next().unwrap_or_default();
        let (name, suffix) = parts.next().and_then(|rest| rest.rsplit_once('/')).unwrap_or_default();
        let plain = format!("{name}-{alloc}-{suffix}");
        if is_identifier(name) && is_identifier(alloc) && is_identifier(suffix) && plain.len() <= CONTAINER_ID_MAX {
            return Self(plain);
        }
        let source = if name.is_empty() { task.as_str() } else { name };
        let stem = sanitize(source, 24);
        Self(format!("{stem}-h{}", &hash[..32]))
    }

    /// Names by which the container's own cgroup is known: our own (`/nomad/<container>`), that in systemd's form, and the scope
    /// that the host prepares (`<allocation>.<task>.scope`, Nomad `client/lib/cgroupslib`).
    #[must_use]
    pub fn cgroup_names(&self, task: &TaskId) -> Vec<String> {
        let mut names = self.own_cgroup_names();
        let mut parts = task.as_str().splitn(2, '/');
        if let (Some(alloc), Some(rest)) = (parts.next(), parts.next())
            && let Some((name, _)) = rest.rsplit_once('/')
        {
            names.push(scope(alloc, name));
        }
        names
    }

    /// The same without the host's scope, which all containers of one task have.
    #[must_use]
    pub fn own_cgroup_names(&self) -> Vec<String> {
        vec![self.0.clone(), format!("{SCOPE_PREFIX}-{}.scope", self.0)]
    }

    /// An id that containerd reported.
    #[must_use]
    pub fn reported(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The scope that the host prepares for a task with cgroup version 2 (Nomad `client/lib/cgroupslib`).
#[must_use]
pub fn scope(alloc_id: &str, task: &str) -> String {
    format!("{alloc_id}.{task}.scope")
}

/// True for a name that [`ContainerId::of`] gives: it ends in an allocation's UUID and eight hex digits, or in `h` and 32
/// hex digits.
#[must_use]
pub fn is_by_convention(name: &str) -> bool {
    let is_hex = |text: &str, digits: usize| {
        text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let Some((rest, last)) = name.rsplit_once('-') else {
        return false;
    };
    if last.strip_prefix('h').is_some_and(|hash| is_hex(hash, 32)) {
        return is_identifier(rest);
    }
    let groups: Vec<&str> = rest.rsplitn(6, '-').collect();
    let [e, d, c, b, a, task] = groups.as_slice() else {
        return false;
    };
    let uuid = [(a, 8), (b, 4), (c, 4), (d, 4), (e, 12)];
    is_hex(last, 8) && is_identifier(task) && uuid.into_iter().all(|(group, digits)| is_hex(group, digits))
}

/// Words of ASCII letters and digits joined by single `.`, `_` or `-`.
#[must_use]
pub fn is_identifier(text: &str) -> bool {
    !text.is_empty()
        && text
            .split(['.', '_', '-'])
            .all(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// Makes an identifier of at most `max` characters out of any text; `task` if nothing of it can be kept.
#[must_use]
pub fn sanitize(text: &str, max: usize) -> String {
    let mut out = String::new();
    let mut gap = false;
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            if gap && !out.is_empty() {
                out.push('-');
            }
            gap = false;
            out.push(c);
        } else {
            gap = true;
        }
        if out.len() >= max {
            break;
        }
    }
    out.truncate(max);
    let trimmed = out.trim_end_matches('-');
    if trimmed.is_empty() {
        "task".to_owned()
    } else {
        trimmed.to_owned()
    }
}

/// `sha256:` and 64 hex digits (other algorithms are carried, not computed).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Digest(String);

impl Digest {
    /// Checks the form `algorithm:hex`.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some((algorithm, encoded)) = text.split_once(':') else {
            return Err(format!("{text:?} is not a digest: expected algorithm:hex"));
        };
        let want = match algorithm {
            "sha256" => 64,
            "sha512" => 128,
            _ => return Err(format!("{text:?} is not a digest: algorithm sha256 or sha512 expected")),
        };
        if encoded.len() != want
            || !encoded
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        {
            return Err(format!(
                "{text:?} is not a digest: {want} lower-case hex digits expected"
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// The SHA-256 digest of bytes.
    #[must_use]
    pub fn sha256(bytes: &[u8]) -> Self {
        Self(format!("sha256:{}", hex(&Sha256::digest(bytes))))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Chain id of a stack of layers (OCI image spec, "Layer ChainID").
#[must_use]
pub fn chain_id(diff_ids: &[Digest]) -> Option<Digest> {
    let mut layers = diff_ids.iter();
    let first = layers.next()?.clone();
    Some(layers.fold(first, |chain, diff| {
        Digest::sha256(format!("{chain} {diff}").as_bytes())
    }))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        // Writing to a String cannot fail.
        write!(out, "{b:02x}").ok();
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_containers_cgroup_has_one_of_three_names() {
        let task = TaskId::new("alloc/a/b/0a1b2c3d");
        let container = ContainerId::reported("c");
        assert_eq!(
            container.cgroup_names(&task),
            ["c", "containerd-driver-c.scope", "alloc.a/b.scope"]
        );
        assert_eq!(
            container.cgroup_names(&TaskId::new("plain")),
            container.own_cgroup_names()
        );
    }

    #[test]
    fn container_id_shows_task_and_allocation() {
        let task = TaskId::new("11111111-2222-3333-4444-555555555555/web/0a1b2c3d");
        assert_eq!(
            ContainerId::of(&task).as_str(),
            "web-11111111-2222-3333-4444-555555555555-0a1b2c3d"
        );
    }

    #[test]
    fn container_id_is_accepted_by_containerd_whatever_the_task_is_called() {
        for id in [
            "",
            "/",
            "a",
            "////",
            "11111111-2222-3333-4444-555555555555",
            "x/ü__--/1",
            "x/a very long name with spaces, more than seventy-six characters in all of it/00000000",
        ] {
            let c = ContainerId::of(&TaskId::new(id));
            assert!(
                is_identifier(c.as_str()) && c.as_str().len() <= CONTAINER_ID_MAX,
                "{id:?} -> {c}"
            );
        }
    }

    #[test]
    fn names_of_ours_are_known_from_others() {
        let alloc = "11111111-2222-3333-4444-555555555555";
        for task in [
            format!("{alloc}/web-a.b/0a1b2c3d"),
            format!("{alloc}/ä/0a1b2c3d"),
            "run/x".to_owned(),
        ] {
            assert!(is_by_convention(ContainerId::of(&TaskId::new(task)).as_str()));
        }
        for name in [
            "",
            "share",
            "web",
            alloc,
            "web-11111111-2222-3333-4444-55555555555-0a1b2c3d",
            "-11111111-2222-3333-4444-555555555555-0a1b2c3d",
            "web-11111111-2222-3333-4444-555555555555-0A1B2C3D",
            "web-h0123456789abcdef0123456789abcde",
            "11111111-2222-3333-4444-555555555555.web.scope",
        ] {
            assert!(!is_by_convention(name), "{name}");
        }
    }

    #[test]
    fn different_tasks_have_different_containers() {
        let long = "n".repeat(100);
        let a = ContainerId::of(&TaskId::new(format!(
            "11111111-2222-3333-4444-555555555555/{long}/00000000"
        )));
        let b = ContainerId::of(&TaskId::new(format!(
            "11111111-2222-3333-4444-555555555555/{long}/00000001"
        )));
        assert_ne!(a, b);
    }

    #[test]
    fn chain_of_one_layer_is_the_layer() {
        let d = Digest::sha256(b"x");
        assert_eq!(chain_id(std::slice::from_ref(&d)), Some(d));
        assert_eq!(chain_id(&[]), None);
    }
}

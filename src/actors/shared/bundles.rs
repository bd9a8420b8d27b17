//! Where containerds have their bundles. They tell nobody: it is seen of shims, and kept for the time when there is none.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Directories of bundles by containerd's socket and namespace.
#[derive(Debug, Default)]
pub struct BundleDirs(Mutex<BTreeMap<(PathBuf, String), BTreeSet<PathBuf>>>);

impl BundleDirs {
    /// The bundles of this containerd's namespace lie there too.
    pub fn note(&self, socket: &Path, namespace: &str, dir: &Path) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let dirs = known.entry((socket.to_owned(), namespace.to_owned())).or_default();
        if !dirs.contains(dir) {
            dirs.insert(dir.to_owned());
        }
    }

    /// Those that were seen.
    #[must_use]
    pub fn of(&self, socket: &Path, namespace: &str) -> Vec<PathBuf> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let dirs = known.get(&(socket.to_owned(), namespace.to_owned()));
        dirs.into_iter().flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_of_one_containerd_is_not_known_of_another() {
        let (known, socket) = (BundleDirs::default(), Path::new("/a.sock"));
        for dir in ["/run/b/n", "/run/a/n", "/run/b/n"] {
            known.note(socket, "n", Path::new(dir));
        }
        assert_eq!(known.of(socket, "n"), [Path::new("/run/a/n"), Path::new("/run/b/n")]);
        assert!(known.of(socket, "m").is_empty() && known.of(Path::new("/b.sock"), "n").is_empty());
    }
}

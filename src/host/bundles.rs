//! Bundles: the directories in which a shim and its runtime work for one container. containerd makes and removes them; what it
//! was interrupted at is in its way afterwards, and nobody's any more.

use super::error::HostError;
use super::leftovers::{self, BUNDLES};
use super::shims;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The bundle of a container, or what containerd had begun to delete of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// The container.
    pub container: String,
    /// Where it is, or would be if it is only half deleted.
    pub path: PathBuf,
    /// When something was last made or removed in it, nanoseconds since the Unix epoch.
    pub changed_at: i64,
}

/// What is in these directories of a namespace's bundles. One that cannot be read has none.
#[must_use]
pub fn all_in(dirs: &[PathBuf]) -> Vec<Bundle> {
    let entries = dirs.iter().flat_map(|dir| std::fs::read_dir(dir).into_iter().flatten());
    let mut found: Vec<Bundle> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let container = name.strip_prefix('.').unwrap_or(&name).to_owned();
            Some(Bundle {
                path: entry.path().with_file_name(&container),
                changed_at: leftovers::changed_at(&entry.path())?,
                container,
            })
        })
        .collect();
    // The two halves of one are one, and as young as the younger.
    found.sort_by(|a, b| (&a.path, b.changed_at).cmp(&(&b.path, a.changed_at)));
    found.dedup_by(|a, b| a.path == b.path);
    found
}

/// Removes a bundle that nobody works in: without a shim, and unchanged for this long. containerd leaves one behind where
/// it is interrupted between making it and starting its shim, and refuses every other task of that id until it starts anew.
/// False if it is in use, or the path is none of this container's bundle.
///
/// # Errors
/// Names what failed.
pub fn remove_orphan(bundle: &Path, namespace: &str, container: &str, unchanged: Duration) -> Result<bool, HostError> {
    let has_shim = || {
        let mut all = shims::all().into_iter();
        all.any(|shim| shim.namespace == namespace && shim.container == container)
    };
    let halves = [bundle.to_owned(), half_deleted(bundle)];
    let there: Vec<_> = halves.iter().filter(|dir| !leftovers::is_gone(dir)).collect();
    let is_old = !there.is_empty() && there.iter().all(|dir| is_older(dir, unchanged));
    if !is_bundle(bundle, namespace, container) || !is_old || has_shim() {
        return Ok(false);
    }
    clear(bundle)?;
    Ok(true)
}

/// Whether a path is that of a container's bundle, by its name.
pub(super) fn is_bundle(dir: &Path, namespace: &str, container: &str) -> bool {
    dir.ends_with(Path::new(BUNDLES).join(namespace).join(container))
}

/// Whether nothing was made or removed in this directory for this long.
fn is_older(dir: &Path, than: Duration) -> bool {
    let found = dir.symlink_metadata().ok().filter(std::fs::Metadata::is_dir);
    let changed = found.and_then(|found| found.modified().ok());
    changed.is_some_and(|at| at.elapsed().is_ok_and(|age| age >= than))
}

/// What containerd renames a bundle to before it deletes it: while something is in that, it can delete no bundle of this name
/// any more.
fn half_deleted(bundle: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(bundle.file_name().unwrap_or_default());
    bundle.with_file_name(name)
}

/// Removes a bundle with what is mounted in it, its other half, and what is half deleted of one.
pub(super) fn clear(bundle: &Path) -> Result<(), HostError> {
    for dir in [&half_deleted(bundle), bundle] {
        leftovers::unmount_beneath(dir)?;
        // The other half of it, in containerd's root; not there for every kind of container.
        let work = std::fs::read_link(dir.join("work")).ok();
        let twin = |dir: &Path| dir.iter().rev().take(3).eq(bundle.iter().rev().take(3));
        for dir in work.as_deref().filter(|dir| twin(dir)).into_iter().chain([dir]) {
            remove(dir)?;
        }
    }
    Ok(())
}

/// Removes a directory; one that is gone is no error.
pub(super) fn remove(dir: &Path) -> Result<(), HostError> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(HostError::from_io("remove bundle", dir, &e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Duration = Duration::ZERO;

    fn bundle_in(root: &Path, container: &str) -> PathBuf {
        let bundle = root.join(BUNDLES).join("n").join(container);
        std::fs::create_dir_all(bundle.join("rootfs")).unwrap();
        bundle
    }

    #[test]
    fn a_bundle_without_a_shim_goes_when_it_is_old_enough() {
        let root = tempfile::tempdir().unwrap();
        let bundle = bundle_in(root.path(), "orphan");
        let old = Duration::from_secs(60);
        assert!(!remove_orphan(&bundle, "n", "orphan", old).unwrap(), "too young");
        assert!(!remove_orphan(&bundle, "n", "orphans", NONE).unwrap(), "another's");
        assert!(!remove_orphan(root.path(), "n", "orphan", NONE).unwrap(), "no bundle");
        let deleting = half_deleted(&bundle);
        std::fs::create_dir(&deleting).unwrap();
        std::fs::write(deleting.join("log"), "").unwrap();
        assert!(remove_orphan(&bundle, "n", "orphan", NONE).unwrap());
        assert!(leftovers::is_gone(&deleting));
        assert!(leftovers::is_gone(&bundle) && !leftovers::is_gone(bundle.parent().unwrap()));
        assert!(!remove_orphan(&bundle, "n", "orphan", NONE).unwrap(), "it is gone");
    }

    #[test]
    fn one_that_is_half_deleted_goes_as_well_and_its_other_half() {
        let root = tempfile::tempdir().unwrap();
        let bundle = bundle_in(root.path(), "web");
        let work = root.path().join("root").join(BUNDLES).join("n/web");
        std::fs::create_dir_all(&work).unwrap();
        std::os::unix::fs::symlink(&work, bundle.join("work")).unwrap();
        std::fs::rename(&bundle, half_deleted(&bundle)).unwrap();
        assert!(remove_orphan(&bundle, "n", "web", NONE).unwrap());
        assert!(leftovers::is_gone(&half_deleted(&bundle)) && leftovers::is_gone(&work));
    }

    #[test]
    fn the_halves_of_one_are_listed_as_one() {
        let root = tempfile::tempdir().unwrap();
        let (web, db) = (bundle_in(root.path(), "web"), bundle_in(root.path(), "db"));
        std::fs::create_dir(half_deleted(&web)).unwrap();
        std::fs::write(web.with_file_name("file"), "").unwrap();
        let dir = web.parent().unwrap().to_owned();
        let younger = leftovers::changed_at(&half_deleted(&web)).max(leftovers::changed_at(&web));
        let found = all_in(&[dir.clone(), dir.join("none")]);
        let paths: Vec<_> = found.iter().map(|bundle| &bundle.path).collect();
        assert_eq!(paths, [&db, &web]);
        assert_eq!(
            (Some(found[1].changed_at), found[1].container.as_str()),
            (younger, "web")
        );
    }

    #[test]
    fn only_a_directory_named_as_a_bundle_is_one() {
        let good = Path::new("/run/containerd").join(BUNDLES).join("n/web");
        assert!(is_bundle(&good, "n", "web"));
        assert!(!is_bundle(&good, "n", "we") && !is_bundle(Path::new("/"), "n", "web"));
        assert!(!is_bundle(Path::new("/srv/n/web"), "n", "web"));
    }
}

//! Leftover cgroups: finding out whether anybody is in one, and removing it if not.
//!
//! A shim that was killed leaves its container's cgroup behind. Only empty ones are removed, bottom up; `rmdir` on a
//! cgroup with a process in it fails in the kernel, so a wrong guess here cannot hurt anybody.

use super::error::HostError;
use super::node::{CgroupVersion, read};
use super::proc;
use rustix::fs::{self, AtFlags, CWD};
use rustix::io::Errno;
use std::path::{Component, Path, PathBuf};

/// How many cgroups one removal looks at: a container that made more than this keeps them.
const MAX: usize = 4096;

/// Process ids in a container's cgroup and those beneath it, in any hierarchy. `path` is as the runtime got it, e.g.
/// `/nomad/web-1`.
///
/// # Errors
/// If `path` is not absolute or leads upwards.
pub fn pids(root: &Path, version: CgroupVersion, path: &Path) -> Result<Vec<u32>, HostError> {
    let mut found = Vec::new();
    for top in tops(root, version, path)? {
        for dir in tree(&top) {
            found.extend(
                read(dir.join("cgroup.procs"))
                    .map(|t| proc::pids(&t))
                    .unwrap_or_default(),
            );
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Removes the cgroup of a container and those beneath it, in every hierarchy. Absent is success. Nothing is removed
/// while a process is in any of them.
///
/// # Errors
/// If processes are inside (their number is told), or the kernel refuses.
pub fn remove_empty(root: &Path, version: CgroupVersion, path: &Path) -> Result<(), HostError> {
    const WHAT: &str = "remove cgroup";
    let inside = pids(root, version, path)?;
    if !inside.is_empty() {
        return Err(HostError::new(
            WHAT,
            path,
            format!("{} processes are in it", inside.len()),
        ));
    }
    for top in tops(root, version, path)? {
        // Deepest first.
        for dir in tree(&top).iter().rev() {
            match fs::unlinkat(CWD, dir, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(HostError::from_errno(WHAT, dir, errno)),
            }
        }
    }
    Ok(())
}

/// Puts a process into a cgroup; its children are then born there.
///
/// # Errors
/// If there is no such cgroup or the kernel refuses.
pub fn join(dir: &Path, pid: u32) -> Result<(), HostError> {
    const WHAT: &str = "join cgroup";
    let procs = dir.join("cgroup.procs");
    // Not created: where there is no cgroup there must not be a file either.
    let mut file = std::fs::File::options()
        .write(true)
        .open(&procs)
        .map_err(|e| HostError::from_io(WHAT, &procs, &e))?;
    std::io::Write::write_all(&mut file, pid.to_string().as_bytes()).map_err(|e| HostError::from_io(WHAT, &procs, &e))
}

/// The container's directory in every hierarchy.
fn tops(root: &Path, version: CgroupVersion, path: &Path) -> Result<Vec<PathBuf>, HostError> {
    let rest = relative(path).ok_or_else(|| {
        HostError::new(
            "cgroup",
            path,
            "an absolute path of at least one name and without `..` is expected",
        )
    })?;
    Ok(match version {
        CgroupVersion::V2 => vec![root.join(rest)],
        CgroupVersion::V1 => {
            // Every directory beneath the root is a hierarchy, or a link to one (`cpu` to `cpu,cpuacct`).
            let mut all: Vec<_> = std::fs::read_dir(root)
                .into_iter()
                .flatten()
                .flatten()
                .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
                .map(|e| e.path().join(&rest))
                .filter(|p| p.is_dir())
                .collect();
            all.sort();
            all
        }
    })
}

/// `path` without its root. `None` for the root itself: that one is nobody's.
fn relative(path: &Path) -> Option<PathBuf> {
    let mut parts = path.components();
    if parts.next() != Some(Component::RootDir) {
        return None;
    }
    let mut out = PathBuf::new();
    for part in parts {
        match part {
            Component::Normal(name) => out.push(name),
            _ => return None,
        }
    }
    (!out.as_os_str().is_empty()).then_some(out)
}

/// A directory and all beneath it, parents before children. Empty if it is not there.
fn tree(top: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    if top.is_dir() {
        out.push(top.to_owned());
    }
    let mut next = 0;
    while let Some(dir) = out.get(next).cloned() {
        next += 1;
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            // Links are not followed: `file_type` is of the entry itself.
            if out.len() < MAX && entry.file_type().is_ok_and(|t| t.is_dir()) {
                out.push(entry.path());
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn make(root: &Path, dirs: &[&str]) {
        for d in dirs {
            std::fs::create_dir_all(root.join(d)).unwrap();
        }
    }

    #[test]
    fn an_empty_tree_is_removed_in_every_hierarchy_and_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        make(
            dir.path(),
            &["cpu/nomad/a/b/c", "memory/nomad/a", "memory/nomad/other", "pids"],
        );
        remove_empty(dir.path(), CgroupVersion::V1, Path::new("/nomad/a")).unwrap();
        remove_empty(dir.path(), CgroupVersion::V1, Path::new("/nomad/a")).unwrap();
        assert!(!dir.path().join("cpu/nomad/a").exists() && !dir.path().join("memory/nomad/a").exists());
        assert!(dir.path().join("memory/nomad/other").exists());
        make(dir.path(), &["nomad/x/y"]);
        remove_empty(dir.path(), CgroupVersion::V2, Path::new("/nomad/x")).unwrap();
        assert!(dir.path().join("nomad").exists() && !dir.path().join("nomad/x").exists());
    }

    #[test]
    fn a_cgroup_with_a_process_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), &["cpu/nomad/a/b", "memory/nomad/a"]);
        std::fs::write(dir.path().join("cpu/nomad/a/b/cgroup.procs"), "42\n").unwrap();
        let error = remove_empty(dir.path(), CgroupVersion::V1, Path::new("/nomad/a"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("1 processes"), "{error}");
        assert_eq!(
            pids(dir.path(), CgroupVersion::V1, Path::new("/nomad/a")).unwrap(),
            vec![42]
        );
        assert!(dir.path().join("memory/nomad/a").exists());
    }

    #[test]
    fn a_real_cgroup_of_ours_is_removed() {
        let root = Path::new(super::super::node::CGROUP_ROOT);
        let version = super::super::node::cgroup_version(root);
        let name = format!("/containerd-driver-test-{}/child", std::process::id());
        let base = if version == CgroupVersion::V1 {
            root.join("pids")
        } else {
            root.to_owned()
        };
        let Ok(()) = std::fs::create_dir_all(base.join(name.trim_start_matches('/'))) else {
            return;
        };
        let top = Path::new(&name).parent().unwrap();
        remove_empty(root, version, top).unwrap();
        assert!(!base.join(top.strip_prefix("/").unwrap()).exists());
    }

    proptest! {
        #[test]
        fn no_path_leads_out(text in "[./a-b]{0,12}") {
            if let Some(rest) = relative(Path::new(&text)) {
                prop_assert!(rest.components().all(|c| matches!(c, Component::Normal(_))));
                prop_assert!(rest.components().next().is_some());
            }
        }
    }
}

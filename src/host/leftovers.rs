//! What dead processes may have left on this host: run directories with their pipes, mounts of bundles, cgroups.
//! Facts only; whose they are and whether they go is not decided here.

use super::error::HostError;
use super::node::{CGROUP_ROOT, CgroupVersion, read};
use super::{cgroup, paths, proc};
use crate::spec::identity::is_by_convention;
use crate::spec::owner::{OWNER_FILE, RunOwner};
use rustix::fs::{self, CWD, FileType, Mode, OFlags};
use rustix::mount::{UnmountFlags, unmount};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where Nomad's cgroups are beneath a hierarchy: with version 1, with version 2.
const PARENTS: (&str, &str) = ("nomad", "nomad.slice");

/// Directory of containerd in which each container has its bundle, beneath the namespace's.
pub(super) const BUNDLES: &str = "io.containerd.runtime.v2.task";

/// Deeper than this nothing of ours lies in a run directory: `exec-…/stdin`.
const DEPTH: usize = 3;

/// The directory of one container's generated files and pipes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir {
    /// The container.
    pub container: String,
    /// Where it is.
    pub path: PathBuf,
    /// Whose it is; `None` if no file tells.
    pub owner: Option<RunOwner>,
    /// When something was last made or removed in it, nanoseconds since the Unix epoch.
    pub changed_at: i64,
    /// Named pipes in it.
    pub fifos: Vec<PathBuf>,
}

/// A mount in the bundle of a container, its root file system as a rule; or where the host reaches the root of a running one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleMount {
    /// Where it is mounted.
    pub target: PathBuf,
    /// containerd namespace.
    pub namespace: String,
    /// The container.
    pub container: String,
}

/// A cgroup that is named as containers of ours are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupDir {
    /// The container.
    pub container: String,
    /// As a runtime gets it, e.g. `/nomad/web-1`.
    pub path: PathBuf,
    /// When it was made or a cgroup in it was, nanoseconds since the Unix epoch; the latest of all hierarchies.
    pub changed_at: i64,
    /// Processes in it and beneath it.
    pub pids: Vec<u32>,
}

/// Inode of a directory; `None` if there is no directory.
#[must_use]
pub fn inode(dir: &Path) -> Option<u64> {
    let found = fs::stat(dir).ok()?;
    (FileType::from_raw_mode(found.st_mode) == FileType::Directory).then_some(found.st_ino)
}

/// Whether nothing at all is at this path. What cannot be looked at counts as there.
#[must_use]
pub fn is_gone(path: &Path) -> bool {
    matches!(
        fs::lstat(path),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR)
    )
}

/// The run directories of all containers; none if there is no such directory.
///
/// # Errors
/// If it is there and cannot be read.
pub fn run_dirs(root: &Path) -> Result<Vec<RunDir>, HostError> {
    let fault = |e: &std::io::Error| HostError::from_io("list run directories", root, e);
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(fault(&e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| fault(&e))?;
        let Ok(container) = entry.file_name().into_string() else {
            continue;
        };
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        // One that was removed meanwhile is none.
        let Some(changed_at) = changed_at(&path) else { continue };
        found.push(RunDir {
            container,
            owner: owner_of(&path),
            changed_at,
            fifos: fifos(&path, DEPTH),
            path,
        });
    }
    found.sort_by(|a, b| a.container.cmp(&b.container));
    Ok(found)
}

/// Whose a container's run directory is; `None` if no file tells.
#[must_use]
pub fn owner_of(dir: &Path) -> Option<RunOwner> {
    RunOwner::decode(read(dir.join(OWNER_FILE)).ok()?.as_bytes())
}

/// Makes a container's run directory if it is missing, and the file in it that tells whose it is.
///
/// # Errors
/// Names what failed.
pub fn claim_run_dir(dir: &Path, owner: &RunOwner) -> Result<(), HostError> {
    const WHAT: &str = "write owner of run directory";
    let file = dir.join(OWNER_FILE);
    let text = owner.encode().map_err(|e| HostError::new(WHAT, &file, e))?;
    paths::create_run_dir(dir)?;
    paths::write_generated_file(&file, &text, 0o600)
}

/// Takes down what is mounted in a run directory, so that a removal of the directory does not reach what is mounted.
///
/// # Errors
/// If something stays mounted, or the kernel refuses.
pub fn unmount_beneath(dir: &Path) -> Result<(), HostError> {
    for target in mount_points()
        .into_iter()
        .rev()
        .filter(|target| target.starts_with(dir))
    {
        unmount(&target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .map_err(|e| HostError::from_errno("unmount", &target, e))?;
    }
    if let Some(target) = mount_points().into_iter().find(|target| target.starts_with(dir)) {
        return Err(HostError::new("unmount", &target, "it is mounted again"));
    }
    Ok(())
}

/// The mounts in bundles, of any containerd.
#[must_use]
pub fn bundle_mounts() -> Vec<BundleMount> {
    mount_points().into_iter().filter_map(bundle_mount).collect()
}

fn bundle_mount(target: PathBuf) -> Option<BundleMount> {
    let mut parts = target.iter().skip_while(|part| *part != BUNDLES).skip(1);
    let (namespace, container) = (parts.next()?, parts.next()?);
    Some(BundleMount {
        namespace: namespace.to_str()?.to_owned(),
        container: container.to_str()?.to_owned(),
        target,
    })
}

/// Mount points in the order they were mounted.
fn mount_points() -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().filter_map(mount_point).collect()
}

/// The fifth field of a line of mountinfo; blanks and backslashes are octal there (proc(5)).
fn mount_point(line: &str) -> Option<PathBuf> {
    let field = line.split(' ').nth(4)?;
    let plain = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(field.to_owned(), |text, (code, sign)| text.replace(code, sign));
    Some(PathBuf::from(plain))
}

/// Cgroups beneath Nomad's that are named as containers of ours are.
#[must_use]
pub fn cgroups(root: &Path, version: CgroupVersion) -> Vec<CgroupDir> {
    let (parent, tops) = match version {
        CgroupVersion::V2 => (PARENTS.1, vec![root.to_owned()]),
        CgroupVersion::V1 => (PARENTS.0, directories(root)),
    };
    let mut latest = BTreeMap::<String, i64>::new();
    for dir in tops.iter().flat_map(|top| directories(&top.join(parent))) {
        let name = dir.file_name().and_then(|name| name.to_str());
        let (Some(name), Some(at)) = (name.filter(|name| is_by_convention(name)), changed_at(&dir)) else {
            continue;
        };
        let known = latest.entry(name.to_owned()).or_insert(at);
        *known = at.max(*known);
    }
    latest
        .into_iter()
        .map(|(container, changed_at)| {
            let path = Path::new("/").join(parent).join(&container);
            CgroupDir {
                // The path is absolute and has no `..`, so that there is no error to tell.
                pids: cgroup::pids(root, version, &path).unwrap_or_default(),
                container,
                path,
                changed_at,
            }
        })
        .collect()
}

/// The cgroup that a process is in, as that of a container; with version 1 that of the hierarchy of memory. `None` if the
/// process has ended meanwhile.
#[must_use]
pub fn cgroup_of(pid: u32, container: &str, version: CgroupVersion) -> Option<CgroupDir> {
    let controller = match version {
        CgroupVersion::V1 => "memory",
        CgroupVersion::V2 => "",
    };
    let text = read(format!("/proc/{pid}/cgroup")).ok()?;
    let path = PathBuf::from(proc::own_cgroup(&text, controller)?);
    let root = Path::new(CGROUP_ROOT);
    let beneath = path.strip_prefix("/").ok()?;
    Some(CgroupDir {
        container: container.to_owned(),
        changed_at: changed_at(&root.join(controller).join(beneath))?,
        pids: cgroup::pids(root, version, &path).ok()?,
        path,
    })
}

/// Directories in a directory, links not followed; none if it cannot be read.
fn directories(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Named pipes beneath a directory of ours.
fn fifos(dir: &Path, depth: usize) -> Vec<PathBuf> {
    use std::os::unix::fs::FileTypeExt as _;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_fifo() => found.push(entry.path()),
            Ok(kind) if kind.is_dir() && depth > 1 => found.extend(fifos(&entry.path(), depth - 1)),
            _ => {}
        }
    }
    found.sort();
    found
}

/// Whether a path is a named pipe; a link is not followed.
#[must_use]
pub fn is_fifo(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_fifo())
}

pub(super) fn changed_at(dir: &Path) -> Option<i64> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = fs::fstat(fs::openat(CWD, dir, flags, Mode::empty()).ok()?).ok()?;
    let nanos = i64::try_from(found.st_mtime_nsec).unwrap_or_default();
    Some(found.st_mtime.saturating_mul(1_000_000_000).saturating_add(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::owner::Owner;

    const NAME: &str = "web-11111111-2222-3333-4444-555555555555-0a1b2c3d";

    #[test]
    fn a_run_directory_tells_its_owner_and_its_pipes() {
        let run = tempfile::tempdir().unwrap();
        let owner = RunOwner {
            address: "/a".to_owned(),
            namespace: "n".to_owned(),
            owner: Owner::default(),
            shim: None,
        };
        let dir = run.path().join("web");
        claim_run_dir(&dir, &owner).unwrap();
        claim_run_dir(&dir, &owner).unwrap();
        std::fs::create_dir(dir.join("exec-1")).unwrap();
        super::super::fifo::make_fifo(&dir.join("exec-1/stdin")).unwrap();
        std::fs::create_dir(run.path().join("nameless")).unwrap();
        std::fs::write(run.path().join("a-file"), "").unwrap();
        let found = run_dirs(run.path()).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].container.as_str(), &found[0].owner), ("nameless", &None));
        assert_eq!((found[1].container.as_str(), &found[1].owner), ("web", &Some(owner)));
        assert_eq!(found[1].fifos, [dir.join("exec-1/stdin")]);
        assert!(found[1].changed_at > 1_600_000_000_000_000_000);
        unmount_beneath(&dir).unwrap();
        assert!(is_gone(&dir.join("none")) && !is_gone(&dir));
        assert_eq!(run_dirs(&run.path().join("none")).unwrap(), []);
    }

    #[test]
    fn a_mount_of_a_bundle_names_its_container() {
        let line = "36 35 98:0 / /run/c\\040d/io.containerd.runtime.v2.task/nomad/web/rootfs rw - overlay o rw";
        let found = bundle_mount(mount_point(line).unwrap()).unwrap();
        assert_eq!((found.namespace.as_str(), found.container.as_str()), ("nomad", "web"));
        assert!(found.target.starts_with("/run/c d"));
        assert_eq!(bundle_mount("/run/containerd/nomad/web".into()), None);
        assert_eq!(mount_point("1 2 3"), None);
    }

    #[test]
    fn only_cgroups_named_as_ours_are_listed_once_for_all_hierarchies() {
        let dir = tempfile::tempdir().unwrap();
        for path in [
            format!("cpu/nomad/{NAME}/below"),
            format!("memory/nomad/{NAME}"),
            "cpuset/nomad/share".to_owned(),
            format!("cpu/other/{NAME}"),
            format!("nomad.slice/{NAME}"),
        ] {
            std::fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        std::fs::write(dir.path().join(format!("memory/nomad/{NAME}/cgroup.procs")), "12\n").unwrap();
        let found = cgroups(dir.path(), CgroupVersion::V1);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            (found[0].container.as_str(), found[0].pids.as_slice()),
            (NAME, &[12][..])
        );
        assert_eq!(found[0].path, Path::new("/nomad").join(NAME));
        let found = cgroups(dir.path(), CgroupVersion::V2);
        assert_eq!((found.len(), found[0].pids.len()), (1, 0));
    }
}

//! What the kernel offers to confine a container with, and the seccomp profile that a task names. What a kernel has it has
//! until the next boot; AppArmor profiles come and go.

use super::error::HostError;
use super::node::read;
use super::{paths, proc, selinux};
use crate::spec::node::SecurityFacts;
use crate::spec::seccomp::{PROFILE_MAX, ProfileFile};
use rustix::fs::{self, CWD, FileType, Mode, OFlags};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

/// Mode filter of seccomp came with it (`CONFIG_SECCOMP_FILTER`); this kernel and later list its actions there.
const ACTIONS: &str = "/proc/sys/kernel/seccomp/actions_avail";
const ACTIONS_SINCE: (u32, u32) = (4, 14);

/// What stays as it is for as long as this kernel runs. What cannot be read counts as not there.
#[must_use]
pub fn lasting() -> SecurityFacts {
    let uname = rustix::system::uname();
    let kernel = proc::kernel_version(&uname.release().to_string_lossy());
    let status = read("/proc/self/status").unwrap_or_default();
    SecurityFacts {
        machine: uname.machine().to_string_lossy().into_owned(),
        kernel,
        seccomp: proc::status_field(&status, "Seccomp").is_some()
            && (kernel < ACTIONS_SINCE || Path::new(ACTIONS).exists()),
        seccomp_profile: None,
        apparmor: None,
        selinux: selinux::enabled(),
        throttles: throttles(Path::new("/sys/devices/system/cpu")),
    }
}

/// These, with what may be another at every start: the AppArmor profiles, and the seccomp profile if there is one.
#[must_use]
pub fn facts(lasting: &SecurityFacts, profile: Option<&ProfileFile>) -> SecurityFacts {
    SecurityFacts {
        seccomp_profile: profile.map(|file| read_profile(file).map_err(|e| e.to_string())),
        apparmor: apparmor(Path::new("/sys")),
        ..lasting.clone()
    }
}

/// `cpu<n>/thermal_throttle` of every core that has it, in order.
fn throttles(cpus: &Path) -> Vec<String> {
    let mut found: Vec<String> = std::fs::read_dir(cpus)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("thermal_throttle"))
        .filter(|path| path.is_dir())
        .map(|path| path.display().to_string())
        .collect();
    found.sort();
    found
}

/// The question that runc asks, too (`apparmor.IsEnabled`): the module says so, and its files are mounted.
fn apparmor(sys: &Path) -> Option<BTreeMap<String, bool>> {
    let enabled = read(sys.join("module/apparmor/parameters/enabled")).ok()?;
    let dir = sys.join("kernel/security/apparmor");
    (enabled.starts_with('Y') && dir.is_dir())
        .then(|| proc::apparmor_profiles(&read(dir.join("profiles")).unwrap_or_default()))
}

/// The content of a profile: a regular file of bounded size.
fn read_profile(file: &ProfileFile) -> Result<String, HostError> {
    const WHAT: &str = "read seccomp profile";
    let at = OFlags::PATH | OFlags::CLOEXEC;
    let (found, path) = match file {
        ProfileFile::Host(path) => (fs::openat(CWD, path, at, Mode::empty()), path.clone()),
        ProfileFile::Beneath { dir, rest } => (
            fs::openat(CWD, dir, at | OFlags::DIRECTORY, Mode::empty())
                .and_then(|root| paths::open_beneath(root, rest, OFlags::PATH)),
            dir.join(rest),
        ),
    };
    let found = found.map_err(|e| HostError::from_errno(WHAT, &path, e))?;
    regular(WHAT, &path, &found)
}

/// Reads what a descriptor of the path alone stands for: opening a device or a pipe to see what it is would already do
/// something.
fn regular(what: &'static str, path: &Path, found: &OwnedFd) -> Result<String, HostError> {
    let stat = fs::fstat(found).map_err(|e| HostError::from_errno(what, path, e))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(HostError::new(what, path, "it is no regular file"));
    }
    // Those that the kernel makes up as they are read say that they are empty, and some block whoever reads them.
    if stat.st_size == 0 {
        return Err(HostError::new(what, path, "it is empty"));
    }
    let fault = |e: std::io::Error| HostError::from_io(what, path, &e);
    let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd())).map_err(fault)?;
    let mut bytes = Vec::new();
    file.take(PROFILE_MAX + 1).read_to_end(&mut bytes).map_err(fault)?;
    if u64::try_from(bytes.len()).map_or(true, |n| n > PROFILE_MAX) {
        return Err(HostError::new(
            what,
            path,
            format!("at most {PROFILE_MAX} bytes are read"),
        ));
    }
    String::from_utf8(bytes).map_err(|_| HostError::new(what, path, "it is no UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn this_kernel_can_be_read() {
        let facts = facts(&lasting(), None);
        assert!(facts.kernel > (3, 0) && !facts.machine.is_empty() && facts.seccomp_profile.is_none());
        eprintln!("{facts:?}");
    }

    #[test]
    fn loaded_profiles_are_listed_where_apparmor_is_on() {
        let sys = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = sys.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(apparmor(sys.path()), None);
        write("module/apparmor/parameters/enabled", "Y\n");
        assert_eq!(apparmor(sys.path()), None);
        write("kernel/security/apparmor/profiles", "docker-default (enforce)\n");
        assert_eq!(apparmor(sys.path()).unwrap().get("docker-default"), Some(&true));
        write("module/apparmor/parameters/enabled", "N\n");
        assert_eq!(apparmor(sys.path()), None);
    }

    /// As with CVE-2026-14896: a link that the task planted does not show it a file of the host.
    #[test]
    fn a_profile_of_the_task_is_read_beneath_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let local = dir.path().join("web/local");
        std::fs::create_dir_all(&local).unwrap();
        std::fs::write(local.join("p.json"), "{}").unwrap();
        symlink("/etc/passwd", local.join("link.json")).unwrap();
        symlink("/etc", local.join("out")).unwrap();
        let read = |rest: &str| {
            read_profile(&ProfileFile::Beneath {
                dir: dir.path().into(),
                rest: rest.into(),
            })
        };
        assert_eq!(read("web/local/p.json").unwrap(), "{}");
        for rest in [
            "web/local/link.json",
            "web/local/out/passwd",
            "web/local",
            "web/../../x",
            "web/none",
        ] {
            assert!(read(rest).is_err(), "{rest}");
        }
    }

    #[test]
    fn only_regular_files_of_bounded_size_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let read = |path: &Path| read_profile(&ProfileFile::Host(path.into())).map_err(|e| e.to_string());
        assert!(read(Path::new("/dev/zero")).unwrap_err().contains("no regular file"));
        assert!(read(dir.path()).unwrap_err().contains("no regular file"));
        assert!(read(Path::new("/proc/kmsg")).unwrap_err().contains("empty"));
        let pipe = dir.path().join("pipe");
        fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(read(&pipe).unwrap_err().contains("no regular file"));
        let big = dir.path().join("big");
        File::create(&big).unwrap().set_len(PROFILE_MAX + 1).unwrap();
        assert!(read(&big).unwrap_err().contains("at most"));
        std::fs::write(&big, [0xff]).unwrap();
        assert!(read(&big).unwrap_err().contains("no UTF-8"));
        std::fs::write(&big, "{}").unwrap();
        symlink(&big, dir.path().join("link")).unwrap();
        assert_eq!(read(&dir.path().join("link")).unwrap(), "{}");
    }
}

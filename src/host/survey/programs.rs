//! Programs as containerd finds them, and the version that they tell.
//!
//! containerd looks for a shim in its own `PATH` and then beside its own program (its `resolveRuntimePath`); the shim
//! inherits that `PATH` and looks for `runc` in it. containerd puts the `bin` of its plugin `opt` in front at run time,
//! which its environment as the kernel shows it does not tell.

use crate::host::error::HostError;
use crate::host::node::read_bounded;
use crate::host::paths::is_program;
use crate::spec::doctor::Found;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Most of an environment that is read; the kernel's own bound for one text is 128 KiB.
const ENVIRONMENT_MAX: u64 = 2 << 20;
/// Where a login shell looks on every distribution; taken if containerd's own is not known.
const USUAL: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Most that a program may say of its version.
const SAID_MAX: usize = 4096;
/// How long it may take for it. A program on a dead network disk does not answer at all.
const PATIENCE: Duration = Duration::from_secs(3);

/// Directories in the order in which they are searched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchPath {
    dirs: Vec<PathBuf>,
    /// Whether it is containerd's.
    of_containerd: bool,
}

impl SearchPath {
    /// That of a containerd process. `opt` is the directory of its plugin of that name. If the process is none of
    /// containerd's (systemd may hold the socket), sees other files than this one, or cannot be read, the usual one.
    #[must_use]
    pub fn of(containerd: Option<u32>, opt: Option<&str>) -> Self {
        let own = containerd.and_then(|pid| {
            let program = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
            // One that was replaced while it runs is shown as `containerd (deleted)`.
            let named = program.file_name()?.to_str()?.trim_end_matches(" (deleted)") == "containerd";
            let environment = (named && sees_our_files(pid)).then(|| environment(pid))??;
            Some((environment, program))
        });
        let of_containerd = own.is_some();
        let (text, program) = own.unwrap_or_else(|| (USUAL.to_owned(), PathBuf::new()));
        let opt = opt.map(|dir| Path::new(dir).join("bin"));
        let beside = program.parent().filter(|dir| !dir.as_os_str().is_empty());
        let named = text.split(':').filter(|dir| dir.starts_with('/')).map(PathBuf::from);
        let dirs = opt.into_iter().chain(named).chain(beside.map(Path::to_owned)).collect();
        Self { dirs, of_containerd }
    }
}

/// Whether a path means the same to a process as to this one.
fn sees_our_files(pid: u32) -> bool {
    ["ns/mnt", "root"].into_iter().all(|what| {
        let of = |whose: &str| std::fs::read_link(format!("/proc/{whose}/{what}")).ok();
        let theirs = of(&pid.to_string());
        theirs.is_some() && theirs == of("self")
    })
}

/// `PATH` of a process. A process without one has an empty one.
fn environment(pid: u32) -> Option<String> {
    let text = read_bounded(Path::new(&format!("/proc/{pid}/environ")), ENVIRONMENT_MAX).ok()?;
    let path = text.split('\0').find_map(|entry| entry.strip_prefix("PATH="));
    Some(path.unwrap_or_default().to_owned())
}

/// Looks for a program by name, or at the path that the name is.
#[must_use]
pub fn look_up(name: &str, search: &SearchPath) -> Found {
    let path = if name.contains('/') {
        Some(PathBuf::from(name)).filter(|path| is_program(path))
    } else {
        search
            .dirs
            .iter()
            .map(|dir| dir.join(name))
            .find(|path| is_program(path))
    };
    let dirs: Vec<String> = search.dirs.iter().map(|dir| dir.display().to_string()).collect();
    Found {
        name: name.to_owned(),
        path: path.map(|path| path.display().to_string()),
        searched: dirs.join(":"),
        of_containerd: search.of_containerd,
    }
}

/// First line of what a program says to `--version`.
///
/// # Errors
/// If it cannot be run, says nothing, says it with an exit code, or takes too long.
pub fn version_of(program: &Path) -> Result<String, HostError> {
    const WHAT: &str = "ask for version";
    let fault = |reason: String| HostError::new(WHAT, program, reason);
    let mut child = Command::new(program)
        .arg("--version")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| HostError::from_io(WHAT, program, &e))?;
    let said = child.stdout.take().map_or(Ok(Vec::new()), listen);
    if said.is_err() {
        // One that has ended already is no fault.
        child.kill().ok();
    }
    let status = child.wait().map_err(|e| HostError::from_io(WHAT, program, &e))?;
    let said = said.map_err(fault)?;
    if !status.success() {
        return Err(fault(status.to_string()));
    }
    let text = String::from_utf8_lossy(&said);
    match text.lines().next().map(str::trim) {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(fault("it says nothing".to_owned())),
    }
}

/// Reads to the end, or to the bound of time or size.
fn listen(mut said: impl std::io::Read + std::os::fd::AsFd) -> Result<Vec<u8>, String> {
    let end = Instant::now() + PATIENCE;
    let (mut all, mut piece) = (Vec::new(), [0; SAID_MAX]);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|e| e.to_string())?;
        let ready = poll(&mut [PollFd::new(&said, PollFlags::IN)], Some(&left));
        match ready {
            Ok(0) => return Err(format!("no answer within {PATIENCE:?}")),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(std::io::Error::from(e).to_string()),
        }
        let n = said.read(&mut piece).map_err(|e| e.to_string())?;
        all.extend(piece.iter().take(n));
        if n == 0 {
            return Ok(all);
        }
        if all.len() >= SAID_MAX {
            return Err(format!("it says more than {SAID_MAX} bytes"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn program(dir: &Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn a_program_tells_its_version_or_why_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str, text: &str| version_of(&program(dir.path(), name, text)).map_err(|e| e.reason);
        assert_eq!(
            at("good", "#!/bin/sh\necho runc version 1.1\necho more\n").unwrap(),
            "runc version 1.1"
        );
        assert!(at("bad", "#!/bin/sh\necho x; exit 3\n").unwrap_err().contains('3'));
        assert!(at("mute", "#!/bin/sh\n").unwrap_err().contains("nothing"));
        assert!(
            at("loud", "#!/bin/sh\nexec /bin/cat /dev/zero\n")
                .unwrap_err()
                .contains("more than")
        );
        assert!(version_of(&dir.path().join("none")).is_err());
    }

    #[test]
    fn programs_are_found_in_order_and_by_path() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("1"), dir.path().join("2"));
        for sub in [&one, &two] {
            std::fs::create_dir(sub).unwrap();
        }
        let search = SearchPath {
            dirs: vec![one.clone(), two.clone()],
            of_containerd: true,
        };
        std::fs::write(one.join("x"), "no program").unwrap();
        let second = program(&two, "x", "");
        let path = Some(second.display().to_string());
        assert_eq!(look_up("x", &search).path, path);
        assert_eq!(look_up(&second.display().to_string(), &search).path, path);
        let none = look_up("y", &search);
        assert_eq!((none.path, none.of_containerd), (None, true));
        assert!(none.searched.contains(':'));
    }

    #[test]
    fn whoever_is_not_containerd_does_not_tell_where_it_looks() {
        let search = SearchPath::of(Some(std::process::id()), Some("/opt/containerd"));
        assert!(!search.of_containerd);
        assert_eq!(search.dirs.first(), Some(&PathBuf::from("/opt/containerd/bin")));
        assert!(search.dirs.contains(&PathBuf::from("/usr/bin")));
        assert_eq!(SearchPath::of(None, None).dirs.len(), USUAL.split(':').count());
    }
}

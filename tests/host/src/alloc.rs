//! Allocation directories as a host lays them out, and the log pipes of their tasks.

use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::fifo::{LogCollector, make_fifo};

/// `<base>/<uuid>` with its shared directories. Dropping it removes the tree.
pub struct Alloc {
    id: String,
    dir: PathBuf,
    keep: bool,
}

/// Both collectors of one task.
pub struct Logs {
    pub stdout: LogCollector,
    pub stderr: LogCollector,
}

impl Alloc {
    pub fn new(base: &Path) -> Result<Alloc> {
        let id = uuid();
        let dir = base.join(&id);
        for sub in ["alloc", "alloc/logs", "alloc/data", "alloc/tmp"] {
            fs::create_dir_all(dir.join(sub))?;
            fs::set_permissions(dir.join(sub), Permissions::from_mode(0o777))?;
        }
        Ok(Alloc { id, dir, keep: false })
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// The `alloc_dir` of a task's configuration.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `/alloc` of its tasks.
    pub fn shared_dir(&self) -> PathBuf {
        self.dir.join("alloc")
    }

    pub fn logs_dir(&self) -> PathBuf {
        self.dir.join("alloc/logs")
    }

    /// The host side of `/local`, `/secrets` … is below this.
    pub fn task_dir(&self, task: &str) -> PathBuf {
        self.dir.join(task)
    }

    /// Makes a task's directories; existing ones are left alone.
    pub fn add_task(&self, task: &str) -> Result<PathBuf> {
        let root = self.task_dir(task);
        for (sub, mode) in [
            ("", 0o777),
            ("local", 0o777),
            ("secrets", 0o777),
            ("private", 0o777),
            ("tmp", 0o1777),
        ] {
            fs::create_dir_all(root.join(sub))?;
            fs::set_permissions(root.join(sub), Permissions::from_mode(mode))?;
        }
        Ok(root)
    }

    /// `.<task>.<stream>.fifo` in the logs directory.
    pub fn fifo(&self, task: &str, stream: &str) -> PathBuf {
        self.logs_dir().join(format!(".{task}.{stream}.fifo"))
    }

    /// Makes the pipes where they are missing and starts both collectors.
    pub fn collect_logs(&self, task: &str) -> Result<Logs> {
        let start = |stream: &str| -> Result<LogCollector> {
            let fifo = self.fifo(task, stream);
            if !fifo.exists() {
                make_fifo(&fifo)?;
            }
            LogCollector::start(&fifo, &self.logs_dir().join(format!("{task}.{stream}.0")))
        };
        Ok(Logs {
            stdout: start("stdout")?,
            stderr: start("stderr")?,
        })
    }

    /// Leave the directory on drop.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Alloc {
    fn drop(&mut self) {
        if !self.keep {
            fs::remove_dir_all(&self.dir).ok();
        }
    }
}

/// Random bytes from the kernel, as lower-case hex.
pub fn random_hex(bytes: usize) -> String {
    let mut raw = vec![0; bytes];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut raw))
        .expect("/dev/urandom");
    raw.iter().map(|b| format!("{b:02x}")).collect()
}

/// A random version 4 UUID.
pub fn uuid() -> String {
    let hex = random_hex(16);
    format!(
        "{}-{}-4{}-a{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..32]
    )
}

/// The cpuset cgroup a version 1 host shares among its tasks: `/sys/fs/cgroup/cpuset/<parent>/share`, with all CPUs of the machine.
pub fn prepare_share_cpuset(parent: &str) -> Result<PathBuf> {
    let top = Path::new("/sys/fs/cgroup/cpuset");
    ensure!(top.is_dir(), "no version 1 cpuset hierarchy");
    let mut above = top.to_owned();
    for dir in [top.join(parent), top.join(parent).join("share")] {
        fs::create_dir_all(&dir).with_context(|| format!("cgroup {}", dir.display()))?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let value = fs::read_to_string(above.join(file))?;
            fs::write(dir.join(file), value.trim())?;
        }
        above = dir;
    }
    Ok(above)
}

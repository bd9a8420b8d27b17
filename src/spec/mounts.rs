//! Mounts, in the order in which the runtime makes them.
//!
//! The runtime's own, the job's `mounts`, Nomad's volumes, `/etc/resolv.conf`, the task directories, the log directory
//! read-only over the shared one (CVE-2026-6959), `/etc/hosts`, `/etc/hostname`. A later mount covers an earlier one, so a job may put
//! something over `/run`, but two mounts of ours or the job's at one place are a mistake and refused.

use super::error::SpecError;
use super::go;
use super::identity::ContainerId;
use super::netfiles::NetFiles;
use super::oci::{GeneratedFile, Inputs};
use super::options::MountOption;
use super::task::TaskSpec;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Size of `/dev/shm` where nothing is said.
const SHM_DEFAULT: u64 = 64 << 20;

/// All mounts and what they need on the host.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    list: Vec<Value>,
    /// Target and what asked for it, of all but the runtime's own.
    taken: BTreeMap<String, &'static str>,
    /// Files to write before the start.
    pub(super) files: Vec<GeneratedFile>,
    /// Bind sources that must lie beneath a directory: (directory, source).
    pub(super) beneath: Vec<(PathBuf, PathBuf)>,
    /// `linux.rootfsPropagation`, if a mount needs one.
    pub(super) propagation: Option<&'static str>,
}

impl Mounts {
    /// The mounts of a task.
    pub(super) fn build(inputs: &Inputs<'_>, container: &ContainerId, hostname: &str) -> Result<Self, SpecError> {
        let task = inputs.task;
        let net_files = NetFiles {
            inputs,
            container,
            hostname,
        };
        let mut m = Self {
            list: runtime_own(task)?,
            ..Self::default()
        };
        for mount in &task.options.mounts {
            m.option(task, mount)?;
        }
        for mount in &task.mounts {
            m.nomad(mount)?;
        }
        net_files.resolv_conf(&mut m)?;
        m.task_dirs(task)?;
        net_files.hosts(&mut m)?;
        net_files.hostname(&mut m)?;
        Ok(m)
    }

    /// OCI `mounts`.
    pub(super) fn into_json(self) -> Vec<Value> {
        self.list
    }

    pub(super) fn push(
        &mut self,
        by: &'static str,
        target: &str,
        ty: &str,
        source: &str,
        options: &[&str],
    ) -> Result<(), SpecError> {
        if source.contains('\0') {
            return Err(SpecError::option(by, source, "a path without NUL is expected"));
        }
        let target = clean(by, target)?;
        if let Some(first) = self.taken.get(&target) {
            return Err(SpecError::option(
                by,
                &target,
                format!("one mount per target is allowed, and {first} has this one"),
            ));
        }
        self.list
            .push(json!({"destination": target, "type": ty, "source": source, "options": options}));
        self.taken.insert(target, by);
        Ok(())
    }

    fn option(&mut self, task: &TaskSpec, mount: &MountOption) -> Result<(), SpecError> {
        let host_path = matches!(mount.r#type.as_str(), "volume" | "bind");
        if !host_path {
            let source = if mount.source.is_empty() {
                &mount.r#type
            } else {
                &mount.source
            };
            let options: Vec<&str> = mount.options.iter().map(String::as_str).collect();
            return self.push("mounts", &mount.target, &mount.r#type, source, &options);
        }
        if mount.options.is_empty() {
            return Err(SpecError::Refused {
                option: "mounts".to_owned(),
                text: format!(
                    "Options cannot be empty for mount type: {}. You need to atleast pass rbind and ro.",
                    mount.r#type
                ),
            });
        }
        let source = if mount.source.is_empty() {
            return Err(SpecError::option(
                "mounts",
                &mount.target,
                "a source is required for a mount of a host path",
            ));
        } else if mount.source.starts_with('/') {
            PathBuf::from(&mount.source)
        } else {
            let dir = task_dir(task)?.ok_or_else(|| {
                SpecError::option(
                    "mounts",
                    &mount.source,
                    "a relative source needs an allocation directory",
                )
            })?;
            if mount.source.split('/').any(|part| part == "..") {
                return Err(SpecError::option(
                    "mounts",
                    &mount.source,
                    "a relative source is inside the task directory, without '..'",
                ));
            }
            let source = dir.join(&mount.source);
            self.beneath.push((dir, source.clone()));
            source
        };
        let mut options: Vec<&str> = mount.options.iter().map(String::as_str).collect();
        if !options.iter().any(|o| matches!(*o, "bind" | "rbind")) {
            options.insert(0, "rbind");
        }
        for option in &options {
            self.propagate(option);
        }
        self.push("mounts", &mount.target, "bind", &source.to_string_lossy(), &options)
    }

    fn nomad(&mut self, mount: &super::task::HostMount) -> Result<(), SpecError> {
        let propagation = match mount.propagation.as_str() {
            "" | "private" => "rprivate",
            "host-to-task" => "rslave",
            "bidirectional" => "rshared",
            other => {
                return Err(SpecError::option(
                    "propagation_mode",
                    other,
                    "private, host-to-task or bidirectional is expected",
                ));
            }
        };
        if !mount.host_path.starts_with('/') {
            return Err(SpecError::option(
                "volume_mount",
                &mount.host_path,
                "an absolute host path is expected",
            ));
        }
        self.propagate(propagation);
        // Nomad lets a volume's destination be relative; drivers take it from the root.
        let target = if mount.task_path.starts_with('/') {
            mount.task_path.clone()
        } else {
            format!("/{}", mount.task_path)
        };
        let access = if mount.readonly { "ro" } else { "rw" };
        self.push(
            "volume_mount",
            &target,
            "bind",
            &mount.host_path,
            &["rbind", propagation, access],
        )
    }

    /// A shared or slave mount needs a root that lets it be one (as in Docker's `oci_linux.go`).
    fn propagate(&mut self, option: &str) {
        match (option, self.propagation) {
            ("shared" | "rshared", _) => self.propagation = Some("rshared"),
            ("slave" | "rslave", None) => self.propagation = Some("rslave"),
            _ => {}
        }
    }

    /// True if the job mounts its own file there, which then counts.
    pub(super) fn has(&self, target: &str) -> bool {
        self.taken.contains_key(target)
    }

    fn task_dirs(&mut self, task: &TaskSpec) -> Result<(), SpecError> {
        let Some(own) = task_dir(task)? else { return Ok(()) };
        let shared = task.alloc_dir.join("alloc");
        let target = |variable: &str, default: &str| {
            task.env
                .get(variable)
                .filter(|v| !v.is_empty())
                .cloned()
                .unwrap_or_else(|| default.to_owned())
        };
        let alloc = target("NOMAD_ALLOC_DIR", "/alloc");
        for (source, target, access) in [
            (own.join("secrets"), target("NOMAD_SECRETS_DIR", "/secrets"), "rw"),
            (own.join("local"), target("NOMAD_TASK_DIR", "/local"), "rw"),
            (shared.clone(), alloc.clone(), "rw"),
            (shared.join("logs"), format!("{alloc}/logs"), "ro"),
        ] {
            // The other tasks of the group can write beside it, and a link in its place would be followed.
            self.beneath.push((task.alloc_dir.clone(), source.clone()));
            // Private: a bind that is left over must not keep Nomad from unmounting the directory.
            self.push(
                "task directory",
                &target,
                "bind",
                &source.to_string_lossy(),
                &["rbind", "rprivate", access],
            )?;
        }
        Ok(())
    }
}

/// The task's directory on the host, `None` without an allocation directory.
pub(super) fn task_dir(task: &TaskSpec) -> Result<Option<PathBuf>, SpecError> {
    if task.alloc_dir.as_os_str().is_empty() {
        return Ok(None);
    }
    if task.name.is_empty() || task.name.contains(['/', '\0']) || matches!(task.name.as_str(), "." | "..") {
        return Err(SpecError::option(
            "task name",
            &task.name,
            "a name that can be a directory is expected",
        ));
    }
    if !task.alloc_dir.is_absolute() {
        return Err(SpecError::option(
            "alloc_dir",
            &task.alloc_dir,
            "an absolute path is expected",
        ));
    }
    Ok(Some(task.alloc_dir.join(Path::new(&task.name))))
}

/// An absolute target without `.`, empty parts and a slash at the end; `..` and the root are refused.
fn clean(by: &str, target: &str) -> Result<String, SpecError> {
    let parts: Vec<&str> = target.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    if !target.starts_with('/') || parts.is_empty() || parts.contains(&"..") || target.contains('\0') {
        return Err(SpecError::option(
            by,
            target,
            "an absolute target below /, without '..', is expected",
        ));
    }
    Ok(format!("/{}", parts.join("/")))
}

/// containerd `oci.defaultMounts`, and a view of the cgroups.
fn runtime_own(task: &TaskSpec) -> Result<Vec<Value>, SpecError> {
    let o = &task.options;
    let shm = match o.shm_size.as_deref() {
        None => SHM_DEFAULT,
        Some(text) => go::parse_size(text).filter(|n| *n > 0).ok_or_else(|| SpecError::Refused {
            option: "shm_size".to_owned(),
            text: format!("Error in setting shm_size: option shm_size: {text:?}: a size above 0 in binary units is expected, such as 128M"),
        })?,
    };
    let access = if o.privileged { "rw" } else { "ro" };
    let mount = |target: &str, ty: &str, source: &str, options: &[&str]| json!({"destination": target, "type": ty, "source": source, "options": options});
    Ok(vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", &format!("size={shm}")],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
        mount(
            "/run",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", access],
        ),
    ])
}

#[cfg(test)]
#[path = "mounts_test.rs"]
mod tests;

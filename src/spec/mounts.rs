//! Mounts, in the order in which the runtime makes them.
//!
//! The runtime's own, then by depth of their targets the job's `mounts`, `volumes` and `tmpfs`, Nomad's volumes,
//! `/etc/resolv.conf`, the task directories, the log directory read-only over the shared one (CVE-2026-6959),
//! `/etc/hosts`, `/etc/hostname`, and what an image's VOLUMEs need: so a volume at `/local/data` is not hidden by the task
//! directory at `/local`. A mount at or above one of the runtime's own takes its place, but two mounts of ours or the
//! job's at one place are a mistake and refused.

use super::error::SpecError;
use super::identity::ContainerId;
use super::init;
use super::namespaces;
use super::netfiles::NetFiles;
use super::oci::{Beneath, Expected, GeneratedFile, Inputs};
use super::path::{self, inside};
use super::runtime_mounts;
use super::task::{HostMount, TaskSpec};
use super::tmpfs;
use super::user::User;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What asks for a mount in place of an image's VOLUME.
pub(super) const IMAGE_VOLUME: &str = "image VOLUME";

/// All mounts and what they need on the host.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    /// The runtime's own.
    own: Vec<Value>,
    list: Vec<Value>,
    /// Target and what asked for it, of all but the runtime's own.
    taken: BTreeMap<String, &'static str>,
    /// Files to write before the start.
    pub(super) files: Vec<GeneratedFile>,
    /// Bind mounts whose sources must lie beneath a directory.
    pub(super) beneath: Vec<Beneath>,
    /// Bind sources that must exist, with the option that named them.
    pub(super) sources: Vec<(&'static str, PathBuf)>,
    /// Bind sources that must have an SELinux label.
    pub(super) relabel: Vec<(PathBuf, String)>,
    /// Directories that must be there: VOLUMEs of the image, of which it may have nothing but the name.
    pub(super) directories: Vec<PathBuf>,
    /// `linux.rootfsPropagation`, if a mount needs one.
    pub(super) propagation: Option<&'static str>,
}

impl Mounts {
    /// The mounts of a task.
    pub(super) fn build(
        inputs: &Inputs<'_>,
        container: &ContainerId,
        hostname: &str,
        user: &User,
    ) -> Result<Self, SpecError> {
        let task = inputs.task;
        let net_files = NetFiles {
            inputs,
            container,
            hostname,
        };
        let mut m = Self {
            own: runtime_mounts::own(inputs, namespaces::ipc(inputs)?)?,
            ..Self::default()
        };
        for mount in &task.options.mounts {
            m.block(inputs, mount)
                .map_err(|e| e.named("mounts", &mount.at).named("mount", &mount.at))?;
        }
        for text in &task.options.volumes {
            m.volume(inputs, text)?;
        }
        for text in &task.options.tmpfs {
            m.tmpfs_short(inputs, text)?;
        }
        for mount in &task.mounts {
            m.nomad(inputs, mount)?;
        }
        net_files.resolv_conf(&mut m)?;
        m.task_dirs(inputs)?;
        net_files.hosts(&mut m)?;
        net_files.hostname(&mut m)?;
        if let Some(program) = init::program(inputs)? {
            init::has_place(m.taken.get(init::DIR).copied())?;
            let options = ["bind", "rprivate", "ro", "nosuid", "nodev"];
            m.push("init", init::TARGET, "bind", &program.to_string_lossy(), &options)?;
        }
        m.image_volumes(inputs, user)?;
        Ok(m)
    }

    /// OCI `mounts`. The runtime's own are left out where another is in their place or above them: for one at `/dev` the
    /// runtime then makes no devices either, as CSI plugins, which bring the host's, need it.
    pub(super) fn into_json(mut self) -> Vec<Value> {
        let target = |mount: &Value| mount["destination"].as_str().unwrap_or_default().to_owned();
        self.own.retain(|mount| !covers(&self.taken, &target(mount)));
        self.list.sort_by_key(|mount| target(mount).matches('/').count());
        self.own.extend(self.list);
        self.own
    }

    /// What a process of the container must find at each target.
    pub(super) fn expected(&self, inputs: &Inputs<'_>) -> Vec<Expected> {
        // Who may mount host paths may mount anywhere, and so may the privileged.
        let anywhere = inputs.gates.volumes() || inputs.task.options.privileged;
        let expected = |mount: &Value| {
            let text = mount["destination"].as_str()?;
            let options = mount["options"].as_array().into_iter().flatten();
            let options: Vec<&str> = options.filter_map(Value::as_str).collect();
            let by = self.taken.get(text).copied().unwrap_or("mount");
            let has = |words: &[&str]| options.iter().any(|option| words.contains(option));
            // In place of a VOLUME it is as the image has it.
            let own_mode = mount["type"] == "tmpfs" && by != IMAGE_VOLUME;
            Some(Expected {
                by,
                target: PathBuf::from(text),
                read_only: has(&["ro", "rro"]),
                all_read_only: has(&["rro"]),
                shared: mount["type"] == "bind" && has(&["shared", "rshared"]),
                mode: own_mode.then(|| tmpfs::mode_of(&options)).flatten(),
                source: self.beneath.iter().position(|mount| mount.target == Path::new(text)),
                anywhere: anywhere || is_delicate(text),
            })
        };
        self.list.iter().filter_map(expected).collect()
    }

    /// Targets and what asked for them, of all but the runtime's own.
    pub(super) fn taken(&self) -> &BTreeMap<String, &'static str> {
        &self.taken
    }

    /// True if something other than the runtime's own is mounted there or above.
    pub(super) fn covered(&self, target: &str) -> bool {
        covers(&self.taken, target)
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

    fn nomad(&mut self, inputs: &Inputs<'_>, mount: &HostMount) -> Result<(), SpecError> {
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
        let place = clean("volume_mount", &target)?;
        // Nomad gives every CSI plugin, privileged or not, the host's `/dev` at `/dev` (`csi_plugin_supervisor_hook.go`): no job
        // has asked for it, and its devices stay closed to a task that is not given them.
        let of_csi = place == "/dev" && path::clean(&mount.host_path).as_deref() == Some("/dev");
        if is_delicate(&place) && !of_csi && !inputs.task.options.privileged {
            inputs.gates.host_path("volume_mount", &target)?;
        }
        if !mount.selinux_label.is_empty() {
            self.label(
                inputs,
                "volume_mount",
                Path::new(&mount.host_path),
                &mount.selinux_label,
            )?;
        }
        let access = if mount.readonly { "ro" } else { "rw" };
        self.push(
            "volume_mount",
            &target,
            "bind",
            &mount.host_path,
            &["rbind", propagation, access],
        )
    }

    /// A shared or slave mount needs a root that lets it be one (as in Docker's `oci_linux.go`). Not recursively where it is
    /// shared: crun applies it once more to all that it has mounted, private mounts too.
    pub(super) fn propagate(&mut self, option: &str) {
        match (option, self.propagation) {
            ("shared" | "rshared", _) => self.propagation = Some("shared"),
            ("slave" | "rslave", None) => self.propagation = Some("rslave"),
            _ => {}
        }
    }

    /// True if the job mounts its own file there, which then counts.
    pub(super) fn has(&self, target: &str) -> bool {
        self.taken.contains_key(target)
    }

    fn task_dirs(&mut self, inputs: &Inputs<'_>) -> Result<(), SpecError> {
        let task = inputs.task;
        let Some(own) = task_dir(task)? else { return Ok(()) };
        let shared = task.alloc_dir.join("alloc");
        // A job can set these variables, too.
        let target = |variable: &str, default: &str| -> Result<String, SpecError> {
            let Some(value) = task.env.get(variable).filter(|v| !v.is_empty()) else {
                return Ok(default.to_owned());
            };
            let allowed = "an absolute directory is expected, outside /dev, /proc and /sys and without '..'";
            let refused = || SpecError::option("env", format!("{variable}={value}"), allowed);
            let cleaned = clean("env", value).map_err(|_| refused())?;
            if is_delicate(&cleaned) {
                return Err(refused());
            }
            Ok(cleaned)
        };
        let alloc = target("NOMAD_ALLOC_DIR", "/alloc")?;
        for (source, target, access) in [
            (own.join("secrets"), target("NOMAD_SECRETS_DIR", "/secrets")?, "rw"),
            (own.join("local"), target("NOMAD_TASK_DIR", "/local")?, "rw"),
            (shared.clone(), alloc.clone(), "rw"),
            (shared.join("logs"), format!("{alloc}/logs"), "ro"),
        ] {
            // The other tasks of the group can write beside it, and a link in its place would be followed.
            self.beneath.push(Beneath {
                dir: task.alloc_dir.clone(),
                source: source.clone(),
                target: PathBuf::from(&target),
                contested: false,
            });
            self.label_of_settings(inputs, &source)?;
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

/// True for targets where a mount of a task's own files changes how the runtime sets up the container.
pub(super) fn is_delicate(target: &str) -> bool {
    ["/dev", "/proc", "/sys"].iter().any(|dir| inside(target, dir))
}

/// An absolute target without `.`, empty parts and a slash at the end; `..` and the root are refused.
pub(super) fn clean(by: &str, target: &str) -> Result<String, SpecError> {
    path::clean(target).ok_or_else(|| {
        SpecError::option(
            by,
            target,
            "an absolute target below /, without '..' and with names of at most 255 bytes, is expected",
        )
    })
}

/// True if one of the targets is this one or above it.
fn covers(targets: &BTreeMap<String, &'static str>, target: &str) -> bool {
    targets.keys().any(|taken| inside(target, taken))
}

#[cfg(test)]
#[path = "mounts_test.rs"]
mod tests;

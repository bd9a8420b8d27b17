//! Host paths and other file systems that a job asks for: `mounts` blocks and `volumes`.
//!
//! A relative source is inside the task directory, and one inside the allocation needs no consent: but it is checked on
//! the host that no link leads out of there, since tasks can plant some. Every other path needs `volumes { enabled }`
//! (CVE-2026-14896: by a link in its own directory, a job without that consent saw any file of the host).

use super::error::SpecError;
use super::mounts::{Mounts, clean, is_delicate, task_dir};
use super::netfiles::WRITABLE;
use super::oci::{Beneath, Inputs};
use super::options::{MountOption, VolumeOptions};
use super::path::inside;
use super::tmpfs::{FLAGS, PROPAGATION, contradiction, words};
use std::path::{Component, Path, PathBuf};

/// SELinux label of files that containers may share.
const SHARED_LABEL: &str = "system_u:object_r:container_file_t:s0";

/// Directories of the host that keep their SELinux labels: with those of a container, the host itself would lose
/// access.
const KEEP_LABELS: [&str; 22] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt", "/proc", "/root",
    "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var", "/var/lib", "/var/log",
];

/// Docker's types of mounts that are no file systems.
const NOT_OF_FILES: [&str; 3] = ["npipe", "image", "cluster"];

/// What runtimes hide paths with, and give to processes as their input.
const NULL: &str = "/dev/null";

/// A mount of a host path: what its words mean.
#[derive(Debug, Default)]
struct Bind<'a> {
    options: Vec<&'a str>,
    label: Option<&'a str>,
}

/// Reads the words of a bind mount. `z` and `Z` are not mount options, but labels.
fn bind<'a>(option: &str, given: &[&'a str]) -> Result<Bind<'a>, SpecError> {
    let mut out = Bind::default();
    for word in given {
        match *word {
            "z" | "Z" => out.label = Some(word),
            "U" => {
                let text = "owners of host files are not changed; leave U out";
                return Err(SpecError::option(option, word, text));
            }
            // Docker's for other systems, and for volumes with a content of their own.
            "cached" | "delegated" | "consistent" | "nocopy" => {}
            w if ["bind", "rbind", "rro"].contains(&w) || FLAGS.contains(&w) || PROPAGATION.contains(&w) => {
                out.options.push(w);
            }
            w => {
                let text = format!(
                    "an option of a bind mount is expected: rbind, bind, rro, z, Z, {}, {}",
                    FLAGS.join(", "),
                    PROPAGATION.join(", ")
                );
                return Err(SpecError::option(option, w, text));
            }
        }
    }
    contradiction(option, &out.options)?;
    if !out.options.iter().any(|o| matches!(*o, "bind" | "rbind")) {
        out.options.insert(0, "rbind");
    }
    Ok(out)
}

/// Where a source is on the host, and the directory that it must not lead out of.
fn source(inputs: &Inputs<'_>, option: &'static str, text: &str) -> Result<(PathBuf, Option<PathBuf>), SpecError> {
    let alloc = &inputs.task.alloc_dir;
    let upwards = Path::new(text).components().any(|c| c == Component::ParentDir);
    if !text.starts_with('/') {
        let Some(dir) = task_dir(inputs.task)? else {
            return Err(SpecError::option(
                option,
                text,
                "a relative source needs an allocation directory",
            ));
        };
        // The name that other drivers have for what all tasks of the group share, which lies beside the task directory.
        let plain: PathBuf = Path::new(text)
            .components()
            .filter(|c| *c != Component::CurDir)
            .collect();
        let shared = plain.strip_prefix("../alloc").ok();
        if let Some(rest) = shared.filter(|rest| !rest.components().any(|c| c == Component::ParentDir)) {
            let path: PathBuf = alloc.join("alloc").join(rest).components().collect();
            if !is_own(inputs, &path)? {
                inputs.gates.host_path(option, text)?;
            }
            return Ok((path, Some(alloc.clone())));
        }
        if upwards {
            return Err(SpecError::option(
                option,
                text,
                "a relative source is inside the task directory, or inside ../alloc, and has no other '..'",
            ));
        }
        // By components: without `.` and empty parts, which would only be in the way of comparing.
        let path: PathBuf = dir.join(text).components().collect();
        if !is_own(inputs, &path)? {
            inputs.gates.host_path(option, text)?;
        }
        return Ok((path, Some(dir)));
    }
    let path: PathBuf = Path::new(text).components().collect();
    if !alloc.as_os_str().is_empty() && path.starts_with(alloc) {
        if upwards {
            let allowed = "a source inside the allocation is expected to have no '..'";
            return Err(SpecError::option(option, text, allowed));
        }
        if !is_own(inputs, &path)? {
            inputs.gates.host_path(option, text)?;
        }
        return Ok((path, Some(alloc.clone())));
    }
    inputs.gates.host_path(option, text)?;
    Ok((path, None))
}

/// What of the allocation is the task's to mount without consent: what is in its own directory, where Nomad puts what the job
/// names, but for what is Nomad's and the driver's own there; and what is in the shared `alloc`, but for the logs. With the
/// rest it could reach the secrets of its neighbours, and put links where Nomad's log pipes are, which root opens.
fn is_own(inputs: &Inputs<'_>, path: &Path) -> Result<bool, SpecError> {
    let Some(own) = task_dir(inputs.task)? else {
        return Ok(false);
    };
    let shared = inputs.task.alloc_dir.join("alloc");
    let is_in = |dir: &Path| path != dir && path.starts_with(dir);
    // `alloc` is in there for drivers that run tasks without an image, and is the shared directory with its logs. These are
    // closed by their own name too, for a task that is called `alloc` itself.
    let closed = ["private", "alloc", WRITABLE].map(|name| own.join(name));
    let is_closed = closed.iter().any(|dir| path.starts_with(dir)) || path.starts_with(shared.join("logs"));
    Ok((is_in(&own) || is_in(&shared)) && !is_closed)
}

/// What a `volume_options` block asks for that no host path has, nor a file system in memory.
fn unavailable(block: &VolumeOptions) -> Result<(), SpecError> {
    let refuse = |name: &str, value: &str, allowed: &str| {
        Err(SpecError::option(
            format!("mounts.volume_options.{name}"),
            value,
            allowed,
        ))
    };
    if let Some((key, value)) = block.labels.iter().next() {
        let allowed = "a host path has no labels; leave it out, or see labels for those of the container";
        return refuse("labels", &format!("{key}={value}"), allowed);
    }
    if let Some(driver) = &block.driver_config {
        let allowed = "this driver has no volume drivers; leave it out and mount a volume of Nomad's with volume_mount";
        return refuse("driver_config", &driver.name, allowed);
    }
    Ok(())
}

impl MountOption {
    /// The option that has this block, by the name under which the job has given it.
    fn name(&self) -> &'static str {
        if self.at.starts_with("mount[") {
            "mount"
        } else {
            "mounts"
        }
    }
}

impl Mounts {
    /// One `mounts` block.
    pub(super) fn block(&mut self, inputs: &Inputs<'_>, mount: &MountOption) -> Result<(), SpecError> {
        let option = mount.name();
        let propagation = mount.bind_options.as_ref().and_then(|b| b.propagation.as_deref());
        if let Some(block) = &mount.volume_options {
            unavailable(block)?;
        }
        if let Some(mode) = propagation.filter(|p| !PROPAGATION.contains(p)) {
            let allowed = format!("one of these is expected: {}", PROPAGATION.join(", "));
            return Err(SpecError::option("mounts.bind_options.propagation", mode, allowed));
        }
        let given = words(mount.options.iter().map(String::as_str));
        let access = match mount.readonly {
            Some(true) => "ro",
            Some(false) => "rw",
            None => "",
        };
        if let Some(readonly) = mount.readonly {
            let opposite = if readonly { &["rw"][..] } else { &["ro", "rro"] };
            if let Some(word) = given.iter().find(|word| opposite.contains(word)) {
                let allowed = format!("it contradicts {word} in options; leave one of them out");
                return Err(SpecError::option("mounts.readonly", readonly, allowed));
            }
        }
        let ty = mount.r#type.as_str();
        if NOT_OF_FILES.contains(&ty) {
            let allowed = "bind, volume, tmpfs or a type of file system is expected; this one is Docker's for what there is not here";
            return Err(SpecError::option(format!("{option}.type"), ty, allowed));
        }
        // Of whatever type it is called: the runtime goes by these words alone.
        let host_path = matches!(ty, "volume" | "bind") || given.iter().any(|w| matches!(*w, "bind" | "rbind"));
        let blocks = [propagation.unwrap_or_default(), access];
        let all = || given.iter().copied().chain(blocks).filter(|w| !w.is_empty());
        if !host_path && ty == "tmpfs" {
            return self.tmpfs_block(inputs, option, mount, all());
        }
        if mount.tmpfs_options.is_some() {
            let allowed = "a block tmpfs_options is for type = \"tmpfs\"";
            return Err(SpecError::option(option, ty, allowed));
        }
        if !host_path {
            // An overlay's options name host paths, a proc or sysfs shows what is masked, a disk is the host's.
            inputs.gates.host_path(option, &format!("type {ty}"))?;
            let source = if mount.source.is_empty() { ty } else { &mount.source };
            contradiction(option, &all().collect::<Vec<_>>())?;
            return self.wanted(inputs, option, &mount.target, ty, source, &all().collect::<Vec<_>>());
        }
        // By Docker's name it is as in Docker: recursive, and it can be written to. By the Go driver's it is refused, in its words.
        if option != "mount" && given.is_empty() && mount.readonly.is_none() && mount.bind_options.is_none() {
            return Err(SpecError::Refused {
                option: option.to_owned(),
                text: format!(
                    "option {option}: {:?}: Options cannot be empty for mount type: {ty}. You need to atleast pass rbind and ro.",
                    mount.target
                ),
            });
        }
        if mount.source.is_empty() {
            let allowed = "a source is required for a mount of a host path";
            return Err(SpecError::option(option, &mount.target, allowed));
        }
        let mut bind = bind(option, &all().collect::<Vec<_>>())?;
        if given.is_empty() && access.is_empty() && propagation.is_none() {
            bind.options.push("rw");
        }
        if given.is_empty() && propagation.is_none() {
            bind.options.push("rprivate");
        }
        self.bind(inputs, option, &mount.source, &mount.target, &bind)
    }

    /// One text of the `volumes` option: `source:target` or `source:target:options`.
    pub(super) fn volume(&mut self, inputs: &Inputs<'_>, text: &str) -> Result<(), SpecError> {
        const OPTION: &str = "volumes";
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, options) = match parts.as_slice() {
            [source, target] => (*source, *target, ""),
            [source, target, options] => (*source, *target, *options),
            _ => ("", "", ""),
        };
        if source.is_empty() || target.is_empty() {
            let allowed = "source:target or source:target:options is expected, such as local/data:/data:ro";
            return Err(SpecError::option(OPTION, text, allowed));
        }
        let mut bind = bind(OPTION, &words([options]))?;
        if !bind.options.iter().any(|o| PROPAGATION.contains(o)) {
            bind.options.push("rprivate");
        }
        self.bind(inputs, OPTION, source, target, &bind)
    }

    fn bind(
        &mut self,
        inputs: &Inputs<'_>,
        by: &'static str,
        text: &str,
        target: &str,
        bind: &Bind<'_>,
    ) -> Result<(), SpecError> {
        let (path, dir) = source(inputs, by, text)?;
        if let Some(shared) = bind.options.iter().find(|o| matches!(**o, "shared" | "rshared")) {
            // Mounts that the task's own options make would appear on the host.
            inputs.gates.host_path(by, shared)?;
        }
        self.sources.push((by, path.clone()));
        if let Some(dir) = dir {
            let is_shared = bind.options.iter().any(|o| matches!(*o, "shared" | "rshared"));
            self.beneath.push(Beneath {
                dir,
                source: path.clone(),
                target: clean(by, target)?.into(),
                // One that is shared with the host could not be told from the original; it has the operator's consent.
                contested: path.starts_with(inputs.task.alloc_dir.join("alloc")) && !is_shared,
            });
        }
        match bind.label {
            Some(label) => self.label(inputs, by, &path, label)?,
            None => self.label_of_settings(inputs, &path)?,
        }
        self.wanted(inputs, by, target, "bind", &path.to_string_lossy(), &bind.options)
    }

    /// A mount of the job's. A target in `/proc` or `/sys` changes what the runtime itself goes by when it sets up the
    /// container (CVE-2019-16884, CVE-2019-19921), and so do files in place of its devices (`/dev/null` is what it hides
    /// paths with: CVE-2025-31133), so they are for those who can mount host paths. Below `/dev`, files in memory are in
    /// nobody's way, if they are empty: what the runtime copies there it takes from the image.
    pub(super) fn wanted(
        &mut self,
        inputs: &Inputs<'_>,
        by: &'static str,
        target: &str,
        ty: &str,
        source: &str,
        options: &[&str],
    ) -> Result<(), SpecError> {
        let target = clean(by, target)?;
        let in_memory = ty == "tmpfs" && inside(&target, "/dev");
        if in_memory && options.contains(&"tmpcopyup") {
            let allowed = "tmpcopyup is not for /dev, where the runtime makes what there is; leave it out";
            return Err(SpecError::option(by, &target, allowed));
        }
        if is_delicate(&target) && (!in_memory || inside(NULL, &target)) {
            inputs.gates.host_path(by, &target)?;
        }
        for option in options {
            self.propagate(option);
        }
        self.push(by, &target, ty, source, options)
    }

    /// The SELinux label of the plugin settings, if there is one.
    pub(super) fn label_of_settings(&mut self, inputs: &Inputs<'_>, path: &Path) -> Result<(), SpecError> {
        let settings = inputs.settings.volumes.as_ref();
        match settings.and_then(|v| v.selinuxlabel.as_deref()).map(str::trim) {
            None | Some("") => Ok(()),
            Some(label) => self.label(inputs, "volumes.selinuxlabel", path, label),
        }
    }

    /// Plans an SELinux label, where the kernel has SELinux. `Z` would be for one container alone, with categories that
    /// nobody here gives out: it is as `z`.
    pub(super) fn label(
        &mut self,
        inputs: &Inputs<'_>,
        by: &'static str,
        path: &Path,
        label: &str,
    ) -> Result<(), SpecError> {
        let label = whole_label(by, label)?;
        if !inputs.node.security.selinux {
            return Ok(());
        }
        if KEEP_LABELS.iter().any(|keep| path == Path::new(keep)) {
            return Err(SpecError::option(
                by,
                path,
                "SELinux labels of this directory are the host's and not changed; mount one beneath it",
            ));
        }
        let entry = (path.to_owned(), label.to_owned());
        if !self.relabel.contains(&entry) {
            self.relabel.push(entry);
        }
        Ok(())
    }
}

/// The SELinux label that an option or a setting names.
pub(super) fn whole_label<'a>(by: &str, label: &'a str) -> Result<&'a str, SpecError> {
    match label {
        "z" | "Z" => Ok(SHARED_LABEL),
        full if full.split(':').count() >= 3 && full.split(':').all(|p| !p.is_empty()) && !full.contains('\0') => {
            Ok(full)
        }
        other => Err(SpecError::option(
            by,
            other,
            "z, Z or a whole label such as system_u:object_r:container_file_t:s0 is expected",
        )),
    }
}

#[cfg(test)]
#[path = "volumes_test.rs"]
mod tests;

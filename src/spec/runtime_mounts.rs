//! Mounts that nobody asked for: the runtime's own, and in place of an image's VOLUMEs.

use super::error::SpecError;
use super::go;
use super::image::Directory;
use super::mounts::{IMAGE_VOLUME, Mounts, clean};
use super::namespaces::Ipc;
use super::oci::Inputs;
use super::path::inside;
use super::runtime;
use super::user::User;
use serde_json::{Value, json};

/// Size of `/dev/shm` where nothing is said.
const SHM_DEFAULT: u64 = 64 << 20;

/// containerd `oci.defaultMounts`, and a view of the cgroups. But for its file system in memory at `/run`: that hides what
/// an image has there, as the directories for sockets of database servers, so that nerdctl, Docker's daemon and the CRI
/// plugin have none. Only where nothing could be written otherwise there is one, with a copy of what the image has.
pub(super) fn own(inputs: &Inputs<'_>, ipc: Ipc) -> Result<Vec<Value>, SpecError> {
    let o = &inputs.task.options;
    let size = match o.shm_size.as_deref() {
        None => SHM_DEFAULT,
        // Docker takes 0 for "not given".
        Some(text) => match go::parse_size(text) {
            Some(0) => SHM_DEFAULT,
            Some(size) => size,
            None => {
                return Err(SpecError::Refused {
                    option: "shm_size".to_owned(),
                    text: format!(
                        "Error in setting shm_size: option shm_size: {text:?}: a size in binary units is expected, such as 128M"
                    ),
                });
            }
        },
    };
    if let (Some(text), Ipc::Host | Ipc::None) = (&o.shm_size, ipc) {
        let mode = o.ipc_mode.as_deref().unwrap_or_default();
        let allowed = format!("not allowed with ipc_mode = {mode:?}: the container has no /dev/shm of its own");
        return Err(SpecError::option("shm_size", text, allowed));
    }
    let access = if o.privileged { "rw" } else { "ro" };
    let mount = |target: &str, ty: &str, source: &str, options: &[&str]| json!({"destination": target, "type": ty, "source": source, "options": options});
    let shm = match ipc {
        Ipc::Private => Some(mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", &format!("size={size}")],
        )),
        Ipc::Host => Some(mount(
            "/dev/shm",
            "bind",
            "/dev/shm",
            &["rbind", "nosuid", "noexec", "nodev"],
        )),
        Ipc::None => None,
    };
    // A queue file system shows the IPC namespace that it is mounted in: with the host's, the host's queues.
    let queues = mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]);
    let memory = &["nosuid", "strictatime", "mode=755", "size=65536k"];
    let copied = &["nosuid", "strictatime", "mode=755", "size=65536k", "tmpcopyup"];
    let copies = runtime::of(inputs)?.copies_up();
    let run = mount("/run", "tmpfs", "tmpfs", if copies { copied } else { memory });
    let pts = &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    let cgroup = &["nosuid", "noexec", "nodev", "relatime", access];
    let all = [
        Some(mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"])),
        Some(mount("/dev", "tmpfs", "tmpfs", memory)),
        Some(mount("/dev/pts", "devpts", "devpts", pts)),
        shm,
        Some(queues),
        Some(mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access])),
        o.readonly_rootfs.then_some(run),
        Some(mount("/sys/fs/cgroup", "cgroup", "cgroup", cgroup)),
    ];
    Ok(all.into_iter().flatten().collect())
}

impl Mounts {
    /// With a read-only root, a file system in memory at every VOLUME of the image, with a copy of what the image has
    /// there. The runtimes copy the content, but leave the directory itself to root, crun also its mode: both are the image's,
    /// as with Docker, or the user's where the image has no such directory. Else the directory itself is there.
    ///
    /// An image may claim any path. One where something is mounted, or that the runtime needs (CVE-2019-16884: a VOLUME at
    /// `/proc` kept runc from setting the AppArmor profile), is left as it is.
    pub(super) fn image_volumes(&mut self, inputs: &Inputs<'_>, user: &User) -> Result<(), SpecError> {
        for volume in &inputs.image.volumes {
            let Ok(target) = clean("image", &format!("/{volume}")) else {
                continue;
            };
            let needed = ["/proc", "/sys", "/dev"].iter().any(|dir| inside(&target, dir));
            if needed || self.covered(&target) {
                continue;
            }
            if !inputs.task.options.readonly_rootfs {
                self.directories.push(target.into());
                continue;
            }
            let users = Directory {
                uid: user.uid,
                gid: user.gid,
                mode: 0o755,
            };
            let Directory { uid, gid, mode } = inputs.image.directories.get(volume).copied().unwrap_or(users);
            let (uid, gid, mode) = (format!("uid={uid}"), format!("gid={gid}"), format!("mode={mode:o}"));
            let options = ["tmpcopyup", "nosuid", "nodev", &mode, &uid, &gid];
            self.push(IMAGE_VOLUME, &target, "tmpfs", "tmpfs", &options)?;
        }
        Ok(())
    }
}

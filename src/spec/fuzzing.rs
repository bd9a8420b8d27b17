//! One function per parser that takes any bytes, for `fuzz/` (cargo fuzz) and `tests/fuzz` (the same on stable).
//!
//! None of them may panic, run away or take long. Parsers that are reached by way of a task only are given one: each line
//! of the input sets one thing, named by its first byte.

use super::cdi::{self, SpecFile};
use super::image::ImageFacts;
use super::node::{DeviceKind, DeviceNode, NodeFacts, wanted_devices};
use super::options::{self, BindOptions, DeviceOption, MountOption, TmpfsOptions};
use super::reference::Reference;
use super::settings::{self, Settings};
use super::task::{HostDevice, HostMount, TaskSpec};
use super::{go, hosts, labels, oci, record, signal};
use std::collections::HashMap;
use std::hint::black_box;
use std::path::PathBuf;

/// Name of a target and what it runs; the name is also that of `fuzz/fuzz_targets/NAME.rs` and `fuzz/corpus/NAME`.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("config_msgpack", config_msgpack),
    ("plugin_config_msgpack", plugin_config_msgpack),
    ("sizes", sizes),
    ("mounts", mounts),
    ("devices", devices),
    ("users", users),
    ("signals", signals),
    ("references", references),
    ("hosts_toml", hosts_toml),
    ("handles", handles),
    ("seccomp_profiles", seccomp_profiles),
    ("cdi_files", cdi_files),
    ("spec_build", spec_build),
];

/// The `config` block of a task, and the container it describes.
pub fn config_msgpack(data: &[u8]) {
    if let Ok(options) = options::decode(data) {
        let mut world = World::default();
        world.task.options = options;
        world.build();
    }
}

/// The `config` block of the plugin.
pub fn plugin_config_msgpack(data: &[u8]) {
    if let Ok(settings) = settings::decode(data) {
        let world = World {
            settings,
            ..World::default()
        };
        world.build();
    }
}

/// Sizes and durations, each in its several places.
pub fn sizes(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    black_box(go::parse_size(&text));
    if let Some(duration) = go::parse_duration(&text) {
        // What is printed is read again as the same.
        assert_eq!(go::parse_duration(&go::format_duration(duration)), Some(duration));
    }
    world(&SIZES, data).build();
}

/// Mounts, volumes and file systems in memory.
pub fn mounts(data: &[u8]) {
    world(&MOUNTS, data).build();
}

/// Devices and rules for them.
pub fn devices(data: &[u8]) {
    world(&DEVICES, data).build();
}

/// Users and groups in an image's files.
pub fn users(data: &[u8]) {
    world(&USERS, data).build();
}

/// Names and numbers of signals.
pub fn signals(data: &[u8]) {
    if let Ok(number) = signal::parse(&String::from_utf8_lossy(data)) {
        black_box(signal::name(number));
    }
}

/// Image references.
pub fn references(data: &[u8]) {
    if let Ok(reference) = Reference::parse(&String::from_utf8_lossy(data)) {
        // A normal name is its own normal form.
        assert_eq!(Reference::parse(&reference.to_string()).as_ref(), Ok(&reference));
    }
}

/// A registry's `hosts.toml`.
pub fn hosts_toml(data: &[u8]) {
    for host in hosts::parse(&String::from_utf8_lossy(data)).unwrap_or_default() {
        let place = host.place("r.example:5000", false);
        assert!(!place.host.is_empty() && !place.path.ends_with('/'));
    }
}

/// What comes back from the host and from containerd after a restart: driver state, labels of a container.
pub fn handles(data: &[u8]) {
    let version = data.first().copied().unwrap_or_default();
    record::HandleState::decode(i32::from(version % 4), data.get(1..).unwrap_or_default()).ok();
    let text = String::from_utf8_lossy(data);
    let read: HashMap<String, String> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    black_box(labels::Marks::read(&read));
}

/// A seccomp profile that a task names: in the OCI's form or Docker's.
pub fn seccomp_profiles(data: &[u8]) {
    let mut world = World::default();
    world.task.options.seccomp = Some(true);
    world.task.options.seccomp_profile = Some("/etc/profile.json".to_owned());
    world.settings.allow_unconfined = Some(vec!["seccomp".to_owned()]);
    world.node.security.seccomp_profile = Some(Ok(String::from_utf8_lossy(data).into_owned()));
    world.build();
}

/// A file of a device's vendor, once read as JSON and once as YAML, for a task that names devices of it.
pub fn cdi_files(data: &[u8]) {
    for path in ["/etc/cdi/vendor.json", "/etc/cdi/vendor.yaml"] {
        let mut world = World::default();
        for name in ["vendor.com/gpu=0", "vendor.com/gpu=all"] {
            world.task.options.devices.push(DeviceOption {
                host_path: name.to_owned(),
                ..DeviceOption::default()
            });
        }
        world.settings.allow_devices = Some(vec!["vendor.com/gpu=0".to_owned(), "vendor.com/gpu=all".to_owned()]);
        world.node.cdi_files.push(SpecFile {
            path: path.to_owned(),
            priority: 0,
            text: Ok(String::from_utf8_lossy(data).into_owned()),
        });
        world.build();
    }
}

/// A whole task.
pub fn spec_build(data: &[u8]) {
    let all: Vec<Setter> = [&SIZES[..], &MOUNTS, &DEVICES, &USERS, &OTHERS].concat();
    world(&all, data).build();
}

/// A task and all that counts for it.
#[derive(Default)]
struct World {
    task: TaskSpec,
    image: ImageFacts,
    node: NodeFacts,
    settings: Settings,
}

impl World {
    /// Describes the container under both profiles.
    fn build(mut self) {
        if self.image.cmd.is_empty() {
            self.image.cmd.push("sh".to_owned());
        }
        let fuse = |path: &String| DeviceNode {
            path: path.clone(),
            kind: DeviceKind::Char,
            major: 10,
            minor: 229,
            mode: 0o666,
            uid: 0,
            gid: 0,
        };
        self.node.devices = wanted_devices(&self.task)
            .into_iter()
            .chain(cdi::wanted_devices(&self.task, &self.node.cdi_files))
            .map(|path| {
                let there = Ok(vec![fuse(&path)]);
                (path, there)
            })
            .collect();
        for profile in ["go-driver", "strict"] {
            self.settings.security_profile = profile.to_owned();
            oci::build(&self.task, &self.image, &self.node, &self.settings).ok();
        }
    }
}

/// First byte of a line, and what the rest of it sets.
type Setter = (u8, fn(&mut World, &str));

/// The world that the lines of an input describe. A first byte that means nothing means something all the same, so that
/// few inputs are in vain.
fn world(setters: &[Setter], data: &[u8]) -> World {
    let mut world = World::default();
    world.task.name = "web".to_owned();
    world.task.alloc_dir = PathBuf::from("/var/lib/nomad/alloc/a");
    let text = String::from_utf8_lossy(data);
    for line in text.lines().take(64) {
        let mut chars = line.chars();
        let Some(first) = chars.next() else { continue };
        let known = setters.iter().find(|(byte, _)| char::from(*byte) == first);
        let other = || setters.get(usize::try_from(u32::from(first)).unwrap_or(0) % setters.len().max(1));
        if let Some((_, set)) = known.or_else(other) {
            set(&mut world, chars.as_str());
        }
    }
    world
}

/// `key=value`.
fn pair(text: &str) -> (String, String) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    (key.to_owned(), value.to_owned())
}

/// Fields between semicolons; empty where there are fewer.
fn fields<const N: usize>(text: &str) -> [String; N] {
    let mut parts = text.split(';').map(ToOwned::to_owned);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

fn given(text: String) -> Option<String> {
    Some(text).filter(|t| !t.is_empty())
}

const SIZES: [Setter; 8] = [
    (b's', |w, t| w.task.options.shm_size = Some(t.to_owned())),
    (b'W', |w, t| w.task.options.memory_swap = Some(t.to_owned())),
    (b'R', |w, t| w.task.options.memory_reservation = Some(t.to_owned())),
    (b'H', |w, t| w.task.options.hugepage_limits.extend([pair(t)])),
    (b'L', |w, t| w.task.options.ulimit.extend([pair(t)])),
    (b'0', |w, t| w.task.resources.memory_mb = t.parse().unwrap_or(64)),
    (b'1', |w, t| w.task.resources.memory_max_mb = t.parse().unwrap_or(-1)),
    (b'2', |w, t| w.task.options.memory_hard_limit = t.parse().ok()),
];

const MOUNTS: [Setter; 7] = [
    (b'm', |w, t| {
        let [ty, target, source, list, propagation, size] = fields(t);
        w.task.options.mounts.push(MountOption {
            r#type: ty,
            target,
            source,
            options: list.split(',').filter_map(|o| given(o.to_owned())).collect(),
            bind_options: given(propagation).map(|p| BindOptions { propagation: Some(p) }),
            tmpfs_options: given(size).map(|s| TmpfsOptions {
                size: Some(s),
                mode: None,
            }),
            ..MountOption::default()
        });
    }),
    (b'v', |w, t| w.task.options.volumes.push(t.to_owned())),
    (b't', |w, t| w.task.options.tmpfs.push(t.to_owned())),
    (b'M', |w, t| {
        let [task_path, host_path, propagation, readonly] = fields(t);
        w.task.mounts.push(HostMount {
            task_path,
            host_path,
            readonly: !readonly.is_empty(),
            propagation,
            ..HostMount::default()
        });
    }),
    (b'V', |w, t| w.image.volumes.push(t.to_owned())),
    (b'3', |w, _| w.task.options.readonly_rootfs = true),
    (b'4', |w, _| w.task.alloc_dir = PathBuf::new()),
];

const DEVICES: [Setter; 4] = [
    (b'd', |w, t| {
        w.task.options.devices.push(DeviceOption {
            host_path: t.to_owned(),
            ..DeviceOption::default()
        });
    }),
    (b'D', |w, t| {
        let [host_path, container, permissions] = fields(t);
        w.task.options.devices.push(DeviceOption {
            host_path,
            container_path: given(container),
            cgroup_permissions: given(permissions),
        });
    }),
    (b'r', |w, t| w.task.options.device_cgroup_rules.push(t.to_owned())),
    (b'g', |w, t| {
        let [host_path, task_path, permissions] = fields(t);
        w.task.devices.push(HostDevice {
            task_path,
            host_path,
            permissions,
        });
    }),
];

const USERS: [Setter; 5] = [
    (b'u', |w, t| w.task.user = t.to_owned()),
    (b'U', |w, t| w.image.user = t.to_owned()),
    (b'p', |w, t| w.image.passwd.push_str(&format!("{t}\n"))),
    (b'q', |w, t| w.image.group.push_str(&format!("{t}\n"))),
    (b'a', |w, t| w.task.options.group_add.push(t.to_owned())),
];

const OTHERS: [Setter; 26] = [
    (b'c', |w, t| w.task.options.command = Some(t.to_owned())),
    (b'A', |w, t| w.task.options.args.push(t.to_owned())),
    (b'e', |w, t| w.task.env.extend([pair(t)])),
    (b'E', |w, t| w.image.env.push(t.to_owned())),
    (b'w', |w, t| w.task.options.cwd = Some(t.to_owned())),
    (b'h', |w, t| w.task.options.hostname = Some(t.to_owned())),
    (b'n', |w, t| w.task.name = t.to_owned()),
    (b'x', |w, t| w.task.options.extra_hosts.push(t.to_owned())),
    (b'N', |w, t| w.task.options.dns_servers.push(t.to_owned())),
    (b'f', |w, t| w.node.resolv_conf = Some(t.replace(';', "\n"))),
    (b'F', |w, t| w.node.hosts = Some(t.replace(';', "\n"))),
    (b'y', |w, t| w.task.options.sysctl.extend([pair(t)])),
    (b'C', |w, t| w.task.options.cap_add.push(t.to_owned())),
    (b'K', |w, t| w.task.options.cap_drop.push(t.to_owned())),
    (b'o', |w, t| w.task.options.security_opt.push(t.to_owned())),
    (b'O', |w, t| w.task.options.annotations.extend([pair(t)])),
    (b'k', |w, t| w.task.options.labels.extend([pair(t)])),
    (b'P', |w, t| w.task.options.pid_mode = Some(t.to_owned())),
    (b'I', |w, t| w.task.options.ipc_mode = Some(t.to_owned())),
    (b'T', |w, t| w.task.options.network_mode = Some(t.to_owned())),
    (b'G', |w, t| w.task.options.cgroupns = Some(t.to_owned())),
    (b'Z', |w, t| {
        w.task.options.userns = Some("private".to_owned());
        w.settings.userns_ids = Some(t.to_owned());
    }),
    (b'S', |w, t| w.task.resources.cpuset_cgroup = t.to_owned()),
    (b'5', |w, t| w.task.resources.cpuset_cpus = t.to_owned()),
    (b'6', |w, _| w.task.options.privileged = true),
    (b'7', |w, _| w.task.options.host_network = true),
];

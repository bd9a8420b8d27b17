//! A user namespace for a task: root in the container is nobody on the host.
//!
//! Ids come from `userns_ids`, one range for all such tasks; the snapshot must be prepared with the same range
//! (containerd's labels `containerd.io/snapshot/uidmapping` and `gidmapping`).

use super::error::SpecError;
use super::namespaces::{self, Ipc};
use super::network::{self, Network};
use super::oci::Inputs;
use super::settings::Settings;
use super::user::User;
use serde_json::{Value, json};

/// Ids on the host: 0 in the container is `first`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsernsIds {
    /// First id on the host.
    pub first: u32,
    /// How many.
    pub count: u32,
}

impl UsernsIds {
    /// The id on the host of one in the container.
    #[must_use]
    pub fn on_host(self, id: u32) -> u32 {
        self.first.saturating_add(id)
    }

    /// OCI `linux.uidMappings` and `linux.gidMappings`.
    pub(super) fn mappings(self) -> Value {
        json!([{"containerID": 0, "hostID": self.first, "size": self.count}])
    }
}

/// Fewest ids with which a container can be: its terminals belong to group 5 (the option `gid=5` of their file system),
/// which the kernel must know there.
const LEAST: u32 = 6;

/// Reads `userns_ids`, such as `100000:65536`.
///
/// # Errors
/// The setting, its value and what is allowed.
pub fn setting(settings: &Settings) -> Result<Option<UsernsIds>, SpecError> {
    let Some(text) = settings.userns_ids.as_deref().filter(|t| !t.is_empty()) else {
        return Ok(None);
    };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u32>().ok()).flatten().filter(|n| *n > 0)
    };
    // The last id stands for "none" in system calls.
    let fits = |(first, count): &(u32, u32)| *count >= LEAST && first.checked_add(*count).is_some();
    text.split_once(':')
        .and_then(|(first, count)| Some((number(first)?, number(count)?)))
        .filter(fits)
        .map(|(first, count)| Some(UsernsIds { first, count }))
        .ok_or_else(|| {
            SpecError::option(
                "userns_ids",
                text,
                format!("the first id on the host, above 0, and how many, at least {LEAST}, such as 100000:65536, are expected"),
            )
        })
}

/// Podman's `auto:size=N`: the node picks ids, at least so many.
fn enough(settings: &Settings, mode: &str) -> Result<(), SpecError> {
    let expected = |text: String| SpecError::option("userns", mode, text);
    let Some(size) = mode.strip_prefix("auto:size=").and_then(|n| n.parse::<u32>().ok()) else {
        return Err(expected("host, private, auto or auto:size=N is expected".to_owned()));
    };
    match setting(settings)? {
        Some(ids) if size > ids.count => Err(expected(format!(
            "at most {} ids are expected: userns_ids of the plugin configuration gives no more",
            ids.count
        ))),
        _ => Ok(()),
    }
}

/// The ids of a task with `userns = "private"`.
pub(super) fn ids(inputs: &Inputs<'_>) -> Result<Option<UsernsIds>, SpecError> {
    let o = &inputs.task.options;
    let mode = o.userns.as_deref().unwrap_or_default();
    match mode {
        "" | "host" => return Ok(None),
        // Podman's word for ids that the node picks.
        "private" | "auto" => {}
        other => enough(inputs.settings, other)?,
    }
    let refuse = |with: &str, why: &str| {
        Err(SpecError::option(
            "userns",
            mode,
            format!("not allowed with {with}: {why}"),
        ))
    };
    if o.privileged {
        return refuse("privileged", "a privileged task has the host's ids");
    }
    if namespaces::host_pid(inputs)? {
        return refuse("pid_mode = \"host\"", "the kernel lets it mount no /proc");
    }
    if namespaces::ipc(inputs)? == Ipc::Host {
        return refuse(
            "ipc_mode = \"host\"",
            "the kernel lets it mount no /dev/mqueue of another user namespace",
        );
    }
    if network::network(inputs)? == Network::Host {
        return refuse("host_network", "the kernel lets it mount no /sys");
    }
    setting(inputs.settings)?.map(Some).ok_or_else(|| {
        SpecError::option(
            "userns",
            mode,
            "this node has no ids for it; userns_ids = \"100000:65536\" in the plugin configuration would give some",
        )
    })
}

/// Refuses a process with ids that the namespace does not have: the kernel knows no such user there.
pub(super) fn check_user(inputs: &Inputs<'_>, ids: UsernsIds, user: &User) -> Result<(), SpecError> {
    let job = inputs.task.user.trim();
    let wanted = if job.is_empty() { inputs.image.user.trim() } else { job };
    let allowed = format!(
        "with userns = \"private\" ids from 0 to {} are expected: userns_ids of the plugin configuration gives {} of them",
        ids.count - 1,
        ids.count
    );
    if user.uid >= ids.count || user.gid >= ids.count {
        return Err(SpecError::option("user", wanted, allowed));
    }
    let Some(beyond) = user.groups.iter().find(|gid| **gid >= ids.count) else {
        return Ok(());
    };
    let added = &inputs.task.options.group_add;
    let by_option = super::user::resolves_to(inputs.image, added, *beyond);
    Err(match by_option {
        Some(group) => SpecError::option("group_add", group, allowed),
        None => SpecError::option("user", wanted, format!("the image gives it group {beyond}; {allowed}")),
    })
}

/// Refuses a device that is to be elsewhere than on the host: a user namespace makes no device nodes, so the runtimes
/// mount the host's, and take the path in the container for that on the host (runc `bindMountDeviceNode`).
pub(super) fn check_device(by: &str, host: &str, container: &str) -> Result<(), SpecError> {
    if host == container {
        return Ok(());
    }
    Err(SpecError::option(
        by,
        container,
        format!("with userns = \"private\" a device keeps its path of the host, {host}"),
    ))
}

/// What the kernel refuses in a user namespace is replaced: sysfs can be mounted only by the owner of the network
/// namespace, and a group's belongs to the host. A bind of the host's shows the same, and as read-only as before.
pub(super) fn adapt(mounts: &mut [Value], network: Network<'_>) {
    if !matches!(network, Network::Group(_)) {
        return;
    }
    for mount in mounts.iter_mut().filter(|m| m["type"] == "sysfs") {
        mount["type"] = json!("bind");
        mount["source"] = json!("/sys");
        mount["options"] = json!(["rbind", "rslave", "nosuid", "noexec", "nodev", "ro"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_is_a_range_of_ids() {
        let read = |text: &str| {
            setting(&Settings {
                userns_ids: Some(text.to_owned()),
                ..Settings::default()
            })
        };
        let ids = UsernsIds {
            first: 100_000,
            count: 65_536,
        };
        assert_eq!(read("100000:65536").unwrap(), Some(ids));
        assert_eq!(
            ids.mappings(),
            json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}])
        );
        assert_eq!(read("").unwrap(), None);
        assert_eq!(setting(&Settings::default()).unwrap(), None);
        for bad in [
            "1",
            "0:50",
            "5:0",
            "5:5",
            "a:1",
            "1:-1",
            "+1:1",
            "4294967295:1",
            "1:4294967295",
            "1:2:3",
            " 1:2",
        ] {
            let error = read(bad).unwrap_err().to_string();
            assert!(error.starts_with(&format!("option userns_ids: {bad:?}: ")), "{error}");
        }
    }

    #[test]
    fn a_device_keeps_its_path() {
        assert_eq!(check_device("devices[0]", "/dev/a", "/dev/a"), Ok(()));
        let text = check_device("devices[0]", "/dev/a", "/dev/b").unwrap_err().to_string();
        assert!(
            text.starts_with("option devices[0]: \"/dev/b\": ") && text.ends_with("/dev/a"),
            "{text}"
        );
    }

    #[test]
    fn sysfs_of_a_joined_network_is_the_hosts() {
        let before = json!([{"type": "proc"}, {"type": "sysfs", "source": "sysfs"}]);
        let adapted = |network| {
            let mut mounts = before.as_array().unwrap().clone();
            adapt(&mut mounts, network);
            Value::Array(mounts)
        };
        assert_eq!(adapted(Network::Own), before);
        let joined = adapted(Network::Group("/n"));
        assert_eq!((&joined[0], &joined[1]["source"]), (&before[0], &json!("/sys")));
    }
}

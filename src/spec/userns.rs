//! A user namespace for a task: root in the container is nobody on the host.
//!
//! Ids come from `userns_ids`, one range for all such tasks; the snapshot must be prepared with the same range
//! (containerd's labels `containerd.io/snapshot/uidmapping` and `gidmapping`).

use super::error::SpecError;
use super::namespaces;
use super::network::{self, Network};
use super::oci::Inputs;
use super::settings::Settings;
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
    /// OCI `linux.uidMappings` and `linux.gidMappings`.
    pub(super) fn mappings(self) -> Value {
        json!([{"containerID": 0, "hostID": self.first, "size": self.count}])
    }
}

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
    let fits = |(first, count): &(u32, u32)| first.checked_add(*count).is_some();
    text.split_once(':')
        .and_then(|(first, count)| Some((number(first)?, number(count)?)))
        .filter(fits)
        .map(|(first, count)| Some(UsernsIds { first, count }))
        .ok_or_else(|| {
            SpecError::option(
                "userns_ids",
                text,
                "the first id on the host, above 0, and how many, such as 100000:65536, are expected",
            )
        })
}

/// The ids of a task with `userns = "private"`.
pub(super) fn ids(inputs: &Inputs<'_>) -> Result<Option<UsernsIds>, SpecError> {
    let o = &inputs.task.options;
    let mode = o.userns.as_deref().unwrap_or_default();
    match mode {
        "" | "host" => return Ok(None),
        "private" => {}
        other => return Err(SpecError::option("userns", other, "host or private is expected")),
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
            "0:5",
            "5:0",
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

//! The suites on another driver than ours: which settings it has and which containerd namespace it works in. See
//! `docs/developing.md`.

use anyhow::{Context, Result};
use serde_json::{Map, Value as Json};

use crate::procfs;

/// The containerd namespace that the driver works in; set, it says that the driver is another one.
const NAMESPACE: &str = "CD_OTHER_NAMESPACE";

/// Every setting that the driver has, as a JSON object: a value for those it cannot be without, null for the others.
const SETTINGS: &str = "CD_OTHER_SETTINGS";

/// A driver that is not ours.
#[derive(Clone, Debug)]
pub struct OtherDriver {
    pub namespace: String,
    settings: Map<String, Json>,
}

impl OtherDriver {
    /// As the environment describes it; `None` for ours.
    pub fn from_env() -> Result<Option<OtherDriver>> {
        let Some(namespace) = std::env::var(NAMESPACE).ok().filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        let settings = std::env::var(SETTINGS).unwrap_or_else(|_| "{}".to_owned());
        let settings = serde_json::from_str(&settings).with_context(|| format!("{SETTINGS} is no JSON object"))?;
        Ok(Some(OtherDriver { namespace, settings }))
    }

    /// What the driver is told when a test wants this: a setting that it does not have cannot be said to it.
    pub fn settings(&self, wanted: &Json) -> Json {
        let said = self.settings.iter().map(|(name, own)| {
            let value = wanted.get(name).unwrap_or(own);
            (name.clone(), value.clone())
        });
        said.filter(|(_, value)| !value.is_null()).collect()
    }
}

/// The container of a task and the process id of its init, 0 when it has ended, found by the allocation in the shim's arguments:
/// for a driver whose `InspectTask` tells neither.
pub fn container_by_shim(alloc_id: &str, task: &str) -> Option<(String, u32)> {
    let shims = procfs::programs_with_argument("containerd-shim-runc-v2", alloc_id);
    shims.into_iter().find_map(|shim| {
        let args = procfs::cmdline(shim);
        let at = args.iter().position(|arg| arg == "-id")?;
        let id = args
            .get(at + 1)
            .filter(|id| id.contains(alloc_id) && id.contains(task))?;
        // Its first child: what is executed in the task comes later.
        let init = procfs::descendants(shim).first().copied().unwrap_or_default();
        Some((id.clone(), init))
    })
}

#[cfg(test)]
mod tests {
    use super::OtherDriver;
    use serde_json::json;

    #[test]
    fn it_is_told_only_what_it_has_and_what_it_needs_unless_the_test_wants_it_otherwise() {
        let settings = json!({ "runtime": "runc", "interval": null, "privileged": null });
        let other = OtherDriver {
            namespace: "theirs".to_owned(),
            settings: settings.as_object().cloned().unwrap_or_default(),
        };
        let wanted = json!({ "containerd_address": "/c.sock", "interval": "2s" });
        assert_eq!(other.settings(&wanted), json!({ "runtime": "runc", "interval": "2s" }));
        assert_eq!(
            other.settings(&json!({ "runtime": "crun" })),
            json!({ "runtime": "crun" })
        );
    }
}

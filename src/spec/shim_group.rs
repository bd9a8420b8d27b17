//! Shims that several tasks share: who may share one, and how a container says which it has.
//!
//! The shim of runc takes all containers of one group into one process (annotation `io.containerd.runc.v2.group`, containerd
//! 1.6 to 2.x). The group is named after the container that the shim was started for, as in Kubernetes pods: the shim
//! finds its own socket by that name and removes it at its end, and the name of a container is given once.

use super::error::SpecError;
use super::identity::Digest;
use super::owner::Owner;
use super::runtime::Runtime;
use super::settings::Settings;
use super::version::numbers;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The annotation by which the shim of runc groups containers (`groupLabels` in containerd's `manager_linux.go`).
const ANNOTATION: &str = "io.containerd.runc.v2.group";

/// The label that tells a container's group.
pub const KEY_SHIM_GROUP: &str = "containerd-driver/shim-group";

/// How the sandbox records of groups are named: this, and what their members have in common.
const SANDBOX: &str = "containerd-driver-";

/// Most tasks of one shim where nothing is said.
const DEFAULT_MOST: usize = 100;

/// Which tasks share a shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// None.
    None,
    /// Those of one allocation.
    Alloc,
    /// Those of one agent.
    Node,
}

impl Sharing {
    /// The setting `shim_group`.
    ///
    /// # Errors
    /// Its value and what is allowed.
    pub fn of(settings: &Settings) -> Result<Self, SpecError> {
        match settings.shim_group.as_str() {
            "none" => Ok(Self::None),
            "alloc" => Ok(Self::Alloc),
            "node" => Ok(Self::Node),
            other => Err(SpecError::option(
                "shim_group",
                other,
                "none, alloc or node is expected",
            )),
        }
    }
}

/// Checks `shim_group` and `shim_group_max`.
pub(super) fn check(settings: &Settings) -> Result<(), SpecError> {
    Sharing::of(settings)?;
    if settings.shim_group_max < 0 {
        let allowed = "a number of at least 1, or 0 for the default, is expected";
        return Err(SpecError::option("shim_group_max", settings.shim_group_max, allowed));
    }
    Ok(())
}

/// The most tasks of one shim.
#[must_use]
pub fn most(settings: &Settings) -> usize {
    // Hosts send 0 of a number that is not given.
    match settings.shim_group_max {
        0 => DEFAULT_MOST,
        most => usize::try_from(most).unwrap_or(usize::MAX),
    }
}

/// What tasks that may share a shim have in common: agent, runtime with all its options, the containerd and its namespace, and
/// with `alloc` the allocation. `None` for a task that has a shim of its own: a task without an allocation ends with whoever
/// runs it, and other shims than runc's know no groups.
#[must_use]
pub fn kin(settings: &Settings, owner: &Owner, alloc_id: &str, runtime: &Runtime) -> Option<String> {
    let alloc = match Sharing::of(settings).ok()? {
        Sharing::None => return None,
        Sharing::Alloc => alloc_id,
        Sharing::Node => "",
    };
    let agent = owner
        .agent()
        .filter(|_| !alloc_id.is_empty() && runtime.shares_shims())?;
    let all = json!([
        alloc,
        agent.to_str()?,
        owner.agent_inode,
        runtime.kind,
        runtime.binary,
        runtime.systemd_cgroup,
        settings.containerd_address.trim_end_matches('/'),
        settings.containerd_namespace,
    ]);
    let digest = Digest::sha256(all.to_string().as_bytes());
    digest
        .as_str()
        .trim_start_matches("sha256:")
        .get(..16)
        .map(ToOwned::to_owned)
}

/// Whether containerd of this version does right by a task that is handed to a shim. Introspection does not say so. One before
/// 2.3.1 looks for a shim that is named after the sandbox record; one before 2.4.0 tells nothing of such tasks when their shim
/// dies, and lets a shim live on whose last task was one.
#[must_use]
pub fn hands_over(version: &str) -> bool {
    let is_before_release = |patch: &str| ["alpha", "beta", "rc"].iter().any(|word| patch.contains(word));
    match version.trim_start_matches('v').strip_prefix("2.4.") {
        Some(patch) => !(patch.starts_with('0') && is_before_release(patch)),
        None => numbers(version).is_some_and(|found| found > (2, 4)),
    }
}

/// The group of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimGroup {
    /// What its members have in common, see [`kin`].
    pub kin: String,
    /// The container that the shim was started for, which may be gone: the group's name.
    pub leader: String,
}

impl ShimGroup {
    /// Whether this container is put into a shim that another one has started.
    #[must_use]
    pub fn is_joined_by(&self, container: &str) -> bool {
        self.leader != container
    }

    /// The sandbox record that containers of this kin name.
    #[must_use]
    pub fn sandbox(&self) -> String {
        format!("{SANDBOX}{}", self.kin)
    }

    /// The kin whose record is named so. `None` for one of somebody else.
    #[must_use]
    pub fn kin_of_sandbox(id: &str) -> Option<&str> {
        id.strip_prefix(SANDBOX).filter(|kin| !kin.is_empty())
    }

    /// As a label.
    #[must_use]
    pub fn label(&self) -> (String, String) {
        (KEY_SHIM_GROUP.to_owned(), format!("{}/{}", self.kin, self.leader))
    }

    /// Reads the label's value. `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (kin, leader) = text.split_once('/')?;
        (!kin.is_empty() && !leader.is_empty()).then(|| Self {
            kin: kin.to_owned(),
            leader: leader.to_owned(),
        })
    }

    /// The specification of a container of this group. Not part of the plan and its hash: which shim has room is no
    /// property of the task, and the same start after a crash has to find what it had made.
    ///
    /// # Errors
    /// If the specification is none.
    pub fn annotate(&self, spec_json: &[u8]) -> Result<Vec<u8>, SpecError> {
        let fault = |e: serde_json::Error| SpecError::Decode(format!("OCI specification: {e}"));
        let mut spec: Value = serde_json::from_slice(spec_json).map_err(fault)?;
        spec["annotations"][ANNOTATION] = json!(self.leader);
        serde_json::to_vec(&spec).map_err(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::owner::ProcessId;
    use std::path::Path;

    fn owner(dir: &str) -> Owner {
        let process = ProcessId {
            boot: "b".to_owned(),
            pid: 1,
            start: 1,
        };
        Owner::new(&process, Path::new(dir), Some(7))
    }

    fn settings(group: &str) -> Settings {
        Settings {
            shim_group: group.to_owned(),
            ..Settings::default()
        }
    }

    fn runc() -> Runtime {
        Runtime {
            kind: "io.containerd.runc.v2".to_owned(),
            ..Runtime::default()
        }
    }

    #[test]
    fn tasks_are_handed_over_from_version_2_4_0_on() {
        for (version, expected) in [
            ("v2.4.2", true),
            ("v2.4.0", true),
            ("2.4.0~ds1", true),
            ("2.4.1-rc.1", true),
            ("v2.5.0-beta.0", true),
            ("v2.10.0", true),
            ("v3.0.0", true),
            ("v2.4.0-beta.0", false),
            ("2.4.0~rc1-1", false),
            ("v2.3.7", false),
            ("2.0", false),
            ("1.6.20~ds1", false),
            ("1.10.0", false),
            ("2", false),
            ("2.4", false),
            ("unknown", false),
            ("", false),
        ] {
            assert_eq!(hands_over(version), expected, "{version:?}");
        }
    }

    #[test]
    fn tasks_share_a_shim_by_agent_or_by_allocation_and_never_across_runtimes() {
        let (a, b, other) = (owner("/n/alloc/a"), owner("/n/alloc/b"), owner("/m/alloc/a"));
        assert_eq!(kin(&settings("none"), &a, "a", &runc()), None);
        let node = settings("node");
        let of = |owner: &Owner, alloc: &str| kin(&node, owner, alloc, &runc());
        assert_eq!(of(&a, "a").unwrap().len(), 16);
        assert_eq!(of(&a, "a"), of(&b, "b"));
        assert_ne!(of(&a, "a"), of(&other, "a"));
        let alloc = settings("alloc");
        assert_eq!(kin(&alloc, &a, "a", &runc()), kin(&alloc, &a, "a", &runc()));
        assert_ne!(kin(&alloc, &a, "a", &runc()), kin(&alloc, &b, "b", &runc()));
        for runtime in [
            Runtime {
                binary: "crun".to_owned(),
                ..runc()
            },
            Runtime {
                systemd_cgroup: true,
                ..runc()
            },
        ] {
            assert_ne!(kin(&node, &a, "a", &runtime), of(&a, "a"), "{runtime:?}");
        }
        let elsewhere = Settings {
            containerd_namespace: "other".to_owned(),
            ..settings("node")
        };
        assert_ne!(kin(&elsewhere, &a, "a", &runc()), of(&a, "a"));
    }

    #[test]
    fn a_task_without_an_allocation_and_one_of_another_shim_have_a_shim_of_their_own() {
        let runsc = Runtime {
            kind: "io.containerd.runsc.v1".to_owned(),
            ..Runtime::default()
        };
        assert_eq!(kin(&settings("node"), &owner("/n/alloc/a"), "a", &runsc), None);
        assert_eq!(kin(&settings("node"), &owner("/n/alloc/a"), "", &runc()), None);
        assert_eq!(kin(&settings("node"), &owner(""), "a", &runc()), None);
    }

    #[test]
    fn a_group_is_read_back_and_stands_in_the_specification() {
        let group = ShimGroup {
            kin: "0123".to_owned(),
            leader: "web-1".to_owned(),
        };
        assert_eq!(group.label().0, KEY_SHIM_GROUP);
        assert_eq!(ShimGroup::parse(&group.label().1), Some(group.clone()));
        for text in ["", "a", "/a", "a/"] {
            assert_eq!(ShimGroup::parse(text), None, "{text}");
        }
        for (spec, wanted) in [
            (r"{}", r#"{"annotations":{"io.containerd.runc.v2.group":"web-1"}}"#),
            (
                r#"{"annotations":{"a":"b"}}"#,
                r#"{"annotations":{"a":"b","io.containerd.runc.v2.group":"web-1"}}"#,
            ),
        ] {
            let made = group.annotate(spec.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(made).unwrap(), wanted);
        }
        assert!(group.annotate(b"no json").is_err());
    }

    #[test]
    fn the_settings_are_checked_with_words() {
        let refused = |s: &Settings| check(s).unwrap_err().to_string();
        assert_eq!(check(&Settings::default()), Ok(()));
        assert!(refused(&settings("pod")).starts_with("option shim_group: \"pod\": none, alloc or node"));
        let with = |shim_group_max| Settings {
            shim_group_max,
            ..settings("node")
        };
        assert!(refused(&with(-1)).contains("shim_group_max"), "{}", refused(&with(-1)));
        assert_eq!(
            (check(&with(0)), most(&with(0)), most(&with(3))),
            (Ok(()), DEFAULT_MOST, 3)
        );
    }
}

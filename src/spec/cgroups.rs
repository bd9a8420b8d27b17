//! Where the runtime puts a container's cgroup, and the cpuset of it.
//!
//! Source of the rules: the cgroup layout of Nomad 1.7 and later. With cgroup v2 a task has a scope that Nomad made in its
//! share or reserve partition, and what the partition may use is inherited. With v1 only the cpuset controller has
//! partitions, and nothing is inherited by a cgroup elsewhere.

use super::identity::{ContainerId, SCOPE_PREFIX};
use super::node::CgroupMode;
use super::oci::Inputs;
use std::path::PathBuf;

/// Slice in systemd's form of a cgroup path.
const SLICE: &str = "nomad.slice";

/// Where the runtime puts the container's cgroup: a path below the mount of the hierarchy, or with `systemd_cgroup`
/// `slice:prefix:name`.
pub(super) fn path(inputs: &Inputs<'_>, container: &ContainerId) -> String {
    if inputs.settings.systemd_cgroup {
        return format!("{SLICE}:{SCOPE_PREFIX}:{container}");
    }
    let node = inputs.node;
    let given = inputs.task.resources.cpuset_cgroup.trim_end_matches('/');
    match (node.cgroup, beneath(given, "/sys/fs/cgroup/")) {
        (CgroupMode::V2, Some(below)) if node.cpuset_cgroup_exists => format!("/{below}"),
        (CgroupMode::V2, _) => format!("/nomad.slice/{container}"),
        (CgroupMode::V1, _) => format!("/nomad/{container}"),
    }
}

/// `linux.resources.cpu.cpus` and `mems`.
///
/// With v2 a task without reserved cores is left to what its partition may use. With v1 it begins with that, since a
/// cgroup of its own is outside the partition; [`join`] then makes it follow changes.
pub(super) fn cpuset(inputs: &Inputs<'_>) -> (Option<String>, Option<String>) {
    let set = |text: &str| Some(text.trim().to_owned()).filter(|t| !t.is_empty());
    let reserved = set(&inputs.task.resources.cpuset_cpus);
    match (inputs.node.cgroup, &inputs.node.cpuset) {
        (CgroupMode::V2, _) | (CgroupMode::V1, None) => (reserved, None),
        (CgroupMode::V1, Some(partition)) => (reserved.or_else(|| set(&partition.cpus)), set(&partition.mems)),
    }
}

/// The cpuset directory that the first process must be put into between its creation and its start, so that it follows
/// what Nomad lets tasks without reserved cores use. Only with v1. Reserved cores never change, so there the container's
/// own cgroup is enough; and Nomad leaves that directory of its own without `cpuset.cpus`, so nothing can enter it.
pub(super) fn join(inputs: &Inputs<'_>) -> Option<PathBuf> {
    let given = inputs.task.resources.cpuset_cgroup.trim_end_matches('/');
    let joins = inputs.node.cgroup == CgroupMode::V1
        && inputs.node.cpuset_cgroup_exists
        && inputs.task.resources.cpuset_cpus.trim().is_empty();
    (joins && beneath(given, "/sys/fs/cgroup/cpuset/").is_some()).then(|| PathBuf::from(given))
}

/// The rest of a path beneath a directory, without `..`.
fn beneath<'a>(path: &'a str, dir: &str) -> Option<&'a str> {
    path.strip_prefix(dir)
        .filter(|rest| !rest.is_empty() && !rest.split('/').any(|p| p == ".."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::gates::Gates;
    use crate::spec::image::ImageFacts;
    use crate::spec::node::{Cpuset, NodeFacts};
    use crate::spec::settings::Settings;
    use crate::spec::task::{Resources, TaskSpec};

    fn with<T>(
        mode: CgroupMode,
        exists: bool,
        systemd: bool,
        resources: Resources,
        look: impl Fn(&Inputs<'_>) -> T,
    ) -> T {
        let settings = Settings {
            systemd_cgroup: systemd,
            ..Settings::default()
        };
        look(&Inputs {
            task: &TaskSpec {
                resources,
                ..TaskSpec::default()
            },
            image: &ImageFacts::default(),
            node: &NodeFacts {
                cgroup: mode,
                cpuset_cgroup_exists: exists,
                cpuset: Some(Cpuset {
                    cpus: "1-3\n".to_owned(),
                    mems: "0\n".to_owned(),
                }),
                ..NodeFacts::default()
            },
            settings: &settings,
            gates: &Gates::of(&settings).unwrap(),
        })
    }

    fn given(cgroup: &str, cpus: &str) -> Resources {
        Resources {
            cpuset_cgroup: cgroup.to_owned(),
            cpuset_cpus: cpus.to_owned(),
            ..Resources::default()
        }
    }

    const SCOPE: &str = "/sys/fs/cgroup/nomad.slice/share.slice/a.web.scope";
    const SHARE: &str = "/sys/fs/cgroup/cpuset/nomad/share";

    #[test]
    fn cgroup_is_nomads_scope_where_it_exists() {
        let id = ContainerId::reported("c");
        for (mode, cgroup, exists, want) in [
            (CgroupMode::V2, SCOPE, true, "/nomad.slice/share.slice/a.web.scope"),
            (CgroupMode::V2, SCOPE, false, "/nomad.slice/c"),
            (CgroupMode::V2, "", true, "/nomad.slice/c"),
            (CgroupMode::V2, "/sys/fs/cgroup/", true, "/nomad.slice/c"),
            (CgroupMode::V2, "/sys/fs/cgroup/../x", true, "/nomad.slice/c"),
            (CgroupMode::V1, SHARE, true, "/nomad/c"),
        ] {
            let got = with(mode, exists, false, given(cgroup, ""), |i| path(i, &id));
            assert_eq!(got, want, "{cgroup}");
        }
        for mode in [CgroupMode::V1, CgroupMode::V2] {
            let got = with(mode, true, true, given(SCOPE, ""), |i| path(i, &id));
            assert_eq!(got, "nomad.slice:containerd-driver:c");
        }
    }

    #[test]
    fn cpuset_is_reserved_cores_or_what_the_partition_has() {
        let text = |s: &str| Some(s.to_owned());
        for (mode, cpus, want) in [
            (CgroupMode::V2, "", (None, None)),
            (CgroupMode::V2, "0,3", (text("0,3"), None)),
            (CgroupMode::V1, "", (text("1-3"), text("0"))),
            (CgroupMode::V1, " 0,3 ", (text("0,3"), text("0"))),
        ] {
            assert_eq!(
                with(mode, true, false, given(SHARE, cpus), cpuset),
                want,
                "{mode:?} {cpus}"
            );
        }
    }

    #[test]
    fn only_a_task_without_reserved_cores_joins_and_only_beneath_the_cpuset_hierarchy() {
        for (mode, exists, cgroup, cpus, joins) in [
            (CgroupMode::V1, true, SHARE, "", true),
            (CgroupMode::V1, false, SHARE, "", false),
            (CgroupMode::V1, true, SHARE, "0", false),
            (CgroupMode::V2, true, SHARE, "", false),
            (CgroupMode::V1, true, "/sys/fs/cgroup/cpuset/../memory/x", "", false),
            (CgroupMode::V1, true, "/sys/fs/cgroup/cpuset/", "", false),
            (CgroupMode::V1, true, "/etc", "", false),
        ] {
            let got = with(mode, exists, false, given(cgroup, cpus), join);
            assert_eq!(got.is_some(), joins, "{mode:?} {cgroup} {cpus}");
        }
    }
}

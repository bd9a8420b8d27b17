//! What constraints of jobs can ask for, under names like those of Nomad's Docker driver. Pure.
//!
//! Each change registers the node anew and wakes the scheduler, so nothing here counts or dates, and what was told stays
//! while containerd is away. Only `healthy` follows the health, whose change registers the node in any case. Without it a
//! job that found no node during an outage would wait for good: Nomad's scheduler remembers which classes of nodes a job
//! cannot go to, health has no part in the class, and attributes have.

use super::verdict::Serving;
use crate::host::node::CgroupVersion;
use crate::messages::health::{Attribute, Health};

/// Before all names but those of the Go driver.
const PREFIX: &str = "driver.containerd-driver.";

/// Whether tasks can be run now.
const HEALTHY: &str = "healthy";

fn text(name: &str, value: impl Into<String>) -> (String, Attribute) {
    (format!("{PREFIX}{name}"), Attribute::Text(value.into()))
}

fn truth(name: &str, value: bool) -> (String, Attribute) {
    (format!("{PREFIX}{name}"), Attribute::Bool(value))
}

/// The attributes, sorted by key.
pub(super) fn of(serving: &Serving) -> Vec<(String, Attribute)> {
    let Serving {
        revision,
        snapshotters,
        snapshotter,
        runtime,
        programs,
        transfer,
        cgroup,
        gates,
        ..
    } = serving;
    let version = serving.version.trim_start_matches('v');
    let cgroup = match cgroup {
        CgroupVersion::V1 => "v1",
        CgroupVersion::V2 => "v2",
    };
    let caps = gates.caps().map_or_else(
        || "ALL".to_owned(),
        |caps| caps.iter().map(String::as_str).collect::<Vec<_>>().join(","),
    );
    let mut all = vec![
        text("version", version),
        text("driver_version", env!("CARGO_PKG_VERSION")),
        text("runtime", runtime),
        text("runtimes", gates.runtimes().join(",")),
        text("snapshotter", snapshotter),
        text("snapshotters", snapshotters.join(",")),
        text("cgroup", cgroup),
        truth("transfer", *transfer),
        text("security_profile", gates.profile.name()),
        truth("privileged.enabled", gates.privileged().is_ok()),
        truth("volumes.enabled", gates.volumes()),
        text("caps", caps),
        text("modes", gates.modes().join(",")),
        // Names that the Go driver used: constraints in existing jobs name them.
        (
            "driver.containerd.containerd_version".to_owned(),
            Attribute::Text(version.to_owned()),
        ),
        (
            "driver.containerd.containerd_revision".to_owned(),
            Attribute::Text(revision.clone()),
        ),
    ];
    all.extend(
        programs
            .iter()
            .map(|(name, said)| text(&format!("{name}.version"), said)),
    );
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// `told` with the attribute that follows the health. A driver that is not detected has none: Nomad then takes away
/// `driver.containerd-driver`, which is part of the class as well.
pub(super) fn with_health(mut told: Vec<(String, Attribute)>, health: Health) -> Vec<(String, Attribute)> {
    let (key, _) = truth(HEALTHY, false);
    told.retain(|(name, _)| *name != key);
    if health != Health::Undetected {
        told.push((key, Attribute::Bool(health == Health::Healthy)));
        told.sort_by(|a, b| a.0.cmp(&b.0));
    }
    told
}

/// The version in what a program such as runc or crun says first: `runc version 1.1.5+ds1`.
#[must_use]
pub(super) fn version_in(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace().skip_while(|word| *word != "version");
    words.next()?;
    let found = words.next()?.trim_start_matches('v').trim_end_matches(',');
    found.starts_with(|c: char| c.is_ascii_digit()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::super::verdict::tests::serving;
    use super::*;

    #[test]
    fn what_the_operator_allows_and_the_node_has_can_be_asked_for_by_constraints() {
        let all = of(&serving());
        let get = |name: &str| {
            all.iter()
                .find(|(k, _)| *k == format!("{PREFIX}{name}"))
                .map(|(_, a)| a.clone())
        };
        for (name, value) in [
            ("version", "1.6.20"),
            ("security_profile", "go-driver"),
            ("runtimes", "io.containerd.runc.v2,runc"),
            ("snapshotters", "native,overlayfs"),
            ("cgroup", "v1"),
            ("caps", "ALL"),
            ("modes", "network,pid"),
            ("runc.version", "1.1.5"),
        ] {
            assert_eq!(get(name), Some(Attribute::Text(value.into())), "{name}");
        }
        for name in ["volumes.enabled", "privileged.enabled", "transfer"] {
            assert_eq!(get(name), Some(Attribute::Bool(true)), "{name}");
        }
        assert!(all.is_sorted_by(|a, b| a.0 < b.0), "{all:?}");
        assert!(all.contains(&(
            "driver.containerd.containerd_revision".into(),
            Attribute::Text("r".into())
        )));
        // Two words and a number would be shown as a driver of its own (`nomad node status`).
        assert!(all.iter().all(|(key, _)| key.split('.').count() > 2), "{all:?}");
    }

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (line, version) in [
            ("runc version 1.1.5+ds1", Some("1.1.5+ds1")),
            ("crun version 1.8.1", Some("1.8.1")),
            ("youki version: 0.3", None),
            ("version v2.0, built today", Some("2.0")),
            ("version", None),
            ("", None),
        ] {
            assert_eq!(version_in(line), version, "{line:?}");
        }
    }
}

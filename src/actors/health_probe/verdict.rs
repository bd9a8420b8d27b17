//! From what a probe found to what the fingerprint says. Pure.

use crate::host::node::CgroupVersion;
use crate::messages::health::{Attribute, Health, Verdict};
use crate::messages::runtime::{ContainerdFault, FaultKind};
use crate::spec::gates::Gates;

/// What one probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The operator has switched the driver off.
    Disabled,
    /// The settings contradict themselves.
    BadSettings(String),
    /// The plugin does not run as root.
    NotRoot,
    /// containerd did not answer.
    Fault {
        /// How it failed.
        fault: ContainerdFault,
        /// The socket.
        socket: String,
        /// Whether the socket exists.
        present: bool,
    },
    /// containerd serves.
    Serving {
        /// Its version, as it says.
        version: String,
        /// Its revision.
        revision: String,
        /// Snapshotters that it has.
        snapshotters: Vec<String>,
        /// The snapshotter in force.
        snapshotter: String,
        /// The runtime in force.
        runtime: String,
        /// cgroup mode of the node.
        cgroup: CgroupVersion,
        /// What the operator allows.
        gates: Box<Gates>,
    },
}

/// What must be remembered from probe to probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    seen: bool,
    deadlines: u8,
}

/// Deadlines in a row before a containerd that does not answer is called unhealthy: one may be a hiccup.
const PATIENCE: u8 = 2;

impl Memory {
    /// What a restarted probe knows from the last verdict.
    #[must_use]
    pub fn resume(last: Health) -> Self {
        Self {
            seen: last != Health::Undetected,
            deadlines: 0,
        }
    }

    /// The verdict, or `None` if another look is needed first.
    pub fn judge(&mut self, finding: &Finding) -> Option<Verdict> {
        let bad = |health, description: String| {
            Some(Verdict {
                health,
                description,
                attributes: Vec::new(),
            })
        };
        match finding {
            Finding::Disabled => bad(
                Health::Undetected,
                "disabled by plugin configuration (enabled = false)".to_owned(),
            ),
            Finding::BadSettings(text) => bad(Health::Unhealthy, text.clone()),
            Finding::NotRoot => bad(Health::Unhealthy, "Driver must run as root".to_owned()),
            Finding::Fault { fault, socket, present } => {
                if fault.kind == FaultKind::Deadline {
                    self.deadlines = self.deadlines.saturating_add(1);
                    if self.deadlines < PATIENCE {
                        return None;
                    }
                }
                let gone = if self.seen || *present {
                    Health::Unhealthy
                } else {
                    Health::Undetected
                };
                match fault.kind {
                    FaultKind::Deadline => bad(Health::Unhealthy, format!("containerd does not answer at {socket}")),
                    FaultKind::Unreachable if *present => {
                        bad(gone, format!("containerd cannot be reached at {socket}"))
                    }
                    FaultKind::Unreachable => bad(gone, format!("containerd is not running: no socket at {socket}")),
                    FaultKind::NotFound
                    | FaultKind::AlreadyExists
                    | FaultKind::FailedPrecondition
                    | FaultKind::Exhausted
                    | FaultKind::Failed => bad(gone, format!("containerd at {socket} cannot serve: {}", fault.text)),
                }
            }
            Finding::Serving {
                version,
                revision,
                snapshotters,
                snapshotter,
                runtime,
                cgroup,
                gates,
            } => {
                self.seen = true;
                self.deadlines = 0;
                if !snapshotters.iter().any(|s| s == snapshotter) {
                    return bad(
                        Health::Unhealthy,
                        format!(
                            "option snapshotter: {snapshotter:?} is not among containerd's: {}",
                            snapshotters.join(", ")
                        ),
                    );
                }
                let version = version.trim_start_matches('v').to_owned();
                let text = |key: &str, value: &str| (key.to_owned(), Attribute::Text(value.to_owned()));
                let mut attributes = allowed(gates);
                attributes.extend([
                    text("driver.containerd-driver.version", &version),
                    text("driver.containerd-driver.driver_version", env!("CARGO_PKG_VERSION")),
                    text("driver.containerd-driver.runtime", runtime),
                    text("driver.containerd-driver.snapshotter", snapshotter),
                    text(
                        "driver.containerd-driver.cgroup",
                        match cgroup {
                            CgroupVersion::V1 => "v1",
                            CgroupVersion::V2 => "v2",
                        },
                    ),
                    // Names that the Go driver used: constraints in existing jobs name them.
                    text("driver.containerd.containerd_version", &version),
                    text("driver.containerd.containerd_revision", revision),
                ]);
                attributes.sort_by(|a, b| a.0.cmp(&b.0));
                Some(Verdict {
                    health: Health::Healthy,
                    description: "Healthy".to_owned(),
                    attributes,
                })
            }
        }
    }
}

/// What constraints of jobs can ask for, under names like those of Nomad's Docker driver.
fn allowed(gates: &Gates) -> Vec<(String, Attribute)> {
    let key = |name: &str| format!("driver.containerd-driver.{name}");
    vec![
        (
            key("security_profile"),
            Attribute::Text(gates.profile.name().to_owned()),
        ),
        (key("privileged.enabled"), Attribute::Bool(gates.privileged().is_ok())),
        (key("volumes.enabled"), Attribute::Bool(gates.volumes())),
        (key("runtimes"), Attribute::Text(gates.runtimes().join(","))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::settings::Settings;

    fn fault(kind: FaultKind, present: bool) -> Finding {
        Finding::Fault {
            fault: ContainerdFault {
                kind,
                operation: "version",
                text: "x".into(),
            },
            socket: "/s".into(),
            present,
        }
    }

    fn serving() -> Finding {
        Finding::Serving {
            version: "v1.6.20".into(),
            revision: "r".into(),
            snapshotters: vec!["overlayfs".into()],
            snapshotter: "overlayfs".into(),
            runtime: "io.containerd.runc.v2".into(),
            cgroup: CgroupVersion::V1,
            gates: Box::new(Gates::of(&Settings::go_driver()).unwrap()),
        }
    }

    #[test]
    fn what_the_operator_allows_can_be_asked_for_by_constraints() {
        let v = Memory::resume(Health::Undetected).judge(&serving()).unwrap();
        let get = |name: &str| {
            let key = format!("driver.containerd-driver.{name}");
            v.attributes.iter().find(|(k, _)| *k == key).map(|(_, a)| a.clone())
        };
        assert_eq!(get("security_profile"), Some(Attribute::Text("go-driver".into())));
        assert_eq!(get("volumes.enabled"), Some(Attribute::Bool(true)));
        assert_eq!(get("privileged.enabled"), Some(Attribute::Bool(true)));
        assert_eq!(
            get("runtimes"),
            Some(Attribute::Text("io.containerd.runc.v2,runc".into()))
        );
    }

    #[test]
    fn never_seen_is_undetected_and_lost_is_unhealthy() {
        let mut m = Memory::resume(Health::Undetected);
        assert_eq!(
            m.judge(&fault(FaultKind::Unreachable, false)).map(|v| v.health),
            Some(Health::Undetected)
        );
        assert_eq!(m.judge(&serving()).map(|v| v.health), Some(Health::Healthy));
        assert_eq!(
            m.judge(&fault(FaultKind::Unreachable, false)).map(|v| v.health),
            Some(Health::Unhealthy)
        );
    }

    #[test]
    fn one_missed_deadline_is_looked_at_again_two_are_unhealthy() {
        let mut m = Memory::resume(Health::Healthy);
        assert_eq!(m.judge(&fault(FaultKind::Deadline, true)), None);
        assert_eq!(
            m.judge(&fault(FaultKind::Deadline, true)).map(|v| v.health),
            Some(Health::Unhealthy)
        );
    }

    #[test]
    fn versions_can_be_compared_by_constraints() {
        let v = Memory::resume(Health::Undetected).judge(&serving());
        assert!(v.is_some_and(|v| v.attributes.contains(&(
            "driver.containerd-driver.version".into(),
            Attribute::Text("1.6.20".into())
        ))));
    }
}

//! From what a probe found to what the fingerprint says. Pure.

use crate::host::node::CgroupVersion;
use crate::messages::health::{Attribute, Health, Verdict};
use crate::messages::runtime::{ContainerdFault, FaultKind};

/// What one probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The operator has switched the driver off.
    Disabled,
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
                let mut attributes = vec![
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
                ];
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

#[cfg(test)]
mod tests {
    use super::*;

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
        }
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

//! From what a probe found to what the fingerprint says. Pure.
//!
//! | found | before the first success | after it |
//! |---|---|---|
//! | no socket, or nobody answers and no socket | undetected at once | unhealthy at the second time in a row |
//! | a socket where the connection is refused or breaks | unhealthy at once | unhealthy at the second time in a row |
//! | no answer within the deadline, an answer that is an error | unhealthy at the second time in a row | the same |
//! | it serves, and does not find what the default runtime needs | unhealthy at once | unhealthy at the second time in a row |
//! | it serves | healthy at once | healthy at once |

use super::attributes;
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
    Serving(Box<Serving>),
}

/// What is known of a containerd that serves, and of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serving {
    /// Its version, as it says.
    pub version: String,
    /// Its revision.
    pub revision: String,
    /// Snapshotters that it has.
    pub snapshotters: Vec<String>,
    /// The snapshotter in force.
    pub snapshotter: String,
    /// The runtime in force.
    pub runtime: String,
    /// Programs such as runc that containerd finds, and the versions they tell.
    pub programs: Vec<(String, String)>,
    /// What the runtime in force needs and containerd does not find.
    pub lacks: Option<String>,
    /// Whether it has the transfer service.
    pub transfer: bool,
    /// cgroup mode of the node.
    pub cgroup: CgroupVersion,
    /// What the operator allows.
    pub gates: Gates,
}

/// What must be remembered from probe to probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    seen: bool,
    /// Probes in a row that failed in a way that may be a hiccup.
    doubts: u8,
    /// As last told: they stay while containerd is away.
    attributes: Vec<(String, Attribute)>,
}

/// Such probes in a row before containerd is called unhealthy.
const PATIENCE: u8 = 2;

impl Memory {
    /// What a restarted probe knows from the last verdict.
    #[must_use]
    pub fn resume(last: &Verdict) -> Self {
        Self {
            seen: last.health != Health::Undetected,
            doubts: 0,
            attributes: last.attributes.clone(),
        }
    }

    /// The verdict, or `None` if another look is needed first. `complaint`: what the canary says against a containerd
    /// that serves.
    pub fn judge(&mut self, finding: &Finding, complaint: Option<String>) -> Option<Verdict> {
        match finding {
            Finding::Disabled => {
                // The driver is not there for the node, and neither is what it has.
                self.attributes.clear();
                Some(self.say(
                    Health::Undetected,
                    "disabled by plugin configuration (enabled = false)".to_owned(),
                ))
            }
            Finding::BadSettings(text) => Some(self.say(Health::Unhealthy, text.clone())),
            Finding::NotRoot => Some(self.say(Health::Unhealthy, "Driver must run as root".to_owned())),
            Finding::Fault { fault, socket, present } => self.fault(fault, socket, *present),
            Finding::Serving(serving) => self.serving(serving, complaint),
        }
    }

    fn say(&self, health: Health, description: String) -> Verdict {
        Verdict {
            health,
            description,
            attributes: attributes::with_health(self.attributes.clone(), health),
        }
    }

    fn fault(&mut self, fault: &ContainerdFault, socket: &str, present: bool) -> Option<Verdict> {
        let gone = if self.seen || present {
            Health::Unhealthy
        } else {
            Health::Undetected
        };
        let (certain, description) = match fault.kind {
            FaultKind::Deadline => (false, format!("containerd does not answer at {socket}")),
            FaultKind::Unreachable if present => (!self.seen, format!("containerd cannot be reached at {socket}")),
            FaultKind::Unreachable => (!self.seen, format!("containerd is not running: no socket at {socket}")),
            FaultKind::NotFound
            | FaultKind::AlreadyExists
            | FaultKind::FailedPrecondition
            | FaultKind::Exhausted
            | FaultKind::Failed => (false, format!("containerd at {socket} cannot serve: {}", fault.text)),
        };
        self.doubts = self.doubts.saturating_add(1);
        if !certain && self.doubts < PATIENCE {
            return None;
        }
        Some(self.say(gone, description))
    }

    fn serving(&mut self, serving: &Serving, complaint: Option<String>) -> Option<Verdict> {
        let Serving {
            snapshotters,
            snapshotter,
            runtime,
            lacks,
            ..
        } = serving;
        let known = std::mem::replace(&mut self.seen, true);
        self.doubts = if lacks.is_some() {
            self.doubts.saturating_add(1)
        } else {
            0
        };
        // A program that is just being replaced.
        if known && (1..PATIENCE).contains(&self.doubts) {
            return None;
        }
        self.attributes = attributes::of(serving);
        if !snapshotters.contains(snapshotter) {
            let there = snapshotters.join(", ");
            return Some(self.say(
                Health::Unhealthy,
                format!("option snapshotter: {snapshotter:?} is not among containerd's: {there}"),
            ));
        }
        if let Some(lacks) = lacks {
            return Some(self.say(
                Health::Unhealthy,
                format!("option containerd_runtime: {runtime:?} cannot run: {lacks}"),
            ));
        }
        Some(match complaint {
            Some(complaint) => self.say(Health::Unhealthy, complaint),
            None => self.say(Health::Healthy, "Healthy".to_owned()),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
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

    pub(in super::super) fn serving() -> Serving {
        Serving {
            version: "v1.6.20".into(),
            revision: "r".into(),
            snapshotters: vec!["native".into(), "overlayfs".into()],
            snapshotter: "overlayfs".into(),
            runtime: "io.containerd.runc.v2".into(),
            programs: vec![("runc".into(), "1.1.5".into())],
            lacks: None,
            transfer: true,
            cgroup: CgroupVersion::V1,
            gates: Gates::of(&Settings::go_driver()).unwrap(),
        }
    }

    fn serves() -> Finding {
        Finding::Serving(Box::new(serving()))
    }

    fn fresh() -> Memory {
        Memory::resume(&Verdict {
            health: Health::Undetected,
            description: String::new(),
            attributes: Vec::new(),
        })
    }

    fn health(m: &mut Memory, finding: &Finding) -> Option<Health> {
        m.judge(finding, None).map(|v| v.health)
    }

    /// At the second look.
    fn twice(m: &mut Memory, finding: &Finding, complaint: Option<String>) -> Verdict {
        assert_eq!(m.judge(finding, complaint.clone()), None);
        m.judge(finding, complaint).unwrap()
    }

    #[test]
    fn never_seen_is_undetected_and_lost_is_unhealthy() {
        let mut m = fresh();
        let absent = fault(FaultKind::Unreachable, false);
        assert_eq!(health(&mut m, &absent), Some(Health::Undetected));
        assert_eq!(health(&mut m, &serves()), Some(Health::Healthy));
        assert_eq!(twice(&mut m, &absent, None).health, Health::Unhealthy);
        assert_eq!(
            health(&mut fresh(), &fault(FaultKind::Unreachable, true)),
            Some(Health::Unhealthy)
        );
    }

    #[test]
    fn one_hiccup_is_looked_at_again_two_are_unhealthy_and_success_heals_at_once() {
        for kind in [
            FaultKind::Deadline,
            FaultKind::Failed,
            FaultKind::Exhausted,
            FaultKind::Unreachable,
        ] {
            let mut m = fresh();
            for _ in 0..2 {
                assert_eq!(health(&mut m, &serves()), Some(Health::Healthy));
                assert_eq!(health(&mut m, &fault(kind, true)), None, "{kind:?}");
                assert_eq!(health(&mut m, &fault(kind, true)), Some(Health::Unhealthy), "{kind:?}");
                assert_eq!(health(&mut m, &fault(kind, true)), Some(Health::Unhealthy), "{kind:?}");
            }
        }
    }

    #[test]
    fn attributes_stay_while_containerd_is_away_and_go_when_the_driver_is_switched_off() {
        let mut m = fresh();
        let healthy = m.judge(&serves(), None).unwrap();
        let away = twice(&mut m, &fault(FaultKind::Unreachable, false), None);
        let lasting = |verdict: &Verdict| attributes::with_health(verdict.attributes.clone(), Health::Undetected);
        assert_eq!(lasting(&away), lasting(&healthy));
        assert!(!lasting(&away).is_empty());
        let mut resumed = Memory::resume(&away);
        let still = twice(&mut resumed, &fault(FaultKind::Unreachable, false), None);
        assert_eq!(still.attributes, away.attributes);
        assert!(resumed.judge(&Finding::Disabled, None).unwrap().attributes.is_empty());
    }

    #[test]
    fn the_class_of_the_node_changes_with_its_health_so_that_jobs_do_not_wait_for_good() {
        let told = |verdict: Verdict| {
            let key = "driver.containerd-driver.healthy";
            let found = verdict.attributes.into_iter().find(|(name, _)| name == key);
            found.map(|(_, value)| value)
        };
        let mut m = fresh();
        let absent = fault(FaultKind::Unreachable, false);
        assert_eq!(told(m.judge(&absent, None).unwrap()), None, "not detected");
        assert_eq!(told(m.judge(&serves(), None).unwrap()), Some(Attribute::Bool(true)));
        assert_eq!(told(twice(&mut m, &absent, None)), Some(Attribute::Bool(false)));
        let canary = m.judge(&serves(), Some("canary: x".into())).unwrap();
        assert_eq!(told(canary), Some(Attribute::Bool(false)));
        assert_eq!(told(m.judge(&serves(), None).unwrap()), Some(Attribute::Bool(true)));
        // A process that has never seen containerd says so too, or the node would keep what the one before it said.
        let refused = fault(FaultKind::Unreachable, true);
        assert_eq!(
            told(fresh().judge(&refused, None).unwrap()),
            Some(Attribute::Bool(false))
        );
    }

    #[test]
    fn the_canary_speaks_for_a_containerd_that_serves_only() {
        let mut m = fresh();
        let complaint = || Some("canary: x".to_owned());
        let verdict = m.judge(&serves(), complaint()).unwrap();
        assert_eq!(
            (verdict.health, verdict.description.as_str()),
            (Health::Unhealthy, "canary: x")
        );
        let away = twice(&mut m, &fault(FaultKind::Unreachable, false), complaint());
        assert!(away.description.contains("not running"), "{away:?}");
    }

    #[test]
    fn a_runtime_whose_program_is_missing_makes_the_node_unhealthy_until_it_comes_back() {
        let found = Finding::Serving(Box::new(Serving {
            lacks: Some("runc is in none of containerd's directories /usr/bin".into()),
            ..serving()
        }));
        let first = fresh().judge(&found, None).unwrap();
        assert_eq!(first.health, Health::Unhealthy);
        for word in ["containerd_runtime", "io.containerd.runc.v2", "runc is in none of"] {
            assert!(first.description.contains(word), "{first:?}");
        }
        let mut m = fresh();
        assert_eq!(health(&mut m, &serves()), Some(Health::Healthy));
        assert_eq!(twice(&mut m, &found, None).health, Health::Unhealthy);
        assert_eq!(health(&mut m, &serves()), Some(Health::Healthy));
    }

    #[test]
    fn an_unknown_snapshotter_is_named_with_those_that_are_there() {
        let found = Finding::Serving(Box::new(Serving {
            snapshotter: "zfs".into(),
            ..serving()
        }));
        let verdict = fresh().judge(&found, None).unwrap();
        assert_eq!(verdict.health, Health::Unhealthy);
        for word in ["zfs", "native, overlayfs"] {
            assert!(verdict.description.contains(word), "{verdict:?}");
        }
    }
}

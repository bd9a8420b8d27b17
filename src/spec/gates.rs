//! What the operator allows: the plugin settings with the defaults of the security profile filled in.
//!
//! | setting | `strict` | `go-driver` |
//! |---|---|---|
//! | `allow_privileged` | `false` | `true` |
//! | `allow_caps` | Docker's set without `NET_RAW` | all |
//! | `allow_runtimes` | `containerd_runtime`, `runc` and the names in `runtimes` | the same |
//! | `allowed_modes` | none | `pid = ["host"]`, `network = ["host"]` |
//! | `allow_devices` | none | all |
//! | `allow_unconfined` | none | `seccomp`, `apparmor`, `selinux` |
//! | `auth.hosts`, without `auth.server_address` | none | all |
//! | `volumes.enabled` | `false` | `true` |
//! | seccomp of a task that says nothing | the default profile | none |
//! | AppArmor of a task that says nothing | the default profile, if the kernel has it | none |
//! | `sysctl` that no namespace has of its own | refused | refused with runc and crun, else left to the runtime |
//!
//! Each refusal names the option, its value and the setting that would allow it: of a list, what has to be in it, since a
//! list in the configuration replaces the default one.

use super::capabilities;
use super::error::SpecError;
use super::settings::{AllowedModes, Settings};
use std::collections::BTreeSet;

/// Which defaults count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Nothing that reaches the host without consent.
    Strict,
    /// What the Go driver allowed.
    GoDriver,
}

impl Profile {
    /// As the setting names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::GoDriver => "go-driver",
        }
    }
}

/// A protection that a task may do without, if the operator agrees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protection {
    /// The system call filter.
    Seccomp,
    /// The AppArmor profile.
    AppArmor,
    /// The types of SELinux that are for containers.
    Selinux,
    /// Masked and read-only paths of /proc and /sys.
    SystemPaths,
}

impl Protection {
    const ALL: [Self; 4] = [Self::Seccomp, Self::AppArmor, Self::Selinux, Self::SystemPaths];

    fn name(self) -> &'static str {
        match self {
            Self::Seccomp => "seccomp",
            Self::AppArmor => "apparmor",
            Self::Selinux => "selinux",
            Self::SystemPaths => "systempaths",
        }
    }
}

/// A namespace that may be shared with the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Processes.
    Pid,
    /// System V IPC and POSIX queues.
    Ipc,
    /// Host name.
    Uts,
    /// Cgroup namespace.
    Cgroup,
    /// Network.
    Network,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Pid => "pid",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Cgroup => "cgroup",
            Self::Network => "network",
        }
    }
}

/// The gates, open or closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gates {
    /// Which defaults count.
    pub profile: Profile,
    privileged: bool,
    /// `None` for all.
    caps: Option<BTreeSet<String>>,
    runtimes: Vec<String>,
    modes: AllowedModes,
    devices: Vec<String>,
    unconfined: BTreeSet<Protection>,
    volumes: bool,
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|t| (*t).to_owned()).collect()
}

impl Gates {
    /// The gates of these settings.
    ///
    /// # Errors
    /// The setting, its value and what is allowed.
    pub fn of(settings: &Settings) -> Result<Self, SpecError> {
        let named = settings.security_profile.as_str();
        let profile = [Profile::Strict, Profile::GoDriver]
            .into_iter()
            .find(|p| p.name() == named)
            .ok_or_else(|| SpecError::option("security_profile", named, "\"strict\" or \"go-driver\" is expected"))?;
        let go = profile == Profile::GoDriver;
        let host = |given: Option<&Vec<String>>| {
            Some(
                given
                    .cloned()
                    .unwrap_or_else(|| if go { texts(&["host"]) } else { Vec::new() }),
            )
        };
        let modes = settings.allowed_modes.clone().unwrap_or_default();
        let own = std::iter::once(&settings.containerd_runtime).chain(settings.runtimes.keys());
        Ok(Self {
            profile,
            privileged: settings.allow_privileged.unwrap_or(go),
            caps: capabilities::allowed(settings.allow_caps.as_deref(), go)?,
            runtimes: settings.allow_runtimes.clone().unwrap_or_else(|| {
                let mut names: Vec<String> = own.cloned().chain(["runc".to_owned()]).collect();
                names.sort();
                names.dedup();
                names
            }),
            modes: AllowedModes {
                pid: host(modes.pid.as_ref()),
                network: host(modes.network.as_ref()),
                ..modes
            },
            devices: settings
                .allow_devices
                .clone()
                .unwrap_or_else(|| if go { texts(&["*"]) } else { Vec::new() }),
            unconfined: match &settings.allow_unconfined {
                Some(names) => names.iter().map(|n| protection(n)).collect::<Result<_, _>>()?,
                None if go => BTreeSet::from([Protection::Seccomp, Protection::AppArmor, Protection::Selinux]),
                None => BTreeSet::new(),
            },
            volumes: settings.volumes.as_ref().and_then(|v| v.enabled).unwrap_or(go),
        })
    }

    /// `privileged = true`, in the Go driver's words.
    ///
    /// # Errors
    /// If it is not allowed.
    pub fn privileged(&self) -> Result<(), SpecError> {
        if self.privileged {
            return Ok(());
        }
        Err(SpecError::Refused {
            option: "privileged".to_owned(),
            text: "option privileged: true: Running privileged jobs are not allowed. Set allow_privileged to true in plugin config to allow running privileged jobs.".to_owned(),
        })
    }

    /// The capabilities that a task can have; `None` for all.
    #[must_use]
    pub fn caps(&self) -> Option<&BTreeSet<String>> {
        self.caps.as_ref()
    }

    /// Names of runtimes that a task can name, as patterns.
    #[must_use]
    pub fn runtimes(&self) -> &[String] {
        &self.runtimes
    }

    /// Whether host paths outside the allocation can be mounted.
    #[must_use]
    pub fn volumes(&self) -> bool {
        self.volumes
    }

    /// Namespaces of the host that a task can share, by name.
    #[must_use]
    pub fn modes(&self) -> Vec<&'static str> {
        let all = [Mode::Cgroup, Mode::Ipc, Mode::Network, Mode::Pid, Mode::Uts];
        let open = all.into_iter().filter(|mode| any(self.patterns(*mode), "host"));
        open.map(Mode::name).collect()
    }

    fn patterns(&self, mode: Mode) -> &[String] {
        let list = match mode {
            Mode::Pid => &self.modes.pid,
            Mode::Ipc => &self.modes.ipc,
            Mode::Uts => &self.modes.uts,
            Mode::Cgroup => &self.modes.cgroup,
            Mode::Network => &self.modes.network,
        };
        list.as_deref().unwrap_or_default()
    }

    /// A capability (`CAP_…`, or `ALL`) that a task asks for by this value.
    ///
    /// # Errors
    /// If it is not allowed.
    pub fn cap(&self, option: &str, value: &str, name: &str) -> Result<(), SpecError> {
        allow(
            self.caps.as_ref().is_none_or(|caps| caps.contains(name)),
            option,
            value,
            &listed("allow_caps", name),
        )
    }

    /// A runtime that a task names.
    ///
    /// # Errors
    /// If it is not allowed.
    pub fn runtime(&self, name: &str) -> Result<(), SpecError> {
        allow(
            any(&self.runtimes, name),
            "runtime",
            name,
            &listed("allow_runtimes", name),
        )
    }

    /// A namespace mode that a task names.
    ///
    /// # Errors
    /// If it is not allowed.
    pub fn mode(&self, mode: Mode, option: &str, value: &str) -> Result<(), SpecError> {
        allow(
            any(self.patterns(mode), "host"),
            option,
            value,
            &format!("allowed_modes {{ {} }} with \"host\" in it", mode.name()),
        )
    }

    /// A host device or CDI name that a task asks for.
    ///
    /// # Errors
    /// If it is not allowed.
    pub fn device(&self, option: &str, name: &str) -> Result<(), SpecError> {
        allow(any(&self.devices, name), option, name, &listed("allow_devices", name))
    }

    /// A task that does without a protection, or brings its own.
    ///
    /// # Errors
    /// If it is not allowed.
    pub fn unconfined(&self, protection: Protection, option: &str, value: &str) -> Result<(), SpecError> {
        allow(
            self.unconfined.contains(&protection),
            option,
            value,
            &listed("allow_unconfined", protection.name()),
        )
    }

    /// An annotation by which a runtime is told to do more than to run a container.
    ///
    /// # Errors
    /// If tasks may not be privileged: with it a task can become just that.
    pub fn annotation(&self, option: &str, key: &str) -> Result<(), SpecError> {
        allow(self.privileged, option, key, "allow_privileged = true")
    }

    /// A host path outside the allocation.
    ///
    /// # Errors
    /// If it is not allowed.
    pub fn host_path(&self, option: &str, path: &str) -> Result<(), SpecError> {
        allow(self.volumes, option, path, "volumes { enabled = true }")
    }
}

fn protection(name: &str) -> Result<Protection, SpecError> {
    Protection::ALL.into_iter().find(|p| p.name() == name).ok_or_else(|| {
        SpecError::option(
            "allow_unconfined",
            name,
            "seccomp, apparmor, selinux and systempaths are expected",
        )
    })
}

/// Consent by an entry of a list. Not written as `name = [entry]`: who copies that loses the rest of the list.
fn listed(setting: &str, entry: &str) -> String {
    format!("{setting} with {entry:?} in it")
}

fn allow(open: bool, option: &str, value: &str, consent: &str) -> Result<(), SpecError> {
    if open {
        return Ok(());
    }
    Err(SpecError::Refused {
        option: option.to_owned(),
        text: format!(
            "option {option}: {value:?}: not allowed on this node; the plugin setting {consent} would allow it"
        ),
    })
}

/// True if one of the patterns fits the whole text.
fn any(patterns: &[String], text: &str) -> bool {
    patterns.iter().any(|p| fits(p, text))
}

/// `*` stands for any text, all else for itself.
pub(super) fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        match rest.find(part).and_then(|at| rest.get(at + part.len()..)) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
#[path = "gates_test.rs"]
mod tests;

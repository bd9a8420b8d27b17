//! The system call filter of a container: which one, and what it says.
//!
//! | said | `strict` | `go-driver` |
//! |---|---|---|
//! | nothing | default profile, if the kernel can filter | none |
//! | `seccomp = true`, `security_opt = ["seccomp=default"]` | default profile | default profile |
//! | `seccomp = false`, `security_opt = ["seccomp=unconfined"]` | none, by consent | none |
//! | `seccomp_profile` alone | that profile, by consent | refused, in the Go driver's words |
//! | `seccomp = true` with `seccomp_profile`, or `security_opt = ["seccomp=PATH"]` | that profile, by consent | that profile |
//!
//! A privileged container has none, unless the task asks for one: as under the Go driver and Docker.

mod default;
mod profile;

use super::error::SpecError;
use super::gates::{Profile, Protection};
use super::oci::Inputs;
use super::security_opt::SecurityOpt;
use super::task::TaskSpec;
pub use profile::PROFILE_MAX;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// What is said of the filter, by whichever option.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Nothing,
    Default(&'static str),
    None(&'static str, String),
    File(&'static str, String),
}

/// Where a task's own profile is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProfileFile {
    /// A path of the host, as it is.
    Host(PathBuf),
    /// A path of the task's own directory, which the task can write: to be opened beneath `dir`, following no link.
    Beneath {
        /// The directory.
        dir: PathBuf,
        /// The path from there.
        rest: PathBuf,
    },
}

/// The file to be looked up into [`super::node::SecurityFacts::seccomp_profile`]; `None` if the task names none, or
/// one that `choose` refuses.
#[must_use]
pub fn wanted_profile(task: &TaskSpec) -> Option<ProfileFile> {
    let asked = asked(task, &SecurityOpt::of(task).ok()?).ok()?;
    let Asked::File(option, path) = asked else { return None };
    locate(task, option, &path).ok()
}

/// OCI `linux.seccomp` for a container with these capabilities; `None` for no filter.
pub(super) fn choose(
    inputs: &Inputs<'_>,
    opt: &SecurityOpt,
    caps: &BTreeSet<String>,
) -> Result<Option<Value>, SpecError> {
    let (o, facts, gates) = (&inputs.task.options, &inputs.node.security, inputs.gates);
    let asked = asked(inputs.task, opt)?;
    let go = gates.profile == Profile::GoDriver;
    let off = o.seccomp == Some(false) || (o.seccomp.is_none() && opt.seccomp.is_none() && go);
    if let Some(path) = o.seccomp_profile.as_ref().filter(|_| off) {
        let words = "seccomp must be set to true, if using a custom seccomp_profile.";
        return Err(SpecError::Refused {
            option: "seccomp_profile".to_owned(),
            text: format!("option seccomp_profile: {path:?}: {words}"),
        });
    }
    if o.privileged && matches!(asked, Asked::Nothing | Asked::None(..)) {
        return Ok(None);
    }
    let default = || default::profile(&facts.machine, facts.kernel, caps);
    let filters = |option: &str, value: &str| {
        if facts.seccomp {
            return Ok(());
        }
        Err(SpecError::option(
            option,
            value,
            "the kernel of this node has no seccomp filters (CONFIG_SECCOMP_FILTER); leave the option out",
        ))
    };
    match asked {
        Asked::Nothing if go || !facts.seccomp => Ok(None),
        Asked::Nothing => Ok(Some(default())),
        Asked::Default(option) => {
            filters(option, if option == "seccomp" { "true" } else { "seccomp=default" })?;
            Ok(Some(default()))
        }
        Asked::None(option, value) => gates.unconfined(Protection::Seccomp, option, &value).map(|()| None),
        Asked::File(option, path) => {
            gates.unconfined(Protection::Seccomp, option, &path)?;
            filters(option, &path)?;
            locate(inputs.task, option, &path)?;
            let text = match &facts.seccomp_profile {
                Some(Ok(text)) => text,
                Some(Err(reason)) => return Err(SpecError::option(option, &path, reason)),
                None => return Err(SpecError::option(option, &path, "the file was not read")),
            };
            let ground = profile::Ground {
                machine: &facts.machine,
                kernel: facts.kernel,
                caps,
            };
            profile::parse(text, ground)
                .map(Some)
                .map_err(|fault| SpecError::option(option, &path, format!("no seccomp profile: {fault}")))
        }
    }
}

/// What the options say together.
fn asked(task: &TaskSpec, opt: &SecurityOpt) -> Result<Asked, SpecError> {
    let o = &task.options;
    let contradiction = |other: &str, value: &str| {
        Err(SpecError::option(
            "security_opt",
            format!("seccomp={value}"),
            format!("it contradicts {other}; leave one of them out"),
        ))
    };
    let Some(said) = &opt.seccomp else {
        return Ok(match (o.seccomp, &o.seccomp_profile) {
            (_, Some(path)) => Asked::File("seccomp_profile", path.clone()),
            (Some(true), None) => Asked::Default("seccomp"),
            (Some(false), None) => Asked::None("seccomp", "false".to_owned()),
            (None, None) => Asked::Nothing,
        });
    };
    let asked = match said.as_str() {
        "unconfined" => Asked::None("security_opt", "seccomp=unconfined".to_owned()),
        "default" | "builtin" => Asked::Default("security_opt"),
        path => Asked::File("security_opt", path.to_owned()),
    };
    match (&asked, o.seccomp, &o.seccomp_profile) {
        (Asked::None(..), Some(true), _) => contradiction("seccomp = true", said),
        (Asked::Default(_) | Asked::File(..), Some(false), _) => contradiction("seccomp = false", said),
        (_, _, Some(path)) if path != said => contradiction(&format!("seccomp_profile = {path:?}"), said),
        _ => Ok(asked),
    }
}

fn locate(task: &TaskSpec, option: &str, path: &str) -> Result<ProfileFile, SpecError> {
    if path.is_empty() || path.contains('\0') {
        return Err(SpecError::option(
            option,
            path,
            "the path of a seccomp profile is expected",
        ));
    }
    if path.starts_with('/') {
        return Ok(ProfileFile::Host(PathBuf::from(path)));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(SpecError::option(
            option,
            path,
            "a relative path is inside the task directory, without '..'",
        ));
    }
    if !task.alloc_dir.is_absolute() || task.name.is_empty() {
        return Err(SpecError::option(
            option,
            path,
            "a relative path needs an allocation directory",
        ));
    }
    // From the allocation directory, which no task can replace; the task's own name is the first step down.
    Ok(ProfileFile::Beneath {
        dir: task.alloc_dir.clone(),
        rest: PathBuf::from(&task.name).join(path),
    })
}

#[cfg(test)]
#[path = "choice_test.rs"]
mod tests;

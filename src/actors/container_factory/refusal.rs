//! A mount that a runtime cannot make, in our words: with the option that asked for it. The runtime's own decide nothing but
//! which words these are.

use crate::messages::container::ContainerError;
use crate::messages::runtime::{ContainerdFault, FaultKind};
use crate::spec::SpecError;
use crate::spec::oci::{ContainerPlan, Expected};
use crate::spec::sysctl;
use serde_json::Value;
use std::path::Path;

/// A mount that the runtime cannot make: it names the target, but not what asked for it. `settled` as in
/// [`super::fault::task_fault`].
pub(super) fn mount_fault(plan: &ContainerPlan, fault: &ContainerdFault, settled: bool) -> Option<ContainerError> {
    let text = fault.text.as_str();
    if let Some(error) = covered(plan, text) {
        return Some(error);
    }
    if fault.kind != FaultKind::Failed || is_about_program(text) || !text.contains("mount") {
        return None;
    }
    let named = |expected: &&Expected| expected.target.to_str().is_some_and(|target| names(text, target));
    let expected = plan.expected.iter().find(named)?;
    let lower = text.to_lowercase();
    let kinds = lower.contains("not a directory") || lower.contains("is a directory");
    if !settled && !kinds {
        return None;
    }
    if settled
        && lower.contains("no such device")
        && let Some(kind) = kind_at(&mounts_of(plan), &expected.target)
    {
        let allowed = format!("bind, volume, tmpfs or a file system that this kernel has is expected: {text}");
        return Some(SpecError::option(format!("{}.type", expected.by), kind, allowed).into());
    }
    let reason = if kinds {
        format!("a file cannot be mounted over a directory, nor a directory or a file system over a file: {text}")
    } else {
        format!("it cannot be mounted: {text}")
    };
    Some(ContainerError::Host {
        what: expected.by,
        path: expected.target.display().to_string(),
        reason,
    })
}

/// A parameter that every container gets is not there any more: links in the image have led a file system in memory, which a
/// runtime makes wherever they lead, over those of the kernel.
fn covered(plan: &ContainerPlan, text: &str) -> Option<ContainerError> {
    let is_gone = |key: &str| text.contains(&format!("{}: no such file", sysctl::path(key)));
    if !sysctl::USUAL.iter().any(|(key, _)| is_gone(key)) {
        return None;
    }
    let mounts = mounts_of(plan);
    let in_memory = |expected: &&Expected| kind_at(&mounts, &expected.target) == Some("tmpfs");
    let mut targets = plan.expected.iter().filter(in_memory).peekable();
    let what = targets.peek()?.by;
    let paths: Vec<String> = targets.map(|expected| expected.target.display().to_string()).collect();
    Some(ContainerError::Host {
        what,
        path: paths.join(", "),
        reason: "links in the image lead it over /proc/sys, which is the runtime's".to_owned(),
    })
}

/// The mounts of the container's description.
fn mounts_of(plan: &ContainerPlan) -> Vec<Value> {
    let spec: Value = serde_json::from_slice(&plan.spec_json).unwrap_or_default();
    spec["mounts"].as_array().cloned().unwrap_or_default()
}

/// The file system at a target.
fn kind_at<'a>(mounts: &'a [Value], target: &Path) -> Option<&'a str> {
    let is_there = |mount: &&Value| mount["destination"].as_str().map(Path::new) == Some(target);
    mounts.iter().rev().find(is_there)?["type"].as_str()
}

/// Whether a runtime's text is about a target, and not about a source of the same name: runc has it in double quotes, crun
/// in others and without its slash.
fn names(text: &str, target: &str) -> bool {
    let bare = target.trim_start_matches('/');
    [
        format!("at \"{target}\""),
        format!("to `{target}`"),
        format!("to `{bare}`"),
    ]
    .iter()
    .any(|words| text.contains(words))
}

/// Whether the words are about the program of the task, or of the runtime: those of runc, and then those of crun.
pub(super) fn is_about_program(text: &str) -> bool {
    [
        "executable file not found",
        "exec: \"",
        "exec format error",
        "executable file `",
        "open executable",
        "exec `",
    ]
    .iter()
    .any(|words| text.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_found_in_the_words_of_both_runtimes() {
        let runc = "error mounting \"/etc\" to rootfs at \"/etc/passwd\": mount /etc:/etc/passwd: not a directory";
        assert!(names(runc, "/etc/passwd") && !names(runc, "/etc") && !names(runc, "/passwd"));
        let crun = "mount `/etc` to `etc/passwd`: Not a directory";
        assert!(names(crun, "/etc/passwd") && !names(crun, "/passwd"));
    }

    #[test]
    fn a_program_is_no_mount() {
        assert!(is_about_program("exec: \"mount\": executable file not found in $PATH"));
        assert!(is_about_program(
            "executable file `/bin/mount` not found: No such file or directory"
        ));
        assert!(is_about_program("open executable: Permission denied"));
        assert!(!is_about_program(
            "error mounting \"/etc\" to rootfs at \"/exec\": not a directory"
        ));
    }
}

//! A mount that a runtime cannot make, in our words: with the option that asked for it. The runtime's own decide nothing but
//! which words these are.

use crate::messages::container::ContainerError;
use crate::messages::runtime::{ContainerdFault, FaultKind};
use crate::spec::oci::{ContainerPlan, Expected};

/// A mount that the runtime cannot make: it names the target, but not what asked for it. `settled` as in
/// [`super::fault::task_fault`].
pub(super) fn mount_fault(plan: &ContainerPlan, fault: &ContainerdFault, settled: bool) -> Option<ContainerError> {
    let text = fault.text.as_str();
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

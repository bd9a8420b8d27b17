//! What a failure of containerd or a runtime to make or start a task means: an option of the task, its program, or neither.
//!
//! Kinds decide whether another try can help. Words decide only what the user is told; where they name an option, see
//! [`crate::spec::blame`].

use super::refusal::{is_about_program, mount_fault};
use super::remove::at;
use crate::messages::container::ContainerError;
use crate::messages::runtime::{ContainerdFault, FaultKind};
use crate::spec::SpecError;
use crate::spec::blame::blame;
use crate::spec::oci::ContainerPlan;
use crate::spec::task::TaskSpec;

/// Whether a file system can show files under other ids is known to the kernel only: containerd's introspection speaks
/// of the snapshotter in general, and the failure is told in words. `settled`: no step of an interrupted start can still be
/// under way, by which a mount may fail that would not fail again.
pub(super) fn task_fault(
    task: &TaskSpec,
    plan: &ContainerPlan,
    fault: ContainerdFault,
    settled: bool,
) -> ContainerError {
    if plan.userns.is_some() && fault.kind == FaultKind::Failed && fault.text.contains("idmapped mount") {
        let why = format!(
            "the file system with containerd's snapshots of {} cannot map ids on this kernel: {}",
            plan.snapshotter, fault.text
        );
        return SpecError::option("userns", "private", why)
            .as_written(&task.written)
            .into();
    }
    match mount_fault(plan, &fault, settled) {
        Some(error) => error,
        None => runtime_fault(task, plan, fault, "creating task"),
    }
}

/// A runtime tells only in words what it could not do. What is about an option of the task is final, also where the kernel's
/// word for it is that of a node without room: the same task fails the same way again.
pub(super) fn runtime_fault(
    task: &TaskSpec,
    plan: &ContainerPlan,
    fault: ContainerdFault,
    step: &'static str,
) -> ContainerError {
    use FaultKind as K;
    let answered = matches!(fault.kind, K::Failed | K::NotFound | K::Exhausted);
    if let Some(error) = answered.then(|| blame(task, plan, &fault.text)).flatten() {
        return error.into();
    }
    if fault.kind == K::Failed && is_about_program(&fault.text) {
        ContainerError::Command {
            option: plan.program.0,
            command: plan.program.1.clone(),
            reason: fault.text,
        }
    } else {
        at(step)(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::image::ImageFacts;
    use crate::spec::node::NodeFacts;
    use crate::spec::oci;
    use crate::spec::settings::Settings;

    fn failed(task: &TaskSpec, kind: FaultKind, text: &str) -> ContainerError {
        let plan = oci::build(
            task,
            &ImageFacts::default(),
            &NodeFacts::default(),
            &Settings::default(),
        )
        .unwrap();
        let fault = ContainerdFault {
            kind,
            operation: "create task",
            text: text.to_owned(),
        };
        task_fault(task, &plan, fault, true)
    }

    #[test]
    fn a_shortage_by_the_tasks_own_limit_is_final_and_one_of_the_node_is_not() {
        let mut task = TaskSpec {
            name: "web".to_owned(),
            ..TaskSpec::default()
        };
        task.options.command = Some("/bin/web".to_owned());
        let text = "OCI runtime create failed: open /proc/self/fd: too many open files";
        assert!(failed(&task, FaultKind::Exhausted, text).is_transient());
        task.options.ulimit.insert("nofile".to_owned(), "3".to_owned());
        let error = failed(&task, FaultKind::Exhausted, text);
        assert!(
            !error.is_transient() && error.to_string().starts_with("option ulimit.nofile: \"3\": "),
            "{error}"
        );
        assert!(failed(&task, FaultKind::Unreachable, text).is_transient());
    }

    #[test]
    fn a_program_that_is_not_there_is_the_option_that_named_it() {
        let mut task = TaskSpec {
            name: "web".to_owned(),
            ..TaskSpec::default()
        };
        task.options.command = Some("/bin/web".to_owned());
        let text = "OCI runtime create failed: runc create failed: exec: \"/bin/web\": no such file or directory";
        let error = failed(&task, FaultKind::Failed, text).to_string();
        assert!(
            error.starts_with("option command: \"/bin/web\" cannot be started"),
            "{error}"
        );
        let runtime = "OCI runtime create failed: unable to retrieve OCI runtime error: exec: \"runc\": executable file not found in $PATH";
        let error = failed(&task, FaultKind::Failed, runtime).to_string();
        assert!(error.starts_with("option containerd_runtime: "), "{error}");
    }
}

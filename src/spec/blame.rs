//! Which option of a task a runtime's complaint is about. Runtimes name neither options nor values, and what they say of a
//! limit that is the task's own reads like a shortage of the node.
//!
//! The words are those of runc 1.1 and crun 1.8, as they come through containerd.

use super::device_option::{self, Asked};
use super::error::SpecError;
use super::oci::ContainerPlan;
use super::sysctl;
use super::task::TaskSpec;
use serde_json::Value;
use std::path::Path;

/// Limits that keep a runtime from starting a process, by the words of the kernel's error: it sets them for itself before
/// it has become the task's program. Only below these values, in the units of setrlimit(2), are they to blame: runc
/// 1.1 needs 7 open files and some ten threads, and a larger limit says that it is the node that has no more.
const TIGHT: [(&str, u64, &str); 6] = [
    ("nofile", 64, "oo many open files"),
    // crun, of a cgroup that it could not read.
    ("nofile", 64, "o space left on device"),
    ("as", 256 << 20, "annot allocate memory"),
    ("data", 64 << 20, "annot allocate memory"),
    ("stack", 1 << 20, "annot allocate memory"),
    ("nproc", 64, "esource temporarily unavailable"),
];

/// Names of limits in the order of their numbers (Linux `asm-generic/resource.h`): runc tells the number.
const NUMBERS: [&str; 16] = [
    "cpu",
    "fsize",
    "data",
    "stack",
    "core",
    "rss",
    "nproc",
    "nofile",
    "memlock",
    "as",
    "locks",
    "sigpending",
    "msgqueue",
    "nice",
    "rtprio",
    "rttime",
];

/// The refusal that names the option; `None` if the words are about none of them.
#[must_use]
pub fn blame(task: &TaskSpec, plan: &ContainerPlan, words: &str) -> Option<SpecError> {
    runtime(task, plan, words)
        // What containerd says of itself is no task's fault.
        .or_else(|| words.contains("OCI runtime").then(|| of_runtime(task, plan, words))?)
        .map(|error| error.as_written(&task.written))
}

fn of_runtime(task: &TaskSpec, plan: &ContainerPlan, words: &str) -> Option<SpecError> {
    parameter(task, words)
        .or_else(|| device(task, words))
        .or_else(|| directory(task, plan, words))
        .or_else(|| limit(task, words))
        .or_else(|| memory(task, words))
        .or_else(|| weight(task, words))
}

/// A runtime that is not there: its program (the shim looks it up), or the shim itself (containerd does).
fn runtime(task: &TaskSpec, plan: &ContainerPlan, words: &str) -> Option<SpecError> {
    let no_shim = words.contains("failed to resolve runtime path") || words.contains("binary not installed");
    let no_program = plan.runtime.program().is_some_and(|program| {
        let named = words.contains(&format!("exec: \"{program}\"")) || words.contains(&format!("fork/exec {program}:"));
        // The program of the task may be called like the runtime: then only a runtime that said nothing is missing.
        named && (plan.program.1 != program || words.contains("unable to retrieve OCI runtime error"))
    });
    let missing = match (no_shim, no_program) {
        (true, _) => plan.runtime.shim(),
        (false, true) => plan.runtime.program()?.to_owned(),
        (false, false) => return None,
    };
    let (option, value) = match &task.options.runtime {
        Some(name) => ("runtime", name.as_str()),
        None => ("containerd_runtime", plan.runtime.kind.as_str()),
    };
    Some(SpecError::option(
        option,
        value,
        format!("its program {missing:?} is not on this node, where containerd looks for it: {words}"),
    ))
}

/// A kernel parameter that is not there, or not with this value.
fn parameter(task: &TaskSpec, words: &str) -> Option<SpecError> {
    let mut all = task.options.sysctl.iter();
    let (key, value) = all.find(|(key, _)| {
        let path = sysctl::path(key);
        // Not that of another parameter, which begins with this one's.
        let mut found = words.match_indices(&path);
        found.any(|(at, path)| {
            words
                .get(at + path.len()..)
                .is_some_and(|rest| !rest.starts_with(['/', '_', '-']))
        })
    })?;
    Some(SpecError::option(
        format!("sysctl.{key}"),
        value,
        format!("the kernel of this node has no such parameter or does not take this value: {words}"),
    ))
}

/// A device below what is no directory.
fn device(task: &TaskSpec, words: &str) -> Option<SpecError> {
    if !words.contains("device node") {
        return None;
    }
    let mut all = task.options.devices.iter().enumerate();
    all.find_map(|(i, option)| {
        let at = format!("devices[{i}]");
        let Ok(Asked::Host { container, .. }) = device_option::parse(&at, option) else {
            return None;
        };
        is_about(words, &container).then(|| {
            let allowed = format!("a path in the container is expected where the device can be made: {words}");
            SpecError::option(&at, &container, allowed)
        })
    })
}

/// A working directory that is none, and that the runtime cannot make. What else it makes has more words before it.
fn directory(task: &TaskSpec, plan: &ContainerPlan, words: &str) -> Option<SpecError> {
    let spec: Value = serde_json::from_slice(&plan.spec_json).ok()?;
    let cwd = spec["process"]["cwd"].as_str()?;
    let is_made = words.contains("container init: mkdir ") && is_about(words, cwd);
    let is_entered = words.contains("chdir") && words.contains(cwd) && cwd != "/";
    (is_made || is_entered).then(|| {
        let option = if task.options.cwd.is_some() { "cwd" } else { "image" };
        let allowed = format!("a working directory, or a path where one can be made, is expected: {words}");
        SpecError::option(option, cwd, allowed)
    })
}

/// True if the words are about a path or one of those above it.
fn is_about(words: &str, path: &str) -> bool {
    let above = Path::new(path).ancestors().filter_map(Path::to_str);
    above
        .take_while(|path| *path != "/")
        .any(|path| words.contains(&format!("{path}: ")))
}

/// A limit under which the runtime cannot start the process, or that it may not set.
fn limit(task: &TaskSpec, words: &str) -> Option<SpecError> {
    let given = |name: &str| {
        let mut all = task.options.ulimit.iter();
        all.find(|(given, _)| {
            let given = given.to_ascii_lowercase();
            given.strip_prefix("rlimit_").unwrap_or(&given) == name
        })
    };
    let soft = |value: &str| value.split(':').next()?.trim().parse::<u64>().ok();
    for (name, least, said) in TIGHT {
        if let Some((key, value)) = given(name).filter(|(_, value)| soft(value).is_some_and(|n| n < least))
            && words.contains(said)
        {
            let allowed = format!("a limit under which the runtime can start the process is expected: {words}");
            return Some(SpecError::option(format!("ulimit.{key}"), value, allowed));
        }
    }
    let number = words.split_once("rlimit type ").map(|(_, rest)| {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest.get(..end).unwrap_or_default()
    });
    let by_number = number.and_then(|digits| NUMBERS.get(digits.parse::<usize>().ok()?));
    let by_name = || {
        let mut all = NUMBERS.iter();
        all.find(|name| words.contains(&format!("setrlimit `RLIMIT_{}`", name.to_ascii_uppercase())))
    };
    let (key, value) = given(by_number.or_else(by_name)?)?;
    let allowed = format!("a limit that may be set on this node is expected: {words}");
    Some(SpecError::option(format!("ulimit.{key}"), value, allowed))
}

/// A limit of memory that the runtime itself is already above.
fn memory(task: &TaskSpec, words: &str) -> Option<SpecError> {
    let said = [
        "unable to set memory limit",
        "memory limit too low",
        "memory limit could be too low",
    ];
    if !said.iter().any(|said| words.contains(said)) {
        return None;
    }
    let r = &task.resources;
    let of_job = r.memory_max_mb.max(r.memory_mb);
    let (option, mib) = match task.options.memory_hard_limit {
        Some(own) if own > of_job => ("memory_hard_limit", own),
        _ if r.memory_max_mb > r.memory_mb => ("memory_max", of_job),
        _ => ("memory", of_job),
    };
    let allowed = format!("MiB, with room for the runtime that starts the process, are expected: {words}");
    Some(SpecError::option(option, mib, allowed))
}

/// A share of a disk's time where the node's kernel or its disks have none.
fn weight(task: &TaskSpec, words: &str) -> Option<SpecError> {
    let files = ["blkio.weight", "blkio.bfq.weight", "io.weight", "io.bfq.weight"];
    let missing = ["o such file", "ermission denied", "not supported"];
    let is_about = files.iter().any(|file| words.contains(file)) && missing.iter().any(|said| words.contains(said));
    let asked = task.options.blkio_weight.filter(|_| is_about)?;
    let allowed =
        format!("the kernel of this node has no weights for block devices, or none that the runtime knows: {words}");
    Some(SpecError::option("blkio_weight", asked, allowed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::image::ImageFacts;
    use crate::spec::node::NodeFacts;
    use crate::spec::oci;
    use crate::spec::options::{DeviceOption, TaskOptions};
    use crate::spec::settings::Settings;
    use proptest::prelude::*;

    fn planned(options: TaskOptions) -> (TaskSpec, ContainerPlan) {
        let mut task = TaskSpec {
            name: "web".to_owned(),
            options,
            ..TaskSpec::default()
        };
        task.options.entrypoint.0 = vec!["/bin/web".to_owned()];
        task.resources.memory_mb = 16;
        let mut settings = Settings {
            allow_runtimes: Some(vec!["*".to_owned()]),
            ..Settings::default()
        };
        let dev = "io.containerd.runc.v2 /opt/nope".to_owned();
        settings.runtimes.insert("dev".to_owned(), dev);
        let node = NodeFacts::obliging(&task);
        let plan = oci::build(&task, &ImageFacts::default(), &node, &settings).unwrap();
        (task, plan)
    }

    fn said(options: TaskOptions, words: &str) -> String {
        let (task, plan) = planned(options);
        blame(&task, &plan, words).map_or("nothing".to_owned(), |e| e.to_string())
    }

    fn runtime(name: &str) -> TaskOptions {
        TaskOptions {
            runtime: Some(name.to_owned()),
            ..TaskOptions::default()
        }
    }

    fn ulimit(name: &str, value: &str) -> TaskOptions {
        TaskOptions {
            ulimit: [(name.to_owned(), value.to_owned())].into(),
            ..TaskOptions::default()
        }
    }

    fn sysctl(key: &str, value: &str) -> TaskOptions {
        TaskOptions {
            sysctl: [(key.to_owned(), value.to_owned())].into(),
            ..TaskOptions::default()
        }
    }

    const NO_CRUN: &str = "failed to create shim task: OCI runtime create failed: unable to retrieve OCI runtime error (open /run/x/log.json: no such file or directory): exec: \"crun\": executable file not found in $PATH: unknown";
    const NO_FILES: &str = "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: error closing exec fds: open /proc/self/fd: too many open files: unknown";

    #[test]
    fn a_runtime_that_is_not_there_is_named_and_not_the_command() {
        assert!(said(runtime("crun"), NO_CRUN).starts_with("option runtime: \"crun\": its program \"crun\" is not on"));
        let text = NO_CRUN.replace("exec: \"crun\"", "fork/exec /opt/nope");
        assert!(said(runtime("dev"), &text).starts_with("option runtime: \"dev\": its program \"/opt/nope\""));
        let shim = "failed to start shim: failed to resolve runtime path: runtime \"io.containerd.kata.v2\" binary not installed \"containerd-shim-kata-v2\": file does not exist: unknown";
        let text = said(runtime("kata"), shim);
        assert!(
            text.starts_with("option runtime: \"kata\": its program \"containerd-shim-kata-v2\""),
            "{text}"
        );
        let runc = NO_CRUN.replace("\"crun\"", "\"runc\"");
        let text = said(TaskOptions::default(), &runc);
        assert!(
            text.starts_with("option containerd_runtime: \"io.containerd.runc.v2\": "),
            "{text}"
        );
        let command = "OCI runtime create failed: runc create failed: unable to start container process: exec: \"/bin/web\": stat /bin/web: no such file or directory: unknown";
        assert_eq!(said(runtime("crun"), command), "nothing");
    }

    #[test]
    fn a_command_that_is_called_like_the_runtime_is_not_the_runtime() {
        let (mut task, mut plan) = planned(runtime("crun"));
        plan.program = ("command", "crun".to_owned());
        task.options.command = Some("crun".to_owned());
        let words = "OCI runtime create failed: crun create failed: exec: \"crun\": executable file not found in $PATH";
        assert_eq!(blame(&task, &plan, words), None);
        assert!(blame(&task, &plan, NO_CRUN).is_some());
    }

    #[test]
    fn a_limit_that_is_too_tight_is_the_tasks() {
        assert!(said(ulimit("nofile", "3"), NO_FILES).starts_with("option ulimit.nofile: \"3\": a limit under which"));
        assert!(said(ulimit("RLIMIT_NOFILE", "0:3"), NO_FILES).starts_with("option ulimit.RLIMIT_NOFILE: \"0:3\""));
        let crun = "OCI runtime create failed: error opening file `/proc/self/setgroups`: Too many open files: unknown";
        assert!(said(ulimit("nofile", "3"), crun).starts_with("option ulimit.nofile"));
        // A node without room, and containerd itself without room.
        assert_eq!(said(ulimit("nofile", "65536"), NO_FILES), "nothing");
        assert_eq!(said(TaskOptions::default(), NO_FILES), "nothing");
        assert_eq!(
            said(ulimit("nofile", "3"), "mkdir /run/x: too many open files"),
            "nothing"
        );
        let memory = "OCI runtime create failed: fork/exec: cannot allocate memory";
        assert!(said(ulimit("as", "4096"), memory).starts_with("option ulimit.as"));
        assert_eq!(said(ulimit("nofile", "3"), memory), "nothing");
        let threads = "OCI runtime create failed: fork/exec /proc/self/fd/6: resource temporarily unavailable: unknown";
        assert!(said(ulimit("nproc", "1"), threads).starts_with("option ulimit.nproc: \"1\": "));
        for plenty in ["64", "65536", "unlimited", "-1"] {
            assert_eq!(said(ulimit("nproc", plenty), threads), "nothing", "{plenty}");
        }
    }

    #[test]
    fn a_limit_that_may_not_be_set_is_named_by_number_and_by_name() {
        let runc = "OCI runtime create failed: runc create failed: unable to start container process: error setting rlimits for ready process: error setting rlimit type 8: operation not permitted";
        let crun = "OCI runtime create failed: setrlimit `RLIMIT_MEMLOCK`: Operation not permitted";
        for words in [runc, crun] {
            let text = said(ulimit("memlock", "-1"), words);
            assert!(
                text.starts_with("option ulimit.memlock: \"-1\": a limit that may be set"),
                "{text}"
            );
            assert_eq!(said(ulimit("core", "0"), words), "nothing");
        }
    }

    #[test]
    fn a_kernel_parameter_is_named_with_its_value() {
        let words = |path: &str| {
            format!(
                "OCI runtime create failed: runc create failed: error during container init: open {path}: no such file or directory"
            )
        };
        let nope = words("/proc/sys/net/core/nope");
        for key in ["net.core.nope", "net/core/nope"] {
            let text = said(sysctl(key, "1"), &nope);
            assert!(text.starts_with(&format!("option sysctl.{key}: \"1\": ")), "{text}");
        }
        assert_eq!(
            said(sysctl("net.core.nop", "1"), &words("/proc/sys/net/core/nop_e")),
            "nothing"
        );
        let bad = nope.replace("nope: no such file or directory", "somaxconn: invalid argument");
        assert!(
            said(sysctl("net.core.somaxconn", "abc"), &bad).starts_with("option sysctl.net.core.somaxconn: \"abc\"")
        );
    }

    #[test]
    fn a_directory_that_cannot_be_is_named() {
        let cwd = |path: &str| TaskOptions {
            cwd: Some(path.to_owned()),
            ..TaskOptions::default()
        };
        let made = "OCI runtime create failed: runc create failed: unable to start container process: error during container init: mkdir /etc/passwd: not a directory";
        let entered = "OCI runtime create failed: runc create failed: unable to start container process: error during container init: chdir to cwd (\"/etc/passwd\") set in config.json failed: not a directory";
        for words in [made, entered] {
            let text = said(cwd("/etc/passwd"), words);
            assert!(
                text.starts_with("option cwd: \"/etc/passwd\": a working directory"),
                "{text}"
            );
        }
        assert!(said(cwd("/etc/passwd/x/y"), made).starts_with("option cwd: \"/etc/passwd/x/y\": "));
        for other in ["/", "/etc", "/etc/passw", "/etc/passwd2"] {
            assert_eq!(said(cwd(other), made), "nothing", "{other}");
        }
        let (task, mut plan) = planned(TaskOptions::default());
        plan.spec_json = br#"{"process":{"cwd":"/etc/passwd"}}"#.to_vec();
        let text = blame(&task, &plan, made).unwrap().to_string();
        assert!(text.starts_with("option image: \"/etc/passwd\": "), "{text}");
    }

    #[test]
    fn a_device_that_cannot_be_made_is_named() {
        let device = |path: &str| DeviceOption {
            host_path: "/dev/fuse".to_owned(),
            container_path: Some(path.to_owned()),
            ..DeviceOption::default()
        };
        let (mut task, plan) = planned(TaskOptions::default());
        task.options.devices = vec![device("/dev/x"), device("/etc/passwd/x")];
        let words = "OCI runtime create failed: runc create failed: unable to start container process: error during container init: error creating device nodes: mkdir /run/c/web/rootfs/etc/passwd: not a directory";
        let text = blame(&task, &plan, words).unwrap().to_string();
        assert!(
            text.starts_with("option devices[1]: \"/etc/passwd/x\": a path"),
            "{text}"
        );
        task.options.devices.pop();
        assert_eq!(blame(&task, &plan, words), None);
    }

    #[test]
    fn too_little_memory_is_named_by_the_limit_that_counts() {
        let words = "OCI runtime create failed: runc create failed: unable to start container process: container init was OOM-killed (memory limit too low?): unknown";
        assert!(said(TaskOptions::default(), words).starts_with("option memory: 16: MiB, with room"));
        let own = TaskOptions {
            memory_hard_limit: Some(20),
            ..TaskOptions::default()
        };
        assert!(said(own, words).starts_with("option memory_hard_limit: 20: "));
    }

    proptest! {
        #[test]
        fn any_words_are_answered(words in "(OCI runtime|rlimit type |[0-9]{1,20}|/proc/sys/net/a|too many open files|\\PC){0,6}") {
            said(ulimit("nofile", "1"), &words);
            said(sysctl("net.a", "1"), &words);
        }
    }
}

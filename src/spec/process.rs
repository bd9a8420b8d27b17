//! What is run: argument vector, working directory, annotations.
//!
//! The rules for `command`, `entrypoint` and `args` are the Go driver's; note that `command` comes after the image's
//! ENTRYPOINT, and that an empty `entrypoint` counts as not given, on which that driver fell over. Both together, which it
//! refused, are as in Nomad's Docker and Podman drivers: the one after the other. One of a single empty word is none, as in
//! Docker: in a job it takes away the image's, and the CMD that is made for that.

use super::error::SpecError;
use super::image::ImageFacts;
use super::oci::Inputs;
use super::path;
use super::task::TaskSpec;
use std::collections::BTreeMap;

/// Most bytes of one argument, or of one variable with its name, without its end (`MAX_ARG_STRLEN`, `include/uapi/linux/binfmts.h`,
/// with pages of 4 KiB).
pub(super) const STRING_MAX: usize = (32 << 12) - 1;

/// The beginning of a text that is too long to be shown.
pub(super) fn brief(text: &str) -> String {
    match text.char_indices().nth(64) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// The argument vector, and which option named the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Argv {
    pub(super) option: &'static str,
    pub(super) argv: Vec<String>,
}

/// An ENTRYPOINT of a single empty word, with which Docker has none.
fn is_none(entrypoint: &[String]) -> bool {
    matches!(entrypoint, [word] if word.is_empty())
}

/// Puts the argument vector together.
pub(super) fn argv(task: &TaskSpec, image: &ImageFacts) -> Result<Argv, SpecError> {
    let o = &task.options;
    let entrypoint = &o.entrypoint.0;
    let of_image = if is_none(&image.entrypoint) {
        &[]
    } else {
        image.entrypoint.as_slice()
    };
    let (option, argv): (&'static str, Vec<String>) = match (&o.command, entrypoint.is_empty()) {
        (command, false) if is_none(entrypoint) => {
            let named = if command.is_some() { "command" } else { "args" };
            let argv: Vec<String> = command.iter().chain(&o.args).cloned().collect();
            if argv.is_empty() {
                let allowed = "nothing to run: without the image's ENTRYPOINT and CMD, command or args is expected";
                return Err(SpecError::option("entrypoint", entrypoint, allowed));
            }
            (named, argv)
        }
        (command, false) => {
            let command: Vec<String> = command.iter().cloned().collect();
            (
                "entrypoint",
                [entrypoint, &command, &o.args].map(Vec::as_slice).concat(),
            )
        }
        (Some(command), true) => {
            let named = if of_image.is_empty() { "command" } else { "image" };
            (named, [of_image, std::slice::from_ref(command), &o.args].concat())
        }
        (None, true) if o.args.is_empty() => ("image", [of_image, &image.cmd].concat()),
        (None, true) => {
            let named = if of_image.is_empty() { "args" } else { "image" };
            (named, [of_image, &o.args].concat())
        }
    };
    match argv.first() {
        None => Err(SpecError::option(
            "command",
            "",
            "nothing to run: the image has neither ENTRYPOINT nor CMD, set command or entrypoint",
        )),
        Some(program) if program.is_empty() => {
            Err(SpecError::option(option, "", "the program to run has an empty name"))
        }
        Some(_) if argv.iter().any(|a| a.contains('\0')) => {
            Err(SpecError::option(option, &argv, "arguments without NUL are expected"))
        }
        Some(_) => match argv.iter().find(|a| a.len() > STRING_MAX) {
            Some(long) => {
                let allowed =
                    format!("arguments of at most {STRING_MAX} bytes are expected, which is what the kernel takes");
                Err(SpecError::option(option, brief(long), allowed))
            }
            None => Ok(Argv { option, argv }),
        },
    }
}

/// The working directory. In `/proc` there are descriptors of the runtime's among the directories, by which a process could
/// stay outside of its root (CVE-2024-21626).
pub(super) fn cwd(task: &TaskSpec, image: &ImageFacts) -> Result<String, SpecError> {
    let cwd = named_cwd(task, image)?;
    if path::leads_into(&cwd, "/proc") {
        let option = if task.options.cwd.is_some() { "cwd" } else { "image" };
        return Err(SpecError::option(
            option,
            &cwd,
            "a working directory outside /proc is expected",
        ));
    }
    Ok(cwd)
}

fn named_cwd(task: &TaskSpec, image: &ImageFacts) -> Result<String, SpecError> {
    match &task.options.cwd {
        Some(cwd) if !cwd.starts_with('/') || cwd.contains('\0') => {
            Err(SpecError::option("cwd", cwd, "an absolute path is expected"))
        }
        Some(cwd) => Ok(cwd.clone()),
        None if image.working_dir.contains('\0') => Err(SpecError::option(
            "image",
            &image.working_dir,
            "a WORKDIR without NUL is expected",
        )),
        None if image.working_dir.starts_with('/') => Ok(image.working_dir.clone()),
        None => Ok(format!("/{}", image.working_dir)),
    }
}

/// Beginnings of annotations by which a runtime is told to do more than to run a container: properties of systemd units
/// (runc, crun), plugins and handlers (crun), hypervisors (Kata), the sandbox (gVisor), devices (CDI, by
/// NVIDIA's runtime).
const RUNTIMES: [&str; 6] = [
    "org.systemd.property.",
    "run.oci.",
    "io.katacontainers.",
    "dev.gvisor.",
    "io.kubernetes.cri",
    "cdi.k8s.io/",
];

/// OCI `annotations`.
pub(super) fn annotations(inputs: &Inputs<'_>) -> Result<BTreeMap<String, String>, SpecError> {
    const OPTION: &str = "annotations";
    let all = &inputs.task.options.annotations;
    for (key, value) in all {
        if key.trim().is_empty() || key.contains('\0') || value.contains('\0') {
            let text = "a key that is not empty and a value, both without NUL, are expected";
            return Err(SpecError::option(OPTION, key, text));
        }
        if ["io.containerd.", "containerd-driver/"]
            .iter()
            .any(|own| key.starts_with(own))
        {
            return Err(SpecError::option(
                OPTION,
                key,
                "this name is containerd's or the driver's own",
            ));
        }
        if RUNTIMES.iter().any(|own| key.starts_with(own)) {
            inputs.gates.annotation(OPTION, key)?;
        }
    }
    Ok(all.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_would_refuse_for_its_length_is_refused_by_name() {
        let with = |n: usize| {
            let mut task = TaskSpec::default();
            task.options.command = Some("sh".to_owned());
            task.options.args = vec!["x".repeat(n)];
            argv(&task, &ImageFacts::default()).map_err(|e| e.to_string())
        };
        assert!(with(STRING_MAX).is_ok());
        let text = with(STRING_MAX + 1).unwrap_err();
        assert!(
            text.starts_with("option command: \"xxx") && text.contains("131071") && text.len() < 300,
            "{text}"
        );
        let mut task = TaskSpec::default();
        task.env.insert("LONG".to_owned(), "x".repeat(STRING_MAX));
        let text = super::super::env::build(&task, &ImageFacts::default(), "")
            .unwrap_err()
            .to_string();
        assert!(text.starts_with("option env: \"LONG\"") && text.len() < 300, "{text}");
    }
    use crate::spec::gates::Gates;
    use crate::spec::node::NodeFacts;
    use crate::spec::options::{Entrypoint, TaskOptions};
    use crate::spec::settings::Settings;

    fn s(list: &[&str]) -> Vec<String> {
        list.iter().map(|t| (*t).to_owned()).collect()
    }

    fn run(
        ep: &[&str],
        cmd: &[&str],
        command: Option<&str>,
        entrypoint: &[&str],
        args: &[&str],
    ) -> Result<Argv, SpecError> {
        let image = ImageFacts {
            entrypoint: s(ep),
            cmd: s(cmd),
            ..ImageFacts::default()
        };
        let options = TaskOptions {
            command: command.map(ToOwned::to_owned),
            entrypoint: Entrypoint(s(entrypoint)),
            args: s(args),
            ..TaskOptions::default()
        };
        argv(
            &TaskSpec {
                options,
                ..TaskSpec::default()
            },
            &image,
        )
    }

    #[test]
    fn argv_follows_the_table() {
        type Case<'a> = (
            &'a [&'a str],
            &'a [&'a str],
            Option<&'a str>,
            &'a [&'a str],
            &'a [&'a str],
            &'a str,
            &'a [&'a str],
        );
        let cases: [Case<'_>; 16] = [
            (&["E"], &["C"], None, &[], &[], "image", &["E", "C"]),
            (&[], &["C", "c"], None, &[], &[], "image", &["C", "c"]),
            (&["E"], &["C"], None, &[], &["a"], "image", &["E", "a"]),
            (&[], &["C"], None, &[], &["a", "b"], "args", &["a", "b"]),
            (&["E"], &["C"], Some("x"), &[], &["a"], "image", &["E", "x", "a"]),
            (&[], &["C"], Some("x"), &[], &[], "command", &["x"]),
            (&["E"], &["C"], None, &["n"], &["a"], "entrypoint", &["n", "a"]),
            (&["E"], &["C"], None, &["n", "m"], &[], "entrypoint", &["n", "m"]),
            (
                &["E"],
                &["C"],
                Some("x"),
                &["n", "m"],
                &[],
                "entrypoint",
                &["n", "m", "x"],
            ),
            (&[], &["C"], Some("x"), &["n"], &["a"], "entrypoint", &["n", "x", "a"]),
            (&["E"], &["C"], Some("x"), &[""], &["a"], "command", &["x", "a"]),
            (&["E"], &["C"], None, &[""], &["a", "b"], "args", &["a", "b"]),
            (&[""], &["C"], None, &[], &[], "image", &["C"]),
            (&[""], &["C"], Some("x"), &[], &["a"], "command", &["x", "a"]),
            (&[""], &["C"], None, &[], &["a"], "args", &["a"]),
            (&["", "E"], &[], Some("x"), &["n"], &[], "entrypoint", &["n", "x"]),
        ];
        for (ep, cmd, command, entrypoint, args, option, want) in cases {
            let got = run(ep, cmd, command, entrypoint, args).unwrap();
            assert_eq!((got.option, got.argv), (option, s(want)));
        }
    }

    #[test]
    fn nothing_to_run_is_an_error_that_says_what_to_set() {
        let text = run(&[], &[], None, &[], &[]).unwrap_err().to_string();
        assert!(text.contains("set command or entrypoint"), "{text}");
        let text = run(&["E"], &["C"], None, &[""], &[]).unwrap_err().to_string();
        assert!(text.starts_with("option entrypoint: [\"\"]: nothing to run"), "{text}");
        assert!(run(&["E"], &["C"], None, &["", "x"], &[]).is_err());
    }

    #[test]
    fn cwd_is_option_then_image_then_root() {
        for (option, image, want) in [
            (Some("/o"), "/i", Some("/o")),
            (None, "/i", Some("/i")),
            (None, "srv", Some("/srv")),
            (None, "", Some("/")),
            (Some("rel"), "", None),
            (Some("/proc"), "", None),
            (Some("/proc/self/fd/7"), "/", None),
            (Some("//x/..//proc/./1"), "/", None),
            (None, "proc/self/fd/7", None),
            (Some("/process"), "", Some("/process")),
            (Some("/proc/../srv"), "", Some("/proc/../srv")),
            (Some("/proc/self/cwd/../x"), "", None),
        ] {
            let task = TaskSpec {
                options: TaskOptions {
                    cwd: option.map(ToOwned::to_owned),
                    ..TaskOptions::default()
                },
                ..TaskSpec::default()
            };
            let image = ImageFacts {
                working_dir: image.to_owned(),
                ..ImageFacts::default()
            };
            assert_eq!(cwd(&task, &image).ok().as_deref(), want);
        }
    }

    #[test]
    fn annotations_that_drive_a_runtime_need_consent() {
        let with = |key: &str, settings: &Settings| {
            let mut task = TaskSpec::default();
            task.options.annotations.insert(key.to_owned(), "v".to_owned());
            annotations(&Inputs {
                task: &task,
                image: &ImageFacts::default(),
                node: &NodeFacts::default(),
                settings,
                gates: &Gates::of(settings).unwrap(),
            })
            .map_err(|e| e.to_string())
        };
        let (closed, open) = (Settings::default(), Settings::go_driver());
        assert_eq!(with("a.b/c", &closed).unwrap()["a.b/c"], "v");
        for key in ["org.systemd.property.DeviceAllow", "run.oci.seccomp.plugins"] {
            assert!(
                with(key, &closed).unwrap_err().contains("allow_privileged = true"),
                "{key}"
            );
            assert!(with(key, &open).is_ok(), "{key}");
        }
        for key in ["", " ", "a\0", "io.containerd.x", "containerd-driver/x"] {
            assert!(with(key, &open).unwrap_err().contains("annotations"), "{key:?}");
        }
    }

    #[test]
    fn nul_is_refused_in_every_part() {
        assert!(run(&[], &[], Some("a\0"), &[], &[]).is_err());
        assert!(run(&["e\0"], &[], None, &[], &[]).is_err());
        assert!(run(&[], &[], Some("a"), &[], &["b\0"]).is_err());
        assert!(run(&[], &[], None, &[""], &[]).is_err());
    }
}

//! What is run: argument vector, working directory, annotations.
//!
//! The rules for `command`, `entrypoint` and `args` are the Go driver's; note that `command` comes after the image's
//! ENTRYPOINT, and that an empty `entrypoint` counts as not given, on which that driver fell over. Both together, which it
//! refused, are as in Nomad's Docker and Podman drivers: the one after the other.

use super::error::SpecError;
use super::image::ImageFacts;
use super::oci::Inputs;
use super::task::TaskSpec;
use std::collections::BTreeMap;

/// The argument vector, and which option named the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Argv {
    pub(super) option: &'static str,
    pub(super) argv: Vec<String>,
}

/// Puts the argument vector together.
pub(super) fn argv(task: &TaskSpec, image: &ImageFacts) -> Result<Argv, SpecError> {
    let o = &task.options;
    let entrypoint = &o.entrypoint.0;
    let (option, argv): (&'static str, Vec<String>) = match (&o.command, entrypoint.is_empty()) {
        (command, false) => {
            let command: Vec<String> = command.iter().cloned().collect();
            (
                "entrypoint",
                [entrypoint, &command, &o.args].map(Vec::as_slice).concat(),
            )
        }
        (Some(command), true) => {
            let named = if image.entrypoint.is_empty() {
                "command"
            } else {
                "image"
            };
            (
                named,
                [&image.entrypoint[..], std::slice::from_ref(command), &o.args].concat(),
            )
        }
        (None, true) if o.args.is_empty() => ("image", [&image.entrypoint[..], &image.cmd].concat()),
        (None, true) => {
            let named = if image.entrypoint.is_empty() { "args" } else { "image" };
            (named, [&image.entrypoint[..], &o.args].concat())
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
        Some(_) => Ok(Argv { option, argv }),
    }
}

/// The working directory.
pub(super) fn cwd(task: &TaskSpec, image: &ImageFacts) -> Result<String, SpecError> {
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
        let cases: [Case<'_>; 10] = [
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
    }

    #[test]
    fn cwd_is_option_then_image_then_root() {
        for (option, image, want) in [
            (Some("/o"), "/i", Some("/o")),
            (None, "/i", Some("/i")),
            (None, "srv", Some("/srv")),
            (None, "", Some("/")),
            (Some("rel"), "", None),
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

//! What is run: argument vector, working directory, limits.
//!
//! The rules for `command`, `entrypoint` and `args` are the Go driver's; note that `command` comes after the image's
//! ENTRYPOINT.

use super::error::SpecError;
use super::image::ImageFacts;
use super::node::NodeFacts;
use super::task::TaskSpec;
use serde_json::{Value, json};

/// Most open files of a process, as Docker and systemd give; the runtime's default of 1024 is too low for servers.
const NOFILE: u64 = 1_048_576;

/// The argument vector, and which option named the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Argv {
    pub(super) option: &'static str,
    pub(super) argv: Vec<String>,
}

/// Puts the argument vector together.
pub(super) fn argv(task: &TaskSpec, image: &ImageFacts) -> Result<Argv, SpecError> {
    let o = &task.options;
    let (option, argv): (&'static str, Vec<String>) = match (&o.command, o.entrypoint.is_empty()) {
        (Some(_), false) => {
            return Err(SpecError::Refused {
                option: "command".to_owned(),
                text: "Both command and entrypoint are set. Only one of them needs to be set.".to_owned(),
            });
        }
        (None, false) => ("entrypoint", [&o.entrypoint[..], &o.args].concat()),
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
        None if image.working_dir.starts_with('/') => Ok(image.working_dir.clone()),
        None => Ok(format!("/{}", image.working_dir)),
    }
}

/// Limits of the process.
pub(super) fn rlimits(node: &NodeFacts) -> Value {
    let nofile = if node.nofile_limit == 0 {
        NOFILE
    } else {
        NOFILE.min(node.nofile_limit)
    };
    json!([{"type": "RLIMIT_NOFILE", "soft": nofile, "hard": nofile}])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::options::TaskOptions;

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
            entrypoint: s(entrypoint),
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
        let cases: [Case<'_>; 8] = [
            (&["E"], &["C"], None, &[], &[], "image", &["E", "C"]),
            (&[], &["C", "c"], None, &[], &[], "image", &["C", "c"]),
            (&["E"], &["C"], None, &[], &["a"], "image", &["E", "a"]),
            (&[], &["C"], None, &[], &["a", "b"], "args", &["a", "b"]),
            (&["E"], &["C"], Some("x"), &[], &["a"], "image", &["E", "x", "a"]),
            (&[], &["C"], Some("x"), &[], &[], "command", &["x"]),
            (&["E"], &["C"], None, &["n"], &["a"], "entrypoint", &["n", "a"]),
            (&["E"], &["C"], None, &["n", "m"], &[], "entrypoint", &["n", "m"]),
        ];
        for (ep, cmd, command, entrypoint, args, option, want) in cases {
            let got = run(ep, cmd, command, entrypoint, args).unwrap();
            assert_eq!((got.option, got.argv), (option, s(want)));
        }
    }

    #[test]
    fn command_with_entrypoint_is_refused_in_the_go_drivers_words() {
        let text = run(&[], &[], Some("x"), &["y"], &[]).unwrap_err().to_string();
        assert_eq!(
            text,
            "Both command and entrypoint are set. Only one of them needs to be set."
        );
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
    fn open_files_are_bounded_by_the_node() {
        for (node, want) in [(0, NOFILE), (4096, 4096), (u64::MAX, NOFILE)] {
            let limits = rlimits(&NodeFacts {
                nofile_limit: node,
                ..NodeFacts::default()
            });
            assert_eq!(limits[0]["hard"], want);
            assert_eq!(limits[0]["soft"], want);
        }
    }
}

//! The `init` option: a small program of the node as process 1, which reaps orphans and passes signals on.

use super::error::SpecError;
use super::oci::Inputs;
use super::settings::Settings;
use super::task::TaskSpec;
use std::path::{Path, PathBuf};

/// Where the program is in the container; Docker puts it in `/sbin`, which an image may not have.
pub(super) const TARGET: &str = "/dev/init";

/// The directory that it is made in.
pub(super) const DIR: &str = "/dev";

/// Where packages of such programs put them, in the order in which they are tried.
const KNOWN: [&str; 5] = [
    "/usr/bin/tini-static",
    "/usr/bin/docker-init",
    "/usr/libexec/docker/docker-init",
    "/usr/libexec/podman/catatonit",
    "/usr/bin/catatonit",
];

/// Paths on the host to look for the program of this task: the first one that exists is
/// [`NodeFacts::init_program`](super::node::NodeFacts::init_program).
#[must_use]
pub fn candidates(task: &TaskSpec, settings: &Settings) -> Vec<PathBuf> {
    match own(task).or(settings.init_path.as_deref()) {
        Some(path) => vec![PathBuf::from(path)],
        None => KNOWN.map(PathBuf::from).to_vec(),
    }
}

/// The task's own `init_path`.
fn own(task: &TaskSpec) -> Option<&str> {
    task.options.init_path.as_deref().filter(|path| !path.is_empty())
}

/// The program on the host, if the task wants one.
pub(super) fn program<'a>(inputs: &Inputs<'a>) -> Result<Option<&'a Path>, SpecError> {
    const PATH: &str = "init_path";
    let o = &inputs.task.options;
    let own = own(inputs.task);
    match own {
        Some(path) if !o.init => {
            let text = "only together with init = true, which asks for an init program";
            return Err(SpecError::option(PATH, path, text));
        }
        Some(path) if !path.starts_with('/') || path.contains('\0') => {
            return Err(SpecError::option(
                PATH,
                path,
                "an absolute path on the host is expected",
            ));
        }
        Some(path) => inputs.gates.host_path(PATH, path)?,
        None if !o.init => return Ok(None),
        None => {}
    }
    if let Some(mode) = o.pid_mode.as_deref().filter(|m| m.eq_ignore_ascii_case("host")) {
        let text = "with pid_mode = \"host\" the init program would not be process 1; leave one of them out";
        return Err(SpecError::option("init", mode, text));
    }
    let given = inputs.settings.init_path.as_deref();
    match (inputs.node.init_program.as_deref(), own, given) {
        (Some(found), ..) => Ok(Some(found)),
        (None, Some(path), _) => Err(SpecError::option(PATH, path, "there is no such program on this node")),
        (None, None, Some(path)) => {
            let text = format!("init_path = {path:?} of the plugin configuration is no program on this node");
            Err(SpecError::option("init", true, text))
        }
        (None, None, None) => {
            let text = "this node has no init program (tini-static, docker-init or catatonit); install one, or name one as init_path in the plugin configuration";
            Err(SpecError::option("init", true, text))
        }
    }
}

/// Refuses it where something else than the runtime's own `/dev` is mounted, by what asked for that: the runtime would make a
/// file for the program in there, for CSI plugins in the `/dev` of the host.
pub(super) fn has_place(taken: Option<&str>) -> Result<(), SpecError> {
    let Some(by) = taken else { return Ok(()) };
    let text = format!(
        "{by} mounts over /dev, where the init program would be made a file; leave init out, as a task with another /dev \
         (every CSI plugin has the host's) must"
    );
    Err(SpecError::option("init", true, text))
}

/// The argument vector with the program before it. `--` ends its own options.
pub(super) fn wrap(argv: Vec<String>) -> Vec<String> {
    [TARGET.to_owned(), "--".to_owned()].into_iter().chain(argv).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::gates::Gates;
    use crate::spec::image::ImageFacts;
    use crate::spec::node::NodeFacts;

    fn found(init: bool, pid_mode: Option<&str>, path: Option<&str>, fact: Option<&str>) -> Result<bool, String> {
        let mut task = TaskSpec::default();
        task.options.init = init;
        task.options.pid_mode = pid_mode.map(ToOwned::to_owned);
        let settings = Settings {
            init_path: path.map(ToOwned::to_owned),
            ..Settings::default()
        };
        let inputs = Inputs {
            task: &task,
            image: &ImageFacts::default(),
            node: &NodeFacts {
                init_program: fact.map(PathBuf::from),
                ..NodeFacts::default()
            },
            settings: &settings,
            gates: &Gates::of(&settings).unwrap(),
        };
        program(&inputs).map(|p| p.is_some()).map_err(|e| e.to_string())
    }

    #[test]
    fn a_program_is_wanted_only_with_the_option_and_must_be_there() {
        assert_eq!(found(false, None, None, Some("/t")), Ok(false));
        assert_eq!(found(true, None, None, Some("/t")), Ok(true));
        assert!(
            found(true, None, None, None)
                .unwrap_err()
                .contains("name one as init_path")
        );
        assert!(found(true, None, Some("/x"), None).unwrap_err().contains("\"/x\""));
        assert!(
            found(true, Some("Host"), None, Some("/t"))
                .unwrap_err()
                .contains("pid_mode")
        );
    }

    #[test]
    fn no_file_is_made_in_another_dev() {
        assert_eq!(has_place(None), Ok(()));
        let text = has_place(Some("volume_mount")).unwrap_err().to_string();
        assert!(
            text.starts_with("option init: true: volume_mount mounts over /dev"),
            "{text}"
        );
    }

    #[test]
    fn a_tasks_own_program_needs_init_and_the_consent_for_host_paths() {
        let with = |init: bool, path: &str, settings: &Settings, fact: Option<&str>| {
            let mut task = TaskSpec::default();
            (task.options.init, task.options.init_path) = (init, Some(path.to_owned()));
            let inputs = Inputs {
                task: &task,
                image: &ImageFacts::default(),
                node: &NodeFacts {
                    init_program: fact.map(PathBuf::from),
                    ..NodeFacts::default()
                },
                settings,
                gates: &Gates::of(settings).unwrap(),
            };
            program(&inputs).map(|p| p.is_some()).map_err(|e| e.to_string())
        };
        let (strict, open) = (Settings::default(), Settings::go_driver());
        assert_eq!(with(true, "/t", &open, Some("/t")), Ok(true));
        for (init, path, settings, fact, want) in [
            (true, "/t", &strict, Some("/t"), "volumes { enabled = true }"),
            (false, "/t", &open, Some("/t"), "init = true"),
            (true, "t", &open, Some("/t"), "absolute path"),
            (true, "/t", &open, None, "no such program"),
        ] {
            let text = with(init, path, settings, fact).unwrap_err();
            assert!(
                text.starts_with(&format!("option init_path: {path:?}: ")) && text.contains(want),
                "{text}"
            );
        }
    }

    #[test]
    fn a_program_that_is_named_is_the_only_candidate_and_the_tasks_comes_first() {
        let settings = |path: &str| Settings {
            init_path: Some(path.to_owned()),
            ..Settings::default()
        };
        let mut task = TaskSpec::default();
        assert_eq!(candidates(&task, &settings("/x")), [PathBuf::from("/x")]);
        assert_eq!(candidates(&task, &Settings::default()).len(), KNOWN.len());
        task.options.init_path = Some("/own".to_owned());
        assert_eq!(candidates(&task, &settings("/x")), [PathBuf::from("/own")]);
        assert_eq!(wrap(vec!["a".to_owned()]), ["/dev/init", "--", "a"]);
    }
}

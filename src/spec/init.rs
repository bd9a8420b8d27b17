//! The `init` option: a small program of the node as process 1, which reaps orphans and passes signals on.

use super::error::SpecError;
use super::oci::Inputs;
use std::path::{Path, PathBuf};

/// Where the program is in the container; Docker puts it in `/sbin`, which an image may not have.
pub(super) const TARGET: &str = "/dev/init";

/// Where packages of such programs put them, in the order in which they are tried.
const KNOWN: [&str; 5] = [
    "/usr/bin/tini-static",
    "/usr/bin/docker-init",
    "/usr/libexec/docker/docker-init",
    "/usr/libexec/podman/catatonit",
    "/usr/bin/catatonit",
];

/// Paths on the host to look for the program: the first one that exists is
/// [`NodeFacts::init_program`](super::node::NodeFacts::init_program).
#[must_use]
pub fn candidates(init_path: Option<&str>) -> Vec<PathBuf> {
    match init_path {
        Some(path) => vec![PathBuf::from(path)],
        None => KNOWN.map(PathBuf::from).to_vec(),
    }
}

/// The program on the host, if the task wants one.
pub(super) fn program<'a>(inputs: &Inputs<'a>) -> Result<Option<&'a Path>, SpecError> {
    let o = &inputs.task.options;
    if !o.init {
        return Ok(None);
    }
    if let Some(mode) = o.pid_mode.as_deref().filter(|m| m.eq_ignore_ascii_case("host")) {
        let text = "with pid_mode = \"host\" the init program would not be process 1; leave one of them out";
        return Err(SpecError::option("init", mode, text));
    }
    let given = inputs.settings.init_path.as_deref();
    match (inputs.node.init_program.as_deref(), given) {
        (Some(found), _) => Ok(Some(found)),
        (None, Some(path)) => {
            let text = format!("init_path = {path:?} of the plugin configuration is no program on this node");
            Err(SpecError::option("init", true, text))
        }
        (None, None) => {
            let text = "this node has no init program (tini-static, docker-init or catatonit); install one, or name one as init_path in the plugin configuration";
            Err(SpecError::option("init", true, text))
        }
    }
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
    use crate::spec::settings::Settings;
    use crate::spec::task::TaskSpec;

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
    fn the_plugins_program_is_the_only_candidate_if_it_is_named() {
        assert_eq!(candidates(Some("/x")), [PathBuf::from("/x")]);
        assert_eq!(candidates(None).len(), KNOWN.len());
        assert_eq!(wrap(vec!["a".to_owned()]), ["/dev/init", "--", "a"]);
    }
}

//! Environment of the first process: the image's, overlaid by the task's.
//!
//! Precedence, for `PATH` as for all: the job's `env`, then the image's ENV, then the default, which two have: `PATH` (as
//! in `containerd/oci`), or no program could be found by name, and `HOSTNAME` (as in Docker), which start scripts go by. Names are not judged: those with dots or dashes, which a
//! shell cannot name, are passed as they are. The Go driver dropped `PATH` from the task's environment.

use super::error::SpecError;
use super::image::ImageFacts;
use super::process::{STRING_MAX, brief};
use super::runtime::NVIDIA;
use super::task::TaskSpec;
use std::collections::BTreeMap;

/// What the Docker and OCI tools give (containerd `oci.defaultUnixEnv`).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The environment as `K=V`, sorted by name.
pub(super) fn build(task: &TaskSpec, image: &ImageFacts, hostname: &str) -> Result<Vec<String>, SpecError> {
    let mut env = BTreeMap::from([("PATH", DEFAULT_PATH)]);
    if !hostname.is_empty() {
        env.insert("HOSTNAME", hostname);
    }
    if task.options.tty {
        // What Docker and containerd say of a terminal that is not known yet.
        env.insert("TERM", "xterm");
    }
    env.extend(image.env.iter().map(|line| line.split_once('=').unwrap_or((line, ""))));
    if let Some(line) = image.env.iter().find(|line| line.contains('\0')) {
        return Err(SpecError::option("image", line, "ENV without NUL is expected"));
    }
    for (name, value) in &task.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(SpecError::option(
                "env",
                name,
                "a name without '=' and a value, both without NUL, are expected",
            ));
        }
        env.insert(name, value);
    }
    // By it NVIDIA's runtime gives GPUs out, so it is the device plugin's to say, and neither the job's nor a template's.
    if let Some(value) = task.device_env.get(NVIDIA) {
        env.insert(NVIDIA, value);
    }
    if let Some((name, _)) = env
        .iter()
        .find(|(name, value)| name.len() + 1 + value.len() > STRING_MAX)
    {
        let allowed = format!(
            "a name and a value of together less than {STRING_MAX} bytes are expected, which is what the kernel takes"
        );
        return Err(SpecError::option("env", brief(name), allowed));
    }
    Ok(env
        .into_iter()
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, value)| format!("{name}={value}"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_gpus_a_task_has_is_said_by_the_device_plugin() {
        let set = |value: &str| BTreeMap::from([(NVIDIA.to_owned(), value.to_owned())]);
        let with = |device_env| {
            let task = TaskSpec {
                env: set("all"),
                device_env,
                ..TaskSpec::default()
            };
            build(&task, &ImageFacts::default(), "").unwrap()
        };
        assert!(with(set("GPU-1")).contains(&format!("{NVIDIA}=GPU-1")));
        assert!(with(BTreeMap::new()).contains(&format!("{NVIDIA}=all")));
    }

    fn env(image: &[&str], task: &[(&str, &str)]) -> Vec<String> {
        let image = ImageFacts {
            env: image.iter().map(|s| (*s).to_owned()).collect(),
            ..ImageFacts::default()
        };
        let env = task.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        build(
            &TaskSpec {
                env,
                ..TaskSpec::default()
            },
            &image,
            "",
        )
        .unwrap()
    }

    #[test]
    fn the_own_name_is_known_unless_image_or_job_say_another() {
        let env = |image: &[&str], task: &[(&str, &str)]| {
            let image = ImageFacts {
                env: image.iter().map(|s| (*s).to_owned()).collect(),
                ..ImageFacts::default()
            };
            let env = task.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let task = TaskSpec {
                env,
                ..TaskSpec::default()
            };
            build(&task, &image, "web-1").unwrap().remove(0)
        };
        assert_eq!(env(&[], &[]), "HOSTNAME=web-1");
        assert_eq!(env(&["HOSTNAME=img"], &[]), "HOSTNAME=img");
        assert_eq!(env(&["HOSTNAME=img"], &[("HOSTNAME", "job")]), "HOSTNAME=job");
    }

    #[test]
    fn task_wins_over_image_and_image_over_default() {
        assert_eq!(env(&[], &[]), [format!("PATH={DEFAULT_PATH}")]);
        assert_eq!(env(&["PATH=/img"], &[]), ["PATH=/img"]);
        assert_eq!(
            env(&["PATH=/img", "A=1", "B=1"], &[("B", "2"), ("PATH", "/job")]),
            ["A=1", "B=2", "PATH=/job"]
        );
    }

    #[test]
    fn a_value_may_hold_an_equals_sign() {
        assert_eq!(env(&["PATH=/", "A=b=c"], &[("Z", "=")]), ["A=b=c", "PATH=/", "Z=="]);
    }

    #[test]
    fn odd_names_are_passed() {
        assert_eq!(env(&["PATH=/"], &[("a.b-c é", "")]), ["PATH=/", "a.b-c é="]);
    }

    #[test]
    fn nul_is_refused_and_the_variable_named() {
        let task = TaskSpec {
            env: BTreeMap::from([("K".to_owned(), "a\0b".to_owned())]),
            ..TaskSpec::default()
        };
        assert!(
            build(&task, &ImageFacts::default(), "h")
                .unwrap_err()
                .to_string()
                .contains("\"K\"")
        );
    }
}

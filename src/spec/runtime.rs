//! Which runtime carries out a container: a name becomes the type of a containerd shim and, for runtimes with runc's
//! command line, a binary.

use super::cdi;
use super::error::SpecError;
use super::oci::Inputs;
use super::settings::Settings;
use super::task::TaskSpec;

/// The shim of runc and of what has its command line.
const RUNC_SHIM: &str = "io.containerd.runc.v2";

/// What a short name stands for. Names and types are those that the projects document for containerd.
const KNOWN: [(&str, &str, &str); 7] = [
    ("runc", RUNC_SHIM, ""),
    ("crun", RUNC_SHIM, "crun"),
    ("youki", RUNC_SHIM, "youki"),
    ("kata", "io.containerd.kata.v2", ""),
    ("runsc", "io.containerd.runsc.v1", ""),
    ("gvisor", "io.containerd.runsc.v1", ""),
    ("spin", "io.containerd.spin.v2", ""),
];

/// A runtime as containerd is told it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Runtime {
    /// Type of the shim, e.g. `io.containerd.runc.v2`.
    pub kind: String,
    /// Binary with runc's command line, a path or a name to look up; empty for `runc`.
    pub binary: String,
    /// Whether it makes cgroups by systemd.
    pub systemd_cgroup: bool,
}

impl Runtime {
    /// True if the shim takes runc's options at all.
    #[must_use]
    pub fn takes_options(&self) -> bool {
        self.kind == RUNC_SHIM && (!self.binary.is_empty() || self.systemd_cgroup)
    }
}

impl Runtime {
    /// The program of the shim: containerd makes its name from the last two words of the type.
    #[must_use]
    pub fn shim(&self) -> String {
        let words: Vec<&str> = self.kind.rsplitn(3, '.').take(2).collect();
        let name: Vec<&str> = words.into_iter().rev().collect();
        format!("containerd-shim-{}", name.join("-"))
    }

    /// The program with runc's command line that the shim calls, a name to look up or a path; `None` for a shim that
    /// calls none.
    #[must_use]
    pub fn program(&self) -> Option<&str> {
        match (self.kind == RUNC_SHIM, self.binary.as_str()) {
            (true, "") => Some("runc"),
            (true, binary) => Some(binary),
            (false, _) => None,
        }
    }

    /// True if it sets no kernel parameter that is not of a namespace of the container's, as runc and crun.
    #[must_use]
    pub(super) fn keeps_to_namespaces(&self) -> bool {
        self.program()
            .and_then(|program| program.rsplit('/').next())
            .is_some_and(|name| ["runc", "crun"].contains(&name))
    }

    /// True if it fills a file system in memory with what the image has in its place, where the mount says so.
    #[must_use]
    pub(super) fn copies_up(&self) -> bool {
        self.keeps_to_namespaces()
    }

    /// True if it may give the null device that a process gets as its input to the process's user: crun before 1.24 does
    /// (containers/crun#1845), and where that device is the host's own, all of the host loses it. Of other programs it is not known.
    #[must_use]
    pub fn gives_null_away(&self) -> bool {
        self.program()
            .and_then(|program| program.rsplit('/').next())
            .is_some_and(|name| name != "runc")
    }

    /// True if it is known to do so.
    #[must_use]
    pub(super) fn gives_null_away_for_sure(&self) -> bool {
        self.program()
            .and_then(|program| program.rsplit('/').next())
            .is_some_and(|name| ["crun", "krun"].iter().any(|known| name.contains(known)))
    }

    /// True if its shim takes several containers into one process.
    #[must_use]
    pub fn shares_shims(&self) -> bool {
        self.kind == RUNC_SHIM
    }

    /// True if a container's root can be looked at through its first process, which is a process of this kernel.
    #[must_use]
    pub fn shows_its_root(&self) -> bool {
        self.kind == RUNC_SHIM
    }
}

/// What the device plugin for GPUs of NVIDIA tells a task's runtime by; these values are none of a GPU (the documentation of
/// NVIDIA's container toolkit).
pub(super) const NVIDIA: &str = "NVIDIA_VISIBLE_DEVICES";
const NO_GPU: [&str; 3] = ["", "void", "none"];

/// Whether the operator has a runtime for the GPU that this task has. It has one if the device plugin says so: what the job
/// has in its environment is no more than a wish, and this runtime goes by it.
fn has_gpu(task: &TaskSpec, settings: &Settings) -> bool {
    let asked = task
        .device_env
        .get(NVIDIA)
        .is_some_and(|value| !NO_GPU.contains(&value.as_str()));
    asked && !cdi::is_asked(task) && settings.runtimes.contains_key(&settings.nvidia_runtime)
}

/// The runtime of a task: what it names, if the operator allows it, else `nvidia_runtime` or `containerd_runtime`.
pub(super) fn of(inputs: &Inputs<'_>) -> Result<Runtime, SpecError> {
    let settings = inputs.settings;
    match &inputs.task.options.runtime {
        Some(name) if *name != settings.nvidia_runtime && has_gpu(inputs.task, settings) => {
            let nvidia = &settings.nvidia_runtime;
            let allowed =
                format!("the task's GPU needs {nvidia:?}, the runtime that nvidia_runtime names; leave it out");
            Err(SpecError::option("runtime", name, allowed))
        }
        Some(name) => {
            inputs.gates.runtime(name)?;
            resolve("runtime", name, settings)
        }
        None if has_gpu(inputs.task, settings) => resolve("nvidia_runtime", &settings.nvidia_runtime, settings),
        None => resolve("containerd_runtime", &settings.containerd_runtime, settings),
    }
}

/// The runtime that the settings give to all tasks.
///
/// # Errors
/// The setting, its value and what is allowed.
pub fn default(settings: &Settings) -> Result<Runtime, SpecError> {
    resolve("containerd_runtime", &settings.containerd_runtime, settings)
}

/// The runtime of this name, which is one of `runtimes`.
pub(super) fn configured(name: &str, settings: &Settings) -> Result<Runtime, SpecError> {
    resolve("runtimes", name, settings)
}

fn resolve(option: &str, name: &str, settings: &Settings) -> Result<Runtime, SpecError> {
    let (kind, binary) = if let Some(text) = settings.runtimes.get(name) {
        let mut words = text.split_whitespace();
        let (kind, binary) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if !is_type(kind) || words.next().is_some() || (!binary.is_empty() && kind != RUNC_SHIM) {
            return Err(SpecError::option(
                format!("runtimes.{name}"),
                text,
                format!("a type such as {RUNC_SHIM} is expected, for this one optionally with a binary after it"),
            ));
        }
        (kind, binary)
    } else if let Some((_, kind, binary)) = KNOWN.iter().find(|(known, ..)| *known == name) {
        (*kind, *binary)
    } else if is_type(name) {
        (name, "")
    } else {
        let known: Vec<&str> = KNOWN.iter().map(|(known, ..)| *known).collect();
        let own = settings.runtimes.keys().map(String::as_str);
        return Err(SpecError::option(
            option,
            name,
            format!(
                "one of {}, a type such as {RUNC_SHIM}, or a name in the plugin setting runtimes is expected",
                own.chain(known).collect::<Vec<_>>().join(", ")
            ),
        ));
    };
    Ok(Runtime {
        kind: kind.to_owned(),
        binary: binary.to_owned(),
        systemd_cgroup: settings.systemd_cgroup && kind == RUNC_SHIM,
    })
}

/// `io.containerd.NAME.VERSION`: what containerd makes the name of the shim's binary from. No path: a task must not
/// choose a program of the host.
fn is_type(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    let word = |p: &&str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    parts.len() >= 3 && parts.iter().all(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::gates::Gates;
    use crate::spec::image::ImageFacts;
    use crate::spec::node::NodeFacts;
    use crate::spec::options::DeviceOption;

    fn settings() -> Settings {
        let mut settings = Settings::default();
        for (name, text) in [
            ("dev", "io.containerd.runc.v2 /opt/crun"),
            ("wasm", "io.containerd.wasmtime.v1"),
            ("bad", "io.containerd.kata.v2 /opt/kata"),
            ("path", "/opt/shim"),
        ] {
            settings.runtimes.insert(name.to_owned(), text.to_owned());
        }
        settings
    }

    #[test]
    fn a_name_becomes_a_type_and_a_binary() {
        for (name, kind, binary) in [
            ("io.containerd.runc.v2", RUNC_SHIM, ""),
            ("runc", RUNC_SHIM, ""),
            ("crun", RUNC_SHIM, "crun"),
            ("dev", RUNC_SHIM, "/opt/crun"),
            ("wasm", "io.containerd.wasmtime.v1", ""),
            ("kata", "io.containerd.kata.v2", ""),
        ] {
            let found = resolve("runtime", name, &settings()).unwrap();
            assert_eq!((found.kind.as_str(), found.binary.as_str()), (kind, binary), "{name}");
            assert_eq!(found.takes_options(), !binary.is_empty());
        }
    }

    #[test]
    fn a_gpu_has_the_runtime_for_it_where_there_is_one() {
        let with = |value: &str, devices: &[&str], runtimes: &[&str]| {
            let mut task = TaskSpec::default();
            task.device_env.insert(NVIDIA.to_owned(), value.to_owned());
            let device = |path: &&str| DeviceOption {
                host_path: (*path).to_owned(),
                ..DeviceOption::default()
            };
            task.options.devices = devices.iter().map(device).collect();
            let mut settings = Settings::default();
            for name in runtimes {
                settings
                    .runtimes
                    .insert((*name).to_owned(), format!("{RUNC_SHIM} {name}"));
            }
            has_gpu(&task, &settings)
        };
        assert!(with("GPU-1", &[], &["nvidia"]) && with("all", &[], &["nvidia", "x"]));
        for (value, devices, runtimes) in [
            ("none", &[][..], &["nvidia"][..]),
            ("", &[], &["nvidia"]),
            ("all", &[], &["x"]),
            ("all", &["nvidia.com/gpu=0"], &["nvidia"]),
        ] {
            assert!(!with(value, devices, runtimes), "{value} {devices:?} {runtimes:?}");
        }
        assert!(!has_gpu(&TaskSpec::default(), &settings()));
    }

    #[test]
    fn a_gpu_is_what_the_device_plugin_gives_and_goes_with_no_other_runtime() {
        let mut settings = settings();
        settings
            .runtimes
            .insert("nvidia".to_owned(), format!("{RUNC_SHIM} nvidia"));
        let gates = Gates::of(&settings).unwrap();
        let with = |env: &[&str], device_env: &[&str], runtime: Option<&str>| {
            let set = |values: &[&str]| values.iter().map(|v| (NVIDIA.to_owned(), (*v).to_owned())).collect();
            let mut task = TaskSpec {
                env: set(env),
                device_env: set(device_env),
                ..TaskSpec::default()
            };
            task.options.runtime = runtime.map(ToOwned::to_owned);
            of(&Inputs {
                task: &task,
                image: &ImageFacts::default(),
                node: &NodeFacts::default(),
                settings: &settings,
                gates: &gates,
            })
            .map(|found| found.binary)
            .map_err(|e| e.to_string())
        };
        assert_eq!(with(&["all"], &[], None).as_deref(), Ok(""));
        assert_eq!(with(&["all"], &["GPU-1"], None).as_deref(), Ok("nvidia"));
        assert_eq!(with(&[], &["GPU-1"], Some("nvidia")).as_deref(), Ok("nvidia"));
        assert_eq!(with(&["all"], &[], Some("dev")).as_deref(), Ok("/opt/crun"));
        assert_eq!(with(&[], &["void"], Some("dev")).as_deref(), Ok("/opt/crun"));
        let text = with(&[], &["GPU-1"], Some("dev")).unwrap_err();
        assert!(
            text.starts_with("option runtime: \"dev\": ") && text.contains("nvidia_runtime"),
            "{text}"
        );
    }

    #[test]
    fn the_programs_of_a_runtime_are_known() {
        for (name, shim, program) in [
            ("runc", "containerd-shim-runc-v2", Some("runc")),
            ("crun", "containerd-shim-runc-v2", Some("crun")),
            ("dev", "containerd-shim-runc-v2", Some("/opt/crun")),
            ("runsc", "containerd-shim-runsc-v1", None),
            ("wasm", "containerd-shim-wasmtime-v1", None),
        ] {
            let found = resolve("runtime", name, &settings()).unwrap();
            assert_eq!((found.shim().as_str(), found.program()), (shim, program), "{name}");
            assert_eq!(found.keeps_to_namespaces(), program.is_some(), "{name}");
            assert_eq!(found.copies_up(), program.is_some(), "{name}");
        }
    }

    #[test]
    fn what_is_no_runtime_is_refused_by_name() {
        for name in [
            "bad",
            "path",
            "nope",
            "/usr/bin/crun",
            "",
            "a..b.c",
            "io.containerd.runc.v2 x",
        ] {
            let text = resolve("runtime", name, &settings()).unwrap_err().to_string();
            assert!(
                text.contains("runtime") && text.contains(name) && text.contains("expected"),
                "{text}"
            );
        }
    }

    #[test]
    fn systemd_is_asked_of_runc_alone() {
        let settings = Settings {
            systemd_cgroup: true,
            ..settings()
        };
        assert!(resolve("runtime", "runc", &settings).unwrap().takes_options());
        assert!(!resolve("runtime", "kata", &settings).unwrap().systemd_cgroup);
    }
}

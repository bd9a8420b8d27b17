//! Plugin settings that cannot work, told when the agent starts and not by the first task that fails on them.
//!
//! Nothing is looked up: what the node may get later, such as the program at `init_path`, is told when a task needs it.

use super::error::SpecError;
use super::gates::fits;
use super::hosts;
use super::labels;
use super::resources::PIDS_MAX;
use super::runtime;
use super::settings::Settings;
use super::volumes;

/// Most bytes of an identifier of containerd (`pkg/identifiers`).
const IDENTIFIER_MAX: usize = 76;

/// What `allowed_modes` can name, by its own names: the modes of each option.
const MODES: [(&str, &[&str]); 5] = [
    ("pid", &["host", "private"]),
    ("ipc", &["host", "private", "shareable", "none"]),
    ("uts", &["host", "private"]),
    ("cgroup", &["host", "private"]),
    ("network", &["host", "none", "bridge", "default"]),
];

/// Checks what no other part of the settings' reading does.
pub(super) fn check(settings: &Settings) -> Result<(), SpecError> {
    let namespace = settings.containerd_namespace.as_str();
    if !is_identifier(namespace) {
        return Err(SpecError::option(
            "containerd_namespace",
            namespace,
            format!(
                "at most {IDENTIFIER_MAX} letters and digits, with single '.', '_' and '-' between them, are expected"
            ),
        ));
    }
    if !(0..=PIDS_MAX).contains(&settings.pids_limit) {
        let allowed = format!("a number from 1 to {PIDS_MAX}, or 0 for no limit, is expected");
        return Err(SpecError::option("pids_limit", settings.pids_limit, allowed));
    }
    paths(settings)?;
    runtimes(settings)?;
    modes(settings)?;
    extra_labels(settings)?;
    let label = settings.volumes.as_ref().and_then(|v| v.selinuxlabel.as_deref());
    if let Some(label) = label.map(str::trim).filter(|l| !l.is_empty()) {
        volumes::whole_label("volumes.selinuxlabel", label)?;
    }
    match settings.otlp_endpoint.as_deref() {
        Some(endpoint) if !is_url(endpoint) => Err(SpecError::option(
            "otlp_endpoint",
            without_user(endpoint),
            "a URL such as http://127.0.0.1:4317 is expected, with http or https and a host, and without user and password, \
             which are not sent",
        )),
        _ => Ok(()),
    }
}

fn paths(settings: &Settings) -> Result<(), SpecError> {
    let init = settings.init_path.iter().map(|path| ("init_path", path));
    let cdi = settings.cdi_spec_dirs.iter().map(|path| ("cdi_spec_dirs", path));
    for root in hosts::roots(&settings.registry_config_dir) {
        if !root.starts_with('/') || root.contains('\0') {
            let allowed = "absolute paths on the node, separated by ':', are expected";
            return Err(SpecError::option(
                "registry_config_dir",
                &settings.registry_config_dir,
                allowed,
            ));
        }
    }
    for (option, path) in init.chain(cdi) {
        if !path.starts_with('/') || path.contains('\0') {
            return Err(SpecError::option(
                option,
                path,
                "an absolute path on the node is expected",
            ));
        }
    }
    Ok(())
}

fn runtimes(settings: &Settings) -> Result<(), SpecError> {
    for name in settings.runtimes.keys() {
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
            let allowed = "a name without spaces, which tasks can give as runtime, is expected";
            return Err(SpecError::option("runtimes", name, allowed));
        }
        runtime::configured(name, settings)?;
    }
    Ok(())
}

fn modes(settings: &Settings) -> Result<(), SpecError> {
    let Some(modes) = &settings.allowed_modes else {
        return Ok(());
    };
    let given = [&modes.pid, &modes.ipc, &modes.uts, &modes.cgroup, &modes.network];
    for ((namespace, known), patterns) in MODES.into_iter().zip(given) {
        for pattern in patterns.iter().flatten() {
            one_of(&format!("allowed_modes.{namespace}"), pattern, known)?;
        }
    }
    Ok(())
}

fn extra_labels(settings: &Settings) -> Result<(), SpecError> {
    let known = labels::FACTS;
    settings
        .extra_labels
        .iter()
        .try_for_each(|pattern| one_of("extra_labels", pattern, &known))
}

/// Refuses a pattern that fits none of the names.
fn one_of(option: &str, pattern: &str, known: &[&str]) -> Result<(), SpecError> {
    if known.iter().any(|name| fits(pattern, name)) {
        return Ok(());
    }
    let allowed = format!("{} are expected; * stands for any text", known.join(", "));
    Err(SpecError::option(option, pattern, allowed))
}

/// Words of letters and digits with one separator between each two: containerd's rule for names of namespaces.
fn is_identifier(text: &str) -> bool {
    let word = |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_alphanumeric());
    text.len() <= IDENTIFIER_MAX && text.split(['.', '_', '-']).all(word)
}

/// `http://HOST…` or `https://HOST…`, as the exporter takes it.
fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let host = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    let plain = !text.contains(|c: char| c.is_whitespace() || c.is_control());
    let is_host = |host: &str| !host.is_empty() && !host.starts_with(':') && !host.contains('@') && has_port(host);
    plain && host.is_some_and(is_host)
}

/// A text that may be a URL, without what stands before the host: it may be a password, with any characters in it.
fn without_user(text: &str) -> String {
    let (scheme, rest) = text.split_at(text.find("://").map_or(0, |at| at + "://".len()));
    match rest.rsplit_once('@') {
        Some((_, rest)) => format!("{scheme}***@{rest}"),
        None => text.to_owned(),
    }
}

/// Whether what follows the last colon, if anything does, is a port.
fn has_port(host: &str) -> bool {
    match host.rsplit_once(':') {
        // The colons of an IPv6 address are between brackets.
        Some((before, port)) if !port.ends_with(']') => {
            (!before.contains(':') || before.ends_with(']')) && port.parse::<u16>().is_ok_and(|port| port > 0)
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::settings::{AllowedModes, VolumeSettings};

    fn refused(change: impl Fn(&mut Settings)) -> String {
        let mut settings = Settings::default();
        change(&mut settings);
        check(&settings).map_or_else(|e| e.to_string(), |()| "taken".to_owned())
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn the_defaults_and_the_go_drivers_can_work() {
        assert_eq!(check(&Settings::default()), Ok(()));
        assert_eq!(check(&Settings::go_driver()), Ok(()));
    }

    #[test]
    fn a_namespace_is_an_identifier_of_containerd() {
        for name in ["nomad", "nomad.slice", "a-b_c.d", "7", &"a".repeat(76)] {
            assert_eq!(refused(|s| s.containerd_namespace = name.to_owned()), "taken", "{name}");
        }
        for name in ["", "my jobs", "a..b", "-a", "a-", "a/b", "ä", &"a".repeat(77)] {
            let text = refused(|s| s.containerd_namespace = name.to_owned());
            assert!(
                text.starts_with(&format!("option containerd_namespace: {name:?}: ")),
                "{text}"
            );
        }
    }

    #[test]
    fn each_setting_that_cannot_work_is_named_with_value_and_what_is_allowed() {
        let runtime = |name: &'static str, text: &'static str| {
            move |s: &mut Settings| {
                s.runtimes.insert(name.to_owned(), text.to_owned());
            }
        };
        let label = |text: &'static str| {
            move |s: &mut Settings| {
                s.volumes = Some(VolumeSettings {
                    selinuxlabel: some(text),
                    ..VolumeSettings::default()
                });
            }
        };
        for (text, want) in [
            (
                refused(|s| s.pids_limit = -1),
                "option pids_limit: -1: a number from 1 to 4194304, or 0",
            ),
            (
                refused(|s| s.init_path = some("tini")),
                "option init_path: \"tini\": an absolute path",
            ),
            (
                refused(|s| s.cdi_spec_dirs = vec!["cdi".to_owned()]),
                "option cdi_spec_dirs: \"cdi\": an absolute path",
            ),
            (
                refused(|s| s.registry_config_dir = "/etc/certs.d:certs.d".to_owned()),
                "option registry_config_dir: \"/etc/certs.d:certs.d\": absolute paths",
            ),
            (refused(runtime("dev", "")), "option runtimes.dev: \"\": a type such as"),
            (
                refused(runtime("dev", "/opt/crun")),
                "option runtimes.dev: \"/opt/crun\": a type",
            ),
            (
                refused(runtime("dev", "io.containerd.runc.v2 crun --debug")),
                "option runtimes.dev: ",
            ),
            (
                refused(runtime("my crun", "io.containerd.runc.v2")),
                "option runtimes: \"my crun\": a name without spaces",
            ),
            (
                refused(|s| s.extra_labels = vec!["job".to_owned()]),
                "option extra_labels: \"job\": job_name, job_id",
            ),
            (
                refused(label("container_file_t")),
                "option volumes.selinuxlabel: \"container_file_t\": ",
            ),
        ] {
            assert!(text.starts_with(want), "{text} should begin with {want}");
        }
        assert_eq!(refused(runtime("dev", "io.containerd.runc.v2 /opt/crun")), "taken");
        assert_eq!(refused(|s| s.registry_config_dir = String::new()), "taken");
        assert_eq!(refused(|s| s.extra_labels = vec!["job_*".to_owned()]), "taken");
        assert_eq!(refused(label("system_u:object_r:container_file_t:s0")), "taken");
        assert_eq!(refused(label(" z ")), "taken");
    }

    #[test]
    fn modes_that_no_option_knows_are_refused() {
        let allow = |modes: AllowedModes| refused(move |s| s.allowed_modes = Some(modes.clone()));
        let list = |text: &str| Some(vec![text.to_owned()]);
        for fine in ["host", "*", "ho*", "private"] {
            let modes = AllowedModes {
                pid: list(fine),
                ..AllowedModes::default()
            };
            assert_eq!(allow(modes), "taken", "{fine}");
        }
        let text = allow(AllowedModes {
            network: list("hots"),
            ..AllowedModes::default()
        });
        assert!(
            text.starts_with("option allowed_modes.network: \"hots\": host, none"),
            "{text}"
        );
        let text = allow(AllowedModes {
            cgroup: list("container:x"),
            ..AllowedModes::default()
        });
        assert!(text.starts_with("option allowed_modes.cgroup: "), "{text}");
    }

    #[test]
    fn traces_go_to_a_url() {
        for fine in [
            "http://127.0.0.1:4317",
            "https://collector",
            "http://[::1]:4317/v1",
            "http://[::1]",
            "http://a.b:1/",
        ] {
            assert_eq!(refused(|s| s.otlp_endpoint = some(fine)), "taken", "{fine}");
        }
        for bad in [
            "collector:4317",
            "127.0.0.1:4317",
            "grpc://x:1",
            "http://",
            "http://:4317",
            "http://a b",
            "http://a:port",
            "http://a:0",
            "http://::1:4317",
            "http:///x",
        ] {
            let text = refused(|s| s.otlp_endpoint = some(bad));
            assert!(
                text.starts_with(&format!("option otlp_endpoint: {bad:?}: a URL")),
                "{text}"
            );
        }
        for (bad, shown) in [
            ("http://me:hunter2@collector:4317", "http://***@collector:4317"),
            ("http://hunter2@collector", "http://***@collector"),
            (
                "https://me:hun/ter2@x@collector:4317/v1",
                "https://***@collector:4317/v1",
            ),
            ("me:hunter2@collector", "***@collector"),
        ] {
            let text = refused(|s| s.otlp_endpoint = some(bad));
            assert!(
                text.starts_with(&format!("option otlp_endpoint: {shown:?}: a URL")),
                "{text}"
            );
        }
    }
}

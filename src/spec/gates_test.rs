//! Tests of `gates`.

use super::*;
use crate::spec::settings::VolumeSettings;

fn gates(settings: Settings) -> Gates {
    Gates::of(&settings).unwrap()
}

#[test]
fn nothing_is_open_without_consent_and_each_refusal_names_option_value_and_setting() {
    let g = gates(Settings::default());
    for (refusal, words) in [
        (g.privileged(), ["privileged", "true", "allow_privileged"]),
        (g.runtime("kata"), ["runtime", "kata", "allow_runtimes"]),
        (
            g.mode(Mode::Pid, "pid_mode", "host"),
            ["pid_mode", "host", "allowed_modes { pid"],
        ),
        (
            g.mode(Mode::Ipc, "ipc_mode", "host"),
            ["ipc_mode", "host", "allowed_modes { ipc"],
        ),
        (
            g.mode(Mode::Uts, "uts_mode", "host"),
            ["uts_mode", "host", "allowed_modes { uts"],
        ),
        (
            g.mode(Mode::Cgroup, "cgroupns", "host"),
            ["cgroupns", "host", "allowed_modes { cgroup"],
        ),
        (
            g.mode(Mode::Network, "host_network", "true"),
            ["host_network", "true", "allowed_modes { network"],
        ),
        (
            g.device("devices", "/dev/fuse"),
            ["devices", "/dev/fuse", "allow_devices"],
        ),
        (
            g.unconfined(Protection::Seccomp, "seccomp", "false"),
            ["seccomp", "false", "allow_unconfined"],
        ),
        (
            g.host_path("mounts", "/etc"),
            ["mounts", "/etc", "volumes { enabled = true }"],
        ),
    ] {
        let text = refusal.unwrap_err().to_string();
        assert!(words.iter().all(|w| text.contains(w)), "{text} should name {words:?}");
    }
    assert!(g.runtime("io.containerd.runc.v2").is_ok() && g.runtime("runc").is_ok());
}

#[test]
fn the_go_drivers_profile_allows_what_it_allowed_and_a_setting_wins_over_it() {
    let g = gates(Settings::go_driver());
    assert!(g.privileged().is_ok() && g.host_path("mounts", "/etc").is_ok() && g.caps().is_none());
    assert!(g.device("devices", "/dev/sda").is_ok() && g.unconfined(Protection::Seccomp, "seccomp", "false").is_ok());
    assert!(g.mode(Mode::Pid, "pid_mode", "host").is_ok() && g.mode(Mode::Network, "host_network", "true").is_ok());
    assert!(g.mode(Mode::Ipc, "ipc_mode", "host").is_err());
    let g = gates(Settings {
        allow_privileged: Some(false),
        allow_devices: Some(Vec::new()),
        allow_unconfined: Some(Vec::new()),
        allowed_modes: Some(AllowedModes {
            pid: Some(Vec::new()),
            ..AllowedModes::default()
        }),
        volumes: Some(VolumeSettings {
            enabled: Some(false),
            ..VolumeSettings::default()
        }),
        ..Settings::go_driver()
    });
    assert!(g.privileged().is_err() && g.host_path("mounts", "/etc").is_err());
    assert!(g.device("devices", "/dev/sda").is_err() && g.unconfined(Protection::Seccomp, "seccomp", "false").is_err());
    assert!(g.mode(Mode::Pid, "pid_mode", "host").is_err() && g.mode(Mode::Network, "host_network", "true").is_ok());
}

#[test]
fn a_runtime_of_the_operator_is_allowed_by_being_named() {
    let mut settings = Settings::default();
    settings
        .runtimes
        .insert("dev".to_owned(), "io.containerd.runc.v2 /opt/crun".to_owned());
    assert!(gates(settings.clone()).runtime("dev").is_ok());
    settings.allow_runtimes = Some(vec!["k*".to_owned()]);
    let g = gates(settings);
    assert!(g.runtime("kata").is_ok() && g.runtime("dev").is_err() && g.runtime("runc").is_err());
}

#[test]
fn bad_settings_are_named() {
    for (settings, words) in [
        (
            Settings {
                security_profile: "lax".to_owned(),
                ..Settings::default()
            },
            ["security_profile", "lax", "go-driver"],
        ),
        (
            Settings {
                allow_unconfined: Some(vec!["all".to_owned()]),
                ..Settings::default()
            },
            ["allow_unconfined", "all", "systempaths"],
        ),
        (
            Settings {
                allow_caps: Some(vec!["nothing".to_owned()]),
                ..Settings::default()
            },
            ["allow_caps", "nothing", "ALL"],
        ),
    ] {
        let text = Gates::of(&settings).unwrap_err().to_string();
        assert!(words.iter().all(|w| text.contains(w)), "{text} should name {words:?}");
    }
}

#[test]
fn a_star_stands_for_any_text() {
    for (pattern, text, want) in [
        ("*", "", true),
        ("*", "x", true),
        ("/dev/*", "/dev/fuse", true),
        ("/dev/*", "/etc/x", false),
        ("a*c", "abc", true),
        ("a*c", "ac", true),
        ("a*c", "acb", false),
        ("a*b*c", "a-b-b-c", true),
        ("a*b*c", "a-c", false),
        ("abc", "abcd", false),
        ("a*a", "a", false),
        ("", "", true),
        ("", "x", false),
    ] {
        assert_eq!(fits(pattern, text), want, "{pattern} {text}");
    }
}

//! `containerd-driver doctor`: what it takes from the command line, and how its findings are shown.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | nothing is wrong |
//! | 1 | tasks do not run here: there is an error |
//! | 2 | the command line is not understood |
//! | 3 | tasks run, and there are warnings |

use crate::spec::doctor::{Finding, Severity, worst};
use crate::spec::settings::Settings;
use clap::Args;
use std::fmt::Write as _;

/// `containerd-driver doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct DoctorCommand {
    /// Path of containerd's socket
    #[arg(long, value_name = "PATH")]
    pub address: Option<String>,
    /// containerd namespace
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// containerd snapshotter
    #[arg(long, value_name = "NAME")]
    pub snapshotter: Option<String>,
    /// Runtime, as in the setting containerd_runtime
    #[arg(long, value_name = "NAME")]
    pub runtime: Option<String>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

impl DoctorCommand {
    /// The settings to judge by, where the command line says nothing those of `base`.
    #[must_use]
    pub fn settings(&self, base: Settings) -> Settings {
        let or = |given: &Option<String>, base: String| given.clone().unwrap_or(base);
        Settings {
            containerd_address: or(&self.address, base.containerd_address),
            containerd_namespace: or(&self.namespace, base.containerd_namespace),
            containerd_runtime: or(&self.runtime, base.containerd_runtime),
            snapshotter: or(&self.snapshotter, base.snapshotter),
            ..base
        }
    }
}

/// The exit code of these findings.
#[must_use]
pub fn code(findings: &[Finding]) -> u8 {
    match worst(findings) {
        Severity::Ok => 0,
        Severity::Error => 1,
        Severity::Warning => 3,
    }
}

/// What `doctor` prints.
#[must_use]
pub fn render(findings: &[Finding], json: bool) -> String {
    if json {
        return as_json(findings);
    }
    let mut out = String::new();
    for f in findings {
        // Writing to a String cannot fail.
        writeln!(out, "{:<8} {:<12} {}", f.severity.name(), f.id, f.text).ok();
        if let Some(remedy) = &f.remedy {
            writeln!(out, "{:21} → {remedy}", "").ok();
        }
    }
    let (errors, warnings) = (count(findings, Severity::Error), count(findings, Severity::Warning));
    writeln!(out, "\n{} checks, {errors} errors, {warnings} warnings", findings.len()).ok();
    out
}

fn count(findings: &[Finding], severity: Severity) -> usize {
    findings.iter().filter(|f| f.severity == severity).count()
}

fn as_json(findings: &[Finding]) -> String {
    let rows: Vec<_> = findings
        .iter()
        .map(|f| serde_json::json!({ "id": f.id, "severity": f.severity.name(), "text": f.text, "remedy": f.remedy }))
        .collect();
    let value = serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"),
        "errors": count(findings, Severity::Error),
        "warnings": count(findings, Severity::Warning),
        "findings": rows,
    });
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(severity: Severity, remedy: Option<&str>) -> Finding {
        Finding {
            id: "socket",
            severity,
            text: "t".into(),
            remedy: remedy.map(Into::into),
        }
    }

    #[test]
    fn the_worst_finding_decides_the_exit_code() {
        let (ok, warning, error) = (
            finding(Severity::Ok, None),
            finding(Severity::Warning, Some("r")),
            finding(Severity::Error, Some("r")),
        );
        assert_eq!(code(&[]), 0);
        assert_eq!(code(std::slice::from_ref(&ok)), 0);
        assert_eq!(code(&[ok.clone(), warning.clone()]), 3);
        assert_eq!(code(&[warning, error, ok]), 1);
    }

    #[test]
    fn both_forms_tell_the_same() {
        let findings = [finding(Severity::Error, Some("do this")), finding(Severity::Ok, None)];
        let text = render(&findings, false);
        assert!(
            text.contains("→ do this") && text.contains("2 checks, 1 errors, 0 warnings"),
            "{text}"
        );
        let json: serde_json::Value = serde_json::from_str(&render(&findings, true)).unwrap();
        assert_eq!((&json["errors"], &json["warnings"]), (&1.into(), &0.into()));
        assert_eq!(json["findings"][0]["remedy"], "do this");
        assert_eq!(json["findings"][1]["remedy"], serde_json::Value::Null);
        assert_eq!(json["findings"][1]["severity"], "ok");
    }

    #[test]
    fn what_is_not_given_is_as_the_plugin_has_it() {
        let command = DoctorCommand {
            address: None,
            namespace: None,
            snapshotter: Some("native".into()),
            runtime: None,
            json: false,
        };
        let settings = command.settings(Settings::default());
        assert_eq!(
            settings,
            Settings {
                snapshotter: "native".into(),
                ..Settings::default()
            }
        );
    }
}

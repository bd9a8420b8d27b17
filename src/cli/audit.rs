//! `containerd-driver audit`: what there is in containerd and on this host, whose it is and why it is there; what nobody
//! needs any more, for people and for monitoring.
//!
//! | exit code | means |
//! |---|---|
//! | 0 | nothing is left over (any more) |
//! | 1 | something is |
//! | 2 | nothing can be said: containerd is away, or the command line is wrong |
//! | 3 | `--fix` could not remove something |

use crate::messages::audit::{Audit, AuditError, Outcome, Report, Standing, Thing};
use crate::messages::doors::Answer;
use crate::spec::settings::{ImageGcSettings, ReaperSettings, Settings};
use clap::Args;
use std::fmt::Write as _;
use std::time::Duration;

/// Nothing is left over.
const CLEAN: u8 = 0;
/// Something is.
const FOUND: u8 = 1;
/// Nothing can be said.
const BLIND: u8 = 2;
/// Something could not be removed.
const NOT_FIXED: u8 = 3;

/// `containerd-driver audit`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct AuditCommand {
    /// Path of containerd's socket
    #[arg(long, value_name = "PATH")]
    pub address: Option<String>,
    /// containerd namespace
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// containerd snapshotter
    #[arg(long, value_name = "NAME")]
    pub snapshotter: Option<String>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Remove orphans; what a plugin that runs looks after is left alone
    #[arg(long)]
    pub fix: bool,
    /// Leave alone what is younger than this, e.g. 5m
    #[arg(long, value_name = "DURATION", value_parser = super::args::duration)]
    pub grace: Option<Duration>,
    /// Also list what is of others
    #[arg(long)]
    pub all: bool,
}

impl AuditCommand {
    /// The settings that this command wants, where it says nothing those of `base`. The reaper does not work by itself.
    #[must_use]
    pub fn settings(&self, base: Settings) -> Settings {
        let or = |given: &Option<String>, base: String| given.clone().unwrap_or(base);
        Settings {
            containerd_address: or(&self.address, base.containerd_address.clone()),
            containerd_namespace: or(&self.namespace, base.containerd_namespace.clone()),
            snapshotter: or(&self.snapshotter, base.snapshotter.clone()),
            reaper: Some(ReaperSettings {
                enabled: false,
                ..base.reaper()
            }),
            image_gc: Some(ImageGcSettings {
                enabled: false,
                ..base.image_gc()
            }),
            image_prefetch: Vec::new(),
            ..base
        }
    }

    fn request(&self) -> Audit {
        Audit {
            fix: self.fix,
            grace: self.grace,
        }
    }
}

/// The way to the actor that looks.
pub trait AuditDoor: Send + Sync {
    /// Looks, and removes orphans if asked to.
    fn audit(&self, audit: Audit) -> Answer<'_, Result<Report, AuditError>>;
}

/// What is printed, and the exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// For standard output.
    pub text: String,
    /// For standard error.
    pub complaint: Option<String>,
    /// Exit code, see the module.
    pub code: u8,
}

/// Looks and says what was found.
pub async fn audit(command: &AuditCommand, door: &dyn AuditDoor) -> Said {
    match door.audit(command.request()).await {
        Ok(report) => say(command, &report),
        Err(error) => Said {
            text: if command.json {
                format!("{:#}\n", serde_json::json!({ "error": error.to_string() }))
            } else {
                String::new()
            },
            complaint: Some(format!("containerd-driver: {error}")),
            code: BLIND,
        },
    }
}

fn say(command: &AuditCommand, report: &Report) -> Said {
    let (findings, failures) = (report.findings().count(), report.failures());
    let code = match (failures, findings) {
        (0, 0) => CLEAN,
        (0, _) => FOUND,
        _ => NOT_FIXED,
    };
    let shown: Vec<&Thing> = report
        .things
        .iter()
        .filter(|thing| command.all || thing.standing != Standing::Foreign)
        .collect();
    let text = if command.json {
        let value = serde_json::json!({ "findings": findings, "failures": failures, "things": shown });
        format!("{value:#}\n")
    } else {
        table(&shown, findings, report)
    };
    Said {
        text,
        complaint: None,
        code,
    }
}

/// Findings first: whoever reads it looks for these.
fn table(shown: &[&Thing], findings: usize, report: &Report) -> String {
    let mut rows: Vec<[String; 5]> = Vec::new();
    let (first, rest): (Vec<&Thing>, Vec<&Thing>) = shown.iter().copied().partition(|t| t.standing.is_finding());
    for thing in first.into_iter().chain(rest) {
        let (state, why) = match &thing.outcome {
            Outcome::Kept => (thing.standing.name(), thing.why.clone()),
            Outcome::Removed => ("removed", thing.why.clone()),
            Outcome::Claimed => ("claimed", "somebody has asked for it meanwhile".to_owned()),
            Outcome::Failed(error) => ("failed", error.clone()),
        };
        rows.push([
            thing.kind.name().to_owned(),
            plain(&thing.name),
            state.to_owned(),
            plain(&thing.owner),
            plain(&why),
        ]);
    }
    let mut out = String::new();
    if !rows.is_empty() {
        rows.insert(0, ["KIND", "NAME", "STATE", "OWNER", "WHY"].map(str::to_owned));
        let widths: [usize; 5] = std::array::from_fn(|i| {
            rows.iter()
                .filter_map(|r| r.get(i))
                .map(|c| c.chars().count())
                .max()
                .unwrap_or(0)
        });
        for row in &rows {
            let cells: Vec<String> = row
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            // Writing to a String cannot fail.
            writeln!(out, "{}", cells.join("  ").trim_end()).ok();
        }
        out.push('\n');
    }
    let removed = report.things.iter().filter(|t| t.outcome == Outcome::Removed).count();
    let word = match findings {
        0 => "nothing is left over".to_owned(),
        1 => "1 thing is left over".to_owned(),
        n => format!("{n} things are left over"),
    };
    let also = match removed {
        0 => String::new(),
        n => format!(", {n} removed"),
    };
    writeln!(out, "{word}{also}").ok();
    out
}

/// A name that others have given cannot move the cursor or the column.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;

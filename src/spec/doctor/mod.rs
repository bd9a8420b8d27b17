//! What `containerd-driver doctor` thinks of a node: facts become findings, each with its remedy. Pure: the facts come
//! from `host/survey` and from the gateway to containerd.
//!
//! | severity | meaning |
//! |---|---|
//! | ok | as it should be |
//! | warning | tasks run, but something that many need is missing or about to run out |
//! | error | tasks do not run, or will not for long |
//!
//! What cannot be found out is said in the text of the finding, and is no error: a doctor must not invent a disease.

mod daemon;
mod facts;
mod machine;

pub use facts::{
    CgroupFacts, ClockFacts, CniFacts, Daemon, Facts, Found, Free, KernelFacts, LimitFacts, PidsFacts, Plugins,
    RuntimeFacts, Serving, SocketState, Space,
};

use std::fmt;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Tasks run, but not all, or not for ever.
    Warning,
    /// Tasks do not run.
    Error,
}

impl Severity {
    /// The word for it, as in the JSON output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which check, a word that stays the same from version to version.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What was found.
    pub text: String,
    /// What to do about it; `None` where nothing has to be done.
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(id: &'static str, text: impl Into<String>) -> Self {
        Self {
            id,
            severity: Severity::Ok,
            text: text.into(),
            remedy: None,
        }
    }

    fn warning(id: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            id,
            severity: Severity::Warning,
            text: text.into(),
            remedy: Some(remedy.into()),
        }
    }

    fn error(id: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            ..Self::warning(id, text, remedy)
        }
    }
}

/// All findings, in the order in which they should be repaired: what comes later may hang on what comes before.
#[must_use]
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![machine::root(facts)];
    found.extend(daemon::judge(facts));
    found.extend(machine::judge(facts));
    found
}

/// The worst of them.
#[must_use]
pub fn worst(findings: &[Finding]) -> Severity {
    findings.iter().map(|f| f.severity).max().unwrap_or(Severity::Ok)
}

#[cfg(test)]
#[path = "doctor_test.rs"]
mod tests;

//! The other front door: what a human types and reads.
//!
//! `run` and `audit` ask the same actors as Nomad does, through `messages::doors`; `doctor`, `config` and `version` print. No state, no
//! actor, no path is opened here; the environment is the composition root's to read.

pub mod args;
pub mod audit;
pub mod config;
pub mod doctor;
pub mod ending;
pub mod logs;
pub mod progress;
pub mod run;

pub use args::{Command, Printed, RunCommand, parse};
pub use audit::{AuditCommand, AuditDoor};
pub use doctor::DoctorCommand;
pub use logs::{LogDoor, Pipes};
pub use run::run;

/// Shown when the program is started by hand with nothing. The exit code is 1: it has done nothing.
#[must_use]
pub fn explanation() -> String {
    format!(
        "containerd-driver {} is a Nomad task driver for containerd.\n\n\
         Nomad starts it by itself: put this program into the agent's plugin directory and use\n\
         `driver = \"containerd-driver\"` in a task. By hand it can do this:\n\n\
         \u{20} containerd-driver run IMAGE [-- ARGS…]   run one task in the foreground, without Nomad\n\
         \u{20} containerd-driver audit                  list what tasks have left behind, and remove it\n\
         \u{20} containerd-driver config                 show every option with its default\n\
         \u{20} containerd-driver doctor                 look what is wrong with this node\n\
         \u{20} containerd-driver version                show the version\n\n\
         `containerd-driver help` tells more.\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// What `version` prints.
#[must_use]
pub fn version() -> String {
    format!("containerd-driver {}\n", env!("CARGO_PKG_VERSION"))
}

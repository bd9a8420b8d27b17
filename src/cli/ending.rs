//! How a foreground run ended, as exit code and sentence. Codes are `docker run`'s: 125 the driver, 126 and 127 the
//! command, else the task's own (128+n after signal n).

use crate::messages::AskError;
use crate::messages::container::ContainerError;
use crate::messages::task::TaskError;
use crate::spec::record::ExitRecord;

/// The driver failed.
const DRIVER: u8 = 125;
/// The command is there and cannot be run.
const NOT_RUNNABLE: u8 = 126;
/// The command is not there.
const NOT_THERE: u8 = 127;

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The task ran and ended.
    Exited(ExitRecord),
    /// It was not started or not followed to its end.
    Refused(TaskError),
    /// The driver's own parts did not answer, or a log stream could not be set up.
    Driver(String),
    /// A signal came before the task ran.
    Interrupted(i32),
}

impl Ending {
    /// The exit code of the command line.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Exited(exit) if exit.lost.is_empty() => u8::try_from(exit.code & 0xff).unwrap_or(DRIVER),
            Self::Refused(TaskError::Container(ContainerError::Command { reason, .. })) => command_code(reason),
            Self::Exited(_) | Self::Refused(_) | Self::Driver(_) => DRIVER,
            Self::Interrupted(signal) => u8::try_from(128 + (signal & 0x7f)).unwrap_or(DRIVER),
        }
    }

    /// What to say on standard error, if anything.
    #[must_use]
    pub fn sentence(&self) -> Option<String> {
        match self {
            Self::Exited(exit) if !exit.lost.is_empty() => {
                Some(format!("the exit of the task is not known: {}", exit.lost))
            }
            Self::Exited(exit) if exit.oom => Some("the kernel killed a process of the task for want of memory".into()),
            Self::Exited(_) | Self::Interrupted(_) => None,
            Self::Refused(error) => Some(error.to_string()),
            Self::Driver(text) => Some(text.clone()),
        }
    }
}

impl From<AskError> for Ending {
    fn from(error: AskError) -> Self {
        Self::Driver(error.to_string())
    }
}

/// A convenience for shells, as docker has it; no decision of the driver hangs on these words, which are runc's, crun's
/// and the kernel's.
fn command_code(reason: &str) -> u8 {
    let reason = reason.to_ascii_lowercase();
    if reason.contains("not found") || reason.contains("no such file") {
        NOT_THERE
    } else {
        NOT_RUNNABLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: i32) -> ExitRecord {
        ExitRecord {
            code,
            oom: false,
            at: 0,
            lost: String::new(),
        }
    }

    #[test]
    fn codes_are_those_of_docker_run() {
        assert_eq!(Ending::Exited(exit(0)).code(), 0);
        assert_eq!(Ending::Exited(exit(137)).code(), 137);
        assert_eq!(
            Ending::Exited(ExitRecord {
                lost: "x".into(),
                ..exit(0)
            })
            .code(),
            125
        );
        assert_eq!(Ending::Interrupted(2).code(), 130);
        assert_eq!(Ending::Driver(String::new()).code(), 125);
        let command = |reason: &str| {
            Ending::Refused(TaskError::Container(ContainerError::Command {
                option: "args",
                command: "x".into(),
                reason: reason.into(),
            }))
        };
        assert_eq!(command("exec: \"x\": executable file not found in $PATH").code(), 127);
        assert_eq!(command("permission denied").code(), 126);
        assert!(command("y").sentence().unwrap().contains("cannot be started"));
    }
}

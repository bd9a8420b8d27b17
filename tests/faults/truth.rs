//! What may be told of a task, given what was asked of it. Pure.
//!
//! Faults do not come up here: under whatever fault, an answer is an error or it is true. What was asked counts from the
//! moment before the call on and whether or not it was answered, since a call that was answered with an error may have had
//! its effect.

use testhost::wire::driver::ExitResult;
use tonic::{Code, Status};

use crate::plan::{Kind, Sig};

/// What was asked of a task, and told of it.
#[derive(Clone, Debug)]
pub struct Facts {
    pub kind: Kind,
    /// SIGTERM, by signal or by stop.
    pub term: bool,
    /// SIGKILL, by signal, by the end of a grace or by force.
    pub kill: bool,
    /// The removal, in a way that may succeed.
    pub destroy: bool,
    /// A signal that ends it was told to be sent.
    pub doomed: bool,
    /// The first exit that was told.
    pub exit: Option<(i32, i32)>,
    /// A stop or a removal was answered without an error.
    pub ended: bool,
}

impl Facts {
    pub fn new(kind: Kind) -> Facts {
        Facts {
            kind,
            term: false,
            kill: false,
            destroy: false,
            doomed: false,
            exit: None,
            ended: false,
        }
    }

    pub fn signalled(&mut self, signal: Sig) {
        match signal {
            Sig::Usr1 => {}
            Sig::Term => self.term = true,
            Sig::Kill => self.kill = true,
        }
    }

    /// A signal is told to be sent. Whoever says so has to tell of an exit soon.
    pub fn told_sent(&mut self, signal: Sig) {
        self.doomed |= match signal {
            Sig::Usr1 => false,
            Sig::Term => matches!(self.kind, Kind::Obeys(_)),
            Sig::Kill => true,
        };
    }

    /// The process may have ended by now.
    pub fn may_have_ended(&self) -> bool {
        match self.kind {
            Kind::Ends(..) => true,
            Kind::Obeys(_) => self.term || self.kill,
            Kind::Ignores => self.kill,
        }
    }

    /// The process ends for certain, or has ended: by itself, or because it was told so.
    pub fn must_end(&self) -> bool {
        self.ended || self.doomed || self.exit.is_some() || matches!(self.kind, Kind::Ends(..))
    }

    /// An exit is told: it must be a possible one, and the same as before.
    pub fn told(&mut self, exit: &ExitResult, words: &str) -> Result<(), String> {
        let lie = |why: &str| Err(format!("a lie: {exit:?} {words:?} is told: {why}; {self:?}"));
        if exit.oom_killed {
            return lie("there is memory enough");
        }
        if !words.is_empty() && !self.destroy {
            return lie("the exit was not lost");
        }
        let killed = self.kill && (exit.exit_code == 137 || exit.signal == 9);
        let own = |code: i32| exit.exit_code == code && exit.signal == 0;
        let possible = match self.kind {
            Kind::Ends(code, _) => own(code) || killed,
            Kind::Obeys(code) => (self.term && own(code)) || killed,
            Kind::Ignores => killed,
        };
        if !possible {
            return lie("it cannot have ended so");
        }
        let told = (exit.exit_code, exit.signal);
        match self.exit {
            Some(before) if before != told => lie("it was another before"),
            _ => {
                self.exit = Some(told);
                Ok(())
            }
        }
    }

    /// It is told that the task runs.
    pub fn told_running(&self) -> Result<(), String> {
        match self.exit.is_some() || self.ended {
            true => Err(format!("a lie: the task is told to run after its end; {self:?}")),
            false => Ok(()),
        }
    }

    /// A call is answered with an error.
    pub fn told_error(&self, call: &str, status: &Status) -> Result<(), String> {
        match status.code() {
            // The host takes these for the death of the plugin.
            Code::Unavailable | Code::Cancelled => {
                Err(format!("{call}: {status:?}: the host takes the plugin for dead"))
            }
            Code::NotFound if !self.destroy => Err(format!("a lie: {call}: {status:?}; {self:?}")),
            _ => Ok(()),
        }
    }

    /// A command that is to end with this code is answered.
    pub fn told_command(&self, wanted: i32, answer: &ExitResult, stdout: &[u8]) -> Result<(), String> {
        let right = answer.exit_code == wanted && stdout == format!("x{wanted}\n").as_bytes();
        // Taken along by the end of the task.
        let taken_along = self.may_have_ended() && (answer.exit_code == 137 || answer.signal == 9);
        match right || taken_along {
            true => Ok(()),
            false => Err(format!(
                "a lie: the command is told to have ended with {answer:?} after {:?}, not with {wanted}; {self:?}",
                String::from_utf8_lossy(stdout)
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(exit_code: i32, signal: i32) -> ExitResult {
        ExitResult {
            exit_code,
            signal,
            oom_killed: false,
        }
    }

    #[test]
    fn only_what_was_asked_can_have_ended_a_task() {
        let mut facts = Facts::new(Kind::Obeys(7));
        assert!(facts.clone().told(&exit(7, 0), "").is_err(), "nobody asked");
        assert!(facts.clone().told(&exit(137, 9), "").is_err());
        facts.signalled(Sig::Usr1);
        assert!(!facts.may_have_ended());
        facts.signalled(Sig::Term);
        assert!(facts.clone().told(&exit(8, 0), "").is_err(), "another code");
        assert!(facts.clone().told(&exit(137, 9), "").is_err(), "not killed");
        facts.told(&exit(7, 0), "").unwrap();
        facts.kill = true;
        assert!(facts.told(&exit(137, 9), "").is_err(), "another than before");
        assert!(facts.told_running().is_err());
        let mut deaf = Facts::new(Kind::Ignores);
        deaf.signalled(Sig::Term);
        deaf.told_sent(Sig::Term);
        assert!(!deaf.may_have_ended() && !deaf.must_end());
        deaf.signalled(Sig::Kill);
        deaf.told_sent(Sig::Kill);
        assert!(deaf.must_end());
        deaf.told(&exit(137, 9), "").unwrap();
    }

    #[test]
    fn no_exit_is_lost_and_no_task_unknown_before_it_is_destroyed() {
        let mut facts = Facts::new(Kind::Ends(0, 0));
        assert!(facts.clone().told(&exit(0, 0), "lost").is_err());
        let unknown = Status::not_found("");
        assert!(facts.told_error("x", &unknown).is_err());
        facts.destroy = true;
        facts.told_error("x", &unknown).unwrap();
        assert!(facts.told_error("x", &Status::unavailable("")).is_err());
        facts.told_error("x", &Status::failed_precondition("")).unwrap();
        facts.told(&exit(0, 0), "lost").unwrap();
        let oom = ExitResult {
            oom_killed: true,
            ..exit(0, 0)
        };
        assert!(facts.told(&oom, "").is_err());
    }

    #[test]
    fn a_command_is_told_with_its_code_and_its_words() {
        let mut facts = Facts::new(Kind::Obeys(7));
        facts.told_command(3, &exit(3, 0), b"x3\n").unwrap();
        assert!(facts.told_command(3, &exit(3, 0), b"").is_err());
        assert!(facts.told_command(3, &exit(-1, 0), b"x3\n").is_err());
        assert!(facts.told_command(3, &exit(137, 9), b"").is_err());
        facts.kill = true;
        facts.told_command(3, &exit(137, 9), b"").unwrap();
    }
}

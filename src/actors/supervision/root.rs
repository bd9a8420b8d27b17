//! | `Root` | |
//! |---|---|
//! | owns | the children, their replacement, escalation |
//! | asked | `OpenTask` |
//! | told | `ChildExit` |
//! | tells | process exit, as the last resort |
//! | mailbox | 256 |
//! | restart | in place; its state is the address book, which it does not own |

use super::policy::{Decision, FailureHistory, RestartPolicy};
use super::tree::Nursery;
use crate::messages::lifecycle::{ChildEnd, ChildExit, ChildName, OpenTask};
use crate::messages::{Ask, Fact as _, Request as _, Tell};
use crate::telemetry::propagate::handling;
use crate::telemetry::{Counter, names};
use actix::{Actor, Context, Handler, Supervised};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// Places in the mailbox.
pub const MAILBOX: usize = 256;

/// How often one child was replaced, by the way it ended.
#[derive(Debug, Default)]
pub struct Replacements {
    escalated: FailureHistory,
    other: FailureHistory,
}

impl Replacements {
    /// Records an end at `now` and decides.
    pub fn record(&mut self, end: &ChildEnd, now: Instant) -> Decision {
        match end {
            ChildEnd::Escalated(_) => self.escalated.record(&RestartPolicy::ESCALATED, now),
            ChildEnd::Stopped | ChildEnd::Aborted => self.other.record(&RestartPolicy::REPLACEMENT, now),
        }
    }
}

/// See the module.
pub struct Root {
    nursery: Arc<Nursery>,
    replacements: HashMap<ChildName, Replacements>,
}

impl Root {
    /// A root over this nursery.
    #[must_use]
    pub fn new(nursery: Arc<Nursery>) -> Self {
        Self {
            nursery,
            replacements: HashMap::new(),
        }
    }

    fn on_exit(&mut self, exit: &ChildExit) {
        if !self.nursery.is_current(exit) {
            return;
        }
        match (&exit.child, &exit.end) {
            // A task supervisor ends by itself only when its task was destroyed.
            (ChildName::Task(task), ChildEnd::Stopped) => {
                self.replacements.remove(&exit.child);
                self.nursery.bury_task(task);
            }
            (_, end) => {
                Counter::ActorReplacements.bump();
                let history = self.replacements.entry(exit.child.clone()).or_default();
                match history.record(end, Instant::now()) {
                    Decision::RestartAfter(_) => {
                        tracing::warn!(child = ?exit.child, end = ?end, "replacing an actor that ended");
                        self.nursery.replace(&exit.child);
                    }
                    Decision::Escalate => self.give_up(&exit.child, end),
                }
            }
        }
    }
}

impl Root {
    /// A task that cannot be looked after ends alone; without one of the others nothing works.
    fn give_up(&mut self, child: &ChildName, end: &ChildEnd) {
        match child {
            ChildName::Task(task) => {
                tracing::error!(child = ?child, end = ?end, "the supervisor of a task cannot be kept alive, giving the task up");
                self.replacements.remove(child);
                self.nursery.give_up_task(task, end);
            }
            ChildName::Singleton(_) => {
                tracing::error!(child = ?child, end = ?end, "an actor cannot be kept alive, ending the process");
                self.nursery.last_resort(format!("{child:?}: {end:?}"));
            }
        }
    }
}

impl Actor for Root {
    type Context = Context<Self>;

    /// An exit whose news was in a dead root's hands is found here.
    fn started(&mut self, _ctx: &mut Self::Context) {
        for exit in self.nursery.unattended() {
            self.on_exit(&exit);
        }
    }
}

impl Supervised for Root {
    fn restarting(&mut self, _ctx: &mut Self::Context) {
        self.replacements.clear();
    }
}

impl Handler<Ask<OpenTask>> for Root {
    type Result = ();

    fn handle(&mut self, ask: Ask<OpenTask>, _ctx: &mut Self::Context) {
        let span = handling!(ask.cx, names::TASK_OPEN, "root", OpenTask::NAME, { names::TASK_ID } = %ask.req.task);
        span.in_scope(|| self.nursery.open_task(&ask.req.task));
        // Ended before the answer, so that no span outlives its parent without need.
        drop(span);
        ask.reply.send(());
    }
}

impl Handler<Tell<ChildExit>> for Root {
    type Result = ();

    fn handle(&mut self, tell: Tell<ChildExit>, _ctx: &mut Self::Context) {
        let span = handling!(tell.cx, names::ACTOR_MESSAGE, "root", ChildExit::NAME);
        span.in_scope(|| self.on_exit(&tell.fact));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn an_actor_that_panics_for_ever_is_given_up_with_its_second_escalation() {
        let (mut history, now) = (Replacements::default(), Instant::now());
        let escalated = ChildEnd::Escalated("again".to_owned());
        assert_eq!(history.record(&escalated, now), Decision::RestartAfter(Duration::ZERO));
        assert_eq!(
            history.record(&escalated, now + Duration::from_secs(60)),
            Decision::Escalate
        );
    }

    #[test]
    fn an_escalation_now_and_then_is_forgiven() {
        let (mut history, now) = (Replacements::default(), Instant::now());
        for hour in 0..10 {
            let end = ChildEnd::Escalated("again".to_owned());
            assert_eq!(
                history.record(&end, now + Duration::from_secs(3600 * hour)),
                Decision::RestartAfter(Duration::ZERO)
            );
        }
    }
}

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
use crate::messages::{Ask, Tell};
use crate::telemetry::Counter;
use actix::{Actor, Context, Handler, Supervised};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// Places in the mailbox.
pub const MAILBOX: usize = 256;

/// See the module.
pub struct Root {
    nursery: Arc<Nursery>,
    replacements: HashMap<ChildName, FailureHistory>,
}

impl Root {
    /// A root over this nursery.
    #[must_use]
    pub fn new(nursery: Arc<Nursery>) -> Self {
        Self { nursery, replacements: HashMap::new() }
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
                match history.record(&RestartPolicy::REPLACEMENT, Instant::now()) {
                    Decision::RestartAfter(_) => {
                        tracing::warn!(child = ?exit.child, end = ?end, "replacing an actor that ended");
                        self.nursery.replace(&exit.child);
                    }
                    Decision::Escalate => {
                        tracing::error!(child = ?exit.child, end = ?end, "an actor cannot be kept alive, ending the process");
                        self.nursery.last_resort(format!("{:?}: {end:?}", exit.child));
                    }
                }
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
        self.nursery.open_task(&ask.req.task);
        ask.reply.send(());
    }
}

impl Handler<Tell<ChildExit>> for Root {
    type Result = ();

    fn handle(&mut self, tell: Tell<ChildExit>, _ctx: &mut Self::Context) {
        self.on_exit(&tell.fact);
    }
}

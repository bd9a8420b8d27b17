//! A command in the task. The supervisor only says whether the task runs; the work is a task of the I/O runtime that
//! belongs to nobody, so that neither the death of the supervisor nor its mailbox touches a command that runs.
//!
//! The handler has no point at which it waits: a supervisor that dies has either not begun with a request, and it is
//! asked again, or has answered it with the ends of the channels. So no command runs twice and no answer is lost.

mod drain;
mod kill;
mod pump;
mod run;
mod sweep;

use super::{ACTOR, TaskSupervisor};
use crate::messages::exec::{Exec, ExecSession};
use crate::messages::task::TaskError;
use crate::messages::{Ask, Request as _};
use crate::telemetry::names;
use crate::telemetry::propagate::handling;
use actix::Handler;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tracing::{Instrument as _, field};

/// Pieces of input that wait for the command to read them. Then the client waits.
const INPUTS: usize = 64;

/// Pieces of output, of up to 32 KiB each, that wait for the client to read them. Then the command waits.
const OUTPUTS: usize = 8;

impl Handler<Ask<Exec>> for TaskSupervisor {
    type Result = ();

    fn handle(&mut self, ask: Ask<Exec>, _ctx: &mut Self::Context) {
        let Ask { req, cx, reply, .. } = ask;
        let span = handling!(cx, names::TASK_EXEC, ACTOR, Exec::NAME, { names::TASK_ID } = %self.id, { names::CONTAINER_ID } = %self.container, { names::TERMINAL } = req.terminal, { names::EXEC_ID } = field::Empty, { names::EXIT_CODE } = field::Empty);
        if let Some(doubt) = self.doubt() {
            return reply.send(Err(doubt));
        }
        if !self.state.is_alive() {
            return reply.send(Err(match self.state {
                super::State::Absent | super::State::Destroyed => TaskError::NotFound,
                _ => TaskError::WrongState {
                    action: "run a command",
                    state: self.state.name(),
                },
            }));
        }
        let (input, inputs) = mpsc::channel(INPUTS);
        let (outputs, output) = mpsc::channel(OUTPUTS);
        let (size, sizes) = watch::channel(None);
        let work = run::Work {
            _live: self.shared.execs.live(),
            shared: Arc::clone(&self.shared),
            configured: self.configured(),
            container: self.container.clone(),
            req,
            inputs,
            sizes,
            outputs,
        };
        self.shared.io.spawn(work.run().instrument(span));
        reply.send(Ok(ExecSession { input, size, output }));
    }
}

impl TaskSupervisor {
    /// Kills what commands of an earlier plugin process there are, whose clients are gone with it.
    pub(super) fn sweep_execs(&self) {
        // Without a configuration nothing was recovered either.
        let Ok(configured) = self.configured() else { return };
        let (shared, container) = (Arc::clone(&self.shared), self.container.clone());
        self.shared
            .io
            .spawn(sweep::sweep(shared, configured.gateway, container));
    }
}

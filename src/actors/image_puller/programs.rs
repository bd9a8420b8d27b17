//! Credential programs, each asked once for a registry while its answer is fresh: a job of fifty tasks runs it once.

use crate::host::credentials as kept;
use crate::messages::image::Credentials;
use crate::spec::registry_auth::{helper_answer, helper_questions, says_not_found};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;

/// How long an answer is used. Programs keep their own answers until these expire; this only spares the processes.
const FRESH: Duration = Duration::from_secs(60);

type Answer = Arc<OnceCell<Option<Credentials>>>;

/// By program and host: when it was asked, and what it says.
type Asked = HashMap<(String, String), (Instant, Answer)>;

/// What credential programs have answered lately. Cheap to clone; clones share it.
#[derive(Clone, Default)]
pub(super) struct Programs(Arc<Mutex<Asked>>);

impl fmt::Debug for Programs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Programs")
    }
}

impl Programs {
    /// The credentials that a program has for a host; `None` for none. Whoever asks for the same meanwhile waits for the
    /// same answer. An error is not kept: it says why, and whether it may go better next time.
    pub(super) async fn ask(&self, helper: &str, host: &str) -> Result<Option<Credentials>, (String, bool)> {
        let answer = self.place(helper, host);
        answer.get_or_try_init(|| ask(helper, host)).await.cloned()
    }

    /// What was said about this host is not good any more.
    pub(super) fn forget(&self, host: &str) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(_, of), _| of != host);
    }

    fn place(&self, helper: &str, host: &str) -> Answer {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (asked, _)| asked.elapsed() < FRESH);
        let key = (helper.to_owned(), host.to_owned());
        let (_, answer) = known.entry(key).or_insert_with(|| (Instant::now(), Answer::default()));
        Arc::clone(answer)
    }
}

/// The programs that a pull waits for, for the words of one that takes too long. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Asking(Arc<Mutex<Vec<String>>>);

/// One that is waited for, until it is dropped.
pub(super) struct Awaited<'a>(&'a Asking, String);

impl Asking {
    pub(super) fn begins(&self, program: String) -> Awaited<'_> {
        self.names().push(program.clone());
        Awaited(self, program)
    }

    /// The name of one.
    pub(super) fn now(&self) -> Option<String> {
        self.names().first().cloned()
    }

    fn names(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        let mut names = self.0.names();
        let at = names.iter().position(|name| *name == self.1);
        at.map(|at| names.swap_remove(at));
    }
}

async fn ask(helper: &str, host: &str) -> Result<Option<Credentials>, (String, bool)> {
    for question in helper_questions(host) {
        let answer = kept::ask(helper, &question).await;
        let answer = answer.map_err(|fault| (fault.to_string(), fault.is_transient()))?;
        if answer.success {
            let found = helper_answer(&answer.stdout).map_err(|reason| (reason.to_owned(), false))?;
            if found.is_some() {
                return Ok(found);
            }
        } else if !says_not_found(&answer.stdout) && !says_not_found(&answer.stderr) {
            // Not its words: what it prints may be the secret.
            return Err((format!("it ended with {}", answer.ended), true));
        }
    }
    Ok(None)
}

//! Test builds only: the steps of a task's life at which this process can be made to stop, so that a test can kill it
//! exactly there.
//!
//! The steps are a closed set. Code says `step!(ContainerCreated)` where one is reached; without the feature `chaos` that
//! is nothing. One step can be armed at a time, by the control socket, and whoever reaches it first is halted for good.

/// One line of the list of steps.
#[cfg(feature = "chaos")]
macro_rules! steps {
    ($($id:ident $name:literal : $doc:literal;)*) => {
        /// A point between two effects of the driver.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Step {
            $(#[doc = $doc] $id),*
        }

        impl Step {
            /// All of them, in the order of a task's life.
            pub const ALL: &[Self] = &[$(Self::$id),*];

            /// Its name on the control socket.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$id => $name),* }
            }
        }
    };
}

#[cfg(feature = "chaos")]
steps! {
    PullLeased "pull-leased": "The lease of a pull is made, nothing is fetched.";
    PullFilled "pull-filled": "All of an image is fetched and unpacked by ourselves, and its record is not made.";
    PullRecorded "pull-recorded": "The record of an image is made, and the lease of its pull is still there.";
    StartImage "start-image": "The image is there, nothing of the container is made.";
    StartRecord "start-record": "The container record is made.";
    StartRunDir "start-run-dir": "The directory of generated files is made and empty.";
    StartFiles "start-files": "The generated files are written.";
    StartSnapshot "start-snapshot": "The snapshot is made.";
    StartStdin "start-stdin": "The pipe for standard input is made, if there is one.";
    StartTask "start-task": "The task is created, its process waits.";
    StartPlaced "start-placed": "Mounts are looked at and the process is in its cpuset.";
    StartRuns "start-runs": "The process was started.";
    StartLogs "start-logs": "The log pipe that a terminal leaves unused has ended, if there is one.";
    StartKnown "start-known": "The supervisor knows the start, its asker has no answer.";
    ExitSeen "exit-seen": "The exit is known, and not written into the label.";
    ExitKept "exit-kept": "The exit is in the label of the container.";
    StopSignalled "stop-signalled": "A signal of a stop or a kill was sent, its asker has no answer.";
    ExecPipes "exec-pipes": "The pipes of a command are made.";
    ExecAdded "exec-added": "A command has an entry in containerd.";
    ExecStarted "exec-started": "The process of a command was started.";
    ExecEnded "exec-ended": "A command has ended, its entry and its pipes are there.";
    ExecDeleted "exec-deleted": "The entry of a command is removed, its pipes are there.";
    RemoveBegun "remove-begun": "The container to be removed was looked up, all of it is there.";
    RemoveKilled "remove-killed": "What ran was killed, the task is there.";
    RemoveTask "remove-task": "The task is deleted.";
    RemoveSnapshot "remove-snapshot": "The snapshot is removed.";
    RemoveFiles "remove-files": "Cgroup and generated files are removed, only the container record is there.";
    RemoveRecord "remove-record": "All is removed, its asker has no answer.";
}

/// Says that a step is reached. In async code; the form `blocking` is for code that may block its thread.
#[cfg(feature = "chaos")]
macro_rules! step {
    (blocking $step:ident) => {
        $crate::telemetry::steps::reached_blocking($crate::telemetry::steps::Step::$step)
    };
    ($step:ident) => {
        $crate::telemetry::steps::reached($crate::telemetry::steps::Step::$step).await
    };
}
#[cfg(not(feature = "chaos"))]
macro_rules! step {
    (blocking $step:ident) => {};
    ($step:ident) => {};
}
pub(crate) use step;

#[cfg(feature = "chaos")]
pub use halting::{Halted, arm, reached, reached_blocking};

#[cfg(feature = "chaos")]
mod halting {
    use super::Step;
    use std::sync::{Mutex, PoisonError};
    use std::time::Duration;
    use tokio::sync::oneshot;

    /// Resolves when the armed step is reached; with an error if another was armed meanwhile.
    pub type Halted = oneshot::Receiver<()>;

    struct Armed {
        step: Step,
        /// How long the work goes on before the report. `None`: it is halted at the step.
        after: Option<Duration>,
        report: oneshot::Sender<()>,
    }

    static ARMED: Mutex<Option<Armed>> = Mutex::new(None);

    /// Arms a step in place of the one that is armed.
    ///
    /// With `after`, work that reaches it is not halted but goes on, and the report follows so long after: for moments
    /// inside the next call.
    pub fn arm(step: Step, after: Option<Duration>) -> Halted {
        let (report, halted) = oneshot::channel();
        *ARMED.lock().unwrap_or_else(PoisonError::into_inner) = Some(Armed { step, after, report });
        halted
    }

    fn take(step: Step) -> Option<Armed> {
        let mut armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner);
        armed.take_if(|armed| armed.step == step)
    }

    /// Halts the caller for good if the step is armed.
    pub async fn reached(step: Step) {
        let Some(armed) = take(step) else { return };
        match armed.after {
            Some(after) => {
                tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    armed.report.send(()).ok();
                });
            }
            None => {
                // Whoever armed it may have hung up; the step is halted all the same.
                armed.report.send(()).ok();
                std::future::pending::<()>().await;
            }
        }
    }

    /// [`reached`] for code that may block its thread, which is then halted for good.
    pub fn reached_blocking(step: Step) {
        let Some(armed) = take(step) else { return };
        let (after, report) = (armed.after, armed.report);
        let tell = move || {
            std::thread::sleep(after.unwrap_or_default());
            report.send(()).ok();
        };
        match after {
            Some(_) => drop(std::thread::spawn(tell)),
            None => {
                tell();
                loop {
                    std::thread::park();
                }
            }
        }
    }
}

#[cfg(all(test, feature = "chaos"))]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::time::Duration;

    #[test]
    fn every_step_has_a_name_of_its_own() {
        let names: BTreeSet<_> = Step::ALL.iter().map(|step| step.name()).collect();
        assert_eq!(names.len(), Step::ALL.len());
        assert!(names.iter().all(|name| !name.contains(char::is_whitespace)));
    }

    /// One test, since there is one place for an armed step.
    #[tokio::test(start_paused = true)]
    async fn who_reaches_the_armed_step_first_is_halted_and_nobody_else() {
        let within = Duration::from_secs(1);
        let replaced = arm(Step::StartImage, None);
        let halted = arm(Step::StartRecord, None);
        assert!(replaced.await.is_err());
        assert!(tokio::time::timeout(within, reached(Step::StartImage)).await.is_ok());
        assert!(tokio::time::timeout(within, reached(Step::StartRecord)).await.is_err());
        assert_eq!(halted.await, Ok(()));
        assert!(tokio::time::timeout(within, reached(Step::StartRecord)).await.is_ok());
        let later = arm(Step::StartTask, Some(within));
        let begun = tokio::time::Instant::now();
        reached(Step::StartTask).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(later.await, Ok(()));
        assert!(begun.elapsed() >= within);
    }
}

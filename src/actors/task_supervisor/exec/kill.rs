//! The end of a command that is given up: of its process and of all that it has started.

use crate::containerd::Gateway;
use crate::host::session::Family;

const SIGKILL: u32 = 9;

/// Rounds of looking for more: a process may have made another before it was stopped.
const ROUNDS: usize = 8;

/// SIGKILL to the command and, if its process id is known, to its family. What containerd cannot do now is left to
/// whoever removes the command.
pub(super) async fn kill(gateway: &Gateway, container: &str, exec: &str, pid: Option<u32>) {
    if let Some(pid) = pid {
        let mut family = Family::of(pid);
        for _ in 0..ROUNDS {
            let Ok(pids) = gateway.task_pids(container).await else {
                break;
            };
            if tokio::task::block_in_place(|| family.hold(&pids)) == 0 {
                break;
            }
        }
        family.kill();
    }
    // By this way too: the processes of a runtime with a kernel of its own are not to be seen.
    if let Err(fault) = gateway.kill_exec(container, exec, SIGKILL).await {
        tracing::debug!(exec.id = exec, error = %fault, "a command cannot be killed by way of containerd");
    }
}

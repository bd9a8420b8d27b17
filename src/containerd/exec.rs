//! Execs: further processes in a container that runs. The shim keeps one entry per exec until it is deleted.

use super::Gateway;
use super::channel::Call;
use super::error::{fault, found};
use super::types::nanoseconds;
use crate::messages::runtime::ContainerdFault;
use containerd_client::services::v1 as proto;
use containerd_client::types::v1::Status;
use std::path::PathBuf;

/// The name under which containerd finds the Go type of an OCI process (`typeurl`); there is no protobuf behind it.
const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// A process to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewExec {
    /// The container.
    pub container: String,
    /// Its own name, unique in the container.
    pub id: String,
    /// The OCI process.
    pub process_json: Vec<u8>,
    /// FIFO for standard input; `None` for `/dev/null`.
    pub stdin: Option<PathBuf>,
    /// FIFO for standard output.
    pub stdout: Option<PathBuf>,
    /// FIFO for standard error; with a terminal there is none.
    pub stderr: Option<PathBuf>,
    /// Whether the process gets a terminal.
    pub terminal: bool,
}

impl Gateway {
    /// Makes the entry; nothing runs yet.
    ///
    /// # Errors
    /// `NotFound` if there is no task, any other fault.
    pub async fn add_exec(&self, new: NewExec) -> Result<(), ContainerdFault> {
        const CALL: Call = Call::within("add exec", 30);
        let text = |path: Option<PathBuf>| path.map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
        let request = CALL.request(proto::ExecProcessRequest {
            container_id: new.container,
            exec_id: new.id,
            stdin: text(new.stdin),
            stdout: text(new.stdout),
            stderr: text(new.stderr),
            terminal: new.terminal,
            spec: Some(prost_types::Any {
                type_url: PROCESS_TYPE.to_owned(),
                value: new.process_json,
            }),
        });
        CALL.answer(self.tasks().exec(request)).await
    }

    /// Starts the process. Returns its process id on the host.
    ///
    /// # Errors
    /// `Failed` with the runtime's words, any other fault.
    pub async fn start_exec(&self, container: &str, exec: &str) -> Result<u32, ContainerdFault> {
        const CALL: Call = Call::within("start exec", 60);
        let request = CALL.request(proto::StartRequest {
            container_id: container.to_owned(),
            exec_id: exec.to_owned(),
        });
        Ok(CALL.answer(self.tasks().start(request)).await?.pid)
    }

    /// Waits until the process has ended and returns its code. Without a deadline: the caller bounds it.
    ///
    /// # Errors
    /// `NotFound` if there is no such process; a broken connection is a fault, never an exit.
    pub async fn wait_exec(&self, container: &str, exec: &str) -> Result<i32, ContainerdFault> {
        let request = proto::WaitRequest {
            container_id: container.to_owned(),
            exec_id: exec.to_owned(),
        };
        let answer = self.tasks().wait(request).await;
        let answer = answer.map_err(|status| fault("wait for exec", &status))?.into_inner();
        Ok(super::tasks::exit_record(answer.exit_status, nanoseconds(answer.exited_at)).code)
    }

    /// Process id on the host of a process that runs; `None` if it has ended, has not begun, or is not known.
    ///
    /// # Errors
    /// Any fault but `NotFound`.
    pub async fn exec_pid(&self, container: &str, exec: &str) -> Result<Option<u32>, ContainerdFault> {
        const CALL: Call = Call::short("get exec");
        let request = CALL.request(proto::GetRequest {
            container_id: container.to_owned(),
            exec_id: exec.to_owned(),
        });
        let answer = found(CALL.answer(self.tasks().get(request)).await)?;
        Ok(answer
            .and_then(|a| a.process)
            .filter(|p| p.status() != Status::Stopped && p.pid > 0)
            .map(|p| p.pid))
    }

    /// Sends a signal to the process. One that has ended, or is not known, is no fault.
    ///
    /// # Errors
    /// Any fault but `NotFound`.
    pub async fn kill_exec(&self, container: &str, exec: &str, signal: u32) -> Result<(), ContainerdFault> {
        const CALL: Call = Call::short("kill exec");
        let request = CALL.request(proto::KillRequest {
            container_id: container.to_owned(),
            exec_id: exec.to_owned(),
            signal,
            all: false,
        });
        found(CALL.answer(self.tasks().kill(request)).await).map(|_| ())
    }

    /// Gives the terminal of the process a size.
    ///
    /// # Errors
    /// Any fault but `NotFound`.
    pub async fn resize_exec(
        &self,
        container: &str,
        exec: &str,
        (rows, columns): (u16, u16),
    ) -> Result<(), ContainerdFault> {
        const CALL: Call = Call::short("resize terminal");
        let request = CALL.request(proto::ResizePtyRequest {
            container_id: container.to_owned(),
            exec_id: exec.to_owned(),
            width: columns.into(),
            height: rows.into(),
        });
        found(CALL.answer(self.tasks().resize_pty(request)).await).map(|_| ())
    }

    /// Lets go of the writing end of standard input that the shim holds.
    ///
    /// # Errors
    /// Any fault but `NotFound`.
    pub async fn close_exec_stdin(&self, container: &str, exec: &str) -> Result<(), ContainerdFault> {
        const CALL: Call = Call::short("close input");
        let request = CALL.request(proto::CloseIoRequest {
            container_id: container.to_owned(),
            exec_id: exec.to_owned(),
            stdin: true,
        });
        found(CALL.answer(self.tasks().close_io(request)).await).map(|_| ())
    }

    /// Removes the entry of a process that has ended or was never started. The shim first waits some seconds for others
    /// that hold the process's output. One that is not known is no fault.
    ///
    /// # Errors
    /// `Failed` while it runs; any other fault but `NotFound`.
    pub async fn delete_exec(&self, container: &str, exec: &str) -> Result<(), ContainerdFault> {
        const CALL: Call = Call::within("delete exec", 30);
        let request = CALL.request(proto::DeleteProcessRequest {
            container_id: container.to_owned(),
            exec_id: exec.to_owned(),
        });
        found(CALL.answer(self.tasks().delete_process(request)).await).map(|_| ())
    }
}

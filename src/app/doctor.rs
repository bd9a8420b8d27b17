//! `containerd-driver doctor`: asks containerd and the machine, has it judged, prints. Starts no actor and changes
//! nothing.

use super::print;
use crate::cli::{self, DoctorCommand};
use crate::containerd::{Abilities, Gateway};
use crate::host::node::Node;
use crate::host::survey::{self, SearchPath};
use crate::messages::runtime::{ContainerdFault, FaultKind};
use crate::spec::doctor::{self, Daemon, Facts, Found, Plugins, RuntimeFacts, Serving, SocketState, Space};
use crate::spec::runtime;
use crate::spec::settings::Settings;
use std::path::Path;
use std::process::ExitCode;
use tokio::task::block_in_place;

/// Exit code where nothing could be looked at.
const EXIT_FAILED: u8 = 1;

/// Directories that are written to whatever containerd says.
const WRITTEN: [(&str, &str); 2] = [("pipes and sockets", "/run"), ("files of this process", "/tmp")];

/// Runs it on a runtime of its own.
pub(super) fn run(command: &DoctorCommand) -> ExitCode {
    let settings = command.settings(Settings::default());
    let io = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("io")
        .enable_all()
        .build();
    let io = match io {
        Ok(io) => io,
        Err(e) => return print(&format!("containerd-driver: I/O runtime: {e}\n"), true, EXIT_FAILED),
    };
    // On a worker, where it is allowed to block.
    let facts = io.block_on(async { io.spawn(async move { facts(&settings).await }).await });
    match facts {
        Ok(facts) => {
            let findings = doctor::judge(&facts);
            print(
                &cli::doctor::render(&findings, command.json),
                false,
                cli::doctor::code(&findings),
            )
        }
        Err(e) => print(&format!("containerd-driver: {e}\n"), true, EXIT_FAILED),
    }
}

async fn facts(settings: &Settings) -> Facts {
    let socket = Path::new(&settings.containerd_address);
    let socket_state = survey::socket_state(socket);
    let (mut daemon, mut abilities, mut process) = (Daemon::NotAsked, Abilities::default(), None);
    if socket_state == SocketState::Socket {
        (daemon, abilities) = ask(settings).await;
        process = survey::listener(socket).await;
    }
    block_in_place(|| {
        let node = Node::read();
        let opt = abilities.dirs.get("io.containerd.internal.v1.opt");
        let search = SearchPath::of(process, opt.map(String::as_str));
        let machine = survey::machine(&node, process);
        Facts {
            root: node.is_root,
            socket: settings.containerd_address.clone(),
            socket_state,
            snapshotter: settings.snapshotter.clone(),
            namespace: settings.containerd_namespace.clone(),
            daemon,
            runtime: runtime_facts(settings, &search),
            cgroups: machine.cgroups,
            kernel: machine.kernel,
            cni: machine.cni,
            limits: machine.limits,
            space: spaces(settings, &abilities),
            clock: machine.clock,
        }
    })
}

/// What containerd says of itself. One failed call is the answer: the next would only cost another deadline.
async fn ask(settings: &Settings) -> (Daemon, Abilities) {
    let none = Abilities::default;
    let gateway = match Gateway::new(&settings.containerd_address, &settings.containerd_namespace) {
        Ok(gateway) => gateway,
        Err(fault) => return (Daemon::Failed(fault.text), none()),
    };
    let version = match gateway.version().await {
        Ok(version) => version,
        Err(fault) => return (broken(fault), none()),
    };
    let not_serving = gateway.serving().await.err().map(|fault| fault.text);
    let abilities = gateway.abilities().await;
    let plugins = match &abilities {
        Ok(abilities) => Ok(Plugins {
            started: abilities.started.clone(),
            failed: abilities
                .plugins_failed
                .iter()
                .map(|plugin| (plugin.name.clone(), plugin.reason.clone()))
                .collect(),
        }),
        Err(fault) => Err(fault.text.clone()),
    };
    let serving = Serving {
        version: version.version,
        revision: version.revision,
        not_serving,
        plugins,
    };
    // Why there are none is in `plugins`.
    (Daemon::Serving(serving), abilities.unwrap_or_default())
}

fn broken(fault: ContainerdFault) -> Daemon {
    match fault.kind {
        FaultKind::Unreachable => Daemon::Unreachable(fault.text),
        FaultKind::Deadline => Daemon::Silent,
        FaultKind::NotFound
        | FaultKind::AlreadyExists
        | FaultKind::FailedPrecondition
        | FaultKind::Exhausted
        | FaultKind::Failed => Daemon::Failed(fault.text),
    }
}

fn runtime_facts(settings: &Settings, search: &SearchPath) -> RuntimeFacts {
    let name = settings.containerd_runtime.clone();
    let chosen = match runtime::default(settings) {
        Ok(chosen) => chosen,
        Err(refused) => {
            return RuntimeFacts {
                shim: survey::look_up(&name, search),
                name,
                refused: Some(refused.to_string()),
                binary: None,
                version: None,
            };
        }
    };
    let binary = chosen.program().map(|program| survey::look_up(program, search));
    let version = binary.as_ref().and_then(version_of);
    RuntimeFacts {
        name,
        refused: None,
        shim: survey::look_up(&chosen.shim(), search),
        binary,
        version,
    }
}

fn version_of(binary: &Found) -> Option<Result<String, String>> {
    let path = binary.path.as_ref()?;
    Some(survey::version_of(Path::new(path)).map_err(|e| e.reason))
}

/// Where images and snapshots are kept, as containerd tells, and what is written to beside.
fn spaces(settings: &Settings, abilities: &Abilities) -> Vec<Space> {
    let snapshots = format!("io.containerd.snapshotter.v1.{}", settings.snapshotter);
    let kept = [
        ("images", "io.containerd.content.v1.content"),
        ("snapshots", &snapshots),
    ];
    let of_containerd = kept
        .into_iter()
        .filter_map(|(what, plugin)| Some((what, abilities.dirs.get(plugin)?.as_str())));
    of_containerd
        .chain(WRITTEN)
        .map(|(what, path)| survey::space(what, Path::new(path)))
        .collect()
}

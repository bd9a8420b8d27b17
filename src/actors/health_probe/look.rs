//! One look at containerd and the node.

use super::attributes;
use super::verdict::{Finding, Serving};
use crate::actors::shared::{Configured, Shared};
use crate::containerd::Abilities;
use crate::host::survey::{self, SearchPath};
use crate::messages::runtime::ContainerdFault;
use crate::spec::gates::Gates;
use crate::spec::pull;
use crate::spec::runtime;
use crate::spec::settings::Settings;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// Programs with runc's command line whose version is an attribute, if containerd finds them.
const KNOWN: [&str; 3] = ["runc", "crun", "youki"];

/// The programs that containerd finds. They are asked for their versions when containerd begins to serve, and after a
/// change of the setting: an update of a program shows with the next start of containerd or of the plugin.
pub(super) struct Programs {
    runtime: String,
    versions: Vec<(String, String)>,
}

/// What there is to find. `known`: the programs, from the last look.
pub(super) async fn look(
    configured: &Configured,
    shared: &Shared,
    known: Option<Programs>,
) -> (Finding, Option<Programs>) {
    let settings = &configured.settings;
    if !settings.enabled {
        return (Finding::Disabled, None);
    }
    if !shared.node.is_root {
        return (Finding::NotRoot, None);
    }
    let gates = match Gates::of(settings) {
        Ok(gates) => gates,
        // Checked when the settings came; said here too rather than swallowed.
        Err(e) => return (Finding::BadSettings(e.to_string()), None),
    };
    let gateway = &configured.gateway;
    let version = match gateway.version().await {
        Ok(version) => version,
        Err(fault) => {
            let present = tokio::fs::try_exists(gateway.socket()).await.unwrap_or(false);
            return (missing(configured, fault, present), None);
        }
    };
    let abilities = match gateway.abilities().await {
        Ok(abilities) => abilities,
        Err(fault) => return (missing(configured, fault, true), None),
    };
    let transfer = abilities.transfer && pull::transfers_read_hosts(&version.version);
    shared.transfer.store(transfer, Ordering::Relaxed);
    let programs = programs(shared, settings, gateway.socket(), &abilities, known).await;
    let serving = Serving {
        version: version.version,
        revision: version.revision,
        snapshotters: abilities.snapshotters,
        snapshotter: settings.snapshotter.clone(),
        runtime: settings.containerd_runtime.clone(),
        programs: programs.versions.clone(),
        transfer,
        cgroup: shared.node.cgroups,
        gates,
    };
    (Finding::Serving(Box::new(serving)), Some(programs))
}

fn missing(configured: &Configured, fault: ContainerdFault, present: bool) -> Finding {
    Finding::Fault {
        fault,
        socket: configured.gateway.socket().to_owned(),
        present,
    }
}

async fn programs(
    shared: &Shared,
    settings: &Settings,
    socket: &str,
    abilities: &Abilities,
    known: Option<Programs>,
) -> Programs {
    let runtime = settings.containerd_runtime.clone();
    if let Some(known) = known.filter(|known| known.runtime == runtime) {
        return known;
    }
    let containerd = survey::listener(Path::new(socket)).await;
    let own = runtime::default(settings)
        .ok()
        .and_then(|chosen| chosen.program().map(str::to_owned));
    let opt = abilities.dirs.get("io.containerd.internal.v1.opt").cloned();
    // Programs are run: not on a thread that others wait for.
    let asked = shared
        .io
        .spawn_blocking(move || versions(containerd, opt.as_deref(), own));
    let versions = asked.await.unwrap_or_else(|e| {
        tracing::warn!(error = %e, "versions of runtimes are not known");
        Vec::new()
    });
    Programs { runtime, versions }
}

/// Name and version of each program that is found and tells one.
fn versions(containerd: Option<u32>, opt: Option<&str>, own: Option<String>) -> Vec<(String, String)> {
    let search = SearchPath::of(containerd, opt);
    let mut found: Vec<(String, String)> = Vec::new();
    // The one that is used goes before another of the same name.
    for program in own.into_iter().chain(KNOWN.map(str::to_owned)) {
        let name = Path::new(&program)
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        let Some(name) = name.filter(|name| found.iter().all(|(known, _)| known != name)) else {
            continue;
        };
        let Some(path) = survey::look_up(&program, &search).path.map(PathBuf::from) else {
            continue;
        };
        match survey::version_of(&path) {
            Ok(line) => found.extend(attributes::version_in(&line).map(|version| (name, version.to_owned()))),
            Err(e) => tracing::warn!(error = %e, "a runtime does not tell its version"),
        }
    }
    found
}

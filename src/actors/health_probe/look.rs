//! One look at containerd and the node.

use super::attributes;
use super::verdict::{Finding, Serving};
use crate::actors::shared::{Configured, Shared};
use crate::containerd::Abilities;
use crate::host::survey::{self, SearchPath};
use crate::messages::runtime::ContainerdFault;
use crate::spec::gates::Gates;
use crate::spec::pull;
use crate::spec::runtime::{self, Runtime};
use crate::spec::settings::Settings;
use std::iter;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// Programs with runc's command line whose version is an attribute, if containerd finds them.
const KNOWN: [&str; 3] = ["runc", "crun", "youki"];

/// The programs that containerd finds. They are asked for their versions when containerd begins to serve, after a
/// change of the setting, and when one comes or goes that the default runtime needs: an update of a program shows with the
/// next start of containerd or of the plugin.
pub(super) struct Programs {
    runtime: String,
    versions: Vec<(String, String)>,
    /// What the default runtime needs and containerd does not find.
    lacks: Option<String>,
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
        lacks: programs.lacks.clone(),
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
    let containerd = survey::listener(Path::new(socket)).await;
    let own = runtime::default(settings).ok();
    let opt = abilities.dirs.get("io.containerd.internal.v1.opt").cloned();
    // Programs are run: not on a thread that others wait for.
    let asked = shared.io.spawn_blocking(move || {
        let search = SearchPath::of(containerd, opt.as_deref());
        let lacks = own.as_ref().and_then(|own| lacking(own, &search));
        match known {
            Some(known) if known.runtime == runtime && known.lacks == lacks => known,
            _ => Programs {
                versions: versions(&search, own.as_ref().and_then(Runtime::program)),
                runtime,
                lacks,
            },
        }
    });
    asked.await.unwrap_or_else(|e| {
        tracing::warn!(error = %e, "versions of runtimes are not known");
        Programs {
            runtime: String::new(),
            versions: Vec::new(),
            lacks: None,
        }
    })
}

/// What the runtime needs and containerd does not find. Nothing if it is not known where containerd looks.
fn lacking(runtime: &Runtime, search: &SearchPath) -> Option<String> {
    let needed = iter::once(runtime.shim()).chain(runtime.program().map(str::to_owned));
    let mut looked = needed.map(|program| survey::look_up(&program, search));
    let missing = looked.find(|found| found.of_containerd && found.path.is_none())?;
    Some(if missing.name.contains('/') {
        format!("no program {}", missing.name)
    } else {
        format!(
            "{} is in none of containerd's directories {}",
            missing.name, missing.searched
        )
    })
}

/// Name and version of each program that is found and tells one.
fn versions(search: &SearchPath, own: Option<&str>) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    // The one that is used goes before another of the same name.
    for program in own.into_iter().chain(KNOWN) {
        let name = Path::new(program)
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        let Some(name) = name.filter(|name| found.iter().all(|(known, _)| known != name)) else {
            continue;
        };
        let Some(path) = survey::look_up(program, search).path.map(PathBuf::from) else {
            continue;
        };
        match survey::version_of(&path) {
            Ok(line) => found.extend(attributes::version_in(&line).map(|version| (name, version.to_owned()))),
            Err(e) => tracing::warn!(error = %e, "a runtime does not tell its version"),
        }
    }
    found
}

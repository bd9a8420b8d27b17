//! containerd: its socket, its answers, its plugins, its runtime.

use super::{Daemon, Facts, Finding, Found, Plugins, Serving, SocketState};
use crate::spec::pull::transfers_read_hosts;
use crate::spec::version::numbers;

/// Oldest containerd that the driver is tested with.
const OLDEST: (u32, u32) = (1, 6);

/// What the driver asks for in any case, by type and id (containerd's own names).
const NEEDED: [&str; 8] = [
    "io.containerd.content.v1.content",
    "io.containerd.grpc.v1.containers",
    "io.containerd.grpc.v1.content",
    "io.containerd.grpc.v1.events",
    "io.containerd.grpc.v1.images",
    "io.containerd.grpc.v1.leases",
    "io.containerd.grpc.v1.snapshots",
    "io.containerd.grpc.v1.tasks",
];

const SNAPSHOTTERS: &str = "io.containerd.snapshotter.v1.";

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![socket(facts)];
    found.extend(containerd(facts));
    if let Daemon::Serving(serving) = &facts.daemon {
        found.push(version(serving));
        match &serving.plugins {
            Ok(listed) => found.extend([plugins(listed), snapshotter(facts, listed), transfer(serving, listed)]),
            Err(why) => found.push(Finding::error(
                "plugins",
                format!("containerd does not list its plugins: {why}"),
                "look into containerd's log; the plugin io.containerd.grpc.v1.introspection must not be disabled",
            )),
        }
    }
    found.push(runtime(facts));
    found
}

fn socket(facts: &Facts) -> Finding {
    const ID: &str = "socket";
    let path = &facts.socket;
    match &facts.socket_state {
        SocketState::Socket => Finding::ok(ID, format!("{path} is a socket")),
        SocketState::Absent => Finding::error(
            ID,
            format!("nothing is at {path}"),
            "start containerd, or set containerd_address (here: --address) to the socket in its configuration, [grpc] address",
        ),
        SocketState::Other(kind) => Finding::error(
            ID,
            format!("{path} is no socket but a {kind}"),
            "set containerd_address (here: --address) to the socket in containerd's configuration, [grpc] address",
        ),
        SocketState::Unknown(why) => Finding::error(
            ID,
            format!("{path} cannot be looked at: {why}"),
            "run as root, and check the permissions of the directories above it",
        ),
    }
}

fn containerd(facts: &Facts) -> Option<Finding> {
    const ID: &str = "containerd";
    let path = &facts.socket;
    Some(match &facts.daemon {
        Daemon::NotAsked => return None,
        Daemon::Unreachable(why) => Finding::error(
            ID,
            format!("nobody answers at {path}: {why}"),
            "start containerd, e.g. systemctl start containerd; a socket that stays behind is removed by its next start",
        ),
        Daemon::Silent => Finding::error(
            ID,
            format!("whoever listens at {path} does not answer"),
            "look into containerd's log and at its load; kill -USR1 makes it log what it waits for; running containers outlive its restart",
        ),
        Daemon::Failed(why) => Finding::error(
            ID,
            format!("containerd answers at {path} with an error: {why}"),
            "look into containerd's log",
        ),
        Daemon::Serving(Serving {
            not_serving: Some(why), ..
        }) => Finding::error(
            ID,
            format!("containerd says that it does not serve: {why}"),
            "look into containerd's log",
        ),
        Daemon::Serving(_) => Finding::ok(
            ID,
            format!("containerd answers at {path}, namespace {}", facts.namespace),
        ),
    })
}

fn version(serving: &Serving) -> Finding {
    const ID: &str = "version";
    let (major, minor) = OLDEST;
    let revision = match serving.revision.as_str() {
        "" => String::new(),
        text => format!(" (revision {text})"),
    };
    let text = format!("containerd {}{revision}", serving.version);
    match numbers(&serving.version) {
        Some(found) if found < OLDEST => Finding::error(
            ID,
            text,
            format!("install containerd {major}.{minor} or later; older ones lack calls that the driver needs"),
        ),
        Some(_) => Finding::ok(ID, text),
        // A build of one's own may be called anything.
        None => Finding::warning(
            ID,
            format!("{text}: this is no version that can be compared"),
            format!("make sure that it is {major}.{minor} or later"),
        ),
    }
}

fn plugins(listed: &Plugins) -> Finding {
    const ID: &str = "plugins";
    let missing: Vec<String> = NEEDED
        .iter()
        .filter(|name| !listed.started.iter().any(|started| started == *name))
        .map(|name| match listed.failed.get(*name) {
            Some(why) => format!("{name} ({why})"),
            None => format!("{name} (not loaded)"),
        })
        .collect();
    if missing.is_empty() {
        // Snapshotters for file systems that are not here are in every list of failures, so these are not told.
        return Finding::ok(ID, format!("all {} plugins that are needed have started", NEEDED.len()));
    }
    Finding::error(
        ID,
        format!("containerd runs without {}", missing.join(", ")),
        "take them out of disabled_plugins in containerd's configuration, repair what its log says of them, and restart it",
    )
}

fn snapshotter(facts: &Facts, listed: &Plugins) -> Finding {
    const ID: &str = "snapshotter";
    let name = &facts.snapshotter;
    let plugin = format!("{SNAPSHOTTERS}{name}");
    if listed.started.contains(&plugin) {
        return Finding::ok(ID, format!("snapshotter {name} has started"));
    }
    let others: Vec<&str> = listed
        .started
        .iter()
        .filter_map(|plugin| plugin.strip_prefix(SNAPSHOTTERS))
        .collect();
    let remedy = format!(
        "set snapshotter (here: --snapshotter) to one of {}, or repair this one",
        others.join(", ")
    );
    match listed.failed.get(&plugin) {
        Some(why) => Finding::error(ID, format!("snapshotter {name:?} did not start: {why}"), remedy),
        None => Finding::error(ID, format!("containerd has no snapshotter {name:?}"), remedy),
    }
}

fn transfer(serving: &Serving, listed: &Plugins) -> Finding {
    let there = listed
        .started
        .iter()
        .any(|name| name.starts_with("io.containerd.transfer.v1"));
    let text = if !there {
        "this containerd has no transfer service; the driver pulls images by itself"
    } else if !transfers_read_hosts(&serving.version) {
        "this containerd's transfer service does not read hosts.toml; the driver pulls images by itself"
    } else {
        "containerd's transfer service pulls images"
    };
    Finding::ok("transfer", text)
}

fn runtime(facts: &Facts) -> Finding {
    const ID: &str = "runtime";
    let runtime = &facts.runtime;
    let name = &runtime.name;
    if let Some(why) = &runtime.refused {
        return Finding::error(
            ID,
            why.clone(),
            "set containerd_runtime (here: --runtime) to a runtime of this node",
        );
    }
    for program in std::iter::once(&runtime.shim).chain(&runtime.binary) {
        if let Some(missing) = missing(name, program) {
            return missing;
        }
    }
    let path = |found: &Found| found.path.clone().unwrap_or_default();
    let shim = path(&runtime.shim);
    match (&runtime.binary, &runtime.version) {
        (Some(binary), Some(Ok(version))) => {
            Finding::ok(ID, format!("runtime {name}: {shim}, {} ({version})", path(binary)))
        }
        (Some(binary), Some(Err(why))) => Finding::error(
            ID,
            format!("runtime {name}: {} --version: {why}", path(binary)),
            "install it anew: a program that cannot tell its version starts no container",
        ),
        (Some(binary), None) => Finding::ok(ID, format!("runtime {name}: {shim}, {}", path(binary))),
        (None, _) => Finding::ok(ID, format!("runtime {name}: {shim}")),
    }
}

fn missing(runtime: &str, program: &Found) -> Option<Finding> {
    const ID: &str = "runtime";
    if program.path.is_some() {
        return None;
    }
    let Found { name, searched, .. } = program;
    let remedy = format!("install {name} into one of these directories, or set containerd_runtime (here: --runtime)");
    Some(if program.of_containerd {
        Finding::error(
            ID,
            format!("runtime {runtime}: {name} is in none of containerd's directories {searched}"),
            remedy,
        )
    } else {
        // containerd's own directories could not be read: it may find what we do not.
        Finding::warning(
            ID,
            format!("runtime {runtime}: {name} is in none of {searched}; where containerd looks is not known"),
            remedy,
        )
    })
}

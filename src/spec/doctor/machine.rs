//! The machine: kernel, cgroups, networks, limits, room, time.

use super::{Facts, Finding, Free, PidsFacts, Severity, Space};

/// `openat2`, by which paths are resolved beneath a directory, came with it.
const KERNEL_OLDEST: (u32, u32) = (5, 6);

/// Controllers without which limits of a job cannot be set.
const CONTROLLERS: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];

/// Namespaces that every container has.
const NAMESPACES: [&str; 5] = ["ipc", "mnt", "net", "pid", "uts"];

/// Open files that a driver of some hundred tasks and its containerd need: a task has up to ten in each.
const NOFILE_FEW: u64 = 8192;
/// With fewer the driver itself, its connections and pipes do not fit.
const NOFILE_MIN: u64 = 1024;

/// The kernel's own default on small machines; a node of many tasks uses it up.
const PIDS_FEW: u64 = 32768;

/// Processes of one user that a node of some hundred tasks may have: tasks of one user id share the limit, whosever they are.
const NPROC_FEW: u64 = 4096;

/// Threads of a shim are a dozen, and it is in containerd's cgroup as a rule.
const PIDS_PER_SHIM: u64 = 12;
/// Room for the shims of a node of some hundred tasks.
const CGROUP_PIDS_FEW: u64 = 8192;
/// With less no other shim starts.
const CGROUP_PIDS_MIN: u64 = 2 * PIDS_PER_SHIM;

/// A dense node has more tasks.
const INOTIFY_FEW: u64 = 1024;

const MIB: u64 = 1 << 20;
/// Below it the next layer of an image does not fit.
const BYTES_MIN: u64 = 64 * MIB;
/// Below it the next image may not.
const BYTES_FEW: u64 = 1024 * MIB;
/// Below it hardly an image's files do not fit.
const INODES_MIN: u64 = 1000;
/// Below it the next image's may not.
const INODES_FEW: u64 = 20_000;

/// 2025-01-01, before which no version of this driver was made: certificates of registries are not valid then.
const EPOCH: i64 = 1_735_689_600;
/// Clocks of file systems and of builds may differ by so many seconds.
const CLOCK_SLACK: i64 = 86_400;

pub(super) fn root(facts: &Facts) -> Finding {
    if facts.root {
        return Finding::ok("root", "runs as root");
    }
    Finding::error(
        "root",
        "does not run as root, so that part of what follows may not be seen",
        "run it as root, and the Nomad agent too: tasks cannot be started otherwise",
    )
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![cgroups(facts), kernel(facts), confinement(facts), cni(facts)];
    found.extend([nofile(facts), processes(facts), daemon_processes(facts), inotify(facts)]);
    found.extend(facts.space.iter().map(space));
    found.push(clock(facts));
    found
}

fn cgroups(facts: &Facts) -> Finding {
    const ID: &str = "cgroups";
    let cgroups = &facts.cgroups;
    let version = if cgroups.unified { "version 2" } else { "version 1" };
    if !cgroups.mounted {
        return Finding::error(
            ID,
            "no cgroups at /sys/fs/cgroup",
            "mount them, e.g. mount -t cgroup2 none /sys/fs/cgroup",
        );
    }
    let missing: Vec<&str> = CONTROLLERS
        .into_iter()
        .filter(|name| !cgroups.controllers.iter().any(|there| there == name))
        .collect();
    if !missing.is_empty() {
        let remedy = if cgroups.unified {
            "enable them for the kernel (cgroup_enable= on its command line) and in /sys/fs/cgroup/cgroup.subtree_control"
        } else {
            "mount one hierarchy for each below /sys/fs/cgroup, or boot with cgroup version 2"
        };
        let text = format!("cgroup {version} without the controllers {}", missing.join(", "));
        // Only reserved cores need it: a task that has none runs as ever.
        return if missing == ["cpuset"] {
            Finding::warning(
                ID,
                format!("{text}: tasks with `cores` cannot be held to theirs"),
                remedy,
            )
        } else {
            Finding::error(ID, text, remedy)
        };
    }
    let swap = if cgroups.swap {
        "swap can be limited"
    } else {
        "swap cannot be limited"
    };
    Finding::ok(ID, format!("cgroup {version} with {}; {swap}", CONTROLLERS.join(", ")))
}

fn kernel(facts: &Facts) -> Finding {
    const ID: &str = "kernel";
    let kernel = &facts.kernel;
    let release = &kernel.release;
    let (major, minor) = KERNEL_OLDEST;
    if kernel.version != (0, 0) && kernel.version < KERNEL_OLDEST {
        return Finding::error(
            ID,
            format!("kernel {release} has no openat2"),
            format!("boot a kernel from {major}.{minor} on"),
        );
    }
    let missing: Vec<&str> = NAMESPACES
        .into_iter()
        .filter(|name| !kernel.namespaces.iter().any(|there| there == name))
        .collect();
    if !missing.is_empty() {
        return Finding::error(
            ID,
            format!("kernel {release} has no namespaces of kind {}", missing.join(", ")),
            "boot a kernel with CONFIG_NAMESPACES and all below it",
        );
    }
    if !facts.limits.no_namespaces.is_empty() {
        return Finding::error(
            ID,
            format!(
                "the kernel was told to allow no namespaces of kind {}",
                facts.limits.no_namespaces.join(", ")
            ),
            "set user.max_…_namespaces above 0, see /proc/sys/user",
        );
    }
    if facts.snapshotter == "overlayfs" && !kernel.overlay {
        return Finding::warning(
            ID,
            format!("kernel {release} does not show overlayfs, which the snapshotter needs"),
            "modprobe overlay, and name it in /etc/modules-load.d",
        );
    }
    Finding::ok(ID, format!("kernel {release}"))
}

/// What is missing here weakens a task, but does not keep it from running.
fn confinement(facts: &Facts) -> Finding {
    const ID: &str = "confinement";
    let kernel = &facts.kernel;
    if !kernel.seccomp {
        return Finding::warning(
            ID,
            "the kernel cannot filter system calls; tasks run without the default profile",
            "boot a kernel with CONFIG_SECCOMP_FILTER",
        );
    }
    if kernel.apparmor && !kernel.apparmor_parser {
        return Finding::warning(
            ID,
            "AppArmor is enabled, and no apparmor_parser is there to load a profile with",
            "install the package apparmor",
        );
    }
    let apparmor = if kernel.apparmor {
        "with AppArmor"
    } else {
        "without AppArmor"
    };
    Finding::ok(ID, format!("system calls can be filtered; {apparmor}"))
}

fn cni(facts: &Facts) -> Finding {
    const ID: &str = "cni";
    let cni = &facts.cni;
    if cni.missing.is_empty() {
        return Finding::ok(
            ID,
            format!("{} has what a group network of mode \"bridge\" needs", cni.dir),
        );
    }
    Finding::warning(
        ID,
        format!(
            "{} has no {}; groups with a network of mode \"bridge\" are not placed here",
            cni.dir,
            cni.missing.join(", ")
        ),
        "install the CNI reference plugins there, or where cni_path in the agent's client block says; other jobs need none",
    )
}

fn nofile(facts: &Facts) -> Finding {
    const ID: &str = "open-files";
    let limits = &facts.limits;
    let own = (
        "this process",
        limits.own_nofile.unwrap_or(u64::MAX),
        "LimitNOFILE in the unit of the Nomad agent, or ulimit -n",
    );
    let daemon = limits
        .daemon_nofile
        .map(|n| ("containerd", n, "LimitNOFILE in the unit of containerd"));
    let lowest = std::iter::once(own).chain(daemon).min_by_key(|(_, n, _)| *n);
    let Some((who, n, setting)) = lowest.filter(|(_, n, _)| *n < NOFILE_FEW) else {
        return Finding::ok(ID, "open files are not bounded too low");
    };
    let (text, remedy) = (
        format!("{who} may open {n} files"),
        format!("raise it to {} or more: {setting}", NOFILE_FEW * 8),
    );
    if n < NOFILE_MIN {
        Finding::error(ID, text, remedy)
    } else {
        Finding::warning(ID, text, remedy)
    }
}

fn processes(facts: &Facts) -> Finding {
    const ID: &str = "processes";
    match facts.limits.pid_max {
        Some(n) if n < PIDS_FEW => Finding::warning(
            ID,
            format!("the kernel has room for {n} processes and threads"),
            "sysctl kernel.pid_max=4194304 kernel.threads-max=4194304",
        ),
        Some(n) => Finding::ok(ID, format!("the kernel has room for {n} processes and threads")),
        None => Finding::ok(ID, "how many processes the kernel has room for is not known"),
    }
}

/// What bounds containerd bounds its shims and, for a limit per user, its tasks: a unit without `LimitNPROC` and `TasksMax` gets
/// systemd's defaults (systemd.exec(5), systemd.resource-control(5)).
fn daemon_processes(facts: &Facts) -> Finding {
    const ID: &str = "shim-limits";
    let limits = &facts.limits;
    if let Some(PidsFacts { cgroup, max, current }) = &limits.daemon_pids {
        let text =
            format!("cgroup {cgroup} of containerd and its shims has {current} of at most {max} processes and threads");
        const REMEDY: &str = "set TasksMax=infinity in the unit of containerd and of the slices above it";
        if max.saturating_sub(*current) < CGROUP_PIDS_MIN {
            return Finding::error(ID, format!("{text}: no other shim fits"), REMEDY);
        }
        if *max < CGROUP_PIDS_FEW {
            let shims = max / PIDS_PER_SHIM;
            return Finding::warning(ID, format!("{text}: enough for some {shims} shims"), REMEDY);
        }
    }
    match limits.daemon_nproc {
        Some(n) if n < NPROC_FEW => Finding::warning(
            ID,
            format!("tasks get containerd's limit of {n} processes for all that run as one user"),
            "set LimitNPROC=infinity in the unit of containerd",
        ),
        Some(_) => Finding::ok(
            ID,
            "processes of containerd, its shims and its tasks are not bounded too low",
        ),
        None => Finding::ok(
            ID,
            "how many processes containerd, its shims and its tasks may have is not known",
        ),
    }
}

/// With cgroup version 2 a shim has an instance of inotify for each of its tasks, by which it learns of a want of memory
/// (containerd's `cgroup2/manager.go`: `EventChan`). Exit reasons do not depend on it: the driver asks the kernel's counters.
fn inotify(facts: &Facts) -> Finding {
    const ID: &str = "inotify";
    let Some(n) = facts.limits.inotify else {
        return Finding::ok(ID, "how many instances of inotify the kernel allows is not known");
    };
    if facts.cgroups.unified && n < INOTIFY_FEW {
        return Finding::ok(
            ID,
            format!(
                "the kernel allows {n} instances of inotify, one a task; for more: sysctl fs.inotify.max_user_instances=8192"
            ),
        );
    }
    Finding::ok(ID, format!("the kernel allows {n} instances of inotify"))
}

fn space(space: &Space) -> Finding {
    const ID: &str = "space";
    let Space { what, path, free } = space;
    let Free {
        bytes,
        total_bytes,
        inodes,
        total_inodes,
    } = match free {
        Ok(free) => *free,
        Err(why) => {
            return Finding::warning(
                ID,
                format!("how much room there is for {what} in {path} is not known: {why}"),
                "look at the directory",
            );
        }
    };
    // A file system that is small by design, such as one in memory, is judged by what it can have.
    let scale = |least: u64, total: u64, share: u64| least.min(total / share);
    let (mib, total_mib) = (bytes / MIB, total_bytes / MIB);
    let severity = by(
        bytes,
        scale(BYTES_MIN, total_bytes, 100),
        scale(BYTES_FEW, total_bytes, 20),
    );
    if severity != Severity::Ok {
        return bad(
            ID,
            severity,
            format!("{mib} of {total_mib} MiB are free for {what} in {path}"),
            "make room: ctr images ls, ctr content ls and the logs of tasks show what takes it",
        );
    }
    let counted = total_inodes > 0;
    let severity = by(
        inodes,
        scale(INODES_MIN, total_inodes, 100),
        scale(INODES_FEW, total_inodes, 20),
    );
    if counted && severity != Severity::Ok {
        return bad(
            ID,
            severity,
            format!("{inodes} of {total_inodes} inodes are free for {what} in {path}"),
            "remove files, or make the file system with more inodes",
        );
    }
    Finding::ok(ID, format!("{mib} of {total_mib} MiB are free for {what} in {path}"))
}

fn by(left: u64, least: u64, few: u64) -> Severity {
    match left {
        0 => Severity::Error,
        n if n < least => Severity::Error,
        n if n < few => Severity::Warning,
        _ => Severity::Ok,
    }
}

fn bad(id: &'static str, severity: Severity, text: String, remedy: &str) -> Finding {
    Finding {
        id,
        severity,
        text,
        remedy: Some(remedy.to_owned()),
    }
}

fn clock(facts: &Facts) -> Finding {
    const ID: &str = "clock";
    let clock = facts.clock;
    if clock.now < EPOCH || clock.now.saturating_add(CLOCK_SLACK) < clock.not_before {
        return Finding::error(
            ID,
            "the clock is behind the date of this program, so that no certificate of a registry is valid yet",
            "set the clock and keep it by NTP, e.g. timedatectl set-ntp true",
        );
    }
    match clock.synchronised {
        Some(false) => Finding::warning(
            ID,
            "the clock has not been set by systemd's time service since the machine has started",
            "see timedatectl timesync-status: its servers may be out of reach",
        ),
        Some(true) => Finding::ok(ID, "the clock is set by systemd's time service"),
        None => Finding::ok(ID, "the clock is not behind"),
    }
}

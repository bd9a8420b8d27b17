//! Capabilities, system calls, privileges, hidden paths and namespaces.

use crate::bench::{Bench, container_of, group, namespace};
use crate::look::{bench, consent, crun, end, says, wants, with};
use serde_json::{Value as Json, json};
use std::path::Path;
use testhost::task::TaskSpec;

group!(isolation_runc, bench(consent()), if wants("runc"), {
    capabilities_are_the_default_set_and_what_was_added_and_dropped,
    programs_gain_no_privileges_unless_they_may,
    the_default_profile_filters_system_calls,
    a_profile_of_ones_own_filters_what_it_names,
    kernel_paths_are_hidden_and_read_only,
    a_privileged_task_has_it_all,
    namespaces_are_private_or_the_hosts_as_asked,
    kernel_parameters_are_those_of_the_container,
    who_is_not_root_can_use_a_low_port_of_the_containers_own,
    a_user_namespace_has_ids_of_its_own_where_snapshots_can_be_mapped,
    a_user_namespace_leaves_the_hosts_null_device_alone,
    contradictions_are_refused,
});
group!(isolation_crun, crun(), if wants("crun"), {
    who_is_not_root_can_use_a_low_port_of_the_containers_own,
    capabilities_are_the_default_set_and_what_was_added_and_dropped,
    programs_gain_no_privileges_unless_they_may,
    the_default_profile_filters_system_calls,
    kernel_paths_are_hidden_and_read_only,
    namespaces_are_private_or_the_hosts_as_asked,
    a_user_namespace_leaves_the_hosts_null_device_alone,
    a_command_leaves_the_hosts_null_device_alone,
});

const CHOWN: u64 = 1 << 0;
const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;
const SYS_ADMIN: u64 = 1 << 21;
/// containerd's default set.
const DEFAULT: u64 = 0xa804_25fb;

const CAPS: &str =
    "echo eff=$(sed -n 's/^CapEff:.//p' /proc/self/status); echo bnd=$(sed -n 's/^CapBnd:.//p' /proc/self/status)
    echo inh=$(sed -n 's/^CapInh:.//p' /proc/self/status); echo amb=$(sed -n 's/^CapAmb:.//p' /proc/self/status)";

async fn capabilities_are_the_default_set_and_what_was_added_and_dropped(b: &mut Bench) {
    for (options, want) in [
        (json!({}), DEFAULT),
        (
            json!({ "cap_add": ["NET_ADMIN"], "cap_drop": ["CAP_CHOWN"] }),
            (DEFAULT | NET_ADMIN) & !CHOWN,
        ),
        (json!({ "cap_drop": ["ALL"], "cap_add": ["CAP_NET_RAW"] }), NET_RAW),
        (json!({ "cap_drop": ["all"] }), 0),
    ] {
        let seen = b.look(options.clone(), CAPS).await;
        for (key, want) in [("eff", want), ("bnd", want), ("inh", 0), ("amb", 0)] {
            assert_eq!(
                u64::from_str_radix(seen.get(key), 16).unwrap(),
                want,
                "{key} of {options}"
            );
        }
    }
    // What was dropped does not come back, whatever a user may do.
    let script = "mkdir -p /tmp/x && touch /tmp/x/f && chown 1000 /tmp/x/f 2>/dev/null; echo chown=$?";
    let seen = b.look(json!({ "cap_drop": ["CHOWN"] }), script).await;
    seen.are([("chown", "1")]);
    says(
        &b.refused(json!({ "cap_add": ["CAP_NOSUCH"] })).await,
        &["cap_add", "CAP_NOSUCH"],
    );
}

async fn programs_gain_no_privileges_unless_they_may(b: &mut Bench) {
    // A program of root's that whoever runs it becomes root by; a shell would give that up.
    let host = b.rig.dir().join("set-user-id");
    std::fs::create_dir_all(&host).expect("a directory");
    std::fs::copy("/usr/bin/tini-static", host.join("tini")).expect("tini-static, of the package tini");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o4755);
    std::fs::set_permissions(host.join("tini"), mode).expect("permissions");
    let script = "echo nnp=$(sed -n 's/^NoNewPrivs:.//p' /proc/self/status)
        /s/tini -- sleep 600 & until grep -q tini /proc/$!/comm; do sleep 0.1; done
        echo uid=$(sed -n 's/^Uid:.//p' /proc/$!/status | cut -f 2); kill $!";
    for (options, want) in [
        (json!({}), "1"),
        (json!({ "no_new_privileges": true }), "1"),
        (json!({ "no_new_privileges": false }), "0"),
        (json!({ "security_opt": ["no-new-privileges"] }), "1"),
        (json!({ "security_opt": ["no-new-privileges:false"] }), "0"),
    ] {
        let mut options = options;
        options["volumes"] = json!([format!("{}:/s:ro", host.display())]);
        let uid = if want == "1" { "1000" } else { "0" };
        let seen = b.seen(b.with_options(options, script).user("1000")).await;
        seen.are([("nnp", want), ("uid", uid)]);
    }
}

/// Kernels without the filter, such as that of user-mode Linux, refuse what asks for it by name.
fn kernel_filters() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|text| text.contains("\nSeccomp:"))
}

const FILTER: &str = "echo filter=$(sed -n 's/^Seccomp:.//p' /proc/self/status)";

async fn the_default_profile_filters_system_calls(b: &mut Bench) {
    if !kernel_filters() {
        says(&b.refused(json!({ "seccomp": true })).await, &["seccomp", "kernel"]);
        return;
    }
    b.look(json!({}), FILTER).await.are([("filter", "0")]);
    b.look(json!({ "seccomp": false }), FILTER).await.are([("filter", "0")]);
    // Without the profile, and with the capability: it is the filter that refuses.
    let script = "busybox unshare -U true 2>/dev/null; echo unshare=$?; echo filter=$(sed -n 's/^Seccomp:.//p' /proc/self/status)
        date -s @1 2>&1 | grep -q ermitted && echo date=refused; touch /x && echo touch=ok";
    let seen = b.look(json!({ "seccomp": true }), script).await;
    seen.are([("filter", "2"), ("date", "refused"), ("touch", "ok")]);
    assert_ne!(seen.get("unshare"), "0");
    // The profile knows what the capabilities of the task allow.
    let options = json!({ "seccomp": true, "cap_add": ["SYS_ADMIN"] });
    b.look(options, "busybox unshare -m true; echo unshare=$?")
        .await
        .are([("unshare", "0")]);
    let options = json!({ "security_opt": ["seccomp=unconfined"] });
    b.look(options, FILTER).await.are([("filter", "0")]);
}

async fn a_profile_of_ones_own_filters_what_it_names(b: &mut Bench) {
    if !kernel_filters() {
        return;
    }
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95 }],
    });
    let path = b.rig.dir().join("profile.json");
    std::fs::write(&path, profile.to_string()).expect("a file");
    let script = "mkdir /tmp/d 2>&1 | grep -q 'not supported' && echo mkdir=refused; touch /f && echo touch=ok";
    for options in [
        json!({ "seccomp": true, "seccomp_profile": path.display().to_string() }),
        json!({ "security_opt": [format!("seccomp={}", path.display())] }),
    ] {
        b.look(options, script)
            .await
            .are([("mkdir", "refused"), ("touch", "ok")]);
    }
    // From the task directory, where a job's artifacts are.
    let spec = b.with_options(
        json!({ "seccomp": true, "seccomp_profile": "local/profile.json" }),
        script,
    );
    let alloc = b.rig.alloc();
    let dir = alloc.add_task(&spec.name).expect("task directory");
    std::fs::write(dir.join("local/profile.json"), profile.to_string()).expect("a file");
    let task = b.rig.start_in(alloc, &spec).await.expect("StartTask");
    task.exit(crate::bench::patience()).await;
    task.logs_end(crate::bench::patience()).await;
    crate::look::pairs(&task.logs().stdout.text()).are([("mkdir", "refused")]);
    end(task).await;
    for (text, words) in [
        ("{", ["seccomp_profile", "bad.json"]),
        (
            r#"{"defaultAction":"SCMP_ACT_NOTHING"}"#,
            ["seccomp_profile", "SCMP_ACT_NOTHING"],
        ),
    ] {
        let bad = b.rig.dir().join("bad.json");
        std::fs::write(&bad, text).expect("a file");
        let options = json!({ "seccomp": true, "seccomp_profile": bad.display().to_string() });
        says(&b.refused(options).await, &words);
    }
    let missing = json!({ "seccomp": true, "seccomp_profile": "/no/such.json" });
    says(&b.refused(missing).await, &["seccomp_profile", "/no/such.json"]);
    let lonely = json!({ "seccomp_profile": path.display().to_string() });
    says(
        &b.refused(lonely).await,
        &[
            "option seccomp_profile",
            "seccomp must be set to true, if using a custom seccomp_profile.",
        ],
    );
}

async fn kernel_paths_are_hidden_and_read_only(b: &mut Bench) {
    let script = "echo keys=$(cat /proc/keys | wc -c); echo latency=$(cat /proc/timer_list 2>/dev/null | wc -c)
        (echo 1 >/proc/sys/kernel/panic) 2>/dev/null; echo write=$?; touch /sys/x 2>/dev/null; echo sys=$?";
    let seen = b.look(json!({}), script).await;
    seen.are([("keys", "0"), ("latency", "0")]);
    assert_ne!(seen.get("write"), "0");
    assert_ne!(seen.get("sys"), "0");
    let open = json!({ "security_opt": ["systempaths=unconfined"] });
    let mounted = "echo masked=$(grep -c ' /proc/' /proc/self/mountinfo)";
    b.look(open, mounted).await.are([("masked", "0")]);
    let more = json!({ "security_opt": ["mask=/etc/passwd"] });
    b.look(more, "echo size=$(cat /etc/passwd | wc -c)")
        .await
        .are([("size", "0")]);
}

async fn a_privileged_task_has_it_all(b: &mut Bench) {
    let script = format!(
        "{CAPS}; test -c /dev/fuse && echo fuse=yes; touch /sys/fs/cgroup/x 2>/dev/null; grep ' /sys ' /proc/self/mountinfo | grep -q ' rw,' && echo sys=rw; {FILTER}; echo nnp=$(sed -n 's/^NoNewPrivs:.//p' /proc/self/status)"
    );
    let seen = b.look(json!({ "privileged": true }), &script).await;
    let all = u64::from_str_radix(seen.get("eff"), 16).unwrap();
    assert_eq!(all & SYS_ADMIN, SYS_ADMIN);
    seen.are([("sys", "rw"), ("nnp", "0")]);
    if kernel_filters() {
        seen.are([("filter", "0")]);
    }
}

async fn namespaces_are_private_or_the_hosts_as_asked(b: &mut Bench) {
    let kinds = ["pid", "ipc", "uts", "net", "mnt", "cgroup"];
    let table: [(Json, &[&str]); 6] = [
        (json!({}), &[]),
        (json!({ "pid_mode": "host" }), &["pid"]),
        (json!({ "ipc_mode": "host" }), &["ipc"]),
        (json!({ "uts_mode": "host" }), &["uts"]),
        (json!({ "network_mode": "host" }), &["net"]),
        (json!({ "cgroupns": "host" }), &["cgroup"]),
    ];
    for (options, shared) in table {
        let task = b.start(with(b.sleeper(), options.clone())).await;
        let (_, pid) = container_of(&task).await;
        for kind in kinds {
            let same = namespace(pid, kind) == namespace("self", kind);
            // With version 1 the cgroup namespace is the host's unless the task asks.
            let default = kind == "cgroup" && !crate::bench::unified();
            assert_eq!(
                same,
                shared.contains(&kind) || default,
                "{kind} namespace with {options}"
            );
        }
        end(task).await;
    }
    let task = b.start(with(b.sleeper(), json!({ "cgroupns": "private" }))).await;
    assert_ne!(
        namespace(container_of(&task).await.1, "cgroup"),
        namespace("self", "cgroup")
    );
    end(task).await;
    let none = b
        .look(
            json!({ "ipc_mode": "none" }),
            "echo shm=$(grep -c ' /dev/shm ' /proc/self/mountinfo)",
        )
        .await;
    none.are([("shm", "0")]);
    for option in ["pid_mode", "ipc_mode", "uts_mode", "cgroupns", "userns", "network_mode"] {
        says(&b.refused(json!({ option: "container:other" })).await, &[option]);
    }
}

async fn kernel_parameters_are_those_of_the_container(b: &mut Bench) {
    let options = json!({ "sysctl": [{ "net.ipv4.ip_forward": "1", "kernel.msgmax": "9000" }] });
    let script = "echo forward=$(cat /proc/sys/net/ipv4/ip_forward); echo msgmax=$(cat /proc/sys/kernel/msgmax)";
    b.look(options, script)
        .await
        .are([("forward", "1"), ("msgmax", "9000")]);
    let host = json!({ "sysctl": [{ "net.ipv4.ip_forward": "1" }], "host_network": true });
    says(
        &b.refused(host).await,
        &["sysctl", "net.ipv4.ip_forward", "host_network"],
    );
}

/// A tmpfs shows its files under other ids from kernel 6.3 on.
fn maps_ids(dir: &Path) -> bool {
    let mounted = std::process::Command::new("stat")
        .args(["-f", "-c", "%T"])
        .arg(dir)
        .output();
    let fs = String::from_utf8(mounted.expect("stat").stdout).expect("text");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let mut numbers = kernel.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let release = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    fs.trim() != "tmpfs" || release >= (6, 3)
}

async fn a_user_namespace_has_ids_of_its_own_where_snapshots_can_be_mapped(b: &mut Bench) {
    let options = json!({ "userns": "private" });
    let script = "echo map=$(tr -s ' ' </proc/self/uid_map); echo id=$(id -u); echo owner=$(stat -c %u /bin/busybox); touch /mine && echo root=ok; touch /local/f && echo local=ok; \
                  (echo out >/dev/stdout) 2>/dev/null && echo stdout=ok; (: >/dev/stderr) 2>/dev/null && echo stderr=ok; \
                  echo '# more' >>/etc/hosts && echo hosts=ok";
    if crate::bench::kind() == testhost::containerd::ContainerdKind::Debian16 {
        says(&b.refused(options).await, &["userns", "private", "containerd 2"]);
        return;
    }
    if !maps_ids(b.rig.dir()) {
        says(&b.refused(options).await, &["userns", "private", "cannot map ids"]);
        return;
    }
    let seen = b.look(options.clone(), script).await;
    seen.are([
        ("map", "0 100000 65536"),
        ("id", "0"),
        ("owner", "0"),
        ("root", "ok"),
        ("local", "ok"),
        ("stdout", "ok"),
        ("stderr", "ok"),
        ("hosts", "ok"),
    ]);
    b.look(
        json!({ "userns": "auto:size=1000" }),
        "echo map=$(tr -s ' ' </proc/self/uid_map)",
    )
    .await
    .are([("map", "0 100000 65536")]);
    // What of the host goes with it: the name, the cgroup tree, and devices at their own paths.
    let shared = json!({ "userns": "private", "uts_mode": "host", "cgroupns": "host", "devices": ["/dev/kmsg"] });
    let script = "echo dev=$(stat -c %t:%T /dev/kmsg); echo name=$(hostname)";
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("the host's name");
    b.look(shared, script)
        .await
        .are([("dev", "1:b"), ("name", host.trim())]);
    let task = b.start(with(b.sleeper(), options)).await;
    let (_, pid) = container_of(&task).await;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    assert!(status.contains("Uid:\t100000\t"), "{status}");
    end(task).await;
    for with in ["privileged", "host_network"] {
        says(
            &b.refused(json!({ "userns": "private", with: true })).await,
            &["userns", with],
        );
    }
}

/// The namespace cannot make one, so the container has the host's; crun before 1.24 gives the process's input to its user.
async fn a_user_namespace_leaves_the_hosts_null_device_alone(b: &mut Bench) {
    use std::os::unix::fs::MetadataExt as _;
    if crate::bench::kind() == testhost::containerd::ContainerdKind::Debian16 || !maps_ids(b.rig.dir()) {
        return;
    }
    let owner = || {
        let found = std::fs::metadata("/dev/null").expect("/dev/null");
        (found.uid(), found.gid(), found.mode())
    };
    let before = owner();
    let script = "read x; echo end=$?; echo in=$(stat -Lc %F /proc/self/fd/0 | tr ' ' _)";
    let spec = b.with_options(json!({ "userns": "private" }), script).user("1234");
    b.seen(spec).await.are([("end", "1")]);
    assert_eq!(owner(), before);
    let terminal = json!({ "userns": "private", "tty": true });
    if b.rig.config()["containerd_runtime"] == "crun" {
        says(&b.refused(terminal).await, &["option tty", "/dev/null"]);
    } else {
        let spec = b.with_options(terminal, "echo is=here").user("1234");
        b.seen(spec).await.are([("is", "here")]);
    }
    assert_eq!(owner(), before);
}

/// Its input is not the shim's own, which is the host's device.
async fn a_command_leaves_the_hosts_null_device_alone(b: &mut Bench) {
    use std::os::unix::fs::MetadataExt as _;
    let owner = || {
        let found = std::fs::metadata("/dev/null").expect("/dev/null");
        (found.uid(), found.gid(), found.mode())
    };
    let before = owner();
    let task = b.start(b.sleeper().user("1234")).await;
    let argv = ["sh", "-c", "read x; echo end=$?; id -u"];
    let answer = task.exec(&argv, crate::bench::secs(10)).await.expect("ExecTask");
    assert_eq!(String::from_utf8_lossy(&answer.stdout), "end=1\n1234\n");
    assert_eq!(owner(), before);
    end(task).await;
}

async fn contradictions_are_refused(b: &mut Bench) {
    for (options, words) in [
        (
            json!({ "seccomp": true, "security_opt": ["seccomp=unconfined"] }),
            ["seccomp", "security_opt"],
        ),
        (
            json!({ "no_new_privileges": true, "security_opt": ["no-new-privileges:false"] }),
            ["no_new_privileges", "security_opt"],
        ),
        (json!({ "security_opt": ["nosuch=1"] }), ["security_opt", "nosuch"]),
        (
            json!({ "host_network": true, "network_mode": "none" }),
            ["host_network", "network_mode"],
        ),
        (
            json!({ "apparmor_profile": "no-such-profile" }),
            ["apparmor_profile", "no-such-profile"],
        ),
        (json!({ "pid_mode": "nonsense" }), ["pid_mode", "pid_mode=host"]),
    ] {
        says(&b.refused(options).await, &words);
    }
}

/// As with Docker.
async fn who_is_not_root_can_use_a_low_port_of_the_containers_own(b: &mut Bench) {
    let script = "cd /proc/sys/net/ipv4; echo ping=$(cat ping_group_range)
        (echo hello | nc -l -p 80 >/tmp/in) & for i in $(seq 50); do echo x | nc 127.0.0.1 80 >/tmp/out 2>/dev/null && break; sleep 0.1; done
        echo out=$(cat /tmp/out)";
    let run = |options: Json| with(TaskSpec::new(&b.image).sh(script).user("1000"), options);
    let seen = b.seen(run(json!({}))).await;
    seen.are([("out", "hello"), ("ping", "0 2147483647")]);
    let own =
        json!({ "sysctl": [{ "net.ipv4.ping_group_range": "5 6", "net/ipv4/ip_unprivileged_port_start": "1024" }] });
    let seen = b.seen(run(own)).await;
    seen.are([("out", ""), ("ping", "5 6")]);
}

//! Isolation and privileges.

use crate::bench::{Bench, container_of, namespace, patience};
use crate::field::{Verdict, consent, group, not_here, operated, shown};
use crate::look::{says, with};
use crate::registry::{Answer, FakeRegistry};
use serde_json::{Value as Json, json};
use testhost::task::TaskSpec;
use testhost::within::within;

group!(sec, SEC, operated(consent()),
    together {
        sec_01_the_default_capabilities_are_the_documented_set,
        sec_02_capabilities_added_and_dropped_in_every_spelling,
        sec_04_privileged_with_consent,
        sec_05_a_read_only_root_has_writable_task_directories,
        sec_06_seccomp_default_own_and_unconfined,
        sec_08_users_by_name_number_and_group,
        sec_09_the_logs_are_read_only_inside,
        sec_10_secrets_are_nowhere_to_be_read,
    }
    alone {}
);

/// An operator who names what tasks may have, by patterns.
fn careful() -> Json {
    json!({
        "allow_caps": ["chown", "CAP_KILL", "sys_time"],
        "allowed_modes": { "pid": ["h*"], "ipc": ["host"], "network": ["no*"] },
    })
}

group!(sec_of_a_careful_operator, SEC_CAREFUL, operated(careful()),
    together {
        sec_03_a_capability_beyond_the_list_is_refused,
        sec_04_privileged_without_consent,
        sec_07_namespaces_of_the_host_only_with_consent,
    }
    alone {}
);

const CHOWN: u64 = 1;
const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;
const SYS_ADMIN: u64 = 1 << 21;
const SYS_TIME: u64 = 1 << 25;

/// The documented default: that of containerd and Docker.
const DEFAULT: u64 = 0xa804_25fb;

const CAPS: &str = "for s in Eff Prm Bnd Inh Amb; do echo $s=$(sed -n \"s/^Cap$s:.//p\" /proc/self/status); done";

async fn capabilities(b: &Bench, options: Json) -> u64 {
    let seen = b.look(options.clone(), CAPS).await;
    let set = |name: &str| u64::from_str_radix(seen.get(name), 16).expect("a mask");
    assert_eq!(
        (set("Prm"), set("Bnd"), set("Amb")),
        (set("Eff"), set("Eff"), 0),
        "{options}"
    );
    set("Eff")
}

async fn sec_01_the_default_capabilities_are_the_documented_set(b: &Bench) {
    let found = capabilities(b, json!({})).await;
    assert_eq!(found, DEFAULT, "{found:x}");
    assert_eq!((found & CHOWN, found & SYS_TIME), (CHOWN, 0));
}

async fn sec_02_capabilities_added_and_dropped_in_every_spelling(b: &Bench) {
    for name in ["CAP_NET_ADMIN", "NET_ADMIN", "net_admin", "cap_net_admin"] {
        assert_eq!(
            capabilities(b, json!({ "cap_add": [name] })).await,
            DEFAULT | NET_ADMIN,
            "{name}"
        );
    }
    for name in ["CAP_CHOWN", "chown"] {
        assert_eq!(
            capabilities(b, json!({ "cap_drop": [name] })).await,
            DEFAULT & !CHOWN,
            "{name}"
        );
    }
    for all in ["all", "ALL"] {
        let options = json!({ "cap_drop": [all], "cap_add": ["net_raw"] });
        assert_eq!(capabilities(b, options).await, NET_RAW, "{all}");
        let found = capabilities(b, json!({ "cap_add": [all], "cap_drop": ["chown"] })).await;
        assert_eq!(found & (CHOWN | SYS_ADMIN), SYS_ADMIN, "{all}: {found:x}");
    }
}

/// What is left is counted after the case.
async fn sec_03_a_capability_beyond_the_list_is_refused(b: &Bench) {
    for name in ["net_admin", "CAP_NET_ADMIN"] {
        says(
            &b.refused(json!({ "cap_add": [name] })).await,
            &["cap_add", name, "allow_caps"],
        );
    }
    assert_eq!(
        capabilities(b, json!({ "cap_add": ["sys_time"] })).await & SYS_TIME,
        SYS_TIME
    );
}

async fn sec_04_privileged_with_consent(b: &Bench) {
    let script = format!(
        "{CAPS}; echo devices=$(ls /dev | wc -l); touch /sys/fs/x 2>/dev/null; echo nnp=$(sed -n 's/^NoNewPrivs:.//p' /proc/self/status)"
    );
    let plain: usize = b
        .look(json!({}), &script)
        .await
        .get("devices")
        .parse()
        .expect("a number");
    let seen = b.look(json!({ "privileged": true }), &script).await;
    let own = std::fs::read_to_string("/proc/self/status").expect("this process");
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .expect("CapBnd");
    let own = u64::from_str_radix(own.trim(), 16).expect("a mask");
    let found = u64::from_str_radix(seen.get("Bnd"), 16).expect("a mask");
    assert_eq!(found & own, own, "bounding set {found:x}, of this process {own:x}");
    seen.are([("nnp", "0")]);
    let devices: usize = seen.get("devices").parse().expect("a number");
    assert!(devices > plain, "{devices} devices, {plain} without privileges");
}

async fn sec_04_privileged_without_consent(b: &Bench) {
    let words = "Running privileged jobs are not allowed. Set allow_privileged to true in plugin config";
    says(&b.refused(json!({ "privileged": true })).await, &[words]);
}

async fn sec_05_a_read_only_root_has_writable_task_directories(b: &Bench) {
    let script = "touch /x 2>&1 | grep -o 'Read-only file system'; for d in alloc/data local secrets; do touch /$d/y && echo $d=ok; done";
    let (code, text) = b.run(b.with_options(json!({ "readonly_rootfs": true }), script)).await;
    assert_eq!(code, 0, "{text}");
    assert_eq!(text, "Read-only file system\nalloc/data=ok\nlocal=ok\nsecrets=ok\n");
}

async fn sec_06_seccomp_default_own_and_unconfined(b: &Bench) -> Verdict {
    let has = std::fs::read_to_string("/proc/self/status").expect("this process");
    if !has.contains("\nSeccomp:") {
        says(&b.refused(json!({ "seccomp": true })).await, &["seccomp", "kernel"]);
        return not_here("the kernel has no filter of system calls");
    }
    let filter = "echo filter=$(sed -n 's/^Seccomp:.//p' /proc/self/status); mkdir /tmp/d 2>/dev/null; echo mkdir=$?";
    b.look(json!({ "seccomp": true }), filter)
        .await
        .are([("filter", "2"), ("mkdir", "0")]);
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95 }],
    });
    let path = b.rig.dir().join("sec-06.json");
    std::fs::write(&path, profile.to_string()).expect("a file");
    let own = json!({ "seccomp": true, "seccomp_profile": path.display().to_string() });
    b.look(own, filter).await.are([("filter", "2"), ("mkdir", "1")]);
    let none = json!({ "security_opt": ["seccomp=unconfined"] });
    b.look(none, filter).await.are([("filter", "0"), ("mkdir", "0")]);
    shown()
}

async fn sec_07_namespaces_of_the_host_only_with_consent(b: &Bench) {
    for (option, kind) in [("pid_mode", "pid"), ("ipc_mode", "ipc")] {
        let task = b.start(with(b.sleeper(), json!({ option: "host" }))).await;
        let (_, pid) = container_of(&task).await;
        assert_eq!(namespace(pid, kind), namespace("self", kind), "{option}");
        task.destroy(true).await.expect("DestroyTask");
    }
    says(
        &b.refused(json!({ "uts_mode": "host" })).await,
        &["uts_mode", "host", "allowed_modes"],
    );
    says(
        &b.refused(json!({ "network_mode": "host" })).await,
        &["network_mode", "host", "allowed_modes"],
    );
    says(
        &b.refused(json!({ "host_network": true })).await,
        &["host_network", "allowed_modes"],
    );
    says(&b.refused(json!({ "userns": "keep-id" })).await, &["userns", "keep-id"]);
}

async fn sec_08_users_by_name_number_and_group(b: &Bench) {
    for (user, wanted) in [
        ("app", "1000 1000 1000 2000"),
        ("1000", "1000 1000 1000 2000"),
        ("65534:2000", "65534 2000 2000"),
        ("app:extra", "1000 2000 2000"),
        ("4321", "4321 0 0"),
    ] {
        let (code, text) = b.run(b.sh("echo $(id -u) $(id -g) $(id -G)").user(user)).await;
        assert_eq!((code, text.trim()), (0, wanted), "{user}");
    }
    for unknown in ["stranger", "root:strangers"] {
        says(&b.refused_spec(b.sh("true").user(unknown)).await, &["user", unknown]);
    }
}

async fn sec_09_the_logs_are_read_only_inside(b: &Bench) {
    let script = "touch /alloc/logs/x 2>&1 | grep -o 'Read-only file system'; rm -f /alloc/logs/.web.stdout.fifo 2>/dev/null; echo rm=$?; touch /alloc/data/x && echo data=ok";
    let (code, text) = b.run(b.sh(script)).await;
    assert_eq!((code, text.as_str()), (0, "Read-only file system\nrm=1\ndata=ok\n"));
}

/// A password on its way to a registry that refuses it, and to one that does not ask.
async fn sec_10_secrets_are_nowhere_to_be_read(b: &Bench) {
    const PASSWORD: &str = "hunter2-of-the-conformance";
    let auth = json!([{ "username": "me", "password": PASSWORD }]);
    let events = b.rig.events();
    let fake = FakeRegistry::start(|_| Answer::Status(401, "{}")).await;
    let spec = TaskSpec::new(fake.reference("some/image")).option("auth", auth.clone());
    let error = within(patience(), "StartTask", b.rig.start(spec))
        .await
        .err()
        .expect("a refusal");
    let task = b
        .start(b.sleeper().option("auth", auth).option("force_pull", json!(true)))
        .await;
    let (container, _) = container_of(&task).await;
    let info = ["containers", "info", &container];
    let record = b.rig.containerd.ctr(b.rig.namespace(), &info).await.expect("ctr");
    let inspected = task.inspect().await.expect("InspectTask");
    task.destroy(true).await.expect("DestroyTask");
    let told = events
        .wait_for(patience(), |all| (!all.is_empty()).then(|| all.to_vec()))
        .await;
    let log = b.rig.plugin().stderr_lines().join("\n");
    let basic = "bWU6aHVudGVyMi1vZi10aGUtY29uZm9ybWFuY2U=";
    for (place, text) in [
        ("the error", format!("{error:?}")),
        ("the record in containerd", record),
        ("InspectTask", format!("{inspected:?}")),
        ("an event", format!("{told:?}")),
        ("the log", log),
        (
            "the handle",
            format!(
                "{:?} {}",
                task.handle.driver_state,
                String::from_utf8_lossy(&task.handle.driver_state)
            ),
        ),
    ] {
        assert!(
            !text.contains(PASSWORD) && !text.contains(basic),
            "the password is in {place}"
        );
    }
}

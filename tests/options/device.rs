//! Host devices, rules of the device cgroup, CDI, device plugins.

use crate::bench::{Bench, group};
use crate::look::{bench, consent, crun, says, wants};
use serde_json::json;
use testhost::wire::driver::Device;

group!(devices_runc, cdi(), if wants("runc"), {
    host_devices_are_given_in_both_forms,
    rules_allow_devices_that_appear_later,
    a_device_of_nomads_plugin_needs_no_consent_of_the_job,
    cdi_names_bring_devices_mounts_and_variables,
    devices_that_cannot_be_are_refused,
    a_device_in_the_place_of_something_else_is_refused,
});
group!(devices_crun, crun(), if wants("crun"), {
    host_devices_are_given_in_both_forms,
    a_device_in_the_place_of_something_else_is_refused,
});

/// A bench with a CDI file.
async fn cdi() -> Bench {
    let dir = std::env::temp_dir().join(format!("cdi-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let file = json!({
        "cdiVersion": "0.6.0",
        "kind": "example.com/thing",
        "containerEdits": { "env": ["THING=all"] },
        "devices": [
            { "name": "0", "containerEdits": {
                "env": ["ZERO=yes"],
                "deviceNodes": [{ "path": "/dev/thing0", "hostPath": "/dev/kmsg", "permissions": "r" }],
                "mounts": [{ "hostPath": "/etc/hostname", "containerPath": "/opt/thing", "options": ["ro", "bind"] }],
            } },
            { "name": "1", "containerEdits": { "env": ["ONE=yes"] } },
        ],
    });
    std::fs::write(dir.join("thing.json"), file.to_string()).expect("a file");
    let mut config = consent();
    config["cdi_spec_dirs"] = json!([dir.display().to_string()]);
    bench(config).await
}

async fn host_devices_are_given_in_both_forms(b: &mut Bench) {
    let options = json!({ "devices": ["/dev/kmsg", "/dev/kmsg:/dev/short:rw"] });
    let script = "for d in kmsg short; do test -c /dev/$d && echo $d=$(stat -c %t:%T /dev/$d); done
        (exec 3>/dev/short) 2>/dev/null; echo write=$?; echo others=$(ls /dev | grep -c -e loop -e sda -e vda)";
    let seen = b.look(options, script).await;
    seen.are([("kmsg", "1:b"), ("short", "1:b"), ("write", "0"), ("others", "0")]);
    let options =
        json!({ "devices": [{ "host_path": "/dev/kmsg", "container_path": "/dev/log", "cgroup_permissions": "r" }] });
    let script = "echo log=$(stat -c %t:%T /dev/log); (exec 3>/dev/log) 2>/dev/null; echo refused=$?";
    let seen = b.look(options, script).await;
    seen.are([("log", "1:b")]);
    assert_ne!(
        seen.get("refused"),
        "0",
        "written through a device without the permission"
    );
    // As blocks of the job file.
    let options = json!({ "devices": [{ "host_path": "/dev/kmsg" }] });
    b.look(options, "test -c /dev/kmsg && echo dev=yes")
        .await
        .are([("dev", "yes")]);
    let script = "busybox mknod /tmp/k c 1 11 && true; (exec 3>/tmp/k) 2>/dev/null; echo open=$?";
    assert_ne!(
        b.look(json!({}), script).await.get("open"),
        "0",
        "a device without a rule opened"
    );
}

async fn rules_allow_devices_that_appear_later(b: &mut Bench) {
    let script = "busybox mknod /tmp/k c 1 11; (exec 3>/tmp/k) 2>/dev/null; echo open=$?";
    let options = json!({ "device_cgroup_rules": ["c 1:11 w"] });
    b.look(options, script).await.are([("open", "0")]);
}

async fn a_device_of_nomads_plugin_needs_no_consent_of_the_job(b: &mut Bench) {
    let mut spec = b.sh("test -c /dev/plugged && echo dev=yes; (exec 3>/dev/plugged) 2>/dev/null; echo write=$?");
    spec.devices.push(Device {
        task_path: "/dev/plugged".to_owned(),
        host_path: "/dev/kmsg".to_owned(),
        cgroup_permissions: "r".to_owned(),
    });
    let seen = b.seen(spec).await;
    seen.are([("dev", "yes")]);
    assert_ne!(seen.get("write"), "0");
}

async fn cdi_names_bring_devices_mounts_and_variables(b: &mut Bench) {
    let script = "test -c /dev/thing0 && echo node=yes; echo thing=$THING; echo zero=$ZERO; echo one=$ONE; echo mount=$(cat /opt/thing 2>/dev/null)";
    let seen = b.look(json!({ "devices": ["example.com/thing=0"] }), script).await;
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    seen.are([
        ("node", "yes"),
        ("thing", "all"),
        ("zero", "yes"),
        ("one", ""),
        ("mount", host.trim()),
    ]);
    // A variable of the job gives way, as NVIDIA's files need it.
    let spec = b
        .with_options(json!({ "devices": ["example.com/thing=0"] }), "echo zero=$ZERO")
        .env("ZERO", "no");
    b.seen(spec).await.are([("zero", "yes")]);
    // What the job mounts itself is not replaced, and neither is it said to be there when it is not.
    let own = json!({ "devices": ["example.com/thing=0"], "tmpfs": ["/opt/thing"] });
    says(&b.refused(own).await, &["devices[0]", "/opt/thing", "tmpfs"]);
    let missing = b.refused(json!({ "devices": ["example.com/thing=7"] })).await;
    says(&missing, &["devices", "example.com/thing=7"]);
}

/// Runtimes leave what the image has there as it is, without a word.
async fn a_device_in_the_place_of_something_else_is_refused(b: &mut Bench) {
    let taken = b
        .refused(json!({ "devices": ["/dev/null", "/dev/kmsg:/etc/passwd"] }))
        .await;
    says(&taken, &["devices[1]", "/etc/passwd"]);
}

async fn devices_that_cannot_be_are_refused(b: &mut Bench) {
    for (options, words) in [
        (json!({ "devices": ["/dev/no-such"] }), ["devices", "/dev/no-such"]),
        (json!({ "devices": ["/etc/passwd"] }), ["devices", "/etc/passwd"]),
        (json!({ "devices": ["/dev/kmsg:/dev/x:z"] }), ["devices", "z"]),
        (
            json!({ "devices": [{ "host_path": "/dev/kmsg", "permissions": "r" }] }),
            ["devices", "permissions"],
        ),
        (json!({ "devices": [7, true] }), ["devices", "true"]),
        (
            json!({ "device_cgroup_rules": ["c 1:11 q"] }),
            ["device_cgroup_rules", "q"],
        ),
    ] {
        says(&b.refused(options).await, &words);
    }
}

//! What a job gets without the operator's consent: nothing of the host. Each refusal names the option, its value and the
//! setting that would allow it; with that setting alone, the same task starts.

use crate::bench::{Bench, group, patience};
use crate::look::{bench, end, says, wants, with};
use serde_json::{Value as Json, json};
use testhost::wire::driver::Mount;

group!(gates_strict, bench(json!({})), if wants("runc"), {
    nothing_of_the_host_without_consent,
    what_needs_no_consent_starts,
    the_default_protections_are_on,
});
group!(gates_opened, bench(json!({})), if wants("runc"), {
    each_setting_opens_its_gate_and_no_other,
});

/// A job's wish, what its refusal names, and the setting that grants it.
fn wishes() -> Vec<(Json, Vec<&'static str>, Json)> {
    vec![
        (
            json!({ "privileged": true }),
            vec!["privileged", "true", "allow_privileged"],
            json!({ "allow_privileged": true }),
        ),
        (
            json!({ "cap_add": ["SYS_ADMIN"] }),
            vec!["cap_add", "SYS_ADMIN", "allow_caps"],
            json!({ "allow_caps": ["chown", "sys_admin"] }),
        ),
        (
            json!({ "cap_add": ["ALL"] }),
            vec!["cap_add", "ALL", "allow_caps"],
            json!({ "allow_caps": ["all"] }),
        ),
        (
            json!({ "pid_mode": "host" }),
            vec!["pid_mode", "host", "allowed_modes", "pid"],
            json!({ "allowed_modes": { "pid": ["host"] } }),
        ),
        (
            json!({ "ipc_mode": "host" }),
            vec!["ipc_mode", "host", "allowed_modes", "ipc"],
            json!({ "allowed_modes": { "ipc": ["host"] } }),
        ),
        (
            json!({ "uts_mode": "host" }),
            vec!["uts_mode", "host", "allowed_modes", "uts"],
            json!({ "allowed_modes": { "uts": ["host"] } }),
        ),
        (
            json!({ "host_network": true }),
            vec!["host_network", "allowed_modes", "network"],
            json!({ "allowed_modes": { "network": ["host"] } }),
        ),
        (
            json!({ "network_mode": "host" }),
            vec!["network_mode", "host", "allowed_modes", "network"],
            json!({ "allowed_modes": { "network": ["*"] } }),
        ),
        (
            json!({ "devices": ["/dev/kmsg"] }),
            vec!["devices", "/dev/kmsg", "allow_devices"],
            json!({ "allow_devices": ["/dev/km*"] }),
        ),
        (
            json!({ "device_cgroup_rules": ["c 1:11 r"] }),
            vec!["device_cgroup_rules", "c 1:11 r", "allow_devices"],
            json!({ "allow_devices": ["c 1:11 r"] }),
        ),
        (
            json!({ "mounts": [{ "type": "bind", "source": "/etc", "target": "/x", "options": ["rbind", "ro"] }] }),
            vec!["mounts", "/etc", "volumes { enabled = true }"],
            json!({ "volumes": { "enabled": true } }),
        ),
        (
            json!({ "volumes": ["/etc:/x:ro"] }),
            vec!["volumes", "/etc", "volumes { enabled = true }"],
            json!({ "volumes": { "enabled": true } }),
        ),
        (
            json!({ "runtime": "crun" }),
            vec!["runtime", "crun", "allow_runtimes"],
            json!({ "allow_runtimes": ["crun"] }),
        ),
        (
            json!({ "security_opt": ["systempaths=unconfined"] }),
            vec!["security_opt", "systempaths", "allow_unconfined"],
            json!({ "allow_unconfined": ["systempaths"] }),
        ),
        (
            json!({ "seccomp": false }),
            vec!["seccomp", "false", "allow_unconfined"],
            json!({ "allow_unconfined": ["seccomp"] }),
        ),
    ]
}

async fn nothing_of_the_host_without_consent(b: &mut Bench) {
    for (wish, words, _) in wishes() {
        says(&b.refused(wish).await, &words);
    }
    let alloc = b.rig.alloc();
    let dir = alloc.dir().display().to_string();
    alloc.add_task("web").expect("task directory");
    // Of the allocation, a task has its own directories and what is shared, but not the logs nor its neighbours.
    for source in [
        dir.clone(),
        format!("{dir}/alloc"),
        format!("{dir}/alloc/logs"),
        format!("{dir}/other/secrets"),
        format!("{dir}/web"),
        ".".to_owned(),
    ] {
        let spec = b.with_options(json!({ "volumes": [format!("{source}:/w")] }), "true");
        let error = b.rig.start_in(alloc.clone(), &spec).await.err().expect("a refusal");
        says(&error, &["volumes", &source, "volumes { enabled = true }"]);
    }
    for (options, words) in [
        (json!({ "volumes": ["local:/dev"] }), ["volumes", "/dev"]),
        (json!({ "volumes": ["local:/dev/null"] }), ["volumes", "/dev/null"]),
        (json!({ "volumes": ["local:/proc/x"] }), ["volumes", "/proc/x"]),
        (json!({ "volumes": ["local:/x:rshared"] }), ["volumes", "shared"]),
    ] {
        says(&b.refused(options).await, &words);
    }
    for variable in ["NOMAD_TASK_DIR", "NOMAD_ALLOC_DIR", "NOMAD_SECRETS_DIR"] {
        for value in ["/sys", "/proc/sys", "/dev/shm", "relative"] {
            says(
                &b.refused_spec(b.sh("true").env(variable, value)).await,
                &["env", variable, value],
            );
        }
    }
    // Nobody waits for an image that will not be used: this registry is not there.
    let spec = testhost::task::TaskSpec::new("127.0.0.1:1/no/registry:1").option("pid_mode", json!("host"));
    says(&b.refused_spec(spec).await, &["pid_mode", "allowed_modes"]);
}

async fn each_setting_opens_its_gate_and_no_other(b: &mut Bench) {
    let base = b.rig.config().clone();
    let all = wishes();
    let modes = |grants: &Json| {
        grants["allowed_modes"]
            .as_object()
            .and_then(|o| o.keys().next().cloned())
    };
    for (wish, _, consent) in &all {
        let mut config = base.clone();
        for (key, value) in consent.as_object().expect("an object") {
            config[key] = value.clone();
        }
        b.rig.plugin().configure(&config).await.expect("SetConfig");
        // crun does not start on every machine, see `look::crun`; that it is not refused is what counts here.
        if wish.get("runtime").is_none() {
            let (code, _) = b.run(with(b.sh("true"), wish.clone())).await;
            assert_eq!(code, 0, "{wish} with {consent}");
        }
        let setting = |grants: &Json| grants.as_object().and_then(|o| o.keys().next().cloned());
        let others = all
            .iter()
            .filter(|(.., grants)| match setting(grants) == setting(consent) {
                // A block of lists, of which each opens its own.
                true => grants["allowed_modes"].is_object() && modes(grants) != modes(consent),
                false => true,
            });
        for (other, words, _) in others {
            says(&b.refused(other.clone()).await, words);
        }
    }
}

async fn what_needs_no_consent_starts(b: &mut Bench) {
    let options = json!({
        "runtime": "runc",
        "cap_drop": ["all"],
        "cap_add": ["chown"],
        "tmpfs": ["/scratch"],
        "mounts": [{ "type": "bind", "source": "local", "target": "/work", "options": ["rbind"] }],
        "volumes": ["secrets:/s:ro"],
        "no_new_privileges": false,
        "ulimit": [{ "nofile": "100:200" }],
        "sysctl": [{ "net.core.somaxconn": "64" }],
        "pid_mode": "private",
    });
    let (code, _) = b.run(b.with_options(options, "true")).await;
    assert_eq!(code, 0);
    // A directory that Nomad has made for an artifact or a template.
    let spec = b.with_options(json!({ "volumes": ["custom:/etc/custom:ro"] }), "test -e /etc/custom/x");
    let alloc = b.rig.alloc();
    let dir = alloc.add_task(&spec.name).expect("task directory").join("custom");
    std::fs::create_dir(&dir).expect("a directory");
    std::fs::write(dir.join("x"), "").expect("a file");
    let task = b.rig.start_in(alloc, &spec).await.expect("StartTask");
    assert_eq!(task.exit(patience()).await.exit_code, 0);
    end(task).await;
    // Nomad's mount for every CSI plugin, privileged or not; what runs in there has no right to the disks all the same.
    let dev = |host_path: &str, task_path: &str| Mount {
        task_path: task_path.to_owned(),
        host_path: host_path.to_owned(),
        ..Mount::default()
    };
    let script = "test -c /dev/full && ! (exec 3</dev/kmsg) 2>/dev/null";
    assert_eq!(b.run(b.sh(script).mount(dev("/dev", "/dev"))).await.0, 0);
    let other = b.refused_spec(b.sh("true").mount(dev("/tmp", "/dev"))).await;
    says(&other, &["volume_mount", "/dev", "volumes { enabled = true }"]);
    let init = with(b.sh("true").mount(dev("/dev", "/dev")), json!({ "init": true }));
    says(
        &b.refused_spec(init).await,
        &["option init: true", "volume_mount", "/dev"],
    );
    assert!(!std::path::Path::new("/dev/init").exists());
}

async fn the_default_protections_are_on(b: &mut Bench) {
    let script = "echo eff=$(sed -n 's/^CapEff:.//p' /proc/self/status); echo nnp=$(sed -n 's/^NoNewPrivs:.//p' /proc/self/status)
        echo filter=$(sed -n 's/^Seccomp:.//p' /proc/self/status); ip link show 2>/dev/null | grep -c '^[0-9]' >/tmp/n; echo links=$(cat /tmp/n)";
    let seen = b.look(json!({}), script).await;
    // containerd's default set without CAP_NET_RAW.
    seen.are([("eff", "00000000a80405fb"), ("nnp", "1"), ("links", "1")]);
    if std::fs::read_to_string("/proc/self/status").is_ok_and(|text| text.contains("\nSeccomp:")) {
        seen.are([("filter", "2")]);
    }
}

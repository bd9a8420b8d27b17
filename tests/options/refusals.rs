//! What cannot be is said by the name of the option that asks for it: where containerd or a runtime would only tell in its
//! own words, where the driver knows before, and of plugin settings when the agent starts.

use crate::bench::{Bench, group, patience, unified};
use crate::look::{bench, consent, end, says, wants, with};
use serde_json::{Value as Json, json};
use testhost::wire::driver::PortMapping;
use testhost::within::within;

group!(refusals_runc, opened(), if wants("runc"), {
    what_only_a_runtime_can_tell_names_the_option,
    a_runtime_that_is_not_there_is_not_the_command,
    parameters_that_no_runtime_sets_are_refused,
    options_of_other_drivers_say_what_to_use_instead,
    ports_are_those_of_the_group,
    an_option_is_called_as_the_job_wrote_it,
    what_a_user_namespace_cannot_have_is_named,
    a_task_brings_its_own_init,
    a_gpu_is_what_the_device_plugin_gives,
});
group!(refusals_strict, bench(json!({})), if wants("runc"), {
    priorities_over_the_rest_of_the_node_need_consent,
    settings_that_cannot_work_are_refused_when_the_agent_starts,
});

/// A bench whose operator consents, and names a runtime whose binary is missing.
async fn opened() -> Bench {
    let mut config = consent();
    config["runtimes"] = json!([{ "gone": "io.containerd.runc.v2 /opt/no/such-runtime" }]);
    bench(config).await
}

async fn what_only_a_runtime_can_tell_names_the_option(b: &mut Bench) {
    for (options, words) in [
        (
            json!({ "sysctl": [{ "net.core.no_such": "1" }] }),
            ["option sysctl.net.core.no_such: \"1\"", "no such file"],
        ),
        (
            json!({ "sysctl": [{ "net.core.somaxconn": "" }] }),
            ["option sysctl.net.core.somaxconn: \"\"", "a value is expected"],
        ),
        (
            json!({ "sysctl": [{ "net.ipv4.ip_forward": "abc" }] }),
            ["option sysctl.net.ipv4.ip_forward: \"abc\"", "invalid argument"],
        ),
        (
            json!({ "ulimit": [{ "nofile": "3" }] }),
            ["option ulimit.nofile: \"3\"", "too many open files"],
        ),
        (
            json!({ "work_dir": "/etc/passwd" }),
            ["option work_dir: \"/etc/passwd\"", "not a directory"],
        ),
        (
            json!({ "work_dir": "/etc/passwd/x" }),
            ["option work_dir: \"/etc/passwd/x\"", "not a directory"],
        ),
        (
            json!({ "devices": ["/dev/null:/etc/passwd/x"] }),
            ["option devices[0]: \"/etc/passwd/x\"", "not a directory"],
        ),
        (
            json!({ "devices": [{ "host_path": "/dev/null", "container_path": "/sys/x" }] }),
            ["option devices[0].container_path: \"/sys/x\"", "outside /proc and /sys"],
        ),
        (
            json!({ "work_dir": "/proc/self/fd/7" }),
            ["option work_dir: \"/proc/self/fd/7\"", "outside /proc"],
        ),
    ] {
        says(&b.refused(options).await, &words);
    }
    // The kernel's memory controller of version 2 kills the runtime in place of telling it.
    if !unified() {
        let error = b.refused_spec(b.sh("true").memory_mb(1)).await;
        says(&error, &["option memory: 1: "]);
    }
}

async fn a_runtime_that_is_not_there_is_not_the_command(b: &mut Bench) {
    let gone = b.refused(json!({ "runtime": "gone" })).await;
    says(&gone, &["option runtime: \"gone\"", "/opt/no/such-runtime"]);
    let kata = b.refused(json!({ "runtime": "kata" })).await;
    says(&kata, &["option runtime: \"kata\"", "containerd-shim-kata-v2"]);
    let command = b.refused(json!({ "command": "/no/such" })).await;
    says(&command, &["option command: \"/no/such\""]);
}

async fn parameters_that_no_runtime_sets_are_refused(b: &mut Bench) {
    let host = b.refused(json!({ "sysctl": [{ "vm.max_map_count": "262144" }] })).await;
    says(&host, &["option sysctl: \"vm.max_map_count\"", "no setting allows it"]);
    let options = json!({ "userns": "private", "sysctl": [{ "user.max_net_namespaces": "5" }] });
    let user = b.refused(options).await;
    says(
        &user,
        &["option sysctl: \"user.max_net_namespaces\"", "no setting allows it"],
    );
}

async fn options_of_other_drivers_say_what_to_use_instead(b: &mut Bench) {
    for (name, value, instead) in [
        ("healthchecks", json!([{ "disable": false }]), "check block"),
        (
            "logging",
            json!([{ "type": "syslog", "config": [{ "tag": "hunter2" }] }]),
            "logs block",
        ),
        ("storage_opt", json!({ "size": "40G" }), "ephemeral_disk"),
        ("volume_driver", json!("pxd"), "volume_mount"),
        ("port_map", json!([{ "http": 80 }]), "port block"),
        ("network_aliases", json!(["db"]), "service block"),
        ("ipv4_address", json!("10.0.0.9"), "CNI"),
        ("ipv6_address", json!("fd00::9"), "CNI"),
        ("mac_address", json!("02:42:ac:11:00:02"), "CNI"),
        ("static_ips", json!([{ "a": "10.0.0.9" }]), "CNI"),
        ("static_mac", json!("02:42:ac:11:00:02"), "CNI"),
        ("advertise_ipv6_address", json!(true), "service block"),
        ("cpuset_cpus", json!("0-3"), "cores"),
        ("isolation", json!("hyperv"), "runtime"),
        ("selinux_opts", json!(["type:spc_t"]), "security_opt"),
        ("socket", json!("app1"), "containerd_address"),
    ] {
        let error = b.refused(json!({ name: value })).await;
        says(&error, &[&format!("option {name}: "), instead]);
        assert!(!error.message().contains("hunter2"), "{error:?}");
    }
    // This is so anyway.
    let none = json!({ "healthchecks": [{ "disable": true }], "advertise_ipv6_address": false, "socket": "default",
        "logging": [{ "driver": "nomad" }], "container_exists_attempts": 3 });
    assert_eq!(b.run(b.with_options(none, "true")).await.0, 0);
}

async fn ports_are_those_of_the_group(b: &mut Bench) {
    let mut spec = b.with_options(json!({ "ports": ["http"] }), "true");
    spec.ports.push(PortMapping {
        label: "http".to_owned(),
        value: 25000,
        to: 80,
        host_ip: "127.0.0.1".to_owned(),
    });
    // A network block of the host's mode has ports, too, and nothing maps them into a network of the task's own.
    let unmapped = b.refused_spec(spec.clone()).await;
    says(
        &unmapped,
        &["option ports: \"http\": nothing maps it", "host_network = true"],
    );
    let host = with(spec, json!({ "host_network": true }));
    assert_eq!(b.run(host.clone()).await.0, 0);
    let other = b.refused_spec(with(host, json!({ "ports": ["http", "htpp"] }))).await;
    says(&other, &["option ports: \"htpp\"", "there is http"]);
}

async fn an_option_is_called_as_the_job_wrote_it(b: &mut Bench) {
    for (options, words) in [
        (json!({ "work_dir": "relative" }), ["option work_dir: ", "relative"]),
        (json!({ "userns_mode": "keep-id" }), ["option userns_mode: ", "keep-id"]),
        (
            json!({ "mount": [{ "type": "bind", "source": "/no/such", "target": "/x", "readonly": true }] }),
            ["mount: ", "/no/such"],
        ),
        (
            json!({ "auth": { "username": "me", "password": "" } }),
            ["option auth.password: ", "both expected"],
        ),
        (
            json!({ "pid_mode": "task" }),
            ["option pid_mode: \"task\": ", "Invalid pid_mode"],
        ),
        (
            json!({ "devices": [{ "host_path": "/dev/kmsg:/dev/x" }] }),
            ["devices[0]", "/dev/kmsg:/dev/x"],
        ),
    ] {
        says(&b.refused(options).await, &words);
    }
}

async fn what_a_user_namespace_cannot_have_is_named(b: &mut Bench) {
    for (options, words) in [
        (json!({ "ipc_mode": "host" }), ["option userns: ", "ipc_mode"]),
        (
            json!({ "group_add": ["70000"] }),
            ["option group_add: \"70000\"", "65535"],
        ),
        (
            json!({ "devices": ["/dev/kmsg:/dev/elsewhere"] }),
            ["option devices[0]: \"/dev/elsewhere\"", "/dev/kmsg"],
        ),
    ] {
        let mut options = options;
        options["userns"] = json!("private");
        says(&b.refused(options).await, &words);
    }
    let spec = b.with_options(json!({ "userns": "private" }), "true").user("70000");
    says(&b.refused_spec(spec).await, &["option user: \"70000\"", "userns_ids"]);
}

async fn a_task_brings_its_own_init(b: &mut Bench) {
    let own = ["/usr/bin/tini-static", "/usr/bin/docker-init", "/usr/bin/catatonit"];
    let own = own.into_iter().find(|path| std::path::Path::new(path).exists());
    let own = own.expect("an init program, as this suite needs one");
    let copy = b.rig.dir().join("own-init");
    std::fs::copy(own, &copy).expect("a copy");
    let options = json!({ "init": true, "init_path": copy });
    let script = "echo one=$(tr '\\0' ' ' </proc/1/cmdline); echo from=$(sed -n 's/.* \\([^ ]*\\) \\/dev\\/init .*/\\1/p' /proc/self/mountinfo)";
    let seen = b.look(options, script).await;
    assert!(seen.get("one").starts_with("/dev/init -- "), "{seen:?}");
    assert!(seen.get("from").ends_with("/own-init"), "{seen:?}");
    let without = b.refused(json!({ "init_path": copy })).await;
    says(&without, &["option init_path: ", "init = true"]);
    let missing = b.refused(json!({ "init": true, "init_path": "/no/such" })).await;
    says(&missing, &["option init_path: \"/no/such\"", "no such program"]);
}

/// The runtime for GPUs is one that is not there: whether it was chosen is seen.
async fn a_gpu_is_what_the_device_plugin_gives(b: &mut Bench) {
    let base = b.rig.config().clone();
    let mut config = base.clone();
    config["nvidia_runtime"] = json!("gone");
    b.rig.plugin().configure(&config).await.expect("SetConfig");
    let of_job = b.sh("true").env("NVIDIA_VISIBLE_DEVICES", "all");
    assert_eq!(b.run(of_job.clone()).await.0, 0);
    let mut of_plugin = of_job;
    of_plugin.tweak = Some(|task| {
        task.device_env
            .insert("NVIDIA_VISIBLE_DEVICES".to_owned(), "GPU-1".to_owned());
    });
    says(&b.refused_spec(of_plugin.clone()).await, &["/opt/no/such-runtime"]);
    let other = with(of_plugin, json!({ "runtime": "runc" }));
    says(
        &b.refused_spec(other).await,
        &["option runtime: \"runc\"", "nvidia_runtime"],
    );
    b.rig.plugin().configure(&base).await.expect("SetConfig");
}

async fn priorities_over_the_rest_of_the_node_need_consent(b: &mut Bench) {
    for (options, words) in [
        (
            json!({ "oom_score_adj": -5 }),
            ["oom_score_adj", "-5", "allow_caps with \"CAP_SYS_RESOURCE\" in it"],
        ),
        (
            json!({ "ulimit": [{ "rtprio": "9" }] }),
            ["ulimit.rtprio", "9", "allow_caps with \"CAP_SYS_NICE\" in it"],
        ),
        (
            json!({ "init": true, "init_path": "/sbin/init" }),
            ["init_path", "/sbin/init", "volumes { enabled = true }"],
        ),
    ] {
        says(&b.refused(options).await, &words);
    }
    let base = b.rig.config().clone();
    let mut config = base.clone();
    config["allow_caps"] = json!(["chown", "sys_nice"]);
    b.rig.plugin().configure(&config).await.expect("SetConfig");
    let spec = b.with_options(json!({ "ulimit": [{ "rtprio": "9" }] }), "sleep 3600");
    match within(patience(), "StartTask", b.rig.start(spec)).await {
        Ok(task) => {
            let (_, pid) = crate::bench::container_of(&task).await;
            let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
            let line = limits.lines().find(|line| line.starts_with("Max realtime priority"));
            let words: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
            assert_eq!(words.get(3..), Some(&["9", "9"][..]), "{limits}");
            end(task).await;
        }
        // A machine whose root may not raise limits: the gate is open, the kernel's is not.
        Err(error) => says(
            &error,
            &["option ulimit.rtprio: \"9\": a limit that may be set on this node"],
        ),
    }
    b.rig.plugin().configure(&base).await.expect("SetConfig");
}

async fn settings_that_cannot_work_are_refused_when_the_agent_starts(b: &mut Bench) {
    let base = b.rig.config().clone();
    for (name, value, words) in settings() {
        let mut config = base.clone();
        config[name] = value;
        let error = b.rig.plugin().configure(&config).await.err();
        let error = error.unwrap_or_else(|| panic!("{name} is taken")).to_string();
        for word in words {
            assert!(error.contains(word), "no {word:?} in {error}");
        }
    }
    // The plugin goes on with what it had.
    assert_eq!(b.run(b.sh("true")).await.0, 0);
}

/// A setting, a value with which it cannot work, and what the refusal names.
fn settings() -> Vec<(&'static str, Json, [&'static str; 2])> {
    vec![
        (
            "containerd_namespace",
            json!("my jobs"),
            ["option containerd_namespace", "my jobs"],
        ),
        ("pids_limit", json!(-1), ["option pids_limit: -1", "0 for no limit"]),
        (
            "disable_log_collection",
            json!(true),
            ["option disable_log_collection: ", "log_collection = "],
        ),
        ("oom_score_adj", json!(-5), ["option oom_score_adj: ", "allow_caps"]),
        (
            "logging",
            json!([{ "type": "journald" }]),
            ["option logging: ", "logs block"],
        ),
        ("init_path", json!("tini"), ["option init_path: ", "absolute path"]),
        (
            "runtimes",
            json!([{ "dev": "/opt/crun" }]),
            ["option runtimes.dev: ", "a type"],
        ),
        (
            "allowed_modes",
            json!({ "pid": ["hots"] }),
            ["option allowed_modes.pid: ", "host"],
        ),
        ("extra_labels", json!(["job"]), ["option extra_labels: ", "job_name"]),
        (
            "otlp_endpoint",
            json!("collector:4317"),
            ["option otlp_endpoint: ", "http"],
        ),
        (
            "volumes",
            json!({ "selinuxlabel": "x" }),
            ["option volumes.selinuxlabel: ", "whole label"],
        ),
    ]
}

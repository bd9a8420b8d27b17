//! The eleven acceptance jobs of the Go driver: each configuration as its job files write it, with that driver's own
//! plugin configuration and its security profile, must do here what it did there.
//!
//! The jobs' images are replaced by the plain one, with the default command that the job relied on.

use crate::bench::{Bench, container_of, group, kind, patience, setting};
use serde_json::{Value as Json, json};
use std::process::{Command, Output};
use testhost::image::ImageConfig;
use testhost::procfs;
use testhost::registry::LOGIN;
use testhost::rig::{RigOpts, RunningTask};
use testhost::task::TaskSpec;
use testhost::wire::driver::{DnsConfig, Mount, TaskState};
use testhost::within::within;

group!(acceptance, bench(json!({})), {
    job_001_redis_with_cwd_hostname_seccomp_and_two_memory_limits,
    job_002_an_invalid_signal_is_refused_in_known_words,
    job_003_capabilities_and_a_read_only_root,
    job_004_privileged_with_devices_and_a_bind,
    job_005_a_volume_twice_of_which_once_read_only,
    job_006_dns_of_the_group_and_sysctls,
    job_007_extra_hosts_on_the_hosts_network,
    job_008_an_entrypoint_with_arguments,
    job_010_a_template_mounted_as_a_file,
    // The registry wants a login from here on.
    job_009_a_private_image_needs_credentials,
});

group!(acceptance_without_consent, bench(json!({ "allow_privileged": false })), {
    job_011_privileged_is_refused_in_known_words,
});

/// The plugin configuration of the Go driver's example agent.
async fn bench(more: Json) -> Bench {
    let mut opts = RigOpts::new(kind()).expect("CD_DRIVER_BIN");
    opts.config = json!({
        "enabled": true,
        "containerd_runtime": "io.containerd.runc.v2",
        "stats_interval": "5s",
        "security_profile": "go-driver",
    });
    for (key, value) in more.as_object().expect("an object") {
        opts.config[key] = value.clone();
    }
    Bench::with(opts).await
}

/// A task with a `config` block of these keys besides the image, and the jobs' resources.
fn job(image: &str, config: Json) -> TaskSpec {
    let mut spec = TaskSpec::new(image).cpu_shares(500).memory_mb(256);
    for (key, value) in config.as_object().expect("an object") {
        spec = spec.option(key, value.clone());
    }
    spec
}

/// Runs a program in the namespaces of a task, as `nomad alloc exec` would.
fn inside(pid: u32, argv: &[&str]) -> Output {
    let mut nsenter = Command::new("nsenter");
    nsenter.arg(format!("--target={pid}"));
    nsenter.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--"]);
    nsenter
        .args(argv)
        .env("PATH", "/bin")
        .output()
        .expect("nsenter of util-linux")
}

/// What such a program prints.
fn printed(pid: u32, argv: &[&str]) -> String {
    let output = inside(pid, argv);
    assert!(output.status.success(), "{argv:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// A line of `/proc/<pid>/status`.
fn status_of(pid: u32, key: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {key} in {text}")).trim().to_owned()
}

fn capabilities(pid: u32, set: &str) -> u64 {
    u64::from_str_radix(&status_of(pid, set), 16).expect("a mask")
}

async fn start(b: &Bench, spec: TaskSpec) -> (RunningTask, u32) {
    let task = b.start(spec).await;
    assert_eq!(task.status().await.expect("InspectTask").state(), TaskState::Running);
    let (_, pid) = container_of(&task).await;
    (task, pid)
}

/// Stop and purge.
async fn end(task: RunningTask) {
    task.stop(std::time::Duration::from_millis(500), "")
        .await
        .expect("StopTask");
    task.destroy(false).await.expect("DestroyTask");
}

async fn job_001_redis_with_cwd_hostname_seccomp_and_two_memory_limits(b: &mut Bench) {
    // As with redis, what runs comes from the image, and so does the directory.
    let server = ImageConfig::default().cmd(["sh", "-c", "echo ready; exec sleep 3600"]);
    let image = b.rig.image("acceptance/redis", &server).await.expect("image");
    let config = json!({ "hostname": "foobar", "seccomp": true, "cwd": "/home/redis" });
    let (task, pid) = start(b, job(&image, config).memory_max_mb(512)).await;
    task.wait_line(patience(), "ready").await;
    let cwd = std::fs::read_link(format!("/proc/{pid}/cwd")).expect("a directory");
    assert_eq!(cwd, std::path::Path::new("/home/redis"));
    assert_eq!(printed(pid, &["hostname"]), "foobar");
    assert_eq!(status_of(pid, "Seccomp"), "2", "a filter is in force");
    let soft = setting(pid, "memory.soft_limit_in_bytes", "memory.low");
    assert_eq!(soft.as_deref(), Some("268435456"));
    let hard = setting(pid, "memory.limit_in_bytes", "memory.max");
    assert_eq!(hard.as_deref(), Some("536870912"));
    end(task).await;
}

async fn job_002_an_invalid_signal_is_refused_in_known_words(b: &mut Bench) {
    let handler = "trap 'echo hangup' HUP; trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done";
    let image = ImageConfig::default().entrypoint(["sh", "-c", handler]);
    let image = b.rig.image("acceptance/signal", &image).await.expect("image");
    let (task, _) = start(b, job(&image, json!({}))).await;
    task.wait_line(patience(), "ready").await;
    let error = task.signal("INVALID").await.expect_err("no such signal");
    assert!(error.message().contains("Invalid signal"), "{error:?}");
    task.signal("SIGHUP").await.expect("SignalTask");
    task.wait_line(patience(), "hangup").await;
    end(task).await;
}

async fn job_003_capabilities_and_a_read_only_root(b: &mut Bench) {
    let config = json!({
        "command": "sleep",
        "args": ["600s"],
        "readonly_rootfs": true,
        "cap_add": ["CAP_SYS_ADMIN", "CAP_IPC_OWNER", "CAP_IPC_LOCK"],
        "cap_drop": ["CAP_CHOWN", "CAP_SYS_CHROOT", "CAP_DAC_OVERRIDE"],
    });
    let (task, pid) = start(b, job(&b.image, config)).await;
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        let found = capabilities(pid, set);
        for (number, name, wanted) in [
            (21, "SYS_ADMIN", true),
            (15, "IPC_OWNER", true),
            (14, "IPC_LOCK", true),
            (0, "CHOWN", false),
            (18, "SYS_CHROOT", false),
            (1, "DAC_OVERRIDE", false),
        ] {
            assert_eq!(found >> number & 1 == 1, wanted, "{name} in {set} {found:x}");
        }
    }
    let touched = inside(pid, &["touch", "/file.txt"]);
    let words = String::from_utf8_lossy(&touched.stderr);
    assert!(words.contains("Read-only file system"), "{touched:?}");
    end(task).await;
}

async fn job_004_privileged_with_devices_and_a_bind(b: &mut Bench) {
    let source = b.rig.dir().join("s1");
    std::fs::create_dir_all(&source).expect("a directory");
    std::fs::write(source.join("bind.txt"), "hello\n").expect("a file");
    // Some kernels, such as that of user-mode Linux, are built without.
    let loops: Vec<&str> = ["/dev/loop0", "/dev/loop1"]
        .into_iter()
        .filter(|path| std::path::Path::new(path).exists())
        .collect();
    let config = json!({
        "command": "sleep",
        "args": ["600s"],
        "privileged": true,
        "devices": loops,
        "mounts": [{
            "type": "bind",
            "target": "/tmp/t1",
            "source": source.display().to_string(),
            "options": ["rbind", "ro"],
        }],
    });
    let (task, pid) = start(b, job(&b.image, config)).await;
    let (all, ours) = (capabilities(pid, "CapBnd"), capabilities(std::process::id(), "CapBnd"));
    assert_eq!(all & ours, ours, "bounding set {all:x}, of this process {ours:x}");
    assert_eq!(printed(pid, &["cat", "/tmp/t1/bind.txt"]), "hello");
    assert!(!inside(pid, &["touch", "/tmp/t1/other"]).status.success());
    for path in loops {
        printed(pid, &["stat", path]);
    }
    end(task).await;
}

async fn job_005_a_volume_twice_of_which_once_read_only(b: &mut Bench) {
    let volume = b.rig.dir().join("volume");
    std::fs::create_dir_all(&volume).expect("a directory");
    std::fs::write(volume.join("bind.txt"), "hello\n").expect("a file");
    let mount = |target: &str, readonly| Mount {
        task_path: target.to_owned(),
        host_path: volume.display().to_string(),
        readonly,
        propagation_mode: "private".to_owned(),
        ..Mount::default()
    };
    let spec = job(&b.image, json!({ "command": "sleep", "args": ["600s"] }))
        .mount(mount("/tmp/t1", false))
        .mount(mount("/tmp/read_only_target", true));
    let (task, pid) = start(b, spec).await;
    for target in ["t1", "read_only_target"] {
        let file = format!("/tmp/{target}/bind.txt");
        assert_eq!(printed(pid, &["cat", &file]), "hello");
    }
    let written = volume.join("writable_test.txt");
    let refused = inside(pid, &["touch", "/tmp/read_only_target/writable_test.txt"]);
    assert!(!refused.status.success() && !written.exists(), "{refused:?}");
    printed(pid, &["touch", "/tmp/t1/writable_test.txt"]);
    assert!(written.exists());
    end(task).await;
}

async fn job_006_dns_of_the_group_and_sysctls(b: &mut Bench) {
    let config = json!({
        "command": "sleep",
        "args": ["600s"],
        // As a host hands on `sysctl = { … }` of a job file.
        "sysctl": [{ "net.core.somaxconn": "16384", "net.ipv4.ip_forward": "1" }],
    });
    let mut spec = job(&b.image, config);
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    spec.dns = Some(DnsConfig {
        servers: texts(&["127.0.0.1", "127.0.0.2"]),
        searches: texts(&["internal.corp"]),
        options: texts(&["ndots:2"]),
    });
    let (task, pid) = start(b, spec).await;
    let resolv = printed(pid, &["cat", "/etc/resolv.conf"]);
    for line in [
        "nameserver 127.0.0.1",
        "nameserver 127.0.0.2",
        "search internal.corp",
        "options ndots:2",
    ] {
        assert!(resolv.lines().any(|found| found == line), "no {line:?} in {resolv:?}");
    }
    assert_eq!(printed(pid, &["cat", "/proc/sys/net/core/somaxconn"]), "16384");
    assert_eq!(printed(pid, &["cat", "/proc/sys/net/ipv4/ip_forward"]), "1");
    end(task).await;
}

async fn job_007_extra_hosts_on_the_hosts_network(b: &mut Bench) {
    let config = json!({
        "extra_hosts": ["postgres:127.0.1.1", "redis:127.0.1.2"],
        "host_network": true,
        "command": "sleep",
        "args": ["600s"],
    });
    let (task, pid) = start(b, job(&b.image, config)).await;
    let hosts = printed(pid, &["cat", "/etc/hosts"]);
    for line in ["127.0.1.1\tpostgres", "127.0.1.2\tredis"] {
        assert!(hosts.contains(line), "no {line:?} in {hosts:?}");
    }
    // Those of the host come first.
    let own = std::fs::read_to_string("/etc/hosts").expect("the host's file");
    assert!(hosts.contains(own.trim_end()), "{own:?} is not in {hosts:?}");
    end(task).await;
}

async fn job_008_an_entrypoint_with_arguments(b: &mut Bench) {
    let image = ImageConfig::default().entrypoint(["false"]).cmd(["not", "this"]);
    let image = b.rig.image("acceptance/entrypoint", &image).await.expect("image");
    let config = json!({
        "entrypoint": ["/bin/sh"],
        "args": ["-c", "i=0; while [ $i -lt 100 ]; do echo container1 container2; sleep 1s; i=$((i+1)); done"],
    });
    let (task, _) = start(b, job(&image, config)).await;
    let line = task.wait_line(patience(), "container1").await;
    assert_eq!(line.trim_end(), "container1 container2");
    end(task).await;
}

async fn job_009_a_private_image_needs_credentials(b: &mut Bench) {
    let hello = ImageConfig::default().cmd(["echo", "Hello from test"]).salt("private");
    let image = b.rig.image("acceptance/private", &hello).await.expect("image");
    b.rig.registry.require_login().await.expect("a login");
    let start = within(patience(), "StartTask", b.rig.start(job(&image, json!({}))));
    let error = start.await.err().expect("no credentials were given");
    let words = "pull access denied, repository does not exist or may require authorization";
    assert!(error.message().contains(words), "{error:?}");
    let auth = |password: &str| json!({ "auth": [{ "username": LOGIN.0, "password": password }] });
    let start = within(patience(), "StartTask", b.rig.start(job(&image, auth("wrong"))));
    let error = start.await.err().expect("a wrong password");
    assert!(error.message().contains(words), "{error:?}");
    assert!(!error.message().contains("wrong"), "the password is shown: {error:?}");
    let (code, text) = b.run(job(&image, auth(LOGIN.1))).await;
    assert_eq!((code, text.as_str()), (0, "Hello from test\n"));
}

async fn job_010_a_template_mounted_as_a_file(b: &mut Bench) {
    const TEMPLATE: &str = "bind_address 0.0.0.0\nallow_anonymous true\npersistence true\n";
    let config = json!({
        "command": "sleep",
        "args": ["600s"],
        "mounts": [{
            "type": "bind",
            "target": "/mosquitto/config/mosquitto.conf",
            "source": "local/mosquitto.conf",
            "options": ["rbind", "rw"],
        }],
    });
    let alloc = b.rig.alloc();
    let spec = job(&b.image, config);
    // A host renders templates before it asks for the start.
    let dir = alloc.add_task(&spec.name).expect("task directory");
    std::fs::write(dir.join("local/mosquitto.conf"), TEMPLATE).expect("a file");
    let started = within(patience(), "StartTask", b.rig.start_in(alloc, &spec)).await;
    let task = started.expect("StartTask");
    let (_, pid) = container_of(&task).await;
    assert!(procfs::alive(pid));
    let found = printed(pid, &["cat", "/mosquitto/config/mosquitto.conf"]);
    assert_eq!(found, TEMPLATE.trim_end());
    end(task).await;
}

async fn job_011_privileged_is_refused_in_known_words(b: &mut Bench) {
    let config = json!({ "command": "sleep", "args": ["600s"], "privileged": true });
    let start = within(patience(), "StartTask", b.rig.start(job(&b.image, config)));
    let error = start.await.err().expect("no consent");
    assert!(
        error.message().contains("Running privileged jobs are not allowed"),
        "{error:?}"
    );
}

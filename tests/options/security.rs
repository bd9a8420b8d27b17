//! A task against its host: planted links, and the classes of three published faults of other drivers.

use crate::bench::{Bench, group, patience};
use crate::look::{bench, end, says, wants};
use serde_json::json;
use std::os::unix::fs::symlink;
use std::path::Path;
use testhost::task::TaskSpec;

group!(security, bench(json!({})), if wants("runc"), {
    cve_2026_14896_a_link_in_a_volume_shows_nothing_of_the_host,
    cve_2026_6959_links_in_place_of_the_log_pipes_are_not_followed,
    a_link_in_place_of_a_task_directory_is_not_followed,
});
group!(security_privileged, bench(json!({ "allow_privileged": true })), if wants("runc"), {
    cve_2026_14891_consent_to_privileged_tasks_opens_no_other_gate,
});

async fn start(
    b: &Bench,
    spec: &TaskSpec,
    prepare: impl Fn(&Path, &Path),
) -> Result<testhost::rig::RunningTask, tonic::Status> {
    let alloc = b.rig.alloc();
    let dir = alloc.add_task(&spec.name).expect("task directory");
    prepare(&dir, alloc.dir());
    b.rig.start_in(alloc, spec).await
}

async fn cve_2026_14896_a_link_in_a_volume_shows_nothing_of_the_host(b: &mut Bench) {
    for options in [
        json!({ "volumes": ["local/planted:/x:ro"] }),
        json!({ "volumes": ["local/planted/shadow:/x:ro"] }),
        json!({ "mounts": [{ "type": "bind", "source": "local/planted", "target": "/x", "options": ["rbind", "ro"] }] }),
        json!({ "mount": [{ "type": "bind", "source": "local/deep/planted", "target": "/x", "readonly": true }] }),
    ] {
        let spec = b.with_options(options.clone(), "cat /x/shadow /x");
        let error = start(b, &spec, |dir, _| {
            std::fs::create_dir(dir.join("local/deep")).expect("a directory");
            symlink("/etc", dir.join("local/planted")).expect("a link");
            symlink("../../../../../../../../etc", dir.join("local/deep/planted")).expect("a link");
        })
        .await
        .err()
        .unwrap_or_else(|| panic!("{options} followed a link out of the task directory"));
        says(&error, &["planted"]);
    }
    // The target side: a link in the image's tree cannot lead a mount out of the container.
    let image = b.image.clone();
    let spec = TaskSpec::new(image)
        .sh("ln -s /proc/1/root/../../../etc /alloc/out; ls /alloc/out/hostname >/dev/null 2>&1; readlink /alloc/out")
        .option("volumes", json!(["local:/alloc/../etc/x"]));
    says(&b.refused_spec(spec).await, &["volumes", ".."]);
}

async fn cve_2026_6959_links_in_place_of_the_log_pipes_are_not_followed(b: &mut Bench) {
    let victim = b.rig.dir().join("victim");
    std::fs::write(&victim, "keep").expect("a file");
    for stream in ["stdout", "stderr"] {
        let spec = b.sh("echo overwritten; echo overwritten >&2");
        let alloc = b.rig.alloc();
        alloc.add_task(&spec.name).expect("task directory");
        let path = alloc.logs_dir().join(format!("planted.{stream}"));
        symlink(&victim, &path).expect("a link");
        let other = alloc.logs_dir().join("plain");
        std::fs::write(&other, "").expect("a file");
        let paths = if stream == "stdout" {
            (&path, &other)
        } else {
            (&other, &path)
        };
        let spec = spec.log_paths(paths.0.display().to_string(), paths.1.display().to_string());
        let error = b.rig.start_in(alloc, &spec).await.err().expect("a link is no log path");
        says(&error, &[stream, "planted"]);
        assert_eq!(std::fs::read_to_string(&victim).expect("a file"), "keep");
    }
    // And the task cannot plant one: its log directory is read-only.
    b.look(json!({}), "ln -s /etc/passwd /alloc/logs/x 2>/dev/null; echo planted=$?; rm /alloc/logs/.web.stdout.fifo 2>/dev/null; echo removed=$?")
        .await
        .are([("planted", "1"), ("removed", "1")]);
}

async fn a_link_in_place_of_a_task_directory_is_not_followed(b: &mut Bench) {
    let spec = b.sh("cat /local/shadow");
    let error = start(b, &spec, |dir, _| {
        std::fs::remove_dir_all(dir.join("local")).expect("remove");
        symlink("/etc", dir.join("local")).expect("a link");
    })
    .await
    .err()
    .expect("a link in place of /local");
    says(&error, &["local"]);
    let error = start(b, &spec, |_, alloc| {
        std::fs::rename(alloc.join("alloc/logs"), alloc.join("alloc/moved")).expect("rename");
        symlink("/etc", alloc.join("alloc/logs")).expect("a link");
    })
    .await
    .err()
    .expect("a link in place of the logs");
    says(&error, &["log"]);
}

async fn cve_2026_14891_consent_to_privileged_tasks_opens_no_other_gate(b: &mut Bench) {
    for (options, words) in [
        (json!({ "pid_mode": "host" }), ["pid_mode", "allowed_modes"]),
        (json!({ "ipc_mode": "host" }), ["ipc_mode", "allowed_modes"]),
        (json!({ "uts_mode": "host" }), ["uts_mode", "allowed_modes"]),
        (json!({ "host_network": true }), ["host_network", "allowed_modes"]),
        (json!({ "cap_add": ["SYS_ADMIN"] }), ["cap_add", "allow_caps"]),
        (json!({ "devices": ["/dev/kmsg"] }), ["devices", "allow_devices"]),
        (
            json!({ "volumes": ["/etc:/x"] }),
            ["volumes", "volumes { enabled = true }"],
        ),
    ] {
        says(&b.refused(options).await, &words);
    }
    let task = b
        .start(crate::look::with(
            b.sh("echo up"),
            json!({ "privileged": true, "pid_mode": "host" }),
        ))
        .await;
    assert_eq!(task.exit(patience()).await.exit_code, 0);
    end(task).await;
}

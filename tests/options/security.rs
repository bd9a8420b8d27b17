//! A task against its host: planted links, and the classes of three published faults of other drivers.

use crate::bench::{Bench, group, patience};
use crate::look::{bench, end, says, wants};
use serde_json::json;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use testhost::image::ImageConfig;
use testhost::task::TaskSpec;

group!(security, bench(json!({})), if wants("runc"), {
    cve_2026_14896_a_link_in_a_volume_shows_nothing_of_the_host,
    cve_2026_6959_links_in_place_of_the_log_pipes_are_not_followed,
    a_link_in_place_of_a_task_directory_is_not_followed,
    links_in_the_image_lead_no_mount_over_what_is_the_runtimes,
    what_the_image_has_as_the_null_device_is_given_to_nobody,
    cve_2026_6959_no_layout_of_links_and_mounts_makes_the_log_directory_writable,
    links_that_images_usually_have_are_in_nobodys_way,
    a_neighbour_that_swaps_a_source_gains_nothing,
    a_pipe_in_place_of_the_images_users_is_refused_at_once,
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

/// An image with these links: path without the first slash, and target.
async fn image(b: &Bench, name: &str, links: &[(&str, &str)]) -> String {
    let config = links.iter().fold(ImageConfig::default(), |config, (path, target)| {
        config.link(*path, *target)
    });
    b.rig.image(&format!("odd/{name}"), &config).await.expect("an image")
}

/// The class of CVE-2025-31133 and CVE-2019-19921: what the job may not name, an image must not name for it.
async fn links_in_the_image_lead_no_mount_over_what_is_the_runtimes(b: &mut Bench) {
    for (name, link, options, target) in [
        ("dev", ("local", "/dev"), json!({}), "/local"),
        ("sysctl", ("z", "/proc/sys"), json!({ "tmpfs": ["/z"] }), "/z"),
        ("proc", ("y", "/proc"), json!({ "tmpfs": ["/y/fs"] }), "/y/fs"),
        (
            "cgroup",
            ("x", "/sys/fs/cgroup"),
            json!({ "volumes": ["local:/x"] }),
            "/x",
        ),
    ] {
        let spec = crate::look::with(TaskSpec::new(image(b, name, &[link]).await).sh("echo up"), options);
        let error = b.refused_spec(spec).await;
        says(&error, &[target, "links in the image"]);
    }
}

/// The class of CVE-2025-31133: the runtime gives a process what is at `/dev/null` as its input, and `/proc/sys` is still
/// writable then.
async fn what_the_image_has_as_the_null_device_is_given_to_nobody(b: &mut Bench) {
    let links = [("dev/null", "/proc/sys/kernel/domainname"), ("z", "/dev")];
    let image = image(b, "null", &links).await;
    let before = std::fs::read_to_string("/proc/sys/kernel/domainname").expect("a parameter");
    let words = "tmpcopyup,dev,exec,suid";
    for (options, named) in [
        (json!({ "tmpfs": [format!("/dev:{words}")] }), "option tmpfs: \"/dev\""),
        (json!({ "tmpfs": ["/dev:dev"] }), "option tmpfs: \"/dev\""),
        (
            json!({ "mounts": [{ "type": "tmpfs", "target": "/dev", "options": words.split(',').collect::<Vec<_>>() }] }),
            "option mounts[0]: \"/dev\"",
        ),
        (json!({ "tmpfs": [format!("/z:{words}")] }), "/z"),
    ] {
        let spec = crate::look::with(TaskSpec::new(&image).sh("echo pwned >&0"), options);
        says(&b.refused_spec(spec).await, &[named]);
    }
    let spec = TaskSpec::new(&image).sh("echo null=$(stat -c %t:%T /dev/null); echo pwned >&0; echo up=1");
    b.seen(spec).await.are([("null", "1:3"), ("up", "1")]);
    let after = std::fs::read_to_string("/proc/sys/kernel/domainname").expect("a parameter");
    assert_eq!(after, before);
}

/// The log directory is read-only in the container because root opens what is in it.
async fn cve_2026_6959_no_layout_of_links_and_mounts_makes_the_log_directory_writable(b: &mut Bench) {
    let links = [
        ("alloc", "/p/a"),
        ("p/a", "/t"),
        ("1/p", "/p"),
        ("2/2/p", "/p"),
        ("c/c/c/1", "/1"),
    ];
    let volumes = [
        "local/fake:/keep",
        "local/fake:/1/p",
        "local/fake2:/2/2/p",
        "local/c:/c/c/c/1",
    ];
    let spec = crate::look::with(
        TaskSpec::new(image(b, "decoy", &links).await)
            .sh("if touch /alloc/logs/evil; then echo writable; else echo kept; fi"),
        json!({ "volumes": volumes }),
    );
    let started = start(b, &spec, |dir, _| {
        let local = dir.join("local");
        for made in ["fake/a/logs", "fake2", "c"] {
            std::fs::create_dir_all(local.join(made)).expect("a directory");
        }
        symlink("/t", local.join("fake2/a")).expect("a link");
        symlink("/keep", local.join("c/p")).expect("a link");
    })
    .await;
    // Refused, or without effect: both keep the promise.
    match started {
        Err(error) => says(&error, &["links in the image"]),
        Ok(task) => {
            task.exit(patience()).await;
            task.logs_end(patience()).await;
            assert_eq!(task.lines(), ["kept"]);
            end(task).await;
        }
    }
}

async fn links_that_images_usually_have_are_in_nobodys_way(b: &mut Bench) {
    let links = [
        ("var/lock", "/run/lock"),
        ("etc/resolv.conf", "../run/resolve/stub.conf"),
        ("data", "srv/data"),
    ];
    let spec = crate::look::with(
        TaskSpec::new(image(b, "usual", &links).await)
            .sh("echo volume=$(cat /data/f /srv/data/f | tr -d '\\n'); echo lock=$(stat -f -c %T /run/lock); grep -c . /etc/resolv.conf >/dev/null; echo up"),
        json!({ "volumes": ["local/v:/data"], "tmpfs": ["/var/lock"] }),
    );
    let task = start(b, &spec, |dir, _| {
        std::fs::create_dir(dir.join("local/v")).expect("a directory");
        std::fs::write(dir.join("local/v/f"), "x").expect("a file");
    })
    .await
    .expect("StartTask");
    assert_eq!(task.exit(patience()).await.exit_code, 0);
    task.logs_end(patience()).await;
    assert!(task.lines().contains(&"volume=xx".to_owned()), "{:?}", task.lines());
    end(task).await;
}

/// A task of the same group swaps a directory of the shared one for a link, over and over, while this one is started with
/// that directory as a volume, and a second mount inside of it.
async fn a_neighbour_that_swaps_a_source_gains_nothing(b: &mut Bench) {
    let victim = b.rig.dir().join("swapped");
    std::fs::create_dir(&victim).expect("a directory");
    std::fs::write(victim.join("secret"), "HOST-SECRET").expect("a file");
    let alloc = b.rig.alloc();
    let data = alloc.dir().join("alloc/data");
    std::fs::create_dir_all(&data).expect("a directory");
    let (own, link, aside) = (data.join("x"), data.join("link"), data.join("aside"));
    std::fs::create_dir(&own).expect("a directory");
    symlink(&victim, &link).expect("a link");
    let over = Arc::new(AtomicBool::new(false));
    let swapper = std::thread::spawn({
        let over = Arc::clone(&over);
        move || {
            while !over.load(Ordering::Relaxed) {
                for (from, to) in [(&own, &aside), (&link, &own), (&own, &link), (&aside, &own)] {
                    std::fs::rename(from, to).expect("a rename");
                    std::thread::yield_now();
                }
            }
        }
    });
    let source = data.join("x").display().to_string();
    let mut started = 0;
    for n in 0..12 {
        let name = format!("swap{n}");
        let dir = alloc.add_task(&name).expect("task directory");
        std::fs::write(dir.join("local/f"), "").expect("a file");
        let spec = crate::look::with(
            TaskSpec::new(b.image.clone())
                .name(&name)
                .sh("cat /x/secret; touch /x/pwned; echo seen"),
            json!({ "volumes": [format!("{source}:/x"), "local/f:/x/planted"] }),
        );
        if let Ok(task) = b.rig.start_in(Arc::clone(&alloc), &spec).await {
            started += 1;
            task.exit(patience()).await;
            task.logs_end(patience()).await;
            assert_eq!(task.lines(), ["seen"], "{name}");
            end(task).await;
        }
    }
    over.store(true, Ordering::Relaxed);
    swapper.join().expect("the swapper");
    let found: Vec<_> = std::fs::read_dir(&victim)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(found, ["secret"], "{started} starts of 12");
}

/// The runtime opens that file, and waits for whoever writes to the pipe.
async fn a_pipe_in_place_of_the_images_users_is_refused_at_once(b: &mut Bench) {
    for path in ["etc/passwd", "etc/group"] {
        let config = ImageConfig::default().pipe(path);
        let name = format!("odd/pipe-{}", path.replace('/', "-"));
        let image = b.rig.image(&name, &config).await.expect("an image");
        let begun = std::time::Instant::now();
        let error = b.refused_spec(TaskSpec::new(image).sh("echo up")).await;
        says(&error, &[path, "regular file"]);
        assert!(begun.elapsed() < patience(), "{:?}", begun.elapsed());
    }
}

//! Host paths, volumes, file systems in memory, Nomad's volumes, the root file system.

use crate::bench::{Bench, group};
use crate::look::{bench, consent, crun, says, wants, with};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount};
use serde_json::json;
use std::path::{Path, PathBuf};
use testhost::rig::RunningTask;
use testhost::task::TaskSpec;
use testhost::wire::driver::Mount;

group!(mounts_runc, bench(consent()), if wants("runc"), {
    host_paths_are_mounted_in_every_form,
    sources_inside_the_task_directory_are_mounted,
    file_systems_in_memory_have_their_options,
    a_read_only_root_has_writable_volumes_of_the_image,
    a_volume_of_the_image_keeps_owner_and_mode,
    a_volume_of_the_image_is_there_without_a_layer_that_has_it,
    what_an_image_has_in_run_is_there,
    nomads_volumes_have_their_propagation,
    a_mount_may_take_the_place_of_the_runtimes_own,
    mounts_that_cannot_be_are_refused,
    a_file_system_in_memory_has_its_mode_over_the_images_directory,
    without_a_mode_it_has_that_of_the_images_directory,
    what_is_read_only_with_all_below_it_is,
    what_the_job_mounts_below_it_is_as_the_job_says,
    what_would_not_show_on_the_host_is_not_shared,
    the_groups_shared_directory_has_a_relative_name,
    what_is_mounted_later_in_the_groups_directory_arrives_where_the_job_says,
    a_mount_of_the_wrong_kind_is_told_by_its_option,
});
// Not the mounts below a source: containerd is in a mount namespace of its own there, which lacks what is mounted later.
group!(mounts_crun, crun(), if wants("crun"), {
    host_paths_are_mounted_in_every_form,
    file_systems_in_memory_have_their_options,
    a_read_only_root_has_writable_volumes_of_the_image,
    a_volume_of_the_image_keeps_owner_and_mode,
    what_an_image_has_in_run_is_there,
    a_file_system_in_memory_has_its_mode_over_the_images_directory,
    a_mount_of_the_wrong_kind_is_told_by_its_option,
});

async fn host_paths_are_mounted_in_every_form(b: &mut Bench) {
    let host = b.rig.dir().join("shared");
    std::fs::create_dir_all(&host).expect("a directory");
    std::fs::write(host.join("f"), "hello").expect("a file");
    let host = host.display().to_string();
    let options = json!({
        "mounts": [
            { "type": "bind", "source": host, "target": "/go-ro", "options": ["rbind", "ro"] },
            { "type": "volume", "source": host, "target": "/go-rw", "options": ["rbind", "rw"] },
        ],
        "mount": [
            { "type": "bind", "source": host, "target": "/docker-ro", "readonly": true },
            { "type": "bind", "source": host, "target": "/docker-rw", "bind_options": { "propagation": "rslave" } },
        ],
        "volumes": [format!("{host}:/short-ro:ro"), format!("{host}:/short-rw")],
    });
    let script = "for m in go docker short; do for a in ro rw; do cat /$m-$a/f >/tmp/x && touch /$m-$a/w-$m 2>/dev/null; echo $m-$a=$?-$(cat /tmp/x); done; done";
    let seen = b.look(options, script).await;
    for form in ["go", "docker", "short"] {
        seen.are([(&format!("{form}-ro"), "1-hello"), (&format!("{form}-rw"), "0-hello")]);
    }
}

async fn started_with(b: &Bench, spec: &TaskSpec, prepare: impl Fn(&std::path::Path)) -> RunningTask {
    let alloc = b.rig.alloc();
    let dir = alloc.add_task(&spec.name).expect("task directory");
    prepare(&dir);
    b.rig.start_in(alloc, spec).await.expect("StartTask")
}

async fn sources_inside_the_task_directory_are_mounted(b: &mut Bench) {
    let options = json!({
        "mounts": [{ "type": "bind", "source": "local/app.conf", "target": "/etc/app.conf", "options": ["rbind", "ro"] }],
        "mount": [{ "type": "bind", "source": "local/docker", "target": "/docker" }],
        "volumes": ["local/data:/data:ro,nosuid"],
    });
    let spec = b.with_options(options, "touch /docker/x; echo docker=$?; echo conf=$(cat /etc/app.conf); echo data=$(cat /data/x); echo flags=$(grep ' /data ' /proc/self/mountinfo | cut -d ' ' -f 6)");
    let task = started_with(b, &spec, |dir| {
        std::fs::write(dir.join("local/app.conf"), "of-the-job").expect("a file");
        std::fs::create_dir(dir.join("local/data")).expect("a directory");
        std::fs::create_dir(dir.join("local/docker")).expect("a directory");
        std::fs::write(dir.join("local/data/x"), "1").expect("a file");
    })
    .await;
    assert_eq!(task.exit(crate::bench::patience()).await.exit_code, 0);
    task.logs_end(crate::bench::patience()).await;
    let seen = crate::look::pairs(&task.logs().stdout.text());
    seen.are([("conf", "of-the-job"), ("data", "1"), ("docker", "0")]);
    assert!(
        seen.get("flags").contains("ro") && seen.get("flags").contains("nosuid"),
        "{seen:?}"
    );
    crate::look::end(task).await;
}

async fn file_systems_in_memory_have_their_options(b: &mut Bench) {
    let options = json!({
        "tmpfs": ["/a", "/b:size=1m,mode=1777,exec"],
        "mounts": [{ "type": "tmpfs", "target": "/c", "options": ["nosuid", "nodev"] }],
        "mount": [{ "type": "tmpfs", "target": "/d", "tmpfs_options": { "size": 2097152, "mode": 448 } }],
    });
    let script = "for m in a b c d; do echo $m=$(sed -n \"s,.* /$m .* - ,,p\" /proc/self/mountinfo | cut -d ' ' -f 1),$(stat -c %a /$m),$(df -k /$m | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2); done; echo options=$(grep ' /a ' /proc/self/mountinfo | cut -d ' ' -f 6)";
    let seen = b.look(options, script).await;
    for word in ["noexec", "nosuid", "nodev"] {
        assert!(seen.get("options").split(',').any(|w| w == word), "{word} in {seen:?}");
    }
    assert!(seen.get("b").ends_with("1777,1024"), "{seen:?}");
    assert!(seen.get("d").ends_with("700,2048"), "{seen:?}");
    for m in ["a", "b", "c", "d"] {
        assert!(seen.get(m).starts_with("tmpfs"), "{seen:?}");
    }
}

async fn a_read_only_root_has_writable_volumes_of_the_image(b: &mut Bench) {
    let image = b
        .rig
        .image(
            "options/volumes",
            &testhost::image::ImageConfig::default().volume("/home"),
        )
        .await
        .expect("image");
    let script = "touch /x 2>/dev/null; echo root=$?; touch /run/x; echo run=$?; touch /home/y; echo volume=$?; echo content=$(ls -d /home/app)";
    let spec = with(TaskSpec::new(&image).sh(script), json!({ "readonly_rootfs": true }));
    b.seen(spec)
        .await
        .are([("root", "1"), ("run", "0"), ("volume", "0"), ("content", "/home/app")]);
}

/// Servers begin as root, and go on as a user whom the image has given the directory of their data.
async fn a_volume_of_the_image_keeps_owner_and_mode(b: &mut Bench) {
    let config = testhost::image::ImageConfig::default()
        .dir("data/", 0o700, 1000)
        .link("linked", "/data")
        .volume("/linked");
    let image = b.rig.image("options/owned-volume", &config).await.expect("image");
    let script = "for d in /data /linked/; do echo $d=$(stat -c %a:%u:%g $d); done";
    for read_only in [false, true] {
        let spec = with(
            TaskSpec::new(&image).sh(script),
            json!({ "readonly_rootfs": read_only }),
        );
        b.seen(spec)
            .await
            .are([("/data", "700:1000:1000"), ("/linked/", "700:1000:1000")]);
    }
}

/// An image need not have more of a VOLUME than its name; one that it has keeps what is there.
async fn a_volume_of_the_image_is_there_without_a_layer_that_has_it(b: &mut Bench) {
    let config = testhost::image::ImageConfig::default()
        .link("inside", "/home")
        .volume("/none/at/all")
        .volume("/inside/new")
        .volume("/home");
    let image = b.rig.image("options/bare-volumes", &config).await.expect("image");
    let script = "for d in /none/at/all /none /home/new; do echo $d=$(stat -c %a:%u:%g $d); done; touch /none/at/all/x; echo write=$?; echo content=$(ls -d /home/app)";
    b.seen(TaskSpec::new(&image).sh(script)).await.are([
        ("/none/at/all", "755:0:0"),
        ("/none", "755:0:0"),
        ("/home/new", "755:0:0"),
        ("write", "0"),
        ("content", "/home/app"),
    ]);
}

/// As images of database servers have it for their sockets. With a read-only root it is a copy in memory, to which runc
/// 1.1 gives no more than `umask` leaves.
async fn what_an_image_has_in_run_is_there(b: &mut Bench) {
    let image = testhost::image::ImageConfig::default().dir("run/db/", 0o3777, 1000);
    let image = b.rig.image("options/run", &image).await.expect("image");
    let script =
        "echo owner=$(stat -c %u:%g /run/db); echo mode=$(stat -c %a /run/db); touch /run/db/socket; echo write=$?
        echo memory=$(grep -c ' /run .* - tmpfs ' /proc/self/mountinfo)";
    let run = |read_only: bool| {
        let spec = TaskSpec::new(&image).sh(script).user("1000");
        with(spec, json!({ "readonly_rootfs": read_only }))
    };
    let seen = b.seen(run(false)).await;
    seen.are([
        ("owner", "1000:1000"),
        ("mode", "3777"),
        ("write", "0"),
        ("memory", "0"),
    ]);
    let seen = b.seen(run(true)).await;
    seen.are([("owner", "1000:1000"), ("write", "0"), ("memory", "1")]);
}

async fn nomads_volumes_have_their_propagation(b: &mut Bench) {
    let host = b.rig.dir().join("nomad-volume");
    std::fs::create_dir_all(&host).expect("a directory");
    let mount = |task_path: &str, propagation: &str, readonly| Mount {
        task_path: task_path.to_owned(),
        host_path: host.display().to_string(),
        readonly,
        propagation_mode: propagation.to_owned(),
        ..Mount::default()
    };
    let spec = b
        .sh("for v in p h; do echo $v=$(grep \" /vol/$v \" /proc/self/mountinfo | cut -d ' ' -f 6,7); done; touch /vol/h/x 2>/dev/null; echo write=$?")
        .mount(mount("/vol/p", "private", false))
        .mount(mount("/vol/h", "host-to-task", true));
    let seen = b.seen(spec).await;
    assert!(
        !seen.get("p").contains("master:") && !seen.get("p").contains("shared:"),
        "{seen:?}"
    );
    seen.are([("write", "1")]);
    let spec = b.sh("true").mount(mount("/vol/x", "sideways", false));
    says(&b.refused_spec(spec).await, &["propagation_mode", "sideways"]);
}

async fn a_mount_may_take_the_place_of_the_runtimes_own(b: &mut Bench) {
    let options = json!({ "mounts": [
        { "type": "tmpfs", "target": "/run", "options": ["size=1m"] },
        { "type": "bind", "source": "/dev", "target": "/dev", "options": ["rbind", "rw"] },
    ] });
    let script = "echo run=$(df -k /run | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2); test -e /dev/full && echo dev=yes; echo mounts=$(grep -c ' /run ' /proc/self/mountinfo)";
    b.look(options, script)
        .await
        .are([("run", "1024"), ("dev", "yes"), ("mounts", "1")]);
}

async fn mounts_that_cannot_be_are_refused(b: &mut Bench) {
    for (options, words) in [
        (json!({ "volumes": ["/etc"] }), ["volumes", "/etc"]),
        (json!({ "volumes": ["/etc:relative"] }), ["volumes", "relative"]),
        (json!({ "volumes": ["/etc:/x:sideways"] }), ["volumes", "sideways"]),
        (json!({ "volumes": ["/no/such/dir:/x"] }), ["volumes", "/no/such/dir"]),
        (
            json!({ "volumes": ["pgdata:/x"] }),
            ["option volumes: source: ", "volume and volume_mount"],
        ),
        (json!({ "volumes": ["../../etc:/x"] }), ["volumes", "../../etc"]),
        (json!({ "volumes": ["/etc:/x:ro,rw"] }), ["\"rw\"", "contradicts ro"]),
        (
            json!({ "mount": [
                { "type": "bind", "source": "/etc", "target": "/x", "readonly": true },
                { "type": "bind", "source": "/usr", "target": "/y", "options": ["private", "slave"] },
            ] }),
            ["option mount[1]: \"slave\"", "contradicts private"],
        ),
        (
            json!({ "mount": [{ "type": "volume", "source": "/etc", "target": "/x", "readonly": true,
                "volume_options": { "no_copy": true, "labels": [{ "a": "b" }] } }] }),
            ["option mount[0].volume_options.labels", "a=b"],
        ),
        (
            json!({ "mount": [{ "type": "volume", "source": "/etc", "target": "/x", "readonly": true,
                "volume_options": { "driver_config": { "name": "nfs" } } }] }),
            ["option mount[0].volume_options.driver_config", "nfs"],
        ),
        (
            json!({ "ipc_mode": "none", "shm_size": "8m" }),
            ["shm_size", "ipc_mode = \"none\""],
        ),
        (
            json!({ "ipc_mode": "host", "shm_size": "8m" }),
            ["shm_size", "ipc_mode = \"host\""],
        ),
        (json!({ "tmpfs": ["relative"] }), ["tmpfs", "relative"]),
        (json!({ "tmpfs": ["/x:size=lots"] }), ["tmpfs", "lots"]),
        (
            json!({ "mounts": [{ "type": "bind", "source": "/etc", "target": "/x" }] }),
            ["option mounts[0]: \"/x\": Options cannot be empty", "rbind"],
        ),
        (
            json!({ "mount": [{ "type": "bind", "source": "/etc", "target": "/x", "bind_options": { "propagation": "odd" } }] }),
            ["propagation", "odd"],
        ),
        (
            json!({ "tmpfs": ["/x"], "volumes": ["/etc:/x"] }),
            ["/x", "one mount per target"],
        ),
    ] {
        says(&b.refused(options).await, &words);
    }
}

/// The image has `/home` with 755, which runtimes give to what is mounted there.
async fn a_file_system_in_memory_has_its_mode_over_the_images_directory(b: &mut Bench) {
    // One that cannot be written to needs none.
    let read_only = json!({ "mount": [{ "type": "tmpfs", "target": "/home", "readonly": true, "tmpfs_options": { "size": 1048576 } }] });
    b.look(
        read_only,
        "touch /home/x 2>/dev/null; echo write=$?; echo type=$(stat -f -c %T /home)",
    )
    .await
    .are([("write", "1"), ("type", "tmpfs")]);
    let script = "echo mode=$(stat -c %a /home); touch /home/x; echo write=$?";
    let short = |options: &str| json!({ "tmpfs": [format!("/home{options}")] });
    let block = |options| json!({ "mount": [{ "type": "tmpfs", "target": "/home", "tmpfs_options": options }] });
    for (options, mode) in [
        (short(":mode=1777"), "1777"),
        (short(":mode=0711,size=1m"), "711"),
        (block(json!({})), "1777"),
        (block(json!({ "mode": 448 })), "700"),
        (block(json!({ "mode": 0, "size": 0 })), "1777"),
    ] {
        b.look(options, script).await.are([("mode", mode), ("write", "0")]);
    }
}

/// As with Docker, by the runtime's doing; crun gives it 1777.
async fn without_a_mode_it_has_that_of_the_images_directory(b: &mut Bench) {
    let options = json!({ "tmpfs": ["/home", "/new/place"] });
    let seen = b
        .look(options, "for m in home new/place; do echo $m=$(stat -c %a /$m); done")
        .await;
    seen.are([("home", "755"), ("new/place", "1777")]);
}

/// A file system at a directory of the host, with another one below it. Both are gone when the case is.
struct Stacked(PathBuf);

impl Stacked {
    fn new(path: PathBuf, propagation: MountPropagationFlags) -> Stacked {
        std::fs::create_dir_all(&path).expect("a directory");
        let stacked = Stacked(path);
        tmpfs(&stacked.0);
        mount_change(&stacked.0, propagation).expect("a way to propagate");
        std::fs::create_dir(stacked.below()).expect("a directory");
        tmpfs(&stacked.below());
        stacked
    }

    fn below(&self) -> PathBuf {
        self.0.join("below")
    }
}

impl Drop for Stacked {
    fn drop(&mut self) {
        for path in [self.below(), self.0.clone()] {
            if let Err(e) = unmount(&path, UnmountFlags::DETACH) {
                eprintln!("{}: {e}", path.display());
            }
        }
    }
}

fn tmpfs(at: &Path) {
    mount("tmpfs", at, "tmpfs", MountFlags::empty(), None).expect("mount a tmpfs");
}

async fn what_is_read_only_with_all_below_it_is(b: &mut Bench) {
    let host = Stacked::new(b.rig.dir().join("rro"), MountPropagationFlags::PRIVATE);
    let host = host.0.display().to_string();
    let options = json!({
        "volumes": [format!("{host}:/ro:ro"), format!("{host}:/rro:rro")],
        "mounts": [{ "type": "bind", "source": host, "target": "/block", "options": ["rbind", "rro"] }],
    });
    let script = "for m in ro rro block; do touch /$m/x 2>/dev/null; echo $m=$?; touch /$m/below/x 2>/dev/null; echo $m-below=$?; done";
    let seen = b.look(options, script).await;
    seen.are([("ro", "1"), ("rro", "1"), ("block", "1")]);
    seen.are([("ro-below", "0"), ("rro-below", "1"), ("block-below", "1")]);
}

async fn what_the_job_mounts_below_it_is_as_the_job_says(b: &mut Bench) {
    let host = Stacked::new(b.rig.dir().join("rro-own"), MountPropagationFlags::PRIVATE);
    let options = json!({ "volumes": [format!("{}:/rro:rro", host.0.display())], "tmpfs": ["/rro/below:size=1m"] });
    let script = "touch /rro/x 2>/dev/null; echo rro=$?; touch /rro/below/x; echo below=$?";
    b.look(options, script).await.are([("rro", "1"), ("below", "0")]);
}

async fn what_would_not_show_on_the_host_is_not_shared(b: &mut Bench) {
    let private = Stacked::new(b.rig.dir().join("private"), MountPropagationFlags::PRIVATE);
    let shared = Stacked::new(b.rig.dir().join("shared-mount"), MountPropagationFlags::SHARED);
    let volume = |host: &Stacked| json!({ "volumes": [format!("{}:/x:rshared", host.0.display())] });
    let of_nomad = |host: &Stacked| {
        b.sh("echo fields=$(grep ' /x ' /proc/self/mountinfo | cut -d ' ' -f 7)")
            .mount(Mount {
                task_path: "/x".to_owned(),
                host_path: host.0.display().to_string(),
                propagation_mode: "bidirectional".to_owned(),
                ..Mount::default()
            })
    };
    says(
        &b.refused(volume(&private)).await,
        &["volumes", "/x", "private", "make-rshared"],
    );
    says(
        &b.refused_spec(of_nomad(&private)).await,
        &["volume_mount", "/x", "make-rshared"],
    );
    for spec in [
        b.with_options(
            volume(&shared),
            "echo fields=$(grep ' /x ' /proc/self/mountinfo | cut -d ' ' -f 7)",
        ),
        of_nomad(&shared),
    ] {
        assert!(b.seen(spec).await.get("fields").starts_with("shared:"));
    }
}

async fn the_groups_shared_directory_has_a_relative_name(b: &mut Bench) {
    let options = json!({
        "volumes": ["../alloc/data:/data:ro"],
        "mount": [{ "type": "bind", "source": "../alloc/data/x", "target": "/x", "readonly": true }],
    });
    let spec = b.with_options(options, "echo data=$(cat /data/x); echo x=$(cat /x)");
    let alloc = b.rig.alloc();
    alloc.add_task(&spec.name).expect("task directory");
    let data = alloc.shared_dir().join("data");
    std::fs::create_dir_all(&data).expect("a directory");
    std::fs::write(data.join("x"), "of the group").expect("a file");
    let task = b.rig.start_in(alloc, &spec).await.expect("StartTask");
    assert_eq!(task.exit(crate::bench::patience()).await.exit_code, 0);
    task.logs_end(crate::bench::patience()).await;
    crate::look::pairs(&task.logs().stdout.text()).are([("data", "of the group"), ("x", "of the group")]);
    crate::look::end(task).await;

    // No link leads out of it, wherever another task of the group has put one.
    let spec = b.with_options(json!({ "volumes": ["../alloc/data/link:/x"] }), "true");
    let alloc = b.rig.alloc();
    alloc.add_task(&spec.name).expect("task directory");
    let data = alloc.shared_dir().join("data");
    std::fs::create_dir_all(&data).expect("a directory");
    std::os::unix::fs::symlink("/etc", data.join("link")).expect("a link");
    let refused = b
        .rig
        .start_in(alloc, &spec)
        .await
        .err()
        .expect("a link must not be followed");
    says(&refused, &["volumes", "alloc/data/link"]);
}

/// A directory of the host as a shared mount of its own, for as long as the case.
struct Shared(PathBuf);

impl Shared {
    fn new(dir: PathBuf) -> Shared {
        mount_bind(&dir, &dir).expect("a mount of its own");
        mount_change(&dir, MountPropagationFlags::SHARED).expect("a shared mount");
        Shared(dir)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Err(e) = unmount(&self.0, UnmountFlags::DETACH) {
            eprintln!("{}: {e}", self.0.display());
        }
    }
}

async fn what_is_mounted_later_in_the_groups_directory_arrives_where_the_job_says(b: &mut Bench) {
    let options = json!({ "volumes": ["../alloc/data:/slave:rslave", "../alloc/data:/own"] });
    let script = "while ! [ -e /alloc/go ]; do sleep 0.1; done
        echo slave=$(cat /slave/below/x); echo own=$(ls /own/below | wc -l)";
    let spec = b.with_options(options, script);
    let alloc = b.rig.alloc();
    alloc.add_task(&spec.name).expect("task directory");
    let shared = Shared::new(alloc.shared_dir());
    let below = shared.0.join("data/below");
    std::fs::create_dir_all(&below).expect("a directory");
    let task = b.rig.start_in(alloc, &spec).await.expect("StartTask");
    tmpfs(&below);
    let mounted = Shared(below);
    std::fs::write(mounted.0.join("x"), "later").expect("a file");
    std::fs::write(shared.0.join("go"), "").expect("the sign to go on");
    assert_eq!(task.exit(crate::bench::patience()).await.exit_code, 0);
    task.logs_end(crate::bench::patience()).await;
    crate::look::pairs(&task.logs().stdout.text()).are([("slave", "later"), ("own", "0")]);
    drop(mounted);
    crate::look::end(task).await;
    drop(shared);
}

async fn a_mount_of_the_wrong_kind_is_told_by_its_option(b: &mut Bench) {
    for (options, words) in [
        (
            json!({ "volumes": ["/etc/hostname:/home"] }),
            ["volumes: /home", "over a directory"],
        ),
        (
            json!({ "volumes": ["/etc:/etc/passwd"] }),
            ["volumes: /etc/passwd", "over a file"],
        ),
        (
            json!({ "tmpfs": ["/etc/passwd"] }),
            ["tmpfs: /etc/passwd", "over a file"],
        ),
        (
            json!({ "mount": [{ "type": "bind", "source": "/etc", "target": "/etc/group", "readonly": true }] }),
            ["mount: /etc/group", "over a file"],
        ),
    ] {
        says(&b.refused(options).await, &words);
    }
}

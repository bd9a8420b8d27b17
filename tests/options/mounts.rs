//! Host paths, volumes, file systems in memory, Nomad's volumes, the root file system.

use crate::bench::{Bench, group};
use crate::look::{bench, consent, crun, says, wants, with};
use serde_json::json;
use testhost::rig::RunningTask;
use testhost::task::TaskSpec;
use testhost::wire::driver::Mount;

group!(mounts_runc, bench(consent()), if wants("runc"), {
    host_paths_are_mounted_in_every_form,
    sources_inside_the_task_directory_are_mounted,
    file_systems_in_memory_have_their_options,
    a_read_only_root_has_writable_volumes_of_the_image,
    nomads_volumes_have_their_propagation,
    a_mount_may_take_the_place_of_the_runtimes_own,
    mounts_that_cannot_be_are_refused,
});
group!(mounts_crun, crun(), if wants("crun"), {
    host_paths_are_mounted_in_every_form,
    file_systems_in_memory_have_their_options,
    a_read_only_root_has_writable_volumes_of_the_image,
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
        "volumes": ["local/data:/data:ro,nosuid"],
    });
    let spec = b.with_options(options, "echo conf=$(cat /etc/app.conf); echo data=$(cat /data/x); echo flags=$(grep ' /data ' /proc/self/mountinfo | cut -d ' ' -f 6)");
    let task = started_with(b, &spec, |dir| {
        std::fs::write(dir.join("local/app.conf"), "of-the-job").expect("a file");
        std::fs::create_dir(dir.join("local/data")).expect("a directory");
        std::fs::write(dir.join("local/data/x"), "1").expect("a file");
    })
    .await;
    assert_eq!(task.exit(crate::bench::patience()).await.exit_code, 0);
    task.logs_end(crate::bench::patience()).await;
    let seen = crate::look::pairs(&task.logs().stdout.text());
    seen.are([("conf", "of-the-job"), ("data", "1")]);
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
    let script = "for m in a b c d; do echo $m=$(stat -f -c %T /$m 2>/dev/null || echo tmpfs),$(stat -c %a /$m),$(df -k /$m | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2); done; echo type=$(grep -c ' - tmpfs ' /proc/self/mountinfo)";
    let seen = b.look(options, script).await;
    assert!(seen.get("b").ends_with("1777,1024"), "{seen:?}");
    assert!(seen.get("d").ends_with("700,2048"), "{seen:?}");
    for m in ["a", "c"] {
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
        (json!({ "volumes": ["../../etc:/x"] }), ["volumes", "../../etc"]),
        (json!({ "tmpfs": ["relative"] }), ["tmpfs", "relative"]),
        (json!({ "tmpfs": ["/x:size=lots"] }), ["tmpfs", "lots"]),
        (
            json!({ "mounts": [{ "type": "bind", "source": "/etc", "target": "/x" }] }),
            ["Options cannot be empty", "rbind"],
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

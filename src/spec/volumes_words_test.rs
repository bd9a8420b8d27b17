//! What words of a mount mean, and how it is named when they are refused.

use super::*;
use crate::spec::options::DriverConfig;

#[test]
fn words_that_contradict_each_other_are_refused_with_both_named() {
    let refused = |result: Result<Given, String>, words: [&str; 2]| {
        let text = result.unwrap_err();
        assert!(
            words.iter().all(|word| text.contains(word)) && text.contains("contradicts"),
            "{text}"
        );
    };
    for pair in [
        ["ro", "rw"],
        ["rw", "rro"],
        ["exec", "noexec"],
        ["nodev", "dev"],
        ["relatime", "norelatime"],
        ["private", "slave"],
        ["rslave", "rshared"],
        ["unbindable", "private"],
    ] {
        refused(
            volume(&Settings::go_driver(), &format!("/data:/x:{}", pair.join(","))),
            pair,
        );
        refused(block(&Settings::go_driver(), mount("bind", "/data", &pair)), pair);
        refused(block(&Settings::go_driver(), mount("ext4", "/dev/sda", &pair)), pair);
    }
    refused(
        block(&strict(), mount("tmpfs", "", &["size=1m", "size=2m"])),
        ["size=1048576", "size=2097152"],
    );
    refused(
        given_by(&strict(), |t| {
            t.options.tmpfs = vec!["/x:mode=700,mode=1777".to_owned()]
        }),
        ["mode=700", "mode=1777"],
    );
    block(
        &Settings::go_driver(),
        mount("overlay", "overlay", &["lowerdir+=/a", "lowerdir+=/b"]),
    )
    .unwrap();
    let twice = MountOption {
        bind_options: Some(BindOptions {
            propagation: Some("rslave".to_owned()),
        }),
        ..mount("bind", "local", &["private"])
    };
    refused(block(&strict(), twice), ["private", "rslave"]);
    let sized = MountOption {
        tmpfs_options: Some(TmpfsOptions {
            size: Some("1m".to_owned()),
            mode: None,
        }),
        ..mount("tmpfs", "", &["size=2m"])
    };
    refused(block(&strict(), sized), ["size=1048576", "size=2097152"]);
    for fine in [
        &["rbind", "rbind"][..],
        &["ro", "rro"],
        &["bind", "rbind"],
        &["slave", "rslave"],
        &["size=1k"],
    ] {
        let ty = if fine.contains(&"size=1k") { "tmpfs" } else { "bind" };
        block(&strict(), mount(ty, "local", fine)).unwrap();
    }
}

#[test]
fn what_must_be_found_of_a_mount_is_planned() {
    let expected = |volume: Option<&str>, m: Option<MountOption>| {
        let mut task = TaskSpec::default();
        task.options.volumes = volume.map(ToOwned::to_owned).into_iter().collect();
        task.options.mounts = m.into_iter().collect();
        let settings = Settings::go_driver();
        let found = with(&task, &settings, |inputs| {
            let user = user::resolve(&task, inputs.image).unwrap();
            let built = Mounts::build(inputs, &ContainerId::reported("c"), "h", &user).unwrap();
            built.expected(inputs)
        });
        let found = found.into_iter().find(|e| e.target == Path::new("/x")).unwrap();
        (found.read_only, found.all_read_only, found.shared, found.mode)
    };
    assert_eq!(expected(Some("/d:/x"), None), (false, false, false, None));
    assert_eq!(expected(Some("/d:/x:ro"), None), (true, false, false, None));
    assert_eq!(expected(Some("/d:/x:rro"), None), (true, true, false, None));
    assert_eq!(expected(Some("/d:/x:rshared"), None), (false, false, true, None));
    assert_eq!(
        expected(None, Some(mount("tmpfs", "", &[]))),
        (false, false, false, None)
    );
    assert_eq!(
        expected(None, Some(mount("tmpfs", "", &["mode=0700"]))),
        (false, false, false, Some(0o700))
    );
    let docker = MountOption {
        tmpfs_options: Some(TmpfsOptions::default()),
        ..mount("tmpfs", "", &[])
    };
    assert_eq!(expected(None, Some(docker)).3, Some(0o1777));
    let bare = MountOption {
        at: "mount[0]".to_owned(),
        ..mount("tmpfs", "", &[])
    };
    assert_eq!(expected(None, Some(bare.clone())).3, Some(0o1777));
    assert_eq!(
        block(&strict(), bare).unwrap().mounts,
        ["tmpfs tmpfs noexec,nosuid,nodev,mode=1777"]
    );
}

#[test]
fn an_error_names_the_block_as_the_job_wrote_it() {
    for (at, name) in [
        ("mount[2]", "option mount[2]: "),
        ("mounts[0]", "option mounts[0]: "),
        ("", "option mounts: "),
    ] {
        let placed = |m: MountOption| MountOption { at: at.to_owned(), ..m };
        let refused = block(&strict(), placed(mount("bind", "/etc", &["rbind"]))).unwrap_err();
        assert!(refused.starts_with(name) && refused.contains("\"/etc\""), "{refused}");
        let odd = block(&strict(), placed(mount("tmpfs", "", &["odd"]))).unwrap_err();
        assert!(odd.starts_with(name), "{odd}");
        let size = MountOption {
            tmpfs_options: Some(TmpfsOptions {
                size: Some("lots".to_owned()),
                mode: None,
            }),
            ..mount("tmpfs", "", &[])
        };
        let refused = block(&strict(), placed(size)).unwrap_err();
        assert!(
            refused.starts_with(&name.replace(": ", ".tmpfs_options.size: ")),
            "{refused}"
        );
    }
}

#[test]
fn of_volume_options_only_what_is_so_anyway_is_accepted() {
    let with = |options: VolumeOptions| {
        block(
            &strict(),
            MountOption {
                volume_options: Some(options),
                ..mount("volume", "local", &["rbind"])
            },
        )
    };
    for no_copy in [None, Some(true), Some(false)] {
        let options = VolumeOptions {
            no_copy,
            ..VolumeOptions::default()
        };
        assert!(with(options).is_ok());
    }
    let labels = [("a".to_owned(), "b".to_owned())].into();
    let text = with(VolumeOptions {
        labels,
        ..VolumeOptions::default()
    })
    .unwrap_err();
    assert!(
        text.starts_with("option mounts.volume_options.labels: \"a=b\": "),
        "{text}"
    );
    let driver_config = Some(DriverConfig {
        name: "nfs".to_owned(),
        ..DriverConfig::default()
    });
    let text = with(VolumeOptions {
        driver_config,
        ..VolumeOptions::default()
    })
    .unwrap_err();
    assert!(
        text.starts_with("option mounts.volume_options.driver_config: \"nfs\": "),
        "{text}"
    );
}

//! What `volumes.rs` promises.

use super::*;
use crate::spec::gates::Gates;
use crate::spec::identity::ContainerId;
use crate::spec::image::ImageFacts;
use crate::spec::node::{NodeFacts, SecurityFacts};
use crate::spec::options::{BindOptions, TmpfsOptions};
use crate::spec::settings::Settings;
use crate::spec::task::TaskSpec;
use crate::spec::user;
use proptest::prelude::*;

/// What a task of allocation directory `/a` is given besides the usual: mounts as `target type source options`, sources
/// that are checked, labels.
#[derive(Debug, Default, PartialEq)]
struct Given {
    mounts: Vec<String>,
    beneath: Vec<String>,
    sources: Vec<String>,
    relabel: Vec<PathBuf>,
    propagation: Option<&'static str>,
}

fn with<T>(task: &TaskSpec, settings: &Settings, what: impl FnOnce(&Inputs<'_>) -> T) -> T {
    what(&Inputs {
        task,
        image: &ImageFacts::default(),
        node: &NodeFacts {
            security: SecurityFacts {
                selinux: true,
                ..SecurityFacts::default()
            },
            ..NodeFacts::default()
        },
        settings,
        gates: &Gates::of(settings).unwrap(),
    })
}

fn built(settings: &Settings, task: &TaskSpec) -> Result<Mounts, String> {
    with(task, settings, |inputs| {
        let user = user::resolve(task, inputs.image).unwrap();
        Mounts::build(inputs, &ContainerId::reported("c"), "h", &user).map_err(|e| e.to_string())
    })
}

fn given_by(settings: &Settings, change: impl FnOnce(&mut TaskSpec)) -> Result<Given, String> {
    let mut task = TaskSpec {
        name: "web".to_owned(),
        alloc_dir: "/a".into(),
        ..TaskSpec::default()
    };
    change(&mut task);
    let built = built(settings, &task)?;
    let mut out = Given {
        beneath: built
            .beneath
            .iter()
            .filter(|b| !b.source.starts_with("/a/web/.containerd-driver"))
            .map(|b| format!("{} in {}", b.source.display(), b.dir.display()))
            .collect(),
        sources: built
            .sources
            .iter()
            .map(|(by, s)| format!("{by} {}", s.display()))
            .collect(),
        relabel: built.relabel.iter().map(|(path, _)| path.clone()).collect(),
        propagation: built.propagation,
        mounts: Vec::new(),
    };
    out.beneath.truncate(out.beneath.len() - 4);
    for m in built.into_json().iter().filter(|m| {
        let target = m["destination"].as_str().unwrap();
        ["/x", "/proc/x", "/sys"].contains(&target) && m["source"] != "sysfs"
    }) {
        let options: Vec<&str> = m["options"]
            .as_array()
            .unwrap()
            .iter()
            .map(|o| o.as_str().unwrap())
            .collect();
        let text = |key: &str| m[key].as_str().unwrap();
        out.mounts
            .push(format!("{} {} {}", text("type"), text("source"), options.join(",")));
    }
    Ok(out)
}

fn strict() -> Settings {
    Settings::default()
}

fn volume(settings: &Settings, text: &str) -> Result<Given, String> {
    given_by(settings, |t| t.options.volumes = vec![text.to_owned()])
}

fn block(settings: &Settings, mount: MountOption) -> Result<Given, String> {
    given_by(settings, |t| t.options.mounts = vec![mount])
}

fn mount(ty: &str, source: &str, options: &[&str]) -> MountOption {
    MountOption {
        r#type: ty.to_owned(),
        target: "/x".to_owned(),
        source: source.to_owned(),
        options: options.iter().map(|s| (*s).to_owned()).collect(),
        ..MountOption::default()
    }
}

#[test]
fn a_volume_is_inside_the_task_directory_or_needs_consent() {
    let got = volume(&strict(), "./local//data:/x:ro,noexec").unwrap();
    assert_eq!(got.mounts, ["bind /a/web/local/data rbind,ro,noexec,rprivate"]);
    assert_eq!(got.beneath, ["/a/web/local/data in /a/web"]);
    assert_eq!(got.sources, ["volumes /a/web/local/data"]);
    // Absolute, but of this allocation.
    let got = volume(&strict(), "/a//alloc/./data:/x").unwrap();
    assert_eq!(got.mounts, ["bind /a/alloc/data rbind,rprivate"]);
    assert_eq!(got.beneath, ["/a/alloc/data in /a"]);
    for outside in ["/etc", "/", "/alloc", "/ab/x"] {
        let text = volume(&strict(), &format!("{outside}:/x")).unwrap_err();
        assert!(
            text.contains("volumes { enabled = true }") && text.contains(outside),
            "{text}"
        );
    }
    let got = volume(&Settings::go_driver(), "/etc:/x:rshared").unwrap();
    assert_eq!(got.mounts, ["bind /etc rbind,rshared"]);
    assert_eq!((got.beneath.len(), got.propagation), (0, Some("shared")));
}

/// CVE-2026-14896: neither `..` nor a link (see `beneath`) leads out of the allocation, with consent or without.
#[test]
fn no_source_leads_upwards_out_of_the_allocation() {
    for settings in [strict(), Settings::go_driver()] {
        for source in [
            "..",
            "../web",
            "../allocx",
            "../alloc/..",
            "../alloc/../web",
            "./../../alloc",
            "local/../../alloc",
            "local/../../x",
            "/a/../etc",
            "/a/web/../../etc",
        ] {
            assert!(
                volume(&settings, &format!("{source}:/x")).unwrap_err().contains("'..'"),
                "{source}"
            );
            assert!(
                block(&settings, mount("bind", source, &["rbind"]))
                    .unwrap_err()
                    .contains("'..'"),
                "{source}"
            );
        }
    }
    assert!(volume(&strict(), "/b/../a/x:/x").unwrap_err().contains("enabled"));
}

#[test]
fn what_the_group_shares_has_a_relative_name() {
    for source in ["../alloc/data", "../alloc//./data/", "./../alloc/data"] {
        let got = volume(&strict(), &format!("{source}:/x")).unwrap();
        assert_eq!(got.mounts, ["bind /a/alloc/data rbind,rprivate"], "{source}");
        assert_eq!(got.beneath, ["/a/alloc/data in /a"], "{source}");
    }
    // As by its absolute name: not the logs, nor what has them in it.
    for source in ["../alloc", "../alloc/logs", "../alloc/./logs/x"] {
        let refused = volume(&strict(), &format!("{source}:/x")).unwrap_err();
        assert!(
            refused.contains(source) && refused.contains("volumes { enabled = true }"),
            "{refused}"
        );
    }
    assert_eq!(
        volume(&Settings::go_driver(), "../alloc:/x").unwrap().mounts,
        ["bind /a/alloc rbind,rprivate"]
    );
    // Other tasks can write there.
    let contested = |source: &str| {
        let mut task = TaskSpec {
            name: "web".to_owned(),
            alloc_dir: "/a".into(),
            ..TaskSpec::default()
        };
        task.options.volumes = vec![format!("{source}:/x")];
        built(&strict(), &task).unwrap().beneath.iter().any(|b| b.contested)
    };
    assert!(contested("../alloc/data") && !contested("local/data"));
}

#[test]
fn volumes_in_other_forms_are_refused() {
    for text in [
        "",
        ":",
        "a",
        "/x",
        ":/x",
        "a:",
        "a:/x:ro:z",
        "a:/x:size=1m",
        "a:/x:remount",
        "a:/x:U",
        "a:x",
        "a\0:/x",
    ] {
        assert!(
            volume(&Settings::go_driver(), text).unwrap_err().contains("volumes"),
            "{text:?}"
        );
    }
}

#[test]
fn blocks_are_read_in_the_go_drivers_form_and_in_dockers() {
    let propagates = |mode: &str| {
        Some(BindOptions {
            propagation: Some(mode.to_owned()),
        })
    };
    let docker = |readonly, bind_options| MountOption {
        readonly,
        bind_options,
        ..mount("bind", "local", &[])
    };
    for (m, want) in [
        (mount("volume", "local", &["rbind", "ro"]), "rbind,ro"),
        (mount("bind", "local", &["rbind,ro", " nosuid"]), "rbind,ro,nosuid"),
        (mount("bind", "local", &["exec", "dev", "suid"]), "rbind,exec,dev,suid"),
        (docker(Some(true), None), "rbind,ro,rprivate"),
        (docker(Some(false), None), "rbind,rw,rprivate"),
        (docker(None, propagates("rslave")), "rbind,rslave"),
        (docker(Some(true), propagates("shared")), "rbind,shared,ro"),
        (
            MountOption {
                readonly: Some(true),
                ..mount("bind", "local", &["bind"])
            },
            "bind,ro",
        ),
    ] {
        // A shared mount needs consent, the others do not.
        let settings = if want.contains("shared") {
            Settings::go_driver()
        } else {
            strict()
        };
        assert_eq!(block(&strict(), m.clone()).is_err(), want.contains("shared"));
        let got = block(&settings, m.clone()).unwrap();
        assert_eq!(got.mounts, [format!("bind /a/web/local {want}")], "{m:?}");
    }
    assert!(
        block(&strict(), docker(None, propagates("odd")))
            .unwrap_err()
            .contains("propagation")
    );
    let both = MountOption {
        readonly: Some(true),
        ..mount("bind", "local", &["rw"])
    };
    assert!(block(&strict(), both).unwrap_err().contains("contradict"));
    assert!(
        block(&strict(), mount("bind", "local", &["rbind", "readonly"]))
            .unwrap_err()
            .contains("readonly")
    );
}

#[test]
fn file_systems_in_memory_need_no_consent_and_nothing_else_is_one() {
    let tmpfs = |options: &[&str]| block(&strict(), mount("tmpfs", "", options));
    assert_eq!(tmpfs(&[]).unwrap().mounts, ["tmpfs tmpfs "]);
    assert_eq!(
        tmpfs(&["size=64m,mode=0700", "ro"]).unwrap().mounts,
        ["tmpfs tmpfs size=67108864,mode=700,ro"]
    );
    for bad in ["remount", "lowerdir=/etc", "size=much"] {
        assert!(tmpfs(&[bad]).unwrap_err().contains("mounts"), "{bad}");
    }
    let block_form = |size: Option<&str>, mode| {
        block(
            &strict(),
            MountOption {
                tmpfs_options: Some(TmpfsOptions {
                    size: size.map(ToOwned::to_owned),
                    mode,
                }),
                ..mount("tmpfs", "", &[])
            },
        )
    };
    assert_eq!(
        block_form(None, None).unwrap().mounts,
        ["tmpfs tmpfs noexec,nosuid,nodev,mode=1777"]
    );
    assert_eq!(
        block_form(Some("1000"), Some(511)).unwrap().mounts,
        ["tmpfs tmpfs noexec,nosuid,nodev,size=1000,mode=777"]
    );
    let read_only = |mode| MountOption {
        readonly: Some(true),
        tmpfs_options: Some(TmpfsOptions { size: None, mode }),
        ..mount("tmpfs", "", &[])
    };
    for (mode, want) in [
        (None, "ro,noexec,nosuid,nodev"),
        (Some(0), "ro,noexec,nosuid,nodev"),
        (Some(448), "ro,noexec,nosuid,nodev,mode=700"),
    ] {
        assert_eq!(
            block(&strict(), read_only(mode)).unwrap().mounts,
            [format!("tmpfs tmpfs {want}")]
        );
    }
    let zero = block_form(Some("0"), Some(0)).unwrap().mounts;
    assert_eq!(zero, block_form(None, None).unwrap().mounts);
    assert!(block_form(None, Some(-1)).is_err());
    assert!(block_form(None, Some(4096)).is_err());
    let short = |text: &str| given_by(&strict(), |t| t.options.tmpfs = vec![text.to_owned()]);
    assert_eq!(
        short("/x:size=10%,exec").unwrap().mounts,
        ["tmpfs tmpfs size=10%,exec,nosuid,nodev"]
    );
    assert!(short("x").is_err() && short("").is_err() && short("/x:bind").is_err());
}

/// Whatever a mount is called, the runtime takes `bind` in its options for a bind mount.
#[test]
fn a_host_path_under_another_type_needs_consent_too() {
    for (ty, source, options) in [
        ("tmpfs", "/etc", &["rbind"][..]),
        ("none", "/etc", &["bind", "ro"]),
        ("tmpfs", "/etc", &["ro,rbind"]),
        ("overlay", "overlay", &["lowerdir=/etc:/usr"]),
        ("proc", "proc", &[]),
        ("sysfs", "", &[]),
        ("cgroup2", "", &[]),
        ("ext4", "/dev/sda1", &[]),
    ] {
        let text = block(&strict(), mount(ty, source, options)).unwrap_err();
        assert!(text.contains("volumes { enabled = true }"), "{ty}: {text}");
    }
    let got = block(&Settings::go_driver(), mount("overlay", "", &["lowerdir=/etc:/usr"])).unwrap();
    assert_eq!(got.mounts, ["overlay overlay lowerdir=/etc:/usr"]);
    let misplaced = MountOption {
        tmpfs_options: Some(TmpfsOptions::default()),
        ..mount("bind", "local", &["rbind"])
    };
    assert!(block(&strict(), misplaced).unwrap_err().contains("tmpfs_options"));
}

/// CVE-2019-16884, CVE-2019-19921: what is at `/proc` decides how the runtime confines the process.
#[test]
fn targets_in_proc_and_sys_need_consent() {
    for target in ["/proc/x", "/sys", "//proc//x"] {
        for change in [
            (|t: &mut TaskSpec, target: &str| t.options.tmpfs = vec![target.to_owned()]) as fn(&mut TaskSpec, &str),
            |t, target| t.options.volumes = vec![format!("local:{target}")],
            |t, target| {
                t.options.mounts = vec![MountOption {
                    target: target.to_owned(),
                    ..mount("bind", "local", &["rbind"])
                }];
            },
        ] {
            let text = given_by(&strict(), |t| change(t, target)).unwrap_err();
            assert!(text.contains("volumes { enabled = true }"), "{text}");
            assert_eq!(
                given_by(&Settings::go_driver(), |t| change(t, target))
                    .unwrap()
                    .mounts
                    .len(),
                1
            );
        }
    }
    assert!(given_by(&strict(), |t| t.options.tmpfs = vec!["/process".to_owned()]).is_ok());
}

#[test]
fn labels_are_planned_but_not_for_directories_of_the_host() {
    let open = Settings::go_driver();
    assert_eq!(volume(&open, "/data:/x:z").unwrap().relabel, [PathBuf::from("/data")]);
    assert_eq!(
        volume(&open, "/data:/x:ro,Z").unwrap().mounts,
        ["bind /data rbind,ro,rprivate"]
    );
    assert!(volume(&open, "/data:/x").unwrap().relabel.is_empty());
    for host in ["/", "/etc", "/usr/", "/var/lib"] {
        assert!(
            volume(&open, &format!("{host}:/x:z")).unwrap_err().contains("SELinux"),
            "{host}"
        );
    }
}

#[test]
fn what_is_in_the_tasks_own_directory_needs_no_consent() {
    for source in [
        "custom",
        "./custom/deep",
        "secrets/key",
        "/a/web/custom",
        "privately",
        "localfoo",
    ] {
        let got = volume(&strict(), &format!("{source}:/x")).unwrap();
        let path = format!(
            "/a/web/{}",
            source.trim_start_matches("./").trim_start_matches("/a/web/")
        );
        assert_eq!(got.mounts, [format!("bind {path} rbind,rprivate")]);
    }
    for source in [
        ".",
        "./",
        "private",
        "./private/x",
        "alloc/logs",
        ".containerd-driver/hosts",
        "/a/web",
        "/a/web/private/x",
        "/a/other/local",
        "/a/webb/x",
    ] {
        let text = volume(&strict(), &format!("{source}:/x")).unwrap_err();
        assert!(
            text.contains("volumes { enabled = true }") && text.contains(source),
            "{text}"
        );
    }
    // Whose directory is the shared one.
    let named = |source: &str| {
        given_by(&strict(), |t| {
            t.name = "alloc".to_owned();
            t.options.volumes = vec![format!("{source}:/x")];
        })
    };
    assert!(named("logs").is_err() && named("../alloc/logs/x").is_err() && named("data").is_ok());
}

#[test]
fn a_block_by_dockers_name_needs_no_options() {
    let named = |at: &str| {
        block(
            &strict(),
            MountOption {
                at: at.to_owned(),
                ..mount("bind", "local/x", &[])
            },
        )
    };
    assert_eq!(
        named("mount[0]").unwrap().mounts,
        ["bind /a/web/local/x rbind,rw,rprivate"]
    );
    let text = named("mounts[1]").unwrap_err();
    assert!(
        text.starts_with("option mounts[1]: \"/x\": Options cannot be empty for mount type: bind."),
        "{text}"
    );
}

proptest! {
    #[test]
    fn any_volume_without_consent_stays_in_the_allocation(
        text in "(/a/|/a|/etc|/|\\.\\.|\\.|local|web|:|/x|ro|z|rshared|,|\\PC){0,10}",
    ) {
        if let Ok(got) = volume(&strict(), &text) {
            prop_assert_eq!(got.sources.len(), 1);
            prop_assert_eq!(got.beneath.len(), 1);
            let path = got.sources[0].strip_prefix("volumes ").unwrap();
            prop_assert!(Path::new(path).starts_with("/a"), "{}", path);
            prop_assert!(!path.split('/').any(|p| p == ".."), "{}", path);
        }
    }

    #[test]
    fn any_block_without_consent_shows_no_host_path(
        ty in "(tmpfs|bind|volume|overlay|none|\\PC{0,3})",
        source in "(/a|/etc|local|\\.\\.|/|\\PC){0,5}",
        options in proptest::collection::vec("(rbind|bind|ro|remount|,|size=1m|z|\\PC){0,4}", 0..4),
    ) {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        if let Ok(got) = block(&strict(), mount(&ty, &source, &options)) {
            let line = &got.mounts[0];
            prop_assert!(line.starts_with("tmpfs ") && got.sources.is_empty() || line.starts_with("bind /a"), "{}", line);
            prop_assert!(!line.contains("remount"));
        }
    }
}

#[path = "volumes_words_test.rs"]
mod words;

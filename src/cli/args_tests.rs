//! The command line as it is typed.

use super::*;
use proptest::prelude::*;

fn parsed(line: &str) -> Result<Command, Printed> {
    parse(line.split_whitespace().map(OsString::from))
}

fn run(line: &str) -> RunCommand {
    match parsed(line) {
        Ok(Command::Run(run)) => *run,
        other => panic!("{other:?}"),
    }
}

#[test]
fn started_by_hand_with_nothing_it_explains_itself() {
    let printed = parsed("").unwrap_err();
    assert_eq!((printed.code, printed.to_stderr), (1, true));
    for word in ["Nomad task driver", "run IMAGE", "config", "version"] {
        assert!(printed.text.contains(word), "{word}");
    }
}

#[test]
fn help_is_no_mistake_and_a_mistake_is_named() {
    let help = parsed("help").unwrap_err();
    assert_eq!((help.code, help.to_stderr), (0, false));
    assert!(help.text.contains("run"), "{}", help.text);
    let mistake = parsed("run --colour red busybox").unwrap_err();
    assert_eq!((mistake.code, mistake.to_stderr), (2, true));
    assert!(mistake.text.contains("--colour"), "{}", mistake.text);
    for bad in [
        "run",
        "fly",
        "run --memory 1 x",
        "run --env K x",
        "run --pull-timeout soon x",
        "run --image-pull-method docker x",
    ] {
        assert_eq!(parsed(bad).unwrap_err().code, 2, "{bad}");
    }
}

#[test]
fn the_simple_commands_are_known() {
    assert_eq!(parsed("version"), Ok(Command::Version));
    assert_eq!(parsed("--version"), Ok(Command::Version));
    let Ok(Command::Audit(audit)) = parsed("audit --fix --json --grace 90s --namespace n") else {
        panic!("no audit");
    };
    assert!(audit.fix && audit.json && !audit.all);
    assert_eq!(audit.grace, Some(Duration::from_secs(90)));
    assert_eq!((audit.address, audit.namespace.as_deref()), (None, Some("n")));
    assert_eq!(parsed("audit --grace never").unwrap_err().code, 2);
    assert_eq!(parsed("config"), Ok(Command::Config { json: false }));
    assert_eq!(parsed("config --json"), Ok(Command::Config { json: true }));
}

#[test]
fn what_follows_the_image_belongs_to_the_task() {
    assert_eq!(run("run busybox -- sh -c true").args, ["sh", "-c", "true"]);
    let r = run("run --name web -e A=1 -e B=x=y busybox ls -l --env C=3");
    assert_eq!(r.args, ["ls", "-l", "--env", "C=3"]);
    assert_eq!(r.env, [("A".into(), "1".into()), ("B".into(), "x=y".into())]);
}

#[test]
fn a_task_is_made_of_it() {
    let r = run(
        "run --entrypoint /bin/sh --workdir /tmp --user 1:2 --memory 64 --host-network --pull --pull-timeout 90s \
                 --registry-user me reg.example:5000/a/Busy_box:1.36 -- -c true",
    );
    let t = r.task(Some(Secret::new("pw")));
    assert!(
        t.id.as_str().starts_with("run/Busy-box/") && t.id.as_str().len() == "run/Busy-box/".len() + 8,
        "{}",
        t.id
    );
    assert_ne!(r.task(None).id, t.id);
    assert_eq!((t.user.as_str(), t.resources.memory_mb), ("1:2", 64));
    let o = t.options;
    assert_eq!(
        (o.entrypoint.0, o.args, o.command),
        (
            vec!["/bin/sh".to_owned()],
            vec!["-c".to_owned(), "true".to_owned()],
            None
        )
    );
    assert_eq!(o.cwd.as_deref(), Some("/tmp"));
    assert_eq!(o.image_pull_timeout, Some(Duration::from_secs(90)));
    assert!(o.host_network && o.force_pull);
    assert_eq!(o.auth.unwrap().password.reveal(), "pw");
}

#[test]
fn settings_are_overridden_only_where_said() {
    let base = Settings {
        enabled: false,
        ..Settings::default()
    };
    let s = run("run --namespace n --address /a x").settings(base.clone());
    assert_eq!(
        (s.containerd_namespace.as_str(), s.containerd_address.as_str()),
        ("n", "/a")
    );
    assert_eq!(
        (s.containerd_runtime, s.enabled),
        (base.containerd_runtime.clone(), true)
    );
    assert_eq!(
        (s.registry_config_dir, s.image_pull_method),
        (base.registry_config_dir.clone(), base.image_pull_method.clone())
    );
    let s = run("run --registry-config-dir /a:/b --image-pull-method client x").settings(base);
    assert_eq!(
        (s.registry_config_dir.as_str(), s.image_pull_method.as_str()),
        ("/a:/b", "client")
    );
}

proptest! {
    #[test]
    fn no_command_line_makes_it_panic(words in proptest::collection::vec("(run|config|-{0,2}[a-z]{0,8}|[ -~]{0,6})", 0..6)) {
        let parsed = parse(words.iter().map(OsString::from));
        if let Ok(Command::Run(r)) = parsed {
            prop_assert!(r.task(None).id.as_str().starts_with("run/"));
        }
    }
}

#[test]
fn the_doctor_is_asked_about_the_same_things_as_a_run() {
    let asked = parsed("doctor --address /c.sock --namespace n --snapshotter s --runtime crun --json");
    let Ok(Command::Doctor(doctor)) = asked else {
        panic!("{asked:?}");
    };
    assert!(doctor.json);
    let settings = doctor.settings(Settings::default());
    assert_eq!(
        [
            settings.containerd_address.as_str(),
            &settings.containerd_namespace,
            &settings.snapshotter,
            &settings.containerd_runtime
        ],
        ["/c.sock", "n", "s", "crun"]
    );
    assert_eq!(parsed("doctor now").unwrap_err().code, 2);
}

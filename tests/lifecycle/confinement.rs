//! What a task cannot do: system calls, capabilities and kernel files, seen from inside.

use crate::bench::{Bench, group, kind, patience};
use serde_json::json;
use testhost::rig::RigOpts;
use testhost::within::within;

fn consenting() -> RigOpts {
    let mut opts = RigOpts::new(kind()).expect("CD_DRIVER_BIN");
    opts.config = json!({"allow_unconfined": ["seccomp", "systempaths"], "allow_caps": ["CHOWN", "SYS_ADMIN", "KILL"]});
    opts
}

group!(confinement, Bench::with(consenting()), {
    a_task_that_says_nothing_is_filtered_and_gains_nothing,
    without_a_filter_only_by_word,
    a_profile_of_the_tasks_own_directory_counts_and_a_planted_link_does_not,
    capabilities_are_those_of_the_list_and_bring_their_calls,
    masked_paths_can_be_shown_and_others_hidden,
});

const STATUS: &str = "grep -E '^(Seccomp|NoNewPrivs|CapBnd|CapEff|CapAmb|CapInh):' /proc/self/status";

fn has(text: &str, field: &str, value: &str) -> bool {
    text.lines().any(|line| {
        line.split_once(':')
            .is_some_and(|(f, v)| f == field && v.trim() == value)
    })
}

async fn a_task_that_says_nothing_is_filtered_and_gains_nothing(b: &mut Bench) {
    let (code, text) = b
        .run(b.sh(&format!("{STATUS}; unshare -U true 2>&1 || echo refused")))
        .await;
    assert_eq!(code, 0, "{text}");
    // CAP_CHOWN (0) and CAP_KILL (5): what the node's list leaves of the default set.
    for (field, value) in [
        ("Seccomp", "2"),
        ("NoNewPrivs", "1"),
        ("CapBnd", "0000000000000021"),
        ("CapEff", "0000000000000021"),
        ("CapAmb", "0000000000000000"),
        ("CapInh", "0000000000000000"),
    ] {
        assert!(has(&text, field, value), "{field} {value}: {text}");
    }
    assert!(text.ends_with("refused\n"), "{text}");
}

async fn without_a_filter_only_by_word(b: &mut Bench) {
    for (option, value) in [
        ("seccomp", json!(false)),
        ("security_opt", json!(["seccomp=unconfined", "no-new-privileges=false"])),
    ] {
        let (_, text) = b.run(b.sh(STATUS).option(option, value)).await;
        assert!(has(&text, "Seccomp", "0"), "{text}");
        assert!(
            has(&text, "NoNewPrivs", if option == "seccomp" { "1" } else { "0" }),
            "{text}"
        );
    }
}

async fn a_profile_of_the_tasks_own_directory_counts_and_a_planted_link_does_not(b: &mut Bench) {
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
        {"names": ["getcwd"], "action": "SCMP_ACT_ERRNO", "includes": {"caps": ["CAP_SYS_BOOT"]}}]}"#;
    let spec = b
        .sh("mkdir /tmp/x 2>&1; pwd -P")
        .option("security_opt", json!(["seccomp=local/p.json"]));
    let alloc = b.rig.alloc();
    let local = alloc.add_task(&spec.name).expect("task directory").join("local");
    std::fs::write(local.join("p.json"), profile).expect("profile");
    let task = b.rig.start_in(alloc, &spec).await.expect("StartTask");
    task.exit(patience()).await;
    task.logs_end(patience()).await;
    let text = task.logs().stdout.text();
    assert!(text.contains("No space left") && text.ends_with("/\n"), "{text}");
    task.destroy(false).await.expect("destroy");

    let alloc = b.rig.alloc();
    let local = alloc.add_task(&spec.name).expect("task directory").join("local");
    std::os::unix::fs::symlink("/etc/shadow", local.join("p.json")).expect("link");
    let error = within(patience(), "a refused StartTask", b.rig.start_in(alloc, &spec)).await;
    let error = error.err().expect("a link is not followed");
    assert!(
        error.message().contains("seccomp=local/p.json") || error.message().contains("security_opt"),
        "{error:?}"
    );
    assert!(!error.message().contains("root:"), "{error:?}");
}

async fn capabilities_are_those_of_the_list_and_bring_their_calls(b: &mut Bench) {
    let spec = b
        .sh(&format!("{STATUS}; unshare -m true && echo unshared"))
        .option("cap_add", json!(["sys_admin"]))
        .option("cap_drop", json!(["ALL"]));
    let (_, text) = b.run(spec).await;
    assert!(
        has(&text, "CapBnd", "0000000000200000") && has(&text, "Seccomp", "2"),
        "{text}"
    );
    assert!(text.ends_with("unshared\n"), "{text}");
    for (name, consent) in [
        ("net_admin", "allow_caps with \"CAP_NET_ADMIN\" in it"),
        ("ALL", "allow_caps with \"ALL\" in it"),
    ] {
        let spec = b.sh("true").option("cap_add", json!([name]));
        let error = within(patience(), "a refused StartTask", b.rig.start(spec)).await;
        let error = error.err().expect("not in the list");
        assert!(
            error.message().contains(name) && error.message().contains(consent),
            "{error:?}"
        );
    }
}

async fn masked_paths_can_be_shown_and_others_hidden(b: &mut Bench) {
    let script = "wc -c < /proc/cpuinfo; grep -c ' /proc/sys ' /proc/self/mountinfo; grep -c ' /sys/firmware ' /proc/self/mountinfo";
    let (_, text) = b.run(b.sh(script)).await;
    assert!(!text.starts_with("0\n") && text.ends_with("\n1\n1\n"), "{text}");
    let list = json!(["mask=/proc/cpuinfo", "unmask=/proc/sys:/sys/f*"]);
    let (_, text) = b
        .run(b.sh(&format!("{script}; true")).option("security_opt", list))
        .await;
    assert_eq!(text, "0\n0\n0\n");
}

//! What the parser of profiles promises.

use super::*;
use proptest::prelude::*;

fn caps(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|c| (*c).to_owned()).collect()
}

fn on(machine: &str, kernel: (u32, u32), names: &[&str], text: &str) -> Result<Value, String> {
    let caps = caps(names);
    let parsed = parse(
        text,
        Ground {
            machine,
            kernel,
            caps: &caps,
        },
    )?;
    serde_json::from_value::<oci_spec::runtime::LinuxSeccomp>(parsed.clone()).unwrap();
    Ok(parsed)
}

fn here(text: &str) -> Result<Value, String> {
    on("x86_64", (6, 1), &["CAP_CHOWN"], text)
}

const OCI: &str = r#"{
  "defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1,
  "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], "flags": ["SECCOMP_FILTER_FLAG_LOG"], "listenerPath": "",
  "syscalls": [
    {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13, "args": null},
    {"names": ["personality"], "action": "SCMP_ACT_KILL_PROCESS",
     "args": [{"index": 0, "value": 18446744073709551615, "valueTwo": 5, "op": "SCMP_CMP_MASKED_EQ"}]}
  ]}"#;

#[test]
fn the_oci_form_is_taken_as_it_is() {
    assert_eq!(
        here(OCI).unwrap(),
        json!({
            "defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1,
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [
                {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
                {"names": ["personality"], "action": "SCMP_ACT_KILL_PROCESS",
                 "args": [{"index": 0, "value": u64::MAX, "valueTwo": 5, "op": "SCMP_CMP_MASKED_EQ"}]},
            ],
        })
    );
    // As Podman writes it: names beside numbers, or alone.
    let podmans = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "ENOSYS", "defaultErrnoRet": 38,
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errno": "EPERM"}]}"#;
    assert_eq!(
        here(podmans).unwrap(),
        json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
            "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]})
    );
    let unknown = here(&podmans.replace("EPERM", "EWHAT")).unwrap_err();
    assert!(
        unknown.contains("syscalls[0].errno") && unknown.contains("ENOSYS"),
        "{unknown}"
    );
    assert_eq!(
        here(r#"{"defaultAction": "SCMP_ACT_LOG", "syscalls": null}"#).unwrap(),
        json!({"defaultAction": "SCMP_ACT_LOG", "syscalls": []})
    );
}

#[test]
fn a_token_of_another_file_is_not_repeated() {
    let token = "9f86d081884c7d659a2feaa0c55ad015";
    for file in [
        format!(r#"{{"defaultAction": "SCMP_ACT_LOG", "{token}": 1}}"#),
        format!(r#"{{"defaultAction": "{token}"}}"#),
        format!(r#"{{"{}": "x"}}"#, "k".repeat(5000)),
    ] {
        let text = here(&file).unwrap_err();
        assert!(!text.contains(token) && text.len() < 400, "{text}");
    }
}

const DOCKER: &str = r#"{
  "defaultAction": "SCMP_ACT_ERRNO",
  "archMap": [
    {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
    {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
  "syscalls": [
    {"name": "read", "action": "SCMP_ACT_ALLOW", "args": [], "comment": "", "includes": {}, "excludes": {}},
    {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
    {"names": ["old"], "action": "SCMP_ACT_ALLOW", "excludes": {"minKernel": "4.8"}},
    {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
    {"names": ["arm_only"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["amd64", "x86"]}},
    {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
    {"names": ["both"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN", "CAP_BPF"]}},
    {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"], "arches": ["s390x"]}}
  ]}"#;

#[test]
fn conditions_of_dockers_form_follow_machine_kernel_and_capabilities() {
    let names = |machine: &str, kernel, caps: &[&str]| -> Vec<String> {
        let profile = on(machine, kernel, caps, DOCKER).unwrap();
        let rules = profile["syscalls"].as_array().unwrap().clone();
        rules
            .iter()
            .map(|r| r["names"][0].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names("x86_64", (6, 1), &[]), ["read", "ptrace", "arch_prctl", "clone"]);
    assert_eq!(
        names("x86_64", (4, 7), &["CAP_SYS_ADMIN"]),
        ["read", "old", "arch_prctl", "mount"]
    );
    assert_eq!(
        names("aarch64", (5, 0), &["CAP_SYS_ADMIN", "CAP_BPF"]),
        ["read", "ptrace", "arm_only", "mount", "both"]
    );
    assert_eq!(names("s390x", (6, 1), &[]), ["read", "ptrace", "arm_only"]);
    let arches = |machine: &str| on(machine, (6, 1), &[], DOCKER).unwrap()["architectures"].clone();
    assert_eq!(
        arches("x86_64"),
        json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"])
    );
    assert_eq!(arches("aarch64"), json!(["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]));
    assert_eq!(arches("riscv64"), Value::Null);
}

#[test]
fn faults_are_named_with_their_place() {
    let entry = |more: &str| format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{{more}}}]}}"#);
    for (text, says) in [
        ("".to_owned(), "no JSON at line 1"),
        ("[]".to_owned(), "profile: an object is expected"),
        ("{}".to_owned(), "defaultAction is missing"),
        (r#"{"defaultAction": "SCMP_ACT_ALOW"}"#.to_owned(), "defaultAction: unknown value \"SCMP_ACT_ALOW\", SCMP_ACT_ALLOW,"),
        (r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#.to_owned(), "unknown value \"SCMP_ACT_NOTIFY\""),
        (r#"{"defaultAction": "SCMP_ACT_KILL", "listenerPath": "/s"}"#.to_owned(), "listenerPath: there is no listener"),
        (r#"{"defaultAction": "SCMP_ACT_KILL", "sycalls": []}"#.to_owned(), "unknown field \"sycalls\""),
        (r#"{"defaultAction": "SCMP_ACT_KILL", "flags": ["X"]}"#.to_owned(), "flags[0]: unknown value \"X\""),
        (
            r#"{"defaultAction": "SCMP_ACT_KILL", "architectures": ["SCMP_ARCH_X86"], "archMap": [{"architecture": "SCMP_ARCH_X86"}]}"#.to_owned(),
            "either architectures or archMap",
        ),
        (r#"{"defaultAction": "SCMP_ACT_KILL", "architectures": ["amd64"]}"#.to_owned(), "architectures[0]: unknown value \"amd64\""),
        (entry(r#""action": "SCMP_ACT_ALLOW""#), "syscalls[0].names: at least one"),
        (entry(r#""names": ["a b"], "action": "SCMP_ACT_ALLOW""#), "syscalls[0].names[0]: a system call"),
        (entry(r#""names": ["a"], "name": "b", "action": "SCMP_ACT_ALLOW""#), "either name or names"),
        (entry(r#""names": ["a"]"#), "syscalls[0].action is missing"),
        (entry(r#""names": ["a"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096"#), "errnoRet: a whole number from 0 to 4095"),
        (entry(r#""names": ["a"], "action": "SCMP_ACT_ALLOW", "include": {}"#), "syscalls[0]: unknown field \"include\""),
        (
            entry(r#""names": ["a"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "EQ"}]"#),
            "syscalls[0].args[0].op: unknown value \"EQ\", SCMP_CMP_EQ,",
        ),
        (
            entry(r#""names": ["a"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]"#),
            "args[0].index: a whole number from 0 to 5",
        ),
        (entry(r#""names": ["a"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "new"}"#), "includes.minKernel"),
        (entry(r#""names": ["a"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": 3}"#), "excludes.caps: a list"),
    ] {
        let error = here(&text).unwrap_err();
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn a_file_that_is_no_profile_is_not_shown() {
    for text in [
        "root:$6$secret:19000:0:99999:7:::",
        r#""$6$secret""#,
        r#"{"token": "$6$secret", "$6$secret": 1}"#,
        r#"{"defaultAction": "$6$secret"}"#,
        r#"{"defaultAction": {"x": "$6$secret"}}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["$6$secret"]}]}"#,
    ] {
        let error = here(text).unwrap_err();
        assert!(!error.contains("$6$secret"), "{error}");
    }
    assert!(here(&" ".repeat(1 << 21)).unwrap_err().contains("at most"));
    assert!(here(&"[".repeat(100_000)).unwrap_err().contains("no JSON"));
}

/// A profile with one field replaced by something else.
fn mutated() -> impl Strategy<Value = String> {
    let docs = prop_oneof![Just(OCI), Just(DOCKER)];
    let junk = prop_oneof![
        Just("null".to_owned()),
        Just("{}".to_owned()),
        Just("[[]]".to_owned()),
        Just("-1".to_owned()),
        Just("1e99".to_owned()),
        "\"\\PC{0,8}\"",
    ];
    (docs, any::<prop::sample::Index>(), junk).prop_map(|(text, at, junk)| {
        let starts: Vec<usize> = text.match_indices(": ").map(|(i, _)| i + 2).collect();
        let start = starts[at.index(starts.len())];
        let end = text[start..].find([',', '}', '\n']).map_or(text.len(), |n| start + n);
        format!("{}{junk}{}", &text[..start], &text[end..])
    })
}

proptest! {
    #[test]
    fn any_text_is_taken_or_refused(text in "\\PC{0,200}") {
        here(&text).ok();
    }

    #[test]
    fn any_profile_is_taken_or_refused(text in mutated(), machine in "[a-z0-9_]{0,8}", kernel in any::<(u32, u32)>()) {
        on(&machine, kernel, &["CAP_SYS_ADMIN"], &text).ok();
    }

    #[test]
    fn any_version_is_taken_or_refused(text in "[0-9.+a]{0,12}") {
        prop_assert!(version(&text).is_none() || text.contains('.'));
    }
}

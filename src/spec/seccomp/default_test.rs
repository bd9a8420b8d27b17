//! Ours against what containerd's library wrote.

use super::*;
use std::path::Path;

const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/seccomp");

fn set(caps: &[&str]) -> BTreeSet<String> {
    caps.iter().map(|c| (*c).to_owned()).collect()
}

/// Order of rules and of names means nothing to a filter of allowances.
fn as_sets(profile: &Value) -> Value {
    let mut profile = profile.clone();
    let rules = profile["syscalls"].as_array_mut().unwrap();
    for rule in rules.iter_mut() {
        let names = rule["names"].as_array_mut().unwrap();
        names.sort_by_key(Value::to_string);
    }
    rules.sort_by_key(Value::to_string);
    profile
}

fn allowed(profile: &Value, name: &str) -> bool {
    profile["syscalls"].as_array().unwrap().iter().any(|rule| {
        rule["action"] == "SCMP_ACT_ALLOW"
            && rule.get("args").is_none()
            && rule["names"].as_array().unwrap().contains(&json!(name))
    })
}

#[test]
fn the_default_profile_is_containerds() {
    let mut seen = 0;
    for file in std::fs::read_dir(Path::new(GOLDENS)).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let golden: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let caps: BTreeSet<String> = serde_json::from_value(golden["capabilities"].clone()).unwrap();
        let ours = profile(golden["machine"].as_str().unwrap(), (6, 1), &caps);
        assert_eq!(as_sets(&ours), as_sets(&golden["seccomp"]), "{}", path.display());
        serde_json::from_value::<oci_spec::runtime::LinuxSeccomp>(ours).unwrap();
        seen += 1;
    }
    assert_eq!(seen, 28, "seven sets of capabilities on four machines");
}

#[test]
fn tracing_needs_a_kernel_that_filters_after_it() {
    for (kernel, ok) in [
        ((0, 0), false),
        ((3, 18), false),
        ((4, 7), false),
        ((4, 8), true),
        ((5, 0), true),
    ] {
        let usual = profile("x86_64", kernel, &set(&["CAP_CHOWN"]));
        assert_eq!(allowed(&usual, "ptrace"), ok, "{kernel:?}");
        assert!(allowed(&profile("x86_64", kernel, &set(&["CAP_SYS_PTRACE"])), "ptrace"));
    }
}

#[test]
fn namespaces_and_key_rings_stay_shut_without_the_capability() {
    let usual = profile("x86_64", (6, 1), &set(&["CAP_CHOWN", "CAP_SYS_CHROOT"]));
    for call in [
        "unshare",
        "clone",
        "clone3",
        "mount",
        "setns",
        "bpf",
        "keyctl",
        "add_key",
        "request_key",
        "userfaultfd",
        "socket",
        "io_uring_setup",
        "open_by_handle_at",
        "kexec_load",
        "init_module",
    ] {
        assert!(!allowed(&usual, call), "{call}");
    }
    for call in ["chroot", "execve", "seccomp"] {
        assert!(allowed(&usual, call), "{call}");
    }
    assert!(allowed(
        &profile("x86_64", (6, 1), &set(&["CAP_DAC_READ_SEARCH"])),
        "open_by_handle_at"
    ));
}

#[test]
fn machines_without_a_table_have_the_common_part() {
    let known = profile("armv7l", (6, 1), &set(&[]));
    assert!(allowed(&known, "cacheflush") && known.get("architectures").is_none());
    assert!(allowed(&profile("ppc64le", (6, 1), &set(&[])), "swapcontext"));
    assert!(allowed(&profile("i686", (6, 1), &set(&[])), "modify_ldt"));
    let other = profile("sparc64", (6, 1), &set(&[]));
    assert!(allowed(&other, "read") && !allowed(&other, "arch_prctl"));
}

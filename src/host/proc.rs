//! Pure parsers of what the kernel writes under /proc and /sys. They never panic and ignore what they do not know.

use std::collections::BTreeMap;

/// Names of Linux capabilities by bit number (`include/uapi/linux/capability.h`, complete up to Linux 6.x).
const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The value of one line of `/proc/<pid>/status`.
#[must_use]
pub fn status_field<'a>(status: &'a str, field: &str) -> Option<&'a str> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .map(str::trim)
}

/// Names of the bits of a capability mask in hexadecimal; bits without a name are left out.
#[must_use]
pub fn capability_names(mask: &str) -> Option<Vec<&'static str>> {
    let bits = u64::from_str_radix(mask.trim(), 16).ok()?;
    Some(
        CAPABILITIES
            .iter()
            .enumerate()
            .filter(|(n, _)| bits >> n & 1 == 1)
            .map(|(_, name)| *name)
            .collect(),
    )
}

/// The first two numbers of a kernel's release (`6.1.0-13-amd64`, `3.12foobar`); zeros if it begins otherwise.
#[must_use]
pub fn kernel_version(release: &str) -> (u32, u32) {
    let number = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text.get(..end)?.parse().ok()
    };
    let parsed = release
        .split_once('.')
        .and_then(|(first, rest)| Some((first.parse().ok()?, number(rest)?)));
    parsed.unwrap_or_default()
}

/// Names of AppArmor profiles and whether each is enforced, of lines such as `docker-default (enforce)`; names may have
/// spaces.
#[must_use]
pub fn apparmor_profiles(text: &str) -> BTreeMap<String, bool> {
    text.lines()
        .filter_map(|line| line.trim_end().strip_suffix(')')?.rsplit_once(" ("))
        .map(|(name, mode)| (name.to_owned(), matches!(mode, "enforce" | "kill")))
        .collect()
}

/// When the machine was started, nanoseconds since the Unix epoch: the line `btime` of `/proc/stat`, in seconds.
#[must_use]
pub fn boot_time(text: &str) -> Option<i64> {
    let seconds: i64 = text
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()?;
    seconds.checked_mul(1_000_000_000)
}

/// Soft and hard limit in the line `Max open files` of `/proc/<pid>/limits`; `u64::MAX` for none.
#[must_use]
pub fn open_files(text: &str) -> Option<(u64, u64)> {
    limit(text, "Max open files")
}

/// Soft and hard limit in the line `Max processes`, as [`open_files`].
#[must_use]
pub fn processes(text: &str) -> Option<(u64, u64)> {
    limit(text, "Max processes")
}

fn limit(text: &str, name: &str) -> Option<(u64, u64)> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let mut words = line.split_whitespace().map(|word| match word {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    });
    Some((words.next()??, words.next()??))
}

/// A file that holds one number; `max` is `u64::MAX`.
#[must_use]
pub fn number(text: &str) -> Option<u64> {
    match text.trim() {
        "max" => Some(u64::MAX),
        digits => digits.parse().ok(),
    }
}

/// Process ids, one a line (`cgroup.procs`); lines that are none are left out.
#[must_use]
pub fn pids(text: &str) -> Vec<u32> {
    text.lines()
        .filter_map(|line| line.trim().parse().ok())
        .filter(|pid| *pid != 0)
        .collect()
}

/// Controllers of cgroup v1 that are in use, from `/proc/cgroups` (`name hierarchy cgroups enabled`).
#[must_use]
pub fn v1_controllers(text: &str) -> Vec<String> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (name, hierarchy, _, enabled) = (words.next()?, words.next()?, words.next()?, words.next()?);
            (hierarchy != "0" && enabled == "1").then(|| name.to_owned())
        })
        .collect()
}

/// Our own cgroup: the path of a v1 controller, or of v2 (`controller` empty), from `/proc/self/cgroup`.
#[must_use]
pub fn own_cgroup<'a>(text: &'a str, controller: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, names, path) = (parts.next()?, parts.next()?, parts.next()?);
        (names == controller || !controller.is_empty() && names.split(',').any(|n| n == controller)).then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn limits_of_open_files_are_read_by_their_name() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max open files            1024                 524288               files     \n";
        assert_eq!(open_files(text), Some((1024, 524_288)));
        assert_eq!(processes(text), None);
        let text = "Max processes             97219                unlimited            processes \n";
        assert_eq!(processes(text), Some((97_219, u64::MAX)));
        assert_eq!(
            open_files("Max open files            unlimited  unlimited files"),
            Some((u64::MAX, u64::MAX))
        );
        for bad in ["", "Max open files", "Max open files x", "Max open files 1 files"] {
            assert_eq!(open_files(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn capabilities_are_named() {
        let status = "Name:\tx\nCapPrm:\t0000000000000001\nCapEff:\t00000000a80425fb\nCapEffX:\t1\n";
        let names = capability_names(status_field(status, "CapEff").unwrap()).unwrap();
        assert_eq!(names.len(), 14);
        assert!(names.contains(&"CAP_SETFCAP") && names.contains(&"CAP_CHOWN") && !names.contains(&"CAP_SYS_ADMIN"));
        assert_eq!(capability_names("000001ffffffffff").unwrap().len(), 41);
        assert_eq!(capability_names("nonsense"), None);
    }

    #[test]
    fn kernel_releases_and_profiles_are_read() {
        for (release, is) in [
            ("6.18.44-fc-v782", (6, 18)),
            ("4.7", (4, 7)),
            ("3.12foobar", (3, 12)),
            ("6.1-rc1", (6, 1)),
            ("3", (0, 0)),
            ("a.1", (0, 0)),
            ("99999999999.1", (0, 0)),
            ("", (0, 0)),
        ] {
            assert_eq!(kernel_version(release), is, "{release}");
        }
        let text = "docker-default (enforce)\n/usr/bin/a b (x) (complain)\nfree (unconfined)\nlone\nlast (kill)";
        let profiles = apparmor_profiles(text);
        let all: Vec<_> = profiles.iter().map(|(n, e)| (n.as_str(), *e)).collect();
        let is = [
            ("/usr/bin/a b (x)", false),
            ("docker-default", true),
            ("free", false),
            ("last", true),
        ];
        assert_eq!(all, is);
    }

    #[test]
    fn numbers_pids_and_controllers_are_read() {
        assert_eq!(
            boot_time("cpu 1 2\nbtime 1700000000\n"),
            Some(1_700_000_000_000_000_000)
        );
        assert_eq!(boot_time("btime 99999999999999\n"), None);
        assert_eq!(boot_time("xbtime 1\n"), None);
        assert_eq!(number("1048576\n"), Some(1_048_576));
        assert_eq!(number("max\n"), Some(u64::MAX));
        assert_eq!(number("-1\n"), None);
        assert_eq!(pids("12\n\nx\n0\n13\n"), vec![12, 13]);
        let text = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t2\t5\t1\nrdma\t0\t1\t1\nmemory\t3\t5\t0\n";
        assert_eq!(v1_controllers(text), vec!["cpu"]);
        let own = "3:cpu,cpuacct:/a\n2:memory:/b:c\n0::/c\n";
        assert_eq!(own_cgroup(own, "cpuacct"), Some("/a"));
        assert_eq!(own_cgroup(own, "memory"), Some("/b:c"));
        assert_eq!(own_cgroup(own, ""), Some("/c"));
        assert_eq!(own_cgroup(own, "pids"), None);
    }

    proptest! {
        #[test]
        fn any_release_and_any_profile_list_are_read(text in "(\\PC|[0-9. ()\\n]){0,40}") {
            prop_assert!(kernel_version(&text) == (0, 0) || text.contains('.'));
            prop_assert!(apparmor_profiles(&text).len() <= text.lines().count());
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in ".{0,200}", word in "[a-zA-Z:, ]{0,8}") {
            let joined = format!("{word}:{text}\n{text}");
            prop_assert!(status_field(&joined, &word).is_none_or(|v| v.len() <= joined.len()));
            if let Some(names) = capability_names(&text) {
                prop_assert!(names.len() <= CAPABILITIES.len());
            }
            prop_assert!(pids(&joined).iter().all(|p| *p != 0));
            prop_assert!(v1_controllers(&joined).iter().all(|c| !c.is_empty()));
            prop_assert!(own_cgroup(&joined, &word).is_none_or(|p| joined.contains(p)));
            if let Some(n) = number(&text) {
                prop_assert!(n == u64::MAX || text.trim().trim_start_matches(['+', '0']).len() <= 20);
            }
        }
    }
}

//! The `ulimit` option: resource limits of the process, in Docker's form.

use super::error::SpecError;
use super::oci::Inputs;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Most open files of a process, as Docker and systemd give; the runtime's default of 1024 is too low for servers.
const NOFILE: u64 = 1_048_576;

/// Names as Docker has them; in the OCI specification with `RLIMIT_` before them (getrlimit(2)).
const NAMES: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// OCI `process.rlimits`.
///
/// With `rtprio` a task could run before all else on the node's cores, whatever its CPU shares: it needs the consent for
/// the capability that gives the same. `nice` only ranks a task's processes among themselves, since shares are its
/// cgroup's, and what `memlock` holds fast counts against the task's memory: both are asked of nobody.
pub(super) fn build(inputs: &Inputs<'_>) -> Result<Value, SpecError> {
    let most = Some(inputs.node.nofile_limit).filter(|n| *n > 0);
    let mut limits = BTreeMap::new();
    for (given, value) in &inputs.task.options.ulimit {
        let option = format!("ulimit.{given}");
        let name = given.to_ascii_lowercase();
        let name = name.strip_prefix("rlimit_").unwrap_or(&name);
        let Some(name) = NAMES.into_iter().find(|n| *n == name) else {
            let allowed = format!("one of these limits is expected: {}", NAMES.join(", "));
            return Err(SpecError::option("ulimit", given, allowed));
        };
        let Some((soft, hard)) = pair(value) else {
            let allowed = "\"soft:hard\" or one number for both is expected, soft at most hard; -1 for no limit";
            return Err(SpecError::option(option, value, allowed));
        };
        if let Some(most) = most.filter(|most| name == "nofile" && hard > *most) {
            let allowed =
                format!("at most {most} open files can be given on this node, by what the kernel allows containerd");
            return Err(SpecError::option(option, value, allowed));
        }
        if name == "rtprio" && hard > 0 && !inputs.task.options.privileged {
            inputs.gates.cap(&option, value, "CAP_SYS_NICE")?;
        }
        if limits.insert(name, (soft, hard)).is_some() {
            return Err(SpecError::option(
                option,
                value,
                format!("{name} has another limit already"),
            ));
        }
    }
    let open_files = most.map_or(NOFILE, |most| NOFILE.min(most));
    limits.entry("nofile").or_insert((open_files, open_files));
    let limit = |(name, (soft, hard)): (&str, (u64, u64))| json!({"type": format!("RLIMIT_{}", name.to_ascii_uppercase()), "soft": soft, "hard": hard});
    Ok(limits.into_iter().map(limit).collect())
}

/// `soft:hard`, or one for both; soft is not above hard.
fn pair(text: &str) -> Option<(u64, u64)> {
    let (soft, hard) = text.split_once(':').unwrap_or((text, text));
    let (soft, hard) = (number(soft)?, number(hard)?);
    (soft <= hard).then_some((soft, hard))
}

/// A number, or the kernel's word for no limit (`RLIM_INFINITY`: all bits).
fn number(text: &str) -> Option<u64> {
    match text.trim() {
        "-1" | "unlimited" => Some(u64::MAX),
        digits if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::gates::Gates;
    use crate::spec::image::ImageFacts;
    use crate::spec::node::NodeFacts;
    use crate::spec::settings::Settings;
    use crate::spec::task::TaskSpec;
    use proptest::prelude::*;

    fn limits(nofile_limit: u64, list: &[(&str, &str)]) -> Result<Value, String> {
        let mut task = TaskSpec::default();
        task.options.ulimit = list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let settings = Settings::default();
        build(&Inputs {
            task: &task,
            image: &ImageFacts::default(),
            node: &NodeFacts {
                nofile_limit,
                ..NodeFacts::default()
            },
            settings: &settings,
            gates: &Gates::of(&settings).unwrap(),
        })
        .map_err(|e| e.to_string())
    }

    #[test]
    fn open_files_are_bounded_by_the_node() {
        for (node, want) in [(0, NOFILE), (4096, 4096), (u64::MAX, NOFILE)] {
            let got = limits(node, &[]).unwrap();
            assert_eq!(got, json!([{"type": "RLIMIT_NOFILE", "soft": want, "hard": want}]));
        }
        assert!(limits(4096, &[("nofile", "1024:4096")]).is_ok());
        for above in ["4097", "1024:4097", "-1", "unlimited"] {
            let text = limits(4096, &[("nofile", above)]).unwrap_err();
            assert!(
                text.contains("ulimit.nofile") && text.contains("at most 4096"),
                "{text}"
            );
        }
    }

    #[test]
    fn priorities_of_real_time_need_consent() {
        let refused = limits(0, &[("rtprio", "0:5")]).unwrap_err();
        for word in [
            "option ulimit.rtprio: \"0:5\"",
            "allow_caps with \"CAP_SYS_NICE\" in it",
        ] {
            assert!(refused.contains(word), "{refused}");
        }
        assert!(limits(0, &[("rtprio", "0")]).is_ok());
        assert!(limits(0, &[("nice", "40"), ("memlock", "-1")]).is_ok());
        let task = TaskSpec {
            options: crate::spec::options::TaskOptions {
                ulimit: [("rtprio".to_owned(), "5".to_owned())].into(),
                ..Default::default()
            },
            ..TaskSpec::default()
        };
        let settings = Settings::go_driver();
        let built = build(&Inputs {
            task: &task,
            image: &ImageFacts::default(),
            node: &NodeFacts::default(),
            settings: &settings,
            gates: &Gates::of(&settings).unwrap(),
        });
        assert_eq!(built.unwrap()[1]["type"], "RLIMIT_RTPRIO");
    }

    #[test]
    fn limits_are_read_in_dockers_form() {
        for (value, soft, hard) in [
            ("1:2", 1, 2),
            ("7", 7, 7),
            ("0", 0, 0),
            ("-1", u64::MAX, u64::MAX),
            ("5:unlimited", 5, u64::MAX),
            (" 5 : 6 ", 5, 6),
        ] {
            let got = limits(0, &[("Core", value)]).unwrap();
            assert_eq!(
                got[0],
                json!({"type": "RLIMIT_CORE", "soft": soft, "hard": hard}),
                "{value}"
            );
            assert_eq!(got[1]["type"], "RLIMIT_NOFILE");
        }
        for value in [
            "",
            ":",
            "2:1",
            "-1:5",
            "-2",
            "x",
            "1:2:3",
            "1.5",
            "18446744073709551616",
            "+1",
        ] {
            assert!(
                limits(0, &[("nproc", value)]).unwrap_err().contains("soft:hard"),
                "{value:?}"
            );
        }
        assert!(limits(0, &[("files", "1")]).unwrap_err().contains("nofile"));
        assert!(
            limits(0, &[("core", "1"), ("RLIMIT_CORE", "2")])
                .unwrap_err()
                .contains("already")
        );
    }

    proptest! {
        #[test]
        fn any_limit_is_read_or_refused(name in any::<String>(), value in "[-0-9:a-z ]{0,24}") {
            let got = limits(100, &[(&name, &value)]);
            prop_assert!(got.map_or_else(|text| text.contains("ulimit"), |list| list.is_array()));
            prop_assert!(pair(&value).is_none_or(|(soft, hard)| soft <= hard));
        }
    }
}

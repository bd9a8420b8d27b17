//! File systems in memory: the `tmpfs` option, `mounts` blocks of that type, and the options of such a mount.
//!
//! Every word is known here (mount(8), tmpfs(5)), so that nothing that is more than a file system in memory can be asked
//! for without consent: `remount` would change a mount of the runtime's own, `bind` show a host path.

use super::error::SpecError;
use super::go;
use super::mounts::Mounts;
use super::oci::Inputs;
use super::options::{MountOption, TmpfsOptions};
use super::user;

/// Words for how a mount is used that every file system knows.
pub(super) const FLAGS: [&str; 22] = [
    "ro",
    "rw",
    "exec",
    "noexec",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "sync",
    "async",
    "dirsync",
    "mand",
    "nomand",
    "defaults",
];

/// Words of this file system alone. `tmpcopyup` is the runtime's: what the image has there is copied in.
const WORDS: [&str; 4] = ["noswap", "inode32", "inode64", "tmpcopyup"];

/// Ways in which mounts propagate.
pub(super) const PROPAGATION: [&str; 8] = [
    "private",
    "rprivate",
    "slave",
    "rslave",
    "shared",
    "rshared",
    "unbindable",
    "runbindable",
];

/// What a file system in memory is without the word before it, as in Docker.
const DEFAULTS: [(&str, &str); 3] = [("exec", "noexec"), ("suid", "nosuid"), ("dev", "nodev")];

/// Reads a size in binary units, or a share of memory in percent, into the kernel's form.
fn size(text: &str) -> Option<String> {
    if let Some(percent) = text.strip_suffix('%') {
        let share = percent.parse::<u8>().ok().filter(|p| (1..=100).contains(p))?;
        return Some(format!("{share}%"));
    }
    go::parse_size(text).filter(|n| *n > 0).map(|n| n.to_string())
}

/// Permission bits in octal digits.
fn mode(text: &str) -> Option<String> {
    let digits = (1..=5).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let bits = u32::from_str_radix(text, 8).ok().filter(|m| digits && *m <= 0o7777)?;
    Some(format!("{bits:o}"))
}

/// The permission bits that options of a mount in the kernel's form ask for.
pub(super) fn mode_of(options: &[&str]) -> Option<u32> {
    let text = options.iter().rev().find_map(|option| option.strip_prefix("mode="))?;
    u32::from_str_radix(text, 8).ok()
}

/// Words of which one is the opposite of the other.
const OPPOSITES: [(&str, &str); 12] = [
    ("ro", "rw"),
    ("rro", "rw"),
    ("exec", "noexec"),
    ("suid", "nosuid"),
    ("dev", "nodev"),
    ("atime", "noatime"),
    ("diratime", "nodiratime"),
    ("relatime", "norelatime"),
    ("strictatime", "nostrictatime"),
    ("sync", "async"),
    ("mand", "nomand"),
    ("inode32", "inode64"),
];

/// Refuses words that contradict each other: the runtimes go by the last of them, and no order was meant. A word twice is
/// none, and neither is one with `r` before it beside it, which is more of the same.
pub(super) fn contradiction(option: &str, words: &[&str]) -> Result<(), SpecError> {
    let opposite = |one: &str, other: &str| {
        let kind = |word: &str| {
            PROPAGATION
                .contains(&word)
                .then(|| word.trim_start_matches('r').to_owned())
        };
        let propagate = matches!((kind(one), kind(other)), (Some(a), Some(b)) if a != b);
        // What ends in a plus is added to what there is, as overlay's `lowerdir+=`.
        let value = match (one.split_once('='), other.split_once('=')) {
            (Some((key, value)), Some((other_key, other))) => key == other_key && value != other && !key.ends_with('+'),
            _ => false,
        };
        let listed = |a, b| OPPOSITES.contains(&(a, b));
        propagate || value || listed(one, other) || listed(other, one)
    };
    for (i, word) in words.iter().enumerate() {
        if let Some(first) = words.iter().take(i).find(|first| opposite(first, word)) {
            let allowed = format!("it contradicts {first}, which is given too; leave one of them out");
            return Err(SpecError::option(option, word, allowed));
        }
    }
    Ok(())
}

/// One word in the form that the kernel takes; `None` if it is not one.
fn word(text: &str) -> Option<String> {
    if [&FLAGS[..], &WORDS, &PROPAGATION].concat().contains(&text) {
        return Some(text.to_owned());
    }
    let (key, value) = text.split_once('=')?;
    let value = match key {
        "size" => size(value)?,
        "mode" => mode(value)?,
        "uid" | "gid" => user::id(value)?.to_string(),
        // Numbers with a unit of their own, which the kernel reads.
        "nr_inodes" | "nr_blocks" => {
            let digits = value.strip_suffix(['k', 'm', 'g', 'K', 'M', 'G']).unwrap_or(value);
            digits.parse::<u32>().ok().map(|_| value.to_owned())?
        }
        "huge" => {
            Some(value.to_owned()).filter(|v| ["never", "always", "within_size", "advise"].contains(&v.as_str()))?
        }
        _ => return None,
    };
    Some(format!("{key}={value}"))
}

/// All words of some texts, separated by commas.
pub(super) fn words<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let parts = texts.into_iter().flat_map(|t| t.split(','));
    parts.map(str::trim).filter(|w| !w.is_empty()).collect()
}

/// The options of a mount.
fn parse<'a>(option: &str, texts: impl IntoIterator<Item = &'a str>) -> Result<Vec<String>, SpecError> {
    let read = |text: &str| {
        word(text).ok_or_else(|| {
            let allowed = format!(
                "an option of a file system in memory is expected: size=64m or size=10%, mode=1777, uid=, gid=, nr_inodes=, nr_blocks=, huge=, {}, {}",
                FLAGS.join(", "),
                WORDS.join(", ")
            );
            SpecError::option(option, text, allowed)
        })
    };
    let read: Vec<String> = words(texts).into_iter().map(read).collect::<Result<_, _>>()?;
    contradiction(option, &read.iter().map(String::as_str).collect::<Vec<_>>())?;
    Ok(read)
}

/// Adds what is the case where nothing is said.
fn with_defaults(mut given: Vec<String>) -> Vec<String> {
    for (open, closed) in DEFAULTS {
        if !given.iter().any(|w| w == open || w == closed) {
            given.push(closed.to_owned());
        }
    }
    given
}

impl Mounts {
    /// One text of the `tmpfs` option: `target` or `target:options`.
    pub(super) fn tmpfs_short(&mut self, inputs: &Inputs<'_>, text: &str) -> Result<(), SpecError> {
        let (target, options) = text.split_once(':').unwrap_or((text, ""));
        let options = with_defaults(parse("tmpfs", [options])?);
        self.tmpfs(inputs, "tmpfs", target, "tmpfs", &options)
    }

    /// A `mounts` block of this type. With options as in fstab these count as they are, as in the Go driver; with a
    /// `tmpfs_options` block it is as in Docker, and under Docker's name without either too.
    pub(super) fn tmpfs_block<'a>(
        &mut self,
        inputs: &Inputs<'_>,
        by: &'static str,
        mount: &MountOption,
        options: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), SpecError> {
        let mut given = parse(by, options)?;
        let plain = mount.at.starts_with("mount[") && mount.options.is_empty();
        let plain = plain.then(TmpfsOptions::default);
        if let Some(block) = mount.tmpfs_options.as_ref().or(plain.as_ref()) {
            given = with_defaults(given);
            // Docker takes 0 for "not given".
            if let Some(text) = block.size.as_ref().filter(|text| go::parse_size(text) != Some(0)) {
                let bytes = size(text).ok_or_else(|| {
                    let allowed =
                        "a size in binary units, 0 for not given, or a share of memory such as 10% is expected";
                    SpecError::option("mounts.tmpfs_options.size", text, allowed)
                })?;
                given.push(format!("size={bytes}"));
            }
            let mode = block.mode.filter(|bits| *bits != 0);
            let bits = mode.unwrap_or(0o1777);
            if !(0..=0o7777).contains(&bits) {
                let allowed = "permission bits as a decimal number are expected, such as 511 for 0777";
                return Err(SpecError::option("mounts.tmpfs_options.mode", bits, allowed));
            }
            let has_mode = given.iter().any(|word| word.starts_with("mode="));
            // One that cannot be written to needs no bits that nobody has asked for, and cannot be given any.
            let read_only = given.iter().any(|word| word == "ro");
            if mode.is_some() || !(has_mode || read_only) {
                given.push(format!("mode={bits:o}"));
            }
            contradiction(by, &given.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        let source = if mount.source.is_empty() {
            "tmpfs"
        } else {
            &mount.source
        };
        self.tmpfs(inputs, by, &mount.target, source, &given)
    }

    fn tmpfs(
        &mut self,
        inputs: &Inputs<'_>,
        by: &'static str,
        target: &str,
        source: &str,
        options: &[String],
    ) -> Result<(), SpecError> {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        self.wanted(inputs, by, target, "tmpfs", source, &options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_brought_into_the_kernels_form() {
        for (text, want) in [
            ("size=64m", Some("size=67108864")),
            ("size=1000", Some("size=1000")),
            ("size=10%", Some("size=10%")),
            ("size=0", None),
            ("size=101%", None),
            ("size=", None),
            ("mode=0755", Some("mode=755")),
            ("mode=1777", Some("mode=1777")),
            ("mode=8", None),
            ("mode=17777", None),
            ("mode=", None),
            ("uid=33", Some("uid=33")),
            ("gid=-1", None),
            ("uid=4294967296", None),
            ("nr_inodes=1k", Some("nr_inodes=1k")),
            ("nr_inodes=k", None),
            ("huge=always", Some("huge=always")),
            ("huge=yes", None),
            ("noexec", Some("noexec")),
            ("tmpcopyup", Some("tmpcopyup")),
            ("rslave", Some("rslave")),
            ("remount", None),
            ("bind", None),
            ("rbind", None),
            ("lowerdir=/etc", None),
            ("context=x", None),
        ] {
            assert_eq!(word(text).as_deref(), want, "{text}");
        }
    }

    #[test]
    fn what_is_not_said_is_as_in_docker() {
        let with = |text| with_defaults(parse("tmpfs", [text]).unwrap()).join(",");
        assert_eq!(with(""), "noexec,nosuid,nodev");
        assert_eq!(with("exec, ro,size=1k"), "exec,ro,size=1024,nosuid,nodev");
        assert_eq!(with("dev,suid,exec"), "dev,suid,exec");
    }

    proptest! {
        #[test]
        fn any_option_is_read_or_refused(text in "(size|mode|uid|huge|nr_inodes|,|=|%|[0-9kmg]|\\PC){0,12}") {
            if let Ok(words) = parse("tmpfs", [text.as_str()]) {
                prop_assert!(words.iter().all(|w| !w.contains(',') && !w.contains("bind=") && w != "remount"));
                // What was read is read again, to the same.
                prop_assert_eq!(parse("tmpfs", words.iter().map(String::as_str)).unwrap(), words);
            }
        }
    }
}

//! A profile that a user brings: the OCI's `linux.seccomp`, or Docker's form of it with `archMap`, `includes` and `excludes`.
//!
//! Rules: the OCI runtime specification ("Seccomp") and Docker's `profiles/seccomp` (which entries count). A field that is
//! not known is refused: a condition that is misspelt would widen the filter in silence. Of the file only words that look
//! like a constant are ever repeated, since a path may lead to any file of the host.

use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Most bytes of a profile; Docker's own has 15 KiB.
pub const PROFILE_MAX: u64 = 1 << 20;
/// Most entries of one list.
const LIST_MAX: usize = 4096;
/// A system call has so many arguments.
const ARGUMENTS: u64 = 6;
/// Largest error number of the kernel (`MAX_ERRNO`).
const ERRNO_MAX: u64 = 4095;

/// Errors that profiles name, by their numbers, which are the same on all machines that Linux names alike for containers.
const ERRNOS: [(&str, u64); 8] = [
    ("EPERM", 1),
    ("ENOENT", 2),
    ("EIO", 5),
    ("EBADF", 9),
    ("EACCES", 13),
    ("EINVAL", 22),
    ("ENOSYS", 38),
    ("ENOTSUP", 95),
];

const ACTIONS: [&str; 8] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];
const OPERATORS: [&str; 7] = [
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];
/// Not `NEW_LISTENER`, which goes with a listener.
const FLAGS: [&str; 4] = [
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];
const ARCHITECTURES: [&str; 22] = [
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];

/// What conditions of Docker's form are asked of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ground<'a> {
    /// `uname -m`.
    pub(super) machine: &'a str,
    pub(super) kernel: (u32, u32),
    /// The bounding set of the container.
    pub(super) caps: &'a BTreeSet<String>,
}

/// What is wrong, and where: `syscalls[3].action: …`.
type Found<T> = Result<T, String>;

/// OCI `linux.seccomp` of a profile in either form.
pub(super) fn parse(text: &str, ground: Ground<'_>) -> Found<Value> {
    if u64::try_from(text.len()).map_or(true, |n| n > PROFILE_MAX) {
        return Err(format!("at most {PROFILE_MAX} bytes are read"));
    }
    // Only the place: serde's own texts repeat what they found.
    let value: Value =
        serde_json::from_str(text).map_err(|e| format!("no JSON at line {}, column {}", e.line(), e.column()))?;
    let at = "profile";
    let top = object(at, &value)?;
    only(
        at,
        top,
        &[
            "archMap",
            "architectures",
            "comment",
            "defaultAction",
            "defaultErrno",
            "defaultErrnoRet",
            "flags",
            "syscalls",
        ],
        &["listenerPath", "listenerMetadata"],
    )?;
    let mut out = Map::new();
    let action = field(top, "defaultAction").ok_or("defaultAction is missing")?;
    out.insert(
        "defaultAction".to_owned(),
        json!(word("defaultAction", action, &ACTIONS)?),
    );
    if let Some(errno) = errno("defaultErrno", top, "defaultErrno")? {
        out.insert("defaultErrnoRet".to_owned(), json!(errno));
    }
    let architectures = architectures(top, ground.machine)?;
    if !architectures.is_empty() {
        out.insert("architectures".to_owned(), json!(architectures));
    }
    if let Some(flags) = field(top, "flags") {
        let flags = words("flags", flags, &FLAGS)?;
        if !flags.is_empty() {
            out.insert("flags".to_owned(), json!(flags));
        }
    }
    let mut rules = Vec::new();
    if let Some(list) = field(top, "syscalls") {
        for (n, entry) in array("syscalls", list)?.iter().enumerate() {
            rules.extend(rule(&format!("syscalls[{n}]"), entry, ground)?);
        }
    }
    out.insert("syscalls".to_owned(), Value::Array(rules));
    Ok(Value::Object(out))
}

/// `architectures`, or of `archMap` the entry of this machine with what its kernel runs besides.
fn architectures<'a>(top: &'a Map<String, Value>, machine: &str) -> Found<Vec<&'a str>> {
    let plain = match field(top, "architectures") {
        Some(list) => words("architectures", list, &ARCHITECTURES)?,
        None => Vec::new(),
    };
    let Some(map) = field(top, "archMap") else {
        return Ok(plain);
    };
    let mut mapped = Vec::new();
    let native = native(machine);
    let entries = array("archMap", map)?;
    for (n, entry) in entries.iter().enumerate() {
        let at = format!("archMap[{n}]");
        let entry = object(&at, entry)?;
        only(&at, entry, &["architecture", "subArchitectures"], &[])?;
        let first = field(entry, "architecture").ok_or_else(|| format!("{at}.architecture is missing"))?;
        let first = word(&format!("{at}.architecture"), first, &ARCHITECTURES)?;
        let more = match field(entry, "subArchitectures") {
            Some(list) => words(&format!("{at}.subArchitectures"), list, &ARCHITECTURES)?,
            None => Vec::new(),
        };
        if native == Some(first) && mapped.is_empty() {
            mapped.push(first);
            mapped.extend(more);
        }
    }
    if !plain.is_empty() && !entries.is_empty() {
        return Err("either architectures or archMap is expected, not both".to_owned());
    }
    Ok(if entries.is_empty() { plain } else { mapped })
}

/// The error that a call gets: by number, or by name as Podman's profiles have it beside the number (containers/common,
/// `pkg/seccomp`). The number counts.
fn errno(at: &str, of: &Map<String, Value>, name: &str) -> Found<Option<u64>> {
    if let Some(value) = field(of, &format!("{name}Ret")) {
        return Ok(Some(number(&format!("{at}Ret"), value, ERRNO_MAX)?));
    }
    let Some(value) = field(of, name) else {
        return Ok(None);
    };
    let known = ERRNOS.iter().find(|(name, _)| value.as_str() == Some(name));
    let names = || ERRNOS.map(|(name, _)| name).join(", ");
    known
        .map(|(_, number)| Some(*number))
        .ok_or_else(|| format!("{at}: one of {} is expected, or a number in {name}Ret", names()))
}

/// One entry of `syscalls`; `None` if its conditions are not met.
fn rule(at: &str, entry: &Value, ground: Ground<'_>) -> Found<Option<Value>> {
    let entry = object(at, entry)?;
    only(
        at,
        entry,
        &[
            "action", "args", "comment", "errno", "errnoRet", "excludes", "includes", "name", "names",
        ],
        &[],
    )?;
    let mut out = Map::new();
    out.insert("names".to_owned(), json!(names(at, entry)?));
    let action = field(entry, "action").ok_or_else(|| format!("{at}.action is missing"))?;
    out.insert(
        "action".to_owned(),
        json!(word(&format!("{at}.action"), action, &ACTIONS)?),
    );
    if let Some(errno) = errno(&format!("{at}.errno"), entry, "errno")? {
        out.insert("errnoRet".to_owned(), json!(errno));
    }
    if let Some(list) = field(entry, "args") {
        let at = format!("{at}.args");
        let args = array(&at, list)?
            .iter()
            .enumerate()
            .map(|(n, arg)| argument(&format!("{at}[{n}]"), arg))
            .collect::<Found<Vec<_>>>()?;
        if !args.is_empty() {
            out.insert("args".to_owned(), Value::Array(args));
        }
    }
    // All of an entry is checked, also where it does not count on this node: a profile is right or wrong everywhere.
    let includes = Condition::of(&format!("{at}.includes"), field(entry, "includes"))?;
    let excludes = Condition::of(&format!("{at}.excludes"), field(entry, "excludes"))?;
    let counts = includes.all(ground) && !excludes.any(ground);
    Ok(counts.then_some(Value::Object(out)))
}

fn names<'a>(at: &str, entry: &'a Map<String, Value>) -> Found<Vec<&'a str>> {
    let many = match field(entry, "names") {
        Some(list) => strings(&format!("{at}.names"), list)?,
        None => Vec::new(),
    };
    let one = match field(entry, "name") {
        Some(name) => Some(string(&format!("{at}.name"), name)?).filter(|n| !n.is_empty()),
        None => None,
    };
    let names = match (one, many.is_empty()) {
        (Some(_), false) => return Err(format!("{at}: either name or names is expected, not both")),
        (Some(one), true) => vec![one],
        (None, _) => many,
    };
    if names.is_empty() {
        return Err(format!("{at}.names: at least one system call is expected"));
    }
    match names.iter().position(|n| !is_word(n)) {
        Some(n) => Err(format!(
            "{at}.names[{n}]: a system call of at most 64 letters, digits and '_' is expected"
        )),
        None => Ok(names),
    }
}

fn argument(at: &str, arg: &Value) -> Found<Value> {
    let arg = object(at, arg)?;
    only(at, arg, &["index", "op", "value", "valueTwo"], &[])?;
    let get = |name: &str, max| match field(arg, name) {
        Some(value) => number(&format!("{at}.{name}"), value, max),
        // Go's encoder leaves out what is zero.
        None => Ok(0),
    };
    let op = field(arg, "op").ok_or_else(|| format!("{at}.op is missing"))?;
    let op = word(&format!("{at}.op"), op, &OPERATORS)?;
    let (index, value, two) = (
        get("index", ARGUMENTS - 1)?,
        get("value", u64::MAX)?,
        get("valueTwo", u64::MAX)?,
    );
    let mut out = json!({"index": index, "op": op, "value": value});
    if two != 0 {
        out["valueTwo"] = json!(two);
    }
    Ok(out)
}

/// `includes` or `excludes`; what is not said is empty.
#[derive(Default)]
struct Condition<'a> {
    arches: Vec<&'a str>,
    caps: Vec<&'a str>,
    kernel: Option<(u32, u32)>,
}

impl<'a> Condition<'a> {
    fn of(at: &str, value: Option<&'a Value>) -> Found<Self> {
        let Some(value) = value else { return Ok(Self::default()) };
        let value = object(at, value)?;
        only(at, value, &["arches", "caps", "minKernel"], &[])?;
        let list = |name: &str| match field(value, name) {
            Some(list) => strings(&format!("{at}.{name}"), list),
            None => Ok(Vec::new()),
        };
        let kernel = match field(value, "minKernel") {
            Some(text) => {
                let at = format!("{at}.minKernel");
                let text = string(&at, text)?;
                Some(version(text).ok_or_else(|| format!("{at}: a version such as \"4.8\" is expected"))?)
            }
            None => None,
        };
        Ok(Self {
            arches: list("arches")?,
            caps: list("caps")?,
            kernel,
        })
    }

    /// As `includes`: everything that is said is so.
    fn all(&self, ground: Ground<'_>) -> bool {
        (self.arches.is_empty() || self.arches.contains(&docker_arch(ground.machine)))
            && self.caps.iter().all(|c| ground.caps.contains(*c))
            && self.kernel.is_none_or(|k| ground.kernel >= k)
    }

    /// As `excludes`: something that is said is so.
    fn any(&self, ground: Ground<'_>) -> bool {
        self.arches.contains(&docker_arch(ground.machine))
            || self.caps.iter().any(|c| ground.caps.contains(*c))
            || self.kernel.is_some_and(|k| ground.kernel >= k)
    }
}

/// Two numbers with a dot between them.
fn version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    (digits(major) && digits(minor)).then(|| Some((major.parse().ok()?, minor.parse().ok()?)))?
}

/// Docker's name of a machine (Go's, but for 32-bit x86).
fn docker_arch(machine: &str) -> &str {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "i386" | "i486" | "i586" | "i686" => "x86",
        "loongarch64" => "loong64",
        arm if arm.starts_with("arm") => "arm",
        other => other,
    }
}

/// libseccomp's name of a machine.
fn native(machine: &str) -> Option<&'static str> {
    Some(match docker_arch(machine) {
        "amd64" => "SCMP_ARCH_X86_64",
        "arm64" => "SCMP_ARCH_AARCH64",
        "x86" => "SCMP_ARCH_X86",
        "arm" => "SCMP_ARCH_ARM",
        "ppc64le" => "SCMP_ARCH_PPC64LE",
        "riscv64" => "SCMP_ARCH_RISCV64",
        "s390x" => "SCMP_ARCH_S390X",
        "loong64" => "SCMP_ARCH_LOONGARCH64",
        _ => return None,
    })
}

/// A field that is there; Go writes `null` for an empty list.
fn field<'a>(of: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    of.get(name).filter(|v| !v.is_null())
}

/// Refuses fields outside `known`, and those of `unsupported` that say something.
fn only(at: &str, object: &Map<String, Value>, known: &[&str], unsupported: &[&str]) -> Found<()> {
    for (name, value) in object {
        if unsupported.contains(&name.as_str()) {
            if !value.is_null() && value != "" {
                return Err(format!(
                    "{at}.{name}: there is no listener for notifications; leave it out"
                ));
            }
        } else if !known.contains(&name.as_str()) {
            return Err(format!(
                "{at}: unknown field {}, {} are expected",
                shown(name),
                known.join(", ")
            ));
        }
    }
    Ok(())
}

fn object<'a>(at: &str, value: &'a Value) -> Found<&'a Map<String, Value>> {
    value.as_object().ok_or_else(|| format!("{at}: an object is expected"))
}

fn array<'a>(at: &str, value: &'a Value) -> Found<&'a Vec<Value>> {
    let list = value.as_array().ok_or_else(|| format!("{at}: a list is expected"))?;
    if list.len() > LIST_MAX {
        return Err(format!("{at}: at most {LIST_MAX} entries are expected"));
    }
    Ok(list)
}

fn string<'a>(at: &str, value: &'a Value) -> Found<&'a str> {
    value.as_str().ok_or_else(|| format!("{at}: a string is expected"))
}

fn strings<'a>(at: &str, value: &'a Value) -> Found<Vec<&'a str>> {
    let list = array(at, value)?.iter().enumerate();
    list.map(|(n, v)| string(&format!("{at}[{n}]"), v)).collect()
}

/// One of the constants.
fn word<'a>(at: &str, value: &'a Value, known: &[&str]) -> Found<&'a str> {
    let text = string(at, value)?;
    if known.contains(&text) {
        return Ok(text);
    }
    Err(format!(
        "{at}: unknown value {}, {} are expected",
        shown(text),
        known.join(", ")
    ))
}

fn words<'a>(at: &str, value: &'a Value, known: &[&str]) -> Found<Vec<&'a str>> {
    let list = array(at, value)?.iter().enumerate();
    list.map(|(n, v)| word(&format!("{at}[{n}]"), v, known)).collect()
}

fn number(at: &str, value: &Value, max: u64) -> Found<u64> {
    value
        .as_u64()
        .filter(|n| *n <= max)
        .ok_or_else(|| format!("{at}: a whole number from 0 to {max} is expected"))
}

fn is_word(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// A word of the file as an error may show it: one of a profile, or a short one. A token, as other files of
/// the host have them for keys, is long and has digits.
fn shown(text: &str) -> String {
    let of_profile = ["SCMP_", "SECCOMP_"].iter().any(|start| text.starts_with(start));
    let plain = text.len() <= 10 || (text.len() <= 32 && !text.contains(|c: char| c.is_ascii_digit()));
    if is_word(text) && (of_profile || plain) {
        format!("{text:?}")
    } else {
        "(not a word)".to_owned()
    }
}

#[cfg(test)]
#[path = "profile_test.rs"]
mod tests;

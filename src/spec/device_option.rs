//! What a task's `devices` and `device_cgroup_rules` say, before anything is looked up.
//!
//! The text forms are those of `docker run --device` and `--device-cgroup-rule`. A path with colons of its own, such as
//! those of `/dev/disk/by-path`, is a path: the Go driver took such lists, and a container's path begins with `/`.

use super::cdi;
use super::error::SpecError;
use super::options::DeviceOption;
use super::path;
use serde_json::{Value, json};

/// One entry of `devices`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// A device node, or a directory of them.
    Host {
        /// Clean absolute path on the host.
        host: String,
        /// Clean absolute path in the container.
        container: String,
        /// Subset of `rwm`.
        access: String,
    },
    /// A name that CDI files explain.
    Cdi(cdi::Name),
}

impl DeviceOption {
    /// The entry as it stands in a block, where `host_path` is nothing but a path: in the short form it could end with
    /// the container's path and permissions.
    pub(super) fn of_a_block(mut self) -> Self {
        if self.host_path.starts_with('/') && self.container_path.is_none() {
            self.container_path = Some(self.host_path.clone());
        }
        self
    }
}

/// Reads one entry; `at` is its name for errors, such as `devices[0]`.
pub(super) fn parse(at: &str, option: &DeviceOption) -> Result<Asked, SpecError> {
    let text = option.host_path.as_str();
    if !text.starts_with('/') {
        return parse_cdi(at, option);
    }
    let block = option.container_path.is_some() || option.cgroup_permissions.is_some();
    let (host, container, permissions) = if block {
        (
            text,
            option.container_path.as_deref().filter(|p| !p.is_empty()),
            option.cgroup_permissions.as_deref(),
        )
    } else {
        split(text)
    };
    let permissions_at = if block {
        format!("{at}.cgroup_permissions")
    } else {
        at.to_owned()
    };
    let container_at = if block {
        format!("{at}.container_path")
    } else {
        at.to_owned()
    };
    let host_at = if block {
        format!("{at}.host_path")
    } else {
        at.to_owned()
    };
    let host = clean(&host_at, host)?;
    let container = match container {
        Some(path) => clean(&container_at, path)?,
        None => host.clone(),
    };
    if ["/proc", "/sys"].iter().any(|dir| path::inside(&container, dir)) {
        let allowed = "a path in the container outside /proc and /sys, such as one in /dev, is expected";
        return Err(SpecError::option(container_at, container, allowed));
    }
    Ok(Asked::Host {
        container,
        host,
        access: access(&permissions_at, permissions.unwrap_or_default())?.to_owned(),
    })
}

fn parse_cdi(at: &str, option: &DeviceOption) -> Result<Asked, SpecError> {
    let name = cdi::Name::parse(&option.host_path).ok_or_else(|| {
        SpecError::option(
            at,
            &option.host_path,
            "an absolute path on the host, host:container:permissions, or a CDI name such as vendor.com/gpu=0 is expected",
        )
    })?;
    if option.container_path.is_some() || option.cgroup_permissions.is_some() {
        return Err(SpecError::option(
            at,
            &option.host_path,
            "container_path and cgroup_permissions are not for CDI names: the CDI file says where its devices are",
        ));
    }
    Ok(Asked::Cdi(name))
}

/// `host`, `host:permissions`, `host:container` or `host:container:permissions`.
fn split(text: &str) -> (&str, Option<&str>, Option<&str>) {
    // A container's path begins with a slash, so it is where `:/` is.
    if let Some((host, container)) = text.split_once(":/") {
        let start = host.len() + 1;
        let container = match container.split_once(':') {
            Some((path, permissions)) => return (host, text.get(start..start + 1 + path.len()), Some(permissions)),
            None => text.get(start..),
        };
        return (host, container, None);
    }
    match text.rsplit_once(':') {
        Some((host, last)) if last.is_empty() || last.len() <= 3 && last.chars().all(|c| c.is_ascii_lowercase()) => {
            (host, None, Some(if last.is_empty() { " " } else { last }))
        }
        _ => (text, None, None),
    }
}

/// Access as the kernel writes it: a subset of `rwm`, all of them where nothing is said.
pub(super) fn access<'a>(at: &str, permissions: &'a str) -> Result<&'a str, SpecError> {
    if permissions.is_empty() {
        return Ok("rwm");
    }
    let times = |letter| permissions.chars().filter(|c| *c == letter).count();
    if permissions.chars().all(|c| "rwm".contains(c)) && "rwm".chars().all(|c| times(c) <= 1) {
        return Ok(permissions);
    }
    Err(SpecError::option(
        at,
        permissions,
        "permissions out of r, w and m are expected, each at most once",
    ))
}

/// A path that means what it reads: consent is given for the text of it, and `..` would lead away from that.
fn clean(at: &str, path: &str) -> Result<String, SpecError> {
    path::clean(path)
        .filter(|p| !p.contains(|c: char| c.is_control()))
        .ok_or_else(|| SpecError::option(at, path, "an absolute path of a device, without '..', is expected"))
}

/// One entry of `device_cgroup_rules` as OCI rules.
///
/// `a` becomes a rule for each type: for the kernel's `a` neither numbers nor permissions count, so `a *:* r` would
/// give all access (kernel `security/device_cgroup.c`, `devcgroup_update_access`).
pub(super) fn rule(at: &str, text: &str) -> Result<Vec<Value>, SpecError> {
    let bad = || {
        SpecError::option(
            at,
            text,
            "type major:minor permissions is expected, such as c 10:229 rwm, with type c, b or a, numbers or *, and *:* for type a",
        )
    };
    let mut words = text.split(' ');
    let (Some(kind), Some(numbers), Some(permissions), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(bad());
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
    let number = |text: &str| -> Result<Option<u32>, SpecError> {
        match text {
            "*" => Ok(None),
            digits if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().map(Some).map_err(|_| bad())
            }
            _ => Err(bad()),
        }
    };
    let (major, minor) = (number(major)?, number(minor)?);
    if permissions.is_empty() {
        return Err(bad());
    }
    let access = access(at, permissions).map_err(|_| bad())?;
    let kinds: &[&str] = match kind {
        "c" => &["c"],
        "b" => &["b"],
        "a" if major.is_none() && minor.is_none() => &["b", "c"],
        _ => return Err(bad()),
    };
    let one = |kind: &&str| {
        let mut rule = json!({"allow": true, "type": kind, "access": access});
        if let Some(major) = major {
            rule["major"] = json!(major);
        }
        if let Some(minor) = minor {
            rule["minor"] = json!(minor);
        }
        rule
    };
    Ok(kinds.iter().map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn no_device_is_made_in_what_the_kernel_shows() {
        for text in ["/dev/fuse:/proc/fuse", "/dev/fuse://sys/./x:r"] {
            let refused = short(text).unwrap_err();
            assert!(
                refused.contains("devices[0]: \"/") && refused.contains("outside /proc and /sys"),
                "{refused}"
            );
        }
        assert!(short("/dev/fuse:/system/x").is_ok());
    }

    fn short(text: &str) -> Result<Asked, String> {
        let option = DeviceOption {
            host_path: text.to_owned(),
            ..DeviceOption::default()
        };
        parse("devices[0]", &option).map_err(|e| e.to_string())
    }

    fn host(text: &str) -> String {
        match short(text) {
            Ok(Asked::Host {
                host,
                container,
                access,
            }) => format!("{host} {container} {access}"),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn the_short_forms_are_dockers() {
        assert_eq!(host("/dev/fuse"), "/dev/fuse /dev/fuse rwm");
        assert_eq!(host("/dev/fuse:r"), "/dev/fuse /dev/fuse r");
        assert_eq!(host("/dev/fuse:/dev/f"), "/dev/fuse /dev/f rwm");
        assert_eq!(host("/dev/fuse:/dev/f:rw"), "/dev/fuse /dev/f rw");
        assert_eq!(host("/dev//./snd/"), "/dev/snd /dev/snd rwm");
        assert_eq!(
            short("vendor.com/gpu=0"),
            Ok(Asked::Cdi(cdi::Name::parse("vendor.com/gpu=0").unwrap()))
        );
    }

    #[test]
    fn colons_of_a_path_are_the_paths() {
        let path = "/dev/disk/by-path/pci-0000:00:1f.2-ata-1";
        assert_eq!(host(path), format!("{path} {path} rwm"));
        assert_eq!(host(&format!("{path}:r")), format!("{path} {path} r"));
        assert_eq!(host(&format!("{path}:/dev/x:rm")), format!("{path} /dev/x rm"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, want) in [
            ("/dev/fuse:rx", "permissions out of r, w and m"),
            ("/dev/fuse:rr", "each at most once"),
            ("/dev/fuse:/dev/f:rwx", "permissions out of"),
            ("/dev/fuse:", "permissions out of"),
            ("/dev/../etc", "without '..'"),
            ("/dev/fuse:/../x", "without '..'"),
            ("/", "absolute path"),
            ("fuse", "CDI name"),
            ("vendor.com/gpu", "CDI name"),
        ] {
            let error = short(text).unwrap_err();
            assert!(
                error.starts_with("option devices[0]: ") && error.contains(want),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn a_block_says_each_thing_by_name() {
        let block = |path: &str, container: Option<&str>, permissions: Option<&str>| DeviceOption {
            host_path: path.to_owned(),
            container_path: container.map(ToOwned::to_owned),
            cgroup_permissions: permissions.map(ToOwned::to_owned),
        };
        let error = |option| parse("devices[1]", &option).unwrap_err().to_string();
        assert_eq!(
            parse("d", &block("/dev/a:b", Some("/dev/c"), None)).unwrap(),
            Asked::Host {
                host: "/dev/a:b".to_owned(),
                container: "/dev/c".to_owned(),
                access: "rwm".to_owned()
            }
        );
        assert!(error(block("/dev/a", None, Some("x"))).starts_with("option devices[1].cgroup_permissions: \"x\""));
        assert!(error(block("/dev/a", Some("c"), None)).starts_with("option devices[1].container_path: \"c\""));
        assert!(error(block("vendor.com/gpu=0", Some("/dev/c"), None)).contains("not for CDI names"));
        let alone = parse("d", &block("/dev/a:/dev/b:r", None, None).of_a_block()).unwrap();
        let path = "/dev/a:/dev/b:r".to_owned();
        assert_eq!(
            alone,
            Asked::Host {
                host: path.clone(),
                container: path,
                access: "rwm".to_owned()
            }
        );
        assert!(error(block("/dev/../a", None, None).of_a_block()).starts_with("option devices[1].host_path: "));
        assert!(parse("d", &block("vendor.com/gpu=0", None, None).of_a_block()).is_ok());
    }

    #[test]
    fn rules_are_read_strictly() {
        assert_eq!(
            rule("r", "c 10:229 rwm").unwrap(),
            [json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm"})]
        );
        assert_eq!(
            rule("r", "b 8:* r").unwrap(),
            [json!({"allow": true, "type": "b", "major": 8, "access": "r"})]
        );
        assert_eq!(rule("r", "a *:* r").unwrap().len(), 2);
        for bad in [
            "",
            "c",
            "c 1:3",
            "c 1:3 ",
            "c 1:3 x",
            "c 1:3 rr",
            "d 1:3 r",
            "c 1 r",
            "c -1:3 r",
            "c +1:3 r",
            "c 1:3 rwm ",
            "a 10:229 rwm",
            "c 4294967296:1 r",
            "c  1:3 r",
            "c 1:3:4 r",
        ] {
            let error = rule("device_cgroup_rules[0]", bad).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("option device_cgroup_rules[0]: {bad:?}: ")),
                "{error}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_device_is_answered(text in "(/dev/|[a-z]{0,4}|[:/.=]|rwm|\\PC){0,8}") {
            if let Ok(Asked::Host { host, container, access }) = short(&text) {
                prop_assert!(host.starts_with('/') && container.starts_with('/') && !access.is_empty());
                prop_assert!(!host.split('/').any(|p| p == ".."));
            }
        }

        #[test]
        fn any_rule_is_answered(text in "([abc*: ]|[0-9]{1,12}|rwm|\\PC){0,8}") {
            rule("r", &text).ok();
        }
    }
}

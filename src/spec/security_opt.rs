//! `security_opt`: Docker's and Podman's list of `key=value`, read once for all that it is about.
//!
//! As in Docker, a colon counts where there is no equals sign (`seccomp:unconfined`), and a key that stands twice with
//! different values is refused.

use super::error::SpecError;
use super::path;
use super::task::TaskSpec;

const OPTION: &str = "security_opt";
const EXPECTED: &str =
    "seccomp=, apparmor=, no-new-privileges, systempaths=unconfined, mask=, unmask= and label= are expected";

/// What the list says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SecurityOpt {
    /// `unconfined`, `default`, or the path of a profile.
    pub(super) seccomp: Option<String>,
    /// `unconfined`, or the name of a profile.
    pub(super) apparmor: Option<String>,
    pub(super) no_new_privileges: Option<bool>,
    /// `systempaths=unconfined` or `unmask=ALL`, as it was written.
    pub(super) all_unmasked: Option<String>,
    /// Patterns of paths that are not to be masked or read-only.
    pub(super) unmask: Vec<String>,
    /// Paths to mask besides.
    pub(super) mask: Vec<String>,
    pub(super) label: Label,
}

/// `label=…`: parts of an SELinux label.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) disable: bool,
    pub(super) user: Option<String>,
    pub(super) role: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) level: Option<String>,
    pub(super) file_kind: Option<String>,
}

impl Label {
    /// True if a label is asked for.
    pub(super) fn says(&self) -> bool {
        *self
            != Self {
                disable: self.disable,
                ..Self::default()
            }
    }
}

impl SecurityOpt {
    /// Reads the option of a task.
    pub(super) fn of(task: &TaskSpec) -> Result<Self, SpecError> {
        let mut out = Self::default();
        for item in &task.options.security_opt {
            out.add(item)?;
        }
        if out.label.disable && out.label.says() {
            return Err(SpecError::option(
                OPTION,
                "label=disable",
                "it contradicts the other label= entries; leave one of them out",
            ));
        }
        Ok(out)
    }

    fn add(&mut self, item: &str) -> Result<(), SpecError> {
        let fault = |allowed: &str| Err(SpecError::option(OPTION, item, allowed));
        let (key, value) = match item.split_once('=').or_else(|| item.split_once(':')) {
            Some((key, value)) => (key, Some(value.trim())),
            None => (item, None),
        };
        match (key.trim(), value) {
            ("no-new-privileges", value) => {
                let on = match value {
                    None | Some("true") => true,
                    Some("false") => false,
                    Some(_) => return fault("no-new-privileges is true or false"),
                };
                once(&mut self.no_new_privileges, on, item)
            }
            (_, None | Some("")) => fault(EXPECTED),
            ("seccomp", Some(value)) => once(&mut self.seccomp, value.to_owned(), item),
            ("apparmor", Some(value)) => once(&mut self.apparmor, value.to_owned(), item),
            ("systempaths", Some("unconfined")) => {
                self.all_unmasked = Some(item.to_owned());
                Ok(())
            }
            ("systempaths", Some(_)) => fault("systempaths=unconfined is expected"),
            ("unmask", Some(value)) if value.eq_ignore_ascii_case("all") => {
                self.all_unmasked = Some(item.to_owned());
                Ok(())
            }
            ("unmask", Some(value)) => {
                self.unmask.extend(paths(item, value)?);
                Ok(())
            }
            ("mask", Some(value)) => {
                self.mask.extend(paths(item, value)?);
                Ok(())
            }
            ("label", Some(value)) => self.label(item, value),
            _ => fault(EXPECTED),
        }
    }

    fn label(&mut self, item: &str, value: &str) -> Result<(), SpecError> {
        let fault = |allowed: &str| Err(SpecError::option(OPTION, item, allowed));
        if value == "disable" {
            self.label.disable = true;
            return Ok(());
        }
        let Some((part, text)) = value.split_once(':') else {
            return fault("label=disable, or label= with user:, role:, type:, level: or filetype: is expected");
        };
        // A level is `s0:c1,c2`; the other parts are words.
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        let fits = |b: u8| plain(b) || (part == "level" && matches!(b, b':' | b','));
        if text.is_empty() || text.len() > 255 || !text.bytes().all(fits) {
            return fault("part of an SELinux label is expected");
        }
        let place = match part {
            "user" => &mut self.label.user,
            "role" => &mut self.label.role,
            "type" => &mut self.label.kind,
            "level" => &mut self.label.level,
            "filetype" => &mut self.label.file_kind,
            _ => return fault("user:, role:, type:, level: and filetype: are expected"),
        };
        once(place, text.to_owned(), item)
    }
}

/// Keeps a value; another one in its place is refused.
fn once<T: PartialEq>(place: &mut Option<T>, value: T, item: &str) -> Result<(), SpecError> {
    if place.as_ref().is_some_and(|first| *first != value) {
        return Err(SpecError::option(
            OPTION,
            item,
            "it contradicts an earlier entry of the list; leave one of them out",
        ));
    }
    *place = Some(value);
    Ok(())
}

/// Absolute paths between colons, without `.`, `..` or a slash at the end, so that they compare as the runtime's do.
fn paths(item: &str, value: &str) -> Result<Vec<String>, SpecError> {
    value
        .split(':')
        .map(|path| {
            path::clean(path).ok_or_else(|| {
                SpecError::option(
                    OPTION,
                    item,
                    "absolute paths without '..' are expected, with ':' between them",
                )
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::options::TaskOptions;
    use proptest::prelude::*;

    fn read(list: &[&str]) -> Result<SecurityOpt, String> {
        let task = TaskSpec {
            options: TaskOptions {
                security_opt: list.iter().map(|s| (*s).to_owned()).collect(),
                ..TaskOptions::default()
            },
            ..TaskSpec::default()
        };
        SecurityOpt::of(&task).map_err(|e| e.to_string())
    }

    #[test]
    fn both_spellings_are_read() {
        let some = |s: &str| Some(s.to_owned());
        let opt = read(&["seccomp=/etc/a=b.json", "apparmor:mine", "no-new-privileges:false"]).unwrap();
        assert_eq!((opt.seccomp, opt.apparmor), (some("/etc/a=b.json"), some("mine")));
        assert_eq!(opt.no_new_privileges, Some(false));
        for (item, is) in [
            ("no-new-privileges", true),
            ("no-new-privileges=true", true),
            ("no-new-privileges=false", false),
        ] {
            assert_eq!(read(&[item]).unwrap().no_new_privileges, Some(is), "{item}");
        }
        let opt = read(&[
            "mask=/a/./b/://c",
            "unmask=/proc/*:/sys/firmware",
            "seccomp=x",
            "seccomp=x",
        ])
        .unwrap();
        assert_eq!(
            (opt.mask, opt.unmask),
            (
                vec!["/a/b".to_owned(), "/c".to_owned()],
                vec!["/proc/*".to_owned(), "/sys/firmware".to_owned()]
            )
        );
        assert_eq!(read(&["unmask=all"]).unwrap().all_unmasked, some("unmask=all"));
        assert_eq!(
            read(&["systempaths=unconfined"]).unwrap().all_unmasked,
            some("systempaths=unconfined")
        );
        let label = read(&["label=type:svirt_t", "label=level:s0:c1,c2"]).unwrap().label;
        assert_eq!((label.kind, label.level), (some("svirt_t"), some("s0:c1,c2")));
    }

    #[test]
    fn anything_else_is_refused_with_what_is_expected() {
        for (list, says) in [
            (&["privileged"][..], "option security_opt: \"privileged\": seccomp=,"),
            (&["seccomp="], "seccomp=,"),
            (&["seccomp"], "seccomp=,"),
            (&["proc-opts=x"], "seccomp=,"),
            (&["no-new-privileges=maybe"], "true or false"),
            (&["no-new-privileges="], "true or false"),
            (&["systempaths=some"], "systempaths=unconfined is expected"),
            (&["seccomp=a", "seccomp=b"], "\"seccomp=b\": it contradicts"),
            (&["no-new-privileges", "no-new-privileges=false"], "contradicts"),
            (&["mask=proc/x"], "absolute paths"),
            (&["mask=/a/../b"], "absolute paths"),
            (&["unmask=/"], "absolute paths"),
            (&["label=type"], "label=disable"),
            (&["label=type:a b"], "SELinux"),
            (&["label=shape:x"], "user:, role:"),
            (&["label=disable", "label=type:a"], "contradicts"),
        ] {
            let error = read(list).unwrap_err();
            assert!(error.contains(says), "{list:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_entry_is_read_or_refused(
            list in prop::collection::vec("(seccomp|label|mask|unmask|no-new-privileges|type|:|=|/|\\.\\.|\\PC){0,6}", 0..4)
        ) {
            let list: Vec<&str> = list.iter().map(String::as_str).collect();
            read(&list).ok();
        }
    }
}
